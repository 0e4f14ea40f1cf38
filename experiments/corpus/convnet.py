"""Train a residual network on pictures that grow during training, and validate in between."""

from __future__ import annotations

from typing import Any

STEPS = 36


def make_resnet() -> Any:
    """Return a ResNet-50 without its first pooling."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Bottleneck(nn.Module):
        def __init__(self, inputs: int, inner: int, stride: int) -> None:
            super().__init__()
            outputs = 4 * inner
            self.a = nn.Sequential(nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner))
            self.b = nn.Sequential(
                nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
            )
            self.c = nn.Sequential(
                nn.Conv2d(inner, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
            )
            self.skip = (
                nn.Identity()
                if inputs == outputs and stride == 1
                else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            )

        def forward(self, x: Any) -> Any:
            y = F.relu(self.b(F.relu(self.a(x), inplace=True)), inplace=True)
            return F.relu(self.c(y) + self.skip(x), inplace=True)

    blocks, width = [], 64
    for stage, n in enumerate((3, 4, 6, 3)):
        for k in range(n):
            inner = 64 << stage
            blocks.append(Bottleneck(width, inner, 2 if k == 0 and stage else 1))
            width = 4 * inner
    first = nn.Sequential(nn.Conv2d(3, 64, 7, 4, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))
    with torch.device("cuda"):
        return nn.Sequential(first, *blocks, last).cuda()


def main() -> None:
    """Pictures of 128, 160, ... 288; every sixth step validates with twice the batch."""
    import torch

    torch.manual_seed(0)
    model = make_resnet().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for step in range(STEPS):
        side = 128 + 32 * (step // 6)
        x = torch.empty(64, 3, side, side).pin_memory().cuda(non_blocking=True)
        labels = torch.randint(0, 1000, (64,)).cuda(non_blocking=True)
        torch.nn.functional.cross_entropy(model(x.bfloat16()).float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 6 == 5:
            model.eval()
            with torch.no_grad():
                x = torch.empty(128, 3, side + 32, side + 32, device="cuda")
                model(x.bfloat16()).argmax(1).cpu()
            model.train()


if __name__ == "__main__":
    main()
