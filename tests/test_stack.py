import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from skyfield import (
    EXPOSURE_S,
    FWHM,
    GAIN,
    READ_NOISE,
    average_cells,
    make_field,
    make_flat,
    render,
    score,
)

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import StackSettings, find_transients, stack_flat
from jwst_tvbadpix.flatfield.jackknife import make_groups
from jwst_tvbadpix.flatfield.sky import fit_background
from jwst_tvbadpix.flatfield.sources import (
    Stars,
    detect_stars,
    make_profile,
    mark_cruciform,
    measure_stars,
    render_stars,
)

SETTINGS = StackSettings(FWHM)
REAL = Path(__file__).parents[2] / "shared" / "realdata"


def stack(field, **kwargs):
    kwargs = {"settings": SETTINGS} | kwargs
    return stack_flat(field, field.tiles, field.mid_mjd, **kwargs)


def ideal(field):
    """Error of the inverse-variance mean of exposures without stars, rms."""
    flat = np.where(field.flat > 0, field.flat, np.nan)
    weight = sum(b**2 / (flat * b / (GAIN * EXPOSURE_S) + READ_NOISE**2) for b in field.level)
    return np.sqrt(np.nanmean(1 / weight))


@pytest.fixture(scope="module")
def field():
    return make_field(seed=4)


@pytest.fixture(scope="module")
def found(field):
    return stack(field)


@pytest.mark.parametrize("combined", [False, True])
def test_flat_comes_back_within_its_error(field, found, combined):
    result = stack(field, pointings=field) if combined else found
    error = score(result.flat, field.flat)
    assert np.isfinite(error).all()
    assert np.std(error) < 1.08 * ideal(field)
    for err in (result.err, result.err_random, result.err_formal):
        assert np.std(error / err) == pytest.approx(1, abs=0.06)
    assert np.std(average_cells(error)) < 2e-4
    assert np.median(result.err_systematic) < 1e-4
    assert result.flat.mean() == pytest.approx(1, abs=1e-6)
    assert result.coverage.max() <= len(field)
    assert np.median(result.coverage) > 0.9 * len(field)
    assert result.n_used == len(field)
    assert not result.excluded


def test_combined_sky_shows_fainter_stars():
    faint = make_field(seed=7, faintest=1.0, brightest=3.0, n_stars=1500)
    ny, nx = faint.shape

    def count(result):
        return sum(np.sum((s.x > 0) & (s.x < nx) & (s.y > 0) & (s.y < ny)) for s in result.stars)

    alone, combined = stack(faint), stack(faint, pointings=faint)
    assert count(combined) > 1.3 * count(alone)
    low = [np.std(average_cells(score(r.flat, faint.flat))) for r in (alone, combined)]
    assert low[1] < low[0]


def test_scale_of_the_rates_does_not_matter(field, found):
    double = replace(field, rate=2 * field.rate, err=2 * field.err)
    result = stack(double)
    np.testing.assert_allclose(result.flat, found.flat, rtol=1e-6)
    np.testing.assert_allclose(result.err, found.err, rtol=1e-4)
    levels = [b.level for b in result.backgrounds]
    assert levels == pytest.approx([2 * b.level for b in found.backgrounds], rel=1e-5)


def test_order_of_the_exposures_does_not_matter(field, found):
    turned = replace(field, rate=field.rate[::-1], err=field.err[::-1], tiles=field.tiles[::-1])
    result = stack(turned)
    assert np.std(result.flat - found.flat) < 0.1 * np.median(found.err)


def test_hits_and_a_useless_exposure_are_left_out(field, found):
    rng = np.random.default_rng(1)
    rate = field.rate.copy()
    rate[rng.random(rate.shape) < 2e-3] += 100.0
    rate[3] = np.nan
    result = stack(replace(field, rate=rate))
    error = score(result.flat, field.flat)
    assert np.std(error) < 1.12 * ideal(field)
    assert np.isnan(result.backgrounds[3].level)
    assert result.n_used == len(field) - 1
    assert [frame.index for frame in result.excluded] == [3]


