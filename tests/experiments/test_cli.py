"""The command line: how fast it answers, how it fails, what goes where."""

from __future__ import annotations

import copy
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tightfit.experiments import cli, screen, summary
from tightfit.traces.errors import TraceError

from .story import dump, snapshot

HEAVY = ("numba", "numpy", "optuna", "pandas", "scipy", "torch", "rich")
NAMES = sorted(command.__name__ for command in cli.COMMANDS)
HELPED = [[], *([name] for name in NAMES), ["policy"], *(["policy", w] for w in ("list", "new"))]


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tightfit", *words],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.mark.parametrize("words", HELPED, ids=" ".join)
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from tightfit.experiments.cli import main; "
        f"code = main({[*words, '--help']!r}); "
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.split("\n")[-2] == "0 []"
    assert done.stdout.startswith(" ".join(["Usage: tightfit", *words]))
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_every_command_is_listed_with_one_line() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for name in NAMES:
        (line,) = [x for x in result.output.splitlines() if x.split()[:1] == [name]]
        assert not line.endswith("..."), "the first sentence of the docstring is too long"


def test_without_a_command_help_is_shown(capsys: Any) -> None:
    assert cli.main([]) == 0
    assert "Commands:" in capsys.readouterr().out


def test_a_first_run_says_that_it_compiles(story: Path, tmp_path: Path) -> None:
    cold = run("info", str(story), "--json", NUMBA_CACHE_DIR=str(tmp_path))
    assert cold.stderr.startswith("first run: compiling kernels (once, about ")
    warm = run("info", str(story), "--json", NUMBA_CACHE_DIR=str(tmp_path))
    assert warm.stderr == ""
    assert warm.stdout == cold.stdout


@pytest.mark.parametrize(
    "words",
    [["info"], ["check"], ["replay"], ["tune"], ["compare"], ["explain"], ["verify"],
     ["live", "--policy", "best_fit", "--check"], ["convert"], ["strip"]],
    ids=lambda words: words[0],
)  # fmt: skip
@pytest.mark.parametrize("name", ["nosuch.pickle", "folder", "empty.pickle"])
def test_nothing_is_compiled_for_what_cannot_be_a_recording(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pickle").touch()
    monkeypatch.setattr(screen, "announce_compiling", lambda *_, **__: pytest.fail("announced"))
    out = ["out.npz"] if words[0] in ("convert", "strip") else []
    assert cli.main([*words, name, *out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"tightfit: {name}: found ")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        *((command, "NAME.events") for command in ("info", "check", "replay", "tune", "compare")),
        *((command, "GB = 10^9, GiB = 2^30") for command in ("replay", "explain", "live")),
        ("explain", "default: what a recorded run could have that ran out of it"),
        ("verify", "V0, the release accepts the lines"),
        ("record", "a file each; not with --fake"),
        ("record", "(default: 20,000,000)"),
    ],
)
def test_help_says_what_is_read_and_what_holds_without_an_option(
    command: str, words: str, capsys: Any
) -> None:
    assert cli.main([command, "--help"]) == 0
    assert words in " ".join(capsys.readouterr().out.split())


