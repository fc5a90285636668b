"""Tasks on other processes and machines: Dask, where it is asked for.

A task is a function, which goes to each worker once, and an item. Functions read exposures and
the store by their paths, so that workers must see the same folders; only what they find comes
back. Dask gives the task of a worker that died to another one, and what was shelved stays.
"""

import logging
import os
import platform
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any, TypeVar

from .errors import ClusterError
from .parallel import ROWS, THREADS, Engine

__all__ = ["open_engine"]

log = logging.getLogger(__name__)
_DASK = logging.getLogger("distributed")

_In = TypeVar("_In")
_Out = TypeVar("_Out")

# What results depend on to the last bit.
_PACKAGES = ("jwst-tvbadpix", "numpy", "scipy", "bottleneck", "zarr")
# A scheduler answers, and a worker joins one that has none, within [s].
_ANSWER_S = 4
# How often workers are counted while nothing comes back, and how long none may be there [s].
_LOOK_S, _PATIENCE_S = 10.0, 600.0
# Tasks handed out ahead, and ranges of rows, for each that runs.
_AHEAD, _RANGES = 3, 4
_AGAIN = "run again: what is in the store is kept, the run goes on from there"


def _check_name(scheduler: str) -> None:
    """Require the name of an engine."""
    host, _, port = scheduler.removeprefix("tcp://").rpartition(":")
    if scheduler not in ("threads", "processes") and not (
        scheduler.startswith("tcp://") and host and port.isdecimal()
    ):
        raise ClusterError(
            f"expected threads, processes or tcp://HOST:PORT as scheduler, found {scheduler!r}; "
            "give one of these"
        )


@contextmanager
def open_engine(scheduler: str, folder: Path | None) -> Iterator[Engine]:
    """Open the engine of a run.

    Parameters
    ----------
    scheduler : str
        ``threads`` of this process; ``processes``, one per core of this machine, which end with
        the run; or ``tcp://host:port`` of a Dask scheduler, which is left as it is.
    folder : Path, optional
        That of the store, which is there; not needed for threads.

    Yields
    ------
    Engine

    Raises
    ------
    ClusterError
        Dask is not installed, the scheduler does not answer, it has no workers, they have other
        versions or do not see the folder; all this before any work. Later: workers died again and
        again over one task, or are all gone.
    """
    _check_name(scheduler)
    if scheduler == "threads":
        yield THREADS
        return
    if folder is None:
        raise ClusterError(
            f"expected a store for the scheduler {scheduler}, found none; give --store with a "
            "folder that all workers see by the same path"
        )
    with ExitStack() as stack:
        client = stack.enter_context(_connect(scheduler))
        token = stack.enter_context(NamedTemporaryFile(prefix=".run-", dir=folder))
        cluster = _Cluster(client, scheduler, token.name, _require_alike(client, token.name))
        yield cluster


@contextmanager
def _connect(scheduler: str) -> Iterator[Any]:
    """Connect to a scheduler, or start one and workers for the time of a run."""
    try:
        import distributed
    except ImportError as error:
        raise ClusterError(
            f"expected the package distributed for the scheduler {scheduler}, found {error}; run "
            "pip install 'jwst-tvbadpix[dask]' or take threads"
        ) from error
    import dask

    with ExitStack() as stack:
        # Functions may be larger than what Dask warns of; nobody looks at our own scheduler.
        settings = {
            "distributed.admin.large-graph-warning-threshold": "1GB",
            "distributed.scheduler.http.routes": [],
        }
        stack.enter_context(dask.config.set(settings))
        stack.enter_context(_warnings_only())
        own = scheduler == "processes"
        target: Any = stack.enter_context(_start_processes()) if own else scheduler
        try:
            if not own:
                _ask(scheduler)
            client = distributed.Client(target, timeout=_ANSWER_S, set_as_default=False)
            stack.enter_context(client)
        except (OSError, ValueError, ImportError) as error:
            raise ClusterError(
                f"expected a Dask scheduler at {scheduler}, found no answer within {_ANSWER_S} s "
                f"({error}); check the address and that it runs, or take threads"
            ) from error
        try:
            client.wait_for_workers(1, timeout=_ANSWER_S)
        except TimeoutError as error:
            raise ClusterError(
                f"expected workers at the scheduler {scheduler}, found none; start some (dask "
                "worker), wait for them, and run again"
            ) from error
        yield client


@contextmanager
def _start_processes() -> Iterator[Any]:
    """Start a scheduler, and a worker per core, in processes that end with this one."""
    from distributed import LocalCluster

    with _restore_environment(), TemporaryDirectory(prefix="tvbadpix-") as scratch:
        try:
            cluster = LocalCluster(
                n_workers=len(os.sched_getaffinity(0)),
                threads_per_worker=1,
                memory_limit=0,
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                local_directory=scratch,
                security=True,
            )
        except (OSError, RuntimeError, ImportError) as error:
            raise ClusterError(
                f"expected processes to start, found: {error.__cause__ or error}; in a script, put "
                "what it does under if __name__ == '__main__', or take threads"
            ) from error
        with cluster:
            yield cluster
            _DASK.setLevel(logging.ERROR)  # how long a worker takes to end is of no interest


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Let Dask, which tells of every connection, say only what is wrong."""
    before = _DASK.level
    _DASK.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _DASK.setLevel(before)


@contextmanager
def _restore_environment() -> Iterator[None]:
    """Undo what Dask adds to the environment, from which its workers get it."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _ask(scheduler: str) -> None:
    """Require that a Dask server greets who connects; OSError. Dask waits for that for ever."""
    host, _, port = scheduler.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S) as asked:
        # The size of a message of some hundred bytes.
        greeting = asked.recv(8, socket.MSG_WAITALL)
        if len(greeting) < 8 or int.from_bytes(greeting, sys.byteorder) > 1 << 20:
            raise ConnectionError(f"what is there says {greeting!r}")


