"""Odds from decoys: thresholds keep their share of false flags, log-odds mean what they say."""

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from arrays import find, flag_cube
from hypothesis import given
from hypothesis import strategies as st

from jwst_tvbadpix.badpix import Settings
from jwst_tvbadpix.badpix.odds import calibrate_scores, shuffle_looks

# Pixels and twice as many decoys, of which one in a hundred passes the quick tests.
N_PIXELS, CHOSEN = 100_000, 0.01
N_REALISATIONS = 30
FDR = (0.01, 0.05, 0.10)


def draw_false(n, rng):
    """Scores of pixels without a defect, looks that each would flag, which of them are negative."""
    return rng.exponential(1.3, n) - 2, rng.integers(1, 8, n), rng.uniform(size=n) < 0.5


def draw(seed, *, n_pixels=N_PIXELS, density=4e-3, factor=1.0):
    """Candidates and decoys: (arguments of calibrate_scores, which candidates are false).

    `density` defects per pixel; `factor` false candidates per decoy of the same number of pixels.
    """
    rng = np.random.default_rng(seed)
    false = draw_false(rng.poisson(factor * CHOSEN * n_pixels), rng)
    n = int(density * n_pixels)
    defects = rng.gamma(2, 6, n) - 2, rng.integers(1, 21, n), np.zeros(n, bool)
    both = [np.concatenate(pair) for pair in zip(false, defects, strict=True)]
    decoys = draw_false(rng.poisson(CHOSEN * 2 * n_pixels), rng)
    is_false = np.arange(both[0].size) < false[0].size
    return [*both, *decoys], is_false


def calibrate(columns, *, n_pixels=N_PIXELS, n_decoys=None, fdr=0.05, undecided=None):
    return calibrate_scores(
        *columns,
        undecided=np.zeros(columns[0].size) if undecided is None else undecided,
        n_pixels=n_pixels,
        n_decoys=2 * n_pixels if n_decoys is None else n_decoys,
        fdr=fdr,
    )


@pytest.fixture(scope="module")
def drawn():
    return [draw(seed) for seed in range(N_REALISATIONS)]


def count(columns, is_false, calibration):
    """Flags above the threshold: (false, all, sum of squares of the false pixels' flags)."""
    above = columns[0] >= calibration.threshold
    flags = columns[1] * above
    return np.array([flags[is_false].sum(), flags.sum(), (flags[is_false] ** 2).sum()])


@pytest.mark.parametrize(
    ("n_pixels", "factor", "n_fields"),
    [(N_PIXELS, 1.0, N_REALISATIONS), (1_000_000, 2.0, 5)],
    ids=["as decoys", "twice the false alarms"],
)
@pytest.mark.parametrize("fdr", FDR)
def test_share_of_false_flags_is_the_nominal_one(fdr, n_pixels, factor, n_fields):
    counts, expected = np.zeros(3), 0.0
    for seed in range(n_fields):
        columns, is_false = draw(seed, n_pixels=n_pixels, factor=factor)
        calibration = calibrate(columns, n_pixels=n_pixels, fdr=fdr)
        counts += count(columns, is_false, calibration)
        expected += calibration.expected_false
        assert calibration.n_flags == count(columns, is_false, calibration)[1]
    false, found, squares = counts
    # Flags of one pixel come together: their number has the variance of the sum of squares.
    err = np.sqrt(squares) / found
    assert 0.5 * fdr - 2 * err < false / found < 1.5 * fdr + 2 * err
    # And it is the number that was announced: the tail is fitted to 80 decoys, 11 %, in each
    # field; the prior takes 5 % off an excess of two where there are a million pixels.
    error = np.hypot(np.sqrt(squares), 0.11 * false / np.sqrt(n_fields))
    assert false == pytest.approx(expected, abs=3 * error + 0.05 * (factor - 1) * false)


def test_more_false_flags_are_allowed_the_lower_the_threshold(drawn):
    for columns, _ in drawn[:5]:
        found = [calibrate(columns, fdr=fdr) for fdr in (0.001, *FDR)]
        thresholds = [c.threshold for c in found]
        assert thresholds == sorted(thresholds, reverse=True)
        assert len(set(thresholds)) == len(thresholds)
        assert all(c.expected_false <= c.fdr * c.n_flags for c in found)
        assert all(c.n_decoys == 2 * N_PIXELS for c in found)
        # A score below -3 speaks against a defect, whatever may be false.
        assert calibrate(columns, fdr=0.9).threshold == columns[0][columns[0] >= -3].min()


