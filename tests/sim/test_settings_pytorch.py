"""Settings lines against PyTorch's own parsers: what they answered once, and the installed one."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tightfit.sim.release import release
from tightfit.sim.settings import OFF
from tightfit.sim.settings_keys import KEYS
from tightfit.sim.settings_line import parse_settings
from tightfit.sim.settings_parser import FAR, MOST_MB, WRAPPED_ROUNDING, Parser
from tightfit.traces.errors import PolicyError
from tightfit.traces.units import MiB

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "settings_lines.json"


def in_64_bits(answer):
    """Turn PyTorch's unsigned numbers into what Settings holds; see `Settings` and the parser."""
    large, split, rounding, threshold, expandable, reuse, fraction, throw, divisions = answer
    table = divisions if isinstance(divisions, list) else [divisions] * 16
    return {
        "large_segment_size": min(large, FAR),
        "max_split_size": min(split, OFF),
        "max_non_split_rounding": WRAPPED_ROUNDING
        if rounding == MOST_MB * MiB
        else min(rounding, FAR),
        "garbage_collection_threshold": threshold,
        "expandable_segments": bool(expandable),
        "graph_capture_record_stream_reuse": bool(reuse),
        "per_process_memory_fraction": fraction,
        "throw_on_cudamalloc_oom": bool(throw),
        "roundup_divisions": tuple(min(d, FAR) for d in table),
    }


def test_every_line_is_answered_as_the_compiled_parsers_of_seven_releases_did():
    lines = json.loads(GOLDEN.read_text())["lines"]
    accepted = refused = 0
    for line, *answers in lines:
        for releases, answer in answers:
            for name in releases.split():
                try:
                    found = parse_settings(line, release(name))
                except PolicyError as refusal:
                    assert answer is None, (line, name, str(refusal))
                    refused += 1
                    continue
                assert answer is not None, (line, name)
                for field, value in in_64_bits(answer).items():
                    assert getattr(found, field) == value, (line, name, field)
                accepted += 1
    assert accepted > 800 and refused > 800


_TORCH = r"""
import ctypes, json, os, struct, sys
import torch
parse = torch._C._accelerator_setAllocatorSettings
config = None
if torch.__version__.startswith("2.13."):  # the layout below is that release's
    core = ctypes.CDLL(os.path.join(os.path.dirname(torch.__file__), "lib", "libc10.so"))
    instance = core._ZN3c1016CachingAllocator26AcceleratorAllocatorConfig8instanceEv
    instance.restype = ctypes.c_void_p
    config = instance()

def values():
    if config is None:
        return None
    raw = ctypes.string_at(config, 80)
    large, split, rounding, first, end = struct.unpack_from("<5Q", raw)
    n = (end - first) // 8
    table = struct.unpack(f"<{n}Q", ctypes.string_at(first, 8 * n))
    return [large, split, rounding, list(table), struct.unpack_from("<d", raw, 48)[0], raw[56]]

answers = []
for line in json.load(sys.stdin):
    # Keys that keep their last value are put back first.
    parse("large_segment_size_mb:20,expandable_segments:False")
    try:
        parse(line)
        answers.append(["ok", values()])
    except Exception as error:
        answers.append(["refused", str(error).splitlines()[0]])
json.dump([torch.__version__, torch.version.cuda, answers], sys.stdout)
"""


def _generated_lines(n):
    """Lines valid and invalid, from a fixed seed: whole keys and values, and loose tokens."""
    rnd = random.Random(20)
    keys = [k.name for k in KEYS if k.common] + ["backend", "no_such_key"]
    values = [
        "20", "21", "64", "10", "-1", "20.7", "0.5", "1", "0", "True", "true", "4", "3", "", "[]",
        "[1:2,>:4]", "[256:1,512:2,1024:4,>:8]", "[>:4,1:2]", "[1:2", "[1:2,", "[4:0,8:2]", "[3:2]",
        "[4:3]", "[4:2,2:8]", "[[1:2]]", "[1:[2]]", "[65536:4]", "[4;2]", "[4:2 8:4]", "1e-400",
        "1e-310", "0x1p-1", "nan", "18446744073709551616", "18446744073709551615", "+30", "\t30",
        ".5", "5e-1x", ">", "inf", "-18446744073709551615", "3000000000", "64MB", "0x40", "\xa064",
    ]  # fmt: skip
    tokens = ["[", "]", ":", ",", ">", "1", "2", "4", "0", " ", "True", *keys[:6]]
    for _ in range(n):
        if rnd.random() < 0.3:
            yield "".join(rnd.choice(tokens) for _ in range(rnd.randrange(14)))
            continue
        line = ""
        for j in range(rnd.randrange(1, 4)):
            line += rnd.choice([","] * 12 + [";", ",,", " , ", ":", "]", ""]) if j else ""
            line += rnd.choice(keys) + rnd.choice([":"] * 12 + ["=", "::", "", " : ", "["])
            line += rnd.choice(values)
        yield line + rnd.choice(["", "", "", ","])


@pytest.fixture(scope="module")
def torch_answers():
    pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    lines = [*_generated_lines(1500), "", ",", "\n", "expandable_segments:True"]
    process = subprocess.run(
        [sys.executable, "-c", _TORCH], input=json.dumps(lines), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    version, cuda, answers = json.loads(process.stdout)
    if cuda is not None:
        pytest.skip(f"torch {version} is a CUDA build: it also runs CUDA's own pass")
    rules = release(version)
    if rules.version < (2, 10):
        pytest.skip(f"torch {version} has no parser of its own in a CPU build")
    return rules, list(zip(lines, answers, strict=True))


def test_a_cpu_build_of_pytorch_accepts_refuses_and_understands_the_same_lines(torch_answers):
    """Its shared pass steps over unknown keys and leaves them to CUDA's, which it lacks."""
    rules, pairs = torch_answers
    accepted = 0
    for line, (verdict, theirs) in pairs:
        parser = Parser(line, rules)
        try:
            parser.large_segment_pass()
            parser.common_pass(refuse_unknown=False)
            ours = "ok"
        except PolicyError as refusal:
            assert verdict == "refused", (line, str(refusal))
            continue
        assert verdict == ours, (line, theirs)
        accepted += 1
        if theirs is not None:
            found = parser.found
            large = found.get("large_segment_size_mb", 20) * MiB
            split = found.get("max_split_size_mb")
            rounding = found.get("max_non_split_rounding_mb")
            assert theirs == [
                large,
                (1 << 64) - 1 if split is None else split * MiB,
                large if rounding is None else rounding * MiB,
                parser.divisions,
                found.get("garbage_collection_threshold", 0.0),
                int(found.get("expandable_segments") == "True"),
            ], line
    assert 100 < accepted < len(pairs) - 100  # both kinds were met
