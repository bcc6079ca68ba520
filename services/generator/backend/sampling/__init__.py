"""Sampling on torch tensors, as both backends do it: logits processors, masks, logprobs."""
