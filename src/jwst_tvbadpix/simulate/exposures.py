"""Exposures of a scene: what a detector with known defects would deliver, as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..detectors import get_detector
from ..errors import DetectorError, EvidenceError
from .defects import Defects
from .electronics import (
    FRAME_TIME_S,
    GAIN_E_PER_DN,
    MAX_DN,
    PEDESTAL_DN,
    READ_NOISE_DN,
    Region,
    compute_variances,
    find_region,
)
from .layers import RenderContext, Scene

__all__ = [
    "ExposureSpec",
    "Rate",
    "compute_true_rate",
    "render_ramps",
    "render_rate",
    "render_rateints",
]

# DQ bits of the pixel dictionary in jwst: a rate made with a neutral mask holds no others.
_DO_NOT_USE = 1
_SATURATED = 2
_REFERENCE_PIXEL = 2**31

# Cosmic rays [1/s on the full frame]: about 5 per cm^2 and s behind the shielding (JWST
# documentation of the radiation environment) on 6.5 cm^2.
_HITS_PER_S = 33.0
# Share of hits that survive jump detection, and pixels each affects; assumptions.
_RESIDUAL_SHARE = 0.01
_TRACK_PIXELS = 4
# Counts a hit leaves [DN]: median and standard deviation [dex]; a surviving one leaves less.
_HIT_DN = (1200.0, 0.40)
_RESIDUAL_DN = (150.0, 0.40)
# Showers [1/s on the full frame], their counts [DN] and radius [pixel]; assumptions.
_SHOWERS_PER_S = 1 / 500
_SHOWER_DN = 60.0
_SHOWER_RADIUS = (10.0, 35.0)
# Read noise common to a row, relative to the read noise of a pixel; assumption.
_ROW_NOISE = 0.1
# Pixel-to-pixel scatter of the pedestal [DN]; assumption.
_PEDESTAL_RMS = 150.0
_EXP_TYPE = {"FULL": "MIR_LRS-FIXEDSLIT", "SLITLESSPRISM": "MIR_LRS-SLITLESS"}


@dataclass(frozen=True, slots=True)
class ExposureSpec:
    """What was asked of the observatory, and what it met.

    Attributes
    ----------
    mjd : float
        Start of the exposure [MJD, UTC].
    subarray : str
        'FULL' (slit) or 'SLITLESSPRISM' (slitless).
    ngroups, nints : int
        Groups per integration and integrations.
    failed : bool
        Whether the pointing failed, so that a source may lie anywhere.
    seed : int
        Seed of all that changes from exposure to exposure.
    zodi, thermal : float
        Sky and warm background relative to the nominal level.
    program : str
        Programme number, five digits.
    observation, exposure : int
        Numbers within the programme and the visit.
    """

    mjd: float
    subarray: str = "FULL"
    ngroups: int = 36
    nints: int = 1
    failed: bool = False
    seed: int = 0
    zodi: float = 1.0
    thermal: float = 1.0
    program: str = "07831"
    observation: int = 1
    exposure: int = 1

    def __post_init__(self) -> None:
        if self.subarray not in FRAME_TIME_S:
            raise DetectorError(
                f"subarray must be one of {', '.join(FRAME_TIME_S)}, found {self.subarray!r}; "
                "only LRS slit and slitless exposures are simulated"
            )
        if self.nints < 1 or self.ngroups < 1:
            raise EvidenceError(
                f"ngroups and nints must be at least 1, found {self.ngroups} and {self.nints}; "
                "raise them"
            )

    @property
    def region(self) -> Region:
        """Part of the detector that is read."""
        return find_region(self.subarray)

    @property
    def exp_type(self) -> str:
        """EXP_TYPE keyword."""
        return _EXP_TYPE[self.subarray]

    @property
    def group_time_s(self) -> float:
        """Time between groups [s]."""
        return FRAME_TIME_S[self.subarray]

    @property
    def exposure_s(self) -> float:
        """Time collecting light [s]."""
        return self.group_time_s * self.ngroups * self.nints

    @property
    def end_mjd(self) -> float:
        """End of the exposure [MJD, UTC]: one frame is lost to the reset of each integration."""
        return self.mjd + self.group_time_s * (self.ngroups + 1) * self.nints / 86400

    @property
    def mid_mjd(self) -> float:
        """Middle of the exposure [MJD, UTC]."""
        return 0.5 * (self.mjd + self.end_mjd)

    @property
    def context(self) -> RenderContext:
        """What the layers of a scene need to know."""
        return RenderContext(self.region, self.zodi, self.thermal, self.failed, self.seed)

    def filename(self, suffix: str) -> str:
        """Name of the file in the archive: 'rate', 'rateints', 'uncal'."""
        visit = f"jw{self.program}{self.observation:03d}001"
        return f"{visit}_02101_{self.exposure:05d}_mirimage_{suffix}.fits"


@dataclass(frozen=True, slots=True)
class Rate:
    """Count rates with their errors, as ramp fitting delivers them.

    Attributes
    ----------
    rate, err : ndarray of float32, shape ([nints,] ny, nx)
        Count rate and total error [DN/s]; as jwst 3.0 leaves them, the rate is NaN and the
        error 0 at reference pixels and where saturated.
    var_poisson, var_rnoise : ndarray of float32, same shape
        Variances [(DN/s)^2]; 0 where the rate is NaN.
    dq : ndarray of uint32, same shape
        DO_NOT_USE with REFERENCE_PIXEL or SATURATED, nothing else.
    """

    rate: np.ndarray
    err: np.ndarray
    var_poisson: np.ndarray
    var_rnoise: np.ndarray
    dq: np.ndarray


def compute_true_rate(
    spec: ExposureSpec, scene: Scene, defects: Defects | None = None
) -> np.ndarray:
    """Compute the rate without noise or cosmic rays: float32 (ny, nx) [DN/s].

    Each defect that is bad at the start of the exposure multiplies its light and adds its
    amplitude; crosstalk between pixels comes last. Reference pixels see nothing.
    """
    light, dark = scene.render(spec.context)
    if defects is not None:
        y, x, chosen = _find_bad(spec, defects)
        light[y, x] *= defects.response[chosen]
        dark[y, x] += defects.amplitude[chosen]
    rate = light + dark
    rate[_find_reference(spec, scene)] = 0
    if scene.crosstalk:
        rate = _blur(rate, scene.crosstalk)
        rate[_find_reference(spec, scene)] = 0
    return rate


def render_rateints(
    spec: ExposureSpec, scene: Scene, defects: Defects | None = None
) -> Iterator[Rate]:
    """Render integration after integration.

    Parameters
    ----------
    spec : ExposureSpec
        The exposure.
    scene : Scene
        What it sees.
    defects : Defects or None
        Bad pixels.

    Yields
    ------
    Rate
        One integration, (ny, nx).

    Raises
    ------
    EvidenceError
        When there are too few groups for a slope.
    """
    true = compute_true_rate(spec, scene, defects)
    noise_factor = np.ones(true.shape, np.float32)
    if defects is not None:
        y, x, chosen = _find_bad(spec, defects)
        noise_factor[y, x] = defects.noise_factor[chosen]
    reference = _find_reference(spec, scene)
    measure = partial(compute_variances, ngroups=spec.ngroups, group_time_s=spec.group_time_s)
    for k in range(spec.nints):
        rate = true.copy()
        if scene.cosmic_rays:
            rate += _draw_residuals(spec, k)
        var_poisson, var_rnoise, saturated = measure(rate)
        rng = spec.context.generator("noise", k)
        sigma = np.sqrt(var_poisson + var_rnoise) * noise_factor
        rate += sigma * rng.standard_normal(rate.shape, np.float32)
        row_sigma = np.sqrt(var_rnoise.min()) * _ROW_NOISE
        rate += row_sigma * rng.standard_normal((rate.shape[0], 1), np.float32)
        # The pipeline knows the rate it measured, not the true one.
        var_poisson = measure(rate)[0]
        yield _flag(rate, var_poisson, var_rnoise, saturated, reference)


def render_rate(spec: ExposureSpec, scene: Scene, defects: Defects | None = None) -> Rate:
    """Render the rate of an exposure: the mean over its integrations.

    Takes what `render_rateints` takes and raises what it raises; one integration is held at a
    time. A pixel that saturates in one integration does so in all but by noise, and is flagged
    where any did.
    """
    total: list[np.ndarray] | None = None
    for one in render_rateints(spec, scene, defects):
        arrays = [one.rate, one.var_poisson, one.var_rnoise]
        if total is None:
            total, dq = arrays, one.dq
            continue
        dq |= one.dq
        for sum_so_far, array in zip(total, arrays, strict=True):
            sum_so_far += array
    assert total is not None  # nints >= 1
    n = np.float32(spec.nints)
    rate, var_poisson, var_rnoise = total[0] / n, total[1] / n**2, total[2] / n**2
    return Rate(rate, np.sqrt(var_poisson + var_rnoise), var_poisson, var_rnoise, dq)


def render_ramps(spec: ExposureSpec, scene: Scene, defects: Defects | None = None) -> np.ndarray:
    """Render the raw ramps of an exposure.

    Takes what `render_rate` takes.

    Returns
    -------
    ndarray of uint16, shape (nints, ngroups, ny, nx)
        Reads [DN]: pedestal, light with photon noise, cosmic-ray jumps, read noise.
        Reference pixels hold pedestal and read noise only.
    """
    true = np.maximum(compute_true_rate(spec, scene, defects), 0)
    reference = _find_reference(spec, scene)
    read_noise = np.full(true.shape, READ_NOISE_DN, np.float32)
    if defects is not None:
        y, x, chosen = _find_bad(spec, defects)
        read_noise[y, x] *= defects.noise_factor[chosen]
    electrons = true * np.float32(spec.group_time_s * GAIN_E_PER_DN)
    seed = scene.pattern.seed if scene.pattern else 0
    pedestal = _draw_pedestal(spec, scene, seed)
    ramps = np.empty((spec.nints, spec.ngroups, *true.shape), np.uint16)
    for k in range(spec.nints):
        rng = spec.context.generator("ramp", k)
        level = pedestal.copy()
        for g in range(spec.ngroups):
            level += rng.poisson(electrons).astype(np.float32) / np.float32(GAIN_E_PER_DN)
            if scene.cosmic_rays:
                hits = _draw_hits(spec, rng, _HITS_PER_S * spec.group_time_s, *_HIT_DN)
                level += np.where(reference, 0, hits)
            read = level + read_noise * rng.standard_normal(true.shape, np.float32)
            ramps[k, g] = np.clip(np.rint(read), 0, MAX_DN)
    return ramps


def _draw_pedestal(spec: ExposureSpec, scene: Scene, seed: int) -> np.ndarray:
    """Pedestal of each pixel of the region [DN], fixed for the detector."""
    rng = np.random.default_rng([seed, 3])
    shape = find_region("FULL", detector=scene.detector).shape
    noise = rng.standard_normal(shape, np.float32)[spec.region.slices]
    return PEDESTAL_DN + np.float32(_PEDESTAL_RMS) * noise


def _find_bad(spec: ExposureSpec, defects: Defects) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the defects that are bad now within the region: y, x in the region, and their index."""
    region = spec.region
    y = defects.y.astype(int) - region.y_start
    x = defects.x.astype(int) - region.x_start
    inside = (y >= 0) & (y < region.ny) & (x >= 0) & (x < region.nx)
    chosen = np.flatnonzero(inside & defects.state(spec.mjd))
    return y[chosen], x[chosen], chosen


