"""Synthetic programs of a server for language models: what its allocator is asked to do.

One step after another: requests are admitted while there is room for their keys and values (KV),
each with one forward pass over its whole prompt; then one pass makes a token for every running
request; requests that have their answer leave. The workloads differ in how KV is kept:

    kv_cat        one tensor per layer, request and K or V, made anew, one token longer, each step
    kv_doubling   the same with room to grow, twice as much whenever it is full
    kv_paged      one region for all requests, taken once; only activations come and go
    kv_prefix     KV of prompts is kept for later requests with the same beginning, oldest out first

Sizes are those of a transformer of a billion parameters (`Model`). Each workload is a function of
its parameters, the requests and a seed, and of nothing else. It is made up: real servers differ
in the order and sizes of activations, and most overlap several streams.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from .foreign_rows import ALLOC, FREE, recording
from .jit import inline, kernel
from .made_up import made_up_addresses
from .recording import Finding, Recording
from .requests import Requests
from .units import format_bytes

CAT, DOUBLING, PAGED, PREFIX = range(4)
WORKLOADS = {"kv_cat": CAT, "kv_doubling": DOUBLING, "kv_paged": PAGED, "kv_prefix": PREFIX}
DESCRIPTIONS = {
    "kv_cat": "KV caches that grow by concatenation, one token at a time",
    "kv_doubling": "KV caches that double whenever they are full",
    "kv_paged": "KV in one region taken at the start, activations beside it",
    "kv_prefix": "KV of prompts kept and reused, the oldest dropped for room",
}
MOST_EVENTS = 200_000_000
PREFIXES = 4096  # prompts whose KV is kept at once, at most
REUSED = 0.3  # share of requests that begin like an earlier one ...
FRESH = 0.25  # ... and the share of their prompt that is new

LACKS = (
    "this program is made up and no allocator has run it: there is nothing to check a replay "
    "against, and the settings are taken to be the defaults"
)


@dataclass(frozen=True)
class Model:
    """What decides how large tensors are; a transformer of about a billion parameters.

    Attributes:
        layers, hidden, inner, kv_width, vocabulary: sizes of the network, in elements.
        item_bytes: bytes of an element of weights, activations and KV.
        max_batch: requests running at once, at most.
        kv_tokens: tokens whose KV may be held at once; more requests wait.
        longest: tokens of a request at most; longer ones are cut.
        pass_tokens: tokens of one forward pass over a prompt; longer prompts take several.
    """

    layers: int = 16
    hidden: int = 2048
    inner: int = 8192
    kv_width: int = 512
    vocabulary: int = 128_256
    item_bytes: int = 2
    max_batch: int = 32
    kv_tokens: int = 131_072
    longest: int = 16_384
    pass_tokens: int = 8192

    @property
    def kv_bytes(self) -> int:
        """Bytes of K, or of V, of one token in one layer."""
        return self.kv_width * self.item_bytes


# Where the kernel stands: rows written, allocations numbered.
ROWS, ALLOCS = 0, 1


@inline
def _malloc(at, is_alloc, alloc, size_of, size):
    """Ask for `size` bytes; return the allocation's number, -1 when the rows are full."""
    row, number = at[ROWS], at[ALLOCS]
    if row >= len(alloc):
        return -1
    is_alloc[row] = True
    alloc[row] = number
    size_of[number] = size
    at[ROWS] = row + 1
    at[ALLOCS] = number + 1
    return number


@inline
def _free(at, is_alloc, alloc, number):
    """Free an allocation."""
    row = at[ROWS]
    if row < len(alloc) and number >= 0:
        is_alloc[row] = False
        alloc[row] = number
        at[ROWS] = row + 1


