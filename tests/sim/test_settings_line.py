"""Settings lines: what each release accepts, what it means, and what it says otherwise."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tightfit.sim.release import KNOWN, release
from tightfit.sim.settings import OFF, Settings
from tightfit.sim.settings_line import KEYS, format_settings, parse_settings, parse_settings_verbose
from tightfit.sim.settings_parser import Parser
from tightfit.traces.errors import PolicyError
from tightfit.traces.units import GiB, MiB

ALL = [release(name) for name in KNOWN]
NEW = [r for r in ALL if r.version >= (2, 10)]
OLD = [r for r in ALL if r.version <= (2, 9)]


def accepts(line, rules):
    try:
        parse_settings(line, rules)
    except PolicyError:
        return False
    return True


@pytest.mark.parametrize("rules", ALL, ids=lambda r: r.name)
def test_the_empty_line_means_every_default(rules):
    assert parse_settings("", rules) == Settings()
    assert format_settings(Settings(), rules) == ""


@pytest.mark.parametrize("key", KEYS, ids=lambda k: k.name)
def test_a_key_is_refused_before_its_first_release_and_accepted_from_it_on(key):
    value = {
        "name": "native",
        "bool": "True",
        "MiB": "64",
        "count": "8",
        "fraction": "0.5",
        "divisions": "4",
        "reserve": "40G",
        "list of reserves": "[a:0.5,b:2G]",
    }[key.type]
    for name in filter(None, (key.name, key.alias)):
        seen = [rules.name for rules in ALL if accepts(f"{name}:{value}", rules)]
        assert seen == [n for n in KNOWN if KNOWN.index(n) >= KNOWN.index(key.since)]


@pytest.mark.parametrize(
    "line, first, last",
    [  # accepted from `first` to `last`; None = never
        ("max_split_size_mb:20", "2.10", "2.15"),
        ("max_split_size_mb:21", "2.4", "2.15"),
        ("max_split_size_mb:19", None, None),
        ("max_split_size_mb:20.7", "2.10", "2.15"),
        ("max_split_size_mb:21.9", "2.4", "2.15"),
        ("max_split_size_mb:64MB", "2.4", "2.15"),
        ("max_split_size_mb:-1", "2.4", "2.15"),
        ("max_split_size_mb:-1000", "2.4", "2.15"),
        ("max_split_size_mb:3000000000", "2.10", "2.15"),
        ("max_split_size_mb:18446744073709551616", None, None),
        ("max_split_size_mb:", None, None),
        ("max_split_size_mb", None, None),
        ("max_split_size_mb:[64]", None, None),
        ("max_split_size_mb::64", None, None),
        ("max_split_size_mb,64", "2.10", "2.15"),
        ("max_split_size_mb:64,", "2.4", "2.15"),
        ("max_split_size_mb:64,,", None, None),
        (",max_split_size_mb:64", None, None),
        (" max_split_size_mb : 64 ", "2.4", "2.15"),
        ("max_split_size_mb:\t64", "2.4", "2.15"),  # strtol skips a tab in front of digits
        ("max_split_size_mb\t:64", "2.10", "2.15"),  # but a tab in a key belongs to the key
        ("max_split_size_mb=64", None, None),
        ("max_split_size_mb:64]expandable_segments:True", "2.10", "2.15"),
        ("max_split_size_mb:64:expandable_segments[True", "2.10", "2.15"),
        ("expandable_segments:true", None, None),
        ("expandable_segments:1", None, None),
        ("garbage_collection_threshold:0", None, None),
        ("garbage_collection_threshold:1", None, None),
        ("garbage_collection_threshold:1.0", None, None),
        ("garbage_collection_threshold:nan", None, None),
        ("garbage_collection_threshold:0x1p-1", "2.4", "2.15"),
        ("garbage_collection_threshold:1e-400", None, None),
        ("garbage_collection_threshold:1e-310", None, None),
        ("garbage_collection_threshold:.8x", "2.4", "2.15"),
        ("per_process_memory_fraction:0", "2.10", "2.15"),
        ("per_process_memory_fraction:1.0", "2.10", "2.15"),
        ("per_process_memory_fraction:1.01", None, None),
        ("per_process_memory_fraction:-0.1", None, None),
        ("roundup_power2_divisions:0", None, None),
        ("roundup_power2_divisions:3", None, None),
        ("roundup_power2_divisions:1", "2.4", "2.15"),
        ("roundup_power2_divisions:[1:0]", "2.4", "2.15"),
        ("roundup_power2_divisions:[1:3]", None, None),
        ("roundup_power2_divisions:[3:2]", None, None),
        ("roundup_power2_divisions:[0:2]", None, None),
        ("roundup_power2_divisions:[1:2", None, None),
        ("roundup_power2_divisions:[1:2,", "2.4", "2.9"),
        ("roundup_power2_divisions:[1:2,]", "2.4", "2.15"),
        ("roundup_power2_divisions:[]", "2.4", "2.15"),
        ("roundup_power2_divisions:[", "2.4", "2.9"),
        ("roundup_power2_divisions:[1;2]", None, None),
        ("roundup_power2_divisions:[1:2]x", "2.10", "2.15"),
        ("roundup_power2_divisions:[[1:2]]", None, None),
        ("roundup_power2_divisions", None, None),
        ("large_segment_size_mb:11", "2.11", "2.15"),
        ("large_segment_size_mb:10", None, None),
        ("large_segment_size_mb:64,max_split_size_mb:63", None, None),
        ("max_split_size_mb:63,large_segment_size_mb:64", None, None),
        ("max_split_size_mb:64,large_segment_size_mb:64", "2.11", "2.15"),
        ("max_split_size_mb:11,large_segment_size_mb:11", "2.11", "2.15"),
        ("max_non_split_rounding_mb:20", "2.10", "2.15"),
        ("max_non_split_rounding_mb:21", "2.6", "2.15"),
        ("pinned_num_register_threads:128", "2.4", "2.15"),
        ("pinned_num_register_threads:256", None, None),
        ("pinned_num_register_threads:3", None, None),
        ("pinned_num_register_threads:0", None, None),
        ("pinned_reserve_segment_size_mb:0", None, None),
        ("backend:native", "2.4", "2.15"),
        ("backend:cudaMallocAsync", "2.4", "2.15"),
        # Until 2.9 the library, while it loads, does not see the first three; the parser does.
        ("backend: cudaMallocAsync", "2.10", "2.15"),
        ("backend :cudaMallocAsync", "2.10", "2.15"),
        ("backend:cudaMallocAsync]", "2.10", "2.15"),
        ("backend::cudaMallocAsync", None, None),
        ("backend:native,backend:cudaMallocAsync", None, None),
        ("backend:cudamallocasync", None, None),
        ("expandable_segments_reserve_by_class:[]", "2.15", "2.15"),
        ("expandable_segments_reserve_by_class:[a:0.5", None, None),
        ("expandable_segments_reserve:nonsense", "2.15", "2.15"),
        ("expandable_segments_page_size:20", None, None),
        ("expandable_segments_handle_type:posix_fd", None, None),
    ],
)
def test_acceptance_by_release(line, first, last):
    expected = KNOWN[KNOWN.index(first) : KNOWN.index(last) + 1] if first else ()
    assert tuple(rules.name for rules in ALL if accepts(line, rules)) == tuple(expected)


@pytest.mark.parametrize(
    "line, changes",
    [
        ("max_split_size_mb:64", {"max_split_size": 64 * MiB}),
        ("max_split_size_mb:20.7", {"max_split_size": 20 * MiB}),
        ("max_split_size_mb:-1", {"max_split_size": OFF}),
        ("max_split_size_mb:64,max_split_size_mb:128", {"max_split_size": 128 * MiB}),
        (
            "max_split_size_mb:64,large_segment_size_mb:32",
            {
                "max_split_size": 64 * MiB,
                "large_segment_size": 32 * MiB,
                "max_non_split_rounding": 32 * MiB,
            },
        ),
        (
            "max_non_split_rounding_mb:100,large_segment_size_mb:31",
            {"large_segment_size": 31 * MiB, "max_non_split_rounding": 100 * MiB},
        ),
        ("garbage_collection_threshold:0.8", {"garbage_collection_threshold": 0.8}),
        ("expandable_segments:True", {"expandable_segments": True}),
        ("expandable_segments:True,expandable_segments:False", {}),
        ("expandable_segments_reserve:0.5", {"reserve_fraction": 0.5}),
        ("expandable_segments_reserve:40G", {"reserve_bytes": 40 * GiB}),
        ("expandable_segments_reserve:1.5g", {"reserve_bytes": 3 * GiB // 2}),
        ("expandable_segments_reserve:1e308G", {"reserve_bytes": 1 << 62}),
        (
            "expandable_segments_reserve:40G,expandable_segments_reserve:0.5",
            {"reserve_fraction": 0.5},
        ),
        (
            "per_process_memory_fraction:0.25,throw_on_cudamalloc_oom:True",
            {"per_process_memory_fraction": 0.25, "throw_on_cudamalloc_oom": True},
        ),
        (
            "graph_capture_record_stream_reuse:True",
            {"graph_capture_record_stream_reuse": True},
        ),
        ("release_lock_on_cudamalloc:True,pinned_use_cuda_host_register:True", {}),
        ("backend:cudaMallocAsync", {"backend": "cudaMallocAsync"}),
    ],
)
def test_meaning_in_the_newest_release(line, changes):
    assert parse_settings(line, ALL[-1]) == replace(Settings(), conf=line, **changes)


@pytest.mark.parametrize(
    "value, new, old",
    [
        ("4", [4] * 16, [4] * 16),
        ("[1:2,>:4]", [2] + [4] * 15, [4] * 16),
        ("[256:1,512:2,1024:4,>:8]", [1] * 9 + [2, 4] + [8] * 5, [1] * 9 + [2] + [8] * 6),
        ("[4:8]", [8, 8, 8] + [0] * 13, [8, 8, 8] + [0] * 13),
        ("[4:8,16:2]", [8, 8, 8, 0, 2] + [0] * 11, [8, 8, 8, 0, 2] + [0] * 11),
        ("[>:4]", [0] + [4] * 15, [4] * 16),
        ("[>:4,8:2]", [2, 2, 2, 2] + [4] * 12, [2, 2, 2, 2] + [4] * 12),
        ("[8:2,1:4]", [4, 2, 2, 2] + [0] * 12, [4, 2, 2, 2] + [0] * 12),
        ("[65536:4]", [4] * 16, [4] * 16),
        ("[1:0,8:2]", [0, 0, 0, 2] + [0] * 12, [0, 0, 0, 2] + [0] * 12),
        ("[8:2]", [2] * 4 + [0] * 12, [2] * 4 + [0] * 12),
        ("[]", [0] * 16, [0] * 16),
        ("[32768:2,>:4]", [2] * 16, [2] * 15 + [4]),
    ],
)
def test_roundup_tables(value, new, old):
    line = f"roundup_power2_divisions:{value}"
    for rules in ALL:
        expected = new if rules in NEW else old
        assert list(parse_settings(line, rules).roundup_divisions) == expected, rules.name


def test_a_wrong_separator_changes_nothing_from_2_10_and_is_refused_before():
    line = "max_split_size_mb,64:expandable_segments]True"
    assert parse_settings(line, NEW[0]) == Settings(
        conf=line, max_split_size=64 * MiB, expandable_segments=True
    )
    with pytest.raises(PolicyError, match=r"expected ':' \(not enforced from 2.10\)"):
        parse_settings(line, OLD[-1])


def test_the_wrapped_rounding_leaves_no_block_close_enough():
    line = "max_split_size_mb:64,max_non_split_rounding_mb:-1"
    assert parse_settings(line, ALL[-1]).max_non_split_rounding == -MiB


@pytest.mark.parametrize(
    "line, version, words",
    [
        ("max_non_split_rounding_mb:32", "2.5", "max_non_split_rounding_mb exists from 2.6"),
        ("throw_on_cudamalloc_oom:True", "2.11", "exists from 2.12"),
        ("max_split_size:64", "2.13", "did you mean 'max_split_size_mb'"),
        ("large_segment_size:64", "2.10", "That key exists from 2.11"),
        ("expandable_segments:true", "2.13", "found 'true'.*did you mean 'True'"),
        ("max_split_size_mb:10", "2.13", "found '10'.*large_segment_size_mb.*here at least 20"),
        ("max_split_size_mb:20", "2.9", "found '20'.*here at least 21"),
        ("large_segment_size_mb:64,max_split_size_mb:63", "2.15", "here at least 64"),
        ("max_split_size_mb:3000000000", "2.9", "32 bits until 2.9"),
        ("garbage_collection_threshold", "2.13", "garbage_collection_threshold: found the end"),
        ("backend:cudamalloc", "2.13", "did you mean 'cudaMallocAsync'"),
        ("expandable_segments_page_size:20", "2.15", "expected a key of torch 2.15"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_found_and_what_is_accepted(line, version, words):
    with pytest.raises(PolicyError, match=words) as refusal:
        parse_settings(line, release(version))
    assert f"'{line}'" in str(refusal.value)


@pytest.mark.parametrize("rules", [release("2.8"), ALL[-1]], ids=lambda r: r.name)
@pytest.mark.parametrize(
    "line, left, meant",
    [
        ("PYTORCH_CUDA_ALLOC_CONF=backend:native", "PYTORCH_CUDA_ALLOC_CONF=", "backend:native"),
        ("export PYTORCH_ALLOC_CONF='backend:native'", "export PYTORCH_ALLOC_CONF=",
         "backend:native"),
        ("PYTORCH_CUDA_ALLOC_CONF=backend=native", "PYTORCH_CUDA_ALLOC_CONF=", "backend:native"),
        ("'backend:native'", "", "backend:native"),
        ("max_split_size_mb=128", "", "max_split_size_mb:128"),
        ("backend:native, max_split_size_mb=128", "", "backend:native, max_split_size_mb:128"),
    ],
)  # fmt: skip
def test_a_line_that_was_copied_or_written_otherwise_is_refused_with_what_was_meant(
    line, left, meant, rules
):
    with pytest.raises(PolicyError) as refusal:
        parse_settings(line, rules)
    hint = f"; leave off '{left}'" if left else ""
    assert str(refusal.value).endswith(f"{hint}; did you mean '{meant}'?")
    assert str(refusal.value).count("did you mean") == 1
    parse_settings(meant, rules)


@pytest.mark.parametrize(
    "line, version, words",
    [
        ("expandable_segments_reserve:abc", "2.15", ["ignored"]),
        ("expandable_segments_reserve:-1", "2.15", ["ignored"]),
        ("expandable_segments_reserve:0x10", "2.15", ["ignored"]),
        ("expandable_segments_reserve_by_class:[a:1G,b:,]", "2.15", ["found ','"]),
        ("pinned_max_round_threshold_mb:8,pinned_max_cached_size_mb:4", "2.13", ["never rounded"]),
        ("backend:cudaMallocAsync,release_lock_on_cudamalloc:True", "2.13", ["ignores"]),
        ("backend:cudaMallocAsync,expandable_segments:True", "2.9", ["ignores"]),
        ("backend:cudaMallocAsync,expandable_segments:True", "2.13", []),
        ("expandable_segments:True,max_split_size_mb:64", "2.15", []),
    ],
)
def test_warnings_are_returned(line, version, words):
    _, warnings = parse_settings_verbose(line, release(version))
    assert len(warnings) == len(words)
    assert all(word in text for word, text in zip(words, warnings, strict=True))


@settings(max_examples=150, deadline=None)
@given(
    line=st.text(st.sampled_from("[]:,> 0124TrueFals") | st.characters(codec="utf-8"), max_size=40),
    rules=st.sampled_from(ALL),
)
def test_any_text_is_either_accepted_or_refused_with_a_message(line, rules):
    for text in (line, f"roundup_power2_divisions:{line}", f"max_split_size_mb:{line}"):
        try:
            parse_settings(text, rules)
        except PolicyError as refusal:
            assert str(refusal)


@pytest.mark.parametrize("rules", [OLD[-1], NEW[-1]], ids=lambda r: r.name)
@pytest.mark.parametrize(
    "line",
    ["x" * 99_999, "max_split_size_mb:" + "9" * 99_999, "max_split_size_mb:64" + "[" * 99_999,
     "expandable_segments:True," * 9999 + "z:1", "PYTORCH_CUDA_ALLOC_CONF=" + "a:1," * 9999],
)  # fmt: skip
def test_a_line_of_any_length_is_refused_in_a_message_to_read(line, rules):
    with pytest.raises(PolicyError) as refusal:
        parse_settings(line, rules)
    assert str(refusal.value).startswith(f"settings line '{line[:400]}")
    assert len(str(refusal.value)) < 2500


def test_host_memory_reserved_in_advance_is_the_one_size_without_a_cap() -> None:
    for text, value in (("17592186044416", 17592186044416), ("-20", (1 << 64) - 20)):
        parser = Parser(f"pinned_reserve_segment_size_mb:{text}", release("2.15"))
        parser.parse()
        assert parser.found["pinned_reserve_segment_size_mb"] == value
