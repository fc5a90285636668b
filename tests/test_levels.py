"""Levels of the two states against the same sums written out, pixel by pixel."""

from dataclasses import fields, replace

import numpy as np
import pytest

from jwst_tvbadpix.badpix.histories import take_pixels
from jwst_tvbadpix.badpix.levels import (
    Looks,
    compare_states,
    compute_log_good,
    fit_levels,
    whiten_looks,
)

# More looks than are added up at once, and not a multiple.
N_LOOKS, N_PIXELS = 70, 12
CAP = np.full((N_LOOKS, 1), 10.0)


@pytest.fixture
def planes():
    """Residual, local and variance of pixels that turn bad, with gaps; and the odds to be bad."""
    rng = np.random.default_rng(3)
    shape = N_LOOKS, N_PIXELS
    local = rng.uniform(6, 14, shape)
    variance = rng.uniform(0.1, 0.3, shape)
    bad = np.clip((np.arange(N_LOOKS) > 40)[:, None] + rng.normal(0, 0.2, shape), 0, 1)
    residual = np.sqrt(variance) * rng.standard_t(3, shape) + np.geomspace(0.3, 300, N_PIXELS) * bad
    residual[rng.uniform(size=shape) < 0.1] = np.nan
    return residual, local, variance, bad


def make_looks(residual, local, variance, *, multiplicative=False) -> Looks:
    n = residual.shape[1]
    looks = whiten_looks(
        residual,
        local,
        variance,
        sigma_offset=np.full(n, 0.05),
        sigma_response=np.full(n, 0.01),
        minimum_shift=np.full(n, 0.4),
    )
    return replace(looks, shape=looks.local) if multiplicative else looks


def fit_dense(residual, local, variance, bad, multiplicative):
    """One pixel in full matrices, in DN/s: offset, response, amplitude, its error, ratio."""
    known = np.isfinite(residual)
    r, level, v, p = residual[known], local[known], variance[known], bad[known]
    shape = level if multiplicative else np.ones_like(level)
    good = np.stack([np.ones_like(level), level, np.zeros_like(level)], axis=1)
    shifted = good + np.array([0, 0, 1]) * shape[:, None]
    prior = np.diag([0.05**-2, 0.01**-2, 1e-10])
    x, ratio = None, 4.0
    for _ in range(2):
        spread = ratio * v if x is None else ratio * v + (0.07 * x[2] * shape) ** 2
        weight, weight_bad = (1 - p) / v, p / spread
        if x is not None:
            weight = weight / (1 + (r - good @ x) ** 2 / v / 9) ** 2
            weight_bad = weight_bad / (1 + (r - shifted @ x) ** 2 / spread / 9) ** 2
        matrix = good.T * weight @ good + shifted.T * weight_bad @ shifted + prior
        x = np.linalg.solve(matrix, good.T @ (weight * r) + shifted.T @ (weight_bad * r))
    chi2 = (r - shifted @ x) ** 2 / (v + (0.07 * x[2] * shape) ** 2 / ratio)
    return (*x, np.sqrt(np.linalg.inv(matrix)[2, 2]), max(1, (p * chi2).sum() / p.sum()))


@pytest.mark.parametrize("multiplicative", [False, True])
def test_levels_equal_the_dense_solution(planes, multiplicative):
    *data, bad = planes
    levels = fit_levels(make_looks(*data, multiplicative=multiplicative), bad)
    for k in range(N_PIXELS):
        expected = fit_dense(*(plane[:, k] for plane in planes), multiplicative)
        found = [getattr(levels, f.name)[k] for f in fields(levels)]
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("width", [2, 3, 5])
def test_bits_of_a_pixel_do_not_depend_on_the_others(planes, width):
    *data, bad = planes
    looks = make_looks(*data)
    first = fit_levels(looks, bad)
    whole = fit_levels(looks, bad, first)
    log_good = compute_log_good(looks, whole, CAP)
    for start in range(0, N_PIXELS - width + 1, width):
        own = slice(start, start + width)
        some = make_looks(*(np.ascontiguousarray(plane[:, own]) for plane in data))
        part = fit_levels(some, bad[:, own].copy(), take_pixels(first, own))
        for f in fields(part):
            np.testing.assert_array_equal(getattr(part, f.name), getattr(whole, f.name)[own])
        np.testing.assert_array_equal(compute_log_good(some, part, CAP), log_good[own])


def test_comparison_is_the_ratio_of_the_two_gaussians(planes):
    """Within the cap, for shifts and looks that count."""
    residual, local, variance, bad = planes
    looks = replace(make_looks(residual, local, variance), minimum_shift=np.zeros(N_PIXELS))
    levels = fit_levels(looks, bad)
    ratio = compare_states(looks, levels, CAP, 4.0)
    error = residual - levels.offset - levels.response * local
    spread = levels.variance_ratio * variance + (0.07 * levels.amplitude) ** 2
    good = error**2 / variance
    expected = 0.5 * (good - (error - levels.amplitude) ** 2 / spread - np.log(spread / variance))
    expected = np.clip(np.maximum(expected, 0.5 * (good - 4.5**2)), -10, 10)
    known = np.isfinite(residual)
    np.testing.assert_allclose(ratio[known], expected[known], rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(ratio[~known], 0)


def test_shift_that_is_too_small_counts_for_nothing(planes):
    *data, bad = planes
    looks = replace(make_looks(*data), minimum_shift=np.full(N_PIXELS, 1e6))
    ratio = compare_states(looks, fit_levels(looks, bad), CAP, 1e6)
    assert (ratio[looks.inverse > 0] == -10).all()
