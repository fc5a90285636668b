"""``tvbadpix associate``: the associations that the steps take."""

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._shared import add_output_dir, report_paths, report_planned

if TYPE_CHECKING:
    from ..programmes.associate import Plan
    from ..programmes.recipes import Recipe

__all__ = ["add_command"]

_EPILOG = """\
The exit status is 1 where there is no association. The last line is the summary.

examples:
  tvbadpix associate field --dry-run
  tvbadpix associate --program 7487 --dry-run
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    associate = commands.add_parser(
        "associate",
        help="write the associations that the steps take, from the headers of exposures",
        description="Read the headers of exposures (any stage), tell science, background, blank "
        "sky, failed pointings and darks apart, and write the associations that "
        "time_variable_bad_pixel (one per detector), external_flat_builder and abs_flux_ratio "
        "(one per detector, mode, filter or grating, subarray, target and epoch; a new epoch "
        "begins after 30 d and 3 d without exposure) take. Files that "
        "fit no step are listed with the reason. Images of Roman serve masks (one association per "
        "detector) and flats (per detector and optical element), apart from those of "
        "JWST. An association of the same name is replaced. Recipes come with the package for "
        "programmes 1539, 4487, 4497, 7487 and 7831; other programmes are sorted by their headers "
        "alone.",
        epilog=_EPILOG,
    )
    associate.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="FITS files of JWST, ASDF files of Roman, or folders of them",
    )
    associate.add_argument(
        "--program",
        metavar="PID",
        help="use only exposures of this programme (7831 takes blank-sky, failed and dark "
        "exposures of any), and list what its recipe lacks; or a recipe of your own (.toml). "
        "With --dry-run and without files: print the recipe (default: any programme, by the "
        "recipes that come with the package)",
    )
    add_output_dir(associate)
    associate.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..programmes.associate import plan_associations
    from ..programmes.associations import write_associations
    from ..programmes.recipes import find_recipe, list_recipes, read_program
    from ..programmes.scan import list_exposures, scan_headers
    from ..steps._base import show_progress

    asked, program = read_program(options.program) if options.program else (None, None)
    if not options.files:
        if asked is None or not options.dry_run:
            found = f"no recipe of {program}" if program and asked is None else "none"
            raise InputError(
                f"expected FITS files or folders, found {found}; give files, or --dry-run and "
                f"--program with one of {', '.join(list_recipes())} to see its recipe"
            )
        return _print_recipe(asked)
    show = show_progress("Reading headers", unit="file")
    observations = scan_headers(list_exposures(options.files), progress=show)
    recipes = [asked] if asked else []
    if program is None:
        programs = sorted({o.program for o in observations if o.program and o.telescope == "JWST"})
        shipped = [recipe for recipe in map(find_recipe, programs) if recipe is not None]
        recipes = [recipe for recipe in shipped if not recipe.archival]
    plan = plan_associations(observations, recipes=recipes, program=program)
    if options.dry_run:
        _print_table(plan, options.output_dir)
    else:
        report_paths(write_associations(plan.associations, options.output_dir))
    _print_rest(plan, all_rows=program is not None)
    if program and asked is None:
        print(f"\nNo recipe of programme {int(program)} is known: headers alone decided")
    lost = sum(left.lost for left in plan.leftovers)
    print(
        f"associate: {len(plan.associations)} associations of {len(observations)} files; "
        f"{lost} files fit no step"
    )
    return 0 if plan.associations else 1


def _print_recipe(recipe: "Recipe") -> int:
    """Print the rows of a recipe."""
    print(f"Programme {int(recipe.program)}: {recipe.title}")
    for row in recipe.rows:
        what = f"{row.label} | {row.target}" if row.label else "any programme"
        number = f" x{row.count}" if row.count > 1 else ""
        seen = f" (observation {', '.join(map(str, row.observations))})" if row.observations else ""
        of = f" of {row.background_of}" if row.background_of else ""
        also = ", time_variable_bad_pixel" if of else ""
        print(f"  {what}{number}{seen}: {row.mode}, {', '.join(row.roles)}{of} -> {row.step}{also}")
        for text in (row.reason, *row.doubts):
            if text:
                print(f"      ? {text}")
    for note in recipe.notes:
        print(f"  * {note}")
    total = sum(row.count for row in recipe.rows)
    kind = f"{total} rows" if total else f"{len(recipe.rows)} modes of any programme, no rows"
    none = sum(row.count for row in recipe.rows if row.step == "none")
    print(f"associate: recipe {int(recipe.program)}: {kind}; {none} without a step")
    return 0


def _print_table(plan: "Plan", folder: Path) -> None:
    """Print what would be written."""
    for association in plan.associations:
        roles = Counter(member.role.name for member in association.members)
        said = ", ".join(f"{n} {role}" for role, n in sorted(roles.items()))
        report_planned([folder / association.filename])
        print(f"  {association.step}: {len(association.members)} _{association.stage} ({said})")
        if not association.ready:
            print("  ? must be reprocessed before the step takes it")
        for doubt in association.doubts:
            print(f"  ? {doubt}")
        reasons = Counter((m.role.name, m.role.reason) for m in association.members)
        for (role, reason), n in sorted(reasons.items()):
            print(f"  {role}: {reason} ({n})")


def _print_rest(plan: "Plan", *, all_rows: bool) -> None:
    """Print what is left over, and what recipe and files do not share."""
    reasons: dict[str, dict[tuple[Path, str], list[Path]]] = {}
    spare: Counter[str] = Counter()
    for left in plan.leftovers:
        one = left.observation
        if not left.lost:
            spare[left.reason] += 1
        else:
            exposures = reasons.setdefault(left.reason, {})
            exposures.setdefault((one.path.parent, one.exposure_id), []).append(one.path)
    if reasons:
        print("\nIn no association:")
    for reason, exposures in sorted(reasons.items()):
        print(f"  {reason}:")
        for first, *others in exposures.values():
            endings = ", ".join("_" + path.name.rpartition("_")[2] for path in others)
            print(f"    {first}" + (f" (and {endings})" if others else ""))
    if spare:
        print("\nNot needed:")
    for reason, n in sorted(spare.items()):
        print(f"  {n}: {reason}")
    if plan.without_row:
        print("\nIn no row of the recipe, sorted by header alone:")
    for observation in plan.without_row:
        print(f"  {observation.path}")
    if all_rows and plan.rows:
        print("\nRows of the recipe, observations at hand of those in the table:")
        for _, row, found in plan.rows:
            print(
                f"  {found} of {row.count or 'any'}: {row.label or row.mode} {row.target}".rstrip()
            )
    empty = Counter(int(recipe.program) for recipe, _, found in plan.rows if not found)
    for program, n in sorted(empty.items()):
        hint = "" if all_rows else f" (--program {program} lists them)"
        print(f"\n{n} rows of recipe {program} have no exposure{hint}")
