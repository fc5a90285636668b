"""The table of detectors, against what the installed pipeline says of them."""

import numpy as np
import pytest
from jwst.badpix_selfcal import badpix_selfcal_step as selfcal
from jwst.refpix.irs2_subtract_reference import make_irs2_mask
from jwst.refpix.reference_pixels import NIR_reference_sections
from jwst.refpix.tests.test_refpix import AXES
from stdatamodels import schema
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.detectors import DETECTORS, get_detector
from jwst_tvbadpix.errors import DetectorError

MIRI = ("MIRIMAGE", "MIRIFUSHORT", "MIRIFULONG")
JWST = [name for name, detector in DETECTORS.items() if detector.telescope == "JWST"]


def enum_of(path):
    """Every value that the pipeline's schema allows for an attribute of a model."""
    node = schema.merge_property_trees(datamodels.ImageModel().schema)
    for part in path.split("."):
        node = node["properties"][part]
    return {v for group in node.get("anyOf", [node]) for v in group.get("enum", ())}


def test_every_detector_of_the_pipeline_is_known():
    others = {"ANY", "N/A", "MULTIPLE"}
    assert enum_of("meta.instrument.detector") - set(JWST) == others
    assert {DETECTORS[name].instrument for name in JWST} <= enum_of("meta.instrument.name")


def test_read_out_directions_are_those_of_the_pipeline():
    assert {
        n: (d.fastaxis, d.slowaxis) for n, d in DETECTORS.items() if n in JWST and n not in MIRI
    } == AXES
    assert {(get_detector(n).fastaxis, get_detector(n).slowaxis) for n in MIRI} == {(1, 2)}


@pytest.mark.parametrize("name", sorted(set(JWST) - set(MIRI)))
def test_near_infrared_reference_pixels_are_those_of_refpix(name):
    expected = np.zeros((2048, 2048), bool)
    for section in NIR_reference_sections.values():
        for edge in ("top", "bottom", "side"):
            if edge in section:
                y0, y1, x0, x1 = section[edge]
                expected[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(get_detector(name).reference_pixels(), expected)


@pytest.mark.parametrize("name", MIRI)
def test_miri_has_reference_columns_and_no_rows(name):
    detector = get_detector(name)
    assert detector.shape == (1024, 1032)
    columns = detector.reference_pixels()
    assert (columns == columns[0]).all()
    assert np.flatnonzero(columns[0]).tolist() == [0, 1, 2, 3, 1028, 1029, 1030, 1031]


def test_pedestals_are_those_of_badpix_selfcal():
    found = {n: d.pedestal for n, d in DETECTORS.items() if d.pedestal is not None}
    assert found == {
        "MIRIFUSHORT": selfcal.PEDESTAL_INDX_MIRIFUSHORT,
        "MIRIFULONG": selfcal.PEDESTAL_INDX_MIRIFULONG,
    }


def test_interleaved_rows_hold_the_plain_ones():
    """Of the rows of an IRS2 frame, refpix keeps as many as a rate has: 16 of every 20."""
    found = {n: d.irs2_shape for n, d in DETECTORS.items() if d.irs2_shape is not None}
    assert found == dict.fromkeys(("NRS1", "NRS2"), (3200, 2048))
    for name, (ny, nx) in found.items():
        assert (make_irs2_mask(nx, ny, 16, 4).sum(), nx) == get_detector(name).shape


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_every_table_corner_lies_in_the_frame(name):
    detector = get_detector(name)
    assert detector.name == name
    ny, nx = detector.shape
    full = (5, 5, nx - 8, ny - 8) if detector.telescope == "ROMAN" else (1, 1, nx, ny)
    assert detector.subarrays["FULL"] == full
    for corner in detector.subarrays.values():
        if corner is not None:
            x, y, dx, dy = corner
            assert 1 <= x <= x + dx - 1 <= nx
            assert 1 <= y <= y + dy - 1 <= ny


def test_miri_subarray_names_are_those_of_the_schema():
    names = set(get_detector("MIRIMAGE").subarrays)
    assert names <= enum_of("meta.subarray.name")


@pytest.mark.parametrize("name", ["NRCA9", "mirimage", "", None])
def test_unknown_detector(name):
    with pytest.raises(DetectorError, match=r"must be one of MIRIMAGE, .*found") as caught:
        get_detector(name)
    assert repr(name) in str(caught.value)
    assert all(known in str(caught.value) for known in DETECTORS)


def test_wide_field_detectors_are_those_of_roman():
    """Eighteen of 4096 x 4096; level-2 images lie within four reference pixels all round."""
    wfi = [detector for detector in DETECTORS.values() if detector.telescope == "ROMAN"]
    assert [d.name for d in wfi] == [f"WFI{k:02d}" for k in range(1, 19)]
    for detector in wfi:
        assert detector.shape == (4096, 4096)
        x, y, nx, ny = detector.subarrays["FULL"]
        inner = np.ones(detector.shape, bool)
        inner[y - 1 : y - 1 + ny, x - 1 : x - 1 + nx] = False
        np.testing.assert_array_equal(detector.reference_pixels(), inner)
