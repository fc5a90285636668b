"""Processes in which the programs of crds run, each by itself."""

import contextlib
import gc
import io
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ProductError
from ..processes import end_with_parent
from .context import Context, use_context

__all__ = ["Outcome", "submit", "workers"]

# How they start: a copy of this process would have what crds has cached in it.
_START = "spawn"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a program of crds said.

    Attributes
    ----------
    errors, warnings : tuple of str
        Messages that it counts as such.
    log : str
        All that it logged and printed.
    value : object
        What it returned.
    seconds : float
        How long it took [s].
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    log: str
    value: Any = None
    seconds: float = 0.0


@contextlib.contextmanager
def workers(env: Mapping[str, str], folder: Path) -> Iterator[Any]:
    """Keep a process per usable core, each with a context and a temporary folder of its own.

    Parameters
    ----------
    env : mapping of str to str
        Environment of the context; nothing else of crds is taken over from this process.
    folder : Path
        Where the temporary folders are made.

    Yields
    ------
    ProcessPoolExecutor
    """
    usable = getattr(os, "sched_getaffinity", None)
    pool = ProcessPoolExecutor(
        len(usable(0)) if usable else os.cpu_count(),
        mp_context=multiprocessing.get_context(_START),
        initializer=_start,
        initargs=(dict(env), str(folder)),
    )
    try:
        yield pool
    except BrokenExecutor as error:
        raise ProductError(
            f"expected crds to run in {folder}, found that a process ended by itself ({error}); "
            "check memory and disk space"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def submit(pool: ProcessPoolExecutor, task: Callable[..., Any], *args: Any) -> Future[Outcome]:
    """Run a function in one of the processes, with what crds logs and prints kept.

    Parameters
    ----------
    pool : ProcessPoolExecutor
        From `workers`.
    task : callable
        A function of a module.
    *args : object
        For it.

    Returns
    -------
    Future of Outcome
        An exception of the task counts as one error.
    """
    return pool.submit(_run, task, *args)


# Left open until the process ends.
_STACK = contextlib.ExitStack()


def _start(env: dict[str, str], folder: str) -> None:
    """Set up a process: crds with this context, a temporary folder, no output of its own."""
    end_with_parent()
    for key in [key for key in os.environ if key.startswith("CRDS_")]:
        del os.environ[key]
    own = tempfile.mkdtemp(prefix="worker-", dir=folder)
    os.environ["TMPDIR"] = tempfile.tempdir = own
    os.chdir(own)
    _STACK.enter_context(use_context(Context(env, {})))
    logger = logging.getLogger("CRDS")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    from crds import certify  # noqa: F401  # what every task needs
    from stdatamodels.jwst import datamodels  # noqa: F401

    gc.collect()
    gc.freeze()


class _Collector(logging.Handler):
    """Keeps messages by level, and writes all to a text."""

    def __init__(self, text: io.StringIO) -> None:
        super().__init__()
        self.text = text
        self.kept: dict[int, list[str]] = {logging.ERROR: [], logging.WARNING: []}

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        self.text.write(f"{record.levelname} - {message}\n")
        self.kept.get(record.levelno, []).append(message)


def _run(task: Callable[..., Any], *args: Any) -> Outcome:
    from crds.core import log

    text, value, began = io.StringIO(), None, time.monotonic()
    collector = _Collector(text)
    logger = logging.getLogger("CRDS")
    logger.addHandler(collector)
    log.reset()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            value = task(*args)
    except (Exception, SystemExit) as error:
        message = f"{type(error).__name__}: {error}"
        text.write(f"ERROR - {message}\n")
        collector.kept[logging.ERROR].append(message)
    finally:
        logger.removeHandler(collector)
        # crds collects garbage some thirty times per file; all that is cached by now is none.
        gc.freeze()
    # A counter that the messages do not account for must not be lost.
    for level, counted in ((logging.ERROR, log.errors()), (logging.WARNING, log.warnings())):
        missing = counted - len(collector.kept[level])
        collector.kept[level] += [f"{missing} more, see the log"] * (missing > 0)
    return Outcome(
        tuple(collector.kept[logging.ERROR]),
        tuple(collector.kept[logging.WARNING]),
        text.getvalue(),
        value,
        time.monotonic() - began,
    )
