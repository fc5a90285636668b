"""Put a finished set of files in place of the one of an earlier run, and of nothing else."""

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..atomic import lock_folder
from ..errors import ProductError

__all__ = ["OWN", "list_own", "publish", "require_free"]

# Where the files of a run are listed.
OWN = ".tvbadpix_deliver.json"
_WORK = ".deliver.tmp-"


def list_own(folder: Path) -> list[str]:
    """List what an earlier run wrote to a folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    list of str
        Paths relative to the folder.
    """
    path = folder / OWN
    if not path.is_file():
        return []
    try:
        own = json.loads(path.read_text())
        return [str(name) for name in own]
    except (ValueError, TypeError) as error:
        raise ProductError(
            f"expected the list of files of an earlier run in {path}, found {error}; remove it "
            "together with the files, or choose another folder"
        ) from error


@contextmanager
def publish(folder: Path, last: str) -> Iterator[Path]:
    """Hand out a temporary folder; at the end move its files to where they belong.

    Parameters
    ----------
    folder : Path
        Made when absent. Files that were there and are not of an earlier run stay.
    last : str
        The file that is removed first and written last, so that it stands for the whole.

    Yields
    ------
    Path
        Within `folder`; removed at the end, whatever happens.

    Raises
    ------
    ProductError
        A file of another origin is where one of ours should be, the disk does not take them, or
        another run is at work there.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    work = folder / f"{_WORK}{secrets.token_hex(6)}"
    done = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock_folder(folder):
            for stale in folder.glob(f"{_WORK}*"):  # of a run that was killed
                shutil.rmtree(stale, ignore_errors=True)
            work.mkdir()
            yield work
            _move(work, folder, last)
        done = True
    except OSError as error:
        raise ProductError(
            f"expected to write to {folder}, found {error}; nothing new was left there. Check "
            "the folder and the space on its disk"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not done:
            for path in made:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def require_free(names: Iterable[str], folder: Path) -> None:
    """Refuse to replace files that are not of an earlier run.

    Parameters
    ----------
    names : iterable of str
        Files relative to the folder; folders, with a slash at the end, may be there.
    folder : Path

    Raises
    ------
    ProductError
        A file of another origin is in the place of one of them, or of a folder above it.
    """
    old = {*list_own(folder), OWN}
    places = {folder / name for name in names if name not in old and not name.endswith("/")}
    taken = [path for path in sorted(places) if os.path.lexists(path)]
    above = {parent for path in places for parent in path.relative_to(folder).parents}
    taken += [folder / path for path in sorted(above) if (folder / path).is_file()]
    if taken:
        raise ProductError(
            f"expected {taken[0]} to be free or of an earlier run, found a file that this command "
            "has not written; choose another folder or move it away"
        )


def _move(work: Path, folder: Path, last: str) -> None:
    new = [
        str(p.relative_to(work)) for p in sorted(work.rglob("*")) if p.is_symlink() or p.is_file()
    ]
    require_free(new, folder)
    old = list_own(folder)
    # Before anything else, so that a run that is cut short knows what is its own.
    _write_list(folder, sorted({*old, *new}))
    (folder / last).unlink(missing_ok=True)
    for name in sorted(set(old) - set(new)):
        (folder / name).unlink(missing_ok=True)
        _remove_empty((folder / name).parent, folder)
    for name in sorted(new, key=lambda name: name == last):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(work / name, folder / name)
    _write_list(folder, new)


def _write_list(folder: Path, names: list[str]) -> None:
    temporary = folder / f"{OWN}.tmp"
    temporary.write_text(json.dumps(names, indent=0) + "\n")
    os.replace(temporary, folder / OWN)


def _remove_empty(path: Path, top: Path) -> None:
    while path != top and path.is_dir() and not any(path.iterdir()):
        path.rmdir()
        path = path.parent
