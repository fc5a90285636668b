"""Simulated exposures as the files the archive would hold."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from stdatamodels.jwst.datamodels import CubeModel, ImageModel, JwstDataModel, Level1bModel

from ..atomic import replace_whole
from ..dates import to_isot
from ..detectors import get_detector
from .defects import Defects
from .exposures import ExposureSpec, Rate, render_ramps, render_rate, render_rateints
from .layers import Scene
from .saving import save_model

__all__ = ["write_association", "write_ramp", "write_rate", "write_rateints"]

# Blank sky near the ecliptic pole [deg]; any direction would do.
_POINTING = (270.0, 66.56)
# Declination between fields [deg]; any would do.
_FIELD_STEP = 0.1
_TITLES = {
    "MIR_LRS-FIXEDSLIT": "Simulated MIRI LRS blank sky",
    "MIR_LRS-SLITLESS": "Simulated MIRI LRS blank sky",
    "MIR_IMAGE": "Simulated MIRI imaging of star fields",
    "MIR_MRS": "Simulated MIRI MRS background",
    "NRS_MSASPEC": "Simulated NIRSpec MSA spectroscopy",
    "NRS_FIXEDSLIT": "Simulated NIRSpec fixed-slit spectroscopy",
    "NRC_IMAGE": "Simulated NIRCam imaging of star fields",
}
_STEPS_DONE = ("saturation", "lastframe", "refpix", "jump", "ramp_fit")


def write_rate(
    path: str | Path,
    spec: ExposureSpec,
    scene: Scene,
    defects: Defects | None = None,
    *,
    nominal: ExposureSpec | None = None,
) -> Path:
    """Write the ``_rate`` file of an exposure.

    Parameters
    ----------
    path : str or Path
        File to write, or an existing folder, which gets the name of the archive.
    spec : ExposureSpec
        The exposure.
    scene : Scene
        What it sees.
    defects : Defects or None
        Bad pixels.
    nominal : ExposureSpec or None
        What the header says, where the exposure is not what was asked for.

    Returns
    -------
    Path
        The file.
    """
    rate = render_rate(spec, scene, defects)
    return _save(_build_rate_model(ImageModel, rate), path, nominal or spec, "rate")


def write_rateints(
    path: str | Path, spec: ExposureSpec, scene: Scene, defects: Defects | None = None
) -> Path:
    """Write the ``_rateints`` file of an exposure; parameters as in `write_rate`."""
    ints = list(render_rateints(spec, scene, defects))
    names = ("rate", "err", "var_poisson", "var_rnoise", "dq")
    cube = Rate(*(np.stack([getattr(one, name) for one in ints]) for name in names))
    model = _build_rate_model(CubeModel, cube)
    _fill_int_times(model, spec)
    return _save(model, path, spec, "rateints")


def write_ramp(
    path: str | Path, spec: ExposureSpec, scene: Scene, defects: Defects | None = None
) -> Path:
    """Write the ``_uncal`` file of an exposure; parameters as in `write_rate`.

    The file is one that calwebb_detector1 takes as it is.
    """
    model = Level1bModel(data=render_ramps(spec, scene, defects))
    _fill_int_times(model, spec)
    return _save(model, path, spec, "uncal")


def _build_rate_model(
    kind: type[ImageModel] | type[CubeModel], rate: Rate
) -> ImageModel | CubeModel:
    """Put arrays into a rate model."""
    model = kind(data=rate.rate)
    model.err, model.dq = rate.err, rate.dq
    model.var_poisson, model.var_rnoise = rate.var_poisson, rate.var_rnoise
    model.meta.bunit_data = model.meta.bunit_err = "DN/s"
    for step in _STEPS_DONE:
        setattr(model.meta.cal_step, step, "COMPLETE")
    return model


def _save(model: JwstDataModel, path: str | Path, spec: ExposureSpec, suffix: str) -> Path:
    """Fill the header and write."""
    path = Path(path)
    if path.is_dir():
        path = path / spec.filename(suffix)
    _fill_observation(model, spec)
    _fill_exposure(model, spec)
    _fill_pointing(model, spec)
    model.meta.filename = path.name
    return save_model(model, path)


def _fill_observation(model: JwstDataModel, spec: ExposureSpec) -> None:
    """Fill what, where in the programme, and with which instrument."""
    meta = model.meta
    meta.telescope, meta.origin = "JWST", "SIMULATION"
    facts = get_detector(spec.setup.detector)
    meta.instrument.name, meta.instrument.detector = facts.instrument, facts.name
    for name, value in spec.setup.optics:
        setattr(meta.instrument, name, value)
    start, end = to_isot(spec.mjd), to_isot(spec.end_mjd)
    observation = meta.observation
    observation.date, observation.time = start.split("T")
    observation.date_beg, observation.date_end = start, end
    observation.program_number = spec.program
    observation.observation_number = f"{spec.observation:03d}"
    observation.visit_number, observation.visit_group = "001", "02"
    observation.sequence_id, observation.activity_id = "1", "01"
    observation.exposure_number = str(spec.exposure)
    observation.visit_id = spec.visit_id
    observation.observation_id = f"V{spec.visit_id}P0000000002101"
    title = f"Simulated spectrum of {spec.target}" if spec.target else _TITLES[spec.setup.exp_type]
    meta.program.category, meta.program.title = "CAL", title
    meta.visit.type = "PRIME_TARGETED_FIXED"
    meta.visit.tsovisit = spec.setup.exp_type == "MIR_LRS-SLITLESS"
    meta.visit.status = "UNSUCCESSFUL" if spec.failed else "SUCCESSFUL"
    field = "BLANK-SKY" if spec.field == 0 else f"FIELD-{spec.field}"
    name = spec.target or ("FAILED-POINTING" if spec.failed else field)
    meta.target.catalog_name = meta.target.proposer_name = name
    meta.target.type = "FIXED"
    meta.target.ra, meta.target.dec = _point(spec)
    meta.target.source_type_apt = "POINT" if spec.target else "UNKNOWN"


def _point(spec: ExposureSpec) -> tuple[float, float]:
    """Point at the field of an exposure: right ascension and declination [deg]."""
    ra, dec = _POINTING
    return ra, dec - _FIELD_STEP * spec.field


def _fill_exposure(model: JwstDataModel, spec: ExposureSpec) -> None:
    """Fill times, readout and subarray."""
    exposure, setup = model.meta.exposure, spec.setup
    exposure.type, exposure.readpatt = setup.exp_type, setup.readpatt
    exposure.ngroups, exposure.nints = spec.ngroups, spec.nints
    exposure.nframes, exposure.groupgap, exposure.nsamples = setup.nframes, setup.groupgap, 1
    exposure.nresets_at_start, exposure.nresets_between_ints = 1, 1
    exposure.drop_frames1, exposure.frame_divisor = 0, setup.nframes
    exposure.integration_start, exposure.integration_end = 1, spec.nints
    exposure.frame_time, exposure.group_time = setup.frame_time_s, setup.group_time_s
    exposure.sample_time = 10.0
    exposure.integration_time = spec.group_time_s * spec.ngroups
    exposure.exposure_time = exposure.effective_exposure_time = spec.exposure_s
    exposure.elapsed_exposure_time = (spec.end_mjd - spec.mjd) * 86400
    exposure.duration = exposure.elapsed_exposure_time
    exposure.start_time, exposure.mid_time = spec.mjd, spec.mid_mjd
    exposure.end_time = spec.end_mjd
    exposure.start_time_tdb, exposure.mid_time_tdb = spec.mjd, spec.mid_mjd
    exposure.end_time_tdb = spec.end_mjd
    exposure.zero_frame = exposure.data_problem = False
    region, subarray = spec.region, model.meta.subarray
    subarray.name = spec.subarray
    subarray.xstart, subarray.ystart = region.x_start + 1, region.y_start + 1
    subarray.xsize, subarray.ysize = region.nx, region.ny
    facts = get_detector(setup.detector)
    subarray.fastaxis, subarray.slowaxis = facts.fastaxis, facts.slowaxis


def _fill_pointing(model: JwstDataModel, spec: ExposureSpec) -> None:
    """Fill aperture and coordinates; the position angle turns with the date, as on the sky."""
    aperture = spec.setup.aperture
    meta, wcs = model.meta, model.meta.wcsinfo
    ra, dec = _point(spec)
    # With a roll of its own the field stays the tangent point: the WCS is exact.
    exact = spec.roll is not None
    roll = spec.roll if spec.roll is not None else (spec.mjd / 365.25 * 360) % 360
    meta.aperture.name = aperture.name
    wcs.dispersion_direction = spec.setup.dispersion_axis
    wcs.v2_ref, wcs.v3_ref = aperture.v2, aperture.v3
    wcs.v3yangle, wcs.vparity = aperture.v3_angle, -1
    angle = np.deg2rad(roll + aperture.v3_angle)
    rotation = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    dy, dx = spec.dither if exact else (0.0, 0.0)
    wcs.crpix1, wcs.crpix2 = (spec.region.nx + 1) / 2 + dx, (spec.region.ny + 1) / 2 + dy
    wcs.wcsaxes, wcs.crval1, wcs.crval2 = 2, ra, dec
    # Where the sky has moved on the detector the telescope has moved the other way.
    east, north = rotation @ spec.dither[::-1] * -aperture.scale / 3600
    if exact:
        ra, dec, roll = _shift_pointing(ra, dec, roll, east, north)
    else:
        ra, dec = ra + float(east / np.cos(np.deg2rad(dec))), dec + float(north)
        wcs.crval1, wcs.crval2 = ra, dec
    wcs.ra_ref, wcs.dec_ref, wcs.roll_ref = ra, dec, roll
    wcs.ctype1, wcs.ctype2, wcs.cunit1, wcs.cunit2 = "RA---TAN", "DEC--TAN", "deg", "deg"
    wcs.cdelt1 = wcs.cdelt2 = aperture.scale / 3600
    (wcs.pc1_1, wcs.pc1_2), (wcs.pc2_1, wcs.pc2_2) = rotation.tolist()
    meta.pointing.ra_v1, meta.pointing.dec_v1, meta.pointing.pa_v3 = ra, dec, roll
    meta.velocity_aberration.scale_factor = 1.0
    meta.velocity_aberration.va_ra_ref, meta.velocity_aberration.va_dec_ref = ra, dec
    meta.dither.y_offset, meta.dither.x_offset = (v * aperture.scale for v in spec.dither)
    meta.dither.position_number = meta.dither.total_points = 1


def _shift_pointing(
    ra: float, dec: float, roll: float, east: float, north: float
) -> tuple[float, float, float]:
    """Move on the tangent plane of a direction [deg]: there, and the position angle of V3 there."""
    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.crval = ("RA---TAN", "DEC--TAN"), (ra, dec)
    plane.wcs.cdelt = -1.0, 1.0  # axis 1 is to the west; CRPIX is 0
    angle, step = np.deg2rad(roll), 1e-3
    x = np.array([east, east + step * np.sin(angle)])
    y = np.array([north, north + step * np.cos(angle)])
    here, along = SkyCoord(*plane.wcs_pix2world(-x, y, 1), unit="deg")
    return float(here.ra.deg), float(here.dec.deg), float(here.position_angle(along).deg)


def _fill_int_times(model: Level1bModel | CubeModel, spec: ExposureSpec) -> None:
    """Fill the table of integration times; BJD is left equal to MJD."""
    table = np.zeros(spec.nints, dtype=model.get_dtype("int_times"))
    table["integration_number"] = np.arange(1, spec.nints + 1)
    step = (spec.end_mjd - spec.mjd) / spec.nints
    length = spec.group_time_s * spec.ngroups / 86400
    start = spec.mjd + step * np.arange(spec.nints)
    for name, share in (("start", 0.0), ("mid", 0.5), ("end", 1.0)):
        table[f"int_{name}_MJD_UTC"] = start + share * length
        table[f"int_{name}_BJD_TDB"] = start + share * length
    model.int_times = table


def write_association(
    path: Path, rates: Sequence[Path], *, kind: str, program: str, target: str
) -> Path:
    """Write a Level-3 association, NAME_asn.json of one product NAME, of the rates beside it."""
    content = {
        "asn_type": kind,
        "asn_rule": "DMSLevel3bBase",
        "version_id": None,
        "code_version": "jwst_tvbadpix",
        "degraded_status": "No known degraded exposures in association.",
        "program": program,
        "constraints": "No constraints",
        "asn_id": "a3001",
        "asn_pool": "none",
        "target": target,
        "products": [
            {
                "name": path.name.removesuffix("_asn.json"),
                "members": [{"expname": path.name, "exptype": "science"} for path in rates],
            }
        ],
    }
    with replace_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path
