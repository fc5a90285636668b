"""Real ramps: a ground test of MIRIMAGE through calwebb_detector1 and TimeVariableBadPixel.

The numbers that the tests judge are those of `measure_real_ramps`; to see them::

    python -c "import sys; sys.path.insert(0, 'tests'); import test_real_ramps as t; t.main()"
"""

import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from pipeline import (
    DNU,
    REAL_RAMP,
    REAL_RATES,
    assert_same_products,
    cut_subarray,
    override_references,
    read_planes,
    run_detector1,
    write_real_ramp,
)
from scipy.stats import hypergeom
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.delivery import build_context
from jwst_tvbadpix.refmodels import build_neutral_mask, read_history, write_twins
from jwst_tvbadpix.simulate import write_references
from jwst_tvbadpix.steps import TimeVariableBadPixel

pytestmark = pytest.mark.skipif(
    not (REAL_RAMP.is_file() and REAL_RATES.is_file()),
    reason="the real ramps of ../shared/realdata are absent",
)

SHAPE = (64, 72)
# SUB64 begins at the left edge of the detector: its first four columns are reference pixels.
LIT = np.broadcast_to(np.arange(SHAPE[1]) >= 4, SHAPE)
# 0-based integrations that are settled; the first lies at 17 DN/s, these at 0.8 to 2.7.
SETTLED = (1, 2, 3, 4)
# UNRELIABLE_SLOPE | DO_NOT_USE, as the archive wrote it.
HIDDEN = 2**24 | 1
OUTLIER = 5.0
WINDOW = 7


def find_mask(product, folder):
    """Run the step on one exposure and save; its mask: bool (64, 72), True = bad."""
    folder.mkdir(parents=True, exist_ok=True)
    TimeVariableBadPixel.call(
        str(product), save_results=True, output_dir=str(folder), output_file="ground"
    )
    (path,) = folder.glob("*_mask_*.fits")
    (dq,) = read_planes(path, "DQ")
    return (cut_subarray(dq, "SUB64") & DNU) != 0


def find_deviation(image):
    """Deviation from the local median, and its robust scatter: (in sigma (ny, nx), DN/s)."""
    half = WINDOW // 2
    padded = np.pad(np.where(LIT, image, np.nan), half, constant_values=np.nan)
    window = np.lib.stride_tricks.sliding_window_view(padded, (WINDOW, WINDOW))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        residual = np.where(LIT, image, np.nan) - np.nanmedian(window, axis=(2, 3))
    scatter = float(1.4826 * np.nanmedian(np.abs(residual)))
    return residual / scatter, scatter


def count_classes(folder):
    """Count the bad pixels of a history by class."""
    (path,) = folder.glob("*_badpixhistory.asdf")
    names, counts = np.unique(read_history(path).intervals.instance["class"], return_counts=True)
    return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


def describe_rate(rateints):
    """Scatter and outliers of the mean of the settled integrations."""
    (rate,) = read_planes(rateints, "SCI")
    deviation, scatter = find_deviation(rate[list(SETTLED)].mean(axis=0))
    return {
        "pixels": int(np.isfinite(deviation).sum()),
        "robust_scatter_dn_s": round(scatter, 3),
        "rms_dn_s": round(float(np.nanstd(deviation)) * scatter, 3),
        "outliers": int((np.abs(deviation) > OUTLIER).sum()),
    }


def leave_one_out(rateints, left_out):
    """Make the mask from three settled integrations and judge it on the fourth."""
    kept = [k for k in SETTLED if k != left_out]
    with datamodels.CubeModel(str(rateints)) as whole, whole.copy() as part:
        part.data, part.dq, part.err = (
            plane[kept].copy() for plane in (whole.data, whole.dq, whole.err)
        )
        part.meta.exposure.nints = len(kept)
        image = whole.data[left_out].copy()
        mask = TimeVariableBadPixel.call(part)[1]
        bad = (cut_subarray(mask.dq, "SUB64") & DNU) != 0
    outlier = np.abs(find_deviation(image)[0]) > OUTLIER
    return {
        "integration": left_out + 1,
        "flagged": int(bad.sum()),
        "flagged_outliers": int((bad & outlier).sum()),
        "unflagged": int((LIT & ~bad).sum()),
        "unflagged_outliers": int((LIT & ~bad & outlier).sum()),
    }


