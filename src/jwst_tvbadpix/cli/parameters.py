"""``tvbadpix parameters``: the shipped parameter files."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, report_paths, report_planned

__all__ = ["add_command"]

_EPILOG = """\
A file of the same name that is not such a copy, or was edited, is not replaced.

examples:
  tvbadpix parameters
  tvbadpix parameters spec2_lrs_slit --output-dir pars
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parameters = commands.add_parser(
        "parameters",
        help="list the shipped parameter files, or copy some of them",
        description="List the parameter files (.asdf) for the standard stages and for our steps; "
        "with names, copy these. A copy runs with strun FILE.asdf EXPOSURE, its name or the file "
        "with tvbadpix reprocess.",
        epilog=_EPILOG,
    )
    parameters.add_argument(
        "names", nargs="*", metavar="NAME", help="files to copy (default: list them)"
    )
    parameters.add_argument(
        "--mask",
        type=Path,
        metavar="FILE",
        help="mask that the copy of detector1_neutral names (default: the file that "
        "tvbadpix neutral-mask writes)",
    )
    add_output_dir(parameters)
    parameters.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..parameters import TABLE, copy_parameters, find_shipped

    if not options.names:
        if options.mask:
            raise InputError(f"expected names to copy with --mask {options.mask}, found none")
        width = max(map(len, TABLE))
        for name, entry in TABLE.items():
            print(f"{name:{width}}  {entry.class_name.rpartition('.')[2]}: {entry.purpose}")
        return 0
    for name in options.names:  # all or none
        find_shipped(name)
    folder, mask, dry_run = options.output_dir, options.mask, options.dry_run
    paths = [
        copy_parameters(name, folder, mask=mask, dry_run=dry_run)
        for name in dict.fromkeys(options.names)
    ]
    return report_planned(paths) if dry_run else report_paths(paths)
