"""Maps of the detector from the parts of flats: what they are, how sure, and what is left."""

from typing import TYPE_CHECKING, Any

import bottleneck as bn
import numpy as np

from ..errors import EvidenceError
from ..flatfield import FieldBasis
from ..flatfield.gauge import LEAST_SHARE
from .page import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "FLAT_MAPS",
    "find_stretch",
    "get_axes",
    "plot_distortion",
    "plot_flat_map",
    "plot_flat_maps",
    "plot_null_space",
    "plot_reference_flat",
    "plot_residuals_by_position",
    "require_group",
    "scale_map",
]

# What each map is; those that are 1 in the mean are shown as per cent from it.
FLAT_MAPS = {
    "p_flat": "P: pixel to pixel",
    "l_flat": "L: smooth response",
    "ratio": "sky over star",
    "coverage": "coverage",
    "err_random": "random error",
    "err_systematic": "systematic error",
}
_RELATIVE = ("p_flat", "l_flat", "ratio")
_ERRORS = ("err_random", "err_systematic")
# Per cent of the pixels that a stretch holds.
_SHOWN = 99.5
# Pixels that are not usable.
_BAD = "0.8"
# What stands beside the axes of one of three panels, at most [inch].
_BESIDE_AXES = 1.4
# Cells along the longer side of a map of residuals, measurements that a cell must have.
_N_CELLS, _LEAST_IN_CELL = 16, 3
# Arrows along the longer side of a field, and the length of the longest [cells].
_N_ARROWS, _LONGEST = 16, 1.2


def plot_flat_map(parts: Any, name: str, ax: "Axes | None" = None, *, flat: int = 0) -> "Axes":
    """Plot one part of a flat over the detector.

    Parameters
    ----------
    parts : StarFlatModel
    name : str
        One of `FLAT_MAPS`.
    ax : matplotlib Axes, optional
        Drawn on; made when absent.
    flat : int
        Which of the flats, from 0.

    Raises
    ------
    EvidenceError
        No pixel has a value, as the ratio without a star flat.

    Notes
    -----
    P, L and the ratio are per cent from their mean, of which the stretch holds 99.5 per cent of the
    pixels, both ways alike; both errors have one stretch. Grey = not usable.
    """
    from matplotlib import colormaps

    ax = get_axes(ax)
    image, unit = scale_map(parts, name, flat=flat)
    low, high = find_stretch(parts, name, flat=flat)
    cmap = colormaps["RdBu_r" if name in _RELATIVE else "cividis"].with_extremes(bad=_BAD)
    shown = ax.imshow(image, origin="lower", cmap=cmap, vmin=low, vmax=high)
    extend = "both" if name in _RELATIVE else "max" if name in _ERRORS else "neither"
    ax.figure.colorbar(shown, ax=ax, label=unit, shrink=0.85, extend=extend)
    title = FLAT_MAPS[name]
    if name != "coverage":
        kind = "deviation " if name in _RELATIVE else ""
        title += f", median {kind}{np.nanmedian(np.abs(image)):.2g} %"
    ax.set(xlabel="x [pixel]", ylabel="y [pixel]")
    ax.set_title(title, fontsize=8)
    return ax


def scale_map(parts: Any, name: str, *, flat: int = 0) -> tuple[np.ndarray, str]:
    """Scale one part of a flat to what is shown: ndarray (ny, nx), NaN = not usable; its unit.

    Parameters
    ----------
    parts, name, flat
        See `plot_flat_map`.

    Raises
    ------
    EvidenceError
        See `plot_flat_map`.
    """
    maps = parts.maps.instance
    if name == "p_flat" and "p_flats" in maps:
        image = np.asarray(maps["p_flats"][flat], float)
    elif name in ("p_flat", "coverage"):
        image = np.asarray(maps[name], float)
    else:
        image = np.asarray(maps[name][flat], float)
    if name == "coverage":
        return image, "exposures"
    # What the flat does not use, its random error does not know.
    image = np.where(np.isfinite(maps["err_random"][flat]), image, np.nan)
    if not np.isfinite(image).any():
        why = " without a star flat" if name == "ratio" else ""
        raise EvidenceError(
            f"expected pixels with a value in the map of {FLAT_MAPS[name]}, found none{why}; "
            "give more exposures"
        )
    if name in _ERRORS:
        return 100 * image, "error [%]"
    mean = bn.nanmean(image) if name == "l_flat" else 1.0
    return 100 * (image / mean - 1), "from the mean [%]"


def find_stretch(parts: Any, name: str, *, flat: int = 0) -> tuple[float, float]:
    """Find the range of a map that is shown, blind to few odd pixels.

    Parameters
    ----------
    parts, name, flat
        See `plot_flat_map`.
    """
    image = scale_map(parts, name, flat=flat)[0]
    if name == "coverage":
        return 0.0, max(float(np.nanmax(image)), 1.0)
    if name in _ERRORS:
        both = [scale_map(parts, error, flat=flat)[0] for error in _ERRORS]
        return 0.0, max(_find_percentile(one) for one in both)
    most = _find_percentile(np.abs(image))
    return -most, most


