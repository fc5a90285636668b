"""``tvbadpix``: the commands beside the steps, one file each."""

import argparse
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import TvBadPixError
from . import (
    associate,
    check,
    context,
    deliver,
    demo,
    download,
    find,
    mask_at,
    neutral_mask,
    parameters,
    prove,
    report,
    reprocess,
    simulate,
)

__all__ = ["main"]

# In the order of --help.
_COMMANDS = (
    demo,
    simulate,
    download,
    find,
    associate,
    parameters,
    reprocess,
    mask_at,
    neutral_mask,
    check,
    report,
    deliver,
    context,
    prove,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 with a message on stderr when it fails, 130 on Ctrl-C.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when absent.
    """
    options = _build_parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (TvBadPixError, OSError) as error:
        print(f"tvbadpix {options.command}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"tvbadpix {options.command}: interrupted", file=sys.stderr)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tvbadpix",
        description="Time-variable bad-pixel masks for JWST: the commands beside "
        "`strun time_variable_bad_pixel`.",
    )
    parser.add_argument("--version", action="version", version=f"jwst_tvbadpix {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_command(commands)
    return parser
