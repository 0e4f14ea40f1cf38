"""Programs for V3: a GPT on texts of varying length, a serving loop, a CNN on several resolutions.

python programs.py gpt_varlen|decoding|cnn
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import random
import sys
from typing import Any

WIDTH, HEADS, LAYERS, WORDS = 768, 12, 8, 32000


def gpt(torch: Any) -> Any:
    """Return a decoder that may be given a cache per block."""
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
    model = gpt(torch).cuda()
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


def decoding(torch: Any) -> None:
    """Continuous decoding: every request has a cache of its own that grows."""
    rng = random.Random(0)
    model = gpt(torch).half().cuda().eval()
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


PROGRAMS = {"gpt_varlen": gpt_varlen, "decoding": decoding, "cnn": cnn}


def main() -> None:
    import torch

    torch.manual_seed(0)
    PROGRAMS[sys.argv[1]](torch)


if __name__ == "__main__":
    main()
