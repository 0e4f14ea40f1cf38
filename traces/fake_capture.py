"""Record what a program would allocate on a GPU, with a PyTorch that has no CUDA and no device.

Tensors on CUDA are fake (FakeTensorMode): they have a shape and no values. Those on the CPU are
real, so what a program decides there stays as it is. A dispatch mode sees each operation and the
storages it makes; a storage that says it is on CUDA is an allocation. This file is run by its path
inside the recorded program (see capture_hook), so it imports nothing of this package.

Scratch memory that kernels take inside an operation is not seen; cuBLAS's work space, which PyTorch
allocates itself, is added and can be told by its stream, WORKSPACE_STREAM.
"""

# pyright: reportMissingImports=false
# torch is the user's, and need not be where types are checked.
from __future__ import annotations

import array
import json
import os
import time
import types
import weakref
from importlib import import_module
from typing import Any

WORKSPACE_STREAM = 1
# By major capability. Source: aten/src/ATen/cuda/CublasHandlePool.cpp, parseChosenWorkspaceSize.
WORKSPACE_BYTES = {9: 33_554_432, 10: 33_554_432}
OTHER_WORKSPACE_BYTES = 8_519_680
# In a backward pass PyTorch adds and scatters into a gradient that nobody else holds; it does not
# while a dispatch mode looks on. Their result is taken for their first argument's memory.
IN_PLACE = (
    "add.Tensor", "scatter.src", "scatter.value", "scatter_add.default", "index_put.default",
    "index_add.default", "masked_fill.Scalar",
)  # fmt: skip
PRODUCTS = ("mm.default", "addmm.default", "bmm.default", "baddbmm.default")
PATIENCE = 0.2  # seconds that PyTorch's threads get to let go of Python at the end
ROW = 3  # integers of a row: number (negated = freed), bytes, stream


class Rows:
    """What was allocated and freed, in order.

    Attributes:
        rows: ROW integers of each allocation (number >= 1, bytes, stream) and free (-number).
    """

    def __init__(self) -> None:
        self.rows = array.array("q")
        self.number = 0
        self.of: dict[int, list[int]] = {}  # storage -> [number], shared when memory is passed on

    def allocate(self, size: int, stream: int = 0) -> int:
        """Add an allocation; return its number."""
        self.number += 1
        self.rows.extend((self.number, size, stream))
        return self.number

    def track(self, storage: Any) -> None:
        """See a storage; the first time it is an allocation."""
        key = storage._cdata
        size = storage.nbytes()
        if key in self.of or size == 0:
            return
        self.of[key] = [self.allocate(size)]
        weakref.finalize(storage, self.forget, key)

    def pass_on(self, old: Any, new: Any) -> None:
        """Let a new storage be the memory of an old one that ends now."""
        held = self.of.get(old._cdata)
        if held is None or new._cdata in self.of or old.nbytes() != new.nbytes():
            return
        self.of[new._cdata] = list(held)
        held.clear()
        weakref.finalize(new, self.forget, new._cdata)

    def forget(self, key: int) -> None:
        """A storage is gone."""
        for number in self.of.pop(key, ()):
            self.rows.extend((-number, 0, 0))


def start(
    torch: Any, folder: str, major: int, minor: int, total: int, multiprocessors: int
) -> None:
    """Make everything the program does on CUDA from now on fake, and record it.

    Args:
        torch: the module; a build without CUDA, loaded after the shim.
        folder: where to write.
        major, minor, total, multiprocessors: capability, memory in bytes and size of the device
            that is pretended.
    """
    import atexit

    from torch._subclasses.fake_tensor import FakeTensorMode

    capability = (major, minor)
    pretend(torch, capability, total, multiprocessors)
    attention = choose_attention(torch, capability)
    convert_by_replacing(torch)
    rows = Rows()
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fake.__enter__()
    mode = recorder(torch, rows, fake, capability, attention)
    mode.__enter__()
    atexit.register(time.sleep, PATIENCE)
    atexit.register(write, torch, rows, folder)


