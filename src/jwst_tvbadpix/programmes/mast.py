"""Queries to the archive by header keyword, and downloads; astroquery is asked for only then.

The service is ``Mast.Jwst.Filtered.<Instrument>``; its fields are listed on
https://mast.stsci.edu/api/v0/_jwst_inst_keywd.html.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import open_hidden_folder, remove_left
from ..dates import to_mjd
from ..errors import DateError, InputError
from .classify import list_acquisitions
from .modes import MODES, SERVICES, Mode

__all__ = [
    "COLUMNS",
    "MastQuery",
    "build_queries",
    "download_files",
    "list_missing",
    "read_mjd",
    "run_query",
]

log = logging.getLogger(__name__)

# What is asked for of each file: fields that every instrument has, by the list named above, ...
COLUMNS = (
    "filename",
    "fileSetName",
    "productLevel",
    "dataURI",
    "fileSize",
    "publicReleaseDate_mjd",
    "isRestricted",
    "telescop",
    "instrume",
    "detector",
    "exp_type",
    "expripar",
    "subarray",
    "apername",
    "pps_aper",
    "readpatt",
    "ngroups",
    "nints",
    "exsegnum",
    "effexptm",
    "program",
    "observtn",
    "visit",
    "template",
    "obslabel",
    "bkgdtarg",
    "visitsta",
    "visitype",
    "tsovisit",
    "intarget",
    "eng_qual",
    "engqlptg",
    "pcs_mode",
    "dataprob",
    "targprop",
    "targname",
    "targtype",
    "targ_ra",
    "targ_dec",
    "s_region",
    "xoffset",
    "yoffset",
    "date_obs",
    "expstart",
    "expmid",
    "expend",
)
# ... and those of single instruments.
_OWN_COLUMNS = {
    "Miri": ("filter", "channel", "band", "coronmsk"),
    "Nircam": ("filter", "pupil", "module", "channel"),
    "Niriss": ("filter", "pupil"),
    "Nirspec": ("filter", "grating", "fxd_slit"),
    "Fgs": (),
}
# MJD before and after all exposures.
_ALL_TIME = (50000.0, 99999.0)
# productLevel of each stage.
_LEVELS = {
    "uncal": "1b",
    "rate": "2a",
    "rateints": "2a",
    "cal": "2b",
    "calints": "2b",
    "x1d": "2b",
    "x1dints": "2b",
}


@dataclass(frozen=True, slots=True)
class MastQuery:
    """One request to the archive.

    Attributes
    ----------
    service : str
        ``Mast.Jwst.Filtered.Miri`` or the like.
    filters : tuple of (str, tuple)
        Field and its values; a value may be a mapping with ``min`` and ``max``.
    stages : tuple of str
        Endings of the file names that are wanted ("rate", ...).
    """

    service: str
    filters: tuple[tuple[str, tuple[Any, ...]], ...]
    stages: tuple[str, ...]

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of ``astroquery.mast.Mast.service_request(service, params)``."""
        return {
            "columns": ",".join((*COLUMNS, *_OWN_COLUMNS[self.service.rpartition(".")[2]])),
            "filters": [{"paramName": name, "values": list(v)} for name, v in self.filters],
        }

    def to_json(self) -> str:
        """Write the request as the JSON that the archive's ``invoke`` address takes."""
        request = {"service": self.service, "params": self.params, "format": "json"}
        return json.dumps(request, indent=2)


def build_queries(
    modes: Iterable[Mode] = MODES,
    *,
    program: str | None = None,
    stages: Sequence[str] = ("rate",),
    after: str | None = None,
    before: str | None = None,
    public_at: str | None = None,
) -> tuple[MastQuery, ...]:
    """Build the requests for all files of some modes, one per instrument.

    Parameters
    ----------
    modes : iterable of Mode
        What to ask for; all by default, see `get_mode`.
    program : str or None
        Programme, such as "1539", whose acquisitions by the same instrument are asked for too:
        recipes take ND squares from them, and `find` tells by them which visits missed their
        target. None = all.
    stages : sequence of str
        Products: "uncal", "rate", "rateints", "cal", "calints", "x1d", "x1dints".
    after, before : str or None
        ISO dates between which the exposures began.
    public_at : str or None
        ISO date at which the files must be public; None = public or not.

    Returns
    -------
    tuple of MastQuery

    Raises
    ------
    InputError
        A stage or the programme is not one.
    DateError
        A date cannot be read.
    """
    unknown = sorted(set(stages) - set(_LEVELS))
    if unknown or not stages:
        raise InputError(
            f"expected products out of {', '.join(_LEVELS)}, found {', '.join(unknown) or 'none'}; "
            "correct the list"
        )
    filters: list[tuple[str, tuple[Any, ...]]] = [
        ("productLevel", tuple(sorted({_LEVELS[stage] for stage in stages})))
    ]
    if program is not None:
        if not program.isdecimal():
            raise InputError(
                f"expected a programme such as 1539, found {program!r}; give its number"
            )
        filters.append(("program", (str(int(program)),)))
    if after or before:
        first, last = _ALL_TIME
        span = {
            "min": read_mjd(after) if after else first,
            "max": read_mjd(before) if before else last,
        }
        filters.append(("expstart", (span,)))
    if public_at:
        span = {"min": _ALL_TIME[0], "max": read_mjd(public_at)}
        filters.append(("publicReleaseDate_mjd", (span,)))
    by_instrument: dict[str, list[str]] = {}
    for mode in modes:
        by_instrument.setdefault(mode.instrument, []).extend(mode.exp_types)
    if program is not None:
        for exp_types in by_instrument.values():
            exp_types += list_acquisitions(exp_types[0])
    return tuple(
        MastQuery(
            service=f"Mast.Jwst.Filtered.{SERVICES[instrument]}",
            filters=(("exp_type", tuple(exp_types)), *filters),
            stages=tuple(stages),
        )
        for instrument, exp_types in by_instrument.items()
    )


