"""The text the model learns from: every word of it is written or invented in this package."""
