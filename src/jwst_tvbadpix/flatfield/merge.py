"""P-flat of the sky times L-flat of the stars, and what differs between the two."""

import logging
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import legendre

from ..errors import EvidenceError
from .sky import list_terms
from .stack import StackedFlat

__all__ = ["MergedFlat", "StarResponse", "make_flags", "merge_flats"]

log = logging.getLogger(__name__)

# Residuals of the smooth fit that are left out [sigma].
_N_SIGMA = 5.0
# Lit pixels wanted for each term of the smooth fit.
_PIXELS_PER_TERM = 100


@dataclass(frozen=True, slots=True)
class StarResponse:
    """Response to the whole light of a star, as the star flat gives it.

    Attributes
    ----------
    response : ndarray of float32 or float64, shape (ny, nx)
        Any normalisation; no pixel area in it.
    err : ndarray, shape (ny, nx)
        Its relative 1-sigma error, the gradients that the survey leaves free included.
    order : int
        Total degree of the polynomial that its logarithm is.
    """

    response: np.ndarray
    err: np.ndarray
    order: int


@dataclass(frozen=True, slots=True)
class MergedFlat:
    """Reference flat and its parts, float32 (ny, nx); NaN = not usable.

    Attributes
    ----------
    flat : ndarray
        ``p_flat * l_flat``, mean 1 over the region of the stack.
    err : ndarray
        Total 1-sigma error: `err_random` and `err_systematic` in quadrature.
    err_random, err_systematic : ndarray
        Independent from pixel to pixel; shared by neighbours.
    p_flat : ndarray
        Response of each pixel over the smooth response.
    l_flat : ndarray
        Smooth response, pixel area included: the stars' where there is a star flat, else the
        sky's.
    l_sky : ndarray
        Smooth response to the sky, pixel area included.
    area : ndarray
        Solid angle of the pixels over its mean in the region.
    ratio, ratio_err : ndarray
        Sky over star, mean 1: light that reaches the detector on other ways than star light does.
        NaN without a star flat.
    coverage : ndarray of int32
        Exposures in the stack.
    flags : dict of str to ndarray of bool
        See `make_flags`.
    order : int
        Total degree of the smooth responses.
    region : ndarray of bool
        Pixels whose mean is 1.
    """

    flat: np.ndarray
    err: np.ndarray
    err_random: np.ndarray
    err_systematic: np.ndarray
    p_flat: np.ndarray
    l_flat: np.ndarray
    l_sky: np.ndarray
    area: np.ndarray
    ratio: np.ndarray
    ratio_err: np.ndarray
    coverage: np.ndarray
    flags: dict[str, np.ndarray]
    order: int
    region: np.ndarray


