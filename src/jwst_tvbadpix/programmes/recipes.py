"""Recipes: what each row of an observation table is; ``recipes/README.md`` has the format."""

import logging
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InputError, RecipeError
from .classify import ROLES, Role
from .modes import MODES
from .scan import CARDS, Observation
from .targets import normalise

__all__ = [
    "STEPS",
    "Recipe",
    "Row",
    "find_recipe",
    "list_recipes",
    "match_row",
    "read_program",
    "read_recipe",
]

log = logging.getLogger(__name__)

STEPS = ("time_variable_bad_pixel", "external_flat_builder", "abs_flux_ratio")
_MODES = {mode.name: mode for mode in MODES}
_README = files(__package__) / "recipes" / "README.md"
# PROGRAM has five digits.
_LAST_PROGRAM = 99999
_TOP = {"program": int, "title": str, "archival": bool, "source": str, "notes": list, "row": list}
_ROW = {
    "label": str,
    "template": str,
    "target": str,
    "count": int,
    "observations": list,
    "mode": str,
    "exp_types": list,
    "step": str,
    "reason": str,
    "role": (str, list),
    "background_of": str,
    "match": dict,
    "doubts": list,
}
_KINDS = {
    int: "a whole number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a table",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an observation table, or several that are the same.

    Attributes
    ----------
    label, template, target : str
        As in the table; "" in archival rows.
    count : int
        How many rows of the table it stands for.
    observations : tuple of int
        OBSERVTN of each, () where the table does not give them.
    mode : str
        Name of the observing mode.
    exp_types : tuple of str
        EXP_TYPE of its exposures.
    step : str
        One of `STEPS`, or "none".
    reason : str
        Why no step takes it; "" where one does.
    roles : tuple of str
        "science" or "background"; in archival rows all that are taken.
    background_of : str
        The target whose background it is; "" for others.
    match : tuple of (str, tuple of str)
        Fields of `Observation` and the patterns one of which their values must fit.
    doubts : tuple of str
        What is uncertain about the row.
    """

    label: str
    template: str
    target: str
    count: int
    observations: tuple[int, ...]
    mode: str
    exp_types: tuple[str, ...]
    step: str
    reason: str
    roles: tuple[str, ...]
    background_of: str
    match: tuple[tuple[str, tuple[str, ...]], ...]
    doubts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The rows of a programme's observation table.

    Attributes
    ----------
    program : str
        Five digits, as in PROGRAM.
    title, source : str
        Title, and where the rows are from.
    archival : bool
        Whether it takes exposures of other programmes and has none of its own.
    notes : tuple of str
        What was unclear in the table, and how it was decided.
    rows : tuple of Row
        In the order of the table.
    """

    program: str
    title: str
    source: str
    archival: bool
    notes: tuple[str, ...]
    rows: tuple[Row, ...]


def list_recipes() -> tuple[str, ...]:
    """List the programmes that recipes come with the package for: ("1539", ...)."""
    folder = files(__package__) / "recipes"
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted((n.removesuffix(".toml") for n in names if n.endswith(".toml")), key=int))


def find_recipe(program: str) -> Recipe | None:
    """Find the recipe of a programme, by its number; None where there is none."""
    if not program.isdecimal() or str(int(program)) not in list_recipes():
        return None
    return read_recipe(Path(str(files(__package__) / "recipes" / f"{int(program)}.toml")))


