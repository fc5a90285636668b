"""Figures of a flux calibration: modes against each other, repeatability, error budget, trials."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..fluxcal import QUANTITIES, Dependence
from .flux_figures import COLOURS, draw_grid, get_axes
from .flux_record import FluxRecord, take_record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "plot_budget",
    "plot_dependence",
    "plot_dependences",
    "plot_left_out",
    "plot_ratios",
    "plot_repeatability",
    "sum_budget",
]

_OTHER = "other"
# Sources of error by what they are called in figures, and how their names begin.
_SOURCES = {
    "statistical": ("noise",),
    "star offsets": ("star", "slope"),
    "visit jitter": ("jitter", "visit"),
    "subarray": ("subarrays",),
    "class": ("classes",),
    "change with time": ("throughput priors", "form"),
    "apertures and models": ("apcorr", "model"),
    _OTHER: (),
}
# The error of C itself then, which is no share of that at t0.
BEYOND = "1 yr after the last"
_HATCHES = ("", "//", "", "\\\\", "", "xx", "", "..")
_YEAR = 365.0
# Modes up to which the numbers are written into the matrix.
_MOST_WRITTEN = 12


def plot_ratios(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how modes disagree on the stars that they share: mode against mode [%].

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        The modes were not compared.

    Notes
    -----
    Mean over common stars of ln(observed/model), mode of the row less that of the column, after
    both factors. Numbers are left out where more than twelve modes or pieces of spectra are
    compared; fields without a common star are empty.
    """
    ratios, ax = take_record(given).ratios, get_axes(ax)
    if ratios is None:
        raise InputError(
            "expected modes that were compared, found none; make the product with this version"
        )
    order = np.argsort(ratios.wave, kind="stable")
    value, error = (100 * part[order][:, order] for part in (ratios.star_ratio, ratios.star_error))
    limit = np.nanmax(np.abs(value), initial=0.1)
    # PuOr is told apart by the colour-blind.
    image = ax.imshow(value, cmap="PuOr", vmin=-limit, vmax=limit)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="row less column, common stars [%]")
    labels = [ratios.labels[k] for k in order]
    if len(labels) <= _MOST_WRITTEN:
        for i, j in np.ndindex(value.shape):
            if i != j and np.isfinite(value[i, j]):
                text = f"{value[i, j]:+.2f}\n±{error[i, j]:.2f}"
                dark = abs(value[i, j]) > 0.6 * limit
                ax.text(
                    j,
                    i,
                    text,
                    ha="center",
                    va="center",
                    fontsize=5,
                    color="white" if dark else "black",
                )
    if len(labels) <= 5 * _MOST_WRITTEN:
        ax.set_xticks(range(len(labels)), labels, rotation=90, fontsize=5)
        ax.set_yticks(range(len(labels)), labels, fontsize=5)
    shared = int(np.max(ratios.n_stars - np.diag(np.diag(ratios.n_stars)), initial=0))
    ax.set(title=f"modes or pieces of spectra: {len(labels)}, stars in common: up to {shared}")
    return ax


