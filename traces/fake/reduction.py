"""The global buffer with which thread blocks of a reduction share their partial results.

Source: aten/src/ATen/native/cuda/Reduce.cuh, setReduceConfig, ReduceConfig and gpu_reduce_kernel,
the same from 2.4 to 2.15; aten/src/ATen/TensorIterator.cpp, reorder_dimensions and
coalesce_dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WARP, MOST_THREADS = 32, 512
LEAST_VALUES, MOST_VALUES = 16, 256  # per thread


@dataclass(frozen=True)
class Reduction:
    """What a reduction reads.

    Attributes:
        shape, strides: of the input, in elements.
        dims: which are reduced; none = all.
        item: bytes of an element of the input.
        partial: bytes of a partial result, which is kept in a wider type than the input's.
        vector: elements of the input that a thread loads at once.
        offset: of the input in its storage, in elements.
    """

    shape: Sequence[int]
    strides: Sequence[int]
    dims: Sequence[int]
    item: int
    partial: int
    vector: int = 4
    offset: int = 0


def _joined(r: Reduction) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return (size, stride) of the reduced and of the kept dimensions, neighbours joined."""
    n = len(r.shape)
    reduced = {d % n for d in r.dims} if r.dims and n else set(range(n))
    step, out = 1, [0] * n  # strides of the output, which is dense
    for d in reversed(range(n)):
        if d not in reduced:
            out[d], step = step, step * r.shape[d]

    def join(dims: list[int], by: Sequence[int]) -> list[tuple[int, int]]:
        rows: list[list[int]] = []
        for d in sorted((d for d in dims if r.shape[d] != 1), key=lambda d: by[d]):
            if (
                rows
                and rows[-1][0] * rows[-1][1] == r.strides[d]
                and rows[-1][0] * rows[-1][2] == out[d]
            ):
                rows[-1][0] *= r.shape[d]
            else:
                rows.append([r.shape[d], r.strides[d], out[d]])
        return [(size, stride) for size, stride, _ in rows]

    backwards = list(reversed(range(n)))
    return (
        join([d for d in backwards if d in reduced], r.strides),
        join([d for d in backwards if d not in reduced], out),
    )


def _power(n: int) -> int:
    return 1 << (max(n, 1).bit_length() - 1)


def _up(a: int, b: int) -> int:
    return -(-a // b)


def global_buffer(r: Reduction, multiprocessors: int, threads: int) -> tuple[int, int] | None:
    """Return the bytes of partial results and of semaphores; None where none are needed.

    Args:
        r: what is reduced; it has elements.
        multiprocessors, threads: of the device, and resident on each of them.
    """
    reduced, kept = _joined(r)
    inputs = outputs = 1
    for size, _ in reduced:
        inputs *= size
    for size, _ in kept:
        outputs *= size
    dims = reduced + kept
    along_input, wide = True, 1
    dim0 = dim1 = 1
    if dims:
        along_input = not kept or (bool(reduced) and dims[0][1] < dims[len(reduced)][1])
        dim0, dim1 = (inputs, outputs) if along_input else (outputs, inputs)
        fastest = dims[0][1] if along_input else dims[len(reduced)][1]
        if fastest == 1:
            if along_input and dim0 >= 128 and len(reduced) == 1:
                dim0 //= r.vector
            elif not along_input:
                wide = _wide(r.offset, kept, dims)
                dim0 //= wide
    most = MOST_THREADS // wide
    power0 = _power(dim0) if dim0 < most else most
    power1 = _power(dim1) if dim1 < most else most
    width = min(power0, WARP)
    height = min(power1, most // width)
    width = min(power0, most // height)
    step_input, step_output = (width, 1) if along_input else (1, width)
    over_warps = _up(inputs, step_input) >= min(height * 16, MOST_VALUES)
    if over_warps:
        step_input *= height
    else:
        step_output *= height
    target = multiprocessors * (threads // (width * height))
    grid = _up(outputs // wide, step_output)
    values = _up(inputs, step_input)
    if not over_warps or values < MOST_VALUES or grid > target:
        return None
    blocks = max(min(_up(target, grid), _up(values, LEAST_VALUES)), _up(values, MOST_VALUES))
    if blocks <= 1:
        return None
    each = 1 if along_input else width * wide
    return r.partial * outputs * blocks * each, 4 * grid


def _wide(offset: int, kept: list[tuple[int, int]], dims: list[tuple[int, int]]) -> int:
    """Return how many outputs a thread makes at once: what all sizes and strides allow, up to 4."""
    wide = 4
    others = [stride for k, (_, stride) in enumerate(dims) if k != len(dims) - len(kept)]
    for n in (offset, kept[0][0], *others):
        while n % wide:
            wide //= 2
    return wide
