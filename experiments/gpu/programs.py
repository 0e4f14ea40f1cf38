"""Programs to run on a GPU: for V3, and to record the allocator in situations of their own.

V3: a GPT on texts of varying length, a serving loop, a CNN on several resolutions.
Recorded besides: side streams, memory that runs out, the demonstrations of PyTorch's devlog, and
a server that flushes its cache.

    python programs.py gpt_varlen|decoding|cnn|streams|out_of_memory|devlog|decoding_flushed
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import random
import sys
from typing import Any

FIRST_BLOCK = "TIGHTFIT_FIRST_BLOCK"  # bytes that are allocated and freed before anything else

WIDTH, HEADS, LAYERS, WORDS = 768, 12, 8, 32000


def gpt(torch: Any) -> Any:
    """Return a decoder that may be given a cache per block, made where the default device is."""
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

        def forward(self, x: Any, cache: list | None = None) -> Any:
            b, t, _ = x.shape
            qkv = self.qkv(self.norm1(x)).view(b, t, 3, HEADS, WIDTH // HEADS)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            if cache is not None:
                if cache:
                    k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
                cache[:] = [k, v]
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=t > 1)
            x = x + self.proj(y.transpose(1, 2).reshape(b, t, WIDTH))
            return x + self.down(functional.gelu(self.up(self.norm2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
            self.head = nn.Linear(WIDTH, WORDS, bias=False)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

        def forward(self, ids: Any, caches: list | None = None) -> Any:
            x = self.embed(ids)
            for number, block in enumerate(self.blocks):
                x = block(x, None if caches is None else caches[number])
            return self.head(self.norm(x))

    return Model()


def gpt_varlen(torch: Any) -> None:
    with torch.device("cuda"):  # drawn by the processor, weights took half of the time
        model = gpt(torch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(15):
        length = (512, 896, 300, 1024, 700)[step % 5]
        ids = torch.randint(0, WORDS, (8, length)).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(ids).view(-1, WORDS).float()
            loss = torch.nn.functional.cross_entropy(logits, ids.view(-1))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def decoding(torch: Any, flushes: float = 0.0) -> None:
    """Continuous decoding: every request has a cache of its own that grows.

    Args:
        torch: the module.
        flushes: share of steps after which unused memory is given back to the driver.
    """
    rng = random.Random(0)
    torch.set_default_dtype(torch.half)
    with torch.device("cuda"):
        model = gpt(torch).eval()
    waiting = [(rng.choice([64, 200, 700, 1500]), rng.randrange(4, 16)) for _ in range(24)]
    live: list[list] = []
    with torch.inference_mode():
        while waiting or live:
            while waiting and len(live) < 8:
                length, tokens = waiting.pop()
                caches: list[list] = [[] for _ in model.blocks]
                model(torch.randint(0, WORDS, (1, length)).cuda(), caches)
                live.append([caches, tokens])
            for request in live:
                model(torch.randint(0, WORDS, (1, 1)).cuda(), request[0])[:, -1].argmax(-1)
                request[1] -= 1
            live = [request for request in live if request[1] > 0]
            if rng.random() < flushes:
                torch.cuda.empty_cache()


def decoding_flushed(torch: Any) -> None:
    """The same in a server that calls empty_cache() now and then, as many do."""
    decoding(torch, flushes=0.2)


def cnn(torch: Any) -> None:
    nn = torch.nn
    layers: list[Any] = []
    channels = 3
    for width in (64, 128, 256, 512):
        for source, stride in ((channels, 2), (width, 1)):
            layers += [nn.Conv2d(source, width, 3, stride, 1), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(12):
        side = (224, 160, 288)[step % 3]
        x = torch.randn(32, 3, side, side, device="cuda")
        labels = torch.randint(0, 1000, (32,), device="cuda")
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()


def streams(torch: Any) -> None:
    """A second stream uses what the first one made, which may not be reused before it is done."""
    main, side = torch.cuda.current_stream(), torch.cuda.Stream()
    for step in range(200):
        a = torch.randn(1 + step * 7919 % 4_000_000, device="cuda")
        side.wait_stream(main)
        with torch.cuda.stream(side):
            b = (a * 2).sum()
        a.record_stream(side)
        del a
        c = torch.empty(1 + step * 104729 % 9_000_000, device="cuda")
        del c, b
    torch.cuda.synchronize()


def out_of_memory(torch: Any) -> None:
    """Memory that stays among memory that comes and goes, in 4 GiB, until a request fails."""
    torch.cuda.set_per_process_memory_fraction((4 << 30) / torch.cuda.mem_get_info()[1])
    rng = random.Random(1)
    kept: list[Any] = []

    def bytes_of(low: int, high: int) -> Any:
        size = rng.randrange(low << 20, high << 20)
        return torch.empty(size, dtype=torch.uint8, device="cuda")

    try:
        while True:
            kept.append(bytes_of(1, 24))
            churn = [bytes_of(1, 96) for _ in range(4)]
            del churn
            if len(kept) > 40:
                del kept[rng.randrange(len(kept))]
            if rng.random() < 0.3 and len(kept) > 8:
                kept.append(bytes_of(40, 160))
    except torch.OutOfMemoryError:
        return


def devlog(torch: Any) -> None:
    """Blocks that cannot be joined, and small ones in segments of their own.

    Source: the PyTorch devlog of 2026-06-01 on the caching allocator, its demonstrations.
    """

    def mib(n: float) -> Any:
        return torch.empty(int(n * (1 << 20)), dtype=torch.uint8, device="cuda")

    for first, second in (((16, 8), (32, 4)), ((32, 4), (16, 8))):
        for size, count in (first, second):
            kept = [mib(size) for _ in range(count)]
            del kept
        torch.cuda.empty_cache()
    four: list[Any] = [mib(16) for _ in range(4)]
    four[0] = four[2] = None
    wide = mib(32)
    del four, wide
    torch.cuda.empty_cache()
    large = mib(2)
    del large
    mib(0.5)


PROGRAMS = {
    "gpt_varlen": gpt_varlen, "decoding": decoding, "cnn": cnn, "streams": streams,
    "out_of_memory": out_of_memory, "devlog": devlog, "decoding_flushed": decoding_flushed,
}  # fmt: skip


def main() -> None:
    import torch

    if os.environ.get(FIRST_BLOCK):
        torch.empty(int(os.environ[FIRST_BLOCK]), dtype=torch.uint8, device="cuda")
    torch.manual_seed(0)
    PROGRAMS[sys.argv[1]](torch)


if __name__ == "__main__":
    main()
