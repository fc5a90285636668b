"""The map of a history's pixels, and the light curve of the one that the reader picks."""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import bottleneck as bn
import numpy as np

from ..badpix import CLASSES, select_counted
from ..dates import to_mjds
from ..errors import InputError
from ..refmodels import list_useafter, unpack_residuals
from .figures import CLASS_COLOURS, choose_examples, count_pixels
from .page import COLOURS

if TYPE_CHECKING:
    from bokeh.models import LayoutDOM

__all__ = ["ADVICE", "plot_pixels"]

# Kinds of pixels whose residuals are kept, beside the classes, and what is said of them.
_CANDIDATE, _CONTROL = "candidate, not flagged", "control sample"
_NOTES = {
    _CANDIDATE: "Looked at closely because some exposures stand out; never flagged.",
    _CONTROL: "A good pixel, drawn at random (1 % of them).",
}
# A click picks a shown pixel within this many pixels of the screen.
_REACH = 12
# Pixels that are packed at once: what is made of them stays in the cache.
_PACKED = 512
_DAY_MS = 86400000.0
_UNIX_EPOCH_MJD = 40587.0
# Room on either side of the first and the last exposure, as a share of the time between them.
_MARGIN = 0.03

ADVICE = """\
The history keeps no residuals of y=<y> x=<x>: no exposure made it stand out, and it is not in the \
control sample. From the exposures (in their folder):

import glob, numpy as np, matplotlib.pyplot as plt
from jwst_tvbadpix.exposures import open_exposures
stack = open_exposures(sorted(glob.glob("*_rate.fits")))
y0, y1, x0, x1 = stack.window
rate = stack.read_rows(max(y0, <y> - 4), min(y1, <y> + 5))
own = rate[:, <y> - max(y0, <y> - 4), <x> - x0]
around = np.nanmedian(rate[:, :, max(0, <x> - x0 - 4) : <x> - x0 + 5], axis=(1, 2))
plt.plot([record.mid_mjd for record in stack.look_records], own - around, "o")
plt.show()
"""


def plot_pixels(history: Any) -> "LayoutDOM":
    """Plot a map of all pixels of a history beside the light curve of the one that is picked.

    Parameters
    ----------
    history : BadPixHistoryModel
        With at least one exposure; one without a control sample is shown without.

    Returns
    -------
    bokeh LayoutDOM
        Of itself complete: its links run in the browser.

    Raises
    ------
    InputError
        The history has no exposures.

    Notes
    -----
    Residuals travel as int16 in steps of a fifth of the pixel's noise, or of a 32767th of its
    largest residual; the noise as uint8 in steps of its twentieth part.
    """
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, CustomJS

    if not len(history.exposures.instance["filename"]):
        raise InputError("expected exposures in the history, found none; make it again from some")
    owner, kept = _gather_pixels(history)
    marker = ColumnDataSource({"y": [], "x": []})
    facts = _gather_facts(history)
    field, message, slider = _make_widgets(_choose_first(history, kept), len(facts["starts"]))
    detector, renderers = _draw_map(history, kept, marker, facts["titles"][0])
    curve, sources = _draw_curve(facts)
    _draw_events(history, curve)

    def link(name: str, **known: Any) -> Any:
        code = (files(__package__) / f"{name}.js").read_text(encoding="utf-8")
        return CustomJS(args={**known, "facts": facts}, code=code)

    show = link(
        "light_curves",
        pixels=ColumnDataSource(kept),
        intervals=ColumnDataSource(_gather_intervals(history, owner)),
        **{"input": field, "message": message, "curve": curve, "marker": marker, **sources},
    )
    field.js_on_change("value", show)
    # The first change of its size is when the plot is laid out: the first pixel is shown then.
    curve.js_on_change("inner_width", show)
    detector.js_on_event("tap", link("map_tap", map=detector, renderers=renderers, input=field))
    masked = [layer for layer in renderers if "start" in layer.data_source.data]
    slider.js_on_change("value", link("map_date", map=detector, renderers=masked, slider=slider))
    parts = column(detector, slider), column(field, curve, message)
    # One below the other in a narrow window.
    return row(*parts, styles={"flex-wrap": "wrap"}, sizing_mode="stretch_width")


def _make_widgets(first: str, n_masks: int) -> tuple[Any, Any, Any]:
    """Make the field for a pixel, what is said of it, and the slider of the masks."""
    from bokeh.models.widgets import Div, Slider, TextInput

    style = {"white-space": "pre-wrap", "font-size": "13px"}
    return (
        TextInput(value=first, title="Pixel: row, column (y, x; 0-based)", name="pixel"),
        Div(text="", render_as_text=True, width=560, name="message", styles=style),
        Slider(
            start=0,
            end=max(n_masks, 1),
            value=0,
            step=1,
            title="Mask (0: bad in any)",
            name="date",
            width=560,
        ),
    )


