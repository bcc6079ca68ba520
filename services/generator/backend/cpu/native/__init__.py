"""C++ kernels, and what compiles them for this processor at first use."""
