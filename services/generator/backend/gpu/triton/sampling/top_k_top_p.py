"""Top-k and top-p without a sort: a search of a row of logits for the place where they cut it.

A count or a weight of what lies above the cut is the goal. The range of values that holds the cut
is divided into four, over and over (as in Qrita, arXiv:2602.01518), here in the floats' own order
as integers, so that it ends after 16 passes over a float32 row at most, 10 over float16, 8 over
bfloat16, and is exact to the last step. Most often these passes are over few of the row's values:
its largest are kept apart. Ties at the cut fall to the lower ids.
"""

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(math.log2(math.e))
KEPT = tl.constexpr(4)


@triton.jit
def float_to_key(value, SHIFT: tl.constexpr):
    """Return integers in the floats' order; zero has one sign."""
    bits = tl.where(value == 0.0, 0.0, value).to(tl.int32, bitcast=True)
    return (tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> SHIFT).to(tl.int64)


@triton.jit
def key_to_float(key, SHIFT: tl.constexpr):
    """Return the floats of such integers."""
    bits = tl.where(key < 0, key ^ (0x7FFFFFFF >> SHIFT), key) << SHIFT
    return bits.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def keep_best(
    p_row,  # [V]
    p_kept,  # [KEPT, BV]
    V,
    BV: tl.constexpr,
):
    """Keep the best KEPT of every BV-th logit; return the best, and a bound on the rest."""
    b_1 = tl.full([BV], float("-inf"), tl.float32)
    b_2, b_3, b_4 = b_1, b_1, b_1
    # one program reads alone: four tiles are on their way
    for i_v in tl.range(0, V, BV, num_stages=5):
        o_v = i_v + tl.arange(0, BV)
        # [BV]
        b_less = tl.load(p_row + o_v, mask=o_v < V, other=float("-inf")).to(tl.float32)
        b_1, b_less = tl.maximum(b_1, b_less), tl.minimum(b_1, b_less)
        b_2, b_less = tl.maximum(b_2, b_less), tl.minimum(b_2, b_less)
        b_3, b_less = tl.maximum(b_3, b_less), tl.minimum(b_3, b_less)
        b_4 = tl.maximum(b_4, b_less)
    p_kept += tl.arange(0, BV)
    tl.store(p_kept, b_1.to(p_kept.dtype.element_ty))
    tl.store(p_kept + BV, b_2.to(p_kept.dtype.element_ty))
    tl.store(p_kept + 2 * BV, b_3.to(p_kept.dtype.element_ty))
    tl.store(p_kept + 3 * BV, b_4.to(p_kept.dtype.element_ty))
    # other threads read them
    tl.debug_barrier()
    return tl.max(b_1, axis=0), tl.max(b_4, axis=0)


@triton.jit
def weigh(p_row, V, best, temperature, bound_1, bound_2, bound_3, BV: tl.constexpr):
    """Return how many logits reach each bound, and their weights relative to the best's."""
    b_n1 = tl.zeros([BV], tl.int32)
    b_n2 = tl.zeros([BV], tl.int32)
    b_n3 = tl.zeros([BV], tl.int32)
    b_w1 = tl.zeros([BV], tl.float32)
    b_w2 = tl.zeros([BV], tl.float32)
    b_w3 = tl.zeros([BV], tl.float32)
    rate = LOG2_E / temperature
    for i_v in range(0, V, BV):
        o_v = i_v + tl.arange(0, BV)
        m_v = o_v < V
        # [BV]
        b_logits = tl.load(p_row + o_v, mask=m_v, other=float("-inf")).to(tl.float32)
        b_weight = tl.exp2((b_logits - best) * rate)
        m_1 = m_v & (b_logits >= bound_1)
        m_2 = m_v & (b_logits >= bound_2)
        m_3 = m_v & (b_logits >= bound_3)
        b_n1 += m_1.to(tl.int32)
        b_n2 += m_2.to(tl.int32)
        b_n3 += m_3.to(tl.int32)
        b_w1 += tl.where(m_1, b_weight, 0.0)
        b_w2 += tl.where(m_2, b_weight, 0.0)
        b_w3 += tl.where(m_3, b_weight, 0.0)
    n_1, n_2, n_3 = tl.sum(b_n1, axis=0), tl.sum(b_n2, axis=0), tl.sum(b_n3, axis=0)
    return n_1, n_2, n_3, tl.sum(b_w1, axis=0), tl.sum(b_w2, axis=0), tl.sum(b_w3, axis=0)


