"""What is decided about each exposure: its role, its row in a recipe, the steps that take it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .classify import Role, classify
from .modes import Mode, find_mode, get_mode
from .recipes import Recipe, Row, match_row
from .scan import Observation
from .targets import find_standard, is_dense_field

__all__ = ["FLATS", "FLUXES", "MASKS", "Exposure", "decide", "is_combined"]

MASKS, FLATS, FLUXES = "time_variable_bad_pixel", "external_flat_builder", "abs_flux_ratio"
_MASK_ROLES = ("blank", "failed", "background", "dark")
# Modes in which external_flat_builder and abs_flux_ratio work.
_FLAT_MODES = (
    "miri-imaging",
    "miri-external-flat",
    "nircam-imaging",
    "niriss-imaging",
    "fgs-imaging",
)
_FLUX_MODES = (
    *_FLAT_MODES,
    "miri-coronagraphy",
    "lrs-slit",
    "lrs-slitless",
    "mrs",
    "nircam-coronagraphy",
    "niriss-soss",
    "nirspec-fixed-slit",
    "nirspec-bright-object",
    "nirspec-ifu",
)
# What a target's name adds to that of the star.
_ADDED = re.compile(r"[-_ ]*(W?BKGD?|BACKGROUND|BACKGR)[-_ ]*\d*$", re.IGNORECASE)
# Products of stage 3: jw01539-o001_t001_miri_f770w_i2d.fits.
_COMBINED = re.compile(r"jw\d{5}-[a-z]\d+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Exposure:
    """One exposure with all its products at hand, and what is decided about it.

    Attributes
    ----------
    files : tuple of Observation
        Its products.
    program : str or None
        Its programme, five digits: PROGRAM, else the one asked for.
    role : Role
        What it is.
    mode : Mode or None
        Its observing mode.
    steps : tuple of str
        What takes it; () with the reason in `refused`.
    refused : str
        Why no step takes it.
    recipe : Recipe or None
        What was asked about it.
    row : Row or None
        The row of `recipe` it belongs to.
    star : str
        Name of its star, the same for a star and its background; "" where there is none.
    """

    files: tuple[Observation, ...]
    program: str | None
    role: Role
    mode: Mode | None
    steps: tuple[str, ...]
    refused: str
    recipe: Recipe | None
    row: Row | None
    star: str


def decide(
    files: Sequence[Observation], *, recipes: Sequence[Recipe] = (), program: str | None = None
) -> Exposure:
    """Decide what an exposure is and which steps take it.

    Parameters
    ----------
    files : sequence of Observation
        Its products, of whatever stages.
    recipes : sequence of Recipe
        Asked where they are of the exposure's programme; an archival one is asked about all.
    program : str or None
        Five digits: what an exposure without PROGRAM is taken for.

    Returns
    -------
    Exposure
    """
    if files[0].telescope == "ROMAN":
        # Programmes of both telescopes have the same numbers.
        recipes = [recipe for recipe in recipes if recipe.archival]
    # Any product tells what the exposure is; the calibrated ones know most about the pointing.
    known = min(files, key=lambda o: (o.ra_ref is None, o.stage, str(o.path)))
    role, mode = classify(known), find_mode(known.exp_type)
    archival = next((recipe for recipe in recipes if recipe.archival), None)
    own = known.program or program
    recipe = archival or next((recipe for recipe in recipes if recipe.program == own), None)
    row = None
    if recipe is not None:
        row, doubts = match_row(recipe, known, role)
        if row is not None:
            role = _apply_row(row, role, known, doubts)
            mode = mode or get_mode(row.mode)[0]
        elif archival is None:
            role = replace(role, doubts=(*role.doubts, *doubts))
    if program is not None and known.program is None:
        role = replace(role, doubts=(*role.doubts, f"PROGRAM is absent: taken for {program}"))
    star = _name_star((row.background_of if row else "") or known.target or known.target_name)
    steps: tuple[str, ...] = ()
    if row is not None and row.step == "none":
        refused = row.reason
    elif archival is not None and row is None:
        refused = f"no evidence for {archival.program}: {role.name} ({role.reason})"
    else:
        steps, refused = _find_steps(known, role, mode, row)
    return Exposure(tuple(files), own, role, mode, steps, refused, recipe, row, star)


def is_combined(observation: Observation) -> bool:
    """Tell whether a file is a product of several exposures (of stage 3), by its name."""
    return _COMBINED.match(observation.path.name) is not None


def _apply_row(row: Row, role: Role, observation: Observation, doubts: tuple[str, ...]) -> Role:
    """Let a row decide between science and background, unless the header knows better."""
    doubts = (*role.doubts, *doubts, *row.doubts)
    if role.name in ("failed", "dark", "blank") or len(row.roles) > 1:
        return replace(role, doubts=doubts)
    (wanted,) = row.roles
    if observation.background_target and wanted != "background":
        return replace(role, doubts=(*doubts, f"the recipe says {wanted}, BKGDTARG background"))
    if role.name == wanted:
        return replace(role, doubts=doubts)
    if observation.background_target is False and wanted == "background":
        doubts = (*doubts, "BKGDTARG = F though the recipe says background")
    return Role(wanted, f"recipe: {row.label or row.mode} ({row.target})", doubts)


def _name_star(name: str | None) -> str:
    """Name the star of a target, the same for it and its background; "" without a name."""
    standard = find_standard(name)
    return standard[0] if standard else _ADDED.sub("", name or "")


def _find_steps(
    observation: Observation, role: Role, mode: Mode | None, row: Row | None
) -> tuple[tuple[str, ...], str]:
    """Find what takes an exposure; else why nothing does."""
    if observation.telescope == "ROMAN":
        return _find_roman_steps(observation, role)
    if role.name in ("acquisition", "other"):
        return (), role.reason
    if is_combined(observation) and role.name != "science":
        return (), "product of several exposures: give the exposures"
    if role.name in _MASK_ROLES:
        other = FLUXES if mode is not None and mode.name in _FLUX_MODES else MASKS
        other = row.step if row is not None else other
        both = role.name == "background" and other != MASKS
        return (MASKS, other) if both else (MASKS,), ""
    steps, refused = _find_science_step(observation, mode, row)
    if steps == (FLATS,) and is_combined(observation):
        return (), "product of several exposures: give the exposures"
    return steps, refused


def _find_roman_steps(observation: Observation, role: Role) -> tuple[tuple[str, ...], str]:
    """Find what takes an exposure of Roman: every image tells of pixels, and of the flat."""
    o = observation
    if o.reftype or o.stage not in ("cal", "uncal"):
        kind = f"reference file ({o.reftype})" if o.reftype else o.stage or "file without a tag"
        return (), f"{kind} of Roman: no exposure of level 1 or 2 in a version of RAD that is known"
    if o.exp_type != "WFI_IMAGE" or o.filter in ("GRISM", "PRISM"):
        return (), f"no step takes {o.exp_type} through {o.filter}: {role.name} of Roman"
    # An exposure of level 1 has none of these; romancal makes of it what is wanted.
    ready = o.stage == "uncal" or (o.assign_wcs == "COMPLETE" and o.flat_field != "COMPLETE")
    return ((MASKS, FLATS) if ready else (MASKS,)), ""


def _find_science_step(
    observation: Observation, mode: Mode | None, row: Row | None
) -> tuple[tuple[str, ...], str]:
    if row is not None:
        return (row.step,), ""
    name = observation.target or observation.target_name
    about = f"{observation.target_category or ''} {observation.target_description or ''}".lower()
    standard = find_standard(name) is not None or "standard" in about or "photometric" in about
    dense = is_dense_field(name) or "external flat" in about
    dense = dense or observation.exp_type == "MIR_FLATIMAGE-EXT"
    if standard and mode is not None and mode.name in _FLUX_MODES:
        return (FLUXES,), ""
    if dense and mode is not None and mode.name in _FLAT_MODES:
        return (FLATS,), ""
    if standard or dense:
        where = mode.name if mode else "a mode that is not known (EXP_TYPE)"
        return (), f"no step for {'a standard star' if standard else 'a dense field'} in {where}"
    return (), (
        f"science: target {name or 'without a name'} is no blank sky, no standard star and no "
        "dense field known by name"
    )
