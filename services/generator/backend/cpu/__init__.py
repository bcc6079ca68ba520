"""The CPU backend: compiled kernels where a compiler is at hand, torch elsewhere."""
