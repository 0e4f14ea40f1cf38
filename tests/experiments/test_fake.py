"""Recording with fake tensors: which storages are seen, and when they end."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from tightfit.experiments import cli
from tightfit.experiments.corpus.fidelity import (
    BEGIN,
    END,
    NAMES,
    PAGE,
    align,
    compare_fake,
    kept,
    kernel_of,
    markdown,
    measure_command,
)
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


def record(tmp_path: Path, *lines: str, options: tuple[str, ...] = ()) -> list[int]:
    """Return the bytes of each allocation, negative when freed, of a fake run on an H100."""
    script = tmp_path / "program.py"
    script.write_text("\n".join(["import torch", *lines]) + "\n")
    out = tmp_path / "out.npz"
    words = ["record", "--fake", "h100-80g", "-o", str(out), "--force", *options, "--"]
    assert cli.main([*words, sys.executable, str(script)]) == 0
    entries = load(out).devices[0].entries
    action, size = entries["action"], entries["size"]
    keep = action != Action.FREE_REQUESTED
    return np.where(action == Action.ALLOC, size, -size)[keep].tolist()


# Each lives in variables of its own, which stay: what a part leaves is not freed in the next.
PARTS = {
    "tensor": """
a = torch.zeros(1024, device="cuda")
b = torch.ones(256).cuda()
view = a[3:9]
del a, b  # the view keeps its storage
c = view * 2
del view
""",
    "linear": """
layer = torch.nn.Linear(256, 512, bias=False).cuda()
x = torch.empty(128, 256, device="cuda")
layer(x).sum().backward()
""",
    "cpu": """
n = int(torch.tensor([3, 5, 8]).sum())
rows = (torch.arange(100) % 10 == 0).nonzero().flatten().cuda()
x = torch.zeros(n, 64, device="cuda")
y = torch.zeros(100, 16, device="cuda")[rows]
""",
    "attention": """
q = torch.zeros(2, 4, 128, 64, dtype=torch.bfloat16, device="cuda")
with torch.inference_mode():
    y = torch.nn.functional.scaled_dot_product_attention(q, q, q)
""",
    "shared": """
