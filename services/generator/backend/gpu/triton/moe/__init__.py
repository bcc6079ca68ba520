"""Mixture of experts: rows sorted by expert, grouped products."""
