"""Triton kernels of the generator's GPU path.

Each file holds a kernel, its launcher and a public function, in this order; the references say the
same in torch, in float64 where sums are long. Names in kernels: `i_` a program's index, `o_`
offsets, `m_` a mask, `p_` a pointer, `b_` a loaded tile, `s_` a stride in elements; capitals are
sizes, and `B` before one is a tile of it. Nothing is tuned while serving: launches follow from
dtypes and shapes.
"""
