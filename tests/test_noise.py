"""Noise of each look, fixed pattern, and the relation of a pixel to the background."""

from dataclasses import replace

import numpy as np
import pytest

from jwst_tvbadpix.badpix.noise import NoiseModel, compute_variance, fit_noise
from jwst_tvbadpix.badpix.regression import fit_background
from jwst_tvbadpix.badpix.residuals import LocalResiduals
from jwst_tvbadpix.errors import EvidenceError

SIGMA_OFFSET, SIGMA_RESPONSE = 0.05, 0.02
# Neither is the value that fit_noise starts from.
PATTERN = (0.08, 0.015)
N_LOOKS = 20


def draw(n_looks, *, shape=(60, 100), sigma=0.1, widths=(SIGMA_OFFSET, SIGMA_RESPONSE), seed=1):
    """Residuals of clean pixels over a sky that changes from look to look."""
    rng = np.random.default_rng(seed)
    offset, response = (rng.normal(0, width, shape) for width in widths)
    local = np.repeat(rng.uniform(5, 15, (n_looks, 1)), np.prod(shape), axis=1)
    local = local.reshape(n_looks, *shape)
    sigma = np.broadcast_to(np.asarray(sigma), local.shape)
    residual = offset + response * local + sigma * rng.normal(size=local.shape)
    return offset, response, residual, local, sigma**2


# -------------------------------------------------------------------------- fit_background


def solve_with_prior_rows(residual, local, variance, sigma_offset, sigma_response):
    """Least squares of one pixel, each prior a row of its own."""
    ok = np.isfinite(residual)
    root = 1 / np.sqrt(variance[ok])
    design = np.vstack(
        [
            np.column_stack([root, root * local[ok]]),
            [1 / sigma_offset, 0],
            [0, 1 / sigma_response],
        ]
    )
    target = np.concatenate([root * residual[ok], [0, 0]])
    return design, target, np.linalg.lstsq(design, target)[0]


