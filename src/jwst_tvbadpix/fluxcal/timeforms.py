"""The logarithm of the throughput, ln f(t), and its derivatives, for many bands at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..errors import InputError
from .throughput import YEAR_DAYS, Throughput

__all__ = ["FORMS", "SHARES", "TimeModel", "allow_form", "make_time_model", "parse_form"]

FORMS = ("linear", "exponential", "powerlaw")
SHARES = ("smooth", "common", "free")

# Priors (mean, sigma): loss [1/yr], ln(amplitude), ln(tau/d), its slope with ln(wavelength), alpha,
# ln(tsoft/d). Wide beside the losses seen (0.2 %/yr to 50 % in a year): they keep what the data do
# not say from running away, and hold where the amplitude is nil and tau means nothing.
_TAU_DAYS = 200.0
_PRIORS = {
    "loss_per_year": (0.0, 0.05),
    "ln_amplitude": (np.log(0.02), 2.0),
    "ln_tau": (np.log(_TAU_DAYS), 0.7),
    "tau_slope": (0.0, 0.1),
    "alpha": (0.0, 0.5),
    "ln_tsoft": (np.log(100.0), 1.5),
}
_BOUNDS = {
    "loss_per_year": (-0.3, 0.3),
    "ln_amplitude": (np.log(1e-6), np.log(0.95)),
    "ln_tau": (np.log(10.0), np.log(5000.0)),
    "tau_slope": (-2.0, 2.0),
    "alpha": (-3.0, 3.0),
    "ln_tsoft": (0.0, np.log(10000.0)),
}
# Departure of a knot of ln(amplitude) or alpha from the line through its neighbours. A loss grows
# with wavelength over decades, so that its logarithm is what is smooth.
_SMOOTHNESS = {"ln_amplitude": 0.3, "alpha": 0.02}
_MOST_KNOTS = 12


@dataclass(frozen=True, slots=True)
class TimeModel:
    """Parameters of f(t) and how they make loss, amplitude, tau, alpha and tsoft of each unit.

    Attributes
    ----------
    t0_mjd : float
    names, kinds : tuple of str
        Of each parameter: 'loss_per_year', 'ln_amplitude MIRI MIRIMAGE 25.23 um', ...; and kind.
    maps : mapping
        'loss_per_year', 'ln_amplitude', 'ln_tau', 'alpha', 'ln_tsoft' -> (n_units, n_parameters)
        csr: values of the units are ``map @ parameters``.
    prior : sparse matrix
        Rows whose product with the parameters is ``prior_mean`` +- 1, (n_prior, n_parameters).
    prior_mean : ndarray
        (n_prior,) float64.
    lower, upper, start : ndarray
        Bounds and first guess, (n_parameters,) float64.
    has : mapping
        Form -> whether each unit has it, (n_units,) bool.
    """

    t0_mjd: float
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    maps: Mapping[str, sparse.csr_matrix]
    prior: sparse.csr_matrix
    prior_mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    start: np.ndarray
    has: Mapping[str, np.ndarray]

    def expand(self, unit: np.ndarray) -> dict[str, sparse.csr_matrix]:
        """Repeat the maps for rows: (n, n_parameters) each, of the unit of each row, (n,) int."""
        return {name: m[unit].tocsr() for name, m in self.maps.items()}

    def evaluate(
        self,
        parameters: np.ndarray,
        maps: Mapping[str, sparse.csr_matrix],
        days: np.ndarray,
        *,
        derivatives: bool = True,
    ) -> tuple[np.ndarray, sparse.csr_matrix]:
        """Evaluate ln f and its derivatives by the parameters.

        Parameters
        ----------
        parameters : ndarray
            (n_parameters,) float64.
        maps : mapping
            As from `expand`.
        days : ndarray
            Time since t0 of each row [day], (n,) float64; NaN counts as t0.
        derivatives : bool
            Whether the Jacobian is made; else it is empty.

        Returns
        -------
        ndarray
            ln f, (n,) float64; -inf where f is not positive.
        sparse matrix
            Jacobian, (n, n_parameters).
        """
        d = np.where(np.isfinite(days), days, 0.0)
        value = {name: m @ parameters for name, m in maps.items()}
        total, slopes = np.zeros(len(d)), {}
        with np.errstate(divide="ignore", invalid="ignore"):
            if self.has["linear"].any():
                f = 1.0 - value["loss_per_year"] * d / YEAR_DAYS
                total += np.log(np.maximum(f, 0.0))
                slopes["loss_per_year"] = -d / YEAR_DAYS / f
            if self.has["exponential"].any():
                scaled = d * np.exp(-value["ln_tau"])
                e = np.exp(np.minimum(-scaled, 50.0))
                has = np.diff(maps["ln_amplitude"].indptr) > 0
                amplitude = np.where(has, np.exp(value["ln_amplitude"]), 0.0)
                f = 1.0 - amplitude * (1.0 - e)
                total += np.log(np.maximum(f, 0.0))
                slopes["ln_amplitude"] = -amplitude * (1.0 - e) / f
                slopes["ln_tau"] = amplitude * e * scaled / f
            if self.has["powerlaw"].any():
                soft = np.exp(value["ln_tsoft"])
                base = (d + soft) / soft
                log_base = np.log(np.maximum(base, 0.0))
                total += np.where(value["alpha"] == 0, 0.0, value["alpha"] * log_base)
                total[(base <= 0) & (value["alpha"] != 0)] = -np.inf
                slopes["alpha"] = log_base
                slopes["ln_tsoft"] = value["alpha"] * (1.0 / base - 1.0)
        jacobian = sparse.csr_matrix((len(d), len(parameters)))
        if derivatives:
            for name, slope in slopes.items():
                jacobian = jacobian + _scale_rows(maps[name], slope)
        return np.where(np.isnan(total), -np.inf, total), jacobian

    def make_throughputs(self, parameters: np.ndarray) -> tuple[Throughput, ...]:
        """Make the throughput of each unit, 1 at t0."""
        values = {name: m @ parameters for name, m in self.maps.items()}
        n = len(next(iter(self.has.values())))
        return tuple(
            self._make_throughput({name: float(v[k]) for name, v in values.items()}, k)
            for k in range(n)
        )

    def _make_throughput(self, value: Mapping[str, float], unit: int) -> Throughput:
        has = {form: bool(h[unit]) for form, h in self.has.items()}
        settings: dict[str, float] = {}
        if has["linear"]:
            settings["loss_per_year"] = value["loss_per_year"]
        if has["exponential"]:
            settings["amplitude"] = float(np.exp(value["ln_amplitude"]))
            settings["tau_days"] = float(np.exp(value["ln_tau"]))
        if has["powerlaw"]:
            soft, alpha = float(np.exp(value["ln_tsoft"])), value["alpha"]
            settings["alpha"], settings["tsoft_days"] = alpha, soft
            settings["year1value"] = float(((YEAR_DAYS + soft) / soft) ** alpha)
        return Throughput(self.t0_mjd, **settings)


def _scale_rows(matrix: sparse.csr_matrix, factor: np.ndarray) -> sparse.csr_matrix:
    """Multiply each row by a number."""
    out = matrix.copy()
    out.data *= np.repeat(factor, np.diff(matrix.indptr))
    return out


def parse_form(time_form: str) -> tuple[str, ...]:
    """Parse 'none' or forms joined by '+'.

    Raises
    ------
    InputError
        A form is unknown.
    """
    parts = [p.strip() for p in time_form.replace("*", "+").split("+")]
    if parts == ["none"]:
        return ()
    unknown = [p for p in parts if p not in FORMS]
    if unknown or len(set(parts)) != len(parts):
        raise InputError(
            f"expected time_form 'auto', 'none' or some of {', '.join(FORMS)} joined by '+', "
            f"found {time_form!r}"
        )
    return tuple(f for f in FORMS if f in parts)


def allow_form(kind: str, form: str) -> bool:
    """Tell whether photom of a mode's kind has a time table of a form."""
    if kind == "mrs":
        return form == "powerlaw"
    return kind != "unknown"


