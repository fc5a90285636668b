"""Maps of a flat that the reader zooms and moves, side by side."""

from typing import Any

import numpy as np

from .flat_maps import FLAT_MAPS, find_stretch, scale_map

__all__ = ["make_zoom"]

# Levels that a map is shown in; 0 is for pixels that are not usable.
_LEVELS = 254
# Pixels along the longer side of a smooth map, which needs no more.
_SMOOTH_PIXELS = 256
_WIDTH = 500
_BAD = "#cccccc"


def make_zoom(parts: Any, *, most_pixels: int = 1_200_000) -> Any:
    """Make P and L of the first flat side by side; zoom and position are common.

    Parameters
    ----------
    parts : StarFlatModel
    most_pixels : int
        Of P; where there are more, means of squares of pixels are shown.

    Returns
    -------
    bokeh LayoutDOM

    Notes
    -----
    A map travels as one byte per pixel, 254 levels within its stretch, so what the mouse shows is
    rounded to one of them.
    """
    from bokeh.layouts import gridplot

    ny, nx = parts.maps.coverage.shape
    plots: list[Any] = []
    for name, most in (("p_flat", most_pixels), ("l_flat", _SMOOTH_PIXELS**2)):
        factor = int(np.ceil(np.sqrt(max(nx * ny / most, 1))))
        plots.append(_draw(parts, name, factor, plots[0] if plots else None))
    return gridplot([plots], merge_tools=True)


def average_squares(image: np.ndarray, factor: int) -> np.ndarray:
    """Average squares of `factor` pixels (the last may be cut), without those that are NaN."""
    if factor == 1:
        return image
    ny, nx = (-(-n // factor) for n in image.shape)
    padded = np.full((ny * factor, nx * factor), np.nan)
    padded[: image.shape[0], : image.shape[1]] = image
    squares = padded.reshape(ny, factor, nx, factor)
    known = np.isfinite(squares)
    count = known.sum(axis=(1, 3))
    total = np.where(known, squares, 0.0).sum(axis=(1, 3))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _draw(parts: Any, name: str, factor: int, first: Any) -> Any:
    """Draw one map; ranges are those of the first one, where there is one."""
    from bokeh.models.annotations import ColorBar
    from bokeh.models.formatters import CustomJSTickFormatter
    from bokeh.models.mappers import LinearColorMapper
    from bokeh.models.tools import CustomJSHover, HoverTool
    from bokeh.plotting import figure
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    image = scale_map(parts, name)[0]
    low, high = find_stretch(parts, name)
    ny, nx = image.shape
    squares = average_squares(image, factor)
    step = (high - low) / (_LEVELS - 1)
    with np.errstate(invalid="ignore"):
        level = 1 + np.clip(np.rint((squares - low) / step), 0, _LEVELS - 1)
    level = np.where(np.isfinite(squares), level, 0).astype(np.uint8)
    ranges: dict[str, Any] = {"x_range": (-0.5, nx - 0.5), "y_range": (-0.5, ny - 0.5)}
    if first is not None:
        ranges = {"x_range": first.x_range, "y_range": first.y_range}
    shown: Any = figure(
        title=FLAT_MAPS[name] + (f", means of {factor} x {factor} pixels" if factor > 1 else ""),
        x_axis_label="x [pixel, from 0]",
        y_axis_label="y [pixel, from 0]",
        width=_WIDTH,
        height=int(np.clip(_WIDTH * ny / nx, 200, 2 * _WIDTH)),
        # The wheel moves the page until its tool is chosen.
        tools="pan,box_zoom,wheel_zoom,reset,save",
        active_drag="box_zoom",
        match_aspect=True,
        **ranges,
    )
    colours = [to_hex(colormaps["RdBu_r"](k / 255)) for k in range(256)]
    mapper = LinearColorMapper(palette=colours, low=1, high=_LEVELS, low_color=_BAD)
    high_y, high_x = (n * factor for n in level.shape)
    drawn = shown.image(
        image=[level], x=-0.5, y=-0.5, dw=high_x, dh=high_y, color_mapper=mapper, name=name
    )
    scaled = f"{low:.9g} + (Number({{}}) - 1) * {step:.9g}"
    ticks = CustomJSTickFormatter(code=f"return ({scaled.format('tick')}).toPrecision(2);")
    bar = ColorBar(color_mapper=mapper, formatter=ticks, title="from the mean [%]")
    shown.add_layout(bar, "right")
    text = f"return value == 0 ? 'not usable' : ({scaled.format('value')}).toFixed(2) + ' %';"
    pixel = CustomJSHover(code="return Math.round(value).toString();")
    shown.add_tools(
        HoverTool(
            renderers=[drawn],
            tooltips=[("y, x", "$y{custom}, $x{custom}"), ("value", "@image{custom}")],
            formatters={"@image": CustomJSHover(code=text), "$x": pixel, "$y": pixel},
        )
    )
    return shown
