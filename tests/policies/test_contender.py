"""Naming a policy: every way to say it, and what is said of a wrong one."""

from __future__ import annotations

import pytest

from tightfit.policies.catalogue import MECHANISMS, NATIVE
from tightfit.policies.contender import contender, names
from tightfit.policies.live_bytes import peak_live_bytes
from tightfit.policies.native import replay_native
from tightfit.sim.device import Device
from tightfit.sim.packing import pack
from tightfit.sim.param import Param, parse_params
from tightfit.sim.release import release
from tightfit.sim.settings import Settings
from tightfit.sim.settings_line import parse_settings
from tightfit.traces.errors import PolicyError
from tightfit.traces.units import GiB, MiB

from ..strategies import Script, random_program

RULES = release("2.15")


def peak(text: str, script: Script) -> int:
    run = contender(text, RULES).replay(pack(script.program()), Device())
    return run.stats["reserved_bytes.all.peak"]


def test_every_name_is_a_contender_and_states_its_source() -> None:
    for name in names():
        assert contender(name, RULES).source
    assert NATIVE.keys() & MECHANISMS.keys() == set()
    assert [n for n in names() if contender(n, RULES).is_baseline] == ["pytorch"]


def test_parameters_change_what_it_does() -> None:
    script = Script()
    script.malloc(MiB)
    assert peak("best_fit", script) == 2 * MiB
    assert peak("best_fit:page=64MiB", script) == 64 * MiB
    assert peak("best_fit: quantum=1024, page=67108864", script) == 64 * MiB


def test_a_settings_line_is_the_native_allocator_under_it() -> None:
    program = random_program(4, 400)
    line = "expandable_segments:True,roundup_power2_divisions:4"
    got = contender(f"pytorch:{line}", RULES).replay(pack(program), Device())
    want = replay_native(pack(program), parse_settings(line, RULES), RULES)
    assert got.stats == want.stats
    alone = contender("expandable", RULES).replay(pack(program), Device())
    assert alone.stats == replay_native(
        pack(program), Settings(expandable_segments=True), RULES
    ).stats  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("best_fitt", "did you mean 'best_fit'"),
        ("best_fit:quantom=512", "unknown parameter 'quantom'; did you mean 'quantum'"),
        ("best_fit:quantum=128", "best_fit: quantum = 128 is outside 256 .. 65536 bytes"),
        ("best_fit:quantum=768", "768 is not a power of two; the nearest are 512 and 1024"),
        ("best_fit:quantum=many", "found 'many', expected a size"),
        ("best_fit:quantum", "found 'quantum', expected name=value"),
        ("best_fit:quantum=512,quantum=512", "'quantum' is given twice"),
        ("expandable:max_split_size_mb:64", "write 'pytorch:expandable_segments:True,...'"),
        ("pytorch:max_split_size_mb:1", "max_split_size_mb"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(text: str, said: str) -> None:
    with pytest.raises(PolicyError) as error:
        contender(text, RULES)
    assert said in str(error.value)


def test_a_plain_number_is_no_size() -> None:
    ways = Param("ways", 2, 1, 8, "how many ways there are")
    assert parse_params((ways,), "ways=3", "x") == {"ways": 3}
    with pytest.raises(PolicyError, match="ways: found '2MiB', expected a whole number"):
        parse_params((ways,), "ways=2MiB", "x")


def test_a_declaration_must_hold_itself_to_its_range() -> None:
    with pytest.raises(PolicyError, match="is outside"):
        Param("ways", 9, 1, 8, "how many ways there are")


def test_what_is_not_honoured_is_said() -> None:
    program = random_program(1, 300, streams=3, pools=2)
    text = " ".join(contender("best_fit", RULES).ignores(program, Device()))
    assert "3 streams" in text and "2 are served from the common memory" in text
    assert len(contender("cupy_pool", RULES).ignores(program, Device())) == 1  # the pools
    assert len(contender("one_region", RULES).ignores(Script().program(), Device())) == 1
    assert contender("one_region", RULES).ignores(Script().program(), Device(GiB)) == []
    assert contender("pytorch", RULES).ignores(program, Device()) == []
    assert contender("best_fit", RULES).ignores(Script().program(), Device()) == []


def test_peak_of_live_bytes_counts_what_waits() -> None:
    script = Script(2)
    a, b = script.mallocs(3 * MiB, 5)
    script.free_later(a)
    script.malloc(MiB)
    script.complete(a)
    script.free(b)
    script.attempt(9 * MiB)
    assert peak_live_bytes(pack(script.program())) == 10 * MiB  # the attempt beside what is live
    assert peak_live_bytes(pack(Script().program())) == 0


@pytest.mark.parametrize("seed", range(6))
def test_no_policy_reserves_less_than_the_peak_of_live_bytes(seed: int) -> None:
    # an empty_cache waits for streams, so that waiting memory may go earlier than recorded
    program = random_program(seed, 300, streams=2, pools=1, start_ops=100)
    program.op[program.op == 5] = 7
    program.arg[program.op == 7] = 0
    packed = pack(program, keep_start=False)
    bound = peak_live_bytes(packed)
    assert bound == peak_live_bytes(pack(program))
    for name in names():
        run = contender(name, RULES).replay(packed, Device())
        assert run.stats["requested_bytes.all.peak"] == bound, name
        assert run.stats["reserved_bytes.all.peak"] >= bound, name
