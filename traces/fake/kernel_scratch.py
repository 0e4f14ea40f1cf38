"""Scratch of each kernel, by the name of its operation; each model says where it was read."""

from __future__ import annotations

from typing import Any

from .attention_scratch import (
    efficient_backward,
    flash_backward,
    flash_forward,
    safe_softmax,
)
from .cub import scan_bytes, sort_bytes, unique_bytes
from .reduction import Reduction, global_buffer
from .scratch import RESULTS, Call, Device, Model, Part, passing


def reduction(partial: int | None = None, dims: int | None = 1) -> Model:
    """Return the model of a reduction.

    Args:
        partial: bytes of a partial result; None = those of the type sums are kept in.
        dims: place of the dimensions among the arguments; None = all are reduced.
    """

    def model(call: Call) -> list[Part]:
        x = call.args[0]
        over = call.arg(dims, "dim") if dims is not None else None
        over = () if over is None else (over,) if isinstance(over, int) else tuple(over)
        return of_reduction(x, over, partial, call.device)

    return model


def of_reduction(x: Any, over: tuple[int, ...], partial: int | None, device: Device) -> list[Part]:
    """Return the scratch of reducing a tensor over some dimensions; none = all."""
    if not x.numel():
        return []
    # Source: ReduceSumProdKernel.cu, sum_functor: types of 16 bits are loaded eight at a time.
    vector = 8 if x.itemsize == 2 else 4
    read = Reduction(
        tuple(x.shape), x.stride(), over, x.itemsize, partial or max(4, x.itemsize), vector,
        x.storage_offset(),
    )  # fmt: skip
    found = global_buffer(read, device.multiprocessors, device.threads)
    if found is None:
        return []
    return [("reduction, partial results", found[0]), ("reduction, semaphores", found[1])]


def mse_loss(call: Call) -> list[Part]:
    """Return the scratch of a mean or summed loss: the losses, and their reduction.

    Source: aten/src/ATen/native/Loss.cpp, TORCH_IMPL_FUNC(mse_loss_out).
    """
    x = call.args[0]
    if call.arg(2, "reduction", 1) == 0:
        return []
    return [("losses", x.numel() * x.itemsize), *of_reduction(x, (), None, call.device)]


def group_norm(call: Call) -> list[Part]:
    """Return the scratch of group norm: mean, deviation, and the scale and shift of each channel.

    Source: aten/src/ATen/native/cuda/group_norm_kernel.cu, GroupNormKernelImplInternal.
    """
    x, n, c, group = call.args[0], call.args[3], call.args[4], call.args[6]
    copy = dense_copy(0)(call)
    wide = [("group norm", n * group * 4)] * 2 if x.itemsize == 2 else []
    return [*copy, *wide, *[("group norm", n * c * 4)] * 2]


def group_norm_backward(call: Call) -> list[Part]:
    """Return the scratch of its backward pass: two sums and a factor of each channel and group.

    Source: aten/src/ATen/native/cuda/group_norm_kernel.cu, GroupNormBackwardKernelImplInternal.
    """
    n, c, group = call.args[5], call.args[6], call.args[8]
    wide = max(4, call.args[1].itemsize)
    channels, groups = (
        ("group norm, backward", n * c * wide),
        ("group norm, backward", n * group * wide),
    )
    return [channels, channels, groups, groups, channels]


def convolution_backward(call: Call) -> list[Part]:
    """Return the scratch of summing the gradient of the bias.

    Source: aten/src/ATen/native/Convolution.cpp, convolution_backward: grad_output.sum.
    """
    grad = call.args[0]
    if not call.args[10][2]:
        return []
    return of_reduction(grad, (0, *range(2, grad.dim())), None, call.device)


def dense_copy(*places: int) -> Model:
    """Return the model of a kernel that makes a dense copy of arguments that are not dense."""

    def model(call: Call) -> list[Part]:
        given = [call.args[place] for place in places]
        return [("dense copy", x.numel() * x.itemsize) for x in given if not x.is_contiguous()]

    return model


