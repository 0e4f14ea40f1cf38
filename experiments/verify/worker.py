"""Ask PyTorch's own allocator for a program's memory; run as a script of its own.

    python worker.py TASKS.json

It imports nothing of this package, so that it runs wherever torch does. The tasks all stand under
the settings line of the environment. PyTorch is imported once; each task then has a process of its
own, forked before CUDA is touched, and an answer in a JSON file. A task names `mode`:

    probe   say which device and which PyTorch this is
    place   play the steps with history on and write the snapshot
    count   play the steps and report every counter
    costs   measure the driver's calls
    habits  look at the addresses and sizes that the driver gives out
    libraries  measure what CUDA's libraries keep for themselves

and besides: `answer` (the file to write), `steps` (the program, see replayable.py), `snapshot` (the
file to write), `limit` (bytes the process may reserve; 0 = no limit), `witness` (step after which
free memory is looked at once more; -1 = none), `environment` (variables of this process alone).
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

# As in replayable.py.
ALLOC, FREE, TRY, EMPTY, RELEASE, DELETE, SET = range(7)
FIRST_POOL = 1 << 20  # private pools have numbers that PyTorch itself does not reach


def main(path: str) -> None:
    tasks = json.loads(Path(path).read_text(encoding="utf-8"))
    load_libraries(tasks.get("libraries"))
    import torch

    for task in tasks["tasks"]:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                write(answer_of(torch, task), task["answer"])
                status = 0
            except BaseException as error:  # the process ends here, whatever it was
                write({"error": f"{type(error).__name__}: {error}"[:600]}, task["answer"])
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if not os.path.exists(task["answer"]):
            write({"error": f"the process died (wait status {status})"}, task["answer"])


def write(answer: dict[str, Any], path: str) -> None:
    """Write an answer; it is there whole or not at all."""
    Path(path + ".part").write_text(json.dumps(answer), encoding="utf-8")
    os.replace(path + ".part", path)


def answer_of(torch: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Carry one task out."""
    os.environ |= task.get("environment", {})
    begun = time.monotonic()
    if not torch.cuda.is_available():
        return {"error": f"torch {torch.__version__} finds no CUDA device"}
    if task["mode"] == "place":
        torch.cuda.memory._record_memory_history("all", context=None, max_entries=20_000_000)
    torch.cuda.init()
    torch.cuda.synchronize()
    answer = circumstances(torch)
    if task["mode"] == "probe":
        # The settings line is read when the allocator first works.
        torch._C._cuda_cudaCachingAllocator_raw_delete(
            torch._C._cuda_cudaCachingAllocator_raw_alloc(512, 0)
        )
    elif task["mode"] == "costs":
        from driver_calls import measure  # pyright: ignore[reportMissingImports]

        answer["costs"] = measure(torch)
    elif task["mode"] == "habits":
        from driver_habits import look  # pyright: ignore[reportMissingImports]

        answer["habits"] = look(torch)
    elif task["mode"] == "libraries":
        from library_memory import measure  # pyright: ignore[reportMissingImports]

        answer["libraries"] = measure(torch)
    else:
        answer |= play(torch, task)
    answer["seconds"] = time.monotonic() - begun
    return answer


def load_libraries(folder: str | None) -> None:
    """Load a stand-in's libraries, so that no search finds others of their names."""
    if folder:
        import ctypes

        for name in sorted(os.listdir(folder), key=lambda n: not n.startswith("libcudart")):
            ctypes.CDLL(os.path.join(folder, name), mode=ctypes.RTLD_GLOBAL)


def circumstances(torch: Any) -> dict[str, Any]:
    """Return what the figures depend on."""
    free, total = torch.cuda.mem_get_info()
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": list(torch.cuda.get_device_capability()),
        "total": total,
        "free": free,
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "driver": driver_version(),
        "line": os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }


