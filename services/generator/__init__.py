"""The generator: a continuous-batching engine for Llama-family models and its service."""
