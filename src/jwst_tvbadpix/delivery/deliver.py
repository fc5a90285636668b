"""A delivery from end to end: context, checks, manifest, forms and verdict."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..refmodels import BadPixHistoryModel
from . import certify
from .allowed import find_allowed
from .bestrefs import Effect, list_exposures, read_datasets, run_bestrefs, write_datasets
from .context import Context, _environ, _environment, _write_contexts, build_context
from .derive import derive_context, find_cached, find_superseded, print_difference
from .form import fill_form
from .found import Found, find_references, list_parkeys
from .manifest import Entry, describe_delivery, format_table, tabulate_entries
from .publish import list_own, publish
from .readback import Meant, compare_mask, compare_twins, match_histories
from .resolve import write_delivered
from .workers import Outcome, submit, workers

__all__ = ["Check", "Verdict", "deliver"]

log = logging.getLogger(__name__)

# The telescope was launched on this day: no exposure in flight is earlier.
_LAUNCH = "2021-12-25"
_NEW, _EMPTY = "jwst_0001.pmap", "jwst_0000.pmap"
_LAST = "verdict.json"
# Names of what is written; the README of the command lists them too.
_CACHE, _LOGS, _FORMS = "cache", "logs", "submission"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict.

    Attributes
    ----------
    name : str
    value, limit : int
        What was found, and how much of it there may be.
    detail : str
        What was looked at, or what is wrong.
    exact : bool
        The value must equal the limit, not only stay below it.
    """

    name: str
    value: int
    limit: int
    detail: str
    exact: bool = False

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return self.value == self.limit if self.exact else self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a delivery.

    Attributes
    ----------
    folder : Path
        Where everything is.
    context : str
        Name of the new context.
    checks : tuple of Check
    entries : tuple of Entry
        The manifest.
    effects : tuple of Effect
        Of the data sets, changed and unchanged.
    notes : tuple of str
        What should be known and decides nothing.
    ignored : tuple of str
        Files that are no references.
    seconds : mapping of str to float
        Time of each stage [s].
    """

    folder: Path
    context: str
    checks: tuple[Check, ...]
    entries: tuple[Entry, ...]
    effects: tuple[Effect, ...]
    notes: tuple[str, ...]
    ignored: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if self.passed:
            return "deliver: PASS"
        failed = sum(not check.passed for check in self.checks)
        return f"deliver: FAIL ({failed} of {len(self.checks)} checks)"

    def format_checks(self) -> str:
        """Set the checks in a table."""
        rows = [["check", "value", "limit", "pass", "detail"]]
        rows += [
            [c.name, str(c.value), str(c.limit), "yes" if c.passed else "NO", c.detail]
            for c in self.checks
        ]
        return format_table(rows)

    def format_effects(self) -> str:
        """Set the data sets that get another file in a table."""
        rows = [["data set", "type", "old", "new"]]
        rows += [[e.dataset, e.kind, e.old, e.new] for e in self.effects if e.changed]
        return format_table(rows)


@dataclass(frozen=True, slots=True)
class _Job:
    """What all stages need."""

    found: Found
    meant: Mapping[Path, Meant]
    histories: Mapping[Path, BadPixHistoryModel]
    datasets: Mapping[str, Mapping[str, str]]
    # Whether the data sets are those of the histories, each of which must find its mask.
    own_datasets: bool
    context: Context
    old: str
    derived: bool
    new_mappings: tuple[str, ...]
    work: Path
    folder: Path


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
        Holds the references in FITS, their ASDF twins and, of masks, the history.
    output : str or Path
        Where to write; made when absent.
    derive_from : str, optional
        A context, ``jwst_NNNN.pmap``, to add the references to. None: a context is made of the
        references alone.
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
        `derive_context`, `read_datasets`); nothing is then left in `output`.

    Notes
    -----
    No server is contacted, and no CRDS variable of the environment has any effect.
    """
    folder, output = Path(folder).resolve(), Path(output).resolve()
    if derive_from and source is None:
        raise InputError(
            f"expected the CRDS cache that holds {derive_from}, found CRDS_PATH unset; set it"
        )
    clock = _Clock()
    with publish(output, _LAST) as work, _quiet_crds():
        cache = work / _CACHE
        with _environ(_environment(cache, _NEW)):
            say(f"Reading {folder}")
            own = {name.split("/")[0] for name in list_own(output)}
            skip = {*own, ".tvbadpix_deliver.json", work.name} if folder == output else ()
            found = find_references(folder, skip=skip)
            meant, histories, absent = match_histories(found)
            asked = read_datasets(datasets) if datasets else list_exposures(histories.values())
        clock.lap("reading")
        say(f"Building a context of {len(found.references)} references")
        context, old, mappings = _make_context(cache, found, derive_from, source)
        job = _Job(
            found,
            meant,
            histories,
            asked,
            not datasets,
            context,
            old,
            bool(derive_from),
            mappings,
            work,
            output,
        )
        clock.lap("context")
        verdict = _judge(job, [f"no mask of {text}" for text in absent], clock, say)
        _write(job, verdict)
    return verdict


