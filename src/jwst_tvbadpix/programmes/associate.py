"""Group exposures into the associations that the steps take, by what their headers say."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from ..detectors import get_detector
from ..errors import DetectorError
from .associations import Association, Member, make_name
from .decide import FLATS, FLUXES, MASKS, Exposure, decide, is_combined
from .recipes import Recipe, Row
from .scan import Observation
from .stages import choose_file
from .targets import normalise

__all__ = ["EPOCH_GAP_DAYS", "Leftover", "Plan", "plan_associations"]

log = logging.getLogger(__name__)

# Exposures further apart than this are of different epochs [d]. Visits for one external flat are
# requested within 25 days; a star and its dedicated background are observed one after the other.
# Masks have no epochs: a detector has one history.
EPOCH_GAP_DAYS = {"external_flat_builder": 30.0, "abs_flux_ratio": 3.0}

_TYPES = {"background": "background", "dark": "dark"}
_MJD_ZERO = datetime(1858, 11, 17)
# Parts of the name, what to add where these are not unique, and the association without its name.
_Unnamed = tuple[tuple[str | None, ...], str, Association]


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file that goes into no association.

    Attributes
    ----------
    observation : Observation
        The file.
    reason : str
        Why.
    lost : bool
        False where it is merely another product of an exposure that is used, or of a programme
        that was not asked for.
    """

    observation: Observation
    reason: str
    lost: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a set of files.

    Attributes
    ----------
    associations : tuple of Association
        By step and name.
    leftovers : tuple of Leftover
        Every file that is in no association, by path.
    recipes : tuple of Recipe
        The recipes that were used.
    rows : tuple of (Recipe, Row, int)
        Every row of these, and how many observations of it (OBSERVTN, else exposures) are at hand.
    without_row : tuple of Observation
        One file of each exposure that fits no row of its programme's recipe and is used all the
        same: its header decided.
    """

    associations: tuple[Association, ...]
    leftovers: tuple[Leftover, ...]
    recipes: tuple[Recipe, ...]
    rows: tuple[tuple[Recipe, Row, int], ...]
    without_row: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class _Use:
    """One file of an exposure as taken by a step."""

    exposure: Exposure
    observation: Observation
    step: str
    stage: str
    ready: bool
    doubts: tuple[str, ...]


def plan_associations(
    observations: Iterable[Observation],
    *,
    recipes: Sequence[Recipe] = (),
    program: str | None = None,
) -> Plan:
    """Decide which files go into which association.

    Parameters
    ----------
    observations : iterable of Observation
        From `scan_headers`, of any programmes and stages, in any order.
    recipes : sequence of Recipe
        Rows to match exposures to, see `decide`; headers alone decide on other programmes.
    program : str or None
        Five digits: leave exposures of other programmes out, unless its recipe is archival.

    Returns
    -------
    Plan

    Notes
    -----
    Every file is in an association or among the leftovers. An exposure may serve two steps (a
    dedicated background is evidence for masks and the background of its star), each with the
    product that suits it, see `choose_file`.

    * ``time_variable_bad_pixel``: blank-sky, failed, background and dark exposures, one
      association per detector, whatever mode, programme and epoch. Products in other units than
      DN/s that cannot be turned back (spectra), and those that must be reprocessed first, form
      their own.
    * ``external_flat_builder``: images of a dense field, or taken with the External Flat
      template.
    * ``abs_flux_ratio``: standard stars, and their dedicated backgrounds of the nearest epoch.

    The latter two are grouped by programme, detector, mode, filter, pupil, grating, channel,
    band, slit, coronagraph, subarray, target and epoch (see `EPOCH_GAP_DAYS`).
    Images of Roman serve masks, and flats where they have a WCS and are not flat-fielded: one
    association for each detector and optical element, of all its programmes and epochs, for a
    survey comes back to its fields. Their files name no target, so that which are of standard
    stars is for the caller to say.
    """
    files = sorted(observations, key=lambda o: str(o.path))
    asked = None if any(recipe.archival for recipe in recipes) else program
    foreign = [o for o in files if asked is not None and o.program not in (None, asked)]
    own = [o for o in files if asked is None or o.program in (None, asked)]
    kept, leftovers = _drop_copies(own)
    leftovers += [
        Leftover(o, f"programme {o.program} was not asked for", lost=False) for o in foreign
    ]
    exposures = [decide(products, recipes=recipes, program=program) for products in kept]
    uses = [use for exposure in exposures for use in _choose_uses(exposure)]
    associations, orphans = _group(uses, program)
    used = {id(m.observation) for a in associations for m in a.members}
    for exposure in exposures:
        leftovers += _list_leftovers(exposure, used, orphans)
    seen = {
        (id(e.row), e.program, e.files[0].observation or e.files[0].exposure_id) for e in exposures
    }
    counted = Counter(row for row, _, _ in seen)
    strays = [e for e in exposures if e.recipe and not e.recipe.archival and e.row is None]
    return Plan(
        associations=tuple(associations),
        leftovers=tuple(sorted(leftovers, key=lambda left: str(left.observation.path))),
        recipes=tuple(recipes),
        rows=tuple((recipe, row, counted[id(row)]) for recipe in recipes for row in recipe.rows),
        without_row=tuple(e.files[0] for e in strays if e.steps),
    )


def _drop_copies(
    files: Sequence[Observation],
) -> tuple[list[tuple[Observation, ...]], list[Leftover]]:
    """Gather the products of each exposure; leave out copies, and what was made of them all."""
    found: dict[str, dict[str, Observation]] = {}
    leftovers = []
    single = {_optics(one) for one in files if not is_combined(one)}
    for one in files:
        if is_combined(one) and _optics(one) in single:
            leftovers.append(Leftover(one, "made of exposures that are at hand", lost=False))
            continue
        first = found.setdefault(one.exposure_id, {}).setdefault(one.stage, one)
        if first is not one:
            leftovers.append(Leftover(one, f"the same product as {first.path}", lost=False))
    return [tuple(products.values()) for products in found.values()], leftovers


def _optics(one: Observation) -> tuple[str | None, ...]:
    """List what the exposures of a combined product have in common with it."""
    return one.program, one.instrument, one.exp_type, one.filter, one.grating


def _choose_uses(exposure: Exposure) -> Iterable[_Use]:
    for step in exposure.steps:
        choice = choose_file(step, exposure.mode, exposure.files)
        if choice is not None:
            yield _Use(exposure, choice.observation, step, choice.form, choice.ready, choice.doubts)


def _group(uses: Sequence[_Use], program: str | None) -> tuple[list[Association], dict[int, str]]:
    """Make associations; and say why an exposure that a step takes is in none of its own."""
    made: list[_Unnamed] = []
    orphans: dict[int, str] = {}
    for step in (FLATS, FLUXES):
        groups, lonely = _split_epochs([use for use in uses if use.step == step])
        made += [_name_group(own) for own in groups]
        orphans.update(lonely)
    masks: dict[tuple[str, str, bool], list[_Use]] = {}
    for use in uses:
        if use.step != MASKS:
            continue
        try:
            detector = get_detector((use.observation.detector or "").upper()).name
        except DetectorError:
            found = use.observation.detector or "absent"
            orphans[id(use.exposure)] = f"masks are made per detector, and DETECTOR is {found}"
            continue
        if id(use.exposure) in orphans:
            use = replace(use, doubts=(*use.doubts, orphans[id(use.exposure)]))
        masks.setdefault((detector, use.stage, use.ready), []).append(use)
    made += [_name_masks(own, program) for own in masks.values()]
    return _settle_names(made), orphans


def _split_epochs(uses: Sequence[_Use]) -> tuple[list[list[_Use]], dict[int, str]]:
    """Group by setting, target and epoch; backgrounds join the nearest epoch of their star."""
    science: dict[tuple[object, ...], list[_Use]] = {}
    for use in uses:
        if use.exposure.role.name != "background":
            science.setdefault((_setting(use), normalise(use.exposure.star)), []).append(use)
    groups: list[list[_Use]] = []
    by_key: dict[tuple[object, ...], list[list[_Use]]] = {}
    for key, own in science.items():
        by_key[key] = _split_gaps(own)
        groups += by_key[key]
    lonely = {}
    spans = {id(group): (_start(group[0]), _start(group[-1])) for group in groups}
    for use in uses:
        if use.exposure.role.name != "background":
            continue
        near = [
            (_distance(_start(use), *spans[id(group)]), n, group)
            for n, group in enumerate(by_key.get((_setting(use), normalise(use.exposure.star)), []))
        ]
        near = [entry for entry in near if entry[0] <= EPOCH_GAP_DAYS[use.step]]
        if near:
            min(near)[2].append(use)
        else:
            lonely[id(use.exposure)] = (
                f"background without its star: no exposure of {use.exposure.star or 'the target'} "
                f"in the same setting within {EPOCH_GAP_DAYS[use.step]:g} d"
            )
    return groups, lonely


def _setting(use: _Use) -> tuple[object, ...]:
    """List what must be the same within a flat or a flux association."""
    o = use.observation
    cards = (
        o.detector,
        o.filter,
        o.pupil,
        o.grating,
        o.channel,
        o.band,
        o.fixed_slit,
        o.coronagraph,
        o.subarray,
    )
    mode = use.exposure.mode
    spelled = tuple((card or "").upper() for card in cards)
    if o.telescope == "ROMAN":
        return (*spelled, use.stage, use.ready)
    return (use.exposure.program or "", mode.name if mode else "", *spelled, use.stage, use.ready)


def _start(use: _Use) -> float | None:
    return use.observation.start_mjd


def _distance(start: float | None, first: float | None, last: float | None) -> float:
    """Days by which a start lies outside a span; what has no date lies within it."""
    if start is None or first is None or last is None:
        return 0.0
    return max(0.0, first - start, start - last)


def _split_gaps(uses: Sequence[_Use]) -> list[list[_Use]]:
    """Split at gaps in time; what has no date stands apart."""
    if uses[0].observation.telescope == "ROMAN":
        return [sorted(uses, key=lambda use: (_start(use) or 0.0, str(use.observation.path)))]
    dated = sorted(
        (use for use in uses if _start(use) is not None),
        key=lambda use: (_start(use) or 0.0, str(use.observation.path)),
    )
    groups: list[list[_Use]] = []
    for use in dated:
        last = _start(groups[-1][-1]) if groups else None
        if last is None or (_start(use) or 0.0) - last > EPOCH_GAP_DAYS[use.step]:
            groups.append([])
        groups[-1].append(use)
    undated = [use for use in uses if _start(use) is None]
    return [*groups, undated] if undated else groups


def _name_masks(uses: list[_Use], program: str | None) -> _Unnamed:
    """Make the association of a detector; its name says what all members share."""
    if program is None:
        program = _shared(u.exposure.program or "no-program" for u in uses) or "multi"
    modes = _shared(u.exposure.mode.name if u.exposure.mode else None for u in uses)
    parts = (
        program,
        MASKS,
        (uses[0].observation.detector or "").upper(),
        modes,
        _shared(_say_optics(u.observation) for u in uses),
        _shared(u.observation.subarray for u in uses),
        None if uses[0].stage == "rate" else uses[0].stage,
    )
    doubts = ["one exposure: a static mask at best"] if len(uses) == 1 else []
    return parts, uses[0].stage, _make(uses, program, "multi", doubts)


def _name_group(uses: list[_Use]) -> _Unnamed:
    first = uses[0]
    o, mode = first.observation, first.exposure.mode
    start = _start(first)
    epoch = "undated" if start is None else f"{_MJD_ZERO + timedelta(days=start):%Y%m%d}"
    target = first.exposure.star or "no-target"
    program = first.exposure.program or "no-program"
    if o.telescope == "ROMAN":
        target = "multi"
        program = _shared(u.exposure.program or "no-program" for u in uses) or "multi"
    parts = (
        program,
        first.step,
        (o.detector or o.instrument or "").upper(),
        mode.name if mode else None,
        _say_optics(o),
        o.subarray,
        None if o.telescope == "ROMAN" else target,
        epoch,
        None if first.ready else first.stage,
    )
    return parts, first.stage, _make(uses, program, target, [])


def _say_optics(o: Observation) -> str | None:
    """Name filter, pupil, grating, band, slit and coronagraph, as far as there are any."""
    pupil = None if (o.pupil or "CLEAR").upper() == "CLEAR" else o.pupil
    parts = (o.filter, pupil, o.grating, o.band, o.fixed_slit, o.coronagraph)
    return "-".join(filter(None, parts)) or None


def _shared(values: Iterable[str | None]) -> str | None:
    """Find the value that all have; None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None