@triton.jit
def search_cut(
    p_row,
    V,
    best,
    temperature,
    lo,  # a key that reaches the goal
    hi,  # one that does not
    n_lo,
    n_hi,
    w_lo,
    w_hi,
    goal,
    IS_WEIGHT: tl.constexpr,
    SHIFT: tl.constexpr,
    BV: tl.constexpr,
):
    """Return neighbouring keys around the cut, the counts and the weights that reach each."""
    # a single token between the bounds is at the cut, whatever its value
    while (hi - lo > 1) & (n_lo - n_hi > 1) & (IS_WEIGHT | (n_lo != goal)):
        width = hi - lo
        k_1 = lo + tl.maximum(width // 4, 1)
        k_2 = lo + width // 2
        k_3 = lo + (3 * width) // 4
        c_1, c_2, c_3 = key_to_float(k_1, SHIFT), key_to_float(k_2, SHIFT), key_to_float(k_3, SHIFT)
        n_1, n_2, n_3, w_1, w_2, w_3 = weigh(p_row, V, best, temperature, c_1, c_2, c_3, BV)
        if IS_WEIGHT:
            m_1, m_2, m_3 = w_1 >= goal, w_2 >= goal, w_3 >= goal
        else:
            m_1, m_2, m_3 = n_1 >= goal, n_2 >= goal, n_3 >= goal
        # the bounds rise, so what the third reaches the others do
        hi = tl.where(m_3, hi, tl.where(m_2, k_3, tl.where(m_1, k_2, k_1)))
        n_hi = tl.where(m_3, n_hi, tl.where(m_2, n_3, tl.where(m_1, n_2, n_1)))
        w_hi = tl.where(m_3, w_hi, tl.where(m_2, w_3, tl.where(m_1, w_2, w_1)))
        lo = tl.where(m_3, k_3, tl.where(m_2, k_2, tl.where(m_1, k_1, lo)))
        n_lo = tl.where(m_3, n_3, tl.where(m_2, n_2, tl.where(m_1, n_1, n_lo)))
        w_lo = tl.where(m_3, w_3, tl.where(m_2, w_2, tl.where(m_1, w_1, w_lo)))
    return lo, hi, n_lo, n_hi, w_lo, w_hi


@triton.jit
def end_of_ties(p_row, V, low, high, ties, BV: tl.constexpr):
    """Return one past the id of the last of so many logits in [low, high)."""
    seen = tl.zeros([], tl.int32)
    i_v = tl.zeros([], tl.int32)
    end = tl.zeros([], tl.int32)
    while (seen < ties) & (i_v < V):
        o_v = i_v + tl.arange(0, BV)
        m_v = o_v < V
        # [BV]
        b_logits = tl.load(p_row + o_v, mask=m_v, other=float("-inf")).to(tl.float32)
        b_tie = (m_v & (b_logits >= low) & (b_logits < high)).to(tl.int32)
        b_rank = seen + tl.cumsum(b_tie, axis=0)
        is_kept = (b_tie > 0) & (b_rank <= ties)
        end = tl.maximum(end, tl.max(tl.where(is_kept, o_v + 1, 0), axis=0))
        seen += tl.sum(b_tie, axis=0)
        i_v += BV
    return end


@triton.jit
def search_range(p_row, p_kept, V, is_kept, BV: tl.constexpr):
    """Return where the search reads, and how much."""
    return tl.where(is_kept, p_kept, p_row), tl.where(is_kept, KEPT * BV, V)


@triton.jit
def top_k_top_p_bounds(
    p_row,  # [V]
    p_kept,  # [KEPT, BV]
    V,
    best,
    rest,  # what is above is kept
    temperature,
    floor,  # what min_p leaves is not below it
    top_k,
    top_p,
    SHIFT: tl.constexpr,
    BV: tl.constexpr,
):
    """Return low, high and the end of the ids that are left between them."""
    none = tl.zeros([], tl.int32)
    nothing = tl.zeros([], tl.float32)
    lo = float_to_key(floor, SHIFT)
    end = float_to_key(best, SHIFT) + 1
    # most often the cut is among what is kept
    near = tl.maximum(float_to_key(rest, SHIFT), lo) + 1
    c_near = key_to_float(near, SHIFT)
    n_lo, n_near, _, w_lo, w_near, _ = weigh(p_row, V, best, temperature, floor, c_near, c_near, BV)
    hi, n_hi, w_hi = end, none, nothing
    left = n_lo
    if (top_k > 0) & (top_k < n_lo):
        is_near = n_near >= top_k
        lo = tl.where(is_near, near, lo)
        n_lo = tl.where(is_near, n_near, n_lo)
        w_lo = tl.where(is_near, w_near, w_lo)
        p_from, size = search_range(p_row, p_kept, V, lo >= near, BV)
        lo, hi, n_lo, n_hi, w_lo, w_hi = search_cut(
            p_from, size, best, temperature, lo, hi, n_lo, n_hi, w_lo, w_hi, top_k, False, SHIFT, BV
        )
        left = top_k
        w_lo = w_hi + (w_lo - w_hi) * (left - n_hi) / (n_lo - n_hi)
    ties = left - n_hi
    if top_p < 1.0:
        goal = top_p * w_lo
        is_near = (near > lo) & (n_near > 0) & (w_near >= goal)
        lo = tl.where(is_near, near, lo)
        left = tl.where(is_near, n_near, left)
        w_lo = tl.where(is_near, w_near, w_lo)
        p_from, size = search_range(p_row, p_kept, V, lo >= near, BV)
        lo, hi, n_lo, n_hi, w_lo, w_hi = search_cut(
            p_from,
            size,
            best,
            temperature,
            lo,
            end,
            left,
            none,
            w_lo,
            nothing,
            goal,
            True,
            SHIFT,
            BV,
        )
        # of equal weights, as many as begin below the goal
        wanted = tl.ceil((goal - w_hi) * (n_lo - n_hi) / (w_lo - w_hi))
        ties = tl.minimum(tl.maximum(wanted, 1.0), n_lo - n_hi).to(tl.int32)
    low = tl.maximum(key_to_float(lo, SHIFT), floor)
    high = key_to_float(hi, SHIFT)
    tie_end = none + V
    if ties < n_lo - n_hi:
        tie_end = end_of_ties(p_row, V, low, high, ties, BV)
    return low, high, tie_end
