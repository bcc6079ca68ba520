"""Elementwise kernels: embedding, gates, norms."""