def test_nothing_to_find_gives_nothing():
    """With `fdr` a flag gets through about once in 1 / fdr fields, times flags over their mean."""
    n_flagged = 0
    for seed in range(60):
        columns, _ = draw(seed, density=0)
        n_flagged += (columns[0] >= calibrate(columns, fdr=0.02).threshold).sum()
    # 60 * 0.02 * 7 / 4 = 2; not more than 7 but once in 1000.
    assert n_flagged <= 7


def test_log_odds_are_those_of_being_true(drawn):
    """Pooled over the fields, by log-odds: as many false as 1 / (1 + e^L) says."""
    log_odds, false = [], []
    for columns, is_false in drawn:
        log_odds.append(calibrate(columns).compute_log_odds(columns[0]))
        false.append(is_false)
    log_odds, false = np.concatenate(log_odds), np.concatenate(false)
    for low, high in pairwise([-1.0, 0.0, 1.0, 2.0, 3.0, 5.0, 10.0]):
        inside = (log_odds >= low) & (log_odds < high)
        share = 1 / (1 + np.exp(log_odds[inside]))
        error = np.sqrt((share * (1 - share)).sum()) / inside.sum()
        # 60 candidates per bin: densities are good to 0.25 in the logarithm.
        systematic = 0.25 * (share * (1 - share)).mean()
        assert inside.sum() > 100
        assert false[inside].mean() == pytest.approx(share.mean(), abs=3 * error + systematic)
    # What most probably is false, is.
    assert false[log_odds < -1].mean() > 0.9


def test_log_odds_increase_within_their_limits(drawn):
    for columns, _ in drawn[:5]:
        calibration = calibrate(columns)
        found = calibration.compute_log_odds(np.linspace(-50, 400, 2000))
        assert (np.diff(found) >= 0).all()
        assert found[0] >= -12
        assert found[-1] == 30
        assert np.diff(calibration.score).min() > 0


def test_excess_of_shifts_to_negative_values_counts(drawn):
    """Twice the false alarms of the decoys, in the data alone: the threshold says so."""
    plain = np.array([calibrate(columns).excess for columns, _ in drawn])
    doubled = np.array([calibrate(draw(seed, factor=2.0)[0]).excess for seed in range(30)])
    # Negative pixels of score -2 to 6, 4 flags each, and 10 pixels of 20 flags as prior.
    seen, prior = 0.5 * CHOSEN * N_PIXELS * (1 - np.exp(-8 / 1.3)) * 4, 200
    assert plain.mean() == pytest.approx(1, abs=4 * plain.std() / np.sqrt(plain.size))
    expected = (2 * seen + prior) / (seen + prior)
    assert doubled.mean() == pytest.approx(expected, abs=4 * doubled.std() / np.sqrt(doubled.size))


def test_undecided_looks_are_false_flags():
    """Half a look of each pixel of score 10 and more: at the same threshold, so many more."""
    columns, _ = draw(1)
    undecided = np.where(columns[0] > 10, 0.5, 0.0)
    # Where most may be false, the threshold is zero with and without.
    sure, unsure = (calibrate(columns, fdr=0.9, undecided=u) for u in (None, undecided))
    assert sure.threshold == unsure.threshold
    assert unsure.expected_false == pytest.approx(sure.expected_false + undecided.sum())
    assert undecided.sum() > 50
    assert calibrate(columns, undecided=undecided).threshold > calibrate(columns).threshold


def test_no_decoy_means_that_every_score_is_true():
    columns, _ = draw(2)
    columns[3:] = [column[:0] for column in columns[3:]]
    found = calibrate(columns)
    assert found.threshold == columns[0][columns[0] >= -3].min()
    assert found.expected_false == 0
    assert np.isfinite(found.compute_log_odds(columns[0])).all()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_decoys_are_not_taken_for_none(n):
    """Five decoys of score 3 to 4 among as many as there are pixels: about five false alarms."""
    columns, _ = draw(3)
    keep = columns[0] > 0
    columns[:3] = [column[keep] for column in columns[:3]]
    columns[3:] = [np.linspace(3, 4, n), np.full(n, 4), np.zeros(n, bool)]
    found = calibrate(columns, n_decoys=N_PIXELS)
    above = columns[0] >= found.threshold
    assert 0 < found.expected_false <= 0.05 * columns[1][above].sum()
    strict = calibrate(columns, n_decoys=N_PIXELS, fdr=1e-4)
    assert 4 < strict.threshold < np.inf


def test_few_candidates_keep_their_own_odds():
    columns, _ = draw(4)
    columns[:3] = [column[-10:] for column in columns[:3]]
    found = calibrate(columns)
    scores = np.array([-40.0, -1.0, 3.0, 50.0])
    np.testing.assert_array_equal(found.compute_log_odds(scores), [-12, -1, 3, 30])
    none = calibrate([column[:0] for column in columns])
    assert (none.threshold, none.expected_false, none.n_flags) == (np.inf, 0, 0)


