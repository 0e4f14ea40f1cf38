"""Messages for pickles that are refused."""

from __future__ import annotations

import pickletools
from contextlib import suppress

import numpy as np

from . import pickle_opcodes as op
from . import pickle_scan as ps
from .errors import TraceError

_REASONS = {
    ps.UNDERFLOW: "found an opcode that takes more values than there are",
    ps.NESTED: f"found containers nested more than {ps.MAX_NESTING} deep",
    ps.LEFTOVERS: "found the end of the pickle, expected exactly one finished value before it",
    ps.ODD: "found a dict with a key that has no value",
    ps.MEMO_RANGE: "found a reference to a value that was never stored",
    ps.MEMO_UNSET: "found a reference to a value that was not stored yet",
    ps.NOT_A_LIST: "found items appended to something that is not a list",
    ps.NOT_A_DICT: "found items set in something that is not a dict",
    ps.CHANGED: "found a list or dict changed after it was used; no known writer does that",
    ps.KEY: "found a list or dict used as a key",
    ps.TOO_MANY: "found more than 65,535 different streams or memory pools",
    ps.COLLISIONS: "found values crafted to slow the reader down",
}


def refusal(code: int, at: int, data: np.ndarray) -> TraceError:
    """Return the error for a reason of `pickle_scan` or `pickle_machine` at a byte offset."""
    if code == ps.TRUNCATED:
        if at == 0 and len(data) and op.WHAT[data[0]] != op.PROTO:
            return _no_pickle(data)
        return TraceError(
            f"byte {at}: found the end of the file ({len(data):,} bytes), expected more;"
            " the file is cut short"
        )
    if code == ps.PROTOCOL:
        return TraceError(f"byte {at}: found pickle protocol {data[at + 1]}, expected 2 to 5")
    if code == ps.REFUSED:
        return _refused(at, data)
    if data[0] != op.OP_PROTO:
        return _no_pickle(data)
    return TraceError(f"not a PyTorch memory snapshot: byte {at}: {_REASONS[code]}")


def _refused(at: int, data: np.ndarray) -> TraceError:
    code = int(data[at])
    what, name = op.WHAT[code], op.NAMES.get(code, f"0x{code:02x}")
    if data[0] != op.OP_PROTO and what != op.RUNS_CODE:
        return _no_pickle(data)
    if what == op.RUNS_CODE:
        wish = _wish(name, at, data)
        return TraceError(
            f"byte {at}: found the opcode {name}, which asks its reader to run code{wish}."
            " Nothing was executed. A PyTorch memory snapshot never does this:"
            " expected only dicts, lists, strings and numbers"
        )
    if what == op.TEXTUAL:
        return TraceError(
            f"byte {at}: found the opcode {name} of pickle protocol 0 or 1, expected protocol 2 to"
            " 5; PyTorch writes no other"
        )
    return TraceError(
        f"not a PyTorch memory snapshot: byte {at}: found the opcode {name},"
        " expected only those of dicts, lists, strings and numbers"
    )


def _wish(name: str, at: int, data: np.ndarray) -> str:
    """Name what the file wants to import, where that is easy to see."""
    names: list[str] = []
    if name in ("GLOBAL", "INST"):
        line = data[at + 1 : at + 400].tobytes().split(b"\n")
        names = [part.decode("ascii", "replace") for part in line[:2]]
    elif name == "STACK_GLOBAL" and at < 1 << 20:
        # The opcodes before `at` are all allowed ones: reading them again is safe.
        with suppress(ValueError):  # a string that is not UTF-8
            for opcode, arg, _ in pickletools.genops(data[: at + 1].tobytes() + b"."):
                if opcode.name.endswith("UNICODE"):
                    names.append(str(arg))
        names = names[-2:]
    shown = ".".join(part for part in names if part.isprintable())[:80]
    return f" (it names {shown})" if shown else ""


def _no_pickle(data: np.ndarray) -> TraceError:
    start = data[:16].tobytes()
    return TraceError(
        f"not a PyTorch memory snapshot: the file starts with {start!r},"
        " expected a pickle of protocol 2 to 5"
    )
