"""Evidence of exposures on disk: a Zarr store, keyed by calibration and by exposure.

``FOLDER/KEY/IDENTITY/values`` holds what one exposure says of every pixel under one calibration
(`jwst_tvbadpix.badpix.shelved`). KEY is the hash of all that its values depend on, IDENTITY the
checksum of the exposure, so that nothing is ever mixed. ``FOLDER/KEY/NAME`` is an array of many
exposures together, which can be made of theirs and says of which. Each is written under a
temporary name and renamed; every chunk carries a CRC-32C, and what is incomplete or damaged
counts as absent and is made again.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from . import __version__
from .atomic import is_hidden, make_hidden_folder, open_hidden_folder, remove_left, replace_whole
from .errors import StoreError
from .headers import ExposureRecord
from .parallel import ROWS

__all__ = ["EvidenceShelf", "EvidenceStore", "leave_no_empty_store"]

log = logging.getLogger(__name__)

_LAYOUT = 2
# The file that makes a folder a store.
_MARKER = "zarr.json"
# Size of a chunk of some rows where these are short [byte].
_CHUNK_BYTES = 200_000
# Room on the disk, in sizes of an array, without which it is not made.
_SPARE = 1.2
# What a damaged file makes zarr raise: wrong checksums and lengths, missing or unreadable metadata.
_DAMAGE = (ValueError, KeyError, OSError, TypeError, RuntimeError)


def _import_zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise StoreError(
            f"expected the package zarr for a store, found {error}; run "
            "pip install 'jwst-tvbadpix[store]' or run without a store"
        ) from error
    return zarr


class EvidenceStore:
    """A folder of evidence; made where it is absent.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    StoreError
        It holds something else, or was made by a version that lays it out otherwise; or zarr is
        not installed, or the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        zarr = _import_zarr()
        self.folder = folder = folder.absolute()
        marker = {"software": "jwst_tvbadpix", "layout": _LAYOUT}
        if folder.is_dir() and any(not is_hidden(path) for path in folder.iterdir()):
            try:
                found = dict(zarr.open_group(folder, mode="r").attrs)
            except _DAMAGE as error:
                raise StoreError(
                    f"expected a store of evidence or an empty folder, found {folder}: {error}; "
                    "give another folder"
                ) from error
            if found != marker:
                raise StoreError(
                    f"expected a store with {marker} in {folder}, found {found}; give another "
                    "folder, or remove this one"
                )
            remove_left(folder)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # By a rename, so that of runs that are started together none clears another's files.
            with replace_whole(folder / _MARKER) as path:
                zarr.create_group(path.parent, attributes=marker)
        except OSError as error:
            raise _refuse(folder, error) from error

    def make_shelf(
        self, parts: str, records: Sequence[ExposureRecord], unit: str
    ) -> "EvidenceShelf":
        """Open what belongs to a calibration that is being measured.

        Parameters
        ----------
        parts : str
            Hash of what the values depend on beside the unit and the software.
        records : sequence of ExposureRecord
            That of the exposure behind each look.
        unit : str
            Unit of the rates.
        """
        text = "|".join((parts, unit, __version__, str(_LAYOUT)))
        return self.open_shelf(hashlib.sha256(text.encode()).hexdigest(), records)

    def list_records(self, key: str) -> dict[str, ExposureRecord]:
        """List the exposures that are there for a calibration, by checksum."""
        found = ((name, _read_facts(self.folder / key / name)) for name in _list(self.folder / key))
        return {name: _make_record(facts["record"]) for name, facts in found if facts}

    def open_shelf(self, key: str, records: Sequence[ExposureRecord]) -> "EvidenceShelf":
        """Open what belongs to a calibration whose key is known."""
        shelf = EvidenceShelf(self.folder / key, tuple(records))
        if shelf.folder.is_dir():
            remove_left(shelf.folder)
        folders = [path for path in self.folder.iterdir() if path.is_dir() and not is_hidden(path)]
        identities = set(shelf.identities)
        found = sum(name in identities for name in _list(self.folder / key))
        log.info(
            "%s: %d of %d exposures are there for calibration %.12s; %d other calibrations",
            self.folder,
            found,
            len(records),
            key,
            sum(path.name != key for path in folders),
        )
        return shelf


