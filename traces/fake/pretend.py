"""Let PyTorch without CUDA say that there is a device, and let modules be moved to it."""

# pyright: reportMissingImports=false
# torch is the user's, and need not be where types are checked.
from __future__ import annotations

import types
from importlib import import_module
from typing import Any

from .rows import Rows
from .scratch import Device


def pretend(torch: Any, device: Device, rows: Rows) -> None:
    """Let torch.cuda say that there is a device."""
    cuda, capability, total = torch.cuda, device.capability, device.total
    properties = types.SimpleNamespace(
        name="fake", major=capability[0], minor=capability[1], total_memory=total,
        multi_processor_count=device.multiprocessors,
    )  # fmt: skip

    def nothing() -> Any:  # one function each: torch.compile keeps a table of them
        return lambda *a, **k: None

    for name, value in {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *a: "fake",
        "get_device_capability": lambda *a: capability,
        "get_device_properties": lambda *a: properties,
        "is_bf16_supported": lambda *a, **k: capability[0] >= 8,
        "mem_get_info": lambda *a: (total, total),
        "memory_allocated": lambda *a: 0,
        "max_memory_allocated": lambda *a: 0,
        "memory_reserved": lambda *a: 0,
        **{
            key: nothing()
            for key in (
                "_lazy_init", "synchronize", "empty_cache", "set_device", "manual_seed",
                "manual_seed_all", "reset_peak_memory_stats",
            )
        },
    }.items():  # fmt: skip
        setattr(cuda, name, value)
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.Tensor.pin_memory = lambda self, *a, **k: self
    torch.Tensor.record_stream = nothing()
    # The exact type of a fake tensor is not torch.Tensor, and on it optimizers would go one tensor
    # at a time.
    from torch._subclasses.fake_tensor import FakeTensor

    optimizer = import_module("torch.optim.optimizer")
    from torch.utils import _foreach_utils

    for known in (
        getattr(optimizer, "_foreach_supported_types", None),
        getattr(_foreach_utils, "_foreach_supported_types", None),
    ):
        if known is not None and FakeTensor not in known:
            known.append(FakeTensor)


def convert_by_replacing(torch: Any) -> None:
    """Let modules take new parameters when they are moved or change their type.

    Differs: torch.nn.Module._apply gives the parameter another storage, which fake tensors refuse;
    an optimizer made before that would keep the old ones.
    """
    from torch.utils.weak import WeakIdKeyDictionary

    done = WeakIdKeyDictionary()  # a parameter that two modules share stays shared

    def apply(self: Any, fn: Any, recurse: bool = True) -> Any:
        if recurse:
            for child in self.children():
                child._apply(fn)
        for key, old in self._parameters.items():
            if old is None:
                continue
            if old not in done:
                with torch.no_grad():
                    new = fn(old)
                if new is old:
                    continue
                done[old] = torch.nn.Parameter(new, old.requires_grad)
            self._parameters[key] = done[old]
        for key, old in self._buffers.items():
            if old is not None:
                self._buffers[key] = fn(old)
        return self

    torch.nn.Module._apply = apply
