"""Recording with fake tensors: which storages are seen, and when they end."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.corpus.catalogue import WORKLOADS
from tightfit.experiments.corpus.fidelity import align, compare_fake, kernel_of, measure
from tightfit.experiments.recording.fake import build_shim
from tightfit.experiments.recording.whole_wheel import Build
from tightfit.traces.errors import TightfitError
from tightfit.traces.event import Action
from tightfit.traces.load import load

MiB = 1 << 20
WORKSPACE = 33_554_432  # of cuBLAS on a device of capability 9.0


@pytest.fixture(scope="module", autouse=True)
def _pytorch_without_cuda() -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    try:
        build_shim(sys.executable)
    except TightfitError as error:
        pytest.skip(str(error))


def record(tmp_path: Path, *lines: str) -> list[int]:
    """Return the bytes of each allocation, negative when freed, of a fake run on an H100."""
    script = tmp_path / "program.py"
    script.write_text("\n".join(["import torch", *lines]) + "\n")
    out = tmp_path / "out.npz"
    words = ["record", "--fake", "h100-80g", "-o", str(out), "--force", "--", sys.executable]
    assert cli.main([*words, str(script)]) == 0
    entries = load(out).devices[0].entries
    action, size = entries["action"], entries["size"]
    keep = action != Action.FREE_REQUESTED
    return np.where(action == Action.ALLOC, size, -size)[keep].tolist()


def test_a_tensor_is_memory_from_its_making_to_its_end(tmp_path: Path) -> None:
    found = record(
        tmp_path,
        "a = torch.zeros(1024, device='cuda')",
        "b = torch.ones(256).cuda()",
        "view = a[3:9]",
        "del a, b",  # the view keeps its storage
        "c = view * 2",
        "del view",
    )
    assert found == [4096, 1024, -1024, 24, -4096]


def test_a_backward_pass_through_a_linear_layer(tmp_path: Path) -> None:
    found = record(
        tmp_path,
        "layer = torch.nn.Linear(256, 512, bias=False).cuda()",
        "x = torch.empty(128, 256, device='cuda')",
        "layer(x).sum().backward()",
    )
    weights, x, y = 512 * 256 * 4, 128 * 256 * 4, 128 * 512 * 4
    # product, work space of the forward thread, sum; then the gradient and the other work space.
    assert found[:5] == [weights, x, y, WORKSPACE, 4]
    assert sorted(s for s in found if s > 0)[-2:] == [WORKSPACE, WORKSPACE]
    assert sum(found) == 2 * weights + x + 2 * WORKSPACE


def test_what_is_decided_on_the_cpu_is_decided(tmp_path: Path) -> None:
    found = record(
        tmp_path,
        "n = int(torch.tensor([3, 5, 8]).sum())",
        "rows = (torch.arange(100) % 10 == 0).nonzero().flatten().cuda()",
        "x = torch.zeros(n, 64, device='cuda')",
        "y = torch.zeros(100, 16, device='cuda')[rows]",
    )
    assert found == [80, 16 * 64 * 4, 6400, 10 * 64, -6400]


def test_attention_takes_the_kernel_of_the_device(tmp_path: Path) -> None:
    found = record(
        tmp_path,
        "q = torch.zeros(2, 4, 128, 64, dtype=torch.bfloat16, device='cuda')",
        "with torch.inference_mode():",
        "    y = torch.nn.functional.scaled_dot_product_attention(q, q, q)",
    )
    size = 2 * 4 * 128 * 64 * 2
    assert found[:2] == [size, size]
    assert max(found) == size, "the matrix of all pairs is never made"


def test_layers_that_change_their_type_keep_being_shared(tmp_path: Path) -> None:
    found = record(
        tmp_path,
        "a, b = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)",
        "b.weight = a.weight",
        "both = torch.nn.Sequential(a, b).cuda().bfloat16()",
        "assert a.weight is b.weight",
    )
    assert found == [64 * 64 * 4, 64 * 64 * 2, -64 * 64 * 4]


@pytest.mark.slow
def test_asks_for_what_the_stand_in_asks_for_but_scratch(build: Build) -> None:
    workload = next(w for w in WORKLOADS if w.name == "convnet")
    found = measure(workload, build.wheel.version)
    assert found.invented == 0
    assert found.share > 0.99 and abs(found.peak_error) < 0.01


@pytest.mark.parametrize(
    ("real", "fake", "met", "left"),
    [
        ([1, 2, 3], [1, 2, 3], 3, []),
        ([1, 9, 2, 8, 3], [1, 2, 3], 3, [1, 3]),
        ([1, 2, 3], [1, 7, 2, 3], 3, []),
        ([5, 6], [7, 8], 0, [0, 1]),
        ([1, 2, 9], [1, 2], 2, [2]),
        ([], [1], 0, []),
    ],
)
def test_lists_are_followed_where_they_part(
    real: list[int], fake: list[int], met: int, left: list[int]
) -> None:
    assert align(real, fake) == (met, left)


def test_a_recording_is_wholly_like_itself() -> None:
    data = Path(__file__).resolve().parents[2] / "traces" / "data"
    recording = load(data / "convnet.default.npz")
    same = compare_fake("convnet", recording, recording)
    assert (same.share, same.peak_error, same.missing, same.invented) == (1, 0, [], 0)
    assert same.in_order == same.real
    assert kernel_of(recording, 0) == "unknown"