def merge_flats(
    stack: StackedFlat,
    star: StarResponse | None,
    area: np.ndarray,
    *,
    order: int = 5,
    non_science: np.ndarray | None = None,
    least_response: float = 0.1,
    unreliable_err: float = 0.02,
) -> MergedFlat:
    """Merge the sky's pixel-to-pixel response with the smooth response of the stars.

    Parameters
    ----------
    stack : StackedFlat
    star : StarResponse or None
        None = no star flat: the smooth response is the sky's.
    area : ndarray, shape (ny, nx)
        Solid angle of the pixels, any unit; NaN where it is unknown.
    order : int
        Total degree of the smooth response without a star flat; else that of the star flat.
    non_science, least_response, unreliable_err
        See `make_flags`.

    Returns
    -------
    MergedFlat

    Raises
    ------
    EvidenceError
        Shapes that differ, no area or star response where pixels are lit, or too few lit pixels
        for the order.

    Notes
    -----
    With A the area over its mean, the sky shows ``F = P L_sky A``. L_sky is the polynomial fitted
    to ``ln(F / A)`` over the region (its value at the nearest edge outside of the region's
    outline); ``P = F / (L_sky A)``, the reference is ``P L_star A``, and the ratio
    ``L_sky / L_star``. Whatever is not in the span of the polynomial (vignetting, edges) stays in
    P. Lit pixels that the star flat does not reach keep the sky's response, and the rms of the
    ratio counts as their systematic error.
    """
    _check(stack, star, area)
    order = order if star is None else star.order
    region = _find_region(stack, star, area, order)
    known = np.isfinite(area) & (area > 0)
    relative = np.where(known, area / area[region].mean(), 1.0)
    sky = stack.flat.astype(np.float64) / relative
    smooth, smooth_err = _fit_smooth(sky, region, order)
    l_sky = smooth * relative
    p_flat = stack.flat / l_sky
    with np.errstate(divide="ignore", invalid="ignore"):
        random, systematic = stack.err_random / stack.flat, stack.err_systematic / stack.flat
    if star is None:
        ratio, ratio_err = (np.full(sky.shape, np.nan) for _ in range(2))
    else:
        ratio, relative_err = _compare(smooth, smooth_err, star, region)
        ratio_err = ratio * np.hypot(relative_err, systematic)
        # What the sky's smooth response has wrong is divided out; without stars it stays.
        beyond = np.hypot(systematic, np.nanstd(ratio[region]))
        systematic = np.where(np.isfinite(ratio), np.hypot(star.err, smooth_err), beyond)
    l_flat = l_sky / np.where(np.isfinite(ratio), ratio, 1.0)
    flat = p_flat * l_flat
    scale = flat[region].mean()
    flat, l_flat = flat / scale, l_flat / scale
    with np.errstate(invalid="ignore"):
        err = flat * np.hypot(random, systematic)
    flags = make_flags(
        flat,
        err,
        stack.coverage,
        non_science=non_science,
        least_response=least_response,
        unreliable_err=unreliable_err,
    )
    kept = _clean(flags, least_response, flat=flat, random=random, systematic=systematic)
    maps = {
        "p_flat": p_flat,
        "l_flat": l_flat,
        "l_sky": l_sky,
        "area": relative,
        "ratio": ratio,
        "ratio_err": ratio_err,
    }
    return MergedFlat(
        **kept,
        **{name: value.astype(np.float32) for name, value in maps.items()},
        coverage=stack.coverage,
        flags=flags,
        order=order,
        region=region,
    )


def make_flags(
    flat: np.ndarray,
    err: np.ndarray,
    coverage: np.ndarray,
    *,
    non_science: np.ndarray | None = None,
    least_response: float = 0.1,
    unreliable_err: float = 0.02,
) -> dict[str, np.ndarray]:
    """Decide what is said of each pixel, by the pipeline's names of flags.

    Parameters
    ----------
    flat, err : ndarray, shape (ny, nx)
        Response and its total 1-sigma error.
    coverage : ndarray of int, shape (ny, nx)
        Exposures that measured the pixel.
    non_science : ndarray of bool, shape (ny, nx), optional
        Pixels that are not for imaging (the slit of the LRS): they carry NON_SCIENCE alone, for
        DO_NOT_USE would take them from spectroscopy with the same flat.
    least_response : float
        Response below which a pixel is not used.
    unreliable_err : float
        Relative error above which the flat of a pixel is unreliable.

    Returns
    -------
    dict of str to ndarray of bool
        NO_FLAT_FIELD and DO_NOT_USE (together): not finite, too low (zero and negative values
        would be applied), or never measured; UNRELIABLE_FLAT; NON_SCIENCE.
    """
    spared = np.zeros(flat.shape, bool) if non_science is None else np.asarray(non_science, bool)
    with np.errstate(invalid="ignore"):
        usable = (flat >= least_response) & (flat < np.inf) & (err < np.inf) & (coverage > 0)
        unreliable = usable & (err > unreliable_err * flat) & ~spared
    lost = ~usable & ~spared
    return {
        "DO_NOT_USE": lost,
        "NO_FLAT_FIELD": lost.copy(),
        "UNRELIABLE_FLAT": unreliable,
        "NON_SCIENCE": spared.copy(),
    }


def _check(stack: StackedFlat, star: StarResponse | None, area: np.ndarray) -> None:
    """Refuse maps of another shape."""
    maps = {"area": area}
    if star is not None:
        maps |= {"star response": star.response, "error of the star response": star.err}
    for name, values in maps.items():
        if np.shape(values) != stack.flat.shape:
            raise EvidenceError(
                f"expected the {name} as a map of {stack.flat.shape} pixels, found "
                f"{np.shape(values)}; give that of the full detector"
            )


