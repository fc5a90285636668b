"""Shared by the tests that run calwebb_detector1: the pipeline itself, and real ramps for it."""

import gc
import os
import types
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time, TimeDelta
from jwst.pipeline import Detector1Pipeline
from stdatamodels.jwst import datamodels

import jwst_tvbadpix
from jwst_tvbadpix.delivery import use_context
from jwst_tvbadpix.detectors import get_detector

# Public data beside the project; the tests that need them are skipped where they are absent.
REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "miri_ground_ramps"
REAL_RAMP = REAL / "jpl2018_sub64_uncal.fits"
REAL_RATES = REAL / "jpl2018_sub64_rateints.fits"

# DO_NOT_USE, spelled out here so that no test asks the code under test what it means.
DNU = 1


def make_bare_environment():
    """Variables for a process that has HOME and PATH alone, and the package under test.

    Those of OpenBLAS stay: other kernels of its make other last digits.
    """
    kept = {
        k: v for k, v in os.environ.items() if k in ("HOME", "PATH") or k.startswith("OPENBLAS")
    }
    return kept | {"PYTHONPATH": str(Path(jwst_tvbadpix.__file__).parents[1])}


@contextmanager
def idle_collector():
    """Keep stpipe from collecting garbage after each step: most of the time of a small ramp."""
    idle = types.SimpleNamespace(**{**vars(gc), "collect": lambda *_: 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stpipe.step.gc", idle)
        yield


def run_detector1(ramp, folder, context, **steps):
    """Run the stock calwebb_detector1 within a context and save what it makes.

    Parameters
    ----------
    ramp : Path
        ``_uncal`` file.
    folder : Path
        Where the products go: ``_ramp``, ``_rate`` and ``_rateints``; made when absent.
    context : Context
        CRDS set-up; nothing of it is overridden but by `steps`.
    **steps : dict
        Parameters by step, such as ``dq_init={"override_mask": ...}``.

    Returns
    -------
    dict of str to Path
        The products by suffix.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with idle_collector(), use_context(context):
        Detector1Pipeline.call(
            str(ramp),
            save_results=True,
            save_calibrated_ramp=True,
            output_dir=str(folder),
            steps=steps,
        )
    return find_products(ramp, folder)


def find_products(ramp, folder):
    """Name the products that calwebb_detector1 makes of a ramp, by suffix."""
    stem = Path(ramp).stem.removesuffix("_uncal")
    return {suffix: Path(folder) / f"{stem}_{suffix}.fits" for suffix in PRODUCTS}


PRODUCTS = ("ramp", "rate", "rateints")


def read_planes(path, *names):
    """Read extensions of a FITS file by name, as native arrays."""
    with fits.open(path, memmap=False) as hdus:
        return [np.array(hdus[name].data) for name in names]


def read_products(products):
    """Read all that a mask may change: {(suffix, extension): array}."""
    names = {"ramp": ("SCI", "PIXELDQ", "GROUPDQ")}
    planes = ("SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE")
    return {
        (suffix, name): plane
        for suffix, path in products.items()
        for name, plane in zip(
            names.get(suffix, planes), read_planes(path, *names.get(suffix, planes)), strict=True
        )
    }


def assert_same_products(one, two):
    """Require equal arrays, NaN included, in two sets of products."""
    first, second = read_products(one), read_products(two)
    assert first.keys() == second.keys()
    for key, plane in first.items():
        np.testing.assert_array_equal(plane, second[key], err_msg=str(key))


def cut_subarray(full, subarray):
    """Cut a subarray out of a full frame of MIRIMAGE; an array (ny, nx)."""
    x, y, nx, ny = get_detector("MIRIMAGE").subarrays[subarray]
    return full[y - 1 : y - 1 + ny, x - 1 : x - 1 + nx]


def override_references(references, mask):
    """Parameters of calwebb_detector1 that name each reference, for `run_detector1`.

    Parameters
    ----------
    references : dict of str to list of Path
        From `simulate.write_references`; their USEAFTER is later than a ground test.
    mask : Path
        Mask, FITS or ASDF.

    Returns
    -------
    dict of str to dict
        Parameters by step.
    """
    gain, readnoise, saturation = (
        str(references[kind][0]) for kind in ("gain", "readnoise", "saturation")
    )
    noise = {"override_gain": gain, "override_readnoise": readnoise}
    return {
        "dq_init": {"override_mask": str(mask)},
        "saturation": {"override_saturation": saturation},
        "jump": noise,
        "ramp_fit": noise,
        "gain_scale": {"override_gain": gain},
    }


def write_real_ramp(folder):
    """Re-save the ramp of the JPL ground test with the keywords that the pipeline needs.

    The file of 2018 has no ASDF extension, no EXP_TYPE, FASTAXIS or SLOWAXIS, no times, and
    READPATT = FAST, the former name of FASTR1. The pixel values are copied as they are.

    Parameters
    ----------
    folder : Path
        Where to write.

    Returns
    -------
    Path
        The ``_uncal`` file.
    """
    data, refout = read_planes(REAL_RAMP, "SCI", "REFOUT")
    header = fits.getheader(REAL_RAMP)
    model = datamodels.Level1bModel(data=data)
    model.refout = refout
    meta = model.meta
    meta.telescope, meta.origin = "JWST", header["ORIGIN"]
    meta.instrument.name, meta.instrument.detector = header["INSTRUME"], header["DETECTOR"]
    meta.observation.date, meta.observation.time = header["DATE-OBS"], header["TIME-OBS"]
    exposure = meta.exposure
    exposure.type, exposure.readpatt = "MIR_IMAGE", "FASTR1"
    exposure.nints, exposure.ngroups = header["NINTS"], header["NGROUPS"]
    exposure.nframes, exposure.groupgap = header["NFRAMES"], header["GROUPGAP"]
    exposure.nsamples, exposure.sample_time = header["NSAMPLE"], float(header["TSAMPLE"])
    exposure.integration_start, exposure.integration_end = 1, header["NINTS"]
    exposure.frame_time, exposure.group_time = header["TFRAME"], header["TGROUP"]
    exposure.integration_time = header["INTTIME"]
    exposure.exposure_time = exposure.effective_exposure_time = header["EXPTIME"]
    start = Time(f"{header['DATE-OBS']}T{header['TIME-OBS']}", scale="utc")
    length = TimeDelta(header["WALLTIME"], format="sec")
    exposure.start_time = start.mjd
    exposure.mid_time = (start + length / 2).mjd
    exposure.end_time = (start + length).mjd
    subarray = meta.subarray
    subarray.name, subarray.fastaxis, subarray.slowaxis = header["SUBARRAY"], 1, 2
    subarray.xstart, subarray.ystart = header["SUBSTRT1"], header["SUBSTRT2"]
    subarray.xsize, subarray.ysize = header["SUBSIZE1"], header["SUBSIZE2"]
    path = Path(folder) / REAL_RAMP.name
    meta.filename = path.name
    model.save(path)
    model.close()
    return path