@kernel
def _pass(at, is_alloc, alloc, size_of, tokens, answers, sizes, layers):
    """One forward pass: every layer's activations come and go, then the logits.

    Args:
        at, is_alloc, alloc, size_of: the program so far; added to.
        tokens: tokens in the pass.
        answers: sequences that get a next token.
        sizes: shape (4,); bytes of hidden, inner, K or V, and logits, each per token.
        layers: number of layers.
    """
    hidden, inner, kv = tokens * sizes[0], tokens * sizes[1], tokens * sizes[2]
    x = _malloc(at, is_alloc, alloc, size_of, hidden)
    for _ in range(layers):
        norm = _malloc(at, is_alloc, alloc, size_of, hidden)
        qkv = _malloc(at, is_alloc, alloc, size_of, hidden + 2 * kv)
        _free(at, is_alloc, alloc, norm)
        mixed = _malloc(at, is_alloc, alloc, size_of, hidden)
        _free(at, is_alloc, alloc, qkv)
        out = _malloc(at, is_alloc, alloc, size_of, hidden)
        _free(at, is_alloc, alloc, mixed)
        y = _malloc(at, is_alloc, alloc, size_of, hidden)
        _free(at, is_alloc, alloc, x)
        _free(at, is_alloc, alloc, out)
        norm = _malloc(at, is_alloc, alloc, size_of, hidden)
        gate_up = _malloc(at, is_alloc, alloc, size_of, 2 * inner)
        _free(at, is_alloc, alloc, norm)
        act = _malloc(at, is_alloc, alloc, size_of, inner)
        _free(at, is_alloc, alloc, gate_up)
        down = _malloc(at, is_alloc, alloc, size_of, hidden)
        _free(at, is_alloc, alloc, act)
        x = _malloc(at, is_alloc, alloc, size_of, hidden)
        _free(at, is_alloc, alloc, y)
        _free(at, is_alloc, alloc, down)
    logits = _malloc(at, is_alloc, alloc, size_of, answers * sizes[3])
    _free(at, is_alloc, alloc, x)
    chances = _malloc(at, is_alloc, alloc, size_of, answers * sizes[3] * 2)
    _free(at, is_alloc, alloc, logits)
    chosen = _malloc(at, is_alloc, alloc, size_of, answers * 8)
    _free(at, is_alloc, alloc, chances)
    _free(at, is_alloc, alloc, chosen)


