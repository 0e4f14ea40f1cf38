"""The contract of a policy, as claims that are tried on random programs.

Whatever a policy decides, all of this must hold. The package's own tests try every policy of the
catalogue on these claims, and `tightfit policy check` tries a user's.
"""

from __future__ import annotations

import random
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from ..sim.device import Device
from ..sim.packing import Packed, pack
from ..sim.run import Run
from ..traces.errors import PolicyError
from ..traces.program import Op, Program
from ..traces.random_programs import random_program, random_size
from ..traces.script import Script
from ..traces.units import GiB, MiB
from .playing import AnyPolicy, play_policy

MANY_OPS = 110_000  # random operations of the claims about blocks, at the least
LENGTH = 12_000  # steps of one random program
# Policies of the catalogue that by their source's rules do not return all memory.
KEEPS_SCRAPS = {"arena": "a stream keeps pieces that became smaller than a superblock"}


class Broken(Exception):
    """A claim does not hold; the message says where."""


@dataclass
class Trial:
    """One policy under test.

    Attributes:
        policy: who is tried.
        many: random operations that the claims about blocks try at the least.
        length: steps of one random program.
        tick: called with the number of operations after each replay.
        done: operations tried so far.
    """

    policy: AnyPolicy
    many: int = MANY_OPS
    length: int = LENGTH
    tick: Callable[[int], None] = lambda n: None
    done: int = field(default=0, init=False)

    def play(
        self,
        packed: Packed,
        values: dict[str, int],
        device: Device = Device(),  # noqa: B008 (frozen)
        *,
        stop_at_oom: bool = True,
        addresses: bool = False,
    ) -> Run:
        """Replay, and count."""
        run = play_policy(
            packed, self.policy, values, device, stop_at_oom=stop_at_oom, addresses=addresses
        )
        self.done += run.n_ops
        self.tick(run.n_ops)
        return run

    def ends(self) -> list[dict[str, int]]:
        """The defaults, and each parameter at both ends of its range."""
        p = self.policy
        return [p.defaults] + [
            p.defaults | {q.name: value} for q in p.params for value in (q.low, q.high)
        ]


def words_of(values: dict[str, int]) -> str:
    """Parameters as a user writes them."""
    return ",".join(f"{k}={v}" for k, v in values.items()) or "no parameters"


@lru_cache(maxsize=32)
def _written(seed: int, length: int, streams: int, pools: int) -> Program:
    """A random program, not to be changed: written once for all policies that are tried on it."""
    return random_program(seed, length, streams=streams, pools=pools)


def without_waiting(program: Program) -> Program:
    """Every free at once: what waits may be handed on at a moment the program does not show."""
    op = program.op.copy()
    op[op == Op.FREE_LATER] = Op.CAPTURE
    arg = np.where(op == Op.CAPTURE, 0, program.arg).astype(np.int32)
    return replace(program, op=np.where(op == Op.COMPLETE, Op.FREE, op).astype(np.uint8), arg=arg)


def block_fault(program: Program, run: Run, alignment: int) -> str:
    """The first block that overlaps one the program still holds, or is misaligned; "" if none."""
    held: dict[int, tuple[int, int]] = {}
    starts: list[int] = []  # ascending, of the allocations held
    by_start: dict[int, int] = {}
    n = run.n_ops
    for op, arg in zip(program.op[:n].tolist(), program.arg[:n].tolist(), strict=True):
        if op == Op.MALLOC and run.addr[arg]:
            first = int(run.addr[arg])
            end = first + int(program.req_size[program.request[arg]])
            if first % alignment:
                return f"allocation {arg} lies at {first:#x}, no multiple of {alignment}"
            k = bisect_left(starts, first)
            for other in starts[max(0, k - 1) : k + 1]:
                if other < end and first < held[by_start[other]][1]:
                    return (
                        f"allocation {arg} of {end - first:,} bytes at {first:#x} overlaps "
                        f"allocation {by_start[other]} at {other:#x}"
                    )
            insort(starts, first)
            held[arg], by_start[first] = (first, end), arg
        elif op in (Op.FREE, Op.COMPLETE) and arg in held:
            first, _ = held.pop(arg)
            del starts[bisect_left(starts, first)]
            del by_start[first]
    return ""