def test_exposures_without_sky_or_errors_are_named(field):
    err = field.err.copy()
    err[2] = np.nan
    rate = field.rate.copy()
    rate[5] = -3
    result = stack(replace(field, err=err, rate=rate))
    assert [frame.index for frame in result.excluded] == [2, 5]
    assert "rate, error and response" in result.excluded[0].reason
    with pytest.raises(EvidenceError, match="found 0 of 20"):
        stack(replace(field, err=np.full_like(err, np.nan)))
    with pytest.raises(EvidenceError, match="usable exposures, found"):
        stack(make_field(level=1e-4, seed=3))


def test_exposures_without_their_sky_do_not_spoil_the_others(field, found):
    rate = field.rate.copy()
    rate[:6] -= np.median(rate[:6], axis=(1, 2), keepdims=True)
    result = stack(replace(field, rate=rate))
    assert [frame.index for frame in result.excluded] == list(range(6))
    assert all("sky-subtracted" in frame.reason for frame in result.excluded)
    assert np.nanmean((score(result.flat, field.flat) / result.err) ** 2) < 1.1
    rate -= np.median(rate, axis=(1, 2), keepdims=True)
    with pytest.raises(EvidenceError, match="found 0 of 20; exposure 0: its sky level"):
        stack(replace(field, rate=rate))


def test_errors_follow_the_scatter_not_what_is_given(field, found):
    result = stack(replace(field, err=2 * field.err))
    error = score(result.flat, field.flat)
    assert np.median(result.error_scale) == pytest.approx(0.5, abs=0.03)
    assert np.std(error / result.err_random) == pytest.approx(1, abs=0.08)
    assert np.median(result.err_formal / found.err_formal) == pytest.approx(2, rel=0.02)


def test_background_structure_is_fitted_per_exposure():
    # The mean shape belongs to the flat: tiles with opposite gradients have none.
    field = make_field(seed=2, structure=0.05)
    u = 2 * np.arange(field.shape[1]) / field.shape[1] - 1
    shared = 0.05 * np.mean(np.arange(len(field)) / len(field) - 0.5)
    result = stack(field)
    error = score(result.flat, field.flat * (1 + shared * u))
    assert np.std(average_cells(error)) < 2.5e-4
    slope = [b.coefficients[1] for b in result.backgrounds]
    assert slope[-1] - slope[0] == pytest.approx(0.05 * (len(field) - 1) / len(field), rel=0.05)


def test_what_only_one_tile_shows_is_systematic(field, found):
    """Ripples that no smooth background takes: ERR grows to what they leave in the flat."""
    yy, xx = np.mgrid[: field.shape[0], : field.shape[1]]
    ripple = 1 + 0.003 * np.sin(xx / 15) * np.sin(yy / 15)
    rate = field.rate.copy()
    rate[field.tiles == 1] *= ripple
    result = stack(replace(field, rate=rate))
    left = np.std(average_cells(score(result.flat, field.flat), 16))
    assert left > 2e-4
    typical = np.sqrt(np.mean(result.err_systematic**2))
    assert left / 2 < typical < 2 * left
    assert typical > 2 * np.sqrt(np.mean(found.err_systematic**2))


def test_transients_are_rejected_by_name():
    levels = np.full(20, 16.0)
    levels[5:10] *= 1 + 0.25 * np.exp(-np.arange(5) / 1.0)
    field = make_field(seed=5, levels=levels)
    result = stack(field)
    assert [frame.index for frame in result.excluded] == [5, 6, 7]
    assert "afterimage" in result.excluded[0].reason
    assert np.isnan(result.backgrounds[5].level)
    assert result.n_used == 17
    assert result.transients.amplitude[5] == pytest.approx(0.25, abs=0.02)
    assert result.transients.time_constant[5] == pytest.approx(0.01, rel=0.2)
    error = score(result.flat, field.flat)
    assert np.std(error / result.err) == pytest.approx(1, abs=0.06)


