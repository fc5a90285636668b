"""The page of the flats of a run: one part for each set of images."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import bottleneck as bn
import numpy as np
from astropy.table import Table

from ..errors import InputError, TvBadPixError
from ..flatfield.build import MOST_SIGMA
from ..flatfield.gauge import LEAST_SHARE
from ..refmodels import dq_value, read_roman_flat, read_star_flat
from ..roman import is_roman_file
from .flat_figures import (
    list_groups,
    plot_background,
    plot_connectivity,
    plot_hold_out,
    plot_modes,
    plot_residuals_by_star,
    plot_stability,
)
from .flat_maps import (
    plot_distortion,
    plot_flat_maps,
    plot_null_space,
    plot_reference_flat,
    plot_residuals_by_position,
)
from .flat_zoom import make_zoom
from .page import Item, Page, Section, Verdict, try_item
from .products import pick_products, read_product

__all__ = ["make_flat_page"]

log = logging.getLogger(__name__)

# Flats of which the page shows the maps, in all (at least one of each set), and pixels of P that it
# can be zoomed into: so that it stays small. Maps of more flats than these are smaller [inch].
_MOST_MAPS, _MOST_PIXELS = 6, 1_200_000
_FEW_MAPS, _WIDE, _NARROW = 4, 13.5, 8.0
# Of float32, in which both the flat and its parts are written.
_ROUNDING = 1e-5
_FLAGS = ("DO_NOT_USE", "NO_FLAT_FIELD", "UNRELIABLE_FLAT", "NON_SCIENCE")
# What is judged of the stability, and what passes; sky and pointing vary, and are told.
_LIMITS = {
    "flat": "STABLE, or a flat per epoch",
    "pixels": "STABLE, or a flat per epoch",
    "PSF core": "no DRIFT",
    "distortion": "no DRIFT",
}
# Units of the changes, as the schema has them.
_UNITS = {
    "flat": "ln flux",
    "PSF core": "relative",
    "distortion": "arcsec",
    "distortion, linear": "1",
    "pixels": "ln response; number",
    "background": "DN/s",
}
_CAPTIONS = {
    "zoom": "Drag a box to zoom in; tools for wheel and moving are above. Both maps move "
    "together; the mouse shows values. Grey: not usable.",
    "maps": "Per cent of the mean response, coverage in exposures. The stretch holds 99.5 % of the "
    "pixels, and is the same for both errors. Grey: not usable. Useafter {}.",
    "modes": "Coefficients of the polynomials that are orthonormal over the field, with 1-sigma "
    "errors: each is an rms over the field.",
    "null": "Combinations of modes that the exposures tell worst, by the share of information that "
    "is left when star fluxes and zero points are unknown. What looks like a plane is what zero "
    "points can imitate; their prior tells it.",
    "links": "Stars that two exposures share (on the diagonal: all of the exposure).",
    "stars": "Each point is a star. Expected: noise of the pixels, scaled as the residuals say, "
    "and a floor.",
    "place": "Mean residuals of stars in cells of the detector: what the modes cannot describe "
    "would show as structure, and as a scatter above 1.",
    "time": "Change from the mean of all epochs. Epochs share a part of the errors that the bars "
    "show; the verdict takes this into account.",
    "vectors": "Shift of the WCS of the inputs against the stars, modes of degree 2 and up; "
    "offset, scale and turn of each exposure are taken off.",
    "sky": "Level of the sky of each exposure that is in the stack.",
    "check": "Exposures that the flat was not made of, before and after it: scatter from pixel to "
    "pixel, rms of the sky in cells of 32 x 32 pixels, scatter of star fluxes. Noise is in all.",
}


_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class _Set:
    """Products of one set of images.

    `parts` is None where their file is missing or unreadable, `rows` are what the flats flag.
    """

    label: str
    prefix: str
    parts: Any
    flats: Mapping[str, Path]
    rows: Sequence[Mapping[str, Any]]
    missing: list[str]

    @property
    def dates(self) -> list[str]:
        """USEAFTER of the flats of the parts."""
        return [] if self.parts is None else list(self.parts.flats.instance["useafter"])

    def draw(
        self, title: str, name: str, caption: str, plot: Callable[[Any], Any], width: float = 7.0
    ) -> Item | None:
        """Draw on axes of a figure of its own; what cannot be drawn is missing."""

        def make() -> Item:
            from matplotlib.figure import Figure

            figure = Figure(figsize=(width, 4.4), layout="constrained")
            plot(figure.add_subplot())
            return Item(title, caption, figure, f"{self.label}_{name}")

        return self.add(title, make)

    def add(self, title: str, make: Callable[[], _Made]) -> _Made | None:
        """Make an item or the like; what fails is missing, under the name of the set."""
        return try_item(self.missing, f"{self.prefix}{title}", make)


def make_flat_page(paths: Sequence[Path]) -> Page:
    """Make the page of the flats of a run.

    Parameters
    ----------
    paths : sequence of Path
        Star flats, flats; tables add nothing, and nothing is missing without them.

    Returns
    -------
    Page
        With a part for each set of images; what is not among the files is named.

    Raises
    ------
    InputError
        There is neither a star flat nor a flat.
    """
    sets = _list_sets(paths)
    if not sets:
        raise InputError(
            "expected the parts of flats (*_starflat.asdf) or flats, found none; give what "
            "external_flat_builder wrote"
        )
    verdicts: list[Verdict] = []
    provenance: dict[str, str] = {}
    sections: list[Section] = []
    most_maps = max(1, _MOST_MAPS // len(sets))
    n_maps = sum(min(len(one.dates), most_maps) for one in sets)
    width = _WIDE if n_maps <= _FEW_MAPS else _NARROW
    for one in sets:
        for title, judge in _JUDGES.items():
            if one.parts is not None or judge is _judge_flats:
                verdicts += one.add(title, partial(_list, judge, one)) or []
        provenance |= one.add("provenance", partial(_tell, one)) or {}
        sections += _show(one, most_maps, width, _MOST_PIXELS // len(sets))
    names = ", ".join(one.label.replace("_", " ") for one in sets)
    missing = tuple(line for one in sets for line in one.missing)
    return Page(f"Flats of {names}", tuple(verdicts), provenance, tuple(sections), missing)


def _list_sets(paths: Sequence[Path]) -> list[_Set]:
    """Put together what belongs together, by the names of the flats that a product has."""
    flats = {path.stem: path for path in pick_products(paths, "FLAT")}
    found: list[tuple[str, Any, dict[str, Path], list[str]]] = []
    for path in pick_products(paths, "STARFLAT"):
        missing: list[str] = []
        name = read_product(path).name
        try:
            parts = read_star_flat(path)
        except TvBadPixError as error:
            missing.append(f"All but the flats: {error}")
            start = path.stem.rpartition("_")[0]
            stems = [stem for stem in flats if stem.startswith(f"{start}_flat_")]
            mine = {stem: flats.pop(stem) for stem in stems}
            found.append((_cut(start, name), None, mine, missing))
            continue
        stems = list(parts.flats.instance["filename"])
        lost = [stem for stem in stems if stem not in flats]
        missing += [f"{stem}.asdf: it is not beside {path.name}" for stem in lost]
        mine = {stem: flats.pop(stem) for stem in stems if stem in flats}
        start = stems[0].rpartition("_flat_")[0] if stems else path.stem
        found.append((_cut(start, name), parts, mine, missing))
    for stem, path in flats.items():
        lost = [f"All but the flat of {stem}: its parts (*_starflat.asdf) are not beside it"]
        found.append((_cut(stem, read_product(path).name), None, {stem: path}, lost))
    several = len(found) > 1
    return [
        _Set(
            label,
            f"{label.replace('_', ' ')}, " if several else "",
            parts,
            mine,
            _list_flats(mine, missing),
            missing,
        )
        for label, parts, mine, missing in found
    ]


def _cut(stem: str, name: str) -> str:
    """Cut the name of the run off."""
    return stem.removeprefix(f"{name}_")


def _list(judge: Callable[[_Set], Iterator[Verdict]], one: _Set) -> list[Verdict]:
    return list(judge(one))


def _judge_exposures(one: _Set) -> Iterator[Verdict]:
    """Tell how many exposures there are, and what they cover."""
    tree, at = one.parts.instance, one.prefix
    status = list(tree["exposures"]["status"])
    counts = {name: status.count(name) for name in dict.fromkeys(status)}
    told = ", ".join(f"{n} {name}" for name, n in counts.items())
    yield Verdict(f"{at}exposures", f"{len(status)}: {told}", "", None)
    coverage = np.asarray(tree["maps"]["coverage"])
    seen = coverage[coverage > 0]
    middle = f"{np.median(seen):g}" if seen.size else "0"
    value = f"median {middle} exposures, {100 * np.mean(coverage == 0):.2f} % of the pixels never"
    yield Verdict(f"{at}coverage", value, "", None)


def _judge_area(one: _Set) -> Iterator[Verdict]:
    """Judge whether the area of the pixels is in the flat: a star flat needs it."""
    tree = one.parts.instance
    area = tree["area"]
    needed = "star" in tree
    value = "as the optics make it" if area == "distorted" else "taken as constant"
    limit = "as the optics make it, with a star flat"
    passed = area == "distorted" if needed else None
    yield Verdict(f"{one.prefix}pixel area", value, limit, passed)


def _judge_check(one: _Set) -> Iterator[Verdict]:
    """Judge what the flat did to exposures that were held out."""
    check = one.parts.instance.get("check", {})
    for key, name in (("pixel", "pixels"), ("smooth", "sky"), ("star", "star fluxes")):
        if f"{key}_after" in check:
            before, after = (float(check[f"{key}_{when}"]) for when in ("before", "after"))
            value = f"{100 * before:.3f} -> {100 * after:.3f} %"
            label = f"{one.prefix}rms of held-out {name}, before -> after"
            # Of cells of a sky that is even, noise is the most.
            passed = None if key == "smooth" else after < before
            yield Verdict(label, value, "" if passed is None else "lower after", passed)


def _judge_stability(one: _Set) -> Iterator[Verdict]:
    """Judge what changes: the flat by whether there is one for each epoch then."""
    tree = one.parts.instance
    n_flats = len(tree["flats"]["filename"])
    own = {"flat": n_flats > 1, "pixels": "p_flats" in tree["maps"]}
    for what, verdict in tree["drifts"]["verdicts"].items():
        limit, passed = _LIMITS.get(what, ""), None
        if limit and verdict != "NOT MEASURABLE":
            passed = verdict == "STABLE" if what in own else verdict != "DRIFT"
            passed = passed or own.get(what, False)
        value = verdict + (f"; {n_flats} flats by epoch" if own.get(what) else "")
        yield Verdict(f"{one.prefix}stability: {what}", value, limit, passed)


def _judge_star_flat(one: _Set) -> Iterator[Verdict]:
    """Judge the star flat, or say that there is none."""
    tree, at = one.parts.instance, one.prefix
    if "star" not in tree:
        why = [note for note in tree["notes"] if "star flat" in note.lower()]
        if tree["settings"]["star_flat"] == "never":
            why = ["star_flat=never"]
        text = "none; the smooth response is the sky's" + (f" ({why[0]})" if why else "")
        yield Verdict(f"{at}star flat", text, "", None)
        return
    star, gauge = tree["star"], tree["gauge"]
    n_exposures = int(np.isfinite(np.asarray(tree["exposures"]["zero_point"])).sum())
    value = (
        f"{len(tree['stars']['ra']) if 'stars' in tree else '?'} stars in {n_exposures} exposures; "
        f"{star['n_used']} measurements, {star['n_outliers']} outliers; order {star['order']}"
    )
    yield Verdict(f"{at}star flat", value, "", None)
    sigma = float(np.sqrt(np.trace(np.asarray(star["covariance"]))))
    limit = f"at most {100 * MOST_SIGMA:g} %"
    yield Verdict(
        f"{at}star flat: error, rms over the field",
        f"{100 * sigma:.3g} %",
        limit,
        sigma <= MOST_SIGMA,
    )
    noise = f"errors given times {star['noise_scale']:.2f}, floor {100 * star['noise_floor']:.2g} %"
    if "residuals" in tree:
        seen = tree["residuals"]
        good = ~np.asarray(seen["outlier"])
        pull = (np.asarray(seen["value"], float) / np.asarray(seen["sigma"]))[good]
        chi2 = f"{np.mean(pull**2):.3f} per measurement ({noise})"
        yield Verdict(f"{at}star flat: chi2", chi2, "1 is expected", None)
    else:
        one.missing.append(f"{at}chi2 of the star flat: the product is of version 1.0")
    yield Verdict(
        f"{at}star flat: determined",
        f"worst combination beyond the gauge keeps {gauge['weakest']:.2g} of its information",
        f"at least {LEAST_SHARE:g}",
        not gauge["ill_determined"],
    )
    free = float(gauge["gradient_sigma_free"])
    alone = f"{100 * free:.2g} % from stars alone" if np.isfinite(free) else "nothing from stars"
    value = (
        f"{gauge['n_null']} direction(s) unknown to stars, {gauge['n_components']} part(s) of "
        f"the sky; gradient {100 * gauge['gradient_sigma']:.2g} % with the prior, {alone}"
    )
    yield Verdict(f"{at}star flat: gauge", value, "", None)


def _judge_files(one: _Set) -> Iterator[Verdict]:
    """Judge whether each flat is there, with the date and the response that its parts give it."""
    maps, flats = one.parts.instance["maps"], one.parts.instance["flats"]
    n_flats = len(flats["filename"])
    right = 0
    for k, (stem, useafter) in enumerate(zip(flats["filename"], flats["useafter"], strict=True)):
        p_flat = maps["p_flats"][k] if "p_flats" in maps else maps["p_flat"]
        response = np.asarray(p_flat) * np.asarray(maps["l_flat"][k])
        right += stem in one.flats and _holds(one.flats[stem], response, str(useafter))
    check = f"{one.prefix}flats, each P times L of its parts"
    yield Verdict(check, f"{right} of {n_flats}", "all", right == n_flats)


def _holds(path: Path, response: np.ndarray, useafter: str) -> bool:
    """Whether the flat of a file is this one, where it is usable."""
    try:
        row, data, usable = _read_flat(path)
    except Exception as error:  # told when the flags are counted
        log.debug("%s: %s", path, error)
        return False
    same = row["useafter"] == useafter and data.shape == response.shape
    return same and np.allclose(data[usable], response[usable], rtol=_ROUNDING, atol=0)


def _judge_flats(one: _Set) -> Iterator[Verdict]:
    """Tell the share of pixels of each flat that is flagged."""
    limit = ""
    if one.parts is not None:
        limit = f"error above {100 * one.parts.settings.instance['unreliable_err']:g} %"
    shares = [100 * row["UNRELIABLE_FLAT"] / max(row["usable"], 1) for row in one.rows]
    if shares:
        value = ", ".join(f"{share:.3g} %" for share in shares) + " of the usable pixels"
        yield Verdict(f"{one.prefix}UNRELIABLE_FLAT", value, limit, None)


_JUDGES: Mapping[str, Callable[[_Set], Iterator[Verdict]]] = {
    "files of the flats": _judge_files,
    "exposures and coverage": _judge_exposures,
    "verdicts on the star flat": _judge_star_flat,
    "pixel area": _judge_area,
    "verdict of the held-out exposures": _judge_check,
    "verdicts on stability": _judge_stability,
    "flagged pixels": _judge_flats,
}


def _tell(one: _Set) -> dict[str, str]:
    """Tell where the products come from."""
    at = one.prefix
    if one.parts is None:
        return {f"{at}flats": ", ".join(path.name for path in one.flats.values())}
    tree = one.parts.instance
    meta = tree["meta"]
    told = {
        "flats": ", ".join(tree["flats"]["filename"]),
        "description": meta["description"],
        "instrument": f"{meta['instrument']['name']} {meta['instrument']['detector']}, subarray "
        f"{meta['subarray']['name']}",
        "pedigree": meta["pedigree"],
        "author": meta["author"],
        "made": meta.get("date", ""),
        "settings": ", ".join(f"{key}={value}" for key, value in tree["settings"].items()),
        "versions": ", ".join(f"{key} {value}" for key, value in tree["versions"].items()),
        "layout": tree["schema_version"],
    }
    return {f"{at}{key}": str(value) for key, value in told.items()}


def _show(one: _Set, most_maps: int, width: float, most_pixels: int) -> Iterator[Section]:
    """Show one set."""
    title = one.prefix
    items: list[Item | None] = []
    if one.rows:
        items.append(Item("Flats", "", Table(list(one.rows))))
    if one.parts is None:
        for stem, path in one.flats.items():
            items.append(one.add(stem, partial(_show_alone, one, stem, path)))
        yield _fill(f"{title}flats", "", items)
        return
    parts = one.parts
    items.append(
        one.add(
            "P and L",
            lambda: Item("P and L", _CAPTIONS["zoom"], make_zoom(parts, most_pixels=most_pixels)),
        )
    )
    for k, date in enumerate(one.dates[:most_maps]):
        items.append(one.add(f"maps from {date} on", partial(_map, one, k, width)))
    if len(one.dates) > most_maps:
        one.missing.append(
            f"{one.prefix}maps of the flats from {one.dates[most_maps]} on, to keep the page "
            "small: draw them with jwst_tvbadpix.report.plot_flat_maps(read_star_flat(path), "
            "flat=k)"
        )
    # What is only a verdict stands in the table.
    notes = [text for text in parts.notes.instance if not text.startswith("Stability of the ")]
    yield _fill(f"{title}flats", "\n".join(notes), items)
    star_flat = _fill(f"{title}star flat", "", _show_star_flat(one))
    if star_flat.items:
        yield star_flat
    yield _fill(f"{title}stability", "", _show_stability(one))
    exposures = one.add("Exposures", lambda: Item("", "", _tabulate_exposures(parts)))
    yield _fill(f"{title}exposures", "", [exposures])


def _fill(title: str, text: str, items: Iterable[Item | None]) -> Section:
    return Section(title[0].upper() + title[1:], text, tuple(item for item in items if item))


def _map(one: _Set, number: int, width: float) -> Item:
    date = one.dates[number]
    name = "maps" if len(one.dates) == 1 else f"maps_{number + 1}"
    caption = _CAPTIONS["maps"].format(date)
    figure = plot_flat_maps(one.parts, flat=number, width=width)
    return Item(f"Maps, from {date} on", caption, figure, f"{one.label}_{name}")


def _show_alone(one: _Set, stem: str, path: Path) -> Item:
    """Show a flat without its parts."""
    from stdatamodels.jwst.datamodels import FlatModel

    with FlatModel(str(path)) as model:
        figure = plot_reference_flat(model.data, model.err)
    return Item(stem, "Response and its error, as they are applied.", figure, f"{one.label}_flat")


def _show_star_flat(one: _Set) -> Iterator[Item | None]:
    parts = one.parts
    if "star" not in parts.instance:
        one.missing.append(
            f"{one.prefix}modes, null space, connectivity, residuals; flat, PSF core and "
            "distortion against time: there is no star flat"
        )
    else:
        for title, name, plot in (
            ("Modes", "modes", plot_modes),
            ("Stars in common", "links", plot_connectivity),
            ("Residuals by star", "stars", plot_residuals_by_star),
            ("Residuals by position", "place", plot_residuals_by_position),
        ):
            yield one.draw(title, name, _CAPTIONS[name], partial(plot, parts))
        yield one.add(
            "Null space",
            lambda: Item(
                "Null space", _CAPTIONS["null"], plot_null_space(parts), f"{one.label}_null"
            ),
        )
    yield one.draw("Held-out exposures", "check", _CAPTIONS["check"], partial(plot_hold_out, parts))


def _show_stability(one: _Set) -> Iterator[Item | None]:
    parts = one.parts
    yield one.add(
        "Changes",
        lambda: Item(
            "Changes", "Limits hold with a probability of 95 %.", _tabulate_changes(parts)
        ),
    )
    monitors = ("flat", "PSF core", "distortion", "distortion, linear")
    for what in monitors if "star" in parts.instance else ():
        if what in parts.instance.get("series", {}):
            name = what.replace(", ", "_").replace(" ", "_").lower()
            yield one.add(
                f"{what} against time", partial(_plot_groups, one, what, f"stability_{name}")
            )
        else:
            notes = [note for note in parts.notes.instance if f" the {what}: NOT" in note]
            why = notes[0] if notes else "the product is of version 1.0"
            one.missing.append(f"{one.prefix}{what} against time: {why}")
    if "distortion" in parts.instance:
        yield one.draw(
            "Distortion", "distortion", _CAPTIONS["vectors"], partial(plot_distortion, parts)
        )
    yield one.draw(
        "Background", "background", _CAPTIONS["sky"], partial(plot_background, parts), 9.0
    )


def _plot_groups(one: _Set, what: str, name: str) -> Item:
    """Plot the groups of a monitor's series under one another."""
    from matplotlib.figure import Figure

    groups = list(list_groups(one.parts, what))
    figure = Figure(figsize=(9, 0.6 + 2.8 * len(groups)), layout="constrained")
    for group, panel in zip(groups, np.ravel(figure.subplots(len(groups), 1)), strict=True):
        plot_stability(one.parts, what, panel, group=group)
    return Item(f"{what} against time", _CAPTIONS["time"], figure, f"{one.label}_{name}")


