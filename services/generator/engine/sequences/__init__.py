"""Sequences of one request: forks that share blocks, and beam search."""
