"""Calibration factors of all modes, and how they change with time, from all stars at once."""

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from ..errors import InputError
from .checks import check_share, describe_forms
from .covariance import Covariance, invert_normal
from .effects import find_star_effects, make_effects
from .forms import FormChoice, choose_forms, compare_given, measure_spread
from .measurements import Measurements
from .model import Layout, make_layout, make_problem
from .results import ClassOffset, FluxFit, SubarrayResponse
from .rows import SPECTRAL, Rows, select_rows
from .solver import (
    NU_ROW,
    Inverse,
    Problem,
    Solution,
    Widths,
    compute_precision,
    count_information,
    make_inverse,
    make_normal,
    make_penalty,
    solve,
)
from .stars import StarResult, judge_stars
from .timeforms import SHARES

__all__ = ["fit_factors", "fit_unchecked"]

log = logging.getLogger(__name__)

# Times that stars are left out anew.
_MOST_REJECTIONS = 3
# Settings that are prior errors in the fit.
_PRIORS = ("subarray_err", "class_err")


# The matrices are small: threads of the BLAS would wait for each other longer than they work.
@threadpool_limits.wrap(limits=1, user_api="blas")  # type: ignore[untyped-decorator]
def fit_factors(
    measurements: Measurements,
    *,
    time_form: str = "auto",
    share: str = "smooth",
    t0_mjd: float | None = None,
    subarray_err: float = 0.02,
    class_err: float = 0.005,
    apcorr_err: float = 0.0,
    model_err: float = 0.0,
) -> FluxFit:
    """Fit the calibration factors of all modes, and f(t), to all stars and visits at once.

    Parameters
    ----------
    measurements : Measurements
        Rows with `used` False stay out.
    time_form : str
        'auto' (by an information criterion, for each detector), 'none', or some of 'linear',
        'exponential' and 'powerlaw' joined by '+'.
    share : str
        'smooth', 'common' or 'free': see `make_time_model`.
    t0_mjd : float, optional
        Epoch of the factors [MJD]; by default the day of the first measurement.
    subarray_err : float
        1-sigma prior of the response of subarrays that have no published one.
    class_err : float
        1-sigma prior of the mean error of the models of a class of stars.
    apcorr_err : float
        1-sigma error of the aperture correction, independent in each image filter.
    model_err : float
        1-sigma error that all models share.

    Returns
    -------
    FluxFit
        A given `time_form` that is much worse than another, and a loss that is not common to all
        though `share` says so, are in its `warnings` and in the log.

    Raises
    ------
    InputError
        A setting is unknown, or a row is given twice.
    EvidenceError
        Nothing is left to fit, or a time term is asked for where there are too few epochs.

    Notes
    -----
    ``-ln factor = -ln C + ln f(t) + ln s_subarray + gamma_class + d_star + beta_star ln(wave/wave0)
    + v_visit + e``, where d, beta and e have Student's t, gammas sum to zero, and the widths of
    all are found along. C is that of the mean of the classes.
    """
    settings: dict[str, float | str] = {
        "method": "joint",
        "time_form": time_form,
        "share": share,
        "subarray_err": subarray_err,
        "class_err": class_err,
        "apcorr_err": apcorr_err,
        "model_err": model_err,
    }
    fit = _check_settings(fit_unchecked(measurements, settings, t0_mjd=t0_mjd))
    log.info("%s", fit.describe_errors())
    for text in fit.warnings:
        log.warning("%s", text)
    return fit


def fit_unchecked(
    measurements: Measurements, settings: Mapping[str, float | str], *, t0_mjd: float | None
) -> FluxFit:
    """Fit as `fit_factors` does, and take the settings for right.

    Parameters
    ----------
    measurements : Measurements
    settings : mapping
        As those of a `FluxFit`.
    t0_mjd : float or None

    Returns
    -------
    FluxFit
    """
    time_form, share = str(settings["time_form"]), str(settings["share"])
    priors = {key: float(settings[key]) for key in _PRIORS}
    if share not in SHARES:
        raise InputError(f"expected share to be one of {', '.join(SHARES)}, found {share!r}")
    dated = time_form != "none" and bool(np.isfinite(measurements.mjd).any())
    rows = select_rows(measurements, t0_mjd=t0_mjd, dated=dated)
    forms, choices = choose_forms(rows, time_form=time_form, share=share, **priors)
    layout = make_layout(rows, **priors)
    problem = make_problem(rows, layout, make_effects(rows), forms, share=share)
    problem, solution, stars = _solve_without_odd_stars(rows, problem)
    settings = {**settings, "t0_mjd": rows.t0_mjd}
    return _make_fit(rows, layout, problem, solution, stars, forms, choices, settings)


