"""The checks that a delivery must pass."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from ..refmodels import BadPixHistoryModel
from .allowed import find_allowed
from .bestrefs import Effect
from .context import Context, list_parkeys
from .found import Found, Reference
from .observatory import JWST, of_instrument
from .readback import Meant, ReadBack
from .verdict import Check
from .workers import Outcome

__all__ = [
    "Job",
    "Outcomes",
    "check_certify",
    "check_context",
    "check_effects",
    "check_keys",
    "check_readback",
    "collect_effects",
    "note_late_series",
]

# The telescope was launched on this day: no exposure in flight is earlier.
_LAUNCH = "2021-12-25"

# What masks may be specific to beside their detector; values that are for all.
_SPECIFIC = ("META.INSTRUMENT.FILTER", "META.EXPOSURE.READPATT", "META.EXPOSURE.NGROUPS")
_ANY = ("N/A", "ANY", "GENERIC")

# (what was done, with what) -> what crds said.
Outcomes = Mapping[tuple[str, str], Outcome]


@dataclass(frozen=True, slots=True)
class Job:
    """What there is to check.

    Attributes
    ----------
    found : Found
    meant : mapping of Path to Meant
        Of the masks.
    histories : mapping of Path to BadPixHistoryModel
    datasets : mapping of str to mapping
        Data sets to ask bestrefs for.
    own_datasets : bool
        They are the exposures of the histories, each of which must find its mask.
    complete : bool
        Every epoch of the histories has its mask.
    context : Context
        The new one.
    old : str
        Name of the context to compare with.
    derived : bool
        The new one was derived from it; otherwise it is empty.
    """

    found: Found
    meant: Mapping[Path, Meant]
    histories: Mapping[Path, BadPixHistoryModel]
    datasets: Mapping[str, Mapping[str, str]]
    own_datasets: bool
    complete: bool
    context: Context
    old: str
    derived: bool


def _make_check(name: str, wrong: Iterable[str], detail: str) -> Check:
    """Make a check of which nothing may be wrong."""
    listed = tuple(" ".join(text.split()) for text in wrong)
    return Check(name, len(listed), 0, detail, listed)


def check_keys(job: Job) -> Check:
    """Require of masks, which are ours, all that the rules select by, and of the rules no less.

    Parameters
    ----------
    job : Job

    Returns
    -------
    Check
    """
    masks = [reference for reference in job.found.references if reference.kind == "mask"]
    missing = [
        f"{reference.fits.name} has no {key}"
        for reference in masks
        for key in list_parkeys(reference.instrument, "mask")
        if key not in reference.keys
    ]
    generic = [
        f"{reference.fits.name} has SUBARRAY {reference.keys['META.SUBARRAY.NAME']}, not GENERIC"
        for reference in masks
        if reference.keys.get("META.SUBARRAY.NAME", "GENERIC") != "GENERIC"
    ]
    return _make_check(
        "selection keywords", [*missing, *generic, *_find_unused(job, masks)], f"{len(masks)} masks"
    )


def _find_unused(job: Job, masks: Sequence[Reference]) -> list[str]:
    """Find what masks are specific to and the rules, of a derived context, do not look at."""
    import crds

    name = job.context.env["CRDS_CONTEXT"]
    wrong = []
    for mask in masks:
        rules = crds.get_cached_mapping(name).get_imap(mask.instrument).get_rmap("mask")
        wrong += [
            f"{mask.fits.name} is for {key} {mask.keys[key]}, by which {rules.basename} does not "
            "select: all others would get it too"
            for key in _SPECIFIC
            if mask.keys.get(key, "N/A") not in _ANY and key not in rules.parkey[0]
        ]
    return wrong


def note_late_series(job: Job) -> list[str]:
    """Say which series leave exposures in flight without a reference.

    Parameters
    ----------
    job : Job

    Returns
    -------
    list of str
        Empty for a derived context, in which older files stay valid.
    """
    notes = []
    for _, group in groupby(job.found.references, key=lambda reference: reference.series):
        first = next(iter(group))
        inflight = (
            first.header["META.PEDIGREE"].upper().startswith("INFLIGHT")
            and job.found.observatory is JWST  # Roman has not flown
        )
        if inflight and not job.derived and first.useafter[:10] > _LAUNCH:
            notes.append(
                f"{first.fits.name}: the series begins at {first.useafter}; between {_LAUNCH} and "
                f"then there is no {first.kind}"
            )
    return notes


def check_readback(results: Sequence[ReadBack], n_masks: int, n_twins: int) -> list[Check]:
    """Count what differs from the history, and between twins.

    Parameters
    ----------
    results : sequence of ReadBack
    n_masks, n_twins : int
        Files and pairs that were compared.

    Returns
    -------
    list of Check
    """
    flags = [text for result in results for text in result.flags]
    twins = [text for result in results for text in result.twins]
    return [
        _make_check("masks against history", flags, f"{n_masks} files, every bit"),
        _make_check("twins against each other", twins, f"{n_twins} pairs"),
    ]


def check_certify(job: Job, outcomes: Outcomes, notes: list[str]) -> list[Check]:
    """Count what certify says, less the warnings that are allowed.

    Parameters
    ----------
    job : Job
    outcomes : mapping
    notes : list of str
        Gets one line for each warning that is allowed.

    Returns
    -------
    list of Check
    """
    kinds = {
        path.name: reference.kind
        for reference in job.found.references
        for path in (reference.fits, reference.asdf)
        if path
    }
    checks = []
    for what, title in (("certify", "crds certify"), ("asdf", "our ASDF check, not CRDS's")):
        own = {name: outcome for (key, name), outcome in outcomes.items() if key == what}
        errors = [f"{name}: {text}" for name, o in own.items() for text in o.errors]
        warned = []
        for name, text in ((name, text) for name, o in own.items() for text in o.warnings):
            allowed = find_allowed(text, kinds[name])
            if allowed:
                notes.append(f"{name}: {text.splitlines()[0]} (allowed: {allowed.reason})")
            else:
                warned.append(f"{name}: {text}")
        checks += [
            _make_check(f"{title}: errors", errors, f"{len(own)} files"),
            _make_check(f"{title}: warnings", warned, f"{len(own)} files"),
        ]
    return checks


def check_context(job: Job, outcomes: Outcomes) -> list[Check]:
    """Count complaints about the mappings, and files that nothing selects.

    Parameters
    ----------
    job : Job
    outcomes : mapping

    Returns
    -------
    list of Check
    """
    checks = []
    names = set(job.context.names.values())
    for what, title in (
        ("insert", "duplicate epochs and overlaps"),
        ("closure", "closure of the context"),
    ):
        own = {name: outcome for (key, name), outcome in outcomes.items() if key == what}
        said = [
            f"{name}: {text}"
            for name, o in own.items()
            for text in (*o.errors, *(w for w in o.warnings if not _is_addition(w, names)))
        ]
        counted = [f"{o.value} mappings" for o in own.values() if o.value]
        checks.append(_make_check(title, said, ", ".join(counted) or f"{len(own)} types"))
    reach = outcomes["reach", job.context.env["CRDS_CONTEXT"]]
    lost = [*reach.errors, *(reach.value or [])]
    count = len(job.found.references)
    return [*checks, _make_check("files never selected", lost, f"{count} files")]


def _is_addition(warning: str, names: set[str]) -> bool:
    """Tell whether crds says no more than that a delivered file, or its type, is new."""
    rule = re.fullmatch(r"Rule change at .* added Match rule for '(.*)'", warning, re.DOTALL)
    kind = re.fullmatch(r"No equivalent \w+ in '.*' corresponding to '.*'", warning)
    return (rule is not None and rule[1] in names) or kind is not None


def collect_effects(job: Job, outcomes: Outcomes) -> list[Effect]:
    """Gather what bestrefs says; without an old context the old mask is the base mask.

    Parameters
    ----------
    job : Job
    outcomes : mapping

    Returns
    -------
    list of Effect
    """
    bases = {} if job.derived else {r.detector: job.meant[r.fits].base for r in _masks(job)}
    effects = []
    for (what, _), outcome in outcomes.items():
        for effect in (outcome.value or []) if what == "bestrefs" else []:
            key = f"{job.found.observatory.prefix}META.INSTRUMENT.DETECTOR"
            detector = job.datasets[effect.dataset].get(key, "")
            if effect.kind == "mask" and effect.old == "N/A" and detector in bases:
                effect = replace(effect, old=bases[detector])
            effects.append(effect)
    return effects


def _masks(job: Job) -> list[Reference]:
    return [reference for reference in job.found.references if reference.fits in job.meant]


def _find_missed(job: Job, effects: Sequence[Effect]) -> tuple[list[str], int]:
    """Find exposures of the histories without the mask that is for them; count those of none."""
    missed, n_foreign = [], 0
    for effect in effects:
        header = job.datasets[effect.dataset]
        if effect.kind != "mask":
            continue
        own = [mask for mask in _masks(job) if _is_for(mask, header)]
        start = job.found.observatory.read_date(header)
        last = {mask.series: mask for mask in own if mask.useafter <= start}
        names = {job.context.names[mask.fits] for mask in last.values()}
        if not own:
            n_foreign += 1
        elif effect.new == "N/A":
            missed.append(f"{effect.dataset} gets no mask")
        elif job.complete and names and effect.new not in names:
            missed.append(f"{effect.dataset} gets {effect.new}, not {' or '.join(sorted(names))}")
    return missed, n_foreign


def _is_for(mask: Reference, header: Mapping[str, str]) -> bool:
    """Tell whether a mask is meant for an exposure of its detector, whatever its date."""
    prefix = of_instrument(mask.instrument).prefix
    if header[f"{prefix}META.INSTRUMENT.DETECTOR"] != mask.detector:
        return False
    for key in _SPECIFIC:
        value, own = mask.keys.get(key, "N/A"), header.get(key, "N/A")
        if value.startswith("BETWEEN"):
            low, high = value.split()[1:]
            if not int(low) <= int(own) < int(high):
                return False
        elif value not in _ANY and own not in value.split("|"):
            return False
    return True


def check_effects(
    job: Job, outcomes: Outcomes, effects: Sequence[Effect], notes: list[str]
) -> list[Check]:
    """Count data sets that lose a reference, or start before the first one.

    Parameters
    ----------
    job : Job
    outcomes : mapping
    effects : sequence of Effect
    notes : list of str
        Gets a line where data sets could not be asked for.

    Returns
    -------
    list of Check
    """
    said = [text for (what, _), o in outcomes.items() if what == "bestrefs" for text in o.errors]
    # That nothing is for a mode is no fault of a context: it is counted below where it matters.
    said = [text for text in said if " is not in " not in text and "No match found" not in text]
    lost = [
        f"{effect.dataset} gets no {effect.kind}"
        for effect in effects
        if effect.new == "N/A" and job.derived and effect.changed
    ]
    if job.own_datasets:
        missed, n_foreign = _find_missed(job, effects)
        lost += missed
        if n_foreign:
            notes.append(f"exposures of the histories that no mask here is for: {n_foreign}")
    early = [f"{effect.dataset} has no {effect.kind} yet" for effect in effects if effect.too_early]
    asked = {effect.dataset for effect in effects}
    changed = {effect.dataset for effect in effects if effect.changed and effect.new != "N/A"}
    others = len(job.datasets) - len(asked)
    if others:
        notes.append(f"data sets of instruments without a reference here: {others}")
    if not asked:
        notes.append("bestrefs was asked for no data set: name some by --datasets")
    detail = f"{len(changed)} of {len(asked)} data sets get another file"
    return [
        _make_check("bestrefs, old against new", [*said, *lost], detail),
        _make_check("exposures before the first epoch", early, f"{len(asked)} data sets"),
    ]
