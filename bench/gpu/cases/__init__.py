"""Kernels that are timed: each in a shape, ours and torch's call."""
