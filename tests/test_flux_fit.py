"""The joint fit finds what was put in, says how well, and is moved by no single star."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from standards_sample import FILTERS, T0, make_sample, make_spectra, take

from jwst_tvbadpix.errors import EvidenceError, InputError
from jwst_tvbadpix.fluxcal import Band, Mode, fit_factors, leave_out
from jwst_tvbadpix.fluxcal import solver as solver_module
from jwst_tvbadpix.fluxcal.covariance import invert_normal
from jwst_tvbadpix.fluxcal.effects import make_effects
from jwst_tvbadpix.fluxcal.model import make_layout, make_problem
from jwst_tvbadpix.fluxcal.profile import fit_throughput, profile_linear
from jwst_tvbadpix.fluxcal.rows import select_rows
from jwst_tvbadpix.fluxcal.solver import compute_precision, make_normal, solve
from jwst_tvbadpix.fluxcal.timeforms import make_time_model

PRODUCT = "linear+exponential"
DAYS = np.array([0.0, 1230.0, 3000.0])


@pytest.fixture(scope="module")
def sample():
    return make_sample()


@pytest.fixture(scope="module")
def fit(sample):
    return fit_factors(sample.measurements, t0_mjd=T0)


def compare(sample, fit):
    """Departure from the truth in units of the stated error, and the departure."""
    curve = fit.predict(T0 + DAYS)
    order = [fit.bands.index(b) for b in sample.measurements.bands]
    truth = np.array([f.evaluate(T0 + DAYS) for f in sample.throughputs])
    error = np.log(curve.factor[order] * truth) - sample.ln_factor[:, None]
    return error / (curve.error / curve.factor)[order], error


def test_factors_and_throughput_are_recovered_within_their_errors(sample, fit):
    pull, error = compare(sample, fit)
    assert fit.forms == {"MIRI MIRIMAGE": ("linear", "exponential")}
    assert fit.converged
    assert np.abs(pull).max() < 3
    # Nine stars that scatter by 0.8 %.
    assert np.abs(error[:, :2]).max() < 3 * 0.008 / np.sqrt(9)
    assert fit.widths["visit MIRI imaging"] == pytest.approx(0.0025, rel=0.35)
    assert 0.004 < fit.widths["star"] < 0.016


def test_extrapolation_is_said_to_be_so_and_less_certain(fit):
    curve = fit.predict([fit.first_mjd, fit.last_mjd, fit.last_mjd + 2000, fit.first_mjd - 1])
    assert list(curve.extrapolated) == [False, False, True, True]
    relative = curve.error / curve.factor
    assert (relative[:, 2] > relative[:, 1]).all()


def test_forms_are_compared_at_the_optimum_of_the_whole_problem():
    """Profiling all that is linear leaves the objective of the full solution."""
    _, problem = make_small_problem()
    whole = solve(problem)
    held = solve(problem, widths=whole.widths, hold=True, start=whole.values, tolerance=1e-5)
    linear = profile_linear(problem, whole.widths)
    found = fit_throughput(problem, linear, start=problem.time.start, tolerance=1e-5)
    values, best = found.values, found.best
    assert found.objective == pytest.approx(held.objective, rel=1e-9)
    n_linear = problem.linear.shape[1]
    np.testing.assert_allclose(values, held.values[n_linear : n_linear + len(values)], atol=1e-5)
    np.testing.assert_allclose(best[:n_linear], held.values[:n_linear], atol=1e-6)
    inverse = np.linalg.inv(make_normal(problem, whole.widths, held.jacobian).toarray())
    part = slice(n_linear, n_linear + len(values))
    np.testing.assert_allclose(found.covariance, inverse[part, part], rtol=1e-3, atol=1e-10)
    cross = found.response[:n_linear] @ found.covariance
    np.testing.assert_allclose(cross, inverse[:n_linear, part], rtol=2e-3, atol=1e-9)


def test_a_form_that_data_cannot_tell_counts_in_the_error_of_the_extrapolation():
    """Few visits of one filter fit an exponential with a line as well as without one."""
    pulls, before = [], []
    for seed in range(8):
        sample = make_sample(seed, n_stars=4, n_monitor=16, filters={"F2550W": 25.23}, years=3)
        fit = fit_factors(sample.measurements, t0_mjd=T0)
        pull, error = compare(sample, fit)
        given = fit_factors(
            sample.measurements, t0_mjd=T0, time_form="+".join(*fit.forms.values()) or "none"
        )
        curve = given.predict(T0 + DAYS)
        pulls.append(pull[:, 2])
        before.append(error[:, 2] / (curve.error / curve.factor)[:, 2])
    assert np.abs(pulls).max() < 3.5
    assert np.sqrt(np.mean(np.square(pulls))) < 0.7 * np.sqrt(np.mean(np.square(before)))


@pytest.mark.parametrize("shift", [-300.0, 0.0, 500.3])
def test_epoch_of_the_factors_changes_no_prediction(sample, fit, shift):
    other = fit_factors(sample.measurements, t0_mjd=T0 + shift)
    assert other.forms == fit.forms
    now, then = other.predict(T0 + DAYS), fit.predict(T0 + DAYS)
    assert np.abs(np.log(now.factor / then.factor) * then.factor / then.error).max() < 0.35
    np.testing.assert_allclose(now.error / then.error, 1, atol=0.25)


def test_prediction_at_t0_is_the_factor(fit):
    curve = fit.predict(fit.t0_mjd)
    np.testing.assert_allclose(curve.factor[:, 0], fit.factor, rtol=1e-12)
    np.testing.assert_allclose(curve.error[:, 0], fit.error, rtol=1e-9)


def test_throughputs_are_what_the_fit_evaluates(fit):
    curve = fit.predict(T0 + DAYS)
    for k, f in enumerate(fit.throughputs):
        np.testing.assert_allclose(curve.factor[k], fit.factor[k] / f.evaluate(T0 + DAYS))


def test_order_of_rows_and_bands_does_not_matter(sample, fit):
    m = sample.measurements
    rng = np.random.default_rng(4)
    rows, bands = rng.permutation(len(m.band)), rng.permutation(len(m.bands))
    other = take(m, rows)
    shuffled = tuple(m.bands[k] for k in bands)
    band = np.argsort(bands)[other.band].astype(np.int32)
    again = fit_factors(replace(other, bands=shuffled, band=band), t0_mjd=T0)
    assert (again.factor == fit.factor).all()
    assert (again.error == fit.error).all()


def test_units_scale_the_factors_alone(sample, fit):
    m = sample.measurements
    twice = fit_factors(replace(m, factor=2e-6 * m.factor), t0_mjd=T0)
    np.testing.assert_allclose(twice.factor, 2e-6 * fit.factor, rtol=1e-6)
    np.testing.assert_allclose(twice.error, 2e-6 * fit.error, rtol=1e-3)


@pytest.mark.parametrize("share", ["smooth", "common", "free"])
def test_shared_and_free_losses_agree_where_the_data_are(sample, fit, share):
    other = fit_factors(sample.measurements, t0_mjd=T0, share=share, time_form=PRODUCT)
    if share == "common":
        losses = {f.amplitude for f in other.throughputs}
        assert len(losses) == 1
    else:
        difference = np.log(other.predict(T0 + 700).factor / fit.predict(T0 + 700).factor)
        assert np.abs(difference).max() < 0.003
    assert (len({f.loss_per_year for f in other.throughputs}) == 1) == (share != "free")


def test_power_law_is_recovered():
    alpha = {"alpha": -0.05, "tsoft_days": 20.0}
    year1value = ((365 + 20) / 20) ** -0.05
    sample = make_sample(3, throughput=lambda _: {**alpha, "year1value": year1value})
    fit = fit_factors(sample.measurements, t0_mjd=T0, time_form="powerlaw")
    pull, _ = compare(sample, fit)
    assert np.abs(pull).max() < 3
    assert fit.throughputs[0].evaluate(T0) == pytest.approx(1.0, abs=1e-12)
    found = fit_factors(sample.measurements, t0_mjd=T0)
    assert "powerlaw" in found.forms["MIRI MIRIMAGE"]


def test_no_loss_is_found_where_there_is_none():
    fit = fit_factors(make_sample(5, throughput=lambda _: {}).measurements)
    assert fit.forms == {"MIRI MIRIMAGE": ()}
    assert min((c for c in fit.choices if not c.chosen), key=lambda c: c.aic).aic > 0


def test_an_outlying_star_is_named_and_moves_nothing(sample, fit):
    m = sample.measurements
    shifts = []
    for name in ("star 2", "star 4", "star 7"):
        odd = replace(m, factor=np.where(m.star == name, m.factor * np.exp(-0.08), m.factor))
        other = fit_factors(odd, t0_mjd=T0)
        verdicts = {s.name: s.verdict for s in other.stars}
        assert verdicts.pop(name) == "offset"
        assert set(verdicts.values()) == {"ok"}
        shifts.append(np.abs(np.log(other.factor / fit.factor) * fit.factor / fit.error).max())
    assert np.median(shifts) < 0.3
    assert max(shifts) < 1.0


def test_the_star_offset_is_the_one_put_in(sample, fit):
    m = sample.measurements
    odd = replace(m, factor=np.where(m.star == "star 2", m.factor * np.exp(-0.08), m.factor))
    before = next(s for s in fit.stars if s.name == "star 2")
    after = next(s for s in fit_factors(odd, t0_mjd=T0).stars if s.name == "star 2")
    assert after.offset - before.offset == pytest.approx(0.08, abs=before.offset_err)


def test_a_variable_star_is_named(sample):
    m = sample.measurements
    swing = 0.03 * np.where(np.char.endswith(m.visit, "1"), 1.0, -1.0)
    third = np.char.endswith(m.visit, "2")
    swing[third] = 0.0
    odd = replace(m, factor=np.where(m.star == "star 0", m.factor * np.exp(swing), m.factor))
    found = fit_factors(odd, t0_mjd=T0)
    assert {s.name for s in found.stars if s.verdict == "variable"} == {"star 0"}


def test_infrared_excess_of_a_spectrum_is_named():
    flat = fit_factors(make_spectra())
    assert {s.verdict for s in flat.stars} == {"ok"}
    fit = fit_factors(make_spectra(slopes=(0.0, 0.016, 0.0, 0.0)))
    found = {s.name: s for s in fit.stars if s.verdict == "slope"}
    assert set(found) == {"star 1"}
    assert found["star 1"].slope_per_um == pytest.approx(0.016, rel=0.1)
    assert "%/um" in found["star 1"].reason


def test_visits_and_not_formal_errors_say_how_well_a_spectrum_is_known():
    fit = fit_factors(make_spectra())
    assert np.median(fit.error / fit.factor) > 3 * 0.001
    (factor,) = fit.list_factors()
    assert factor.wave.shape == (60,)
    np.testing.assert_allclose(factor.value * factor.relresponse, fit.factor, rtol=1e-12)


def test_subarrays_follow_the_data_within_their_prior():
    sample = make_sample(
        2, n_stars=12, subarrays=("FULL", "SUB256", "SUB64"), responses=(1.0, 0.98, 0.96)
    )
    fit = fit_factors(sample.measurements, t0_mjd=T0, time_form=PRODUCT)
    found = {s.subarray: s for s in fit.subarrays}
    assert set(found) == {"SUB256", "SUB64"}
    for name, truth in (("SUB256", 0.98), ("SUB64", 0.96)):
        assert abs(found[name].response - truth) < 3 * found[name].error
        assert found[name].error < found[name].prior_error
    factors = {(f.mode.filter, f.subarray): f for f in fit.list_factors()}
    assert {s for _, s in factors} == {"FULL", "SUB256", "SUB64"}
    ratio = factors["F560W", "SUB64"].value / factors["F560W", "FULL"].value
    assert ratio == pytest.approx(1 / found["SUB64"].response)


def test_a_filter_seen_only_in_a_subarray_has_a_full_row():
    m = make_sample(1, subarrays=("SUB256",), responses=(0.98,)).measurements
    factors = fit_factors(m, time_form="none").list_factors()
    full = [f for f in factors if f.subarray == "FULL"]
    assert {f.mode.filter for f in full} == set(FILTERS)


def test_classes_are_reported_apart_and_sum_to_zero():
    sample = make_sample(6, n_stars=18, scatter=0.002)
    m = sample.measurements
    bright = np.where(m.star_class == "hot", 0.012, -0.006)
    fit = fit_factors(replace(m, factor=m.factor * np.exp(-bright)), t0_mjd=T0, time_form=PRODUCT)
    offsets = {c.star_class: c for c in fit.classes}
    assert sum(c.offset for c in fit.classes) == pytest.approx(0, abs=1e-12)
    assert abs(offsets["hot"].offset - 0.012) < 3 * offsets["hot"].error
    assert np.abs(compare(sample, fit)[0]).max() < 3


def test_errors_of_models_and_apertures_add(sample, fit):
    more = fit_factors(sample.measurements, t0_mjd=T0, apcorr_err=0.004, model_err=0.003)
    grown = (more.error / more.factor) ** 2 - (fit.error / fit.factor) ** 2
    np.testing.assert_allclose(grown, 0.004**2 + 0.003**2, rtol=1e-6)
    # That of the models is common to all filters.
    difference = more.covariance[0, 1] - fit.covariance[0, 1]
    assert difference == pytest.approx(0.003**2, rel=1e-6)


def test_budget_adds_up_to_the_error(fit):
    total = np.sqrt(sum(part**2 for part in fit.budget.values()))
    np.testing.assert_allclose(total, fit.error / fit.factor, rtol=1e-6)


def test_left_out_stars_are_predicted_within_the_stated_error(sample, fit):
    found = leave_out(fit, "star")
    assert [f.name for f in found] == sorted({str(s) for s in sample.measurements.star})
    pulls = np.array([np.mean(f.residual) / np.mean(f.predicted_err) for f in found])
    assert np.abs(pulls).max() < 3
    assert 0.3 < np.sqrt(np.mean(pulls**2)) < 1.6
    for f in found:
        assert np.abs(f.shift / np.hypot(f.error, fit.error / fit.factor)).max() < 2


def test_classes_and_epochs_are_left_out(fit):
    assert [f.name for f in leave_out(fit, "class")] == ["adwarf", "hot", "solar"]
    assert len(leave_out(fit, "epoch")) > 3
    with pytest.raises(InputError, match="by 'star'"):
        leave_out(fit, "moon")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"factor": np.nan}, "not a number"),
        ({"factor": -1.0}, "zero or negative"),
        ({"factor": 0.0}, "zero or negative"),
        ({"sigma": np.nan}, "error is zero"),
        ({"mjd": np.nan}, "no date"),
    ],
)
def test_unusable_rows_are_left_out_by_name(sample, change, reason):
    m = sample.measurements
    ((name, value),) = change.items()
    column = getattr(m, name).copy()
    column[7] = value
    fit = fit_factors(replace(m, **{name: column}), time_form="linear")
    out = fit.measurements
    (bad,) = np.flatnonzero(~out.used)
    assert out.source[bad] == m.source[7]
    assert reason in out.reason[bad]
    assert np.isnan(fit.residual[bad])


def test_a_row_given_twice_is_refused(sample):
    m = take(sample.measurements, np.r_[0 : len(sample.measurements.band), 3])
    with pytest.raises(InputError, match="row 3 and row 3"):
        fit_factors(m)


def test_a_single_epoch_has_no_time_term(sample):
    m = sample.measurements
    once = replace(m, mjd=T0 + 100 + np.zeros(len(m.mjd)))
    with pytest.raises(EvidenceError, match="at least 2 epochs"):
        fit_factors(once, time_form="linear")
    assert fit_factors(once).forms == {"MIRI MIRIMAGE": ()}


def test_no_dates_have_no_time_term(sample):
    m = replace(sample.measurements, mjd=np.full(len(sample.measurements.mjd), np.nan))
    assert fit_factors(m).forms == {"MIRI MIRIMAGE": ()}
    with pytest.raises(EvidenceError, match="found 0"):
        fit_factors(m, time_form="exponential")


@pytest.mark.parametrize("settings", [{"time_form": "cubic"}, {"share": "none"}])
def test_unknown_settings_are_refused(sample, settings):
    with pytest.raises(InputError, match="expected"):
        fit_factors(sample.measurements, **settings)


def test_nothing_usable_is_refused(sample):
    m = sample.measurements
    with pytest.raises(EvidenceError, match="usable"):
        fit_factors(replace(m, factor=np.full(len(m.factor), np.nan)))


def test_one_row_is_enough_for_a_factor():
    m = take(make_sample().measurements, [0])
    fit = fit_factors(m)
    assert fit.factor[0] == pytest.approx(m.factor[0], rel=1e-3)
    assert fit.error[0] / fit.factor[0] > 0.005
    assert fit.stars[0].reason == "no other star to compare with"


def test_neutral_densities_and_lrs_subarrays_have_factors_of_their_own():
    m = make_sample(
        1, n_monitor=4, subarrays=("FULL", "SUBNDA210R"), responses=(1.0, 0.001)
    ).measurements
    fit = fit_factors(m, time_form="none")
    assert {u.subarray for u in fit.units} == {"", "SUBNDA210R"}
    assert not fit.subarrays


def test_mrs_has_power_laws_only_and_a_row_for_each_wavelength():
    mrs = {f"bin {k}": w for k, w in enumerate(np.linspace(11.6, 17.9, 24))}

    def law(wave):
        alpha = -0.05 * (wave / 18) ** 2
        return {"alpha": alpha, "tsoft_days": 30.0, "year1value": (395 / 30) ** alpha}

    sample = make_sample(9, n_stars=6, filters=mrs, throughput=law)
    m = sample.measurements
    mode = Mode("MIRI", "MIRIFULONG", "mrs", band="SHORT")
    m = replace(m, bands=tuple(Band(mode, b.wave) for b in m.bands))
    fit = fit_factors(m, t0_mjd=T0)
    assert fit.forms == {"MIRI MIRIFULONG": ("powerlaw",)}
    factors = fit.list_factors()
    assert [f.wave[0] for f in factors] == [b.wave for b in m.bands]
    assert all(f.throughput.loss_per_year == 0 == f.throughput.amplitude for f in factors)
    for f, wanted in zip(factors, sample.throughputs, strict=True):
        assert f.throughput.evaluate(T0) == pytest.approx(1.0)
        ratio = f.throughput.evaluate(T0 + 1400) / wanted.evaluate(T0 + 1400)
        assert ratio == pytest.approx(1.0, abs=0.02)
    with_line = fit_factors(m, t0_mjd=T0, time_form="linear+powerlaw")
    assert all(f.throughput.loss_per_year == 0 for f in with_line.list_factors())


def test_a_coronagraph_seen_once_takes_its_loss_from_the_filters():
    m = make_sample(1).measurements
    once = take(m, (m.star == "star 3") & (m.band == 2))
    lyot = Band(Mode("MIRI", "MIRIMAGE", "coronagraphy", filter="F2300C"), 22.75)
    n = len(once.band)
    once = replace(once, band=np.full(n, len(m.bands), np.int32), subarray=np.full(n, "MASKLYOT"))
    columns = [c for c in m.__dataclass_fields__ if c not in ("bands", "given")]
    both = {c: np.concatenate([getattr(m, c), getattr(once, c)]) for c in columns}
    fit = fit_factors(replace(m, bands=(*m.bands, lyot), **both), t0_mjd=T0)
    found = {(f.mode.filter, f.subarray): f for f in fit.list_factors()}
    loss = {key: f.throughput.amplitude for key, f in found.items()}
    assert loss["F2100W", "FULL"] < loss["F2300C", "MASKLYOT"] < loss["F2550W", "FULL"]
    assert found["F2300C", "FULL"].uncertainty > found["F2300C", "MASKLYOT"].uncertainty


def make_small_problem(form=PRODUCT, share="smooth"):
    rows = select_rows(make_sample(2, n_monitor=6).measurements, t0_mjd=T0, dated=True)
    layout = make_layout(rows, subarray_err=0.02, class_err=0.005)
    forms = {"MIRI MIRIMAGE": tuple(form.split("+"))}
    return rows, make_problem(rows, layout, make_effects(rows), forms, share=share)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_derivatives_of_the_throughput_are_exact(seed):
    rng = np.random.default_rng(seed)
    wave, forms = np.array([5.0, 10.0, 20.0]), [("linear", "exponential", "powerlaw")] * 3
    model = make_time_model(
        ["a", "a", "b"], wave, forms, share="smooth", t0_mjd=T0, well_seen=np.ones(3, bool)
    )
    span = model.upper - model.lower
    centre = np.clip(model.start, model.lower + 0.1 * span, model.upper - 0.1 * span)
    at = centre + 0.02 * rng.normal(size=len(centre))
    unit, days = rng.integers(0, 3, 20), 1000 * rng.random(20)
    maps = model.expand(unit)
    value, jacobian = model.evaluate(at, maps, days)
    for k in range(len(at)):
        step = np.zeros(len(at))
        step[k] = 1e-6
        up, _ = model.evaluate(at + step, maps, days, derivatives=False)
        down, _ = model.evaluate(at - step, maps, days, derivatives=False)
        numeric = (up - down) / 2e-6
        np.testing.assert_allclose(jacobian[:, [k]].toarray().ravel(), numeric, atol=1e-7)
    for u in range(3):
        f = model.make_throughputs(at)[u]
        mine = unit == u
        np.testing.assert_allclose(value[mine], np.log(f.evaluate(T0 + days[mine])), atol=1e-12)


def test_solution_is_that_of_generalised_least_squares():
    """With widths held, the factors are those of dense algebra that knows no effects."""
    _, problem = make_small_problem(form="linear")
    solution = solve(problem)
    again = solve(problem, widths=solution.widths, hold=True, tolerance=1e-6)
    n_linear, n_time = problem.linear.shape[1], len(problem.time.names)
    n_fixed = n_linear + n_time
    jacobian = again.jacobian.toarray()
    fixed, design = jacobian[:, :n_fixed], jacobian[:, n_fixed:]
    width = again.widths.family[problem.effects.family] ** 2 / again.widths.effect_weight
    covariance = np.diag(1 / compute_precision(problem, again.widths))
    covariance += design @ np.diag(width) @ design.T
    inverse = np.linalg.inv(covariance)
    prior = np.zeros((n_fixed, n_fixed))
    prior[:n_linear, :n_linear] = np.diag(1 / problem.prior_sigma**2)
    prior[n_linear:, n_linear:] = (problem.time.prior.T @ problem.time.prior).toarray()
    normal = fixed.T @ inverse @ fixed + prior
    data = again.residual + jacobian @ again.values
    mean = np.concatenate(
        [
            problem.prior_mean / problem.prior_sigma**2,
            problem.time.prior.T @ problem.time.prior_mean,
        ]
    )
    expected = np.linalg.solve(normal, fixed.T @ inverse @ data + mean)
    np.testing.assert_allclose(again.values[:n_fixed], expected, atol=1e-7)
    whole = make_normal(problem, again.widths, again.jacobian)
    found = invert_normal(whole, problem.unit.max() + 1, n_fixed).make_dense()
    np.testing.assert_allclose(found, np.linalg.inv(normal), rtol=1e-6, atol=1e-12)


def test_large_problems_are_solved_as_small_ones(monkeypatch, sample, fit):
    """Sparse factors and estimated traces instead of dense matrices."""
    monkeypatch.setattr(solver_module, "_DENSE", 0)
    monkeypatch.setattr("jwst_tvbadpix.fluxcal.covariance._WHOLE", 0)
    other = fit_factors(sample.measurements, t0_mjd=T0)
    assert np.abs(np.log(other.factor / fit.factor) / (fit.error / fit.factor)).max() < 0.2
    np.testing.assert_allclose(other.error, fit.error, rtol=0.15)
    n = len(fit.units)
    correlation = fit.covariance[:n, :n] / other.covariance[:n, :n]
    np.testing.assert_allclose(correlation, 1.0, atol=0.35)


def test_covariance_of_many_units_is_the_dense_one(monkeypatch):
    _, problem = make_small_problem()
    solution = solve(problem)
    normal = make_normal(problem, solution.widths, solution.jacobian)
    n_units, n = problem.unit.max() + 1, problem.linear.shape[1] + len(problem.time.names)
    dense = invert_normal(normal, n_units, n)
    monkeypatch.setattr("jwst_tvbadpix.fluxcal.covariance._WHOLE", 0)
    small = invert_normal(normal, n_units, n)
    np.testing.assert_allclose(small.make_dense(), dense.make_dense(), atol=1e-10)
    probe = sparse.eye(3, n, format="csr")
    np.testing.assert_allclose(small.propagate(probe), np.diag(small.join(probe)))


@pytest.mark.slow
def test_stated_intervals_hold_as_often_as_they_should():
    pulls = []
    for seed in range(60):
        sample = make_sample(seed, n_stars=12)
        fit = fit_factors(sample.measurements, t0_mjd=T0, time_form=PRODUCT)
        pulls.append(compare(sample, fit)[0])
    assert 0.58 < np.mean(np.abs(pulls) < 1) < 0.80


@pytest.mark.parametrize("n_stars", [3, 12])
def test_an_odd_star_is_no_loss_where_none_was_seen_again(n_stars):
    m = make_sample(0, n_stars=n_stars, n_monitor=1, throughput=lambda _: {}).measurements
    m = take(m, np.char.endswith(m.visit, "-0"))
    first = m.star == m.star[np.argmin(m.mjd)]
    odd = replace(m, factor=m.factor * np.exp(-0.08 * first))
    fit, plain = fit_factors(odd), fit_factors(m)
    assert fit.forms == plain.forms == {"MIRI MIRIMAGE": ()}
    assert {s.name for s in fit.stars if s.verdict != "ok"} == {m.star[first][0]}
    assert (np.abs(np.log(fit.factor / plain.factor)) < fit.error / fit.factor).all()


@pytest.mark.parametrize("n_monitor", [10, 100])
def test_a_star_weighs_the_same_however_often_it_is_seen(n_monitor):
    sample = make_sample(
        4, n_stars=10, n_monitor=n_monitor, throughput=lambda _: {}, filters={"F770W": 7.7}
    )
    m = sample.measurements
    moved = replace(m, factor=m.factor * np.exp(0.01 * (m.star == "star 0")))
    fits = [fit_factors(one, time_form="none") for one in (m, moved)]
    # About a tenth of it; by exposures it would be a third and 85 per cent.
    assert np.log(fits[1].factor / fits[0].factor) == pytest.approx(0.001, rel=0.5)


def test_the_order_of_elimination_changes_no_solution():
    """Nor must it be that of the very matrix: a solve takes the first one's for all."""
    rng = np.random.default_rng(3)
    design = sparse.random(3000, 700, density=0.004, random_state=rng, format="csr")
    normal = (design.T @ design + sparse.identity(700)).tocsc()
    other = (normal + sparse.diags(rng.uniform(0, 1, 700))).tocsc()
    right = rng.normal(size=(700, 2))
    found = solver_module.make_inverse(other, solver_module._find_order(normal))
    expected = np.linalg.solve(other.toarray(), right)
    np.testing.assert_allclose(found(right), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found(right[:, 0]), expected[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        solver_module.make_inverse(other)(right), expected, rtol=0, atol=1e-12
    )
