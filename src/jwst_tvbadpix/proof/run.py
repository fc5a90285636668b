"""The proof: masks from blank sky, stars through the pipeline with and without, a verdict."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time

from ..delivery import Context, build_context
from ..detectors import get_detector
from ..errors import ProductError
from ..refmodels import build_mask, dq_value, write_twins
from ..simulate import (
    get_trace,
    simulate_programme,
    write_imaging_references,
    write_references,
    write_spectral_references,
)
from .chain import REPLACEMENTS, Extracted, draw_noise, prepare_worker, run_star
from .field import FILTER, IMAGING, add_field_defects, make_field_specs
from .field_quality import RECOMMENDED_WAY, Photometry, check_field, judge_field, sum_field
from .measure import Quality, count_added, measure_quality, measure_scale
from .photometry import Measured, run_field
from .results import Check, Total
from .scene import CHANGES, MODES, N_BLANK, WAVELENGTHS_UM, Plan, make_plan, select_on_trace

__all__ = ["RECOMMENDED", "Check", "ProofResult", "Spectrum", "Total", "run_proof", "tabulate"]

# Exposures without defects that tell how often noise alone makes a feature.
_N_DRAWS = 20
# Share of the features of the static mask that the dated series must remove.
_REMOVED = 0.95
# Defects of known dates that must lie on each trace.
_MIN_DEFECTS = 40
# The setting of pixel_replace that the verdict is about.
RECOMMENDED = "fit_profile"
# Of the static mask: before the observatory's first exposure.
_FIRST_USEAFTER = "2021-12-25T00:00:00"
# Number of the exposure without defects among those of an epoch, of a trace and of the field.
_NULL_NUMBER, _FIELD_NULL_NUMBER = 24, 9
# FILTER keywords that the masks are for.
_FILTERS = f"P750L|{FILTER}"


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A spectrum and how good it is.

    Attributes
    ----------
    mode : str
        'slitless' or 'slit'.
    epoch : int
        0 before the first change, k after the k-th; -1 for the exposure without any defect.
    date : str
        Start of the exposure.
    n_defects : int
        Defects in the extraction box that are bad now or were bad at first.
    defect_um : ndarray of float, shape (n_defects,)
        Where they are [um].
    extracted : Extracted
    quality : Quality
    """

    mode: str
    epoch: int
    date: str
    n_defects: int
    defect_um: np.ndarray
    extracted: Extracted
    quality: Quality


@dataclass(frozen=True, slots=True)
class ProofResult:
    """What the proof found.

    Attributes
    ----------
    folder : Path
        Where everything is.
    plan : Plan
        What was simulated.
    n_masks : int
        Masks in the dated series.
    spectra : tuple of Spectrum
    photometry : tuple of Photometry
        Of the star field.
    totals : tuple of Total
    checks : tuple of Check
        The verdict holds if all of them do.
    """

    folder: Path
    plan: Plan
    n_masks: int
    spectra: tuple[Spectrum, ...]
    photometry: tuple[Photometry, ...]
    totals: tuple[Total, ...]
    checks: tuple[Check, ...]


def run_proof(folder: Path, *, seed: int, say: Callable[[str], None]) -> ProofResult:
    """Run the proof in two processes.

    Parameters
    ----------
    folder : Path
        Where to write; made when absent.
    seed : int
        Seed of dates, defects and noise.
    say : callable
        Told what happens.

    Returns
    -------
    ProofResult

    Raises
    ------
    ProductError
        When a process was killed.
    OSError
        When the folder cannot be written.
    """
    from ..report import plot_field, plot_proof

    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    plan = make_plan(seed)
    field = add_field_defects(plan)
    with _start_workers() as pool:
        contexts, expected, n_masks = _prepare(folder, field, pool, say)
        found, draws, measured = _run_all(folder, plan, field, contexts, pool, say)
    scales = _measure_scales(found, draws)
    spectra = tuple(
        _judge(plan, key, one, draws, scales) for key, many in found.items() for one in many
    )
    photometry = judge_field(field, measured)
    totals = (*_add_up(spectra), *sum_field(photometry))
    field_total = next(t for t in totals if (t.mode, t.extraction) == (IMAGING, RECOMMENDED_WAY))
    checks = (
        *_check(plan, spectra, totals, expected),
        *check_field(field, photometry, field_total, expected),
    )
    result = ProofResult(folder, plan, n_masks, spectra, photometry, totals, checks)
    tabulate(result).write(folder / "proof_spectra.ecsv", overwrite=True)
    for mode in MODES:
        plot_proof(result, mode).savefig(folder / f"proof_{mode}.png", dpi=120)
    plot_field(result).savefig(folder / f"proof_{IMAGING}.png", dpi=120)
    return result


