"""The star flat: what it recovers, how sure it is, what it says it cannot know."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import StarObservations, make_basis, solve_star_flat

NX, NY = 120, 160
FIELD = np.zeros((NY + 10, NX + 20), bool)
FIELD[:NY, 20:] = True
ERR = 0.005
COLUMNS = ("exposure", "star", "x", "y", "flux", "flux_err")
LFLAT_CASE = Path(__file__).parents[2] / "shared/bench/flat/lflat_case.py"


def draw(
    seed,
    *,
    order=2,
    rms=0.01,
    n_exposures=12,
    n_stars=300,
    rolls_deg=(0.0,),
    zero_point_scatter=0.003,
    reach=60.0,
    outliers=0.0,
    relative_err=ERR,
    centre=(0.0, 0.0),
    truth=None,
):
    """Observations of a dithered field and the coefficients that they were made with."""
    rng = np.random.default_rng(seed)
    basis = make_basis(FIELD, order)
    if truth is None:
        truth = rng.normal(0, rms / np.sqrt(basis.n_modes), basis.n_modes)
    sky = rng.uniform(-200, 200, (n_stars, 2)) + centre
    flux = 10 ** rng.uniform(2, 3, n_stars)
    zero_point = rng.normal(0, zero_point_scatter, n_exposures)
    rows = []
    for j in range(n_exposures):
        angle = np.deg2rad(rolls_deg[j * len(rolls_deg) // n_exposures])
        dx, dy = (sky - centre - rng.uniform(-reach, reach, 2)).T
        x = NX / 2 + 20 + np.cos(angle) * dx + np.sin(angle) * dy
        y = NY / 2 + np.cos(angle) * dy - np.sin(angle) * dx
        k = np.flatnonzero(basis.contains(x, y))
        expected = flux[k] * np.exp(basis.evaluate(x[k], y[k]) @ truth + zero_point[j])
        measured = expected * (1 + relative_err * rng.normal(size=len(k)))
        hit = rng.uniform(size=len(k)) < outliers
        measured[hit] *= 1 + rng.normal(0, 0.3, hit.sum())
        rows.append([np.full(len(k), j), k, x[k], y[k], measured, relative_err * expected])
    return as_observations(np.hstack(rows)), truth, zero_point


def as_observations(columns):
    return StarObservations(columns[0].astype(int), columns[1].astype(int), *columns[2:])


def as_columns(observations):
    return np.array([getattr(observations, name) for name in COLUMNS], float)


def solve_dense(observations, basis, zero_point_scatter, *, prior=1.0):
    """Least squares with one row per measurement and per prior, and every unknown explicit."""
    o = observations
    star = np.unique(o.star, return_inverse=True)[1]
    exposure = np.unique(o.exposure, return_inverse=True)[1]
    n_stars, n_exposures = star.max() + 1, exposure.max() + 1
    columns = [basis.evaluate(o.x, o.y), np.eye(n_exposures)[exposure], np.eye(n_stars)[star]]
    root = (o.flux / o.flux_err)[:, None]
    widths = np.concatenate(
        [np.full(basis.n_modes, prior), np.full(n_exposures, zero_point_scatter)]
    )
    design = np.vstack(
        [np.hstack(columns) * root, np.eye(len(widths), len(widths) + n_stars) / widths[:, None]]
    )
    target = np.concatenate([np.log(o.flux) * root[:, 0], np.zeros(len(widths))])
    covariance = np.linalg.inv(design.T @ design)
    return np.linalg.lstsq(design, target)[0], covariance


# --------------------------------------------------------------------------------------- basis


@pytest.mark.parametrize("shape", ["box", "ell", "disc"])
def test_the_modes_are_orthonormal_over_the_field(shape):
    field = np.zeros((90, 110), bool)
    field[5:80, 10:100] = True
    y, x = np.mgrid[:90, :110]
    if shape == "ell":
        field[40:, 50:] = False
    if shape == "disc":
        field = np.hypot(x - 50, y - 45) < 40
    basis = make_basis(field, 7)
    modes = basis.evaluate(x[field], y[field])
    gram = modes.T @ modes / field.sum()
    np.testing.assert_allclose(gram, np.eye(35), atol=1e-7)
    np.testing.assert_allclose(modes.mean(axis=0), 0, atol=1e-7)
    lower = basis.truncate(3)
    np.testing.assert_allclose(lower.evaluate(x[field], y[field]), modes[:, :9])
    np.testing.assert_array_equal(lower.degree, [1, 1, 2, 2, 2, 3, 3, 3, 3])
    coefficients = np.arange(1.0, 10)
    image = lower.render(coefficients)
    np.testing.assert_allclose(image[field], modes[:, :9] @ coefficients, rtol=1e-9, atol=1e-9)
    assert np.isnan(image[~field]).all()
    root = np.random.default_rng(2).normal(size=(9, 9))
    expected = np.sqrt(np.sum((modes[:, :9] @ root) ** 2, axis=1))
    np.testing.assert_allclose(lower.render_sigma(root @ root.T)[field], expected, rtol=1e-6)


def test_a_field_too_small_for_the_order_is_an_error():
    with pytest.raises(EvidenceError, match="at least 5 pixels each way"):
        make_basis(np.ones((3, 40), bool), 4)
    with pytest.raises(EvidenceError, match="tells all modes of order 4 apart"):
        make_basis(np.eye(40, dtype=bool), 4)
    with pytest.raises(EvidenceError, match="found 0 x 0"):
        make_basis(np.zeros((30, 40), bool), 2)


# --------------------------------------------------------------------------------------- solver


def test_it_equals_dense_least_squares_with_every_unknown_explicit():
    """Small noise: logarithm and Gauss-Newton step then differ by less than is asked."""
    observations, _, _ = draw(1, n_stars=120, relative_err=1e-4, rolls_deg=(0, 90))
    flat = solve_star_flat(observations, FIELD, order=2, zero_point_scatter=0.002)
    assert flat.choice.order == 2
    used = np.isin(observations.star, flat.star_id)
    kept = as_observations(as_columns(observations)[:, used])
    solution, covariance = solve_dense(kept, flat.basis, 0.002)
    n = flat.basis.n_modes
    scale = np.sqrt(np.diag(covariance))
    assert np.all(np.abs(flat.coefficients - solution[:n]) < 0.3 * scale[:n])
    np.testing.assert_allclose(flat.covariance, covariance[:n, :n], rtol=0.15, atol=1e-10)
    m = n + len(flat.exposure_id)
    np.testing.assert_allclose(flat.zero_point, solution[n:m], atol=0.3 * scale[n:m].max())
    np.testing.assert_allclose(flat.star_ln_flux, solution[m:], atol=2e-4)


def test_errors_are_those_of_the_noise_over_many_draws():
    chi2, freedom, scatter, noise = 0.0, 0, [], []
    for seed in range(30):
        observations, truth, _ = draw(seed, rolls_deg=(0, 70, 150), outliers=0.02)
        flat = solve_star_flat(observations, FIELD, order=2)
        error = flat.coefficients[: len(truth)] - truth
        chi2 += error @ np.linalg.solve(flat.covariance, error)
        freedom += len(truth)
        scatter.append(flat.zero_point_scatter)
        noise.append(flat.noise.scale)
    assert np.mean(noise) == pytest.approx(1, abs=0.05)
    assert abs(chi2 / freedom - 1) < 4 * np.sqrt(2 / freedom)
    assert np.mean(scatter) == pytest.approx(0.003, rel=0.2)


def test_errors_hold_where_few_stars_are_seen_few_times():
    """Errors of very different size over a floor, which few residuals tell badly."""
    chi2 = []
    for seed in range(100):
        rng = np.random.default_rng([seed, 5])
        observations, truth, _ = draw(
            seed, rolls_deg=(0, 90), n_exposures=6, relative_err=1e-5, n_stars=110
        )
        columns = as_columns(observations)
        relative = 10 ** rng.uniform(-3.3, -1.3, 110)[columns[1].astype(int)]
        columns[4] *= 1 + np.hypot(relative, 0.004) * rng.normal(size=columns.shape[1])
        columns[5] = relative * columns[4]
        flat = solve_star_flat(as_observations(columns), FIELD, order=2, zero_point_scatter=0.003)
        error = flat.coefficients - truth
        chi2.append(error @ np.linalg.solve(flat.covariance, error) / len(truth))
    # About 80 measurements. Noise told by these alone makes it 1.6, with 8 draws above 4.
    assert 0.8 < np.mean(chi2) < 1.4
    assert np.sum(np.array(chi2) > 4) < 5


def test_the_order_is_found_and_is_told():
    for order in (1, 2, 3, 4):
        observations, truth, _ = draw(order, order=order, rms=0.03, n_exposures=20)
        flat = solve_star_flat(observations, FIELD)
        # A plane alone is never chosen: curvature would leak into it unseen.
        assert flat.order == flat.choice.order == max(order, 2)
        assert flat.choice.orders[0] == 2
        assert np.all(flat.choice.loss >= 0)
        beyond = flat.basis.degree > 1
        error = (flat.coefficients - np.pad(truth, (0, len(beyond) - len(truth))))[beyond]
        assert np.all(np.abs(error) < 5 * np.sqrt(np.diag(flat.covariance))[beyond])


def test_structure_above_the_given_order_does_not_leak_into_it():
    observations, truth, _ = draw(4, order=5, rms=0.05, n_exposures=30, rolls_deg=(0, 90))
    flat = solve_star_flat(observations, FIELD, order=2)
    assert flat.order == 2
    assert flat.choice.order == 5
    error = flat.coefficients - truth[:5]
    assert np.all(np.abs(error) < 4.5 * np.sqrt(np.diag(flat.covariance)))
    leaking = solve_star_flat(observations, FIELD, order=2, max_order=2)
    assert leaking.choice.order == 2
    assert np.linalg.norm(leaking.coefficients - truth[:5]) > 3 * np.linalg.norm(error)


def test_scaling_shifting_and_shuffling_change_nothing():
    observations, _, _ = draw(7, outliers=0.01)
    flat = solve_star_flat(observations, FIELD, order=3)
    columns = as_columns(observations)
    shuffled = columns[:, np.random.default_rng(1).permutation(columns.shape[1])]
    same = solve_star_flat(as_observations(shuffled), FIELD, order=3)
    np.testing.assert_array_equal(same.coefficients, flat.coefficients)
    np.testing.assert_array_equal(same.covariance, flat.covariance)
    columns[4:] *= 1000
    columns[0], columns[1] = columns[0] * 7 + 100, columns[1] * 3 - 50
    scaled = solve_star_flat(as_observations(columns), FIELD, order=3)
    np.testing.assert_allclose(scaled.coefficients, flat.coefficients, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(scaled.star_ln_flux, flat.star_ln_flux + np.log(1000), rtol=1e-6)
    np.testing.assert_array_equal(scaled.exposure_id, flat.exposure_id * 7 + 100)


def test_one_bad_exposure_and_variable_stars_do_little_harm():
    observations, truth, _ = draw(9, rolls_deg=(0, 90), n_exposures=16, n_stars=900)
    columns = as_columns(observations)
    columns[4, columns[0] == 3] *= 0.8
    rng = np.random.default_rng(2)
    variable = np.isin(columns[1], np.arange(0, 900, 15))
    columns[4, variable] *= 1 + rng.normal(0, 0.03, variable.sum())
    flat = solve_star_flat(as_observations(columns), FIELD, order=2)
    assert flat.zero_point[3] - np.median(flat.zero_point) == pytest.approx(np.log(0.8), abs=0.01)
    error = flat.coefficients - truth
    assert np.all(np.abs(error) < 4.5 * np.sqrt(np.diag(flat.covariance)))
    found = set(flat.star_id[flat.star_excess > 1])
    often = np.flatnonzero(np.bincount(observations.star, minlength=900) >= 6)
    assert len(found) >= 0.7 * len(set(often) & set(range(0, 900, 15))) > 5
    assert len(found - set(range(0, 900, 15))) <= 1


def find_odd(seed, rolls_deg, factors, n_exposures=10):
    """Departures that are told where some exposures have another sensitivity."""
    observations, _, _ = draw(seed, rolls_deg=rolls_deg, n_exposures=n_exposures)
    columns = as_columns(observations)
    for exposure, factor in factors.items():
        columns[4:6, columns[0] == exposure] *= factor
    flat = solve_star_flat(as_observations(columns), FIELD, order=2)
    return {odd.exposure_id: odd.departure for odd in flat.odd_zero_points}


@pytest.mark.parametrize("rolls_deg", [(0,), (0, 90)])
@pytest.mark.parametrize("factors", [{3: 0.95}, {3: 1.3}, {1: 0.7, 3: 1.2}])
def test_exposures_of_another_sensitivity_are_told(rolls_deg, factors):
    """With one roll they tilt the flat, and all zero points with it."""
    for seed in range(4):
        found = find_odd(seed, rolls_deg, factors)
        assert found == pytest.approx({k: np.log(f) for k, f in factors.items()}, abs=0.02)


@pytest.mark.parametrize("rolls_deg", [(0,), (0, 90)])
def test_no_exposure_is_told_to_be_odd_where_none_is(rolls_deg):
    assert [find_odd(seed, rolls_deg, {}) for seed in range(30)] == [{}] * 30


def test_four_exposures_of_one_roll_do_not_tell_which_is_odd():
    """A plane and a constant imitate any three of them."""
    assert [find_odd(seed, (0,), {0: 0.8}, n_exposures=4) for seed in range(3)] == [{}] * 3


@pytest.mark.parametrize(("factor", "floor"), [(0.5, 0.0), (2.0, 0.0), (1.0, 0.01)])
def test_wrong_errors_are_found_out(factor, floor):
    observations, _, _ = draw(11, n_exposures=25)
    columns = as_columns(observations)
    rng = np.random.default_rng(5)
    columns[4] *= 1 + floor * rng.normal(size=columns.shape[1])
    columns[5] *= factor
    flat = solve_star_flat(as_observations(columns), FIELD, order=2)
    relative = factor * ERR
    assert flat.noise.compute_variance(np.array([relative]))[0] ** 0.5 == pytest.approx(
        np.hypot(ERR, floor), rel=0.06
    )


def test_residuals_are_told_by_star_and_exposure_and_scatter_as_stated():
    observations, _, _ = draw(31, zero_point_scatter=0.0)
    columns = as_columns(observations)
    columns[4][100] *= 1.3
    flat = solve_star_flat(as_observations(columns), FIELD, order=2, zero_point_scatter=0.0)
    seen = flat.residuals
    assert len(seen.value) == flat.n_used
    assert seen.outlier.sum() == flat.n_outliers
    (row,) = np.flatnonzero((seen.exposure == columns[0][100]) & (seen.star == columns[1][100]))
    assert seen.outlier[row]
    assert (seen.x[row], seen.y[row]) == (columns[2][100], columns[3][100])
    assert seen.value[row] == pytest.approx(0.3, abs=5 * ERR)
    pull = (seen.value / seen.sigma)[~seen.outlier]
    assert np.mean(pull**2) == pytest.approx(1, abs=5 * np.sqrt(2 / pull.size))
    # A fit takes something of each residual.
    assert np.median(seen.sigma) < ERR


def test_floor_and_scale_are_told_apart_where_errors_differ():
    rng = np.random.default_rng(8)
    observations, _, _ = draw(12, n_exposures=30, n_stars=500, relative_err=1e-5)
    columns = as_columns(observations)
    relative = 10 ** rng.uniform(-3, -1.3, 500)[columns[1].astype(int)]
    size = columns.shape[1]
    columns[4] *= 1 + np.hypot(1.5 * relative, 0.006) * rng.normal(size=size)
    columns[5] = relative * columns[4]
    flat = solve_star_flat(as_observations(columns), FIELD, order=2)
    assert flat.noise.scale == pytest.approx(1.5, rel=0.1)
    assert flat.noise.floor == pytest.approx(0.006, rel=0.1)


def test_epochs_are_solved_apart_and_sum_to_zero():
    observations, truth, _ = draw(13, n_exposures=24, rolls_deg=(0, 90, 0, 90), n_stars=500)
    columns = as_columns(observations)
    epoch = {j: 2020 + j // 12 for j in range(24)}
    change = np.array([0.004, 0.0, -0.003, 0.0, 0.0])
    basis = make_basis(FIELD, 2)
    late = columns[0] >= 12
    columns[4, late] *= np.exp(basis.evaluate(*columns[2:4, late]) @ change)
    flat = solve_star_flat(as_observations(columns), FIELD, order=2, epoch=epoch)
    np.testing.assert_array_equal(flat.epoch_id, [2020, 2021])
    np.testing.assert_allclose(flat.epoch_coefficients.sum(axis=0), 0, atol=1e-12)
    difference = flat.epoch_coefficients[1] - flat.epoch_coefficients[0]
    contrast = np.hstack([-np.eye(5), np.eye(5)])
    covariance = contrast @ flat.epoch_covariance @ contrast.T
    error = difference - change
    assert error @ np.linalg.solve(covariance, error) < 25
    assert abs(difference[0]) > 5 * np.sqrt(covariance[0, 0])
    mean = flat.coefficients - truth - change / 2
    assert np.all(np.abs(mean) < 4.5 * np.sqrt(np.diag(flat.covariance)))
    with pytest.raises(EvidenceError, match=r"found none for \[23\]"):
        solve_star_flat(observations, FIELD, order=2, epoch=dict.fromkeys(range(23), 1))
    with pytest.raises(EvidenceError, match="two epochs or more, found 1"):
        solve_star_flat(observations, FIELD, order=2, epoch=dict.fromkeys(range(24), 1))


# ---------------------------------------------------------------------------------------- gauge


def test_one_roll_leaves_a_constant_and_two_gradients():
    observations, _, _ = draw(15)
    flat = solve_star_flat(observations, FIELD, order=3)
    assert flat.gauge.n_null == 3
    assert np.isinf(flat.gauge.gradient_sigma_free)
    assert np.isfinite(flat.gauge.gradient_sigma)
    assert flat.gauge.gradient_sigma > flat.sigma_without_plane
    assert flat.sigma == pytest.approx(
        np.hypot(flat.gauge.gradient_sigma, flat.sigma_without_plane)
    )
    assert not flat.gauge.ill_determined
    sigma = flat.gauge.forecast.gradient_sigma
    assert np.all(np.diff(sigma[:5]) < 0)
    # Where |R1 - R2| is small the error goes with its inverse.
    assert sigma[0] / sigma[1] == pytest.approx(2.5, rel=0.1)
    assert flat.gauge.forecast.needed_deg in flat.gauge.forecast.roll_deg
    assert any("rolled by" in line for line in flat.gauge.advice)


def test_combinations_of_modes_are_told_with_what_is_left_of_them():
    flat = solve_star_flat(draw(12)[0], FIELD, order=3, zero_point_scatter=np.inf)
    gauge = flat.gauge
    assert (np.diff(gauge.shares) >= 0).all()
    # One roll: free zero points imitate both planes.
    planes = flat.basis.degree == 1
    np.testing.assert_allclose(gauge.shares[:2], 0, atol=1e-8)
    norm = np.linalg.norm(gauge.combinations, axis=0)
    np.testing.assert_allclose(norm, 1)
    np.testing.assert_allclose(np.linalg.norm(gauge.combinations[planes, :2], axis=0), 1, atol=1e-3)
    # The weakest is also that of what is left of the modes beyond the plane.
    assert 0 < gauge.weakest <= gauge.shares[2]
    assert np.linalg.norm(gauge.weakest_mode) == pytest.approx(1)


def test_two_rolls_leave_a_constant():
    observations, _, _ = draw(15, rolls_deg=(0, 90))
    gauge = solve_star_flat(observations, FIELD, order=3).gauge
    assert gauge.n_null == 1
    assert np.isfinite(gauge.gradient_sigma_free)
    assert gauge.gradient_sigma < gauge.gradient_sigma_free


def test_the_forecast_roll_does_what_it_said():
    once, _, _ = draw(16, n_exposures=10)
    forecast = solve_star_flat(once, FIELD, order=2).gauge.forecast
    both, _, _ = draw(16, n_exposures=20, rolls_deg=(0, 45))
    found = solve_star_flat(both, FIELD, order=2).gauge.gradient_sigma_free
    said = forecast.gradient_sigma[list(forecast.roll_deg).index(45.0)]
    assert found == pytest.approx(said, rel=0.3)


def test_a_distorted_camera_has_the_same_gauge():
    """Zero points imitate what is linear on the sky, a plane and a little more on the detector."""
    observations, _, _ = draw(15, n_exposures=20)
    columns = as_columns(observations)
    u, v = (columns[2] - 80) / 60, (columns[3] - 80) / 80
    columns[2] += 1.5 * u * v - u * u
    columns[3] += 1.5 * v * v - u * v
    gauge = solve_star_flat(as_observations(columns), FIELD, order=6).gauge
    assert gauge.weakest > 0.05
    assert not gauge.ill_determined
    assert gauge.gradient_sigma_free > 10 * gauge.gradient_sigma


@pytest.mark.parametrize("n_exposures", [3, 4])
def test_few_exposures_give_what_they_can(n_exposures):
    observations, truth, _ = draw(40, n_exposures=n_exposures, n_stars=600)
    flat = solve_star_flat(observations, FIELD)
    error = (flat.coefficients - truth[: len(flat.coefficients)])[flat.basis.degree == 2]
    sigma = np.sqrt(np.diag(flat.covariance))[flat.basis.degree == 2]
    assert np.all(np.abs(error) < 4.5 * sigma)


def test_two_exposures_do_not_see_curvature_across_their_dither():
    observations, _, _ = draw(40, n_exposures=2, n_stars=600)
    with pytest.raises(EvidenceError, match="ill-determined"):
        solve_star_flat(observations, FIELD)


@pytest.mark.parametrize("order", [2, 3, None])
@pytest.mark.parametrize("roll_deg", [10, 90, 180])
def test_two_exposures_at_two_rolls_do_not_see_bowls_about_the_turn(roll_deg, order):
    """About a point beside the field a bowl is mostly plane, and yet no gauge."""
    for seed in (1, 2, 3):
        observations, _, _ = draw(seed, n_exposures=2, rolls_deg=(0, roll_deg), n_stars=600)
        with pytest.raises(EvidenceError, match="ill-determined"):
            solve_star_flat(observations, FIELD, order=order)


def test_two_groups_with_a_roll_between_are_determined():
    pulls = []
    for seed in range(10):
        observations, truth, _ = draw(seed, n_exposures=8, rolls_deg=(0, 90), n_stars=400)
        flat = solve_star_flat(observations, FIELD, order=2)
        assert flat.gauge.n_null == 1
        assert not flat.gauge.ill_determined
        error = flat.coefficients - truth
        pulls.append(error @ np.linalg.solve(flat.covariance, error) / len(error))
    assert np.mean(pulls) == pytest.approx(1, abs=0.6)


def test_three_exposures_of_one_roll_say_nothing_of_their_scatter():
    """Constant and two gradients imitate them all: the scatter is the usual one."""
    for seed in (1, 2, 3):
        observations, _, _ = draw(seed, n_exposures=3, n_stars=600)
        flat = solve_star_flat(observations, FIELD, order=2)
        assert flat.zero_point_scatter == pytest.approx(0.003)
        assert flat.gauge.gradient_sigma > 0.003


def test_data_without_noise_give_the_truth():
    observations, truth, _ = draw(41, relative_err=1e-12, rolls_deg=(0, 90))
    columns = as_columns(observations)
    columns[5] = ERR * columns[4]
    flat = solve_star_flat(as_observations(columns), FIELD, order=2)
    assert np.all(np.abs(flat.coefficients - truth) < 1e-5)


def test_known_zero_points_leave_only_the_constant():
    observations, truth, _ = draw(17, zero_point_scatter=0.0)
    flat = solve_star_flat(observations, FIELD, order=2, zero_point_scatter=0)
    assert flat.gauge.n_null == 1
    assert np.all(flat.zero_point == 0)
    assert flat.gauge.forecast is None
    error = flat.coefficients - truth
    assert np.all(np.abs(error) < 4.5 * np.sqrt(np.diag(flat.covariance)))


def test_free_zero_points_leave_the_gradient_unknown_but_not_the_rest():
    observations, truth, _ = draw(18)
    flat = solve_star_flat(observations, FIELD, order=2, zero_point_scatter=np.inf)
    assert flat.gauge.gradient_sigma > 0.1
    rest = flat.basis.degree > 1
    error = (flat.coefficients - truth)[rest]
    assert np.all(np.abs(error) < 4.5 * np.sqrt(np.diag(flat.covariance))[rest])


def test_disjoint_fields_share_the_flat_and_keep_a_constant_each():
    first, truth, _ = draw(19, n_exposures=10)
    second = as_columns(draw(20, n_exposures=10, centre=(5000.0, 0.0), truth=truth)[0])
    second[0] += 10
    second[1] += 1000
    second[4:] *= 3
    flat = solve_star_flat(as_observations(np.hstack([as_columns(first), second])), FIELD, order=2)
    assert flat.gauge.n_components == 2
    np.testing.assert_array_equal(flat.gauge.component, np.repeat([0, 1], 10))
    assert flat.gauge.n_null == 4
    assert np.all(flat.gauge.component_constant_err > 0)
    assert any("2 parts" in line for line in flat.gauge.advice)
    alone = solve_star_flat(first, FIELD, order=2)
    assert flat.sigma_without_plane < 0.85 * alone.sigma_without_plane
    error = flat.coefficients - truth
    assert np.all(np.abs(error) < 4.5 * np.sqrt(np.diag(flat.covariance)))


def test_exposures_without_dither_are_refused():
    observations, _, _ = draw(20, reach=0.0)
    with pytest.raises(EvidenceError, match="ill-determined"):
        solve_star_flat(observations, FIELD, order=2)
    with pytest.raises(EvidenceError, match="wider dithers"):
        solve_star_flat(observations, FIELD)


def test_small_dithers_are_said_to_be_ill_determined(caplog):
    observations, _, _ = draw(21, reach=1.5, n_stars=600)
    with caplog.at_level(logging.WARNING):
        flat = solve_star_flat(observations, FIELD, order=2)
    assert flat.gauge.ill_determined
    assert flat.gauge.weakest < 1e-3
    assert np.linalg.norm(flat.gauge.weakest_mode) == pytest.approx(1)
    assert "ill-determined" in caplog.text


# ------------------------------------------------------------------------------------ bad input


def test_useless_rows_are_left_out_and_counted():
    observations, _, _ = draw(22)
    columns = as_columns(observations)
    clean = solve_star_flat(observations, FIELD, order=2)
    junk = np.tile(columns[:, :1], 6)
    junk[1] = 10_000 + np.arange(6)
    junk[4, 0], junk[5, 1], junk[2, 2], junk[3, 3] = np.nan, 0.0, 5.0, np.inf
    faint = columns[:, columns[1] == columns[1, 0]].copy()
    faint[1] = 20_000
    faint[4] = faint[5] * 2
    flat = solve_star_flat(as_observations(np.hstack([columns, junk, faint])), FIELD, order=2)
    np.testing.assert_allclose(flat.coefficients, clean.coefficients, rtol=1e-6, atol=1e-9)
    once = clean.n_left_out["star measured once"]
    assert flat.n_left_out == {
        "not finite or without error": 3,
        "outside the field": 1,
        "faint star": faint.shape[1],
        "star measured once": once + 2,
    }


def test_negative_fluxes_of_bright_stars_are_outliers():
    observations, _, _ = draw(23)
    columns = as_columns(observations)
    columns[4, ::200] *= -1
    flat = solve_star_flat(as_observations(columns), FIELD, order=2)
    clean = solve_star_flat(observations, FIELD, order=2)
    assert flat.n_outliers >= len(columns[4, ::200]) - 10
    assert np.linalg.norm(flat.coefficients - clean.coefficients) < flat.sigma


def test_too_few_stars_are_an_error():
    observations, _, _ = draw(24, n_stars=12, n_exposures=4)
    with pytest.raises(EvidenceError, match="more than stars"):
        solve_star_flat(observations, FIELD, order=6)
    columns = as_columns(observations)
    _, first = np.unique(columns[1], return_index=True)
    with pytest.raises(EvidenceError, match="two positions or more, found none"):
        solve_star_flat(as_observations(columns[:, first]), FIELD)
    with pytest.raises(EvidenceError, match="two positions or more, found none"):
        solve_star_flat(as_observations(columns[:, :0]), FIELD)
    with pytest.raises(EvidenceError, match="order 0"):
        solve_star_flat(observations, FIELD, order=0)
    with pytest.raises(EvidenceError, match="found -1"):
        solve_star_flat(observations, FIELD, zero_point_scatter=-1)
    with pytest.raises(EvidenceError, match="columns of one length"):
        StarObservations(*columns[:5], columns[5, :-1])


# ------------------------------------------------------------------------------------ benchmark


@pytest.mark.skipif(not LFLAT_CASE.is_file(), reason="no benchmark with truth here")
def test_a_catalogue_of_dense_exposures_comes_back_within_its_bound():
    spec = importlib.util.spec_from_file_location("lflat_case", LFLAT_CASE)
    case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(case)
    field = np.zeros((1024, 1032), bool)
    field[:, 360:1028] = True
    errors = []
    for seed in (31, 32, 33):
        data = case.make(seed=seed, nstar=4000)
        flat = solve_star_flat(as_observations(data["T"][:, :6].T), field)
        assert flat.order == 5
        shape = np.log(flat.render())[data["gy"].astype(int), data["gx"].astype(int)]
        total, rest = case.score(data, shape)
        errors.append([total / flat.sigma, rest / flat.sigma_without_plane])
    assert np.all(np.mean(errors, axis=0) < 140)