def driver_version() -> str:
    """Return the kernel driver's version, "" where there is none."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            words = file.readline().split("Kernel Module", 1)[-1].split()
        return next(word for word in words if word[:1].isdigit())
    except (OSError, StopIteration):
        return ""


def play(torch: Any, task: dict[str, Any]) -> dict[str, Any]:
    """Play a program and return what there is to say of it."""
    import numpy

    with numpy.load(task["steps"]) as file:
        steps = {name: file[name] for name in file.files}
    device = torch.cuda.current_device()
    if task.get("limit"):
        torch.cuda.set_per_process_memory_fraction(task["limit"] / torch.cuda.mem_get_info()[1])
    streams = _streams(torch, steps)
    pools = _Pools(torch, device, int(steps["n_pools"]), set(steps["deleted"].tolist()))
    allocate = torch._C._cuda_cudaCachingAllocator_raw_alloc
    delete = torch._C._cuda_cudaCachingAllocator_raw_delete
    stats = torch._C._cuda_memoryStats
    out_of_memory = torch.cuda.OutOfMemoryError
    calls = steps["calls"].tolist()
    called: list[tuple[int, str]] = []
    live: dict[int, int] = {}
    returns: list[list[int]] = []
    oom = None
    witness = held = None
    at_witness = task.get("witness", -1)
    columns = zip(
        *(steps[name].tolist() for name in ("code", "slot", "size", "stream", "pool")), strict=True
    )
    for step, (code, slot, size, stream, pool) in enumerate(columns):
        if code == FREE:
            delete(live.pop(slot))
        elif code == ALLOC or code == TRY:
            if pool:
                pools.enter(pool)
            try:
                got = allocate(size, streams[stream])
            except out_of_memory as error:
                oom = {"step": step, "size": size, "said": str(error)[:400]}
                break
            else:
                if code == ALLOC:
                    live[slot] = got
                else:
                    delete(got)
            finally:
                if pool:
                    pools.leave(pool)
        elif code == SET:
            torch.cuda.memory._set_allocator_settings(calls[slot - 1])
            called.append((time.time_ns() // 1000, calls[slot - 1]))
        else:
            before = stats(device)["num_device_free"]
            if code == EMPTY:
                torch.cuda.empty_cache()
            elif code == RELEASE:
                pools.release(slot)
            else:
                pools.delete(slot)
            returns.append([step, before, stats(device)["num_device_free"]])
        if step == at_witness:
            witness = torch.cuda.mem_get_info()[0]
            held = stats(device)["reserved_bytes"]["all"]["current"]
    answer = {
        "streams": streams,
        "pools": pools.ids,
        "oom": oom,
        "returns": returns,
        "settings_calls": called,
        "free_at_witness": witness,
        "reserved_at_witness": held,
        "free_at_end": torch.cuda.mem_get_info()[0],
        "stats": {k: v for k, v in torch.cuda.memory_stats(device).items() if isinstance(v, int)},
    }
    if task["mode"] == "place":
        torch._inductor = None  # or it is imported, for seconds, to look for compiled code
        with open(task["snapshot"], "wb") as file:
            pickle.dump(torch.cuda.memory._snapshot(), file, protocol=4)
    return answer


def _streams(torch: Any, steps: Any) -> list[int]:
    """Return a stream for each of the program's, in the same order of handles."""
    recorded = steps["streams"].tolist()
    others = [handle for handle in recorded if handle]
    made: set[int] = set()
    for _ in range(33):  # PyTorch hands out 32 in turn
        if len(made) < len(others):
            made.add(torch.cuda.Stream().cuda_stream)
    if len(made) < len(others):
        raise RuntimeError(f"{len(others)} side streams, but PyTorch hands out {len(made)}")
    rest = iter(sorted(made)[: len(others)])
    return [next(rest) if handle else 0 for handle in recorded]


class _Pools:
    """Private pools: each is held once, and entered for one request at a time."""

    def __init__(self, torch: Any, device: int, n: int, deleted: set[int]) -> None:
        c = torch._C
        self.device = device
        self.begin: Any = getattr(c, "_cuda_beginAllocateCurrentThreadToPool", None) or (
            c._cuda_beginAllocateToPool
        )
        self.end, self.give = c._cuda_endAllocateToPool, c._cuda_releasePool
        self.objects: dict[int, Any] = {}
        self.ids: list[tuple[int, int]] = [(0, 0)]
        for number in range(1, n):
            if number in deleted:
                self.objects[number] = torch.cuda.MemPool()
                self.ids.append(tuple(self.objects[number].id))
            else:
                self.ids.append((0, FIRST_POOL + number))
                self.begin(device, self.ids[number])
                self.end(device, self.ids[number])

    def enter(self, number: int) -> None:
        self.begin(self.device, self.ids[number])

    def leave(self, number: int) -> None:
        self.end(self.device, self.ids[number])
        self.give(self.device, self.ids[number])

    def release(self, number: int) -> None:
        """The pool's last user is gone; one that is deleted next is released then."""
        if number not in self.objects:
            self.give(self.device, self.ids[number])

    def delete(self, number: int) -> None:
        self.objects.pop(number, None)


if __name__ == "__main__":
    main(sys.argv[1])
