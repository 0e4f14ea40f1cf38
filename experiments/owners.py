"""Who holds memory: blocks summed by the place in the user's code that allocated them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..traces.recording import Stacks

MAX_OWNERS = 8


@dataclass(frozen=True)
class Owner:
    """Who holds memory at the end: blocks allocated at one place in the user's code.

    Attributes:
        where: as `user_frame` names it.
        requested_bytes: what its active blocks were asked for.
        blocks: how many there are.
    """

    where: str
    requested_bytes: int
    blocks: int


def owners_of(stack: np.ndarray, requested: np.ndarray, stacks: Stacks) -> list[Owner]:
    """Sum active blocks by the place in the user's code that allocated them.

    Args:
        stack: shape (n,); each block's stack, 0 = none recorded.
        requested: shape (n,); what each was asked for, bytes.
        stacks: the recording's stacks.

    Returns:
        The largest owners first, at most MAX_OWNERS.
    """
    held: dict[str, list[int]] = {}
    for k, size in zip(stack.tolist(), requested.tolist(), strict=True):
        if k:
            entry = held.setdefault(user_frame(stacks[k]), [0, 0])
            entry[0] += size
            entry[1] += 1
    owners = [Owner(where, size, blocks) for where, (size, blocks) in held.items()]
    return sorted(owners, key=lambda o: (-o.requested_bytes, o.where))[:MAX_OWNERS]


def user_frame(frames: list[tuple[str, int, str]]) -> str:
    """Return the place in the user's code that a stack comes from.

    Args:
        frames: (filename, line, function), innermost first.

    Returns:
        "dir/file.py:line function" of the innermost Python frame outside libraries, else of the
        innermost Python frame; without the line, if the frame has none. The threads that run
        backward have no Python frame: then the autograd node, else the innermost function that
        does more than allocate.
    """
    python = [f for f in frames if f[0].endswith(".py")]
    own = [f for f in python if not _is_library(f)]
    for path, line, function in (own or python)[:1]:
        short = "/".join(_parts(path)[-2:])
        return f"{short}{f':{line}' if line >= 0 else ''} {function}"
    for _, _, function in frames:
        node = re.match(r"torch::autograd::(?:generated::)?(\w+)::apply\(", function)
        if node:
            return f"{node[1]} (backward, C++)"
    for _, _, function in frames:
        if not function.startswith(("torch::unwind", "torch::Captured", "torch::cuda::", "c10::")):
            return function.split("(")[0].strip() or "unknown"
    return frames[0][2] if frames else "unknown"


def _parts(path: str) -> list[str]:
    """Return a path's parts; recordings come from Windows too."""
    return path.replace("\\", "/").split("/")


def _is_library(frame: tuple[str, int, str]) -> bool:
    path, _, function = frame
    folders = set(_parts(path)[:-1])
    return bool({"torch", "site-packages", "dist-packages"} & folders) or function in (
        "_call_impl",
        "_wrapped_call_impl",
    )
