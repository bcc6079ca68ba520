"""Checkpoints: config.json and safetensors of a Hugging Face folder, as typed values."""
