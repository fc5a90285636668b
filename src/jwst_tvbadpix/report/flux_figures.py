"""Figures of a flux calibration, from the fit alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.time import Time

from ..fluxcal import Dependence, FluxFit, Mode
from ..fluxcal.dependences import QUANTITIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_dependence", "plot_dependences", "plot_fit", "plot_stars", "plot_throughput"]

# Okabe & Ito's palette, safe for the colour-blind.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vP*"
_VERDICTS = {"ok": "#0072B2", "offset": "#D55E00", "slope": "#CC79A7", "variable": "#E69F00"}
# Space between the curves of modes.
_STEP = 0.04
_MOST_MODES = 12


def plot_throughput(fit: FluxFit, ax: "Axes | None" = None) -> "Axes":
    """Plot the throughput of each mode with its 1-sigma error, and what the visits say.

    Parameters
    ----------
    fit : FluxFit
    ax : matplotlib Axes, optional
        Drawn on; made when absent.

    Notes
    -----
    The mean of each star is taken away. Of a spectrum's bins the middle one is shown. Curves are
    moved apart by 4 per cent; of more than twelve modes the first are shown.
    """
    ax = _get_axes(ax)
    chosen = _choose_units(fit)
    rows = fit.rows
    mjd = np.asarray(rows.take("mjd"), float)
    if not np.isfinite(mjd).any():
        ax.set(title="no dates", xlabel="year", ylabel="throughput relative to t0")
        return ax
    times = np.linspace(np.nanmin(mjd), np.nanmax(mjd), 100)
    curve = fit.predict(times)
    residual = fit.residual[rows.index]
    star = rows.take("star")
    for number, (mode, unit) in enumerate(chosen.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        shift = -_STEP * number
        relative = fit.factor[unit] / curve.factor[unit]
        error = relative * curve.error[unit] / curve.factor[unit]
        years = Time(times, format="mjd").decimalyear
        ax.fill_between(
            years, relative - error + shift, relative + error + shift, color=colour, alpha=0.25
        )
        ax.plot(years, relative + shift, color=colour, label=mode.label)
        mine = (rows.unit == unit) & np.isfinite(mjd)
        level = {name: np.mean(residual[mine & (star == name)]) for name in set(star[mine])}
        left = residual[mine] - [level[name] for name in star[mine]]
        seen = fit.throughputs[unit].evaluate(mjd[mine]) * np.exp(left)
        ax.plot(
            Time(mjd[mine], format="mjd").decimalyear,
            seen + shift,
            _MARKERS[number % len(_MARKERS)],
            ms=3,
            color=colour,
        )
    ax.set(
        xlabel="year",
        ylabel=f"throughput relative to t0, moved by {_STEP:g}",
        title=f"{len(rows.index)} measurements, {len(chosen)} of {_count_modes(fit)} modes",
    )
    ax.legend(fontsize=6, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    return ax


def plot_stars(fit: FluxFit, ax: "Axes | None" = None) -> "Axes":
    """Plot how far each star is from the others in each group of modes, by verdict.

    Parameters
    ----------
    fit : FluxFit
    ax : matplotlib Axes, optional
    """
    ax = _get_axes(ax)
    labels = [f"{star.name}, {star.group}" for star in fit.stars]
    for verdict, colour in _VERDICTS.items():
        mine = [k for k, star in enumerate(fit.stars) if star.verdict == verdict]
        if mine:
            ax.errorbar(
                [100 * fit.stars[k].offset for k in mine],
                mine,
                xerr=[100 * fit.stars[k].offset_err for k in mine],
                fmt="o",
                ms=4,
                color=colour,
                label=f"{verdict} ({len(mine)})",
            )
    ax.axvline(0, color="0.6", lw=1)
    ax.set_yticks(range(len(labels)), labels, fontsize=6)
    ax.set(
        xlabel="observed over model, relative to the other stars [%]",
        title=f"{len(fit.stars)} stars in their modes; odd beyond 3 sigma",
    )
    ax.legend(fontsize=7)
    return ax


def plot_dependence(fit: FluxFit, found: Dependence, ax: "Axes | None" = None) -> "Axes":
    """Plot observed over fitted against what it may depend on.

    Parameters
    ----------
    fit : FluxFit
    found : Dependence
        Of a quantity that is a number: flux, peak, well depth, background, integration time.
    ax : matplotlib Axes, optional

    Notes
    -----
    Effects of stars and visits are left in the points; the line has the slope that the fit finds
    beside them.
    """
    ax = _get_axes(ax)
    (column,) = (name for name, title in QUANTITIES.items() if title == found.quantity)
    mine = fit.rows.group == found.group
    value = np.asarray(fit.rows.take(column), float)[mine]
    residual = 100 * fit.residual[fit.rows.index][mine]
    if found.quantity.startswith("log10"):
        value = np.log10(np.where(value > 0, value, np.nan))
    known = np.isfinite(value)
    ax.plot(value[known], residual[known], ".", ms=2, color=_COLOURS[0])
    if known.any():
        ends = np.array([value[known].min(), value[known].max()])
        line = 100 * found.slope * (ends - value[known].mean())
        ax.plot(ends, line + residual[known].mean(), "-", color=_COLOURS[1])
    ax.set(
        xlabel=found.quantity,
        ylabel="observed over fitted [%]",
        title=f"{found.group}: {100 * found.slope:+.2f} +- {100 * found.error:.2f} % per unit, "
        f"{found.verdict} (n = {found.n_rows})",
    )
    ax.title.set_fontsize(7)
    ax.locator_params(axis="x", nbins=5)
    return ax


def plot_dependences(fit: FluxFit, dependences: Sequence[Dependence]) -> "Figure":
    """Plot all that are of a number, on one page."""
    from matplotlib.figure import Figure

    chosen = [d for d in dependences if d.quantity in QUANTITIES.values()]
    n_rows = max(1, -(-len(chosen) // 3))
    figure = Figure(figsize=(12, 3.2 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, 3, squeeze=False).ravel()
    for ax, found in zip(axes, chosen, strict=False):
        plot_dependence(fit, found, ax)
    for ax in axes[len(chosen) :]:
        ax.remove()
    if not chosen:
        figure.suptitle("no quantity varies enough to compare with")
    return figure


def plot_fit(fit: FluxFit) -> "Figure":
    """Plot throughput and stars on one page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, max(5.0, 0.18 * len(fit.stars))), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot_throughput(fit, left)
    plot_stars(fit, right)
    return figure


def _choose_units(fit: FluxFit) -> dict[Mode, int]:
    """Choose a unit for each mode: its only one, or the middle of its wavelengths."""
    units: dict[Mode, list[int]] = {}
    for number, unit in enumerate(fit.units):
        units.setdefault(unit.band.mode, []).append(number)
    modes = sorted(units, key=lambda mode: fit.units[units[mode][0]].band.wave)[:_MOST_MODES]
    return {mode: units[mode][len(units[mode]) // 2] for mode in modes}


def _count_modes(fit: FluxFit) -> int:
    return len({unit.band.mode for unit in fit.units})


def _get_axes(ax: "Axes | None") -> "Axes":
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.gca()