def read_program(text: str) -> tuple[Recipe | None, str]:
    """Read a programme as asked for: its number, or a recipe of the user's.

    Returns
    -------
    recipe : Recipe or None
        None where no recipe of this programme comes with the package.
    program : str
        Five digits.

    Raises
    ------
    InputError
        It is neither a number nor a .toml file.
    RecipeError
        The file breaks a rule of the format.
    """
    if text.lower().endswith(".toml"):
        recipe = read_recipe(Path(text))
        return recipe, recipe.program
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) == 0:
        raise InputError(
            f"expected a programme such as 1539, or a recipe (.toml), found {text!r}; "
            f"recipes come with the package for {', '.join(list_recipes())}"
        )
    return find_recipe(text), text.zfill(5)


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Parameters
    ----------
    path : Path
        A TOML file as described in ``recipes/README.md``.

    Returns
    -------
    Recipe

    Raises
    ------
    RecipeError
        The file cannot be read, or breaks a rule of the format; the message names file and row.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"expected a recipe in TOML, found {path}: {error}; see {_README}"
        ) from error
    _check_keys(content, _TOP, ("program", "title", "row"), str(path))
    archival = content.get("archival", False)
    rows = tuple(
        _read_row(entry, archival, f"row {number} of {path}")
        for number, entry in enumerate(content["row"], start=1)
    )
    number = content["program"]
    if not 0 < number <= _LAST_PROGRAM or not rows:
        wanted = f"a programme number from 1 to {_LAST_PROGRAM} and at least one row"
        raise _refuse(wanted, f"program = {number} and {len(rows)} rows", str(path))
    numbers = [number for row in rows for number in row.observations]
    twice = sorted({number for number in numbers if numbers.count(number) > 1})
    if twice:
        raise _refuse("each observation in one row", f"{twice} in two", str(path))
    return Recipe(
        program=f"{number:05d}",
        title=content["title"],
        source=content.get("source", ""),
        archival=archival,
        notes=_texts(content.get("notes", []), "notes", str(path)),
        rows=rows,
    )


def _read_row(entry: Any, archival: bool, where: str) -> Row:
    """Check one row."""
    if not isinstance(entry, Mapping):
        raise _refuse("[[row]] tables", repr(entry), where)
    _check_keys(entry, _ROW, ("label", "template", "target", "mode", "step", "role"), where)
    mode, step = entry["mode"], entry["step"]
    if mode not in _MODES:
        raise _refuse(f"mode to be one of {', '.join(_MODES)}", repr(mode), where)
    if step not in (*STEPS, "none"):
        raise _refuse(f"step to be one of {', '.join(STEPS)} or none", repr(step), where)
    if (step == "none") != bool(entry.get("reason")):
        raise _refuse("a reason with step = none, and only there", f"step = {step}", where)
    roles = (
        (entry["role"],) if isinstance(entry["role"], str) else _texts(entry["role"], "role", where)
    )
    allowed = ROLES if archival else ("science", "background")
    if not roles or not set(roles) <= set(allowed) or (len(roles) > 1 and not archival):
        raise _refuse(f"role to be one of {', '.join(allowed)}", ", ".join(roles), where)
    if not archival and ("background" in roles) != bool(entry.get("background_of")):
        raise _refuse("background_of with role = background, and only there", str(roles), where)
    count = entry.get("count", 0 if archival else 1)
    observations = entry.get("observations", [])
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in observations)
    if count < (0 if archival else 1) or not whole or len(observations) not in (0, count):
        raise _refuse(
            "count above 0 and as many observations or none", f"{count} and {observations}", where
        )
    return Row(
        label=entry["label"],
        template=entry["template"],
        target=entry["target"],
        count=count,
        observations=tuple(observations),
        mode=mode,
        exp_types=_texts(entry.get("exp_types", []), "exp_types", where) or _MODES[mode].exp_types,
        step=step,
        reason=entry.get("reason", ""),
        roles=roles,
        background_of=entry.get("background_of", ""),
        match=_read_match(entry.get("match", {}), where),
        doubts=_texts(entry.get("doubts", []), "doubts", where),
    )


