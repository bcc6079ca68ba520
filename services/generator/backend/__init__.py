"""Backends: what computes the engine's chunks, on a CPU or a GPU."""
