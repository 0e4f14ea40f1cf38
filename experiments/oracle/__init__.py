"""The oracle: PyTorch's own compiled CUDA caching allocator, run on a machine without a GPU."""
