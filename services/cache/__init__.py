"""Exact answers to requests that were asked before, kept in Redis."""
