"""What `tightfit policy new` writes: a policy of some thirty lines, and a test of it."""

from __future__ import annotations

import re
from pathlib import Path

from ..traces.errors import ConfigError, did_you_mean
from ..traces.whole_file import replacing
from .outfile import check_output

HOOKS = '''"""{name}: PyTorch's allocator, but a block is split only if enough is left over.

Change it: docs/policies.md says what there is.
"""

from tightfit.policies.variant import Variant
from tightfit.sim.param import Param
from tightfit.sim.state import LEAST_REST

LEAST = 0  # place of the parameter in s.param


def splits(s, q, rest):
    """Whether `rest` bytes are cut off the end of the block chosen for request q."""
    return rest >= max(s.classes[q + LEAST_REST], s.param[LEAST])


{name} = Variant(
    "{plain}",
    "your paper, or the file and function you follow",
    splits=splits,  # every hook left out is PyTorch's own
    params=(
        Param("least", 1 << 20, 512, 64 << 20, "the least that is worth a split", "bytes", True),
    ),
)
'''

MECHANISM = '''"""{name}: best fit over one region that grows at its end.

Change it: docs/policies.md says what there is.
"""

from tightfit.sim.free_tree import first_from
from tightfit.sim.mechanism import Honours, Mechanism
from tightfit.sim.param import Param
from tightfit.sim.span import (
    BY_SIZE, REGION_WORDS, cut_in_region, grow, release_in_region, shrink_region, take,
)

QUANTUM = 0  # place of the parameter in m.param
TREE, REGION = 0, 1  # words of m.own: the root of the tree of free blocks, the region
PAGE = 2 << 20


def allocate(m, size, lane):
    """A block of at least `size` bytes; 0 if there is none."""
    need = (size + m.param[QUANTUM] - 1) // m.param[QUANTUM] * m.param[QUANTUM]
    b = first_from(m, TREE, need, 0)
    if b != 0:
        take(m, b)
    else:
        b = grow(m, REGION, TREE, need, PAGE)
    if b != 0:
        cut_in_region(m, REGION, b, need, BY_SIZE)
    return b


def free(m, b):
    """Block b may be handed out again."""
    release_in_region(m, REGION, b, BY_SIZE)


def trim(m):
    """Give memory that nobody holds back; returns its bytes."""
    return shrink_region(m, REGION, TREE, PAGE, BY_SIZE)


{name} = Mechanism(
    "{plain}",
    "your paper, or the file and function you follow",
    allocate,
    free,
    trim,
    params=(Param("quantum", 512, 256, 65536, "sizes are multiples of it", "bytes", True),),
    honours=Honours(returns=True),
    own=lambda values, lanes: 1 + REGION_WORDS,
)
'''

TEST = '''"""{name} keeps the contract of every policy, and does what it is for."""

from pathlib import Path

import pytest

from tightfit.policies.conformance import CLAIMS, examine
from tightfit.policies.playing import play_policy
from tightfit.policies.user_file import load_user_policy
from tightfit.sim.packing import pack
from tightfit.traces.script import Script

POLICY = load_user_policy(f"{{Path(__file__).with_name('{file}')}}:{name}")


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_keeps(claim):
    (verdict,) = examine(POLICY, [claim], many=20_000)
    assert verdict.holds, verdict.fault


def test_memory_freed_is_used_again():
    script = Script()
    a = script.malloc(3 << 20)
    script.free(a)
    script.malloc(3 << 20)
    first, second = play_policy(pack(script.program()), POLICY, addresses=True).addr
    assert first == second
'''
KINDS = {"hooks": HOOKS, "mechanism": MECHANISM}


def write_template(file: Path, kind: str, force: bool) -> tuple[str, Path]:
    """Write a policy and its test.

    Args:
        file: where to; its name, in capitals, is the policy's.
        kind: a key of KINDS.
        force: replace files that exist.

    Returns:
        The policy's name in the file, and where the test was written.

    Raises:
        ConfigError: the name cannot be a module's, or a file cannot be written or exists.
    """
    if kind not in KINDS:
        raise ConfigError(
            f"--kind: found '{kind}', expected {' or '.join(KINDS)}" + did_you_mean(kind, KINDS)
        )
    if file.suffix != ".py" or not re.fullmatch(r"[A-Za-z_]\w*", file.stem):
        raise ConfigError(f"{file}: expected the name of a Python file, such as my_fit.py")
    name = "".join(part.capitalize() for part in file.stem.split("_") if part) or "Policy"
    test = file.with_name(f"test_{file.name}")
    for path in (file, test):
        check_output(path, ".py", force)
    plain = file.stem.strip("_").lower() or "policy"
    words = {"name": name, "plain": plain, "file": file.name}
    for path, text in ((file, KINDS[kind]), (test, TEST)):
        with replacing(path) as out:
            out.write(text.format(**words).encode())
    return name, test