def _gather_pixels(history: Any) -> tuple[dict[tuple[int, int], int], dict[str, np.ndarray]]:
    """Columns of all pixels with residuals, and the row of each by (y, x)."""
    groups = ["residuals", "control"][: 1 + _has_control(history)]
    parts = [history[group].instance for group in groups]
    kept = {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in "yx"}
    packed = [
        _pack_coarsely(*unpack_residuals(history, group, np.s_[k : k + _PACKED]))
        for group, part in zip(groups, parts, strict=True)
        for k in range(0, max(len(part["y"]), 1), _PACKED)
    ]
    kept |= {name: np.concatenate([part[name] for part in packed]) for name in packed[0]}
    owner = {
        place: k for k, place in enumerate(zip(kept["y"].tolist(), kept["x"].tolist(), strict=True))
    }
    kind = np.full(len(kept["y"]), len(CLASSES), np.uint8)
    kind[len(parts[0]["y"]) :] += 1
    rows = history.intervals.instance
    for k in np.flatnonzero(select_counted(rows)):
        place = int(rows["y"][k]), int(rows["x"][k])
        if place in owner:
            kind[owner[place]] = CLASSES.index(str(rows["class"][k]))
    return owner, {**kept, "kind": kind}


def _pack_coarsely(residual: np.ndarray, noise: np.ndarray) -> dict[str, np.ndarray]:
    """Pack residuals in steps that the eye does not see: what is random takes room in the page."""
    typical = np.nan_to_num(bn.nanmedian(noise, axis=1))
    columns = {}
    for name, values, parts, dtype in (
        ("residual", residual, 5, np.int16),
        ("noise", noise, 20, np.uint8),
    ):
        largest = np.nan_to_num(bn.nanmax(np.abs(values), axis=1)) / (np.iinfo(dtype).max - 1)
        step = np.maximum(np.maximum(typical / parts, largest), 1e-12).astype(np.float32)
        steps = np.rint(values / step[:, None])
        steps[np.isnan(steps)] = np.iinfo(dtype).min
        columns[name], columns[f"{name}_step"] = steps.astype(dtype), step
    return columns


def _has_control(history: Any) -> bool:
    return bool(history.hasattr("control"))


def _gather_intervals(history: Any, owner: dict[tuple[int, int], int]) -> dict[str, np.ndarray]:
    """Columns of the bad intervals, with the row of their pixel."""
    rows = history.intervals.instance
    bad = np.asarray(rows["state"]) == 1
    places = zip(rows["y"][bad].tolist(), rows["x"][bad].tolist(), strict=True)
    return {
        "pixel": np.array([owner.get(place, -1) for place in places], np.int32),
        "start": rows["start_mjd"][bad],
        "end": rows["end_mjd"][bad],
        "amplitude": rows["amplitude"][bad],
        "log_odds": rows["log_odds"][bad],
        "n_looks": rows["n_looks"][bad],
        "dnu": rows["dnu"][bad].astype(np.uint8),
    }


def _gather_facts(history: Any) -> dict[str, Any]:
    """Gather what the scripts need to know."""
    exposures = history.exposures.instance
    mjd = _fill_dates(exposures)
    starts = list_useafter(history)
    margin = _MARGIN * max(np.ptp(mjd), 1.0)
    names = {name: name for name in ("start", "end", "amplitude", "log_odds", "n_looks", "dnu")}
    return {
        "shape": list(history.coverage.shape),
        "mjd": mjd.tolist(),
        "first_mjd": float(mjd.min() - margin),
        "last_mjd": float(mjd.max() + margin),
        "exposures": list(exposures["filename"]),
        "kinds": [*CLASSES, _CANDIDATE, _CONTROL],
        "notes": {**dict.fromkeys(CLASSES, ""), **_NOTES},
        "columns": names,
        "advice": ADVICE,
        "reach": _REACH,
        "bad_colour": COLOURS["vermilion"],
        "good_colour": COLOURS["blue"],
        "starts": to_mjds(starts),
        "titles": ["Bad at any date", *(f"Mask from {start}" for start in starts)],
    }


def _fill_dates(exposures: Any) -> np.ndarray:
    """Middles of the exposures [MJD]; their number where they have no order in time."""
    mjd = np.asarray(exposures["expmid_mjd"], float)
    if np.isfinite(mjd).all() and np.ptp(mjd) > 0:
        return mjd
    return _UNIX_EPOCH_MJD + np.arange(len(mjd), dtype=float)


def _choose_first(history: Any, kept: dict[str, np.ndarray]) -> str:
    """Choose the pixel that is shown first: a typical one that turned bad, else any."""
    for place in choose_examples(history):
        if place is not None:
            return f"{place[0]}, {place[1]}"
    return f"{kept['y'][0]}, {kept['x'][0]}" if len(kept["y"]) else "0, 0"


