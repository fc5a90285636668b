"""Cores of stars: measured with honest errors, followed in time and over the field."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import erf

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import StarTable, find_core_drifts, measure_cores
from jwst_tvbadpix.flatfield.psf_core import METRICS

SHAPE = (224, 224)
GOOD = np.ones(SHAPE, bool)
FWHM = 1.88
N_SIDE = 10


def integrate(pixel, centre, sigma):
    """Share of a Gaussian that falls in each pixel."""
    low, high = ((pixel + edge - centre) / (sigma * np.sqrt(2)) for edge in (-0.5, 0.5))
    return (erf(high) - erf(low)) / 2


def expose(rng, *, fwhm=(FWHM, FWHM), gradient=0.0, noise=0.3, brighter_wider=0.0):
    """Frame of isolated Gaussian stars at any phase of the pixel: data, err, StarTable."""
    step = SHAPE[0] / N_SIDE
    y, x = (np.mgrid[:N_SIDE, :N_SIDE].reshape(2, -1) + 0.5) * step
    x, y = x + rng.uniform(-2, 2, len(x)), y + rng.uniform(-2, 2, len(y))
    flux = 10 ** rng.uniform(3, 4, len(x))
    data = np.full(SHAPE, 5.0)
    for u, v, f in zip(x, y, flux, strict=True):
        i, j = (np.arange(int(c) - 8, int(c) + 10) for c in (u, v))
        wider = 1 + gradient * (u / SHAPE[1] - 0.5) + brighter_wider * np.log(f / 3000)
        along = [
            integrate(pixel, centre, wider * width / 2.3548)
            for pixel, centre, width in ((j, v, fwhm[1]), (i, u, fwhm[0]))
        ]
        data[np.ix_(j, i)] += f * np.outer(*along)
    err = np.sqrt(noise**2 + 0.05 * data)
    guess = StarTable(x + rng.normal(0, 0.1, len(x)), y, flux, np.sqrt(flux))
    return data + err * rng.normal(size=SHAPE), err, guess


def follow(seed, fwhms, **kwargs):
    """Three exposures a visit, visits 100 days apart, the FWHM of each visit given."""
    rng = np.random.default_rng(seed)
    tables = [
        measure_cores(*_reorder(expose(rng, fwhm=fwhm, **kwargs)), fwhm=FWHM)
        for fwhm in np.repeat(fwhms, 3, axis=0)
    ]
    visit = np.repeat(np.arange(len(fwhms)), 3)
    mjd = 60000 + 100 * visit + 0.01 * np.tile(np.arange(3), len(fwhms))
    return find_core_drifts(tables, mjd, visit, GOOD)


def _reorder(exposure):
    data, err, stars = exposure
    return data, err, GOOD, stars


def test_stated_errors_are_those_of_the_pixels():
    """One star, many times: scatter over stated error of every metric."""
    seen, sigma, stars = expose(np.random.default_rng(1))
    noiseless = seen - sigma * _repeat_noise(1)
    truth = measure_cores(noiseless, sigma, GOOD, stars, fwhm=FWHM)
    pulls = []
    for k in range(40):
        noisy = noiseless + sigma * np.random.default_rng(100 + k).normal(size=SHAPE)
        table = measure_cores(noisy, sigma, GOOD, stars, fwhm=FWHM)
        assert len(table.x) == len(truth.x) == N_SIDE**2
        pulls.append((table.values - truth.values) / table.errors)
    scatter = np.std(pulls, axis=(0, 1))
    assert np.all(scatter > 0.85)
    assert np.all(scatter < 1.25)
    assert np.all(np.abs(np.mean(pulls, axis=(0, 1))) < 0.2)


def _repeat_noise(seed):
    """Draw the noise that `expose` drew last."""
    rng = np.random.default_rng(seed)
    rng.uniform(size=(3, N_SIDE**2))
    rng.normal(size=N_SIDE**2)
    return rng.normal(size=SHAPE)


def test_metrics_of_a_gaussian():
    rng = np.random.default_rng(2)
    table = measure_cores(*_reorder(expose(rng, fwhm=(3.2, 2.8), noise=0.05)), fwhm=3.0)
    ratio, size, stretch, skew, sharpness = np.median(table.values, axis=0)
    # Of a Gaussian under a Gaussian weight of 0.6 FWHM, pixels of variance 1/12 added.
    inverse = [1 / ((width / 2.3548) ** 2 + 1 / 12) + 1 / 1.8**2 for width in (3.2, 2.8)]
    xx, yy = 1 / np.array(inverse)
    assert size == pytest.approx((xx + yy) / 2, rel=0.03)
    assert stretch == pytest.approx((xx - yy) / (xx + yy), rel=0.1)
    assert abs(skew) < 0.01
    boxes = [np.prod([erf(a / 2 / (w / 2.3548) / 2**0.5) for w in (3.2, 2.8)]) for a in (4.8, 7.98)]
    assert ratio == pytest.approx(boxes[0] / boxes[1], rel=0.03)
    wide = [np.hypot(w / 2.3548, 12**-0.5) for w in (3.2, 2.8)]
    assert sharpness == pytest.approx(1 / (4 * np.pi * wide[0] * wide[1]), rel=0.03)


def test_a_wider_core_is_found_and_its_size_is_right():
    """2 % in FWHM from the third visit on; all that is round changes, nothing else does."""
    fwhms = [(FWHM, FWHM)] * 3 + [(1.02 * FWHM, 1.02 * FWHM)] * 2
    found = follow(3, fwhms)
    drifting = dict(zip(found.drifts.names, found.drifts.drifting, strict=True))
    assert drifting["core_ratio"]
    assert drifting["size"]
    assert drifting["sharpness"]
    assert not drifting["stretch"]
    assert not drifting["skew"]
    assert not drifting["size, gradient 1"]
    change = found.drifts.values[9:, 3].mean() - found.drifts.values[:9, 3].mean()
    err = np.hypot(
        *(
            np.sqrt(np.mean(found.drifts.errors[rows, 3] ** 2) / n)
            for rows, n in ((slice(9, None), 6), (slice(None, 9), 9))
        )
    )
    variance = np.array([((k * FWHM) / 2.3548) ** 2 + 1 / 12 for k in (1, 1.02)])
    size = 1 / (1 / variance + 1 / (0.6 * FWHM) ** 2)
    assert change == pytest.approx(size[1] / size[0] - 1, abs=5 * err, rel=0.1)
    assert err < 0.1 * change


def test_an_elongated_core_is_stretched():
    found = follow(4, [(FWHM, FWHM)] * 3 + [(1.02 * FWHM, 0.98 * FWHM)] * 2)
    kind = dict(zip(found.drifts.names, found.drifts.kind, strict=True))
    assert kind["stretch"] != "stable"
    assert kind["size"] == kind["skew"] == "stable"


@pytest.mark.parametrize("n_seeds", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_silent_on_a_core_that_does_not_change(n_seeds):
    """With a gradient over the field and wider bright stars, the same in all exposures."""
    verdicts = [
        follow(seed, [(FWHM, FWHM)] * 4, gradient=0.1, brighter_wider=0.01).drifts.verdict
        for seed in range(26 - n_seeds, 26)
    ]
    assert verdicts.count("STABLE") >= min(n_seeds, 5)


def follow_stars(seed, *, later=0.0, scatter=0.02):
    """Visits that see other stars, each with constants of its own; later ones are wider."""
    rng = np.random.default_rng(seed)
    tables, numbers = [], []
    for visit in range(4):
        own = 1 + scatter * rng.normal(size=(N_SIDE**2, len(METRICS)))
        for _ in range(3):
            wide = FWHM * (1 + later * (visit > 1))
            table = measure_cores(*_reorder(expose(rng, fwhm=(wide, wide))), fwhm=FWHM)
            step = SHAPE[0] / N_SIDE
            place = (table.y // step * N_SIDE + table.x // step).astype(int)
            tables.append(replace(table, values=table.values * own[place]))
            numbers.append(place + visit * N_SIDE**2)
    visit = np.repeat(np.arange(4), 3)
    mjd = 60000 + 100 * visit + 0.01 * np.tile(np.arange(3), 4)
    return [
        find_core_drifts(tables, mjd, visit, GOOD, star=star).drifts for star in (None, numbers)
    ]


@pytest.mark.parametrize("n_seeds", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_visits_with_other_stars_are_no_drift(n_seeds):
    found = [follow_stars(seed) for seed in range(40, 40 + n_seeds)]
    # Without numbers every measurement counts as a star of its own, and visits seem to differ.
    assert sum(blind.verdict == "DRIFT" for blind, _ in found) >= n_seeds / 2
    assert all(drifts.verdict == "STABLE" for _, drifts in found)
    p_value = np.concatenate([drifts.between_visits.p_value for _, drifts in found])
    assert 0.35 < np.mean(p_value) < 0.7


def test_a_wider_core_is_found_among_stars_that_differ():
    drifts = follow_stars(50, later=0.03)[1]
    found = dict(zip(drifts.names, drifts.drifting, strict=True))
    assert found["size"]
    assert not found["skew"]


def test_numbers_of_stars_must_fit():
    table = measure_cores(*_reorder(expose(np.random.default_rng(1))), fwhm=FWHM)
    with pytest.raises(EvidenceError, match="a number for each"):
        find_core_drifts([table] * 2, np.arange(2.0), np.arange(2), GOOD, star=[np.arange(3)] * 2)


def test_brighter_fatter_is_told_from_time():
    found = follow(5, [(FWHM, FWHM)] * 4, brighter_wider=0.01)
    slope = dict(zip(METRICS, found.flux_slope / found.flux_slope_err, strict=True))
    assert slope["size"] > 5
    assert slope["core_ratio"] < -5
    assert abs(slope["stretch"]) < 4
    assert found.drifts.verdict == "STABLE"


def test_stars_on_bad_pixels_at_edges_or_without_flux_are_left_out():
    data, err, stars = expose(np.random.default_rng(6))
    good = GOOD.copy()
    good[round(stars.y[5]), round(stars.x[5])] = False
    flux = stars.flux.copy()
    flux[7] = np.nan
    x = stars.x.copy()
    x[0] = 2.0
    table = measure_cores(data, err, good, StarTable(x, stars.y, flux, stars.flux_err), fwhm=FWHM)
    assert len(table.x) == len(flux) - 3
    empty = measure_cores(
        data, err, good, StarTable(x, stars.y, np.full_like(flux, np.nan), flux), fwhm=FWHM
    )
    assert len(empty.x) == 0
    with pytest.raises(EvidenceError, match="FWHM above 0"):
        measure_cores(data, err, good, stars, fwhm=0)
    with pytest.raises(EvidenceError, match="two exposures or more"):
        find_core_drifts([empty, table], np.array([1.0, 2.0]), np.array([0, 1]), GOOD)
    with pytest.raises(EvidenceError, match="one time and visit"):
        find_core_drifts([table, table], np.array([1.0]), np.array([0, 1]), GOOD)