def test_one_iteration_equals_least_squares_with_prior_rows():
    rng = np.random.default_rng(3)
    _, _, residual, local, _ = draw(7, shape=(5, 6))
    local = local * rng.uniform(0.5, 2, local.shape)
    variance = rng.uniform(0.005, 0.02, residual.shape)
    residual[rng.uniform(size=residual.shape) < 0.3] = np.nan
    residual[:, 0, 0] = np.nan
    sigma_offset, sigma_response = rng.uniform(0.01, 1, (2, 5, 6))
    fit = fit_background(
        residual,
        np.where(np.isfinite(residual), local, np.nan),
        variance,
        sigma_offset=sigma_offset,
        sigma_response=sigma_response,
        n_iterations=1,
    )
    for y, x in np.ndindex(5, 6):
        design, target, solution = solve_with_prior_rows(
            residual[:, y, x],
            local[:, y, x],
            variance[:, y, x],
            sigma_offset[y, x],
            sigma_response[y, x],
        )
        np.testing.assert_allclose(
            [fit.offset[y, x], fit.response[y, x]], solution, rtol=1e-8, atol=1e-12
        )
        hat = design @ np.linalg.inv(design.T @ design) @ design.T
        left = target - design @ solution
        expected = left[:-2] / np.sqrt(np.maximum(1 - np.diag(hat)[:-2], 0.05))
        ok = np.isfinite(residual[:, y, x])
        np.testing.assert_allclose(fit.standardised[ok, y, x], expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(fit.standardised[~ok, y, x], 0)


def test_offset_and_response_are_recovered_within_their_errors():
    n_looks, sigma = 30, 0.1
    offset, response, residual, local, variance = draw(n_looks, sigma=sigma, widths=(3, 0.5))
    fit = fit_background(
        residual.astype(np.float32),
        local.astype(np.float32),
        variance.astype(np.float32),
        sigma_offset=100.0,
        sigma_response=100.0,
    )
    design = np.column_stack([np.ones(n_looks), local[:, 0, 0]])
    error = sigma * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    for found, true, one in zip((fit.offset, fit.response), (offset, response), error, strict=True):
        pull = (found - true) / one
        assert abs(pull.mean()) < 5 / np.sqrt(pull.size)
        # The weights cost a few per cent of the precision of plain least squares.
        assert 0.98 < pull.std() < 1.12


def test_prior_shrinks_towards_zero():
    """One look cannot tell offset from response: the wider prior takes the more of it."""
    one = np.ones((1, 1, 1))
    fit = fit_background(one, 2 * one, 0.01 * one, sigma_offset=1.0, sigma_response=0.1)
    # The look is as good as any, which weighs more than the mean of a Gaussian, 0.845.
    total = 1.0**2 + (0.1 * 2) ** 2 + 0.845 * 0.01
    assert fit.offset[0, 0] == pytest.approx(1 / total, rel=1e-3)
    assert fit.response[0, 0] == pytest.approx(0.1**2 * 2 / total, rel=1e-3)


@pytest.mark.parametrize("n_looks", [3, 5, 40])
@pytest.mark.parametrize("seed", [1, 2])
def test_standardised_residuals_have_unit_scatter(n_looks, seed):
    sigma = 0.1 * np.random.default_rng(seed).uniform(0.7, 1.4, (n_looks, 1, 1))
    _, _, residual, local, variance = draw(n_looks, sigma=sigma, seed=seed)
    fit = fit_background(
        residual, local, variance, sigma_offset=SIGMA_OFFSET, sigma_response=SIGMA_RESPONSE
    )
    z = fit.standardised
    # Looks of one pixel share a fit, pixels do not: 6000 are independent.
    assert z.mean() == pytest.approx(0, abs=5 / np.sqrt(6000 * (n_looks - 2)))
    assert z.std() == pytest.approx(1, abs=0.03)
    # The weights follow the noise: with few looks the core is a little too narrow.
    assert np.quantile(np.abs(z), 0.6827) == pytest.approx(1, abs=0.1 if n_looks == 3 else 0.05)


def test_three_looks_without_a_prior_never_look_too_noisy():
    _, _, residual, local, variance = draw(3)
    fit = fit_background(residual, local, variance, sigma_offset=10.0, sigma_response=10.0)
    assert 0.5 < fit.standardised.std() < 1.03


def test_one_wild_value_loses_its_weight():
    n_looks, sigma = 12, 0.1
    _, _, residual, local, variance = draw(n_looks, sigma=sigma)
    widths = {"sigma_offset": SIGMA_OFFSET, "sigma_response": SIGMA_RESPONSE}
    clean = fit_background(residual, local, variance, **widths)
    wild = residual.copy()
    wild[4] += 100 * sigma
    robust = fit_background(wild, local, variance, **widths)
    plain = fit_background(wild, local, variance, **widths, n_iterations=1)
    level = local.mean()

    def shift(fit):
        return np.abs(fit.offset + fit.response * level - clean.offset - clean.response * level)

    # The level has an error of sigma / sqrt(12) = 0.03 anyway; without one look, 0.01 more.
    assert np.median(shift(robust)) < 0.02
    assert np.median(shift(plain)) > 0.3
    assert np.median(robust.standardised[4]) > 80


def test_scaling_all_rates_scales_the_offset_only():
    _, _, residual, local, variance = draw(6, shape=(8, 9))
    one = fit_background(residual, local, variance, sigma_offset=0.05, sigma_response=0.02)
    two = fit_background(
        2 * residual, 2 * local, 4 * variance, sigma_offset=0.1, sigma_response=0.02
    )
    np.testing.assert_array_equal(two.offset, 2 * one.offset)
    np.testing.assert_array_equal(two.response, one.response)
    np.testing.assert_array_equal(two.standardised, one.standardised)


def test_looks_without_evidence_change_nothing():
    _, _, residual, local, variance = draw(6, shape=(8, 9))
    widths = {"sigma_offset": SIGMA_OFFSET, "sigma_response": SIGMA_RESPONSE}
    part = fit_background(residual[:5], local[:5], variance[:5], **widths)
    residual[5] = local[5] = variance[5] = np.nan
    before = residual.copy()
    whole = fit_background(residual, local, variance, **widths)
    np.testing.assert_allclose(whole.offset, part.offset, rtol=1e-12)
    np.testing.assert_allclose(whole.standardised[:5], part.standardised, rtol=1e-9, atol=1e-12)
    assert not whole.standardised[5].any()
    np.testing.assert_array_equal(residual, before)


# ------------------------------------------------------------------------------- fit_noise


@pytest.fixture(scope="module")
def sample():
    """Twenty looks: (residuals, scale of the noise of each look)."""
    scale = np.random.default_rng(5).uniform(0.05, 0.1, N_LOOKS)
    return draw_sky(scale, widths=PATTERN), scale


def draw_sky(scale, *, widths):
    """Looks of a sky with a gradient, faint on one side, where only the offset shows."""
    rng = np.random.default_rng(12)
    shape = (128, 256)
    sky = np.linspace(0, 1, shape[1]) ** 2 * 30 + np.zeros(shape)
    local = (rng.uniform(0.6, 1.5, scale.size)[:, None, None] * sky).astype(np.float32)
    residual = rng.normal(0, widths[0], shape) + rng.normal(0, widths[1], shape) * local
    residual += noise_at(scale[:, None, None], local) * rng.normal(size=local.shape)
    return LocalResiduals(residual.astype(np.float32), local, np.zeros_like(local))


def noise_at(scale, level):
    """Read noise and photon noise of a look."""
    return scale * np.sqrt(1 + level / 5)


def test_noise_of_each_look_is_recovered(sample):
    residuals, scale = sample
    noise = fit_noise(residuals)
    assert noise.level.shape == noise.sigma.shape == (N_LOOKS, 24)
    assert (np.diff(noise.level, axis=1) > 0).all()
    ratio = noise.sigma / noise_at(scale[:, None], noise.level)
    # A bin holds 1365 pixels: its 80 % quantile is good to 2.4 %, the mean of 24 bins to 0.5 %.
    np.testing.assert_allclose(ratio.mean(axis=1), 1, atol=0.035)
    assert np.abs(ratio - 1).max() < 0.17
    np.testing.assert_array_equal(noise.n_used, residuals.residual[0].size)


def test_widths_of_the_pattern_are_recovered(sample):
    noise = fit_noise(sample[0])
    assert noise.sigma_offset == pytest.approx(PATTERN[0], rel=0.07)
    assert noise.sigma_response == pytest.approx(PATTERN[1], rel=0.06)


@pytest.mark.parametrize(
    ("n_looks", "widths"),
    [(5, (0.1, 0.01)), (5, (0.05, 0.01)), (20, (0.05, 0.01)), (20, (0.02, 0.004))],
)
def test_widths_as_small_as_the_errors_are_recovered(n_looks, widths):
    """Errors of 0.45 to 1.1 of the offsets' width: 32768 pixels tell them, however few looks.

    It is the wider side of each: rather too wide than too narrow.
    """
    noise = fit_noise(draw_sky(np.full(n_looks, 0.1), widths=widths))
    assert 0.93 < noise.sigma_offset / widths[0] < 1.15
    assert 0.93 < noise.sigma_response / widths[1] < 1.15


def test_passes_do_not_carry_the_widths_away():
    """A width that its own prior pulls down would fall with each pass."""
    residuals = draw_sky(np.full(5, 0.1), widths=(0.05, 0.01))
    few, many = (fit_noise(residuals, n_iterations=n) for n in (3, 12))
    assert many.sigma_offset == pytest.approx(few.sigma_offset, rel=0.02)
    assert many.sigma_response == pytest.approx(few.sigma_response, rel=0.02)


def test_widths_are_those_of_a_sky_that_is_never_faint():
    """Between levels of 8 and 14 both widths show together: their sum at each level is right."""
    rng = np.random.default_rng(6)
    shape = (128, 256)
    sky = np.linspace(8, 14, shape[1]) + np.zeros(shape)
    local = (rng.uniform(0.7, 1.3, (N_LOOKS, 1, 1)) * sky).astype(np.float32)
    residual = rng.normal(0, 0.05, shape) + rng.normal(0, 0.01, shape) * local
    residual = (residual + rng.normal(0, 0.3, local.shape)).astype(np.float32)
    noise = fit_noise(LocalResiduals(residual, local, np.zeros_like(local)))
    level = np.array([8.0, 11.0, 14.0])
    np.testing.assert_allclose(
        np.sqrt(noise.pattern(level)), np.hypot(0.05, 0.01 * level), rtol=0.1
    )


def test_few_defects_do_not_change_the_noise(sample):
    residuals, _ = sample
    clean = fit_noise(residuals)
    rng = np.random.default_rng(4)
    residual = residuals.residual.copy()
    residual[:, rng.uniform(size=residual.shape[1:]) < 0.01] += 50
    residual[rng.uniform(size=residual.shape) < 0.002] += 500
    noise = fit_noise(LocalResiduals(residual, residuals.local, residuals.spread))
    np.testing.assert_allclose((noise.sigma / clean.sigma).mean(axis=1), 1, atol=0.05)
    assert noise.sigma_response == pytest.approx(clean.sigma_response, rel=0.2)


def test_noise_scales_with_the_rates(sample):
    residuals, _ = sample
    part = LocalResiduals(
        *(p[:, :32] for p in (residuals.residual, residuals.local, residuals.spread))
    )
    one = fit_noise(part)
    two = fit_noise(LocalResiduals(2 * part.residual, 2 * part.local, 2 * part.spread))
    np.testing.assert_allclose(two.level, 2 * one.level, rtol=1e-6)
    np.testing.assert_allclose((two.sigma / one.sigma).mean(axis=1), 2, rtol=0.06)
    # The start values do not scale, and two passes do not quite forget them.
    assert two.sigma_offset == pytest.approx(2 * one.sigma_offset, rel=0.2)
    assert two.sigma_response == pytest.approx(one.sigma_response, rel=0.05)


def test_order_of_the_looks_does_not_matter(sample):
    residuals, _ = sample
    order = np.random.default_rng(1).permutation(N_LOOKS)
    one = fit_noise(residuals)
    two = fit_noise(
        LocalResiduals(residuals.residual[order], residuals.local[order], residuals.spread[order])
    )
    np.testing.assert_allclose(two.sigma, one.sigma[order], rtol=1e-5)
    assert two.sigma_offset == pytest.approx(one.sigma_offset, rel=1e-5)


def test_a_look_without_evidence_is_counted_as_such(sample):
    residuals, scale = sample
    planes = [p[:, :32].copy() for p in (residuals.residual, residuals.local, residuals.spread)]
    for plane in planes:
        plane[3] = np.nan
    noise = fit_noise(LocalResiduals(*planes))
    assert noise.n_used[3] == 0
    assert (np.delete(noise.n_used, 3) == 32 * 256).all()
    assert np.isfinite(noise.sigma).all()
    others = np.arange(N_LOOKS) != 3
    ratio = noise.sigma[others] / noise_at(scale[others, None], noise.level[others])
    np.testing.assert_allclose(ratio.mean(axis=1), 1, atol=0.06)


def test_no_evidence_at_all_is_named():
    empty = np.full((3, 10, 20), np.nan, np.float32)
    with pytest.raises(EvidenceError, match=r"expected pixels .* found none .*; give"):
        fit_noise(LocalResiduals(empty, empty, empty))


# ------------------------------------------------------------------------ compute_variance

MODEL = NoiseModel(
    level=np.array([[0.0, 10.0], [0.0, 10.0]]),
    sigma=np.array([[1.0, 3.0], [0.0, 0.0]]),
    sigma_offset=0.3,
    sigma_response=0.1,
    n_used=np.array([5, 5]),
)


def test_variance_follows_the_level():
    local = np.array([[[-5.0, 0.0, 2.5, 10.0, 90.0]]] * 2, np.float32)
    found = compute_variance(MODEL, local)
    assert found.dtype == np.float32
    # Photon noise: the variance is linear in the level.
    np.testing.assert_allclose(found[0, 0], [1, 1, 3, 9, 9], rtol=5e-4)
    # Never zero: something divides by it.
    assert (found[1] > 0).all()
    np.testing.assert_array_less(found[1], 1e-6)


@pytest.mark.parametrize("n_bins", [1, 2, 24])
def test_variance_is_looked_up_as_finely_as_it_is_known(n_bins):
    """The grid against the table itself; sky that is faint beside the brightest level."""
    level = np.geomspace(0.5, 500, n_bins)
    sigma = np.sqrt(0.01 + level / 2000)
    noise = replace(MODEL, level=level[None], sigma=sigma[None], n_used=np.array([1]))
    local = np.random.default_rng(0).uniform(-5, 600, (1, 40, 50)).astype(np.float32)
    local[0, 0, :3] = np.nan, np.inf, -np.inf
    found = compute_variance(noise, local)
    wanted = np.interp(local, level, sigma**2)
    assert np.isnan(found[0, 0, 0])
    np.testing.assert_allclose(found.flat[1:], wanted.flat[1:], rtol=5e-3)


def test_only_spread_beyond_the_usual_adds_variance():
    local = np.full((2, 1, 4), 2.5, np.float32)
    pattern = 0.3**2 + (0.1 * 2.5) ** 2
    usual = 3 * np.sqrt(3 + pattern)
    excess = np.array([-usual, -1e-3, 1.0, 7.0])
    spread = np.broadcast_to(usual + excess, local.shape).astype(np.float32)
    found = compute_variance(MODEL, local, spread)[0, 0]
    np.testing.assert_allclose(found, 3 + np.maximum(excess, 0) ** 2, rtol=5e-4)
    wide = compute_variance(MODEL, local, spread, 1.0)[0, 0]
    np.testing.assert_allclose(wide, 3 + np.maximum(excess - 1, 0) ** 2, rtol=5e-4)
    np.testing.assert_allclose(MODEL.pattern(local[0]), pattern, rtol=1e-6)
