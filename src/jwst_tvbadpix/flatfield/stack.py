"""Flat from the sky between the stars of many dithered exposures."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import bottleneck as bn
import numpy as np
from threadpoolctl import threadpool_limits

from ..errors import EvidenceError
from ..parallel import map_in_threads
from .frames import (
    SPARSE,
    Exposures,
    Frame,
    Look,
    Run,
    StackSettings,
    describe_dark,
    make_counter,
    measure_level,
    read_frame,
    weigh,
)
from .halves import HalfSums, split_halves
from .jackknife import TileSums, make_errors, make_groups
from .mosaic import Pointings, average_fluxes, build_catalogue, project_catalogue
from .sky import Background, Transients, find_transients, fit_background, list_terms
from .sources import (
    Profile,
    Stars,
    collect_cutouts,
    count_pointings,
    detect_stars,
    find_extended,
    make_profile,
    mark_cruciform,
    measure_stars,
    render_stars,
)
from .stability import PixelDrift

__all__ = ["ExcludedFrame", "StackSettings", "StackedFlat", "stack_flat"]

log = logging.getLogger(__name__)

# Values (exposure, row, column) whose median is taken at once.
_VALUES_AT_ONCE = 6_000_000
# Response below which a pixel is not lit, relative to the median of the lit ones.
_LEAST_RESPONSE = 0.05
# Star light above which a pixel is not used, and below which it shows the background [sigma].
_MOST_LIGHT, _DARK = 5.0, 1.0
# Exposures that show the profile of the stars, images of stars kept at first, and rounds.
_N_PROFILE, _N_CUTOUTS, _PROFILE_ROUNDS = 15, 120, 2
# Least share of an exposure, and of the lit detector, that must be sky.
_LEAST_SKY, _LEAST_COVERED = 0.05, 0.5
# Least share of the residuals' variance that is taken to be left by their mean.
_LEAST_LEFT = 0.3
# 80th percentile of the modulus of a normal deviate.
_PERCENTILE_80 = 1.2816
# Pointings further apart than this [FWHM] are different; so many are needed.
_DITHER_FWHM, _LEAST_POINTINGS = 1.5, 3


@dataclass(frozen=True, slots=True)
class ExcludedFrame:
    """An exposure that is not in the stack: its index, and why."""

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class StackedFlat:
    """Response to the smooth sky, pixel area included.

    Attributes
    ----------
    flat : ndarray of float32, shape (ny, nx)
        Mean 1 over `region`; NaN = not lit, never measured.
    err : ndarray of float32, shape (ny, nx)
        Total 1-sigma error: `err_random` and `err_systematic` in quadrature.
    err_formal : ndarray of float32, shape (ny, nx)
        From the errors of the exposures as they were given.
    err_random : ndarray of float32, shape (ny, nx)
        The same, with the errors of each exposure scaled to the scatter of its pixels.
    err_jackknife : ndarray of float32, shape (ny, nx)
        From leaving out one tile after the other; few tiles make it noisy.
    err_systematic : ndarray of float32, shape (ny, nx)
        What groups of pixels vary from tile to tile more than their random errors, smooth.
    coverage : ndarray of int32, shape (ny, nx)
        Exposures in which the pixel saw sky.
    region : ndarray of bool, shape (ny, nx)
        Pixels whose mean is 1.
    backgrounds : tuple of Background
        One per exposure; level NaN where it was not used.
    error_scale : ndarray of float64, shape (n_exp,)
        Scatter of the pixels over the errors given.
    masked : ndarray of float64, shape (n_exp,)
        Share of the lit pixels that sources hid.
    stars : tuple of Stars
        What was subtracted, one per exposure, in detector coordinates.
    profile : Profile
    transients : Transients
    excluded : tuple of ExcludedFrame
    n_used, n_tiles, n_pointings : int
        Exposures in the stack, groups left out in turn, different pointings.
    settings : StackSettings
    pixel_drift : PixelDrift or None
        Single pixels in an early and a late half; None where `drift_reason` says why.
    drift_reason : str
    split_mjd : float
        Time between the halves [MJD]; NaN without.
    """

    flat: np.ndarray
    err: np.ndarray
    err_formal: np.ndarray
    err_random: np.ndarray
    err_jackknife: np.ndarray
    err_systematic: np.ndarray
    coverage: np.ndarray
    region: np.ndarray
    backgrounds: tuple[Background, ...]
    error_scale: np.ndarray
    masked: np.ndarray
    stars: tuple[Stars, ...]
    profile: Profile
    transients: Transients
    excluded: tuple[ExcludedFrame, ...]
    n_used: int
    n_tiles: int
    n_pointings: int
    settings: StackSettings
    pixel_drift: PixelDrift | None = None
    drift_reason: str = ""
    split_mjd: float = np.nan


# The fits are small: more threads of the algebra would only wait for each other.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def stack_flat(
    exposures: Exposures,
    tiles: Sequence[int],
    mid_mjd: np.ndarray,
    *,
    settings: StackSettings,
    sets: Sequence[int] | None = None,
    pointings: Pointings | None = None,
    region: np.ndarray | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> StackedFlat:
    """Stack dithered exposures of a field into the flat that the smooth sky shows.

    Parameters
    ----------
    exposures : object with `shape`, `len()` and `read(index, start, stop)`
        Count rates that are not flat-fielded, and their 1-sigma errors (photon and read noise),
        each float32 ``(stop - start, nx)`` [DN/s]; NaN = no evidence.
    tiles : sequence of int, length n_exp
        Number of the pointing (without its dithers) of each exposure; they are left out in turn.
    mid_mjd : ndarray of float64, shape (n_exp,)
        Mid-times [MJD].
    settings : StackSettings
    sets : sequence of int, length n_exp, optional
        Exposures taken without a change of filter in between, see `find_transients`; the tiles
        where it is not given.
    pointings : Pointings, optional
        From the detector to one tangent plane of the sky and back. With them, sources are sought
        a second time on the combined sky of all exposures and put back into each; without, in
        each exposure by itself.
    region : ndarray of bool, shape (ny, nx), optional
        Pixels whose mean is 1; all lit ones where it is not given.
    progress : callable, optional
        Called with (exposures read, reads in all).

    Returns
    -------
    StackedFlat

    Raises
    ------
    EvidenceError
        Fewer than three usable exposures or different pointings (at least 1.5 FWHM apart), nothing
        lit, or sources everywhere.

    Notes
    -----
    An exposure is ``d = F (B + S) + noise`` with F the flat, B a smooth background and S star
    light. F starts as the median of all; B and S are fitted to ``d / F``, F is the mean of
    ``d / (B + S)``, weighted by the inverse of ``sigma^2 + (0.1 S)^2`` and with clipped
    residuals. Sky structure that stays on the same pixels in all exposures cannot be told from the
    flat: the mean shape of B is 1.
    """
    passes = 3 + 2 * (pointings is not None)
    run, usable = _start(exposures, np.asarray(tiles), settings, progress, passes)
    looks, profile = _detect(run, usable)
    dark = {look.index: reason for look in looks if (reason := describe_dark(look))}
    if dark:
        # Over levels of about 0 they spoil the median that all others are compared with.
        shown = [k for k in usable if k not in dark]
        _require_usable(len(shown), len(exposures), [ExcludedFrame(*item) for item in dark.items()])
        run, usable = _start(exposures, np.asarray(tiles), settings, progress, passes, shown)
        looks, profile = _detect(run, usable)
    n_pointings = _check_dithers(run, looks, pointings)
    looks, sums = _refine(run, looks, profile, True)
    run, looks = _improve(run, looks, sums)
    transients = find_transients(
        _list_levels(len(exposures), looks),
        np.asarray(mid_mjd, float),
        tiles if sets is None else sets,
        tolerance=settings.transient_tolerance,
    )
    looks, excluded = _reject(run, looks, transients, dark)
    if pointings is not None:
        catalogue = build_catalogue(run, looks, profile, pointings)
        looks = project_catalogue(catalogue, looks, pointings, run, profile.reach)
        looks, sums = _refine(run, looks, profile, True)
        run, looks = _improve(run, looks, sums)
        looks = average_fluxes(looks, run, profile.aperture)
    del sums
    weighed = looks
    used = np.isfinite(_list_levels(len(exposures), looks))
    halves = split_halves(np.asarray(mid_mjd, float), used)
    half_sums = None if halves is None else HalfSums(halves, run.flat.shape)
    n_groups = int(run.groups.max()) + 1
    looks, sums = _refine(run, looks, profile, False, n_groups, half_sums)
    run, looks = _improve(run, looks, sums)
    _check_coverage(run, sums)
    stack = _assemble(run, looks, sums, profile, transients, excluded, region, n_pointings)
    # The errors were scaled by what the pass before found; what this one finds is better.
    growth = np.mean([look.scale for look in looks]) / np.mean([look.scale for look in weighed])
    random = stack.err_random * np.float32(np.sqrt(growth))
    stack = replace(stack, err_random=random, err=np.hypot(random, stack.err_systematic))
    return _add_drift(stack, run, half_sums)


def _add_drift(stack: StackedFlat, run: Run, half_sums: HalfSums | None) -> StackedFlat:
    """Add what single pixels do in time, on the full detector."""
    if half_sums is None:
        return replace(stack, drift_reason="fewer than eight exposures, or all of one time")
    split = half_sums.halves.split_mjd
    try:
        drift = half_sums.find_drift()
    except EvidenceError as error:
        return replace(stack, drift_reason=str(error), split_mjd=split)
    drift = replace(
        drift,
        change=_place(run, drift.change, np.nan),
        err=_place(run, drift.err, np.nan),
        changed=_place(run, drift.changed, False),
    )
    return replace(stack, pixel_drift=drift, split_mjd=split)


def _start(
    exposures: Exposures,
    tiles: np.ndarray,
    settings: StackSettings,
    progress: Callable[[int, int], None] | None,
    passes: int,
    shown: Sequence[int] | None = None,
) -> tuple[Run, tuple[int, ...]]:
    """Take the median of exposures that show sky, each over its level, and cut out what is lit."""
    n, (ny, nx) = len(exposures), exposures.shape
    _check_lengths(n, tiles, settings)
    tell = make_counter(n * passes, progress)
    level = np.array(list(map_in_threads(lambda k: measure_level(exposures, k), range(n))))
    usable = np.flatnonzero(level > 0)
    usable = usable if shown is None else np.intersect1d(usable, shown)
    if usable.size < _LEAST_POINTINGS:
        raise EvidenceError(
            f"expected at least {_LEAST_POINTINGS} exposures with sky, found {usable.size} of {n} "
            "whose level is above 0; give more dithered exposures that are not sky-subtracted"
        )
    rows = max(1, _VALUES_AT_ONCE // (usable.size * nx))

    def take(start: int) -> np.ndarray:
        stop = min(ny, start + rows)
        cube = np.empty((stop - start, nx, usable.size), np.float32)
        for i, k in enumerate(usable):
            cube[..., i] = exposures.read(int(k), start, stop)[0] / np.float32(level[k])
        return bn.nanmedian(cube, axis=-1)

    flat = np.concatenate(list(map_in_threads(take, range(0, ny, rows))))
    flat[~np.isfinite(flat)] = np.nan
    flat[~(flat > _LEAST_RESPONSE)] = np.nan
    lit = np.isfinite(flat)
    if not lit.any():
        raise EvidenceError(
            f"expected sky on the detector, found no pixel above 0 in the median of {usable.size} "
            "exposures; give exposures that are not sky-subtracted"
        )
    y, x = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    box = (int(y[0]), int(y[-1]) + 1, int(x[0]), int(x[-1]) + 1)
    cut = np.ascontiguousarray(flat[box[0] : box[1], box[2] : box[3]])
    log.info("%d exposures, %d pixels are lit", usable.size, np.count_nonzero(lit))
    return Run(exposures, box, cut, make_groups(tiles), settings, tell), tuple(map(int, usable))


def _check_lengths(n: int, tiles: np.ndarray, settings: StackSettings) -> None:
    """Refuse what cannot be meant."""
    if tiles.shape != (n,):
        raise EvidenceError(
            f"expected the tile of each of {n} exposures, found {tiles.size}; give one number each"
        )
    if n < _LEAST_POINTINGS:
        raise EvidenceError(
            f"expected at least {_LEAST_POINTINGS} dithered exposures, found {n}; give more"
        )
    if not settings.fwhm > 0:
        raise EvidenceError(f"expected a FWHM above 0 pixels, found {settings.fwhm}; correct it")


def _detect(run: Run, usable: Sequence[int]) -> tuple[list[Look], Profile]:
    """Find stars in each exposure, and how their light spreads."""
    fwhm, order = run.settings.fwhm, run.settings.background_order

    def look_at(index: int) -> tuple[Look, list[tuple[np.ndarray, float]]]:
        frame = read_frame(run, index)
        seen = frame.image[frame.good]
        middle = float(bn.median(seen[::SPARSE])) if seen.size else np.nan
        sky = frame.good & (np.abs(frame.image - middle) < _MOST_LIGHT * frame.noise)
        background = fit_background(frame.image, sky, order=order)
        image = frame.image - background.evaluate(frame.image.shape)
        stars = detect_stars(image, frame.good, frame.noise, fwhm)
        run.tell()
        cutouts = collect_cutouts(image, frame.good, stars, None, frame.noise, fwhm)
        return Look(index, stars, background, noise=frame.noise), cutouts

    looks: list[Look] = []
    cutouts: list[tuple[np.ndarray, float]] = []
    for look, part in map_in_threads(look_at, usable):
        looks.append(look)
        # As many as some exposures would give: memory must not grow with their number.
        cutouts = sorted(cutouts + part, key=lambda cutout: -cutout[1])[:_N_CUTOUTS]
    profile = make_profile(cutouts, fwhm, run.flat.shape)
    # By what they show, so that the order of the exposures does not matter.
    ranked = sorted(looks, key=lambda look: -float(look.stars.flux.sum()))
    shown = ranked[:: -(-len(looks) // _N_PROFILE)]
    for _ in range(_PROFILE_ROUNDS):
        parts = list(map_in_threads(partial(_show_profile, run, profile), shown))
        shown = [look for look, _ in parts]
        cutouts = [cutout for _, part in parts for cutout in part]
        profile = make_profile(cutouts, fwhm, run.flat.shape)
    log.info(
        "%d stars in an exposure (median); their profile comes from %d images",
        int(np.median([look.stars.x.size for look in looks])),
        profile.n_stars,
    )
    return looks, profile


def _show_profile(
    run: Run, profile: Profile, look: Look
) -> tuple[Look, list[tuple[np.ndarray, float]]]:
    """Cut out bright stars of an exposure, its other stars and background subtracted."""
    look, frame, light = _model(run, profile, look, measure=True)
    rest = frame.image - look.background.evaluate(light.shape) - light
    return look, collect_cutouts(
        rest, frame.good, look.stars, profile, frame.noise, run.settings.fwhm
    )


def _model(
    run: Run, profile: Profile, look: Look, *, measure: bool
) -> tuple[Look, Frame, np.ndarray]:
    """Fit the background of an exposure, and its stars where asked; the light of the stars."""
    frame = read_frame(run, look.index, look.scale)
    shape, noise = frame.image.shape, frame.noise
    stars = look.stars
    if measure:
        sky = frame.image - look.background.evaluate(shape)
        stars, light = measure_stars(sky, frame.good, stars, profile, noise)
    else:
        light = render_stars(stars, profile, shape, noise)
    dark = frame.good & (light < _DARK * noise)
    background = fit_background(frame.image - light, dark, order=run.settings.background_order)
    return replace(look, stars=stars, background=background, noise=noise), frame, light


def _refine(
    run: Run,
    looks: Sequence[Look],
    profile: Profile,
    measure: bool,
    n_groups: int = 1,
    half_sums: HalfSums | None = None,
) -> tuple[list[Look], TileSums]:
    """Model each exposure, and sum what it says of the flat."""

    def judge(look: Look) -> tuple[Look, tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
        look, frame, light = _model(run, profile, look, measure=measure)
        smooth = look.background.evaluate(light.shape)
        model = smooth + light
        rest = frame.image - model
        used = frame.good & (light < _MOST_LIGHT * frame.noise)
        if run.settings.cruciform:
            used &= ~mark_cruciform(look.stars, profile, light.shape, frame.noise)
        used &= ~find_extended(rest, used, frame.noise)
        n_lit = max(1, int(np.count_nonzero(frame.good)))
        masked = 1 - int(np.count_nonzero(used)) / n_lit
        weight, relative, given = weigh(frame, run.flat, model, light, used)
        sample = (slice(None, None, SPARSE), slice(None, None, 3))
        dark = used[sample] & (light[sample] < _DARK * frame.noise)
        pull = np.abs(relative[sample][dark]) / np.sqrt(given[sample][dark])
        # A median of |pull| would be too low at first: one exposure is the median itself.
        scatter = (float(np.percentile(pull, 80)) / _PERCENTILE_80) ** 2 if pull.size else np.nan
        scale = look.scale * scatter
        run.tell()
        counted = np.where(weight > 0, given, 0) * (weight * weight / np.float32(look.scale))
        look = replace(look, scale=scale, masked=masked)
        return look, (weight, weight * relative, counted), (relative, given)

    sums = TileSums.start(n_groups, run.flat.shape)
    done = []
    for look, parts, rest in map_in_threads(judge, looks):
        sums.add(int(run.groups[look.index]) if n_groups > 1 else 0, *parts)
        if half_sums is not None:
            half_sums.add(look.index, parts[0], *rest)
        done.append(look)
    # Each residual holds a part of the mean that it is compared with: one for each pixel in all.
    left = 1 - np.count_nonzero(sums.count) / max(1, int(sums.count.sum()))
    return [replace(look, scale=look.scale / max(left, _LEAST_LEFT)) for look in done], sums


def _improve(run: Run, looks: list[Look], sums: TileSums) -> tuple[Run, list[Look]]:
    """Put the mean residual, and the mean shape of the backgrounds, into the flat."""
    order = max(look.background.order for look in looks)
    coefficients = np.zeros((len(looks), len(list_terms(order))))
    for row, look in zip(coefficients, looks, strict=True):
        row[: look.background.coefficients.size] = look.background.coefficients
    shared = coefficients.mean(axis=0)
    shape = Background(1.0, shared, order).evaluate(run.flat.shape)
    flat = run.flat * shape * (1 + np.nan_to_num(sums.mean()))
    middle = float(bn.nanmean(flat))
    looks = [
        replace(
            look,
            background=Background(look.background.level * middle, row - shared, order),
        )
        for look, row in zip(looks, coefficients, strict=True)
    ]
    return replace(run, flat=(flat / np.float32(middle)).astype(np.float32)), looks


def _list_levels(n: int, looks: Sequence[Look]) -> np.ndarray:
    """Level of each exposure: float64 (n,), NaN = not used."""
    level = np.full(n, np.nan)
    for look in looks:
        level[look.index] = look.background.level
    return level


def _check_dithers(run: Run, looks: Sequence[Look], pointings: Pointings | None) -> int:
    """Count the different pointings; raise where sources would hide the same pixels."""
    distance = _DITHER_FWHM * run.settings.fwhm
    y0, y1, x0, x1 = run.box
    if pointings is None:
        area = float((y1 - y0) * (x1 - x0))
        n = count_pointings([look.stars for look in looks], distance, area)
    else:
        middle = np.array([(x0 + x1) / 2]), np.array([(y0 + y1) / 2])
        places: list[np.ndarray] = []
        for look in looks:
            place = np.ravel(pointings.to_sky(look.index, *middle))
            if all(np.hypot(*(place - other)) >= distance for other in places):
                places.append(place)
        n = len(places)
    if n < _LEAST_POINTINGS:
        raise EvidenceError(
            f"expected at least {_LEAST_POINTINGS} pointings that differ by {distance:.1f} pixels "
            f"({_DITHER_FWHM} FWHM), found {n} among {len(looks)} exposures: sources stay on the "
            "same pixels; add exposures with larger dithers"
        )
    return n


def _reject(
    run: Run, looks: Sequence[Look], transients: Transients, dark: dict[int, str]
) -> tuple[list[Look], tuple[ExcludedFrame, ...]]:
    """Leave out exposures in which the level fades, or that show no sky."""
    kept = []
    known = {look.index for look in looks}
    excluded = [
        ExcludedFrame(k, dark.get(k, "its level is not above 0, or nothing in it is finite"))
        for k in range(len(run.exposures))
        if k not in known
    ]
    for look in looks:
        reason = describe_dark(look)
        if transients.rejected[look.index]:
            reason = (
                f"its level is {transients.excess[look.index]:.1%} above where it settles within "
                f"its set (at most {transients.tolerance:.1%}): an afterimage"
            )
        elif not reason and look.masked > 1 - _LEAST_SKY:
            reason = f"sources hide {look.masked:.1%} of it"
        if reason:
            excluded.append(ExcludedFrame(look.index, reason))
            log.info("exposure %d is left out: %s", look.index, reason)
        else:
            kept.append(look)
    excluded.sort(key=lambda frame: frame.index)
    _require_usable(len(kept), len(run.exposures), excluded)
    return kept, tuple(excluded)


def _require_usable(n_kept: int, n: int, excluded: Sequence[ExcludedFrame]) -> None:
    """Refuse too few exposures; say what the first one left out lacks."""
    if n_kept < _LEAST_POINTINGS:
        first = excluded[0]
        raise EvidenceError(
            f"expected at least {_LEAST_POINTINGS} usable exposures, found {n_kept} of {n}; "
            f"exposure {first.index}: {first.reason}; give more exposures, "
            "or of another field"
        )


def _check_coverage(run: Run, sums: TileSums) -> None:
    """Raise when most of the detector never saw sky."""
    lit = np.isfinite(run.flat)
    share = float(np.mean(sums.count[lit] > 0))
    if share < _LEAST_COVERED:
        raise EvidenceError(
            f"expected sky on at least {_LEAST_COVERED:.0%} of the lit pixels in some exposure, "
            f"found {share:.0%}: sources cover the rest; add exposures with larger dithers or of "
            "an emptier field"
        )


def _assemble(
    run: Run,
    looks: Sequence[Look],
    sums: TileSums,
    profile: Profile,
    transients: Transients,
    excluded: tuple[ExcludedFrame, ...],
    region: np.ndarray | None,
    n_pointings: int,
) -> StackedFlat:
    """Put everything on the full detector, and normalise."""
    errors = make_errors(sums)
    seen = sums.count > 0
    flat = _place(run, np.where(seen, run.flat, np.nan), np.nan)
    region = np.isfinite(flat) & (True if region is None else region)
    if not region.any():
        raise EvidenceError(
            "expected measured pixels in the region whose mean is to be 1, found none; give a "
            "region that is lit"
        )
    mean = float(flat[region].mean(dtype=np.float64))
    flat /= np.float32(mean)
    err = {
        name: _place(run, getattr(errors, name), np.nan) * flat
        for name in ("formal", "random", "jackknife", "systematic")
    }
    n = len(run.exposures)
    backgrounds = [Background(np.nan, np.zeros(0), 0)] * n
    stars = [Stars(*(np.empty(0) for _ in range(3)))] * n
    scale, masked = np.full(n, np.nan), np.full(n, np.nan)
    y0, _, x0, _ = run.box
    for look in looks:
        backgrounds[look.index] = look.background
        shown = look.stars.flux > 0
        x, y, flux = (getattr(look.stars, name)[shown] for name in ("x", "y", "flux"))
        stars[look.index] = Stars(x + x0, y + y0, flux)
        scale[look.index], masked[look.index] = np.sqrt(look.scale), look.masked
    return StackedFlat(
        flat=flat,
        err=np.hypot(err["random"], err["systematic"]),
        err_formal=err["formal"],
        err_random=err["random"],
        err_jackknife=err["jackknife"],
        err_systematic=err["systematic"],
        coverage=_place(run, sums.count, 0),
        region=region,
        backgrounds=tuple(backgrounds),
        error_scale=scale,
        masked=masked,
        stars=tuple(stars),
        profile=profile,
        transients=transients,
        excluded=excluded,
        n_used=len(looks),
        n_tiles=len(sums.weight),
        n_pointings=n_pointings,
        settings=run.settings,
    )


def _place(run: Run, image: np.ndarray, fill: float) -> np.ndarray:
    """Place an image of the box on the full detector."""
    y0, y1, x0, x1 = run.box
    full = np.full(run.exposures.shape, fill, image.dtype)
    full[y0:y1, x0:x1] = image
    return full