def compare_hidden(bad, rateints):
    """Compare a mask with the pixels that mask 0023 of the archive hid from us."""
    (archive,) = read_planes(REAL_RATES, "DQ")
    hidden = ((archive & DNU) != 0).all(axis=0)
    (rate,) = read_planes(rateints, "SCI")
    deviation = np.abs(find_deviation(rate[list(SETTLED)].mean(axis=0))[0])
    hits, n_hidden, n_bad = int((hidden & bad).sum()), int(hidden.sum()), int(bad.sum())
    return {
        "hidden": n_hidden,
        "columns": sorted({int(x) for x in np.nonzero(hidden)[1]}),
        "hits": hits,
        "misses": n_hidden - hits,
        "misses_beyond_3_sigma": int((deviation[hidden & ~bad] > 3).sum()),
        "extra": int((bad & ~hidden).sum()),
        "extra_beyond_3_sigma": int((deviation[bad & ~hidden] > 3).sum()),
        "hits_by_chance": round(n_hidden * n_bad / int(LIT.sum()), 2),
        "p_value": round(float(hypergeom.sf(hits - 1, int(LIT.sum()), n_hidden, n_bad)), 4),
    }


def measure_real_ramps(folder):
    """Take the real exposure through both tools and count what the mask does.

    Parameters
    ----------
    folder : Path
        Where all files go.

    Returns
    -------
    products : dict
        Masks (bool (64, 72), True = bad), folders and products of calwebb_detector1.
    numbers : dict
        What `main` prints.
    """
    folder = Path(folder)
    ramp = write_real_ramp(folder)
    references = write_references(folder / "references")
    context = build_context(folder / "cache", references)
    neutral_mask = write_twins(build_neutral_mask("MIRIMAGE"), folder / "neutral")[1]
    neutral = run_detector1(
        ramp, folder / "neutral_run", context, **override_references(references, neutral_mask)
    )
    as_is_folder, bad_folder = folder / "as_is", folder / "found"
    as_is = find_mask(REAL_RATES, as_is_folder)
    bad = find_mask(neutral["rateints"], bad_folder)
    masked = {
        twin: run_detector1(
            ramp,
            folder / f"masked_{twin}",
            context,
            **override_references(references, next(bad_folder.glob(f"*_mask_*.{twin}"))),
        )
        for twin in ("fits", "asdf")
    }
    numbers = {
        "archive_rates": {"bad": int(as_is.sum()), "classes": count_classes(as_is_folder)},
        "neutral_rates": {"bad": int(bad.sum()), "classes": count_classes(bad_folder)},
        "bad_in_both": int((as_is & bad).sum()),
        "before": describe_rate(neutral["rateints"]),
        "after": describe_rate(masked["fits"]["rateints"]),
        "left_out": [leave_one_out(neutral["rateints"], k) for k in SETTLED],
        "mask_0023": compare_hidden(bad, neutral["rateints"]),
    }
    products = {
        "as_is": as_is,
        "bad": bad,
        "bad_folder": bad_folder,
        "neutral": neutral,
        "masked": masked,
    }
    return products, numbers


def main():
    """Print the numbers as JSON."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(measure_real_ramps(folder)[1], indent=1) + "\n")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return measure_real_ramps(tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def products(measured):
    return measured[0]


@pytest.fixture(scope="module")
def numbers(measured):
    return measured[1]


@pytest.fixture(scope="module")
def archive_run(tmp_path_factory):
    """Mask and folder of the step on the archive's rates, which need no other run."""
    folder = tmp_path_factory.mktemp("archive")
    return find_mask(REAL_RATES, folder), folder


def test_copy_keeps_the_pixels_and_tells_what_was_missing(tmp_path):
    path = write_real_ramp(tmp_path)
    for one, two in zip(
        read_planes(REAL_RAMP, "SCI", "REFOUT"), read_planes(path, "SCI", "REFOUT"), strict=True
    ):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype == np.uint16
    with datamodels.open(path) as model:
        assert isinstance(model, datamodels.Level1bModel)
        assert (model.meta.exposure.type, model.meta.exposure.readpatt) == ("MIR_IMAGE", "FASTR1")
        assert (model.meta.subarray.fastaxis, model.meta.subarray.slowaxis) == (1, 2)
        assert model.meta.exposure.start_time == pytest.approx(58185.0434028, abs=1e-6)
        assert model.meta.exposure.group_time == pytest.approx(0.085)


def test_one_exposure_gives_one_static_mask_that_says_so(archive_run):
    bad, folder = archive_run
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".asdf", ".fits"))
    stem = "ground_MIRIMAGE"
    assert names == [
        f"{stem}_badpixhistory.asdf",
        f"{stem}_mask_20211225T000000.asdf",
        f"{stem}_mask_20211225T000000.fits",
    ]
    header = fits.getheader(folder / names[2])
    assert (header["PEDIGREE"], header["USEAFTER"]) == ("GROUND", "2021-12-25T00:00:00")
    told = "".join(str(line).ljust(72) for line in header["HISTORY"])
    assert "NOT FOR DELIVERY" in told
    assert "could not be dated" in told
    rows = read_history(folder / names[0]).intervals.instance
    assert np.isneginf(rows["start_mjd"]).all()
    assert np.isposinf(rows["end_mjd"]).all()
    assert bad.any()
    assert not bad[~LIT].any()


