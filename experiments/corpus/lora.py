"""Fine-tune a frozen bf16 model of a billion parameters through low-rank adapters."""

from __future__ import annotations

import random
from typing import Any

from .transformer import make_decoder, next_token_loss, random_tokens

VOCABULARY, RANK, STEPS = 32_000, 16, 24


def make_adapted(inputs: int, outputs: int) -> Any:
    """Return a linear layer that stays as it is, and a product of two thin ones beside it."""
    from torch import nn

    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(inputs, outputs, bias=False)
            self.frozen.requires_grad_(False)
            self.down = nn.Linear(inputs, RANK, bias=False)
            self.up = nn.Linear(RANK, outputs, bias=False)

        def forward(self, x: Any) -> Any:
            return self.frozen(x) + self.up(nn.functional.dropout(self.down(x), 0.05))

    return Adapted()


def main() -> None:
    """Train the adapters on instructions of different lengths, with checkpointing."""
    import torch

    torch.manual_seed(0)
    rng = random.Random(0)
    model = make_decoder(22, 2048, 32, VOCABULARY, linear=make_adapted).bfloat16()
    model.tokens.requires_grad_(False)
    model.head.requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    for _ in range(STEPS):
        tokens = random_tokens(4, rng.choice([128, 256, 384, 512, 768, 1024, 1536]), VOCABULARY)
        next_token_loss(model(tokens, checkpoint=True), tokens).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