@cache
def _list_versions() -> dict[str, str]:
    """List the versions that this process has."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{name: version(name) for name in _PACKAGES}}


def _describe(token: str) -> dict[str, str]:
    """Say what a process is: versions, and whether it sees the folder of the run."""
    return {**_list_versions(), "folder": "there" if Path(token).is_file() else "absent"}


def _require_alike(client: Any, token: str) -> dict[str, str]:
    """Require that all workers are like this process; what they are."""
    expected = _describe(token)
    try:
        found = client.run(_describe, token, on_error="return")
    except Exception as error:  # whatever Dask makes of a worker without this package
        found = {"the workers": error}
    for address, own in found.items():
        _compare(expected, own, address)
    return expected


def _compare(expected: dict[str, str], found: dict[str, str] | Exception, where: str) -> None:
    """Refuse a worker that is not like this process."""
    if isinstance(found, Exception):
        raise ClusterError(
            f"expected jwst-tvbadpix {expected['jwst-tvbadpix']} on {where}, found "
            f"{type(found).__name__}: {found}; install the same environment on all workers"
        )
    differs = {name: own for name, own in found.items() if own != expected[name]}
    if "folder" in differs:
        raise ClusterError(
            f"expected {where} to see the folder of the store, found it absent there; give --store "
            "with a folder that all workers see by the same path"
        )
    if differs:
        wanted, other = (
            ", ".join(f"{name} {values[name]}" for name in differs) for values in (expected, found)
        )
        raise ClusterError(
            f"expected {wanted} on {where}, found {other}; results would differ: install the same "
            "environment on all workers"
        )


def _hold(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Be the task whose result is a function: where it is lost, it is made again."""
    return function


def _call(function: Callable[[Any], Any], item: Any, token: str, expected: dict[str, str]) -> Any:
    """Do a task on a worker, in one thread, as there are as many as wanted."""
    from threadpoolctl import threadpool_limits

    where = f"{socket.gethostname()} (process {os.getpid()})"
    _compare(expected, _describe(token), where)  # it may have joined later
    try:
        with threadpool_limits(1):
            return function(item)
    except OSError as error:
        raise ClusterError(
            f"expected {where} to read the exposures and to write the store, found {error}; all "
            "workers must see both by the same paths"
        ) from error


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Workers of a Dask scheduler: an `Engine`."""

    client: Any
    scheduler: str
    token: str
    expected: dict[str, str]

    def __post_init__(self) -> None:
        n = self._count_threads().values()
        log.info("%s: %d workers, %d tasks at a time", self.scheduler, len(n), sum(n))

    def _count_threads(self) -> dict[str, int]:
        """Count the threads of each worker."""
        with self._name_errors():
            found: dict[str, int] = self.client.nthreads()
        return found

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> Iterator[_Out]:
        """Apply a function on the workers, in order, with only a few items in memory."""
        waiting: deque[Any] = deque()
        held = self.client.submit(_hold, function, pure=False)
        try:
            for item in items:
                own = item, self.token, self.expected
                waiting.append(self.client.submit(_call, held, *own, pure=False))
                if len(waiting) > _AHEAD * max(1, sum(self._count_threads().values())):
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())
        finally:
            if waiting:
                with suppress(Exception):  # of a scheduler that is gone
                    self.client.cancel(list(waiting))

    def map_rows(
        self,
        function: Callable[[_In], _Out],
        cut: Callable[[int, int, int], Iterator[_In]],
        n_rows: int,
        max_bytes: int,
    ) -> Iterator[_Out]:
        """Apply a function to all that `cut` makes of rows; a worker reads its own rows."""
        threads = self._count_threads()
        # Those of one machine share its memory.
        sharing = max(threads.values(), default=1)
        if self.scheduler == "processes":
            sharing = sum(threads.values())
        n_ranges = _RANGES * max(1, sum(threads.values()))
        step = -(-max(1, n_rows // n_ranges) // ROWS) * ROWS

        def apply(first: int) -> list[_Out]:
            end = min(n_rows, first + step)
            return [function(piece) for piece in cut(first, end, max_bytes // sharing)]

        for parts in self.map(apply, range(0, n_rows, step)):
            yield from parts

    def _collect(self, future: Any) -> Any:
        """Wait for a task, as long as there are workers."""
        seen = time.monotonic()
        with self._name_errors():
            while True:
                try:
                    return future.result(timeout=_LOOK_S)
                except TimeoutError:
                    seen = self._look_for_workers(seen)

    @contextmanager
    def _name_errors(self) -> Iterator[None]:
        """Say in our words what became of workers or scheduler."""
        from distributed import KilledWorker

        try:
            yield
        except KilledWorker as error:
            raise ClusterError(
                f"expected a task to end, found that {error.allowed_failures + 1} workers died "
                f"over it, the last at {error.last_worker.address}; see its log, give workers "
                f"more memory or a lower --max_memory, and {_AGAIN}"
            ) from error
        except (CancelledError, OSError) as error:
            raise ClusterError(
                f"expected the scheduler {self.scheduler} to stay, found it gone ({error}); start "
                f"it and {_AGAIN}"
            ) from error

    def _look_for_workers(self, seen: float) -> float:
        """Tell when workers were last seen; raise where that is too long ago."""
        now = time.monotonic()
        if self._count_threads():
            return now
        log.warning("%s has no workers; waiting for some", self.scheduler)
        if now - seen > _PATIENCE_S:
            raise ClusterError(
                f"expected workers at the scheduler {self.scheduler}, found none for "
                f"{now - seen:.0f} s; start some and {_AGAIN}"
            )
        return seen
