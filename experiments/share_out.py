"""Sharing work out among threads: whoever is done takes the next item."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")


def share_out(
    work: Callable[[Item], object],
    items: Iterable[Item],
    threads: int | None = None,
    waits: bool = True,
) -> None:
    """Do something with every item, on all cores.

    One job per thread, not one per item: what an executor spends on a job and its result is a
    tenth of a short replay, and all threads wait for it.

    Args:
        work: called once with each item, in several threads.
        items: taken in their order, one by one.
        threads: as many; None = one per core.
        waits: Ctrl-C waits for what is being worked on; else that goes on in threads which nobody
            waits for, and whoever interrupts must not use what they make.

    Raises:
        BaseException: the first error of `work`, or Ctrl-C. What is being worked on is finished;
            further items are left.
    """
    threads = threads or os.cpu_count() or 1
    left, lock = iter(items), Lock()
    over = False

    def drain() -> None:
        nonlocal over
        try:
            while not over:
                with lock:
                    item = next(left, end)
                if item is end:
                    return
                work(item)  # type: ignore[arg-type]
        except BaseException:
            over = True
            raise

    end = object()
    pool = ThreadPoolExecutor(threads)
    patient = True
    try:
        jobs = [pool.submit(drain) for _ in range(threads)]
        for job in jobs:
            job.result()
    except KeyboardInterrupt:
        patient = waits
        raise
    finally:
        over = True
        pool.shutdown(wait=patient)
