"""Files that appear whole or not at all, also where the process is killed, and their date."""

import fcntl
import logging
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from .errors import ProductError

__all__ = [
    "find_creation_time",
    "is_hidden",
    "lock_folder",
    "make_hidden_folder",
    "open_hidden_folder",
    "remove_left",
    "replace_whole",
]

log = logging.getLogger(__name__)

_HIDDEN = ".tvbadpix-"


def find_creation_time() -> datetime:
    """Tell when a file is made: SOURCE_DATE_EPOCH where it is set, else now.

    Raises
    ------
    ProductError
        SOURCE_DATE_EPOCH is no date.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(epoch), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise ProductError(
            f"expected SOURCE_DATE_EPOCH as whole seconds since 1970, found {epoch!r}; correct or "
            "unset it"
        ) from error


def make_hidden_folder(parent: str | Path) -> Path:
    """Make a hidden folder for this process, and remove those of processes that were killed.

    Parameters
    ----------
    parent : str or Path
        A folder that exists.

    Returns
    -------
    Path
        ``.tvbadpix-PLACE-PROCESS-...``; to be removed by whoever asked for it.
    """
    remove_left(parent)
    return Path(tempfile.mkdtemp(prefix=f"{_name_prefix()}{os.getpid()}-", dir=parent))


def remove_left(parent: str | Path) -> None:
    """Remove the hidden folders of processes that were killed; those of living ones stay."""
    prefix = _name_prefix()
    for name in os.listdir(parent):
        process = name.removeprefix(prefix).partition("-")[0]
        if name.startswith(prefix) and process.isdecimal() and not _is_alive(int(process)):
            shutil.rmtree(Path(parent, name), ignore_errors=True)


def is_hidden(path: Path) -> bool:
    """Tell whether a folder is named as `make_hidden_folder` names them, here or elsewhere."""
    return path.name.startswith(_HIDDEN)


@contextmanager
def open_hidden_folder(parent: str | Path) -> Iterator[Path]:
    """Make a hidden folder, as `make_hidden_folder` does, and remove it at the end."""
    folder = make_hidden_folder(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replace_whole(path: str | Path) -> Iterator[Path]:
    """Hand out a path to write to; at the end the file takes its place, unless something failed.

    Parameters
    ----------
    path : str or Path
        The final path, in a folder that exists; a file that is there is replaced.

    Yields
    ------
    Path
        Of the same name, as some writers put it into the file, in a hidden folder beside it.
    """
    path = Path(path)
    with open_hidden_folder(path.parent) as folder:
        yield folder / path.name
        os.replace(folder / path.name, path)


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


def _name_prefix() -> str:
    """Name where the number of a process says which it is: this machine, or this container."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{_HIDDEN}{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}-"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no process of ours
        return True
    return True
