// llama.cpp as npm's node-llama-cpp carries it, built ahead: one JSON question a line, one answer.
import {createRequire} from "module";
import path from "path";
import {pathToFileURL} from "url";
import readline from "readline";

const [, , modules, modelPath, threads, sequences, tokens, batch] = process.argv;
const entry = createRequire(path.join(modules, "x.js")).resolve("node-llama-cpp");
const {getLlama} = await import(pathToFileURL(entry));
const llama = await getLlama({
    build: "never", gpu: false, maxThreads: Number(threads), progressLogs: false, logLevel: "error",
});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const context = await model.createContext({
    sequences: Number(sequences),
    contextSize: Math.ceil(Number(tokens) / 256) * 256,
    batchSize: Number(batch),
    threads: {ideal: Number(threads), min: Number(threads)},
});
const places = Array.from({length: Number(sequences)}, () => context.getSequence());
// CLOCK_MONOTONIC, as Python's perf_counter
const now = () => Number(process.hrtime.bigint()) / 1e9;

async function generate(prompt, place, maxTokens) {
    const times = [], ids = [];
    for await (const token of place.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        times.push(now());
        ids.push(token);
        if (ids.length >= maxTokens) break;
    }
    return [times, ids];
}

console.log(JSON.stringify({simd: llama.systemInfo ?? ""}));
for await (const line of readline.createInterface({input: process.stdin})) {
    const {prompts, max_tokens: maxTokens} = JSON.parse(line);
    for (const place of places) await place.clearHistory();
    const start = now();
    const ends = await Promise.all(
        prompts.map((prompt, index) => generate(prompt, places[index], maxTokens)),
    );
    console.log(JSON.stringify({
        start_s: start, times_s: ends.map((each) => each[0]), token_ids: ends.map((each) => each[1]),
    }));
}
process.exit(0);
