"""Time the steps of whatever Python process this file is started in, and note its peaks.

A copy of it, named sitecustomize.py, is put on the path of the program. It imports nothing of this
package. A step ends where an optimizer's step does; a program without one is one step, from the
first use of CUDA to its end.

Environment:
    TIGHTFIT_WORKLOAD            file to write
    TIGHTFIT_WORKLOAD_SNAPSHOT   file for a snapshot with the whole history; unset = no history
    TIGHTFIT_WORKLOAD_LIBRARIES  folder of a stand-in's libraries, loaded before torch
"""

# Torch may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import atexit
import json
import os
import pickle
import sys
import time
from typing import Any


class Watch:
    """Watches one process."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.snapshot = os.environ.get("TIGHTFIT_WORKLOAD_SNAPSHOT")
        self.begun = 0
        self.steps: list[int] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Be told of `import torch`; a finder on sys.meta_path."""
        if name != "torch":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)  # type: ignore[arg-type]
        folder = os.environ.get("TIGHTFIT_WORKLOAD_LIBRARIES")
        if folder:
            import ctypes

            for library in sorted(os.listdir(folder), key=lambda n: not n.startswith("libcudart")):
                ctypes.CDLL(os.path.join(folder, library), mode=ctypes.RTLD_GLOBAL)
        spec = find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        run: Any = spec.loader.exec_module

        def run_and_watch(module: Any) -> None:
            run(module)
            if folder:  # the stand-in has no cuDNN that could plan an attention kernel
                module.backends.cuda.enable_cudnn_sdp(False)
            module.cuda._lazy_call(lambda: self.begin(module))

        spec.loader.exec_module = run_and_watch
        return spec

    def begin(self, torch: Any) -> None:
        """CUDA is used for the first time."""
        if self.begun:
            return
        self.begun = time.perf_counter_ns()
        if self.snapshot:
            torch.cuda.memory._record_memory_history("all", context=None, max_entries=20_000_000)
        from torch.optim.optimizer import register_optimizer_step_post_hook

        register_optimizer_step_post_hook(lambda *_: self.steps.append(time.perf_counter_ns()))
        atexit.register(self.end, torch)

    def end(self, torch: Any) -> None:
        """The program ends."""
        torch.cuda.synchronize()
        answer = {
            "begun": self.begun, "ended": time.perf_counter_ns(), "steps": self.steps,
            "stats": {k: v for k, v in torch.cuda.memory_stats().items() if isinstance(v, int)},
            "gpu": torch.cuda.get_device_name(), "total": torch.cuda.mem_get_info()[1],
            "torch": str(torch.__version__), "cuda": str(torch.version.cuda),
            "driver": driver_version(), "sm_mhz": sm_clock(torch),
        }  # fmt: skip
        if self.snapshot:
            with open(self.snapshot, "wb") as file:
                pickle.dump(torch.cuda.memory._snapshot(), file, protocol=4)
        with open(self.answer + ".part", "w", encoding="utf-8") as file:
            json.dump(answer, file)
        os.replace(self.answer + ".part", self.answer)


def sm_clock(torch: Any) -> int:
    """Return the clock of the multiprocessors now, in MHz; 0 where NVML does not tell it."""
    import ctypes

    handle, clock = ctypes.c_void_p(), ctypes.c_uint()
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        name = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
        told = (
            nvml.nvmlInit_v2() == 0
            and nvml.nvmlDeviceGetHandleByUUID(name, ctypes.byref(handle)) == 0
            and nvml.nvmlDeviceGetClockInfo(handle, 1, ctypes.byref(clock)) == 0  # NVML_CLOCK_SM
        )
    except (OSError, AttributeError):  # no NVML, or an older PyTorch or NVML
        return 0
    return clock.value if told else 0


def driver_version() -> str:
    """Return the kernel driver's version, "" where there is none."""
    try:
        with open("/proc/driver/nvidia/version", encoding="utf-8") as file:
            words = file.readline().split("Kernel Module", 1)[-1].split()
        return next(word for word in words if word[:1].isdigit())
    except (OSError, StopIteration):
        return ""


if __name__ == "sitecustomize" and os.environ.get("TIGHTFIT_WORKLOAD"):
    sys.meta_path.insert(0, Watch(os.environ["TIGHTFIT_WORKLOAD"]))  # type: ignore[arg-type]
