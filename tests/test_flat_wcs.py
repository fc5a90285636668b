"""Images with the WCS that assign_wcs made."""

import numpy as np
import pytest
from jwst.assign_wcs import AssignWcsStep
from pipeline import idle_collector

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.imaging import list_sets, open_images
from jwst_tvbadpix.simulate import (
    find_region,
    simulate_flat_programme,
    write_spectral_references,
)


@pytest.fixture(scope="module")
def assigned(tmp_path_factory):
    """A rate, and the same with a gwcs, as file and as model."""
    folder = tmp_path_factory.mktemp("assigned")
    (rate,) = simulate_flat_programme(
        folder, region=find_region("SUB256"), n_exposures=1, n_tiles=1, density=100
    ).rates
    distortion = write_spectral_references(folder / "references")["distortion"]
    context = build_context(folder / "crds", {"distortion": distortion})
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
        np.testing.assert_allclose(wcs.to_pixel(*sky), [x, y], atol=1e-6)
        # Beyond the bounding box too: corners of pixels, and stars outside of the frame.
        assert np.isfinite(wcs.to_sky(np.array([-0.6, 300.0]), np.array([-0.6, 300.0]))).all()
    (images,) = list_sets(open_images([rate])[0])
    assert not images.images[0].wcs.distorted
