"""Robust statistics against slow loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwst_tvbadpix.robust import compute_running_median, find_settled


def running_median_slowly(data, window, axis):
    """Median of the finite values of each window, cut at the edges; NaN below a third."""
    half, result = window // 2, np.full(data.shape, np.nan, data.dtype)
    moved, out = np.moveaxis(data, axis, -1), np.moveaxis(result, axis, -1)
    for index in np.ndindex(moved.shape):
        k = index[-1]
        part = moved[index[:-1]][max(0, k - half) : k + half + 1]
        part = part[np.isfinite(part)]
        if part.size >= max(1, window // 3):
            out[index] = np.median(part)
    return result


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(6, 20), st.integers(6, 20)),
    window=st.sampled_from([1, 3, 5, 9, 11]),
    axis=st.sampled_from([1, 2]),
    nan_share=st.sampled_from([0.0, 0.2, 0.7, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 1000),
)
def test_running_median_equals_a_loop(shape, window, axis, nan_share, dtype, seed):
    rng = np.random.default_rng(seed)
    data = rng.normal(10, 3, shape).astype(dtype)
    data[rng.uniform(size=shape) < nan_share] = np.nan
    before = data.copy()
    found = compute_running_median(data, window, axis=axis)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, running_median_slowly(data, window, axis), rtol=1e-6)
    np.testing.assert_array_equal(data, before)


def test_running_median_of_an_axis_shorter_than_half_the_window():
    """The window is cut at both ends, so it holds the whole axis everywhere."""
    data = np.array([[3.0, 1.0, 2.0, 9.0]])
    expected = running_median_slowly(data, 11, 1)
    np.testing.assert_allclose(compute_running_median(data, 11, axis=1), expected)


@pytest.mark.parametrize(
    ("level", "settled"),
    [
        pytest.param((16.7, 1.9, 1.9, 0.8, 1.0), (1, 2, 3, 4), id="first settles"),
        pytest.param((50.0, 16.7, 1.0, 1.01, 1.02, 0.99, 1.0), (2, 3, 4, 5, 6), id="two settle"),
        pytest.param((1.0,) * 5, (0, 1, 2, 3, 4), id="constant"),
        pytest.param((0.0,) * 4, (0, 1, 2, 3), id="zero"),
        pytest.param((1.0, 1.04, 0.97, 1.0), (0, 1, 2, 3), id="noise"),
        pytest.param((1.0, 1.0, 1.0, 9.0), (0, 1, 2, 3), id="only leading ones settle"),
        pytest.param((-9.0, 1.0, 1.0, 1.0), (1, 2, 3), id="from below"),
        pytest.param((1.0, np.nan, 1.0, 1.0), (0, 2, 3), id="empty within"),
        pytest.param((np.nan, 1.0, 1.0, 1.0), (1, 2, 3), id="empty first"),
        pytest.param((np.nan, 16.7, 1.0, 1.0, 1.0), (2, 3, 4), id="empty, then settling"),
        pytest.param((16.7, 1.0), (0, 1), id="two"),
        pytest.param((16.7,), (0,), id="one"),
        pytest.param((np.nan, 1.0), (1,), id="two, one empty"),
        pytest.param((np.nan,) * 4, (), id="all empty"),
        pytest.param((), (), id="none"),
    ],
)
def test_find_settled(level, settled):
    assert find_settled(np.array(level), np.full(len(level), 0.01)) == settled


def test_a_drift_within_the_scatter_of_pixels_is_settled():
    level = np.array([18.5, 2.7, 2.4, 1.4, 1.5])
    assert find_settled(level, np.full(5, 1.4)) == (1, 2, 3, 4)
    assert find_settled(level, np.full(5, 0.01)) == (3, 4)


@given(scale=st.sampled_from([0.125, 2.0, 1024.0]))
def test_find_settled_does_not_know_the_unit(scale):
    level = np.array([16.7, 1.9, 1.9, 0.8, 1.0])
    noise = np.full(5, 1.4)
    assert find_settled(level * scale, noise * scale) == find_settled(level, noise)


def test_find_settled_obeys_its_settings():
    level = np.array([1.5, 1.0, 1.0, 1.0, 1.0])
    quiet = np.full(5, 0.01)
    assert find_settled(level, quiet, tolerance=0.05) == (1, 2, 3, 4)
    assert find_settled(level, quiet, tolerance=0.2) == (0, 1, 2, 3, 4)
    assert find_settled(level, quiet, n_sigma=6) == (0, 1, 2, 3, 4)
