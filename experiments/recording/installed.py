"""Which PyTorch an interpreter has; asked of it without importing PyTorch."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from ...sim.release import release
from ...sim.settings_line import parse_settings
from ...traces.errors import ConfigError, VerificationError

SECONDS = 60
_QUESTION = """
import importlib.util as u, os
spec = u.find_spec("torch")
root = os.path.dirname(spec.origin) if spec and spec.origin else ""
path = os.path.join(root, "version.py")
print(root)
print(os.path.exists(os.path.join(root, "lib", "libc10_cuda.so")))
print(open(path).read() if root and os.path.exists(path) else "")
"""


@dataclass(frozen=True)
class Installed:
    """A PyTorch: its folder, its version, and whether it is a build for CUDA."""

    root: str
    version: str
    has_cuda: bool


def installed_torch(python: str) -> Installed | None:
    """Return the PyTorch of an interpreter; None if it has none that names its version.

    Raises:
        VerificationError: that does not run as an interpreter.
    """
    words = [python, "-c", _QUESTION]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise VerificationError(f"record: {python} does not run as a Python: {error}") from error
    root, has_cuda, *rest = done.stdout.splitlines()
    found = re.search(r"__version__ = '([^']+)'", "\n".join(rest))
    return Installed(root, found[1], has_cuda == "True") if root and found else None


def check_line(conf: str, version: str) -> None:
    """Refuse a settings line that a release would refuse, before a program dies of it.

    Raises:
        PolicyError: it would.
    """
    try:
        rules = release(version)
    except ConfigError:
        return  # a release that nobody here has read; PyTorch will say
    parse_settings(conf, rules)
