"""The masks slot into the stock pipeline: CRDS picks them by date, calwebb_detector1 obeys them.

Nothing here is told which mask to use unless the test is about ``override_mask``.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time, TimeDelta
from jwst.dq_init.dq_init_step import DQInitStep
from pipeline import (
    DNU,
    assert_same_products,
    cut_subarray,
    find_products,
    read_planes,
    run_detector1,
)
from stdatamodels.jwst.datamodels.dqflags import pixel

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.refmodels import compose_dq, read_history
from jwst_tvbadpix.simulate import (
    ExposureSpec,
    build_lrs_scene,
    simulate_programme,
    write_ramp,
    write_references,
)
from jwst_tvbadpix.steps import TimeVariableBadPixel

SEED = 5
MILLISECOND = 1e-3 / 86400


@dataclass(frozen=True)
class Epoch:
    """One mask of the series: when it begins, and its two files."""

    useafter: str
    asdf: Path
    fits: Path

    @property
    def mjd(self):
        return Time(self.useafter, scale="utc").mjd

    @property
    def stem(self):
        return self.fits.stem


@dataclass(frozen=True)
class Series:
    """A programme, the history found in it, its epochs in order, and what else is needed."""

    programme: object
    history: object
    epochs: tuple
    references: dict

    def find_epoch(self, mjd):
        """The last epoch that begins at or before a date."""
        return max((e for e in self.epochs if e.mjd <= mjd + MILLISECOND / 4), key=lambda e: e.mjd)

    def write_ramp(self, folder, mjd, *, observation, subarray="SLITLESSPRISM", ngroups=8):
        """Write a small ramp of the programme's detector at a date."""
        spec = ExposureSpec(
            mjd,
            subarray=subarray,
            ngroups=ngroups,
            seed=SEED + observation,
            observation=observation,
        )
        defects = self.programme.defects
        return write_ramp(folder, spec, build_lrs_scene(seed=SEED), defects)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programme")
    programme = simulate_programme(
        folder, mode="slitless", n_exposures=12, start="2022-07-01", end="2025-06-30", seed=SEED
    )
    products = folder / "products"
    products.mkdir()
    TimeVariableBadPixel.call(
        str(programme.association), save_results=True, report=False, output_dir=str(products)
    )
    (history,) = products.glob("*_badpixhistory.asdf")
    twins = [(path, path.with_suffix(".fits")) for path in products.glob("*_mask_*.asdf")]
    epochs = [Epoch(fits.getval(two, "USEAFTER"), one, two) for one, two in twins]
    epochs.sort(key=lambda epoch: epoch.useafter)
    references = write_references(folder / "references")
    return Series(programme, read_history(history), tuple(epochs), references)


@pytest.fixture(scope="module")
def context(series, tmp_path_factory):
    """The series as CRDS delivers it: FITS masks beside gain, read noise and saturation."""
    masks = [epoch.fits for epoch in series.epochs]
    return build_context(tmp_path_factory.mktemp("crds"), {"mask": masks, **series.references})


@pytest.fixture(scope="module")
def asdf_context(series, runs, tmp_path_factory):
    """The same with the ASDF twins of the epochs that are looked for."""
    masks = [series.find_epoch(run.mjd).asdf for run in runs]
    return build_context(tmp_path_factory.mktemp("crds"), {"mask": masks, **series.references})


@dataclass(frozen=True)
class Run:
    """A ramp, when it starts, and what calwebb_detector1 made of it."""

    mjd: float
    ramp: Path
    products: dict


