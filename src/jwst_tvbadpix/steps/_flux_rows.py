"""What photom has no place for: subarrays and time tables that it ignores."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from astropy.time import Time

from ..fluxcal import Factor, FluxFit, Measurements, Mode
from ..refmodels.photom import freeze_factors
from ..refmodels.photom_mrs import MRS_MIDDLE
from ..refmodels.photom_rows import LAYOUTS

__all__ = ["choose_rows", "settle_mrs", "split_epochs"]

log = logging.getLogger(__name__)

# Kinds of whose references photom takes the conversion and ignores how it changes; those of Roman
# have no place for it.
_CONSTANT = ("ifu",)


def choose_rows(factors: Sequence[Factor], measurements: Measurements) -> list[Factor]:
    """Leave one row of each mode whose reference does not know subarrays.

    Parameters
    ----------
    factors : sequence of Factor
        Of one reference.
    measurements : Measurements
        What they were fitted to.

    Returns
    -------
    list of Factor
        The rows of the subarray that was measured most often; the others are in the table of
        modes alone, and a log line says so.
    """
    by_mode: dict[Mode, list[Factor]] = {}
    for factor in factors:
        by_mode.setdefault(factor.mode, []).append(factor)
    chosen: list[Factor] = []
    for mode, mine in by_mode.items():
        layout = LAYOUTS.get((mode.instrument, mode.kind))
        if layout is None or layout.has_subarray or len(mine) == 1:
            chosen += mine
            continue
        seen = _count_subarrays(mode, measurements)
        kept = max(mine, key=lambda factor: seen[factor.subarray])
        chosen.append(kept)
        others = [f"{f.subarray} ({f.value / kept.value - 1:+.2%})" for f in mine if f is not kept]
        log.info(
            "%s: photom does not tell subarrays apart; the row is that of %s, not of %s",
            mode.label,
            kept.subarray,
            ", ".join(others),
        )
    return chosen


def _count_subarrays(mode: Mode, m: Measurements) -> Counter[str]:
    """Count the measurements of a mode by subarray."""
    bands = [k for k, band in enumerate(m.bands) if band.mode == mode]
    return Counter(m.subarray[m.used & np.isin(m.band, bands)].tolist())


def split_epochs(
    factors: Sequence[Factor], fit: FluxFit, freeze_days: float
) -> Iterator[tuple[str, list[Factor]]]:
    """Split factors that change into constant ones where photom ignores time tables.

    Parameters
    ----------
    factors : sequence of Factor
        Of one reference.
    fit : FluxFit
        For the dates that were measured.
    freeze_days : float
        Longest time that one reference serves [day].

    Yields
    ------
    useafter : str
        '' for the date that all references have.
    factors : list of Factor
        As given, or as they are in the middle of the time they serve.
    """
    ends = np.array([fit.first_mjd, fit.last_mjd])
    changing = any(np.ptp(f.throughput.evaluate(ends)) for f in factors)
    constant = [f.mode.kind in _CONSTANT or f.mode.instrument == "WFI" for f in factors]
    if not changing or not all(constant):
        yield "", list(factors)
        return
    n = max(1, int(np.ceil((fit.last_mjd - fit.first_mjd) / freeze_days)))
    edges = np.linspace(fit.first_mjd, fit.last_mjd, n + 1)
    log.warning(
        "%s: photom ignores time tables of this mode; %d references, one for every %.0f days",
        factors[0].mode.label,
        n,
        edges[1] - edges[0],
    )
    for k in range(n):
        start = str(Time(np.floor(edges[k]), format="mjd").isot)[:19] if k else ""
        yield start, freeze_factors(factors, (edges[k] + edges[k + 1]) / 2)


def settle_mrs(
    factors: Sequence[Factor], fit: FluxFit, wavelength: np.ndarray | None
) -> list[Factor]:
    """Bring factors of MIRI MRS to what photom can apply, without changing what they say.

    Parameters
    ----------
    factors : sequence of Factor
        Of one reference; those of other modes are returned as they are.
    fit : FluxFit
        For the dates that were measured.
    wavelength : ndarray of float64, shape (ny, nx), or None
        Of each pixel [um].

    Returns
    -------
    list of Factor
        Those at wavelengths of a channel, the others (bins across the gap between the channels, or
        beyond an end) being left out; each throughput is 1 at most at the dates measured, because
        photom clips it there.
    """
    if wavelength is None or factors[0].mode.kind != "mrs":
        return list(factors)
    halves = (wavelength[:, :MRS_MIDDLE], wavelength[:, MRS_MIDDLE:])
    spans = [(np.nanmin(half), np.nanmax(half)) for half in halves if np.isfinite(half).any()]
    settled = []
    for factor in factors:
        assert factor.wave is not None
        if not any(low <= factor.wave[0] <= high for low, high in spans):
            continue
        f = factor.throughput
        top = float(np.max(f.evaluate(np.array([fit.first_mjd, fit.last_mjd])))) if f.alpha else 1.0
        settled.append(
            replace(
                factor,
                value=factor.value / top,
                uncertainty=factor.uncertainty / top,
                throughput=replace(f, year1value=f.year1value / top),
            )
        )
    if len(settled) < len(factors):
        log.info(
            "%s: %d of %d bins are of no channel and left out",
            factors[0].mode.label,
            len(factors) - len(settled),
            len(factors),
        )
    return settled
