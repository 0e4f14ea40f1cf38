"""The slow, obviously safe reader: CPython's own unpickler with every door closed.

Tests hold the fast reader against it. Nothing else uses it: CPython allocates what a file asks
for (nine bytes can ask for 800 MB), so it is safe against code, not against size.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NoReturn

from .errors import TraceError


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that yields builtin containers, strings and numbers, or raises."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise TraceError(f"the file wants to import {module}.{name}; nothing was executed")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise TraceError(f"the file refers to an object outside it ({pid!r}); nothing was executed")

    def get_extension(self, code: int) -> NoReturn:
        raise TraceError(f"the file wants the registered extension {code}; nothing was executed")


def restricted_loads(data: bytes) -> Any:
    """Return the builtin objects of a pickle.

    Raises:
        TraceError: it is not a pickle, or holds anything else.
    """
    try:
        return RestrictedUnpickler(io.BytesIO(data)).load()
    except TraceError:
        raise
    except Exception as error:  # CPython's unpickler raises almost anything on a broken file
        raise TraceError(f"not a readable pickle: {type(error).__name__}: {error}") from error
