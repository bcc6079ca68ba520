"""Linear layers with quantised weights, and adapters (LoRA)."""
