"""MLP of a layer: one network for all tokens, or a mixture of experts of which each takes a few."""

from collections.abc import Sequence
from typing import Protocol

import torch

from services.generator.model.activation import Activation
from services.generator.model.linear import Linear
from services.generator.model.norm import Norm


class ResidualBranch(Protocol):
    """Something that ends by adding to the residual stream."""

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`; `x` is [T, in], `residual` is [T, hidden]."""
        ...


class NormedLinear:
    """A linear layer whose result is normalised before it is added (Gemma)."""

    def __init__(self, linear: Linear, norm: Norm) -> None:
        self.linear = linear
        self.norm = norm

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + norm(linear(x))`."""
        return residual + self.norm(self.linear(x))


class MLP:
    """`down(activation(up(x)))`; where gated, `up` is gate and up in one product."""

    def __init__(self, up: Linear, down: ResidualBranch, activation: Activation) -> None:
        self.up = up
        self.down = down
        self.activation = activation

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`."""
        return self.down.add_to(self.activation(self.up(x)), residual)


class Expert:
    """A gated network of a mixture; its result is weighted before it is added."""

    def __init__(self, gate_up: Linear, down: Linear, activation: Activation) -> None:
        self._gate_up = gate_up
        self._down = down
        self._activation = activation

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [rows, hidden] to [rows, hidden]."""
        return self._down(self._activation(self._gate_up(x)))


class Mixture:
    """Sends each token to its best experts (arXiv:1701.06538); shares are taken from a softmax
    over all experts, and made to sum to 1 where `normalizes`.
    """

    def __init__(
        self, router: Linear, experts: Sequence[Expert], num_chosen: int, normalizes: bool
    ) -> None:
        self._router = router
        self._experts = experts
        self._num_chosen = num_chosen
        self._normalizes = normalizes

    def add_to(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """Return `residual + self(x)`; a token's sum has one order, in any batch."""
        probabilities = self._router(x).softmax(dim=-1, dtype=torch.float32)
        shares, chosen = probabilities.topk(self._num_chosen, dim=-1)
        if self._normalizes:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        outputs = self._run(x, chosen.flatten()).view(len(x), self._num_chosen, -1)
        return residual + (outputs * shares.unsqueeze(-1).to(x.dtype)).sum(dim=1)

    def _run(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return [T * num_chosen, hidden]: each token by each of its experts, unweighted."""
        order = chosen.argsort(stable=True)
        inputs = x[order // self._num_chosen]
        outputs = torch.empty_like(inputs)
        # Which experts are active must be known here to skip the others.
        counts = chosen.bincount(minlength=len(self._experts)).tolist()
        pieces = torch.split(inputs, counts)
        results = [
            expert(piece) for expert, piece in zip(self._experts, pieces, strict=True) if len(piece)
        ]
        return outputs.index_copy_(0, order, torch.cat(results))
