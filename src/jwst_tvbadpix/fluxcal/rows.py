"""Which measurements take part in a fit, and what each of them belongs to."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from ..errors import EvidenceError, InputError
from .measurements import Measurements
from .modes import Band

__all__ = ["Rows", "Unit", "name_group", "select_rows", "sort_measurements"]

log = logging.getLogger(__name__)

# Kinds whose rows are wavelength bins of one spectrum.
SPECTRAL = frozenset({"lrs", "mrs", "wfss", "soss", "fixed_slit", "ifu", "unknown"})
# Kinds whose photom factor is of one subarray and not a scaled FULL one: slit and slitless LRS
# differ by the slit's losses.
_OWN_SUBARRAY = frozenset({"lrs"})
# A spectrum's model errors and jitter are alike over this width in ln(wavelength).
_CELL_WIDTH = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """A calibration factor that is fitted: a band, of one subarray where no other scales to it.

    Attributes
    ----------
    band : Band
    subarray : str
        '' where subarrays are factors on FULL.
    """

    band: Band
    subarray: str = ""

    @property
    def reference(self) -> str:
        """Subarray that the factor is of."""
        return self.subarray or "FULL"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that take part, in an order that does not depend on that of the input.

    Attributes
    ----------
    measurements : Measurements
        All rows, sorted, with `used` and `reason` as decided here.
    index : ndarray
        Rows of `measurements` that take part, (n,) int64.
    units : tuple of Unit
    unit : ndarray
        Unit of each row, (n,) int64.
    wave : ndarray
        Wavelength of each row [um], (n,) float64.
    time_wave : ndarray
        The same for images and MRS, that of the whole mode for spectra: photom has one throughput
        for a spectrum's row [um], (n,) float64.
    ln_response : ndarray
        ``-ln factor``, so that more counts are more, (n,) float64.
    sigma : ndarray
        Formal 1-sigma error of `ln_response`, (n,) float64.
    days : ndarray
        MJD minus `t0_mjd`, NaN where unknown, (n,) float64.
    t0_mjd : float
    group, detector : ndarray
        'MIRI imaging', and detector, of each row, (n,) str.
    cell : ndarray
        Filter, or piece of a spectrum: where errors are alike, (n,) str.
    """

    measurements: Measurements
    index: np.ndarray
    units: tuple[Unit, ...]
    unit: np.ndarray
    wave: np.ndarray
    time_wave: np.ndarray
    ln_response: np.ndarray
    sigma: np.ndarray
    days: np.ndarray
    t0_mjd: float
    group: np.ndarray
    detector: np.ndarray
    cell: np.ndarray

    def take(self, name: str) -> np.ndarray:
        """Column of `measurements` for the rows that take part, (n,)."""
        return np.asarray(getattr(self.measurements, name))[self.index]


def name_group(band: Band) -> str:
    """Name the modes whose measurements are alike: 'MIRI imaging'."""
    return f"{band.mode.instrument} {band.mode.kind}"


def name_unit(band: Band, subarray: str) -> Unit:
    """Find what a measurement is of."""
    own = band.mode.kind in _OWN_SUBARRAY or subarray.startswith("SUBND")
    return Unit(band, subarray if own else "")


def sort_measurements(measurements: Measurements) -> Measurements:
    """Sort the rows by band, star, visit, date and exposure, and the bands by wavelength.

    Parameters
    ----------
    measurements : Measurements

    Returns
    -------
    Measurements
        The same rows; whatever the order of the input, the same.
    """
    m = measurements
    bands = tuple(sorted(set(m.bands)))
    rank = np.array([bands.index(b) for b in m.bands] if len(bands) < 200 else _rank(m.bands))
    band = rank[np.asarray(m.band)] if len(m.band) else np.zeros(0, int)
    keys = (m.factor, m.source, m.mjd, m.subarray, m.visit, m.star, band)
    order = np.lexsort(tuple(np.asarray(k) for k in keys))
    columns = {
        name: np.asarray(getattr(m, name))[order]
        for name in m.__dataclass_fields__
        if name not in ("bands", "band") and getattr(m, name) is not None
    }
    return replace(m, bands=bands, band=band[order].astype(np.int32), **columns)


def _rank(bands: tuple[Band, ...]) -> list[int]:
    place = {b: k for k, b in enumerate(sorted(set(bands)))}
    return [place[b] for b in bands]


