"""What the proof starts from: a programme, the masks made of it, and a CRDS context for each."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time

from ..delivery import Context, build_context
from ..detectors import get_detector
from ..refmodels import build_mask, dq_value, write_twins
from ..simulate import (
    Defects,
    simulate_programme,
    write_imaging_references,
    write_references,
    write_spectral_references,
)
from .field import FILTER
from .scene import N_BLANK, Plan

__all__ = ["Prepared", "prepare", "prepare_unmasked", "write_mask"]

# Of the first mask of a series: before the observatory's first exposure.
_FIRST_USEAFTER = "2021-12-25T00:00:00"
# How long before the star a perfect mask begins [day]: all its exposures, nothing before them.
_EARLIER = 0.1
# FILTER keywords that the masks are for.
_FILTERS = f"P750L|{FILTER}"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What exposures are reduced with.

    Attributes
    ----------
    contexts : dict of str to Context
        'static': the mask of the first epoch; 'dated': the series that the step makes; 'perfect':
        at each date of the star the pixels that are bad then.
    expected : mapping of str to sequence of str
        For each of them, the mask that CRDS should pick at each date of the star.
    n_masks : int
        Masks in the dated series.
    """

    contexts: dict[str, Context]
    expected: Mapping[str, Sequence[str]]
    n_masks: int


def prepare_unmasked(folder: Path, plan: Plan) -> tuple[Context, dict[str, list[Path]]]:
    """Write the references, and a context with a mask of no pixel.

    Parameters
    ----------
    folder : Path
        Where everything is written.
    plan : Plan
        With all defects.

    Returns
    -------
    context : Context
    references : dict of str to list of Path
        By type; all but masks.
    """
    references = _write_references(folder / "references", plan)
    nothing = plan.defects.select(np.zeros(len(plan.defects), bool))
    empty = [write_mask(folder / "empty_mask", nothing)]
    contexts = _build_contexts(folder / "crds", {"none": empty}, references, first=1)
    return contexts["none"], references


def prepare(
    folder: Path,
    plan: Plan,
    references: Mapping[str, Sequence[Path]],
    pool: ProcessPoolExecutor,
    say: Callable[[str], None],
) -> Prepared:
    """Simulate the programme, make the masks, and a context for each.

    Parameters
    ----------
    folder : Path
        Where everything is written.
    plan : Plan
        With all defects.
    references : mapping of str to sequence of Path
        Of ``prepare_unmasked``.
    pool : ProcessPoolExecutor
        Of one process or more.
    say : callable
        Told what happens.
    """
    say(f"Simulating {N_BLANK} blank-sky and failed exposures of four years")
    writing = pool.submit(
        simulate_programme,
        folder / "exposures",
        n_exposures=N_BLANK,
        seed=plan.seed,
        defects=plan.defects,
        start=plan.period[0],
        end=plan.period[1],
    )
    bad_at_first = plan.defects.select(plan.defects.state(plan.first_mjd))
    static = write_mask(folder / "static_mask", bad_at_first)
    masks = {"static": [static], "perfect": _write_perfect_masks(folder, plan)}
    programme = writing.result()
    say("Building the dated masks from them (time_variable_bad_pixel)")
    masks["dated"] = pool.submit(_build_series, folder, programme.association, static).result()
    say(f"Making a CRDS context of the static mask, and one of the series of {len(masks['dated'])}")
    building = pool.submit(_build_contexts, folder / "crds", masks, references, first=2)
    contexts = building.result()
    expected = {
        name: [_pick(context, masks[name], mjd) for mjd in plan.star_mjd]
        for name, context in contexts.items()
    }
    return Prepared(contexts, expected, len(masks["dated"]))


def _write_references(folder: Path, plan: Plan) -> dict[str, list[Path]]:
    """Write all references but masks."""
    references = write_references(folder)
    for part in (
        write_spectral_references(folder, pattern=plan.pattern),
        write_imaging_references(folder, filters=(FILTER,), pattern=plan.pattern),
    ):
        for kind, paths in part.items():
            references[kind] = [*references.get(kind, []), *paths]
    return references


def _build_contexts(
    cache: Path,
    masks: Mapping[str, Sequence[Path]],
    references: Mapping[str, Sequence[Path]],
    *,
    first: int,
) -> dict[str, Context]:
    """Build contexts that can be sent to another process, all in one cache: no name comes twice."""
    contexts = {}
    for number, (name, paths) in enumerate(masks.items(), start=first):
        context = build_context(
            cache, {"mask": paths, **references}, name=f"jwst_{number:04d}.pmap"
        )
        contexts[name] = Context(dict(context.env), dict(context.names))
    return contexts


def _pick(context: Context, paths: Sequence[Path], mjd: float) -> str:
    """Pick the mask of a date, as CRDS should."""
    date = Time(mjd, format="mjd").isot[:19]
    dated = [(fits.getval(path, "USEAFTER"), context.names[path]) for path in paths]
    return max(one for one in dated if one[0] <= date)[1]


def write_mask(path: Path, bad: Defects, *, useafter: str = _FIRST_USEAFTER) -> Path:
    """Write a mask of some defects; its FITS file."""
    facts = get_detector("MIRIMAGE")
    dq = np.zeros(facts.shape, np.uint32)
    dq[facts.reference_pixels()] = dq_value("REFERENCE_PIXEL", "DO_NOT_USE")
    low = bad.response < 1
    for chosen, name in ((~low, "HOT"), (low, "LOW_QE")):
        dq[bad.y[chosen], bad.x[chosen]] = dq_value("DO_NOT_USE", name)
    mask = build_mask(
        dq,
        detector="MIRIMAGE",
        useafter=useafter,
        description="Known bad pixels of a simulation",
        history=["Pixels that are bad by the truth of the simulation."],
        pedigree="SIMULATION",
        filter_name=_FILTERS,
    )
    return write_twins(mask, path)[1]


def _write_perfect_masks(folder: Path, plan: Plan) -> list[Path]:
    """Write what no method can better: for each date of the star, what is bad then."""
    return [
        write_mask(
            folder / f"perfect_mask_{epoch}",
            plan.defects.select(plan.defects.state(mjd)),
            useafter=Time(mjd - _EARLIER, format="mjd").isot[:19],
        )
        for epoch, mjd in enumerate(plan.star_mjd)
    ]


def _build_series(folder: Path, association: Path, static: Path) -> list[Path]:
    """Run the step; the FITS masks, in order of date."""
    from ..steps import TimeVariableBadPixel

    _, *masks = TimeVariableBadPixel.call(
        str(association),
        base_mask=str(static),
        mask_filter=_FILTERS,
        output_dir=str(folder / "masks"),
        save_results=True,
        configure_log=False,
    )
    return [(folder / "masks" / str(mask.meta.filename)).with_suffix(".fits") for mask in masks]
