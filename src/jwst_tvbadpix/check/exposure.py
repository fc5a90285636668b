"""The defects of a history within the aperture of one exposure, and how large they show."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table, vstack
from astropy.time import Time
from stdatamodels.dqflags import dqflags_to_mnemonics
from stdatamodels.jwst.datamodels.dqflags import pixel

from ..badpix import select_active
from ..detectors import get_detector
from ..errors import DateError, DetectorError
from ..refmodels import BadPixHistoryModel, compose_dq, dq_value, read_mask_dq
from .apertures import Aperture, choose_aperture
from .products import Plane, Product, read_product
from .spikes import Spikes, measure_spikes

__all__ = ["NOTABLE_PERCENT", "ExposureCheck", "check_exposure"]

log = logging.getLogger(__name__)

# Defects of at least this size [%] are counted as notable: a usual depth of spectral features.
NOTABLE_PERCENT = 1.0
# Where no size is expected, for want of an amplitude or a conversion, what is seen counts from so
# many times the noise on.
_SEEN_SIGMA = 5.0

_DESCRIPTIONS = {
    "y": "row, 0-based, full frame",
    "x": "column, 0-based, full frame",
    "y_sub": "row, 0-based, in the image of the exposure (subarray)",
    "x_sub": "column, 0-based, in the image of the exposure (subarray)",
    "y_ds9": "row, 1-based, in the SCI extension (cut-out of a slit)",
    "x_ds9": "column, 1-based, in the SCI extension (cut-out of a slit)",
    "slit": "slit, where the product is cut out along slits",
    "wavelength": "wavelength; NaN without a WCS",
    "class": "class of the defect, pixel flags of the pipeline",
    "state": "bad, pending (only the last look of the history says so), telegraph (bad now and "
    "then, also at the time), telegraph-off (good at the time), base (in the base mask alone)",
    "log_odds": "natural log of the odds of the interval; NaN for the base mask",
    "since": "date of the onset; < = before the first exposure of the history",
    "until": "date of the recovery; empty = still bad at the last exposure",
    "amplitude": "excess over the neighbours in the history",
    "amplitude_err": "its standard error",
    "spike_percent": "expected spike where the pixel is not masked; negative = deficit",
    "spike_err": "its standard error",
    "seen_percent": "what the pixel shows over its neighbours in this exposure",
    "seen_err": "noise of the pixels in the aperture",
    "gap_percent": "what is lost where the pixel is masked and not replaced",
    "flagged": "DO_NOT_USE in most integrations of the product: the mask, or the ramp",
    "dq": "flags of the product",
    "mask": "flags of the mask; empty without one",
}
_UNITS = {
    "wavelength": "um",
    "amplitude": "DN / s",
    "amplitude_err": "DN / s",
    **dict.fromkeys(("spike_percent", "spike_err", "seen_percent", "seen_err", "gap_percent"), "%"),
}


@dataclass(frozen=True, slots=True)
class ExposureCheck:
    """The defects within the aperture of one exposure.

    Attributes
    ----------
    table : Table
        One row per defect, the largest first; the columns describe themselves.
    apertures : tuple of str
        What the aperture is, one line per image.
    notes : tuple of str
        What the user must know: extrapolation, missing WCS, what sizes are relative to.
    """

    table: Table
    apertures: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def notable(self) -> np.ndarray:
        """Mark the rows of at least 1 % that no flag hides: bool (n_rows,)."""
        return self._shows & (np.nan_to_num(np.abs(_take_size(self.table))) >= NOTABLE_PERCENT)

    @property
    def _shows(self) -> np.ndarray:
        """Mark the rows that are bad at the time and that no flag hides."""
        off = np.asarray(self.table["state"]) == "telegraph-off"
        return ~off & ~np.asarray(self.table["flagged"], bool)

    @property
    def verdict(self) -> str:
        """Summary in one line."""
        table = self.table
        open_rows = table[self._shows]
        sizes = _take_size(open_rows)
        largest = ""
        if np.isfinite(sizes).any():
            k = int(np.nanargmax(np.abs(sizes)))
            row = open_rows[k]
            at = f"x {row['x']}, y {row['y']}"
            if np.isfinite(row["wavelength"]):
                at = f"{row['wavelength']:.2f} um"
            largest = f"; the largest is {sizes[k]:+.3g} % at {at}"
        unknown = ""
        if table.meta["n_unseen"]:
            share = table.meta["n_unseen"] / table.meta["n_pixels"]
            unknown = f"; nothing is known of {share:.0%} of the aperture"
        return (
            f"{len(table)} defects in the aperture, {int(self.notable.sum())} of them above "
            f"{NOTABLE_PERCENT:g} % of {table.meta['relative_to']} and not flagged{largest}; "
            f"{int(np.sum(table['flagged']))} had been flagged{unknown}"
        )


def _take_size(table: Table) -> np.ndarray:
    """Take the size of each defect [%]: as expected, else as seen where it stands out; else NaN."""
    expected, seen, noise = (
        np.asarray(table[name], float) for name in ("spike_percent", "seen_percent", "seen_err")
    )
    with np.errstate(invalid="ignore"):
        stands_out = np.abs(seen) > _SEEN_SIGMA * noise
    return np.where(np.isfinite(expected), expected, np.where(stands_out, seen, np.nan))


def check_exposure(
    path: Path,
    history: BadPixHistoryModel,
    *,
    aperture: Sequence[int] | str | None = None,
    image: Path | None = None,
    mask: Path | None = None,
) -> ExposureCheck:
    """List the defects within the aperture of an exposure.

    Parameters
    ----------
    path : Path
        Product of one exposure, see `read_product`.
    history : BadPixHistoryModel
        Of the detector of the exposure.
    aperture : sequence of int or 'all', optional
        See `choose_aperture`.
    image : Path, optional
        2-D product of a spectrum that does not lie beside it.
    mask : Path, optional
        The mask that the exposure was calibrated with, for its bits.

    Returns
    -------
    ExposureCheck
        At its date: the defects that the masks carry, and those that are pending.

    Raises
    ------
    InputError, DetectorError
        A file cannot be read, is of another telescope or detector, or has no pixels; the aperture
        lies outside.
    DateError
        The exposure has no date, or lies before the first date of the history.
    """
    product = read_product(path, image=image)
    own = history.meta.instrument.detector
    if product.record.detector != own:
        raise DetectorError(
            f"expected an exposure of {own}, of which the history is, found {path} of "
            f"{product.record.detector}; give the history of its detector"
        )
    mjd = product.record.start_mjd
    notes = _compare_dates(path, history, mjd, product.record.expstart_mjd)
    bits = _read_mask(product, mask)
    rows = _list_rows(history, mjd)
    notes += _refuse_amplitudes(history, rows)
    tables, apertures, relative_to = [], [], []
    chosen_ones = [choose_aperture(product, plane, aperture) for plane in product.planes]
    for plane, chosen in zip(product.planes, chosen_ones, strict=True):
        apertures.append(f"{plane.slit}: {chosen.text}" if plane.slit else chosen.text)
        notes += [chosen.warning] if chosen.warning else []
        table, sizes = _tabulate(product, plane, rows, chosen, bits)
        if len(table):
            notes.append(_tell_sizes(product, sizes))
            relative_to.append(sizes.relative_to)
        tables.append(table)
    counts = _count_pixels(history, rows, product, chosen_ones)
    notes += _tell_counts(counts)
    if all(plane.wavelength is None for plane in product.planes):
        notes.append(f"{product.path.name} has no WCS: wavelengths are blank")
    table = vstack(tables, metadata_conflicts="silent")
    size = np.nan_to_num(np.abs(_take_size(table)), nan=-1.0)
    table = table[np.lexsort((table["x"], table["y"], -size))]
    table.meta = {
        "exposure": product.given.name,
        "image": product.path.name,
        "date": Time(mjd, format="mjd").isot[:19],
        "r_mask": product.record.r_mask,
        "apertures": apertures,
        **counts,
        "relative_to": " or ".join(dict.fromkeys(relative_to)) or "the continuum",
        "notes": list(dict.fromkeys(notes)),
    }
    return ExposureCheck(table, tuple(apertures), tuple(dict.fromkeys(notes)))


def _compare_dates(
    path: Path, history: BadPixHistoryModel, mjd: float, expstart_mjd: float
) -> list[str]:
    """Say where the exposure lies in the history; refuse what the history says nothing about."""
    if not np.isfinite(mjd):
        raise DateError(
            f"expected EXPSTART, EXPMID or DATE-OBS in {path}, found none; add one of them"
        )
    exposures = history.exposures.instance
    used = np.asarray(exposures["used"], bool)
    first = float(np.min(exposures["expstart_mjd"][used], initial=np.inf))
    last = float(np.max(exposures["expend_mjd"][used], initial=-np.inf))
    begin = float(Time(history.settings.instance["first_useafter"], scale="utc").mjd)
    if mjd < min(begin, first):
        raise DateError(
            f"expected an exposure from {_day(min(begin, first))} on, found {path} of "
            f"{_day(mjd)}; the history says nothing earlier"
        )
    text = "extrapolated: the exposure ({}) lies {:.0f} days {} of the history ({}), whose state "
    text += "is taken"
    if mjd > last:
        return [text.format(_day(mjd), mjd - last, "after the last", _day(last))]
    # DATE-OBS + TIME-OBS of the first exposure itself may lie before its EXPSTART.
    if expstart_mjd < first:
        return [text.format(_day(mjd), first - mjd, "before the first", _day(first))]
    return []


def _day(mjd: float) -> str:
    return str(Time(mjd, format="mjd").isot[:10]) if np.isfinite(mjd) else "no date"


def _read_mask(product: Product, path: Path | None) -> np.ndarray | None:
    """Read the mask given, or the one that R_MASK names where it lies beside the product."""
    if path is None:
        path = product.path.parent / Path(product.record.r_mask.removeprefix("crds://")).name
        if path.suffix not in (".fits", ".asdf") or not path.is_file():
            return None
        log.info("the mask is %s", path)
    dq, own = read_mask_dq(path)
    if own != product.record.detector:
        raise DetectorError(
            f"expected a mask of {product.record.detector}, found {path} of {own}; give that named "
            "in R_MASK"
        )
    return dq


def _refuse_amplitudes(history: BadPixHistoryModel, rows: Table) -> list[str]:
    """Blank amplitudes that are not in DN/s; say so."""
    if not any(text.startswith("Amplitudes are in") for text in history.warnings):
        return []
    for name in ("amplitude", "amplitude_err"):
        rows[name] = np.nan
    return ["the history was made from calibrated spectra: amplitudes are not in DN/s, left out"]


def _count_pixels(
    history: BadPixHistoryModel, rows: Table, product: Product, apertures: Sequence[Aperture]
) -> dict[str, int]:
    """Count the pixels of the apertures: all, those never seen, those masked though good."""
    good, unseen = _mark_good(history, rows), ~_mark_seen(history)
    counts = {"n_pixels": 0, "n_unseen": 0, "n_masked": 0}
    for plane, aperture in zip(product.planes, apertures, strict=True):
        flagged = (plane.dq & np.uint32(dq_value("DO_NOT_USE"))) != 0
        counts["n_pixels"] += int(aperture.inside.sum())
        counts["n_unseen"] += int((aperture.inside & _cut(unseen, plane)).sum())
        counts["n_masked"] += int((aperture.inside & flagged & _cut(good, plane)).sum())
    return counts


def _tell_counts(counts: dict[str, int]) -> list[str]:
    """Say what the numbers of `_count_pixels` mean."""
    notes = []
    if counts["n_unseen"]:
        notes.append(
            f"{counts['n_unseen']} of the {counts['n_pixels']} pixels in the aperture were read "
            "out by no exposure of the history: nothing is known of them"
        )
    if counts["n_masked"]:
        notes.append(
            f"{counts['n_masked']} pixels in the aperture are flagged DO_NOT_USE though the "
            "history shows them good at this date"
        )
    return notes


def _mark_good(history: BadPixHistoryModel, rows: Table) -> np.ndarray:
    """Mark the pixels that the history has rows for, none of which holds now: full frame."""
    every = history.intervals.instance
    good: np.ndarray = np.zeros(history.coverage.shape, bool)
    good[every["y"], every["x"]] = True
    good[rows["y"], rows["x"]] = False
    return good


def _mark_seen(history: BadPixHistoryModel) -> np.ndarray:
    """Mark the pixels that some exposure of the history read out: bool, full frame.

    Subarrays whose corners only the exposures know count as the whole frame.
    """
    detector = get_detector(history.meta.instrument.detector)
    exposures = history.exposures.instance
    seen: np.ndarray = np.zeros(detector.shape, bool)
    for name, used in zip(exposures["subarray"], exposures["used"], strict=True):
        x, y, nx, ny = detector.subarrays.get(name) or (1, 1, *detector.shape[::-1])
        if used:
            seen[y - 1 : y - 1 + ny, x - 1 : x - 1 + nx] = True
    return seen


def _cut(full: np.ndarray, plane: Plane) -> np.ndarray:
    """Cut the pixels of a plane out of the full frame."""
    (y, x), (ny, nx) = plane.corner, plane.data.shape
    return full[y : y + ny, x : x + nx]


def _list_rows(history: BadPixHistoryModel, mjd: float) -> Table:
    """List the defects of a date, full frame: one row per pixel."""
    columns = {name: np.asarray(v) for name, v in history.intervals.instance.items()}
    names, pending = columns["class"], columns["pending"].astype(bool)
    telegraph = (names == "TELEGRAPH") & ~pending
    now = select_active(columns["start_mjd"], columns["end_mjd"], np.zeros(len(names), bool), mjd)
    bad = (columns["state"] == 1) & (columns["dnu"] | pending) & (now | telegraph)
    # A telegraph pixel has a row for each time that it was bad: the present one, or any.
    order = np.flatnonzero(bad)[np.argsort(~now[bad], kind="stable")]
    place = columns["y"][order].astype(int) * 2**16 + columns["x"][order]
    order = order[np.sort(np.unique(place, return_index=True)[1])]
    exposures = history.exposures.instance
    first = np.min(exposures["expstart_mjd"][exposures["used"]], initial=np.inf)
    found = Table(
        {
            "y": columns["y"][order].astype(int),
            "x": columns["x"][order].astype(int),
            "class": names[order].astype(str),
            "state": np.select(
                [pending[order], telegraph[order] & now[order], telegraph[order]],
                ["pending", "telegraph", "telegraph-off"],
                "bad",
            ).astype("<U13"),
            "since": [
                _day(v) if np.isfinite(v) else f"<{_day(first)}"
                for v in columns["start_mjd"][order]
            ],
            "until": [_day(v) if np.isfinite(v) else "" for v in columns["end_mjd"][order]],
            **{
                name: columns[name][order].astype(float)
                for name in ("log_odds", "amplitude", "amplitude_err", "response")
            },
        },
        dtype=_ROW_DTYPES,
    )
    return vstack([found, _list_base(history, mjd, found)])


_ROW_DTYPES = (int, int, "U64", "U13", "U11", "U11", float, float, float, float)


def _list_base(history: BadPixHistoryModel, mjd: float, found: Table) -> Table:
    """List what only the base mask has against: rows as those of `_list_rows`."""
    dq = compose_dq(history, mjd)
    dq[found["y"], found["x"]] = 0
    never = np.uint32(dq_value("REFERENCE_PIXEL", "NON_SCIENCE"))
    bad = np.uint32(dq_value("DO_NOT_USE"))
    y, x = np.nonzero(((dq & bad) != 0) & ((dq & never) == 0))
    nothing = np.full(y.size, np.nan)
    return Table(
        [
            y,
            x,
            [_name_flags(int(v), hide=int(bad)) for v in dq[y, x]],
            np.full(y.size, "base"),
            np.full(y.size, ""),
            np.full(y.size, ""),
            nothing,
            nothing,
            nothing,
            np.ones(y.size),
        ],
        names=found.colnames,
        dtype=_ROW_DTYPES,
    )


def _name_flags(value: int, *, hide: int = 0) -> str:
    """Name the flags of a pixel, joined by |."""
    return "|".join(sorted(dqflags_to_mnemonics(value & ~hide, pixel) - {"GOOD"}))


def _tabulate(
    product: Product, plane: Plane, rows: Table, aperture: Aperture, bits: np.ndarray | None
) -> tuple[Table, Spikes]:
    """Tabulate the defects within the aperture of one plane."""
    ny, nx = plane.data.shape
    y, x = (np.asarray(rows[name]) - plane.corner[k] for k, name in enumerate(("y", "x")))
    held = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    held[held] = aperture.inside[y[held], x[held]]
    rows, y, x = rows[held], y[held], x[held]
    sizes = measure_spikes(
        product,
        plane,
        aperture.inside,
        aperture.extracted,
        y=y,
        x=x,
        **{k: np.asarray(rows[k], float) for k in ("amplitude", "amplitude_err", "response")},
    )
    dq = plane.dq[y, x]
    mask = np.zeros(len(y), np.uint32) if bits is None else bits[rows["y"], rows["x"]]
    nothing = np.full(len(y), np.nan)
    table = Table(
        {
            "y": rows["y"],
            "x": rows["x"],
            "y_sub": np.asarray(rows["y"]) - product.record.corner[0],
            "x_sub": np.asarray(rows["x"]) - product.record.corner[1],
            "y_ds9": y + 1,
            "x_ds9": x + 1,
            "slit": np.full(len(y), plane.slit, "<U16"),
            "wavelength": nothing if plane.wavelength is None else plane.wavelength[y, x],
            **{name: rows[name] for name in ("class", "state", "log_odds")},
            **{name: rows[name] for name in ("since", "until", "amplitude", "amplitude_err")},
            "spike_percent": sizes.expected,
            "spike_err": sizes.expected_err,
            "seen_percent": sizes.seen,
            "seen_err": sizes.seen_err,
            "gap_percent": sizes.gap,
            "flagged": (dq & np.uint32(dq_value("DO_NOT_USE"))) != 0,
            "dq": np.array([_name_flags(int(v)) for v in dq], "<U128"),
            "mask": np.array([_name_flags(int(v)) for v in mask], "<U128"),
        }
    )
    for name, text in _DESCRIPTIONS.items():
        table[name].description = text
        table[name].unit = _UNITS.get(name)
    return table, sizes


def _tell_sizes(product: Product, sizes: Spikes) -> str:
    """Say what the sizes are relative to, and where the conversion comes from."""
    text = f"sizes are relative to {sizes.relative_to}"
    if sizes.scale_from == product.path.name:
        return text
    if sizes.scale_from:
        return f"{text}; DN/s become {product.unit} by {sizes.scale_from}"
    return (
        f"{text}; {product.path.name} is in {product.unit} and no rate product lies beside it, so "
        "that the spike of hot pixels is only what is seen (seen_percent)"
    )
