"""Trains the bundled model, infermesh-tiny, from nothing but this package."""
