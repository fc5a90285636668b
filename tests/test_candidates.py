"""Which pixels are looked at: edges of fields and stars pass, defects among them do not."""

from dataclasses import fields

import numpy as np
import pytest
from arrays import CORNER, find, flag_cube, measure, select
from scipy.ndimage import gaussian_filter

from jwst_tvbadpix.badpix.candidates import (
    CORNER_REACH,
    _measure_corners,
    is_control,
    make_decoys,
)
from jwst_tvbadpix.badpix.histories import join_pixels
from jwst_tvbadpix.badpix.noise import NoiseModel
from jwst_tvbadpix.badpix.residuals import compute_halo

N_LOOKS, SHAPE = 20, (160, 160)
AXES = {"dispersion_axes": [2] * N_LOOKS}
MJD = np.sort(np.random.default_rng(2).uniform(59800, 61200, N_LOOKS))


def assert_same(one, two):
    for part in ("candidates", "states"):
        for f in fields(getattr(one, part)):
            np.testing.assert_array_equal(
                getattr(getattr(two, part), f.name), getattr(getattr(one, part), f.name), f.name
            )
    np.testing.assert_array_equal(two.bad, one.bad)


# ---------------------------------------------------------------------------------- corners


def test_only_corners_are_steep_both_ways():
    y, x = np.mgrid[:30, :40].astype(float)
    edge = np.where(y < 12, 1.0, 9.0)
    for level in (np.full(y.shape, 5.0), 3 * y, edge, np.where(x > 20, 1.0, 9.0)):
        assert not _measure_corners(level).any()
    # Over two pixels a plane rises by twice its slope, the lower of the two counts.
    np.testing.assert_allclose(_measure_corners(3 * y + 5 * x)[2:-2, 2:-2], 6)
    corner = _measure_corners(np.where((y < 12) & (x < 20), 9.0, 1.0))
    steep = np.argwhere(corner > 0)
    assert corner[11, 19] == 8
    assert steep.min(axis=0).tolist() == [10, 18]
    assert steep.max(axis=0).tolist() == [11, 19]


def make_field(seed, softness):
    """A bright rectangle with soft edges on dark ground, as a field stop makes it: (rate, edge)."""
    rng = np.random.default_rng(seed)
    stop = np.zeros(SHAPE)
    stop[40:120, 30:110] = 1
    stop = gaussian_filter(stop, softness)
    sky = 0.2 + rng.uniform(12, 30, (N_LOOKS, 1, 1)) * stop
    rate = sky * (1 + rng.normal(0, 0.01, SHAPE)) + rng.normal(0, 0.02, SHAPE)
    rate += rng.normal(size=rate.shape) * np.sqrt(0.05**2 + 0.02 * sky)
    edge = np.zeros(SHAPE, bool)
    edge[34:126, 24:116] = True
    edge[46:114, 36:104] = False
    return rate.astype(np.float32), edge


@pytest.mark.parametrize("softness", [0.6, 1.2, 2.0])
def test_edges_and_corners_of_a_field_are_not_bad(softness):
    rate, edge = make_field(1, softness)
    histories = find(rate, MJD)
    bad = flag_cube(histories).any(axis=0)
    # 3840 pixels lie at the edges, whose light is a hundred times that of the dark ground.
    assert bad[edge].sum() <= 0.002 * edge.sum()
    assert bad[~edge].sum() <= 0.0005 * (~edge).sum()
    # What remains is chance: an edge that passes for a defect scores hundreds.
    flagged = histories.bad.any(axis=0)
    assert histories.score[flagged].max(initial=0) < 10


@pytest.mark.parametrize(("reach", "enough"), [(0, False), (CORNER_REACH, True)])
def test_a_block_needs_rows_for_its_corners_too(reach, enough):
    """A chequered field full of defects: blocks of eight rows against the whole."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :60]
    pattern = 100 * ((y // 9 + x // 9) % 2) + 2 * np.clip(rng.standard_cauchy(y.shape), -30, 30)
    rate = (pattern + rng.normal(0, 0.3, (N_LOOKS, *y.shape))).astype(np.float32)
    noise = NoiseModel(
        level=np.zeros((N_LOOKS, 1)),
        sigma=np.full((N_LOOKS, 1), 0.3),
        sigma_offset=1.0,
        sigma_response=1e-3,
        n_used=np.full(N_LOOKS, y.size),
    )
    whole = select(rate, slice(0, 64), *CORNER, noise, AXES)
    assert whole[0].y.size > 500
    assert 5 < whole[1].y.size < 0.02 * y.size
    halo = compute_halo(11, 9) + reach
    parts = []
    for start in range(0, 64, 8):
        first, last = max(0, start - halo), min(64, start + 8 + halo)
        core, corner = slice(start - first, start - first + 8), (CORNER[0] + first, CORNER[1])
        block = np.ascontiguousarray(rate[:, first:last])
        parts.append(select(block, core, *corner, noise, AXES))
    same = [
        np.array_equal(getattr(join_pixels(joined), f.name), getattr(one, f.name))
        for one, joined in zip(whole, zip(*parts, strict=True), strict=True)
        for f in fields(one)
    ]
    assert all(same) == enough


def test_the_control_sample_is_one_per_cent_everywhere():
    drawn = is_control(np.arange(2048)[:, None], np.arange(2048))
    for axes in ((0, 1), 0, 1):
        share = drawn.mean(axis=axes)
        n = drawn.size / np.size(share)
        assert np.abs(share - 0.01).max() < 4.5 * np.sqrt(0.01 / n)
    # No neighbours more often than by chance.
    assert (drawn[:, 1:] & drawn[:, :-1]).mean() == pytest.approx(1e-4, abs=4.5e-6 * 5)
    window = is_control(np.arange(100, 164)[:, None], np.arange(8, 72))
    np.testing.assert_array_equal(window, drawn[100:164, 8:72])


# ------------------------------------------------------------------------------------ stars

AMPLITUDE, SIGMA = 1.5, 0.15


@pytest.fixture(scope="module")
def images():
    """Images of a field of stars that moves, with hot pixels and two clusters: (rate, truth)."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rate = rng.uniform(3.5, 7, (N_LOOKS, 1, 1)) * (1 + rng.normal(0, 0.01, SHAPE))
    rate = rate + rng.normal(0, 0.02, SHAPE) + rng.normal(0, SIGMA, rate.shape)
    for look in rate:
        for cy, cx in rng.uniform(3, SHAPE[0] - 3, (40, 2)):
            width = rng.uniform(1.3, 2.5) / 2.355
            near = np.s_[max(0, int(cy) - 8) : int(cy) + 9, max(0, int(cx) - 8) : int(cx) + 9]
            distance2 = (y[near] - cy) ** 2 + (x[near] - cx) ** 2
            look[near] += 10 ** rng.uniform(-0.3, 2.7) * np.exp(-distance2 / 2 / width**2)
    truth = np.zeros(rate.shape, bool)
    truth[:, 10:150:14, 10:150:28] = True
    truth[8:, 10:150:14, 24:150:28] = True
    truth[9:, 70:72, 75:77] = truth[9:, 20:23, 60] = True
    return (rate + AMPLITUDE * truth).astype(np.float32), truth


