"""Reinforcement learning from feedback: generate answers, score them, train on them, again."""

from __future__ import annotations

import argparse
import random

from .transformer import make_decoder, next_token_loss, random_tokens

VOCABULARY, ROUNDS = 32_000, 4
SIZES = {"layers": 12, "width": 1024, "heads": 16, "vocabulary": VOCABULARY}


def main() -> None:
    """The policy generates with caches that grow; policy and critic train in two passes."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--empty-cache", action="store_true", help="between the phases")
    a = parser.parse_args()
    torch.manual_seed(0)
    rng = random.Random(0)
    policy, critic, reference = (make_decoder(**SIZES).bfloat16() for _ in range(3))
    reference.requires_grad_(False)
    optimizer = torch.optim.AdamW([*policy.parameters(), *critic.parameters()], lr=1e-5)
    for _ in range(ROUNDS):
        prompt, answer = rng.randrange(64, 512), rng.randrange(48, 160)
        with torch.inference_mode():
            tokens = random_tokens(16, prompt, VOCABULARY)
            caches: list[list] = [[] for _ in range(SIZES["layers"])]
            last = policy(tokens, caches)[:, -1:].argmax(-1)
            found = [tokens, last]
            for _ in range(answer - 1):
                last = policy(last, caches)[:, -1:].argmax(-1)
                found.append(last)
            texts = torch.cat(found, 1)
            del caches, last, found
            wanted = reference(texts).log_softmax(-1).amax(-1)
        texts, wanted = texts.clone(), wanted.clone()  # out of inference mode
        if a.empty_cache:
            torch.cuda.empty_cache()
        for part in range(0, 16, 4):
            own = texts[part : part + 4]
            loss = next_token_loss(policy(own), own)
            value = critic(own)[..., 0].float() - wanted[part : part + 4]
            (loss + value.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if a.empty_cache:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