@contextmanager
def _quiet_crds() -> Iterator[None]:
    """Keep what crds tells of every look-up from the screen; errors are raised anyway."""
    logger = logging.getLogger("CRDS")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
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
) -> tuple[Context, str, tuple[str, ...]]:
    """Make the new context; return it, the name of the old one and of the new mappings."""
    if derive_from and source:
        context, mappings = derive_context(cache, found.references, source=source, name=derive_from)
        return context, derive_from, tuple(mappings)
    kinds: dict[str, list[str | Path]] = {}
    for reference in found.references:
        kinds.setdefault(reference.kind, []).append(reference.fits)
    instruments = {reference.instrument for reference in found.references}
    context = build_context(cache, kinds, name=_NEW)
    with _environ(context.env):
        # What bestrefs compares with: a context in which there is nothing.
        _write_contexts(cache, "0000", {instrument: {} for instrument in sorted(instruments)})
    return context, _EMPTY, ()


def _judge(job: _Job, notes: list[str], clock: _Clock, say: Callable[[str], None]) -> Verdict:
    """Run all checks."""
    references, name = job.found.references, job.context.env["CRDS_CONTEXT"]
    (job.work / _LOGS).mkdir()
    temporary = job.work / "tmp"
    temporary.mkdir()
    with workers(job.context.env, temporary) as pool:
        say(f"Certifying {len(references)} FITS files and their twins")
        futures = _submit_all(job, pool)
        say("Reading everything back")
        checks = [_check_keys(job), _check_dates(job, notes), *_check_readback(job)]
        superseded = _find_superseded(job)
        entries = describe_delivery(references, job.context.names, job.meant, superseded)
        clock.lap("read-back, manifest")
        outcomes = {key: future.result() for key, future in futures.items()}
    clock.lap("certify, closure, bestrefs")
    _write_logs(job, outcomes)
    effects = _collect_effects(job, outcomes)
    checks += _check_certify(job, outcomes, notes)
    checks += _check_context(job, outcomes)
    checks += _check_effects(job, outcomes, effects, notes)
    for path in sorted(temporary.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    temporary.rmdir()
    return Verdict(
        job.folder,
        name,
        tuple(checks),
        tuple(entries),
        tuple(effects),
        tuple(notes),
        job.found.ignored,
        clock.seconds,
    )


def _submit_all(job: _Job, pool: Any) -> dict[tuple[str, str], Future[Outcome]]:
    """Give all work to the processes: (what, of what) -> its outcome to be."""
    new, futures = job.context.env["CRDS_CONTEXT"], {}
    compared = {
        key: job.old if job.derived and _has_rules(job, *key) else new
        for key in {(r.instrument, r.kind) for r in job.found.references}
    }
    for reference in job.found.references:
        context = compared[reference.instrument, reference.kind]
        path = str(reference.fits)
        futures["certify", reference.fits.name] = submit(pool, certify.certify_fits, path, context)
        if reference.asdf:
            futures["ASDF", reference.asdf.name] = submit(
                pool, certify.certify_asdf, str(reference.asdf), context
            )
    for (instrument, kind), context in sorted(compared.items()):
        paths = [
            str(r.fits)
            for r in job.found.references
            if (r.instrument, r.kind) == (instrument, kind)
        ]
        futures["insert", f"{instrument}_{kind}"] = submit(
            pool, certify.insert_on_trial, paths, instrument, kind, context
        )
    old = job.old if job.derived else None
    futures["closure", new] = submit(pool, certify.certify_mappings, new, old)
    dates = {job.context.names[r.fits]: r.useafter for r in job.found.references}
    futures["reach", new] = submit(pool, certify.find_unreachable, new, dates)
    if job.derived:
        futures["diff", new] = submit(pool, print_difference, job.old, new)
    for instrument in sorted({instrument for instrument, _ in compared}):
        own = {
            key: header
            for key, header in job.datasets.items()
            if header["META.INSTRUMENT.NAME"].lower() == instrument
        }
        if own:
            listed = job.work / "tmp" / f"datasets_{instrument}.json"
            write_datasets(own, listed)
            kinds = sorted(kind for other, kind in compared if other == instrument)
            futures["bestrefs", instrument] = submit(
                pool, run_bestrefs, str(listed), job.old, new, kinds
            )
    return futures


def _has_rules(job: _Job, instrument: str, kind: str) -> bool:
    """Tell whether the old context had rules of a type."""
    import crds
    from crds.core.exceptions import CrdsError

    with _environ(job.context.env):
        try:
            return bool(crds.get_cached_mapping(job.old).get_imap(instrument).get_rmap(kind))
        except CrdsError:
            return False


def _find_superseded(job: _Job) -> dict[str, Path] | None:
    if not job.derived:
        return None
    cache = job.work / _CACHE
    found = find_superseded(job.context, job.old)
    return {name: find_cached(cache, old) for name, old in found.items()}


def _check_keys(job: _Job) -> Check:
    """Require of masks, which are ours, all that the installed rules select by."""
    missing = [
        f"{reference.fits.name}: {key}"
        for reference in job.found.references
        for key in list_parkeys(reference.instrument, reference.kind)
        if reference.kind == "mask" and key not in reference.keys
    ]
    masks = sum(reference.kind == "mask" for reference in job.found.references)
    detail = f"what selects a mask, absent from one of {masks}"
    return Check("selection keywords", len(missing), 0, _list(missing) or detail)


def _check_dates(job: _Job, notes: list[str]) -> Check:
    """Count files without their place in time, and say where a series begins late."""
    for _, group in groupby(job.found.references, key=lambda reference: reference.series):
        first = next(iter(group))
        inflight = first.header["META.PEDIGREE"].upper().startswith("INFLIGHT")
        if inflight and not job.derived and first.useafter[:10] > _LAUNCH:
            notes.append(
                f"{first.fits.name}: the series begins at {first.useafter}; exposures between "
                f"{_LAUNCH} and then find no {first.kind}"
            )
    seen = {(r.series, r.useafter) for r in job.found.references}
    doubled = len(job.found.references) - len(seen)
    return Check("duplicate epochs", doubled, 0, "same USEAFTER and same match keys")


def _check_readback(job: _Job) -> list[Check]:
    """Compare files with what was meant, and twins with each other."""
    wrong, twins, n_masks, n_twins = [], [], 0, 0
    for reference in job.found.references:
        own = job.meant.get(reference.fits)
        if own:
            for path in filter(None, (reference.fits, reference.asdf)):
                wrong += compare_mask(path, own.dq)
                n_masks += 1
        if reference.asdf:
            twins += compare_twins(reference.fits, reference.asdf)
            n_twins += 1
    return [
        Check(
            "masks against history", len(wrong), 0, _list(wrong) or f"{n_masks} files, every bit"
        ),
        Check("twins against each other", len(twins), 0, _list(twins) or f"{n_twins} pairs"),
    ]


def _check_certify(
    job: _Job, outcomes: Mapping[tuple[str, str], Outcome], notes: list[str]
) -> list[Check]:
    """Count what certify says, less the warnings that are allowed."""
    kinds = {
        path.name: reference.kind
        for reference in job.found.references
        for path in filter(None, (reference.fits, reference.asdf))
    }
    checks = []
    for what, title in (("certify", "crds certify"), ("ASDF", "our ASDF check (not CRDS's)")):
        own = {name: outcome for (key, name), outcome in outcomes.items() if key == what}
        errors = [f"{name}: {text}" for name, o in own.items() for text in o.errors]
        warned = []
        for name, text in ((name, text) for name, o in own.items() for text in o.warnings):
            allowed = find_allowed(text, kinds[name])
            if allowed:
                notes.append(f"{name}: allowed warning ({allowed.reason})")
            else:
                warned.append(f"{name}: {text}")
        checks += [
            Check(f"{title}: errors", len(errors), 0, _list(errors) or f"{len(own)} files"),
            Check(f"{title}: warnings", len(warned), 0, _list(warned) or f"{len(own)} files"),
        ]
    return checks


def _check_context(job: _Job, outcomes: Mapping[tuple[str, str], Outcome]) -> list[Check]:
    """Count complaints about the mappings, and files that nothing selects."""
    checks = []
    for what, title in (("insert", "overlaps"), ("closure", "closure of the context")):
        own = {name: outcome for (key, name), outcome in outcomes.items() if key == what}
        said = [f"{name}: {text}" for name, o in own.items() for text in (*o.errors, *o.warnings)]
        counted = [f"{o.value} mappings" for o in own.values() if o.value]
        detail = ", ".join(counted) or f"trial insertion of {len(own)} types"
        checks.append(Check(title, len(said), 0, _list(said) or detail))
    reach = outcomes["reach", job.context.env["CRDS_CONTEXT"]]
    lost = [*reach.errors, *(reach.value or [])]
    detail = _list(lost) or "each file for its own keywords and date"
    return [*checks, Check("files never selected", len(lost), 0, detail)]


def _collect_effects(job: _Job, outcomes: Mapping[tuple[str, str], Outcome]) -> list[Effect]:
    """Gather what bestrefs says; without an old context the old mask is the base mask."""
    bases = {
        (meant.history): (job.histories[meant.history].meta.instrument.detector, meant.base)
        for meant in job.meant.values()
    }
    known = {} if job.derived else dict(bases.values())
    effects = []
    for (what, _), outcome in outcomes.items():
        for effect in (outcome.value or []) if what == "bestrefs" else []:
            base = known.get(job.datasets[effect.dataset].get("META.INSTRUMENT.DETECTOR", ""))
            if effect.kind == "mask" and base and effect.old == "N/A":
                effect = Effect(effect.dataset, "mask", base, effect.new, effect.too_early)
            effects.append(effect)
    return effects


def _check_effects(
    job: _Job,
    outcomes: Mapping[tuple[str, str], Outcome],
    effects: Sequence[Effect],
    notes: list[str],
) -> list[Check]:
    """Count data sets that lose a reference, or start before the first one."""
    said = [text for (what, _), o in outcomes.items() if what == "bestrefs" for text in o.errors]
    lost = [
        f"{e.dataset}: no {e.kind}"
        for e in effects
        if e.new == "N/A"
        and ((job.derived and e.changed) or (job.own_datasets and e.kind == "mask"))
    ]
    early = [f"{e.dataset} has no {e.kind} yet" for e in effects if e.too_early]
    asked = {effect.dataset for effect in effects}
    changed = {effect.dataset for effect in effects if effect.changed and effect.new != "N/A"}
    if len(asked) < len(job.datasets):
        notes.append(f"{len(job.datasets) - len(asked)} data sets are of other instruments")
    if not asked:
        notes.append("no data set was asked for: --datasets names some")
    detail = f"{len(changed)} of {len(asked)} data sets get another file"
    return [
        Check("bestrefs", len(said) + len(lost), 0, _list([*said, *lost]) or detail),
        Check(
            "exposures before the first epoch",
            len(early),
            0,
            _list(early) or f"of {len(asked)} data sets",
        ),
    ]


def _list(texts: Sequence[str], shown: int = 3) -> str:
    """List the first few."""
    clean = [" ".join(text.split()) for text in texts]
    more = f"; and {len(texts) - shown} more" if len(texts) > shown else ""
    return "; ".join(clean[:shown]) + more


def _write_logs(job: _Job, outcomes: Mapping[tuple[str, str], Outcome]) -> None:
    """Write what each program said, with the places that the files will have."""
    for (what, name), outcome in outcomes.items():
        if what == "diff":
            (job.work / "crds_diff.txt").write_text(_final_paths(job, outcome.log))
        else:
            path = job.work / _LOGS / f"{what}_{name}.log"
            path.write_text(_final_paths(job, outcome.log))


def _final_paths(job: _Job, text: str) -> str:
    return text.replace(str(job.work), str(job.folder))


def _write(job: _Job, verdict: Verdict) -> None:
    """Write manifest, forms, effects and verdict."""
    work, by_name = job.work, {r.fits.name: r for r in job.found.references}
    checksums = {entry.crds_name: entry.sha256 for entry in verdict.entries}
    write_delivered(work / _CACHE, checksums)
    manifest = {
        "context": verdict.context,
        "derived_from": job.old if job.derived else None,
        "files": [entry.as_dict() for entry in verdict.entries],
        "ignored": list(verdict.ignored),
    }
    _write_json(work / "manifest.json", manifest)
    (work / "manifest.txt").write_text(format_table(tabulate_entries(verdict.entries)))
    _write_json(work / "bestrefs.json", [asdict(effect) for effect in verdict.effects])
    (work / "bestrefs.txt").write_text(verdict.format_effects())
    (work / _FORMS).mkdir()
    tests = (
        f"jwst_tvbadpix deliver {'passed' if verdict.passed else 'failed'}, "
        f"{sum(c.passed for c in verdict.checks)} of {len(verdict.checks)} checks hold"
    )
    for (instrument, kind), group in groupby(
        verdict.entries, key=lambda entry: (entry.instrument, entry.kind)
    ):
        entries = list(group)
        form = fill_form(entries, [by_name[entry.file] for entry in entries], tests)
        (work / _FORMS / f"{instrument}_{kind}.yaml").write_text(form)
    notes = "".join(f"note: {note}\n" for note in verdict.notes)
    (work / "verdict.txt").write_text(f"{verdict.format_checks()}{notes}{verdict.line}\n")
    _write_json(
        work / _LAST,
        {
            "passed": verdict.passed,
            "verdict": verdict.line,
            "checks": [{**asdict(c), "passed": c.passed} for c in verdict.checks],
            "notes": list(verdict.notes),
        },
    )


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
