"""Figures of what changed in a bad-pixel history: per year, against the base mask, and the odds."""

from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from ..badpix import CLASSES, select_counted, select_masked
from ..dates import to_isot, to_years
from ..errors import InputError
from ..refmodels import compose_dq, dq_value
from .figures import CLASS_COLOURS, count_pixels, get_axes
from .page import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "plot_base_change",
    "plot_growth_per_year",
    "plot_odds",
    "tabulate_growth",
]

_DAYS_PER_YEAR = 365.25
# What became of the pixels of a base mask, and how it is drawn.
_FATES = {
    "kept, seen bad": COLOURS["black"],
    "kept, never seen bad": COLOURS["sky"],
    "dropped": COLOURS["green"],
    "added": COLOURS["vermilion"],
}
# Widest log-odds drawn: what lies beyond is as good as certain.
_ODDS = (-3.0, 30.0)


def plot_growth_per_year(history: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot onsets and recoveries per year by class, in each calendar year.

    Parameters
    ----------
    history : BadPixHistoryModel
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        The exposures have no dates to count by.

    Notes
    -----
    A year that the exposures cover in part counts for that part: rates are per full year.
    TELEGRAPH pixels are in all masks and neither turn bad nor recover.
    """
    ax = get_axes(ax)
    first, last = _find_span(history)
    years = np.arange(int(first), int(last) + 1)
    share = np.clip(last - years, 0, 1) - np.clip(first - years, 0, 1)
    for column, sign in (("start_mjd", 1), ("end_mjd", -1)):
        base = np.zeros(years.size)
        for name in CLASSES:
            dates = _list_changes(history, name, column)
            number = np.histogram(dates, np.append(years, years[-1] + 1))[0]
            if not number.any():
                continue
            rate = sign * number / np.maximum(share, 1e-9)
            colour = CLASS_COLOURS[name]
            ax.bar(years + 0.5, rate, 0.8, base, color=colour, lw=0, label=name)
            base += rate
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(
        xlabel="year",
        ylabel="pixels per year: recoveries (-), onsets (+)",
        title=f"Changes per year, {last - first:.1f} years of exposures",
        xticks=years + 0.5,
        xticklabels=years,
    )
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if handles:
        ax.legend(list(handles.values()), list(handles), fontsize=7)
    return ax


def tabulate_growth(history: Any) -> Table:
    """Count the masked pixels by class: at the first and last exposure, changes, growth per year.

    Returns
    -------
    Table
        One row per class that occurs, and the sum; growth is (onsets - recoveries) / years.
    """
    rows = history.intervals.instance
    names = np.asarray(rows["class"])
    mjd = np.asarray(history.exposures.instance["expmid_mjd"])
    first, last = _find_span(history)
    at = [select_masked(rows, t) for t in (mjd.min(), mjd.max())]
    table = Table(
        names=("class", "first", "last", "onsets", "recoveries", "growth"),
        dtype=("U20", int, int, int, int, float),
        units=(None, "pix", "pix", None, None, "pix / yr"),
    )
    for name in CLASSES:
        own = names == name
        if not own.any():
            continue
        changes = [_list_changes(history, name, key).size for key in ("start_mjd", "end_mjd")]
        growth = (changes[0] - changes[1]) / max(last - first, 1e-9)
        numbers = [count_pixels(rows, active & own) for active in at]
        table.add_row([name, *numbers, *changes, growth])
    table.add_row(["all", *(table[name].sum() for name in table.colnames[1:])])
    table["growth"].info.format = "+.1f"
    return table


def _find_span(history: Any) -> tuple[float, float]:
    """First and last exposure [decimal year]."""
    mjd = np.asarray(history.exposures.instance["expmid_mjd"], float)
    if not mjd.size or not np.isfinite(mjd).all() or not np.ptp(mjd):
        raise InputError(
            f"expected exposures of different dates, found {mjd.size} without an order in time; "
            "give the exposures of several dates to see changes"
        )
    first, last = to_years(np.array([mjd.min(), mjd.max()]))
    return float(first), float(last)


def _list_changes(history: Any, name: str, column: str) -> np.ndarray:
    """Dates at which pixels of a class turn bad or recover [decimal year]."""
    rows = history.intervals.instance
    if name == "TELEGRAPH":
        return np.empty(0)
    dates = np.asarray(rows[column])
    chosen = select_counted(rows) & (np.asarray(rows["class"]) == name) & np.isfinite(dates)
    return to_years(dates[chosen])


def plot_base_change(history: Any, mjd: float, ax: "Axes | None" = None) -> "Axes":
    """Plot what the mask of a date adds to the base mask, and what it keeps or drops of it.

    Parameters
    ----------
    history : BadPixHistoryModel
        Of a run with a base mask.
    mjd : float
        Date [MJD, UTC].
    ax : matplotlib Axes, optional

    Raises
    ------
    InputError
        The history has no base mask.

    Notes
    -----
    Counted are pixels with DO_NOT_USE; reference pixels and NON_SCIENCE are left out. "Never
    seen bad": no interval of the history, at any date.
    """
    fates = _judge_base(history, mjd)
    ax = get_axes(ax)
    for name, (y, x) in fates.items():
        ax.plot(x, y, ".", ms=2, color=_FATES[name], label=f"{name} ({y.size})")
    ny, nx = history.coverage.shape
    base = history.base.instance
    date = to_isot(mjd)[:10]
    ax.set(
        xlim=(-0.5, nx - 0.5),
        ylim=(-0.5, ny - 0.5),
        aspect="equal",
        xlabel="x [pixel]",
        ylabel="y [pixel]",
        title=f"Mask of {date} against {base['file']}",
    )
    ax.legend(fontsize=7, markerscale=4, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    return ax


def _judge_base(history: Any, mjd: float) -> dict[str, tuple[np.ndarray, ...]]:
    """Positions (y, x) of the pixels by what became of them."""
    base = history.base.instance
    if not base["file"]:
        raise InputError(
            "expected a history with a base mask, found one without; run the step with --base_mask"
        )
    bad = np.uint32(dq_value("DO_NOT_USE"))
    apart = np.uint32(dq_value("REFERENCE_PIXEL", "NON_SCIENCE"))
    before = np.zeros(tuple(history.coverage.shape), np.uint32)
    before[base["y"], base["x"]] = base["dq"]
    now = compose_dq(history, mjd)
    science = (before | now) & apart == 0
    was, is_bad = (science & (dq & bad != 0) for dq in (before, now))
    rows = history.intervals.instance
    seen = np.zeros(before.shape, bool)
    counted = select_counted(rows)
    seen[rows["y"][counted], rows["x"][counted]] = True
    planes = (was & is_bad & seen, was & is_bad & ~seen, was & ~is_bad, ~was & is_bad)
    return {name: np.nonzero(plane) for name, plane in zip(_FATES, planes, strict=True)}


def plot_odds(history: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how sure the flags are: their odds, and the false ones expected.

    Parameters
    ----------
    history : BadPixHistoryModel
    ax : matplotlib Axes, optional

    Notes
    -----
    Bars count the flags (pixel, exposure) by log-odds l; the line is the number of false ones
    that these odds promise, the sum of 1 / (1 + exp(l)). The title compares their total with
    what the decoys count.
    """
    ax = get_axes(ax)
    odds, weight = list_odds(history)
    false = weight / (1 + np.exp(odds))
    edges = np.linspace(*_ODDS, 34)
    inside = np.clip(odds, edges[0], edges[-1] - 1e-6)
    bars = ax.hist(inside, edges.tolist(), weights=weight, color=COLOURS["sky"], label="flags")[0]
    number = np.histogram(inside, edges, weights=false)[0]
    ax.stairs(number, edges, color=COLOURS["vermilion"], lw=1.5, label="false, by the odds")
    settings = history.settings.instance
    total = max(float(weight.sum()), 1.0)
    ax.set(
        yscale="log" if odds.size else "linear",
        ylim=(0.1, 5 * max(float(np.max(bars)), 1.0)),
        xlabel="log-odds of the bad state (30: and more)",
        ylabel="flags (pixel, exposure)",
        title=f"False flags: {100 * false.sum() / total:.2g} % by the odds, "
        f"{100 * settings['expected_false'] / max(settings['flags'], 1):.2g} % by "
        f"{settings['n_decoys']} decoys",
    )
    ax.legend(fontsize=8)
    return ax


def list_odds(history: Any) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of the counted intervals, and the exposures that saw each."""
    rows = history.intervals.instance
    counted = select_counted(rows)
    return (
        np.asarray(rows["log_odds"], float)[counted],
        np.asarray(rows["n_looks"], float)[counted],
    )
