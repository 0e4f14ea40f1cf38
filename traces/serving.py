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

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from .jit import inline, kernel
from .made_up_recording import made_up_recording
from .recording import Finding, Recording
from .requests import Requests
from .synthetic import Piece, joined
from .units import format_bytes

CAT, DOUBLING, PAGED, PREFIX = range(4)
WORKLOADS = {"kv_cat": CAT, "kv_doubling": DOUBLING, "kv_paged": PAGED, "kv_prefix": PREFIX}
DESCRIPTIONS = {
    "kv_cat": "KV caches that grow by concatenation, one token at a time",
    "kv_doubling": "KV caches that double whenever they are full",
    "kv_paged": "KV in one region taken at the start, activations beside it",
    "kv_prefix": "KV of prompts kept and reused, the oldest dropped for room",
}
MOST_EVENTS = 200_000_000  # of a recording, which is in memory as a whole
PIECE = 1 << 18  # events made at a time
PREFIXES = 4096  # prompts whose KV is kept at once, at most
REUSED = 0.3  # share of requests that begin like an earlier one ...
FRESH = 0.25  # ... and the share of their prompt that is new


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


# Where the kernel stands: rows of the piece written, allocations numbered so far and before it.
ROWS, ALLOCS, BEFORE = 0, 1, 2
# The server between two pieces: what `_serve` keeps beside the requests themselves.
OLDEST, KEPT, KEPT_TOKENS, RUNNING, TOTAL, ADMITTED = range(6)


@inline
def _malloc(at, is_alloc, alloc, size_of, size):
    """Ask for `size` bytes; return the allocation's number."""
    row, number = at[ROWS], at[ALLOCS]
    is_alloc[row] = True
    alloc[row] = number
    size_of[number - at[BEFORE]] = size
    at[ROWS] = row + 1
    at[ALLOCS] = number + 1
    return number


@inline
def _free(at, is_alloc, alloc, number):
    """Free an allocation."""
    row = at[ROWS]
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
def _load(kind, at, weights, sizes, limits, is_alloc, alloc, size_of):
    """What the server asks for before its first request; arguments as for `_serve`."""
    for size in weights:
        _malloc(at, is_alloc, alloc, size_of, size)
    if kind == PAGED:
        _malloc(at, is_alloc, alloc, size_of, limits[2] * 2 * limits[0] * sizes[2])


@kernel
def _serve(
    kind, goal, prompt, answer, reuses, which, sizes, limits, at, server, requests, kv, keep_tokens,
    keep, is_alloc, alloc, size_of,
):  # fmt: skip
    """Run the server until so many rows are written; called again, it goes on from there.

    Args:
        kind: CAT, DOUBLING, PAGED or PREFIX.
        goal: rows of this piece; what was begun is finished, so that it can become more.
        prompt, answer: shape (r,) int64; tokens of each request, used again from the first when
            all have been served.
        reuses: shape (r,) bool; the request begins like an earlier one (PREFIX).
        which: shape (r,) float64 in [0, 1); like which of those kept.
        sizes: as in `_pass`.
        limits: shape (6,) int64; layers, requests at once, tokens held at once, tokens of a pass,
            prefixes kept at most, new tokens of 100 of a prompt that is reused.
        at: shape (3,) int64; where it stands.
        server: shape (6,) int64; OLDEST ... ADMITTED.
        requests: shape (4, most) int64; of each running request the tokens it has, there is room
            for, still to make, and will have at its end.
        kv: shape (most, tensors) int64; their allocations.
        keep_tokens, keep: shape (k,) and (k, tensors) int64; the same of the prefixes kept.
        is_alloc, alloc: shape (n,), output; the rows.
        size_of: shape (n,) int64, output; bytes of each new allocation.
    """
    layers, most, room, step = limits[0], limits[1], limits[2], limits[3]
    tensors = 2 * layers
    held, capacity, left, booked = requests[0], requests[1], requests[2], requests[3]
    oldest, kept, kept_tokens = server[OLDEST], server[KEPT], server[KEPT_TOKENS]
    running, total, r = server[RUNNING], server[TOTAL], server[ADMITTED]
    while at[ROWS] < goal:
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
            if at[ROWS] >= goal:
                break
        if at[ROWS] >= goal:
            break
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
    server[OLDEST], server[KEPT], server[KEPT_TOKENS] = oldest, kept, kept_tokens
    server[RUNNING], server[TOTAL], server[ADMITTED] = running, total, r


def _weights(m: Model) -> np.ndarray:
    """Return the bytes of each weight: two embeddings, and five matrices and a norm per layer."""
    layer = (
        m.hidden * (m.hidden + 2 * m.kv_width), m.hidden * m.hidden, 2 * m.hidden * m.inner,
        m.inner * m.hidden, 2 * m.hidden,
    )  # fmt: skip
    elements = [m.vocabulary * m.hidden, *(layer * m.layers), m.hidden]
    return np.array(elements, np.int64) * m.item_bytes


