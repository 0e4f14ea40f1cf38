"""Let whatever Python process this file is started in run under a policy.

`tightfit live` puts a copy of it, named sitecustomize.py, on the path of the program that it
starts; every Python process of that program then runs it before anything else.
"""

from __future__ import annotations

import os
from importlib import import_module

if __name__ == "sitecustomize" and os.environ.get("TIGHTFIT_LIVE"):
    # By name: the copy lies outside the package, and must find it as the program would.
    import_module("tightfit.experiments.live.process").start(__file__)
