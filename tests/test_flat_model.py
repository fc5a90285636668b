"""Flats as reference models: what is refused, what CRDS says, how the pipeline cuts them."""

import numpy as np
import pytest
from astropy.io import fits
from crds.core import log
from jwst.flatfield import FlatFieldStep
from pipeline import idle_collector

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.delivery.certify import certify_fits
from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.errors import DateError, ProductError
from jwst_tvbadpix.refmodels import FlatSelection, build_flat_model, write_twins
from jwst_tvbadpix.simulate import find_region, simulate_flat_programme

DNU, NON_SCIENCE, NO_FLAT, UNRELIABLE = 1, 512, 2**18, 2**25


def select(detector="MIRIMAGE", **changes):
    standard = {
        "filter": "F770W",
        "pupil": "N/A",
        "subarray": "GENERIC",
        "corner": (0, 0),
        "readpatt": "N/A",
        "useafter": "2021-12-25T00:00:00",
    }
    return FlatSelection(detector, **(standard | changes))


def build(flat, err=None, flags=None, *, selection=None, **changes):
    standard = {
        "exp_type": "MIR_IMAGE",
        "pedigree": "INFLIGHT 2022-06-01 2022-06-02",
        "description": "Flat",
        "history": ["Made up."],
    }
    err = np.full(flat.shape, 0.002) if err is None else err
    return build_flat_model(
        flat, err, flags or {}, selection=selection or select(), **(standard | changes)
    )


def make_frame(detector="MIRIMAGE", seed=0):
    shape = get_detector(detector).shape
    return 1 + 0.01 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("flat", "err"),
    [(np.nan, 0.1), (0.0, 0.1), (-0.5, 0.1), (np.inf, 0.1), (1.0, np.nan), (1.0, np.inf)],
)
def test_pixels_that_would_do_harm_are_refused(flat, err):
    image, errors = np.ones((8, 9)), np.full((8, 9), 0.01)
    image[3, 4], errors[3, 4] = flat, err
    with pytest.raises(ProductError, match=r"row 3, column 4 \(1 pixels\)"):
        build(image, errors)
    lost = np.zeros(image.shape, bool)
    lost[3, 4] = True
    model = build(image, errors, {"DO_NOT_USE": lost, "NO_FLAT_FIELD": lost})
    assert model.dq[3, 4] == DNU | NO_FLAT
    assert (model.dq != 0).sum() == 1
    # The slit is applied: its flags spare nothing.
    with pytest.raises(ProductError, match="positive finite flat"):
        build(image, errors, {"NON_SCIENCE": lost})


def test_flags_keep_their_bits_and_inputs_stay_as_they_are():
    image = np.ones((8, 9))
    marked = np.zeros(image.shape, bool)
    marked[0, 1] = True
    model = build(image, None, {"NON_SCIENCE": marked, "UNRELIABLE_FLAT": marked})
    assert model.dq[0, 1] == NON_SCIENCE | UNRELIABLE
    model.data[:] = 5
    assert (image == 1).all()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"pedigree": "INFLIGHT"}, ProductError, "PEDIGREE"),
        ({"history": []}, ProductError, "history entry"),
        ({"selection": select(useafter="2022-06-01")}, DateError, "USEAFTER"),
        ({"selection": select(filter="F999W")}, ProductError, "schema of flats"),
        ({"err": np.ones((3, 3))}, ProductError, "one value per pixel"),
        ({"flags": {"DEAD": np.zeros((3, 3), bool)}}, ProductError, "one value per pixel"),
    ],
)
def test_what_cannot_be_is_refused(changes, error, words):
    with pytest.raises(error, match=words):
        build(np.ones((8, 9)), **changes)


@pytest.mark.parametrize(
    ("detector", "optics", "exp_type"),
    [
        # That of MIRI is certified where the step makes it.
        ("NRCALONG", ("F444W", "CLEAR"), "NRC_IMAGE"),
        pytest.param("NIS", ("CLEAR", "F150W"), "NIS_IMAGE", marks=pytest.mark.slow),
    ],
)
def test_certify_is_clean_for_other_imagers(tmp_path, detector, optics, exp_type):
    selection = select(detector, filter=optics[0], pupil=optics[1])
    model = build(make_frame(detector), selection=selection, exp_type=exp_type)
    _, fits_path = write_twins(model, tmp_path / "flat")
    context = build_context(tmp_path / "crds", {"flat": [fits_path]})
    with use_context(context):
        log.reset()
        certify_fits(str(fits_path), context.env["CRDS_CONTEXT"])
        assert (log.errors(), log.warnings()) == (0, 0)


def test_full_frame_serves_a_subarray_with_either_twin(tmp_path):
    frame = make_frame()
    lost = np.zeros(frame.shape, bool)
    lost[100, 500] = lost[110, 510] = True
    frame[lost] = np.nan
    slit = np.zeros(frame.shape, bool)
    slit[60:64, 450:460] = True
    flags = {"DO_NOT_USE": lost, "NO_FLAT_FIELD": lost, "NON_SCIENCE": slit}
    paths = write_twins(build(frame, None, flags), tmp_path / "flat")
    region = find_region("SUB256")
    (rate,) = simulate_flat_programme(
        tmp_path, region=region, n_exposures=1, n_tiles=1, density=100
    ).rates
    found = []
    for path in paths:
        context = build_context(tmp_path / path.suffix, {"flat": [path]})
        with idle_collector(), use_context(context), FlatFieldStep.call(str(rate)) as result:
            assert result.meta.cal_step.flat_field == "COMPLETE"
            assert result.meta.ref_file.flat.name == f"crds://{context.names[path.resolve()]}"
            found.append((result.data.copy(), result.err.copy(), result.dq.copy()))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)
    data, _, dq = found[0]
    raw, before = fits.getdata(rate, "SCI"), fits.getdata(rate, "DQ")
    cut = region.slices
    kept = ~lost[cut] & ((before & DNU) == 0)
    np.testing.assert_allclose(data[kept], (raw / frame[cut])[kept], rtol=1e-5)
    assert np.isnan(data[lost[cut]]).all()
    assert (dq[lost[cut]] & (DNU | NO_FLAT) == DNU | NO_FLAT).all()
    only_slit = slit[cut] & ((before & DNU) == 0)
    assert only_slit.any()
    assert (dq[only_slit] == NON_SCIENCE).all()
    assert np.isfinite(data[only_slit]).all()
