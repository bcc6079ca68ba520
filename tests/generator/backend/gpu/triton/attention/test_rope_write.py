"""Rotated queries and cached keys and values against float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from services.generator.backend.gpu.triton.attention.rope_write import rope_write
from services.generator.backend.gpu.triton.checks import KernelError
from services.generator.backend.gpu.triton.reference import attention as reference
from services.generator.model.checkpoint.rope_config import RopeConfig
from services.generator.model.rope import Rope
from tests.generator.backend.gpu.triton.compare import FLOATS, Guarded, assert_near

BLOCK = 8
DTYPES = pytest.mark.parametrize("dtype", [*FLOATS, torch.bfloat16])
# tokens, query heads, key heads, size of a head, how much of it is rotated
SHAPES = pytest.mark.parametrize(
    "shape",
    [
        (0, 2, 1, 16, 16),
        (1, 4, 1, 64, 64),
        (BLOCK - 1, 5, 1, 24, 24),
        (BLOCK + 1, 9, 3, 64, 64),
        (63, 8, 1, 16, 16),
        (100, 2, 2, 16, 16),
        (111, 4, 1, 16, 16),
    ],
)
PARTIAL = pytest.mark.parametrize(
    "shape",
    [(1, 4, 1, 80, 32), (BLOCK + 1, 5, 1, 64, 16), (BLOCK - 1, 8, 1, 32, 24), (3, 2, 2, 11, 6)],
)


@dataclass
class Step:
    """A step's tensors; the cache has keys of all heads and then values in each token's row."""

    qkv: Guarded
    cos: torch.Tensor
    sin: torch.Tensor
    slots: torch.Tensor
    cache: Guarded  # [blocks, BLOCK, 2, KVH, D]
    shape: tuple[int, int, int]

    def write(self, norm_weight: torch.Tensor | None = None, eps: float = 0.0) -> None:
        caches = self.cache.tensor.unbind(2)
        angles = (self.cos, self.sin)
        rope_write(self.qkv.tensor, *angles, self.slots, *caches, *self.shape, norm_weight, eps)
        self.qkv.check()
        self.cache.check()


def random_step(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Step:
    """Return a step, of whose rows a third are padding."""
    tokens, heads, kv_heads, size, rotated = shape
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * size, device=device).to(dtype)
    angles = 6.3 * torch.rand(tokens, rotated // 2, device=device)
    blocks = tokens // BLOCK + 2
    slots = torch.randperm(blocks * BLOCK, device=device)[:tokens]
    slots[1::3] = -1
    cache = torch.randn(blocks, BLOCK, 2, kv_heads, size, device=device).to(dtype)
    return Step(
        *(Guarded(qkv), angles.cos(), angles.sin(), slots, Guarded(cache)),
        (heads, kv_heads, size),
    )


def check_step(step: Step, norm_weight: torch.Tensor | None = None, eps: float = 0.0) -> None:
    """Write it, and compare queries, cached rows, and everything that is to stay."""
    heads, kv_heads, size = step.shape
    before, cached = step.qkv.tensor.clone(), step.cache.tensor.clone()
    step.write(norm_weight, eps)
    queries, keys, values = reference.rope_write(
        before, step.cos, step.sin, heads, kv_heads, norm_weight, eps
    )
    after = step.qkv.tensor.unflatten(1, (-1, size))
    assert_near("queries", after[:, :heads], queries)
    assert torch.equal(step.qkv.tensor[:, heads * size :], before[:, heads * size :])
    is_kept = step.slots >= 0
    slots = step.slots[is_kept]
    rows = step.cache.tensor.flatten(0, 1)
    assert_near("keys", rows[slots, 0], keys[is_kept])
    assert torch.equal(rows[slots, 1].double(), values[is_kept])
    cached.flatten(0, 1)[slots] = rows[slots]
    assert torch.equal(step.cache.tensor, cached)


@DTYPES
@SHAPES
def test_queries_turn_and_keys_and_values_are_cached(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Nothing else of qkv or of the cache changes, and slot -1 is skipped."""
    check_step(random_step(shape, dtype, device))


@PARTIAL
def test_the_rest_of_a_head_is_kept(shape: tuple[int, ...], device: torch.device) -> None:
    """Partial rotation, with rests that are no powers of two."""
    step = random_step(shape, torch.float32, device)
    rest = step.qkv.tensor.unflatten(1, (-1, shape[3]))[:, : shape[1], shape[4] :].clone()
    check_step(step)
    after = step.qkv.tensor.unflatten(1, (-1, shape[3]))[:, : shape[1], shape[4] :]
    assert torch.equal(after, rest)


