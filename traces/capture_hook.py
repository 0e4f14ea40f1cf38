"""Record the allocator of whatever Python process this file is started in.

`tightfit record` puts a copy of it, named sitecustomize.py, on the path of the program that it
starts; every Python process of that program then runs it before anything else. So it imports
nothing of this package, and nothing but the standard library until the program imports torch. It
does not change what the program does: it switches on PyTorch's own memory history at the first use
of CUDA, and writes what PyTorch recorded when the process ends, runs out of memory, or is asked to.

Environment:
    TIGHTFIT_RECORD            folder to write to; unset = do nothing
    TIGHTFIT_RECORD_STACKS     python (default), all (C++ frames too) or none
    TIGHTFIT_RECORD_ENTRIES    how many entries are kept, the newest
    TIGHTFIT_RECORD_LIBRARIES  folder of the stand-in's libraries, loaded before torch
    TIGHTFIT_RECORD_RUNTIME    file name of the CUDA runtime in it
    TIGHTFIT_RECORD_FAKE       path of the folder fake: record with fake tensors instead
    TIGHTFIT_RECORD_SCRATCH    1 = scratch that kernels take is added there
    TIGHTFIT_RECORD_SHIM       the library that a PyTorch without CUDA needs for that
    TIGHTFIT_RECORD_DEVICE     the device pretended, the numbers of fake.scratch.Device
"""

from __future__ import annotations

import atexit
import json
import os
import pickle
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

ENTRIES = 20_000_000
PATIENCE = 0.2  # seconds that PyTorch's threads get to let go of Python at the end
# What torch.cuda.memory._set_allocator_settings calls, since 2.9 and before.
SETTERS = (
    "_accelerator_setAllocatorSettings", "_cuda_cudaCachingAllocator_set_allocator_settings",
)  # fmt: skip
MOST_OOMS = 3  # snapshots of out-of-memory errors: a program may catch thousands


def start_history(torch: Any, stacks: str = "python", entries: int = ENTRIES) -> None:
    """Switch on PyTorch's memory history.

    Args:
        torch: the module.
        stacks: "python" or "all" frames of every entry, or "none".
        entries: how many are kept, the newest.
    """
    torch.cuda.memory._record_memory_history(
        enabled="all",
        context=None if stacks == "none" else "all",
        stacks="all" if stacks == "all" else "python",
        max_entries=entries,
    )


def write_snapshot(
    torch: Any, stem: str, reason: str, reads: Any = None, calls: list | None = None
) -> None:
    """Write STEM.pickle, what PyTorch recorded, and then STEM.json, the circumstances.

    Args:
        torch: the module; CUDA is in use.
        stem: path without suffix.
        reason: why now: "exit", "oom", "signal" or "asked".
        reads: Counter of places where the program read values back, if anybody counted.
        calls: as `note_settings_calls` fills it.
    """
    snapshot = take_snapshot(torch)
    told = {**circumstances(torch), "reason": reason}
    if calls:
        told["settings_calls"] = calls
    if reads is not None:
        told["reads"] = reads.most_common()
    with open(stem + ".part", "wb") as file:
        pickle.dump(snapshot, file, protocol=4)
    os.replace(stem + ".part", stem + ".pickle")
    with open(stem + ".part", "w", encoding="utf-8") as file:
        json.dump(told, file)
    os.replace(stem + ".part", stem + ".json")


def take_snapshot(torch: Any) -> dict[str, Any]:
    """Return what PyTorch recorded.

    To name the lines of code that torch.compile wrote PyTorch imports torch._inductor, which takes
    seconds. Where the program has not done so, there is no such code.
    """
    if "torch._inductor" in sys.modules:
        return torch.cuda.memory._snapshot()
    nothing = torch._inductor = object()
    try:
        return torch.cuda.memory._snapshot()
    finally:
        if vars(torch).get("_inductor") is nothing:
            del torch._inductor


def note_settings_calls(torch: Any, calls: list[tuple[int, str]]) -> None:
    """Add to a list (microseconds since 1970, line) whenever the program sets a settings line."""
    for name in SETTERS:
        call = getattr(torch._C, name, None)
        if call is not None:
            setattr(torch._C, name, noting(call, calls))


