"""One self-contained HTML page: verdicts, provenance, figures and tables.

Interactive parts are Bokeh's, its JavaScript inlined once. Bokeh rather than Plotly: 1.3 MB of
JavaScript (1.6 MB with widgets) against 4.7 MB, selections that `CustomJS` links without a server,
and arrays that travel as packed binary columns instead of lists of numbers.
"""

import base64
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ..atomic import replace_whole
from ..errors import TvBadPixError
from ..processes import run_beside

__all__ = [
    "COLOURS",
    "Item",
    "Page",
    "Section",
    "Verdict",
    "encode_plot",
    "import_drawing",
    "list_figures",
    "save_beside",
    "try_item",
    "write_figures",
    "write_page",
]

log = logging.getLogger(__name__)

_Made = TypeVar("_Made")

# Okabe & Ito's palette, safe for the colour-blind.
COLOURS: Mapping[str, str] = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
# Static figures [dots per inch].
_DPI = 120
# The files of figures that still exist: drawing takes longer than all the rest.
_SAVED: "WeakKeyDictionary[Any, dict[str, bytes]]" = WeakKeyDictionary()
# What plots that still exist are on a page.
_ENCODED: "WeakKeyDictionary[Any, str]" = WeakKeyDictionary()
# A longer table scrolls.
_SHOWN_ROWS = 20
_MODEL_ID = re.compile(r'"id": ?"(p\d+)"')


@dataclass(frozen=True, slots=True)
class Verdict:
    """A row of the table with which the page begins.

    Attributes
    ----------
    check, value, limit : str
        What was looked at, what was found, what is allowed.
    passed : bool or None
        None: reported, not judged.
    """

    check: str
    value: str
    limit: str
    passed: bool | None


@dataclass(frozen=True, slots=True)
class Item:
    """Something shown.

    Attributes
    ----------
    title, caption : str
    content : matplotlib Figure, bokeh LayoutDOM or astropy Table
    name : str
        Of a matplotlib Figure: `write_figures` writes it as ``STEM_<name>.png``; empty: never.
    """

    title: str
    caption: str
    content: Any
    name: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading, some text, and what is shown under it."""

    title: str
    text: str
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A page; all of its text is plain text.

    Attributes
    ----------
    title : str
    verdicts : tuple of Verdict
    provenance : mapping of str to str
        Settings, versions, inputs: what the products say of themselves.
    sections : tuple of Section
    missing : tuple of str
        What cannot be shown, and why.
    """

    title: str
    verdicts: tuple[Verdict, ...]
    provenance: Mapping[str, str]
    sections: tuple[Section, ...]
    missing: tuple[str, ...] = ()


def import_drawing() -> None:
    """Import what draws pages, where there is time for it; what is not there is told later."""
    for name in (
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "jinja2",
        "bokeh.plotting",
    ):
        with suppress(ImportError):
            import_module(name)


