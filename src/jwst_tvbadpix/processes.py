"""Processes beside this one: they end with their parent."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from .parallel import map_in_threads

__all__ = ["end_with_parent", "map_in_processes", "run_beside"]

_In = TypeVar("_In")
_Made = TypeVar("_Made")

# Threads that wait and hold no lock while nobody asks them: those of zarr, and of tqdm's bars.
_IDLE = ("zarr_io", "asyncio_")
_IDLE_KIND = "TMonitor"


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, however it ends.

    Ctrl-C, which a terminal sends to both, is left to the parent. Nothing is done in a process
    that multiprocessing has not started.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait_for_end() -> None:
        parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait_for_end, daemon=True).start()


@contextmanager
def run_beside(function: Callable[[], _Made]) -> Iterator[Callable[[], _Made]]:
    """Run a function in a fork of this process, beside what this one does meanwhile.

    Parameters
    ----------
    function : callable
        Without arguments. What it makes is sent back, and must do no harm when it is made twice.

    Yields
    ------
    callable
        Gives the result. Where the fork could not make it, it is made here, or the error raised.

    Notes
    -----
    There is no fork, and the function runs when its result is asked for, on one processor, on
    systems other than Linux, in a process of a pool, and where other threads are at work: a lock
    that one of them holds would stay locked. At the end of the context the fork is ended.
    """
    if not _may_fork():
        yield function
        return
    context = multiprocessing.get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(function, writer), daemon=True)
    try:
        # Neither process looks for garbage in what both have, which would copy its pages.
        gc.freeze()
        with warnings.catch_warnings():
            # Of threads of libraries written in C, which outlive no fork and need not.
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        writer.close()

        def wait() -> _Made:
            try:
                return reader.recv()  # type: ignore[no-any-return]
            except EOFError:
                return function()

        yield wait
    finally:
        gc.unfreeze()
        writer.close()
        reader.close()
        if process.pid is not None:
            process.kill()
            process.join()


def map_in_processes(function: Callable[[_In], _Made], items: Sequence[_In]) -> list[_Made]:
    """Apply a function in two processes, see `run_beside`, or in threads where that is not safe.

    For work whose many short steps hold Python's lock; what it makes is sent between processes.
    """
    if len(items) < 2 or not _may_fork():
        return list(map_in_threads(function, items))
    half = len(items) // 2
    with run_beside(lambda: list(map(function, items[half:]))) as wait:
        return [*map(function, items[:half]), *wait()]


def _may_fork() -> bool:
    """Whether a fork is safe, and of use."""
    others = [one for one in threading.enumerate() if one is not threading.main_thread()]
    return (
        sys.platform == "linux"
        and len(os.sched_getaffinity(0)) > 1
        and threading.current_thread() is threading.main_thread()
        and not multiprocessing.current_process().daemon
        and all(one.name.startswith(_IDLE) or type(one).__name__ == _IDLE_KIND for one in others)
    )


def _send(function: Callable[[], Any], writer: Any) -> None:
    """Run a function and send what it makes; nothing where it fails, which is told elsewhere."""
    end_with_parent()
    try:
        made = function()
    except Exception:  # the caller tries again, and sees it
        return
    writer.send(made)
