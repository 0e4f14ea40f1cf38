"""Train a small vision model whose layers none of the other programs has."""

from __future__ import annotations

from typing import Any

WIDTH, STEPS = 192, 5


def make_model() -> Any:
    """Return a model of pictures (b, 3, 96, 96) and places (1, 144) to classes (b, 100)."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(WIDTH, 3, dropout=0.1, batch_first=True)
            self.before, self.between = nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH)
            self.mlp = nn.Sequential(
                nn.Linear(WIDTH, 3 * WIDTH), nn.SiLU(), nn.Dropout(0.1),
                nn.Linear(3 * WIDTH, WIDTH),
            )  # fmt: skip

        def forward(self, x: Any, mask: Any) -> Any:
            y = self.before(x)
            x = x + self.attend(y, y, y, attn_mask=mask, need_weights=False)[0]
            return x + self.mlp(self.between(x))

    class Vision(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, WIDTH, 8, 8), nn.BatchNorm2d(WIDTH)
            self.places, self.cell = nn.Embedding(300, WIDTH), nn.LSTMCell(WIDTH, WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(4))
            self.head = nn.Linear(WIDTH, 100)

        def forward(self, x: Any, places: Any) -> Any:
            y = F.relu(self.norm(self.patches(x))).flatten(2).transpose(1, 2) + self.places(places)
            mask = torch.zeros(y.shape[1], y.shape[1], device="cuda")
            for block in self.blocks:
                y = block(y, mask)
            state = self.cell(y[:, 0])
            state = self.cell(y[:, 1], state)
            pooled = F.max_pool1d(y.transpose(1, 2), 4).mean(2) + state[0]
            return self.head(F.normalize(pooled, dim=1)).log_softmax(-1)

    with torch.device("cuda"):
        return Vision()


def main() -> None:
    """Train in half precision with scaled losses, and compute what a log would show."""
    import torch
    from torch.nn import functional as F

    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    average = [p.detach().clone() for p in model.parameters()]
    scaler = torch.amp.GradScaler("cuda")
    for step in range(STEPS):
        x = torch.randn(32 + step, 3, 96, 96, device="cuda")
        places = torch.randint(0, 300, (1, 144)).cuda()
        labels = torch.randint(0, 100, (32 + step,)).cuda()
        with torch.autocast("cuda", dtype=torch.float16):
            out = model(x, places)
            loss = F.nll_loss(out, labels) + 0.1 * F.smooth_l1_loss(out, torch.zeros_like(out))
            loss = loss + 0.01 * sum(p.abs().sum() for p in model.parameters())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 0.01)
        with torch.no_grad():
            best = out.topk(5).indices
            spread = out.float().sort(-1).values.cumsum(-1)
            share = (best[:, 0] == out.argmax(-1)).float().mean() + out.var(1).max()
            small = F.interpolate(x, scale_factor=0.5, mode="bilinear")
            both = torch.bmm(small[:, 0], small[:, 1].transpose(1, 2))
            del best, spread, share, small, both


if __name__ == "__main__":
    main()
