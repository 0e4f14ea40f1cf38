"""Train a mixture of experts; how many tokens each expert gets differs from step to step."""

from __future__ import annotations

from typing import Any

from .transformer import make_decoder, next_token_loss, random_tokens

VOCABULARY, EXPERTS, CHOSEN, STEPS = 32_000, 8, 2, 12


def make_experts(width: int) -> Any:
    """Return a feed-forward layer of experts, two for each token.

    Which tokens an expert gets would be the router's decision, computed on the GPU. It is drawn on
    the CPU here, from a seed: some experts are more popular than others, and popularity drifts.
    """
    import torch
    from torch import nn

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router = nn.Linear(width, EXPERTS, bias=False)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Linear(width, 3 * width), nn.SiLU(), nn.Linear(3 * width, width))
                for _ in range(EXPERTS)
            )

        def forward(self, x: Any) -> Any:
            flat = x.reshape(-1, x.shape[-1])
            weights = torch.softmax(self.router(flat).float(), -1).to(flat.dtype)
            taste = torch.rand(EXPERTS) + 0.1
            order = torch.multinomial(taste.expand(len(flat), -1), CHOSEN)
            out = torch.zeros_like(flat)
            for n, expert in enumerate(self.experts):
                rows = (order == n).any(1).nonzero().flatten().cuda(non_blocking=True)
                part = expert(flat[rows]) * weights[rows, n : n + 1]
                out = out.index_add(0, rows, part.to(out.dtype))
            return out.view_as(x)

    return Experts()


def main() -> None:
    """Train for some steps."""
    import torch

    torch.manual_seed(0)
    with torch.device("cpu"):  # what is drawn to route is drawn on the host
        model = make_decoder(8, 1024, 16, VOCABULARY, mlp=make_experts).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(STEPS):
        tokens = random_tokens(4, 1024, VOCABULARY)
        next_token_loss(model(tokens), tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