def blocks(trial: Trial) -> None:
    """Blocks in use never overlap, and every address is aligned."""
    done = seed = 0
    while done < trial.many:
        for values in trial.ends():
            program = without_waiting(_written(seed, trial.length, 3, 1))
            run = trial.play(pack(program), values, addresses=True)
            if run.n_ops != program.n_ops:
                raise Broken(f"it runs out of endless memory ({words_of(values)}, seed {seed})")
            fault = block_fault(program, run, trial.policy.alignment)
            if fault:
                raise Broken(f"{fault} ({words_of(values)}, seed {seed})")
            done += run.n_ops
            seed += 1


def conservation(trial: Trial) -> None:
    """Bytes are conserved: when all is freed and given back nothing is held."""
    script = Script(2)
    rng = random.Random(5)
    held = [script.malloc(random_size(rng), rng.randrange(2)) for _ in range(300)]
    rng.shuffle(held)
    script.free(*held[:150])
    script.mallocs(*[random_size(rng) for _ in range(80)])
    script.free(*held[150:], *range(300, 380))
    script.empty_cache()
    for values in trial.ends():
        stats = trial.play(pack(script.program()), values).stats
        for what in ("allocated", "requested"):
            left = stats[f"{what}_bytes.all.current"]
            if left:
                raise Broken(f"{left:,} {what} bytes are left at the end ({words_of(values)})")
        requested, allocated, reserved = (
            stats[f"{what}_bytes.all.peak"] for what in ("requested", "allocated", "reserved")
        )
        if not requested <= allocated <= reserved:
            raise Broken(
                f"peaks out of order: {requested:,} requested, {allocated:,} allocated, "
                f"{reserved:,} reserved ({words_of(values)})"
            )
        left = stats["reserved_bytes.all.current"]
        if trial.policy.name in KEEPS_SCRAPS:
            if left >= reserved:
                raise Broken(f"empty_cache gives nothing back ({words_of(values)})")
        elif trial.policy.honours.returns:
            if left:
                raise Broken(f"empty_cache leaves {left:,} bytes reserved ({words_of(values)})")
        elif stats["num_device_free"]:
            raise Broken(f"it says that it returns no memory, and does ({words_of(values)})")


def reuse(trial: Trial) -> None:
    """Freed memory is used again: a loop needs no more than its first round."""
    for values in trial.ends():
        peaks = []
        for rounds in (1, 50):
            script = Script()
            for _ in range(rounds):
                script.free(*script.mallocs(700, 5 * MiB, 70 * MiB, 30_000, 700))
            stats = trial.play(pack(script.program()), values).stats
            peaks.append(stats["reserved_bytes.all.peak"])
        if peaks[1] > peaks[0]:
            raise Broken(
                f"one round reserves {peaks[0]:,} bytes, fifty {peaks[1]:,} ({words_of(values)})"
            )


def determinism(trial: Trial) -> None:
    """Two replays are equal, in every address and number."""
    packed = pack(random_program(9, 4000, streams=2, pools=1))
    one, two = (trial.play(packed, trial.policy.defaults, addresses=True) for _ in range(2))
    if one.stats != two.stats or not np.array_equal(one.addr, two.addr):
        raise Broken("two replays of one program differ")


def empty(trial: Trial) -> None:
    """An empty program takes nothing."""
    for values in trial.ends():
        run = trial.play(pack(Script().program()), values)
        if run.n_ops or run.first_oom_op != -1 or run.stats["allocated_bytes.all.peak"]:
            raise Broken(f"an empty program allocates ({words_of(values)})")


def huge(trial: Trial) -> None:
    """One huge request is served, or reported on a device that is too small."""
    script = Script()
    script.free(script.malloc(3 * GiB + 1))
    for values in trial.ends():
        run = trial.play(pack(script.program()), values)
        if run.stats["num_ooms"] or run.stats["reserved_bytes.all.peak"] <= 3 * GiB:
            raise Broken(f"3 GiB and a byte are not served ({words_of(values)})")
        tight = trial.play(pack(script.program()), values, Device(2 * GiB))
        if (tight.first_oom_op, tight.n_ops) != (0, 1) or tight.first_oom_bytes <= 3 * GiB:
            raise Broken(f"on 2 GiB the failure is not reported as it is ({words_of(values)})")


