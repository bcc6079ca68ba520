"""Paged attention of a CPU, with the norms and RoPE of its heads: compiled, or by torch."""
