"""Attention over a paged KV cache: decode, mixed prefill, rotation with the cache's write."""
