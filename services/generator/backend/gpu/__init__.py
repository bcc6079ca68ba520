"""The GPU backend: the same models and schedules, by the Triton kernels."""