def _make(uses: Sequence[_Use], program: str, target: str, doubts: Sequence[str]) -> Association:
    """Make an association without its name."""
    members = [
        Member(u.observation, u.exposure.role, _TYPES.get(u.exposure.role.name, "science"))
        for u in uses
    ]
    if not any(member.exptype == "science" for member in members):
        # The pipeline takes no association without one.
        members = [replace(member, exptype="science") for member in members]
    order = ("science", "background", "dark")
    members.sort(
        key=lambda m: (
            order.index(m.exptype),
            m.observation.start_mjd or 0.0,
            str(m.observation.path),
        )
    )
    counted = Counter(doubt for u in uses for doubt in (*u.exposure.role.doubts, *u.doubts))
    said = [f"{doubt} ({n} of {len(uses)})" for doubt, n in sorted(counted.items())]
    undated = sum(_start(u) is None for u in uses)
    if undated:
        said.append(f"no date ({undated} of {len(uses)})")
    mode = uses[0].exposure.mode
    return Association(
        name="",
        step=uses[0].step,
        program=program,
        target=target,
        kind=mode.kind if mode is not None and uses[0].step != MASKS else "badpix",
        stage="|".join(sorted({u.observation.stage for u in uses})),
        ready=uses[0].ready,
        members=tuple(members),
        doubts=(*doubts, *said),
    )


