"""Sequences of one request: parallel sampling by forks that share blocks, and beam search."""