def test_version(capsys: Any) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.split()[0] == "tightfit"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["inof"], "Did you mean 'info'?"),
        (["info", "--jsn", "x"], "did you mean '--json'?"),
        (["--verson"], "did you mean '--version'?"),
        (["info"], "TRACE"),
        (["info", "a", "b"], "unexpected extra argument"),
        (["workloads", "--events", "many"], "found 'many'"),
        (["workloads", "--events", "7"], "1000, found '7'"),
        (["compare", "x", "--packing", "-2.5"], "0, found '-2.5'"),
        (["replay", "x", "--device", "1.5"], "found '1.5'"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_gets_the_right_word(
    words: list[str], expected: str, capsys: Any
) -> None:
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert expected in printed.err
    assert "--help" in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"\x80\x04", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"\x80\x04N."],
    ids=["empty", "text", "cut", "code", "none"],
)
def test_a_bad_file_is_one_message(tmp_path: Path, content: bytes, capsys: Any) -> None:
    path = tmp_path / "bad.pickle"
    path.write_bytes(content)
    assert cli.main(["info", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [x for x in printed.err.splitlines() if not x.startswith("first run:")]
    assert line.startswith("tightfit: bad.pickle: ")


def test_a_missing_file_is_one_message(tmp_path: Path) -> None:
    done = run("info", str(tmp_path / "absent.pickle"), "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "absent.pickle" in done.stderr and "Traceback" not in done.stderr


def test_json_stands_alone_on_standard_output(story: Path) -> None:
    done = run("info", str(story), "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["devices"][0]["peak_reserved_bytes"] == 22 << 20
    assert isinstance(answer["devices"][0]["peak_requested_bytes"], int)
    assert answer["verdict"].startswith("story.pickle: 10 entries")


def test_no_colour_codes_reach_a_pipe(story: Path) -> None:
    done = run("info", str(story), FORCE_COLOR="1", TERM="xterm-256color")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_names_in_a_recording_cannot_steer_the_terminal(tmp_path: Path, capsys: Any) -> None:
    content = snapshot()
    frame = {"filename": "/a/\x1b[31mred.py", "line": 1, "name": "f\x07\u202e"}
    for segment in content["segments"]:
        for block in segment["blocks"]:
            block["frames"] = [frame]
    content["allocator_settings"]["PYTORCH_CUDA_ALLOC_CONF"] = "x:\x1b]0;y\nnext: rm"
    path = dump(content, tmp_path / "n\x1b[2J\nm.pickle")
    assert cli.main(["info", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "a/\\x1b[31mred.py:1 f\\x07\\u202e" in printed
    assert "settings: x:\\x1b]0;y\\nnext: rm\n" in printed
    assert not set(printed) & {"\x1b", "\x07", "\u202e"}
    assert cli.main(["info", str(path.with_name("no\x1b[2J\n.pickle"))]) == cli.BAD_INPUT
    said = capsys.readouterr().err
    assert "\x1b" not in said and said.count("\n") == 1


def test_an_answer_that_nobody_wants_is_no_error(story: Path) -> None:
    command = [sys.executable, "-m", "tightfit", "info", str(story)]
    for closed in (">&-", ">&- 2>&-"):
        done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], capture_output=True)
        assert done.returncode == 0
        assert b"bug" not in done.stderr and b"Traceback" not in done.stderr


def test_a_narrow_character_set_is_no_obstacle(story: Path) -> None:
    done = run("info", str(story), PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert done.stdout.isascii()


def test_a_reader_that_leaves_is_not_an_error(story: Path) -> None:
    words = [sys.executable, "-m", "tightfit", "info", str(story)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read().decode()
    assert [line for line in said.splitlines() if not line.startswith("first run:")] == []
    assert process.returncode == cli.BROKEN_PIPE


def test_ctrl_c_while_the_program_is_being_loaded_is_no_traceback() -> None:
    program = (
        "import builtins, sys\nkept = builtins.__import__\n"
        "def load(name, *rest):\n"
        "    if name == 'typer':\n        raise KeyboardInterrupt\n"
        "    return kept(name, *rest)\n"
        "builtins.__import__ = load\n"
        "from tightfit.__main__ import main\nsys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (cli.INTERRUPTED, "\ntightfit: interrupted\n")


class _Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


def _failing(error: BaseException) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (TraceError("x.pickle: entry 3: found 4, expected 5"), 2, "x.pickle: entry 3: found 4"),
        (PermissionError(13, "Permission denied", "x.npz"), 2, "x.npz: Permission denied"),
        (MemoryError(), 2, "not enough main memory"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 70, "TIGHTFIT_DEBUG=1"),
        (_Mute(), 70, "_Mute: it has no message"),
        (SystemExit(0), 2, "it ended the command: SystemExit: 0"),
        (GeneratorExit(), 2, "it ended the command: GeneratorExit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_failure_has_a_code_and_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
    story: Path,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    monkeypatch.setattr(summary, "summarize", _failing(error))
    monkeypatch.delenv("TIGHTFIT_DEBUG", raising=False)
    assert cli.main(["info", str(story)]) == code
    printed = capsys.readouterr()
    assert said in printed.err and printed.out == ""
    assert "Traceback" not in printed.err


def test_where_standard_error_takes_nothing_the_code_is_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    for stream in (Full(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert cli.main(["info", str(tmp_path / "nope.npz")]) == cli.BAD_INPUT
        assert sys.stderr not in (stream, None)  # Python's own flush at exit would fail again


def test_the_traceback_of_a_bug_is_there_for_the_asking(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, story: Path
) -> None:
    monkeypatch.setattr(summary, "summarize", _failing(ZeroDivisionError("division by zero")))
    monkeypatch.setenv("TIGHTFIT_DEBUG", "1")
    assert cli.main(["info", str(story)]) == cli.BUG
    assert "Traceback" in capsys.readouterr().err


def test_convert_loses_nothing_that_info_shows(story: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "story.npz"
    assert cli.main(["convert", str(story), str(out), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["target_bytes"] == out.stat().st_size
    assert (written["entries"], written["source_bytes"]) == (10, story.stat().st_size)

    def told(path: Path) -> dict[str, Any]:
        assert cli.main(["info", str(path), "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        return {key: answer[key] for key in ("devices", "conf", "settings", "recorded_by")}

    assert told(story) == told(out)


def test_strip_leaves_no_name_behind(story: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "bare.npz"
    assert cli.main(["strip", str(story), str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["info", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["name"] == "bare.npz"
    assert answer["devices"][0]["owners"] == []
    assert answer["devices"][0]["peak_reserved_bytes"] == 22 << 20


@pytest.mark.parametrize("command", ["convert", "strip"])
def test_nothing_is_overwritten_unasked(
    story: Path, tmp_path: Path, command: str, capsys: Any
) -> None:
    out = tmp_path / "kept.npz"
    out.write_bytes(b"precious")
    assert cli.main([command, str(story), str(out)]) == 2
    assert out.read_bytes() == b"precious"
    assert "--force" in capsys.readouterr().err
    assert cli.main([command, str(story), str(out), "--force"]) == 0
    assert out.read_bytes() != b"precious"


@pytest.mark.parametrize(("name", "said"), [("x.pickle", "x.npz"), ("no/x.npz", "no folder")])
def test_an_output_must_be_named_rightly(
    story: Path, tmp_path: Path, name: str, said: str, capsys: Any
) -> None:
    assert cli.main(["convert", str(story), str(tmp_path / name)]) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [story]


@pytest.mark.parametrize(
    "words",
    [["record", "--", "true"], ["convert", "STORY"], ["workloads", "serve"], ["policy", "new"]],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    words: list[str], story: Path, capsys: Any
) -> None:
    nowhere = "/proc/x.py" if words[0] == "policy" else "/proc/x.npz"
    options = ["-o", nowhere] if words[0] == "record" else []
    given = [str(story) if word == "STORY" else word for word in words]
    given[1:1] = options
    assert cli.main(given if options else [*given, nowhere]) == 2
    out, error = capsys.readouterr()
    assert f"{nowhere}: cannot be written" in error and not out


def test_a_group_alone_shows_its_help_as_the_program_does(capsys: Any) -> None:
    assert cli.main(["policy"]) == 0
    out, error = capsys.readouterr()
    assert out.startswith("Usage: tightfit policy") and not error


def test_a_story_of_two_devices_is_told_of_both(tmp_path: Path, capsys: Any) -> None:
    content = snapshot()
    other = copy.deepcopy(content["segments"][0]) | {"device": 1}
    content["segments"].append(other)
    content["device_traces"].append(copy.deepcopy(content["device_traces"][0]))
    path = dump(content, tmp_path / "two.pickle")
    assert cli.main(["info", str(path), "--json"]) == 0
    devices = json.loads(capsys.readouterr().out)["devices"]
    assert [d["device"] for d in devices] == [0, 1]
    assert devices[0] == {**devices[1], "device": 0}