def plot_flat_maps(parts: Any, *, flat: int = 0, width: float = 13.5) -> "Figure":
    """Plot P, L, ratio, coverage and both errors of one flat.

    Parameters
    ----------
    parts : StarFlatModel
    flat : int
        Which of the flats, from 0.
    width : float
        Of the figure [inch].

    Notes
    -----
    Saved at its own resolution the figure has one pixel or more for each of the detector.
    """
    from matplotlib.figure import Figure

    ny, nx = parts.maps.coverage.shape
    height = width * float(np.clip(0.6 * ny / nx, 0.25, 0.9))
    dots = nx / (width / 3 - _BESIDE_AXES)
    figure = Figure(figsize=(width, height), dpi=max(100, dots), layout="constrained")
    for name, panel in zip(
        FLAT_MAPS, figure.subplots(2, 3, sharex=True, sharey=True).ravel(), strict=True
    ):
        try:
            plot_flat_map(parts, name, panel, flat=flat)
        except EvidenceError:
            panel.set_title(f"{FLAT_MAPS[name]}: none", fontsize=8)
            panel.set_axis_off()
        panel.set(xlabel="", ylabel="")
    figure.supxlabel("x [pixel]", fontsize=9)
    figure.supylabel("y [pixel]", fontsize=9)
    return figure


def plot_reference_flat(flat: np.ndarray, err: np.ndarray) -> "Figure":
    """Plot a flat as it is applied, and its error.

    Parameters
    ----------
    flat, err : ndarray, shape (ny, nx)
        Response of mean 1 and its 1-sigma error; NaN = not usable.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    response, error = 100 * (np.asarray(flat, float) - 1), 100 * np.asarray(err, float)
    most = _find_percentile(np.abs(response))
    for panel, image, cmap, limits, title in zip(
        figure.subplots(1, 2),
        (response, error),
        ("RdBu_r", "cividis"),
        ((-most, most), (0.0, _find_percentile(error))),
        ("flat, from 1 [%]", "error [%]"),
        strict=True,
    ):
        shown = panel.imshow(
            image,
            origin="lower",
            cmap=colormaps[cmap].with_extremes(bad=_BAD),
            vmin=limits[0],
            vmax=limits[1],
        )
        figure.colorbar(shown, ax=panel, extend="both" if limits[0] else "max")
        panel.set(xlabel="x [pixel]", ylabel="y [pixel]", title=title)
    return figure


def plot_null_space(parts: Any) -> "Figure":
    """Plot what the exposures determine worst: shares of information, and combinations of modes.

    Parameters
    ----------
    parts : StarFlatModel
        With a star flat, of version 1.1 or later.
    """
    from matplotlib.figure import Figure

    star = require_group(parts, "star", "a star flat")
    gauge = require_group(parts, "gauge", "a star flat")
    if "shares" not in gauge:
        raise EvidenceError(
            "expected the shares of information, found a product of an earlier version; run "
            "external_flat_builder again"
        )
    shares = np.asarray(gauge["shares"])
    combinations = np.asarray(gauge["combinations"])
    n = combinations.shape[1]
    figure = Figure(figsize=(13.5, 3.4), layout="constrained")
    panels = figure.subplots(1, n + 1, width_ratios=[1.4] + [1] * n)
    # Rounding leaves of nothing something far below any limit.
    floor = LEAST_SHARE * 1e-7
    panels[0].semilogy(
        np.arange(1, shares.size + 1), np.maximum(shares, floor), "o", ms=4, color=COLOURS["blue"]
    )
    panels[0].axhline(
        LEAST_SHARE, color=COLOURS["vermilion"], ls="--", label="least that is trusted"
    )
    panels[0].set(
        xlabel="combination of modes, worst first",
        ylabel="share of information left",
        title=f"{gauge['n_null']} direction(s) unknown to stars",
    )
    panels[0].legend(fontsize=7)
    basis = _make_basis(star, _find_field(parts))
    for k, panel in enumerate(panels[1:]):
        shape = basis.render(combinations[:, k])
        most = float(np.nanmax(np.abs(shape)))
        panel.imshow(shape, origin="lower", cmap="RdBu_r", vmin=-most, vmax=most)
        panel.set_title(f"{k + 1}: share {shares[k]:.2g}", fontsize=9)
        panel.set(xticks=[], yticks=[])
    return figure


def plot_residuals_by_position(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot the mean residual of the stars in cells of the detector.

    Parameters
    ----------
    parts : StarFlatModel
        With a star flat, of version 1.1 or later.
    ax : matplotlib Axes, optional
    """
    ax = get_axes(ax)
    seen = require_group(parts, "residuals", "the residuals of a star flat")
    good = ~np.asarray(seen["outlier"])
    x, y, value, sigma = (
        np.asarray(seen[key], float)[good] for key in ("x", "y", "value", "sigma")
    )
    ny, nx = parts.maps.coverage.shape
    side = max(ny, nx) / _N_CELLS
    # Few stars: larger cells, so that most have some.
    side = max(side, float(np.sqrt(4 * _LEAST_IN_CELL * nx * ny / max(value.size, 1))))
    n_y, n_x = int(np.ceil(ny / side)), int(np.ceil(nx / side))
    cell = np.clip((y / side).astype(int), 0, n_y - 1) * n_x
    cell += np.clip((x / side).astype(int), 0, n_x - 1)
    weight = np.bincount(cell, 1 / sigma**2, n_x * n_y)
    few = np.bincount(cell, minlength=n_x * n_y) < _LEAST_IN_CELL
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(cell, value / sigma**2, n_x * n_y) / weight
    mean[few] = np.nan
    pull = (mean * np.sqrt(weight))[~few]
    from matplotlib import colormaps

    most = 100 * _find_percentile(np.abs(mean)) if (~few).any() else 1.0
    shown = ax.imshow(
        100 * mean.reshape(n_y, n_x),
        origin="lower",
        cmap=colormaps["RdBu_r"].with_extremes(bad=_BAD),
        vmin=-most,
        vmax=most,
        extent=(-0.5, n_x * side - 0.5, -0.5, n_y * side - 0.5),
    )
    ax.figure.colorbar(shown, ax=ax, label="mean residual [%]", extend="both")
    ax.set(xlim=(-0.5, nx - 0.5), ylim=(-0.5, ny - 0.5), xlabel="x [pixel]", ylabel="y [pixel]")
    scatter = f"{np.std(pull):.2f}" if pull.size > 1 else "?"
    ax.set_title(
        f"cells of {side:.0f} pixels; their means scatter by {scatter} of their errors",
        fontsize=10,
    )
    return ax


