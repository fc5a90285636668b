"""The star of known spectrum, its references, and stock calwebb_spec2 on both."""

import gc
import types

import numpy as np
import pytest
from jwst.pipeline import Spec2Pipeline
from pipeline import run_detector1
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import DetectorError
from jwst_tvbadpix.refmodels import build_neutral_mask, write_twins
from jwst_tvbadpix.simulate import (
    DarkPedestal,
    ExposureSpec,
    PixelPattern,
    RenderContext,
    Scene,
    SkyField,
    StarTrace,
    find_region,
    get_trace,
    write_ramp,
    write_references,
    write_spectral_references,
)

PATTERN = PixelPattern(seed=3)


@pytest.mark.parametrize("subarray", ["FULL", "SLITLESSPRISM"])
def test_all_light_of_the_star_is_on_the_detector(subarray):
    star, trace, region = StarTrace(), get_trace(subarray), find_region(subarray)
    image = star.render(RenderContext(region))
    rows = trace.rows - region.y_start
    np.testing.assert_allclose(
        image[rows].sum(axis=1), star.counts(trace.wavelength(trace.rows)), rtol=1e-4
    )
    assert image.sum() == pytest.approx(image[rows].sum())
    centre = image[rows] @ np.arange(region.nx) / image[rows].sum(axis=1) + region.x_start
    np.testing.assert_allclose(centre, trace.centre(trace.rows), atol=1e-3)


def test_other_subarrays_have_no_trace():
    with pytest.raises(DetectorError, match="FULL, SLITLESSPRISM"):
        get_trace("SUB64")


def test_spec2_gives_the_spectrum_that_was_put_in(tmp_path):
    (_, mask) = write_twins(build_neutral_mask("MIRIMAGE"), tmp_path / "neutral")
    references = write_references(tmp_path / "refs")
    references |= write_spectral_references(tmp_path / "refs", pattern=PATTERN)
    context = build_context(tmp_path / "crds", {"mask": [mask], **references})
    star = StarTrace(flux_jy=1e-3)
    scene = Scene((SkyField(), DarkPedestal(), star), pattern=PATTERN, crosstalk=0.01)
    spec = ExposureSpec(60000.0, subarray="SLITLESSPRISM", ngroups=20, nints=2, target="STAR")
    ramp = write_ramp(tmp_path, spec, scene)
    rateints = run_detector1(ramp, tmp_path, context)["rateints"]
    idle = types.SimpleNamespace(**{**vars(gc), "collect": lambda *_: 0})
    with pytest.MonkeyPatch.context() as patch, use_context(context):
        patch.setattr("stpipe.step.gc", idle)
        Spec2Pipeline.call(
            str(rateints), save_results=True, output_dir=str(tmp_path), configure_log=False
        )
    (product,) = tmp_path.glob("*_x1dints.fits")
    with datamodels.open(product) as model:
        table = model.spec[0].spec_table
        wavelength = np.array(table["WAVELENGTH"][0])
        flux = np.array(table["FLUX"])
    np.testing.assert_allclose(
        wavelength, get_trace("SLITLESSPRISM").wavelength(get_trace("SLITLESSPRISM").rows)
    )
    used = (wavelength > 5) & (wavelength < 12)
    ratio = flux[:, used] / star.flux(wavelength[used])
    error = np.std(ratio) / np.sqrt(ratio.size)
    assert error < 0.002
    assert abs(np.mean(ratio) - 1) < 4 * error
