"""Every item is worked on once, whatever the number of threads; an error ends it."""

from __future__ import annotations

import signal
import threading

import pytest

from tightfit.experiments.share_out import share_out


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_every_item_is_worked_on_once(threads: int) -> None:
    seen: list[int] = []
    share_out(seen.append, range(1000), threads)
    assert sorted(seen) == list(range(1000))


def test_items_are_taken_in_their_order() -> None:
    seen: list[int] = []
    share_out(seen.append, iter(range(100)), 1)
    assert seen == list(range(100))


def test_all_threads_work_at_once() -> None:
    together = threading.Barrier(3, timeout=30)
    share_out(lambda _: together.wait(), range(3), 3)


def test_an_error_is_raised_and_further_items_are_left() -> None:
    seen: list[int] = []

    def work(k: int) -> None:
        seen.append(k)
        if k == 10:
            raise ValueError("ten")

    with pytest.raises(ValueError, match="ten"):
        share_out(work, range(10_000), 2)
    assert len(seen) < 10_000


def test_interruption_leaves_what_was_not_begun() -> None:
    seen: list[int] = []

    def work(k: int) -> None:
        seen.append(k)
        if k == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        share_out(work, range(10_000), 1)
    assert seen == list(range(6))


def test_ctrl_c_need_not_wait_for_what_is_being_worked_on() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    noticed = threading.Event()

    def work(_: int) -> None:
        begun.set()
        go_on.wait(60)
        ended.set()

    def interrupt(number: int, frame: object) -> None:
        if not noticed.is_set():
            noticed.set()
            raise KeyboardInterrupt

    def press() -> None:
        begun.wait(30)
        # Again and again: one that comes between the main thread's last look for signals and its
        # wait in the kernel is not noticed before that ends.
        while not noticed.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            noticed.wait(0.2)

    before = signal.signal(signal.SIGINT, interrupt)
    presses = threading.Thread(target=press)
    try:
        presses.start()
        with pytest.raises(KeyboardInterrupt):
            share_out(work, range(2), 1, waits=False)
        assert not ended.is_set()
    finally:
        go_on.set()
        presses.join()
        signal.signal(signal.SIGINT, before)
    assert ended.wait(30)
