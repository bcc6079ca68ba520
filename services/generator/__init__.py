"""The generator: a continuous-batching engine for decoder models and its service."""
