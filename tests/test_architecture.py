"""The frame of the house: floors, homes of libraries, packaging, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ("traces", "sim", "policies", "experiments")  # lowest first
# Library -> where it may be imported, and why there.
HOMES = {
    "numba": {
        "traces/jit.py": "says how code is compiled and where it is kept",
        "sim/memory.py": "teaches the compiler raw pointers",
        "sim/policy.py": "teaches the compiler what a policy is",
        "sim/apart.py": "teaches the compiler calls through a table of addresses",
        "sim/assumed.py": "teaches the compiler what an assumption is",
        "sim/live_state.py": "teaches the compiler a lock, and a name that the linker resolves",
    },
    "llvmlite": {
        "traces/jit.py": "its version is part of the cache key",
        "sim/memory.py": "the instructions behind raw pointers",
        "sim/apart.py": "the instructions behind calls through a table",
        "sim/live_state.py": "the instructions behind a lock; the linker's names",
    },
    "optuna": {"experiments/search.py": "hides the search library from everybody else"},
}
LONGEST = 400  # lines of a module
LONGEST_TEST = 600  # a list of claims and examples reads from any line on
# Path -> why it would be harder to read in two files.
LONG_FILES = {
    "traces/pickle_machine.py": "one loop, with a branch for each of thirty opcodes",
    "sim/reference_allocator.py": "one algorithm, malloc and its recovery, in the source's order",
}


def package_files() -> list[Path]:
    """Every module of the package."""
    return sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))


def python_files() -> list[Path]:
    """Every module and every test."""
    return [*package_files(), *sorted(ROOT.glob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))]


def tracked_files() -> list[Path]:
    """Every file that git knows; what would be published."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def name_of(path: Path) -> str:
    """The path as written in messages."""
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (level, module, names) of every import statement; level 0 is absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def import_faults(floor: str, source: str, depth: int = 0) -> list[str]:
    """Return what is wrong with a module's imports of our own code.

    Args:
        floor: the floor it stands on.
        source: its text.
        depth: how many folders below the floor's own it stands.
    """
    faults = []
    own_height = FLOORS.index(floor)
    for level, module, names in imports(ast.parse(source)):
        if depth and level:
            if level == 1:  # a neighbour in the same folder
                faults += (
                    [] if module else [f"from . import {names}: import from the module itself"]
                )
                continue
            level -= depth
        first, _, rest = module.partition(".")
        if level == 0 and first == "tightfit":
            faults.append(f"import of {module}: inside the package imports are relative")
        elif level == 1 and not module:
            # A whole sibling module is a module; anything else would come from __init__.py.
            faults += [
                f"from . import {name}: import from the module itself"
                for name in names
                if not (ROOT / floor / f"{name}.py").is_file()
            ]
        elif level == 2 and not module:
            if names != ["__version__"]:
                faults.append(f"from .. import {names[0]}: import from the module itself")
        elif level == 2 and first not in FLOORS:
            faults.append(f"from ..{module}: no floor of that name")
        elif level == 2 and FLOORS.index(first) > own_height:
            faults.append(f"from ..{module}: {floor} stands below {first}")
        elif level == 2 and not rest:
            faults.append(f"from ..{module} import {names[0]}: import from the module itself")
        elif level > 2:
            faults.append(f"from {'.' * level}{module}: leaves the package")
    return faults


def library_faults(name: str, source: str) -> list[str]:
    """Return imports of libraries outside their homes, and of torch outside functions."""
    tree = ast.parse(source)
    used = {module.split(".")[0] for level, module, _ in imports(tree) if level == 0}
    faults = [
        f"{library} belongs in {' and '.join(homes)}"
        for library, homes in HOMES.items()
        if library in used and name not in homes
    ]
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in inside:
            for level, module, _ in imports(node):
                if level == 0 and module.split(".")[0] == "torch":
                    faults.append("torch is imported inside functions only")
    return faults


