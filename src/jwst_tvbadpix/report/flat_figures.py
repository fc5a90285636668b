"""Figures of the stars of flats, and of what changes, from the parts of flats."""

from typing import TYPE_CHECKING, Any

import bottleneck as bn
import numpy as np

from ..dates import to_isot
from ..errors import EvidenceError
from .flat_maps import get_axes, require_group
from .page import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "list_groups",
    "plot_background",
    "plot_connectivity",
    "plot_hold_out",
    "plot_modes",
    "plot_residuals_by_star",
    "plot_stability",
]

_COLOURS = tuple(
    COLOURS[name] for name in ("blue", "vermilion", "green", "purple", "orange", "sky", "black")
)
_MARKERS = "osD^vPh"
# Units of the series, their factor and their name; others are per cent.
_UNITS = {"distortion": (1e3, "shift [mas]"), "distortion, linear": (1e6, "change [ppm]")}
_LABELS = {"flat": "rms over the field [% of the response]", "PSF core": "change [%]"}
# Gaps longer than this many usual ones are shortened to so many; most labels of times then.
_LONG_GAP, _MOST_LABELS = 4.0, 8


def plot_modes(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the coefficient of each mode of the star flat with its 1-sigma error.

    Parameters
    ----------
    parts : StarFlatModel
        With a star flat.
    ax : matplotlib Axes, optional
    """
    star = require_group(parts, "star", "a star flat")
    ax = get_axes(ax)
    value, degree = 100 * np.asarray(star["coefficients"]), np.asarray(star["degree"])
    err = 100 * np.sqrt(np.diag(np.asarray(star["covariance"])))
    number = np.arange(1, value.size + 1)
    for k, one in enumerate(np.unique(degree)):
        mine = degree == one
        ax.errorbar(
            number[mine],
            value[mine],
            err[mine],
            fmt=_MARKERS[k % len(_MARKERS)],
            ms=4,
            lw=1,
            capsize=2,
            color=_COLOURS[k % len(_COLOURS)],
            label=f"degree {one}",
        )
    ax.axhline(0, color="0.6", lw=1, zorder=0)
    ax.set(xlabel="mode", ylabel="rms over the field [% of the response]")
    ax.set_title(
        f"{value.size} modes, {np.sum(np.abs(value) > 3 * err)} beyond 3 sigma; "
        f"error of all {np.sqrt(np.sum(err**2)):.3g} %",
        fontsize=10,
    )
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8, ncols=4)
    return ax


def plot_connectivity(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot how many stars each two exposures have in common.

    Parameters
    ----------
    parts : StarFlatModel
        With a star flat, of version 1.1 or later.
    ax : matplotlib Axes, optional
    """
    ax = get_axes(ax)
    seen = require_group(parts, "residuals", "the residuals of a star flat")
    gauge = require_group(parts, "gauge", "a star flat")
    pairs = np.unique(np.column_stack([seen["exposure"], seen["star"]]), axis=0)
    rows, number = np.unique(pairs[:, 0], return_inverse=True)
    member = np.zeros((rows.size, int(pairs[:, 1].max()) + 1), np.float32)
    member[number, pairs[:, 1]] = 1
    shown = ax.imshow(member @ member.T, origin="lower", cmap="cividis", vmin=0)
    ax.figure.colorbar(shown, ax=ax, label="stars in common")
    links = np.asarray(gauge["n_links"])
    ticks = np.unique(np.linspace(0, rows.size - 1, min(rows.size, 10)).astype(int))
    ax.set_xticks(ticks, rows[ticks])
    ax.set_yticks(ticks, rows[ticks])
    ax.set(xlabel="exposure (row of the table)", ylabel="exposure")
    ax.set_title(
        f"{rows.size} exposures in {gauge['n_components']} connected part(s); "
        f"each shares {links.min()} stars or more",
        fontsize=10,
    )
    return ax


def plot_residuals_by_star(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the scatter of each star about the star flat against its flux, and what is expected.

    Parameters
    ----------
    parts : StarFlatModel
        With a star flat, of version 1.1 or later.
    ax : matplotlib Axes, optional
    """
    ax = get_axes(ax)
    seen = require_group(parts, "residuals", "the residuals of a star flat")
    stars = require_group(parts, "stars", "stars")
    good = ~np.asarray(seen["outlier"])
    star = np.asarray(seen["star"])[good]
    value, sigma = (np.asarray(seen[key], float)[good] for key in ("value", "sigma"))
    ln_flux = np.asarray(stars["ln_flux"])
    count = np.bincount(star, minlength=ln_flux.size)
    with np.errstate(invalid="ignore", divide="ignore"):
        rms, expected = (
            100 * np.sqrt(np.bincount(star, numbers**2, ln_flux.size) / count)
            for numbers in (value, sigma)
        )
    flux = np.exp(ln_flux)
    variable = np.asarray(stars["excess"]) > 1
    order = np.argsort(flux)
    ax.loglog(flux[~variable], rms[~variable], ".", ms=4, color=_COLOURS[0], label="rms of a star")
    if variable.any():
        ax.loglog(
            flux[variable],
            rms[variable],
            "x",
            ms=5,
            color=_COLOURS[1],
            label=f"variable ({variable.sum()})",
        )
    ax.loglog(flux[order], expected[order], "+", ms=3, color=_COLOURS[4], label="expected")
    ax.set(xlabel="flux of the star [DN/s]", ylabel="scatter about the star flat [%]")
    ax.set_title(
        f"{good.sum()} measurements of {np.sum(count > 0)} stars, {np.sum(~good)} outliers; "
        f"chi2 {np.mean((value / sigma) ** 2):.3f} per measurement",
        fontsize=10,
    )
    ax.legend(fontsize=8)
    return ax


def list_groups(parts: Any, what: str) -> dict[str, list[int]]:
    """List the series of a monitor that are shown together: their columns, by a common name.

    Parameters
    ----------
    parts : StarFlatModel
        Of version 1.1 or later.
    what : str
        As `plot_stability`.
    """
    names = list(_find_series(parts, what)["name"])
    groups: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        group = ""
        if what == "PSF core":
            group = name.partition(", ")[2] or "mean over the field"
        elif what == "distortion":
            group = f"in {name[0]}"
        groups.setdefault(group, []).append(k)
    return groups


def plot_stability(parts: Any, what: str, ax: "Axes | None" = None, *, group: str = "") -> "Axes":
    """Plot what a verdict on stability was found in, against time.

    Parameters
    ----------
    parts : StarFlatModel
        Of version 1.1 or later.
    what : str
        'flat', 'PSF core', 'distortion' or 'distortion, linear'.
    ax : matplotlib Axes, optional
    group : str
        One of `list_groups`; the first by default.

    Notes
    -----
    Points of different series are moved apart a little. Of each series its mean is taken away.
    Long gaps without exposures are cut out of the axis of time.
    """
    ax = get_axes(ax)
    series = _find_series(parts, what)
    groups = list_groups(parts, what)
    columns = groups[group or next(iter(groups))]
    factor, unit = _UNITS.get(what, (100.0, _LABELS.get(what, "change [%]")))
    mjd = np.asarray(series["mid_mjd"])
    place = _place_times(ax, mjd)
    gap = float(np.ptp(place)) / 150
    changed = _list_significant(parts, what)
    for k, column in enumerate(columns):
        name = str(series["name"][column])
        value = factor * np.asarray(series["values"])[:, column]
        error = factor * np.asarray(series["errors"])[:, column]
        value = value - bn.nanmean(value) if np.isfinite(value).any() else value
        ax.errorbar(
            place + (k - (len(columns) - 1) / 2) * gap,
            value,
            error,
            fmt=_MARKERS[k % len(_MARKERS)],
            ms=4,
            lw=1,
            color=_COLOURS[k % len(_COLOURS)],
            mfc=None if name in changed else "white",
            label=name,
        )
    ax.axhline(0, color="0.6", lw=1, zorder=0)
    verdict = parts.drifts.verdicts.instance.get(what, "not judged")
    title = f"{what}{', ' if group else ''}{group}: {verdict}"
    ax.set_ylabel(unit)
    ax.set_title(f"{title} ({mjd.size} epochs; filled: a change is believed)", fontsize=10)
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def plot_background(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the sky level of the exposures against time, by visit.

    Parameters
    ----------
    parts : StarFlatModel
    ax : matplotlib Axes, optional
    """
    ax = get_axes(ax)
    table = parts.exposures.instance
    level = np.asarray(table["sky_level"])
    known = np.isfinite(level)
    if not known.any():
        raise EvidenceError(
            "expected exposures with a sky level, found none; look why all are left out"
        )
    mjd = (np.asarray(table["start_mjd"]) + np.asarray(table["end_mjd"])) / 2
    visit = np.asarray(table["visit"])
    place = np.full(mjd.size, np.nan)
    place[known] = _place_times(ax, mjd[known])
    for k, one in enumerate(dict.fromkeys(visit[known])):
        mine = known & (visit == one)
        ax.plot(
            place[mine],
            level[mine],
            _MARKERS[k % len(_MARKERS)],
            ms=5,
            color=_COLOURS[k % len(_COLOURS)],
        )
    verdict = parts.drifts.verdicts.instance.get("background", "not judged")
    ax.set_ylabel("sky [DN/s]")
    ax.set_title(
        f"background: {verdict} ({known.sum()} exposures in {len(set(visit[known]))} visits, "
        "marks change from visit to visit)",
        fontsize=10,
    )
    return ax


def plot_hold_out(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the rms of held-out exposures before and after the flat.

    Parameters
    ----------
    parts : StarFlatModel
        Of a run with ``hold_out``.
    ax : matplotlib Axes, optional
    """
    check = require_group(parts, "check", "held-out exposures")
    ax = get_axes(ax)
    known = [
        (label, 100 * float(check[f"{key}_before"]), 100 * float(check[f"{key}_after"]))
        for key, label in (("pixel", "pixels"), ("smooth", "sky in cells"), ("star", "stars"))
        if f"{key}_after" in check
    ]
    place = np.arange(len(known))
    for shift, column, label, colour in (
        (-0.2, 1, "before the flat", _COLOURS[4]),
        (0.2, 2, "after", _COLOURS[0]),
    ):
        bars = ax.bar(place + shift, [row[column] for row in known], 0.4, color=colour, label=label)
        ax.bar_label(bars, fmt="%.3g", fontsize=8)
    ax.set_xticks(place, [row[0] for row in known])
    ax.set(ylabel="rms [%]")
    ax.set_title(
        f"{check['n_exposures']:g} held-out exposures, {check['n_stars']:g} measurements of stars",
        fontsize=10,
    )
    ax.margins(y=0.12)
    ax.legend(fontsize=8)
    return ax


def _find_series(parts: Any, what: str) -> Any:
    known = parts.instance.get("series", {})
    if what not in known:
        raise EvidenceError(
            f"expected values of the {what} in time, found {', '.join(known) or 'none'}; the notes "
            "say why, or the product is of version 1.0"
        )
    return known[what]


def _list_significant(parts: Any, what: str) -> set[str]:
    """Name the series of which a change is believed."""
    table = parts.drifts.instance
    columns = zip(table["what"], table["series"], table["significant"], strict=True)
    return {str(series) for one, series, believed in columns if one == what and believed}


def _place_times(ax: "Axes", mjd: np.ndarray) -> np.ndarray:
    """Place times along an axis, long gaps shortened: place of each; label the axis.

    Visits of hours lie months apart: to scale, each would be one point.
    """
    times, number = np.unique(mjd, return_inverse=True)
    gaps = np.diff(times)
    ax.set_xlabel(f"days since {to_isot(times[0])[:16]}")
    if not gaps.size:
        return np.zeros(mjd.size)
    usual = _LONG_GAP * float(np.median(gaps))
    place = np.concatenate([[0.0], np.cumsum(np.minimum(gaps, usual))])
    long = np.flatnonzero(gaps > usual)
    if long.size:
        for k in long:
            ax.axvline((place[k] + place[k + 1]) / 2, color="0.8", ls=":", zorder=0)
        shown = np.concatenate([[0], long + 1])
        shown = shown[np.unique(np.linspace(0, shown.size - 1, _MOST_LABELS).astype(int))]
        ax.set_xticks(place[shown], [f"{round(times[k] - times[0], 2):g}" for k in shown])
        ax.set_xlabel(f"{ax.get_xlabel()}; dotted: gap cut out")
    return place[number]