def plot_repeatability(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how well each mode repeats: scatter, what the errors explain, and the rest.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        No star was seen twice.
    """
    record, ax = take_record(given), get_axes(ax)
    found = [r for r in record.repeatability if r.subset == "all" and np.isfinite(r.rms)]
    if not found:
        raise InputError("expected a star that was seen twice in a mode, found none")
    found.sort(key=lambda r: list(record.modes).index(r.mode) if r.mode in record.modes else -1)
    y = np.arange(len(found))
    bars = (("rms", -0.25), ("rms_formal", 0.0), ("rms_excess", 0.25))
    titles = ("scatter", "explained by the errors", "beyond these")
    for (name, shift), title, colour in zip(bars, titles, ("0.4", *COLOURS[:2]), strict=True):
        ax.barh(
            y + shift,
            [100 * getattr(r, name) for r in found],
            height=0.24,
            color=colour,
            label=title,
        )
    labels = [f"{r.mode} ({r.n_stars} stars, {r.n_visits} visits)" for r in found]
    ax.set_yticks(y, labels, fontsize=6)
    ax.invert_yaxis()
    ax.set(
        xlabel="scatter of visits about each star's mean and f(t) [%]",
        title=f"modes: {len(found)}",
    )
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def plot_budget(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot what makes up the error of each mode's factor, as shares of its variance.

    Parameters
    ----------
    given : FluxFit, AbsFluxModel or FluxRecord
    ax : matplotlib Axes, optional

    Notes
    -----
    Bars add up to the error at t0, written beside the mode, each as long as its share of the
    variance; of spectra the median over the bins. Diamonds: the error of C a year beyond the last
    measurement.
    """
    record, ax = take_record(given), get_axes(ax)
    parts = sum_budget(record)
    labels = list(record.modes)
    y = np.arange(len(labels))
    beyond = parts.pop(BEYOND)
    total = np.sqrt(sum(part**2 for part in parts.values()))
    left = np.zeros(len(labels))
    for number, (name, part) in enumerate(parts.items()):
        with np.errstate(invalid="ignore", divide="ignore"):
            length = np.where(total > 0, 100 * part**2 / total, 0.0)
        if not np.nanmax(length, initial=0.0) > 0:
            continue
        ax.barh(
            y,
            length,
            left=left,
            color=COLOURS[number % len(COLOURS)],
            hatch=_HATCHES[number],
            edgecolor="white",
            lw=0.3,
            label=name,
        )
        left += np.nan_to_num(length)
    if np.isfinite(beyond).any():
        ax.plot(100 * beyond, y, "kD", ms=4, label=BEYOND)
    ticks = [f"{label}: {100 * t:.2f} %" for label, t in zip(labels, total, strict=True)]
    ax.set_yticks(y, ticks, fontsize=6)
    ax.invert_yaxis()
    ax.set(xlabel="error of C by source [%]", title=f"modes: {len(labels)}, C at t0")
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return ax


def sum_budget(record: FluxRecord) -> dict[str, np.ndarray]:
    """Sum the shares of the error of ln C by source, median over the bins of each mode.

    Returns
    -------
    dict of str to ndarray
        Source -> share in order of ``record.modes``, (n_modes,) float64; the last is the error
        of C itself a year beyond the last measurement, NaN without dates.
    """
    sums = {name: np.zeros(len(record.units)) for name in _SOURCES}
    for source, share in record.budget.items():
        name = next((n for n, keys in _SOURCES.items() if source.startswith(keys)), _OTHER)
        sums[name] = np.hypot(sums[name], share)
    if not sums[_OTHER].any():
        del sums[_OTHER]
    sums[BEYOND] = np.full(len(record.units), np.nan)
    if np.isfinite(record.last_mjd):
        for k in range(len(record.units)):
            factor, error = record.predict(k, np.array([record.last_mjd + _YEAR]))
            sums[BEYOND][k] = error[0] / factor[0]
    return {
        name: np.array([np.median(part[units]) for units in record.modes.values()])
        for name, part in sums.items()
    }


def plot_left_out(given: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how far the factors move when a star, a class or an epoch is left out.

    Parameters
    ----------
    given : FluxRecord
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        This was not tried, or its table is not there.
    """
    record, ax = take_record(given), get_axes(ax)
    table = record.left_out
    if table is None or not len(table):
        raise InputError(
            "expected fits without each star, class and epoch (NAME_leave_out.ecsv), found none; "
            "they are made of up to 5000 measurements"
        )
    names = list(dict.fromkeys(zip(table["by"], table["name"], strict=True)))
    place = {name: k for k, name in enumerate(names)}
    y = [place[key] for key in zip(table["by"], table["name"], strict=True)]
    kinds = np.asarray(table["by"]).astype(str)
    for number, by in enumerate(("star", "class", "epoch")):
        mine = kinds == by
        if not mine.any():
            continue
        ax.plot(
            100 * np.asarray(table["ln_shift"])[mine],
            np.array(y)[mine],
            "o^s"[number],
            ms=3,
            color=COLOURS[number],
            label=f"{by} ({sum(k == by for k, _ in names)})",
        )
    ax.axvline(0, color="0.6", lw=1)
    ax.set_yticks(range(len(names)), [name for _, name in names], fontsize=5)
    ax.invert_yaxis()
    ax.set(
        xlabel="shift of C of each mode without it [%]",
        title=f"largest: {np.max(table['n_sigma']):.1f} sigma of the fit",
    )
    ax.legend(fontsize=7)
    return ax


def plot_dependence(given: Any, found: Dependence, ax: "Axes | None" = None) -> "Axes":
    """Plot observed over fitted against what it may depend on.

    Parameters
    ----------
    given : FluxFit or FluxRecord
    found : Dependence
        Of a quantity that is a number: flux, peak, well depth, background, integration time.
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        There are no measurements.

    Notes
    -----
    Effects of stars and visits are left in the points; the line has the slope that the fit finds
    beside them.
    """
    record, ax = take_record(given), get_axes(ax)
    if record.visits is None:
        raise InputError("expected the measurements (NAME_visits.ecsv), found none")
    (column,) = (name for name, title in QUANTITIES.items() if title == found.quantity)
    groups = [f"{unit.band.mode.instrument} {unit.band.mode.kind}" for unit in record.units]
    mine = np.array([*groups, ""])[record.unit] == found.group
    value = np.asarray(record.visits[column], float)[mine]
    residual = 100 * np.asarray(record.visits["residual"], float)[mine]
    if found.quantity.startswith("log10"):
        value = np.log10(np.where(value > 0, value, np.nan))
    known = np.isfinite(value) & np.isfinite(residual)
    ax.plot(
        value[known], residual[known], ".", ms=2, color=COLOURS[0], rasterized=len(value) > 5000
    )
    if known.any():
        ends = np.array([value[known].min(), value[known].max()])
        line = 100 * found.slope * (ends - value[known].mean())
        ax.plot(ends, line + residual[known].mean(), "-", color=COLOURS[1])
    ax.set(
        xlabel=found.quantity,
        ylabel="observed over fitted [%]",
        title=f"{found.group}: {100 * found.slope:+.2f} +- {100 * found.error:.2f} % per unit, "
        f"{found.verdict} (n = {found.n_rows})",
    )
    ax.title.set_fontsize(7)
    ax.locator_params(axis="x", nbins=5)
    return ax


def plot_dependences(given: Any, dependences: Sequence[Dependence] | None = None) -> "Figure":
    """Plot all that are of a number, on one page.

    Parameters
    ----------
    given : FluxFit or FluxRecord
    dependences : sequence of Dependence, optional
        Those of the record by default.
    """
    record = take_record(given)
    listed = record.dependences or () if dependences is None else dependences
    chosen = [d for d in listed if d.quantity in QUANTITIES.values()]
    figure = draw_grid([partial(plot_dependence, record, d) for d in chosen], 3.2)
    if not chosen:
        figure.suptitle("no quantity varies enough to compare with")
    return figure
