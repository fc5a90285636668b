"""``tvbadpix context``: the environment that makes the pipeline use a local context."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import drop_crds_variables

__all__ = ["add_command"]

_EPILOG = """\
It writes no file. No variable of CRDS in the environment has any effect.

examples:
  eval "$(tvbadpix context delivery)"
  tvbadpix context delivery --shell csh
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    context = commands.add_parser(
        "context",
        help="print the environment that makes strun use a local CRDS context",
        description="Check that a local CRDS context is whole, and print the commands that make "
        'strun and crds use it: eval "$(tvbadpix context OUT)"',
        epilog=_EPILOG,
    )
    context.add_argument(
        "folder", type=Path, metavar="OUT", help="what `tvbadpix deliver` wrote, or a CRDS cache"
    )
    context.add_argument(
        "--shell",
        choices=("sh", "csh"),
        default="sh",
        help="sh for sh, bash, zsh; csh for csh, tcsh (default: %(default)s)",
    )
    context.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    with drop_crds_variables():
        from ..delivery import format_environment, resolve_context

        environment = resolve_context(options.folder)
    for line in format_environment(environment, options.shell):
        print(line)
    return 0
