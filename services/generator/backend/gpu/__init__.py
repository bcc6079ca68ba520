"""The engine's work on a GPU: the same models and schedules, by the Triton kernels."""
