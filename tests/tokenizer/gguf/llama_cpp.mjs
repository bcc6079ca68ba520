// Ids of texts as llama.cpp makes them of a vocabulary: node llama_cpp.mjs MODULES MODEL TEXTS IDS
import {createRequire} from "module";
import fs from "fs";
import path from "path";
import {pathToFileURL} from "url";

const [, , modules, modelPath, texts, output] = process.argv;
const entry = createRequire(path.join(modules, "x.js")).resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(entry));
const llama = await getLlama({build: "never", gpu: false, progressLogs: false, logLevel: "error"});
const model = await llama.loadModel({modelPath, vocabOnly: true, gpuLayers: 0});
const ids = JSON.parse(fs.readFileSync(texts)).map((text) => Array.from(model.tokenize(text, true)));
const size = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
const endIds = Array.from({length: size}, (_, id) => id).filter((id) => model._model.isEogToken(id));
fs.writeFileSync(output, JSON.stringify({adds_bos: model.tokens.shouldPrependBosToken, ids, end_ids: endIds}));
process.exit(0);
