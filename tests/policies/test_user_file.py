"""A policy in a user's file: loaded anew when edited, and every mistake has a place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tightfit.policies.contender import contender
from tightfit.policies.playing import play_policy
from tightfit.policies.user_file import load_user_policy, split_words
from tightfit.sim.device import FIRST_ADDRESS, Device
from tightfit.sim.packing import pack
from tightfit.sim.release import release
from tightfit.traces.errors import PolicyError
from tightfit.traces.jit import JIT
from tightfit.traces.script import Script

pytestmark = pytest.mark.interpreted
RULES = release("2.15")
BUMP = '''"""Bump: nothing is ever used again."""
import numpy as np
from tightfit.sim.ground import drop_block, new_block
from tightfit.sim.ground_driver import driver_free, driver_malloc
from tightfit.sim.mechanism import Mechanism

EXTRA = 0


def allocate(m, size, lane):
    a = driver_malloc(m, size + EXTRA)
    if a < 0:
        return np.int64(0)
    b = new_block(m)
    m.addr[b] = a
    m.size[b] = size + EXTRA
    return b


def free(m, b):
    driver_free(m, m.size[b])
    drop_block(m, b)


Bump = Mechanism("bump", "cudaMalloc and nothing else", allocate, free)
'''


MUTE = """class Mute(Exception):
    def __str__(self):
        return 1 / 0


