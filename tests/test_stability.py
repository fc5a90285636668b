"""Stability of a flat: its modes by epoch, and single pixels between two halves."""

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import (
    StarObservations,
    find_flat_drifts,
    find_pixel_drift,
    make_basis,
    make_epochs,
    solve_star_flat,
)

FIELD = np.ones((160, 120), bool)
SHAPE = (180, 140)
GOOD = np.ones(SHAPE, bool)
N_VISITS, N_EACH = 6, 6


def observe(seed, *, slope=0.0, mode=3):
    """Star measurements of six visits in two years; a mode of the flat changes by year."""
    rng = np.random.default_rng(seed)
    basis = make_basis(FIELD, 2)
    truth = rng.normal(0, 0.004, basis.n_modes)
    sky = rng.uniform(-140, 140, (350, 2))
    flux = 10 ** rng.uniform(2, 3, len(sky))
    visit = np.repeat(np.arange(N_VISITS), N_EACH)
    mjd = 59700 + 146.1 * visit + 0.01 * np.tile(np.arange(N_EACH), N_VISITS)
    rows = []
    for j, day in enumerate(mjd):
        x, y = (sky - rng.uniform(-50, 50, 2)).T + np.array([[60.0], [80.0]])
        k = np.flatnonzero(basis.contains(x, y))
        now = truth + slope * (day - mjd[0]) / 365.25 * (np.arange(basis.n_modes) == mode)
        expected = flux[k] * np.exp(basis.evaluate(x[k], y[k]) @ now + rng.normal(0, 0.002))
        err = 0.005 * expected
        rows.append(
            [np.full(len(k), j), k, x[k], y[k], expected + err * rng.normal(size=len(k)), err]
        )
    columns = np.hstack(rows)
    stars = StarObservations(columns[0].astype(int), columns[1].astype(int), *columns[2:])
    return stars, mjd, visit


def follow(seed, **kwargs):
    stars, mjd, visit = observe(seed, **kwargs)
    epochs = make_epochs(mjd, visit)
    flat = solve_star_flat(
        stars, FIELD, order=2, epoch=dict(enumerate(epochs.number)), epoch_order=2
    )
    return flat, epochs, find_flat_drifts(flat, epochs.mid_mjd, epochs.visit)


def test_a_mode_that_changes_by_year_is_found_among_those_that_do_not():
    pulls, seen = [], 0
    for seed in range(6):
        _, epochs, drifts = follow(seed, slope=0.004)
        assert (drifts.n_epochs, drifts.n_visits) == (2 * N_VISITS, N_VISITS)
        pulls.append((drifts.slope.value[3] - 0.004) / drifts.slope.err[3])
        pulls += list(drifts.slope.value[[2, 4]] / drifts.slope.err[[2, 4]])
        assert drifts.drifting[3]
        assert drifts.verdict == "DRIFT"
        seen += drifts.drifting[[0, 1, 2, 4]].sum()
    assert seen <= 1
    assert np.sqrt(np.mean(np.square(pulls))) < 1.5
    assert drifts.names[0] == "mode 1 (degree 1)"
    assert len(epochs.mid_mjd) == 2 * N_VISITS


def test_a_stable_flat_is_said_to_be_stable():
    assert [follow(seed)[2].verdict for seed in range(10, 15)].count("STABLE") >= 4


def test_a_star_flat_without_epochs_is_refused():
    stars, mjd, visit = observe(1)
    flat = solve_star_flat(stars, FIELD, order=2)
    with pytest.raises(EvidenceError, match="solve it with `epoch`"):
        find_flat_drifts(flat, mjd, visit)


