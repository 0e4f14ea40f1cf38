"""Choose kernels as a CUDA build does: for attention, and where this build knows none."""

# pyright: reportMissingImports=false
# torch is the user's, and need not be where types are checked.

from __future__ import annotations

from typing import Any

_KEPT: list[Any] = []
# Operations that a CUDA build has a kernel for, and that are taken apart where there is none.
# Source: aten/src/ATen/native/native_functions.yaml, those with CompositeImplicitAutograd and CUDA.
WHOLE = ("silu_backward", "mish_backward", "_fused_rms_norm")


def keep_whole(torch: Any) -> None:
    """Let operations arrive whole that are so on a GPU."""
    library = torch.library.Library("aten", "IMPL")
    for name in WHOLE:
        if hasattr(torch.ops.aten, name):
            library.impl(name, lambda *a, **k: NotImplemented, "CUDA")  # never reached
    _KEPT.append(library)


def fused_gru_cell(
    input_gates: Any, hidden_gates: Any, hx: Any, input_bias: Any = None, hidden_bias: Any = None
) -> Any:
    """Return what the fused kernel returns: the new state, and five gates for the backward pass.

    Source: aten/src/ATen/native/cuda/RNN.cu, _thnn_fused_gru_cell_cuda, as the next three.
    """
    work = hx.new_empty((hx.shape[0], 5 * hx.shape[1]))
    return hx.new_empty(hx.shape), work


def fused_gru_cell_backward(grad: Any, work: Any, has_bias: bool) -> Any:
    """Return the gradients of input gates, hidden gates, state and biases."""
    n, width = work.shape[0], work.shape[1] // 5 * 3
    inputs, hidden = work.new_empty((n, width)), work.new_empty((n, width))
    biases = [work.new_empty((width,)) if has_bias else None for _ in range(2)]
    return inputs, hidden, grad.new_empty(grad.shape), *biases


def fused_lstm_cell(
    input_gates: Any, hidden_gates: Any, cx: Any, input_bias: Any = None, hidden_bias: Any = None
) -> Any:
    """Return the new state and cell, and four gates for the backward pass."""
    work = input_gates.new_empty(input_gates.shape)
    return cx.new_empty(cx.shape), cx.new_empty(cx.shape), work


def fused_lstm_cell_backward(
    grad_hy: Any, grad_cy: Any, cx: Any, cy: Any, work: Any, has_bias: bool
) -> Any:
    """Return the gradients of the gates, of the cell and of the bias."""
    bias = work.new_empty((work.shape[1],)) if has_bias else None
    return work.new_empty(work.shape), cx.new_empty(cx.shape), bias


# Kernels of CUDA only, of which no build tells the shape of the answers.
UNTOLD = {
    "_thnn_fused_gru_cell.default": fused_gru_cell,
    "_thnn_fused_gru_cell_backward.default": fused_gru_cell_backward,
    "_thnn_fused_lstm_cell.default": fused_lstm_cell,
    "_thnn_fused_lstm_cell_backward_impl.default": fused_lstm_cell_backward,
}


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
