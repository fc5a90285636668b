"""Which pixels deserve a closer look: quick tests of every pixel of a block."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import bottleneck as bn
import numpy as np

from ..parallel import map_in_threads
from .histories import join_pixels
from .noise import NoiseModel, compute_excess, compute_variance
from .odds import shuffle_looks
from .regression import BackgroundFit, fit_background
from .residuals import LocalResiduals, combine_axes, compute_residuals, subtract_medians

__all__ = [
    "CORNER_REACH",
    "Candidates",
    "Control",
    "Pixels",
    "Surroundings",
    "choose_looks",
    "choose_some",
    "compute_priors",
    "compute_sigma",
    "divide_time",
    "find_images",
    "is_control",
    "make_decoys",
    "measure_surroundings",
    "probe_later",
    "split_pixels",
    "weigh_looks",
    "weigh_residuals",
]

# A pixel is looked at closely when one of these is exceeded: twice the log-likelihood ratio of
# one step in time (a change costs a history some 10 in log-odds, and the level of its bad state 3),
# offset and response over their errors, |z| of two looks.
_STEP, _OFFSET, _RESPONSE, _OUTLIER = 16.0, 3.3, 4.0, 4.5
# Two cosmic rays meet a pixel in so many looks: one more outlier is asked for in each of them,
# unless as many as the first number lie within the second of each other.
_RAY_LOOKS, _RUN = 250, (3, 6)
# The first of these where earlier looks found a pixel good: more than one look can say.
_LATER_STEP = 20.0
# Values of which steps in time are tried at once, so that they stay in the cache.
_STEP_VALUES = 32_768
# Pixels whose median z exceeds this do not count as anybody's neighbour.
_EXCLUDE = 6.0
# Looks from which medians in time are taken that need no more than a rough value.
_MEDIAN_LOOKS = 15
# In images a pixel above this many sigma may be a star: what its neighbours show, times this, is
# taken for uncertainty. (A star of 1.3 pixel FWHM on its centre is 4 times its third-best
# neighbour, a wider one less.)
_STAR, _PEAK = 3.0, 3.0
# Pixels over which a corner shows: rows that a block needs beyond those of its residuals.
CORNER_REACH = 2
# Share of the pixels that are drawn for the control sample.
_CONTROL = 0.01
_RING = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pixels worth a closer look; axis 0 = look, last axis = pixel, in row-major order.

    Attributes
    ----------
    y, x : ndarray of int16, shape (n_pixels,)
        0-based full-frame position.
    residual, local, variance : ndarray of float32, shape (n_looks, n_pixels)
        Residual and local level [DN/s], variance of the residual [(DN/s)^2]; NaN residual =
        no evidence.
    sigma_offset, sigma_response : ndarray of float32, shape (n_pixels,)
        Prior widths of the good state.
    """

    y: np.ndarray
    x: np.ndarray
    residual: np.ndarray
    local: np.ndarray
    variance: np.ndarray
    sigma_offset: np.ndarray
    sigma_response: np.ndarray


