"""Where compiled kernels are kept, and that a stale one is never used."""

import gc
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numba
import pytest
from numba.extending import overload

from tightfit.traces import jit

KERNELS = """
from tightfit.traces.jit import helper, inline, kernel
@inline
def doubled(x):
    return x * 2
@helper
def more(x):
    return x + 1
@kernel
def both(x):
    return more(doubled(x))
"""
RUN = """
import numba
from tightfit.traces import jit
import kernels
cold = jit.is_cold(kernels.both), jit.is_cold()
print(*cold, kernels.both(3), jit.is_cold(kernels.both), jit.JIT, jit.cache_folder(),
      repr(jit._config.CACHE_DIR), type(kernels.both).__name__, sep="|")
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "kernels.py").write_text(KERNELS)

    def run(**environment):
        env = os.environ | {"PYTHONPATH": str(tmp_path), "HOME": str(tmp_path / "home")}
        for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT", "NUMBA_BOUNDSCHECK"):
            env.pop(name, None)
        out = subprocess.run([sys.executable, "-c", RUN], env=env | environment, check=True,
                             capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
        return out.stdout.strip().split("|")

    return run


def test_the_second_process_finds_what_the_first_compiled(run, tmp_path):
    first, second = run(), run()
    assert first[:4] == ["True", "True", "7", "False"]
    assert second[:4] == ["False", "False", "7", "False"]
    folder = Path(first[5])
    assert folder == Path(second[5]) and folder.parent == tmp_path / "home" / ".cache" / "tightfit"
    assert first[6] == "''", "other libraries' kernels would move"


def test_the_compiler_is_not_said_to_work_where_it_does_not(tmp_path):
    (tmp_path / "own.py").write_text(
        "from tightfit.traces.jit import before_compiling, kernel, watching_compiler\n"
        "@kernel\ndef seven(x):\n    return x + 7\n"
        "told = []\nbefore_compiling(lambda: told.append(1))\n"
        "with watching_compiler() as worked:\n    seven(1)\nprint(worked(), len(told))\n"
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    env.pop("NUMBA_DISABLE_JIT", None)
    found = [
        subprocess.run(
            [sys.executable, "own.py"],
            env=env,
            check=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert float(found[0][0]) > 0.0 == float(found[1][0])
    assert (found[0][1], found[1][1]) == ("1", "0")


@pytest.mark.skipif(not jit.JIT, reason="nothing is compiled")
def test_that_the_compiler_begins_is_told_once_and_to_nobody_who_left():
    told = []

    @numba.njit
    def more(x):
        return x + 1

    jit.before_compiling(lambda: told.append("first"))
    assert more(1) == 2 and told == ["first"]
    assert more(1.0) == 2 and told == ["first"], "for other types it is compiled again"
    jit.before_compiling(lambda: told.append("second"))
    assert more(2) == 3 and told == ["first"], "nothing is compiled"
    jit.before_compiling(None)
    assert more(1j) == 1 + 1j and told == ["first"]


def test_old_folders_go_and_other_files_stay(run, tmp_path):
    base = tmp_path / "home" / ".cache" / "tightfit"
    for k in range(9):
        (base / f"{k:016x}").mkdir(parents=True)
        os.utime(base / f"{k:016x}", (k, k))
    (base / "mine").mkdir()
    kept = Path(run()[5]).name
    assert {p.name for p in base.iterdir()} == {kept, "mine", *(f"{k:016x}" for k in (6, 7, 8))}


def test_the_users_own_cache_folder_is_honoured(run, tmp_path):
    out = run(NUMBA_CACHE_DIR=str(tmp_path / "own"))
    assert Path(out[5]).is_relative_to(tmp_path / "own")
    assert out[6] == repr(str(tmp_path / "own"))


@pytest.mark.skipif(not jit.JIT, reason="nothing is compiled")
def test_threads_that_decorate_at_once_keep_to_the_folder(monkeypatch):
    found = []
    together = threading.Barrier(2)

    def slow(*args, **kwargs):
        """Numba looks where to keep things some time after it was called."""

        def decorate(function):
            found.append(jit._config.CACHE_DIR)
            with suppress(threading.BrokenBarrierError):
                together.wait(0.2)  # both are here at once, unless one keeps the other out
            time.sleep(0.02 * len(found))  # and they leave one after the other
            found.append(jit._config.CACHE_DIR)
            return function

        return decorate

    before = jit._config.CACHE_DIR
    monkeypatch.setattr(jit, "_njit", slow)
    monkeypatch.setattr(jit, "_cfunc", slow)
    threads = [
        threading.Thread(target=decorate, args=(len,))
        for decorate in (jit.kernel, jit.c_function(0))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [str(jit.cache_folder())] * 4
    assert jit._config.CACHE_DIR == before


def test_code_with_index_checks_is_kept_apart(run):
    assert run()[5] != run(NUMBA_BOUNDSCHECK="1")[5]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="folders have owners only on Unix")
def test_a_folder_others_may_write_to_is_not_trusted(run, tmp_path):
    base = tmp_path / "home" / ".cache" / "tightfit"
    base.mkdir(parents=True)
    base.chmod(0o777)
    (tmp_path / "tmp").mkdir()
    out = run(TMPDIR=str(tmp_path / "tmp"))
    assert Path(out[5]).is_relative_to(tmp_path / "tmp")
    (tmp_path / "tmp" / f"tightfit-{os.getuid()}").chmod(0o777)
    out = run(TMPDIR=str(tmp_path / "tmp"))
    assert out[5] == "None" and out[2] == "7"  # compiled anew, kept nowhere


def test_without_compilation_functions_stay_plain(run):
    out = run(NUMBA_DISABLE_JIT="1")
    assert out[:6] == ["False", "False", "7", "False", "False", "None"]
    assert out[7] == "function"


def test_the_hash_covers_every_floor(tmp_path, monkeypatch):
    for floor in jit.FLOORS:
        (tmp_path / floor).mkdir()
        (tmp_path / floor / "a.py").write_text("x = 1")
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "traces" / "jit.py"))
    before = jit.source_hash.__wrapped__()
    assert before == jit.source_hash.__wrapped__()
    for floor in jit.FLOORS:
        (tmp_path / floor / "a.py").write_text("x = 2")
        after = jit.source_hash.__wrapped__()
        assert after != before
        before = after


@pytest.mark.skipif(not jit.JIT, reason="nothing is compiled")
def test_nobody_looks_for_garbage_while_numba_compiles():
    looked = []

    def marked(x):
        raise NotImplementedError

    @overload(marked)
    def resolve(x):
        looked.append(gc.isenabled())
        return lambda x: x + 1

    @numba.njit
    def call(x):
        return marked(x)

    assert gc.isenabled()
    assert call(1) == 2
    assert looked == [False]
    assert gc.isenabled()
