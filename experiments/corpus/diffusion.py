"""Train a diffusion U-Net on pictures of several shapes, and sample from it between epochs."""

from __future__ import annotations

import random
from typing import Any

CHANNELS, STEPS = (128, 256, 384, 512), 24
SHAPES = ((64, 64), (48, 80), (80, 48), (96, 96), (56, 72), (128, 64))


def make_unet() -> Any:
    """Return a U-Net with attention in its two deepest levels; pictures are (b, 4, h, w)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Residual(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.norms = nn.ModuleList([nn.GroupNorm(32, inputs), nn.GroupNorm(32, outputs)])
            self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
            self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.time = nn.Linear(512, outputs)
            self.skip = nn.Conv2d(inputs, outputs, 1)

        def forward(self, x: Any, t: Any) -> Any:
            y = self.first(F.silu(self.norms[0](x))) + self.time(t)[:, :, None, None]
            return self.skip(x) + self.second(F.silu(self.norms[1](y)))

    class Attention(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm, self.qkv = nn.GroupNorm(32, width), nn.Conv2d(width, 3 * width, 1)

        def forward(self, x: Any) -> Any:
            b, c, h, w = x.shape
            q, k, v = self.qkv(self.norm(x)).view(b, 3, 8, c // 8, h * w).transpose(3, 4).unbind(1)
            y = F.scaled_dot_product_attention(q, k, v)
            return x + y.transpose(2, 3).reshape(b, c, h, w)

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Sequential(nn.Linear(128, 512), nn.SiLU(), nn.Linear(512, 512))
            self.first = nn.Conv2d(4, CHANNELS[0], 3, padding=1)
            ins = [CHANNELS[0], *CHANNELS[:-1]]
            self.down = nn.ModuleList(map(Residual, ins, CHANNELS))
            self.attend = nn.ModuleList(Attention(c) for c in CHANNELS)
            self.up = nn.ModuleList(Residual(2 * c, i) for c, i in zip(CHANNELS, ins, strict=True))
            self.last = nn.Conv2d(CHANNELS[0], 4, 3, padding=1)

        def forward(self, x: Any, t: Any) -> Any:
            t, x = self.time(t), self.first(x)
            kept = []
            for n, block in enumerate(self.down):
                x = block(x, t)
                if n >= 2:
                    x = self.attend[n](x)
                kept.append(x)
                if n < 3:
                    x = F.avg_pool2d(x, 2)
            for n in reversed(range(4)):
                if n < 3:
                    x = F.interpolate(x, scale_factor=2)
                x = self.up[n](torch.cat([x, kept[n]], 1), t)
            return self.last(x)

    with torch.device("cuda"):
        return UNet()


def main() -> None:
    """Train with an average of the weights beside them; sample every eighth step."""
    import torch

    torch.manual_seed(0)
    rng = random.Random(0)
    model = make_unet().bfloat16()
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(STEPS):
        h, w = rng.choice(SHAPES)
        x = torch.randn(16, 4, h, w).cuda(non_blocking=True).bfloat16()
        t = torch.randn(16, 128, dtype=torch.bfloat16, device="cuda")
        noise = torch.randn_like(x)
        torch.nn.functional.mse_loss(model(x + noise, t).float(), noise.float()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for kept, new in zip(average, model.parameters(), strict=True):
                kept.lerp_(new, 0.001)
        if step % 8 == 7:
            with torch.inference_mode():
                x = torch.randn(4, 4, 128, 128, dtype=torch.bfloat16, device="cuda")
                for _ in range(10):  # classifier-free guidance doubles the batch
                    both = model(torch.cat([x, x]), t[:8])
                    x = x - 0.1 * both.chunk(2)[0]


if __name__ == "__main__":
    main()
