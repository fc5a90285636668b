"""``tvbadpix``: the commands beside the steps, one file each."""

import argparse
import atexit
import gc
import os
import sys
import traceback
from collections.abc import Sequence

from .. import __version__
from ..atomic import find_creation_time
from ..dates import allow_far_dates
from ..errors import TvBadPixError
from . import (
    associate,
    check,
    completion,
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
    update,
)
from ._shared import HelpFormatter, above_bars, add_common, log_to_stderr

__all__ = ["build_parser", "main"]

# In the order of --help.
_COMMANDS = (
    demo,
    simulate,
    download,
    find,
    associate,
    parameters,
    reprocess,
    update,
    mask_at,
    neutral_mask,
    check,
    report,
    deliver,
    context,
    prove,
    completion,
)

_EPILOG = """\
examples:
  tvbadpix demo
  tvbadpix mask-at masks/lrs_MIRIMAGE_badpixhistory.asdf --date 2025-03-06

Results go to stdout, messages and progress to stderr. Where a command has a verdict it is the last
line of stdout. Common options may stand before or after COMMAND.

files:
  A file of the same name is replaced, once the new one is complete; --dry-run
  tells beforehand. What reprocess and deliver have not made themselves, and a
  parameter file that was edited, is never replaced: the command fails. download
  keeps what is complete.

exit status:
  0    done; where there is a verdict, it holds
  1    failed, nothing was found, or the verdict is FAIL
  2    the command line is wrong
  70   a defect of this package; --debug shows where
  130  interrupted (Ctrl-C)
  141  whoever read the output has closed it (| head)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when absent.

    Returns
    -------
    int
        The exit status, as ``tvbadpix --help`` lists them.

    Raises
    ------
    SystemExit
        By argparse: 2 when the arguments are wrong, 0 after ``--help`` or ``--version``.
    """
    # Or Python looks for garbage, a second long, in what ends with the process.
    atexit.register(gc.freeze)
    try:
        try:
            options = build_parser().parse_args(argv)
            with log_to_stderr(options.log_level):
                return _run(options)
        finally:
            if sys.stdout is not None:  # closed by the caller: >&-
                sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and must not fail of it then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(options: argparse.Namespace) -> int:
    """Run a command; say what went wrong."""
    try:
        find_creation_time()  # numpy cannot be imported with a SOURCE_DATE_EPOCH that is no date
        with allow_far_dates():
            return int(options.run(options))
    except BrokenPipeError:
        raise
    except (TvBadPixError, OSError, MemoryError) as error:
        return _fail(options, f"error: {str(error) or 'not enough memory'}", 1)
    except KeyboardInterrupt:
        return _fail(options, "interrupted", 130)
    except (Exception, SystemExit) as error:  # no command leaves by SystemExit of its own
        text = f"defect: {type(error).__name__}: {error}\nThis is a defect of jwst_tvbadpix "
        text += f"{__version__}, not of your input. Please report it where you got the package\n"
        text += "from, with this command line and what it prints with --debug."
        return _fail(options, text, 70)


def _fail(options: argparse.Namespace, text: str, status: int) -> int:
    with above_bars():
        if options.debug:
            traceback.print_exc()
        print(f"tvbadpix {options.command}: {text}", file=sys.stderr)
    return status


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="tvbadpix",
        description="The commands beside the steps of jwst_tvbadpix (`strun "
        "time_variable_bad_pixel`, `external_flat_builder`, `abs_flux_ratio`): simulate and gather "
        "exposures, reprocess them, look at masks, deliver references, prove the effect.",
        epilog=_EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jwst_tvbadpix {__version__}")
    add_common(parser, log_level="INFO", debug=False)
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        metavar="COMMAND",
        title="commands (COMMAND --help says more)",
    )
    for command in _COMMANDS:
        command.add_command(commands)
    for each in commands.choices.values():
        each.formatter_class = HelpFormatter
        add_common(each)
    return parser
