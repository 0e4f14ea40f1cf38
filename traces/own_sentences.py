"""The sentences that our own readers write into a recording's findings, and what of them may stay.

A finding read from a file is a stranger's text under a stranger's kind: neither says who wrote it.
So nothing of it is trusted. Its text is laid over the sentences below, and what is kept is the
sentence, from here, with the text's numbers. Names of files, functions, keys, GPUs and programs
become "…".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .foreign_rows import NO_DRIVER
from .made_up_recording import LACKS

LONGEST = 2000  # characters; our own sentences are shorter, and a longer text is not looked at
# "#" is a number with its unit of bytes, if it has one; "…" is what may be anybody's words.
_NUMBER = r"\d[\d,]*(?:\.\d+)?(?: (?:B|MiB|GiB)\b)?"

# kind -> sentences. Every kind is here that a reader or recorder writes into a file.
SENTENCES: dict[str, tuple[str, ...]] = {
    "stand_in": (
        "recorded without a GPU: torch … on a stand-in for …. The allocator is the real one; "
        "kernels did nothing, and work space that cuBLAS, cuDNN, NCCL and the like would take of "
        "their own is not in it",
    ),
    "depends_on_data": (
        "the program read values back from the device, times: #, in # places (most often: …); "
        "they were computed by nobody, so a size or a branch that depends on them may differ on a "
        "GPU",
    ),
    "scratch": ("added for …: …, allocations: #",),
    "no_driver": (
        NO_DRIVER,
        LACKS,
        "recorded with fake tensors: …. Not in it: work space that cuDNN and other libraries ask "
        "for, scratch of kernels without a formula, memory that waits for another stream, calls of "
        "empty_cache, and the allocator's answers, so there is nothing to check a replay against",
    ),
    "synthetic": (
        "synthetic: …, seed #, # requests served, …; peak requested #",
        "synthetic: …, seed #; peak requested #",
    ),
    "repeated": ("requests served a second time, as there were only #: #",),
    "cut_requests": ("requests cut to # tokens: # of #",),
    "zero_size": ("allocations and frees of 0 bytes: #; they ask nothing of an allocator",),
    "made_up_addresses": (
        "the format has no addresses; they are made up",
        "the addresses recorded are not those of device memory, as an old release writes them; "
        "each is taken to name one block at a time",
    ),
    "dropped_lines": ("lines that name iterations, micro-batches and layers: #; not kept",),
    "ignored_columns": ("columns without a meaning for an allocator, ignored: …",),
    "block_sizes": (
        "sizes are those of blocks, rounded by the recorded allocator (to 512 bytes, and a large "
        "block may be up to 1 MiB longer than asked for); what was asked for is not recorded, and "
        "may be less",
    ),
    "no_streams": ("streams are not recorded; one is assumed",),
    "no_completions": (
        "a free is recorded when it is requested; memory that waited for another stream after that "
        "is not seen",
    ),
    "long_objects": (
        "objects of more than # that name a memory event, and are too long to be one: #; left out",
    ),
    "other_devices": ("memory events of the CPU and other devices: #; left out",),
    "held_before": (  # the second as older files say it
        "memory allocated before the trace began and not freed in it: # bytes; where it lies is "
        "not recorded and no replay holds it, so add it to every peak; beside --capacity, "
        "--other #MiB leaves room for it",
        "memory allocated before the trace began and not freed in it: # bytes; where it lies is "
        "not recorded and no replay holds it, so add it to every peak (--other #MiB)",
    ),
    "recorded_peak": (
        "as recorded, peak allocated # and peak reserved #, all that was held before included",
    ),
    "events_missing": (
        "events whose total does not follow from the event before: #; some events are missing or "
        "out of order",
    ),
    "sum_mismatch": (
        "in # segments … is not the sum of the …, first in …: # stated, # counted",
    ),
    "unknown_key": (
        "the snapshot has the unknown key …",
        "# entries carry the unknown key …",
        "# of … carry the unknown key …",
    ),
    "dropped_key": (
        "the value of … was dropped: …",
        "# entries carry the key … with a value that cannot be kept",
        "# of … carry the key … with a value that cannot be kept",
        "# external_annotations are not dicts",
        "# stack frames carry keys beyond filename, line and name; these were dropped",
    ),
    "unknown_action": ("# entries report actions this reader does not know: …",),
    "trailing_bytes": ("# bytes follow the end of the pickle",),
}  # fmt: skip


def _pattern(sentence: str) -> re.Pattern[str]:
    """What a text of this sentence looks like; its groups are what stays, in order."""
    forms = {"#": f"({_NUMBER})", "…": ".*?"}
    parts = [forms.get(part) or re.escape(part) for part in re.split("([#…])", sentence)]
    return re.compile("".join(parts), re.ASCII | re.DOTALL)


_PATTERNS = {
    kind: [(sentence, _pattern(sentence)) for sentence in sentences]
    for kind, sentences in SENTENCES.items()
}


def own_words(kind: str, text: str) -> str | None:
    """Return what of a finding's text is a sentence of ours and its numbers; None if nothing is.

    Args:
        kind, text: the finding's. Both may be anybody's.
    """
    for sentence, pattern in _PATTERNS.get(kind, ()):
        found = pattern.fullmatch(text) if len(text) <= LONGEST else None
        if found is not None:
            return _filled(sentence, found.groups())
    return None


def _filled(sentence: str, numbers: Iterable[str]) -> str:
    given = iter(numbers)
    return re.sub("#", lambda _: next(given), sentence)
