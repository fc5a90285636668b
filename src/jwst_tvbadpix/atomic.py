"""Files that appear whole or not at all, also where the process is killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replace_whole"]


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
    folder = Path(tempfile.mkdtemp(prefix=".tvbadpix-", dir=path.parent))
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
