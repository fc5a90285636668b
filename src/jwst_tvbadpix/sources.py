"""Where exposures come from: files, associations, models and libraries, all read lazily."""

import hashlib
import logging
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from .dates import allow_far_dates
from .errors import InputError
from .files import compute_sha256, read_association
from .headers import KEYWORDS
from .parallel import map_in_threads

__all__ = ["Scan", "Source", "is_asdf", "scan_exposures"]

log = logging.getLogger(__name__)

# Association members that are looks at the detector; the rest (target acquisition, source
# catalogues) say nothing about pixels of a blank field.
_MEMBER_TYPES = ("science", "background", "dark")

# Calibrated products whose images are cut out along slits: their place on the detector is lost.
_SLIT_MODELS = ("MultiSlitModel", "SlitModel")


class Source(Protocol):
    """Lazy access to SCI and DQ of one exposure, all integrations."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(ny, nx), or (n_int, ny, nx)."""

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of SCI and DQ, all integrations."""

    def read_err(self, rows: slice) -> np.ndarray | None:
        """Read rows of ERR, all integrations; None where there is no such plane."""


@dataclass(frozen=True, slots=True)
class _FitsSource:
    """Planes of a FITS file; where they lie is kept, so that its headers are parsed only once."""

    path: Path
    shape: tuple[int, ...]
    # Of SCI and DQ where they are stored plainly: position in the file, stored type, zero point.
    places: tuple[tuple[int, str, int], ...] | None

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        if self.places is None:
            with fits.open(self.path, memmap=False) as hdus:
                return hdus["SCI"].section[..., rows, :], hdus["DQ"].section[..., rows, :]
        science, quality = (self._read_plane(rows, *place) for place in self.places)
        return science, quality

    def read_err(self, rows: slice) -> np.ndarray | None:
        with fits.open(self.path, memmap=False) as hdus:
            if "ERR" not in hdus or hdus["ERR"].shape != self.shape:
                return None
            place = _find_planes(hdus, ("ERR",)) if self.places else None
            if place is None:
                return np.asarray(hdus["ERR"].section[..., rows, :])
        return self._read_plane(rows, *place[0])

    def _read_plane(self, rows: slice, offset: int, stored: str, zero: int) -> np.ndarray:
        *several, ny, nx = self.shape
        if several:
            plane = np.memmap(self.path, stored, "r", offset, self.shape)[..., rows, :]
        else:
            # One range of bytes, which is read sooner than it is mapped.
            first, last, _ = rows.indices(ny)
            start = offset + first * nx * np.dtype(stored).itemsize
            plane = np.fromfile(self.path, stored, (last - first) * nx, offset=start)
            plane = plane.reshape(-1, nx)
        native = plane.astype(plane.dtype.newbyteorder("="))
        # An unsigned number is stored as a signed one, its highest bit flipped.
        return native.view(native.dtype.str.replace("i", "u")) ^ zero if zero else native


def _find_planes(
    hdus: fits.HDUList, names: tuple[str, ...] = ("SCI", "DQ")
) -> tuple[tuple[int, str, int], ...] | None:
    """Find where planes lie; None where astropy has more to do than to read them."""
    places = []
    for name in names:
        header, bits = hdus[name].header, abs(hdus[name].header["BITPIX"])
        zero = header.get("BZERO", 0)
        kind = "f" if header["BITPIX"] < 0 else "i"
        plain = zero == 0 or (kind == "i" and bits > 8 and zero == 2 ** (bits - 1))
        plain &= not isinstance(hdus[name], fits.CompImageHDU)
        if not plain or header.get("BSCALE", 1) != 1 or "BLANK" in header:
            return None
        places.append((hdus[name].fileinfo()["datLoc"], f">{kind}{bits // 8}", int(zero)))
    return tuple(places)


@dataclass(frozen=True, slots=True)
class _ArraySource:
    arrays: Mapping[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.arrays["SCI"].shape

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return self.arrays["SCI"][..., rows, :], self.arrays["DQ"][..., rows, :]

    def read_err(self, rows: slice) -> np.ndarray | None:
        return self.arrays["ERR"][..., rows, :] if "ERR" in self.arrays else None


class _SpooledSource:
    """Copies of the planes in a temporary folder, which goes when this object does."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.shape: tuple[int, ...] = arrays["SCI"].shape
        self._folder = Path(tempfile.mkdtemp(prefix="tvbadpix-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for name, plane in arrays.items():
            np.save(self._folder / f"{name}.npy", plane)

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of SCI and DQ, all integrations."""
        science, quality = (
            np.array(np.load(self._folder / f"{plane}.npy", mmap_mode="r")[..., rows, :])
            for plane in ("SCI", "DQ")
        )
        return science, quality

    def read_err(self, rows: slice) -> np.ndarray | None:
        """Read rows of ERR, all integrations; None where there is no such plane."""
        path = self._folder / "ERR.npy"
        return np.array(np.load(path, mmap_mode="r")[..., rows, :]) if path.is_file() else None


@dataclass(frozen=True, slots=True)
class _JoinedSource:
    """Segments of one exposure, their integrations one after the other."""

    parts: tuple[Source, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return sum(_count_integrations(p.shape) for p in self.parts), *self.parts[0].shape[-2:]

    def read(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        planes = zip(*(part.read(rows) for part in self.parts), strict=True)
        science, quality = (
            np.concatenate([plane[None] if plane.ndim == 2 else plane for plane in kind])
            for kind in planes
        )
        return science, quality

    def read_err(self, rows: slice) -> np.ndarray | None:
        planes = [part.read_err(rows) for part in self.parts]
        known = [p[None] if p.ndim == 2 else p for p in planes if p is not None]
        return np.concatenate(known) if len(known) == len(planes) else None


def _count_integrations(shape: tuple[int, ...]) -> int:
    return shape[0] if len(shape) == 3 else 1


@dataclass(frozen=True, slots=True)
class Scan:
    """One exposure as found: its keywords unchecked, its planes and its WCS object unread."""

    name: str
    sha256: str
    keywords: Mapping[str, Any]
    source: Source
    load_wcs: Callable[[], Any] = lambda: None


@allow_far_dates()
def scan_exposures(inputs: Any) -> list[Scan]:
    """Read the headers of exposures and leave their planes for later.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or an iterable of these
        Rate or calibrated products (2-D or 3-D SCI, with DQ).

    Returns
    -------
    list of Scan
        One per exposure in the order given, the segments of one exposure joined.

    Raises
    ------
    InputError
        A file or association cannot be read, is truncated, or holds no such product; or the
        exposures are of JWST and of Roman.
    """
    scans = (_scan(item) for item in _expand(inputs))
    joined = _join_segments(map_in_threads(_add_checksum, scans))
    _refuse_mixed_telescopes(joined)
    return joined


def _expand(inputs: Any) -> Iterator[Any]:
    """Flatten associations, lists and libraries into paths and models."""
    if isinstance(inputs, (str, Path)):
        if Path(inputs).suffix.lower() == ".json":
            yield from _list_exposures(Path(inputs))
        else:
            yield Path(inputs)
    elif hasattr(inputs, "borrow"):
        yield from _spool_library(inputs)
    elif hasattr(inputs, "meta"):
        yield inputs
    elif isinstance(inputs, Iterable):
        for item in inputs:
            yield from _expand(item)
    else:
        raise InputError(
            f"expected paths, associations, data models or a ModelLibrary, found "
            f"{type(inputs).__name__}; give one of these"
        )


def _list_exposures(path: Path) -> list[Path]:
    """List the exposures of every product of an association, beside the file, each once."""
    members = [
        path.parent / member["expname"]
        for product in read_association(path)
        for member in product.members
        if member["exptype"] in _MEMBER_TYPES
    ]
    if not members:
        raise InputError(
            f"expected members of type {', '.join(_MEMBER_TYPES)} in {path}, found none; "
            "add the rate files as science members"
        )
    return list(dict.fromkeys(members))  # products may share a background


def _spool_library(library: Any) -> Iterator[Scan]:
    """Take the models of a ModelLibrary one at a time, and leave the library as it was."""
    with library:
        for model in library:
            yield _scan_model(model, spool=True)
            library.shelve(model, modify=False)


def _scan(item: Any) -> Scan:
    """Read the header of one exposure."""
    if isinstance(item, Scan):
        return item
    if not isinstance(item, Path):
        return _scan_model(item)
    if is_asdf(item):
        from .roman import scan_asdf

        return scan_asdf(item)
    return _scan_fits(item)


def is_asdf(path: Path) -> bool:
    """Whether a file begins as ASDF; one that cannot be read does not."""
    try:
        with path.open("rb") as stream:
            return stream.read(5) == b"#ASDF"
    except OSError:
        return False


def _refuse_mixed_telescopes(scans: Iterable[Scan]) -> None:
    """Raise where exposures of JWST and of Roman are given together; tell of Roman's flags."""
    examples = {str(scan.keywords["TELESCOP"]).upper(): scan.name for scan in scans}
    if "ROMAN" not in examples:
        return
    if len(examples) > 1:
        raise InputError(
            "expected exposures of one telescope, found "
            + ", ".join(f"{name} ({example})" for name, example in sorted(examples.items()))
            + "; run the step once for each"
        )
    from .roman import list_unmatched_flags

    log.info(
        "Flags of Roman that JWST has no name for are not used: %s",
        ", ".join(list_unmatched_flags()),
    )


def _join_segments(scans: Iterable[Scan]) -> list[Scan]:
    """Join the segments into which a long exposure was cut: they are one look at the detector."""
    exposures: dict[Any, dict[Any, Scan]] = {}
    for scan in scans:
        cards = scan.keywords
        same = ("DETECTOR", "SUBARRAY", "EXPSTART", "DATE-OBS", "TIME-OBS")
        key: Any = (*(cards[card] for card in same), scan.source.shape[-2:], len(scan.source.shape))
        number = cards["EXSEGNUM"]
        if not isinstance(number, int) or number in exposures.get(key, {}):
            key = object()  # no segment, or one given twice: it stands for itself
        exposures.setdefault(key, {})[number] = scan
    joined = []
    for segments in exposures.values():
        ordered = [segments[number] for number in sorted(segments)]
        if len(ordered) == 1:
            joined += ordered
            continue
        log.info("%s and %d more segments are one exposure", ordered[0].name, len(ordered) - 1)
        checksum = hashlib.sha256("".join(scan.sha256 for scan in ordered).encode()).hexdigest()
        source = _JoinedSource(tuple(scan.source for scan in ordered))
        name = " + ".join(scan.name for scan in ordered)
        joined.append(Scan(name, checksum, ordered[0].keywords, source, ordered[0].load_wcs))
    return joined


def _scan_fits(path: Path) -> Scan:
    try:
        size = path.stat().st_size
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            # A truncated file is an error below, with better words than the warning's.
            warnings.simplefilter("ignore", AstropyUserWarning)
            compressed = hdus._file.compression not in (None, "")
            needed = max(info["datLoc"] + info["datSpan"] for info in (h.fileinfo() for h in hdus))
            planes = {hdu.name: hdu.shape for hdu in hdus[1:] if hdu.is_image}
            n_images = sum(hdu.name == "SCI" for hdu in hdus)
            headers = (hdus[0].header, hdus["SCI"].header if n_images else {})
            keywords = {key: headers[0].get(key, headers[1].get(key)) for key in KEYWORDS}
            slits = n_images > 1 or headers[0].get("DATAMODL") in _SLIT_MODELS
            integer = "DQ" not in planes or hdus["DQ"].header["BITPIX"] > 0
            plain = {"SCI", "DQ"} <= set(planes) and not compressed
            places = _find_planes(hdus) if plain else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, fits.VerifyError) as error:
        raise _refuse_file(path, error) from error
    if needed > size and not compressed:
        raise InputError(
            f"expected {needed} bytes in {path}, found {size}: the file is truncated; "
            "download it again"
        )
    if slits:
        raise _refuse_slits(str(path))
    if not {"SCI", "DQ"} <= set(planes):
        raise InputError(
            f"expected SCI and DQ images in {path}, found {', '.join(planes) or 'none'}; "
            "give _rate or _rateints products"
        )
    if not integer:
        raise InputError(
            f"expected DQ as integers in {path}, found floating point; make the product again"
        )
    if planes["DQ"] != planes["SCI"]:
        raise InputError(
            f"expected SCI and DQ of one shape in {path}, found {planes['SCI']} and {planes['DQ']};"
            " make the product again"
        )
    source = _FitsSource(path.absolute(), planes["SCI"], places)
    return Scan(path.name, "", keywords, source, partial(_load_wcs, path))


def _refuse_file(path: Path, error: Exception) -> InputError:
    return InputError(
        f"expected a FITS rate product, found {path}: {error}; check the path and the download"
    )


def _add_checksum(scan: Scan) -> Scan:
    """Take the checksum of a file, if it has none yet."""
    if scan.sha256 or not isinstance(scan.source, _FitsSource):
        return scan
    try:
        return replace(scan, sha256=compute_sha256(scan.source.path))
    except OSError as error:
        raise _refuse_file(scan.source.path, error) from error


def _load_wcs(path: Path) -> Any:
    """Read the WCS object that assign_wcs has left in a file; None without."""
    from stdatamodels.jwst import datamodels

    with datamodels.open(path) as model:
        return _get(model, "meta.wcs")


def _scan_model(model: Any, *, spool: bool = False) -> Scan:
    """Read one model; `spool` copies its arrays to temporary files."""
    planes: dict[str, Any]
    if getattr(model, "crds_observatory", None) == "roman":
        from .roman import read_model

        keywords, planes = read_model(model)
    else:
        keywords = {key: _get(model, name) for key, name in KEYWORDS.items()}
        planes = {"SCI": _get(model, "data"), "DQ": _get(model, "dq")}
        # Asking a model for what it lacks would make it.
        planes["ERR"] = model.err if getattr(model, "hasattr", lambda _: False)("err") else None
    name = str(keywords["FILENAME"] or "model in memory")
    if type(model).__name__ in _SLIT_MODELS:
        raise _refuse_slits(name)
    arrays: dict[str, Any] = {key: planes[key] for key in ("SCI", "DQ")}
    if any(plane is None for plane in arrays.values()):
        raise InputError(
            f"expected a rate model with data and dq, found {type(model).__name__} ({name}); "
            "give ImageModel or CubeModel"
        )
    arrays = {key: np.ascontiguousarray(plane) for key, plane in arrays.items()}
    checksum = hashlib.sha256()
    for plane in arrays.values():
        checksum.update(plane)
    err = planes.get("ERR")
    if err is not None and np.shape(err) == arrays["SCI"].shape:
        arrays["ERR"] = np.ascontiguousarray(err)
    wcs = _get(model, "meta.wcs")
    source = _SpooledSource(arrays) if spool else _ArraySource(arrays)
    return Scan(name, checksum.hexdigest(), keywords, source, lambda: wcs)


def _refuse_slits(name: str) -> InputError:
    return InputError(
        f"expected one image of the detector in {name}, found cut-outs of slits; give the _rate "
        "products of these exposures"
    )


def _get(model: Any, path: str) -> Any:
    """Follow a dotted path through a data model; None where it ends."""
    for part in path.split("."):
        model = getattr(model, part, None)
    return model