def noting(call: Callable[[str], Any], calls: list[tuple[int, str]]) -> Callable[[str], Any]:
    """Return a function that does what another does, and notes it once that was done."""

    def noted(line: str) -> Any:
        result = call(line)
        calls.append((time.time_ns() // 1000, line))
        return result

    return noted


def circumstances(torch: Any) -> dict[str, Any]:
    """Return what a snapshot does not say: releases, devices, PyTorch's own counters, the rank."""
    devices = {}
    for number in range(torch.cuda.device_count()):
        stats = torch.cuda.memory_stats(number)
        if stats.get("num_device_alloc", 0) or stats.get("segment.all.allocated", 0):
            free, total = torch.cuda.mem_get_info(number)
            devices[str(number)] = {
                "name": torch.cuda.get_device_name(number),
                "total_bytes": total,
                "free_bytes": free,  # what libraries keep beside the allocator is gone from it
                "stats": {k: v for k, v in stats.items() if isinstance(v, int)},
            }
    ranks = {key: os.environ.get(key, "") for key in ("RANK", "WORLD_SIZE")}
    return {
        "torch": str(torch.__version__),
        "cuda": str(torch.version.cuda),
        "conf": os.environ.get("PYTORCH_CUDA_ALLOC_CONF")
        or os.environ.get("PYTORCH_ALLOC_CONF")
        or "",
        "devices": devices,
        **{key.lower(): int(text) for key, text in ranks.items() if text.isdigit()},
    }


class Recorder:
    """The recorder of one process.

    Attributes:
        folder: where to write.
        torch: the module, once CUDA is in use.
        reads: where values were read back from a stand-in device, how often.
        calls: when the program set which settings line.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.stacks = os.environ.get("TIGHTFIT_RECORD_STACKS", "python")
        self.entries = int(os.environ.get("TIGHTFIT_RECORD_ENTRIES", ENTRIES))
        self.libraries = os.environ.get("TIGHTFIT_RECORD_LIBRARIES")
        self.torch: Any = None
        self.pid = os.getpid()
        self.counts: Counter[str] = Counter()
        self.reads: Counter[str] | None = None
        self.calls: list[tuple[int, str]] = []
        self._kept: list[Any] = []

    def before_torch(self) -> None:
        """The program is about to import torch."""
        load_libraries(self.libraries)
        if os.environ.get("TIGHTFIT_RECORD_FAKE"):
            load_shim(os.environ["TIGHTFIT_RECORD_SHIM"])

    def on_torch(self, torch: Any) -> None:
        """The program has imported torch."""
        if os.environ.get("TIGHTFIT_RECORD_FAKE"):
            start_fake(torch, self.folder)
            return
        if not hasattr(torch, "cuda") or not hasattr(torch.cuda, "_lazy_call"):
            return
        if self.libraries:
            without_cudnn_attention(torch)
        note_settings_calls(torch, self.calls)
        torch.cuda._lazy_call(lambda: self.begin(torch))

    def begin(self, torch: Any) -> None:
        """CUDA is used for the first time."""
        if self.torch is not None:
            return
        self.torch, self.pid = torch, os.getpid()
        start_history(torch, self.stacks, self.entries)
        torch._C._cuda_attach_out_of_memory_observer(lambda *_: self.on_oom())
        if self.libraries:
            self._count_reads()
            # Kernels take no time there, so the last backward pass may still be letting go of its
            # graph when the interpreter ends, and a thread that then asks for Python is aborted.
            atexit.register(time.sleep, PATIENCE)
        # Who asks from outside finds the processes that record by these files.
        with open(os.path.join(self.folder, f"{self.pid}.recording"), "w"):
            pass
        atexit.register(self.dump, "exit")

    def dump(self, reason: str) -> None:
        """Write a snapshot; a recorder must not be what ends a program."""
        if self.torch is None or os.getpid() != self.pid:  # a forked child cannot use CUDA
            return
        self.counts[reason] += 1
        stem = os.path.join(self.folder, f"{self.pid}.{reason}{self.counts[reason]}")
        try:
            write_snapshot(self.torch, stem, reason, self.reads, self.calls)
        except Exception as error:
            print(f"tightfit: no snapshot was written: {error!r}", file=sys.stderr)

    def on_oom(self) -> None:
        """An allocation failed."""
        if self.counts["oom"] < MOST_OOMS:
            self.dump("oom")

    def on_signal(self, number: int, frame: Any) -> None:
        """Somebody asks; or the process is told to end, which it does as if this were not here."""
        if number == signal.SIGTERM:
            self.dump("exit")
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        else:
            self.dump("signal")

    def _count_reads(self) -> None:
        """Let the stand-in say when the program reads values back, and note where it did."""
        import ctypes

        reads = self.reads = Counter()
        runtime = ctypes.CDLL(os.environ["TIGHTFIT_RECORD_RUNTIME"])

        @ctypes.CFUNCTYPE(None, ctypes.c_size_t)
        def on_read(size: int) -> None:
            reads[place_outside_torch(sys._getframe().f_back)] += 1

        self._kept.append(on_read)
        runtime.standin_on_read(on_read)
        atexit.register(runtime.standin_on_read, None)


def place_outside_torch(frame: Any) -> str:
    """Return "file:line function" of the innermost frame that is not torch's."""
    while frame is not None:
        name = frame.f_code.co_filename
        if f"{os.sep}torch{os.sep}" not in name and not name.startswith("<"):
            return f"{os.path.basename(name)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "a thread of PyTorch's own"


class WhenImported:
    """Calls a function after a module was imported; a finder on sys.meta_path."""

    def __init__(self, name: str, before: Callable[[], None], after: Callable[[Any], None]) -> None:
        self.name, self.before, self.after = name, before, after

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run: Any = spec.loader.exec_module

        def run_and_tell(module: Any) -> None:
            self.before()
            run(module)
            self.after(module)

        spec.loader.exec_module = run_and_tell
        return spec


def without_cudnn_attention(torch: Any) -> None:
    """Keep PyTorch from asking the stand-in's cuDNN for a plan, which on capability 9 it would."""
    disable = getattr(torch.backends.cuda, "enable_cudnn_sdp", None)
    if disable is not None:
        disable(False)


def load_libraries(folder: str | None) -> None:
    """Load the stand-in's libraries, so that no search finds others of their names."""
    if folder:
        import ctypes

        for name in sorted(os.listdir(folder), key=lambda n: not n.startswith("libcudart")):
            ctypes.CDLL(os.path.join(folder, name), mode=ctypes.RTLD_GLOBAL)


def load_shim(shim: str) -> None:
    """Load the shim, and what it needs of PyTorch; torch looks for hooks once, when it loads."""
    import ctypes
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return
    folder = os.path.join(os.path.dirname(spec.origin), "lib")
    for path in ("libtorch_global_deps.so", "libc10.so", "libtorch_cpu.so", shim):
        ctypes.CDLL(os.path.join(folder, path), mode=ctypes.RTLD_GLOBAL)


def start_fake(torch: Any, folder: str) -> None:
    """Load the package fake under a name of its own and start it."""
    from importlib.util import module_from_spec, spec_from_file_location

    own = os.environ["TIGHTFIT_RECORD_FAKE"]
    spec = spec_from_file_location(
        "tightfit_fake", os.path.join(own, "__init__.py"), submodule_search_locations=[own]
    )
    assert spec is not None and spec.loader is not None
    package = module_from_spec(spec)
    sys.modules["tightfit_fake"] = package
    spec.loader.exec_module(package)
    from tightfit_fake.capture import start  # pyright: ignore[reportMissingImports]

    scratch = os.environ["TIGHTFIT_RECORD_SCRATCH"] == "1"
    start(torch, folder, os.environ["TIGHTFIT_RECORD_DEVICE"], scratch)


def install(folder: str) -> Recorder:
    """Make this process record."""
    recorder = Recorder(folder)
    sys.meta_path.insert(
        0,
        WhenImported("torch", recorder.before_torch, recorder.on_torch),
    )
    for number in (signal.SIGUSR1, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, recorder.on_signal)
    return recorder


def run_the_shadowed(file: str) -> None:
    """Run the sitecustomize that the one in a file hides, if there is one."""
    own = os.path.dirname(os.path.abspath(file))
    path = [p for p in sys.path if os.path.abspath(p or ".") != own]
    sys.path, kept = path, sys.path
    here = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        if here is not None:
            sys.modules["sitecustomize"] = here
    finally:
        sys.path = kept


if __name__ == "sitecustomize" and os.environ.get("TIGHTFIT_RECORD"):
    install(os.environ["TIGHTFIT_RECORD"])
    run_the_shadowed(__file__)
