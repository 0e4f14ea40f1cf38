"""What is known of the results of operations beyond their shapes: order, length, device."""

from __future__ import annotations

from typing import Any

# Results that are on CUDA only while a graph is captured: seed and offset of dropout.
# Source: aten/src/ATen/native/transformers/cuda/attention.cu, _efficient_attention_forward.
NOT_ON_CUDA = {"_scaled_dot_product_efficient_attention.default": (2, 3)}


# Results in the order in which they are made, where it is not that of the answer.
# Source: aten/src/ATen/native/cuda/Dropout.cu, dropout_cuda, and RNN.cu, gru_cell.
ORDER = {
    "native_dropout.default": (1, 0),
    "_thnn_fused_gru_cell.default": (1, 0),
}


def longer(name: str, args: Any) -> int:
    """Return how many bytes the memory of a result has at least, where it is more than it needs.

    Source: aten/src/ATen/native/BinaryOps.cpp, TORCH_META_FUNC(mse_loss): a loss is made as long as
    its input, and a mean keeps that memory.
    """
    return args[0].numel() * args[0].itemsize if name == "mse_loss.default" else 0
