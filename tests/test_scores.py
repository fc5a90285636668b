"""Scores: what a shift is worth, crosstalk of hot neighbours, looks that are alone."""

from dataclasses import replace

import numpy as np
import pytest
from arrays import find, flag_cube

from jwst_tvbadpix.badpix import Candidates
from jwst_tvbadpix.badpix.crosstalk import find_own_excess, measure_crosstalk
from jwst_tvbadpix.badpix.histories import PixelStates
from jwst_tvbadpix.badpix.odds import LOWEST_SCORE
from jwst_tvbadpix.badpix.scores import compute_scores, find_pending

N_LOOKS, SIGMA = 20, 0.3
MJD = np.sort(np.random.default_rng(2).uniform(59800, 61200, N_LOOKS))

# ---------------------------------------------------------------------------- measure_crosstalk


def make_plane(share_y, share_x, *, n=100, noise=0.0, seed=1):
    """Excess of hot pixels ten pixels apart, and of their neighbours: (plane, y, x)."""
    rng = np.random.default_rng(seed)
    y, x = (places.ravel()[:n] for places in np.mgrid[5:205:10, 5:205:10])
    plane = np.zeros((212, 212))
    bright = 10 ** rng.uniform(2, 3, y.size)
    for step, share in ((-1, share_y), (1, share_y)):
        plane[y + 1 + step, x + 1] = share * bright + noise * rng.normal(size=y.size)
    for step, share in ((-1, share_x), (1, share_x)):
        plane[y + 1, x + 1 + step] = share * bright + noise * rng.normal(size=y.size)
    plane[y + 1, x + 1] = bright
    return plane, y, x


@pytest.mark.parametrize(("share_y", "share_x"), [(0.01, 0.03), (0.025, 0.005)])
def test_crosstalk_is_measured_along_each_axis(share_y, share_x):
    """200 neighbours per axis of 1 DN/s and more, noise of 0.3: the median is good to 3 %."""
    found = measure_crosstalk(*make_plane(share_y, share_x, noise=SIGMA))
    assert found == pytest.approx((share_y, share_x), rel=0.1)


def test_clusters_are_no_crosstalk():
    """One hot pixel in five has a neighbour that is as hot: its ratio does not count."""
    plane, y, x = make_plane(0.02, 0.02)
    plane[y[::5] + 2, x[::5] + 1] = plane[y[::5] + 1, x[::5] + 1]
    assert measure_crosstalk(plane, y, x) == pytest.approx((0.02, 0.02), rel=1e-6)


def test_few_hot_pixels_have_the_typical_crosstalk():
    assert measure_crosstalk(*make_plane(0.03, 0.03, n=11)) == (0.01, 0.01)
    assert measure_crosstalk(*make_plane(0.03, 0.03, n=12)) == pytest.approx((0.03, 0.03))


def test_own_excess_is_what_the_neighbours_leave():
    plane, *_ = make_plane(0.02, 0.01)
    rows, columns = np.nonzero(plane)
    amplitude = plane[rows, columns]
    hot = amplitude >= 100
    amplitude[~hot] += np.where(np.arange(amplitude.size)[~hot] % 3 == 0, 5.0, 0.0)
    err = np.full(amplitude.shape, 0.1)
    own, own_err = find_own_excess(rows, columns, amplitude, err)
    np.testing.assert_array_equal(own[hot], amplitude[hot])
    np.testing.assert_array_equal(own_err[hot], err[hot])
    taken = amplitude[~hot] - own[~hot]
    expected = plane[rows, columns][~hot]
    np.testing.assert_allclose(taken, expected, rtol=0.15)
    np.testing.assert_allclose(own_err[~hot], np.hypot(0.1, 0.3 * taken), rtol=1e-9)
    # The lower side: nothing turns its sign.
    own, _ = find_own_excess(rows, columns, np.where(hot, amplitude, -amplitude), err)
    assert (own[~hot] <= 0).all()


def test_no_candidates_have_no_excess():
    none = np.empty(0)
    own, err = find_own_excess(none.astype(int), none.astype(int), none, none)
    assert own.size == err.size == 0


@pytest.mark.parametrize(("size", "flagged"), [(250.0, False), (1500.0, True)])
def test_neighbours_of_hot_pixels_are_bad_from_five_sigma_of_one_look(size, flagged):
    """At 1 %: 2.5 sigma of one look, which are 11 of twenty, and 15 sigma."""
    rng = np.random.default_rng(3)
    shape = (128, 128)
    y, x = (places.ravel() for places in np.mgrid[8:120:16, 8:120:16])
    rate = rng.uniform(7, 14, (N_LOOKS, 1, 1)) * (1 + rng.normal(0, 0.003, shape))
    rate = rate + rng.normal(0, SIGMA, rate.shape)
    near = np.zeros(shape, bool)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        rate[:, y + dy, x + dx] += 0.01 * size * SIGMA
        near[y + dy, x + dx] = True
    rate[:, y, x] += size * SIGMA
    bad = flag_cube(find(rate.astype(np.float32), MJD)).mean(axis=0)
    assert (bad[y, x] == 1).all()
    if flagged:
        assert bad[near].mean() > 0.98
    else:
        # Four neighbours each of 49 hot pixels; one has enough of its own by chance.
        assert (bad[near] > 0).sum() <= 2


# ------------------------------------------------------------------------------ compute_scores


