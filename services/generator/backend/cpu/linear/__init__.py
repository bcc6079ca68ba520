"""Linear layers of a CPU: oneDNN, our bfloat16 and int8 kernels, and batch invariance."""
