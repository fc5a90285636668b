"""Figures of a bad-pixel history, from the history alone."""

from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from ..badpix import CLASSES, follow_masked, pool_histories, select_counted, select_masked
from ..dates import to_isot, to_years
from ..refmodels import unpack_residuals

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CLASS_COLOURS",
    "choose_examples",
    "count_pixels",
    "get_axes",
    "plot_bad_pixel_map",
    "plot_growth",
    "plot_light_curve",
    "plot_self_test",
    "plot_summary",
    "plot_timeline",
]

# Okabe & Ito's palette, safe for the colour-blind, in the order of `CLASSES`.
CLASS_COLOURS = dict(
    zip(
        CLASSES,
        ("#D55E00", "#E69F00", "#000000", "#0072B2", "#CC79A7", "#009E73", "#56B4E9"),
        strict=True,
    )
)
_MARKERS = dict(zip(CLASSES, "osXDv^P", strict=True))
# Height added for the labels of events, and their line styles by kind.
_LABEL_ROOM = 0.3
_EVENT_LINES = ("--", ":", "-.", (0, (1, 3)))


def plot_bad_pixel_map(history: Any, mjd: float, ax: "Axes | None" = None) -> "Axes":
    """Plot where the bad pixels of a date are, by class.

    Parameters
    ----------
    history : BadPixHistoryModel
    mjd : float
        Date [MJD, UTC].
    ax : matplotlib Axes, optional
        Drawn on; made when absent.
    """
    ax = get_axes(ax)
    rows = history.intervals.instance
    active = select_masked(rows, mjd)
    names = np.asarray(rows["class"])
    for name in CLASSES:
        chosen = active & (names == name)
        if chosen.any():
            ax.plot(
                rows["x"][chosen],
                rows["y"][chosen],
                ".",
                ms=2,
                color=CLASS_COLOURS[name],
                label=f"{name} ({count_pixels(rows, chosen)})",
            )
    ny, nx = history.coverage.shape
    ax.set(
        xlim=(-0.5, nx - 0.5),
        ylim=(-0.5, ny - 0.5),
        aspect="equal",
        xlabel="x [pixel]",
        ylabel="y [pixel]",
        title=f"{count_pixels(rows, active)} bad pixels on {_format_date(mjd)}",
    )
    if active.any():
        ax.legend(
            fontsize=7, markerscale=4, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4
        )
    return ax


def plot_growth(
    history: Any, ax: "Axes | None" = None, *, truth: np.ndarray | None = None
) -> "Axes":
    """Plot the number of bad pixels against time.

    Parameters
    ----------
    history : BadPixHistoryModel
    ax : matplotlib Axes, optional
    truth : ndarray of int, shape (n_exposures,), optional
        True number at each exposure, for simulations.
    """
    ax = get_axes(ax)
    rows = history.intervals.instance
    mjd = np.asarray(history.exposures.instance["expmid_mjd"])
    years = to_years(mjd)
    number = _count_masked(rows, mjd)
    if truth is not None:
        ax.plot(years, truth, "-", color="0.6", lw=3, label="truth")
    ax.step(years, number, where="mid", color=CLASS_COLOURS["LOW_QE"], label="masks")
    ax.plot(years, number, "o", ms=3, color=CLASS_COLOURS["LOW_QE"])
    ax.set(xlabel="year", ylabel="bad pixels", title=f"{mjd.size} exposures")
    _draw_events(history, ax)
    ax.legend(fontsize=8)
    return ax


def _count_masked(rows: Any, mjd: np.ndarray) -> list[int]:
    """Count the pixels that are masked at each date [MJD]: those of `select_masked`, each once."""
    counted, select = follow_masked(rows)
    places = rows["y"][counted].astype(np.int64) * 2**16 + rows["x"][counted]
    pixel = np.unique(places, return_inverse=True)[1]
    return [int(np.count_nonzero(np.bincount(pixel[select(t)]))) for t in mjd]