def _draw_map(history: Any, kept: dict[str, np.ndarray], marker: Any, title: str) -> Any:
    """Draw the detector by class; the figure, and its layers in the order of the classes."""
    from bokeh.models import BooleanFilter, CDSView, ColumnDataSource, Range1d
    from bokeh.plotting import figure

    ny, nx = history.coverage.shape
    plot = figure(
        width=600,
        height=round(520 * ny / nx) + 120,
        title=title,
        name="map",
        x_range=Range1d(-0.5, nx - 0.5),
        y_range=Range1d(-0.5, ny - 0.5),
        x_axis_label="x [pixel]",
        y_axis_label="y [pixel]",
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        lod_threshold=None,
    )
    renderers = []

    def add(label: str, columns: dict[str, Any], **style: Any) -> None:
        renderers.append(
            plot.scatter(
                "x",
                "y",
                source=ColumnDataSource(columns),
                view=CDSView(filter=BooleanFilter()),
                legend_label=f"{label} ({count_pixels(columns, np.s_[:])})",
                **style,
            )
        )

    rows = history.intervals.instance
    names = np.asarray(rows["class"])
    counted = select_counted(rows)
    for name in CLASSES:
        own = counted & (names == name)
        if not own.any():
            continue
        keys = {"y": "y", "x": "x", "start": "start_mjd", "end": "end_mjd"}
        columns = {key: np.asarray(rows[column])[own] for key, column in keys.items()}
        if name == "TELEGRAPH":  # once, however often it switches: masked at every date
            once = np.unique(np.stack([columns["y"], columns["x"]]), axis=1)
            ever = np.full(once.shape[1], np.inf)
            columns = {"y": once[0], "x": once[1], "start": -ever, "end": ever}
        add(name, columns, size=4, color=CLASS_COLOURS[name], line_color=None)
    for k, name in enumerate((_CANDIDATE, _CONTROL)[: 1 + _has_control(history)]):
        own = kept["kind"] == len(CLASSES) + k
        columns = {"y": kept["y"][own], "x": kept["x"][own]}
        add(name, columns, size=3, color=("#999999", "#56B4E9")[k], visible=False)
    plot.scatter(
        "x", "y", source=marker, size=14, line_color="black", fill_color=None, line_width=2
    )
    legend = plot.legend[0]
    plot.add_layout(legend, "below")
    legend.update(click_policy="hide", ncols=3, label_text_font_size="11px", spacing=0, padding=2)
    return plot, renderers


def _draw_curve(facts: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Draw an empty light curve; the figure, and the sources to be filled."""
    from bokeh.models import ColumnDataSource, HoverTool, Range1d
    from bokeh.plotting import figure

    names = {
        "points": ("time", "residual", "low", "high", "noise", "colour", "exposure"),
        "spans": ("left", "right", "alpha"),
        "levels": ("left", "right", "level"),
    }
    sources = {
        name: ColumnDataSource({key: [] for key in keys}, name=name) for name, keys in names.items()
    }
    edges = [(facts[key] - _UNIX_EPOCH_MJD) * _DAY_MS for key in ("first_mjd", "last_mjd")]
    plot = figure(
        width=580,
        height=360,
        title=" ",
        name="curve",
        x_axis_type="datetime",
        x_range=Range1d(*edges),
        x_axis_label="middle of the exposure (UTC)",
        y_axis_label="residual [DN/s]",
        tools="pan,wheel_zoom,box_zoom,reset,save",
    )
    plot.vstrip(
        "left",
        "right",
        source=sources["spans"],
        fill_color=COLOURS["orange"],
        fill_alpha="alpha",
        line_color=None,
        legend_label="flagged",
    )
    plot.segment(
        *("left", "level", "right", "level"),
        source=sources["levels"],
        color=COLOURS["black"],
        line_width=2,
        legend_label="model",
    )
    plot.segment(
        *("time", "low", "time", "high"), source=sources["points"], color="colour", line_width=1
    )
    shown = plot.scatter(
        "time",
        "residual",
        source=sources["points"],
        size=6,
        color="colour",
        legend_label="residual and 1 sigma",
    )
    tips = [("", "@exposure"), ("residual", "@residual{0.0000} ± @noise{0.0000} DN/s")]
    plot.add_tools(HoverTool(renderers=[shown], tooltips=tips))
    legend = plot.legend[0]
    plot.add_layout(legend, "above")
    legend.update(orientation="horizontal", label_text_font_size="11px", border_line_color=None)
    return plot, sources


def _draw_events(history: Any, plot: Any) -> None:
    """Draw the dated events as labelled lines."""
    from bokeh.models.annotations import Label, Span

    if not history.hasattr("events"):
        return
    events = history.events.instance
    for mjd, label in zip(np.asarray(events["mjd"]).tolist(), events["label"], strict=True):
        when = (mjd - _UNIX_EPOCH_MJD) * _DAY_MS
        plot.add_layout(Span(location=when, dimension="height", line_dash="dashed"))
        place = {"x": when, "y": 4, "y_units": "screen", "angle": np.pi / 2, "x_offset": 12}
        plot.add_layout(Label(text=label, text_font_size="11px", **place))
