"""``tvbadpix update``: exposures added to a history."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, report_planned

__all__ = ["add_command"]

_EPILOG = """\
Settings, base mask, events and calibration (noise tables, neighbour exclusions, threshold) are
those of the history, so that the result does not depend on the order in which exposures came.
A corrected version of an exposure replaces it.

Without --store the evidence is made again for this run: give all exposures.

examples:
  strun time_variable_bad_pixel lrs_asn.json --store=evidence --output_dir=masks
  tvbadpix update masks/lrs_MIRIMAGE_badpixhistory.asdf new_rate.fits --store evidence \\
      --output-dir masks
  tvbadpix update HISTORY *_rate.fits --recalibrate --output-dir masks
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
        "files", nargs="+", metavar="FILES", help="exposures that are new, or new versions"
    )
    update.add_argument("--store", type=Path, metavar="DIR", help="store of the history")
    update.add_argument(
        "--recalibrate",
        action="store_true",
        help="measure the calibration anew; needs all exposures of the history",
    )
    add_output_dir(update)
    update.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import InputError

    if not options.history.is_file():
        raise InputError(f"expected a history, found no file {options.history}; check the path")
    if options.dry_run:
        report_planned([f"{options.output_dir}/{options.history.name}"])
        print(f"update: nothing written, {len(options.files)} files would be added")
        return 0
    from ..steps._update import UpdateBadPixels

    history, *masks = UpdateBadPixels.call(
        list(options.files),
        history=str(options.history),
        store=str(options.store or ""),
        recalibrate=options.recalibrate,
        output_dir=str(options.output_dir),
        configure_log=False,
        save_results=True,
    )
    for model in (history, *masks):
        print(options.output_dir / model.meta.filename)
    intervals = history.intervals.instance
    last = ((intervals["end_mjd"] == float("inf")) & intervals["dnu"]).sum()
    print(
        f"update: {len(history.exposures.instance['filename'])} exposures, {len(masks)} masks, "
        f"{last} pixels bad at the last"
    )
    return 0
