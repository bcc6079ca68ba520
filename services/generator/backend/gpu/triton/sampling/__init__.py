"""Sampling over the vocabulary: bounds, draws, penalties, log-probabilities."""
