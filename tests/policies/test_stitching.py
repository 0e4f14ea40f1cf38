"""Stitching: worked examples of what is mapped side by side, and of what the driver is asked."""

from __future__ import annotations

import pytest

from tightfit.sim.device import Device

from ..strategies import Script
from .playing import KiB, MiB, peak, places, run_of

pytestmark = pytest.mark.interpreted


def apart() -> Script:
    """Two free pieces of 4 MiB at 0 and 8 MiB, with a used one between them."""
    script = Script()
    a = script.mallocs(4 * MiB, 4 * MiB, 4 * MiB)
    script.free(a[0], a[2])
    return script


def test_free_pieces_that_lie_apart_serve_one_request() -> None:
    script = apart()
    script.malloc(8 * MiB)
    run = run_of("stitching", script)
    assert places(run) == [0, 4 * MiB, 8 * MiB, 12 * MiB]  # at addresses of its own
    assert peak(run) == 12 * MiB
    assert peak(run_of("best_fit", script)) == 16 * MiB  # 8 MiB behind the used one: 4 are there


def test_a_stitched_block_serves_its_size_again_without_the_driver() -> None:
    script = apart()
    first = script.malloc(8 * MiB)
    script.free(first)
    once = run_of("stitching", script)
    script.malloc(8 * MiB)
    again = run_of("stitching", script)
    assert places(again)[4] == places(again)[3]
    assert again.work == once.work


def test_a_stitched_block_is_no_use_while_one_of_its_pieces_is_in_use() -> None:
    script = apart()
    script.free(script.malloc(8 * MiB))
    script.malloc(4 * MiB)  # one of the pieces: of equals the lowest
    script.malloc(8 * MiB)
    run = run_of("stitching", script)
    assert places(run)[4] == 0
    assert places(run)[5] == 24 * MiB  # stitched anew: 4 MiB that were free and 4 new ones
    assert peak(run) == 16 * MiB


def test_the_largest_pieces_are_stitched_and_the_last_is_cut() -> None:
    # Free: 4 MiB at 0, 6 MiB at 8 MiB. 8 MiB are the 6 and 2 of the 4; the other 2 stay free.
    script = Script()
    a = script.mallocs(4 * MiB, 4 * MiB, 6 * MiB)
    script.free(a[0], a[2])
    script.mallocs(8 * MiB, 2 * MiB)
    run = run_of("stitching", script)
    assert places(run)[4] == 2 * MiB
    assert peak(run) == 14 * MiB


def test_a_larger_piece_is_cut_before_anything_is_stitched() -> None:
    script = Script()
    script.free(script.malloc(10 * MiB))
    script.malloc(4 * MiB)
    run = run_of("stitching", script)
    assert places(run) == [0, 0]
    assert run.work["cuMemSetAccess"] == 1


def test_stitching_asks_the_driver_for_a_map_of_every_chunk() -> None:
    script = apart()
    before = run_of("stitching", script).work
    script.malloc(8 * MiB)
    after = run_of("stitching", script).work
    assert after["cuMemMap"] - before["cuMemMap"] == 4  # of 2 MiB each
    assert after["cuMemSetAccess"] - before["cuMemSetAccess"] == 1
    assert after["cuMemCreate"] == before["cuMemCreate"]


def test_pieces_below_the_limit_are_left_alone() -> None:
    script = apart()
    script.malloc(8 * MiB)
    assert peak(run_of("stitching", script, limit=8 * MiB)) == 20 * MiB


def test_small_requests_share_a_chunk() -> None:
    script = Script()
    script.mallocs(KiB, MiB, 512 * KiB)
    run = run_of("stitching", script)
    assert places(run) == [0, KiB, MiB + KiB]
    assert peak(run) == 2 * MiB


def test_memory_goes_back_and_blocks_made_of_it_are_forgotten() -> None:
    script = apart()
    script.free(script.malloc(8 * MiB))
    script.empty_cache()
    script.malloc(8 * MiB)
    run = run_of("stitching", script, Device(12 * MiB))
    assert run.stats["num_ooms"] == 0
    assert run.stats["reserved_bytes.all.current"] == 12 * MiB
    assert run.work["cuMemUnmap"] == 8  # the four chunks of the block, and of the two pieces


def test_beyond_the_most_that_are_kept_all_idle_ones_are_forgotten() -> None:
    script = apart()
    script.free(script.malloc(8 * MiB))
    script.free(script.malloc(6 * MiB))
    script.malloc(8 * MiB)
    known = run_of("stitching", script)
    assert places(known)[5] == places(known)[3]
    assert run_of("stitching", script, keep=1).work["cuMemUnmap"] > 0