def _find_reference(spec: ExposureSpec, scene: Scene) -> np.ndarray:
    """Mark the reference pixels within the region: bool (ny, nx)."""
    return get_detector(scene.detector).reference_pixels()[spec.region.slices]


def _blur(image: np.ndarray, share: float) -> np.ndarray:
    """Give each of the four neighbours a share; what would leave at an edge stays."""
    rows, columns = np.diff(image, axis=0) * share, np.diff(image, axis=1) * share
    blurred = image.copy()
    blurred[:-1] += rows
    blurred[1:] -= rows
    blurred[:, :-1] += columns
    blurred[:, 1:] -= columns
    return blurred.astype(np.float32)


def _flag(
    rate: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    saturated: np.ndarray,
    reference: np.ndarray,
) -> Rate:
    """Blank what ramp fitting cannot measure, say so in DQ, and add the errors up."""
    unusable = saturated | reference
    rate[unusable] = np.nan
    var_poisson[unusable] = var_rnoise[unusable] = 0
    dq = np.zeros(rate.shape, np.uint32)
    dq[saturated] = _SATURATED | _DO_NOT_USE
    dq[reference] = _REFERENCE_PIXEL | _DO_NOT_USE
    return Rate(rate, np.sqrt(var_poisson + var_rnoise), var_poisson, var_rnoise, dq)