def out_of_memory(trial: Trial) -> None:
    """It stays within the device, reports when memory runs out, and goes on after that."""
    room = 700 * MiB
    for seed, values in enumerate(trial.ends()):
        program = _written(seed, trial.length // 4, 2, 1)
        run = trial.play(pack(program), values, Device(room), stop_at_oom=False)
        if run.n_ops != program.n_ops:
            raise Broken(f"the replay ends at op {run.n_ops:,} ({words_of(values)})")
        if not run.stats["num_ooms"] and run.stats["requested_bytes.all.peak"] > room:
            raise Broken(f"more is served than there is ({words_of(values)})")
        if run.stats["reserved_bytes.all.peak"] > room:
            raise Broken(
                f"{run.stats['reserved_bytes.all.peak']:,} bytes reserved on a device of "
                f"{room:,} ({words_of(values)})"
            )


def declaration(trial: Trial) -> None:
    """It states its source and its parameters, and refuses values outside their ranges."""
    policy = trial.policy
    if len(policy.source.split()) < 3:
        raise Broken("its source is no sentence: name the paper or the file, and the part of it")
    packed = pack(Script().program())
    for p in policy.params:
        if not p.low < p.high or len(p.doc.split()) < 3:
            raise Broken(f"parameter {p.name}: no range, or no words on what it means")
        for value in (p.low - 1, 2 * p.high + 1):
            try:
                play_policy(packed, policy, {p.name: value})
            except PolicyError:
                continue
            raise Broken(f"{p.name}={value} is accepted, outside {p.low} .. {p.high}")


@dataclass(frozen=True)
class Claim:
    """One sentence about every policy, and how it is tried."""

    name: str
    try_on: Callable[[Trial], None]

    @property
    def words(self) -> str:
        """The claim as a sentence."""
        return (self.try_on.__doc__ or "").strip()


# Operations of `conservation`, `reuse` and `huge` for each setting tried, and of `determinism`.
FIXED_OPS, ALIKE_OPS = 1300, 8000


def most_operations(policy: AnyPolicy, many: int = MANY_OPS, length: int = LENGTH) -> int:
    """Return a number of operations that `examine` with all CLAIMS does not pass.

    Programs are made until there are enough, so how many it will be is not known beforehand.

    Args:
        policy, many, length: as for `examine`.
    """
    ends = len(Trial(policy).ends())
    return many + ends * (length + length // 4 + FIXED_OPS) + ALIKE_OPS


CLAIMS = (
    Claim("declaration", declaration),
    Claim("empty program", empty),
    Claim("blocks", blocks),
    Claim("conservation", conservation),
    Claim("reuse", reuse),
    Claim("determinism", determinism),
    Claim("huge request", huge),
    Claim("out of memory", out_of_memory),
)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim.

    Attributes:
        claim: its name.
        words: the claim as a sentence.
        holds: whether nothing was found against it; None if it was not tried.
        operations: operations replayed for it.
        fault: what was found; "" if nothing.
    """

    claim: str
    words: str
    holds: bool | None
    operations: int
    fault: str = ""


def examine(
    policy: AnyPolicy,
    claims: Sequence[Claim] = CLAIMS,
    many: int = MANY_OPS,
    length: int = LENGTH,
    tick: Callable[[int], None] = lambda n: None,
) -> Iterator[Verdict]:
    """Try claims on a policy, one after another.

    Raises:
        PolicyError: the policy's own file is at fault.
    """
    for claim in claims:
        trial = Trial(policy, many, length, tick)
        try:
            claim.try_on(trial)
        except Broken as broken:
            yield Verdict(claim.name, claim.words, False, trial.done, str(broken))
        else:
            yield Verdict(claim.name, claim.words, True, trial.done)
