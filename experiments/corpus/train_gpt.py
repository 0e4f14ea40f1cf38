"""Train a GPT of 350 million parameters, in fp32 or bf16, with or without checkpointing."""

from __future__ import annotations

import argparse

from .transformer import make_decoder, next_token_loss, random_tokens

VOCABULARY = 50_304


def main() -> None:
    """Train for some steps, evaluating between them with a larger batch."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    a = parser.parse_args()
    torch.manual_seed(0)
    model = make_decoder(layers=24, width=1024, heads=16, vocabulary=VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for step in range(a.steps):
        tokens = random_tokens(a.batch, a.length, VOCABULARY)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=a.bf16):
            loss = next_token_loss(model(tokens, checkpoint=a.checkpoint), tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 3 == 2:
            with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=a.bf16):
                tokens = random_tokens(a.batch + 4, a.length, VOCABULARY)
                next_token_loss(model(tokens), tokens).item()


if __name__ == "__main__":
    main()