def _area_share(region: Region) -> float:
    """Area of the region relative to the full frame."""
    full = find_region("FULL")
    return region.ny * region.nx / (full.ny * full.nx)


def _draw_hits(
    spec: ExposureSpec, rng: np.random.Generator, mean_hits: float, median: float, dex: float
) -> np.ndarray:
    """Draw tracks of cosmic rays: float32 (ny, nx) [DN]; ``mean_hits`` is for the full frame."""
    region = spec.region
    n_hits = rng.poisson(mean_hits * _area_share(region))
    length = np.minimum(rng.geometric(0.5, n_hits), _TRACK_PIXELS)
    angle = rng.uniform(0, np.pi, n_hits)
    counts = median * 10 ** rng.normal(0, dex, n_hits)
    step = np.arange(_TRACK_PIXELS)[:, None]
    y = np.rint(rng.uniform(0, region.ny, n_hits) + step * np.sin(angle)).astype(int)
    x = np.rint(rng.uniform(0, region.nx, n_hits) + step * np.cos(angle)).astype(int)
    share = rng.uniform(0.4, 1.0, (_TRACK_PIXELS, n_hits))
    inside = (step < length) & (y >= 0) & (y < region.ny) & (x >= 0) & (x < region.nx)
    pixel = np.where(inside, y * region.nx + x, 0).ravel()
    weight = np.where(inside, counts * share, 0).ravel()
    image = np.bincount(pixel, weight, region.ny * region.nx)
    return image.reshape(region.shape).astype(np.float32)


def _draw_residuals(spec: ExposureSpec, integration: int) -> np.ndarray:
    """Draw what cosmic rays and showers leave in the slope of one integration: (ny, nx) [DN/s]."""
    rng = spec.context.generator("cosmic rays", integration)
    integration_s = spec.group_time_s * spec.ngroups
    n_hits = _HITS_PER_S * _RESIDUAL_SHARE * integration_s
    image = _draw_hits(spec, rng, n_hits, *_RESIDUAL_DN)
    region = spec.region
    y, x = np.arange(region.ny)[:, None], np.arange(region.nx)[None, :]
    for _ in range(rng.poisson(_SHOWERS_PER_S * integration_s * _area_share(region))):
        radius = rng.uniform(*_SHOWER_RADIUS)
        column = np.exp(-0.5 * ((x - rng.uniform(0, region.nx)) / radius) ** 2)
        row = np.exp(-0.5 * ((y - rng.uniform(0, region.ny)) / radius) ** 2)
        image += (rng.exponential(_SHOWER_DN) * row * column).astype(np.float32)
    return image / np.float32(integration_s)
