"""GGUF models: what a file's blocks, tensor names and metadata mean to our decoders."""
