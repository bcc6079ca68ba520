"""RoPE (arXiv:2104.09864): queries in place, keys and values into the paged KV cache."""

import torch
import triton
import triton.language as tl

from services.generator.backend.gpu.triton.attention.checks import (
    CACHE_LIMITS,
    DTYPES,
    check_caches,
    checked_scales,
    require_floats,
)
from services.generator.backend.gpu.triton.checks import (
    KernelError,
    require_contiguous,
    require_dtype,
    require_rows,
    require_shape,
)

MAX_HEAD_DIM = 512
NUM_WARPS = 4


@triton.jit
def rotated_heads(
    p_x,  # [BM, 1], each row's head
    p_cos,  # [BM, 1], each row's token
    p_sin,  # [BM, 1], each row's token
    p_weight,  # [BM, 1], each row's head
    m_x,  # [BM, 1]
    m_rotated,  # [BM, 1], not the values
    eps,
    D: tl.constexpr,
    R: tl.constexpr,
    HAS_NORM: tl.constexpr,
    BR: tl.constexpr,
    BP: tl.constexpr,
):
    """Return the parts of heads [BM, BR], [BM, BR], [BM, BP]; the last is void where D is 2 R."""
    o_r = tl.arange(0, BR)[None, :]
    m_r = o_r < R
    b_first = tl.load(p_x + o_r, mask=m_x & m_r, other=0.0).to(tl.float32)  # [BM, BR]
    b_second = tl.load(p_x + R + o_r, mask=m_x & m_r, other=0.0).to(tl.float32)  # [BM, BR]
    m_r = m_rotated & m_r
    b_cos = tl.load(p_cos + o_r, mask=m_r, other=0.0)  # [BM, BR]
    b_sin = tl.load(p_sin + o_r, mask=m_r, other=0.0)  # [BM, BR]
    b_rest = b_second
    o_p = 2 * R + tl.arange(0, BP)[None, :]
    m_p = o_p < D
    if D > 2 * R:
        b_rest = tl.load(p_x + o_p, mask=m_x & m_p, other=0.0).to(tl.float32)  # [BM, BP]
    b_left = b_first
    b_right = b_second
    if HAS_NORM:
        b_squares = tl.sum(b_first * b_first + b_second * b_second, axis=1, keep_dims=True)
        if D > 2 * R:
            b_squares += tl.sum(b_rest * b_rest, axis=1, keep_dims=True)
        b_scale = tl.rsqrt(b_squares / D + eps)
        b_left *= b_scale * tl.load(p_weight + o_r, mask=m_r, other=0.0)
        b_right *= b_scale * tl.load(p_weight + R + o_r, mask=m_r, other=0.0)
        if D > 2 * R:
            b_weight = tl.load(p_weight + o_p, mask=m_rotated & m_p, other=0.0)  # [BM, BP]
            b_rest = tl.where(m_rotated, b_rest * b_scale * b_weight, b_rest)
    b_first = tl.where(m_rotated, b_left * b_cos - b_right * b_sin, b_first)
    b_second = tl.where(m_rotated, b_right * b_cos + b_left * b_sin, b_second)
    return b_first, b_second, b_rest


@triton.jit
def store_part(
    p_x,  # [BM, 1], this part of each row's head
    p_cache,  # [BM, 1], its slot in the cache
    o_n,  # [1, BN]
    b_x,  # [BM, BN] float32
    b_inverse,  # [BM, 1], of the scales; 1 where the cache is not quantised
    m_x,  # [BM, BN]
    m_cache,  # [BM, BN]
    MAX: tl.constexpr,
):
    tl.store(p_x + o_n, b_x.to(p_x.dtype.element_ty), mask=m_x)
    if MAX > 0:
        b_x = tl.clamp(b_x * b_inverse, -MAX, MAX, propagate_nan=tl.PropagateNan.ALL)
        if p_cache.dtype.element_ty == tl.int8:
            # 1.5 * 2**23 leaves no bits for a fraction: rounds to nearest even
            b_x = (b_x + 12582912.0) - 12582912.0
    tl.store(p_cache + o_n, b_x.to(p_cache.dtype.element_ty), mask=m_cache)


