"""The optimiser: Muon for matrices, AdamW for embeddings and norms.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) takes the momentum of a
matrix to the nearest orthogonal one by a Newton-Schulz iteration. Matrices of one shape are
stacked, so that the iteration is a few large products and not many small ones.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
DECAY = 0.1
LOOKING_DECAY = 0.2


def orthogonal(stack: Tensor, steps: int = 5) -> Tensor:
    """Approximate the polar factors of `stack`, matrices x rows x columns, by Newton-Schulz."""
    a, b, c = COEFFICIENTS
    x = stack.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    out: Tensor = x.mT if tall else x
    return out


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for the matrices inside the layers."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        decay: float = DECAY,
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                shapes.setdefault(weight.shape, []).append(weight)
            for weights in shapes.values():
                self._update(weights, group["lr"], group["momentum"], group["decay"])

    def _update(
        self, weights: list[nn.Parameter], lr: float, momentum: float, decay: float
    ) -> None:
        ahead = []
        for weight in weights:
            gradient = weight.grad
            assert gradient is not None
            buffer = self.state[weight].setdefault("momentum", torch.zeros_like(gradient))
            buffer.lerp_(gradient, 1 - momentum)
            ahead.append(gradient.lerp(buffer, momentum))
        rows, columns = weights[0].shape
        scale = max(1.0, rows / columns) ** 0.5
        for weight, update in zip(weights, orthogonal(torch.stack(ahead)), strict=True):
            weight.mul_(1 - lr * decay)
            weight.add_(update.float(), alpha=-lr * scale)


def optimisers(
    model: nn.Module, matrix_lr: float, other_lr: float
) -> tuple[Muon, torch.optim.AdamW]:
    """Return the two optimisers of `model`.

    An orthogonal step of size lr against a decay of lr * d keeps every singular value below 1 / d.
    Queries and keys get the tighter bound: without it their products grow until each head looks at
    one token only, has no gradient left, and stops learning where to look.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if weight.ndim == 2]
    looking = [w for n, w in named if "q_proj" in n or "k_proj" in n]
    matrices = [w for n, w in named if "embed" not in n and not any(w is each for each in looking)]
    others = [w for n, w in model.named_parameters() if w.ndim < 2 or "embed" in n]
    groups: list[dict[str, Any]] = [
        {"params": looking, "decay": LOOKING_DECAY},
        {"params": matrices},
    ]
    return Muon(groups, matrix_lr), torch.optim.AdamW(
        others, other_lr, betas=(0.9, 0.95), weight_decay=0.0
    )
