"""What readers and recorders write into a recording is known as ours when it is stripped.

Wording that changes there must change in own_sentences.py too: each test below fails otherwise.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from tightfit.experiments.recording.fake import LACKS, WITH_SCRATCH, WITHOUT
from tightfit.traces.kineto import LONGEST_EVENT
from tightfit.traces.load import load
from tightfit.traces.own_sentences import SENTENCES, own_words
from tightfit.traces.pattern_recording import make_pattern
from tightfit.traces.provenance import findings_of
from tightfit.traces.recording import Finding
from tightfit.traces.requests import Requests
from tightfit.traces.serving import WORKLOADS, Workload
from tightfit.traces.snapshot import read_snapshot
from tightfit.traces.synthetic import PATTERNS

from .make_pickles import snapshot
from .test_foreign import FORMATS
from .test_kineto import BASE, EVENTS, document, memory, read

SECRET = "alice"


def words(kind: str, text: str) -> str:
    """What is shown of a text, which is known as ours."""
    found = own_words(kind, text)
    assert found is not None, (kind, text)
    return found


def shown(findings: Sequence[Finding], *kinds: str) -> list[str]:
    """Check the findings, which are of these kinds, and return what is shown of them."""
    assert {f.kind for f in findings} == set(kinds)
    texts = [words(f.kind, f.text) for f in findings]
    assert SECRET not in "".join(texts)
    return texts


def test_of_profiler_traces():
    always = ("block_sizes", "no_streams", "no_completions", "no_driver", "recorded_peak")
    found = read(document(EVENTS)).findings
    assert any("8,192 bytes" in text for text in shown(found, *always, "held_before",
                                                       "other_devices"))  # fmt: skip
    old = [memory(BASE + 8, 512, 512, 1), memory(BASE + 16, 512, 2048, 2)]
    shown(read(document(old)).findings, *always, "events_missing", "made_up_addresses")
    long = b'{"name":"[memory]","args":[' + b" " * LONGEST_EVENT + b"]},"
    found = read(document(EVENTS).replace(b"[{", b"[" + long + b"{", 1)).findings
    assert any("more than 1.0 MiB" in text for text in shown(
        [f for f in found if f.kind == "long_objects"], "long_objects"))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "kinds"),
    [
        ("rmm.csv", FORMATS["rmm.csv"], ()),
        ("mem_log_dev0.txt", FORMATS["mem_log_dev0.txt"], ("dropped_lines",)),
        ("l.csv", f"id,lower,upper,size,{SECRET}\na,0,1,5,x\n",
         ("ignored_columns", "made_up_addresses")),
        ("p.csv", f"{FORMATS['p.csv']}malloc,q,0,,\n", ("made_up_addresses", "zero_size")),
    ],
)  # fmt: skip
def test_of_other_tools(name, text, kinds, tmp_path):
    (tmp_path / name).write_text(text)
    shown(load(tmp_path / name).findings, "no_driver", *kinds)


def test_of_made_up_programs():
    shown(make_pattern(next(iter(PATTERNS)), 100, 1).findings, "no_driver", "synthetic")
    asked = Requests(np.array([40_000, 5]), np.array([3, 3]), f"/home/{SECRET}/requests.csv")
    made = Workload(next(iter(WORKLOADS)), asked, 1000, 7)
    made.served = 12
    texts = shown(made.findings(5 << 30), "synthetic", "repeated", "cut_requests")
    assert texts[0] == "synthetic: …, seed 7, 12 requests served, …; peak requested 5,120.0 MiB"


def test_of_what_recorded():
    recorded = {"mode": "stand-in", "torch": f"2.9.0+{SECRET}", "profile": "h100-80g"}
    reads = [(f"{SECRET}.py:7 main", 1200), (f"b ({SECRET}).py:8 f", 3)]
    texts = shown(findings_of(recorded, reads), "stand_in", "depends_on_data")
    assert "times: 1,203, in 2 places (most often: …); they" in texts[1]
    for what in (WITH_SCRATCH, WITHOUT):
        assert words("no_driver", LACKS.format(what)).startswith("recorded with fake tensors")
    assert own_words("scratch", f"added for {SECRET}: {SECRET}, allocations: 3") == (
        "added for …: …, allocations: 3"
    )


def test_of_snapshots():
    value = snapshot()
    value[SECRET] = 1
    value[f"{SECRET}2"] = b"x"  # no value that JSON can hold
    entries = value["device_traces"][0]
    entries[0]["action"] = SECRET
    entries[1][SECRET], entries[2][SECRET] = 1, b"x"
    entries[3]["frames"] = [{"filename": SECRET, "line": 1, "name": SECRET, SECRET: 1}]
    value["segments"][0][SECRET], value["segments"][0]["blocks"][0][SECRET] = 1, b"x"
    value["segments"][0]["allocated_size"] += 512
    value["external_annotations"] = [1]
    found = read_snapshot(pickle.dumps(value, 4) + b"....", "x.pickle").findings
    texts = shown(
        found, "unknown_key", "dropped_key", "unknown_action", "sum_mismatch", "trailing_bytes"
    )
    assert len(set(texts)) >= 10


def test_what_is_cut_cannot_come_back():
    for kind, sentences in SENTENCES.items():
        for sentence in sentences:
            text = sentence.replace("…", SECRET).replace("#", "1,234")
            assert own_words(kind, text) == sentence.replace("#", "1,234")
            assert own_words(kind, f"{SECRET} {text}") is None
            if "#" in sentence:
                assert own_words(kind, text.replace("1,234", SECRET)) is None
