"""Scheduling: continuous batching, chunked prefill, admission, preemption, lookahead."""
