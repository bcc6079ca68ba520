"""Triton kernels of the generator's GPU path.

A file for each operation: kernels, launches, the public function and its checks, in this order; what
a room's kernels share lies beside them, and the references say the same in torch, in float64 where
sums are long. Names in kernels: `i_` a program's index, `o_` offsets, `m_` a mask, `p_` a pointer,
`b_` a loaded tile, `s_` a stride in elements, of a tensor (`s_x`: its rows) and of its dimension
(`s_k_block`); capitals are sizes, and `B` before one is a tile of it. Nothing is tuned while
serving: launches follow from dtypes and shapes.
"""
