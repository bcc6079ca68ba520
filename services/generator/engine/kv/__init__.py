"""Blocks of the paged KV cache: who holds them, which prefix they have, which goes first."""
