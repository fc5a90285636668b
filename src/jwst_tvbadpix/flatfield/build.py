"""From dithered exposures of a field to its flat: register, stack, star flat, merge, check."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from scipy import ndimage

from ..errors import EvidenceError
from ..parallel import map_in_threads
from .frames import Exposures, StackSettings
from .matching import MatchedStars, match_stars
from .merge import MergedFlat, StarResponse, merge_flats
from .monitors import Monitors, add_background, add_pixels, run_monitors
from .observations import StarObservations
from .psf_core import CoreTable, measure_cores
from .selfcheck import SelfCheck, check_flat
from .skyplane import PixelOfSky, SkyPlane, compute_scale, make_plane
from .stack import StackedFlat, stack_flat
from .starflat import StarFlat, solve_star_flat
from .stars import SkyOfPixel, StarTable, compute_area_ratio, find_stars, sum_apertures

__all__ = ["MOST_SIGMA", "BuiltFlat", "ExposureFacts", "FlatSettings", "build_flat"]

log = logging.getLogger(__name__)

# Radii of the circle and of the ring in which stars are measured [FWHM]; least circle [pixel].
_APERTURE, _RING, _LEAST_APERTURE = 1.5, (3.0, 5.0), 2.5
# Largest distance of two measurements of a star [pixel], and largest error of a pointing [arcsec].
_MATCH_PIXELS, _MAX_OFFSET_ARCSEC = 1.4, 3.0
# Error of a star flat above which the sky knows the smooth response better: what scattered light
# makes of it is of the order of a per cent (assumption).
MOST_SIGMA = 0.01
# How the warning of exposures begins whose zero point is not that of the others.
_ODD = "The sensitivity is not that of the other exposures in"
# Total degree of the sky's smooth response where there is no star flat.
_SKY_ORDER = 5


@dataclass(frozen=True, slots=True)
class FlatSettings:
    """What the making of a flat can be told.

    Attributes
    ----------
    stack : StackSettings
    star_flat : str
        'auto' = where the stars determine it, 'never', 'always' = or an error.
    order : int or None
        Of the star flat; None = by cross-validation.
    zero_point_scatter : float or None
        See `solve_star_flat`.
    by_epoch : str
        A flat per epoch: 'auto' = where the star flat changes from visit to visit, or single
        pixels from the early half to the late one; 'never'; 'always'.
    least_response, unreliable_err : float
        See `make_flags`.
    """

    stack: StackSettings
    star_flat: str = "auto"
    order: int | None = None
    zero_point_scatter: float | None = None
    by_epoch: str = "auto"
    least_response: float = 0.1
    unreliable_err: float = 0.02


@dataclass(frozen=True, slots=True)
class ExposureFacts:
    """What is known of the exposures besides their pixels.

    Attributes
    ----------
    skies, pixels : tuple of callable, length n_exp
        ra, dec [deg] of x, y [pixel, 0-based], and back.
    tiles, runs : ndarray of int, shape (n_exp,)
        Visit, and number of the run without a change of optics in between.
    mid_mjd : ndarray of float64, shape (n_exp,)
        Mid-times [MJD].
    epoch : ndarray of int, shape (n_exp,)
        Epoch that may have a flat of its own, from 0, rising with time.
    used : ndarray of bool, shape (n_exp,)
        False = held out for the check.
    names : tuple of str, length n_exp
        What the user calls the exposures.
    """

    skies: tuple[SkyOfPixel, ...]
    pixels: tuple[PixelOfSky, ...]
    tiles: np.ndarray
    runs: np.ndarray
    mid_mjd: np.ndarray
    epoch: np.ndarray
    used: np.ndarray
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuiltFlat:
    """Flats of one set of exposures, and all that they were made of.

    Attributes
    ----------
    flats : tuple of MergedFlat
        One for all, or one per epoch, in their order; with P-flats of their own where single
        pixels changed, from the exposures of each epoch alone.
    stack : StackedFlat
        Of the exposures used, in their order.
    star : StarFlat or None
        Its `exposure_id` are places in the input.
    monitors : Monitors
        Stability of flat, PSF core and distortion (with a star flat) and background.
    matched : MatchedStars or None
        All stars, those of held-out exposures too.
    check : SelfCheck or None
        Of the held-out exposures.
    notes : tuple of str
        What the user should know.
    """

    flats: tuple[MergedFlat, ...]
    stack: StackedFlat
    star: StarFlat | None
    monitors: Monitors
    matched: MatchedStars | None
    check: SelfCheck | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the exposures, and their pointings, under new numbers."""

    exposures: Exposures
    plane: SkyPlane
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.exposures.shape

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        return self.exposures.read(int(self.rows[index]), start, stop)

    def to_sky(self, index: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.plane.to_sky(int(self.rows[index]), x, y)

    def to_detector(
        self, index: int, u: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        return self.plane.to_detector(int(self.rows[index]), u, v)


def build_flat(
    exposures: Exposures,
    facts: ExposureFacts,
    field: np.ndarray,
    *,
    settings: FlatSettings,
    non_science: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuiltFlat:
    """Build the flat of dithered exposures, from their sky and, where they determine it, stars.

    Parameters
    ----------
    exposures : Exposures
        Not flat-fielded; see `stack_flat`.
    facts : ExposureFacts
    field : ndarray of bool, shape (ny, nx)
        Field in which stars count and whose mean is 1; pixels that are not lit are left out.
    settings : FlatSettings
    non_science : ndarray of bool, shape (ny, nx), optional
        See `make_flags`.
    progress : callable, optional
        See `stack_flat`.

    Returns
    -------
    BuiltFlat

    Raises
    ------
    EvidenceError
        See `stack_flat`, `solve_star_flat` and `merge_flats`; or epochs are asked for that
        nothing tells apart.
    """
    notes: list[str] = []
    if settings.star_flat == "never":
        _require_one_epoch(facts, settings, ["star_flat is never"])
    # One after the other: filters of warnings, which the search sets, are shared by threads.
    tables = [_find(exposures, k, field, settings) for k in range(len(exposures))]
    matched = _match(tables, facts, exposures.shape, settings, notes)
    plane = make_plane(facts.skies, facts.pixels, exposures.shape, matched)
    rows = np.flatnonzero(facts.used)
    stack = _stack(_Part(exposures, plane, rows), facts, field, settings.stack, progress)
    merge = partial(
        merge_flats,
        area=compute_area_ratio(facts.skies[int(rows[0])], np.isfinite(stack.flat)),
        non_science=non_science,
        least_response=settings.least_response,
        unreliable_err=settings.unreliable_err,
    )
    flats = [merge(stack, None, order=_SKY_ORDER)]
    star: StarFlat | None = None
    monitors = Monitors()
    by_epoch: StarFlat | None = None
    if matched is not None and settings.star_flat != "never":
        tables, cores = _measure(exposures, tables, stack.flat, settings)
        even = match_stars(tables, facts.skies, **_limits(facts, exposures.shape))
        matched = _refer(even, flats[0].l_sky)
        star = _solve(matched, facts, stack, field, settings, notes)
    if star is not None and matched is not None and star.order != _SKY_ORDER:
        # What is not in the span of the star flat comes from the sky, and must not leak into it.
        matched = _refer(even, merge(stack, None, order=star.order).l_sky)
        settled = replace(settings, order=star.order)
        star = _solve(matched, facts, stack, field, settled, list(notes))
    if star is not None and matched is not None:
        monitors = _monitor(matched, cores, facts, star, settings)
        monitors = add_pixels(monitors, stack.pixel_drift, stack.drift_reason)
        by_epoch = _choose_epochs(matched, facts, star, monitors, settings, notes)
        responses = _list_responses(by_epoch or star)
        stacks = [stack] * len(responses)
        if by_epoch is not None and _wants_own_pixels(stack):
            stacks = _stack_epochs(exposures, plane, facts, field, settings, stack, notes)
        flats = [merge(one, response) for one, response in zip(stacks, responses, strict=True)]
    else:
        monitors = add_pixels(monitors, stack.pixel_drift, stack.drift_reason)
        _require_one_epoch(facts, settings, notes)
    level = np.array([background.level for background in stack.backgrounds])
    seen = (level, facts.mid_mjd[rows], facts.tiles[rows], plane.number[rows], facts.runs[rows])
    monitors = add_background(monitors, *seen)
    for line in monitors.describe():
        _note(notes, line)
    check = _check(exposures, facts, flats, tables, matched, star, settings)
    return BuiltFlat(tuple(flats), stack, star, monitors, matched, check, tuple(notes))


def _require_one_epoch(facts: ExposureFacts, settings: FlatSettings, why: Sequence[str]) -> None:
    """Refuse a flat per epoch where no star flat tells them apart."""
    if settings.by_epoch == "always" and facts.epoch.max() > 0:
        raise EvidenceError(
            f"expected a star flat to tell {int(facts.epoch.max()) + 1} epochs apart, found none "
            f"({'; '.join(why)}); run the step once per epoch"
        )


def _stack(
    part: _Part,
    facts: ExposureFacts,
    field: np.ndarray,
    settings: StackSettings,
    progress: Callable[[int, int], None] | None,
) -> StackedFlat:
    """Stack the exposures that are used."""
    return stack_flat(
        part,
        facts.tiles[part.rows].tolist(),
        facts.mid_mjd[part.rows],
        settings=settings,
        sets=facts.runs[part.rows].tolist(),
        pointings=part,
        region=field,
        progress=progress,
    )


def _wants_own_pixels(stack: StackedFlat) -> bool:
    """Whether single pixels changed, so that each epoch should have a P-flat of its own."""
    return stack.pixel_drift is not None and stack.pixel_drift.drifts


def _stack_epochs(
    exposures: Exposures,
    plane: SkyPlane,
    facts: ExposureFacts,
    field: np.ndarray,
    settings: FlatSettings,
    whole: StackedFlat,
    notes: list[str],
) -> list[StackedFlat]:
    """Stack each epoch by itself; the stack of all where an epoch has too little for its own.

    Its noise is that of fewer exposures, so it is done only where single pixels changed.
    """
    stacks = []
    for epoch in range(int(facts.epoch.max()) + 1):
        rows = np.flatnonzero(facts.used & (facts.epoch == epoch))
        try:
            part = _Part(exposures, plane, rows)
            stacks.append(_fill(_stack(part, facts, field, settings.stack, None), whole))
        except EvidenceError as error:
            stacks.append(whole)
            _note(notes, f"Epoch {epoch} shares the response of single pixels: {error}")
        else:
            _note(notes, f"Epoch {epoch} has a response of single pixels of its own")
    return stacks


def _fill(stack: StackedFlat, whole: StackedFlat) -> StackedFlat:
    """Take pixels that an epoch did not see from the stack of all, unless they changed."""
    lost = (stack.coverage == 0) & (whole.coverage > 0)
    if whole.pixel_drift is not None:
        lost &= ~whole.pixel_drift.changed
    names = [name for name in StackedFlat.__slots__ if name.startswith(("flat", "err", "cover"))]
    filled = {name: getattr(stack, name).copy() for name in names if name != "error_scale"}
    for name, image in filled.items():
        image[lost] = getattr(whole, name)[lost]
    return replace(stack, **filled)


def _check(
    exposures: Exposures,
    facts: ExposureFacts,
    flats: Sequence[MergedFlat],
    tables: Sequence[StarTable],
    matched: MatchedStars | None,
    star: StarFlat | None,
    settings: FlatSettings,
) -> SelfCheck | None:
    """Check held-out exposures, each with the flat of its epoch; None where there are none."""
    rows = [int(k) for k in np.flatnonzero(~facts.used)]
    if not rows:
        return None
    fluxes = None
    if star is not None:
        fluxes = dict(zip(star.star_id.tolist(), star.star_ln_flux.tolist(), strict=True))
    held = [(k, flats[int(facts.epoch[k]) if len(flats) > 1 else 0]) for k in rows]
    return check_flat(
        exposures, held, tables, matched, fluxes, aperture=partial(_sum, settings=settings)
    )


def _limits(facts: ExposureFacts, shape: tuple[int, int]) -> dict[str, float]:
    """Limits of `match_stars` for the pixels at hand."""
    scale = compute_scale(facts.skies[0], shape)
    return {"radius_arcsec": _MATCH_PIXELS * scale, "max_offset_arcsec": _MAX_OFFSET_ARCSEC}


def _sum(
    rate: np.ndarray, err: np.ndarray, x: np.ndarray, y: np.ndarray, settings: FlatSettings
) -> StarTable:
    """Measure stars in circles."""
    fwhm = settings.stack.fwhm
    good = np.isfinite(rate) & np.isfinite(err)
    radius = max(_APERTURE * fwhm, _LEAST_APERTURE)
    ring = (max(_RING[0] * fwhm, radius + 1), max(_RING[1] * fwhm, radius + 4))
    return sum_apertures(rate, err, good, x, y, radius=radius, annulus=ring)


def _find(exposures: Exposures, index: int, field: np.ndarray, settings: FlatSettings) -> StarTable:
    """Find the stars of one exposure and measure them; none where nothing is good."""
    rate, err = exposures.read(index, 0, exposures.shape[0])
    good = np.isfinite(rate) & field
    if not good.any():
        return StarTable(*(np.empty(0) for _ in range(4)))
    rows, columns = np.flatnonzero(good.any(axis=1)), np.flatnonzero(good.any(axis=0))
    y0, x0 = int(rows[0]), int(columns[0])
    box = slice(y0, int(rows[-1]) + 1), slice(x0, int(columns[-1]) + 1)
    x, y = find_stars(rate[box], good[box], fwhm=settings.stack.fwhm)
    return _sum(rate, err, x + x0, y + y0, settings)


def _measure(
    exposures: Exposures, tables: Sequence[StarTable], flat: np.ndarray, settings: FlatSettings
) -> tuple[list[StarTable], list[CoreTable]]:
    """Measure stars and their cores again, on a sky that the flat has made even.

    Where the response is curved, the ring about a star would not show the sky that is under it.
    """

    def measure(index: int) -> tuple[StarTable, CoreTable]:
        rate, err = exposures.read(index, 0, exposures.shape[0])
        rate, err, table = rate / flat, err / flat, tables[index]
        table = _sum(rate, err, table.x, table.y, settings)
        good = np.isfinite(rate) & np.isfinite(err)
        return table, measure_cores(rate, err, good, table, fwhm=settings.stack.fwhm)

    both = list(map_in_threads(measure, range(len(tables))))
    return [table for table, _ in both], [core for _, core in both]


def _match(
    tables: Sequence[StarTable],
    facts: ExposureFacts,
    shape: tuple[int, int],
    settings: FlatSettings,
    notes: list[str],
) -> MatchedStars | None:
    """Match the stars of all exposures; None where there are none."""
    try:
        return match_stars(tables, facts.skies, **_limits(facts, shape))
    except EvidenceError as error:
        if settings.star_flat == "always":
            raise
        _warn(notes, f"No star flat, and pointings as in the WCS: {error}")
        return None


def _solve(
    matched: MatchedStars,
    facts: ExposureFacts,
    stack: StackedFlat,
    field: np.ndarray,
    settings: FlatSettings,
    notes: list[str],
) -> StarFlat | None:
    """Solve the star flat; None, and why, where the stars do not determine it."""
    try:
        star = solve_star_flat(
            _select(matched, facts),
            field & np.isfinite(stack.flat),
            order=settings.order,
            zero_point_scatter=settings.zero_point_scatter,
        )
    except EvidenceError as error:
        if settings.star_flat == "always":
            raise
        _warn(notes, f"No star flat: {error}")
        return None
    if star.odd_zero_points and not any(note.startswith(_ODD) for note in notes):
        text = _describe_odd(star, facts.names)
        log.warning("%s", text)
        notes.append(text)
    for line in star.gauge.advice:
        _note(notes, line)
    if star.gauge.ill_determined and settings.star_flat != "always":
        _warn(notes, "The star flat is ill-determined and is not used in the reference")
        return None
    if star.sigma > MOST_SIGMA and settings.star_flat != "always":
        _note(
            notes,
            f"The star flat is known to {100 * star.sigma:.2g} % only (at most "
            f"{100 * MOST_SIGMA:g} %) and is not used in the reference; give more exposures",
        )
        return None
    return star


def _describe_odd(star: StarFlat, names: Sequence[str]) -> str:
    """Name the exposures whose sensitivity is not that of the others."""
    odd = ", ".join(
        f"{names[one.exposure_id]} ({100 * np.expm1(one.departure):+.1f} %, "
        f"{100 * one.sigma:.1g} % expected)"
        for one in star.odd_zero_points
    )
    return (
        f"{_ODD} {odd}; it makes the gradient of "
        "the star flat less certain: correct PHOTMJSR or the exposure time, or leave it out"
    )


def _refer(matched: MatchedStars, smooth: np.ndarray) -> MatchedStars:
    """Give fluxes of flat-fielded images the smooth response (ny, nx) back that the sky has."""
    seen = matched.observations
    factor = ndimage.map_coordinates(
        smooth.astype(np.float64), [seen.y, seen.x], order=1, mode="nearest"
    )
    flux, flux_err = seen.flux * factor, seen.flux_err * factor
    return replace(matched, observations=replace(seen, flux=flux, flux_err=flux_err))


def _monitor(
    matched: MatchedStars,
    cores: Sequence[CoreTable],
    facts: ExposureFacts,
    star: StarFlat,
    settings: FlatSettings,
) -> Monitors:
    """Look what the stars tell of changes."""
    return run_monitors(
        _select(matched, facts),
        cores,
        facts.skies,
        np.flatnonzero(facts.used),
        facts.mid_mjd,
        facts.tiles,
        star.basis.field,
        star=star,
        zero_point_scatter=settings.zero_point_scatter,
        fwhm=settings.stack.fwhm,
    )


def _select(matched: MatchedStars, facts: ExposureFacts) -> StarObservations:
    """Take the measurements in exposures that are not held out."""
    seen = matched.observations
    mine = facts.used[seen.exposure]
    return StarObservations(*(getattr(seen, name)[mine] for name in StarObservations.__slots__))


def _solve_epochs(
    matched: MatchedStars,
    facts: ExposureFacts,
    star: StarFlat,
    settings: FlatSettings,
    number: dict[int, int],
) -> StarFlat:
    """Solve again with modes that may differ by epoch, at the order that was found."""
    return solve_star_flat(
        _select(matched, facts),
        star.basis.field,
        order=star.order,
        zero_point_scatter=settings.zero_point_scatter,
        epoch=number,
    )


def _choose_epochs(
    matched: MatchedStars,
    facts: ExposureFacts,
    star: StarFlat,
    monitors: Monitors,
    settings: FlatSettings,
    notes: list[str],
) -> StarFlat | None:
    """Solve by epoch where that is asked for; None = one flat for all."""
    drifts = monitors.flat_drifts or (monitors.pixels is not None and monitors.pixels.drifts)
    if settings.by_epoch == "never" or (settings.by_epoch == "auto" and not drifts):
        return None
    if facts.epoch.max() == 0:
        _note(notes, "One flat for all exposures: there is no gap between epochs")
        return None
    number = {int(k): int(facts.epoch[k]) for k in np.flatnonzero(facts.used)}
    return _solve_epochs(matched, facts, star, settings, number)


def _list_responses(star: StarFlat) -> list[StarResponse]:
    """Render the response of a star flat, or of each of its epochs."""
    n = star.epoch_coefficients.shape[1] if star.epoch_id.size else 0
    if not n:
        return [StarResponse(star.render(), star.render_sigma(), star.order)]
    responses = []
    for k, departure in enumerate(star.epoch_coefficients):
        coefficients, covariance = star.coefficients.copy(), star.covariance.copy()
        coefficients[:n] += departure
        own = slice(k * n, (k + 1) * n)
        covariance[:n, :n] += star.epoch_covariance[own, own]
        response = np.exp(star.basis.render(coefficients))
        responses.append(StarResponse(response, star.basis.render_sigma(covariance), star.order))
    return responses


def _warn(notes: list[str], text: str) -> None:
    log.warning("%s; the low frequencies are those of the sky", text)
    notes.append(text)


def _note(notes: list[str], text: str) -> None:
    log.info("%s", text)
    notes.append(text)
