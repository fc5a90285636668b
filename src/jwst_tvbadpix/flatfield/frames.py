"""One exposure at a time: flat-fielded by what is known so far, and weighed."""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import bottleneck as bn
import numpy as np

from .sky import Background
from .sources import Stars

__all__ = [
    "Exposures",
    "Frame",
    "Look",
    "Run",
    "StackSettings",
    "describe_dark",
    "make_counter",
    "measure_level",
    "read_frame",
    "weigh",
]

# Star light is known to this fraction of itself (scatter about the profile with F560W).
_LIGHT_ERROR = 0.1
# Residuals count in full up to the first, not at all from the second [sigma].
_CLIP = (3.5, 5.5)
# Every so many pixels are enough for medians of a frame; a prime number, so that all columns and
# rows are met.
SPARSE = 7
# Bins of the count rate in which the variance is compared with it.
_N_BINS = 24
# Least sky level, in units of the noise of one pixel: images that are not sky-subtracted.
_LEAST_SNR = 2.0


class Exposures(Protocol):
    """What is asked of exposures: any rows of each, so that few pixels are held at once."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the detector."""

    def __len__(self) -> int: ...

    def read(self, index: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows: rate and 1-sigma error, float32 (stop - start, nx) [DN/s]; NaN = none."""


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What the stack can be told.

    Attributes
    ----------
    fwhm : float
        Of a star [pixel].
    cruciform : bool
        Whether light scatters along rows and columns (MIRI imager up to 10 um).
    background_order : int
        Total degree of the background of an exposure.
    transient_tolerance : float
        Fading share of the level from which an exposure is rejected.
    """

    fwhm: float
    cruciform: bool = False
    background_order: int = 2
    transient_tolerance: float = 0.02


@dataclass(frozen=True, slots=True)
class Run:
    """A stack on its way.

    Attributes
    ----------
    exposures : Exposures
    box : tuple of int
        (y0, y1, x0, x1) of what is lit; arrays below are cut to it.
    flat : ndarray of float32, shape of the box
        As known so far; NaN = not lit.
    groups : ndarray of int, shape (n_exp,)
        Group of tiles that is left out together.
    settings : StackSettings
    tell : callable
        Called after each exposure read.
    """

    exposures: Exposures
    box: tuple[int, int, int, int]
    flat: np.ndarray
    groups: np.ndarray
    settings: StackSettings
    tell: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of one exposure besides its pixels.

    Attributes
    ----------
    index : int
    stars : Stars
        In coordinates of the box.
    background : Background
    scale : float
        Variance of the pixels over that of the errors given.
    masked : float
        Share of the lit pixels that sources hide.
    noise : float
        Median 1-sigma error of a pixel of the flat-fielded image.
    members : ndarray of int, shape of the stars
        Their numbers in the catalogue of the combined sky, where there is one.
    """

    index: int
    stars: Stars
    background: Background
    scale: float = 1.0
    masked: float = 0.0
    noise: float = np.nan
    members: np.ndarray = field(default_factory=lambda: np.empty(0, int))


@dataclass(frozen=True, slots=True)
class Frame:
    """One exposure, divided by the flat.

    Attributes
    ----------
    image, variance : ndarray of float32
        Rate over the flat, and its variance as the errors tell; 0 and inf where not `good`.
    good : ndarray of bool
    noise : float
        Median 1-sigma error.
    offset, slope : float
        Variance of the rate = offset + slope * rate: read noise, photon noise.
    """

    image: np.ndarray
    variance: np.ndarray
    good: np.ndarray
    noise: float
    offset: float
    slope: float


def read_frame(run: Run, index: int, scale: float = 1.0) -> Frame:
    """Read one exposure and divide it by the flat; variances are multiplied by `scale`."""
    y0, y1, x0, x1 = run.box
    # Files hand out other byte orders.
    rate, err = (np.asarray(a, np.float32)[:, x0:x1] for a in run.exposures.read(index, y0, y1))
    good = np.isfinite(rate) & (err > 0) & (err < np.inf) & (run.flat > 0)
    image = np.zeros(rate.shape, np.float32)
    variance = np.full(rate.shape, np.inf, np.float32)
    np.divide(rate, run.flat, out=image, where=good)
    np.divide(err, run.flat, out=variance, where=good)
    np.multiply(variance, variance, out=variance, where=good)
    variance *= np.float32(scale)
    sample = (slice(None, None, SPARSE), slice(None, None, 3))
    seen = good[sample]
    noise = float(np.sqrt(bn.median(variance[sample][seen]))) if seen.any() else np.nan
    offset, slope = _fit_noise(rate[sample][seen], err[sample][seen])
    return Frame(image, variance, good, noise, offset, slope)


def _fit_noise(rate: np.ndarray, err: np.ndarray) -> tuple[float, float]:
    """Fit variance = offset + slope * rate to medians in bins; slope 0 where none is seen."""
    if rate.size < 10 * _N_BINS:
        return 1.0, 0.0
    order = np.argsort(rate)
    parts = np.array_split(order, _N_BINS)
    x = np.array([bn.median(rate[p]) for p in parts])
    y = np.array([bn.median(err[p] ** 2) for p in parts])
    if not np.ptp(x) > 0:
        return 1.0, 0.0
    slope, offset = np.polyfit(x, y, 1)
    return (float(offset), float(slope)) if slope > 0 else (1.0, 0.0)


def weigh(
    frame: Frame, flat: np.ndarray, model: np.ndarray, light: np.ndarray, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weigh what one exposure says of the flat.

    Parameters
    ----------
    frame : Frame
    flat : ndarray of float32
        That `frame` was divided by.
    model, light : ndarray of float32
        Expected image, and the star light in it.
    used : ndarray of bool
        Pixels that may count.

    Returns
    -------
    weight : ndarray of float32
        Inverse variance of the relative residual, lowered for outliers; 0 = not used.
    residual : ndarray of float32
        ``image / model - 1``; 0 where the weight is.
    given : ndarray of float32
        Variance of the residual from the errors alone.

    Notes
    -----
    Errors of real exposures contain the photon noise of the very count they belong to, so that a
    low count would weigh more: the variance is taken to the expected count instead, along the
    relation of variance and count in the exposure.
    """
    used = used & (model > 0)
    relative = np.zeros(model.shape, np.float32)
    np.divide(frame.image - model, model, out=relative, where=used)
    given = frame.variance
    if frame.slope > 0:
        gain = np.float32(frame.slope) * flat
        expected = np.float32(frame.offset) + gain * model
        counted = np.float32(frame.offset) + gain * frame.image
        given = given * np.where(
            (counted > 0.1 * expected) & (expected > 0), expected / counted, np.float32(1)
        )
    given = np.where(used, given / (model * model), np.inf).astype(np.float32)
    blur = np.zeros(model.shape, np.float32)
    np.divide(np.float32(_LIGHT_ERROR) * light, model, out=blur, where=used)
    weight = 1 / (given + blur * blur)
    distance = np.abs(relative) * np.sqrt(weight)
    weight *= np.clip((_CLIP[1] - distance) / (_CLIP[1] - _CLIP[0]), 0, 1)
    return weight, relative, given


def make_counter(total: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    """Make the function that counts what was read."""
    lock, done = threading.Lock(), itertools.count(1)

    def tell() -> None:
        with lock:
            number = next(done)
            if progress is not None:
                progress(min(number, total), total)

    return tell


def measure_level(exposures: Exposures, index: int) -> float:
    """Median rate of what is lit, from every seventh row and third column; NaN = nothing."""
    rate = np.asarray(exposures.read(index, 0, exposures.shape[0])[0], np.float32)[::SPARSE, ::3]
    rate = rate[np.isfinite(rate)]
    if rate.size == 0:
        return np.nan
    lit = rate[rate > 0.3 * np.percentile(rate, 75)]
    return float(bn.median(lit)) if lit.size else np.nan


def describe_dark(look: Look) -> str:
    """Say why an exposure shows no sky; empty where it does."""
    if not np.isfinite(look.noise):
        return "it has no pixels with rate, error and response"
    if not np.isfinite(look.background.level):
        return "no part of it shows sky: it is not lit, or sources are everywhere"
    if not look.background.level > _LEAST_SNR * look.noise:
        return (
            f"its sky level ({look.background.level:.3g}) is not above {_LEAST_SNR:g} times the "
            f"noise of a pixel ({look.noise:.3g}): it is sky-subtracted, or not lit"
        )
    return ""