def assert_first_integration_left_out(folder):
    (path,) = folder.glob("*_badpixhistory.asdf")
    exposures = read_history(path).exposures.instance
    assert list(exposures["filename"]) == [f"jpl2018_sub64_rateints.fits[{k}]" for k in range(1, 6)]
    assert [bool(used) for used in exposures["used"]] == [False, True, True, True, True]
    assert "not settled" in exposures["reason"][0]
    assert not any(exposures["reason"][1:])


def test_first_integration_has_not_settled(archive_run):
    assert_first_integration_left_out(archive_run[1])


def test_hidden_pixels_of_the_archive_are_no_evidence(archive_run):
    (archive,) = read_planes(REAL_RATES, "DQ")
    hidden = (archive & DNU) != 0
    assert set(np.unique(archive[hidden])) <= {HIDDEN, HIDDEN | 4}
    assert hidden.all(axis=0).sum() == 64
    assert not (archive_run[0] & hidden.all(axis=0)).any()


def test_neutral_mask_hides_nothing_from_the_ramp_fit(products):
    rate, dq, err = read_planes(products["neutral"]["rateints"], "SCI", "DQ", "ERR")
    assert rate.shape == (5, *SHAPE)
    assert (dq & DNU == 0).all()
    assert np.isfinite(rate).all()
    assert (err[:, LIT] > 0).all()
    reference = (dq & 2**31) != 0
    assert (reference == ~LIT).all()


def test_neutral_rates_settle_like_those_of_the_archive(products):
    """The level falls from 2.7 to 1.4 DN/s: drift, not the reset, and below a pixel's noise."""
    assert_first_integration_left_out(products["bad_folder"])


def test_both_reductions_find_the_same_pixels(products, numbers):
    # Linearity, IPC, gain and jump references differ, so borderline pixels do; chance is 0.1.
    assert numbers["bad_in_both"] == (products["as_is"] & products["bad"]).sum()
    assert numbers["bad_in_both"] > 0.6 * products["as_is"].sum()
    assert numbers["bad_in_both"] > 0.45 * products["bad"].sum()


def test_masked_pixels_are_unused_in_the_rates(products):
    bad = products["bad"]
    run = products["masked"]["fits"]
    for suffix in ("rate", "rateints"):
        rate, dq = read_planes(run[suffix], "SCI", "DQ")
        assert (((dq & DNU) != 0) == bad).all()
        assert (np.isnan(rate) == bad).all()
    (groupdq,) = read_planes(run["ramp"], "GROUPDQ")
    assert (groupdq[:, :, bad] & DNU).all()
    with datamodels.open(run["rate"]) as model:
        name = Path(model.meta.ref_file.mask.name).name
        assert name == "ground_MIRIMAGE_mask_20211225T000000.fits"


def test_twins_give_the_same_products(products):
    assert_same_products(products["masked"]["fits"], products["masked"]["asdf"])


def test_mask_takes_the_outliers_out_and_costs_few_pixels(products, numbers):
    before, after = numbers["before"], numbers["after"]
    assert before["pixels"] - after["pixels"] == products["bad"].sum() < 0.01 * LIT.sum()
    assert after["outliers"] < 0.4 * before["outliers"]
    assert after["rms_dn_s"] < 1.1 * after["robust_scatter_dn_s"]
    assert before["rms_dn_s"] > 2 * before["robust_scatter_dn_s"]


def test_mask_of_three_integrations_foretells_the_fourth(numbers):
    flagged, bad_again, free, free_outliers = (
        sum(row[key] for row in numbers["left_out"])
        for key in ("flagged", "flagged_outliers", "unflagged", "unflagged_outliers")
    )
    assert len(numbers["left_out"]) == 4
    assert bad_again > 0.5 * flagged
    # Three looks are few: what is missed lies in the disturbed first row of the subarray.
    assert free_outliers < 2e-3 * free
    assert bad_again > 0.6 * (bad_again + free_outliers)


def test_mask_0023_hides_one_column_for_other_reasons(numbers):
    """What it hides here is the first lit column, whole; in this exposure that column is quiet."""
    compared = numbers["mask_0023"]
    assert compared["columns"] == [4]
    assert compared["hidden"] == SHAPE[0]
    assert compared["misses_beyond_3_sigma"] <= 2
    assert compared["extra_beyond_3_sigma"] > 0.75 * compared["extra"]