@DTYPES
@pytest.mark.parametrize(
    "shape", [(1, 4, 1, 64, 64), (BLOCK + 1, 5, 1, 24, 24), (5, 2, 2, 80, 32), (63, 8, 1, 16, 16)]
)
def test_queries_and_keys_are_normalised_first(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Each head by its own root mean square, rest included; values are not."""
    step = random_step(shape, dtype, device)
    norm_weight = 1 + 0.3 * torch.randn(shape[1] + shape[2], shape[3], device=device)
    check_step(step, norm_weight, 1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [4096, 32768])
@DTYPES
def test_long_prompts_turn(tokens: int, dtype: torch.dtype, device: torch.device) -> None:
    """Heads of real size."""
    check_step(random_step((tokens, 32, 8, 128, 128), dtype, device))


@pytest.mark.parametrize(
    "config",
    [
        RopeConfig(dim=32),
        RopeConfig(dim=16, kind="llama3", factor=8.0, original_context_length=64),
        RopeConfig(dim=32, kind="yarn", factor=4.0, attention_factor=1.2),
    ],
    ids=lambda config: config.kind,
)
def test_it_turns_as_the_model_does(config: RopeConfig, device: torch.device) -> None:
    """Against the rotation of the torch path, from the same angles."""
    tokens, heads, kv_heads, size = 5, 4, 2, 32
    rotation = Rope(config)(torch.tensor([0, 1, 77, 500, 4000]))
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * size)
    expected = qkv.unflatten(1, (-1, size))[:, : heads + kv_heads].clone()
    rotation.apply_(expected[..., : config.dim].unflatten(-1, (2, config.dim // 2)))
    qkv = qkv.to(device)
    caches = torch.zeros(2, 1, BLOCK, kv_heads, size, device=device)
    rope_write(
        qkv,
        rotation.cos[:, 0, 0].to(device),
        rotation.sin[:, 0, 1].to(device),
        torch.arange(tokens, device=device),
        *(caches[0], caches[1], heads, kv_heads, size),
    )
    queries = qkv.unflatten(1, (-1, size))[:, :heads]
    assert_near("queries", queries, expected[:, :heads])
    assert_near("keys", caches[0, 0, :tokens], expected[:, heads:])


def test_rows_may_lie_apart(device: torch.device) -> None:
    """Rows of qkv and of angles may be columns of wider tensors."""
    step = random_step((3, 2, 1, 16, 8), torch.float32, device)
    wide = Guarded(torch.randn(3, 100, device=device))
    wide.tensor[:, 10:74] = step.qkv.tensor
    angles = torch.cat((step.cos, step.sin), 1)
    rope_write(
        *(wide.tensor[:, 10:74], angles[:, :4], angles[:, 4:], step.slots),
        *(*step.cache.tensor.clone().unbind(2), *step.shape),
    )
    step.write()
    wide.check()
    assert torch.equal(wide.tensor[:, 10:74], step.qkv.tensor)


def quantised(
    x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, cos: float = 1.0, sin: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys and values [T, KVH, D] as they are cached, when both are `x`."""
    tokens, kv_heads, size = x.shape
    if dtype == torch.float8_e4m3fn and x.is_cuda and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("float8 needs sm_90")
    qkv = torch.cat((x, x, x), 1).flatten(1)
    angles = torch.full((2, tokens, size // 2), cos, device=x.device)
    angles[1] = sin
    cache = Guarded(torch.zeros(1, tokens, 2, kv_heads, size, dtype=torch.uint8, device=x.device))
    slots = torch.arange(tokens, device=x.device)
    caches = cache.tensor.view(dtype).unbind(2)
    rope_write(
        *(qkv, angles[0], angles[1], slots, *caches, kv_heads, kv_heads, size),
        *(None, 0.0, scale, 2 * scale),
    )
    cache.check()
    return caches[0][0], caches[1][0]


def test_int8_is_the_nearest_and_at_most_127(device: torch.device) -> None:
    """By each head's own scale; a few are too large."""
    x = torch.randn(63, 2, 16, device=device)
    scale = torch.tensor([0.02, 0.013], device=device)
    keys, values = quantised(x, scale, torch.int8)
    assert int(keys.min()) == -127 and int(keys.max()) == 127
    for factor, stored in ((1, keys), (2, values)):
        exact = (x.double() / (factor * scale.double()[:, None])).clamp(-127, 127)
        assert float((stored.double() - exact).abs().max()) <= 0.5 + 1e-4


@pytest.mark.parametrize("dtype", FLOATS)
def test_int8_rounds_halves_to_even(dtype: torch.dtype, device: torch.device) -> None:
    """And what is out of range to the end of the range."""
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5, 127.5, -128.0, 3e4, -3e4])
    stored = quantised(x.to(device, dtype).view(1, 1, 12), torch.ones(1, device=device), torch.int8)
    expected = [0, 2, 2, 0, -2, -2, 126, -126, 127, -127, 127, -127]
    assert stored[0].flatten().tolist() == expected


@pytest.mark.parametrize("dtype", FLOATS)
def test_float8_keeps_what_it_can_hold(dtype: torch.dtype, device: torch.device) -> None:
    """All its normal numbers times the scale, keys after a quarter turn; more than 448 is 448."""
    codes = torch.arange(256, device=device).to(torch.uint8)
    numbers = codes.view(torch.float8_e4m3fn).float()
    numbers = numbers[(numbers.abs() >= 2**-6) & (numbers.abs() <= 448)]
    numbers = torch.cat((numbers, torch.tensor([960.0, -1000.0, *(0.0,) * 8], device=device)))
    x = (numbers / 8).to(dtype).view(-1, 2, 4)
    scale = torch.tensor([0.125, 0.125], device=device)
    keys, values = quantised(x, scale, torch.float8_e4m3fn, cos=0.0, sin=1.0)
    x = x.float()
    turned = torch.cat((-x[..., 2:], x[..., :2]), -1)
    assert torch.equal(keys.float(), (turned * 8).clamp(-448, 448))
    # values have twice the scale; half of the smallest normal numbers is not one
    is_normal = x.abs() >= 2**-8
    assert torch.equal(values.float()[is_normal], (x * 4).clamp(-448, 448)[is_normal])


@pytest.mark.gpu
def test_float8_is_the_nearest(device: torch.device) -> None:
    """The interpreter's conversion rounds wrongly, so this needs a device."""
    x = torch.randn(111, 2, 64, device=device)
    scale = torch.tensor([0.004, 0.01], device=device)
    keys, values = quantised(x, scale, torch.float8_e4m3fn)
    for factor, stored in ((1, keys), (2, values)):
        exact = (x.double() / (factor * scale.double()[:, None])).clamp(-448, 448)
        # half of the last of three bits, or of the smallest subnormal number
        allowed = (exact.abs() * 2**-4 * (1 + 1e-4)).clamp(min=2**-10)
        assert bool(((stored.double() - exact).abs() <= allowed).all())


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("qkv", lambda a: a["qkv"].repeat_interleave(2, 1)[:, ::2]),
        ("cos", lambda a: a["cos"].repeat_interleave(2, 1)[:, ::2]),
        ("cos", lambda a: torch.cat((a["cos"], a["cos"]), 1)),
        ("sin", lambda a: a["sin"].double()),
        ("sin", lambda a: a["sin"][:, 1:]),
        ("slots", lambda a: a["slots"].int()),
        ("k_cache", lambda a: a["k_cache"].double()),
        ("k_cache", lambda a: a["k_cache"].repeat_interleave(2, 3)[..., ::2]),
        ("v_cache", lambda a: a["v_cache"][:, 1:]),
        ("v_cache", lambda a: a["v_cache"].half()),
        ("norm_weight", lambda a: torch.ones(2, 16, device=a["qkv"].device)),
        ("k_scale", lambda a: torch.ones(1, device=a["qkv"].device)),
        ("head_dim", lambda a: 1024),
    ],
)
def test_what_it_does_not_take_is_refused_by_name(
    argument: str, change: Callable[[dict[str, Any]], Any], device: torch.device
) -> None:
    """Nothing is copied silently, and nothing is written."""
    step = random_step((3, 2, 1, 16, 16), torch.float32, device)
    k_cache, v_cache = step.cache.tensor.unbind(2)
    arguments: dict[str, Any] = {
        "qkv": step.qkv.tensor,
        "cos": step.cos,
        "sin": step.sin,
        "slots": step.slots,
        "k_cache": k_cache,
        "v_cache": v_cache,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 16,
    }
    arguments[argument] = change(arguments)
    with pytest.raises(KernelError) as caught:
        rope_write(**arguments)
    assert caught.value.argument == argument


