"""Bytes and connections: what surrounds every request. Knows no endpoint."""
