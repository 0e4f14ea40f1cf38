"""How fast the snapshot reader is, and how much memory it takes.

    python -m tightfit.experiments.bench_reader [--gib 1.0]

Writes a snapshot of the given size to the temporary folder: the opcodes CPython's pickler writes
for one of torch 2.13, every key, stacks of 62 frames shared through the memo. Reads it in a fresh
process, and CPython's unpickler a smaller one of the same kind. Rates are per second of CPU time;
memory is the growth of the peak resident set, pages of the file included.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..traces.units import GiB, MiB

FRAMES = 62  # per stack
STACKS = 400  # distinct call stacks
FRAME_POOL = 3000  # distinct frames
LIVE = 5000  # allocations alive at a time
CHUNK = 100_000  # entries made by chance; written over and over
SMALL = 40 * MiB  # file for the plain unpickler, which needs many times its size

_PROBE = """
import json, resource, sys, time
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
if sys.argv[2] == "tightfit":
    from tightfit.traces.load import load as read
    read(sys.argv[3])
    count = lambda rec: sum(d.n_entries for d in rec.devices.values())
else:
    from tightfit.traces.restricted import restricted_loads
    read = lambda path: restricted_loads(open(path, "rb").read())
    count = lambda value: sum(map(len, value["device_traces"]))
before = peak()
times = []
for _ in range(3):
    start = time.process_time()
    result = read(sys.argv[1])
    times.append(time.process_time() - start)
    n = count(result)
    if _ == 0:
        grown = peak() - before
    del result
print(json.dumps({"n": n, "first": times[0], "best": min(times), "grown": grown}))
"""


class _Writer:
    """Writes values as CPython's pickler does with protocol 4: strings and containers once."""

    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x04")
        self.known: dict[Any, bytes] = {}
        self.n = 0

    def memoize(self, key: Any) -> None:
        n = self.n
        self.known[key] = b"h%c" % n if n < 256 else b"j" + n.to_bytes(4, "little")
        self.out += b"\x94"
        self.n += 1

    def push(self, value: Any, fresh: bool = False) -> None:
        """Write a value; a fresh one is written in full although an equal one was written."""
        key = value if isinstance(value, str) else id(value)
        if not fresh and not isinstance(value, int) and key in self.known:
            self.out += self.known[key]
        elif isinstance(value, int):
            n = value.bit_length() // 8 + 1
            if 0 <= value < 256:
                self.out += b"K%c" % value
            elif 0 <= value < 65536:
                self.out += b"M" + value.to_bytes(2, "little")
            elif n <= 4:
                self.out += b"J" + value.to_bytes(4, "little", signed=True)
            else:
                self.out += b"\x8a%c" % n + value.to_bytes(n, "little", signed=True)
        elif isinstance(value, str):
            raw = value.encode()
            self.out += b"\x8c%c" % len(raw) + raw
            self.memoize(... if fresh else key)
        elif isinstance(value, tuple):
            for item in value:
                self.push(item)
            self.out += b"\x86"
            self.memoize(...)
        else:
            self.out += b"]" if isinstance(value, list) else b"}"
            self.memoize(key if isinstance(value, list) or "line" in value else ...)
            self.out += b"("
            if isinstance(value, list):
                for item in value:
                    self.push(item)
            else:
                for name, item in value.items():
                    self.push(name)
                    # PyTorch makes this string anew for every entry.
                    self.push(item, fresh=name == "compile_context")
            self.out += b"e" if isinstance(value, list) else b"u"


