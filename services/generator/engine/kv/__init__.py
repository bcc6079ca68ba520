"""Blocks of the paged KV cache: allocation, prefix caching, eviction, block events."""