@contextmanager
def _start_workers() -> Iterator[ProcessPoolExecutor]:
    """Start two processes of their own environment; a failure cancels what has not begun."""
    pool = ProcessPoolExecutor(
        2, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ProductError(
            "expected two processes to run pipelines, found one killed, most likely for want of "
            "memory (each needs about 1 GB); free some and run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(
    folder: Path, plan: Plan, pool: ProcessPoolExecutor, say: Callable[[str], None]
) -> tuple[dict[str, Context], Mapping[str, list[str]], int]:
    """Make the programme, both masks, and a context for each."""
    say(f"Simulating {N_BLANK} blank-sky and failed exposures of four years, and references")
    writing = pool.submit(
        simulate_programme,
        folder / "exposures",
        n_exposures=N_BLANK,
        seed=plan.seed,
        defects=plan.defects,
        start=plan.period[0],
        end=plan.period[1],
    )
    references = write_references(folder / "references")
    for part in (
        write_spectral_references(folder / "references", pattern=plan.pattern),
        write_imaging_references(folder / "references", filters=(FILTER,), pattern=plan.pattern),
    ):
        for kind, paths in part.items():
            references[kind] = [*references.get(kind, []), *paths]
    static = _write_static_mask(folder, plan)
    static_context = pool.submit(
        _build_context, folder / "crds", {"mask": [static], **references}, "jwst_0001.pmap"
    )
    programme = writing.result()
    say("Building the dated masks from them (time_variable_bad_pixel)")
    paths = pool.submit(_build_series, folder, programme.association, static).result()
    say(f"Making two CRDS contexts: the static mask, and the series of {len(paths)}")
    context = static_context.result()
    dated_context = pool.submit(
        _build_context, folder / "crds", {"mask": paths, **references}, "jwst_0002.pmap"
    ).result()
    useafter = {dated_context.names[path]: fits.getval(path, "USEAFTER") for path in paths}
    static_name = {context.names[static]: _FIRST_USEAFTER}
    expected = {
        mask: [_pick(names, mjd) for mjd in plan.star_mjd]
        for mask, names in (("static", static_name), ("dated", useafter))
    }
    return {"static": context, "dated": dated_context}, expected, len(paths)


def _build_context(cache: Path, references: dict[str, list[Path]], name: str) -> Context:
    """Build a context that can be sent to another process."""
    context = build_context(cache, references, name=name)
    return Context(dict(context.env), dict(context.names))


def _pick(names: dict[str, str], mjd: float) -> str:
    """Pick the mask of a date, as CRDS should."""
    date = Time(mjd, format="mjd").isot[:19]
    return max((since, name) for name, since in names.items() if since <= date)[1]


def _write_static_mask(folder: Path, plan: Plan) -> Path:
    """Write what is known at the first epoch: the defects that are bad then."""
    facts, defects = get_detector("MIRIMAGE"), plan.defects
    dq = np.zeros(facts.shape, np.uint32)
    dq[facts.reference_pixels()] = dq_value("REFERENCE_PIXEL", "DO_NOT_USE")
    bad = defects.state(plan.first_mjd)
    low = defects.response < 1
    for chosen, name in ((bad & ~low, "HOT"), (bad & low, "LOW_QE")):
        dq[defects.y[chosen], defects.x[chosen]] = dq_value("DO_NOT_USE", name)
    mask = build_mask(
        dq,
        detector="MIRIMAGE",
        useafter=_FIRST_USEAFTER,
        description="Bad pixels of the first epoch of a simulation",
        history=["All pixels that are bad at the first exposure of the simulated programme."],
        pedigree="SIMULATION",
        filter_name=_FILTERS,
    )
    return write_twins(mask, folder / "static_mask")[1]


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


_Key = tuple[str, int]


def _run_all(
    folder: Path,
    plan: Plan,
    field: Plan,
    contexts: dict[str, Context],
    pool: ProcessPoolExecutor,
    say: Callable[[str], None],
) -> "tuple[dict[_Key, list[Extracted]], _Draws, dict[int, list[Measured]]]":
    """Run every exposure: spectra by (mode, epoch), noise draws, fluxes of the field by epoch.

    No spectrum reaches the subarray of the field: its defects are left out of those exposures, so
    that their noise is the same with imaging and without.
    """
    spectra = folder / "spectra"
    jobs: dict[Future[Any], tuple[str, int | None]] = {}
    # The dearest first, so that both processes end together.
    for mode in reversed(MODES):
        half = _N_DRAWS if mode == "slitless" else _N_DRAWS // 2
        for first in range(0, _N_DRAWS, half):
            numbers = range(first, first + half)
            jobs[pool.submit(draw_noise, spectra, plan, mode, numbers, contexts["static"])] = (
                mode,
                None,
            )
        for epoch in (-1, *range(CHANGES + 1)):
            null = epoch < 0
            spec = plan.make_spec(mode, CHANGES if null else epoch, number=_NULL_NUMBER * null)
            defects = None if null else plan.defects
            jobs[pool.submit(run_star, spectra, plan, mode, spec, defects, contexts)] = (
                mode,
                epoch,
            )
    for epoch in (-1, *range(CHANGES + 1)):
        null = epoch < 0
        specs = make_field_specs(
            field, CHANGES if null else epoch, number=_FIELD_NULL_NUMBER * null
        )
        defects = None if null else field.defects
        images = folder / "images"
        jobs[pool.submit(run_field, images, field, epoch, specs, defects, contexts)] = (
            IMAGING,
            epoch,
        )
    say(f"Running {len(jobs)} jobs of calwebb_detector1 and what follows in two processes")
    found: dict[_Key, list[Extracted]] = {}
    measured: dict[int, list[Measured]] = {}
    draws: dict[tuple[str, str], list[np.ndarray]] = {}
    for number, job in enumerate(as_completed(jobs), start=1):
        mode, epoch = jobs[job]
        if epoch is None:
            for one in job.result():
                draws.setdefault((mode, one.extraction), []).append(one.ratio)
        elif mode == IMAGING:
            measured[epoch] = job.result()
        else:
            found[mode, epoch] = job.result()
        what = {None: "noise", -1: "without defects"}.get(epoch, f"epoch {epoch}")
        say(f"  {number} of {len(jobs)}: {mode}, {what}")
    ordered = {key: found[key] for key in sorted(found)}
    return ordered, {key: np.array(values) for key, values in draws.items()}, measured


_Draws = dict[tuple[str, str], np.ndarray]


def _find_used(wavelength_um: np.ndarray) -> np.ndarray:
    """Mark the bins that are judged."""
    return (wavelength_um > WAVELENGTHS_UM[0]) & (wavelength_um < WAVELENGTHS_UM[1])


def _measure_scales(
    found: dict[_Key, list[Extracted]], draws: _Draws
) -> dict[tuple[str, str], float]:
    """Measure how much noisier ramps are than rates: by the exposures without defects."""
    return {
        (mode, one.extraction): measure_scale(
            one.ratio, draws=draws[mode, one.extraction], used=_find_used(one.wavelength_um)
        )
        for (mode, epoch), many in found.items()
        for one in many
        if epoch < 0 and (one.mask, one.replacement) == ("static", RECOMMENDED)
    }


def _judge(
    plan: Plan,
    key: _Key,
    one: Extracted,
    draws: _Draws,
    scales: dict[tuple[str, str], float],
) -> Spectrum:
    """Compare one spectrum with the truth."""
    mode, epoch = key
    mjd = plan.star_mjd[epoch]  # -1: the date of the last
    defects = plan.defects
    chosen = select_on_trace(mode, defects.y, defects.x)
    chosen &= defects.state(mjd) | defects.state(plan.first_mjd)
    wavelength = one.wavelength_um
    defect_um = np.sort(get_trace(MODES[mode]).wavelength(defects.y[chosen]))
    quality = measure_quality(
        one.ratio,
        draws=draws[mode, one.extraction],
        defect_bins=np.abs(wavelength[:, None] - defect_um).argmin(axis=0),
        used=_find_used(wavelength),
        scale=scales[mode, one.extraction],
    )
    date = str(Time(mjd, format="mjd").isot[:10])
    return Spectrum(mode, epoch, date, int(chosen.sum()), defect_um, one, quality)


def _add_up(spectra: tuple[Spectrum, ...]) -> Iterator[Total]:
    """Sum over the dates with defects."""
    for mode in MODES:
        for extraction in ("box", "optimal"):
            for replacement in REPLACEMENTS:
                by_mask = {
                    mask: [
                        s
                        for s in spectra
                        if s.mode == mode
                        and s.epoch >= 0
                        and (s.extracted.mask, s.extracted.extraction, s.extracted.replacement)
                        == (mask, extraction, replacement)
                    ]
                    for mask in ("static", "dated")
                }
                if by_mask["static"]:
                    yield _sum(mode, extraction, replacement, by_mask)


def _sum(mode: str, extraction: str, replacement: str, by_mask: dict[str, list[Spectrum]]) -> Total:
    static, dated = ([s.quality for s in by_mask[mask]] for mask in ("static", "dated"))
    return Total(
        mode=mode,
        extraction=extraction,
        replacement=replacement,
        static=sum(q.excess for q in static),
        dated=sum(q.excess for q in dated),
        added=sum(count_added(new, old) for new, old in zip(dated, static, strict=True)),
        expected=sum(q.n_expected for q in dated),
        largest_static=max(q.largest for q in static),
        largest_dated=max(q.largest for q in dated),
        rms_static=float(np.sqrt(np.mean([q.rms**2 for q in static]))),
        rms_dated=float(np.sqrt(np.mean([q.rms**2 for q in dated]))),
    )


def _check(
    plan: Plan,
    spectra: tuple[Spectrum, ...],
    totals: tuple[Total, ...],
    expected: Mapping[str, list[str]],
) -> Iterator[Check]:
    """List what must hold."""
    defects = plan.defects
    dated = np.isin(defects.switch_mjd, plan.change_mjd).any(axis=1)
    wrong = [s for s in spectra if s.extracted.mask_name != expected[s.extracted.mask][s.epoch]]
    yield Check(
        "spectra whose mask is not the one of their date",
        f"{len(wrong)} of {len(spectra)}",
        "0",
        not wrong,
    )
    for mode in MODES:
        n = int((select_on_trace(mode, defects.y, defects.x) & dated).sum())
        yield Check(
            f"{mode}: defects of known dates on the trace",
            str(n),
            f">= {_MIN_DEFECTS}",
            n >= _MIN_DEFECTS,
        )
    recommended = [t for t in totals if (t.extraction, t.replacement) == ("box", RECOMMENDED)]
    static, left = (sum(getattr(t, name) for t in recommended) for name in ("static", "dated"))
    removed = 1 - max(left, 0.0) / static if static > 0 else 0.0
    yield Check(
        "features of the static mask that the series removes",
        f"{100 * removed:.1f} % ({static:.1f} -> {left:.1f})",
        f">= {100 * _REMOVED:.0f} %",
        removed >= _REMOVED,
    )
    for total in recommended:
        yield from _check_harm(total.mode, spectra, total)


def _check_harm(mode: str, spectra: tuple[Spectrum, ...], total: Total) -> Iterator[Check]:
    """List what the masks must not cost: features added, and a spectrum without defects."""
    # What noise alone may do: its mean and two standard deviations.
    allowed = total.expected + 2 * np.sqrt(total.expected)
    yield Check(
        f"{mode}: features added by the series",
        str(total.added),
        f"<= {allowed:.1f} (noise)",
        total.added <= allowed,
    )
    static, dated = (
        s.quality
        for mask in ("static", "dated")
        for s in spectra
        if (s.mode, s.epoch) == (mode, -1)
        and (s.extracted.mask, s.extracted.extraction, s.extracted.replacement)
        == (mask, "box", RECOMMENDED)
    )
    allowed = 2 * np.sqrt(dated.n_expected)
    yield Check(
        f"{mode}: features without any defect",
        f"{static.n_features} -> {dated.n_features}",
        f"<= {allowed:.1f} more (noise)",
        dated.n_features - static.n_features <= allowed,
    )
    yield Check(
        f"{mode}: rms without any defect",
        f"{100 * static.rms:.2f} -> {100 * dated.rms:.2f} %",
        "unchanged by a tenth",
        dated.rms <= 1.1 * static.rms,
    )
    yield Check(
        f"{mode}: level without any defect",
        f"{static.level:.4f} -> {dated.level:.4f}",
        "1 within 0.002",
        max(abs(static.level - 1), abs(dated.level - 1)) <= 0.002,
    )


def tabulate(result: ProofResult) -> Table:
    """List the spectra and the sets of fluxes: one row each."""
    rows = [
        {
            "mode": s.mode,
            "epoch": s.epoch,
            "date": s.date,
            "mask": s.extracted.mask,
            "mask_name": s.extracted.mask_name,
            "pixel_replace": s.extracted.replacement,
            "extraction": s.extracted.extraction,
            "n_defects": s.n_defects,
            **_list_quality(s.quality),
        }
        for s in result.spectra
    ]
    rows += [
        {
            "mode": IMAGING,
            "epoch": p.epoch,
            "date": p.date,
            "mask": p.measured.mask,
            "mask_name": ",".join(sorted(set(p.measured.mask_names))),
            "pixel_replace": "-",
            "extraction": p.measured.way,
            "n_defects": p.n_defects,
            **_list_quality(p.quality),
        }
        for p in result.photometry
    ]
    changes = [str(Time(mjd, format="mjd").isot[:10]) for mjd in result.plan.change_mjd]
    return Table(rows=rows, meta={"seed": result.plan.seed, "changes": changes})


def _list_quality(quality: Quality) -> dict[str, float]:
    """List what the table shows of a quality."""
    names = ("largest", "rms", "level", "n_features", "n_expected", "n_elsewhere")
    return {name: getattr(quality, name) for name in names}
