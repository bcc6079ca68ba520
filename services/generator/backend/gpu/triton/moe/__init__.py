"""Mixture of experts: the sort of rows by expert, the grouped GEMM, the weighted sum."""