def run_query(query: MastQuery) -> list[dict[str, Any]]:
    """Ask the archive.

    Parameters
    ----------
    query : MastQuery
        What to ask.

    Returns
    -------
    list of dict
        One per file of the stages asked for, by the names of `COLUMNS`; None = no value.

    Raises
    ------
    InputError
        astroquery is not installed, or the archive cannot be reached.
    """
    mast, _ = _import_astroquery()
    with _Asking("query"):
        table = mast.service_request(query.service, query.params)
    rows = [
        {name: None if np.ma.is_masked(row[name]) else row[name] for name in table.colnames}
        for row in table
    ]
    endings = tuple(f"_{stage}.fits" for stage in query.stages)
    rows = [row for row in rows if str(row.get("filename")).endswith(endings)]
    return sorted(rows, key=lambda row: str(row["filename"]))


def list_missing(rows: Iterable[Mapping[str, Any]], folder: Path) -> list[Path]:
    """List what `download_files` would write: what is not there with the right size already."""
    paths = {folder / Path(str(row["filename"])).name: row for row in rows}
    return [path for path, row in paths.items() if not _is_complete(path, row)]


def _is_complete(path: Path, row: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == row.get("fileSize")


def download_files(
    rows: Iterable[Mapping[str, Any]],
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Download files; those that are there with the right size already are kept.

    Parameters
    ----------
    rows : iterable of mapping
        As `run_query` returns them.
    folder : Path
        Where to write; made when absent.
    progress : callable or None
        Called as ``progress(done, total)`` after each file.

    Returns
    -------
    paths : tuple of Path
        The files, in the order of `rows`.
    refused : tuple of str
        Name of each file that the archive did not give, and why (most often: not yet public).

    Raises
    ------
    InputError
        astroquery is not installed, or the archive cannot be reached.
    """
    _, observations = _import_astroquery()
    folder.mkdir(parents=True, exist_ok=True)
    remove_left(folder)  # also where nothing is missing
    jobs = list(rows)
    paths: list[Path] = []
    refused: list[str] = []
    for done, row in enumerate(jobs, start=1):
        path = folder / Path(str(row["filename"])).name
        problem = ""
        if not _is_complete(path, row):
            uri = str(row.get("dataURI") or f"mast:JWST/product/{path.name}")
            problem = _download(observations, uri, path, row.get("fileSize"))
        if problem:
            refused.append(f"{path.name}: {problem}")
        else:
            paths.append(path)
        if progress is not None:
            progress(done, len(jobs))
    return tuple(paths), tuple(refused)


def _download(observations: Any, uri: str, path: Path, size: int | None) -> str:
    """Download one file into a hidden folder and move it; what went wrong, or ""."""
    with open_hidden_folder(path.parent) as folder:
        part = folder / path.name
        with _Asking("download"):
            status, message, _ = observations.download_file(
                uri, local_path=str(part), cache=False, verbose=False
            )
        if str(status) != "COMPLETE" or not part.is_file():
            return str(message or status)
        if size is not None and 0 < size != part.stat().st_size:
            return f"expected {size} bytes, found {part.stat().st_size}; try again"
        part.replace(path)
        return ""


class _Asking:
    """Turns whatever goes wrong on the network into an InputError."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        # requests raises children of OSError, astroquery of Exception.
        if isinstance(error, Exception):
            raise InputError(
                f"expected the archive (mast.stsci.edu) to answer a {self.what}, found "
                f"{type(error).__name__}: {error}; check the network and try again"
            ) from error


def _import_astroquery() -> tuple[Any, Any]:
    try:
        from astroquery.mast import Mast, Observations
    except ImportError as error:
        raise InputError(
            f"expected astroquery, found: {error}; install it with pip install "
            "'jwst-tvbadpix[mast]'"
        ) from error
    return Mast, Observations


def read_mjd(date: str) -> float:
    """Read an ISO date [MJD, UTC]; DateError where it is none."""
    try:
        return to_mjd(date)
    except ValueError as error:
        raise DateError(
            f"expected a date such as 2024-07-01, found {date!r}; correct it"
        ) from error