def _read_match(entry: Mapping[str, Any], where: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    unknown = sorted(set(entry) - set(CARDS))
    if unknown:
        known = ", ".join(f.name for f in fields(Observation) if f.name in CARDS)
        raise _refuse(f"match to name fields out of {known}", ", ".join(unknown), where)
    return tuple(
        (name, _texts([value] if isinstance(value, str) else value, f"match.{name}", where))
        for name, value in entry.items()
    )


def _check_keys(
    entry: Mapping[str, Any], known: Mapping[str, Any], needed: Sequence[str], where: str
) -> None:
    """Check that all keys are known, the needed ones there, and their values of the right type."""
    unknown, absent = sorted(set(entry) - set(known)), sorted(set(needed) - set(entry))
    if unknown or absent:
        found = [f"unknown {key}" for key in unknown] + [f"no {key}" for key in absent]
        raise _refuse(f"keys out of {', '.join(known)}", ", ".join(found), where)
    for key, value in entry.items():
        wrong = not isinstance(value, known[key])
        if wrong or (known[key] is int and isinstance(value, bool)):
            kinds = known[key] if isinstance(known[key], tuple) else (known[key],)
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            raise _refuse(f"{key} to be {wanted}", repr(value), where)


def _texts(values: Any, key: str, where: str) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise _refuse(f"{key} to be a list of texts", repr(values), where)
    return tuple(values)


def _refuse(expected: str, found: str, where: str) -> RecipeError:
    return RecipeError(f"expected {expected} in {where}, found {found}; see {_README}")


def match_row(
    recipe: Recipe, observation: Observation, role: Role
) -> tuple[Row | None, tuple[str, ...]]:
    """Find the row of a recipe that an exposure belongs to.

    Parameters
    ----------
    recipe : Recipe
        Of the exposure's programme, or an archival one.
    observation : Observation
        From `scan_headers`.
    role : Role
        What `classify` made of it.

    Returns
    -------
    row : Row or None
        None where no row fits, or several that make different things of it.
    doubts : tuple of str
        What in the header differs from the row, or why there is none.
    """
    exp_type = (observation.exp_type or "").upper()
    rows = [row for row in recipe.rows if exp_type in row.exp_types]
    if recipe.archival:
        rows = [row for row in rows if role.name in row.roles]
        return (rows[0] if rows else None), ()
    number = observation.observation or ""
    numbered = [row for row in rows if number.isdecimal() and int(number) in row.observations]
    if numbered:
        return numbered[0], tuple(_list_differences(numbered[0], observation))
    fitting = [row for row in rows if not any(_list_differences(row, observation))]
    doubts: list[str] = []
    if number.isdecimal() and any(row.observations for row in fitting):
        doubts.append(f"observation {number} is not in the table")
    if len(fitting) > 1:
        fitting = [
            row
            for row in fitting
            if _count_texts(row, observation) == max(_count_texts(r, observation) for r in fitting)
        ]
    if not fitting:
        return None, (f"fits no row of recipe {int(recipe.program)}",)
    if len({(normalise(row.target), row.roles, row.step) for row in fitting}) > 1:
        names = ", ".join(f"{row.label!r} ({row.target})" for row in fitting)
        return None, (f"fits several rows of recipe {int(recipe.program)}: {names}",)
    return fitting[0], tuple(doubts)


def _count_texts(row: Row, observation: Observation) -> int:
    """Count how many of label and template the header repeats."""
    pairs = ((row.label, observation.label), (row.template, observation.template))
    return sum(normalise(text) == normalise(found) for text, found in pairs if found)


def _list_differences(row: Row, observation: Observation) -> list[str]:
    """List in words what of target and `match` the header contradicts."""
    found = observation.target
    differences = []
    if found and normalise(found) != normalise(row.target):
        differences.append(f"TARGPROP is {found}, the row's target {row.target}")
    for name, patterns in row.match:
        value = getattr(observation, name)
        if value is not None and not any(
            fnmatchcase(str(value).upper(), pattern.upper()) for pattern in patterns
        ):
            differences.append(f"{CARDS[name]} is {value}, the row's {'|'.join(patterns)}")
    return differences
