"""The dispatch mode that sees every operation of a program and fills the rows."""

# pyright: reportMissingImports=false
# torch is the user's, and need not be where types are checked.
from __future__ import annotations

import os
import time
from typing import Any

from .kernel_scratch import MODELS
from .kernels import UNTOLD, WHOLE, choose_attention, keep_whole
from .pretend import convert_by_replacing, pretend
from .results import NOT_ON_CUDA, ORDER, longer
from .rows import Rows
from .scratch import Call, Device, Scratch
from .streams import pretend_streams

# In a backward pass PyTorch adds and scatters into a gradient that nobody else holds; it does not
# while a dispatch mode looks on. Their result is taken for their first argument's memory.
IN_PLACE = (
    "add.Tensor", "scatter.src", "scatter.value", "scatter_add.default", "index_put.default",
    "index_add.default", "masked_fill.Scalar",
)  # fmt: skip
PATIENCE = 0.2  # seconds that PyTorch's threads get to let go of Python at the end


def start(torch: Any, folder: str, device: str, with_scratch: bool) -> None:
    """Make everything the program does on CUDA from now on fake, and record it.

    Args:
        torch: the module; a build without CUDA, loaded after the shim.
        folder: where to write.
        device: the numbers of `Device`, in its order.
        with_scratch: whether scratch that kernels take is added.
    """
    import atexit

    from torch._subclasses.fake_tensor import FakeTensorMode

    shape = Device(*map(int, device.split()))
    rows = Rows()
    pretend(torch, shape, rows)
    pretend_streams(torch, rows)
    attention = choose_attention(torch, shape.capability)
    keep_whole(torch)
    convert_by_replacing(torch)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    fake.__enter__()
    scratch = Scratch(rows, shape, MODELS) if with_scratch else None
    mode = recorder(torch, rows, fake, shape, attention, scratch)
    mode.__enter__()
    atexit.register(time.sleep, PATIENCE)
    stem = os.path.join(folder, str(os.getpid()))
    atexit.register(rows.write, stem, str(torch.__version__))


def recorder(
    torch: Any, rows: Rows, fake: Any, device: Device, attention: Any, scratch: Scratch | None
) -> Any:
    """Return the dispatch mode that fills the rows."""
    from torch._subclasses import fake_tensor
    from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves, tree_map

    impossible = tuple(
        getattr(fake_tensor, kind)
        for kind in (
            "DynamicOutputShapeException", "DataDependentOutputException",
            "UnsupportedOperatorException",
        )
        if hasattr(fake_tensor, kind)
    )  # fmt: skip
    answers = {torch.bool: False}
    composite = torch._C.DispatchKey.CompositeImplicitAutograd

    def is_composite(func: Any) -> bool:
        known = torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite)
        return known and func._opname not in WHOLE

    def reason_of(error: Exception) -> str:
        depends = "Dynamic" in type(error).__name__ or "Data" in type(error).__name__
        return "its answer depends on values" if depends else "PyTorch has no shape rule for it"

    def is_of_the_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
        device = kwargs.get("device")
        return (device is None or torch.device(device).type == "cpu") and not any(
            isinstance(x, FakeTensor) for x in tree_leaves((args, kwargs))
        )

    def as_fake(value: Any) -> Any:
        is_real = isinstance(value, torch.Tensor) and not isinstance(value, FakeTensor)
        return fake.from_tensor(value) if is_real else value

    def without_masks(indices: Any) -> list[Any]:
        """Replace masks by the places they are true at, as the operation itself does."""
        out: list[Any] = []
        for k in indices:
            if isinstance(k, FakeTensor) and k.dtype in (torch.bool, torch.uint8):
                out += k.nonzero().unbind(1)
            else:
                out.append(k)
        return out

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
                rows.read("aten::item")
                dtype = args[0].dtype
                return answers.get(dtype, 0.0 if dtype.is_floating_point else 0)
            if name == "nonzero.default":
                rows.read("aten::nonzero")
                return args[0].new_empty((0, args[0].dim()), dtype=torch.int64)
            if name == "masked_select.default":
                rows.read("aten::masked_select")
                return args[0].new_empty((0,))
            if name in ("index.Tensor", "index_put.default", "index_put_.default"):
                with self:
                    args = (args[0], without_masks(args[1]), *args[2:])
            if torch.is_inference_mode_enabled() and func.namespace == "aten":
                # There composite operations arrive whole and would hide what they copy.
                with self:
                    if name == "scaled_dot_product_attention.default":
                        return attention(*args, **kwargs)
                    if is_composite(func):
                        return func._op_dk(composite, *args, **kwargs)
            # A real tensor would be taken for a constant, to be computed with.
            args, kwargs = tree_map(as_fake, (args, kwargs))
            try:
                out = UNTOLD.get(name, func)(*args, **kwargs)
            except impossible as error:
                raise NotImplementedError(
                    f"tightfit record --fake: {func.namespace}::{name} cannot run with fake "
                    f"tensors ({reason_of(error)}); record this program with --stand-in"
                ) from error
            leaves = tree_leaves(out)
            cuda = [
                leaves[k]
                for k in ORDER.get(name, range(len(leaves)))
                if isinstance(leaves[k], torch.Tensor)
                and leaves[k].device.type == "cuda"
                and k not in NOT_ON_CUDA.get(name, ())
            ]
            if not cuda:
                return out
            operation = f"{func.namespace}::{name.removesuffix('.default')}"
            backward = in_backward()

            def results(first: int) -> None:
                for t in cuda[:first]:
                    storage = t.untyped_storage()
                    # Recomputed activations are made anew: there gradients are recorded.
                    if backward and name in IN_PLACE and not torch.is_grad_enabled():
                        old = args[0].untyped_storage()
                        alone = torch._C._storage_Use_Count(old._cdata) <= 2
                        if alone and args[0].shape == t.shape and args[0].dtype == t.dtype:
                            rows.pass_on(old, storage)
                    rows.track(storage, operation, longer(name, args) if t is out else 0)

            if scratch is None:
                results(len(cuda))
            else:
                scratch.add(name, Call(args, kwargs, out, device), operation, backward, results)
            return out

    return Recorder()
