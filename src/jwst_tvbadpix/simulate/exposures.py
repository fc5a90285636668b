"""Exposures of a scene: what a detector with known defects would deliver, as arrays."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..detectors import get_detector
from ..errors import DetectorError, EvidenceError
from .cosmic_rays import draw_hits, draw_residuals
from .defects import Defects
from .electronics import MAX_DN, Region, compute_variances
from .layers import RenderContext, Scene
from .setups import LRS_SLIT, Setup, make_lrs_setup

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

# Pixel-to-pixel scatter of the pedestal [DN]; assumption.
_PEDESTAL_RMS = 150.0


@dataclass(frozen=True, slots=True)
class ExposureSpec:
    """What was asked of the observatory, and what it met.

    Attributes
    ----------
    mjd : float
        Start of the exposure [MJD, UTC].
    subarray : str
        SUBARRAY keyword; without a setup 'FULL' (LRS slit) or 'SLITLESSPRISM' (LRS slitless).
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
    field : int
        Part of the sky that is seen, where the scene has fields.
    dither : tuple of float
        How far (y, x) the sky lies from its nominal place on the detector [pixel].
    setup : Setup
        How the instrument is set; LRS unless given.
    target : str
        Name of a point source at the reference point of the aperture; empty = blank sky or field.
    roll : float or None
        Position angle of V3 [deg], where the sky turns with it and the keywords are exact; None =
        one that goes with the date, which scenes do not follow.
    """

    mjd: float
    subarray: str = ""
    ngroups: int = 36
    nints: int = 1
    failed: bool = False
    seed: int = 0
    zodi: float = 1.0
    thermal: float = 1.0
    program: str = "07831"
    observation: int = 1
    exposure: int = 1
    field: int = 0
    dither: tuple[float, float] = (0.0, 0.0)
    setup: Setup = LRS_SLIT
    target: str = ""
    roll: float | None = None

    def __post_init__(self) -> None:
        own = self.setup.region.subarray
        if self.subarray not in ("", own):
            if self.setup is not LRS_SLIT:
                raise DetectorError(
                    f"subarray must be that of the setup, {own}, found {self.subarray!r}; "
                    "leave it out"
                )
            object.__setattr__(self, "setup", make_lrs_setup(self.subarray))
        object.__setattr__(self, "subarray", self.setup.region.subarray)
        if self.nints < 1 or self.ngroups < 1:
            raise EvidenceError(
                f"ngroups and nints must be at least 1, found {self.ngroups} and {self.nints}; "
                "raise them"
            )

    @property
    def region(self) -> Region:
        """Part of the detector that is read."""
        return self.setup.region

    @property
    def group_time_s(self) -> float:
        """Time between groups [s]."""
        return self.setup.group_time_s

    @property
    def exposure_s(self) -> float:
        """Time collecting light [s]."""
        return self.group_time_s * self.ngroups * self.nints

    @property
    def end_mjd(self) -> float:
        """End of the exposure [MJD, UTC]: one frame is lost to the reset of each integration."""
        reset = self.setup.frame_time_s / self.group_time_s
        return self.mjd + self.group_time_s * (self.ngroups + reset) * self.nints / 86400

    @property
    def mid_mjd(self) -> float:
        """Middle of the exposure [MJD, UTC]."""
        return 0.5 * (self.mjd + self.end_mjd)

    @property
    def context(self) -> RenderContext:
        """What the layers of a scene need to know."""
        return RenderContext(
            self.region,
            detector=self.setup.detector,
            zodi=self.zodi,
            thermal=self.thermal,
            failed=self.failed,
            seed=self.seed,
            field=self.field,
            dither=self.dither,
            element=self.setup.element,
            roll=(self.roll or 0.0) + self.setup.aperture.v3_angle,
        )

    def filename(self, suffix: str) -> str:
        """Name of the file in the archive: 'rate' (Roman calls it cal), 'rateints', 'uncal'."""
        detector = self.setup.detector.lower()
        if get_detector(self.setup.detector).telescope == "ROMAN":
            stage = "cal" if suffix == "rate" else suffix
            root = f"r{self.visit_id}_{self.exposure:04d}_{detector}"
            return f"{root}_{self.setup.element.lower()}_{stage}.asdf"
        return f"jw{self.visit_id}_02101_{self.exposure:05d}_{detector}_{suffix}.fits"

    @property
    def visit_id(self) -> str:
        """Programme, observation and visit in digits, as the telescope numbers them."""
        roman = get_detector(self.setup.detector).telescope == "ROMAN"
        # Execution plan, pass and segment come in between.
        return f"{self.program}{'01001001' if roman else ''}{self.observation:03d}001"


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
    rate[_find_reference(spec)] = 0
    if scene.crosstalk:
        rate = _blur(rate, scene.crosstalk)
        rate[_find_reference(spec)] = 0
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
    reference = _find_reference(spec)
    electronics = spec.setup.electronics
    measure = partial(
        compute_variances,
        ngroups=spec.ngroups,
        group_time_s=spec.group_time_s,
        electronics=electronics,
    )
    ny, nx = true.shape
    lines = (1, nx) if abs(get_detector(spec.setup.detector).fastaxis) == 2 else (ny, 1)
    for k in range(spec.nints):
        rate = true.copy()
        if scene.cosmic_rays:
            rate += draw_residuals(
                spec.context.generator("cosmic rays", k),
                spec.region.shape,
                scene.cosmic_rays,
                area_share=_area_share(spec),
                integration_s=spec.group_time_s * spec.ngroups,
            )
        var_poisson, var_rnoise, saturated = measure(rate)
        rng = spec.context.generator("noise", k)
        sigma = np.sqrt(var_poisson + var_rnoise) * noise_factor
        rate += sigma * rng.standard_normal(rate.shape, np.float32)
        row_sigma = np.sqrt(var_rnoise.min()) * electronics.row_noise
        rate += row_sigma * rng.standard_normal(lines, np.float32)
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

    Raises
    ------
    DetectorError
        When the read-out is IRS2, whose interleaved reference pixels are not simulated.
    """
    if "IRS2" in spec.setup.readpatt:
        raise DetectorError(
            f"ramps must not be IRS2, found READPATT {spec.setup.readpatt}; choose NRSRAPID or NRS"
        )
    electronics = spec.setup.electronics
    gain = electronics.gain_e_per_dn
    true = np.maximum(compute_true_rate(spec, scene, defects), 0)
    reference = _find_reference(spec)
    read_noise = np.full(true.shape, electronics.read_noise_dn, np.float32)
    if defects is not None:
        y, x, chosen = _find_bad(spec, defects)
        read_noise[y, x] *= defects.noise_factor[chosen]
    electrons = true * np.float32(spec.group_time_s * gain)
    seed = scene.pattern.seed if scene.pattern else 0
    pedestal = _draw_pedestal(spec, seed)
    ramps = np.empty((spec.nints, spec.ngroups, *true.shape), np.uint16)
    for k in range(spec.nints):
        rng = spec.context.generator("ramp", k)
        level = pedestal.copy()
        for g in range(spec.ngroups):
            level += rng.poisson(electrons).astype(np.float32) / np.float32(gain)
            if scene.cosmic_rays:
                mean_hits = scene.cosmic_rays.hits_per_s * spec.group_time_s * _area_share(spec)
                hits = draw_hits(
                    rng, spec.region.shape, mean_hits=mean_hits, counts_dn=scene.cosmic_rays.hit_dn
                )
                level += np.where(reference, 0, hits)
            read = level + read_noise * rng.standard_normal(true.shape, np.float32)
            ramps[k, g] = np.clip(np.rint(read), 0, MAX_DN)
    return ramps


