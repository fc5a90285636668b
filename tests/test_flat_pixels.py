"""Single pixels of a flat in time, real flats through the whole making, arms of bright stars."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from skyfield import EXPOSURE_S, FWHM, GAIN, average_cells, make_field, score
from test_stack import Lazy

from jwst_tvbadpix.flatfield import (
    ExposureFacts,
    FlatSettings,
    StackSettings,
    build_flat,
    stack_flat,
)
from jwst_tvbadpix.flatfield.halves import HalfSums, split_halves

SETTINGS = StackSettings(FWHM)
SCALE = 0.11 / 3600
REAL = Path(__file__).parents[2] / "shared" / "realdata"
# Pixels (row, column) that change, and by how much: one of them beyond all clipping.
CHANGED = {(40, 50): -0.08, (80, 90): -0.15, (100, 30): 0.5, (20, 150): -0.8}


def make_facts(field, *, gap=0.0):
    """Facts of a field; its second half is later by a gap [day]."""
    n = len(field)
    late = (np.arange(n) >= n // 2) & (gap > 0)

    def to_sky(k):
        return lambda x, y: tuple(SCALE * np.asarray(a) for a in field.to_sky(k, x, y))

    def to_pixel(k):
        return lambda ra, dec: field.to_detector(k, ra / SCALE, dec / SCALE)

    return ExposureFacts(
        tuple(map(to_sky, range(n))),
        tuple(map(to_pixel, range(n))),
        field.tiles,
        field.tiles,
        field.mid_mjd + gap * late,
        late.astype(int),
        np.ones(n, bool),
        tuple(f"exposure {k}" for k in range(n)),
    )


def change(field):
    """Change pixels in the second half of the exposures."""
    rate = field.rate.copy()
    for (y, x), share in CHANGED.items():
        rate[len(field) // 2 :, y, x] *= 1 + share
    return replace(field, rate=rate)


@pytest.fixture(scope="module")
def epochs():
    field = change(make_field(seed=11, n_stars=900, faintest=25))
    facts = make_facts(field, gap=200.0)
    lit = np.ones(field.shape, bool)
    return field, build_flat(field, facts, lit, settings=FlatSettings(SETTINGS))


def test_pixels_that_changed_are_told(epochs):
    _, built = epochs
    drift = built.stack.pixel_drift
    found = set(zip(*(map(int, a) for a in np.nonzero(drift.changed)), strict=True))
    assert found == set(CHANGED)
    for place, share in CHANGED.items():
        assert drift.change[place] == pytest.approx(
            np.log1p(share), abs=5 * float(drift.err[place])
        )
    assert built.monitors.verdicts["pixels"] == "DRIFT"
    rows = {row.series: row for row in built.monitors.list_changes() if row.what == "pixels"}
    assert rows["number changed"].value == len(CHANGED)
    assert not rows["rms of all"].significant
    assert built.stack.split_mjd == pytest.approx(60100, abs=1)


def test_epochs_have_their_own_pixels_where_some_changed(epochs):
    field, built = epochs
    assert len(built.flats) == 2
    known = 0
    for late, flat in enumerate(built.flats):
        truth = field.flat.copy()
        for place, share in CHANGED.items():
            truth[place] *= 1 + share * late
            # One lies under a star in all exposures of an epoch.
            known += bool(flat.coverage[place])
            if not flat.coverage[place]:
                assert flat.flags["DO_NOT_USE"][place]
                continue
            assert abs(flat.flat[place] / truth[place] - 1) < 5 * flat.err[place] / truth[place]
        pull = score(flat.flat, truth) / flat.err
        # The few modes of one star flat are a small sample.
        assert np.nanmean(pull**2) == pytest.approx(1, abs=0.3)
        # What an epoch did not see and what did not change is that of all exposures.
        assert np.count_nonzero(np.isnan(flat.flat)) <= 1 + np.sum(built.stack.coverage == 0)
    assert known == 2 * len(CHANGED) - 1
    assert sum("of its own" in note for note in built.notes) == 2


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_pixels_that_do_not_change_are_not_told_to(seed):
    field = make_field(seed=seed)
    stack = stack_flat(field, field.tiles, field.mid_mjd, settings=SETTINGS)
    drift = stack.pixel_drift
    assert not drift.drifts
    assert drift.rms_limit < 0.15 * np.median(field.err / field.rate)
    assert drift.noise_scale == pytest.approx(1, abs=0.05)


def test_a_star_flat_that_knows_less_than_the_sky_is_not_used():
    field = make_field(seed=3, n_exp=4)
    lit = np.ones(field.shape, bool)
    built = build_flat(field, make_facts(field), lit, settings=FlatSettings(SETTINGS))
    assert built.star is None
    assert any("known to" in note and "not used" in note for note in built.notes)
    assert np.nanmedian(built.flats[0].err) < 0.006


def test_few_exposures_are_not_split():
    field = make_field(n_exp=7)
    stack = stack_flat(field, field.tiles, field.mid_mjd, settings=SETTINGS)
    assert stack.pixel_drift is None
    assert "fewer than eight" in stack.drift_reason


def test_exposures_are_split_at_the_gap_each_half_alternately():
    mjd = np.concatenate([np.arange(6.0), 100 + np.arange(4.0)])[::-1]
    used = np.ones(10, bool)
    halves = split_halves(mjd, used)
    assert halves.quarter.tolist() == [3, 2, 3, 2, 1, 0, 1, 0, 1, 0]
    assert halves.split_mjd == pytest.approx(52.5)
    used[0] = False
    assert split_halves(mjd, used).quarter[0] == -1
    assert split_halves(np.zeros(10), used) is None


def test_sums_of_halves_do_not_grow():
    peaks = []
    for n in (10, 40):
        halves = split_halves(np.arange(float(n)), np.ones(n, bool))
        exposures = Lazy(n)
        tracemalloc.start()
        sums = HalfSums(halves, exposures.shape)
        for k in range(n):
            rate, err = exposures.read(k, 0, exposures.shape[0])
            sums.add(k, 1 / err**2, rate / 16 - 1, (err / 16) ** 2)
        sums.find_drift()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.05 * peaks[0]


def judge_real_flat(name, seed, n_exp=30):
    """Chi2 per pixel of the product where a real flat is the truth."""
    real = fits.getdata(REAL / "miri_flats" / f"jwst_miri_flat_{name}.fits", "SCI")
    truth = np.where(real > 0, real, 0).astype(float)
    field = make_field(
        shape=real.shape,
        flat=truth,
        seed=seed,
        n_exp=n_exp,
        n_stars=1200,
        faintest=20,
        tile_step=90,
    )
    lit = np.ones(real.shape, bool)
    built = build_flat(field, make_facts(field), lit, settings=FlatSettings(SETTINGS))
    (flat,) = built.flats
    assert built.star is not None
    used = ~flat.flags["DO_NOT_USE"]
    assert np.count_nonzero(used) > 0.99 * np.count_nonzero(truth >= 0.1)
    return np.nanmean((score(flat.flat, truth, used) / flat.err)[used] ** 2)


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/realdata is absent")
def test_real_flat_comes_back_within_the_error_of_the_product():
    assert 0.9 < judge_real_flat("0407", 8, 20) < 1.1


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/realdata is absent")
def test_real_flats_come_back_within_the_error_of_the_product():
    """The few modes of one star flat are a small sample: the mean of several fields."""
    found = [judge_real_flat(name, seed) for name in ("0407", "0413") for seed in (8, 9)]
    assert 0.9 < np.mean(found) < 1.1


def add_arms(field, angle_deg, *, share=0.2, reach=150):
    """Scatter light of bright stars along arms of 3 pixels that are turned from the rows."""
    rate, err = field.rate.copy(), field.err.copy()
    yy, xx = np.mgrid[: field.shape[0], : field.shape[1]]
    angle = np.deg2rad(angle_deg)
    unit = share / (4 * 2.5 * np.log(reach / 4))
    bright = field.stars[2] > 1000
    for k in range(len(field)):
        arms = np.zeros(field.shape)
        for u, v, flux in zip(*(a[bright] for a in field.stars), strict=True):
            dx, dy = xx - u + field.offset[k, 0], yy - v + field.offset[k, 1]
            p, q = (
                np.cos(angle) * dx + np.sin(angle) * dy,
                np.cos(angle) * dy - np.sin(angle) * dx,
            )
            for along, across in ((np.abs(p), q), (np.abs(q), p)):
                line = flux * unit * np.exp(-0.5 * across**2) / np.maximum(along, 4)
                arms += np.where((along > 4) & (along < reach), line, 0)
        rate[k] += arms * field.flat
        err[k] = np.sqrt(err[k] ** 2 + arms * field.flat / (GAIN * EXPOSURE_S))
    return replace(field, rate=rate, err=err)


# The arms lie 4.8 degrees from the axes of the telescope (JWST documentation, MIRI cruciform).
@pytest.mark.parametrize("angle_deg", [0.0, 4.8])
def test_flat_is_not_biased_along_the_arms_of_bright_stars(angle_deg):
    field = add_arms(make_field(seed=4, n_stars=500, brightest=2e4), angle_deg)
    settings = replace(SETTINGS, cruciform=True)
    stack = stack_flat(field, field.tiles, field.mid_mjd, settings=settings, pointings=field)
    error = score(stack.flat, field.flat)
    assert np.nanmean((error / stack.err) ** 2) == pytest.approx(1, abs=0.1)
    assert np.std(average_cells(error, 16)) < 3e-4