@kernel
def _serve(kind, prompt, answer, reuses, which, weights, sizes, limits, is_alloc, alloc, size_of):
    """Run the server until the rows are full.

    Args:
        kind: CAT, DOUBLING, PAGED or PREFIX.
        prompt, answer: shape (r,) int64; tokens of each request, used again from the first when
            all have been served.
        reuses: shape (r,) bool; the request begins like an earlier one (PREFIX).
        which: shape (r,) float64 in [0, 1); like which of those kept.
        weights: shape (w,) int64; bytes of what is loaded at the start.
        sizes: as in `_pass`.
        limits: shape (6,) int64; layers, requests at once, tokens held at once, tokens of a pass,
            prefixes kept at most, new tokens of 100 of a prompt that is reused.
        is_alloc, alloc: shape (n,), output; the rows.
        size_of: shape (n,) int64, output; bytes of each allocation.

    Returns:
        (allocations, requests admitted).
    """
    layers, most, room, step = limits[0], limits[1], limits[2], limits[3]
    tensors = 2 * layers
    at = np.zeros(2, np.int64)
    for size in weights:
        _malloc(at, is_alloc, alloc, size_of, size)
    if kind == PAGED:
        _malloc(at, is_alloc, alloc, size_of, room * tensors * sizes[2])
    kv = np.full((most, tensors), -1, np.int64)  # allocations of each running request
    held = np.zeros(most, np.int64)  # tokens it has
    capacity = np.zeros(most, np.int64)  # tokens there is room for
    left = np.zeros(most, np.int64)  # tokens still to make
    booked = np.zeros(most, np.int64)  # tokens it will have at its end
    keep = np.full((limits[4], tensors), -1, np.int64)
    keep_tokens = np.zeros(limits[4], np.int64)
    oldest, kept, kept_tokens = 0, 0, 0
    running, total, r = 0, 0, 0
    while at[ROWS] < len(alloc):
        # Admit.
        while running < most:
            request = r % len(prompt)
            tokens, future = prompt[request], prompt[request] + answer[request]
            if running and total + future > room:
                break
            slot = running
            fresh = tokens
            if kind == PREFIX:
                while kept and (kept_tokens + total + future > room or kept == limits[4]):
                    for t in range(tensors):
                        _free(at, is_alloc, alloc, keep[oldest, t])
                    kept_tokens -= keep_tokens[oldest]
                    oldest = (oldest + 1) % limits[4]
                    kept -= 1
                if reuses[request] and kept:
                    like = (oldest + np.int64(which[request] * kept)) % limits[4]
                    shared = min(keep_tokens[like], tokens * (100 - limits[5]) // 100)
                    fresh = max(tokens - shared, 1)
            room_for = tokens
            if kind == DOUBLING or kind == PREFIX:
                room_for = 16
                while room_for < tokens:
                    room_for *= 2
            done = 0
            while done < fresh:
                part = min(step, fresh - done)
                _pass(at, is_alloc, alloc, size_of, part, 1, sizes, layers)
                done += part
            if kind != PAGED:
                for t in range(tensors):
                    kv[slot, t] = _malloc(at, is_alloc, alloc, size_of, room_for * sizes[2])
            if kind == PREFIX:
                new = (oldest + kept) % limits[4]
                for t in range(tensors):
                    keep[new, t] = _malloc(at, is_alloc, alloc, size_of, tokens * sizes[2])
                keep_tokens[new] = tokens
                kept_tokens += tokens
                kept += 1
            held[slot], capacity[slot], left[slot] = tokens, room_for, answer[request]
            booked[slot] = future
            total += future
            running += 1
            r += 1
            if at[ROWS] >= len(alloc):
                return at[ALLOCS], r
        # One token for everybody.
        _pass(at, is_alloc, alloc, size_of, running, running, sizes, layers)
        slot = 0
        while slot < running:
            held[slot] += 1
            left[slot] -= 1
            if kind != PAGED and held[slot] > capacity[slot]:
                capacity[slot] = held[slot] if kind == CAT else 2 * capacity[slot]
                for t in range(tensors):
                    longer = _malloc(at, is_alloc, alloc, size_of, capacity[slot] * sizes[2])
                    _free(at, is_alloc, alloc, kv[slot, t])
                    kv[slot, t] = longer
            if left[slot] > 0:
                slot += 1
                continue
            if kind != PAGED:
                for t in range(tensors):
                    _free(at, is_alloc, alloc, kv[slot, t])
            total -= booked[slot]
            running -= 1  # the last one takes its place
            kv[slot] = kv[running]
            held[slot], capacity[slot] = held[running], capacity[running]
            left[slot], booked[slot] = left[running], booked[running]
    return at[ALLOCS], r


def _weights(m: Model) -> np.ndarray:
    """Return the bytes of each weight: two embeddings, and five matrices and a norm per layer."""
    layer = (
        m.hidden * (m.hidden + 2 * m.kv_width), m.hidden * m.hidden, 2 * m.hidden * m.inner,
        m.inner * m.hidden, 2 * m.hidden,
    )  # fmt: skip
    elements = [m.vocabulary * m.hidden, *(layer * m.layers), m.hidden]
    return np.array(elements, np.int64) * m.item_bytes


def make_workload(
    name: str, requests: Requests, events: int, seed: int, model: Model | None = None
) -> Recording:
    """Make a workload as a recording that begins with an empty device.

    Args:
        name: one of WORKLOADS.
        requests: what is asked of the server; from the first again when all have been served.
        events: allocations and frees, together; the recording ends in the middle of serving.
        seed: for what is drawn beside the requests.
        model: sizes.

    Returns:
        A recording without segments, device 0, one stream. Its findings and settings say that it
        is synthetic and from what it was made.
    """
    m = model or Model()
    rng = np.random.default_rng([seed, 2])
    prompt = np.minimum(requests.prompt, m.longest - 1)
    answer = np.minimum(requests.answer, m.longest - prompt)
    cut = int(((prompt < requests.prompt) | (answer < requests.answer)).sum())
    is_alloc, alloc = np.zeros(events, bool), np.zeros(events, np.int64)
    size_of = np.zeros(events, np.int64)
    per_token = (m.hidden, m.inner, m.kv_width, m.vocabulary)
    allocs, served = _serve(
        WORKLOADS[name], prompt, answer,
        rng.random(len(prompt)) < REUSED, rng.random(len(prompt)), _weights(m),
        np.array(per_token, np.int64) * m.item_bytes,
        np.array(
            [m.layers, m.max_batch, m.kv_tokens, m.pass_tokens, PREFIXES, round(100 * FRESH)],
            np.int64,
        ),
        is_alloc, alloc, size_of,
    )  # fmt: skip
    size = size_of[:allocs][alloc]
    columns = {
        "kind": np.where(is_alloc, ALLOC, FREE).astype(np.uint8),
        "device": np.zeros(events, np.int16),
        "addr": made_up_addresses(alloc, is_alloc, size),
        "size": size,
        "stream": np.zeros(events, np.int64),
        "time": np.zeros(events, np.int64),
    }
    peak = int(np.cumsum(np.where(is_alloc, size, -size)).max(initial=0))
    made_from = {
        "workload": name, "seed": seed, "events": events, "requests": requests.source,
        "model": asdict(m),
    }  # fmt: skip
    text = (
        f"synthetic: {name} ({DESCRIPTIONS[name]}), seed {seed}, {served:,} requests served, "
        f"{requests.source}; peak requested {format_bytes(peak)}"
    )
    findings = [Finding("synthetic", events, text)]
    if served > len(prompt):
        text = f"requests served a second time, as there were only {len(prompt):,}: "
        findings.append(
            Finding("repeated", served - len(prompt), f"{text}{served - len(prompt):,}")
        )
    if cut:
        text = f"requests cut to {m.longest:,} tokens: {cut:,} of {len(prompt):,}"
        findings.append(Finding("cut_requests", cut, text))
    out = recording(columns, f"{name}.npz", {"synthetic": made_from}, findings, LACKS)
    out.settings = {"synthetic": f"{name}, seed {seed}, {events:,} events"}
    return out
