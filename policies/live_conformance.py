"""What must hold of a policy that runs live, tried through its C functions on stand-in memory.

The requests come from compiled code without the interpreter's lock, so several threads are in the
C functions at the same time, as PyTorch's are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from ..sim.apart import invokers
from ..sim.device import FIRST_ADDRESS, Device
from ..sim.engine import CAPTURE, COMPLETE, FREE, OP_BITS, OP_MASK, TRY
from ..sim.mechanism_replay import EMPTY_CACHE
from ..sim.memory import i8_at
from ..sim.packing import Packed, pack
from ..traces.jit import kernel
from ..traces.program import Op, Program
from ..traces.random_programs import random_program
from ..traces.units import MiB
from .conformance import LENGTH, MANY_OPS, Broken, Claim, Trial, without_waiting, words_of
from .live_device import CalledLive
from .live_setting import Setting
from .playing import AnyPolicy, play_policy
from .runs_live import checked_live
from .variant import Variant

THREADS = 4
HELD = 48  # blocks that a thread holds at the most
TIGHT = 700 * MiB  # a device on which random programs run out of memory
STREAM = 0x10000  # handles that a program's streams get here, from this on
_call0, _call3, _call4 = invokers[0], invokers[3], invokers[4]
_COMPARED = (
    "allocated_bytes.all.peak", "active_bytes.all.peak", "requested_bytes.all.peak",
    "reserved_bytes.all.peak", "reserved_bytes.all.current", "allocated_bytes.all.current",
    "num_device_alloc", "num_device_free", "num_ooms", "num_alloc_retries",
)  # fmt: skip


@kernel
def drive(alloc, free, empty_cache, device, events, size, stream, slots, out):
    """Ask a live policy for what a packed program asks for.

    Args:
        alloc, free, empty_cache: addresses of the C functions.
        device: whose memory.
        events: shape (n,), int64; slot << 32 | class << 4 | op.
        size, stream: shape (classes,); bytes and stream handle of each class.
        slots: how many there are.
        out: shape (n,), int64; receives the address of each malloc, 0 = none.
    """
    held = np.zeros(slots, np.int64)
    klass_of = np.zeros(slots, np.int64)
    capturing = np.int64(0)
    for i in range(events.size):
        e = events[i]
        op = e & OP_MASK
        slot = e >> 32
        if op & 3 == 0:
            k = (e >> OP_BITS) & 0xFFFFFFF
            held[slot] = _call3(alloc, size[k], device, stream[k])
            klass_of[slot] = k
            out[i] = held[slot]
        if op == FREE or op == TRY or op == COMPLETE:
            if held[slot] != 0:
                k = klass_of[slot]
                _call4(free, held[slot], size[k], device, stream[k])
                held[slot] = 0
        elif op == CAPTURE:
            capturing = slot
        elif op == EMPTY_CACHE and capturing == 0:
            _call0(empty_cache)


@kernel
def hammer(alloc, free, device, stream, seed, steps):
    """Allocate and free at random, with a pattern in all memory held.

    Args:
        alloc, free: addresses of the C functions.
        device, stream: what is asked with.
        seed: of this thread; not 0.
        steps: allocations and frees.

    Returns:
        (words that changed while they were held, requests not served).
    """
    place = np.zeros(HELD, np.int64)
    words = np.zeros(HELD, np.int64)
    mark = np.zeros(HELD, np.int64)
    x = seed
    changed = refused = np.int64(0)
    for i in range(steps + HELD):
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        k = np.int64(i - steps) if i >= steps else (x >> 8) % HELD
        if place[k] != 0:
            at = i8_at(place[k], np.int64(0))
            for w in range(0, words[k], 509):
                changed += at[w] != mark[k] + w
            changed += at[words[k] - 1] != mark[k] + words[k] - 1
            _call4(free, place[k], words[k] * 8, device, stream)
            place[k] = 0
        elif i < steps:
            x = (x * 1103515245 + 12345) & 0x7FFFFFFF
            n = (np.int64(1) << (x >> 8) % 18) + (x >> 16) % 1000
            a = _call3(alloc, n * 8, device, stream)
            if a == 0:
                refused += 1
            else:
                place[k] = a
                words[k] = n
                mark[k] = (seed << 40) + (np.int64(i) << 20)
                at = i8_at(a, np.int64(0))
                for w in range(0, n, 509):
                    at[w] = mark[k] + w
                at[n - 1] = mark[k] + n - 1
    return changed, refused


def as_asked_live(program: Program) -> Program:
    """A program as a live allocator meets it: no private pools, and what is freed is free at once.

    Settings that a recorded program changed on its way stay what they were.
    """
    program = without_waiting(program)
    op, arg = program.op, program.arg
    is_asked = np.isin(op, (Op.MALLOC, Op.FREE, Op.TRY)) | ((op == Op.EMPTY_CACHE) & (arg == 0))
    return replace(
        program,
        op=np.where(is_asked, op, Op.CAPTURE).astype(np.uint8),
        arg=np.where(is_asked, arg, 0).astype(np.int32),
        req_pool=np.zeros_like(program.req_pool),
        pools=program.pools[:1],
    )


def driven(packed: Packed, setting: Setting) -> tuple[np.ndarray, dict[str, int]]:
    """Drive a packed program through a live policy.

    Returns:
        Address of each event's malloc, as simulated, 0 = none; and the statistics at the end.
    """
    size = np.append(0, packed.program.req_size).astype(np.int64)
    stream = packed.program.req_stream.astype(np.int64)
    out = np.zeros(len(packed.events), np.int64)
    with CalledLive(setting) as called:
        drive(
            called.alloc, called.free, called.empty_cache, called.live.device, packed.events, size,
            np.append(0, STREAM + stream), packed.n_slots, out,
        )  # fmt: skip
        stats = called.live.stats()
        out[out != 0] += FIRST_ADDRESS - called.live.region.base
    return out, stats


def difference(packed: Packed, setting: Setting) -> str:
    """The first thing in which a live run differs from its simulation; "" if there is none."""
    program = packed.program
    run = play_policy(
        packed, setting.policy, dict(setting.values), Device(setting.capacity_bytes),
        stop_at_oom=False, addresses=True, track=True,
    )  # fmt: skip
    out, stats = driven(packed, setting)
    took = np.flatnonzero(program.op == Op.MALLOC)
    found, want = out[packed.prefix + took], run.addr[program.arg[took]].astype(np.int64)
    for k in np.flatnonzero(found != want)[:1]:
        return (
            f"allocation {program.arg[took[k]]} lies at {found[k]:#x}, simulated at {want[k]:#x}; "
            f"{(found != want).sum():,} of {len(took):,} differ"
        )
    names = _COMPARED
    if isinstance(setting.policy, Variant):
        names = run.stats.keys() - {"diverged"}  # all that PyTorch has
    for name in sorted(names):
        if run.stats[name] != stats[name]:
            return f"{name} is {stats[name]:,}, simulated {run.stats[name]:,}"
    if stats["unknown_frees"]:
        return f"{stats['unknown_frees']:,} addresses were not known when they were freed"
    return ""


def same_as_simulated(trial: Trial) -> None:
    """Every address and every statistic is the simulation's, with and without an end of memory."""
    policy = checked_live(trial.policy)
    done = seed = 0
    while done < trial.many:
        for values in trial.ends():
            capacity = (None, TIGHT)[seed % 2]
            streams = 3 if policy.honours.streams else 1 + seed % 2
            program = as_asked_live(random_program(seed, trial.length, streams=streams, pools=0))
            fault = difference(pack(program), Setting(policy, values, capacity))
            if fault:
                raise Broken(f"{fault} ({words_of(values)}, seed {seed})")
            trial.done += program.n_ops
            trial.tick(program.n_ops)
            done += program.n_ops
            seed += 1