def plot_light_curve(history: Any, y: int, x: int, ax: "Axes | None" = None) -> "Axes":
    """Plot the residual of one pixel against time, its level in each state, and bad intervals.

    Parameters
    ----------
    history : BadPixHistoryModel
    y, x : int
        0-based full-frame position of a candidate of the history, or of its control sample.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        The history keeps no residuals of this pixel.
    """
    residual, noise = _find_residuals(history, y, x)
    ax = get_axes(ax)
    evidence = np.isfinite(residual)
    mjd = np.asarray(history.exposures.instance["expmid_mjd"])
    years = to_years(mjd)
    rows = history.intervals.instance
    own = select_counted(rows) & (rows["y"] == y) & (rows["x"] == x)
    edges = (years.min() - 0.1, years.max() + 0.1)
    good = evidence.copy()
    spans = []
    for row in np.flatnonzero(own):
        span = [rows["start_mjd"][row], rows["end_mjd"][row]]
        good &= (mjd < span[0]) | (mjd >= span[1])
        low, high = (
            np.clip(to_years(t), *edges) if np.isfinite(t) else edge
            for t, edge in zip(span, edges, strict=True)
        )
        spans.append((low, high, float(rows["amplitude"][row])))
        ax.axvspan(low, high, color=CLASS_COLOURS["WARM"], alpha=0.3, lw=0)
    ax.errorbar(
        years[evidence],
        residual[evidence],
        noise[evidence],
        fmt="o",
        ms=3,
        lw=1,
        color=CLASS_COLOURS["LOW_QE"],
    )
    # The level of the good state, and that of each bad one.
    middle = float(np.median(residual[good])) if good.any() else 0.0
    ax.plot(edges, [middle, middle], "-", color="0.3", lw=1)
    for low, high, amplitude in spans:
        ax.plot([low, high], [middle + amplitude] * 2, "-", color="0.3", lw=1.5)
    name = str(rows["class"][np.flatnonzero(own)[0]]) if own.any() else "good"
    ax.set(
        xlim=edges,
        xlabel="year",
        ylabel="residual [DN/s]",
        title=f"pixel y={y} x={x}: {name} (shaded: bad)",
    )
    _draw_events(history, ax)
    return ax