def _find_region(
    stack: StackedFlat, star: StarResponse | None, area: np.ndarray, order: int
) -> np.ndarray:
    """Mark the pixels of the region that all maps cover; raise when they are too few."""
    region = stack.region & np.isfinite(stack.flat) & np.isfinite(area) & (area > 0)
    if star is not None:
        region &= np.isfinite(star.response) & (star.response > 0)
    n_terms = 1 + len(list_terms(order))
    if region.sum() < _PIXELS_PER_TERM * n_terms:
        raise EvidenceError(
            f"expected at least {_PIXELS_PER_TERM} pixels with sky response, area and star "
            f"response for each of the {n_terms} terms of order {order}, found "
            f"{int(region.sum())}; give maps that overlap, or a lower order"
        )
    return region


def _fit_smooth(sky: np.ndarray, region: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit exp(polynomial) to the pixels of a region: the response, and its relative error.

    The scatter of the pixels about it, which is their own response, makes the error.
    """
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    y, x = (
        legendre.legvander(
            np.clip(2 * (np.arange(n) - at[0]) / max(at[-1] - at[0], 1) - 1, -1, 1), order
        )
        for n, at in zip(sky.shape, (rows, columns), strict=True)
    )
    terms = [(0, 0), *list_terms(order)]
    used = region & (sky > 0)
    value = np.log(np.where(used, sky, 1.0))
    found: np.ndarray = np.zeros(len(terms))
    for _ in range(3):
        normal: np.ndarray = np.zeros((len(terms), len(terms)))
        right: np.ndarray = np.zeros(len(terms))
        for row in map(int, rows):
            seen = used[row]
            design = np.stack([y[row, i] * x[seen, j] for i, j in terms])
            normal += design @ design.T
            right += design @ value[row, seen]
        found = np.linalg.solve(normal, right)
        matrix = np.zeros((order + 1, order + 1))
        for (i, j), coefficient in zip(terms, found, strict=True):
            matrix[i, j] = coefficient
        model = y @ matrix @ x.T
        distance = np.abs(value - model)
        spread = 1.4826 * float(np.median(distance[used]))
        used = region & (sky > 0) & (distance <= _N_SIGMA * max(spread, 1e-9))
    covariance = np.linalg.inv(normal) * float(np.mean(distance[used] ** 2))
    variance = np.empty(sky.shape)
    for row in range(sky.shape[0]):
        design = np.stack([y[row, i] * x[:, j] for i, j in terms])
        variance[row] = ((covariance @ design) * design).sum(axis=0)
    return np.exp(model), np.sqrt(np.maximum(variance, 0))


def _compare(
    smooth: np.ndarray, smooth_err: np.ndarray, star: StarResponse, region: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Divide the sky's smooth response by the stars': ratio of mean 1, and its relative error."""
    with np.errstate(invalid="ignore"):
        reached = (star.response > 0) & (star.response < np.inf) & (star.err < np.inf)
    ratio = np.full(smooth.shape, np.nan)
    np.divide(smooth, star.response, out=ratio, where=reached)
    ratio /= ratio[region].mean()
    log.info("sky over star: rms %.3g %%", 100 * float(ratio[region].std()))
    return ratio, np.hypot(star.err, smooth_err)


def _clean(
    flags: dict[str, np.ndarray],
    least_response: float,
    *,
    flat: np.ndarray,
    random: np.ndarray,
    systematic: np.ndarray,
) -> dict[str, np.ndarray]:
    """Make flat and errors that can be applied wherever DO_NOT_USE is not set.

    A pixel that is only NON_SCIENCE and was not measured gets 1, with an error of 1.
    """
    with np.errstate(invalid="ignore"):
        measured = (flat >= least_response) & (flat < np.inf)
        measured &= (random < np.inf) & (systematic < np.inf)
        values = {"flat": flat, "err_random": flat * random, "err_systematic": flat * systematic}
    filled = flags["NON_SCIENCE"] & ~measured
    for name, value in (("flat", 1.0), ("err_random", 0.0), ("err_systematic", 1.0)):
        values[name] = np.where(filled, value, values[name])
    values["err"] = np.hypot(values["err_random"], values["err_systematic"])
    lost = flags["DO_NOT_USE"]
    return {name: np.where(lost, np.nan, v).astype(np.float32) for name, v in values.items()}
