"""Images with the WCS that assign_wcs made, or that the step makes of a distortion."""

import shutil
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from flatness import write_stage2
from jwst.assign_wcs import AssignWcsStep
from pipeline import idle_collector
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import EvidenceError, InputError
from jwst_tvbadpix.imaging import list_sets, open_images
from jwst_tvbadpix.simulate import find_region, make_distortion, simulate_flat_programme
from jwst_tvbadpix.steps import ExternalFlatBuilder
from jwst_tvbadpix.steps._flat_wcs import DistortionFinder

# Public data beside the project; what needs them is skipped where they are absent.
REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "miri_distortion"
REAL_DISTORTION = REAL / "jwst_miri_imager_distortion_flt9.asdf"


@pytest.fixture(autouse=True)
def _no_crds(monkeypatch):
    for name in ("CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    return write_stage2(tmp_path_factory.mktemp("references"))


@pytest.fixture(scope="module")
def context(references, tmp_path_factory):
    return build_context(tmp_path_factory.mktemp("crds"), references)


@pytest.fixture(scope="module")
def assigned(context, tmp_path_factory):
    """A rate, and the same with a gwcs, as file and as model."""
    folder = tmp_path_factory.mktemp("assigned")
    (rate,) = simulate_flat_programme(
        folder,
        region=find_region("SUB256"),
        n_exposures=1,
        n_tiles=1,
        density=100,
        distortion=make_distortion(),
    ).rates
    with idle_collector(), use_context(context):
        model = AssignWcsStep.call(str(rate))
    assert model.meta.cal_step.assign_wcs == "COMPLETE"
    path = folder / "with_wcs_cal.fits"
    model.save(path)
    yield rate, path, model
    model.close()


def test_gwcs_is_taken_where_it_was_assigned(assigned):
    rate, path, model = assigned
    x, y = np.array([0.0, 10.0, 255.0]), np.array([3.0, 200.0, 255.0])
    expected = model.meta.wcs(x, y, with_bounding_box=False)
    for inputs in ([path], [model]):
        (images,) = list_sets(open_images(inputs)[0])
        wcs = images.images[0].wcs
        assert wcs.distorted
        sky = wcs.to_sky(x, y)
        np.testing.assert_allclose(sky, expected, rtol=1e-12)
        np.testing.assert_allclose(wcs.to_pixel(*sky), [x, y], atol=1e-3)
        # Beyond the bounding box too: corners of pixels, and stars outside of the frame.
        assert np.isfinite(wcs.to_sky(np.array([-0.6, 300.0]), np.array([-0.6, 300.0]))).all()
    (images,) = list_sets(open_images([rate])[0])
    assert not images.images[0].wcs.distorted


def find_sky(images):
    x, y = np.meshgrid(np.linspace(0, 255, 5), np.linspace(0, 255, 5))
    return np.array(images[0].wcs.to_sky(x, y))


@pytest.mark.parametrize("how", ["file", "crds"])
def test_rates_get_the_wcs_that_assign_wcs_makes(assigned, references, context, how, tmp_path):
    rate, path, _ = assigned
    expected = find_sky(open_images([path])[0])
    flat_image = Path(shutil.copy(rate, tmp_path / "flat_image_rate.fits"))
    fits.setval(flat_image, "EXP_TYPE", value="MIR_FLATIMAGE-EXT")
    with datamodels.open(rate) as model, use_context(context):
        optics = DistortionFinder(references["distortion"][0] if how == "file" else "crds")
        for item in (rate, flat_image, model):
            images, excluded = open_images([item], assign=optics.assign)
            assert not excluded
            assert images[0].wcs.distorted
            # FITS keeps the pointing to the last digit but one.
            np.testing.assert_allclose(find_sky(images), expected, rtol=0, atol=1e-9)
        kinds = [kind for kind, _ in optics.used]
        assert kinds == (["distortion"] if how == "file" else ["distortion", "filteroffset"])
        assert model.meta.exposure.type == "MIR_IMAGE"
        # What was assigned stays.
        (image,), _ = open_images([path], assign=lambda *_: pytest.fail("assigned again"))
        assert image.wcs.distorted


def test_without_distortion_the_keywords_miss_the_pixel_area(assigned):
    rate, path, _ = assigned
    true, plain = (find_sky(open_images([item])[0]) for item in (path, rate))
    miss = np.hypot((true - plain)[0] * np.cos(np.deg2rad(66.5)), (true - plain)[1]) * 3600
    assert 0.03 < miss.max() < 0.3


def test_distortion_is_refused_where_it_is_none(assigned, references, context, tmp_path):
    rate = assigned[0]
    for wrong in (rate, tmp_path / "absent.asdf", references["filteroffset"][0]):
        with pytest.raises(InputError, match=r"expected a distortion.*distortion"):
            DistortionFinder(wrong)
    with pytest.raises(InputError, match="expected a CRDS set-up"):
        DistortionFinder("crds")
    empty = build_context(tmp_path, {"photom": references["photom"]})
    with use_context(empty), pytest.raises(EvidenceError, match="distortion reference of CRDS"):
        open_images([rate], assign=DistortionFinder("crds").assign)
    other = tmp_path / "other.asdf"
    with asdf.open(references["distortion"][0], memmap=False, lazy_load=False) as file:
        file.tree["meta"]["instrument"]["detector"] = "NRCALONG"
        file.write_to(other)
    with pytest.raises(EvidenceError, match="expected a distortion of MIRIMAGE"):
        open_images([rate], assign=DistortionFinder(other).assign)
    lost = Path(shutil.copy(rate, tmp_path))
    fits.delval(lost, "V2_REF", ext=1)
    fits.delval(lost, "ROLL_REF", ext=1)
    with pytest.raises(EvidenceError, match="found no V2_REF, ROLL_REF"):
        open_images([lost], assign=DistortionFinder(references["distortion"][0]).assign)


def test_one_detector_has_one_kind_of_wcs(assigned, tmp_path):
    rate, path, _ = assigned
    later = Path(shutil.copy(rate, tmp_path / "later_rate.fits"))
    with fits.open(later, mode="update") as hdus:
        hdus[0].header["EXPSTART"] += 0.01
        hdus["SCI"].data[0, 0] += 1
    images, (out,) = open_images([path, later])
    assert len(images) == 1
    assert out.filename == later.name
    assert "expected a WCS with distortion" in out.reason


@pytest.mark.skipif(not REAL_DISTORTION.is_file(), reason="the real distortion is not here")
def test_real_distortion_gives_the_flat_its_pixel_area(tmp_path):
    with asdf.open(REAL_DISTORTION) as file:
        transform = file.tree["model"]
    programme = simulate_flat_programme(
        tmp_path / "in",
        region=find_region("SUB256"),
        n_exposures=10,
        density=2000,
        distortion=transform,
    )
    with idle_collector():
        parts, model = ExternalFlatBuilder.call(
            str(programme.association), distortion=str(REAL_DISTORTION), star_flat="always"
        )
    flat, err = model.data, model.err
    used = np.isfinite(flat)
    pulls = []
    for truth in (programme.star_flats[0] * programme.area, programme.star_flats[0]):
        error = flat[used] / flat[used].mean() - truth[used] / truth[used].mean()
        pulls.append(np.mean((error / err[used]) ** 2))
    assert parts.area == "distorted"
    assert pulls[0] == pytest.approx(1, abs=0.1)
    assert pulls[1] > 1.5
