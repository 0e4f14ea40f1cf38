"""Scratch that kernels take: the formulas, against figures from real GPUs and worked examples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tightfit.traces.event import Action
from tightfit.traces.fake.attention_scratch import key_splits
from tightfit.traces.fake.cub import scan_bytes, sort_bytes, unique_bytes
from tightfit.traces.fake.reduction import Reduction, global_buffer
from tightfit.traces.fake.rows import Rows
from tightfit.traces.fake.scratch import (
    END,
    OTHER_WORKSPACE_BYTES,
    RESULTS,
    WORKSPACE_BYTES,
    Call,
    Device,
    Scratch,
    passing,
)
from tightfit.traces.load import load

pytestmark = pytest.mark.interpreted
MiB = 1 << 20
H100 = Device(9, 0, 80 << 30, 132, 2048)
# Snapshot -> (tokens of a batch, width of the model, which sum over tokens); public models: the
# CS336 "medium" language model, and one of width 512. Batches are four sequences, or 10 of them.
REAL = {
    "medium_train_256_warm.pickle": (4 * 256, 1024),
    "medium_train_512_lost_frees.pickle": (4 * 512, 1024),
    "transformer_fwd_bwd_100.pickle": (1000, 512),
    "transformer_fwd_bwd_200.pickle": (2000, 512),
}


def asked_by(path: Path, function: str) -> list[int]:
    """Return the bytes of each allocation that a C++ function asked for."""
    recording = load(path)
    entries = recording.devices[0].entries
    return [
        int(entries["size"][row])
        for row in np.flatnonzero(entries["action"] == Action.ALLOC)
        if any(function in name for _, _, name in recording.stacks[int(entries["stack"][row])])
    ]


def sum_over_rows(rows: int, width: int, item: int = 4) -> Reduction:
    return Reduction((rows, width), (width, 1), (0,), item, 4)


@pytest.mark.slow  # without compiled code
@pytest.mark.parametrize("name", REAL)
def test_sums_over_tokens_take_what_they_took_on_a_gpu(shared: Path, name: str) -> None:
    """Gradients of norms: on every GPU with as many multiprocessors as an L4 or more."""
    path = shared / "traces" / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand")
    tokens, width = REAL[name]
    found = Counter(asked_by(path, "gpu_reduce_kernel"))
    told = {global_buffer(sum_over_rows(tokens, width), m, 2048) for m in (58, 108, 132)}
    (one,) = told
    if one is None:
        assert not found
    else:
        assert set(found) == set(one) and found[one[0]] == found[one[1]] >= 27


@pytest.mark.slow  # without compiled code
@pytest.mark.parametrize("name", REAL)
def test_adding_to_an_embedding_sorts_as_on_a_gpu(shared: Path, name: str) -> None:
    path = shared / "traces" / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand")
    tokens, _ = REAL[name]
    found = Counter(asked_by(path, "index_put_with_sort"))
    each = found[8 * tokens] / 5  # five arrays of the numbers of places, for each call
    assert found == {8 * tokens: 5 * each, sort_bytes(tokens, 50_000, (9, 0)): each}


@pytest.mark.slow  # without compiled code
def test_work_space_of_cublas_is_that_of_a_gpu(shared: Path) -> None:
    path = shared / "traces" / "transformer_fwd_bwd_200.pickle"
    if not path.is_file():
        pytest.skip(f"{path.name} is not at hand")
    assert asked_by(path, "getNewWorkspace") == [OTHER_WORKSPACE_BYTES] * 2
    assert WORKSPACE_BYTES[9] == 32 * MiB


@pytest.mark.parametrize(
    ("what", "found"),
    [
        # Figures of PyTorch 2.13 on a stand-in of 108 multiprocessors.
        (Reduction((2359296 // 4,), (1,), (), 4, 4), (288, 4)),
        (Reduction((16, 4, 96, 96), (36864, 9216, 96, 1), (0, 2, 3), 2, 4, 8), (288, 16)),
        (Reduction((115_340, 768), (768, 1), (0,), 4, 4), (113_246_208, 24)),
        (Reduction((4, 8), (8, 1), (1,), 4, 4), None),
        (Reduction((), (), (), 4, 4), None),
        (Reduction((1000, 1000), (1, 1000), (1,), 4, 4, 4), None),
    ],
)
def test_buffers_of_reductions(what: Reduction, found: tuple[int, int] | None) -> None:
    assert global_buffer(what, 108, 2048) == found


def test_a_reduction_is_the_same_however_its_dimensions_are_written() -> None:
    flat = global_buffer(sum_over_rows(4096, 512), 132, 2048)
    assert flat is not None
    split = Reduction((4, 1024, 512), (1024 * 512, 512, 1), (0, 1), 4, 4)
    ones = Reduction((1, 4096, 1, 512), (9, 512, 7, 1), (0, 1, -2), 4, 4)
    assert global_buffer(split, 132, 2048) == global_buffer(ones, 132, 2048) == flat
    odd = Reduction((4096, 512), (512, 1), (0,), 4, 4, 4, offset=1)  # nothing to load four at once
    assert global_buffer(odd, 132, 2048) != flat


# Measured on stand-ins: elements -> bytes.
SORTED = {
    (9, 0): {2304: 1, 3000: 55_807, 8192: 139_775, 200_000: 3_251_711, 1_000_000: 16_229_887},
    (8, 0): {2304: 1, 3000: 55_807, 8192: 140_799, 200_000: 3_260_927, 1_000_000: 16_273_919},
}
UNIQUE = {
    (9, 0): {4000: 1279, 100_000: 1535, 500_000: 2815, 1_000_000: 4351, 3_000_000: 11_007},
    (8, 0): {4000: 1279, 50_000: 1791, 200_000: 3583, 1_000_000: 13_055, 3_000_000: 36_863},
    (8, 9): {20_000: 2047, 100_000: 6143, 500_000: 26_111, 3_000_000: 151_039},
}
SCANNED = {8192: 1279, 16_384: 1535, 50_000: 2047, 200_000: 4607, 1_000_000: 18_943}


def test_temporary_memory_of_cub_is_as_measured() -> None:
    for capability, sizes in SORTED.items():
        assert {n: sort_bytes(n, 70_000, capability) for n in sizes} == sizes
    for capability, sizes in UNIQUE.items():
        assert {n: unique_bytes(n, capability) for n in sizes} == sizes
    assert {n: scan_bytes(n) for n in SCANNED} == SCANNED
    assert sort_bytes(8192, 300, (9, 0)) == 137_727  # two passes instead of three


def test_keys_are_split_when_few_blocks_have_work() -> None:
    assert key_splits(300, 264, 100) == 1
    assert key_splits(16, 216, 1) == 1
    assert key_splits(16, 264, 8) == 8
    splits = key_splits(48, 264, 64)
    assert 1 < splits <= 64 and 48 * splits / 264 <= -(-48 * splits // 264)


def rows_of(parts: list, name: str = "mm.default") -> list[int]:
    """Return the bytes of each allocation, negative when freed, of one operation of 99 bytes."""
    rows = Rows()
    scratch = Scratch(rows, H100, {"x": lambda call: parts})
    call = Call((), {}, None, H100)

    def results(first: int) -> None:
        rows.allocate(99, name)

    scratch.add(name if not parts else "x", call, name, False, results)
    table = np.array(rows.rows).reshape(-1, 6)
    size = {int(row[0]): int(row[1]) for row in table if row[0] > 0}
    return [size[int(n)] if n > 0 else -size[int(-n)] for n in table[:, 0]]


def test_scratch_comes_after_results_and_ends_with_the_operation() -> None:
    assert rows_of([("a", 1), ("b", 2)]) == [99, 1, 2, -2, -1]
    assert rows_of([("a", 1), RESULTS, ("b", 2)]) == [1, 99, 2, -2, -1]
    assert rows_of([*passing([("a", 1), ("b", 2)]), ("c", 3)]) == [99, 1, 2, -2, -1, 3, -3]
    assert rows_of([("a", 1), ("b", 2), ("", -2), END]) == [99, 1, 2, -1, -2]


def test_a_product_takes_work_space_once() -> None:
    assert rows_of([]) == [99, 32 * MiB]
