"""A delivery from end to end: context, checks, manifest, forms and verdict."""

import gc
import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import certify
from .bestrefs import list_exposures, read_datasets, run_bestrefs, write_datasets
from .checks import (
    Job,
    Outcomes,
    check_certify,
    check_context,
    check_effects,
    check_keys,
    check_readback,
    collect_effects,
    note_late_series,
)
from .context import Context, _environ, _environment, _write_contexts, build_context
from .derive import (
    derive_context,
    find_cached,
    find_superseded,
    has_rules,
    print_difference,
)
from .form import fill_form
from .found import Found, find_references
from .manifest import describe_delivery, format_table, tabulate_entries
from .observatory import guess_observatory
from .publish import OWN, list_own, publish, require_free
from .readback import match_histories, read_back
from .resolve import write_delivered
from .verdict import Verdict
from .workers import Outcome, submit, workers

__all__ = ["deliver", "plan_delivery"]

log = logging.getLogger(__name__)

_NEW, _EMPTY = "{}_0001.pmap", "{}_0000.pmap"
# What is written; the help of the command lists it too.
_CACHE, _LOGS, _FORMS, _LAST = "cache", "logs", "submission", "verdict.json"
_TABLES, _DIFFERENCE = ("manifest", "bestrefs", "verdict"), "crds_diff.txt"


def deliver(
    folder: str | Path,
    output: str | Path,
    *,
    derive_from: str | None = None,
    source: Path | None = None,
    datasets: Sequence[str | Path] = (),
    say: Callable[[str], None] = log.info,
) -> Verdict:
    """Test the references of a folder as CRDS would, and make what a delivery needs.

    Parameters
    ----------
    folder : str or Path
        Holds the references in FITS, their ASDF twins and, of masks, the history; or those of
        Roman, in ASDF.
    output : str or Path
        Where to write; made when absent.
    derive_from : str, optional
        A context, ``jwst_NNNN.pmap`` or ``roman_NNNN.pmap``, to add the references to. None: a
        context is made of the references alone.
    source : Path, optional
        The CRDS cache with that context.
    datasets : sequence of path
        Data sets to ask for, see `read_datasets`; by default the exposures of the histories.
    say : callable
        Told what happens next.

    Returns
    -------
    Verdict
        Everything was written, whether it holds or not.

    Raises
    ------
    TvBadPixError
        The input is not what it must be (see `find_references`, `match_histories`,
        `derive_context`, `read_datasets`); nothing new is then left in `output`.

    Notes
    -----
    No server is contacted, and no CRDS variable of the environment has any effect.
    """
    folder, output = _resolve(folder, output, derive_from, source)
    clock = _Clock()
    new = _NEW.format(guess_observatory(folder).name)
    with (
        publish(output, _LAST) as work,
        _environ(_environment(work / _CACHE, new, parameters=False)),
        _at_ease(),
    ):
        say(f"Reading {folder}")
        found = _find(folder, output, work)
        meant, histories, absent = match_histories(found)
        asked = (
            read_datasets(datasets, found.observatory)
            if datasets
            else list_exposures(histories.values())
        )
        clock.lap("reading")
        say(f"Building a context of {len(found.references)} references")
        context, old = _make_context(work / _CACHE, found, derive_from, source)
        clock.lap("context")
        derived = derive_from is not None
        own_asked = not datasets
        job = Job(found, meant, histories, asked, own_asked, not absent, context, old, derived)
        notes = [*(f"no mask of {text}" for text in absent), *note_late_series(job)]
        verdict, outcomes = _judge(job, work, output, notes, clock, say)
        _write_logs(work, outcomes)
        _write(job, work, verdict)
    return verdict


def plan_delivery(
    folder: str | Path,
    output: str | Path,
    *,
    derive_from: str | None = None,
    source: Path | None = None,
    datasets: Sequence[str | Path] = (),
) -> tuple[list[str], str]:
    """Tell what `deliver` would write; parameters and errors are the same.

    Returns
    -------
    paths : list of str
        Files, and with a slash at the end folders whose content the checks decide.
    context : str
        Name of the context. It is made, in a temporary folder: what crds does not take shows.
    """
    folder, output = _resolve(folder, output, derive_from, source)
    with tempfile.TemporaryDirectory() as temporary:
        cache = Path(temporary, _CACHE)
        new = _NEW.format(guess_observatory(folder).name)
        with _environ(_environment(cache, new, parameters=False)), _at_ease():
            found = _find(folder, output, cache)
            _, histories, _ = match_histories(found)
            if datasets:
                read_datasets(datasets, found.observatory)
            else:
                list_exposures(histories.values())
            context, _ = _make_context(cache, found, derive_from, source)
            write_delivered(cache, {})  # checksums are not of interest, but the file
        made = [p for p in sorted(cache.rglob("*")) if p.is_symlink() or p.is_file()]
        names = [f"{_CACHE}/{path.relative_to(cache)}" for path in made]
    kinds = sorted({(reference.instrument, reference.kind) for reference in found.references})
    names += [f"{_FORMS}/{instrument}_{kind}.yaml" for instrument, kind in kinds]
    names += [f"{stem}.{ending}" for stem in _TABLES for ending in ("json", "txt")]
    names += [*([_DIFFERENCE] if derive_from else ()), f"{_LOGS}/", OWN]
    require_free(names, output)
    return [f"{output}/{name}" for name in names], context.env["CRDS_CONTEXT"]


