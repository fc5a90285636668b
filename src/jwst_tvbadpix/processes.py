"""What processes have in common: they end with their parent, and share no folder."""

import fcntl
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ProductError

__all__ = ["end_with_parent", "lock_folder"]

log = logging.getLogger(__name__)


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
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for this process; the lock ends with the process and leaves no file.

    Parameters
    ----------
    folder : Path
        It exists.

    Yields
    ------
    None

    Raises
    ------
    ProductError
        Another process has it.

    Notes
    -----
    Where the file system has no locks for folders (NFS) there is none.
    """
    number = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProductError(
                f"expected no other run in {folder}, found one at work; wait for it or choose "
                "another folder"
            ) from error
        except OSError as error:
            log.debug("No lock of %s: %s", folder, error)
        yield
    finally:
        os.close(number)