def _draw_pedestal(spec: ExposureSpec, seed: int) -> np.ndarray:
    """Pedestal of each pixel of the region [DN], fixed for the detector."""
    rng = np.random.default_rng([seed, 3])
    shape = get_detector(spec.setup.detector).shape
    noise = rng.standard_normal(shape, np.float32)[spec.region.slices]
    return spec.setup.electronics.pedestal_dn + np.float32(_PEDESTAL_RMS) * noise


def _find_bad(spec: ExposureSpec, defects: Defects) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the defects that are bad now within the region: y, x in the region, and their index."""
    region = spec.region
    y = defects.y.astype(int) - region.y_start
    x = defects.x.astype(int) - region.x_start
    inside = (y >= 0) & (y < region.ny) & (x >= 0) & (x < region.nx)
    chosen = np.flatnonzero(inside & defects.state(spec.mjd))
    return y[chosen], x[chosen], chosen


def _find_reference(spec: ExposureSpec) -> np.ndarray:
    """Mark the reference pixels within the region: bool (ny, nx)."""
    return get_detector(spec.setup.detector).reference_pixels()[spec.region.slices]


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


def _area_share(spec: ExposureSpec) -> float:
    """Area of the region relative to the full frame."""
    ny, nx = get_detector(spec.setup.detector).shape
    return spec.region.ny * spec.region.nx / (ny * nx)