def _resolve(
    folder: str | Path, output: str | Path, derive_from: str | None, source: Path | None
) -> tuple[Path, Path]:
    """Resolve the folders; a context to derive from must have its cache."""
    if derive_from and source is None:
        raise InputError(
            f"expected the CRDS cache that holds {derive_from}, found CRDS_PATH unset; set it"
        )
    return Path(folder).resolve(), Path(output).resolve()


def _find(folder: Path, output: Path, work: Path) -> Found:
    """Find the references; what an earlier run wrote beside them is none."""
    own = {OWN, work.name, *(name.split("/")[0] for name in list_own(output))}
    skip = own if folder == output else [output.name] if folder == output.parent else ()
    return find_references(folder, skip=skip)


@contextmanager
def _at_ease() -> Iterator[None]:
    """Keep crds from telling every look-up, and from looking for garbage at each file.

    Errors are raised or counted anyway. What there is when it begins is no garbage.
    """
    logger = logging.getLogger("CRDS")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        logger.setLevel(level)


class _Clock:
    """Times the stages."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = round(now - self._last, 1), now


def _make_context(
    cache: Path, found: Found, derive_from: str | None, source: Path | None
) -> tuple[Context, str]:
    """Make the new context; return it, and the name of the old one."""
    if derive_from and source:
        context = derive_context(cache, found.references, source=source, name=derive_from)
        return context, derive_from
    kinds: dict[str, list[str | Path]] = {}
    for reference in found.references:
        kinds.setdefault(reference.kind, []).append(reference.fits)
    context = build_context(cache, kinds)
    with _environ(context.env):
        # What bestrefs compares with: a context in which there is nothing.
        instruments = sorted({reference.instrument for reference in found.references})
        empty: dict[str, dict[str, str]] = {instrument: {} for instrument in instruments}
        _write_contexts(cache, "0000", empty, found.observatory)
    return context, _EMPTY.format(found.observatory.name)


def _judge(
    job: Job,
    work: Path,
    output: Path,
    notes: list[str],
    clock: _Clock,
    say: Callable[[str], None],
) -> tuple[Verdict, Outcomes]:
    """Run all checks."""
    references = job.found.references
    temporary = work / "tmp"
    temporary.mkdir()
    with workers(job.context.env, temporary) as pool:
        say(f"Certifying {len(references)} FITS files and their twins")
        futures = _submit_all(job, pool, temporary)
        checks = [check_keys(job)]
        read = {r.fits: read_back(r, _meant(job, r.fits)) for r in references}
        n_masks = sum(1 + bool(r.asdf) for r in references if r.fits in job.meant)
        n_twins = sum(bool(r.asdf) for r in references)
        checks += check_readback(list(read.values()), n_masks, n_twins)
        superseded = None
        if job.derived:
            found = find_superseded(job.context, job.old)
            superseded = {name: find_cached(work / _CACHE, old) for name, old in found.items()}
        bad = {path: result.bad for path, result in read.items()}
        entries = describe_delivery(references, job.context.names, job.meant, bad, superseded)
        clock.lap("read-back and manifest")
        outcomes = {key: _settle(future.result(), work, output) for key, future in futures.items()}
    clock.lap("certify, closure and bestrefs")
    effects = collect_effects(job, outcomes)
    checks += check_certify(job, outcomes, notes)
    checks += check_context(job, outcomes)
    checks += check_effects(job, outcomes, effects, notes)
    verdict = Verdict(
        output,
        job.context.env["CRDS_CONTEXT"],
        tuple(checks),
        tuple(entries),
        tuple(effects),
        tuple(notes),
        job.found.ignored,
        clock.seconds,
    )
    shutil.rmtree(temporary)
    return verdict, outcomes


def _meant(job: Job, path: Path) -> Any:
    return job.meant[path].dq if path in job.meant else None


def _submit_all(job: Job, pool: Any, temporary: Path) -> dict[tuple[str, str], Future[Outcome]]:
    """Give all work to the processes: (what, with what) -> its outcome to be."""
    references, new = job.found.references, job.context.env["CRDS_CONTEXT"]
    futures: dict[tuple[str, str], Future[Outcome]] = {}
    # The rules that are in force are those of the old context, where it has some.
    rules = {
        key: job.old if job.derived and has_rules(job.context, job.old, *key) else new
        for key in sorted({(r.instrument, r.kind) for r in references})
    }
    for reference in references:
        context = rules[reference.instrument, reference.kind]
        for what, task, path in (
            ("certify", certify.certify_fits, reference.fits),
            ("asdf", certify.certify_asdf, reference.asdf),
        ):
            if path:
                futures[what, path.name] = submit(pool, task, str(path), context)
    for (instrument, kind), context in rules.items():
        paths = [str(r.fits) for r in references if (r.instrument, r.kind) == (instrument, kind)]
        futures["insert", f"{instrument}_{kind}"] = submit(
            pool, certify.insert_on_trial, paths, instrument, kind, context
        )
    compared = job.old if job.derived else None
    futures["closure", new] = submit(pool, certify.certify_mappings, new, compared)
    dates = {job.context.names[r.fits]: r.useafter for r in references}
    futures["reach", new] = submit(pool, certify.find_unreachable, new, dates)
    if job.derived:
        futures["diff", new] = submit(pool, print_difference, job.old, new)
    for instrument, group in groupby(rules, key=lambda key: key[0]):
        kinds = [kind for _, kind in group]
        own = {
            name: header
            for name, header in job.datasets.items()
            if header[job.found.observatory.instrument_key].lower() == instrument
        }
        if own:
            listed = temporary / f"datasets_{instrument}.json"
            write_datasets(own, listed)
            futures["bestrefs", instrument] = submit(
                pool, run_bestrefs, str(listed), job.old, new, kinds
            )
    return futures


def _settle(outcome: Outcome, work: Path, output: Path) -> Outcome:
    """Name files by the places that they will have, and not by that of a process."""

    def settle(text: str) -> str:
        return re.sub(r"/tmp/worker-\w+(/tmp\w+)?", "/tmp", text.replace(str(work), str(output)))

    return replace(
        outcome,
        errors=tuple(map(settle, outcome.errors)),
        warnings=tuple(map(settle, outcome.warnings)),
        log=settle(outcome.log),
    )


def _write_logs(work: Path, outcomes: Outcomes) -> None:
    """Write what each program said."""
    (work / _LOGS).mkdir()
    for (what, name), outcome in outcomes.items():
        path = work / _DIFFERENCE if what == "diff" else work / _LOGS / f"{what}_{name}.log"
        path.write_text(outcome.log)


def _write(job: Job, work: Path, verdict: Verdict) -> None:
    """Write manifest, forms, effects and verdict."""
    by_name = {reference.fits.name: reference for reference in job.found.references}
    write_delivered(work / _CACHE, {entry.crds_name: entry.sha256 for entry in verdict.entries})
    manifest = {
        "context": verdict.context,
        "derived_from": job.old if job.derived else None,
        "files": [asdict(entry) for entry in verdict.entries],
        "ignored": list(verdict.ignored),
    }
    _write_json(work / "manifest.json", manifest)
    (work / "manifest.txt").write_text(format_table(tabulate_entries(verdict.entries)))
    _write_json(work / "bestrefs.json", [asdict(effect) for effect in verdict.effects])
    (work / "bestrefs.txt").write_text(verdict.format_effects())
    (work / _FORMS).mkdir()
    tests = (
        f"jwst_tvbadpix deliver {'passed' if verdict.passed else 'failed'}, "
        f"{sum(check.passed for check in verdict.checks)} of {len(verdict.checks)} checks hold"
    )
    for (instrument, kind), group in groupby(
        verdict.entries, key=lambda entry: (entry.instrument, entry.kind)
    ):
        entries = list(group)
        form = fill_form(entries, [by_name[entry.file] for entry in entries], tests)
        (work / _FORMS / f"{instrument}_{kind}.yaml").write_text(form)
    notes = "".join(f"note: {note}\n" for note in verdict.notes)
    (work / "verdict.txt").write_text(f"{notes}{verdict.format_checks()}{verdict.line}\n")
    checks = [{**asdict(check), "passed": check.passed} for check in verdict.checks]
    summary = {"verdict": verdict.line, "passed": verdict.passed, "checks": checks}
    _write_json(work / _LAST, {**summary, "notes": list(verdict.notes)})


def _write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
