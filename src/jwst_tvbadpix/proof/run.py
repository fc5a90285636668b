"""The proof: masks from blank sky, stars through the pipeline with and without, a verdict."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.time import Time

from ..atomic import replace_whole
from ..delivery import Context
from ..errors import ProductError
from ..simulate import get_trace
from .chain import RECOMMENDED, REPLACEMENTS, Extracted, prepare_worker, run_star
from .field import IMAGING, add_field_defects, make_field_specs
from .field_quality import RECOMMENDED_WAY, Photometry, check_field, judge_field, sum_field
from .measure import Quality, count_added, measure_quality
from .photometry import Measured, run_field
from .prepare import prepare, prepare_unmasked
from .results import Check, Total
from .scene import CHANGES, MODES, WAVELENGTHS_UM, Plan, make_plan, select_on_trace

__all__ = ["RECOMMENDED", "Check", "ProofResult", "Spectrum", "Total", "run_proof", "tabulate"]

# Draws of the noise without defects, that tell how often it makes a feature by itself, and how many
# of them an exposure holds: as many as memory does.
_N_NOISE, _N_NOISE_EACH = 20, {"slitless": 10, "slit": 4}
# Draws of the noise at each date of the star: they make the count of what is left firm. In the slit
# each costs a run of calwebb_spec2.
_N_DRAWS = {"slitless": 3, "slit": 2}
# Share of the features of the static mask that the dated series must remove.
_REMOVED = 0.95
# Defects of known dates that must lie on each trace.
_MIN_DEFECTS = 40
# Numbers of exposures without defects among those of an epoch: with both masks, of a trace and of
# the field; and the first of those for the noise.
_NULL_NUMBER, _FIELD_NULL_NUMBER, _NOISE_NUMBER = 24, 9, 10


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
    with _start_workers(2) as pool:
        say("Writing references, and beginning with the noise: exposures without bad pixels")
        unmasked, references = prepare_unmasked(folder, field)
        jobs = dict(_submit_noise(folder / "spectra", plan, unmasked, pool))
        with _start_workers(1) as builder:
            prepared = prepare(folder, field, references, builder, say)
        jobs |= _submit_all(folder, plan, field, prepared.contexts, pool)
        found, noise, measured = _collect(jobs, say)
    spectra = tuple(_judge(plan, key, one, noise) for key, many in found.items() for one in many)
    photometry = judge_field(field, measured)
    totals = (*_add_up(spectra), *sum_field(photometry))
    field_total = next(t for t in totals if (t.mode, t.extraction) == (IMAGING, RECOMMENDED_WAY))
    checks = (
        *_check(plan, spectra, totals, prepared.expected),
        *check_field(field, photometry, field_total, prepared.expected),
    )
    result = ProofResult(folder, plan, prepared.n_masks, spectra, photometry, totals, checks)
    with replace_whole(folder / "proof_spectra.ecsv") as temporary:
        tabulate(result).write(temporary)
    figures = {mode: plot_proof(result, mode) for mode in MODES} | {IMAGING: plot_field(result)}
    for mode, figure in figures.items():
        with replace_whole(folder / f"proof_{mode}.png") as temporary:
            figure.savefig(temporary, dpi=120)
    return result


@contextmanager
def _start_workers(n: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes of their own environment; a failure cancels what has not begun."""
    pool = ProcessPoolExecutor(
        n, mp_context=multiprocessing.get_context("spawn"), initializer=prepare_worker
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ProductError(
            "expected processes to run pipelines, found one killed, most likely for want of "
            "memory (each needs about 1 GB); free some and run again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_Key = tuple[str, int]
_Noise = dict[tuple[str, str], np.ndarray]
# What each job is: the mode, and the epoch or None for the noise.
_Jobs = dict[Future[Any], tuple[str, int | None]]


def _submit_noise(
    folder: Path, plan: Plan, unmasked: Context, pool: ProcessPoolExecutor
) -> Iterator[tuple[Future[Any], tuple[str, int | None]]]:
    """Submit exposures without defects, that tell what noise does; none needs a mask."""
    # The dearest first.
    for mode in reversed(MODES):
        each = _N_NOISE_EACH[mode]
        for k in range(_N_NOISE // each):
            spec = plan.make_spec(mode, 0, number=_NOISE_NUMBER + k, n_draws=each)
            contexts = {"none": unmasked}
            job = pool.submit(run_star, folder, plan, mode, spec, None, contexts, (RECOMMENDED,))
            yield job, (mode, None)


def _submit_all(
    folder: Path,
    plan: Plan,
    field: Plan,
    contexts: dict[str, Context],
    pool: ProcessPoolExecutor,
) -> _Jobs:
    """Submit the exposures of star and field, the dearest first, so that both processes end as one.

    No spectrum reaches the subarray of the field: its defects are left out of these exposures, so
    that their noise is the same with imaging and without.
    """
    jobs: _Jobs = {}
    for epoch in (-1, *range(CHANGES + 1)):
        null = epoch < 0
        specs = make_field_specs(
            field, CHANGES if null else epoch, number=_FIELD_NULL_NUMBER * null
        )
        defects = None if null else field.defects
        # Without defects a perfect mask is none.
        used = ("static", "dated") if null else ("static", "dated", "perfect")
        masks = {name: contexts[name] for name in used}
        imaged = pool.submit(run_field, folder / "images", field, epoch, specs, defects, masks)
        jobs[imaged] = (IMAGING, epoch)
    masks = {name: contexts[name] for name in ("static", "dated")}
    for mode in reversed(MODES):
        for epoch in (*range(CHANGES + 1), -1):
            null = epoch < 0
            spec = (
                plan.make_spec(mode, CHANGES, number=_NULL_NUMBER)
                if null
                else plan.make_spec(mode, epoch, n_draws=_N_DRAWS[mode])
            )
            job = pool.submit(
                run_star,
                folder / "spectra",
                plan,
                mode,
                spec,
                None if null else plan.defects,
                masks,
                (RECOMMENDED,) if null else REPLACEMENTS,
            )
            jobs[job] = (mode, epoch)
    return jobs


def _collect(
    jobs: _Jobs, say: Callable[[str], None]
) -> tuple[dict[_Key, list[Extracted]], _Noise, dict[int, list[Measured]]]:
    """Wait for every job: spectra by (mode, epoch), noise draws, fluxes of the field by epoch."""
    say(f"Running {len(jobs)} jobs of calwebb_detector1 and what follows in two processes")
    for number, job in enumerate(as_completed(jobs), start=1):
        job.result()
        mode, epoch = jobs[job]
        what = {None: "noise", -1: "without defects"}.get(epoch, f"epoch {epoch}")
        say(f"  {number} of {len(jobs)}: {mode}, {what}")
    found: dict[_Key, list[Extracted]] = {}
    measured: dict[int, list[Measured]] = {}
    noise: dict[tuple[str, str], list[np.ndarray]] = {}
    # In the order in which they were begun, whichever ended first.
    for job, (mode, epoch) in jobs.items():
        if epoch is None:
            for one in job.result():
                noise.setdefault((mode, one.extraction), []).append(one.ratio)
        elif mode == IMAGING:
            measured[epoch] = job.result()
        else:
            found[mode, epoch] = job.result()
    ordered = {key: found[key] for key in sorted(found)}
    return ordered, {key: np.array(values) for key, values in noise.items()}, measured


def _judge(plan: Plan, key: _Key, one: Extracted, noise: _Noise) -> Spectrum:
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
        draws=noise[mode, one.extraction],
        defect_bins=np.abs(wavelength[:, None] - defect_um).argmin(axis=0),
        used=(wavelength > WAVELENGTHS_UM[0]) & (wavelength < WAVELENGTHS_UM[1]),
    )
    date = str(Time(mjd, format="mjd").isot[:10])
    return Spectrum(mode, epoch, date, int(chosen.sum()), defect_um, one, quality)


def _select(
    spectra: tuple[Spectrum, ...], mode: str, mask: str, extraction: str, replacement: str
) -> Iterator[Spectrum]:
    """Select spectra of all dates and draws."""
    for s in spectra:
        one = s.extracted
        wanted = (mode, mask, extraction, replacement)
        if (s.mode, one.mask, one.extraction, one.replacement) == wanted:
            yield s


def _add_up(spectra: tuple[Spectrum, ...]) -> Iterator[Total]:
    """Sum over the dates with defects."""
    for mode in MODES:
        for extraction in ("box", "optimal"):
            for replacement in REPLACEMENTS:
                static, dated = (
                    [
                        s
                        for s in _select(spectra, mode, mask, extraction, replacement)
                        if s.epoch >= 0
                    ]
                    for mask in ("static", "dated")
                )
                if static:
                    yield _sum(mode, extraction, replacement, static, dated)


def _sum(
    mode: str,
    extraction: str,
    replacement: str,
    with_static: list[Spectrum],
    with_dated: list[Spectrum],
) -> Total:
    n_draws = len({s.extracted.draw for s in with_static})
    static, dated = ([s.quality for s in part] for part in (with_static, with_dated))
    return Total(
        mode=mode,
        extraction=extraction,
        replacement=replacement,
        static=sum(q.excess for q in static) / n_draws,
        dated=sum(q.excess for q in dated) / n_draws,
        added=sum(count_added(new, old) for new, old in zip(dated, static, strict=True)) / n_draws,
        expected=sum(q.n_expected for q in dated) / n_draws,
        largest_static=max(q.largest for q in static),
        largest_dated=max(q.largest for q in dated),
        rms_static=float(np.sqrt(np.mean([q.rms**2 for q in static]))),
        rms_dated=float(np.sqrt(np.mean([q.rms**2 for q in dated]))),
        n_draws=n_draws,
    )


def _measure_error(spectra: list[Spectrum]) -> float:
    """Measure the standard error of a count summed over dates, by its scatter between draws."""
    counts: dict[_Key, list[int]] = {}
    for s in spectra:
        if s.epoch >= 0:
            counts.setdefault((s.mode, s.epoch), []).append(s.quality.n_features)
    return float(np.sqrt(sum(np.var(many, ddof=1) / len(many) for many in counts.values())))


def _check(
    plan: Plan,
    spectra: tuple[Spectrum, ...],
    totals: tuple[Total, ...],
    expected: Mapping[str, Sequence[str]],
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
    error = _measure_error(
        [s for mode in MODES for s in _select(spectra, mode, "dated", "box", RECOMMENDED)]
    )
    yield Check(
        "features of the static mask that the series removes",
        f"{100 * removed:.1f} % ({static:.1f} -> {left:.1f} +- {error:.1f})",
        f">= {100 * _REMOVED:.0f} %",
        removed >= _REMOVED,
    )
    for total in recommended:
        yield Check(
            f"{total.mode}: features added by the series",
            f"{total.added:.1f}",
            f"<= {total.allowed:.1f} (noise)",
            total.added <= total.allowed,
        )
        yield from _check_null(total.mode, spectra)


def _check_null(mode: str, spectra: tuple[Spectrum, ...]) -> Iterator[Check]:
    """List what the masks must not cost where there is no defect."""
    static, dated = (
        s.quality
        for mask in ("static", "dated")
        for s in _select(spectra, mode, mask, "box", RECOMMENDED)
        if s.epoch < 0
    )
    # What noise alone may do.
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
            "draw": s.extracted.draw,
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
            "draw": 0,
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