@pytest.fixture(scope="module")
def runs(series, context, tmp_path_factory):
    """Ramps in the first, the middle and the last epoch, reduced without any override."""
    folder = tmp_path_factory.mktemp("runs")
    first, middle, last = (
        series.epochs[1],
        series.epochs[len(series.epochs) // 2],
        series.epochs[-1],
    )
    dates = (first.mjd - 5.5, middle.mjd + 0.25, last.mjd + 100.0)
    found = []
    for number, mjd in enumerate(dates):
        ramp = series.write_ramp(folder, mjd, observation=800 + number)
        found.append(Run(mjd, ramp, run_detector1(ramp, folder / "out", context)))
    return tuple(found)


def expect_dq(series, mjd, subarray="SLITLESSPRISM"):
    """Flags that an exposure of a date must have."""
    return cut_subarray(compose_dq(series.history, mjd), subarray)


def assert_obeyed(products, dq):
    """Require the flags `dq` of a subarray in PIXELDQ, GROUPDQ and the rates, and no others."""
    pixeldq, groupdq = read_planes(products["ramp"], "PIXELDQ", "GROUPDQ")
    bad = (dq & DNU) != 0
    assert bad.any()
    np.testing.assert_array_equal(pixeldq, dq)
    never_used = ((groupdq & DNU) != 0).all(axis=1)
    np.testing.assert_array_equal(never_used, np.broadcast_to(bad, never_used.shape))
    for suffix in ("rate", "rateints"):
        rate, rate_dq = read_planes(products[suffix], "SCI", "DQ")
        shape = rate.shape
        np.testing.assert_array_equal((rate_dq & DNU) != 0, np.broadcast_to(bad, shape))
        np.testing.assert_array_equal(np.isnan(rate), np.broadcast_to(bad, shape))
        kept = np.uint32(sum(pixel[name] for name in ("HOT", "WARM", "TELEGRAPH", "DEAD")))
        np.testing.assert_array_equal(rate_dq & kept, np.broadcast_to(dq & kept, shape))


def get_mask_name(path):
    """Name of the mask in the header of a product."""
    return fits.getval(path, "R_MASK")


def test_series_has_something_to_tell(series, runs):
    """Without this the tests below would pass with one mask for all dates."""
    assert len(series.epochs) >= 5
    assert series.epochs[0].useafter == "2021-12-25T00:00:00"
    assert len({series.find_epoch(run.mjd) for run in runs}) == 3
    bad = [expect_dq(series, run.mjd) & DNU for run in runs]
    for one, two in ((0, 1), (1, 2), (0, 2)):
        assert (bad[one] != bad[two]).sum() >= 3


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_date_gets_its_own_mask(series, context, runs, number):
    run = runs[number]
    epoch = series.find_epoch(run.mjd)
    for path in run.products.values():
        assert get_mask_name(path) == f"crds://{context.names[epoch.fits.resolve()]}"
    assert_obeyed(run.products, expect_dq(series, run.mjd))


def test_mask_is_worth_its_truth(series, runs):
    """What is truly bad at the date, and bright, is unused in the rate; few others are."""
    for run in runs:
        rate_dq = read_planes(run.products["rate"], "DQ")[0]
        defects = series.programme.defects
        bright = defects.state(run.mjd) & (defects.amplitude > 10)
        y, x = defects.y[bright] - 528, defects.x[bright]
        assert bright.sum() > 50
        unused = (rate_dq & DNU) != 0
        assert unused[y, x].mean() > 0.95
        unused[defects.y - 528, defects.x] = False
        assert unused.mean() < 0.003


def test_recovered_pixel_is_used_again_and_telegraph_pixel_never(series, runs):
    rows = series.history.intervals.instance
    names = np.asarray(rows["class"])
    firm = (rows["state"] == 1) & ~rows["pending"]
    early, _, late = (read_planes(run.products["ramp"], "PIXELDQ")[0] for run in runs)
    rate = read_planes(runs[-1].products["rate"], "SCI")[0]
    first, last = runs[0].mjd, runs[-1].mjd
    recovered = firm & (names != "TELEGRAPH") & (rows["start_mjd"] <= first)
    recovered &= rows["end_mjd"] <= last
    again = {
        (y, x)
        for y, x, start in zip(rows["y"], rows["x"], rows["start_mjd"], strict=True)
        if start > first
    }
    where = [
        (y - 528, x)
        for y, x in zip(rows["y"][recovered], rows["x"][recovered], strict=True)
        if (y, x) not in again
    ]
    assert where
    for y, x in where:
        assert early[y, x] & DNU
        assert late[y, x] == 0
        assert np.isfinite(rate[y, x])
    telegraph = firm & (names == "TELEGRAPH")
    y, x = rows["y"][telegraph] - 528, rows["x"][telegraph]
    assert telegraph.any()
    for run in runs:
        pixeldq = read_planes(run.products["ramp"], "PIXELDQ")[0]
        assert (pixeldq[y, x] & DNU).all()
        assert (pixeldq[y, x] & pixel["TELEGRAPH"]).all()


def run_dq_init(ramp, context):
    """Run the stock dq_init within a context: (R_MASK, PIXELDQ)."""
    with use_context(context), DQInitStep.call(str(ramp)) as result:
        return result.meta.ref_file.mask.name, result.pixeldq.copy()


@pytest.mark.parametrize("which", [1, -1])
def test_mask_holds_from_its_first_moment(series, context, tmp_path, which):
    epoch, before = series.epochs[which], series.epochs[which - 1]
    moments = ((epoch.mjd, epoch), (epoch.mjd - MILLISECOND, before))
    seen = []
    for number, (mjd, expected) in enumerate(moments):
        ramp = series.write_ramp(tmp_path, mjd, observation=810 + number, ngroups=4)
        header = fits.getheader(ramp)
        seen.append(f"{header['DATE-OBS']}T{header['TIME-OBS']}")
        name, pixeldq = run_dq_init(ramp, context)
        assert name == f"crds://{context.names[expected.fits.resolve()]}"
        np.testing.assert_array_equal(pixeldq, expect_dq(series, expected.mjd + MILLISECOND))
    second = Time(epoch.useafter, scale="utc")
    assert seen == [second.isot, (second - TimeDelta(0.001, format="sec")).isot]


def test_context_of_asdf_masks_does_the_same(series, context, asdf_context, runs):
    for run in runs:
        epoch = series.find_epoch(run.mjd)
        name, pixeldq = run_dq_init(run.ramp, asdf_context)
        assert name == f"crds://{asdf_context.names[epoch.asdf.resolve()]}"
        assert name.endswith(".asdf")
        name, same = run_dq_init(run.ramp, context)
        assert name == f"crds://{context.names[epoch.fits.resolve()]}"
        np.testing.assert_array_equal(pixeldq, same)
        np.testing.assert_array_equal(pixeldq, expect_dq(series, run.mjd))


def test_detector1_takes_asdf_masks_from_crds(asdf_context, runs, tmp_path):
    run = runs[1]
    products = run_detector1(run.ramp, tmp_path, asdf_context)
    assert get_mask_name(products["rate"]).endswith(".asdf")
    assert_same_products(products, run.products)


@pytest.fixture(scope="module")
def overridden(series, context, runs, tmp_path_factory):
    """The first ramp with the mask of another date, as ASDF and as FITS: products by format."""
    folder = tmp_path_factory.mktemp("override")
    other = series.find_epoch(runs[-1].mjd)
    return {
        kind: run_detector1(
            runs[0].ramp, folder / kind, context, dq_init={"override_mask": str(path)}
        )
        for kind, path in (("asdf", other.asdf), ("fits", other.fits))
    }


def test_override_with_either_twin_gives_the_same(series, runs, overridden):
    other = series.find_epoch(runs[-1].mjd)
    for kind, products in overridden.items():
        assert Path(get_mask_name(products["rate"])).name == f"{other.stem}.{kind}"
        assert_obeyed(products, expect_dq(series, runs[-1].mjd))
    assert_same_products(overridden["asdf"], overridden["fits"])


def test_strun_takes_the_asdf_mask(series, context, runs, overridden, tmp_path):
    other = series.find_epoch(runs[-1].mjd)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CRDS_")}
    strun = Path(sys.executable).with_name("strun")
    run = subprocess.run(
        [
            str(strun),
            "calwebb_detector1",
            str(runs[0].ramp),
            f"--steps.dq_init.override_mask={other.asdf}",
            f"--output_dir={tmp_path}",
            "--save_calibrated_ramp=True",
        ],
        env={**clean, **context.env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    products = find_products(runs[0].ramp, tmp_path)
    assert Path(get_mask_name(products["rate"])).name == other.asdf.name
    assert_same_products(products, overridden["asdf"])


def test_full_frame_is_masked_by_date_and_by_either_twin(series, context, runs, tmp_path):
    mjd = runs[1].mjd + 0.01
    epoch = series.find_epoch(mjd)
    ramp = series.write_ramp(tmp_path, mjd, observation=820, subarray="FULL", ngroups=5)
    chosen = run_detector1(ramp, tmp_path / "chosen", context)
    assert get_mask_name(chosen["rate"]) == f"crds://{context.names[epoch.fits.resolve()]}"
    expected = expect_dq(series, mjd, "FULL")
    assert (expected & DNU).any()
    assert_obeyed(chosen, expected)
    for path in (epoch.asdf, epoch.fits):
        products = run_detector1(
            ramp,
            tmp_path / path.suffix[1:],
            context,
            dq_init={"override_mask": str(path)},
        )
        assert Path(get_mask_name(products["rate"])).name == path.name
        assert_same_products(products, chosen)