def test_order_of_the_candidates_does_not_matter():
    columns, _ = draw(5)
    rng = np.random.default_rng(1)
    one_way, other = (rng.permutation(columns[k].size) for k in (0, 3))
    turned = [c[one_way] for c in columns[:3]] + [c[other] for c in columns[3:]]
    one, two = calibrate(columns), calibrate(turned)
    for f in fields(one):
        np.testing.assert_allclose(getattr(two, f.name), getattr(one, f.name), rtol=1e-10)


# --------------------------------------------------------------------------- shuffle_looks


def shuffle(z, usable, visits, seed=0):
    return shuffle_looks(z, usable, np.asarray(visits), np.random.default_rng(seed))


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 30))
def test_values_stay_in_their_look(seed, n_looks, n_pixels):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_looks, n_pixels)).astype(np.float32)
    usable = rng.uniform(size=z.shape) < 0.7
    visits = np.sort(rng.integers(0, n_looks, n_looks))
    found = shuffle(z, usable, visits, seed)
    assert found.dtype == np.float32
    assert not found[~usable].any()
    for old, new, use in zip(z, found, usable, strict=True):
        np.testing.assert_array_equal(np.sort(new[use]), np.sort(old[use]))


def test_pixels_are_broken_and_visits_are_not():
    """A pixel that is high in all looks is high in single ones, in all looks of a visit."""
    n = 20_000
    z = np.random.default_rng(3).normal(size=n).astype(np.float32) * np.ones((6, 1), np.float32)
    found = shuffle(z, np.ones(z.shape, bool), [0, 0, 1, 2, 2, 2])
    correlation = np.corrcoef(found)
    together = np.equal.outer([0, 0, 1, 2, 2, 2], [0, 0, 1, 2, 2, 2])
    np.testing.assert_allclose(correlation[together], 1, atol=1e-6)
    assert np.abs(correlation[~together]).max() < 5 / np.sqrt(n)
    other = shuffle(z, np.ones(z.shape, bool), [0, 0, 1, 2, 2, 2], seed=1)
    assert (other != found).mean() > 0.99


# ---------------------------------------------------------------------------- the whole search


def draw_field(seed, shape, n_defects, *, n_looks=16):
    """Gaussian noise and pattern under a changing sky, offsets of 1 to 6 sigma: (rate, truth)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = rng.uniform(0.7, 1.4, (n_looks, 1, 1)) * (8 + 4 * x / shape[1] + 3 * y / shape[0])
    rate = sky * (1 + rng.normal(0, 0.01, shape)) + rng.normal(0, 0.05, shape)
    rate += rng.normal(0, 0.3, rate.shape)
    place = np.unravel_index(rng.choice(rate[0].size, n_defects, replace=False), shape)
    first = np.where(rng.uniform(size=n_defects) < 0.5, 0, rng.integers(1, n_looks - 2, n_defects))
    truth = np.zeros(rate.shape, bool)
    truth[:, *place] = np.arange(n_looks)[:, None] >= first
    rate[:, *place] += truth[:, *place] * 0.3 * rng.uniform(1, 6, n_defects)
    return rate.astype(np.float32), truth


def search(rate, **settings):
    mjd = np.linspace(59800, 61200, len(rate))
    return find(rate, mjd, settings=Settings(**settings))


@pytest.mark.parametrize("fdr", [0.05, 0.10])
def test_share_of_false_flags_of_a_search_is_the_nominal_one(fdr):
    """Half a million pixels, 300 defects: as few as that, so that the threshold is above zero."""
    rate, truth = draw_field(0, (512, 1024), 300)
    histories = search(rate, fdr=fdr)
    bad = flag_cube(histories)
    assert histories.calibration.threshold > 0.5
    assert bad[truth].mean() > 0.6
    false = (bad & ~truth).sum(axis=0)
    # Flags of one pixel come together: their number has the variance of the sum of squares.
    err = np.sqrt((false.astype(float) ** 2).sum()) / bad.sum()
    assert 0.5 * fdr - 2 * err < false.sum() / bad.sum() < 1.5 * fdr + 2 * err
    assert err < 0.4 * fdr
    assert histories.expected_false.sum() == pytest.approx(histories.calibration.expected_false)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_search_of_a_field_without_defects_flags_next_to_nothing(seed):
    rate, _ = draw_field(seed, (256, 256), 0)
    assert flag_cube(search(rate)).any(axis=0).sum() <= 3
