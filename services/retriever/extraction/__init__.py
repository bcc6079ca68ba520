"""Bytes of a document to plain text, by its media type."""
