"""Reference files of Roman's Wide Field Instrument: masks, flats and photom, valid by RAD."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import asdf
import numpy as np
from asdf.exceptions import AsdfWarning
from astropy.time import Time
from stdatamodels.jwst.datamodels.dqflags import pixel

from ..atomic import find_creation_time, replace_whole
from ..dates import allow_far_dates
from ..detectors import Detector, get_detector
from ..errors import DetectorError, ProductError
from ..files import open_asdf
from .mask import AUTHOR, SOFTWARE, check_useafter, require_pedigree

__all__ = [
    "KNOWN_RAD",
    "RomanHeader",
    "RomanProduct",
    "as_plain",
    "map_dq_from_roman",
    "map_dq_to_roman",
    "read_roman_dq",
    "read_roman_flat",
    "require_rad",
    "roman_pixel_flags",
    "write_roman_flat",
    "write_roman_mask",
    "write_roman_photom",
]

log = logging.getLogger(__name__)

# Versions of RAD (the schemas of Roman) that the writers are tested with.
KNOWN_RAD = ("1.1", "1.2")

_INSTALL = "pip install 'jwst-tvbadpix[roman]'"


@dataclass(frozen=True, slots=True)
class RomanHeader:
    """What CRDS and RAD want to know of a Roman reference file.

    Attributes
    ----------
    detector : str
        WFI01 to WFI18.
    useafter : str
        First moment of validity, ``YYYY-MM-DDThh:mm:ss`` (UTC).
    description : str
        What the file is.
    pedigree : str
        GROUND, DUMMY, SIMULATION, MODEL, or ``INFLIGHT YYYY-MM-DD YYYY-MM-DD``.
    history : tuple of str
        At least one entry, each saying what was done with what.
    author, origin : str
        Who answers for it, and for whom.
    """

    detector: str
    useafter: str
    description: str
    pedigree: str
    history: tuple[str, ...]
    author: str = AUTHOR
    origin: str = "STSCI"


class RomanProduct:
    """What stpipe and the steps ask of a data model; `save` is each product's own."""

    __slots__ = ()
    crds_observatory: ClassVar[str] = "roman"
    reftype: ClassVar[str]
    filename: str
    header: RomanHeader

    @property
    def meta(self) -> SimpleNamespace:
        """What the models of JWST have under the same names."""
        header = self.header
        return SimpleNamespace(
            filename=self.filename,
            reftype=self.reftype,
            useafter=header.useafter,
            pedigree=header.pedigree,
            description=header.description,
            author=header.author,
            instrument=SimpleNamespace(name="WFI", detector=header.detector),
        )

    def get_crds_parameters(self) -> dict[str, str]:
        """List what CRDS selects references of Roman by."""
        return {
            "roman.meta.instrument.name": "WFI",
            "roman.meta.instrument.detector": self.header.detector,
            "roman.meta.exposure.start_time": self.header.useafter,
        }


def require_rad() -> Any:
    """Import roman_datamodels, and require a version of RAD that is known.

    Returns
    -------
    module
        ``roman_datamodels.datamodels``.

    Raises
    ------
    ProductError
        It is not installed, or RAD is of another version than `KNOWN_RAD`.
    """
    try:
        import rad
        from roman_datamodels import datamodels
    except ImportError as error:
        raise ProductError(
            f"expected roman_datamodels for files of Roman, found: {error}; {_INSTALL}"
        ) from error
    if ".".join(rad.__version__.split(".")[:2]) not in KNOWN_RAD:
        raise ProductError(
            f"expected RAD {' or '.join(KNOWN_RAD)}, found {rad.__version__}; install "
            "roman_datamodels of one of these versions, or a newer jwst-tvbadpix"
        )
    return datamodels


def roman_pixel_flags() -> dict[str, int]:
    """List the pixel flags of Roman: mnemonic -> value, GOOD left out."""
    require_rad()
    from roman_datamodels.dqflags import pixel as flags

    return {flag.name: int(flag) for flag in flags if int(flag)}


