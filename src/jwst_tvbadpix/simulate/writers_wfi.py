"""Simulated exposures of Roman's Wide Field Instrument, valid by RAD."""

from pathlib import Path
from typing import Any

import asdf
import gwcs
import numpy as np
from asdf.exceptions import ValidationError
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.modeling.models import Pix2Sky_TAN, RotateNative2Celestial, Scale, Shift
from astropy.time import Time, TimeDelta
from gwcs.coordinate_frames import CelestialFrame, Frame2D

from ..atomic import find_creation_time, replace_whole
from ..dates import allow_far_dates
from ..detectors import get_detector
from ..errors import ProductError
from .defects import Defects
from .exposures import ExposureSpec, render_ramps, render_rate
from .layers import Scene

__all__ = [
    "make_cal_step",
    "make_wfi_image",
    "make_wfi_wcs",
    "save_roman",
    "write_wfi_image",
    "write_wfi_ramp",
]

_PIXEL_DEG = 0.11 / 3600
_FRAME_S = 3.16
# Field 0 [deg], and the declination between fields: more than the width of a detector.
_POINTING, _FIELD_STEP = (80.0, 66.56), 0.2
_BORDER = 4
# What each model says was done, or not, to an image.
_STEPS = (
    "assign_wcs",
    "dark",
    "dark_decay",
    "dq_init",
    "flat_field",
    "flux",
    "linearity",
    "outlier_detection",
    "photom",
    "ramp_fit",
    "refpix",
    "saturation",
    "skymatch",
    "source_catalog",
    "tweakreg",
    "wfi18_transient",
)
_STEPS_DONE = ("assign_wcs", "dq_init", "linearity", "ramp_fit", "refpix", "saturation")


@allow_far_dates()
def write_wfi_image(
    path: str | Path, spec: ExposureSpec, scene: Scene, defects: Defects | None = None
) -> Path:
    """Write the level-2 image of an exposure, with its WCS and not flat-fielded.

    Parameters
    ----------
    path : str or Path
        File to write, or an existing folder, which gets the name of the archive.
    spec : ExposureSpec
        The exposure, of a detector of WFI.
    scene : Scene
        What it sees.
    defects : Defects or None
        Bad pixels.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProductError
        roman_datamodels is not installed, or RAD does not allow what was made.
    """
    path = _name(path, spec, "rate")
    rate = render_rate(spec, scene, defects)
    flags = _find_flags()
    dq = np.zeros(rate.dq.shape, np.uint32)
    dq[np.isnan(rate.rate)] = flags["SATURATED"] | flags["DO_NOT_USE"]
    model = make_wfi_image(
        rate.rate,
        detector=spec.setup.detector,
        optical_element=spec.setup.element,
        dq=dq,
        err=rate.err,
    )
    model.var_poisson = rate.var_poisson.astype(np.float16)
    model.var_rnoise = rate.var_rnoise.astype(np.float16)
    ny, nx = rate.rate.shape
    ra, dec = _POINTING[0], _POINTING[1] - _FIELD_STEP * spec.field
    centre = (ny - 1) / 2 + spec.dither[0], (nx - 1) / 2 + spec.dither[1]
    model.meta.wcs = make_wfi_wcs(-centre[1], -centre[0], ra, dec)
    model.meta.cal_step = make_cal_step(**dict.fromkeys(_STEPS_DONE, "COMPLETE"))
    model.meta.pointing.target_ra, model.meta.pointing.target_dec = ra, dec
    _fill(model.meta, spec)
    return save_roman(model, path)


@allow_far_dates()
def write_wfi_ramp(
    path: str | Path, spec: ExposureSpec, scene: Scene, defects: Defects | None = None
) -> Path:
    """Write the level-1 exposure, one that romancal takes; parameters as in `write_wfi_image`."""
    path = _name(path, spec, "uncal")
    kind = _import_models().ScienceRawModel
    (ramp,) = render_ramps(spec, scene, defects)
    n, ny, nx = ramp.shape
    model = kind.create_fake_data(shape=(1, 8, 8))
    # Reference pixels hold the pedestal.
    level = np.uint16(spec.setup.electronics.pedestal_dn)
    model.data = np.full((n, ny + 2 * _BORDER, nx + 2 * _BORDER), level)
    model.data[:, _BORDER:-_BORDER, _BORDER:-_BORDER] = ramp
    model.amp33 = np.full((n, ny + 2 * _BORDER, 128), level)
    _fill(model.meta, spec)
    return save_roman(model, path)


