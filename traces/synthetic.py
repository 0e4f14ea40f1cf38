"""Seeded synthetic programs: six patterns that load an allocator in different ways.

    train      one training iteration over and over: stack-like lifetimes, exactly periodic
    train_var  the same with one of 16 sequence lengths per iteration, in random order
    serve      thousands of long-lived cache blocks of three sizes, beside churn of many sizes
    random     20,000 live blocks of 6,000 sizes, freed in random order
    pinned     thousands of free blocks, all of different sizes, kept apart by small live ones
    kvsame     the same with all free blocks of one size: every choice is a tie

Each is a function of (number of ops, seed) and nothing else, and is made piece by piece: a program
need not be in memory as a whole to be written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .distinct import distinct
from .jit import kernel
from .program import Op, Program
from .units import GiB, KiB, MiB

MALLOC, FREE = int(Op.MALLOC), int(Op.FREE)
LAYERS = 48
LENGTHS = 16  # sequence lengths of train_var
GAPS = 8192  # free blocks of pinned and kvsame, before some are taken
ANYWHERE = 1 << 40  # window of a population whose victims are drawn from all of it
DRAWN = 1 << 18  # ops of a population made at a time


class Piece(NamedTuple):
    """Some consecutive ops of a program of one stream without private pools.

    Attributes:
        is_malloc: shape (n,) bool; the other ops are frees.
        alloc: shape (n,) int64; allocation number of each op; numbered in the order of mallocs.
        size: shape (mallocs,) int64; bytes asked for by the allocations that the piece makes.
    """

    is_malloc: np.ndarray
    alloc: np.ndarray
    size: np.ndarray


def joined(pieces: Iterator[Piece]) -> Piece:
    """All of a program in one piece."""
    return Piece(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def program_of(is_malloc: np.ndarray, alloc: np.ndarray, size: np.ndarray) -> Program:
    """Return a program of one stream without private pools.

    Args:
        is_malloc: shape (n,) bool; the other ops are frees.
        alloc: shape (n,) allocation number of each op; numbered in the order of their mallocs.
        size: shape (A,) bytes asked for by each allocation.
    """
    req_size, request = distinct(size)
    n = len(alloc)
    return Program(
        device=0,
        op=np.where(is_malloc, MALLOC, FREE).astype(np.uint8),
        arg=alloc.astype(np.int32),
        entry=np.full(n, -1, np.int64),
        request=request.astype(np.int32),
        req_size=req_size.astype(np.int64),
        req_stream=np.zeros(len(req_size), np.int32),
        req_pool=np.zeros(len(req_size), np.int32),
        streams=np.zeros(1, np.int64),
        pools=[(0, 0)],
        addr=np.zeros(len(size), np.uint64),
    )


def _log_uniform(rng: np.random.Generator, low: int, high: int, n: int) -> np.ndarray:
    return np.exp(rng.uniform(np.log(low), np.log(high), n)).astype(np.int64)


# --- training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """Bytes that one layer of a model asks for.

    Attributes:
        activations: outputs kept for the backward pass.
        temporaries: per activation, what computing it needs for a moment.
        gradients: of its parameters, kept until the optimizer step.
    """

    activations: list[int]
    temporaries: list[list[int]]
    gradients: list[int]


class _Tape:
    """The ops of one iteration, written down in order."""

    def __init__(self) -> None:
        self.is_malloc: list[bool] = []
        self.alloc: list[int] = []
        self.size: list[int] = []

    def malloc(self, size: int) -> int:
        self.size.append(size)
        self.is_malloc.append(True)
        self.alloc.append(len(self.size) - 1)
        return len(self.size) - 1

    def free(self, alloc: int) -> None:
        self.is_malloc.append(False)
        self.alloc.append(alloc)


def _model(rng: np.random.Generator) -> list[Layer]:
    """Four kinds of layers in turn, with sizes from a palette of some 400."""
    palette = np.concatenate(
        [
            _log_uniform(rng, 512, MiB, 200),
            _log_uniform(rng, MiB, 64 * MiB, 192),
            _log_uniform(rng, 64 * MiB, GiB, 8),
        ]
    )

    def pick(n: int, small: float, medium: float) -> list[int]:
        group = rng.choice(3, n, p=(small, medium, 1 - small - medium))
        lows, counts = np.array([0, 200, 392])[group], np.array([200, 192, 8])[group]
        return palette[lows + (rng.random(n) * counts).astype(int)].tolist()

    kinds = [
        (pick(14, 0.45, 0.54), [pick(int(rng.integers(1, 5)), 0.6, 0.385) for _ in range(14)],
         pick(10, 0.5, 0.5))
        for _ in range(4)
    ]  # fmt: skip
    layers = []
    for k in range(LAYERS):
        activations, temporaries, gradients = kinds[k % 4]
        own = pick(1, 0.6, 0.4) + pick(1, 0.7, 0.3)  # something that only this layer has
        layers.append(
            Layer(
                activations + own,
                [*temporaries, pick(1, 0.7, 0.3), pick(2, 0.7, 0.3)],
                gradients,
            )
        )
    return layers


def _iteration(layers: list[Layer], scale: float = 1.0) -> tuple[np.ndarray, ...]:
    """Forward, backward, optimizer step; (is_malloc, alloc, size) with all memory freed again."""
    tape = _Tape()

    def malloc(size: int) -> int:
        return tape.malloc(max(1, int(size * scale)))

    kept: list[list[int]] = []
    for layer in layers:
        outputs = []
        for size, needed in zip(layer.activations, layer.temporaries, strict=True):
            for_a_moment = [malloc(n) for n in needed]
            outputs.append(malloc(size))
            for t in reversed(for_a_moment):
                tape.free(t)
        kept.append(outputs)
    loss = malloc(4)
    incoming = malloc(layers[-1].activations[-1])
    gradients = []
    for layer, outputs in zip(reversed(layers), reversed(kept), strict=True):
        rows = zip(layer.activations, layer.temporaries, outputs, strict=True)
        for size, needed, output in reversed(list(rows)):
            for_a_moment = [malloc(n) for n in needed]
            outgoing = malloc(size)
            tape.free(incoming)
            tape.free(output)
            incoming = outgoing
            for t in for_a_moment:
                tape.free(t)
        gradients += [malloc(n) for n in layer.gradients]
    tape.free(incoming)
    tape.free(loss)
    for gradient in gradients:
        tape.free(tape.malloc(tape.size[gradient]))  # the optimizer's temporary
    for gradient in gradients:
        tape.free(gradient)
    return np.array(tape.is_malloc), np.array(tape.alloc), np.array(tape.size, np.int64)


def _train(n_ops: int, seed: int, lengths: int) -> Iterator[Piece]:
    rng = np.random.default_rng(seed)
    layers = _model(rng)
    variants = [_iteration(layers, 0.5 + 0.5 * (k + 1) / lengths) for k in range(lengths)]
    persistent = _log_uniform(rng, KiB, 64 * MiB, 400)  # weights and optimizer state
    yield Piece(np.ones(len(persistent), bool), np.arange(len(persistent)), persistent)
    n_allocs = total = len(persistent)
    while total < n_ops:
        is_malloc, alloc, size = variants[rng.integers(lengths)]
        yield Piece(is_malloc, alloc + n_allocs, size)
        n_allocs += len(size)
        total += len(is_malloc)


def _train_alike(n_ops: int, seed: int = 0) -> Iterator[Piece]:
    return _train(n_ops, seed, 1)


def _train_var(n_ops: int, seed: int = 1) -> Iterator[Piece]:
    return _train(n_ops, seed, LENGTHS)


def train(n_ops: int, seed: int = 0) -> Program:
    """Whole iterations of one length, at least n_ops ops."""
    return program_of(*joined(_train_alike(n_ops, seed)))


def train_var(n_ops: int, seed: int = 1) -> Program:
    """Whole iterations of random lengths, at least n_ops ops."""
    return program_of(*joined(_train_var(n_ops, seed)))


# --- populations that come and go -----------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """Blocks of a kind, whose number drifts around a target.

    Attributes:
        share: fraction of all ops that concern it.
        target: number of live blocks.
        sizes: bytes to draw from, each as likely.
        window: frees strike one of this many youngest entries; ANYWHERE = any.
    """

    share: float
    target: int
    sizes: np.ndarray
    window: int = ANYWHERE


@kernel
def _churn(
    draws, share, target, window, n_sizes, live, n_live, n_allocs, is_malloc, alloc, kind, rank
):
    """Mallocs and frees of populations; fills the ops and, per allocation, its size's place.

    Args:
        draws: shape (n, 3) uniform in [0, 1); which population, malloc or free, which one.
        share: shape (P,) cumulative shares.
        target, window, n_sizes: shape (P,).
        live, n_live: shape (P, most) and (P,); live allocations of each, and how many; modified.
        n_allocs: allocations made before.
        is_malloc, alloc: shape (n,), filled.
        kind, rank: shape (n,), filled with population and size number of each new allocation.

    Returns:
        Number of allocations made so far.
    """
    first = n_allocs
    for i in range(draws.shape[0]):
        p = 0
        while draws[i, 0] >= share[p]:
            p += 1
        m = n_live[p]
        if m == 0 or draws[i, 1] < 0.5 + 0.5 * (target[p] - m) / target[p]:
            is_malloc[i] = True
            alloc[i] = n_allocs
            kind[n_allocs - first] = p
            rank[n_allocs - first] = int(draws[i, 2] * n_sizes[p])
            live[p, m] = n_allocs
            n_live[p] = m + 1
            n_allocs += 1
        else:
            reach = min(m, window[p])
            j = m - reach + int(draws[i, 2] * reach)
            is_malloc[i] = False
            alloc[i] = live[p, j]
            live[p, j] = live[p, m - 1]
            n_live[p] = m - 1
    return n_allocs


def _populate(
    n_ops: int, rng: np.random.Generator, populations: list[Population]
) -> Iterator[Piece]:
    """n_ops ops of populations that start empty."""
    share = np.cumsum([p.share for p in populations])
    share[-1] = 1.0
    n_sizes = np.array([len(p.sizes) for p in populations])
    first = np.cumsum(n_sizes) - n_sizes
    sizes = np.concatenate([p.sizes for p in populations])
    target = np.array([p.target for p in populations])
    window = np.array([p.window for p in populations])
    live = np.zeros((len(populations), 4 * target.max() + 8), np.int64)
    n_live = np.zeros(len(populations), np.int64)
    n_allocs = 0
    for done in range(0, n_ops, DRAWN):
        n = min(DRAWN, n_ops - done)
        is_malloc, alloc = np.zeros(n, bool), np.zeros(n, np.int64)
        kind, rank = np.zeros(n, np.int64), np.zeros(n, np.int64)
        before = n_allocs
        n_allocs = _churn(
            rng.random((n, 3)), share, target, window, n_sizes, live, n_live, before,
            is_malloc, alloc, kind, rank,
        )  # fmt: skip
        made = n_allocs - before
        yield Piece(is_malloc, alloc, sizes[first[kind[:made]] + rank[:made]])


def _serve(n_ops: int, seed: int = 2) -> Iterator[Piece]:
    rng = np.random.default_rng(seed)
    churn = _log_uniform(rng, 512, 128 * MiB, 3000)
    return _populate(
        n_ops,
        rng,
        [
            Population(0.1, 4000, np.array([2, 4, 8]) * MiB),
            Population(0.9, 60, churn, window=8),
        ],
    )


def _random_sizes(n_ops: int, seed: int = 4, live: int = 20_000) -> Iterator[Piece]:
    rng = np.random.default_rng(seed)
    sizes = _log_uniform(rng, 512, 16 * MiB, 20_000)
    return _populate(n_ops, rng, [Population(1.0, live, sizes)])


def _gaps(n_ops: int, seed: int, size: int, step: int, gaps: int) -> Iterator[Piece]:
    """Blocks of size, size + step, ... with a live block after each; all freed, then churn."""
    rng = np.random.default_rng(seed)
    sizes = size + step * np.arange(gaps)
    pin = MiB + 512  # the next malloc cannot have the gap beside it as well
    order = rng.permutation(gaps)
    laid = np.stack([sizes[order], np.full(gaps, pin)], axis=1).ravel()
    yield Piece(np.ones(2 * gaps, bool), np.arange(2 * gaps), laid)
    yield Piece(np.zeros(gaps, bool), 2 * rng.permutation(gaps), laid[:0])
    n_churn = max(0, n_ops - 3 * gaps)
    for piece in _populate(n_churn, rng, [Population(1.0, gaps // 8, sizes)]):
        yield piece._replace(alloc=piece.alloc + 2 * gaps)


def _pinned(n_ops: int, seed: int = 5, gaps: int = GAPS) -> Iterator[Piece]:
    return _gaps(n_ops, seed, 1536 * KiB, 1536, gaps)


def _kvsame(n_ops: int, seed: int = 6, gaps: int = GAPS) -> Iterator[Piece]:
    return _gaps(n_ops, seed, 2 * MiB, 0, gaps)


def serve(n_ops: int, seed: int = 2) -> Program:
    """4,000 cache blocks of 2, 4 and 8 MiB, and 60 short-lived blocks of 3,000 sizes."""
    return program_of(*joined(_serve(n_ops, seed)))


def random_sizes(n_ops: int, seed: int = 4, live: int = 20_000) -> Program:
    """`live` blocks of up to 20,000 sizes between 512 bytes and 16 MiB, any of them freed next."""
    return program_of(*joined(_random_sizes(n_ops, seed, live)))


def pinned(n_ops: int, seed: int = 5, gaps: int = GAPS) -> Program:
    """`gaps` free blocks of different sizes that cannot merge; a few are in use at any time."""
    return program_of(*joined(_pinned(n_ops, seed, gaps)))


def kvsame(n_ops: int, seed: int = 6, gaps: int = GAPS) -> Program:
    """`gaps` free blocks of one size that cannot merge; a few are in use at any time."""
    return program_of(*joined(_kvsame(n_ops, seed, gaps)))


PATTERNS: dict[str, Callable[..., Program]] = {
    "train": train,
    "train_var": train_var,
    "serve": serve,
    "random": random_sizes,
    "pinned": pinned,
    "kvsame": kvsame,
}
# The same piece by piece.
PIECES: dict[str, Callable[..., Iterator[Piece]]] = {
    "train": _train_alike,
    "train_var": _train_var,
    "serve": _serve,
    "random": _random_sizes,
    "pinned": _pinned,
    "kvsame": _kvsame,
}
