"""Candidates for blank sky: exposures without a source, by header and by pixels, ranked."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import bottleneck as bn
import numpy as np
from astropy.table import Table

from ..detectors import get_detector
from ..errors import InputError, TvBadPixError
from ..refmodels import dq_value
from ..robust import find_settled
from ..sources import Scan, scan_exposures
from ..traces import find_trace, measure_coverage, select_field
from .associations import Association, Member, make_name
from .classify import Role, classify
from .mast import MastQuery, build_queries
from .modes import Mode, find_mode, get_mode
from .scan import Observation, list_fits, read_rows, scan_headers

__all__ = [
    "ACCEPTED",
    "Candidate",
    "Source",
    "associate_candidates",
    "build_find_query",
    "list_observations",
    "rank_candidates",
    "tabulate",
]

log = logging.getLogger(__name__)

# Exposures of at least this score are candidates.
ACCEPTED = 0.3
# Scores of exposures without a source, where their pixels were looked at, and where not.
_SCORES = {
    "blank": (1.0, 0.8),
    "background": (1.0, 0.8),
    "failed": (0.9, 0.6),
    "science": (0.7, 0.0),
}
# Factor of the score where a source is seen; its light covers part of the pixels besides.
_WITH_SOURCE = {"blank": 0.5, "background": 0.5, "failed": 0.5, "science": 0.2}
# An acquisition without a star, and doubts about the pointing, speak for a failed pointing.
_ACQUISITION, _DOUBT = 0.5, 0.1
_POINTING = ("PCS_MODE", "ENGQLPTG", "ENG_QUAL", "GSACSTAT")
_DARK = 0.8
# The stages whose pixels can be looked at, the best first.
_STAGES = ("rate", "rateints", "cal", "calints")
# Dark exposures by detector family.
_DARKS = {
    "mrs": ("MIR_DARKMRS", "MIR_DARKALL"),
    "MIRI": ("MIR_DARKIMG", "MIR_DARKALL"),
    "NIRSPEC": ("NRS_DARK",),
    "NIRCAM": ("NRC_DARK",),
    "NIRISS": ("NIS_DARK",),
    "FGS": ("FGS_DARK",),
}
# Integral-field units, and half the width of their slices [pixel].
_IFUS, _IFU_ACROSS = ("MIR_MRS", "NRS_IFU"), 11
# A star of an acquisition image stands this many sigma above its surroundings.
_STAR_SNR = 10.0
# An image of which sources cover more is worth nothing, see `badpix.usability`.
_MOST_COVERED = 0.25

Kind = Literal["blank", "failed", "dark", ""]


@dataclass(frozen=True, slots=True)
class Source:
    """What the pixels of an exposure say of sources.

    Attributes
    ----------
    seen : bool or None
        Whether there is a source; None = the pixels were not looked at.
    covered : float
        Share of the pixels (of the slit, across it) that its light covers.
    text : str
        The same in words.
    """

    seen: bool | None
    covered: float
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """One exposure, ranked.

    Attributes
    ----------
    observation : Observation
        The product of it that was looked at.
    role : Role
        What its header says.
    kind : {'blank', 'failed', 'dark', ''}
        What it is evidence as; empty = no candidate.
    score : float
        0 to 1.
    reason : str
        Why, in words.
    source : Source
        What its pixels say.
    """

    observation: Observation
    role: Role
    kind: Kind
    score: float
    reason: str
    source: Source


def build_find_query(
    mode: str, *, after: str | None, before: str | None, public_at: str
) -> MastQuery:
    """Build the request for all public rates of a mode, darks of its detectors included.

    Parameters
    ----------
    mode : str
        LRS, imaging, MRS, NIRSpec, or a name of `get_mode`.
    after, before : str or None
        ISO dates between which the exposures began.
    public_at : str
        ISO date at which they must be public.

    Returns
    -------
    MastQuery

    Raises
    ------
    InputError, DateError
        The mode or a date is none.
    """
    modes = get_mode(mode)
    types = [exp_type for one in modes for exp_type in one.exp_types] + list(_list_darks(modes))
    whole = replace(modes[0], exp_types=tuple(dict.fromkeys(types)))
    (query,) = build_queries(
        (whole,), stages=("rate", "rateints"), after=after, before=before, public_at=public_at
    )
    return query


def _list_darks(modes: Sequence[Mode]) -> tuple[str, ...]:
    """List the EXP_TYPE of darks of the detectors of some modes."""
    name = "mrs" if all(mode.name == "mrs" for mode in modes) else modes[0].instrument
    return _DARKS.get(name, ())


def list_observations(
    paths: Iterable[str | Path], *, progress: Callable[[int, int], None] | None = None
) -> tuple[Observation, ...]:
    """Read the headers of exposures: files, folders, and tables of headers.

    Parameters
    ----------
    paths : iterable of str or Path
        FITS files, folders, and tables (.csv, .ecsv, .json) whose columns are named as the
        cards, such as the archive's answer to a query.
    progress : callable or None
        Called as ``progress(done, total)`` after each FITS file.

    Returns
    -------
    tuple of Observation
        One per file.

    Raises
    ------
    InputError
        A file cannot be read, is none of these, or of another telescope.
    """
    found: list[Observation] = []
    files = []
    for path in map(Path, paths):
        if path.suffix.lower() in (".csv", ".ecsv", ".json"):
            found += read_rows(_read_table(path), path)
        else:
            files.append(path)
    return (*found, *scan_headers(list_fits(files), progress=progress))


def _read_table(path: Path) -> list[Mapping[str, Any]]:
    """Read the rows of a table of headers; empty cells are None."""
    advice = "give a table whose columns are named as the cards, one row per file"
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = content.get("data") if isinstance(content, dict) else content
            if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
                raise InputError(f"expected rows in {path}, found none; {advice}")
            return rows
        kind = "ascii.ecsv" if path.suffix.lower() == ".ecsv" else "ascii.csv"
        more = {} if kind == "ascii.ecsv" else {"comment": "#"}
        table = Table.read(path, format=kind, **more)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"expected a table of headers, found {path}: {error}; {advice}") from error
    return [
        {name: None if np.ma.is_masked(row[name]) else row[name] for name in table.colnames}
        for row in table
    ]


def rank_candidates(
    observations: Iterable[Observation],
    mode: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Candidate, ...]:
    """Rank exposures by how good they are as blank sky.

    Parameters
    ----------
    observations : iterable of Observation
        Of any stages; of each exposure one product is looked at.
    mode : str
        As in `build_find_query`; exposures of other modes are no candidates.
    progress : callable or None
        Called as ``progress(done, total)`` after each exposure.

    Returns
    -------
    tuple of Candidate
        The best first, then the deeper; those that are none last. Acquisitions and reference
        files are no exposures here.

    Raises
    ------
    InputError
        The mode is none.

    Notes
    -----
    The score of an exposure without a source is 1 where the header says blank sky or background,
    0.9 where it says that the visit failed, 0.7 where it says nothing, and 0.8 for darks. Where
    the pixels are not at hand it is 0.8, 0.6 and 0; with a source half of it, times the share of
    pixels that the source leaves free; and 0.2 times that where the header says science. Images
    always hold stars: their score falls with the share of pixels that they cover. An
    acquisition of the same visit that shows no star, and doubts about the pointing (PCS_MODE,
    ENGQLPTG, ENG_QUAL, GSACSTAT), add to it. Absent keywords neither add nor take.
    """
    modes = get_mode(mode)
    groups: dict[str, list[Observation]] = {}
    for observation in observations:
        groups.setdefault(observation.exposure_id, []).append(observation)
    chosen = [min(group, key=_prefer) for group in groups.values()]
    missed = _find_missed_acquisitions(chosen)
    ranked = []
    exposures = [(one, classify(one)) for one in chosen if not one.reftype]
    exposures = [(one, role) for one, role in exposures if role.name != "acquisition"]
    for observation, role in exposures:
        ranked.append(_judge(observation, role, modes, _get_visit(observation) in missed))
        if progress is not None:
            progress(len(ranked), len(exposures))
    ranked.sort(key=lambda c: (-c.score, -(c.observation.exposure_s or 0), c.observation.path.name))
    return tuple(ranked)


def _prefer(observation: Observation) -> tuple[int, str]:
    stage = observation.stage
    return (_STAGES.index(stage) if stage in _STAGES else len(_STAGES), str(observation.path))


def _get_visit(observation: Observation) -> tuple[str | None, ...]:
    return observation.program, observation.observation, observation.visit


def _find_missed_acquisitions(observations: Iterable[Observation]) -> set[tuple[str | None, ...]]:
    """Find the visits whose acquisition images show no star."""
    shown: dict[tuple[str | None, ...], bool] = {}
    for one in observations:
        if classify(one).name == "acquisition" and one.program and one.path.is_file():
            try:
                (scan,) = scan_exposures([one.path])
                image = _read_image(scan)
            except TvBadPixError as error:
                log.warning("the acquisition %s is left aside: %s", one.path.name, error)
                continue
            shown[_get_visit(one)] = shown.get(_get_visit(one), False) or _shows_star(image)
    return {visit for visit, star in shown.items() if not star}


def _shows_star(image: np.ndarray) -> bool:
    """Tell whether an image shows a star: several pixels well above the others."""
    middle = float(bn.nanmedian(image))
    sigma = 1.4826 * float(bn.nanmedian(np.abs(image - middle)))
    bright = np.nan_to_num(image - middle) > _STAR_SNR * max(sigma, 1e-30)
    # A star is wider than a pixel: a bad pixel has no bright neighbour.
    beside = bright[:-1, :-1] & bright[1:, :-1] & bright[:-1, 1:]
    return bool(beside.any())


def _judge(observation: Observation, role: Role, modes: Sequence[Mode], missed: bool) -> Candidate:
    """Score one exposure."""
    exp_type = (observation.exp_type or "").upper()
    wanted = {name for one in modes for name in one.exp_types}
    nothing = Source(None, 0.0, "pixels not looked at")
    if role.name == "dark":
        if exp_type in _list_darks(modes):
            text = f"{role.reason}: dark current alone, no evidence on response"
            return Candidate(observation, role, "dark", _DARK, text, nothing)
        return Candidate(observation, role, "", 0.0, f"{role.reason}: another detector", nothing)
    if exp_type and exp_type not in wanted:
        text = "of another mode" if find_mode(exp_type) else role.reason
        return Candidate(observation, role, "", 0.0, f"{text} ({exp_type})", nothing)
    said = role.name if role.name in _SCORES else "science"
    try:
        source = _measure(observation)
    except TvBadPixError as error:
        return Candidate(observation, role, "", 0.0, f"cannot be used: {error}", nothing)
    looked, unlooked = _SCORES[said]
    score = unlooked if source.seen is None else looked
    if source.seen:
        score = _WITH_SOURCE[said] * max(0.0, 1 - source.covered)
    elif source.covered:
        score *= 1 - source.covered / _MOST_COVERED
    doubts = role.doubts
    if missed:
        doubts = (*doubts, "the acquisition of its visit shows no star")
        said = "failed" if said == "science" else said
    if not source.seen:
        uncertain = sum(doubt.startswith(_POINTING) for doubt in role.doubts)
        extra = _ACQUISITION * missed + _DOUBT * uncertain
        score = min(1.0, score + (extra if said in ("science", "failed") else 0.0))
    kind: Kind = "failed" if said == "failed" else "blank"
    kind = kind if score >= ACCEPTED else ""
    reason = "; ".join((role.reason, source.text, *doubts))
    return Candidate(observation, role, kind, round(score, 3), reason, source)


def _measure(observation: Observation) -> Source:
    """Look for sources in the pixels of an exposure, where they are at hand."""
    if not observation.path.is_file():
        return Source(None, 0.0, "pixels not looked at: no file")
    if observation.stage not in (*_STAGES, ""):
        return Source(None, 0.0, f"pixels not looked at: give the _rate, not _{observation.stage}")
    (scan,) = scan_exposures([observation.path])
    image = _read_image(scan)
    detector = get_detector(observation.detector)
    field = select_field(
        (observation.exp_type or "").upper(),
        _find_corner(scan),
        image.shape,
        ~detector.reference_pixels(),
    )
    if field.shape != image.shape:
        raise InputError(
            f"expected an image within {detector.name} of {detector.shape} (ny, nx) in "
            f"{observation.path}, found {image.shape} at SUBSTRT1/2 of "
            f"{', '.join(str(scan.keywords[card]) for card in ('SUBSTRT1', 'SUBSTRT2'))}; correct "
            "the header"
        )
    image = np.where(field, image, np.nan)
    if not np.isfinite(image).any():
        raise InputError(
            f"expected pixels with values in {observation.path}, found none; leave it out"
        )
    axis = _find_axis(observation, scan)
    if axis is None:
        covered = measure_coverage(image)
        return Source(covered > _MOST_COVERED, covered, f"sources cover {covered:.1%} of it")
    across = _IFU_ACROSS if (observation.exp_type or "").upper() in _IFUS else None
    trace = find_trace(image, axis, across=across)
    if not trace.seen:
        return Source(False, 0.0, f"no trace is seen ({trace.snr:.1f} sigma)")
    text = f"a trace of {trace.snr:.0f} sigma at {trace.position:.0f} across the dispersion"
    return Source(True, trace.covered, f"{text}, which covers {trace.covered:.0%}")


def _read_image(scan: Scan) -> np.ndarray:
    """Read the rates of an exposure, the median of its integrations; NaN where DO_NOT_USE."""
    data, dq = scan.source.read(slice(None))
    if data.ndim not in (2, 3):
        raise InputError(
            f"expected a 2-D or 3-D image in {scan.name}, found {data.shape}; run "
            "calwebb_detector1 first"
        )
    bad = (dq & np.uint32(dq_value("DO_NOT_USE"))) != 0
    image = np.where(bad, np.nan, data)
    if image.ndim == 2:
        return np.asarray(image)
    level = bn.nanmedian(image.reshape(len(image), -1), axis=1)
    scatter = bn.nanmedian(np.abs(image - level[:, None, None]).reshape(len(image), -1), axis=1)
    settled = list(find_settled(level, 1.4826 * scatter))
    return np.asarray(bn.nanmedian(image[settled], axis=0) if settled else image[0])


def _find_axis(observation: Observation, scan: Scan) -> int | None:
    """Find DISPAXIS, or what the mode has; None = image, as where neither is known."""
    if scan.keywords["DISPAXIS"] in (1, 2):
        return int(scan.keywords["DISPAXIS"])
    mode = find_mode(observation.exp_type)
    spectral = mode.kind == "spectrum" if mode else observation.filter == "P750L"
    if not spectral:
        return None
    return 2 if get_detector(observation.detector).instrument == "MIRI" else 1


def _find_corner(scan: Scan) -> tuple[int, int]:
    """Find the 0-based full-frame (y, x) of the first pixel."""
    x, y = (scan.keywords[card] for card in ("SUBSTRT1", "SUBSTRT2"))
    if not isinstance(x, int) or not isinstance(y, int):
        known = get_detector(scan.keywords["DETECTOR"]).subarrays.get(scan.keywords["SUBARRAY"])
        x, y = known[:2] if known else (1, 1)
    return y - 1, x - 1


def tabulate(candidates: Iterable[Candidate]) -> Table:
    """Tabulate exposures in their order: one row per exposure."""
    rows = [
        {
            "file": c.observation.path.name,
            "kind": c.kind,
            "score": c.score,
            "role": c.role.name,
            "exp_type": c.observation.exp_type or "",
            "detector": c.observation.detector or "",
            "subarray": c.observation.subarray or "",
            "date": c.observation.date or "",
            "exposure_s": np.nan if c.observation.exposure_s is None else c.observation.exposure_s,
            "target": c.observation.target or c.observation.target_name or "",
            "covered": c.source.covered if c.source.seen is not None else np.nan,
            "reason": c.reason,
        }
        for c in candidates
    ]
    names = (
        *("file", "kind", "score", "role", "exp_type", "detector", "subarray", "date"),
        *("exposure_s", "target", "covered", "reason"),
    )
    real = ("score", "exposure_s", "covered")
    table = Table(
        {name: [row[name] for row in rows] for name in names},
        dtype=[float if name in real else str for name in names],
    )
    table["exposure_s"].unit, table["exposure_s"].format = "s", ".1f"
    table["covered"].format = ".2f"
    return table


def associate_candidates(
    candidates: Iterable[Candidate], name: str, mode: str
) -> tuple[Association, ...]:
    """Gather the accepted exposures for time_variable_bad_pixel, one association per detector.

    Parameters
    ----------
    candidates : iterable of Candidate
    name : str
        Name of the product; the detector is added where there are several.
    mode : str
        As in `rank_candidates`.

    Returns
    -------
    tuple of Association

    Raises
    ------
    InputError
        No accepted exposure has a file that the step takes.
    """
    found: dict[str, list[Candidate]] = {}
    for one in candidates:
        if one.kind and one.observation.stage in (*_STAGES, "") and one.observation.path.is_file():
            found.setdefault(one.observation.detector or "", []).append(one)
    if not found:
        raise InputError(
            "expected candidates with files (_rate, _rateints, _cal), found none; download them, "
            "or leave --association out"
        )
    associations = []
    for detector, group in sorted(found.items()):
        ordered = sorted(group, key=lambda c: (c.kind == "dark", c.observation.start_mjd or 0))
        programs = {c.observation.program for c in ordered}
        targets = {c.observation.target for c in ordered}
        parts = (name, detector) if len(found) > 1 else (name,)
        associations.append(
            Association(
                name=make_name(parts),
                step="time_variable_bad_pixel",
                program=(programs.pop() or "multi") if len(programs) == 1 else "multi",
                target=(targets.pop() or "multi") if len(targets) == 1 else "multi",
                kind=get_mode(mode)[0].kind,
                stage="|".join(
                    sorted({c.observation.stage for c in ordered if c.observation.stage})
                ),
                ready=True,
                members=tuple(
                    Member(c.observation, c.role, "dark" if c.kind == "dark" else "science")
                    for c in ordered
                ),
            )
        )
    return tuple(associations)
