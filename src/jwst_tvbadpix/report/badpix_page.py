"""The page of a bad-pixel history and its masks."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from astropy.table import Table

from ..badpix import follow_masked, pool_histories
from ..dates import to_isots, to_mjd, to_mjds
from ..errors import InputError, TvBadPixError
from ..processes import run_beside
from ..refmodels import PlannedMask, plan_mask_series, read_history, read_mask_dq
from .badpix_figures import plot_base_change, plot_growth_per_year, plot_odds, tabulate_growth
from .figures import (
    choose_examples,
    plot_bad_pixel_map,
    plot_growth,
    plot_light_curve,
    plot_self_test,
    plot_timeline,
)
from .light_curves import plot_pixels
from .page import Item, Page, Section, Verdict, encode_plot, save_beside, try_item
from .products import Product, pick_products, read_product

__all__ = ["make_badpix_page"]

log = logging.getLogger(__name__)

_NO_DELIVERY = "NOT FOR DELIVERY"
_LEFT_OUT = "Left out: "
# Masks whose pixels are compared with the history; of the others the date.
_COMPARED = 50
# A mask begins at a full second; its date in MJD may lie a microsecond below it.
_HALF_SECOND = 0.5 / 86400


def make_badpix_page(paths: Sequence[Path]) -> Page:
    """Make the page of one detector's history and masks.

    Parameters
    ----------
    paths : sequence of Path
        The history and its masks, in ASDF. What is absent or cannot be read is named on the
        page, and the rest is shown.

    Returns
    -------
    Page
    """
    missing: list[str] = []
    masks = pick_products(paths, "MASK")
    histories = pick_products(paths, "BADPIXHISTORY")
    if not histories:
        missing.append("History: no *_badpixhistory.asdf file of this run was found")
        return _make_mask_page(masks, missing)
    history = try_item(missing, "History", lambda: read_history(histories[0]))
    if history is None:
        return _make_mask_page(masks, missing)
    if not masks:
        missing.append("Masks: none of this run lies beside the history")
    # The masks are compared while the figures are drawn.
    with run_beside(partial(_judge, history, masks)) as wait:
        undrawn: list[str] = []
        sections = _list_sections(history, undrawn)
        verdicts, unjudged = wait()
    detector = history.meta.instrument.detector
    return Page(
        f"Bad pixels of {detector}: {histories[0].stem.removesuffix('_badpixhistory')}",
        tuple(verdicts),
        _list_provenance(history, histories[0]),
        tuple(sections),
        (*missing, *unjudged, *undrawn),
    )


def _judge(history: Any, masks: Sequence[Path]) -> tuple[list[Verdict], list[str]]:
    """Judge all there is to judge; what cannot be is not passed over in silence."""
    verdicts: list[Verdict] = []
    missing: list[str] = []
    for title, judge in _JUDGES.items():
        found = try_item(missing, title, partial(judge, history, masks))
        unknown = [Verdict(title, "could not be judged, see below", "", False)]
        verdicts += unknown if found is None else found
    return verdicts, missing


def _make_mask_page(masks: Sequence[Path], missing: list[str]) -> Page:
    """Make what can be said without the history: which masks there are."""
    heads = [read_product(path) for path in masks]
    table = Table(
        {
            "mask": [path.name for path in masks],
            "valid from (USEAFTER)": [head.useafter for head in heads],
        },
        dtype=(str, str),
    )
    detector = heads[0].detector if heads else "a detector"
    item = Item("", "", table)
    return Page(
        f"Bad-pixel masks of {detector}",
        (),
        {},
        (Section("Masks", f"{len(masks)} masks.", (item,) if masks else ()),),
        tuple(missing),
    )


# ---------------------------------------------------------------------------------- verdicts


def _judge_false_flags(history: Any, _: Sequence[Path]) -> list[Verdict]:
    settings, exposures = history.settings.instance, history.exposures.instance
    share = settings["expected_false"] / max(settings["flags"], 1)
    used = np.asarray(exposures["used"], bool)
    number = np.asarray(exposures["expected_false"], float)[used]
    verdicts = [
        Verdict(
            "False flags expected among all, counted on decoys",
            f"{100 * share:.2f} % ({settings['expected_false']:.0f} of {settings['flags']})",
            f"at most {100 * settings['fdr']:g} % (fdr)",
            # The threshold is the lowest that keeps to it; what is written is rounded.
            bool(share <= settings["fdr"] * (1 + 1e-6)),
        )
    ]
    if number.size:
        value = f"{np.median(number):.0f} (median), {number.max():.0f} (most)"
        verdicts.append(Verdict("False flags expected in the mask of an exposure", value, "", None))
    return verdicts


def _judge_exposures(history: Any, _: Sequence[Path]) -> list[Verdict]:
    exposures = history.exposures.instance
    used = np.asarray(exposures["used"], bool)
    left_out = sum(text.startswith(_LEFT_OUT) for text in history.warnings)
    # Those that could not be opened are in the warnings alone.
    total = max(used.size, int(used.sum()) + left_out)
    neutral = int((np.asarray(exposures["neutral"], bool) & used).sum())
    return [
        Verdict("Exposures used", f"{used.sum()} of {total}", "at least 2", bool(used.sum() >= 2)),
        Verdict(
            "Exposures made with a neutral mask, so that recovery can be seen",
            f"{neutral} of {used.sum()}",
            "at least 1",
            neutral > 0,
        ),
    ]


def _judge_base(history: Any, _: Sequence[Path]) -> list[Verdict]:
    base = history.base.instance
    wrong = [text for text in history.warnings if text.startswith(_NO_DELIVERY)]
    policy = history.settings.instance["base_policy"]
    value = f"{base['file']} ({policy})" if base["file"] else "none"
    value = "; ".join([value, *wrong])
    return [Verdict("Base mask", value, "one that tells NON_SCIENCE", not wrong)]


def _judge_masks(history: Any, masks: Sequence[Path]) -> list[Verdict]:
    """Whether the series is complete, and each exposure gets the mask of its own state."""
    heads = {path.name: read_product(path) for path in masks}
    name = next((head.name for head in heads.values()), "tvbadpix")
    planned = plan_mask_series(history, name)
    wanted, right = len(planned), 0
    compared = set(np.linspace(0, wanted - 1, min(wanted, _COMPARED)).round().astype(int).tolist())
    for k in sorted(compared):
        right += _is_as_made(heads.pop(planned[k].filename, None), planned[k])
    for k in set(range(wanted)) - compared:
        head = heads.pop(planned[k].filename, None)
        right += head is not None and head.useafter == planned[k].useafter
    value = f"{right} of {wanted}" + (f"; not of it: {len(heads)}" if heads else "")
    some = "" if wanted == len(compared) else f" (pixels: {len(compared)} of them, spread in time)"
    verdicts = [
        Verdict(
            f"Masks of the series, each with the pixels that the history gives it{some}",
            value,
            "all, and no other",
            right == wanted and not heads,
        )
    ]
    if masks:
        verdicts.append(_judge_dates(history, masks))
    return verdicts


def _is_as_made(head: Product | None, planned: PlannedMask) -> bool:
    """Whether the file of a mask is there, and holds the date and flags that it should."""
    if head is None or head.useafter != planned.useafter:
        return False
    try:
        with asdf.config_context() as config:
            config.validate_on_read = False  # all of it is compared
            dq = read_mask_dq(head.path)[0]
    except TvBadPixError as error:
        log.warning("Counted as wrong: %s", error)
        return False
    return np.array_equal(dq, planned.paint())


def _judge_dates(history: Any, masks: Sequence[Path]) -> Verdict:
    """Whether each exposure gets the mask of its own state by the dates of the files."""
    starts = np.array(sorted(set(_read_dates([read_product(path).useafter for path in masks]))))
    settings, exposures = history.settings.instance, history.exposures.instance
    rows = history.intervals.instance
    used = np.asarray(exposures["used"], bool)
    times = np.array([exposures[name][used] for name in ("expstart_mjd", "expmid_mjd")], float)
    check = "Exposures that get the mask of their own state by date (USEAFTER)"
    if not np.isfinite(times).all() or not used.any():
        return Verdict(check, "the exposures have no dates", "", None)
    right = 0
    _, select = follow_masked(rows)
    for begin, middle in times.T:
        k = int(np.searchsorted(starts, begin + _HALF_SECOND, side="right")) - 1
        own = select(middle)
        right += k >= 0 and np.array_equal(own, select(starts[k] + _HALF_SECOND))
    total = int(used.sum())
    # With fewer masks than changes, or masks that spare what is too faint, it is not asked.
    exact = not settings.get("max_masks", 0) and settings.get("depth") != "auto"
    passed = right == total if exact else None
    return Verdict(check, f"{right} of {total}", "all" if exact else "", passed)


def _read_dates(useafter: Sequence[str]) -> list[float]:
    """Dates of masks [MJD]; infinite, so that no exposure gets it, where one is none."""
    try:
        return to_mjds(useafter)
    except ValueError:
        if len(useafter) == 1:
            return [np.inf]
        return [date for one in useafter for date in _read_dates([one])]


def _judge_self_test(history: Any, _: Sequence[Path]) -> list[Verdict]:
    if not history.hasattr("self_test"):
        return [Verdict("Self-test", "not asked for (self_test)", "", None)]
    group = history.self_test.instance
    verdicts = []
    rows = pool_histories(group)
    for name in dict.fromkeys(row["class"] for row in rows):
        own = sorted((row for row in rows if row["class"] == name), key=lambda r: r["amplitude"])
        parts = [
            f"{row['completeness']:.2f} ± {row['completeness_err']:.2f} at {row['amplitude']:.3g}"
            for row in own
        ]
        verdicts.append(
            Verdict(
                f"Self-test, {name}: completeness by size [sigma]; purity",
                f"{', '.join(parts)}; purity {own[0]['purity']:.2f} ± {own[0]['purity_err']:.2f}",
                "",
                None,
            )
        )
    verdicts += [Verdict("Self-test, left out", text, "", None) for text in group["left_out"]]
    return verdicts


def _judge_warnings(history: Any, _: Sequence[Path]) -> list[Verdict]:
    return [
        Verdict("Warning of the run", text, "", None)
        for text in history.warnings
        if not text.startswith((_NO_DELIVERY, _LEFT_OUT))
    ]


_JUDGES: dict[str, Callable[[Any, Sequence[Path]], list[Verdict]]] = {
    "False flags": _judge_false_flags,
    "Exposures": _judge_exposures,
    "Masks by date": _judge_masks,
    "Base mask": _judge_base,
    "Self-test": _judge_self_test,
    "Warnings": _judge_warnings,
}


def _list_provenance(history: Any, path: Path) -> dict[str, str]:
    meta, base = history.meta, history.base.instance
    settings = history.settings.instance
    return {
        "History": f"{path.name}, version {history.schema_version} of its layout",
        "Made": f"{meta.date} by {meta.author}",
        "Detector": f"{meta.instrument.name} {meta.instrument.detector}",
        "Pedigree": str(meta.pedigree),
        "Base mask": f"{base['file']}, SHA-256 {base['sha256']}" if base["file"] else "none",
        "Inputs": f"{len(history.exposures.instance['filename'])} exposures; their SHA-256 in the "
        "table of exposures",
        "Software": ", ".join(f"{k} {v}" for k, v in history.versions.instance.items()),
        "Settings": ", ".join(f"{k}={_format_setting(v)}" for k, v in sorted(settings.items())),
    }


def _format_setting(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---------------------------------------------------------------------------------- sections


def _list_sections(history: Any, missing: list[str]) -> list[Section]:
    dates = np.asarray(history.exposures.instance["expmid_mjd"], float)
    dated = dates.size > 1 and np.isfinite(dates).all() and np.ptp(dates) > 0
    if dated:
        last = float(dates.max())
    else:
        last = to_mjd(history.settings.instance["first_useafter"])
        number = f"{dates.size} exposures" if dates.size else "no exposures"
        missing.append(f"Growth and examples: the history has {number}, none before another")
    if not history.hasattr("control"):
        missing.append(
            f"Control sample: histories of layout {history.schema_version} hold none; run the "
            "step again for one"
        )

    undrawn: list[str] = []
    figures = _draw_figures(history, undrawn, last, dated=bool(dated))
    with save_beside([item for section in figures for item in section.items]):
        pixels = try_item(missing, "Map and light curves", lambda: _plot_pixels(history))
        exposures = try_item(
            missing, "Exposures", lambda: Item("", _EXPOSURES, _tabulate_exposures(history))
        )
    missing += undrawn
    left_out = [text for text in history.warnings if text.startswith(_LEFT_OUT)]
    return [
        Section("Pixels", "", _show(pixels)),
        *figures,
        Section("Exposures", "\n".join(left_out), _show(exposures)),
    ]


def _plot_pixels(history: Any) -> Item:
    """Plot the pixels, and encode the plot where there is time for it."""
    item = Item("", _PIXELS, plot_pixels(history))
    encode_plot(item.content)
    return item


def _draw_figures(history: Any, missing: list[str], last: float, *, dated: bool) -> list[Section]:
    """Draw the figures that stand between the plot of the pixels and the exposures."""
    at_last = partial(plot_bad_pixel_map, history, last)
    odds = partial(plot_odds, history)
    change = partial(plot_base_change, history, last)
    draw = partial(_try_drawing, missing)
    base = "Against the base mask"
    sections = [
        Section(
            "Last mask",
            "",
            _show(
                draw("Bad pixels of the last exposure", "", "map", at_last, (8, 8.6)),
                draw(base, _BASE, "base", change, (8, 8.6))
                if _has_base(history, missing)
                else None,
            ),
        ),
        *(_show_changes(history, missing) if dated else ()),
        Section("Odds", "", _show(draw("False flags", _ODDS, "odds", odds, (8, 4.5)))),
    ]
    if history.hasattr("self_test"):
        test = partial(plot_self_test, history)
        item = draw("Self-test", _SELF_TEST, "self_test", test, (8, 5))
        sections.append(Section("Self-test", "", _show(item)))
    return sections


def _show_changes(history: Any, missing: list[str]) -> list[Section]:
    """Show what changed between the exposures."""
    draw = partial(_try_drawing, missing)
    growth = partial(plot_growth, history)
    per_year = partial(plot_growth_per_year, history)
    timeline = partial(plot_timeline, history)
    table = try_item(
        missing,
        "Growth by class",
        lambda: Item("Growth by class", _GROWTH, tabulate_growth(history)),
    )
    return [
        Section(
            "Growth",
            "",
            _show(
                draw("Bad pixels against time", "", "growth", growth, (10, 4)),
                draw("Changes per year by class", _PER_YEAR, "per_year", per_year, (10, 4.5)),
                table,
                draw("Onsets and recoveries", _TIMELINE, "timeline", timeline, (10, 4.5)),
            ),
        ),
        Section("Examples", "", _show(*_draw_examples(history, missing))),
    ]


def _show(*items: Item | None) -> tuple[Item, ...]:
    return tuple(item for item in items if item is not None)


def _has_base(history: Any, missing: list[str]) -> bool:
    if history.base.instance["file"]:
        return True
    missing.append("Comparison with the base mask: the run had none (base_mask)")
    return False


def _try_drawing(
    missing: list[str],
    title: str,
    caption: str,
    name: str,
    plot: Callable[[Any], Any],
    size: tuple[float, float],
) -> Item | None:
    """Draw a figure of one panel; None where that fails, which is then told."""

    def draw() -> Item:
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        plot(figure.add_subplot())
        return Item(title, caption, figure, name)

    return try_item(missing, title, draw)


def _draw_examples(history: Any, missing: list[str]) -> list[Item | None]:
    """Draw the light curves of a typical pixel that turned bad, and of one that recovered."""
    names = (("A typical onset", "onset"), ("A typical recovery", "recovery"))
    items = []
    for (title, name), place in zip(names, choose_examples(history), strict=True):
        if place is not None:
            plot = partial(plot_light_curve, history, *place)
            items.append(_try_drawing(missing, title, _LIGHT_CURVE, name, plot, (10, 3.5)))
    return items


def _tabulate_exposures(history: Any) -> Table:
    exposures = history.exposures.instance
    if not len(exposures["filename"]):
        raise InputError("expected exposures in the history, found none; make it again from some")
    mjd = np.asarray(exposures["expstart_mjd"], float)
    start = np.full(mjd.size, "unknown", "U19")
    start[np.isfinite(mjd)] = [text[:19] for text in to_isots(mjd[np.isfinite(mjd)])]
    table = Table(
        {
            "exposure": exposures["filename"],
            "start (UTC)": start,
            "used": np.where(exposures["used"], "yes", "NO"),
            "reason": exposures["reason"],
            "weight": exposures["score"],
            "false flags": exposures["expected_false"],
            "neutral": np.where(exposures["neutral"], "yes", "no"),
            "subarray": exposures["subarray"],
            "filter": exposures["filter"],
            "readpatt": exposures["readpatt"],
            "ngroups": exposures["ngroups"],
            "nints": exposures["nints"],
            "time": exposures["exptime_s"],
            "made with mask": exposures["r_mask"],
            "pipeline": exposures["cal_ver"],
            "SHA-256": exposures["sha256"],
        },
        units={"time": "s"},
    )
    for name, form in {"weight": ".2f", "false flags": ".1f", "time": ".1f"}.items():
        table[name].info.format = form
    return table


_PIXELS = """\
Click a pixel, or type its row and column: its light curve is shown. The names of the legend hide \
and show their pixels (candidates and control sample are hidden at first); the slider shows one \
mask after the other. Model: the median of the good exposures, plus the amplitude while bad. Pale \
spans are pending: only the last exposure speaks for them, and they are in no mask."""
_BASE = """\
Pixels with DO_NOT_USE in the base mask or in the mask of the last exposure; reference pixels and \
NON_SCIENCE left out. Never seen bad: the history has no bad interval of it at any date."""
_PER_YEAR = """\
Rates for a full year, also of years that the exposures cover in part. TELEGRAPH pixels are masked \
at every date and left out."""
_GROWTH = "Masked pixels at the first and the last exposure, and what changed in between."
_TIMELINE = "A bar is as wide as the gap between exposures in which the change lies."
_LIGHT_CURVE = "Points with 1-sigma errors; line: level in each state; shaded: flagged."
_ODDS = """\
How sure the flags are. The line is what the odds themselves promise; the decoys, made of good \
pixels, count what passes for bad."""
_SELF_TEST = "Known defects put into the exposures of this run, and found again."
_EXPOSURES = """\
Weight: of an exposure as evidence, 0 to 1. False flags: expected in its mask. Neutral: no mask \
hid pixels from its ramp fit."""
