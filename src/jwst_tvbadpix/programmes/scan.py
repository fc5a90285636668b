"""What the headers of exposures say, of any stage of the pipeline; pixels are never read."""

import contextlib
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.time import Time
from astropy.utils.exceptions import AstropyWarning

from ..errors import InputError
from ..sources import is_asdf

__all__ = [
    "CARDS",
    "Observation",
    "convert_card",
    "list_exposures",
    "list_fits",
    "read_rows",
    "scan_headers",
]

log = logging.getLogger(__name__)

# Values that stand for a card without a value.
_EMPTY = ("", "N/A", "NULL", "NONE", "UNKNOWN", "UNDEFINED", "NAN")
_TRUE = ("T", "TRUE", "1", "YES")
_FALSE = ("F", "FALSE", "0", "NO")
# Dates of exposures, tests on the ground included: 1995 to 2132.
_FIRST_MJD, _LAST_MJD = 50000.0, 99999.0
# What unit and dimensions make of a file whose name does not say what product it is.
_GUESSES = {
    ("dn/s", 2): "rate",
    ("dn/s", 3): "rateints",
    ("mjy/sr", 2): "cal",
    ("mjy/sr", 3): "calints",
    ("dn", 4): "uncal",
}
# Name of an exposure of the archive: visit, activity, exposure, perhaps a segment, detector.
_ARCHIVED = re.compile(
    r"(jw\d{11}_\w{5}_\d{5}(?:-seg\d+)?_[a-z0-9]+?)(?:_[oac]\d+)?(?:_([a-z0-9]+(?:-[a-z0-9]+)*))?$"
)


def _card(keyword: str) -> Any:
    """Declare a field that is read from a card; None where it is absent."""
    return field(default=None, metadata={"keyword": keyword})


@dataclass(frozen=True, slots=True)
class Observation:
    """What the header of one file says; None = the card is absent or empty.

    Attributes
    ----------
    path : Path
        The file as given.
    stage : str
        What the product is: "uncal", "rate", "rateints", "cal", ..., by the file name, else by the
        unit and dimensions of SCI; "" where neither says.
    exposure_id : str
        The same for all stages of one exposure (segment): the archive's name without the stage,
        else folder and name without it.
    reftype : str or None
        REFTYPE, which only reference files have.

    Notes
    -----
    The other fields carry the values of the cards in `CARDS`, whose names are those of the JWST
    core schema. Angles are in degrees, times in MJD (UTC) and seconds. ``program`` is padded to
    five digits, as in the archive.
    """

    path: Path
    stage: str
    exposure_id: str
    filename: str | None = _card("FILENAME")
    telescope: str | None = _card("TELESCOP")
    reftype: str | None = _card("REFTYPE")
    instrument: str | None = _card("INSTRUME")
    detector: str | None = _card("DETECTOR")
    module: str | None = _card("MODULE")
    channel: str | None = _card("CHANNEL")
    band: str | None = _card("BAND")
    exp_type: str | None = _card("EXP_TYPE")
    filter: str | None = _card("FILTER")
    pupil: str | None = _card("PUPIL")
    grating: str | None = _card("GRATING")
    fixed_slit: str | None = _card("FXD_SLIT")
    coronagraph: str | None = _card("CORONMSK")
    lamp: str | None = _card("LAMP")
    opmode: str | None = _card("OPMODE")
    ccc_state: str | None = _card("CCCSTATE")
    subarray: str | None = _card("SUBARRAY")
    aperture: str | None = _card("APERNAME")
    pps_aperture: str | None = _card("PPS_APER")
    readpatt: str | None = _card("READPATT")
    ngroups: int | None = _card("NGROUPS")
    nints: int | None = _card("NINTS")
    segment: int | None = _card("EXSEGNUM")
    exposure_s: float | None = _card("EFFEXPTM")
    flat_field: str | None = _card("S_FLAT")
    assign_wcs: str | None = _card("S_WCS")
    program: str | None = _card("PROGRAM")
    observation: str | None = _card("OBSERVTN")
    visit: str | None = _card("VISIT")
    template: str | None = _card("TEMPLATE")
    label: str | None = _card("OBSLABEL")
    folder_label: str | None = _card("OBSFOLDR")
    background_target: bool | None = _card("BKGDTARG")
    prime_parallel: str | None = _card("EXPRIPAR")
    visit_status: str | None = _card("VISITSTA")
    visit_type: str | None = _card("VISITYPE")
    internal_target: bool | None = _card("INTARGET")
    tso_visit: bool | None = _card("TSOVISIT")
    engineering_quality: str | None = _card("ENG_QUAL")
    pointing_quality: str | None = _card("ENGQLPTG")
    pcs_mode: str | None = _card("PCS_MODE")
    guide_star_status: str | None = _card("GSACSTAT")
    data_problem: bool | None = _card("DATAPROB")
    target: str | None = _card("TARGPROP")
    target_name: str | None = _card("TARGNAME")
    target_type: str | None = _card("TARGTYPE")
    target_category: str | None = _card("TARGCAT")
    target_description: str | None = _card("TARGDESC")
    target_ra: float | None = _card("TARG_RA")
    target_dec: float | None = _card("TARG_DEC")
    ra_ref: float | None = _card("RA_REF")
    dec_ref: float | None = _card("DEC_REF")
    ra_v1: float | None = _card("RA_V1")
    dec_v1: float | None = _card("DEC_V1")
    x_offset: float | None = _card("XOFFSET")
    y_offset: float | None = _card("YOFFSET")
    pattern: str | None = _card("PATTTYPE")
    n_dithers: int | None = _card("NUMDTHPT")
    date: str | None = _card("DATE-OBS")
    time: str | None = _card("TIME-OBS")
    expstart: float | None = _card("EXPSTART")
    expmid: float | None = _card("EXPMID")
    expend: float | None = _card("EXPEND")

    @property
    def start_mjd(self) -> float | None:
        """EXPSTART, else DATE-OBS and TIME-OBS, else EXPMID [MJD, UTC]; None without these."""
        if self.expstart is not None or self.date is None:
            start = self.expmid if self.expstart is None else self.expstart
            if start is not None and not _FIRST_MJD <= start <= _LAST_MJD:
                raise InputError(
                    f"expected EXPSTART (or EXPMID) in {self.path} as MJD from {_FIRST_MJD:g} to "
                    f"{_LAST_MJD:g}, found {start:g}; correct the header or leave the file out"
                )
            return start
        try:
            return float(Time(f"{self.date}T{self.time or '00:00:00'}", scale="utc").mjd)
        except ValueError as error:
            raise InputError(
                f"expected DATE-OBS and TIME-OBS as YYYY-MM-DD and hh:mm:ss in {self.path}, found "
                f"{self.date!r} and {self.time!r}; correct them"
            ) from error


