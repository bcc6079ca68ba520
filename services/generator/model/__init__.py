"""Decoders: what a model is, read from Hugging Face files; knows no device and no backend."""