@dataclass(frozen=True, slots=True)
class Control:
    """Good pixels drawn at random, to compare with; axes as those of `Candidates`.

    Attributes
    ----------
    y, x : ndarray of int16, shape (n_pixels,)
    residual, variance : ndarray of float32, shape (n_looks, n_pixels)
    """

    y: np.ndarray
    x: np.ndarray
    residual: np.ndarray
    variance: np.ndarray


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all looks together say of the surroundings of each pixel.

    Attributes
    ----------
    outcast : ndarray of bool, shape (ny, nx)
        Nobody's neighbours: they are left out of the medians.
    outcast_then : ndarray of bool, shape (n_parts, ny, nx)
        The same in each part of the time: no sign of a star.
    structure, relative : ndarray of float32, shape (ny, nx)
        Disagreement of the local models that is always there [DN/s], and relative to the level.
    """

    outcast: np.ndarray
    outcast_then: np.ndarray
    structure: np.ndarray
    relative: np.ndarray


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixels of a block, before any choice; axis 0 = look."""

    residual: np.ndarray
    local: np.ndarray
    variance: np.ndarray
    sigma_offset: np.ndarray
    sigma_response: np.ndarray

    def fit(self) -> BackgroundFit:
        """Fit each pixel's relation to the level, roughly."""
        return fit_background(
            self.residual,
            self.local,
            self.variance,
            sigma_offset=self.sigma_offset,
            sigma_response=self.sigma_response,
            n_iterations=2,
        )

    def take(self, chosen: np.ndarray, y: np.ndarray, x: np.ndarray) -> Candidates:
        """Take chosen pixels, which lie at y and x."""
        return Candidates(
            y.astype(np.int16),
            x.astype(np.int16),
            *(getattr(self, f.name)[..., chosen] for f in fields(self)),
        )


