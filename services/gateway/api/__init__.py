"""JSON in, JSON and events out: one file per endpoint, reader and writer together."""
