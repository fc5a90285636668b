"""Residuals against the surroundings: point defects stand out, structure does not."""

import numpy as np
import pytest

from jwst_tvbadpix.badpix.residuals import compute_halo, compute_residuals

NY, NX = 48, 40
DEFECT = (24, 15)  # y, x; the traces below pass over it
Y, X = np.mgrid[:NY, :NX].astype(np.float32)
TRACE_ALONG_Y = 50 * np.exp(-0.5 * ((X - DEFECT[1]) / 1.5) ** 2) + 1
EDGE_ALONG_X = np.where(DEFECT[0] - 1 <= Y, np.float32(30), np.float32(2))


def noise(seed=1, n_looks=3, sigma=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(10, sigma, (n_looks, NY, NX)).astype(np.float32)


def compute(rate, *, axes=None, bad=None, **kwargs):
    axes = [2] * len(rate) if axes is None else axes
    bad = np.zeros(rate.shape[1:], bool) if bad is None else bad
    return compute_residuals(rate, bad, dispersion_axes=axes, **kwargs)


def assert_same(found, expected, part=np.s_[:]):
    for name in ("residual", "local", "spread"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name)[part])


@pytest.mark.parametrize("axis", [1, 2, None])
def test_point_defect_is_recovered_on_a_flat_field(axis):
    rate = np.full((1, NY, NX), 7, np.float32)
    rate[(0, *DEFECT)] += 5
    found = compute(rate, axes=[axis])
    expected = np.zeros((NY, NX))
    expected[DEFECT] = 5
    np.testing.assert_array_equal(found.residual[0], expected)
    np.testing.assert_array_equal(found.local[0], 7)
    assert not found.spread.any()


@pytest.mark.parametrize("scene", [TRACE_ALONG_Y, EDGE_ALONG_X], ids=["trace", "edge"])
@pytest.mark.parametrize("with_sigma", [False, True])
def test_structure_gives_none_and_a_defect_on_it_does(scene, with_sigma):
    rate = np.array([scene, scene])
    rate[(1, *DEFECT)] += 20
    sigma = np.full_like(rate, 0.1) if with_sigma else None
    found = compute(rate, sigma=sigma)
    # With a sigma, models that disagree by d add d/2 / (1 + (d/3 sigma)^4).
    limit = 0.15 if with_sigma else 1e-6
    assert np.abs(found.residual[0]).max() <= limit
    np.testing.assert_allclose(found.residual[(1, *DEFECT)], 20, atol=limit)


def test_dispersion_matters_for_structure_that_curves():
    """A line of rapidly changing flux needs the short window across, the long one along."""
    bump = 20 * np.exp(-0.5 * ((Y - 24) / 2.5) ** 2)
    rate = (bump + 0 * X)[None].astype(np.float32)
    wide = compute(rate, axes=[2], window_along=11, window_across=1)
    assert not wide.residual.any()
    wrong = compute(rate, axes=[1], window_along=1, window_across=11)
    assert not wrong.residual.any()
    assert compute(rate, axes=[2], window_along=11, window_across=9).spread.max() > 1


def test_a_clean_pixel_scatters_as_its_noise():
    """r = x - (m11 + m9) / 2, both medians with x among their values.

    cov(x, m) = 1/n and var(m) is near pi/2n, so var(r) is near 1 - 0.20 + 0.09.
    """
    rate = noise(seed=3, n_looks=20, sigma=2.0)
    found = compute(rate, sigma=np.full_like(rate, 2.0))
    inner = found.residual[:, 6:-6, 6:-6]
    assert abs(inner.mean()) < 5 * 2.0 / np.sqrt(inner.size)
    assert inner.std() / 2.0 == pytest.approx(0.94, abs=0.015)


def test_defect_in_noise_is_recovered():
    rate = noise(seed=4, n_looks=100)
    rate[(slice(None), *DEFECT)] += 8
    sigma = np.full_like(rate, 1.0)
    found = compute(rate, sigma=sigma).residual[(slice(None), *DEFECT)]
    # One look has a scatter of at most 1.06 sigma.
    assert found.mean() == pytest.approx(8, abs=5 * 1.06 / np.sqrt(100))