# Card of each field of an Observation.
CARDS: dict[str, str] = {
    f.name: f.metadata["keyword"] for f in fields(Observation) if "keyword" in f.metadata
}
_TYPES = {f.name: str(f.type) for f in fields(Observation)}


def list_fits(paths: Iterable[str | Path]) -> tuple[Path, ...]:
    """List FITS files: those named, and all beneath the folders named.

    Parameters
    ----------
    paths : iterable of str or Path
        Files (taken whatever their ending) and folders (searched for .fits and .fits.gz
        that are not hidden, nor in a hidden folder).

    Returns
    -------
    tuple of Path
        Each file once, though it be named twice or reached by a link; sorted.

    Raises
    ------
    InputError
        A path does not exist, or a folder holds no FITS file.
    """
    return _list_files(paths, "FITS files", _is_fits)


def list_exposures(paths: Iterable[str | Path]) -> tuple[Path, ...]:
    """List exposures of JWST and Roman; as `list_fits`, and ASDF files of Roman beneath folders."""
    from ..roman import is_roman_file

    return _list_files(
        paths,
        "FITS files, or ASDF files of Roman,",
        lambda path: _is_fits(path) or (path.suffix == ".asdf" and is_roman_file(path)),
    )


def _is_fits(path: Path) -> bool:
    return path.name.lower().endswith((".fits", ".fits.gz"))


def _list_files(
    paths: Iterable[str | Path], what: str, is_one: Callable[[Path], bool]
) -> tuple[Path, ...]:
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [
                p
                for p in path.rglob("*")
                if p.is_file() and not any(part[0] == "." for part in p.relative_to(path).parts)
            ]
            inside = [p for p in inside if is_one(p)]
            if not inside:
                raise InputError(
                    f"expected {what} beneath {path}, found none; give the folder of the exposures"
                )
        elif path.exists():
            inside = [path]
        else:
            raise InputError(
                f"expected a file of exposures or a folder, found no {path}; check the path"
            )
        for one in sorted(inside):
            if found.setdefault(one.resolve(), one) != one:
                log.info("%s is given twice: it is used once", one)
    return tuple(sorted(found.values()))


def scan_headers(
    paths: Sequence[str | Path], *, progress: Callable[[int, int], None] | None = None
) -> tuple[Observation, ...]:
    """Read the headers of exposures.

    Parameters
    ----------
    paths : sequence of str or Path
        FITS files of JWST, of any stage, perhaps compressed with gzip; ASDF files of Roman.
    progress : callable or None
        Called as ``progress(done, total)`` after each file.

    Returns
    -------
    tuple of Observation
        In the order of `paths`.

    Raises
    ------
    InputError
        A file is neither FITS nor ASDF, cannot be read, is of another telescope, or holds text
        where a number belongs; the message names it.

    Notes
    -----
    A card is taken from the primary header or, where it is absent there, from that of the first
    extension, which holds the pointing. Both are read without the pixels.
    """
    found: list[Observation] = []
    for path in paths:
        found.append(_scan(Path(path)))
        if progress is not None:
            progress(len(found), len(paths))
    return tuple(found)


