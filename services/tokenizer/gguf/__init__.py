"""Vocabularies of GGUF files, as the tokenizer.json that they stand for."""
