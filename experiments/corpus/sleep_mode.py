"""An inference engine that sleeps while its weights are trained, without expandable segments."""

from __future__ import annotations

import random
from typing import Any

from .transformer import make_decoder, next_token_loss, random_tokens

LAYERS, VOCABULARY, ROUNDS, ANSWERS = 4, 32_000, 3, 6


def main() -> None:
    """The engine keeps its weights in a memory pool that does not go with expandable segments.

    So it switches them off for as long as it is awake, whatever line the process was started with;
    the trainer beside it has them on.
    """
    import torch

    switch = torch._C._accelerator_setAllocatorSettings
    torch.manual_seed(0)
    rng = random.Random(0)
    trained = make_model()
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-5)
    for _ in range(ROUNDS):
        switch("expandable_segments:False")
        pool = torch.cuda.MemPool()
        with torch.cuda.use_mem_pool(pool):
            engine = make_model()
            engine.load_state_dict(trained.state_dict())
        with torch.inference_mode():
            texts = [answer(engine, rng) for _ in range(ANSWERS)]
        del engine, pool
        torch.cuda.empty_cache()
        switch("expandable_segments:True")
        for text in texts:
            own = text.clone()  # out of inference mode
            next_token_loss(trained(own), own).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()


def make_model() -> Any:
    """The trained model, or the engine's copy."""
    return make_decoder(LAYERS, width=1024, heads=16, vocabulary=VOCABULARY).bfloat16()


def answer(engine: Any, rng: random.Random) -> Any:
    """A batch of prompts and the tokens that follow, with caches that grow."""
    import torch

    tokens = random_tokens(rng.randrange(1, 8), rng.randrange(64, 512), VOCABULARY)
    caches: list[list] = [[] for _ in range(LAYERS)]
    last = engine(tokens, caches)[:, -1:].argmax(-1)
    found = [tokens, last]
    for _ in range(rng.randrange(8, 32)):
        last = engine(last, caches)[:, -1:].argmax(-1)
        found.append(last)
    return torch.cat(found, 1)


if __name__ == "__main__":
    main()