def try_item(missing: list[str], title: str, make: Callable[[], _Made]) -> _Made | None:
    """Make an item, or what it is made of; a failure becomes a line of what is missing, and None.

    Parameters
    ----------
    missing : list of str
        The line is appended to it.
    title : str
        Of what is made.
    make : callable
        Without arguments; returns the Item, or whatever is wanted.
    """
    try:
        return make()
    except ModuleNotFoundError as error:
        missing.append(f"{title}: needs {error.name}; install it and make the page again")
    except TvBadPixError as error:
        missing.append(f"{title}: {error}")
    except Exception as error:  # whatever it is, the rest of the page is worth having
        log.warning("Not drawn: %s", title, exc_info=True)
        missing.append(f"{title}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return None


@contextmanager
def save_beside(items: Sequence[Item]) -> Iterator[None]:
    """Save the figures among items as the page will, in a process beside what is done meanwhile."""
    figures = [item.content for item in items if _get_kind(item) == "figure"]
    with run_beside(lambda: [_save_figure(figure, "png") for figure in figures]) as wait:
        yield
        for figure, content in zip(figures, wait(), strict=True):
            _SAVED.setdefault(figure, {})[f"{_DPI:g} png"] = content


def write_page(page: Page, path: Path) -> None:
    """Write one HTML file that needs no other, under a temporary name at first.

    Parameters
    ----------
    page : Page
    path : Path
        Its folder is made when absent.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    plots = [
        item.content
        for section in page.sections
        for item in section.items
        if _get_kind(item) == "plot"
    ]
    text = environment.get_template("page.html.j2").render(
        page=page,
        scripts=_list_scripts(plots),
        kind=_get_kind,
        image=_encode_figure,
        plot=encode_plot,
        table=_format_table,
        slug=_make_slug,
        scrolls=lambda rows: len(rows) > _SHOWN_ROWS,
        failed=sum(verdict.passed is False for verdict in page.verdicts),
        judged=sum(verdict.passed is not None for verdict in page.verdicts),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def list_figures(
    page: Page, stem: Path, formats: Sequence[str] = ("png",)
) -> dict[Path, tuple[Any, str]]:
    """List the named matplotlib figures of a page, as files of their own.

    Parameters
    ----------
    page : Page
    stem : Path
        The files are ``<stem>_<name of the item>.<format>``.
    formats : sequence of str
        ``png`` or ``pdf``.

    Returns
    -------
    dict of Path to tuple
        The figure and the format, by the file.
    """
    return {
        stem.with_name(f"{stem.name}_{item.name}.{ending}"): (item.content, ending)
        for section in page.sections
        for item in section.items
        if item.name and _get_kind(item) == "figure"
        for ending in formats
    }


def write_figures(page: Page, stem: Path, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write the figures of `list_figures`; the files."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figures = list_figures(page, stem, formats)
    for path, (figure, ending) in figures.items():
        with replace_whole(path) as temporary:
            # Images keep their pixels where their figure has the dots for them.
            temporary.write_bytes(_save_figure(figure, ending, max(_DPI, figure.dpi)))
    return list(figures)


def _get_kind(item: Item) -> str:
    """Tell what an item holds: figure, table or plot."""
    from astropy.table import Table
    from matplotlib.figure import Figure

    if isinstance(item.content, Figure):
        return "figure"
    return "table" if isinstance(item.content, Table) else "plot"


def _save_figure(figure: Any, ending: str, dpi: float = _DPI) -> bytes:
    """Save as a file's bytes: without a date, so that they are the same for the same figure."""
    files = _SAVED.setdefault(figure, {})
    key = f"{dpi:g} {ending}"
    if key not in files:
        metadata = {"CreationDate": None} if ending == "pdf" else {"Software": None}
        stream = io.BytesIO()
        figure.savefig(stream, format=ending, dpi=dpi, metadata=metadata)
        files[key] = stream.getvalue()
    return files[key]


def _encode_figure(figure: Any) -> str:
    """Encode a matplotlib figure as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(_save_figure(figure, "png")).decode("ascii")


def encode_plot(layout: Any) -> Any:
    """Encode a Bokeh layout, once, as JSON that is safe within a script element."""
    from bokeh.embed import json_item
    from markupsafe import Markup

    if layout in _ENCODED:
        return _ENCODED[layout]
    text = json.dumps(json_item(layout))
    # Bokeh numbers its models per process; the same page shall have the same bytes.
    names = {old: f"m{k}" for k, old in enumerate(dict.fromkeys(_MODEL_ID.findall(text)))}
    text = re.sub(r'"(p\d+)"', lambda found: f'"{names.get(found[1], found[1])}"', text)
    _ENCODED[layout] = encoded = Markup(text.replace("<", "\\u003c"))
    return encoded


def _list_scripts(plots: Sequence[Any]) -> list[Any]:
    """List the parts of BokehJS that the plots need; none without plots."""
    if not plots:
        return []
    from bokeh.embed.bundle import bundle_for_objs_and_resources
    from bokeh.resources import Resources
    from markupsafe import Markup

    bundle = bundle_for_objs_and_resources(plots, Resources(mode="inline", log_level="error"))
    return [Markup(text.replace("</script", "<\\/script")) for text in bundle.js_raw]


def _format_table(table: Any) -> tuple[list[str], list[list[str]]]:
    """Format an astropy table: heads with units, rows of text."""
    heads = [
        f"{name} [{column.unit}]" if column.unit else name
        for name, column in zip(table.colnames, table.columns.values(), strict=True)
    ]
    everything = {"max_lines": -1, "show_name": False, "show_unit": False}
    columns = [column.pformat(**everything) for column in table.columns.values()]
    return heads, [[text.strip() for text in row] for row in zip(*columns, strict=True)]


def _make_slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