a, b = torch.nn.Linear(64, 64, bias=False), torch.nn.Linear(64, 64, bias=False)
b.weight = a.weight
both = torch.nn.Sequential(a, b).cuda().bfloat16()
assert a.weight is b.weight
""",
}
MARK = 987_654_321  # bytes of what is allocated and freed after each part


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """What `record` returns of each part, run in one program, as PyTorch takes long to load."""
    folder = tmp_path_factory.mktemp("parts")
    run = "exec(part, variables[-1])"
    end = f"torch.empty({MARK}, dtype=torch.uint8, device='cuda')"
    lines = ["variables = []", f"for part in {list(PARTS.values())!r}:"]
    lines += [f"    {line}" for line in ("variables.append({'torch': torch})", run, end)]
    parts: list[list[int]] = [[]]
    for size in record(folder, *lines):
        if size == MARK:
            parts.append([])
        elif size != -MARK:
            parts[-1].append(size)
    assert len(parts) == len(PARTS) + 1
    return dict(zip(PARTS, parts, strict=False))


def test_a_tensor_is_memory_from_its_making_to_its_end(found: dict[str, list[int]]) -> None:
    assert found["tensor"] == [4096, 1024, -1024, 24, -4096]


def test_a_backward_pass_through_a_linear_layer(found: dict[str, list[int]]) -> None:
    sizes = found["linear"]
    weights, x, y = 512 * 256 * 4, 128 * 256 * 4, 128 * 512 * 4
    # product, work space of the forward thread, sum; then the gradient and the other work space.
    assert sizes[:5] == [weights, x, y, WORKSPACE, 4]
    assert sorted(s for s in sizes if s > 0)[-2:] == [WORKSPACE, WORKSPACE]
    assert sum(sizes) == 2 * weights + x + 2 * WORKSPACE


def test_what_is_decided_on_the_cpu_is_decided(found: dict[str, list[int]]) -> None:
    assert found["cpu"] == [80, 16 * 64 * 4, 6400, 10 * 64, -6400]


def test_attention_takes_the_kernel_of_the_device(found: dict[str, list[int]]) -> None:
    sizes = found["attention"]
    size = 2 * 4 * 128 * 64 * 2
    assert sizes[:2] == [size, size]
    assert max(sizes) == size, "the matrix of all pairs is never made"


def test_layers_that_change_their_type_keep_being_shared(found: dict[str, list[int]]) -> None:
    assert found["shared"] == [64 * 64 * 4, 64 * 64 * 2, -64 * 64 * 4]


def test_the_page_shows_what_was_measured() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == f"\n{markdown(kept())}"
    rows = kept()
    assert len(rows) >= 6 and all(abs(f.peak_error) < 0.01 for f in rows)
    assert {f.name for f in rows} <= set(NAMES)


def scratch_of(path: Path) -> dict[str, int]:
    """Return kind -> allocations of what a recording says is scratch."""
    recorded = load(path).extra["recorded"]
    return {kind: len(rows) for kind, rows in recorded["scratch"].items()}


def test_scratch_is_named_and_can_be_left_out(tmp_path: Path) -> None:
    lines = (
        "x = torch.empty(8192, 256, device='cuda', requires_grad=True)",
        "w = torch.empty(256, 256, device='cuda')",
        "(x @ w).sum(0)",
    )
    with_it = record(tmp_path, *lines)
    assert scratch_of(tmp_path / "out.npz") == {
        "cuBLAS work space": 1, "reduction, partial results": 1, "reduction, semaphores": 1,
    }  # fmt: skip
    recording = load(tmp_path / "out.npz")
    for rows in recording.extra["recorded"]["scratch"].values():
        sizes = recording.devices[0].entries["size"]
        allocs = sizes[recording.devices[0].entries["action"] == Action.ALLOC]
        assert all(allocs[row] in with_it for row in rows)
    without = record(tmp_path, *lines, options=("--no-scratch",))
    assert without == [s for s in with_it if abs(s) in {8192 * 1024, 256 * 1024, 1024}]
    assert scratch_of(tmp_path / "out.npz") == {}
    assert any("scratch that kernels take was left out" in f.text for f in load(
        tmp_path / "out.npz").findings)  # fmt: skip


def test_streams_and_graphs_are_told_apart(tmp_path: Path) -> None:
    record(
        tmp_path,
        "side = torch.cuda.Stream()",
        "done = torch.cuda.Event()",
        "with torch.cuda.stream(side):",
        "    a = torch.empty(10, device='cuda')",
        "    done.record()",
        "torch.cuda.current_stream().wait_event(done)",
        "b = torch.empty(20, device='cuda')",
        "graph = torch.cuda.CUDAGraph()",
        "with torch.cuda.graph(graph, pool=torch.cuda.graph_pool_handle()):",
        "    c = torch.empty(30, device='cuda')",
        "graph.replay()",
        "d = torch.empty(40, device='cuda')",
        "assert torch.empty(3).pin_memory().sum() is not None",
    )
    recording = load(tmp_path / "out.npz")
    entries = recording.devices[0].entries
    rows = np.flatnonzero(entries["action"] == Action.ALLOC)
    found = {
        int(entries["size"][row]): (
            int(recording.streams[entries["stream"][row]]), recording.pools[entries["pool"][row]]
        )
        for row in rows
    }  # fmt: skip
    assert found[40] == (1, (0, 0)) and found[80] == (0, (0, 0)) == found[160]
    assert found[120][0] not in (0, 1) and found[120][1] == (0, 1)
    assert found[8] == (0, (0, 0)), "seed and offset of a captured graph"


def test_what_depends_on_values_is_named(tmp_path: Path) -> None:
    record(
        tmp_path,
        "x = torch.ones(5, device='cuda')",
        "assert x.sum().item() == 0",
        "assert len(x[x > 0]) == 0",
    )
    recording = load(tmp_path / "out.npz")
    reads = {read["where"]: read["times"] for read in recording.extra["recorded"]["reads"]}
    assert reads == {"program.py:3 <module>": 1, "program.py:4 <module>": 1}
    assert "depends_on_data" in {finding.kind for finding in recording.findings}


def test_what_cannot_be_recorded_is_named(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    script = tmp_path / "program.py"
    script.write_text("import torch\nx = torch.ones(5, device='cuda')\ntorch.unique(x)\n")
    words = ["record", "--fake", "h100-80g", "-o", str(tmp_path / "out.npz"), "--"]
    assert cli.main([*words, sys.executable, str(script)]) == 1
    said = capfd.readouterr().err
    assert "tightfit record --fake: aten::_unique2" in said and "--stand-in" in said
    script.write_text("import torch\ntorch.nn.LSTM(8, 8).cuda()(torch.ones(2, 2, 8).cuda())\n")
    assert cli.main([*words[:-1], "--force", "--", sys.executable, str(script)]) == 1
    assert "has no CUDA kernel to choose there" in capfd.readouterr().err


def test_an_allocation_says_which_operation_asked_for_it(tmp_path: Path) -> None:
    record(tmp_path, "def double(x):", "    return x * 2", "double(torch.ones(9, device='cuda'))")
    recording = load(tmp_path / "out.npz")
    entries = recording.devices[0].entries
    (row, *_) = np.flatnonzero(entries["action"] == Action.ALLOC)[1:]
    frames = recording.stacks[int(entries["stack"][row])]
    assert [name for _, _, name in frames] == ["aten::mul.Tensor", "double", "<module>"]
    assert frames[1][1] == 3


@pytest.mark.slow
def test_asks_for_what_the_stand_in_asks_for(build: Build, tmp_path: Path) -> None:
    script = tmp_path / "two_steps.py"
    script.write_text(
        "from tightfit.experiments.corpus import convnet\nconvnet.STEPS = 2\nconvnet.main()\n"
    )
    command = (sys.executable, str(script))
    found = measure_command("convnet", command, "rtx4090-24g", build.wheel.version)
    assert found.invented == 0 and found.in_order == found.fake
    assert found.real - found.fake <= 1 and abs(found.peak_error) < 0.002  # 2.11's cuBLASLt
    if version("torch").split("+")[0] == build.wheel.version:
        assert found.share == 1 and found.peak_error == 0


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