def _find_residuals(history: Any, y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """Residual and noise of a pixel, among the candidates and the control sample [DN/s]."""
    for group in ("residuals", "control"):
        if not history.hasattr(group):
            continue
        kept = history[group].instance
        found = np.flatnonzero((kept["y"] == y) & (kept["x"] == x))
        if found.size:
            row = int(found[0])
            residual, noise = unpack_residuals(history, group, np.s_[row : row + 1])
            return residual[0], noise[0]
    raise ValueError(
        f"expected a candidate of the history, found pixel y={y} x={x}; its residuals were "
        "not kept because no exposure made it stand out"
    )


def plot_timeline(history: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how many pixels turned bad, and how many recovered, in each gap between exposures.

    Parameters
    ----------
    history : BadPixHistoryModel
    ax : matplotlib Axes, optional

    Notes
    -----
    Onsets are drawn upwards, recoveries downwards, by class. A bar is as wide as its gap, and
    at least wide enough to be seen. TELEGRAPH pixels switch all the time and are left out.
    """
    ax = get_axes(ax)
    rows = history.intervals.instance
    names = np.asarray(rows["class"])
    counted = select_counted(rows) & (names != "TELEGRAPH")
    mjd = np.asarray(history.exposures.instance["expmid_mjd"])
    years = to_years(mjd)
    gaps = np.diff(years)
    widths = np.maximum(gaps, np.ptp(years) / 200)
    total = []
    for column, sign in (("start_mjd", 1), ("end_mjd", -1)):
        dates = np.asarray(rows[column])
        base = np.zeros(gaps.size)
        for name in CLASSES:
            chosen = dates[counted & (names == name) & np.isfinite(dates)]
            if not chosen.size:
                continue
            gap = np.clip(np.searchsorted(mjd, chosen) - 1, 0, gaps.size - 1)
            number = sign * np.bincount(gap, minlength=gaps.size)
            _draw_bars(ax, years[:-1] + gaps / 2, widths, base, number, name)
            base += number
        total.append(int(np.abs(base).sum()))
    ax.axhline(0, color="0.3", lw=0.8)
    ax.set(
        xlabel="year",
        ylabel="pixels: recoveries (-), onsets (+)",
        title=f"{total[0]} onsets, {total[1]} recoveries in {gaps.size} gaps",
    )
    _draw_events(history, ax)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    if handles:
        ax.legend(
            list(handles.values()),
            list(handles.keys()),
            fontsize=7,
            ncols=4,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.15),
        )
    return ax


def _draw_bars(
    ax: "Axes",
    middle: np.ndarray,
    width: np.ndarray,
    base: np.ndarray,
    height: np.ndarray,
    name: str,
) -> None:
    """Draw bars of a class as one artist: `Axes.bar` takes milliseconds for each."""
    from matplotlib.collections import PolyCollection

    left, right, top = middle - width / 2, middle + width / 2, base + height
    corners = [(left, base), (right, base), (right, top), (left, top)]
    bars = list(np.stack([np.stack(corner, axis=1) for corner in corners], axis=1))
    ax.add_collection(PolyCollection(bars, color=CLASS_COLOURS[name], label=name, lw=0))
    ax.autoscale_view()


def plot_self_test(history: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the completeness of a self-test against the size of the defects, by class.

    Parameters
    ----------
    history : BadPixHistoryModel
        Of a run with ``self_test``.
    ax : matplotlib Axes, optional

    Raises
    ------
    ValueError
        The history has no self-test.
    """
    if not history.hasattr("self_test"):
        raise ValueError(
            "expected a history with a self-test, found one without; run the step with "
            "--self_test=True"
        )
    ax = get_axes(ax)
    group = history.self_test.instance
    rows = pool_histories(group)
    for name in dict.fromkeys(row["class"] for row in rows):
        own = sorted((r for r in rows if r["class"] == name), key=lambda r: r["amplitude"])
        size, share, error = (
            np.array([row[key] for row in own])
            for key in ("amplitude", "completeness", "completeness_err")
        )
        ax.errorbar(
            size,
            share,
            # No share is below none or above all.
            [np.minimum(error, share), np.minimum(error, 1 - share)],
            fmt="-" + _MARKERS[name],
            ms=5,
            lw=1,
            capsize=2,
            color=CLASS_COLOURS[name],
            label=f"{name} (purity {own[0]['purity']:.2f} $\\pm$ {own[0]['purity_err']:.2f})",
        )
    ax.axhline(1, color="0.6", lw=1, zorder=0)
    ax.set(
        xscale="log",
        ylim=(-0.03, 1.05),
        xticks=[2, 5, 10, 20, 50, 100],
        xlabel="size of the defect [sigma of one exposure]",
        ylabel="flagged share of bad pixel-exposures",
        title=f"Self-test: {sum(row['n_injected'] for row in rows)} defects, "
        f"{group['new_flags']:.3g} new flags per exposure elsewhere",
    )
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter("")
    if rows:
        ax.legend(fontsize=7, loc="lower right")
    return ax


def plot_summary(history: Any, *, truth: np.ndarray | None = None) -> "Figure":
    """Plot map, growth, and a pixel that turned bad and one that recovered, on one figure.

    Parameters
    ----------
    history : BadPixHistoryModel
    truth : ndarray of int, shape (n_exposures,), optional
        As `plot_growth`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.15, 1))
    last = float(np.max(history.exposures.instance["expmid_mjd"]))
    plot_bad_pixel_map(history, last, figure.add_subplot(grid[:, 0]))
    plot_growth(history, figure.add_subplot(grid[0, 1]), truth=truth)
    for place, example in enumerate(choose_examples(history), start=1):
        axes = figure.add_subplot(grid[place, 1])
        if example is None:
            axes.set_axis_off()
        else:
            plot_light_curve(history, *example, axes)
    return figure


def count_pixels(rows: Any, chosen: Any) -> int:
    """Count the pixels of chosen intervals: one that switches has several, masked at every date."""
    places = rows["y"][chosen].astype(np.int64) * 2**16 + rows["x"][chosen]
    return int(np.unique(places).size)


def choose_examples(history: Any) -> list[tuple[int, int] | None]:
    """Choose a pixel (y, x) that turned bad and one that recovered; None where there is none."""
    rows = history.intervals.instance
    counts = select_counted(rows) & (np.asarray(rows["class"]) != "TELEGRAPH")
    started, ended = np.isfinite(rows["start_mjd"]), np.isfinite(rows["end_mjd"])
    examples: list[tuple[int, int] | None] = []
    for chosen in (counts & started & ~ended, counts & ~started & ended):
        if not chosen.any():
            examples.append(None)
            continue
        # The most typical one, not the brightest: the median of the odds.
        candidates = np.flatnonzero(chosen)
        order = np.argsort(np.asarray(rows["log_odds"])[candidates], kind="stable")
        row = candidates[order[order.size // 2]]
        examples.append((int(rows["y"][row]), int(rows["x"][row])))
    return examples


def _draw_events(history: Any, ax: "Axes") -> None:
    """Draw the events within the axes' range of years as labelled lines, one style per kind."""
    if not history.hasattr("events"):
        return
    events = history.events.instance
    low, high = ax.get_xlim()
    styles = dict(zip(dict.fromkeys(events["kind"]), cycle(_EVENT_LINES), strict=False))
    for mjd, label, kind in zip(events["mjd"], events["label"], events["kind"], strict=True):
        year = to_years(mjd)
        if low <= year <= high:
            ax.axvline(year, color="0.35", ls=styles[kind], lw=1, zorder=1.5)
            ax.annotate(
                label.replace("$", r"\$"),
                (year, 0.98),
                xycoords=("data", "axes fraction"),
                xytext=(2, 0),
                textcoords="offset points",
                rotation=90,
                ha="left",
                va="top",
                fontsize=7,
                color="0.25",
            )
    # Room for the labels above what is drawn.
    bottom, top = ax.get_ylim()
    ax.set(xlim=(low, high), ylim=(bottom, top + _LABEL_ROOM * (top - bottom)))


def get_axes(ax: "Axes | None") -> "Axes":
    """Get the axes that were given, else the current ones."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.gca()


def _format_date(mjd: float) -> str:
    return to_isot(mjd)[:10]