@dataclass(slots=True)
class _Parameters:
    """Parameters as they are added."""

    names: list[str]
    kinds: list[str]
    entries: dict[str, list[tuple[int, int, float]]]
    smooth: list[tuple[list[int], np.ndarray]]

    def add(self, name: str, kind: str) -> int:
        self.names.append(name)
        self.kinds.append(kind)
        return len(self.names) - 1


def make_time_model(
    detector: Sequence[str],
    wave: np.ndarray,
    forms: Sequence[tuple[str, ...]],
    *,
    share: str,
    t0_mjd: float,
    well_seen: np.ndarray,
    first_day: float = 0.0,
) -> TimeModel:
    """Lay out the parameters of f(t).

    Parameters
    ----------
    detector : sequence of str
        Of each unit.
    wave : ndarray
        Wavelength at which the throughput of each unit is [um], (n_units,) float64.
    forms : sequence of tuple of str
        Forms each unit has.
    share : str
        'smooth': one loss per year for all, of each detector amplitude and alpha as a smooth curve
        and tau as a power of wavelength; 'common': all of these one number; 'free': each unit its
        own.
    t0_mjd : float
    well_seen : ndarray
        Units seen at enough dates to carry a knot of the curve, (n_units,) bool.
    first_day : float
        First date since t0 [day]; where it is negative, tsoft is at least as long, because a power
        law has no value before t0 - tsoft.

    Returns
    -------
    TimeModel

    Raises
    ------
    InputError
        `share` is unknown.
    """
    if share not in SHARES:
        raise InputError(f"expected share to be one of {', '.join(SHARES)}, found {share!r}")
    has = {form: np.array([form in f for f in forms], bool) for form in FORMS}
    tables = ("loss_per_year", "ln_amplitude", "ln_tau", "alpha", "ln_tsoft")
    p = _Parameters([], [], {name: [] for name in tables}, [])
    _add_loss(p, np.flatnonzero(has["linear"]), share)
    groups = np.asarray(detector)
    for form, curve, scale in (
        ("exponential", "ln_amplitude", "ln_tau"),
        ("powerlaw", "alpha", "ln_tsoft"),
    ):
        for name in sorted(set(groups[has[form]])):
            units = np.flatnonzero(has[form] & (groups == name))
            _add_curve(p, curve, name, units, wave, share, well_seen)
            _add_scale(p, scale, name, units, wave, share)
    return _assemble(p, len(forms), t0_mjd, has, max(0.0, -first_day))


