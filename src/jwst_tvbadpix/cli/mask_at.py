"""``tvbadpix mask-at``: the mask of a date."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, write_mask

__all__ = ["add_command"]

_EPILOG = """\
The mask is applied by:
  strun calwebb_detector1 x_uncal.fits --steps.dq_init.override_mask=MASK.asdf

examples:
  tvbadpix mask-at masks/lrs_MIRIMAGE_badpixhistory.asdf --date 2025-03-06
  tvbadpix mask-at masks/lrs_MIRIMAGE_badpixhistory.asdf --exposure x_rate.fits
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    at = commands.add_parser(
        "mask-at",
        help="write the mask of a date from a history",
        description="Write the mask that holds at a date, as ASDF and FITS (of Roman as ASDF "
        "alone), from the history that time_variable_bad_pixel made. Its name ends in its "
        "USEAFTER.",
        epilog=_EPILOG,
    )
    at.add_argument("history", type=Path, metavar="HISTORY", help="a *_badpixhistory.asdf file")
    when = at.add_mutually_exclusive_group(required=True)
    when.add_argument("--date", metavar="DATE", help="YYYY-MM-DD or YYYY-MM-DDThh:mm:ss (UTC)")
    when.add_argument(
        "--exposure",
        type=Path,
        metavar="FILE",
        help="take date, detector and readout from this file of JWST (FITS) or Roman (ASDF)",
    )
    at.add_argument(
        "--depth",
        choices=("SHALLOW", "MEDIUM", "DEEP"),
        help="depth class of the exposure, for a history made with depth=auto (default: by "
        "the groups of --exposure)",
    )
    at.add_argument(
        "--readpatt",
        metavar="PATTERN",
        help="READPATT of the exposure, where there is more than one series of masks "
        "(default: that of --exposure)",
    )
    add_output_dir(at)
    at.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..refmodels import build_mask_at, read_history

    history = read_history(options.history)
    date, detector, readpatt, ngroups = options.date, None, options.readpatt, None
    if options.exposure:
        if options.exposure.suffix == ".asdf":
            from ..roman import read_start as read_roman_start

            date, detector = read_roman_start(options.exposure)
        else:
            from ..headers import read_readout, read_start

            date, detector = read_start(options.exposure)
            found, ngroups = read_readout(options.exposure)
            readpatt = readpatt or found
    ending = f"_{history.meta.instrument.detector}_badpixhistory"
    mask = build_mask_at(
        history,
        date,
        detector=detector,
        depth=options.depth,
        readpatt=readpatt,
        ngroups=None if options.depth else ngroups,
        name=options.history.stem.removesuffix(ending),
    )
    stem = options.output_dir / Path(mask.meta.filename).stem
    return write_mask(mask, stem, dry_run=options.dry_run)
