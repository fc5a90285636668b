"""What a joint fit gives: factors, throughputs, errors, and how the stars fared."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from .checks import ShareTest
from .covariance import Covariance
from .factors import Factor
from .forms import FormChoice, measure_spread
from .measurements import Measurements
from .model import Layout
from .modes import Band
from .rows import SPECTRAL, Rows, Unit, name_group
from .solver import Problem, Solution
from .stars import StarResult
from .throughput import Throughput

__all__ = ["MOST_SHORTFALL", "CalibrationCurve", "ClassOffset", "FluxFit", "SubarrayResponse"]

# How many times the formal errors the scatter may be before they are said not to account for it.
MOST_SHORTFALL = 2.0


@dataclass(frozen=True, slots=True)
class SubarrayResponse:
    """Response of a subarray relative to FULL; its factor is that of FULL divided by it.

    Attributes
    ----------
    group, subarray : str
        'MIRI imaging', 'SUB256'.
    response, error : float
    prior, prior_error : float
    n_stars : int
    """

    group: str
    subarray: str
    response: float
    error: float
    prior: float
    prior_error: float
    n_stars: int


@dataclass(frozen=True, slots=True)
class ClassOffset:
    """Mean ln(observed/model) of a class of stars about the mean of the classes.

    Attributes
    ----------
    star_class : str
    offset, error : float
    n_stars : int
    """

    star_class: str
    offset: float
    error: float
    n_stars: int


@dataclass(frozen=True, slots=True)
class CalibrationCurve:
    """Factors with time.

    Attributes
    ----------
    mjd : ndarray
        (n_times,) float64.
    factor, error : ndarray
        Factor and its 1-sigma error, in the unit of the factors, (n_units, n_times) float64.
    extrapolated : ndarray
        Whether a time lies outside those of the measurements, (n_times,) bool.
    """

    mjd: np.ndarray
    factor: np.ndarray
    error: np.ndarray
    extrapolated: np.ndarray


@dataclass(frozen=True, slots=True)
class FluxFit:
    """Result of a joint fit.

    Attributes
    ----------
    measurements : Measurements
        All rows, sorted, with `used` and `reason` as they came out.
    rows : Rows
        Those that took part.
    units : tuple of Unit
        What has a factor: a band, of one subarray for LRS and neutral densities.
    factor, error : ndarray
        Factors at `t0_mjd` and their 1-sigma errors [MJy/sr or MJy per DN/s], (n_units,) float64.
    throughputs : tuple of Throughput
        Of each unit.
    t0_mjd, first_mjd, last_mjd : float
        Epoch of the factors, first and last measurement [MJD]; the latter NaN without dates.
    parameter_names : tuple of str
        ln C of each unit, subarrays, classes, throughput.
    parameters : ndarray
        (n_parameters,) float64.
    parameter_covariance : Covariance
        Stars, visits and all else marginalised, `apcorr_err` and `model_err` included.
    subarrays : tuple of SubarrayResponse
    classes : tuple of ClassOffset
    stars : tuple of StarResult
    residual, weight : ndarray
        ln(observed/fitted) of all rows of `measurements` with no star or visit effect taken away,
        and robust weight (1 typical, 0 ignored); NaN where unused, (n_rows,) float64.
    noise : ndarray
        The residual when the effects of stars and visits are taken away too, (n_rows,) float64.
    widths : mapping
        Name of each random effect -> its 1-sigma width [ln].
    budget : mapping
        Source -> its share of the error of ln C of each unit, (n_units,) float64.
    forms : mapping
        Detector -> forms of its throughput.
    choices : tuple of FormChoice
        How they were chosen, or compare with others where they were given.
    settings : mapping
    n_iterations : int
    converged : bool
    layout : Layout
    problem : Problem
    solution : Solution
        What was solved, for leaving parts out.
    share_test : ShareTest or None
        Of one loss for all modes, where that was asked for.
    warnings : tuple of str
        Settings that the measurements speak against.
    """

    measurements: Measurements
    rows: Rows
    units: tuple[Unit, ...]
    factor: np.ndarray
    error: np.ndarray
    throughputs: tuple[Throughput, ...]
    t0_mjd: float
    first_mjd: float
    last_mjd: float
    parameter_names: tuple[str, ...]
    parameters: np.ndarray
    parameter_covariance: Covariance
    subarrays: tuple[SubarrayResponse, ...]
    classes: tuple[ClassOffset, ...]
    stars: tuple[StarResult, ...]
    residual: np.ndarray
    weight: np.ndarray
    noise: np.ndarray
    widths: Mapping[str, float]
    budget: Mapping[str, np.ndarray]
    forms: Mapping[str, tuple[str, ...]]
    choices: tuple[FormChoice, ...]
    settings: Mapping[str, float | str]
    n_iterations: int
    converged: bool
    layout: Layout
    problem: Problem
    solution: Solution
    share_test: ShareTest | None
    warnings: tuple[str, ...]

    @property
    def predictive_scatter(self) -> np.ndarray:
        """1-sigma departure of a star and visit not seen before from the fit, (n_units,) float64.

        The widths of stars, slopes, visits and jitter; without the errors of the factors.
        """
        rows, effects = self.rows, self.problem.effects
        first = {int(u): k for k, u in reversed(list(enumerate(rows.unit)))}
        out = np.zeros(len(self.units))
        for k, unit in enumerate(self.units):
            row = first[k]
            names = {
                "star": 1.0,
                "slope": np.log(unit.band.wave / effects.wave0),
                "star in group": 1.0,
                f"visit {rows.group[row]}": 1.0,
                f"star in filter {rows.group[row]}": 1.0,
                f"visit in {rows.cell[row]}": 1.0,
                f"jitter {rows.cell[row]}": 1.0,
            }
            out[k] = np.sqrt(sum((self.widths.get(n, 0.0) * x) ** 2 for n, x in names.items()))
        return out

    @property
    def shortfall(self) -> dict[str, float]:
        """Filter or piece of spectrum -> how many times its formal errors the scatter is."""
        rows = self.rows
        ratio = self.predictive_scatter[rows.unit] / rows.sigma
        return {str(c): float(np.median(ratio[rows.cell == c])) for c in sorted(set(rows.cell))}

    def describe_errors(self) -> str:
        """Say how the formal errors compare with the scatter of stars and visits."""
        group = dict(zip(self.rows.cell, self.rows.group, strict=True))
        found = self.shortfall
        parts = []
        for name in sorted(set(group.values())):
            ratios = [ratio for cell, ratio in found.items() if group[cell] == name]
            parts.append(
                f"{name}: the scatter of stars and visits is {min(ratios):.1f} to "
                f"{max(ratios):.1f} times the formal errors; the jitter of visits found here "
                "counts instead of them"
                if max(ratios) > MOST_SHORTFALL
                else f"{name}: formal errors account for the scatter"
            )
        return "; ".join(parts)

    @property
    def bands(self) -> tuple[Band, ...]:
        """Band of each unit."""
        return tuple(u.band for u in self.units)

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of `parameters`, (n_parameters, n_parameters) float64."""
        return self.parameter_covariance.make_dense()

    def predict(self, mjd: np.ndarray | float) -> CalibrationCurve:
        """Compute the factor of each unit at any date, with its error.

        The error has that of the form of the throughput in it, where it was chosen and not given.

        Parameters
        ----------
        mjd : ndarray or float
            Dates [MJD], (n_times,).

        Returns
        -------
        CalibrationCurve
        """
        times = np.atleast_1d(np.asarray(mjd, np.float64))
        ln_c, jacobian = self.describe(times)
        n = len(self.units)
        variance = self.parameter_covariance.propagate(jacobian).reshape(n, len(times))
        # That of the forms at t0 is in the covariance already.
        compared = self.choices if self.settings["time_form"] == "auto" else ()
        spread = measure_spread(compared, self.units, np.append(0.0, times - self.t0_mjd))
        error = np.sqrt(np.maximum(variance + spread[:, 1:] - spread[:, :1], 0.0))
        factor = np.exp(ln_c).reshape(n, len(times))
        outside = ~((times >= self.first_mjd) & (times <= self.last_mjd))
        if not any(self.forms.values()):
            outside = np.zeros(len(times), bool)
        return CalibrationCurve(times, factor, factor * error, outside)

    def describe(self, mjd: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
        """Compute ln C of each unit at dates and its derivatives by `parameters`.

        Parameters
        ----------
        mjd : ndarray
            (n_times,) float64.

        Returns
        -------
        ndarray
            (n_units * n_times,) float64, unit by unit.
        sparse matrix
            (n_units * n_times, n_parameters).
        """
        n, n_linear = len(self.units), self.layout.linear.shape[1]
        unit = np.repeat(np.arange(n), len(mjd))
        days = np.tile(mjd - self.t0_mjd, n)
        time = self.problem.time
        ln_f, slope = time.evaluate(self.parameters[n_linear:], time.expand(unit), days)
        own = sparse.csr_matrix(
            (np.ones(len(unit)), (np.arange(len(unit)), unit)), (len(unit), n_linear)
        )
        return self.parameters[:n][unit] - ln_f, sparse.hstack([own, -slope], format="csr")

    def list_factors(self) -> list[Factor]:
        """List the rows of photom references that the fit gives.

        Returns
        -------
        list of Factor
            For images FULL and each subarray seen in the same group of modes; for spectra one for
            each mode and subarray, over its wavelengths; for MRS one for each wavelength.
        """
        return [*self._list_images(), *self._list_spectra()]

    def _list_images(self) -> list[Factor]:
        out = []
        for k, unit in enumerate(self.units):
            mode = unit.band.mode
            if mode.kind in SPECTRAL and mode.kind != "mrs":
                continue
            value, error = float(self.factor[k]), float(self.error[k])
            factor = Factor(mode, unit.reference, value, error, self.throughputs[k])
            if mode.kind == "mrs":
                factor = replace(
                    factor,
                    wave=np.array([unit.band.wave]),
                    relresponse=np.ones(1),
                    reluncertainty=np.array([error / value]),
                )
            out.append(factor)
            for name, value, error in self._scale_subarrays(k):
                out.append(Factor(mode, name, value, error, self.throughputs[k]))
        return out

    def _scale_subarrays(self, k: int) -> list[tuple[str, float, float]]:
        """Factors of the subarrays that scale with a unit's."""
        unit, out = self.units[k], []
        if unit.subarray:
            return []
        for column, key in self.layout.subarrays.items():
            if key[0] != name_group(unit.band):
                continue
            both = np.zeros((1, len(self.parameters)))
            both[0, k], both[0, column] = 1.0, -1.0
            value = float(np.exp(self.parameters[k] - self.parameters[column]))
            error = value * float(np.sqrt(self.parameter_covariance.propagate(both)[0]))
            out.append((key[1], value, error))
        return out

    def _list_spectra(self) -> list[Factor]:
        out = []
        keys = {(u.band.mode, u.reference) for u in self.units}
        for mode, subarray in sorted(k for k in keys if k[0].kind in SPECTRAL):
            if mode.kind == "mrs":
                continue
            mine = [
                k
                for k, u in enumerate(self.units)
                if u.band.mode == mode and u.reference == subarray
            ]
            wave = np.array([self.units[k].band.wave for k in mine])
            order = np.argsort(wave, kind="stable")
            mine, wave = [mine[k] for k in order], wave[order]
            middle = mine[len(mine) // 2]
            value = float(self.factor[middle])
            out.append(
                Factor(
                    mode,
                    subarray,
                    value,
                    float(self.error[middle]),
                    self.throughputs[middle],
                    wave,
                    self.factor[mine] / value,
                    self.error[mine] / value,
                )
            )
            for name, sub_value, sub_error in self._scale_subarrays(middle):
                out.append(replace(out[-1], subarray=name, value=sub_value, uncertainty=sub_error))
        return out