def plot_distortion(parts: Any, ax: "Axes | None" = None) -> "Axes":
    """Plot what the WCS of the exposures leaves of the distortion, as arrows over the detector.

    Parameters
    ----------
    parts : StarFlatModel
        With a distortion, of version 1.1 or later.
    ax : matplotlib Axes, optional
    """
    found = require_group(parts, "distortion", "the distortion from stars")
    ax = get_axes(ax)
    field = _find_field(parts)
    basis = _make_basis(found, field)
    ny, nx = field.shape
    step = max(ny, nx) / _N_ARROWS
    y, x = (
        grid.ravel()
        for grid in np.meshgrid(
            np.arange(step / 2, ny, step), np.arange(step / 2, nx, step), indexing="ij"
        )
    )
    inside = field[y.astype(int), x.astype(int)]
    x, y = x[inside], y[inside]
    coefficients = 1e3 * np.asarray(found["coefficients"])
    dx, dy = (basis.evaluate(x, y) @ one for one in coefficients)
    longest = max(float(np.hypot(dx, dy).max(initial=0)), 1e-9)
    arrows = ax.quiver(
        x,
        y,
        dx,
        dy,
        angles="xy",
        scale_units="xy",
        scale=longest / (_LONGEST * step),
        color=COLOURS["blue"],
        width=0.003,
    )
    key = float(f"{longest:.1g}")
    ax.quiverkey(arrows, 0.87, 1.03, key, f"{key:g} mas", labelpos="E")
    rms, err = (
        float(np.sqrt(np.sum(values**2)))
        for values in (coefficients, 1e3 * np.asarray(found["errors"]))
    )
    ax.set(
        xlim=(-0.5, nx - 0.5),
        ylim=(-0.5, ny - 0.5),
        aspect="equal",
        xlabel="x [pixel]",
        ylabel="y [pixel]",
    )
    ax.set_title(
        f"rms {rms:.3g} mas, error {err:.2g} mas;\n{found['n_used']} positions of "
        f"{found['n_stars']} stars",
        fontsize=10,
        loc="left",
    )
    return ax


def require_group(parts: Any, name: str, what: str) -> Any:
    """Take a group of the product.

    Raises
    ------
    EvidenceError
        It is not there.
    """
    tree = parts.instance
    if name not in tree:
        cure = {
            "check": "run external_flat_builder with --hold_out",
            "distortion": "the notes say why it was not measured",
        }.get(name, "the notes say why there is no star flat, or the product is of version 1.0")
        raise EvidenceError(f"expected {what} in the product, found none; {cure}")
    return tree[name]


def _find_field(parts: Any) -> np.ndarray:
    """Mark the pixels that the flat uses and, with a star flat, that it reaches."""
    maps = parts.maps.instance
    for name in ("ratio", "err_random"):
        known = np.isfinite(np.asarray(maps[name][0]))
        if known.any():
            break
    return known


def _make_basis(node: Any, field: np.ndarray) -> FieldBasis:
    """Make the modes of a group of the product, over the pixels of a field."""
    degree = np.asarray(node["degree"])
    x0, x1, y0, y1 = (float(value) for value in node["bounds"])
    transform = np.asarray(node["transform"])
    return FieldBasis(int(degree.max()), field, (x0, x1, y0, y1), transform, degree)


def _find_percentile(image: np.ndarray) -> float:
    """Find what most of the finite values stay below, above 0."""
    return max(float(np.nanpercentile(image, _SHOWN)), 1e-6)


def get_axes(ax: "Axes | None") -> "Axes":
    """Take the axes given, or the current ones."""
    if ax is not None:
        return ax
    from matplotlib import pyplot as plt

    return plt.gca()