def make_halves(rng, *, rms=0.0, scale=1.0, smooth=0.0, n=2):
    """Flats of halves with errors that are too small by `scale`; the last half has changed."""
    flat = 1 + 0.01 * rng.normal(size=SHAPE)
    err = rng.uniform(0.002, 0.004, SHAPE)
    halves = [[flat + scale * err * rng.normal(size=SHAPE), err] for _ in range(n)]
    x = np.linspace(-1, 1, SHAPE[1])
    halves[-1][0] = halves[-1][0] * (1 + smooth * x + rms * rng.normal(size=SHAPE))
    return [tuple(half) for half in halves]


def test_rms_of_all_pixels_is_recovered_within_its_error():
    rng = np.random.default_rng(1)
    pulls, held = [], []
    for _ in range(40):
        first, second, early, late = make_halves(rng, rms=0.002, scale=1.2, smooth=0.005, n=4)
        drift = find_pixel_drift(early, late, GOOD, control=(first, second), order=2)
        pulls.append((drift.rms - 0.002) / drift.rms_err)
        held.append(drift.rms_limit > 0.002)
    assert drift.noise_scale == pytest.approx(1.2, rel=0.03)
    assert abs(np.mean(pulls)) < 0.7
    assert 0.5 < np.std(pulls) < 1.35
    assert np.mean(held) > 0.85


def test_silent_on_noise_at_the_stated_rate():
    rng = np.random.default_rng(2)
    n_draws, rate, alarms, above = 60, 0.1, 0, 0
    for _ in range(n_draws):
        first, second, early, late = make_halves(rng, scale=1.1, n=4)
        drift = find_pixel_drift(
            early, late, GOOD, control=(first, second), false_discovery_rate=rate
        )
        alarms += drift.n_changed > 0
        above += drift.rms > 2 * drift.rms_err
    assert alarms <= n_draws * rate + 3 * np.sqrt(n_draws * rate * (1 - rate))
    assert above <= 6


def test_pixels_that_changed_are_told_and_the_smooth_change_is_kept_apart():
    rng = np.random.default_rng(3)
    early, late = make_halves(rng, smooth=0.01)
    changed = np.zeros(SHAPE, bool)
    changed[rng.integers(0, SHAPE[0], 40), rng.integers(0, SHAPE[1], 40)] = True
    late = (late[0] * np.where(changed, 1.05, 1.0), late[1])
    drift = find_pixel_drift(early, late, GOOD)
    assert (drift.changed & changed).sum() > 0.95 * changed.sum()
    assert (drift.changed & ~changed).sum() <= 3
    assert drift.expected_false == pytest.approx(0.01 * drift.n_changed)
    # 0.01 x over -1..1 has an rms of 0.01 / sqrt(3), all of it in the first mode.
    assert abs(drift.smooth[0] - 0.01 / np.sqrt(3)) < 5 * drift.smooth_err[0]
    assert np.all(np.abs(drift.smooth[1:]) < 5 * drift.smooth_err[1:])
    assert drift.rms_limit < 0.001


def test_pixels_that_are_not_known_say_nothing():
    early, late = make_halves(np.random.default_rng(4))
    early[0][0, :5] = [np.nan, 0, -1, np.inf, 1]
    good = GOOD.copy()
    good[5] = False
    drift = find_pixel_drift(early, late, good)
    assert np.isnan(drift.change[0, :4]).all()
    assert np.isfinite(drift.change[0, 4])
    assert np.isnan(drift.change[5]).all()
    assert not drift.changed[5].any()
    assert drift.n_pixels == np.isfinite(drift.change).sum() == GOOD.size - 4 - SHAPE[1]


def test_halves_of_other_shape_or_without_pixels_are_refused():
    early, late = make_halves(np.random.default_rng(5))
    with pytest.raises(EvidenceError, match="same pixels"):
        find_pixel_drift(early, late, GOOD[1:])
    with pytest.raises(EvidenceError, match="both halves know"):
        find_pixel_drift(early, late, ~GOOD)
    with pytest.raises(EvidenceError, match="between 0 and 1"):
        find_pixel_drift(early, late, GOOD, false_discovery_rate=1)
