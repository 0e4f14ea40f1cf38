"""Train on texts of many lengths, several of them per step of the optimizer."""

from __future__ import annotations

import random

from .transformer import make_decoder, next_token_loss, random_tokens

VOCABULARY, STEPS, PER_STEP = 32_000, 16, 8


def main() -> None:
    """Batches are cut to about the same number of tokens, so short texts come in large ones."""
    import torch

    torch.manual_seed(0)
    rng = random.Random(0)
    model = make_decoder(layers=16, width=1024, heads=16, vocabulary=VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for _ in range(STEPS):
        for _ in range(PER_STEP):
            length = min(2048, max(32, int(rng.lognormvariate(6.2, 0.8))))
            tokens = random_tokens(max(1, 8192 // length), length, VOCABULARY)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = next_token_loss(model(tokens), tokens) / PER_STEP
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