@allow_far_dates()
def make_wfi_image(
    data: np.ndarray,
    *,
    detector: str = "WFI01",
    optical_element: str = "F158",
    start: str = "2027-01-01T00:00:00",
    exposure_s: float = 107.52,
    dq: np.ndarray | None = None,
    err: np.ndarray | float = 0.1,
) -> Any:
    """Make a level-2 image of given arrays.

    Parameters
    ----------
    data : float32 (ny, nx)
        Rates [DN/s] without reference pixels: 4088 x 4088 of a real detector.
    detector, optical_element : str
        WFI01 to WFI18; such as F158.
    start : str
        ISO date and time (UTC).
    exposure_s : float
        Length of the exposure [s].
    dq : uint32 (ny, nx) or None
        In the bits of Roman.
    err : float (ny, nx) or float
        Total 1-sigma error [DN/s]; written as float16, as romancal does; its square is
        ``var_poisson``.

    Returns
    -------
    roman_datamodels.datamodels.ImageModel

    Raises
    ------
    ProductError
        roman_datamodels is not installed.
    """
    model = _import_models().ImageModel.create_fake_data(shape=data.shape)
    meta, exposure = model.meta, model.meta.exposure
    meta.calibration_software_version = "1.1.0"
    meta.instrument.detector, meta.instrument.optical_element = detector, optical_element
    meta.wcsinfo.aperture_name = f"{detector}_FULL"
    exposure.type = "WFI_IMAGE"
    exposure.start_time = Time(start)
    exposure.end_time = Time(start) + TimeDelta(exposure_s, format="sec")
    exposure.exposure_time = exposure.effective_exposure_time = float(exposure_s)
    exposure.frame_time, exposure.nresultants = _FRAME_S, 6
    exposure.read_pattern = [[k] for k in range(1, 7)]
    exposure.ma_table_name = "IM_SIMULATED"
    meta.photometry.conversion_megajanskys = 0.3
    meta.photometry.conversion_megajanskys_uncertainty = 0.003
    meta.photometry.pixel_area = 2.8e-13
    model.data = np.asarray(data, np.float32)
    model.dq = np.zeros(data.shape, np.uint32) if dq is None else dq
    model.err = np.broadcast_to(np.asarray(err), data.shape).astype(np.float16)
    model.var_poisson = (model.err.astype(np.float32) ** 2).astype(np.float16)
    ny, nx = (size + 2 * _BORDER for size in data.shape)
    for side in ("left", "right", "bottom", "top"):
        shape = (ny, _BORDER) if side in ("left", "right") else (_BORDER, nx)
        model[f"border_ref_pix_{side}"] = np.zeros((1, *shape), np.float32)
        model[f"dq_border_ref_pix_{side}"] = np.zeros(shape, np.uint32)
    model.amp33 = np.zeros((1, ny, 128), np.uint16)
    return model


def make_cal_step(**done: str) -> dict[str, str]:
    """Say what was done to an image: steps named have the status given, all others none."""
    return {**dict.fromkeys(_STEPS, "INCOMPLETE"), **done}


def make_wfi_wcs(x0: float, y0: float, ra: float, dec: float) -> Any:
    """Make the WCS of an image whose pixel (-x0, -y0) is at (ra, dec) [deg]; north is up."""
    to_sky = (
        (Shift(x0) & Shift(y0))
        | (Scale(-_PIXEL_DEG) & Scale(_PIXEL_DEG))
        | Pix2Sky_TAN()
        | RotateNative2Celestial(ra, dec, 180)
    )
    detector = Frame2D(name="detector", unit=(u.pix, u.pix))
    sky = CelestialFrame(name="world", reference_frame=ICRS(), unit=(u.deg, u.deg))
    return gwcs.WCS([(detector, to_sky), (sky, None)])


@allow_far_dates()
def save_roman(model: Any, path: Path, *, compression: str | None = "lz4") -> Path:
    """Write a model whole or not at all, validated by RAD.

    Parameters
    ----------
    model : roman_datamodels.datamodels.DataModel
        Gets the name of the file, and the date of SOURCE_DATE_EPOCH where it is set.
    path : Path
        Where to.
    compression : str or None
        Of the arrays, as asdf names it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProductError
        RAD does not allow the model.
    """
    model.meta.filename = path.name
    model.meta.file_date = Time(find_creation_time().replace(tzinfo=None), scale="utc")
    file = asdf.AsdfFile()
    file["roman"] = model._instance
    with replace_whole(path) as temporary:
        try:
            file.write_to(temporary, all_array_compression=compression)
        except ValidationError as error:
            raise ProductError(
                f"expected {path.name} to be valid by RAD, found: {error.message}; use a "
                "version of roman_datamodels that is known"
            ) from error
    return path


def _import_models() -> Any:
    """Import the models of Roman."""
    try:
        from roman_datamodels import datamodels
    except ImportError as error:
        raise ProductError(
            f"expected roman_datamodels for exposures of Roman, found: {error}; "
            "pip install 'jwst-tvbadpix[roman]'"
        ) from error
    return datamodels


def _find_flags() -> dict[str, int]:
    _import_models()
    from roman_datamodels.dqflags import pixel

    return {flag.name: int(flag) for flag in pixel}


def _name(path: str | Path, spec: ExposureSpec, suffix: str) -> Path:
    path = Path(path)
    return path / spec.filename(suffix) if path.is_dir() else path


def _fill(meta: Any, spec: ExposureSpec) -> None:
    """Fill in which exposure it is, when and how it was read out."""
    setup, exposure, observation = spec.setup, meta.exposure, meta.observation
    meta.origin = "STSCI/SOC"
    meta.instrument.detector = get_detector(setup.detector).name
    meta.instrument.optical_element = setup.element
    exposure.type = setup.exp_type
    # To the millisecond, as text has them.
    exposure.start_time = Time(Time(spec.mjd, format="mjd").isot)
    exposure.end_time = Time(Time(spec.end_mjd, format="mjd").isot)
    exposure.exposure_time = exposure.effective_exposure_time = float(spec.exposure_s)
    exposure.frame_time, exposure.nresultants = setup.frame_time_s, spec.ngroups
    exposure.ma_table_name = setup.readpatt
    step = setup.nframes
    exposure.read_pattern = [
        list(range(1 + k * step, 1 + (k + 1) * step)) for k in range(spec.ngroups)
    ]
    visit = spec.visit_id
    observation.visit_id, observation.observation_id = visit, visit
    observation.program, observation.execution_plan = int(spec.program), 1
    observation["pass"], observation.segment = 1, 1
    observation.observation, observation.visit = spec.observation, 1
    observation.exposure = spec.exposure
    meta.wcsinfo.aperture_name = setup.aperture.name