@pytest.fixture(scope="module")
def among_stars(images):
    return find(images[0], MJD, axes=None)


def test_stars_are_not_bad_and_hot_pixels_among_them_are(images, among_stars):
    bad, truth = flag_cube(among_stars), images[1]
    # Stars of 0.5 to 500 DN/s, 800 in all, noise of 0.15.
    assert (bad.any(axis=0) & ~truth.any(axis=0)).sum() <= 6
    # The bad looks of 100 hot pixels of ten sigma; a star on top hides a few of them.
    assert bad[truth].mean() > 0.98
    assert (bad & ~truth).sum() <= 0.03 * bad.sum()  # 2 % are allowed, Poisson aside


def test_clusters_are_no_stars(images, among_stars):
    bad = flag_cube(among_stars)
    for cluster in (np.s_[:, 70:72, 75:77], np.s_[:, 20:23, 60]):
        assert (bad[cluster] != images[1][cluster]).mean() <= 0.05


def test_stars_alone_are_not_bad(images):
    rate, truth = images
    assert flag_cube(find(rate - AMPLITUDE * truth, MJD, axes=None)).sum() == 0


def test_size_of_blocks_does_not_matter_among_stars(images, among_stars):
    assert_same(among_stars, find(images[0], MJD, axes=None, rows=21))


# ----------------------------------------------------------------------------------- decoys

VISITS = np.arange(N_LOOKS)
NO_IMAGE = np.empty(0, int)


@pytest.fixture(scope="module")
def sky():
    """A sky without defects: (rate, its residuals, noise)."""
    rng = np.random.default_rng(7)
    rate = rng.uniform(7, 14, (N_LOOKS, 1, 1)) * (1 + rng.normal(0, 0.01, SHAPE))
    rate = (rate + rng.normal(0, 0.05, SHAPE) + rng.normal(0, 0.3, rate.shape)).astype(np.float32)
    return rate, *measure(rate)


def count_decoys(found, noise, bad, **kwargs):
    decoys, n = make_decoys(found, bad, noise, VISITS, NO_IMAGE, **{"n_copies": 4} | kwargs)
    return decoys, n


def test_decoys_are_chosen_as_often_as_good_pixels(sky):
    rate, found, noise = sky
    chosen = select(rate, slice(0, SHAPE[0]), *CORNER, noise, AXES)[0].y.size
    decoys, n = count_decoys(found, noise, np.zeros(SHAPE, bool))
    assert n == 4 * rate[0].size
    expected = decoys.y.size / 4
    # Pixels of a plane share their neighbours; decoys do not know the last per cent of the tail.
    assert chosen == pytest.approx(expected, abs=4 * np.sqrt(chosen) + 0.3 * expected)
    assert np.bincount(decoys.y).size == 4


def test_defects_do_not_become_decoys(sky):
    """A hundred pixels that are bad in half of the looks: known, they make no decoy bad."""
    _, found, noise = sky
    bad = np.zeros(SHAPE, bool)
    bad[8:160:16, 8:160:16] = True
    residual = found.residual.copy()
    residual[10:, bad] += 30
    spoiled = type(found)(residual, found.local, found.spread)
    without, n = count_decoys(spoiled, noise, bad)
    assert n == 4 * (~bad).sum()
    with_them, _ = count_decoys(spoiled, noise, np.zeros(SHAPE, bool))
    clean, _ = count_decoys(found, noise, bad)
    assert with_them.y.size > without.y.size + 100
    assert without.y.size == pytest.approx(clean.y.size, abs=5 * np.sqrt(clean.y.size))


def test_decoys_follow_their_seed(sky):
    _, found, noise = sky
    one, two, other = (
        count_decoys(found, noise, np.zeros(SHAPE, bool), seed=seed)[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.residual, two.residual)
    assert not np.array_equal(one.residual[:, :10], other.residual[:, :10])