def threads(trial: Trial) -> None:
    """Threads that allocate at the same time never change each other's memory."""
    policy = checked_live(trial.policy)
    steps = _steps(trial.many)
    with (
        CalledLive(Setting(policy, policy.defaults, None)) as called,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        jobs = [
            pool.submit(
                hammer, called.alloc, called.free, called.live.device, STREAM + n, n + 1, steps
            )
            for n in range(THREADS)
        ]
        found = [job.result() for job in jobs]
        stats = called.live.stats()
    trial.done += THREADS * steps
    trial.tick(THREADS * steps)
    changed, refused = (sum(f[k] for f in found) for k in (0, 1))
    if changed or refused:
        raise Broken(f"{changed:,} words were changed by others, {refused:,} requests not served")
    left = stats["live_blocks"] + stats["allocated_bytes.all.current"] + stats["unknown_frees"]
    if left:
        raise Broken(f"blocks left, or not known when freed: {left:,}")


def _steps(many: int) -> int:
    """Steps of each thread."""
    return max(1000, many // THREADS)


def most_live_operations(policy: AnyPolicy, many: int = MANY_OPS, length: int = LENGTH) -> int:
    """Return a number of operations that `examine` with LIVE_CLAIMS does not pass.

    Args:
        policy, many, length: as for `examine`.
    """
    return many + len(Trial(policy).ends()) * length + THREADS * _steps(many)


LIVE_CLAIMS = (
    Claim("live: as simulated", same_as_simulated),
    Claim("live: threads", threads),
)