@contextmanager
def leave_no_empty_store(folder: Path) -> Iterator[None]:
    """Remove a store that is made meanwhile, and its parents, where an error leaves it empty."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    was_there = (folder / _MARKER).exists()
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what others have put there meanwhile stays
            if not was_there and os.listdir(folder) == [_MARKER]:
                (folder / _MARKER).unlink()
            for path in missing:
                path.rmdir()
        raise


def _list(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _refuse(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"expected a store that can be written, found {folder}: {error.strerror or error}; free "
        "or mend it, or give another folder"
    )


@dataclass(frozen=True, slots=True)
class EvidenceShelf:
    """Evidence of some looks under one calibration, found by the number of the look.

    Attributes
    ----------
    folder : Path
    records : tuple of ExposureRecord
        That of the exposure behind each look; they are kept beside the evidence.
    """

    folder: Path
    records: tuple[ExposureRecord, ...]
    _arrays: dict[tuple[str, bool], Any] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.records)

    @property
    def key(self) -> str:
        """Hash of what the evidence depends on."""
        return self.folder.name

    @property
    def identities(self) -> tuple[str, ...]:
        """Checksum of the exposure behind each look."""
        return tuple(record.sha256 for record in self.records)

    def read_facts(self, look: int) -> dict[str, Any] | None:
        """Read what was put beside the values; None where the look is absent or damaged."""
        return _read_facts(self.folder / self.records[look].sha256)

    def read(self, look: int, rows: slice, name: str = "values") -> np.ndarray | None:
        """Read rows of a look: float32 (n_planes, n_rows, nx); None: absent or damaged."""
        return self._read(f"{self.records[look].sha256}/{name}", (slice(None), rows))

    def read_joint(self, name: str, origin: str) -> np.ndarray | None:
        """Read an array of many looks.

        None where it is absent, damaged or of another origin, see `put_joint`.
        """
        return self._read(name, ...) if self.has_joint(name, origin) else None

    def has_joint(self, name: str, origin: str) -> bool:
        """Tell whether an array of many looks is there and of this origin, see `put_joint`.

        What its chunks hold is seen only as they are read.
        """
        array, _ = self._open(name, whole=False)
        return array is not None and array.attrs.get("origin") == origin

    def visit_joint(
        self,
        name: str,
        origin: str,
        pixels: np.ndarray,
        put: Callable[[slice, np.ndarray], None],
    ) -> bool:
        """Put pixels of an array of many looks where they are wanted, block by block.

        Parameters
        ----------
        name, origin : str
            As `put_joint`.
        pixels : ndarray of int, shape (n_pixels,)
            Numbers of pixels along the last axis; negative for none.
        put : callable
            Takes the places of some pixels among `pixels`, and their values.

        Returns
        -------
        bool
            Whether all were put: the array is there, complete, and of this origin.
        """
        if not self.has_joint(name, origin):
            return False
        *others, size = self._open(name, whole=False)[0].chunks
        for number in np.unique(pixels[pixels >= 0] // size).tolist():
            start = number * size
            chunk = *(0 for _ in others), number
            part = self._read(name, (..., slice(start, start + size)), chunk)
            if part is None:
                return False
            own = np.flatnonzero((pixels >= start) & (pixels < start + size))
            breaks = np.flatnonzero((np.diff(own) != 1) | (np.diff(pixels[own]) != 1))
            for run in np.split(own, breaks + 1):
                first = int(pixels[run[0]]) - start
                put(slice(run[0], run[-1] + 1), part[..., first : first + run.size])
        return True

    def put_joint(self, name: str, origin: str, blocks: Iterable[np.ndarray], n: int) -> None:
        """Write an array of many looks, in place of what was there.

        Parameters
        ----------
        name : str
        origin : str
            Hash of what it depends on beside the key.
        blocks : iterable of ndarray
            To be joined along the last axis; each but the last of the size of the first, and
            read back by itself.
        n : int
            Their length together.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        start, blocks = 0, iter(blocks)
        first = next(blocks)
        shape = *first.shape[:-1], n
        with self.make_joint(name, origin, shape, first.dtype, first.shape) as made:
            for block in chain([first], blocks):
                self.fill_joint(made, start, block)
                start += block.shape[-1]

    def has_room(self, n_bytes: int) -> bool:
        """Tell whether the disk has room for an array of this size, and some more."""
        free = shutil.disk_usage(self.folder).free
        if free < _SPARE * n_bytes:
            log.warning(
                "%s: %.1f GB are free, %.1f are needed to put together what exposures say of each "
                "pixel; left as it is, updates will take longer",
                self.folder,
                free / 1e9,
                _SPARE * n_bytes / 1e9,
            )
        return free >= _SPARE * n_bytes

    @contextmanager
    def make_joint(
        self, name: str, origin: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...]
    ) -> Iterator[str]:
        """Make an array of many looks, in place of what was there, once it is filled.

        Parameters
        ----------
        name, origin : str
            As `put_joint`.
        shape, dtype, chunks
            Those of the array.

        Yields
        ------
        str
            What `fill_joint` calls the array meanwhile.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        with self._make(name) as made:
            with self._refuse_errors():
                _create(made, shape, dtype, chunks, origin=origin)
            yield str(made.relative_to(self.folder))

    def fill_joint(self, name: str, start: int, values: np.ndarray) -> None:
        """Put part of an array of many looks, from a place along its last axis on.

        Processes may do so at the same time where none of their chunks are the same.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        with self._refuse_errors():
            array = _import_zarr().open_array(self.folder / name, mode="r+")
            array[..., start : start + values.shape[-1]] = values

    def drop(self, looks: Sequence[int], name: str) -> None:
        """Remove an array of looks, where they have it."""
        left = [self.folder / self.records[k].sha256 / name for k in looks]
        left = [path for path in left if path.is_dir()]
        if not left:
            return
        with self._refuse_errors(), open_hidden_folder(self.folder) as away:
            for path in left:
                with suppress(FileNotFoundError):  # another run has just removed it
                    os.rename(path, away / path.parent.name)

    def _open(self, where: str, *, whole: bool = True) -> tuple[Any, int]:
        """Open an array, or find it open, and its inode; None: absent or damaged, see `_read`."""
        try:
            place = os.stat(self.folder / where).st_ino
            found = self._arrays.get((where, whole))
            if found is None or found[1] != place:
                array = _import_zarr().open_array(self.folder / where, mode="r")
                if whole and array.nchunks_initialized != array.nchunks:
                    raise ValueError("chunks are missing")
                found = self._arrays[where, whole] = array, place
            return found
        except _DAMAGE as error:
            self._forget(where, error)
            return None, 0

    def _read(self, where: str, selection: Any, chunk: tuple[int, ...] = ()) -> np.ndarray | None:
        """Read part of an array, or a chunk of it; None: absent or damaged.

        Without the number of the chunk all are required, which takes a second for thousands.
        """
        array, place = self._open(where, whole=not chunk)
        if array is None:
            return None
        try:
            if (
                chunk
                and not (self.folder / where / array.metadata.encode_chunk_key(chunk)).is_file()
            ):
                raise ValueError("a chunk is missing")
            values = np.asarray(array[selection])
            # zarr reads zeros where another run has just taken the folder away.
            if os.stat(self.folder / where).st_ino != place:
                raise ValueError("another run has replaced it")
            return values
        except _DAMAGE as error:
            self._forget(where, error)
            return None

    def _forget(self, where: str, error: BaseException) -> None:
        for whole in (True, False):
            self._arrays.pop((where, whole), None)
        if (self.folder / where).is_dir():
            log.warning("%s is damaged (%s) and counts as absent", self.folder / where, error)

    def put(self, look: int, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Write a look, in place of what was there.

        Parameters
        ----------
        look : int
        arrays : mapping of str to ndarray of float32, shape (n_planes, ny, nx)
        facts : mapping
            Numbers and text; floats come back bit for bit.

        Raises
        ------
        StoreError
            The folder cannot be written.
        """
        kept = {**facts, "record": asdict(self.records[look])}
        attributes = {"facts": kept, "sha256": _digest(kept)}
        with self._make(self.records[look].sha256) as made, self._refuse_errors():
            _import_zarr().create_group(made, attributes=attributes)
            for name, values in arrays.items():
                _write(made / name, values)

    @contextmanager
    def _make(self, name: str) -> Iterator[Path]:
        """Hand out where to make something, which is then renamed to its place."""
        with self._refuse_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = make_hidden_folder(self.folder)
        try:
            yield temporary / name
            with self._refuse_errors():
                _swap(temporary / name, self.folder / name, temporary / "old")
        finally:
            for known in [key for key in self._arrays if key[0].split("/")[0] == name]:
                self._arrays.pop(known, None)
            shutil.rmtree(temporary, ignore_errors=True)

    @contextmanager
    def _refuse_errors(self) -> Iterator[None]:
        """Name the folder in the error where it cannot be written."""
        try:
            yield
        except OSError as error:
            raise _refuse(self.folder, error) from error


def _write(where: Path, values: np.ndarray) -> None:
    """Write an array, its chunks some rows each."""
    size = values.nbytes // max(1, values.shape[1])
    rows = max(ROWS, _CHUNK_BYTES // max(1, size))
    chunks = (len(values), min(rows, values.shape[1]), values.shape[2])
    _create(where, values.shape, values.dtype, chunks)[...] = values


def _create(
    where: Path, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...], **facts: str
) -> Any:
    """Create an array; no compression: noise does not compress."""
    return _import_zarr().create_array(
        where,
        shape=shape,
        dtype=dtype,
        chunks=tuple(max(1, n) for n in chunks),
        compressors=_import_zarr().codecs.Crc32cCodec(),
        fill_value=0,
        attributes=facts,
        config={"write_empty_chunks": True},
    )


def _read_facts(folder: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        facts, checksum = kept["facts"], kept["sha256"]
    except _DAMAGE:
        return None
    return dict(facts) if _digest(facts) == checksum else None


def _make_record(kept: Mapping[str, Any]) -> ExposureRecord:
    """Make a record of what JSON has of it: lists are tuples."""
    own: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()
    }
    return ExposureRecord(**own)


def _swap(made: Path, target: Path, old: Path) -> None:
    """Rename a folder to its place; what is there goes."""
    with suppress(FileNotFoundError):
        os.rename(target, old)
    try:
        os.rename(made, target)
    except OSError:
        # Another process, with the same exposure and calibration, was quicker: the same bytes.
        if not (target / "zarr.json").is_file():
            raise


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
