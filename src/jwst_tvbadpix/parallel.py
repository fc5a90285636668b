"""Where tasks run: in threads, for work that runs outside Python's lock, unless told otherwise."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

__all__ = ["N_THREADS", "ROWS", "THREADS", "Engine", "map_in_threads"]

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# Medians and algebra run outside Python's lock; more threads cost memory, not time.
N_THREADS = 2
# Ranges of rows begin at multiples of this power of two, so that none shares its chunks of a store.
ROWS = 32


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


class Engine(Protocol):
    """Where tasks run: `THREADS`, or a cluster (`jwst_tvbadpix.cluster`)."""

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
        """Apply a function that changes nothing here, in order, a few items in memory."""

    def map_rows(
        self,
        function: Callable[[_In], _Out],
        cut: Callable[[int, int, int], Iterator[_In]],
        n_rows: int,
        max_bytes: int,
    ) -> Iterator[_Out]:
        """Apply a function to all that ``cut(first, end, max_bytes)`` makes of rows, in order.

        This machine, or each worker of a cluster, takes `max_bytes` of memory at a time.
        """


class _Threads:
    """Threads of this process."""

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
        return map_in_threads(function, items)

    def map_rows(
        self,
        function: Callable[[_In], _Out],
        cut: Callable[[int, int, int], Iterator[_In]],
        n_rows: int,
        max_bytes: int,
    ) -> Iterator[_Out]:
        return map_in_threads(function, cut(0, n_rows, max_bytes))


THREADS: Engine = _Threads()
