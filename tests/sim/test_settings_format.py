"""Settings written as a line: the shortest one, which parses back to the same settings."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightfit.sim.release import KNOWN, release
from tightfit.sim.settings import Settings
from tightfit.sim.settings_line import (
    KEYS,
    format_settings,
    parse_settings,
    parts_that_move_nothing,
)  # fmt: skip
from tightfit.traces.errors import PolicyError
from tightfit.traces.units import MiB

ALL = [release(name) for name in KNOWN]


@pytest.mark.parametrize(
    "line, version, canonical",
    [
        (" expandable_segments:True , max_split_size_mb:64.5,", "2.13",
         "max_split_size_mb:64,expandable_segments:True"),
        ("max_split_size_mb:-1,expandable_segments:False", "2.13", ""),
        # the last before the bytes are those of no limit
        ("max_split_size_mb:8796093022207", "2.13", "max_split_size_mb:8796093022207"),
        ("max_split_size_mb:8796093022208", "2.13", ""),
        ("roundup_power2_divisions:[1:4,>:4]", "2.13", "roundup_power2_divisions:4"),
        ("roundup_power2_divisions:[1:2,2:4,>:4]", "2.13", "roundup_power2_divisions:[1:2,>:4]"),
        ("roundup_power2_divisions:[1:2,2:4,>:4]", "2.9", "roundup_power2_divisions:[1:2,2:4,>:4]"),
        ("roundup_power2_divisions:[1:0,>:4]", "2.13", "roundup_power2_divisions:[>:4]"),
        ("roundup_power2_divisions:[1:0,8:2]", "2.13", "roundup_power2_divisions:[4:0,8:2]"),
        ("large_segment_size_mb:32,max_non_split_rounding_mb:32", "2.13",
         "large_segment_size_mb:32"),
        ("pinned_num_register_threads:8,backend:native", "2.13", ""),
        ("expandable_segments_reserve:40.0G", "2.15", "expandable_segments_reserve:40G"),
        ("expandable_segments_reserve:1e-20G", "2.15",
         "expandable_segments_reserve:4.656612873077393e-10G"),
        ("per_process_memory_fraction:0.0", "2.15", "per_process_memory_fraction:0"),
    ],
)  # fmt: skip
def test_the_canonical_line(line, version, canonical):
    rules = release(version)
    assert format_settings(parse_settings(line, rules), rules) == canonical


def test_settings_no_line_can_express_are_refused():
    with pytest.raises(PolicyError, match="max_split_size = 67108865"):
        format_settings(Settings(max_split_size=64 * MiB + 1), ALL[-1])
    with pytest.raises(PolicyError, match="exists from 2.12"):
        format_settings(Settings(throw_on_cudamalloc_oom=True), release("2.9"))


divisions = st.sampled_from([0, 1, 2, 4, 8, 64])
runs = st.lists(st.tuples(divisions, st.integers(1, 9)), min_size=1, max_size=8)


@st.composite
def lines(draw, rules):
    """A line the release accepts, keys in any order and with repetitions."""
    mb = st.integers(64, 1 << 20) | st.just(-1)
    flag = st.sampled_from(["True", "False"])
    fraction = st.floats(0, 1, exclude_min=True, exclude_max=True, allow_subnormal=False).map(repr)
    items = st.lists(st.tuples(st.integers(0, 17).map(lambda i: 1 << i) | st.just(">"), divisions))
    values = {
        "large_segment_size_mb": st.integers(11, 64),
        "max_split_size_mb": mb,
        "max_non_split_rounding_mb": mb,
        "garbage_collection_threshold": fraction,
        "roundup_power2_divisions": st.sampled_from([1, 2, 4, 8, 16])
        | items.map(lambda pairs: "[" + ",".join(f"{k}:{d}" for k, d in pairs) + "]"),
        "expandable_segments": flag,
        "expandable_segments_reserve": fraction | st.integers(1, 200).map(lambda g: f"{g}G"),
        "per_process_memory_fraction": fraction,
        "throw_on_cudamalloc_oom": flag,
        "graph_capture_record_stream_reuse": flag,
        "release_lock_on_cudamalloc": flag,
    }
    known = [k.name for k in KEYS if k.known_to(rules) and k.name in values]
    names = draw(st.lists(st.sampled_from(known), max_size=6))
    return ",".join(f"{name}:{draw(values[name])}" for name in names)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), rules=st.sampled_from(ALL))
def test_writing_and_parsing_again_gives_the_same_settings(data, rules):
    found = parse_settings(data.draw(lines(rules)), rules)
    canonical = format_settings(found, rules)
    again = parse_settings(canonical, rules)
    assert replace(again, conf="") == replace(found, conf="")
    assert format_settings(again, rules) == canonical


@settings(max_examples=150, deadline=None)
@given(runs=runs, rules=st.sampled_from(ALL))
def test_every_roundup_table_can_be_written(runs, rules):
    table = tuple(d for d, n in runs for _ in range(n))[:16]
    table += (table[-1],) * (16 - len(table))
    wanted = Settings(roundup_divisions=table)
    line = format_settings(wanted, rules)
    assert parse_settings(line, rules).roundup_divisions == table


def test_the_parts_that_move_no_device_memory_are_found_under_either_name() -> None:
    line = (
        "max_split_size_mb:64, release_lock_on_hipmalloc:True,"
        "expandable_segments_reserve_by_class:[a:0.5,b:40G],expandable_segments:True,"
        "pinned_num_register_threads : 8,"
    )
    assert parts_that_move_nothing(line) == [
        "release_lock_on_hipmalloc:True", "expandable_segments_reserve_by_class:[a:0.5,b:40G]",
        "pinned_num_register_threads:8",
    ]  # fmt: skip
    assert parts_that_move_nothing("expandable_segments:True") == parts_that_move_nothing("") == []
