"""tightfit: which PYTORCH_CUDA_ALLOC_CONF line would have fitted."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Return the context manager `record`, imported when first asked for."""
    if name == "record":
        from .traces.capture import record

        return record
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
