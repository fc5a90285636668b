"""What looks are worth: those that say nothing about single pixels are left out."""

import re

import numpy as np
import pytest
from arrays import find, flag_cube, measure

from jwst_tvbadpix.badpix.usability import assess_looks

N_LOOKS, SHAPE, SIGMA = 12, (96, 96), 0.3
MJD = np.sort(np.random.default_rng(5).uniform(59800, 61200, N_LOOKS))
COVERED, BRIGHT, QUIET, EMPTY, NOISY = 2, 4, 6, 8, 10


def make_rate(*odd):
    """A sky with a defect that turns on, and looks that are odd: float32 (n_looks, ny, nx)."""
    rng = np.random.default_rng(3)
    sky = rng.uniform(7, 14, (N_LOOKS, 1, 1)) * (1 + rng.normal(0, 0.005, SHAPE))
    rate = sky + rng.normal(0, SIGMA, sky.shape)
    rate[5:, 20:90:12, 20:90:12] += 15 * SIGMA
    if COVERED in odd:
        rate[COVERED][rng.uniform(size=SHAPE) < 0.3] += 50
    if BRIGHT in odd:
        rate[BRIGHT] = 50 * sky[BRIGHT] + rng.normal(0, 7 * SIGMA, SHAPE)
    if QUIET in odd:
        rate[QUIET] = 10
    if EMPTY in odd:
        rate[EMPTY] = np.nan
    if NOISY in odd:
        rate[NOISY] += rng.normal(0, 200 * SIGMA, SHAPE)
    return rate.astype(np.float32)


def assess(*odd):
    return assess_looks(*measure(make_rate(*odd)))


def test_ordinary_looks_count_in_full():
    usability = assess()
    assert usability.used.all()
    assert usability.reason == ("",) * N_LOOKS
    # The few defects are good in five looks of twelve: what most looks share is no source.
    np.testing.assert_allclose(usability.score, 1, atol=0.01)
    # A pixel against the mean of its medians: 0.94 of its noise.
    np.testing.assert_allclose(usability.noise, 0.94 * SIGMA, rtol=0.1)
    assert ((usability.background > 6.5) & (usability.background < 14.5)).all()


@pytest.mark.parametrize(
    ("look", "used", "score", "reason"),
    [
        # So many sources pass for noise.
        (COVERED, False, 0.07, r"its noise is 1\d\d times the median"),
        # A factor of 5 is free.
        (BRIGHT, True, 0.13, r"its background is [345]\d(\.\d)? times the median"),
        (QUIET, False, 0.0, r"its noise is \S+ DN/s, that of no real exposure"),
        (EMPTY, False, 0.0, r"no pixel with evidence"),
        # A factor of 10 is free.
        (NOISY, False, 0.05, r"its noise is [12]\d\d times the median"),
    ],
    ids=["covered", "bright", "quiet", "empty", "noisy"],
)
def test_odd_looks_have_a_score_and_a_reason(look, used, score, reason):
    usability = assess(look)
    assert usability.used[look] == used
    # The levels of the others differ by a factor of two.
    assert usability.score[look] == pytest.approx(score, abs=0.05)
    assert re.fullmatch(reason, usability.reason[look])
    others = np.arange(N_LOOKS) != look
    assert (usability.score[others] > 0.95).all()
    assert not any(text for k, text in enumerate(usability.reason) if k != look)


def test_sources_are_counted_as_their_share():
    """Sources on 5 % of the pixels leave 80 % of the weight."""
    rate = make_rate()
    rng = np.random.default_rng(8)
    rate[3][rng.uniform(size=SHAPE) < 0.05] += 50
    usability = assess_looks(*measure(rate))
    # 9216 pixels: the share has an error of 0.2 %; side by side some pass for structure.
    assert usability.source_fraction[3] == pytest.approx(0.05, abs=0.01)
    assert usability.score[3] == pytest.approx(1 - usability.source_fraction[3] / 0.25, abs=0.01)
    assert usability.reason[3] == ""


@pytest.mark.parametrize("look", [COVERED, EMPTY, NOISY], ids=["covered", "empty", "noisy"])
def test_unusable_looks_change_nothing_for_the_others(look):
    rate = make_rate(look)
    histories = find(rate, MJD)
    assert not histories.usability.used[look]
    assert histories.n_pixels[look] == 0
    assert (histories.n_evidence == N_LOOKS - 1).all()
    others = np.arange(N_LOOKS) != look
    left = find(rate[others], MJD[others])
    # The decoys are others, so that the threshold may lie a pixel or two lower or higher.
    bad = flag_cube(left)
    assert (flag_cube(histories)[others] != bad).any(axis=0).sum() <= 3
    assert bad[MJD[others] >= MJD[5]][:, 20:90:12, 20:90:12].all()
    assert not bad[MJD[others] < MJD[5]][:, 20:90:12, 20:90:12].any()


@pytest.mark.parametrize("look", [BRIGHT, QUIET], ids=["bright", "quiet"])
def test_poor_looks_do_not_spoil_the_others(look):
    bad = flag_cube(find(make_rate(look), MJD))
    places = np.s_[:, 20:90:12, 20:90:12]
    truth = np.arange(N_LOOKS) >= 5
    found = bad[places].reshape(N_LOOKS, -1)
    # 36 defects; the poor look itself may say either.
    others = np.arange(N_LOOKS) != look
    assert (found[others] != truth[others, None]).mean() < 0.01
    bad[places] = False
    assert bad.any(axis=0).sum() <= 2
