"""``tvbadpix update``: exposures added to a history."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, report_planned

__all__ = ["add_command"]

_EPILOG = """\
Settings, base mask, events and calibration (noise tables, neighbour exclusions,
threshold) are those of the history, so that the result does not depend on the
order in which exposures came. A corrected version of an exposure replaces it.
A mask in DIR whose date and flags do not change stays as it is, also in what it
says of the exposures.
The last line is a summary.

examples:
  tvbadpix update masks/lrs_MIRIMAGE_badpixhistory.asdf x_rate.fits \\
      --store evidence --output-dir masks
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    update = commands.add_parser(
        "update",
        help="add exposures to a history, and make its masks again",
        description="Add exposures to a history that was made with a store, and make its masks "
        "again.",
        epilog=_EPILOG,
    )
    update.add_argument("history", type=Path, metavar="HISTORY", help="a *_badpixhistory.asdf file")
    update.add_argument(
        "files",
        nargs="+",
        metavar="FILES",
        help="exposures that are new, or new versions; without --store all of the history too",
    )
    update.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="store of the run that made the history (default: the evidence is made again)",
    )
    update.add_argument(
        "--recalibrate",
        action="store_true",
        help="measure the calibration anew; needs all exposures of the history",
    )
    update.add_argument(
        "--scheduler",
        default="threads",
        metavar="NAME",
        help="threads, processes, or tcp://HOST:PORT of a Dask scheduler, whose workers see the "
        "store and the files by the same paths (default: %(default)s)",
    )
    add_output_dir(update)
    update.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import InputError

    for file in options.files:
        if not Path(file).is_file():
            raise InputError(f"expected an exposure, found no file {file}; check the path")
    if options.dry_run:
        from ..refmodels import read_history

        read_history(options.history)
        report_planned([f"{options.output_dir}/"])
        print(f"update: nothing written, {len(options.files)} files would be added")
        return 0
    from ..steps._update import UpdateBadPixels

    products = UpdateBadPixels.call(
        list(options.files),
        history=str(options.history),
        store=str(options.store or ""),
        recalibrate=options.recalibrate,
        scheduler=options.scheduler,
        output_dir=str(options.output_dir),
        configure_log=False,
        save_results=True,
    )
    names = products.list_names()
    for name in names:
        print(options.output_dir / name)
    history = products[0]
    intervals = history.intervals.instance
    last = ((intervals["end_mjd"] == float("inf")) & intervals["dnu"]).sum()
    print(
        f"update: {len(history.exposures.instance['filename'])} exposures, {len(names) - 1} masks, "
        f"{last} pixels bad at the last"
    )
    return 0
