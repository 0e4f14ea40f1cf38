"""Serve a language model to many at once (continuous batching).

The lengths of prompts and answers are drawn like those of a public log of requests. What is kept of
a request's past tokens, its KV cache, is held in one of three ways:

    grow    a tensor per request and layer, which is made anew for every token
    pages   a region reserved at the start and handed out in pages; what a step needs is gathered
    graphs  as pages, and a step of up to 64 requests is a CUDA graph captured before, one for each
            of several batch sizes, in one memory pool
"""

from __future__ import annotations

import argparse
from typing import Any

from ...traces.requests import FITTED
from .transformer import make_decoder, random_tokens

VOCABULARY, WIDTH, HEADS, PAGE = 32_000, 1024, 16, 16
GRAPHS = (64, 32, 16, 8, 4, 2, 1)  # the largest first, so that the others find its memory


class Pages:
    """Pages of a region: who has which."""

    def __init__(self, pages: int, layers: int) -> None:
        import torch

        shape = (pages, 2, layers, HEADS, PAGE, WIDTH // HEADS)
        self.region = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
        self.free = list(range(pages))
        self.of: dict[int, list[int]] = {}

    def fit(self, request: int, tokens: int) -> None:
        """Give a request the pages that so many tokens need."""
        own = self.of.setdefault(request, [])
        while len(own) * PAGE < tokens:
            own.append(self.free.pop())

    def drop(self, request: int) -> None:
        """Take a request's pages back."""
        self.free += self.of.pop(request)

    def gather(self, requests: list[int]) -> Any:
        """Return the pages of some requests, (requests, most pages, ...); short ones padded."""
        import torch

        most = max(len(self.of[r]) for r in requests)
        rows = [self.of[r] + [0] * (most - len(self.of[r])) for r in requests]
        return self.region[torch.tensor(rows).cuda(non_blocking=True)]


def attend_to_pages(model: Any, tokens: Any, held: Any) -> Any:
    """One step of a batch: tokens (b, 1), held (b, pages, 2, layers, heads, PAGE, head width)."""
    import torch
    from torch.nn import functional as F

    b = tokens.shape[0]
    x = model.tokens(tokens)
    for n, layer in enumerate(model.layers):
        past = held[:, :, :, n].permute(2, 0, 3, 1, 4, 5).reshape(2, b, HEADS, -1, WIDTH // HEADS)
        split = layer.qkv(layer.before(x)).view(b, 1, 3, HEADS, WIDTH // HEADS)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(
            q, torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        )
        x = x + layer.out(y.transpose(1, 2).reshape(b, 1, WIDTH))
        x = x + layer.mlp(layer.between(x))
    return model.head(model.last(x))[:, -1].argmax(-1)


def capture(model: Any, window: int, layers: int) -> dict[int, tuple[Any, Any]]:
    """Return batch size -> (graph, its output); all graphs share a pool."""
    import torch

    graphs: dict[int, tuple[Any, Any]] = {}
    shape = (window, 2, layers, HEADS, PAGE, WIDTH // HEADS)
    held = torch.empty(max(GRAPHS), *shape, dtype=torch.bfloat16, device="cuda")
    tokens = torch.zeros(max(GRAPHS), 1, dtype=torch.int64, device="cuda")
    pool = torch.cuda.graph_pool_handle()
    for size in GRAPHS:
        warm = torch.cuda.Stream()
        warm.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm):
            attend_to_pages(model, tokens[:size], held[:size])
        torch.cuda.current_stream().wait_stream(warm)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            out = attend_to_pages(model, tokens[:size], held[:size])
        graphs[size] = graph, out
    return graphs


def main() -> None:
    """Serve until all requests are answered."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kv", choices=("grow", "pages", "graphs"), default="grow")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--lengths", choices=tuple(FITTED), default="conversation")
    a = parser.parse_args()
    torch.manual_seed(0)
    asked = FITTED[a.lengths].draw(a.requests, 0)
    prompts = [min(int(n), 6000) for n in asked.prompt]
    answers = [min(int(n), 512) for n in asked.answer]
    model = make_decoder(a.layers, WIDTH, HEADS, VOCABULARY).bfloat16().eval()
    pages = Pages(a.at_once * 512, a.layers) if a.kv != "grow" else None
    waiting = list(range(a.requests))
    caches: dict[int, list[list]] = {}
    length: dict[int, int] = {}
    left: dict[int, int] = {}
    with torch.inference_mode():
        graphs = capture(model, 32, a.layers) if a.kv == "graphs" else {}
        while waiting or left:
            while waiting and len(left) < a.at_once:
                r = waiting.pop(0)
                own: list[list] = [[] for _ in range(a.layers)]
                model(random_tokens(1, prompts[r], VOCABULARY), own)[:, -1].argmax(-1).cpu()
                length[r], left[r] = prompts[r], answers[r]
                if pages is None:
                    caches[r] = own
                else:
                    pages.fit(r, prompts[r])
                    for n, (k, v) in enumerate(own):
                        for at, page in enumerate(pages.of[r]):
                            part = slice(at * PAGE, at * PAGE + PAGE)
                            pages.region[page, 0, n, :, : k[0, :, part].shape[1]] = k[0, :, part]
                            pages.region[page, 1, n, :, : v[0, :, part].shape[1]] = v[0, :, part]
                del own
            running = list(left)
            if pages is None:
                for r in running:
                    model(random_tokens(1, 1, VOCABULARY), caches[r])[:, -1].argmax(-1).cpu()
            else:
                for r in running:
                    pages.fit(r, length[r] + 1)
                fits = [size for size in graphs if size >= len(running)]
                if fits:
                    graph, out = graphs[min(fits)]
                    graph.replay()
                    out.cpu()
                else:
                    tokens = random_tokens(len(running), 1, VOCABULARY)
                    attend_to_pages(model, tokens, pages.gather(running)).cpu()
            for r in running:
                length[r] += 1
                left[r] -= 1
                if not left[r]:
                    del left[r]
                    caches.pop(r, None)
                    if pages is not None:
                        pages.drop(r)


if __name__ == "__main__":
    main()
