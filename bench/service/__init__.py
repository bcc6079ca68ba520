"""Latency and throughput of the whole stack over HTTP."""