class Workload:
    """A workload being made, piece by piece.

    Args:
        name: one of WORKLOADS.
        requests: what is asked of the server; from the first again when all have been served.
        events: allocations and frees, together; the program ends in the middle of serving.
        seed: for what is drawn beside the requests.
        model: sizes.

    Attributes:
        served: requests admitted so far.
        made_from: what it is made from, for those who want to make it again.
    """

    def __init__(
        self, name: str, requests: Requests, events: int, seed: int, model: Model | None = None
    ) -> None:
        self.name, self.events, self.seed = name, events, seed
        self.model = m = model or Model()
        self.source = requests.source
        self.prompt = np.minimum(requests.prompt, m.longest - 1)
        self.answer = np.minimum(requests.answer, m.longest - self.prompt)
        self.cut = int(((self.prompt < requests.prompt) | (self.answer < requests.answer)).sum())
        self.served = 0
        self.made_from = {
            "workload": name, "seed": seed, "events": events, "requests": requests.source,
            "model": asdict(m),
        }  # fmt: skip

    def pieces(self) -> Iterator[Piece]:
        """Make the program, PIECE events at a time."""
        m, kind = self.model, WORKLOADS[self.name]
        rng = np.random.default_rng([self.seed, 2])
        n = len(self.prompt)
        reuses, which = rng.random(n) < REUSED, rng.random(n)
        per_token = (m.hidden, m.inner, m.kv_width, m.vocabulary)
        sizes = np.array(per_token, np.int64) * m.item_bytes
        limits = np.array(
            [m.layers, m.max_batch, m.kv_tokens, m.pass_tokens, PREFIXES, round(100 * FRESH)],
            np.int64,
        )
        tensors = 2 * m.layers
        weights = _weights(m)
        # At the most one request is begun, or one token made, when the rows suffice already.
        passes = -(-m.longest // m.pass_tokens) * (32 * m.layers + 16)
        more = passes + tensors * (PREFIXES + 3 * m.max_batch + 4) + len(weights) + 1
        at, server = np.zeros(3, np.int64), np.zeros(6, np.int64)
        running = np.zeros((4, m.max_batch), np.int64)
        kv = np.full((m.max_batch, tensors), -1, np.int64)
        keep_tokens = np.zeros(PREFIXES, np.int64)
        keep = np.full((PREFIXES, tensors), -1, np.int64)
        done = 0
        while done < self.events:
            goal = min(PIECE, self.events - done)
            is_alloc, alloc = np.zeros(goal + more, bool), np.zeros(goal + more, np.int64)
            size_of = np.zeros(goal + more, np.int64)
            at[ROWS], at[BEFORE] = 0, at[ALLOCS]
            if not done:
                _load(kind, at, weights, sizes, limits, is_alloc, alloc, size_of)
            _serve(
                kind, goal, self.prompt, self.answer, reuses, which, sizes, limits, at, server,
                running, kv, keep_tokens, keep, is_alloc, alloc, size_of,
            )  # fmt: skip
            self.served = int(server[ADMITTED])
            rows = min(int(at[ROWS]), self.events - done)
            made = int(is_alloc[:rows].sum())
            yield Piece(is_alloc[:rows], alloc[:rows], size_of[:made])
            done += rows

    def findings(self, peak: int) -> list[Finding]:
        """What to say of the whole, of which at most `peak` bytes were requested at once."""
        text = (
            f"synthetic: {self.name} ({DESCRIPTIONS[self.name]}), seed {self.seed}, "
            f"{self.served:,} requests served, {self.source}; peak requested {format_bytes(peak)}"
        )
        findings = [Finding("synthetic", self.events, text)]
        again = self.served - len(self.prompt)
        if again > 0:
            text = f"requests served a second time, as there were only {len(self.prompt):,}: "
            findings.append(Finding("repeated", again, f"{text}{again:,}"))
        if self.cut:
            text = f"requests cut to {self.model.longest:,} tokens: {self.cut:,} of "
            findings.append(Finding("cut_requests", self.cut, f"{text}{len(self.prompt):,}"))
        return findings


def make_workload(
    name: str, requests: Requests, events: int, seed: int, model: Model | None = None
) -> Recording:
    """Make a workload as a recording that begins with an empty device; arguments as for Workload.

    Returns:
        A recording without segments, device 0, one stream. Its findings and settings say that it
        is synthetic and from what it was made.
    """
    made = Workload(name, requests, events, seed, model)
    is_alloc, alloc, size_of = joined(made.pieces())
    return made_up_recording(made.made_from, is_alloc, alloc, size_of[alloc], made.findings)