def map_dq_to_roman(dq: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rewrite flags in JWST bits as Roman bits of the same names.

    Parameters
    ----------
    dq : uint32 (ny, nx)
        Bits of `stdatamodels.jwst.datamodels.dqflags.pixel`.

    Returns
    -------
    mapped : uint32 (ny, nx)
        Bits of `roman_datamodels.dqflags.pixel`.
    lost : tuple of str
        Flags set in `dq` that Roman does not have, in the order of their bits; they are left out.

    Raises
    ------
    ProductError
        `dq` is not uint32.
    """
    return _map_bits(dq, _jwst_pixel_flags(), roman_pixel_flags())


def map_dq_from_roman(dq: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Rewrite flags in Roman bits as JWST bits of the same names; as `map_dq_to_roman`."""
    return _map_bits(dq, roman_pixel_flags(), _jwst_pixel_flags())


def _jwst_pixel_flags() -> dict[str, int]:
    return {name: int(value) for name, value in pixel.items() if value}


def _map_bits(
    dq: np.ndarray, source: Mapping[str, int], target: Mapping[str, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Move each named bit to where the target has the same name."""
    _require_array("dq", dq, np.uint32, np.shape(dq))
    same = sum(value for name, value in source.items() if target.get(name) == value)
    mapped = dq & np.uint32(same)
    left = int(np.bitwise_or.reduce(dq, axis=None)) & ~same
    lost = []
    for name, value in sorted(source.items(), key=lambda item: item[1]):
        if not left & value:
            continue
        if name in target:
            mapped[(dq & np.uint32(value)) != 0] |= np.uint32(target[name])
        else:
            lost.append(name)
        left &= ~value
    return mapped, (*lost, *(f"bit {bit}" for bit in range(32) if left >> bit & 1))


def write_roman_mask(
    path: str | Path,
    dq: np.ndarray,
    *,
    detector: str,
    useafter: str,
    description: str,
    pedigree: str,
    history: Sequence[str],
    author: str = AUTHOR,
    origin: str = "STSCI",
) -> Path:
    """Write a bad-pixel mask of WFI.

    Parameters
    ----------
    path : str or Path
        The final name, ending in ``.asdf``, in a folder that exists; replaced where it is there.
    dq : uint32 (4096, 4096)
        Roman bits (`map_dq_to_roman`) of the full frame, reference pixels included.
    detector, useafter, description, pedigree, author, origin : str
    history : sequence of str
        As `RomanHeader`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProductError
        `dq` has another shape, type or unknown bits, the metadata are not valid by RAD or CRDS,
        or the file reads back differently. Nothing new is then left on disk.
    DetectorError, DateError
        The detector or the date is not one.
    """
    header = RomanHeader(detector, useafter, description, pedigree, tuple(history), author, origin)
    _require_array("dq", dq, np.uint32, _find_detector(detector).shape)
    _require_flags(dq)
    return _write(path, "MaskRefModel", "MASK", header, {"dq": dq})


def write_roman_flat(
    path: str | Path,
    flat: np.ndarray,
    err: np.ndarray,
    dq: np.ndarray,
    *,
    header: RomanHeader,
    optical_element: str,
) -> Path:
    """Write a flat of WFI for one optical element.

    Parameters
    ----------
    path : str or Path
        As `write_roman_mask`.
    flat, err : float32 (4088, 4088)
        Response, mean 1, and its total 1-sigma error.
    dq : uint32 (4088, 4088)
        Roman bits; NO_FLAT_FIELD wherever there is no positive finite flat with a finite error.
    header : RomanHeader
    optical_element : str
        Such as F158.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProductError, DetectorError, DateError
        As `write_roman_mask`; or a pixel that would be applied has no positive finite response or
        no finite error.
    """
    # That of an L2 image: within the reference pixels.
    _, _, nx, ny = _find_detector(header.detector).subarrays["FULL"] or (0, 0, 0, 0)
    shape = (ny, nx)
    for name, array, kind in (
        ("flat", flat, np.float32),
        ("err", err, np.float32),
        ("dq", dq, np.uint32),
    ):
        _require_array(name, array, kind, shape)
    _require_flags(dq)
    # The flat_field step sets exactly these to 1, and divides by all others.
    used = (dq & np.uint32(roman_pixel_flags()["NO_FLAT_FIELD"])) == 0
    with np.errstate(invalid="ignore"):
        wrong = used & ~((flat > 0) & (flat < np.inf) & (err >= 0) & (err < np.inf))
    if wrong.any():
        y, x = (int(k[0]) for k in np.nonzero(wrong))
        raise ProductError(
            f"expected a positive finite flat and a finite error wherever it is used, found "
            f"{flat[y, x]} +- {err[y, x]} at row {y}, column {x} ({int(wrong.sum())} pixels); "
            "flag them NO_FLAT_FIELD"
        )
    extra = {"optical_element": optical_element}
    return _write(path, "FlatRefModel", "FLAT", header, {"data": flat, "err": err, "dq": dq}, extra)


def write_roman_photom(
    path: str | Path, rows: Mapping[str, Mapping[str, Any]], *, header: RomanHeader
) -> Path:
    """Write the flux conversion of one WFI detector.

    Parameters
    ----------
    path : str or Path
        As `write_roman_mask`.
    rows : mapping of str to mapping
        Optical element -> photmjsr and uncertainty [MJy/sr / (DN/s)], pixelareasr [sr],
        collecting_area [m^2], wavelength float32 (n,) [um], effective_area float32 (n,) [m^2];
        None where RAD wants null, as for a GRISM.
    header : RomanHeader

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProductError, DetectorError, DateError
        As `write_roman_mask`.
    """
    table = {element: dict(row) for element, row in rows.items()}
    if not table:
        raise ProductError("expected at least one optical element, found none; give its row")
    for element, row in table.items():
        for name, value in row.items():
            finite = value is None or (np.size(value) > 0 and np.isfinite(value).all())
            if not finite or (name == "photmjsr" and value is not None and value <= 0):
                raise ProductError(
                    f"expected {name} of {element} as finite numbers"
                    f"{', greater than 0' if name == 'photmjsr' else ''}, found {value!r}; correct "
                    "the row or leave it out"
                )
    return _write(path, "WfiImgPhotomRefModel", "PHOTOM", header, {"phot_table": table})


def read_roman_dq(path: str | Path) -> np.ndarray | None:
    """Read the flags of a reference of Roman, in its own bits; None where it has none.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    uint32 (ny, nx) or None
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AsdfWarning)  # made with another version of RAD
        with open_asdf(Path(path)) as file:
            dq = file["roman"].get("dq")
            return None if dq is None else np.array(dq)


@allow_far_dates()
def read_roman_flat(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Read a flat of Roman.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    flat, err : float32 (ny, nx)
    dq : uint32 (ny, nx)
        In the bits of JWST.
    useafter : str
        ``YYYY-MM-DDThh:mm:ss``.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AsdfWarning)  # made with another version of RAD
        with open_asdf(Path(path)) as file:
            roman = file["roman"]
            flat, err, dq = (np.array(roman[key]) for key in ("data", "err", "dq"))
            useafter = str(Time(roman["meta"]["useafter"]).isot)[:19]
    return flat, err, map_dq_from_roman(dq)[0], useafter


def _require_array(name: str, array: Any, kind: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != shape:
        found = f"{array.dtype} {array.shape}" if hasattr(array, "dtype") else type(array).__name__
        raise ProductError(
            f"expected {name} as {np.dtype(kind).name} {shape} (ny, nx), found {found}; convert it"
        )


def _require_flags(dq: np.ndarray) -> None:
    """Refuse bits that Roman has no name for."""
    unknown = int(np.bitwise_or.reduce(dq, axis=None)) & ~sum(roman_pixel_flags().values())
    if unknown:
        raise ProductError(
            f"expected flags of roman_datamodels in dq, found bits {unknown:#x} without a name; "
            "map them by name with map_dq_to_roman"
        )


@allow_far_dates()
def _write(
    path: str | Path,
    model_name: str,
    reftype: str,
    header: RomanHeader,
    body: Mapping[str, Any],
    instrument: Mapping[str, str] | None = None,
) -> Path:
    """Validate, write to a temporary name, read back, compare, rename."""
    path = Path(path)
    _check_header(header, path)
    model_type = getattr(require_rad(), model_name)
    meta = {
        "reftype": reftype,
        "author": header.author,
        "origin": header.origin,
        "pedigree": header.pedigree,
        "description": header.description,
        "telescope": "ROMAN",
        "useafter": Time(header.useafter),
        "instrument": {"name": "WFI", "detector": header.detector, **(instrument or {})},
    }
    model = model_type.create_minimal({"meta": meta})
    for key, value in body.items():
        model[key] = value
    with replace_whole(path) as temporary:
        try:
            file = asdf.AsdfFile()
            file["roman"] = model._instance
            for entry in header.history:
                file.add_history_entry(entry, SOFTWARE)
            made = find_creation_time()
            for entry in file["history"]["entries"]:
                entry["time"] = made
            file.write_to(temporary, all_array_compression="lz4")
        except asdf.ValidationError as error:
            raise ProductError(
                f"expected {path.name} to be a {model_name} by RAD, found: {error.message}; "
                "correct the array or the metadata"
            ) from error
        with model_type(temporary, lazy_load=False, memmap=False) as written:
            found = {key: as_plain(written[key]) for key in ("meta", *body)}
        _compare(path, "", {"meta": meta, **body}, found)
    log.debug("Wrote %s", path)
    return path


def _check_header(header: RomanHeader, path: Path) -> None:
    """Check what RAD leaves open and CRDS does not."""
    if path.suffix != ".asdf":
        raise ProductError(f"expected a file name ending in .asdf, found {path.name!r}; rename it")
    _find_detector(header.detector)
    check_useafter(header.useafter)
    require_pedigree(header.pedigree)
    texts = {"description": header.description, "author": header.author, "origin": header.origin}
    empty = [name for name, text in texts.items() if not str(text or "").strip()]
    if empty or not header.history:
        raise ProductError(
            f"expected a description, an author, an origin and at least one history entry for "
            f"{path.name}, found none for {', '.join(empty) or 'history'}; give them"
        )


def _find_detector(name: str) -> Detector:
    """Find a detector of WFI."""
    facts = get_detector(name)
    if facts.telescope != "ROMAN":
        raise DetectorError(
            f"expected a detector of Roman, WFI01 to WFI18, found {name}; correct it"
        )
    return facts


def as_plain(node: Any) -> Any:
    """Take a node of a model out of its clothes: dict, ndarray, Time or scalar."""
    if hasattr(node, "items"):
        return {str(key): as_plain(value) for key, value in node.items()}
    return np.array(node) if hasattr(node, "shape") and not isinstance(node, Time) else node


def _compare(path: Path, where: str, expected: Any, found: Any) -> None:
    """Require that what was read is what was meant, entry by entry."""
    if isinstance(expected, dict):
        same = isinstance(found, dict) and expected.keys() == found.keys()
        for key in expected if same else ():
            _compare(path, f"{where}.{key}".lstrip("."), expected[key], found[key])
    elif isinstance(expected, np.ndarray):
        floating = expected.dtype.kind == "f"
        same = expected.dtype == found.dtype and np.array_equal(expected, found, equal_nan=floating)
    else:
        same = bool(expected == found)
    if not same:
        raise ProductError(
            f"expected {where} of {path.name} to read back as it was written, found another value; "
            "the file was removed"
        )
