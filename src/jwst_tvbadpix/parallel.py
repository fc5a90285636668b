"""Threads for work that runs outside Python's lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["N_THREADS", "map_in_threads"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# Medians and algebra run outside Python's lock; more threads cost memory, not time.
N_THREADS = 2


def map_in_threads(function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
    """Apply a function in threads, in order, with only a few items in memory."""
    with ThreadPoolExecutor(N_THREADS) as pool:
        waiting: deque[Future[_Out]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > N_THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
