"""Tables of a flux calibration: stars, modes and visits."""

from typing import Any

import numpy as np
from astropy.table import Table

from ..fluxcal import FluxFit, Measurements

__all__ = ["tabulate_stars", "tabulate_visits"]


def tabulate_stars(fit: FluxFit) -> Table:
    """Tabulate how each star fared in each group of modes."""
    stars = fit.stars
    table = Table(
        {
            "name": [star.name for star in stars],
            "srctype": [star.star_class for star in stars],
            "mode": [star.group for star in stars],
        }
    )
    for name in ("n_visits", "offset", "offset_err", "slope_per_um", "slope_err", "chi2"):
        table[name] = [getattr(star, name) for star in stars]
    for name in ("offset_scatter", "slope_scatter", "weight", "verdict", "reason"):
        table[name] = [getattr(star, name) for star in stars]
    for name in ("slope_per_um", "slope_err", "slope_scatter"):
        table[name].unit = "1 / um"
    return table


def tabulate_visits(fit: FluxFit) -> Table:
    """Tabulate every measurement, used or not."""
    m: Measurements = fit.measurements
    modes = [band.mode for band in m.bands]
    wave = np.array([band.wave for band in m.bands], float)
    given = m.star if m.given is None else m.given
    columns: dict[str, Any] = {
        "name": m.star,
        "given": given,
        "srctype": m.star_class,
        "mode": _take([mode.label for mode in modes], m.band),
        "filter": _take([mode.filter for mode in modes], m.band),
        "wave": wave[m.band],
        "subarray": m.subarray,
        "visit": m.visit,
        "mjd": m.mjd,
        "factor": m.factor,
        "sigma": m.sigma,
        "flux_jy": m.flux_jy,
        "peak": m.peak,
        "well_depth": m.well_depth,
        "background": m.background,
        "exposure_s": m.exposure_s,
        "residual": fit.residual,
        "weight": fit.weight,
        "used": m.used,
        "reason": m.reason,
        "source": m.source,
    }
    units = {"wave": "um", "mjd": "d", "flux_jy": "Jy", "exposure_s": "s"}
    return Table(columns, units=units)


def _take(labels: list[str], index: np.ndarray) -> np.ndarray:
    """Label each row: str (n,)."""
    return np.array(labels, dtype=str)[index]