def _check_settings(fit: FluxFit) -> FluxFit:
    """Compare what was given with what the measurements say."""
    choices, share_test, warnings = fit.choices, None, []
    if fit.settings["time_form"] != "auto":
        priors = {key: float(fit.settings[key]) for key in _PRIORS}
        share = str(fit.settings["share"])
        choices = compare_given(fit.rows, fit.forms, share=share, **priors)
        warnings += describe_forms(choices)
    if fit.settings["share"] == "common":
        share_test = check_share(fit.rows, fit.problem, fit.solution)
        warnings += [share_test.describe()] if share_test is not None else []
    warnings = [text for text in warnings if text]
    return replace(fit, choices=choices, share_test=share_test, warnings=tuple(warnings))


def _solve_without_odd_stars(
    rows: Rows, problem: Problem
) -> tuple[Problem, Solution, tuple[StarResult, ...]]:
    """Solve, with no say for the stars that depart from the others."""
    solution = solve(problem)
    odd: set[str] = set()
    for _ in range(_MOST_REJECTIONS):
        widths = count_information(problem, solution.widths)
        inverse = make_inverse(make_normal(problem, widths, solution.jacobian))
        stars = judge_stars(rows, problem, solution, widths, inverse)
        found = {s.name for s in stars if s.verdict in ("offset", "slope")}
        if found <= odd:
            break
        odd |= found
        problem = replace(problem, ignored=find_star_effects(problem.effects, odd))
        solution = solve(problem, widths=solution.widths, start=solution.values)
    if odd:
        # What is odd is rarely a plain slope: their filters are left free as well.
        ignored = find_star_effects(problem.effects, odd, every=True)
        problem = replace(problem, ignored=ignored)
        solution = solve(problem, widths=solution.widths, start=solution.values)
    return problem, solution, stars


def _make_fit(
    rows: Rows,
    layout: Layout,
    problem: Problem,
    solution: Solution,
    stars: tuple[StarResult, ...],
    forms: dict[str, tuple[str, ...]],
    choices: tuple[FormChoice, ...],
    settings: Mapping[str, float | str],
) -> FluxFit:
    """Turn a solution into what is reported."""
    n_units, n_linear = len(rows.units), layout.linear.shape[1]
    n_parameters = n_linear + len(problem.time.names)
    honest = count_information(problem, solution.widths)
    normal = make_normal(problem, honest, solution.jacobian)
    inverse = make_inverse(normal)
    covariance = invert_normal(normal, n_units, n_parameters)
    budget = _split_error(problem, honest, solution, inverse, layout, n_units)
    budget["form"] = np.sqrt(measure_spread(choices, rows.units, np.zeros(1))[:, 0])
    covariance = _add_systematics(covariance, rows, settings, budget)
    parameters = solution.values[:n_parameters]
    unit_error = np.sqrt(covariance.propagate(sparse.eye(n_units, n_parameters, format="csr")))
    factor = np.exp(parameters[:n_units])
    mjd = rows.take("mjd")
    known = mjd[np.isfinite(mjd)]
    residual, weight, noise = _spread(rows, problem, solution)
    return FluxFit(
        rows.measurements,
        rows,
        rows.units,
        factor,
        factor * unit_error,
        problem.time.make_throughputs(parameters[n_linear:]),
        rows.t0_mjd,
        float(known.min()) if len(known) else np.nan,
        float(known.max()) if len(known) else np.nan,
        (*layout.names, *problem.time.names),
        parameters,
        covariance,
        _report_subarrays(rows, layout, parameters, covariance),
        _report_classes(rows, layout, parameters, covariance),
        stars,
        residual,
        weight,
        noise,
        _name_widths(problem, solution.widths),
        budget,
        forms,
        choices,
        settings,
        solution.n_iterations,
        solution.converged,
        layout,
        problem,
        solution,
        None,
        (),
    )


