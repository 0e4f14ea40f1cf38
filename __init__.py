"""tightfit: which PYTORCH_CUDA_ALLOC_CONF line would have fitted."""

__version__ = "0.1.0"
