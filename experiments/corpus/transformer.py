"""A decoder-only transformer as such models are built today, with room for caches and adapters."""

from __future__ import annotations

from typing import Any


def make_decoder(
    layers: int,
    width: int,
    heads: int,
    vocabulary: int,
    mlp: Any = None,
    linear: Any = None,
) -> Any:
    """Return a decoder; its call takes tokens (b, t) and returns logits (b, t, vocabulary).

    Args:
        layers, width, heads, vocabulary: sizes.
        mlp: called with the width, makes the feed-forward part of a layer (default: four times as
            wide).
        linear: called with two sizes, makes a projection (default: torch.nn.Linear).

    The call takes two more arguments: `caches`, one growing list of [keys, values] per layer, and
    `checkpoint`, whether activations are computed anew in the backward pass.
    """
    import torch
    from torch import nn
    from torch.nn import functional as F
    from torch.utils.checkpoint import checkpoint as recompute

    make_linear = linear or nn.Linear

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = make_linear(width, 3 * width), make_linear(width, width)
            self.mlp = (
                mlp(width)
                if mlp
                else nn.Sequential(
                    make_linear(width, 4 * width), nn.GELU(), make_linear(4 * width, width)
                )
            )

        def forward(self, x: Any, cache: list | None = None) -> Any:
            b, t, _ = x.shape
            split = self.qkv(self.before(x)).view(b, t, 3, heads, width // heads)
            q, k, v = split.permute(2, 0, 3, 1, 4)
            if cache is not None:
                if cache:
                    k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
                cache[:] = [k, v]
            y = F.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
            x = x + self.out(y.transpose(1, 2).reshape(b, t, width))
            return x + self.mlp(self.between(x))

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.last = nn.Embedding(vocabulary, width), nn.LayerNorm(width)
            self.layers = nn.ModuleList(Layer() for _ in range(layers))
            self.head = nn.Linear(width, vocabulary, bias=False)

        def forward(
            self, tokens: Any, caches: list[list] | None = None, checkpoint: bool = False
        ) -> Any:
            x = self.tokens(tokens)
            for n, layer in enumerate(self.layers):
                if checkpoint:
                    x = recompute(layer, x, use_reentrant=False)
                else:
                    x = layer(x, None if caches is None else caches[n])
            return self.head(self.last(x))

    with torch.device("cuda"):
        return Decoder()


def next_token_loss(logits: Any, tokens: Any) -> Any:
    """Return the cross entropy of predicting each token from those before it."""
    from torch.nn import functional as F

    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return F.cross_entropy(flat.float(), tokens[:, 1:].reshape(-1))


def random_tokens(batch: int, length: int, vocabulary: int) -> Any:
    """Return tokens on the device, made on the host as a data loader does."""
    import torch

    return torch.randint(0, vocabulary, (batch, length)).pin_memory().cuda(non_blocking=True)