raise Mute
"""


def write(folder: Path, text: str, name: str = "bump.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def peak(file: str) -> int:
    script = Script()
    script.malloc(1000)
    return play_policy(pack(script.program()), load_user_policy(file)).stats[
        "reserved_bytes.all.peak"
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a.py", ("a.py", "", "")),
        ("dir/a.py:Fit", ("dir/a.py", "Fit", "")),
        ("a.py:Fit:x=1,y=2", ("a.py", "Fit", "x=1,y=2")),
        ("a.py:x=1", ("a.py", "", "x=1")),
    ],
)
def test_a_file_a_name_and_parameters_are_told_apart(text: str, parts: tuple[str, ...]) -> None:
    assert split_words(text) == parts


def test_a_file_is_a_contender_like_any_name(tmp_path: Path) -> None:
    script = Script()
    script.mallocs(1000, 3 << 20)
    c = contender(write(tmp_path, BUMP) + ":Bump", RULES)
    run = c.replay(pack(script.program()), Device())
    assert run.stats["reserved_bytes.all.peak"] == 1000 + (3 << 20)
    assert c.source == "cudaMalloc and nothing else" and not c.is_baseline


def test_an_edit_is_never_answered_with_the_old_code(tmp_path: Path) -> None:
    """Not even one that leaves size and date of the file as they were."""
    file = write(tmp_path, BUMP)
    assert peak(file) == 1000
    import os

    before = os.stat(file)
    write(tmp_path, BUMP.replace("EXTRA = 0", "EXTRA = 7"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert os.stat(file).st_size == before.st_size
    assert peak(file) == 1007


def test_a_module_beside_it_counts_as_its_own_text(tmp_path: Path, monkeypatch) -> None:
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    # Python takes a file of the same second and length for the one that it compiled before.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    keys = []
    for value in (16, 32):
        write(tmp_path, f"EXTRA = {value}\n", "beside.py")
        sys.modules.pop("beside", None)
        file = write(
            tmp_path,
            BUMP.replace("EXTRA = 0", "import beside\nEXTRA = beside.EXTRA") + f"# {value}\n",
        )
        keys.append(load_user_policy(file).key)
        assert peak(file) == 1000 + value
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", "line 1: invalid syntax"),
        ("x = 1\ny = x / 0\n", "line 2: ZeroDivisionError: division by zero"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError: No module named"),
        ("x = 1\n", "defines no policy; expected a name with a Mechanism"),
        (BUMP + "Other = Bump\n", "defines Bump, Other; say which"),
        (BUMP.replace('Mechanism("bump", ', "Mechanism("), "line 25: TypeError"),
        ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
        ("raise SystemExit('x')\n", "line 1: SystemExit: x"),
        ("raise GeneratorExit\n", "line 1: GeneratorExit: no message"),
        (MUTE, "line 6: Mute: no message"),
    ],
)
def test_a_file_that_fails_is_named_with_the_line(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text, "mine.py")
    with pytest.raises(PolicyError) as error:
        load_user_policy(file)
    assert said in str(error.value) and "mine.py" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("m.addr[b] = a\n", "m.addr[b] = a + missing\n", 15),
        ("b = new_block(m)", "b = new_block(m).zzz", 14),
    ],
)
def test_a_mistake_inside_a_call_is_named_with_the_line(
    tmp_path: Path, old: str, new: str, line: int
) -> None:
    file = write(tmp_path, BUMP.replace(old, new), "mine.py")
    with pytest.raises(PolicyError, match=f"mine.py, line {line}: "):
        peak(file)


@pytest.mark.skipif(not JIT, reason="plain Python lets None pass; the check's claims find it")
def test_a_call_that_returns_nothing_is_said(tmp_path: Path) -> None:
    file = write(tmp_path, BUMP.replace("    return b\n", "    return None\n"), "mine.py")
    with pytest.raises(PolicyError, match="mine.py"):
        peak(file)


def test_calls_that_are_compiled_already_are_taken_as_they_are(tmp_path: Path) -> None:
    decorated = BUMP.replace("def allocate", "@inline\ndef allocate").replace(
        "import numpy as np", "import numpy as np\nfrom tightfit.traces.jit import inline"
    )
    assert peak(write(tmp_path, decorated)) == 1000


def test_near_names_are_offered(tmp_path: Path) -> None:
    file = write(tmp_path, BUMP)
    with pytest.raises(PolicyError, match="did you mean 'Bump'"):
        load_user_policy(file + ":bump")
    with pytest.raises(PolicyError, match="did you mean 'bump.py'"):
        load_user_policy(str(tmp_path / "bum.py"))
    with pytest.raises(PolicyError, match="unknown parameter 'a'"):
        contender(file + ":a=3", RULES)


def test_what_is_no_file_is_not_its_own_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "dir.py").mkdir()
    for name, said in (
        ("dir.py", "found a folder, expected a file"),
        ("a\0.py", "the name of a f"),
    ):
        with pytest.raises(PolicyError, match=said) as error:
            load_user_policy(str(tmp_path / name))
        assert "did you mean" not in str(error.value)


def test_ctrl_c_in_a_file_stays_an_interruption(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_user_policy(write(tmp_path, "raise KeyboardInterrupt\n"))


HOOKED = '''"""Even: blocks are multiples of a power of two."""
from tightfit.policies.variant import Variant
from tightfit.sim.param import Param
from tightfit.sim.state import LEAST_REST


def rounds(sizes, values):
    return -(-sizes // values["step"]) * values["step"]


def splits(s, q, rest):
    return rest >= max(s.classes[q + LEAST_REST], s.param[0])


Even = Variant("even", "an example with both kinds of decisions", rounds=rounds, splits=splits,
               params=(Param("step", 4096, 512, 1 << 20, "a multiple of it", "bytes", True),))
'''


def test_hooks_change_only_what_they_change(tmp_path: Path) -> None:
    # 600 bytes become 4096, and a rest of less than 4096 bytes is not cut off
    script = Script()
    script.mallocs(600, 600)
    policy = load_user_policy(write(tmp_path, HOOKED, "even.py"))
    run = play_policy(pack(script.program()), policy, addresses=True)
    assert [int(a) - FIRST_ADDRESS for a in run.addr] == [0, 4096]
    assert run.stats["reserved_bytes.all.peak"] == 2 << 20
    wide = play_policy(pack(script.program()), policy, {"step": 1 << 20}, addresses=True)
    assert [int(a) - FIRST_ADDRESS for a in wide.addr] == [0, 1 << 20]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('values["step"]) *', 'values["stop"]) *', "line 8: KeyError: 'stop'"),
        ("return -(-sizes", "return 0 * -(-sizes", "found 0 bytes for a request of 600"),
        ("return -(-sizes", "return 1.5 * -(-sizes", "found float64 of shape"),
        ("splits=splits", "split=splits", "there is no hook 'split'"),
    ],
)
def test_a_wrong_rounding_is_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = write(tmp_path, HOOKED.replace(old, new, 1), "even.py")
    script = Script()
    script.malloc(600)
    with pytest.raises(PolicyError) as error:
        play_policy(pack(script.program()), load_user_policy(file))
    assert said in str(error.value)


@pytest.mark.skipif(not JIT, reason="nothing is kept without compiled code")
def test_a_file_that_was_renamed_finds_its_compiled_code(tmp_path: Path) -> None:
    """In a process of its own: what is kept on disk must not ask for the old name."""
    program = (
        "import sys\n"
        "from tightfit.policies.playing import play_policy\n"
        "from tightfit.policies.user_file import load_user_policy\n"
        "from tightfit.sim.packing import pack\n"
        "from tightfit.traces.script import Script\n"
        "script = Script()\nscript.malloc(1000)\n"
        "run = play_policy(pack(script.program()), load_user_policy(sys.argv[1]))\n"
        "print(run.stats['reserved_bytes.all.peak'])\n"
    )
    for name in ("before.py", "after.py"):
        file = write(tmp_path, BUMP.replace("EXTRA = 0", "EXTRA = 24"), name)
        done = subprocess.run(
            [sys.executable, "-c", program, file], capture_output=True, text=True, check=False
        )
        assert done.stdout == "1024\n", done.stderr[-500:]