def _split_error(
    problem: Problem,
    widths: Widths,
    solution: Solution,
    inverse: Inverse,
    layout: Layout,
    n_units: int,
) -> dict[str, np.ndarray]:
    """Split the error of ln C of each unit between what causes it."""
    n_linear = problem.linear.shape[1]
    precision = compute_precision(problem, widths)
    formal = problem.sigma**2 / (problem.sigma**2 + widths.jitter[problem.jitter] ** 2)
    matrix, _ = make_penalty(problem, widths)
    classes = range(n_linear)[layout.class_columns]
    labels = np.array(
        # Factors themselves have no prior, so that theirs is no share.
        ["classes" if k in classes else "subarrays" for k in range(n_linear)]
        + ["throughput priors"] * problem.time.prior.shape[0]
        + [problem.effects.families[k].name for k in problem.effects.family]
    )
    parts = {
        name: np.zeros(n_units) for name in ("noise", "jitter", *sorted(set(map(str, labels))))
    }
    noise = solution.jacobian.T @ sparse.diags(precision * formal) @ solution.jacobian
    for begin in range(0, n_units, 256):
        block = np.arange(begin, min(begin + 256, n_units))
        unit = np.zeros((solution.jacobian.shape[1], len(block)))
        unit[block, np.arange(len(block))] = 1.0
        image = inverse(unit)
        parts["noise"][block] = np.sum(image * (noise @ image), axis=0)
        # What is left of the whole, which is the diagonal of the inverse.
        left = image[block, np.arange(len(block))] - parts["noise"][block]
        priors = (matrix @ image) ** 2
        for name in set(map(str, labels)):
            parts[name][block] = priors[labels == name].sum(axis=0)
            left -= parts[name][block]
        parts["jitter"][block] = left
    return {name: np.sqrt(np.maximum(value, 0.0)) for name, value in parts.items()}


def _add_systematics(
    covariance: Covariance,
    rows: Rows,
    settings: Mapping[str, float | str],
    budget: dict[str, np.ndarray],
) -> Covariance:
    """Add the errors of the form of f(t), aperture corrections and the scale of all models."""
    n = len(rows.units)
    image = np.array([u.band.mode.kind not in SPECTRAL for u in rows.units])
    budget["apcorr"] = np.where(image, float(settings["apcorr_err"]), 0.0)
    budget["model"] = np.full(n, float(settings["model_err"]))
    independent = covariance.independent.copy()
    independent[:n] += budget["apcorr"] ** 2 + budget["form"] ** 2
    column = np.zeros((len(independent), 1))
    column[:n, 0] = budget["model"]
    return Covariance(independent, np.hstack([covariance.factor, column]))


def _spread(
    rows: Rows, problem: Problem, solution: Solution
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residuals, weights and noise of all rows given, NaN where unused."""
    n = len(rows.measurements.band)
    residual, weight, noise = (np.full(n, np.nan) for _ in range(3))
    begin = problem.linear.shape[1] + len(problem.time.names)
    effects = problem.effects.design @ solution.values[begin:]
    residual[rows.index] = solution.residual + effects
    weight[rows.index] = solution.widths.row_weight
    noise[rows.index] = solution.residual
    return residual, weight, noise


def _report_subarrays(
    rows: Rows, layout: Layout, parameters: np.ndarray, covariance: Covariance
) -> tuple[SubarrayResponse, ...]:
    subarray, star = rows.take("subarray").astype(str), rows.take("star").astype(str)
    out = []
    for column, (group, name) in layout.subarrays.items():
        own = np.zeros((1, len(parameters)))
        own[0, column] = 1.0
        error = float(np.sqrt(covariance.propagate(own)[0]))
        response = float(np.exp(parameters[column]))
        prior = float(np.exp(layout.prior_mean[column]))
        prior_error = prior * float(layout.prior_sigma[column])
        mine = (subarray == name) & (rows.group == group)
        n_stars = len(set(star[mine]))
        out.append(
            SubarrayResponse(group, name, response, response * error, prior, prior_error, n_stars)
        )
    return tuple(out)


def _report_classes(
    rows: Rows, layout: Layout, parameters: np.ndarray, covariance: Covariance
) -> tuple[ClassOffset, ...]:
    star_class, star = rows.take("star_class").astype(str), rows.take("star").astype(str)
    out = []
    for k, name in enumerate(layout.classes):
        own = np.zeros((1, len(parameters)))
        own[0, layout.class_columns] = layout.contrasts[k]
        offset = float(layout.contrasts[k] @ parameters[layout.class_columns])
        error = float(np.sqrt(covariance.propagate(own)[0]))
        out.append(ClassOffset(name, offset, error, len(set(star[star_class == name]))))
    return tuple(out)


def _name_widths(problem: Problem, widths: Widths) -> dict[str, float]:
    """Widths as standard deviations."""
    out = {}
    for f, width in zip(problem.effects.families, widths.family, strict=True):
        out[f.name] = float(width * (np.sqrt(f.nu / (f.nu - 2)) if np.isfinite(f.nu) else 1.0))
    scale = np.sqrt(NU_ROW / (NU_ROW - 2))
    for name, width in zip(problem.jitter_names, widths.jitter, strict=True):
        out[f"jitter {name}"] = float(width * scale)
    return out
