"""A program that is to run on a stand-in for a GPU: the CUDA build and the libraries it gets."""

from __future__ import annotations

from dataclasses import replace

from ..oracle.build import runtime_name
from .installed import check_line
from .launch import Plan
from .libraries import build_libraries
from .profiles import find_profile
from .whole_wheel import find_build


def on_stand_in(plan: Plan, gpu: str, torch: str | None, python: str, devices: int) -> Plan:
    """Return a plan whose program finds a CUDA build of PyTorch and a stand-in for its libraries.

    Args:
        plan: without any.
        gpu: a profile, e.g. "h100-80g".
        torch: full version of the build; None = the installed one if it is one, else the newest.
        python: the interpreter that the program runs.
        devices: how many.

    Raises:
        ConfigError: there is no such profile.
        PolicyError: the release refuses the plan's settings line.
        VerificationError: the build or the stand-in cannot be had.
    """
    profile = find_profile(gpu)
    build = find_build(torch, python)
    if plan.conf is not None:
        check_line(plan.conf, build.wheel.version)
    return replace(
        plan,
        libraries=build_libraries(build),
        runtime=runtime_name(build.wheel.cuda),
        path=build.path,
        extra={**plan.extra, **profile.environment(devices, build.codes)},
    )