def is_control(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Draw pixels of the full frame for the control sample: bool, broadcast shape of `y` and `x`.

    The draw is the SplitMix64 hash of the position, so that it depends on nothing else.
    """
    state = np.asarray(y).astype(np.uint64) << np.uint64(32) | np.asarray(x).astype(np.uint64)
    state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ state >> np.uint64(shift)) * np.uint64(factor)
    return (state ^ state >> np.uint64(31)) < np.uint64(_CONTROL * 2**64)


def find_images(axes: dict[str, Any]) -> np.ndarray:
    """List the looks without a dispersion axis."""
    return np.flatnonzero([axis is None for axis in axes["dispersion_axes"]])


def compute_sigma(noise: NoiseModel, residuals: LocalResiduals) -> np.ndarray:
    """Scatter expected of a clean pixel, pattern included."""
    return np.sqrt(compute_variance(noise, residuals.local) + noise.pattern(residuals.local))


def _weigh(
    noise: NoiseModel,
    found: LocalResiduals,
    images: np.ndarray,
    core: slice = slice(None),
    outcast: np.ndarray | None = None,
) -> Pixels:
    """Give the residuals of the core rows their variance and the pixels their priors.

    Local models that always disagree by more than noise, as at the edge of a field, or that are
    steep along both axes, as at its corners, widen the priors there; where they
    disagree more than usual, or where an image shows a star, the variance is larger.
    """
    stars = measure_stars(noise, found, images, outcast)
    some = choose_some(len(found.local))
    middle = np.nan_to_num(bn.nanmedian(found.local[some], axis=0))
    found = _cut_rows(found, core)
    variance = compute_variance(noise, found.local)
    sigma = np.sqrt(variance + noise.pattern(found.local))
    structure, relative = _find_structure(middle, found.spread[some], sigma[some], core)
    variance += compute_excess(sigma, found.spread, structure)
    variance[images] += stars[:, core]
    return Pixels(
        found.residual, found.local, variance, *compute_priors(noise, structure, relative)
    )


def _cut_rows(found: LocalResiduals, core: slice) -> LocalResiduals:
    planes = (getattr(found, f.name)[:, core] for f in fields(found))
    return LocalResiduals(*map(np.ascontiguousarray, planes))


def weigh_looks(
    rate: np.ndarray,
    noise: NoiseModel,
    axes: dict[str, Any],
    surroundings: Surroundings,
    part: np.ndarray,
) -> np.ndarray:
    """Compute the evidence of whole looks, given what all looks say of the surroundings.

    Parameters
    ----------
    rate : ndarray of float32, shape (n_looks, ny, nx)
        Count rates of the whole window [DN/s]; NaN = no evidence.
    noise : NoiseModel
        Of these looks.
    axes : dict
        Their dispersion axes, and windows, for `compute_residuals`.
    surroundings : Surroundings
    part : ndarray of int, shape (n_looks,)
        Part of the time that each look belongs to.

    Returns
    -------
    ndarray of float32, shape (n_looks, 3, ny, nx)
        Residual, local level [DN/s] and variance of the residual [(DN/s)^2].
    """
    found = compare_looks(rate, noise, axes, surroundings.outcast)
    return weigh_residuals(found, noise, find_images(axes), surroundings, part)


def weigh_residuals(
    found: LocalResiduals,
    noise: NoiseModel,
    images: np.ndarray,
    surroundings: Surroundings,
    part: np.ndarray,
) -> np.ndarray:
    """Compute the evidence of looks from their residuals; parameters as in `weigh_looks`."""
    stars = measure_stars(noise, found, images, surroundings.outcast_then[part])
    variance = compute_variance(noise, found.local)
    sigma = np.sqrt(variance + noise.pattern(found.local))
    variance += compute_excess(sigma, found.spread, surroundings.structure)
    variance[images] += stars
    return np.stack([found.residual, found.local, variance], axis=1)


def measure_surroundings(
    rate: np.ndarray,
    core: slice,
    noise: NoiseModel,
    axes: dict[str, Any],
    looks: np.ndarray,
    part: np.ndarray,
) -> tuple[Surroundings, LocalResiduals]:
    """Measure what some looks, that stand for all, say of the surroundings of the core rows.

    Parameters
    ----------
    rate : ndarray of float32, shape (n_some, ny, nx)
        Count rates of the looks `looks`, to which `noise` belongs, halo included [DN/s].
    core : slice
        Rows without the halo.
    noise : NoiseModel
    axes : dict
        Dispersion axes of all looks and windows, for `compute_residuals`.
    looks : ndarray of int, shape (n_some,)
        See `choose_some`.
    part : ndarray of int, shape (n_looks,)
        See `divide_time`.

    Returns
    -------
    Surroundings
    LocalResiduals
        Of the core rows of these looks.
    """
    outcast, then = find_outcasts(rate, noise, axes, looks, part)
    own = {**axes, "dispersion_axes": [axes["dispersion_axes"][k] for k in looks]}
    found = compare_looks(rate, noise, own, outcast)
    middle = np.nan_to_num(bn.nanmedian(found.local, axis=0))
    found = _cut_rows(found, core)
    structure = _find_structure(middle, found.spread, compute_sigma(noise, found), core)
    return Surroundings(outcast[core], then[:, core], *structure), found


def _find_structure(
    middle: np.ndarray, spread: np.ndarray, sigma: np.ndarray, core: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Disagreement of the local models that is always there [DN/s], and relative to the level."""
    steep = _measure_corners(middle)[core]
    middle = np.abs(middle[core])
    usual = np.maximum(bn.nanmedian(spread, axis=0), 2 * steep)
    structure = usual - 2 * bn.nanmedian(sigma, axis=0)
    structure = np.maximum(np.nan_to_num(structure), 0)
    return structure, structure / np.maximum(np.maximum(middle, structure), 1e-6)


def compute_priors(
    noise: NoiseModel, structure: np.ndarray, relative: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Prior widths of offset [DN/s] and response: float32, shape of `structure`."""
    return (
        np.hypot(noise.sigma_offset, 0.1 * structure).astype(np.float32),
        np.hypot(noise.sigma_response, 0.5 * relative).astype(np.float32),
    )


def choose_some(n_looks: int) -> np.ndarray:
    """Choose looks, spread in time, whose median does for the median of all."""
    return np.unique(np.linspace(0, n_looks - 1, _MEDIAN_LOOKS).astype(int))


def measure_stars(
    noise: NoiseModel, found: LocalResiduals, images: np.ndarray, outcast: np.ndarray | None
) -> np.ndarray:
    """Variance that stars add: float32 (n_images, ny, nx) [(DN/s)^2].

    A star shows in the pixels around its peak, a bad pixel does not; the third largest of the
    eight neighbours decides, so that two bad pixels side by side are no star.
    """
    added = np.zeros((len(images), *found.residual.shape[1:]), np.float32)
    if not len(images):
        return added
    residual = found.residual[images]
    local = found.local[images]
    sigma = np.sqrt(compute_variance(choose_looks(noise, images), local) + noise.pattern(local))
    with np.errstate(invalid="ignore"):
        look, y, x = np.nonzero(np.abs(residual) > _STAR * sigma)
    quiet = np.nan_to_num(residual)
    if outcast is not None:
        quiet[outcast[images] if outcast.ndim == 3 else np.broadcast_to(outcast, quiet.shape)] = 0
    quiet = np.pad(quiet, [(0, 0), (1, 1), (1, 1)])
    sign = np.sign(residual[look, y, x])
    around = np.stack([quiet[look, y + 1 + dy, x + 1 + dx] * sign for dy, dx in _RING])
    third = np.partition(around, -3, axis=0)[-3] if look.size else np.empty(0, np.float32)
    added[look, y, x] = (_PEAK * np.maximum(third, 0)) ** 2
    return added


def choose_looks(noise: NoiseModel, looks: np.ndarray) -> NoiseModel:
    """Choose the noise of some looks."""
    return replace(
        noise, level=noise.level[looks], sigma=noise.sigma[looks], n_used=noise.n_used[looks]
    )


def divide_time(n_looks: int) -> np.ndarray:
    """Give each look the number of its part of the time, of three parts at most."""
    edges = np.linspace(0, n_looks, 4 if n_looks >= 9 else 2).astype(int)
    return np.searchsorted(edges[1:], np.arange(n_looks), side="right")


def find_outcasts(
    rate: np.ndarray,
    noise: NoiseModel,
    axes: dict[str, Any],
    looks: np.ndarray,
    part: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mark pixels that stand out in most looks: they are nobody's neighbours.

    A cluster that turned bad stands out in its own time; stars move on.

    Parameters
    ----------
    rate : ndarray of float32, shape (n_some, ny, nx)
        Count rates of the looks `looks`, to which `noise` belongs [DN/s].
    noise : NoiseModel
    axes : dict
        Dispersion axes of all looks and windows, for `compute_residuals`.
    looks : ndarray of int, shape (n_some,)
    part : ndarray of int, shape (n_looks,), optional
        See `divide_time`.

    Returns
    -------
    outcast : ndarray of bool, shape (ny, nx)
    outcast_then : ndarray of bool, shape (n_parts, ny, nx)
        The same in each part of the time; none without `part`.
    """
    nobody = np.zeros(rate.shape[1:], bool)
    z = np.empty_like(rate)
    for k, look in enumerate(looks):
        one = {**axes, "dispersion_axes": [axes["dispersion_axes"][look]]}
        rough = compute_residuals(rate[[k]], nobody, **one)
        z[k] = (rough.residual / compute_sigma(choose_looks(noise, np.array([k])), rough))[0]
    outcast = np.abs(bn.nanmedian(z, axis=0)) > _EXCLUDE
    n_parts = 0 if part is None else int(part.max()) + 1
    then = np.zeros((n_parts, *outcast.shape), bool)
    if part is not None:
        for k, out in enumerate(then):
            out[...] = np.abs(bn.nanmedian(z[part[looks] == k], axis=0)) > _EXCLUDE
    return outcast, then


def compare_looks(
    rate: np.ndarray,
    noise: NoiseModel,
    axes: dict[str, Any],
    outcast: np.ndarray,
    rows: slice = slice(None),
) -> LocalResiduals:
    """Compute the residuals of looks, those of some rows, given who is nobody's neighbour."""
    planes = np.empty((3, *rate[:, rows].shape), np.float32)
    # One by one: what is made of a look stays in the processor's cache.
    for k, axis in enumerate(axes["dispersion_axes"]):
        own = np.array([k])
        one = {**axes, "dispersion_axes": [axis]}
        medians = subtract_medians(rate[own], outcast, **one, rows=rows)
        sigma = compute_sigma(choose_looks(noise, own), combine_axes(medians))
        found = combine_axes(medians, sigma)
        planes[:, k] = found.residual[0], found.local[0], found.spread[0]
    return LocalResiduals(*planes)


def _measure_corners(level: np.ndarray) -> np.ndarray:
    """Change of the local level over two pixels, along the axis on which it is smaller [DN/s].

    At a straight edge it is zero along the edge; at a corner of a field it is large along both,
    and no one-dimensional model holds.
    """
    change = []
    for axis in (0, 1):
        reach, n = CORNER_REACH, level.shape[axis]
        width = [(reach, reach) if k == axis else (0, 0) for k in (0, 1)]
        padded = np.pad(level, width, mode="edge")
        before, after = (
            padded.take(range(n), axis),
            padded.take(range(2 * reach, n + 2 * reach), axis),
        )
        change.append(np.maximum(np.abs(level - before), np.abs(after - level)))
    return np.minimum(*change)


def split_pixels(
    pixels: Pixels, y: np.ndarray, x: np.ndarray
) -> tuple[Candidates, Control, BackgroundFit]:
    """Split pixels, which lie at y and x, into candidates and others; the fit of all.

    Of the others 1 % of those with evidence are the control sample.
    """
    chosen, fit = _choose(pixels)
    drawn = is_control(y, x) & ~chosen & np.isfinite(pixels.residual).any(axis=0)
    control = Control(
        y[drawn].astype(np.int16),
        x[drawn].astype(np.int16),
        pixels.residual[:, drawn],
        pixels.variance[:, drawn],
    )
    return pixels.take(chosen, y[chosen], x[chosen]), control, fit


def make_decoys(
    sample: LocalResiduals,
    bad: np.ndarray,
    noise: NoiseModel,
    visits: np.ndarray,
    images: np.ndarray,
    *,
    n_copies: int,
    seed: int = 0,
) -> tuple[Candidates, int]:
    """Make good pixels out of a sample, and keep those that the quick tests choose.

    A decoy has the level, the noise and the looks of its pixel, a flat-field error and an offset
    drawn from the pattern, and in each visit the error of another pixel: cosmic rays, sources
    and all that is not Gaussian happen to it as often as to any pixel, and nothing lasts.

    Parameters
    ----------
    sample : LocalResiduals
        Residuals of sample rows.
    bad : ndarray of bool, shape (ny, nx)
        Pixels of the sample that are bad beyond doubt, left out.
    noise : NoiseModel
    visits : ndarray of int, shape (n_looks,)
        Number of the visit that each look belongs to.
    images : ndarray of int
        Looks without a dispersion axis.
    n_copies : int
        Decoys made of each pixel.
    seed : int
        Seed of the draws.

    Returns
    -------
    candidates : Candidates
        The chosen decoys; y = number of the copy, x = 0.
    n_decoys : int
        Decoys made, chosen or not.
    """
    pixels = _weigh(noise, sample, images, outcast=bad)
    fit = pixels.fit()
    n_looks = len(sample.residual)
    usable = (np.isfinite(sample.residual) & ~bad).reshape(n_looks, -1)
    own = np.flatnonzero(usable.any(axis=0))
    flat = Pixels(
        *(
            np.ascontiguousarray(getattr(pixels, f.name).reshape(-1, bad.size)[:, own])
            for f in fields(pixels)
        )
    )
    flat = replace(flat, sigma_offset=flat.sigma_offset[0], sigma_response=flat.sigma_response[0])
    standardised = fit.standardised.reshape(n_looks, -1)[:, own].astype(np.float32)
    usable = usable[:, own]

    def draw(copy: int) -> Candidates:
        rng = np.random.default_rng([seed, copy])
        error = shuffle_looks(standardised, usable, visits, rng) * np.sqrt(flat.variance)
        offset, response = rng.standard_normal((2, own.size), np.float32)
        error += noise.sigma_offset * offset + noise.sigma_response * response * flat.local
        decoys = replace(flat, residual=np.where(usable, error, np.nan).astype(np.float32))
        chosen, _ = _choose(decoys)
        n = int(chosen.sum())
        return decoys.take(chosen, np.full(n, copy), np.zeros(n, int))

    parts = list(map_in_threads(draw, range(n_copies)))
    return join_pixels(parts), own.size * n_copies


def _choose(pixels: Pixels) -> tuple[np.ndarray, BackgroundFit]:
    """Apply the quick tests: bool, shape of a plane; and the fit that they rest on."""
    fit, evidence = pixels.fit(), np.isfinite(pixels.residual)
    chosen = _largest_step(fit.standardised, evidence) > _STEP
    chosen |= np.abs(fit.offset) > _OFFSET * fit.free_err(pixels.sigma_offset, fit.offset_err)
    chosen |= np.abs(fit.response) > _RESPONSE * fit.free_err(
        pixels.sigma_response, fit.response_err
    )
    # Where the last look alone stands out, one change explains it: the pixel may be PENDING.
    at_last = np.zeros_like(fit.standardised[0])
    for z, seen in zip(fit.standardised, evidence, strict=True):
        np.copyto(at_last, z, where=seen)
    return chosen | (np.abs(at_last) > _OUTLIER) | _has_outliers(fit.standardised), fit


def probe_later(z: np.ndarray, n_earlier: np.ndarray) -> np.ndarray:
    """Test pixels that were good so far by later looks: bool, shape of a plane.

    Parameters
    ----------
    z : ndarray of float32, shape (n_looks, n_pixels)
        Residual less offset and response of the pixel, over its sigma; NaN = no evidence.
    n_earlier : ndarray of int, shape (n_pixels,)
        Looks with evidence before, in which it was good.
    """
    evidence = np.isfinite(z)
    error = np.concatenate([np.zeros_like(z[:1]), np.where(evidence, z, 0)])
    count = np.concatenate([n_earlier[None].astype(z.dtype), evidence])
    chosen = _largest_step(error, count) > _LATER_STEP
    return chosen | _has_outliers(error)


def _largest_step(z: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    """Twice the log-likelihood ratio of the best single step in time, values clipped at 4.

    Looks without evidence (z = 0) do not count.
    """
    total, seen = _add_up(np.clip(z, -4, 4)), _add_up(evidence.astype(z.dtype))
    best = np.zeros(z.shape[1:], z.dtype)
    n_rows = max(1, _STEP_VALUES // max(best.size, 1))
    for start in range(0, len(z) - 1, n_rows):
        own = slice(start, min(start + n_rows, len(z) - 1))
        weight = seen[-1] * seen[own] * (seen[-1] - seen[own])
        gap = total[own] * seen[-1] - total[-1] * seen[own]
        np.maximum(best, (gap * gap / np.maximum(weight, 1)).max(axis=0), out=best)
    return best


def _add_up(values: np.ndarray) -> np.ndarray:
    """Add up along axis 0 in place; row by row, a tenth of the time of `numpy.cumsum`."""
    for before, row in pairwise(values):
        row += before
    return values


def _has_outliers(z: np.ndarray) -> np.ndarray:
    """Whether looks stand out, so many that cosmic rays alone do not do it: bool, a plane."""
    out = np.abs(z) > _OUTLIER
    count = np.count_nonzero(out, axis=0)
    chosen = np.asarray(count >= 2 + len(z) // _RAY_LOOKS)
    n_together, reach = _RUN
    left = (count >= n_together) & ~chosen
    if not left.any():
        return chosen
    total = _add_up(out[:, left].astype(int))
    before = np.concatenate([np.zeros((reach, *total.shape[1:]), int), total[:-reach]])
    chosen[left] = (total - before >= n_together).any(axis=0)
    return chosen
