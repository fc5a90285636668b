"""What a run has finished, kept so that a killed one can be resumed and nothing is done twice."""

import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ProductError
from ..files import compute_sha256

__all__ = ["STATE_FOLDER", "Ledger", "open_ledger"]

log = logging.getLogger(__name__)

# Beside the products: the lock, one record per finished run of a stage, logs, work in progress.
STATE_FOLDER = ".tvbadpix_reprocess"
_WORK = "work-"


@dataclass(frozen=True, slots=True)
class Ledger:
    """Records of one output folder, while it is locked.

    Attributes
    ----------
    folder : Path
        Where the products are.
    """

    folder: Path

    @property
    def state(self) -> Path:
        """Where the records are."""
        return self.folder / STATE_FOLDER

    def find_finished(self, key: str, made_from: Mapping[str, Any]) -> dict[str, str] | None:
        """Find the products of a run, where they are as they were left and nothing has changed.

        Parameters
        ----------
        key : str
            Name of the record.
        made_from : mapping
            All that the products depend on, as JSON has it.

        Returns
        -------
        dict or None
            Product -> sha256; None where the run is to be done.
        """
        record = self._read(key)
        if not record.get("complete") or record.get("made_from") != made_from:
            return None
        products: dict[str, str] = record["products"]
        try:
            same = all(
                compute_sha256(self.folder / name) == sum_ for name, sum_ in products.items()
            )
        except OSError:
            return None
        return products if same else None

    def make_work_folder(self, key: str) -> Path:
        """Make the folder in which a run works, on the file system of the products."""
        # Of this process alone: what a killed one has started may take a moment to die.
        folder = self.state / f"{_WORK}{os.getpid()}-{key}"
        folder.mkdir()
        return folder

    def find_log(self, key: str) -> Path:
        """Name the file for the log of a run."""
        return self.state / f"{key}.log"

    def publish(
        self, key: str, made_from: Mapping[str, Any], work: Path, products: Mapping[str, str]
    ) -> None:
        """Move finished products to their place and record them.

        Parameters
        ----------
        key : str
            Name of the record.
        made_from : mapping
            All that the products depend on.
        work : Path
            Folder with the products, on the same file system.
        products : mapping of str to str
            Product -> sha256.

        Raises
        ------
        ProductError
            A file that is not of an earlier run is in the place of a product.

        Notes
        -----
        A record of what is to come is written before the first file is moved, so that whatever
        moment the process dies at, the next one knows which files are its own.
        """
        self.require_free(products, key)
        before = self._list_products(key)
        record = {"made_from": made_from, "complete": False}
        record["products"] = {**dict.fromkeys(before, ""), **products}
        self._write(key, record)
        for name in products:
            os.replace(work / name, self.folder / name)
        for name in set(before) - set(products):
            (self.folder / name).unlink(missing_ok=True)
        self._write(key, {"made_from": made_from, "products": dict(products), "complete": True})

    def require_free(self, names: Iterable[str], key: str) -> None:
        """Refuse to replace files that are not of an earlier run."""
        own = self._list_products(key)
        strange = [name for name in names if name not in own and (self.folder / name).exists()]
        if strange:
            raise ProductError(
                f"expected no {', '.join(strange)} in {self.folder}, found one that no earlier run "
                "made; choose another folder or remove it"
            )

    def drop(self, work: Path) -> None:
        """Remove the folder in which a run has worked."""
        shutil.rmtree(work, ignore_errors=True)

    def _list_products(self, key: str) -> list[str]:
        """List the products that a record knows, complete or not."""
        return list(self._read(key).get("products", {}))

    def _read(self, key: str) -> dict[str, Any]:
        """Read a record; an absent or damaged one says nothing."""
        try:
            record = json.loads((self.state / f"{key}.json").read_text(encoding="utf-8"))
            valid = isinstance(record, dict) and isinstance(record.get("products"), dict)
        except (OSError, ValueError):
            return {}
        return record if valid else {}

    def _write(self, key: str, record: Mapping[str, Any]) -> None:
        path = self.state / f"{key}.json"
        temporary = self.state / f"{_WORK}{key}.json"
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)


@contextmanager
def open_ledger(folder: str | Path) -> Iterator[Ledger]:
    """Lock an output folder, made when absent, and remove what a killed run has left half done.

    Parameters
    ----------
    folder : str or Path
        Where the products go.

    Yields
    ------
    Ledger

    Raises
    ------
    ProductError
        The folder cannot be written to, or another run is at work there. The lock is that of the
        operating system: it ends with the process that holds it.
    """
    folder = Path(folder).resolve()
    state = folder / STATE_FOLDER
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise ProductError(
            f"expected a folder that can be written to, found {folder}: {error.strerror}; choose "
            "another --output-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ProductError(
                f"expected no other run in {folder}, found process {lock.read().strip()} at work; "
                "wait for it or choose another folder"
            ) from error
        with suppress(OSError):  # a full disk: the number is for the message above alone
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
        _remove_work(state)
        try:
            yield Ledger(folder)
        finally:
            _remove_work(state)


def _remove_work(state: Path) -> None:
    """Remove work in progress."""
    for path in state.glob(f"{_WORK}*"):
        log.debug("Removing %s", path)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
