"""Working ahead: what is needed next is made by a thread, while the caller works on what came before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")
DEPTH = 4
"""made ahead at most: what is in memory at once"""


def ahead(
    make: Callable[[Given], Made], given: Iterable[Given], *, depth: int = DEPTH, threads: int = 1
) -> Generator[Made]:
    """`make` of each, in order; closing the iterator stops the threads.

    What `make` raises is raised in its place of the order.
    """
    waiting: deque[Future[Made]] = deque()
    source = iter(given)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    try:
        for one in source:
            waiting.append(pool.submit(make, one))
            if len(waiting) == depth:
                break
        while waiting:
            made = waiting.popleft().result()
            for one in source:
                waiting.append(pool.submit(make, one))
                break
            yield made
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
