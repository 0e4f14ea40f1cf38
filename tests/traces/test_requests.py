"""Lengths of requests: logs read, logs refused, and draws that resemble them."""

from __future__ import annotations

import numpy as np
import pytest

from tightfit.experiments.fit_requests import correlation, quantiles
from tightfit.traces.errors import TraceError
from tightfit.traces.requests import FITTED, LEVELS, read_requests

FILES = {
    "conversation": "AzureLLMInferenceTrace_conv.csv",
    "code": "AzureLLMInferenceTrace_code.csv",
    "long": "mooncake_conversation.jsonl",
}
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,4808,10\n"
MOONCAKE = '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}\n'


def written(tmp_path, text):
    (tmp_path / "log").write_text(text)
    return tmp_path / "log"


def test_both_kinds_of_log_are_read(tmp_path):
    found = read_requests(written(tmp_path, AZURE + "x,0,0\n"))
    assert found.prompt.tolist() == [4808, 1] and found.answer.tolist() == [10, 1]
    found = read_requests(written(tmp_path, MOONCAKE))
    assert found.prompt.tolist() == [6758] and found.answer.tolist() == [500]


BROKEN = {
    "no log": ("a,b\n", "found 'a,b', expected"),
    "empty": ("", "expected"),
    "no requests": (AZURE.splitlines()[0], "found no requests"),
    "cut short": (AZURE + "2023,48", "line 3: found 2 values, expected 3"),
    "word": (AZURE + "2023,many,1", "line 3: found the ContextTokens 'many'"),
    "negative": (AZURE + "2023,5,-1", "line 3: found the GeneratedTokens -1"),
    "huge": (AZURE + f"2023,{'9' * 5000},1", "line 3: found the ContextTokens"),
    "no JSON": (MOONCAKE + MOONCAKE[:40], "line 2: found"),
    "a list": (MOONCAKE + "[1]", "line 2: found '[1]', expected an object"),
    "no length": (MOONCAKE + "{}", "line 2: found None as 'input_length'"),
    "text": (MOONCAKE.replace("500", '"500"'), "line 1: found 500 as 'output_length'"),
    "true": (MOONCAKE.replace("500", "true"), "line 1: found True as 'output_length'"),
    "long": (MOONCAKE.replace("500", "9" * 30), "line 1: found 999"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_log_ends_in_one_error_that_says_where(case, tmp_path):
    text, message = BROKEN[case]
    with pytest.raises(TraceError) as error:
        read_requests(written(tmp_path, text))
    assert str(error.value).startswith("log: ") and message in str(error.value)


def test_a_missing_log_is_said_to_be_missing(tmp_path):
    with pytest.raises(TraceError, match="nothing: cannot be read"):
        read_requests(tmp_path / "nothing")


@pytest.mark.parametrize("name", FITTED)
def test_what_is_kept_of_each_log_is_what_the_script_computes(name, shared):
    found = read_requests(shared / "requests" / FILES[name])
    assert quantiles(found.prompt) == FITTED[name].prompt
    assert quantiles(found.answer) == FITTED[name].answer
    assert f"{len(found.prompt):,} requests" in FITTED[name].source
    assert abs(correlation(found)) < 0.1, "drawn independently"


@pytest.mark.parametrize("name", FITTED)
def test_draws_have_the_quantiles_and_are_a_function_of_the_seed(name):
    fit = FITTED[name]
    assert len(fit.prompt) == len(fit.answer) == len(LEVELS)
    drawn, again, other = fit.draw(20_000, 3), fit.draw(20_000, 3), fit.draw(20_000, 4)
    assert np.array_equal(drawn.prompt, again.prompt) and np.array_equal(drawn.answer, again.answer)
    assert not np.array_equal(drawn.prompt, other.prompt)
    for tokens, kept in ((drawn.prompt, fit.prompt), (drawn.answer, fit.answer)):
        assert tokens.min() >= 1 and kept[0] <= tokens.min() and tokens.max() <= kept[-1]
        for level in (10, 50, 90):
            low, high = np.percentile(tokens, [level - 1.5, level + 1.5])
            assert low <= kept[LEVELS.index(level)] <= high, (name, level)
