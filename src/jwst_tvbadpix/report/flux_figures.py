"""Figures of a flux calibration: factors with time, by star and by class; stars; residuals.

Each takes the fit (`FluxFit`), its product (`AbsFluxModel`) or the product with the tables beside
it (`read_flux_record`); what shows single measurements needs the first or the last.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..fluxcal import StarResult
from .flux_record import FluxRecord, take_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CLASS_COLOURS",
    "MOST_PANELS",
    "RESIDUALS",
    "find_levels",
    "plot_factor",
    "plot_factors",
    "plot_residuals",
    "plot_response",
    "plot_slopes",
    "plot_star_factor",
    "plot_star_factors",
    "plot_stars",
    "plot_throughput",
]

# Okabe & Ito's palette, safe for the colour-blind.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# One more than colours: no two of many modes look the same.
MARKERS = "osD^vP*X"
# Colour and marker of each class of stars.
CLASS_COLOURS = {
    "hot": "#0072B2",
    "adwarf": "#009E73",
    "solar": "#E69F00",
    "asteroid": "#CC79A7",
    "": "#000000",
}
_CLASS_MARKERS = dict(zip(CLASS_COLOURS, "^osDx", strict=True))
_VERDICTS = {"ok": "#0072B2", "offset": "#D55E00", "slope": "#CC79A7", "variable": "#E69F00"}
# Space between the curves of modes.
_STEP = 0.04
# Modes that are shown in one figure.
MOST_PANELS = 12
# Column of the measurements -> what residuals are shown against.
RESIDUALS = {"mjd": "year", "flux_jy": "model flux [Jy]", "wave": "wavelength [um]"}
# Factors that differ by more than this many times are drawn in logarithms.
_LOG_RATIO = 20.0
# Values of x up to which each has its own median.
_FEW_VALUES = 15
# Robust weight below which a measurement is drawn as one that has little say.
_LITTLE_SAY = 0.3


def plot_throughput(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the throughput of each mode with its 1-sigma error, and what the visits say.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional
        Drawn on; made when absent.

    Notes
    -----
    The mean of each star is taken away. Of a spectrum's bins the middle one is shown. Curves are
    moved apart by 4 per cent; of more than twelve modes the first are shown.
    """
    record, ax = take_record(given), get_axes(ax)
    times = _list_times(record, 0.0)
    if times is None:
        ax.set(title="no dates", xlabel="year", ylabel="throughput relative to t0")
        return ax
    modes = record.modes
    years = _make_years(times)
    for number, (label, units) in enumerate(list(modes.items())[:MOST_PANELS]):
        unit = units[len(units) // 2]
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number % len(MARKERS)]
        shift = -_STEP * number
        factor, error = record.predict(unit, times)
        relative = record.factor[unit] / factor
        band = relative * error / factor
        ax.fill_between(
            years, relative - band + shift, relative + band + shift, color=colour, alpha=0.25
        )
        ax.plot(years, relative + shift, color=colour)
        ax.plot([], [], f"-{marker}", ms=3, color=colour, label=label)
        if record.visits is None:
            continue
        mine = _select(record, units[len(units) // 2 :][:1], dated=True)
        seen = record.throughputs[unit].evaluate(record.visits["mjd"][mine])
        seen = seen * np.exp(_take_means(record, mine))
        ax.plot(
            _make_years(record.visits["mjd"][mine]),
            seen + shift,
            marker,
            ms=3,
            color=colour,
        )
    ax.set(
        xlabel="year",
        ylabel=f"throughput relative to t0, moved by {_STEP:g}",
        title=f"{record.model.fit.n_used} measurements, "
        f"{min(len(modes), MOST_PANELS)} of {len(modes)} modes",
    )
    ax.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return ax


def plot_factor(given: Any, mode: str, ax: "Axes | None" = None) -> "Axes":
    """Plot the factor of a mode with time: the fit, its 1-sigma band, each measurement by class.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    mode : str
        Label: one of ``take_record(given).modes``.
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        There is no such mode.

    Notes
    -----
    Measurements are scaled to FULL; open symbols have little say (robust weight below 0.3). Of a
    spectrum's bins the middle one is shown. The fit goes on, dotted, for a year beyond the last.
    """
    record, ax = take_record(given), get_axes(ax)
    units = find_mode(record, mode)
    unit = units[len(units) // 2]
    times = _list_times(record, 365.0)
    ax.set(title=mode, xlabel="year", ylabel=f"C [{record.factor_units[unit]}]")
    if times is None:
        ax.set(title=f"{mode}: no dates")
        return ax
    factor, error = record.predict(unit, times)
    years = _make_years(times)
    inside = times <= record.last_mjd
    ax.fill_between(years, factor - error, factor + error, color="0.6", alpha=0.5, lw=0)
    ax.plot(years[inside], factor[inside], "k-", lw=1)
    ax.plot(years[~inside], factor[~inside], "k:", lw=1)
    if record.visits is None:
        return ax
    mine = _select(record, units[len(units) // 2 :][:1], dated=True)
    mjd = np.asarray(record.visits["mjd"][mine], float)
    seen = record.predict(unit, mjd)[0] * np.exp(-record.departures[mine])
    ax.set(title=f"{mode} (n = {mine.sum()})")
    weight = np.asarray(record.visits["weight"][mine], float)
    for name, chosen in _split(record.visits["srctype"][mine]):
        for part, fill in ((weight >= _LITTLE_SAY, "full"), (weight < _LITTLE_SAY, "none")):
            both = chosen & part
            ax.plot(
                _make_years(mjd[both]),
                seen[both],
                _CLASS_MARKERS.get(name, "o"),
                ms=3,
                fillstyle=fill,
                color=CLASS_COLOURS.get(name, "#000000"),
                label=f"{name or 'no class'} ({chosen.sum()})" if fill == "full" else None,
            )
    ax.legend(fontsize=6)
    return ax


def plot_star_factor(given: Any, mode: str, ax: "Axes | None" = None) -> "Axes":
    """Plot the factor that each star gives in a mode, by class, with the fit and its 1-sigma band.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    mode : str
        Label: one of ``take_record(given).modes``.
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        There is no such mode, or there are no measurements.

    Notes
    -----
    The change with time is taken away; dashed: median of each class. Error bars are the scatter of
    a star's visits over the root of their number; of a spectrum all bins are averaged.
    """
    record, ax = take_record(given), get_axes(ax)
    units = find_mode(record, mode)
    visits = _require_visits(record)
    where = units[len(units) // 2]
    level, error = float(record.factor[where]), float(record.error[where])
    mine = _select(record, units)
    ax.axhspan(level - error, level + error, color="0.6", alpha=0.5, lw=0)
    ax.axhline(level, color="k", lw=1)
    names: list[str] = []
    for name, chosen in _split(visits["srctype"][mine]):
        stars, mean, err = find_levels(record, np.flatnonzero(mine)[chosen])
        colour = CLASS_COLOURS.get(name, "#000000")
        x = np.arange(len(names), len(names) + len(stars))
        ax.errorbar(
            x,
            level * np.exp(-mean),
            yerr=level * err,
            fmt=_CLASS_MARKERS.get(name, "o"),
            ms=4,
            color=colour,
            label=name or "no class",
        )
        middle = level * np.exp(-np.median(mean))
        ax.hlines(middle, x[0] - 0.4, x[-1] + 0.4, color=colour, ls="--", lw=1)
        names += stars
    ax.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
    ax.set(
        ylabel=f"C at t0 [{record.factor_units[where]}]",
        title=f"{mode} (n = {mine.sum()})",
    )
    ax.title.set_fontsize(9)
    ax.legend(fontsize=6)
    return ax


def plot_factors(given: Any) -> "Figure":
    """Plot the factor of every mode with time; of more than twelve the first."""
    record = take_record(given)
    modes = list(record.modes)[:MOST_PANELS]
    return draw_grid([partial(plot_factor, record, m) for m in modes], 3.0)


def plot_star_factors(given: Any) -> "Figure":
    """Plot the factor that each star gives in every mode; of more than twelve the first."""
    record = take_record(given)
    modes = list(record.modes)[:MOST_PANELS]
    return draw_grid([partial(plot_star_factor, record, m) for m in modes], 3.6)


def plot_response(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the factors of all modes against wavelength, with 1-sigma errors.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional
    """
    record, ax = take_record(given), get_axes(ax)
    images: dict[str, list[int]] = {}
    for number, (label, units) in enumerate(record.modes.items()):
        unit, mode = record.factor_units[units[0]], record.units[units[0]].band.mode
        if len(units) == 1:
            images.setdefault(f"{mode.detector} {mode.kind} [{unit}]", []).append(units[0])
            continue
        scale = np.median(record.factor[units])
        _draw_factors(ax, record, units, scale, "-", number, f"{label} / {scale:.4g} {unit}")
    for number, (label, mine) in enumerate(images.items()):
        _draw_factors(
            ax, record, np.array(mine), 1.0, MARKERS[number % len(MARKERS)], number, label
        )
        for k in mine:
            mode = record.units[k].band.mode
            ax.annotate(
                mode.filter,
                (record.units[k].band.wave, record.factor[k]),
                (0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=6,
            )
    ax.set(
        xlabel="wavelength [um]",
        ylabel="C at t0, spectra over their median",
        title=f"factors: {len(record.units)}, modes: {len(record.modes)}",
    )
    ax.margins(y=0.12)
    shown = record.factor[np.isfinite(record.factor)]
    if len(shown) and shown.max() > _LOG_RATIO * shown.min():
        ax.set_yscale("log")
    if len(ax.containers) <= MOST_PANELS:
        ax.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return ax


def _draw_factors(
    ax: "Axes",
    record: FluxRecord,
    units: np.ndarray,
    scale: float,
    fmt: str,
    number: int,
    label: str,
) -> None:
    ax.errorbar(
        [record.units[k].band.wave for k in units],
        record.factor[units] / scale,
        yerr=record.error[units] / scale,
        fmt=fmt,
        color=COLOURS[number % len(COLOURS)],
        elinewidth=0.8,
        ms=4,
        label=label,
    )


def plot_stars(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how far each star is from the others in each group of modes, by verdict.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional

    Notes
    -----
    Grey: the 3 sigma beyond which a star is odd, error and scatter of the others.
    """
    stars = take_record(given).stars
    values = [(100 * s.offset, 100 * s.offset_err, 100 * s.offset_scatter) for s in stars]
    ax = _draw_stars(stars, values, get_axes(ax))
    ax.set(
        xlabel="observed over model, relative to the other stars [%]",
        title=f"{len(stars)} stars in their modes; odd beyond 3 sigma (grey)",
    )
    return ax


def plot_slopes(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how each star changes with wavelength against its model, by verdict.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional

    Notes
    -----
    Grey: the 3 sigma beyond which a slope is odd, error and scatter of the others.
    """
    stars = tuple(s for s in take_record(given).stars if np.isfinite(s.slope_per_um))
    values = [(100 * s.slope_per_um, 100 * s.slope_err, 100 * s.slope_scatter) for s in stars]
    ax = _draw_stars(stars, values, get_axes(ax))
    ax.set(
        xlabel="slope of observed over model [% per um]",
        title=f"{len(stars)} slopes; odd beyond 3 sigma (grey)"
        if stars
        else "no star was seen at several wavelengths beside others",
    )
    return ax


def plot_residuals(given: Any, against: str = "mjd", ax: "Axes | None" = None) -> "Axes":
    """Plot observed over fitted of every measurement, by class.

    Parameters
    ----------
    given : FluxFit or FluxRecord
    against : str
        'mjd', 'flux_jy' or 'wave'.
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        `against` is none of these, or there are no measurements.

    Notes
    -----
    Offsets of stars and visits are left in. Lines: median, 16 and 84 per cent of the measurements
    at each x, or where these are many in ten parts of equal number.
    """
    record, ax = take_record(given), get_axes(ax)
    if against not in RESIDUALS:
        raise InputError(f"expected against to be one of {', '.join(RESIDUALS)}, found {against!r}")
    visits = _require_visits(record)
    left = 100 * np.asarray(visits["residual"], float)
    x = np.asarray(visits[against], float)
    known = np.isfinite(left) & np.isfinite(x) & ((x > 0) if against == "flux_jy" else True)
    if against == "mjd":
        x = _make_years(x)
    for name, chosen in _split(np.asarray(visits["srctype"])):
        mine = chosen & known
        ax.plot(
            x[mine],
            left[mine],
            _CLASS_MARKERS.get(name, "o"),
            ms=2.5,
            color=CLASS_COLOURS.get(name, "#000000"),
            label=f"{name or 'no class'} ({mine.sum()})",
            rasterized=len(left) > 5000,
        )
    _draw_running(ax, x[known], left[known])
    ax.axhline(0, color="0.6", lw=1)
    if against != "mjd" and known.any():
        ax.set_xscale("log")
    if against == "wave":  # less than a decade: 6, 10, 20 rather than powers
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
    ax.set(
        xlabel=RESIDUALS[against],
        ylabel="observed over fitted [%]",
        title=f"{known.sum()} measurements" if known.any() else "not known of any measurement",
    )
    ax.legend(fontsize=6)
    return ax


def find_levels(record: FluxRecord, rows: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Average ln(observed/fitted) of rows by visit and star.

    Returns
    -------
    names : list of str
    mean, error : ndarray
        Classes left in; scatter of the visits over the root of their number, 0 with one,
        (n_stars,) float64.
    """
    visits = _require_visits(record)
    left = record.departures[rows]
    sigma = np.asarray(visits["sigma"], float)[rows]
    weight = 1.0 / (sigma**2 + record.scatter[record.unit[rows]] ** 2)
    both = [np.asarray(visits[name])[rows].astype(str) for name in ("name", "visit")]
    keys, which = np.unique(np.stack(both), axis=1, return_inverse=True)
    which = which.ravel()
    of_visit = np.bincount(which, weight * left) / np.bincount(which, weight)
    star, place, count = np.unique(keys[0], return_inverse=True, return_counts=True)
    mean = np.bincount(place, of_visit) / count
    square = np.bincount(place, (of_visit - mean[place]) ** 2)
    return star.tolist(), mean, np.sqrt(square / np.maximum(count - 1, 1) / count)


def find_mode(record: FluxRecord, mode: str) -> np.ndarray:
    """Find the units of a mode by its label."""
    if mode not in record.modes:
        raise InputError(f"expected a mode of {', '.join(record.modes)}, found {mode!r}")
    return record.modes[mode]


def draw_grid(draw: Iterable[Callable[["Axes"], Any]], height: float) -> "Figure":
    """Draw panels, three in a row of this height [inch]."""
    from matplotlib.figure import Figure

    panels = list(draw)
    n_columns = min(3, max(1, len(panels)))
    n_rows = max(1, -(-len(panels) // n_columns))
    figure = Figure(figsize=(4.4 * n_columns, height * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        panel(ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def get_axes(ax: "Axes | None") -> "Axes":
    """Take what is given, or the current axes."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.gca()


def _make_years(mjd: Any) -> np.ndarray:
    """Turn MJD into Julian years."""
    return 2000.0 + (np.asarray(mjd, float) - 51544.5) / 365.25


def _list_times(record: FluxRecord, beyond: float) -> np.ndarray | None:
    """List dates to draw a curve at [MJD], to some days beyond the last; None without dates."""
    if not np.isfinite(record.first_mjd) or len(record.curve.mjd) == 1:
        return None
    return np.linspace(record.first_mjd, record.last_mjd + beyond, 200)


def _select(record: FluxRecord, units: np.ndarray, *, dated: bool = False) -> np.ndarray:
    """Select the measurements of units that took part, (n_rows,) bool."""
    visits = _require_visits(record)
    mine = np.isin(record.unit, units) & np.isfinite(np.asarray(visits["residual"], float))
    return mine & np.isfinite(np.asarray(visits["mjd"], float)) if dated else mine


def _require_visits(record: FluxRecord) -> Any:
    if record.visits is None:
        raise InputError(
            "expected the measurements (NAME_visits.ecsv beside NAME_absflux.asdf), found none; "
            "give read_flux_record the path, or the fit itself"
        )
    return record.visits


def _take_means(record: FluxRecord, mine: np.ndarray) -> np.ndarray:
    """Residuals of the selected rows less the mean of each star."""
    visits = _require_visits(record)
    left = np.asarray(visits["residual"], float)[mine]
    _, which = np.unique(np.asarray(visits["name"]).astype(str)[mine], return_inverse=True)
    return left - (np.bincount(which, left) / np.maximum(np.bincount(which), 1))[which]


def _split(keys: Any) -> list[tuple[str, np.ndarray]]:
    """Each value and where it is, in the order of the classes."""
    keys = np.asarray(keys).astype(str)
    known = [name for name in CLASS_COLOURS if name in keys]
    names = [*known, *sorted(set(keys.tolist()) - set(known))]
    return [(name, keys == name) for name in names]


def _draw_stars(
    stars: tuple[StarResult, ...], values: list[tuple[float, float, float]], ax: "Axes"
) -> "Axes":
    """Draw a value of each star with its error, and the limits beyond which it is odd."""
    labels = [f"{star.name}, {star.group}" for star in stars]
    for k, (_, error, scatter) in enumerate(values):
        ax.barh(k, 6 * np.hypot(error, scatter), left=-3 * np.hypot(error, scatter), color="0.9")
    for verdict, colour in _VERDICTS.items():
        mine = [k for k, star in enumerate(stars) if star.verdict == verdict]
        if mine:
            ax.errorbar(
                [values[k][0] for k in mine],
                mine,
                xerr=[values[k][1] for k in mine],
                fmt="o",
                ms=4,
                color=colour,
                label=f"{verdict} ({len(mine)})",
            )
    ax.axvline(0, color="0.6", lw=1)
    ax.set_yticks(range(len(labels)), labels, fontsize=6)
    if labels:
        ax.legend(fontsize=7)
    return ax


def _draw_running(ax: "Axes", x: np.ndarray, y: np.ndarray) -> None:
    """Draw the median, and the 16 and 84 per cent: at each x of few, else in ten parts."""
    order = np.argsort(x, kind="stable")
    values, begin = np.unique(x[order], return_index=True)
    few = len(values) <= _FEW_VALUES
    parts = np.split(order, begin[1:]) if few else np.array_split(order, 10)
    if len(x) < 5 * len(parts):
        return
    middle = [np.median(x[part]) for part in parts]
    for share, style in ((50, "-"), (16, "--"), (84, "--")):
        ax.plot(middle, [np.percentile(y[part], share) for part in parts], "k" + style, lw=0.8)