def _list_flats(flats: Mapping[str, Path], missing: list[str]) -> list[dict[str, Any]]:
    """Count what each flat on disk flags; what cannot be read is missing."""
    rows: list[dict[str, Any]] = []
    for path in flats.values():
        try:
            rows.append(_read_flat(path)[0])
        except Exception as error:  # whatever is wrong with it, the rest can be shown
            missing.append(f"{path.name}: {type(error).__name__}: {error}")
    return rows


def _read_flat(path: Path) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Read what a flat flags, its response, and where it is usable."""
    from stdatamodels.jwst.datamodels import FlatModel

    if is_roman_file(path):
        data, err, dq, useafter = read_roman_flat(path)
    else:
        with FlatModel(str(path)) as model:
            data, dq, err = np.array(model.data), np.array(model.dq), np.array(model.err)
            useafter = str(model.meta.useafter)
    usable = (dq & dq_value("DO_NOT_USE", "NO_FLAT_FIELD")) == 0
    error = 100 * float(bn.nanmedian(err[usable])) if usable.any() else np.nan
    row = {
        "file": path.name,
        "useafter": useafter,
        "usable": int(usable.sum()),
        "median error [%]": round(error, 4),
        **{name: int(np.sum((dq & dq_value(name)) != 0)) for name in _FLAGS},
    }
    return row, data, usable


def _tabulate_exposures(parts: Any) -> Table:
    """Tabulate the exposures as the page shows them."""
    columns = parts.exposures.instance
    first = ("filename", "status", "reason", "exp_type", "visit", "epoch")
    names = [*first, *sorted(set(columns) - {*first, "sha256"}), "sha256"]
    table = Table({name: list(columns[name]) for name in names})
    formats = {"start_mjd": ".5f", "end_mjd": ".5f", "sky_level": ".3f", "masked": ".3f"}
    formats |= dict.fromkeys(("zero_point", "zero_point_err"), ".5f")
    formats |= dict.fromkeys(("offset_ra", "offset_dec"), ".4f")
    for name, text in formats.items():
        table[name].info.format = text
    return table


def _tabulate_changes(parts: Any) -> Table:
    """Tabulate each kind of change: what is believed of it, and the largest limit."""
    drifts = Table(
        {key: list(column) for key, column in parts.drifts.instance.items() if key != "verdicts"}
    )
    rows = []
    for what, term in dict.fromkeys(zip(drifts["what"], drifts["term"], strict=True)):
        mine = drifts[(drifts["what"] == what) & (drifts["term"] == term)]
        believed = mine[np.array(mine["significant"], bool)]
        most = np.fmax.reduce(np.array(mine["upper_limit"], float))
        rows.append(
            {
                "what": what,
                "term": term,
                "series": len(mine),
                "believed": "; ".join(
                    f"{row['series']} {row['value']:.3g} +- {row['err']:.2g}" for row in believed
                )
                or "none",
                "unit": _UNITS.get(what, "") + (" per year" if term == "slope" else ""),
                "largest limit": f"{most:.3g}" if np.isfinite(most) else "none",
                "not measurable": mine["reason"][0],
            }
        )
    return Table(rows) if rows else Table({"what": ["nothing tells"]})
