"""An experiment file: what it may say, and one clear message for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tightfit.experiments.cli import main
from tightfit.experiments.question.line_up import line_up
from tightfit.experiments.question.question import read_question
from tightfit.experiments.question.recordings import sources
from tightfit.sim.release import release
from tightfit.traces.errors import ConfigError
from tightfit.traces.units import GiB, MiB

DATA = Path(__file__).resolve().parents[2] / "traces" / "data"
HEAD = 'question = "Which?"\n'
TRACE = f'[[trace]]\nfile = "{DATA / "streams.default.npz"}"\n'
POLICY = '[[policy]]\nname = "best_fit"\n'


def written(folder: Path, text: str) -> Path:
    path = folder / "asked.toml"
    path.write_text(text, encoding="utf-8")
    return path


def labels(folder: Path, policies: str) -> list[str]:
    question = read_question(written(folder, HEAD + TRACE + policies))
    return [e.label for e in line_up(question, release("2.15"))]


def fault(folder: Path, text: str) -> str:
    """The message about a file."""
    with pytest.raises(ConfigError) as caught:
        question = read_question(written(folder, text))
        line_up(question, release(question.torch or "2.15"))
        sources(question.traces, folder)
    return str(caught.value)


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    question = read_question(written(tmp_path, HEAD + TRACE + POLICY))
    assert (question.question, question.torch, question.capacities) == ("Which?", "", (None,))
    assert question.sort_by == question.columns[0] == "peak_reserved"


def test_a_list_means_one_row_for_each_value(tmp_path: Path) -> None:
    found = labels(
        tmp_path,
        '[[policy]]\nname = "best_fit"\nquantum = [512, "4KiB"]\nsegment = ["2MiB", "20MiB"]\n'
        '[[policy]]\nname = "pytorch"\nconf = ["", "expandable_segments:True"]\n'
        '[[policy]]\nname = "pytorch"\nconf = "max_split_size_mb:128"\nlabel = "split"\n',
    )
    assert found == [
        "best_fit:quantum=512,segment=2MiB", "best_fit:quantum=512,segment=20MiB",
        "best_fit:quantum=4KiB,segment=2MiB", "best_fit:quantum=4KiB,segment=20MiB",
        "pytorch", "pytorch:expandable_segments:True", "split",
    ]  # fmt: skip


def test_the_baseline_is_pytorch_unless_another_is_named(tmp_path: Path) -> None:
    def baseline(policies: str) -> list[str]:
        question = read_question(written(tmp_path, HEAD + TRACE + policies))
        return [e.label for e in line_up(question, release("2.15")) if e.is_baseline]

    assert baseline(POLICY) == ["pytorch"]
    assert baseline(POLICY + '[[policy]]\nname = "pytorch"\n') == ["pytorch"]
    assert baseline(POLICY + "baseline = true\n") == ["best_fit"]


def test_sizes_are_numbers_or_texts_and_a_device_may_have_no_end(tmp_path: Path) -> None:
    text = '[device]\ncapacity = ["unlimited", "24GiB", 1048576000]\nother = "500MiB"\n'
    question = read_question(written(tmp_path, HEAD + text + TRACE + POLICY))
    assert question.capacities == (None, 24 * GiB, 1000 * MiB)
    alone = text.replace(', "24GiB", 1048576000', "")
    said = fault(tmp_path, HEAD + alone + TRACE + POLICY)
    assert said.endswith("other: it matters only with a capacity; give both")
    assert question.other_bytes == 500 * MiB


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    for name in ("b.npz", "a.npz", "a.txt"):
        (tmp_path / "data" / name).write_bytes(name.encode())
    (tmp_path / "my [1].npz").write_bytes(b"1")
    path = written(tmp_path, HEAD + POLICY + '[[trace]]\nfile = "data/*.npz"\n'
                   '[[trace]]\nfile = "my [1].npz"\n')  # fmt: skip
    monkeypatch.chdir("/")
    found = sources(read_question(path).traces, path.parent)
    assert [s.name for s in found] == ["a", "b", "my [1]"]
    assert len({s.content for s in found}) == 3


def test_a_copy_is_the_same_recording(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).write_bytes(b"same")
    said = fault(tmp_path, HEAD + POLICY + '[[trace]]\nfile = "*.npz"\n')
    assert "found a.npz and b.npz, which holds the same; expected each recording once" in said


def test_recordings_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.npz").write_bytes(folder.encode())
    path = written(tmp_path, HEAD + POLICY + '[[trace]]\nfile = "*/x.npz"\n')
    found = sources(read_question(path).traces, path.parent)
    assert [s.name for s in found] == ["a/x.npz", "b/x.npz"]


def test_a_synthetic_recording_is_made_once_for_each_seed(tmp_path: Path) -> None:
    text = '[[trace]]\nworkload = "kv_doubling"\nevents = 2000\nseeds = [0, 7]\nlengths = "code"\n'
    question = read_question(written(tmp_path, HEAD + POLICY + text))
    found = sources(question.traces, tmp_path)
    assert [s.name for s in found] == ["kv_doubling code seed 0", "kv_doubling code seed 7"]
    first, second = (s.load()[0].program for s in found)
    assert first.n_ops == second.n_ops and first.req_size.tolist() != second.req_size.tolist()


HUGE = "0x" + "f" * 5000
FAULTS = [
    ("question = 3", "asked.toml: question: found 3, expected a text that is not empty"),
    (TRACE + POLICY, "asked.toml: question is missing"),
    (HEAD + POLICY, "asked.toml: no [[trace]]; expected at least one recording"),
    (HEAD + TRACE, "asked.toml: no [[policy]]; expected at least one policy"),
    ("question = \n", "asked.toml: not TOML: Invalid value (at line 1, column 12)"),
    (HEAD + "torhc = '2.15'\n" + TRACE + POLICY, "unknown key 'torhc'; did you mean 'torch'?"),
    (HEAD + "[trace]\nfile='x'\n" + POLICY, "expected tables, each below a line with double"),
    (HEAD + "trace = 3\n" + POLICY, "asked.toml: trace: found 3, expected tables"),
    (HEAD + TRACE + "[[policy]]\n", "asked.toml: [[policy]] 1: name is missing"),
    (HEAD + TRACE + '[[policy]]\nname = "best_fitt"\n', "did you mean 'best_fit'?"),
    (
        HEAD + TRACE + POLICY + "quantm = 512\n",
        "[[policy]] 1: unknown key 'quantm'; did you mean 'quantum'?",
    ),
    (HEAD + '[[trace]]\nfil = "x"\n' + POLICY, "1: unknown key 'fil'; did you mean 'file'?"),
    ('questoin = "Which?"\n', "asked.toml: unknown key 'questoin'; did you mean 'question'?"),
    (HEAD + TRACE + '[[policy]]\nnam = "best_fit"\n', "unknown key 'nam'; did you mean 'name'?"),
    (HEAD + TRACE + POLICY + "baselin = true\n", "unknown key 'baselin'; did you mean 'baseline'?"),
    (HEAD + TRACE + POLICY + "trials = 3\ntun = 1\n", "unknown key 'tun'; did you mean 'tune'?"),
    (HEAD + '[device]\ncapasity = 3\nother = ""\n' + TRACE + POLICY, "did you mean 'capacity'?"),
    (HEAD + '[table]\ncolumns = ["x"]\nsort = "x"\n' + TRACE + POLICY, "did you mean 'sort_by'?"),
    (HEAD + "[device]\ncapacity = 80\n" + TRACE + POLICY, 'memory of a GPU such as "80GiB"'),
    (HEAD + TRACE + POLICY + "quantum = 1.5\n", "quantum: found 1.5, expected a whole number or"),
    (HEAD + TRACE + POLICY + "quantum = []\n", "quantum: found [], expected a value or a list"),
    (HEAD + TRACE + POLICY + "quantum = [512, 512]\n", "found 512, expected each value once"),
    (HEAD + TRACE + POLICY + "quantum = 1\n", "[[policy]] 1, best_fit: quantum = 1 is outside"),
    (HEAD + TRACE + POLICY + POLICY, "[[policy]] 2, best_fit: found a second policy called"),
    (HEAD + TRACE + POLICY + 'quantum = [512, 1024]\nlabel = "x"\n', "label: it is for one policy"),
    (HEAD + TRACE + POLICY + 'tune = "each"\nbaseline = true\n', "cannot be the baseline"),
    (HEAD + TRACE + POLICY + 'tune = "eech"\n', "did you mean 'each'?"),
    (HEAD + TRACE + POLICY + "trials = 3\n", "trials: it matters only with tune"),
    (HEAD + TRACE + POLICY + 'tune = "all"\ntune_for = "peak"\n', "expected one of peak_reserved"),
    (HEAD + TRACE + '[[policy]]\nname = "next_fit"\ntune = "each"\nquantum = 5\n', "unknown key"),
    (HEAD + TRACE + '[[policy]]\nname = "pytorch"\nconf = "expandable:True"\n', "[[policy]] 1, py"),
    (
        HEAD + TRACE + '[[policy]]\nname = "pytorch"\ntune = "each"\nwithout = "expandabel"\n',
        "[[policy]] 1, pytorch",
    ),
    (HEAD + TRACE + '[[policy]]\nname = "best_fit:quantum=512"\n', "found values behind it"),
    (HEAD + TRACE + '[[policy]]\nname = "gone.py:Fit"\n', "No such file"),
    (HEAD + "[device]\ncapacity = true\n" + TRACE + POLICY, 'or "unlimited"'),
    (HEAD + '[device]\ncapacity = "1GiB"\nother = "2GiB"\n' + TRACE + POLICY, "less than the cap"),
    (HEAD + '[table]\ncolumns = ["peak"]\n' + TRACE + POLICY, "found 'peak', expected one of peak"),
    (HEAD + '[table]\nsort_by = "retries"\n' + TRACE + POLICY, "found 'retries', expected one of"),
    (HEAD + '[[trace]]\nfile = "x"\nworkload = "serve"\n' + POLICY, "expected either file"),
    (HEAD + '[[trace]]\nfile = "none/*.npz"\n' + POLICY, "matches 'none/*.npz'"),
    (HEAD + f'[[trace]]\nfile = "{DATA}/stream.default.npz"\n' + POLICY, "did you mean 'stream"),
    (HEAD + TRACE + TRACE + POLICY, "found streams.default.npz twice; expected each"),
    (HEAD + TRACE + TRACE + "device = 0\n" + POLICY, "streams.default.npz twice; expected each"),
    (HEAD + TRACE + POLICY + 'label = "best packing found"\n', "is the name of a bound"),
    (HEAD + TRACE + '[[policy]]\nname = "planned"\nbaseline = true\n', "is told of the program"),
    (HEAD + TRACE + 'sha256 = "00"\n' + POLICY, "expected 00; it is another recording"),
    (HEAD + '[[trace]]\nworkload = "kv"\n' + POLICY, "found 'kv', expected one of kv_cat"),
    (HEAD + '[[trace]]\nworkload = "serve"\nlengths = "x"\n' + POLICY, "unknown key 'lengths'"),
    (HEAD + '[[trace]]\nworkload = "serve"\nseeds = -1\n' + POLICY, "found -1, expected 0 or more"),
    ("seed = " + "9" * 5000, "found a number of thousands of digits, expected none above"),
    (HEAD + f"seed = {HUGE}\n" + TRACE + POLICY, "seed: found a number of thousands of digits"),
    (HEAD + f"packing_seconds = {HUGE}\n" + TRACE + POLICY, "expected a number of 0 or more"),
    (HEAD + f"[device]\ncapacity = {HUGE}\n" + TRACE + POLICY, 'expected a size such as "24GiB"'),
    (HEAD + f'[[trace]]\nworkload = "serve"\nseeds = {HUGE}\n' + POLICY, "expected at most"),
    (HEAD + TRACE + f"[[policy]]\nname = {HUGE}\n", "name: found a number of thousands of"),
    (HEAD + TRACE + f"[[policy]]\nname = [{HUGE}]\n", "name: found a number of thousands of"),
    (HEAD + TRACE + POLICY + f"quantum = {HUGE}\n", "expected a whole number or a size"),
    (HEAD + TRACE + '[[policy]]\nname = "a\\u0000.py"\n', "expected a text without the character"),
    (HEAD + '[[trace]]\nfile = "a\\u0000/*"\n' + POLICY, "expected a text without the character"),
    (HEAD + f'[[trace]]\nfile = "{DATA}"\n' + POLICY, "data: found a folder, expected a file"),
    (HEAD + '[[trace]]\nfile = "/dev/null"\n' + POLICY, "/dev/null: found something else, expec"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    said = fault(tmp_path, text)
    assert message in said
    assert "\n" not in said and "--policy" not in said


def test_a_file_that_is_not_there_or_not_text(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    written(tmp_path, HEAD)
    assert main(["run", str(tmp_path / "askd.toml")]) == 2
    assert "did you mean 'asked.toml'?" in capsys.readouterr().err
    (tmp_path / "asked.toml").write_bytes(b"\xff\xfe")
    assert main(["run", str(tmp_path / "asked.toml")]) == 2
    assert "not text in UTF-8" in capsys.readouterr().err
    (tmp_path / "folder.toml").mkdir()
    assert main(["run", str(tmp_path / "folder.toml")]) == 2
    said = capsys.readouterr().err
    assert "folder.toml: found a folder, expected an experiment file" in said
    assert "did you mean" not in said


def test_check_says_what_would_be_run_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = written(tmp_path, HEAD + TRACE + POLICY + "quantum = [512, 4096]\n")
    assert main(["run", str(path), "--check", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [p["label"] for p in said["policies"]] == [
        "pytorch", "best_fit:quantum=512", "best_fit:quantum=4096",
    ]  # fmt: skip
    assert said["policies"][0]["baseline"] and said["capacities_bytes"] == [None]
    assert main(["run", str(path), "--check"]) == 0
    assert capsys.readouterr().out.startswith("3 policies on 1 recording and 1 simulated device")
    assert [p.name for p in tmp_path.iterdir()] == ["asked.toml"]