@triton.jit(do_not_specialize=["T"])
def rope_write_kernel(
    p_qkv,  # [T, (H + 2 KVH) * D], rows s_qkv apart
    p_cos,  # [T, R] float32, rows s_cos apart
    p_sin,  # [T, R] float32, rows s_sin apart
    p_slots,  # [T]
    p_k,  # [num_blocks, BLOCK_SIZE, KVH, D], s_k_block, s_k_token, s_k_head apart
    p_v,  # [num_blocks, BLOCK_SIZE, KVH, D], s_v_block, s_v_token, s_v_head apart
    p_norm,  # [H + KVH, D] float32, or cos where there is none
    p_k_scale,  # [KVH] float32, or cos where there is none
    p_v_scale,  # [KVH] float32, or cos where there is none
    s_qkv,
    s_cos,
    s_sin,
    T,
    eps,
    # of the cache, and with it of the model: known to the compiler, they cost no multiplications
    s_k_block: tl.constexpr,
    s_k_token: tl.constexpr,
    s_k_head: tl.constexpr,
    s_v_block: tl.constexpr,
    s_v_token: tl.constexpr,
    s_v_head: tl.constexpr,
    H: tl.constexpr,
    KVH: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,  # half of what is rotated of a head
    BLOCK_SIZE: tl.constexpr,
    HAS_NORM: tl.constexpr,
    MAX: tl.constexpr,  # of a quantised cache, else 0
    BM: tl.constexpr,
    BR: tl.constexpr,  # tile of R
    BP: tl.constexpr,  # tile of the rest, D - 2 R
):
    # a row of the tile is a head of a token, so that no number of heads leaves lanes idle
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    o_t = (o_m // (H + 2 * KVH)).to(tl.int64)
    o_h = o_m % (H + 2 * KVH)
    m_t = o_t < T
    m_query = m_t & (o_h < H)
    m_value = o_h >= H + KVH
    b_slot = tl.load(p_slots + o_t, mask=m_t, other=-1)  # [BM, 1]
    m_cached = (b_slot >= 0) & (o_h >= H)
    o_kvh = (o_h - tl.where(m_value, H + KVH, H)).to(tl.int64)
    o_block = b_slot // BLOCK_SIZE
    o_token = b_slot % BLOCK_SIZE
    p_key = p_k + o_block * s_k_block + o_token * s_k_token + o_kvh * s_k_head
    p_value = p_v + o_block * s_v_block + o_token * s_v_token + o_kvh * s_v_head
    p_cache = tl.where(m_value, p_value, p_key)
    b_inverse = 1.0
    if MAX > 0:
        p_scale = tl.where(m_value, p_v_scale + o_kvh, p_k_scale + o_kvh)
        b_inverse = 1.0 / tl.load(p_scale, mask=m_cached, other=1.0)  # [BM, 1]
    p_x = p_qkv + o_t * s_qkv + o_h * D
    m_rotated = m_t & (o_h < H + KVH)
    b_first, b_second, b_rest = rotated_heads(
        p_x,
        p_cos + o_t * s_cos,
        p_sin + o_t * s_sin,
        p_norm + o_h * D,
        m_t,
        m_rotated,
        eps,
        D,
        R,
        HAS_NORM,
        BR,
        BP,
    )
    o_r = tl.arange(0, BR)[None, :]
    m_q = m_query & (o_r < R)
    m_c = m_cached & (o_r < R)
    store_part(p_x, p_cache, o_r, b_first, b_inverse, m_q, m_c, MAX)
    store_part(p_x, p_cache, R + o_r, b_second, b_inverse, m_q, m_c, MAX)
    if D > 2 * R:
        o_p = 2 * R + tl.arange(0, BP)[None, :]
        m_c = m_cached & (o_p < D)
        # without a norm the rest of a query stays as it is
        m_q = m_query & (o_p < D) & HAS_NORM
        store_part(p_x, p_cache, o_p, b_rest, b_inverse, m_q, m_c, MAX)


def rope_tile(head_dim: int, half: int) -> dict[str, int]:
    """Return the tile of a program: eight of a head's first half to a thread."""
    half_tile = triton.next_power_of_2(half)
    rest_tile = triton.next_power_of_2(max(head_dim - 2 * half, 1))
    rows = 32 * NUM_WARPS * 8 // max(half_tile, rest_tile // 2)
    return {"BM": rows, "BR": half_tile, "BP": rest_tile}


def _launch(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: int,
    norm_weight: torch.Tensor | None,
    eps: float,
    scales: tuple[torch.Tensor, torch.Tensor] | None,
) -> None:
    tokens, half = cos.shape
    _, block_size, num_kv_heads, head_dim = k_cache.shape
    tile = rope_tile(head_dim, half)
    grid = (triton.cdiv(tokens * (num_heads + 2 * num_kv_heads), tile["BM"]),)
    rope_write_kernel[grid](
        *(qkv, cos, sin, slots, k_cache, v_cache),
        cos if norm_weight is None else norm_weight,
        *(scales or (cos, cos)),
        *(qkv.stride(0), cos.stride(0), sin.stride(0)),
        *(tokens, eps),
        *(*k_cache.stride()[:3], *v_cache.stride()[:3]),
        H=num_heads,
        KVH=num_kv_heads,
        D=head_dim,
        R=half,
        BLOCK_SIZE=block_size,
        HAS_NORM=norm_weight is not None,
        MAX=CACHE_LIMITS.get(k_cache.dtype, 0.0),
        **tile,
        num_warps=NUM_WARPS,
    )


def rope_write(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    norm_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> None:
    """Rotate the queries of `qkv` in place; write rotated keys and values to the cache.

    `qkv` is [T, (H + 2 KVH) * D] of float32, float16 or bfloat16: queries, keys, values; its rows
    may lie apart, and its keys and values stay as they are. `cos` and `sin` are float32 [T, R / 2]:
    dimension i < R / 2 is rotated with i + R / 2, those from R on are kept. With `norm_weight`,
    float32 [H + KVH, D], query and key heads are first divided by their root mean square
    (arXiv:1910.07467) and multiplied by it. `k_cache` and `v_cache` are [num_blocks, block_size,
    KVH, D] with any strides but the last; `slots`, int64 [T], are tokens' slots in them, -1 for
    rows that are not cached. They have qkv's dtype, or are float8_e4m3fn (sm_90 and later) or int8
    and hold x / scale, nearest even within 448 or 127; `k_scale` and `v_scale` are float32 [KVH].
    Raises KernelError.
    """
    _check(qkv, cos, sin, slots, num_heads + 2 * num_kv_heads, head_dim)
    check_caches(k_cache, v_cache, qkv.dtype, num_kv_heads, head_dim)
    if norm_weight is not None:
        require_floats("norm_weight", norm_weight, num_heads + num_kv_heads, head_dim)
    scales = checked_scales(k_cache, k_scale, v_scale)
    if len(qkv):
        _launch(qkv, cos, sin, slots, k_cache, v_cache, num_heads, norm_weight, eps, scales)


def _check(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    slots: torch.Tensor,
    heads: int,
    head_dim: int,
) -> None:
    if not 0 < head_dim <= MAX_HEAD_DIM:
        raise KernelError("head_dim", f"is {head_dim}, not one of 1 to {MAX_HEAD_DIM}")
    require_shape("qkv", qkv, None, heads * head_dim)
    require_dtype("qkv", qkv, DTYPES)
    require_rows("qkv", qkv)
    require_shape("cos", cos, len(qkv), None)
    if not 0 < 2 * cos.shape[1] <= head_dim:
        raise KernelError("cos", f"rotates {2 * cos.shape[1]} of a head's {head_dim} dimensions")
    for name, angles in (("cos", cos), ("sin", sin)):
        require_shape(name, angles, *cos.shape)
        require_dtype(name, angles, {torch.float32})
        require_rows(name, angles)
    require_shape("slots", slots, len(qkv))
    require_dtype("slots", slots, {torch.int64})
    require_contiguous("slots", slots)