@pytest.mark.parametrize("argument", ["k_scale", "v_scale"])
def test_a_quantised_cache_needs_scales(argument: str, device: torch.device) -> None:
    """Both of them."""
    step = random_step((3, 2, 1, 16, 16), torch.float32, device)
    caches = step.cache.tensor.to(torch.int8).unbind(2)
    scales = {"k_scale": torch.ones(1, device=device), "v_scale": torch.ones(1, device=device)}
    del scales[argument]
    with pytest.raises(KernelError) as caught:
        rope_write(
            *(step.qkv.tensor, step.cos, step.sin, step.slots, *caches, *step.shape), **scales
        )
    assert caught.value.argument == argument


@pytest.mark.gpu
def test_offsets_may_exceed_31_bits(device: torch.device) -> None:
    """Rows of qkv 2**31 elements apart, and the last slot of a cache of more than these."""
    heads, kv_heads, size, blocks = 4, 1, 128, 2**18 + 1
    width = (heads + 2 * kv_heads) * size
    memory = torch.zeros(2**31 + width, dtype=torch.float16, device=device)
    qkv = memory.as_strided((2, width), (2**31, 1))
    qkv.copy_(torch.randn(2, width, device=device))
    before = qkv.clone()
    angles = 6.3 * torch.rand(2, size // 2, device=device)
    cache = torch.zeros(blocks, 32, 2, kv_heads, size, dtype=torch.float16, device=device)
    slots = torch.tensor([0, blocks * 32 - 1], device=device)
    caches = cache.unbind(2)
    rope_write(qkv, angles.cos(), angles.sin(), slots, *caches, heads, kv_heads, size)
    queries, keys, values = reference.rope_write(before, angles.cos(), angles.sin(), 4, 1)
    assert_near("queries", qkv[:, : heads * size].unflatten(1, (heads, size)), queries)
    assert_near("keys", cache.flatten(0, 1)[slots, 0], keys)
    assert_near("values", cache.flatten(0, 1)[slots, 1], values)