def embedding_backward(call: Call) -> list[Part]:
    """Return the scratch of an embedding's gradient: sorted indices, and sums by segments of them.

    Source: aten/src/ATen/native/cuda/Embedding.cu, embedding_dense_backward_cuda, and
    EmbeddingBackwardKernel.cu, embedding_backward_cuda_kernel.
    """
    grad, indices, rows, padding = call.args[0], call.args[1], call.args[2], call.args[3]
    n, width = indices.numel(), grad.shape[-1]
    if n <= 3072 and padding < 0 or n == 0:
        return []
    kind, each = "embedding, backward", 8 * n
    distinct = min(n, rows)
    segments = distinct + n // 10
    wide = 4 if grad.itemsize == 2 else grad.itemsize
    return [
        (kind, each), (kind, each),
        *passing([(kind, each), ("sort", sort_bytes(n, rows, call.device.capability))]), RESULTS,
        (kind, each), (kind, 8),
        *passing([(kind, each), ("unique", unique_bytes(n, call.device.capability))]),
        (kind, 8 * distinct), (kind, 8 * distinct),
        *passing([("scan", scan_bytes(distinct))]),
        (kind, 8), (kind, 8 * segments), (kind, segments * -(-width // 32) * 32 * wide),
    ]  # fmt: skip


def index_put(call: Call) -> list[Part]:
    """Return the scratch of adding to places that may repeat: their numbers, sorted.

    Source: aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel.
    """
    into, given = call.args[0], call.args[1]
    indices = [k for k in given if k is not None]
    if not call.arg(3, "accumulate", False) or not indices:
        return []
    n = max(k.numel() for k in indices)
    rows = 1
    for k, size in zip(given, into.shape, strict=False):
        rows *= size if k is not None else 1
    kind, each, value = "index_put", 8 * n, call.args[2]
    slice_numel = into.numel() // max(rows, 1)
    is_dense = value.is_contiguous() and value.numel() == n * slice_numel
    copy = [] if is_dense else [("dense copy", n * slice_numel * value.itemsize)]
    return [
        (kind, each), (kind, each), ("", -2), *copy, (kind, each), (kind, each),
        *passing([(kind, each), ("sort", sort_bytes(n, rows, call.device.capability))]),
    ]  # fmt: skip


def gru_backward(call: Call) -> list[Part]:
    """Return the scratch of a recurrent cell's backward pass: gates are summed for each bias.

    Source: aten/src/ATen/native/cuda/RNN.cu, _thnn_fused_gru_cell_backward_cuda.
    """
    if not call.args[2]:
        return []
    sums = [passing(of_reduction(gates, (0,), None, call.device)) for gates in call.out[:2]]
    return [("results", 4), *sums[0], RESULTS, *sums[1]]


def lstm_backward(call: Call) -> list[Part]:
    """Return the scratch of a recurrent cell's backward pass: gates are summed for the bias.

    Source: aten/src/ATen/native/cuda/RNN.cu, _thnn_fused_lstm_cell_backward_impl_cuda.
    """
    return of_reduction(call.out[0], (0,), None, call.device) if call.args[5] else []


def foreach_norm(call: Call) -> list[Part]:
    """Return the scratch of the norms of many tensors: a partial norm of each 65,536 elements.

    Source: aten/src/ATen/native/cuda/ForeachReduceOp.cu, foreach_tensor_norm_cuda.
    """
    tensors = call.args[0]
    most = max((-(-t.numel() // 65_536) for t in tensors), default=0)
    return [("norms", len(tensors) * most * max(4, tensors[0].itemsize)), RESULTS] if most else []


def softmax_backward(call: Call) -> list[Part]:
    """Return the scratch of softmax's backward pass: the product of gradient and output.

    Source: aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out.
    """
    return [("softmax, backward", call.args[0].numel() * call.args[0].itemsize)]


MODELS: dict[str, Model] = {
    "sum.dim_IntList": reduction(),
    "sum.default": reduction(dims=None),
    "mean.dim": reduction(),
    "mean.default": reduction(dims=None),
    "linalg_vector_norm.default": reduction(dims=2),
    "mse_loss.default": mse_loss,
    "native_group_norm.default": group_norm,
    "native_group_norm_backward.default": group_norm_backward,
    "convolution_backward.default": convolution_backward,
    "_safe_softmax.default": safe_softmax,
    "_softmax_backward_data.default": softmax_backward,
    "embedding_dense_backward.default": embedding_backward,
    "index_put.default": index_put,
    "index_put_.default": index_put,
    "_index_put_impl_.default": index_put,
    "_unsafe_index_put.default": index_put,
    "_scaled_dot_product_flash_attention.default": flash_forward,
    "_scaled_dot_product_flash_attention_backward.default": flash_backward,
    "_scaled_dot_product_efficient_attention_backward.default": efficient_backward,
    "_foreach_norm.Scalar": foreach_norm,
    "_thnn_fused_gru_cell_backward.default": gru_backward,
    "_thnn_fused_lstm_cell_backward_impl.default": lstm_backward,
    "upsample_nearest2d.default": dense_copy(0),
    "upsample_nearest2d_backward.default": dense_copy(0),
}