def make_candidates(n, *, shift=0.0, truth=None):
    """Pixels far apart with a shift at the looks `truth`: (candidates, states), no noise."""
    truth = np.ones(N_LOOKS, bool) if truth is None else truth
    planes = np.broadcast_to(truth[:, None] * shift, (N_LOOKS, n)).astype(float)
    candidates = Candidates(
        y=np.arange(n, dtype=np.int16) * 5,
        x=np.zeros(n, np.int16),
        residual=planes,
        local=np.full((N_LOOKS, n), 10.0),
        variance=np.full((N_LOOKS, n), SIGMA**2),
        sigma_offset=np.full(n, 0.05),
        sigma_response=np.full(n, 0.005),
    )
    states = PixelStates(
        bad=np.broadcast_to(truth[:, None], planes.shape).astype(float),
        log_ratio=np.zeros((N_LOOKS, n)),
        log_odds=np.full(n, 40.0),
        offset=np.zeros(n),
        response=np.zeros(n),
        amplitude=np.full(n, shift),
        amplitude_err=np.full(n, 0.1),
        multiplicative=np.zeros(n, bool),
        variance_ratio=np.ones(n),
    )
    return candidates, states


def test_the_lower_of_odds_and_shift_counts():
    candidates, states = make_candidates(3, shift=0.5)
    states = replace(
        states,
        amplitude=np.array([0.5, -0.8, 2.0]),
        log_odds=np.array([40.0, 40.0, 7.0]),
    )
    found = compute_scores(candidates, states, 4.0)
    np.testing.assert_allclose(found, [0.5 * 25 - 4, 0.5 * 64 - 4, 7])


def test_scatter_needs_no_shift():
    """Sixteen times the variance makes a pixel bad; less than that adds 6 at most to its shift."""
    candidates, states = make_candidates(2)
    states = replace(states, variance_ratio=np.array([15.9, 16.1]))
    np.testing.assert_allclose(compute_scores(candidates, states, 4.0), [-4 + 6, 40])


@pytest.mark.parametrize("n_bad", [20, 4])
def test_scatter_speaks_beside_the_shift(n_bad):
    """As its log-likelihood ratio against 1.5 times the noise variance, from 4 to 10."""
    candidates, states = make_candidates(4, shift=0.5, truth=np.arange(N_LOOKS) >= N_LOOKS - n_bad)
    states = replace(states, variance_ratio=np.array([1.0, 1.5, 3.3, 6.0]))
    ratio = np.array([1.0, 1.0, 2.2, 4.0])
    says = np.clip(0.5 * n_bad * (ratio - 1 - np.log(ratio)) - 4, 0, 6)
    # With twenty looks the third shows, and the last says all it may; with four, neither.
    assert (says == 0).tolist() == [True, True, n_bad == 4, n_bad == 4]
    assert (says[3] == 6) == (n_bad == 20)
    np.testing.assert_allclose(compute_scores(candidates, states, 4.0), 0.5 * 25 - 4 + says)


def test_lost_response_is_as_sure_as_its_relative_error():
    candidates, states = make_candidates(1)
    states = replace(
        states,
        amplitude=np.array([-0.3]),
        amplitude_err=np.array([0.05]),
        multiplicative=np.array([True]),
    )
    np.testing.assert_allclose(compute_scores(candidates, states, 4.0), 0.5 * 36 - 4)


@pytest.mark.parametrize("n_good", [1, 2, 3])
def test_few_good_looks_do_not_make_the_others_bad(n_good):
    """Good looks that are 3 DN/s below a level that is that of any pixel: 12 % are too few."""
    truth = np.arange(N_LOOKS) >= n_good
    candidates, states = make_candidates(1, shift=3.0, truth=truth)
    # Seen from the level of the many, the shift is nothing.
    candidates = replace(candidates, residual=candidates.residual - 3.0)
    (found,) = compute_scores(candidates, states, 4.0)
    assert (found == 40) == (n_good > 0.12 * N_LOOKS)
    assert found == 40 or found < 0
    # Where the many are off the pattern, they are bad whatever the few.
    (sure,) = compute_scores(*make_candidates(1, shift=3.0, truth=truth), 4.0)
    assert sure == 40


@pytest.mark.parametrize(
    ("looks", "read", "alone"),
    [
        ([0], slice(None), True),
        ([3], slice(3, None), True),  # its first look with evidence
        ([0, 1], slice(None), False),
        ([0, 9], slice(None), False),
        ([7], slice(None), False),  # the prior of an onset is price enough
        ([0], slice(0, 1), False),  # all that there is
    ],
)
def test_a_first_look_alone_is_no_pixel_that_recovered(looks, read, alone):
    candidates, states = make_candidates(2, shift=3.0, truth=np.isin(np.arange(N_LOOKS), looks))
    residual = np.full_like(candidates.residual, np.nan)
    residual[read] = candidates.residual[read]
    score = compute_scores(replace(candidates, residual=residual), states, 4.0)
    assert (score < LOWEST_SCORE).all() == alone
    assert alone or (score == 40).all()


def test_no_candidates_have_no_score():
    assert compute_scores(*make_candidates(0), 4.0).shape == (0,)


# --------------------------------------------------------------------------------- find_pending


@pytest.mark.parametrize(
    ("history", "pending"),
    [
        ("0001", [3]),
        ("001.", [2]),
        ("0..1", [3]),
        ("0011", []),
        ("1001", [3]),
        ("1111", []),
        ("...1", []),
        ("0010", []),
    ],
)
def test_a_last_look_alone_is_pending(history, pending):
    bad = np.array([[c == "1"] for c in history])
    evidence = np.array([[c != "."] for c in history])
    assert np.flatnonzero(find_pending(bad, evidence)[:, 0]).tolist() == pending
