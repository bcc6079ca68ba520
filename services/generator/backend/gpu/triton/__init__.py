"""Triton kernels of the generator's GPU path.

A file for each operation: kernels, launches, the public function, its checks, in this order. What a
room's kernels share lies beside them; the references say the same in torch, in float64 where sums
are long. Names in kernels: `i_` a program's index, `o_` offsets, `m_` a mask, `p_` a pointer, `b_`
a loaded tile, `s_` a stride in elements, of a tensor's rows (`s_x`) or of a dimension of it that is
named (`s_k_block`); capitals are sizes, and `B` before one is a tile of it. Nothing is tuned while
serving: launches follow from dtypes and shapes.
"""
