"""The reference files without which calwebb_spec2 does not run on simulated LRS exposures."""

import json
from pathlib import Path

import numpy as np
from astropy.modeling import Model, models
from stdatamodels.jwst.datamodels import (
    DistortionModel,
    FlatModel,
    JwstDataModel,
    MiriLRSSpecwcsModel,
    MirLrsPhotomModel,
    SpecPsfModel,
)

from ..detectors import get_detector
from .electronics import find_region
from .layers import PixelPattern
from .layers_lrs import compute_wavelength
from .references import fill_frame, fill_reference
from .saving import save_model
from .setups import make_lrs_setup
from .star_lrs import (
    PIXEL_ARCSEC,
    PIXEL_SR,
    Trace,
    compute_profile,
    compute_throughput,
    get_trace,
)

__all__ = ["BOX_HALF_WIDTH", "build_flat", "build_transform", "write_spectral_references"]

_DETECTOR = "MIRIMAGE"
_EXP_TYPES = {"FULL": "MIR_LRS-FIXEDSLIT", "SLITLESSPRISM": "MIR_LRS-SLITLESS"}
# Half width of the extraction box [pixel]: 0.05 % of the light falls outside of it.
BOX_HALF_WIDTH = 5
# Distance of the two background regions from the trace [pixel]: within the slit of 44 pixels.
_BACKGROUND = (8, 18)
# Half width of the slit [pixel].
_SLIT_HALF_WIDTH = 22
# Row of the reference point within a trace, and steps per pixel of the PSF; assumptions.
_REFERENCE_ROW = 293
_PSF_STEPS = 10
_PSF_HALF_WIDTH = 40
# Share of the light that goes to each neighbour in the scenes.
_CROSSTALK = 0.01
_DQ_DEF = [(0, 1, "DO_NOT_USE", ""), (1, 2, "NO_FLAT_FIELD", "")]