def test_steady_rising_or_random_levels_are_no_transients():
    rng = np.random.default_rng(0)
    time = np.arange(45.0)
    sets = np.arange(45) // 5
    for level in (
        16 * (1 + 0.02 * rng.normal(size=45)),
        5.0 * (1 + 0.003 * (time % 5)),
        5.0 * (1 - 0.02 * (time % 5)),
        np.full(45, 3.0),
    ):
        assert not find_transients(level, time, sets).rejected.any()


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/realdata is absent")
def test_real_levels_of_programme_1040():
    """F560W fades after long-wave filters in all sets but the first; no other sky does."""
    with (REAL / "miri_imaging_sky" / "miri_imaging_median_sky.csv").open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["file"].startswith("jw")]
    for notebook in sorted({row["notebook"] for row in rows}):
        chosen = sorted(
            (row["file"], float(row["median_sky_MJy_sr"]))
            for row in rows
            if row["notebook"] == notebook
        )
        sets = np.unique([name[:19] for name, _ in chosen], return_inverse=True)[1]
        level = np.array([value for _, value in chosen])
        result = find_transients(level, np.arange(level.size), sets)
        if "LMCFlat_F560W" in notebook:
            assert result.rejected.reshape(9, 5)[0].sum() == 0
            assert (result.rejected.reshape(9, 5)[1:].sum(axis=1) == 3).all()
            assert np.ptp(level[~result.rejected]) < 0.15
        else:
            assert not result.rejected.any()


@pytest.mark.skipif(not REAL.is_dir(), reason="../shared/realdata is absent")
@pytest.mark.parametrize("name", ["0407", "0413"])
def test_real_flat_comes_back_within_its_error(name):
    real = fits.getdata(REAL / "miri_flats" / f"jwst_miri_flat_{name}.fits", "SCI")
    truth = np.where(real > 0, real, 0).astype(float)
    field = make_field(shape=real.shape, flat=truth, seed=8, n_stars=500, tile_step=90)
    result = stack(field)
    pull = score(result.flat, truth) / result.err
    assert np.count_nonzero(np.isfinite(pull)) > 0.999 * np.count_nonzero(truth)
    assert 0.9 < np.nanmean(pull**2) < 1.1


def test_dithers_must_exceed_the_stars(field):
    for combined in (False, True):
        still = make_field(seed=3, dither=1.0, tile_step=0.0)
        with pytest.raises(EvidenceError, match=r"3\.0 pixels \(1\.5 FWHM\), found 1 among 20"):
            stack(still, pointings=still if combined else None)


def test_sources_everywhere_are_an_error():
    field = make_field(seed=6, n_stars=0)
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[: field.shape[0], : field.shape[1]]
    for rate in field.rate:
        for _ in range(60):
            y, x = rng.uniform(0, yy.shape[0]), rng.uniform(0, yy.shape[1])
            rate += 30 * rng.random() * np.exp(-np.hypot(yy - y, xx - x) / 6).astype(np.float32)
    with pytest.raises(EvidenceError, match=r"sources (hide|cover)"):
        stack(field)


def test_too_few_exposures_and_wrong_tiles(field):
    two = replace(field, rate=field.rate[:2], err=field.err[:2], tiles=field.tiles[:2])
    with pytest.raises(EvidenceError, match="at least 3 dithered exposures, found 2"):
        stack(two)
    with pytest.raises(EvidenceError, match="tile of each of 20 exposures, found 3"):
        stack(replace(field, tiles=np.arange(3)))
    dark = replace(field, rate=np.zeros_like(field.rate))
    with pytest.raises(EvidenceError, match="with sky, found 0 of 20"):
        stack(dark)
    with pytest.raises(EvidenceError, match="region"):
        stack(field, region=np.zeros(field.shape, bool))
    with pytest.raises(EvidenceError, match="FWHM above 0"):
        stack(field, settings=StackSettings(0.0))


class Lazy:
    """Exposures that are made when they are read."""

    shape = (160, 192)

    def __init__(self, n):
        self.n = n
        self.flat = make_flat(self.shape, np.random.default_rng(0)).astype(np.float32)

    def __len__(self):
        return self.n

    def read(self, index, start, stop):
        rng = np.random.default_rng(index)
        image = 16 * self.flat
        sigma = np.sqrt(image / (GAIN * EXPOSURE_S))
        rate = image + sigma * rng.standard_normal(self.shape, np.float32)
        return rate[start:stop], sigma[start:stop]


