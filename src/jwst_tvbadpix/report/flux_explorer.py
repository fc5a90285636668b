"""The interactive figure of a flux calibration: every measurement of every mode against time."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .flux_figures import CLASS_COLOURS, COLOURS
from .flux_record import FluxRecord

__all__ = ["Explorer", "make_explorer"]

# Points that are sent to the browser; of more, every so many.
_MOST_POINTS = 20_000
_BEYOND_DAYS = 365.0
# MJD and length in milliseconds of the first day of a browser's time.
_EPOCH_MJD, _DAY_MS = 40587.0, 86_400_000.0
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star", "plus")
_LEFT_OUT = "left out"
_LEGEND_ROWS = 24
_CODE = """
const k = options.indexOf(this.value), d = curves.data;
line.data = {x: d.x, y: d["y" + k], lower: d["lower" + k], upper: d["upper" + k]};
chosen.group = this.value;
for (const axis of axes) axis.axis_label = labels[k];
"""


@dataclass(frozen=True, slots=True)
class Explorer:
    """The figure, and how many of the measurements it shows.

    Attributes
    ----------
    layout : bokeh LayoutDOM
    n_shown, n_rows : int
    """

    layout: Any
    n_shown: int
    n_rows: int


def make_explorer(record: FluxRecord, *, most_points: int = _MOST_POINTS) -> Explorer:
    """Make the figure of factors with time in which a reader points, clicks and chooses.

    Parameters
    ----------
    record : FluxRecord
    most_points : int
        Of more measurements every so many are shown, those with little say first.

    Returns
    -------
    Explorer

    Raises
    ------
    InputError
        There are no measurements, or none with a date.
    """
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, CustomJS, GroupFilter, TabPanel, Tabs
    from bokeh.models.widgets import Select

    points, n_rows = _collect_points(record, most_points)
    labels: list[Any] = list(record.modes)
    curves = ColumnDataSource(_collect_curves(record))
    units = [record.factor_units[mine[0]] for mine in record.modes.values()]
    titles = [f"C [{unit}]" for unit in units]
    line = ColumnDataSource(
        {"x": curves.data["x"], **{n: curves.data[f"{n}0"] for n in ("y", "lower", "upper")}}
    )
    source = ColumnDataSource(points)
    chosen = GroupFilter(column_name="mode", group=labels[0])
    plots = {
        "by star": _draw_points(record, source, line, chosen, "star"),
        "by class": _draw_points(record, source, line, chosen, "srctype"),
    }
    for plot in plots.values():
        plot.yaxis.axis_label = titles[0]
    select = Select(title="Mode", value=labels[0], options=labels, width=420)
    axes = [plot.yaxis[0] for plot in plots.values()]
    select.js_on_change(
        "value",
        CustomJS(
            args={
                "curves": curves,
                "line": line,
                "chosen": chosen,
                "axes": axes,
                "labels": titles,
                "options": labels,
            },
            code=_CODE,
        ),
    )
    tabs = Tabs(
        tabs=[TabPanel(child=plot, title=title) for title, plot in plots.items()],
        sizing_mode="stretch_width",
    )
    return Explorer(column(select, tabs, sizing_mode="stretch_width"), len(points["x"]), n_rows)


def _collect_points(record: FluxRecord, most: int) -> tuple[dict[str, Any], int]:
    """Columns of what is shown, and how many measurements there are."""
    visits = record.visits
    if visits is None:
        raise InputError("expected the measurements (NAME_visits.ecsv), found none")
    mjd = np.asarray(visits["mjd"], float)
    left, weight = (np.asarray(visits[name], float) for name in ("residual", "weight"))
    used, factor = np.isfinite(left), np.asarray(visits["factor"], float)
    label = np.full(len(visits), "", object)
    value = factor * _find_responses(record)
    for name, units in record.modes.items():
        unit = units[len(units) // 2]
        mine = (record.unit == unit) & np.isfinite(mjd)
        label[mine] = name
        seen = mine & used
        value[seen] = record.predict(unit, mjd[seen])[0] * np.exp(-record.departures[seen])
    rows = np.flatnonzero((label != "") & np.isfinite(value) & (value > 0))
    if not len(rows):
        raise InputError("expected measurements with dates, found none")
    n_rows = len(rows)
    if n_rows > most:
        # What is odd is what a reader looks for.
        rank = np.where(used[rows], np.nan_to_num(weight[rows]), 0.0)
        odd = rows[np.argsort(rank, kind="stable")[: most // 10]]
        others = np.setdiff1d(rows, odd)
        others = others[np.argsort(mjd[others], kind="stable")]
        even = others[np.linspace(0, len(others) - 1, most - len(odd)).astype(int)]
        rows = np.sort(np.concatenate([odd, even]))
    texts = {
        name: np.asarray(visits[name]).astype(str)[rows].tolist()
        for name in ("name", "visit", "source", "subarray", "reason")
    }
    star_class = [str(name) or "no class" for name in visits["srctype"][rows]]
    out = ~used[rows]
    columns = {
        "x": (mjd[rows] - _EPOCH_MJD) * _DAY_MS,
        "y": value[rows],
        "mjd": mjd[rows],
        "residual": 100 * left[rows],
        "weight": weight[rows],
        "mode": label[rows].tolist(),
        "class": star_class,
        **texts,
        # What a point is drawn with.
        "star": np.where(out, _LEFT_OUT, texts["name"]).tolist(),
        "srctype": np.where(out, _LEFT_OUT, star_class).tolist(),
    }
    return columns, n_rows


def _find_responses(record: FluxRecord) -> np.ndarray:
    """Response of the subarray of each measurement, 1 where it has none, (n_rows,) float64."""
    assert record.visits is not None
    known = {(s.group, s.subarray): s.response for s in record.subarrays}
    groups = [f"{u.band.mode.instrument} {u.band.mode.kind}" for u in record.units]
    rows = zip(record.unit.tolist(), np.asarray(record.visits["subarray"]).tolist(), strict=True)
    return np.array(
        [
            1.0 if k < 0 or record.units[k].subarray else known.get((groups[k], name), 1.0)
            for k, name in rows
        ]
    )


def _collect_curves(record: FluxRecord) -> dict[str, np.ndarray]:
    """Columns of the fit of each mode and its band, to a year beyond the last measurement."""
    times = np.linspace(record.first_mjd, record.last_mjd + _BEYOND_DAYS, 120)
    columns = {"x": (times - _EPOCH_MJD) * _DAY_MS}
    for k, units in enumerate(record.modes.values()):
        factor, error = record.predict(units[len(units) // 2], times)
        columns |= {f"y{k}": factor, f"lower{k}": factor - error, f"upper{k}": factor + error}
    return columns


def _draw_points(record: FluxRecord, source: Any, line: Any, chosen: Any, by: str) -> Any:
    """Draw the fit and its band, and the points of each star or class."""
    from bokeh.models import CDSView, DataRange1d, GroupFilter, HoverTool
    from bokeh.models.annotations import BoxAnnotation, Legend, LegendItem
    from bokeh.plotting import figure

    plot = figure(
        height=480,
        sizing_mode="stretch_width",
        x_axis_type="datetime",
        tools="pan,wheel_zoom,box_zoom,save,reset",
        active_drag="box_zoom",
        x_axis_label="date",
        y_range=DataRange1d(only_visible=True),
    )
    plot.toolbar.logo = None
    last = (record.last_mjd - _EPOCH_MJD) * _DAY_MS
    plot.add_layout(BoxAnnotation(left=last, fill_color="#888888", fill_alpha=0.1))
    plot.varea("x", "lower", "upper", source=line, fill_color="#666666", fill_alpha=0.3)
    fit: Any = plot.line("x", "y", source=line, line_color="black")
    items = [LegendItem(label="fit, 1 sigma", renderers=[fit])]
    drawn: list[Any] = []
    names = sorted(set(source.data[by]), key=lambda name: (name == _LEFT_OUT, name))
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        if by == "srctype":
            colour = CLASS_COLOURS.get(name, "#000000")
        out = name == _LEFT_OUT
        points: Any = plot.scatter(
            "x",
            "y",
            source=source,
            view=CDSView(filter=chosen & GroupFilter(column_name=by, group=name)),
            marker="x" if out else _MARKERS[number // len(COLOURS) % len(_MARKERS)],
            size=6,
            color="#888888" if out else colour,
            alpha=0.75,
            visible=not out,
        )
        items.append(LegendItem(label=name, renderers=[points]))
        drawn.append(points)
    plot.add_layout(
        Legend(
            items=items,
            click_policy="hide",
            ncols=-(-len(items) // _LEGEND_ROWS),
            label_text_font_size="8pt",
            spacing=0,
            glyph_height=14,
            glyph_width=14,
        ),
        "right",
    )
    tips = [("star", "@name (@class)"), ("visit", "@visit"), ("file", "@source")]
    tips += [("MJD", "@mjd{0.00}"), ("C", "@y{%.5g}"), ("subarray", "@subarray")]
    tips += [("observed over fitted", "@residual{+0.00} %"), ("weight", "@weight{0.00}")]
    tips += [("left out", "@reason")]
    plot.add_tools(HoverTool(renderers=drawn, tooltips=tips, formatters={"@y": "printf"}))
    return plot