def _add_loss(p: _Parameters, units: np.ndarray, share: str) -> None:
    if not len(units):
        return
    if share == "free":
        for k in units:
            p.entries["loss_per_year"].append((k, p.add(f"loss_per_year {k}", "loss_per_year"), 1))
        return
    column = p.add("loss_per_year", "loss_per_year")
    p.entries["loss_per_year"] += [(k, column, 1.0) for k in units]


def _add_curve(
    p: _Parameters,
    kind: str,
    detector: str,
    units: np.ndarray,
    wave: np.ndarray,
    share: str,
    well_seen: np.ndarray,
) -> None:
    """Add knots of ln(amplitude) or alpha over ln(wavelength)."""
    if share == "free":
        for k in units:
            p.entries[kind].append((k, p.add(f"{kind} {detector} {k}", kind), 1.0))
        return
    x = np.log(wave[units])
    knots = np.unique(x[well_seen[units]])
    knots = knots if len(knots) else np.unique(x)
    if share == "common":
        knots = knots[:1]
    elif len(knots) > _MOST_KNOTS:
        knots = np.unique(np.quantile(knots, np.linspace(0, 1, _MOST_KNOTS)))
    columns = [p.add(f"{kind} {detector} {np.exp(k):.4g} um", kind) for k in knots]
    for unit, at in zip(units, x, strict=True):
        for column, weight in zip(columns, _interpolate(knots, at), strict=True):
            if weight:
                p.entries[kind].append((unit, column, float(weight)))
    for k in range(1, len(knots) - 1):
        left = (knots[k + 1] - knots[k]) / (knots[k + 1] - knots[k - 1])
        weights = np.array([-left, 1.0, left - 1.0]) / _SMOOTHNESS[kind]
        p.smooth.append((columns[k - 1 : k + 2], weights))


def _interpolate(knots: np.ndarray, at: float) -> np.ndarray:
    """Weights of the knots at a place; the last knot's value beyond it."""
    eye = np.eye(len(knots))
    return np.array([np.interp(at, knots, row) for row in eye])


def _add_scale(
    p: _Parameters, kind: str, detector: str, units: np.ndarray, wave: np.ndarray, share: str
) -> None:
    """Add ln tau or ln tsoft."""
    if share == "free":
        for k in units:
            p.entries[kind].append((k, p.add(f"{kind} {detector} {k}", kind), 1.0))
        return
    column = p.add(f"{kind} {detector}", kind)
    p.entries[kind] += [(k, column, 1.0) for k in units]
    x = np.log(wave[units])
    if share == "smooth" and np.ptp(x) > 0.1:
        slope = p.add(f"{kind} slope {detector}", "tau_slope")
        middle = 0.5 * (x.min() + x.max())
        p.entries[kind] += [(k, slope, float(at - middle)) for k, at in zip(units, x, strict=True)]


def _assemble(
    p: _Parameters, n_units: int, t0_mjd: float, has: Mapping[str, np.ndarray], earlier: float
) -> TimeModel:
    n = len(p.names)
    maps = {}
    for name, entries in p.entries.items():
        rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
        maps[name] = sparse.csr_matrix((values, (rows, columns)), (n_units, n), dtype=float)
    mean, sigma = np.array([_PRIORS[k] for k in p.kinds]).reshape(-1, 2).T
    bounds = np.array([_BOUNDS[k] for k in p.kinds]).reshape(-1, 2)
    soft = np.array([k == "ln_tsoft" for k in p.kinds], bool)
    mean[soft] = np.log(np.exp(mean[soft]) + earlier)
    bounds[soft, 0] = np.log(np.exp(bounds[soft, 0]) + earlier)
    # What is left of an exponential that began before t0.
    decay = np.array([k == "ln_amplitude" for k in p.kinds], bool)
    sigma[decay] = np.hypot(sigma[decay], _PRIORS["ln_tau"][1] * earlier / _TAU_DAYS)
    mean[decay] -= earlier / _TAU_DAYS
    bounds[decay, 0] -= 2 * earlier / _TAU_DAYS
    prior = sparse.lil_matrix((n + len(p.smooth), n))
    prior.setdiag(1.0 / sigma)
    for k, (knots, weights) in enumerate(p.smooth):
        prior[n + k, knots] = weights
    # At no alpha tsoft has no derivative.
    first = {"alpha": -0.03}
    start = np.array([first.get(k, m) for k, m in zip(p.kinds, mean, strict=True)])
    return TimeModel(
        t0_mjd,
        tuple(p.names),
        tuple(p.kinds),
        maps,
        prior.tocsr(),
        np.concatenate([mean / sigma, np.zeros(len(p.smooth))]),
        bounds[:, 0],
        bounds[:, 1],
        start,
        has,
    )
