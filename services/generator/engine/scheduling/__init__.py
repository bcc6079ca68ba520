"""Scheduling: which requests run, and how many tokens each gets in a step (continuous batching)."""