def _settle_names(
    made: Sequence[_Unnamed],
) -> list[Association]:
    """Give each association its name; where two would share one, add what they hold."""
    counted = Counter(make_name(parts).lower() for parts, _, _ in made)
    named: list[Association] = []
    taken: Counter[str] = Counter()
    for parts, stage, association in sorted(
        made, key=lambda entry: (make_name(entry[0]), entry[1], _identify(entry[2]))
    ):
        name = make_name(parts)
        if counted[name.lower()] > 1:
            # Settings that the name does not show (a channel), or another product.
            name = f"{name}_{stage}"
        taken[name.lower()] += 1
        if taken[name.lower()] > 1:
            name = f"{name}_{taken[name.lower()]}"
        named.append(replace(association, name=name))
    return sorted(named, key=lambda association: (association.step, association.name))


def _identify(association: Association) -> str:
    return "|".join(str(member.observation.path) for member in association.members)


def _list_leftovers(
    exposure: Exposure, used: set[int], orphans: dict[int, str]
) -> Iterable[Leftover]:
    """Say of each file of an exposure that goes into no association why."""
    taken = [one for one in exposure.files if id(one) in used]
    for one in exposure.files:
        if id(one) in used:
            continue
        if taken:
            stages = "|".join(sorted(other.stage for other in taken))
            yield Leftover(one, f"_{stages} of the exposure is used", lost=False)
        elif exposure.refused:
            yield Leftover(one, exposure.refused)
        elif id(exposure) in orphans:
            yield Leftover(one, orphans[id(exposure)])
        else:
            steps = " or ".join(exposure.steps)
            yield Leftover(one, f"{steps} takes no _{one.stage or '?'} product of this mode")