@pytest.mark.parametrize("axis", [1, 2, None])
@pytest.mark.parametrize("with_sigma", [False, True])
def test_equals_the_equations_pixel_by_pixel(axis, with_sigma):
    rate = noise(seed=5, n_looks=1)[:, :22, :20]
    rng = np.random.default_rng(6)
    rate[rng.uniform(size=rate.shape) < 0.3] = np.nan
    rate[0, :, 7] = np.nan
    rate[0, :, 8] = np.nan
    bad = rng.uniform(size=rate.shape[1:]) < 0.1
    sigma = rng.uniform(0.2, 2, rate.shape).astype(np.float32) if with_sigma else None
    found = compute(rate, axes=[axis], bad=bad, sigma=sigma)
    wy, wx = {2: (11, 9), 1: (9, 11), None: (11, 11)}[axis]
    image = rate[0].astype(float)
    used = np.where(bad, np.nan, image)
    for y, x in np.ndindex(image.shape):
        column = used[max(0, y - wy // 2) : y + wy // 2 + 1, x]
        row = used[y, max(0, x - wx // 2) : x + wx // 2 + 1]
        medians = [
            np.nanmedian(part) if np.isfinite(part).sum() >= width // 3 else np.nan
            for part, width in ((column, wy), (row, wx))
        ]
        models = [image[y, x] - m for m in medians if np.isfinite(m)]
        if not np.isfinite(image[y, x]) or not models:
            assert np.isnan(found.residual[0, y, x])
            continue
        small, large = sorted([models[0], models[-1]], key=abs)
        expected = small
        if with_sigma:
            ratio = abs(large - small) / (3 * sigma[0, y, x])
            expected += (large - small) / 2 / (1 + ratio**4)
        np.testing.assert_allclose(found.residual[0, y, x], expected, atol=3e-5)
        np.testing.assert_allclose(found.local[0, y, x], image[y, x] - expected, atol=3e-5)
        np.testing.assert_allclose(found.spread[0, y, x], abs(large - small), atol=3e-5)


def test_nan_never_becomes_evidence():
    rate = noise(n_looks=2)
    gaps = np.random.default_rng(8).uniform(size=rate.shape) < 0.4
    gaps[1, :, :20] = True
    rate[gaps] = np.nan
    found = compute(rate, sigma=np.ones_like(rate))
    assert np.isnan(found.residual[gaps]).all()
    assert np.isnan(found.local[gaps]).all()
    assert np.isfinite(found.residual[0][~gaps[0]]).mean() > 0.95


def test_a_pixel_without_neighbours_is_no_evidence():
    rate = np.full((1, NY, NX), np.nan, np.float32)
    rate[(0, *DEFECT)] = 100
    assert np.isnan(compute(rate).residual).all()


def test_excluded_pixels_do_not_touch_their_neighbours():
    rate = noise()
    bad = np.zeros((NY, NX), bool)
    bad[10:13, 12:20] = True
    sigma = np.full_like(rate, 1e6)  # the mean of both models, everywhere
    quiet = compute(rate, bad=bad, sigma=sigma)
    rate[:, bad] += 1000
    loud = compute(rate, bad=bad, sigma=sigma)
    np.testing.assert_array_equal(loud.residual[:, ~bad], quiet.residual[:, ~bad])
    np.testing.assert_allclose(loud.residual[:, bad], quiet.residual[:, bad] + 1000, atol=1e-3)


@pytest.mark.parametrize(("along", "across"), [(11, 9), (5, 13)])
def test_row_blocks_with_halo_give_the_same_bits(along, across):
    """Two passes: whom the first finds is left out of the second."""
    rate = noise(seed=9)
    rng = np.random.default_rng(10)
    rate[:, rng.uniform(size=(NY, NX)) < 0.1] += 9
    windows = {"window_along": along, "window_across": across}

    def find(part):
        first = compute(part, **windows)
        outcast = np.abs(first.residual).max(axis=0) > 3
        return compute(part, bad=outcast, sigma=np.ones_like(part), **windows)

    whole, halo = find(rate), compute_halo(along, across)
    for start in range(0, NY, 7):
        stop = min(NY, start + 7)
        first, last = max(0, start - halo), min(NY, stop + halo)
        part = find(rate[:, first:last])
        for name in ("residual", "local", "spread"):
            np.testing.assert_array_equal(
                getattr(part, name)[:, start - first : stop - first],
                getattr(whole, name)[:, start:stop],
            )


@pytest.mark.parametrize("with_sigma", [False, True])
def test_scaling_rate_and_sigma_scales_the_residual(with_sigma):
    rate = noise()
    rate[0, 5:9, 4] = np.nan
    sigma = np.full_like(rate, 0.7) if with_sigma else None
    one = compute(rate, sigma=sigma)
    two = compute(2 * rate, sigma=2 * sigma if with_sigma else None)
    for name in ("residual", "local", "spread"):
        np.testing.assert_array_equal(getattr(two, name), 2 * getattr(one, name))


@pytest.mark.parametrize(("axis", "swapped"), [(1, 2), (2, 1), (None, None)])
def test_transposing_frame_and_dispersion_transposes_the_result(axis, swapped):
    rate, bad = noise(), np.zeros((NY, NX), bool)
    rate[0, 5:9, 4] = np.nan
    bad[20:22, 8:11] = True
    sigma = np.random.default_rng(2).uniform(0.5, 2, rate.shape).astype(np.float32)
    one = compute(rate, axes=[axis] * 3, bad=bad, sigma=sigma)
    turn = (0, 2, 1)
    two = compute(
        np.ascontiguousarray(rate.transpose(turn)),
        axes=[swapped] * 3,
        bad=np.ascontiguousarray(bad.T),
        sigma=np.ascontiguousarray(sigma.transpose(turn)),
    )
    for name in ("residual", "local", "spread"):
        np.testing.assert_array_equal(getattr(two, name), getattr(one, name).transpose(turn))


def test_looks_do_not_mix_whatever_their_dispersion():
    rate, axes = noise(n_looks=5), [2, None, 1, None, 2]
    together = compute(rate, axes=axes)
    for k, axis in enumerate(axes):
        assert_same(compute(rate[k : k + 1], axes=[axis]), together, np.s_[k : k + 1])
    assert not np.array_equal(together.residual, compute(rate, axes=[2] * 5).residual)


def test_inputs_are_not_edited():
    rate, bad, sigma = noise(), np.zeros((NY, NX), bool), np.ones((3, NY, NX), np.float32)
    for array in (rate, bad, sigma):
        array.flags.writeable = False
    compute(rate, axes=[2, None, 1], bad=bad, sigma=sigma)