def write_spectral_references(
    folder: str | Path, *, pattern: PixelPattern | None = None
) -> dict[str, list[Path]]:
    """Write distortion, specwcs, photom, flat, extract1d and psf for LRS, slit and slitless.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    pattern : PixelPattern or None
        Pixels of the scene, whose response becomes the flat; None = a flat of ones.

    Returns
    -------
    dict of str to list of Path
        Files by reference type, ready for CRDS; they describe the star of `StarTrace`. The psf is
        that of the slit: jwst 3.0 does not find the trace of a slitless spectrum.
        With those of `write_references` and a mask calwebb_detector1 and calwebb_spec2 run
        without an override; every other type may be N/A.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "distortion": [_write(_build_distortion(), folder, "distortion", ".asdf")],
        "specwcs": [_write(_build_specwcs(), folder, "specwcs")],
        "photom": [_write(_build_photom(), folder, "photom")],
        "flat": [_write(build_flat(pattern), folder, "flat")],
        "psf": [_write(_build_psf(), folder, "psf")],
        "extract1d": [_write_extract1d(folder, subarray) for subarray in _EXP_TYPES],
    }


def _write(model: JwstDataModel, folder: Path, reftype: str, suffix: str = ".fits") -> Path:
    """Fill what CRDS asks for and write."""
    path = folder / f"simulated_mirimage_lrs_{reftype}{suffix}"
    meta = model.meta
    fill_reference(model, path, reftype, _DETECTOR)
    meta.description = f"{reftype} of simulated MIRI LRS exposures"
    if reftype in ("flat", "specwcs"):
        fill_frame(model, reftype, _DETECTOR)
    if reftype in ("photom", "flat"):
        model.extra_fits = {"PRIMARY": {"header": [["FILTER", "P750L", "prism"]]}}
    if reftype in ("psf", "specwcs"):
        meta.instrument.filter = "P750L"
    if reftype in ("psf", "photom", "specwcs"):
        meta.exposure.type = _EXP_TYPES["FULL"]
        meta.exposure.p_exptype = "".join(f"{name}|" for name in _EXP_TYPES.values())
    return save_model(model, path)


def build_transform() -> Model:
    """Full-frame pixel (0-based) -> V2, V3 ["]: linear, exact at the slit, inverse included."""
    setup = make_lrs_setup("FULL")
    x, y = _find_reference_point(get_trace("FULL"))
    aperture = setup.aperture
    forward = (
        models.Shift(-x) & models.Shift(-y)
        | models.Scale(-PIXEL_ARCSEC) & models.Scale(PIXEL_ARCSEC)
        | models.Rotation2D(-aperture.v3_angle)
        | models.Shift(aperture.v2) & models.Shift(aperture.v3)
    )
    forward.inverse = (
        models.Shift(-aperture.v2) & models.Shift(-aperture.v3)
        | models.Rotation2D(aperture.v3_angle)
        | models.Scale(-1 / PIXEL_ARCSEC) & models.Scale(1 / PIXEL_ARCSEC)
        | models.Shift(x) & models.Shift(y)
    )
    return forward


def _find_reference_point(trace: Trace) -> tuple[float, float]:
    """Place of the aperture's reference point: x, y, 0-based full frame."""
    return trace.x_middle, float(trace.first_row + _REFERENCE_ROW)


def _build_distortion() -> DistortionModel:
    model = DistortionModel(model=build_transform(), input_units="pixel", output_units="arcsec")
    model.meta.input_units, model.meta.output_units = "pixel", "arcsec"
    model.meta.title = "MIRI imager, linear"
    model.meta.instrument.channel = model.meta.instrument.band = "N/A"
    model.meta.exposure.type = "MIR_IMAGE"
    return model


def _build_specwcs() -> MiriLRSSpecwcsModel:
    """Wavelength and drift of the trace, relative to the reference point, rows descending."""
    model = MiriLRSSpecwcsModel()
    slit = get_trace("FULL")
    x, y = _find_reference_point(slit)
    rows = slit.rows[::-1].astype(float)
    table = np.zeros(rows.size, dtype=model.get_dtype("wavetable"))
    table["x_center"], table["y_center"] = slit.centre(rows) - x, rows - y
    table["wavelength"] = slit.wavelength(rows)
    table["x0"] = table["x3"] = -_SLIT_HALF_WIDTH
    table["x1"] = table["x2"] = _SLIT_HALF_WIDTH
    table["y0"] = table["y1"] = table["y_center"] + 0.5
    table["y2"] = table["y3"] = table["y_center"] - 0.5
    model.wavetable = table
    meta = model.meta
    meta.x_ref, meta.y_ref = x + 1, y + 1
    x, y = _find_reference_point(get_trace("SLITLESSPRISM"))
    meta.x_ref_slitless, meta.y_ref_slitless = x + 1, y + 1
    to_v2v3 = build_transform()
    corners = ((-1, -2), (1, -2), (1, 2), (-1, 2))
    for k, (across, along) in enumerate(corners, start=1):
        v2, v3 = to_v2v3(meta.x_ref - 1 + across * _SLIT_HALF_WIDTH, meta.y_ref - 1 + along)
        setattr(meta, f"v2_vert{k}", float(v2))
        setattr(meta, f"v3_vert{k}", float(v3))
    meta.instrument.channel = meta.instrument.band = "N/A"
    return model


def _build_photom() -> MirLrsPhotomModel:
    """One row per subarray; the relative response undoes the throughput."""
    model = MirLrsPhotomModel()
    # Four samples per row, so that linear interpolation adds no error of its own.
    trace = get_trace("FULL")
    wavelength = np.sort(trace.wavelength(np.linspace(trace.rows[0], trace.rows[-1], 1557)))
    n = wavelength.size
    dtype = np.dtype(
        [
            ("filter", "S12"),
            ("subarray", "S17"),
            ("photmjsr", "f4"),
            ("uncertainty", "f4"),
            ("nelem", "i2"),
            ("wavelength", "f4", (n,)),
            ("relresponse", "f4", (n,)),
            ("reluncertainty", "f4", (n,)),
        ]
    )
    response = 1 / compute_throughput(wavelength)
    rows = [
        ("P750L", subarray, 1.0, 0.0, n, wavelength, response, np.zeros(n))
        for subarray in _EXP_TYPES
    ]
    model.phot_table = np.array(rows, dtype=dtype)
    model.meta.photometry.pixelarea_steradians = PIXEL_SR
    model.meta.photometry.pixelarea_arcsecsq = PIXEL_ARCSEC**2
    model.meta.instrument.band = "N/A"
    return model


def build_flat(pattern: PixelPattern | None) -> FlatModel:
    """Response of the pixels of MIRIMAGE, over the full frame; subarrays are cut from it."""
    shape = get_detector(_DETECTOR).shape
    data = np.ones(shape, np.float32)
    if pattern is not None:
        data = pattern.response(find_region("FULL"), detector=_DETECTOR)
    model = FlatModel(data=data, err=np.zeros(shape, np.float32), dq=np.zeros(shape, np.uint32))
    model.dq_def = np.array(_DQ_DEF, dtype=model.get_dtype("dq_def"))
    model.meta.instrument.band = "N/A"
    model.meta.exposure.readpatt = "ANY"
    return model


def _build_psf() -> SpecPsfModel:
    """Build the trace across dispersion, finely sampled, the same at all wavelengths.

    As the slit has it, whose image is resampled before it is extracted: like interpolation
    between pixels, which on average widens the trace by a triangle of one pixel.
    """
    model = SpecPsfModel()
    steps = _PSF_HALF_WIDTH * _PSF_STEPS
    across = np.arange(-steps, steps + 1) / _PSF_STEPS
    seen = (1 - 2 * _CROSSTALK) * compute_profile(across)
    seen += _CROSSTALK * (compute_profile(across - 1) + compute_profile(across + 1))
    triangle = 1 - np.abs(np.arange(-_PSF_STEPS, _PSF_STEPS + 1)) / _PSF_STEPS
    seen = np.convolve(seen, triangle / triangle.sum(), mode="same")
    wavelength = np.sort(compute_wavelength(np.linspace(0, 1, 50)))
    aperture = {
        "name": "ANY",
        "subpix": float(_PSF_STEPS),
        "center_col": float(steps),
        "center_row": 0.0,
        "data": np.tile(seen, (wavelength.size, 1)),
        "wave": wavelength,
    }
    model.apertures.append(aperture)
    return model


def _write_extract1d(folder: Path, subarray: str) -> Path:
    """Write box and background regions, in the coordinates of what is extracted."""
    trace, region = get_trace(subarray), find_region(subarray)
    exp_type = _EXP_TYPES[subarray]
    x = trace.x_middle - region.x_start
    y = trace.first_row - region.y_start
    if subarray == "FULL":
        # The resampled image begins at the edge of the slit, its rows at the longest wavelength.
        x, y = float(_SLIT_HALF_WIDTH), 0
    near, far = _BACKGROUND
    aperture = {
        "id": "ANY",
        "region_type": "target",
        "dispaxis": 2,
        "xstart": x - BOX_HALF_WIDTH,
        "xstop": x + BOX_HALF_WIDTH,
        "ystart": y,
        "ystop": y + trace.n_rows - 1,
        "bkg_coeff": [[x - far], [x - near], [x + near], [x + far]],
        "bkg_fit": "median",
        "use_source_posn": False,
    }
    content = {
        "REFTYPE": "EXTRACT1D",
        "INSTRUME": "MIRI",
        "TELESCOP": "JWST",
        "DETECTOR": _DETECTOR,
        "EXP_TYPE": exp_type,
        "PEDIGREE": "SIMULATION",
        "DESCRIP": "Extraction of simulated MIRI LRS exposures",
        "AUTHOR": "jwst_tvbadpix",
        "HISTORY": "Assumed by jwst_tvbadpix.simulate, not measured.",
        "USEAFTER": "2021-12-25T00:00:00",
        "apertures": [aperture],
    }
    path = folder / f"simulated_mirimage_{exp_type.lower()}_extract1d.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path
