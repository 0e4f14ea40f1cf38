"""Live policies: a policy of the catalogue, or of a file, as the allocator of a real PyTorch.

    from tightfit.policies.live import install
    live = install("best_fit", capacity_bytes=40 * 2**30)   # before the first use of CUDA
    ...
    live.stats()["reserved_bytes.all.peak"]

torch.cuda.memory_stats() and what is computed from it (max_memory_allocated() and the like) then
give the policy's statistics; PyTorch has none of its own for an allocator of the user's.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..sim.live_state import (
    CHECK_FAIL,
    CXA_ALLOCATE,
    CXA_THROW,
    MEMCPY,
    MESSAGE,
    MESSAGE_LENGTH,
    MESSAGE_NUMBER,
    MOST_DEVICES,
    NO_POOLS,
    OOM_CONSTRUCTOR,
    OOM_TYPE,
    OOM_VTABLE,
    OPERATOR_NEW,
)
from ..sim.param import parse_params
from ..traces.errors import ConfigError
from .catalogue import NATIVE, PRESETS
from .live_device import Live, compile_live, the_root
from .live_region import CudaRegion, address_of_function
from .live_setting import Setting, keep_for_ever
from .named import find_policy, native_line, native_variant
from .runs_live import checked_live
from .user_file import is_user_file, split_words

SHARE = 0.95  # of what the device has free at the first request, where no capacity is said
_C10 = "_ZN3c10"
_STRING = "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"
_TRIED = "CUDA out of memory. Tried to allocate "
_POOLS = (
    "tightfit live: CUDA graphs and private memory pools are not to be had under a live policy; "
    "they need PyTorch's own allocator"
)


def setting_of(text: str, capacity_bytes: int | None = None) -> Setting:
    """Read a policy as users write it.

    Args:
        text: "best_fit:quantum=4096", "my_fit.py:MyFit:least=4MiB", "pytorch:" and a settings line.
        capacity_bytes: what it may hold of a device.

    Raises:
        PolicyError: there is no such policy, it cannot run live, or its parameters are wrong.
    """
    if is_user_file(text):
        path, name, params = split_words(text)
        text = f"{path}:{name}" if name else path
    else:
        text, colon, params = text.partition(":")
        if text in PRESETS:
            text, preset = PRESETS[text]
            params = ",".join(filter(None, (preset, params)))
        elif text in NATIVE:
            policy = native_variant(native_line(text, colon, params))
            return Setting(policy, {}, capacity_bytes)
    policy = checked_live(find_policy(text)[1])
    return Setting(policy, parse_params(policy.params, params, policy.name), capacity_bytes)


@dataclass
class Installed:
    """A policy that is PyTorch's allocator in this process.

    Attributes:
        setting: the policy, its parameters, its capacity.
        devices: by number, those that were asked for memory.
        failures: why a device could not be prepared, if one could not.
    """

    setting: Setting
    devices: dict[int, Live]
    failures: list[str]

    def stats(self, device: int = 0) -> dict[str, int]:
        """Statistics of a device now, as Live.stats; empty before its first request."""
        live = self.devices.get(device)
        return {} if live is None else live.stats()


def install(policy: str | Setting, capacity_bytes: int | None = None) -> Installed:
    """Make a policy the allocator of this process's PyTorch.

    Args:
        policy: as users write it, with parameters behind a colon; or a Setting.
        capacity_bytes: what it may hold of each device; None = 95% of what is free there at the
            first request.

    Raises:
        PolicyError: there is no such policy, or it cannot run live.
        ConfigError: CUDA is in use already, or this PyTorch takes no allocators.
    """
    import torch  # pyright: ignore[reportMissingImports]

    setting = policy if isinstance(policy, Setting) else setting_of(policy, capacity_bytes)
    if not hasattr(torch._C, "_cuda_customAllocator"):
        raise ConfigError(
            f"live: found torch {torch.__version__}, expected a build with CUDA; "
            "`tightfit live --check` needs none"
        )
    if torch.cuda.is_initialized():
        raise ConfigError("live: CUDA is in use already; install before the first tensor is there")
    root = the_root()
    compile_live(setting.policy)
    installed = Installed(setting, {}, root.failures)
    for device in range(MOST_DEVICES):
        root.makers[device] = _maker(torch, installed, device)
    _prepare_errors(torch, setting)
    of = root.functions
    made = torch._C._cuda_customAllocator(of["alloc"], of["free"])
    made.set_reset_fn(of["empty_cache"])
    made.set_record_stream_fn(of["record_stream"])
    for name in ("set_begin_allocate_to_pool", "set_begin_allocate_stream_to_pool"):
        if hasattr(made, name):  # the releases differ in it
            getattr(made, name)(of["begin_pool"])
    allocator = object.__new__(torch.cuda.memory.CUDAPluggableAllocator)
    allocator._allocator = made  # its constructor would want a library's name
    torch.cuda.memory.change_current_allocator(allocator)
    keep_for_ever(made, installed)
    _replace_statistics(torch, installed)
    return installed


def _maker(torch: Any, installed: Installed, device: int) -> Callable[[], Live]:
    def make() -> Live:
        setting = installed.setting
        if setting.capacity_bytes is None:
            room = int(SHARE * torch.cuda.mem_get_info(device)[0])
            setting = Setting(setting.policy, setting.values, room)
        live = Live(setting, device, CudaRegion(device))
        keep_for_ever(live)
        installed.devices[device] = live
        return live

    return make


def _prepare_errors(torch: Any, setting: Setting) -> None:
    """Tell the C functions how an error is thrown into this PyTorch, and what it says."""
    words = the_root().words
    c10 = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libc10.so"))
    blank = " " * 16
    text = (
        f"{_TRIED}{blank} bytes. The live policy {setting.policy.name} (tightfit) had no room for "
        "them; torch.cuda.memory_stats() says what it holds."
    ).encode() + b"\0"
    message, pools = ctypes.create_string_buffer(text), ctypes.create_string_buffer(_POOLS.encode())
    keep_for_ever(message, pools)
    words[MESSAGE], words[MESSAGE_LENGTH] = ctypes.addressof(message), len(text) - 1
    words[MESSAGE_NUMBER] = len(_TRIED)
    words[NO_POOLS] = ctypes.addressof(pools)
    words[CHECK_FAIL] = address_of_function(c10, f"{_C10}6detail14torchCheckFailEPKcS2_jS2_")
    words[MEMCPY] = address_of_function(ctypes.CDLL(None), "memcpy")
    runtime = ctypes.CDLL("libstdc++.so.6")
    for place, name in (
        (OPERATOR_NEW, "_Znwm"),
        (CXA_ALLOCATE, "__cxa_allocate_exception"),
        (CXA_THROW, "__cxa_throw"),
    ):
        words[place] = address_of_function(runtime, name)
    words[OOM_TYPE] = address_of_function(c10, "_ZTIN3c1016OutOfMemoryErrorE")
    made_from = "16OutOfMemoryError"
    if not words[OOM_TYPE]:
        # Until 2.12 the class has no constructor of its own that could be called,
        # and its type is where it is thrown.
        path = os.path.join(os.path.dirname(torch.__file__), "lib", "libc10_cuda.so")
        cuda = ctypes.CDLL(path)
        words[OOM_TYPE] = address_of_function(cuda, "_ZTIN3c1016OutOfMemoryErrorE")
        table = address_of_function(cuda, "_ZTVN3c1016OutOfMemoryErrorE")
        if not table:
            return
        words[OOM_VTABLE] = table + 16  # behind the offset and the type, as objects point to it
        made_from = "5Error"
    if platform.machine() == "x86_64" and words[OOM_TYPE]:
        words[OOM_CONSTRUCTOR] = address_of_function(
            c10, f"{_C10}{made_from}C1ENS_14SourceLocationE{_STRING}"
        )


def _replace_statistics(torch: Any, installed: Installed) -> None:
    """Answer for PyTorch, whose own functions only say that they cannot."""

    def number(device: Any) -> int:
        return torch.cuda._utils._get_device_index(device, optional=True)

    def memory_stats(device: Any = None) -> Mapping[str, int]:
        return installed.stats(number(device)) if torch.cuda.is_initialized() else {}

    def reset_peak_memory_stats(device: Any = None) -> None:
        live = installed.devices.get(number(device))
        if live is not None:
            live.reset_peaks()

    for replacement in (memory_stats, reset_peak_memory_stats):
        for module in (torch.cuda, torch.cuda.memory):
            setattr(module, replacement.__name__, replacement)