def recorder(torch: Any, rows: Rows, fake: Any, capability: tuple[int, int], attention: Any) -> Any:
    """Return the dispatch mode that fills the rows."""
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map

    answers = {torch.bool: False}
    workspaces: set[bool] = set()
    workspace = WORKSPACE_BYTES.get(capability[0], OTHER_WORKSPACE_BYTES)

    def is_of_the_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
        device = kwargs.get("device")
        return (device is None or torch.device(device).type == "cpu") and not any(
            isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))
        )

    def as_fake(value: Any) -> Any:
        is_real = isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
        return fake.from_tensor(value) if is_real else value

    def in_backward() -> bool:
        return torch._C._current_graph_task_id() != -1

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            name = func.__name__
            if is_of_the_cpu(args, kwargs):
                with unset_fake_temporarily():
                    return func(*args, **kwargs)
            if name == "_local_scalar_dense.default":
                # Zeros, as on the stand-in. A loop that rejects values would never end on True.
                dtype = args[0].dtype
                return answers.get(dtype, 0.0 if dtype.is_floating_point else 0)
            if name == "nonzero.default":
                return args[0].new_empty((0, args[0].dim()), dtype=torch.int64)
            if torch.is_inference_mode_enabled() and func.namespace == "aten":
                # There composite operations arrive whole and would hide what they copy.
                with self:
                    if name == "scaled_dot_product_attention.default":
                        return attention(*args, **kwargs)
                    parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
            # A real tensor would be taken for a constant, to be computed with.
            args, kwargs = tree_map(as_fake, (args, kwargs))
            out = func(*args, **kwargs)
            cuda = [
                t
                for t in tree_leaves(out)
                if isinstance(t, torch.Tensor) and t.device.type == "cuda"
            ]
            if cuda and name in PRODUCTS and in_backward() not in workspaces:
                workspaces.add(in_backward())  # each thread has a handle, each handle a work space
                rows.allocate(workspace, WORKSPACE_STREAM)
            for t in cuda:
                storage = t.untyped_storage()
                if name in IN_PLACE and in_backward():
                    first = args[0].untyped_storage()
                    alone = torch._C._storage_Use_Count(first._cdata) <= 2
                    if alone and args[0].shape == t.shape and args[0].dtype == t.dtype:
                        rows.pass_on(first, storage)
                rows.track(storage)
            return out

    return Recorder()


def pretend(torch: Any, capability: tuple[int, int], total: int, multiprocessors: int) -> None:
    """Let torch.cuda say that there is a device."""
    cuda = torch.cuda
    properties = types.SimpleNamespace(
        name="fake", major=capability[0], minor=capability[1], total_memory=total,
        multi_processor_count=multiprocessors,
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


def choose_attention(torch: Any, capability: tuple[int, int]) -> Any:
    """Choose attention kernels as a CUDA build does, flash and then memory-efficient.

    Returns:
        The function that chooses; it also stands for the operation where gradients are recorded.

    Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp, select_sdp_backend; cuDNN's is
    left out, as on the stand-in.
    """
    aten = torch.ops.aten

    def attention(
        q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, is_causal: bool = False,
        *, scale: Any = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        width = q.shape[-1]
        in_rows = q.dim() == 4 and all(x.stride(-1) == 1 for x in (q, k, v))
        half = q.dtype in (torch.float16, torch.bfloat16)
        if mask is None and half and capability >= (8, 0) and width <= 256 and in_rows:
            pad = -width % 8
            if pad:
                scale = scale or width**-0.5
                q, k, v = (torch.nn.functional.pad(x, (0, pad)) for x in (q, k, v))
            out = aten._scaled_dot_product_flash_attention(
                q, k, v, dropout, is_causal, False, scale=scale
            )[0]
            return out[..., :width] if pad else out
        if in_rows and not enable_gqa:
            needs = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
            return aten._scaled_dot_product_efficient_attention(
                q, k, v, mask, needs, dropout, is_causal, scale=scale
            )[0]
        return aten._scaled_dot_product_attention_math(
            q, k, v, mask, dropout, is_causal, None, scale=scale, enable_gqa=enable_gqa
        )[0]

    library = torch.library.Library("aten", "IMPL")
    for key in ("AutogradCUDA", "CUDA"):
        library.impl("scaled_dot_product_attention", attention, key)
    _KEPT.append(library)  # its end would take the kernels back
    return attention


_KEPT: list[Any] = []


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


def write(torch: Any, rows: Rows, folder: str) -> None:
    """Write PID.rows, the rows as 64-bit integers, and PID.json."""
    stem = os.path.join(folder, str(os.getpid()))
    with open(stem + ".rows", "wb") as file:
        rows.rows.tofile(file)
    with open(stem + ".part", "w", encoding="utf-8") as file:
        json.dump({"torch": str(torch.__version__), "reason": "exit"}, file)
    os.replace(stem + ".part", stem + ".json")
