"""Scratch of attention: accumulators of its kernels, and what a softmax with masks takes."""

from __future__ import annotations

import math

from .scratch import RESULTS, Call, Part


def flash_forward(call: Call) -> list[Part]:
    """Return the scratch of flash attention where the keys are split among blocks, and summed.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, set_params_splitkv
    (called by mha_fwd) and num_splits_heuristic.
    """
    q, k = call.args[0], call.args[1]
    b, heads, length, width = q.shape
    if call.arg(3, "dropout_p", 0.0):
        return []
    if length == 1 and heads > k.shape[1]:
        heads, length = k.shape[1], heads // k.shape[1]
    block = 256 if width <= 64 else 128 if width <= 128 else 64
    blocks = b * heads * -(-length // 64)
    splits = key_splits(blocks, 2 * call.device.multiprocessors, -(-k.shape[2] // block))
    if splits == 1:
        return []
    step = 32 if width <= 128 else 64
    kind, sums = "attention, split keys", splits * b * heads * length * 4
    return [("results", 2), (kind, sums), (kind, sums * -(-width // step) * step), RESULTS]


def key_splits(blocks: int, multiprocessors: int, most: int) -> int:
    """Return among how many blocks the keys are split: the fewest that keep the device busy."""
    if blocks >= 0.8 * multiprocessors:
        return 1
    efficiency = {}
    for n in range(1, min(128, multiprocessors, most) + 1):
        if n == 1 or -(-most // n) != -(-most // (n - 1)):
            waves = blocks * n / multiprocessors
            efficiency[n] = waves / math.ceil(waves)
    best = max(efficiency.values())
    return next(n for n, found in efficiency.items() if found >= 0.85 * best)


def flash_backward(call: Call) -> list[Part]:
    """Return the scratch of flash attention's backward pass: row sums, and sums of dq in float.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_bwd.
    """
    q, k = call.args[1], call.args[2]
    b, heads, length, width = q.shape
    rows = -(-length // 128) * 128
    step = 32 if width <= 128 else 64
    wide = -(-width // step) * step
    kind = "attention, backward"
    parts = [(kind, b * heads * rows * 4), (kind, b * rows * heads * wide * 4)]
    if k.shape[1] != heads:
        each = b * k.shape[2] * heads * width * q.itemsize
        parts += [(kind, each), (kind, each)]
    return parts


def efficient_backward(call: Call) -> list[Part]:
    """Return the scratch of memory-efficient attention's backward pass.

    Source: aten/src/ATen/native/transformers/cuda/attention_backward.cu,
    _efficient_attention_backward; mem_eff_attention/kernel_backward.h, workspace_size.
    """
    q = call.args[1]
    b, heads, length, width = q.shape
    kind, rows = "attention, backward", b * heads * length * 4
    product = b * heads * length * width * 4
    temporary = [(kind, product)] * (3 if q.itemsize == 2 else 1)  # gradient and output in float
    if length > 1 and heads > 1:  # the sums are transposed
        temporary.append((kind, rows))
    tiles = -(-length // 64) * -(-width // 64)
    return [
        *temporary, (kind, rows), *[("", -2)] * len(temporary),
        (kind, b * heads * tiles * (16 + 64 * 64 * 4)),
    ]  # fmt: skip


def safe_softmax(call: Call) -> list[Part]:
    """Return the scratch of a softmax whose rows may be masked whole: which are, and a zero.

    Source: aten/src/ATen/native/transformers/attention.cpp, _safe_softmax.
    """
    x, out = call.args[0], call.out
    rows = x.numel() // x.shape[call.args[1]]
    return [("masked rows", x.numel()), ("masked rows", rows), ("masked rows", out.itemsize)]
