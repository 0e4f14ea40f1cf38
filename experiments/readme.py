"""The README's examples: every block that begins with "$ tightfit" is output, never typed.

python -m tightfit.experiments.readme README.md            writes them anew
python -m tightfit.experiments.readme README.md --check    exit code 1 if they differ
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import tempfile
from pathlib import Path

from .cli import main as run_command

BLOCK = re.compile(r"(```console\n)(\$ tightfit [^\n]*\n)(.*?)(```\n)", re.DOTALL)


def output_of(command: str) -> str:
    """Run a `tightfit …` command line in this process and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        run_command(shlex.split(command)[1:])
    return out.getvalue()


def regenerate(text: str) -> str:
    """Return a Markdown text with the output under each command replaced by the real one."""

    def fresh(match: re.Match[str]) -> str:
        command = match.group(2)[2:].strip()
        return match.group(1) + match.group(2) + output_of(command) + match.group(4)

    return BLOCK.sub(fresh, text)


def regenerate_in_copy(text: str, root: Path) -> str:
    """Regenerate in an empty folder that shows what examples read, so that nothing is left.

    Args:
        text: the Markdown.
        root: folder that the examples' file names start from.
    """
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        for shown in ("traces", "docs"):
            (Path(folder) / shown).symlink_to(root / shown)
        os.chdir(folder)
        try:
            return regenerate(text)
        finally:
            os.chdir(before)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, default=Path("README.md"))
    parser.add_argument("--check", action="store_true", help="write nothing; 1 = it is stale")
    options = parser.parse_args()
    path = options.file.resolve()
    if not path.is_file():
        parser.error(f"{options.file}: no such file; expected a page of Markdown")
    text = path.read_text(encoding="utf-8")
    new = regenerate_in_copy(text, path.parent)
    if options.check:
        return int(new != text)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
