"""Decode with a small model that guesses several tokens and a large one that checks them."""

from __future__ import annotations

import random
from typing import Any

from .transformer import make_decoder, random_tokens

VOCABULARY, GUESSES, REQUESTS = 32_000, 5, 10


def cut(caches: list[list], tokens: int) -> None:
    """Forget what was cached of tokens that were not accepted."""
    for cache in caches:
        cache[:] = [part[:, :, :tokens].contiguous() for part in cache]


def main() -> None:
    """Serve requests one after another. How many guesses are right is drawn on the CPU."""
    import torch

    torch.manual_seed(0)
    rng = random.Random(0)
    large = make_decoder(24, 2048, 16, VOCABULARY).bfloat16()
    small = make_decoder(4, 512, 8, VOCABULARY).bfloat16()
    for _ in range(REQUESTS):
        with torch.inference_mode():
            length = int(rng.lognormvariate(6, 0.8)) + 16
            prompt = random_tokens(1, length, VOCABULARY)
            pair: list[list[list[Any]]] = [[[] for _ in range(24)], [[] for _ in range(4)]]
            last = large(prompt, pair[0])[:, -1:].argmax(-1)
            small(prompt, pair[1])
            end = length + rng.randrange(40, 200)
            while length < end:
                guesses = [last]
                for _ in range(GUESSES):
                    guesses.append(small(guesses[-1], pair[1])[:, -1:].argmax(-1))
                logits = large(torch.cat(guesses, 1), pair[0])
                right = min(GUESSES, int(rng.expovariate(0.35)))
                last = logits[:, right : right + 1].argmax(-1)
                length += right + 1
                for caches in pair:
                    cut(caches, length)


if __name__ == "__main__":
    main()
