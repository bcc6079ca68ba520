"""The model that is trained: a small Llama whose parameters carry Hugging Face names.

Attention is explicit (or torch's fused kernel) over a block-diagonal causal mask, because rows are
packed with several documents; shapes are static, so torch.compile sees one graph.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """The architecture, in the words of a Llama config."""

    vocab: int = 3072
    width: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 64
    hidden: int = 768
    positions: int = 1024
    rope_theta: float = 10000.0
    eps: float = 1e-5


class RMSNorm(nn.Module):
    """Root-mean-square normalisation with a learnt gain (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in Llama's half-split layout (Su et al., 2021)."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, block: int = 128) -> Tensor:
    """Causal attention, one block of queries at a time against the keys it may see.

    On a CPU in bfloat16 this is faster than the fused kernel with a mask: the blocks above the
    diagonal are never computed, and the products stay large enough for the matrix units.
    """
    scale = q.shape[-1] ** -0.5
    out = []
    for start in range(0, q.shape[2], block):
        end = start + block
        scores = q[:, :, start:end] @ k[:, :, :end].transpose(-1, -2) * scale
        weights = torch.softmax(scores + mask[:, :, start:end, :end], dim=-1)
        out.append(weights @ v[:, :, :end])
    return torch.cat(out, dim=2)


class Attention(nn.Module):
    """Multi-head causal self-attention, grouped when there are fewer key heads than heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.width, inner, bias=False)
        self.k_proj = nn.Linear(shape.width, kv, bias=False)
        self.v_proj = nn.Linear(shape.width, kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.width, bias=False)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        rows, length, _ = x.shape
        dim = self.shape.head_dim
        q = self.q_proj(x).view(rows, length, -1, dim).transpose(1, 2)
        k = self.k_proj(x).view(rows, length, -1, dim).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, -1, dim).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.shape.heads // self.shape.kv_heads
        if groups > 1:
            k = k.repeat_interleave(groups, dim=1)
            v = v.repeat_interleave(groups, dim=1)
        mixed = attend(q, k, v, mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        return out


class MLP(nn.Module):
    """Gated feed-forward layer, SwiGLU (Shazeer, 2020)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.width, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.width, shape.eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Embeddings, layers and the last norm: what Hugging Face calls `model`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.width, shape.eps)


class TinyLlama(nn.Module):
    """A Llama with tied embeddings that returns the training loss."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        freq = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim)
        angles = torch.outer(torch.arange(shape.positions).float(), freq).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Initialise weights; output projections start small, so blocks start near identity."""
        deep = (2 * self.shape.layers) ** -0.5
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                std = 0.02 if "embed" in name else weight.shape[1] ** -0.5 * 0.6
                nn.init.normal_(
                    weight,
                    std=std
                    * (deep if "o_proj" in name else 1.0)
                    * (deep if "down_proj" in name else 1.0),
                )

    def hidden(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states for packed rows; `mask` is additive, rows x 1 x length x length."""
        length = tokens.shape[1]
        x = self.model.embed_tokens(tokens).to(torch.bfloat16)
        cos = self.cos[:length].to(torch.bfloat16)
        sin = self.sin[:length].to(torch.bfloat16)
        for layer in self.model.layers:
            x = layer(x, mask, cos, sin)
        normed: Tensor = self.model.norm(x)
        return normed

    def forward(self, tokens: Tensor, documents: Tensor, picks: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy at each of the flat positions `picks`, whose next tokens are `targets`.

        Only the picked positions reach the output matrix: that is where loss is taken, and it
        saves most of the vocabulary's work.
        """
        same = documents[:, :, None] == documents[:, None, :]
        length = tokens.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        mask = torch.zeros(same.shape, dtype=torch.bfloat16).masked_fill(
            ~(same & causal), float("-inf")
        )[:, None]
        x = self.hidden(tokens, mask).flatten(0, 1)[picks]
        logits = functional.linear(x, self.model.embed_tokens.weight.to(x.dtype))
        return functional.cross_entropy(logits.float(), targets, reduction="none")
