"""Train a graph network; every batch has another number of nodes and edges."""

from __future__ import annotations

import random
from typing import Any

WIDTH, LAYERS, STEPS = 256, 6, 120


def make_network() -> Any:
    """Return a network that passes messages along edges: (nodes, edges) to one row per node."""
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.message = nn.Sequential(
                nn.Linear(2 * WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH)
            )
            self.update = nn.GRUCell(WIDTH, WIDTH)

        def forward(self, x: Any, source: Any, target: Any) -> Any:
            sent = self.message(torch.cat([x[source], x[target]], 1))
            return self.update(torch.zeros_like(x).index_add(0, target, sent), x)

    with torch.device("cuda"):
        return nn.ModuleList(Layer() for _ in range(LAYERS))


def main() -> None:
    """Batches of molecules and now and then a large graph."""
    import torch

    torch.manual_seed(0)
    rng = random.Random(0)
    layers = make_network()
    optimizer = torch.optim.Adam(layers.parameters(), lr=1e-3)
    for step in range(STEPS):
        nodes = int(rng.lognormvariate(9, 0.7)) if step % 10 else rng.randrange(60_000, 120_000)
        edges = int(nodes * rng.uniform(2, 8))
        pairs = torch.randint(0, nodes, (2, edges)).cuda(non_blocking=True)
        x = torch.randn(nodes, WIDTH).cuda(non_blocking=True)
        for layer in layers:
            x = layer(x, pairs[0], pairs[1])
        graphs = torch.randint(0, 32, (nodes,)).cuda(non_blocking=True)
        pooled = torch.zeros(32, WIDTH, device="cuda").index_add(0, graphs, x)
        pooled.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    main()