def text_of(path: Path) -> str:
    """A file's text."""
    return path.read_text(encoding="utf-8")


def test_imports_point_down_and_name_a_module() -> None:
    faults = {
        name_of(path): import_faults(
            path.relative_to(ROOT).parts[0], text_of(path), len(path.relative_to(ROOT).parts) - 2
        )
        for path in package_files()
    }
    assert {name: found for name, found in faults.items() if found} == {}


@pytest.mark.parametrize(
    ("floor", "line"),
    [
        ("traces", "from ..sim.run import Run"),
        ("sim", "from tightfit.traces.units import MiB"),
        ("policies", "from ..sim import run"),
        ("experiments", "from . import main"),
        ("experiments", "def f():\n    from ..outside.thing import x"),
    ],
)
def test_a_planted_wrong_import_is_found(floor: str, line: str) -> None:
    assert len(import_faults(floor, line)) == 1


@pytest.mark.parametrize(
    ("line", "faults"),
    [
        ("from .neighbour import x", 0),
        ("from ...sim.run import Run", 0),
        ("from ..screen import say", 0),
        ("from ....sim.run import Run", 1),
        ("from ...sim import run", 1),
        ("from . import neighbour", 1),
    ],
)
def test_imports_of_a_folder_inside_a_floor(line: str, faults: int) -> None:
    assert len(import_faults("experiments", line, depth=1)) == faults


def test_libraries_are_imported_at_home_only() -> None:
    faults = {
        name_of(path): library_faults(name_of(path), text_of(path)) for path in package_files()
    }
    assert {name: found for name, found in faults.items() if found} == {}


def test_a_planted_library_import_is_found() -> None:
    assert len(library_faults("sim/heap.py", "def f():\n    from numba import njit")) == 1
    assert library_faults("traces/jit.py", "import numba.core.config") == []
    assert len(library_faults("sim/heap.py", "import torch.cuda")) == 1
    assert library_faults("sim/heap.py", "def f():\n    import torch") == []


def test_every_package_is_listed() -> None:
    """setuptools leaves an unlisted folder out of the wheel, and an editable install hides it."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in package_files()}
    expected = {"tightfit"} | {".".join(("tightfit", *folder.parts)) for folder in folders}
    assert sorted(listed) == sorted(expected)


def test_every_file_opens_with_a_docstring() -> None:
    assert [
        name_of(p) for p in python_files() if not ast.get_docstring(ast.parse(text_of(p)))
    ] == []


def test_every_file_is_named_after_its_idea() -> None:
    nameless = {"utils", "util", "helpers", "common", "misc", "core"}
    named = [
        (name_of(p), nameless & set(p.relative_to(ROOT).with_suffix("").parts))
        for p in python_files()
    ]
    assert [name for name, found in named if found] == []


def test_no_file_is_long_without_a_reason() -> None:
    lines = {name_of(path): len(text_of(path).splitlines()) for path in python_files()}
    long = {
        name
        for name, n in lines.items()
        if n > (LONGEST_TEST if name.startswith("tests/") else LONGEST)
    }
    assert long == set(LONG_FILES), {name: lines.get(name) for name in long ^ set(LONG_FILES)}
    assert all(len(reason.split()) > 3 for reason in LONG_FILES.values())


def test_the_root_module_imports_nothing() -> None:
    """pytest imports it under the clone folder's name, where relative imports would fail."""
    body = ast.parse(text_of(ROOT / "__init__.py")).body
    assert [type(node).__name__ for node in body] == ["Expr", "Assign"]


PLACES = re.compile(rb"(?<![\w.~}*])/(?:" + b"|".join((b"work", b"root", b"tmp", b"Users")) + b")/")


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    suffixes = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".sh", ""}
    texts = [path for path in tracked_files() if path.suffix in suffixes]
    assert [name_of(path) for path in texts if PLACES.search(path.read_bytes())] == []
    assert PLACES.search(b'open("' + b"/work" + b'/data")')
