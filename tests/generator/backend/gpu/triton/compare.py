"""How near a kernel must come to its reference, and memory that shows stray writes."""

import torch

# rounding of the result, and of sums in float32 relative to the tensor's size
TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float32: (2e-5, 2e-6),
    torch.float16: (2e-3, 2e-4),
    torch.bfloat16: (1.6e-2, 2e-3),
}
FLOATS = [
    torch.float32,
    torch.float16,
]
GUARD = 64


def summable(*shape: int, device: torch.device) -> torch.Tensor:
    """Return random float32 numbers whose products have the same sum in any order.

    For tests of equal bits: in the interpreter a product is numpy's, whose order of summing differs
    by processor, shape and address, so it gets small integers. On a GPU the order is the kernel's.
    """
    if device.type == "cuda":
        return torch.randn(*shape, device=device)
    return torch.randint(-2, 3, shape, device=device).float()


def assert_near(name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that each element is within the dtype's tolerance of the float64 reference."""
    assert actual.shape == expected.shape, f"{name}: {actual.shape}, not {expected.shape}"
    if not actual.numel():
        return
    rtol, atol = TOLERANCES[actual.dtype]
    scale = float(expected.double().square().mean().sqrt())
    torch.testing.assert_close(
        actual.double(),
        expected.double().to(actual.device),
        rtol=rtol,
        atol=atol * max(scale, 1e-30) * 10,
        msg=lambda text: f"{name}: {text}",
    )


class Guarded:
    """A tensor in the middle of memory that must not change around it."""

    def __init__(self, content: torch.Tensor) -> None:
        flat = torch.full(
            (content.numel() + 2 * GUARD,), 77, dtype=content.dtype, device=content.device
        )
        self.tensor = flat[GUARD : GUARD + content.numel()].view(content.shape)
        self.tensor.copy_(content)
        self._flat = flat

    def check(self) -> None:
        """Assert that nothing was written before or behind it."""
        for part in (self._flat[:GUARD], self._flat[-GUARD:]):
            assert bool((part.double() == 77).all()), "a kernel wrote outside its tensor"
