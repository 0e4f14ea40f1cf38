"""Lengths of requests to a language model: read from public logs, or drawn like one of them.

The logs themselves are not part of this package. What is kept of each is how its lengths are
distributed: quantiles, computed by `python -m tightfit.experiments.fit_requests LOG`. In none of
them do the lengths of prompt and answer go together (correlation of their logarithms: 0.09, 0.00
and 0.05), so the two are drawn independently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import TraceError
from .foreign_rows import integer
from .text_lines import header_of, lines, table
from .units import MiB

LEVELS = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)  # percent
MAX_TOKENS = 1 << 24
AZURE = ("timestamp", "contexttokens", "generatedtokens")


@dataclass(frozen=True)
class Requests:
    """Requests in the order in which they arrive.

    Attributes:
        prompt: shape (n,) int64; tokens of each prompt, at least 1.
        answer: shape (n,) int64; tokens generated for it, at least 1.
        source: where they come from, in words.
    """

    prompt: np.ndarray
    answer: np.ndarray
    source: str


@dataclass(frozen=True)
class Fit:
    """How the lengths in one log are distributed.

    Attributes:
        source: the log, its licence and its size.
        prompt, answer: tokens at each of LEVELS.
    """

    source: str
    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    def draw(self, n: int, seed: int) -> Requests:
        """Draw n requests; equal seeds give equal requests."""
        rng = np.random.default_rng([seed, 1])
        levels = np.array(LEVELS) / 100
        prompt, answer = (
            np.exp(np.interp(rng.random(n), levels, np.log(values)))
            for values in (self.prompt, self.answer)
        )
        return Requests(
            np.rint(prompt).astype(np.int64),
            np.rint(answer).astype(np.int64),
            f"drawn like {self.source}",
        )


FITTED = {
    "conversation": Fit(
        "the Azure LLM inference trace 2023, conversation (Azure/AzurePublicDataset, CC-BY-4.0; "
        "19,366 requests)",
        prompt=(2, 29, 181, 207, 387, 403, 703, 1020, 1071, 1130, 1315, 2734, 4083, 4142, 14050),
        answer=(7, 16, 41, 54, 77, 91, 103, 129, 177, 384, 400, 424, 451, 601, 1000),
    ),
    "code": Fit(
        "the Azure LLM inference trace 2023, code (Azure/AzurePublicDataset, CC-BY-4.0; 8,819 "
        "requests)",
        prompt=(3, 17, 75, 147, 386, 770, 1075, 1469, 1909, 2433, 3192, 5188, 7303, 7436, 7437),
        answer=(6, 6, 6, 7, 8, 9, 11, 13, 16, 20, 29, 55, 90, 251, 1899),
    ),
    "long": Fit(
        "Mooncake's conversation trace (kvcache-ai/Mooncake, Apache-2.0; 12,031 requests)",
        prompt=(
            891, 894, 901, 964, 1662, 3263, 4993, 6909, 9570, 13196, 17869, 27367, 39550, 85400,
            126195,
        ),
        answer=(1, 3, 10, 24, 100, 213, 291, 350, 399, 447, 504, 597, 698, 1119, 2000),
    ),
}  # fmt: skip


def read_requests(path: Path) -> Requests:
    """Read a log of requests: Azure's CSV or Mooncake's JSON lines.

    Args:
        path: `AzureLLMInferenceTrace_*.csv` of Azure/AzurePublicDataset (CC-BY-4.0), columns
            TIMESTAMP, ContextTokens, GeneratedTokens; or a trace of kvcache-ai/Mooncake
            (Apache-2.0), one object with input_length and output_length per line.

    Raises:
        TraceError: it is neither, or a line is broken; the message says where.
    """
    name = path.name
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
            file.seek(0)
            chunks = iter(lambda: file.read(MiB), b"")
            first = start.split(b"\n")[0].decode("utf-8-sig", "replace").strip()
            if set(AZURE) <= set(header_of(first)):
                found = list(_azure(chunks))
            elif first.startswith("{"):
                found = list(_mooncake(chunks))
            else:
                raise TraceError(
                    f"found {first[:40]!r}, expected Azure's columns TIMESTAMP,ContextTokens,"
                    'GeneratedTokens or Mooncake\'s {"input_length": ...}'
                )
    except TraceError as error:
        raise TraceError(f"{name}: {error}") from None
    except OSError as error:
        raise TraceError(f"{name}: cannot be read: {error.strerror or error}") from None
    if not found:
        raise TraceError(f"{name}: found no requests")
    prompt, answer = np.array(found, np.int64).T
    return Requests(np.maximum(prompt, 1), np.maximum(answer, 1), f"{name}, in its order")


def _azure(chunks: Iterator[bytes]) -> Iterator[tuple[int, int]]:
    for line, (_, prompt, answer) in table(chunks, AZURE):
        where = f"line {line:,}"
        yield (
            integer(prompt, 0, MAX_TOKENS, where, "ContextTokens"),
            integer(answer, 0, MAX_TOKENS, where, "GeneratedTokens"),
        )


def _mooncake(chunks: Iterator[bytes]) -> Iterator[tuple[int, int]]:
    for line, text in lines(chunks):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise TraceError(f"line {line:,}: found {text[:40]!r}, expected JSON") from None
        if not isinstance(found, dict):
            raise TraceError(f"line {line:,}: found {text[:40]!r}, expected an object")
        tokens = []
        for key in ("input_length", "output_length"):
            value = found.get(key)
            if type(value) is not int or not 0 <= value < MAX_TOKENS:
                raise TraceError(
                    f"line {line:,}: found {str(value)[:40]} as '{key}', expected 0 to "
                    f"{MAX_TOKENS - 1:,}"
                )
            tokens.append(value)
        yield tokens[0], tokens[1]
