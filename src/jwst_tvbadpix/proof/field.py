"""The star field of the proof: an imaging subarray with stars of known flux and dated defects."""

from dataclasses import replace

import numpy as np
from astropy.time import Time

from ..simulate import (
    DarkPedestal,
    ExposureSpec,
    KnownStars,
    Scene,
    UndispersedSky,
    draw_defects,
    find_region,
    make_imaging_setup,
)
from .scene import Plan, join_defects, set_dates

__all__ = [
    "APERTURE_RADIUS",
    "CROSSTALK",
    "DITHERS",
    "FILTER",
    "IMAGING",
    "add_field_defects",
    "build_field_scene",
    "find_near",
    "make_field_specs",
    "make_stars",
]

# Name of the mode, and its filter and subarray.
IMAGING = "imaging"
FILTER = "F560W"
_SUBARRAY = "SUB256"
# FWHM of a star [pixel]: JWST documentation, 0.207" / 0.11".
_FWHM = 1.88
# Share of a pixel's counts that each neighbour sees, as on the traces.
CROSSTALK = 0.01
# Sky [DN/s]; assumption.
_SKY = 3.0
# Fluxes of the stars [DN/s]: bright enough for 1 %, faint enough that none saturates.
_FLUXES = (50.0, 400.0)
# Stars along an edge, their distance, and how far each may lie off its place [pixel].
_N_STARS, _STEP, _JITTER = 10, 23.0, 3.0
# Where the sky lies in each exposure of a set (y, x) [pixel]: no two apertures of a star overlap.
DITHERS = ((-4.75, -3.5), (-3.25, 4.5), (4.25, 3.75), (3.5, -4.25))
# Radius of the apertures [pixel].
APERTURE_RADIUS = 3.0
# Read-out (16 frames averaged to a group) and groups: 154 s.
_READPATT, _NGROUPS = "FASTGRPAVG16", 32
# Defects of known dates by history, as on the traces.
_N_TURN_ON, _N_RECOVER, _N_TELEGRAPH = 50, 10, 4
_FIRST_OBSERVATION = 301


def make_stars(seed: int) -> KnownStars:
    """Draw the stars: a loose grid that fills the subarray at every dither."""
    region = find_region(_SUBARRAY)
    rng = np.random.default_rng([seed, 13])
    steps = (np.arange(_N_STARS) - (_N_STARS - 1) / 2) * _STEP
    y, x = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    y = y + rng.uniform(-_JITTER, _JITTER, y.size) + region.y_start + (region.ny - 1) / 2
    x = x + rng.uniform(-_JITTER, _JITTER, x.size) + region.x_start + (region.nx - 1) / 2
    low, high = np.log(_FLUXES)
    return KnownStars(y, x, np.exp(rng.uniform(low, high, y.size)), _FWHM)


def add_field_defects(plan: Plan) -> Plan:
    """Add defects that change at the dates of the plan, within the apertures of the stars."""
    start, end = (float(Time(date, scale="utc").mjd) for date in plan.period)
    drawn = draw_defects(
        "MIRIMAGE",
        _SUBARRAY,
        start_mjd=start,
        end_mjd=end,
        seed=plan.seed * 10 + 2,
        n_static_hot=0,
        n_static_warm=0,
        n_static_low=0,
        n_turn_on=_N_TURN_ON,
        n_recover=_N_RECOVER,
        n_telegraph=_N_TELEGRAPH,
    )
    rng = np.random.default_rng([plan.seed, 14])
    region = find_region(_SUBARRAY)
    y, x = (grid.ravel() for grid in np.indices(region.shape))
    y, x = y + region.y_start, x + region.x_start
    stars = make_stars(plan.seed)
    within = np.zeros(y.size, bool)
    for dither in DITHERS:
        within |= (_measure_distance(stars, y, x, dither) <= APERTURE_RADIUS).any(axis=0)
    chosen = rng.choice(np.flatnonzero(within), len(drawn), replace=False)
    moved = replace(drawn, y=y[chosen].astype(np.int16), x=x[chosen].astype(np.int16))
    dated = set_dates(moved, plan.change_mjd, rng)
    return replace(plan, defects=join_defects(dated, plan.defects))


def _measure_distance(
    stars: KnownStars, y: np.ndarray, x: np.ndarray, dither: tuple[float, float]
) -> np.ndarray:
    """Distances of pixels from the stars: float (n_stars, n) [pixel]."""
    dy = stars.y[:, None] + dither[0] - y
    dx = stars.x[:, None] + dither[1] - x
    return np.hypot(dy, dx)


def find_near(plan: Plan, chosen: np.ndarray) -> np.ndarray:
    """Find which stars have which defects in their apertures.

    Parameters
    ----------
    plan : Plan
    chosen : ndarray of bool, shape (n_defects,)
        Defects of the plan that count.

    Returns
    -------
    ndarray of bool, shape (n_dithers, n_stars, n_chosen)
    """
    stars, defects = make_stars(plan.seed), plan.defects.select(chosen)
    # A pixel whose centre is half a pixel outside still lies in part within.
    reach = APERTURE_RADIUS + 0.5
    return np.array(
        [_measure_distance(stars, defects.y, defects.x, dither) <= reach for dither in DITHERS]
    )


def make_field_specs(plan: Plan, epoch: int, *, number: int = 0) -> list[ExposureSpec]:
    """Describe the dithered exposures of an epoch, one after the other; -1: the last date.

    The last begins at the date: the mask changes halfway between blank-sky exposures, right after.
    """
    setup = make_imaging_setup(find_region(_SUBARRAY), filter_name=FILTER, readpatt=_READPATT)
    observation = _FIRST_OBSERVATION + 10 * epoch + number
    step = (_NGROUPS + 1) * setup.group_time_s / 86400
    return [
        ExposureSpec(
            mjd=plan.star_mjd[epoch] + (k + 1 - len(DITHERS)) * step,
            ngroups=_NGROUPS,
            seed=plan.seed * 1000 + observation + k,
            observation=observation,
            exposure=k + 1,
            field=1,
            dither=dither,
            setup=setup,
        )
        for k, dither in enumerate(DITHERS)
    ]


def build_field_scene(plan: Plan) -> Scene:
    """Build sky and stars; without cosmic rays, as the star of the traces."""
    layers = (UndispersedSky(_SKY), DarkPedestal(), make_stars(plan.seed))
    return Scene(layers=layers, pattern=plan.pattern, crosstalk=CROSSTALK)
