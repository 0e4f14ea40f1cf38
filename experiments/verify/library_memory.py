"""Measure what CUDA's libraries keep for themselves, step by step; used by the worker.

Each step uses one library for the first time in the process. What it leaves allocated after its
results are gone is work space within PyTorch's allocator; what the device lost beyond what the
allocator holds is handles, code and buffers outside of it. It imports nothing of this package.
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

WIDTH = 1024


def measure(torch: Any) -> list[dict[str, Any]]:
    """Return one row per step: bytes that stay, the peak, bytes outside, what went wrong.

    `peak` has the step's own inputs and results in it; `largest` are the five largest requests that
    were made, with the function that made them where the history knows it.
    """
    rows: list[dict[str, Any]] = []
    before_any = torch.cuda.mem_get_info()
    rows.append({"step": "context", "stays": 0, "peak": 0, "largest": [], "error": "",
                 "outside": before_any[1] - before_any[0]})  # fmt: skip
    torch.cuda.memory._record_memory_history("all", context="alloc", stacks="all")
    for step, call in steps(torch).items():
        held = torch.cuda.memory_allocated()
        outside = _outside(torch)
        torch.cuda.reset_peak_memory_stats()
        seen = sum(len(trace) for trace in torch.cuda.memory._snapshot()["device_traces"])
        error = ""
        try:
            call()
            torch.cuda.synchronize()
        except Exception as raised:  # a stand-in, or a build without the library
            error = f"{type(raised).__name__}: {raised}"[:200]
        peak = torch.cuda.max_memory_allocated()
        rows.append({
            "step": step,
            "stays": torch.cuda.memory_allocated() - held,
            "peak": peak - held,
            "outside": _outside(torch) - outside,
            "largest": _largest(torch, seen),
            "error": error,
        })  # fmt: skip
    return rows


def steps(torch: Any) -> dict[str, Callable[[], Any]]:
    """Return the steps in order; each leaves nothing of its own behind."""
    nn, functional = torch.nn, torch.nn.functional
    side = torch.cuda.Stream()

    def square(dtype: Any) -> Any:
        return torch.ones(WIDTH, WIDTH, device="cuda", dtype=dtype)

    def on_side() -> None:
        with torch.cuda.stream(side):
            torch.mm(square(torch.bfloat16), square(torch.bfloat16))
        side.synchronize()

    def linear(backward: bool) -> None:
        layer = nn.Linear(WIDTH, WIDTH, device="cuda", dtype=torch.bfloat16)
        out = layer(square(torch.bfloat16).requires_grad_())
        if backward:
            out.sum().backward()

    def convolution(benchmark: bool, dtype: Any) -> None:
        torch.backends.cudnn.benchmark = benchmark
        layer = nn.Conv2d(64, 128, 3, padding=1, device="cuda", dtype=dtype)
        x = torch.ones(16, 64, 112, 112, device="cuda", dtype=dtype, requires_grad=True)
        layer(x).sum().backward()
        torch.backends.cudnn.benchmark = False

    def attention() -> None:
        q, k, v = (torch.ones(4, 12, WIDTH, 64, device="cuda", dtype=torch.bfloat16,
                              requires_grad=True) for _ in range(3))  # fmt: skip
        functional.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    def recurrent() -> None:
        layer = nn.LSTM(256, 256, 2, device="cuda")
        layer(torch.ones(32, 16, 256, device="cuda"))[0].sum().backward()

    return {
        "first kernel": lambda: torch.ones(4, device="cuda") + 1,
        "matmul fp32": lambda: square(torch.float32) @ square(torch.float32),
        "matmul bf16": lambda: square(torch.bfloat16) @ square(torch.bfloat16),
        "matmul on another stream": on_side,
        "linear with bias": lambda: linear(False),
        "linear with bias, backward": lambda: linear(True),
        "sum of 64 MiB": lambda: torch.ones(16 << 20, device="cuda").sum(),
        "sort of 4 M": lambda: torch.ones(4 << 20, device="cuda").sort(),
        "attention, forward and backward": attention,
        "convolution fp32": lambda: convolution(False, torch.float32),
        "convolution bf16": lambda: convolution(False, torch.bfloat16),
        "convolution fp32, benchmark": lambda: convolution(True, torch.float32),
        "LSTM": recurrent,
        "FFT of 4 M": lambda: torch.fft.fft(torch.ones(4 << 20, device="cuda")),
        "cholesky": lambda: torch.linalg.cholesky(torch.eye(512, device="cuda")),
    }


def _outside(torch: Any) -> int:
    """Bytes of the device that are gone and not held by the allocator."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


def _largest(torch: Any, seen: int) -> list[list[Any]]:
    """Return (bytes, function) of the largest requests since an entry of the history."""
    entries = [e for trace in torch.cuda.memory._snapshot()["device_traces"] for e in trace][seen:]
    asked = sorted((e for e in entries if e["action"] == "alloc"), key=lambda e: -e["size"])
    return [[e["size"], _function(e)] for e in asked[:5]]


def _function(entry: dict[str, Any]) -> str:
    """Return the innermost named function that is no part of the allocator."""
    for frame in entry.get("frames", ()):
        name = frame["name"]
        if name.startswith("at::") and "empty" not in name and "at::detail" not in name:
            return name.split("(")[0][:80]
    return ""