def select_rows(measurements: Measurements, *, t0_mjd: float | None, dated: bool) -> Rows:
    """Leave out what cannot be used, by name, and sort the rest.

    Parameters
    ----------
    measurements : Measurements
        `factor` and `sigma` relative, as documented there.
    t0_mjd : float or None
        Epoch of the factors [MJD]; None: the day of the first row.
    dated : bool
        Whether rows without a date are left out.

    Returns
    -------
    Rows

    Raises
    ------
    InputError
        The same row is given twice.
    EvidenceError
        No row is left.
    """
    m = _exclude(sort_measurements(measurements), dated)
    _refuse_duplicates(m)
    index = np.flatnonzero(m.used)
    if not len(index):
        reasons = ", ".join(sorted(set(map(str, m.reason)))) or "there are none"
        raise EvidenceError(
            f"expected measurements to fit, found none of {len(m.used)} usable: {reasons}; see "
            "the reasons in the table of visits"
        )
    bands = [m.bands[k] for k in m.band[index]]
    subarray = [str(s) for s in m.subarray[index]]
    each = [name_unit(b, s) for b, s in zip(bands, subarray, strict=True)]
    units = tuple(sorted(set(each)))
    place = {u: k for k, u in enumerate(units)}
    wave = np.array([b.wave for b in bands])
    group = np.array([name_group(b) for b in bands])
    mjd = m.mjd[index]
    known = mjd[np.isfinite(mjd)]
    t0 = float(t0_mjd) if t0_mjd is not None else float(np.floor(known.min())) if len(known) else 0
    return Rows(
        m,
        index,
        units,
        np.array([place[u] for u in each]),
        wave,
        _find_time_wave(bands, wave),
        -np.log(m.factor[index]),
        np.asarray(m.sigma[index], np.float64),
        mjd - t0,
        float(t0),
        group,
        np.array([f"{b.mode.instrument} {b.mode.detector}" for b in bands]),
        np.array([_name_cell(b) for b in bands]),
    )


def _exclude(m: Measurements, dated: bool) -> Measurements:
    """Mark rows that cannot be used, with the reason."""
    used, reason = m.used.astype(bool).copy(), m.reason.astype(object).copy()
    tests = [
        (~np.isfinite(m.factor), "factor is not a number"),
        (np.isfinite(m.factor) & (m.factor <= 0), "factor is zero or negative"),
        (~np.isfinite(m.sigma) | (m.sigma <= 0), "error is zero, negative or not a number"),
    ]
    if dated:
        tests.append((~np.isfinite(m.mjd), "no date"))
    for bad, why in tests:
        new = bad & used
        used[new], reason[new] = False, why
        if new.any():
            stars = ", ".join(sorted(set(map(str, m.star[new]))))
            log.warning("%d rows left out: %s (%s)", int(new.sum()), why, stars)
    return replace(m, used=used, reason=reason.astype(str))


def _refuse_duplicates(m: Measurements) -> None:
    seen: dict[tuple, int] = {}
    index = np.flatnonzero(m.used)
    # Few rows have the same numbers; only those are looked at one by one.
    table = np.column_stack([m.band, np.nan_to_num(m.mjd), m.factor, m.sigma])[index]
    _, which, counts = np.unique(table, axis=0, return_inverse=True, return_counts=True)
    for k in index[counts[which.ravel()] > 1]:
        numbers = (m.mjd[k], m.factor[k], m.sigma[k])
        key = (m.band[k], m.star[k], m.visit[k], m.subarray[k], *map(repr, map(float, numbers)))
        if key in seen:
            raise InputError(
                f"expected each measurement once, found {m.star[k]} in "
                f"{m.bands[m.band[k]].mode.label} of visit {m.visit[k]} twice "
                f"({m.source[seen[key]]} and {m.source[k]}); give it once"
            )
        seen[key] = int(k)


def _find_time_wave(bands: list[Band], wave: np.ndarray) -> np.ndarray:
    out = wave.copy()
    modes = [b.mode for b in bands]
    for mode in sorted({m for m in modes if m.kind in SPECTRAL and m.kind != "mrs"}):
        mine = np.array([m == mode for m in modes])
        out[mine] = np.median(np.unique(wave[mine]))
    return out


def _name_cell(band: Band) -> str:
    if band.mode.kind not in SPECTRAL:
        return band.mode.label
    piece = np.floor(np.log(band.wave) / _CELL_WIDTH)
    low, high = np.exp(_CELL_WIDTH * np.array([piece, piece + 1]))
    return f"{band.mode.label} {low:.3g}-{high:.3g} um"