def _scan(path: Path) -> Observation:
    if is_asdf(path):
        from .scan_roman import scan_roman

        return scan_roman(path)
    try:
        headers = _read_headers(path)
        cards = {
            name: next((header[card] for header in headers if card in header), None)
            for name, card in CARDS.items()
        }
    except (OSError, ValueError, TypeError, KeyError, EOFError, fits.VerifyError) as error:
        raise InputError(
            f"expected a FITS file of JWST, found {path}: {error}; check the path and the download"
        ) from error
    if str(cards["telescope"]).strip().upper() != "JWST":
        raise InputError(
            f"expected TELESCOP = JWST in {path}, found {cards['telescope']!r}; leave the file out"
        )
    values = {name: convert_card(path, name, value) for name, value in cards.items()}
    if (values["program"] or "").isdecimal():
        values["program"] = values["program"].zfill(5)
    exposure_id, stage = _split_name(path)
    if not _is_product(stage):
        stage = _guess_stage(headers) or stage
    return Observation(path=path, stage=stage, exposure_id=exposure_id, **values)


def _read_headers(path: Path) -> list[fits.Header]:
    """Read the headers of the primary HDU and of the first extension, where there is one."""
    # astropy leaves a file open that it cannot make sense of.
    with path.open("rb") as stream, warnings.catch_warnings():
        # A file that is cut short still has its headers; the step that reads pixels objects.
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(stream) as hdus:
            headers = [hdus[0].header]
            with contextlib.suppress(IndexError):
                headers.append(hdus[1].header)
    return headers


def convert_card(where: Path | str, name: str, value: Any) -> Any:
    """Turn the value of a card into the type of its field; None where it holds nothing."""
    if value is None or isinstance(value, fits.card.Undefined):
        return None
    text = str(value).strip()
    if text.upper() in _EMPTY:
        return None
    kind = _TYPES[name]
    try:
        if kind.startswith("str"):
            return text
        if kind.startswith("bool"):
            if text.upper() not in (*_TRUE, *_FALSE):
                raise ValueError(text)
            return text.upper() in _TRUE
        number = float(text)
        if not math.isfinite(number) or (kind.startswith("int") and number != int(number)):
            raise ValueError(text)
        return int(number) if kind.startswith("int") else number
    except ValueError as error:
        what = kind.removesuffix(" | None").replace("bool", "T or F").replace("int", "whole number")
        raise InputError(
            f"expected {CARDS[name]} as {what.replace('float', 'number')} in {where}, found "
            f"{text!r}; correct it or leave the file out"
        ) from error


def _is_product(stage: str) -> bool:
    from jwst.lib.suffix import KNOW_SUFFIXES

    return stage in KNOW_SUFFIXES


def _guess_stage(headers: list[fits.Header]) -> str:
    """Tell the product from the unit and the dimensions of SCI; "" where they do not say."""
    if len(headers) < 2 or headers[1].get("EXTNAME") != "SCI":
        return ""
    unit = str(headers[1].get("BUNIT", headers[0].get("BUNIT", "")))
    return _GUESSES.get((unit.replace(" ", "").lower(), headers[1].get("NAXIS", 0)), "")


def _split_name(path: Path) -> tuple[str, str]:
    """Split a file name into what identifies the exposure and the stage of the product."""
    from jwst.lib.suffix import remove_suffix

    stem = re.sub(r"\.fits(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    match = _ARCHIVED.match(stem.lower())
    if match:
        return match[1], match[2] or ""
    root, separator = remove_suffix(stem)
    return str(path.parent / root), stem[len(root) + len(separator or "") :] if separator else ""


def read_rows(rows: Iterable[Mapping[str, Any]], where: Path) -> tuple[Observation, ...]:
    """Read observations from rows of a table, such as the archive's answer to a query.

    Parameters
    ----------
    rows : iterable of mapping
        Columns named as the cards, whatever their case (``date_obs`` is DATE-OBS); ``filename``,
        or ``fileSetName``, must be there, others may be absent or empty.
    where : Path
        The table, for messages; the files are looked for beside it.

    Returns
    -------
    tuple of Observation
        In the order of the rows.

    Raises
    ------
    InputError
        A row names no file, is of another telescope, or holds text where a number belongs.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        cells = {str(key).upper().replace("_", "-"): value for key, value in row.items()}
        cards = {name: cells.get(card.replace("_", "-")) for name, card in CARDS.items()}
        row_of = f"row {number} of {where}"
        name = convert_card(row_of, "filename", cards["filename"] or cells.get("FILESETNAME"))
        if name is None:
            raise InputError(
                f"expected a column filename in {where}, found no name in row {number}; add it"
            )
        path = where.with_name(Path(name).name)
        values = {key: convert_card(row_of, key, value) for key, value in cards.items()}
        if (values["telescope"] or "JWST").upper() != "JWST":
            raise InputError(
                f"expected files of JWST in {where}, found {values['telescope']!r} in row "
                f"{number}; leave it out"
            )
        values["telescope"], values["filename"] = "JWST", path.name
        if (values["program"] or "").isdecimal():
            values["program"] = values["program"].zfill(5)
        exposure_id, stage = _split_name(path)
        found.append(Observation(path=path, stage=stage, exposure_id=exposure_id, **values))
    return tuple(found)
