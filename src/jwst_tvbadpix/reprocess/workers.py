"""Run tasks in several processes, none of which can take the others down."""

import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final, Self

from ..processes import end_with_parent

__all__ = ["Finished", "Workers"]

log = logging.getLogger(__name__)

# Each process computes in one thread: there are as many processes as wanted.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# How they start: afresh, with nothing of this process.
_START: Final = "spawn"

# How long a process without a task may take to end [s].
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a task.

    Attributes
    ----------
    task, value : object
        The task and what the function returned; None where it failed.
    error : str
        Why it failed; empty where it did not.
    """

    task: Any
    value: Any
    error: str


class Workers:
    """Processes that call one function on one task after another.

    They start afresh (spawn) when there is something to do, compute in one thread unless the
    environment says otherwise, and die when this process does, however it dies.

    Parameters
    ----------
    function : callable
        Of one task; a name that another process can import.
    processes : int
        How many at a time.
    """

    def __init__(self, function: Callable[[Any], Any], *, processes: int) -> None:
        self._function, self._processes = function, processes
        self._idle: list[_Worker] = []
        self._busy: dict[Any, _Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes, at once where one is at a task."""
        everyone = (*self._idle, *self._busy.values())
        for worker in self._busy.values():
            worker.process.kill()
        for worker in self._idle:
            worker.connection.close()  # which tells it that there is no more
        for worker in everyone:
            worker.end()

    def run(self, tasks: Iterable[Any]) -> Iterator[Finished]:
        """Call the function on each task.

        Parameters
        ----------
        tasks : iterable
            Taken one by one, whenever a process is free; all can be pickled.

        Yields
        ------
        Finished
            In the order in which they finish. Whatever a task raises, SystemExit included, is its
            error; so is the death of its process, which is replaced.
        """
        pending = iter(tasks)
        while True:
            while len(self._busy) < self._processes:
                try:
                    task = next(pending)
                except StopIteration:
                    break
                worker = self._idle.pop() if self._idle else _Worker(self._function)
                worker.start(task)
                self._busy[worker.connection] = worker
            if not self._busy:
                return
            for connection in wait(list(self._busy)):
                worker = self._busy.pop(connection)
                finished = worker.collect()
                if worker.process.is_alive():
                    self._idle.append(worker)
                yield finished


class _Worker:
    """One process and the task it is at."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context(_START)
        self.connection, other = context.Pipe()
        # No daemon: these may have no children, and some steps work in several processes.
        self.process = context.Process(target=_work, args=(function, other))
        with _one_thread():
            self.process.start()
        other.close()  # so that the death of the process shows on our end
        self.task: Any = None

    def start(self, task: Any) -> None:
        self.task = task
        try:
            self.connection.send(task)
        except OSError:
            log.debug("A process died before its task")  # collect() says so

    def collect(self) -> Finished:
        try:
            value, error = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            how = f"was killed by signal {-code}" if code and code < 0 else f"ended with {code}"
            hint = "; there may be too little memory" if code == -signal.SIGKILL else ""
            value, error = None, f"its process {how}{hint}"
            self.connection.close()
        return Finished(self.task, value, error)

    def end(self) -> None:
        """Wait for the process to end; not for ever."""
        self.process.join(timeout=_PATIENCE_S)
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let a process that is started here compute in one thread, where nothing else is set."""
    added = [name for name in _ONE_THREAD if name not in os.environ]
    os.environ.update(dict.fromkeys(added, "1"))
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    """Do tasks until there are no more."""
    end_with_parent()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer = function(task), ""
        except BaseException as error:  # crds and jwst leave by SystemExit
            answer = None, _describe_error(error)
        connection.send(answer)


def _describe_error(error: BaseException) -> str:
    """Say in one line what an exception says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, SystemExit):
        return f"SystemExit({error.code})"
    # A pipeline that failed quotes a traceback, whose last line is the error.
    text = lines[-1] if lines and lines[0].startswith("Traceback") else " ".join(lines)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