def write_snapshot(path: Path, size: int) -> int:
    """Write a snapshot of at least `size` bytes; return its number of trace entries."""
    rng = random.Random(0)
    frames = [
        {"filename": f"torch/nn/modules/module{k % 60}.py", "line": k % 900, "name": f"f{k % 200}"}
        for k in range(FRAME_POOL)
    ]
    # Neighbouring stacks share their outer frames, as real ones do.
    stacks = [
        [frames[(k * 7 + i if i < 12 else k // 20 * 50 + i) % FRAME_POOL] for i in range(FRAMES)]
        for k in range(STACKS)
    ]

    def entry(action: str, addr: int, length: int, stack: int) -> dict[str, Any]:
        return {
            "action": action, "addr": addr, "size": length, "stream": 0,
            "time_us": 1_700_000_000_000_000 + rng.randrange(1 << 40), "compile_context": "N/A",
            "user_metadata": "", "pool_id": (0, 0), "frames": stacks[stack],
        }  # fmt: skip

    first = [entry("alloc", 0, 512, k) for k in range(STACKS)]
    first += [entry(a, 0, 512, 0) for a in ("free_requested", "free_completed")]
    live: list[tuple[int, int, int]] = []
    some: list[dict[str, Any]] = []
    while len(some) < CHUNK:
        if len(live) < LIVE or rng.random() < 0.33:
            size_ = rng.choice((512, 4096, 70_144, 2 * MiB, 80 * MiB))
            addr = 0x7F0000000000 + 512 * rng.randrange(1 << 24)
            live.append((addr, size_, rng.randrange(STACKS)))
            some.append(entry("alloc", *live[-1]))
        else:
            addr, size_, stack = live.pop(rng.randrange(len(live)))
            for action in ("free_requested", "free_completed"):
                some.append(entry(action, addr, size_, (stack + 1) % STACKS))

    w = _Writer()
    w.out += b"}\x94("
    w.n += 1
    for key, opening in (("segments", b"]"), ("device_traces", b"]")):
        w.push(key)
        w.out += opening
        w.memoize(...)
    w.out += b"]"
    w.memoize(...)
    w.out += b"("
    for e in first:
        w.push(e)
    w.out += b"e"
    # From here on entries refer only to what is written already: the same bytes stay right.
    head, w.out = w.out, bytearray()
    for k, e in enumerate(some):
        w.out += b"(" if k % 1000 == 0 else b""
        w.push(e)
        w.out += b"e" if k % 1000 == 999 else b""
    chunk = bytes(w.out[: w.out.rindex(b"ue") + 2])
    n, written = len(first), len(head)
    with open(path, "wb") as file:
        file.write(head)
        while written < size:
            file.write(chunk)
            written += len(chunk)
            n += CHUNK
        file.write(b"au.")
    return n


def measure(path: Path, reader: str, warm_up: Path) -> dict[str, float]:
    """Read a file three times in a fresh process; return CPU seconds and bytes."""
    command = [sys.executable, "-c", _PROBE, str(path), reader, str(warm_up)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Write the files, read them, print the figures, delete the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--gib", type=float, default=1.0, help="size of the large file")
    size = int(parser.parse_args().gib * GiB)
    with tempfile.TemporaryDirectory(prefix="tightfit-bench-") as folder:
        tiny, small, large = (Path(folder) / f"{x}.pickle" for x in ("tiny", "small", "large"))
        for path, want in ((tiny, 1), (small, SMALL), (large, size)):
            write_snapshot(path, want)
        measure(tiny, "tightfit", tiny)  # compiles, if nothing is compiled yet
        print("reader                      file      entries  M entries/s    MB/s  RSS / file")
        for label, path, reader in (
            ("CPython, restricted", small, "plain"),
            ("tightfit", small, "tightfit"),
            ("tightfit", large, "tightfit"),
        ):
            found, n_bytes = measure(path, reader, tiny), path.stat().st_size
            print(
                f"{label:<22}{n_bytes / 1e6:>7,.0f} MB{found['n']:>13,.0f}"
                f"{found['n'] / found['best'] / 1e6:>13.2f}{n_bytes / found['best'] / 1e6:>8,.0f}"
                f"{found['grown'] / n_bytes:>12.2f}"
            )


if __name__ == "__main__":
    main()