def test_memory_does_not_grow_with_the_number_of_exposures():
    peaks = []
    for n in (10, 40):
        exposures = Lazy(n)
        tracemalloc.start()
        stack_flat(exposures, np.arange(n) * 4 // n, np.arange(n), settings=SETTINGS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The data are four times as many; what two threads hold at once varies a little.
    assert peaks[1] < 1.25 * peaks[0]


def test_progress_is_told(field):
    told = []
    stack(field, progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]


def test_subarray_and_unlit_edges_are_nan():
    lit = np.zeros((160, 192), bool)
    lit[:, 60:180] = True
    rng = np.random.default_rng(3)
    field = make_field(seed=9, flat=make_flat((160, 192), rng, field_of_view=lit))
    result = stack(field)
    assert np.isnan(result.flat[~lit]).all()
    assert np.isnan(result.err[~lit]).all()
    assert not result.coverage[~lit].any()
    error = score(result.flat, field.flat)[lit]
    assert np.std(error / result.err[lit]) == pytest.approx(1, abs=0.06)


def test_stars_are_found_and_measured():
    rng = np.random.default_rng(2)
    shape = (200, 200)
    x, y = (a.ravel() + rng.uniform(-0.5, 0.5, 25) for a in np.mgrid[20:181:40, 20:181:40])
    flux = np.geomspace(20, 5000, 25)
    noise = 0.1
    image = (render(x, y, flux, shape) + noise * rng.normal(size=shape)).astype(np.float32)
    good = np.ones(shape, bool)
    # The core of the brightest is saturated.
    good[int(y[-1]) - 2 : int(y[-1]) + 4, int(x[-1]) - 2 : int(x[-1]) + 4] = False
    stars = detect_stars(image, good, noise, FWHM)
    distance = np.hypot(stars.x - x[:-1, None], stars.y - y[:-1, None]).min(axis=1)
    assert (distance < 0.4).all()
    one = render(np.array([40.0]), np.array([40.0]), np.array([1.0]), (81, 81)).astype(np.float32)
    profile = make_profile([(np.pad(one, 25), 1.0)], FWHM, (201, 201))
    assert profile.reach == 64
    true = flux * one[np.hypot(*np.mgrid[-40:41, -40:41]) <= profile.aperture].sum()
    measured, light = measure_stars(image, good, Stars(x, y, 0.5 * true), profile, noise)
    np.testing.assert_allclose(measured.flux[:-1], true[:-1], rtol=0.05, atol=2.0)
    assert measured.flux[-1] == pytest.approx(true[-1], rel=0.15)
    np.testing.assert_array_equal(light, render_stars(measured, profile, shape, noise))
    left = image - light
    far = np.all(
        np.hypot(*(np.mgrid[:200, :200][..., None] - np.array([y, x])[:, None, None])) > 6, -1
    )
    assert np.std(left[far]) < 1.1 * noise


def test_cruciform_is_marked_along_rows_and_columns():
    image = render(np.array([75.0]), np.array([75.0]), np.array([1.0]), (151, 151), reach=74)
    cross = image.copy()
    distance = np.maximum(np.abs(np.arange(151) - 75), 6)
    cross[74:77] += 0.05 / distance**2
    cross[:, 74:77] += 0.05 / distance[:, None] ** 2
    stars = Stars(np.array([200.0, 50.0]), np.array([100.0, 300.0]), np.array([1e5, 10.0]))
    marked = {}
    for name, shown in (("plain", image), ("cross", cross)):
        cutout = shown[75 - 65 : 75 + 66, 75 - 65 : 75 + 66].astype(np.float32)
        profile = make_profile([(cutout, 1e5)], FWHM, (400, 400))
        marked[name] = mark_cruciform(stars, profile, (400, 400), 0.1)
    assert not marked["plain"].any()
    assert marked["cross"][100, 100:300].all()
    assert marked["cross"][20:180, 200].all()
    assert not marked["cross"][150, 100:190].any()
    assert not marked["cross"][300, :190].any()


def test_background_recovers_its_terms_around_bad_cells():
    y, x = np.mgrid[:128, :256]
    u, v = 2 * x / 255 - 1, 2 * y / 127 - 1
    truth = 10 * (1 + 0.02 * u - 0.01 * v + 0.03 * u * v)
    image = truth.astype(np.float32)
    image[:32, :32] += 5
    good = np.ones(image.shape, bool)
    good[64:, 128:] = False
    found = fit_background(image, good)
    np.testing.assert_allclose(found.evaluate(image.shape), truth, rtol=1e-4)
    assert np.isnan(fit_background(image, np.zeros_like(good)).level)


def test_groups_of_tiles():
    assert make_groups(np.array([7, 7, 3, 3, 9])).tolist() == [1, 1, 0, 0, 2]
    assert make_groups(np.zeros(10, int)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert set(make_groups(np.arange(40))) == set(range(8))
