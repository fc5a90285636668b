"""``tvbadpix neutral-mask``: a mask that hides nothing."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, write_mask

__all__ = ["add_command"]

_EPILOG = """\
examples:
  tvbadpix neutral-mask --base-mask jwst_miri_mask_0067.fits
  tvbadpix neutral-mask --detector NRS1 --readpatt NRSIRS2
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    neutral = commands.add_parser(
        "neutral-mask",
        help="write the mask with which calwebb_detector1 fits every pixel",
        description="Write a mask of reference and non-science pixels only. Exposures that are "
        "reprocessed with it (calwebb_detector1 --steps.dq_init.override_mask=FILE) show the "
        "pixels that the standard mask hides, so that they can be seen to recover.",
        epilog=_EPILOG,
    )
    neutral.add_argument(
        "--detector", default="MIRIMAGE", metavar="NAME", help="DETECTOR (default: %(default)s)"
    )
    neutral.add_argument(
        "--base-mask",
        type=Path,
        metavar="FILE",
        help="mask whose REFERENCE_PIXEL and NON_SCIENCE pixels are kept (default: the reference "
        "pixels that the package knows)",
    )
    neutral.add_argument(
        "--readpatt",
        metavar="PATTERN",
        help="READPATT of the exposures; NRSIRS2 or NRSIRS2RAPID: with the interleaved reference "
        "pixels of their ramps (default: any other)",
    )
    add_output_dir(neutral)
    neutral.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import DetectorError
    from ..refmodels import build_neutral_mask, read_mask_dq

    base = None
    if options.base_mask:
        base, own = read_mask_dq(options.base_mask)
        if own != options.detector:
            raise DetectorError(
                f"expected a base mask of {options.detector}, found one of {own}; give --detector "
                f"{own} or another mask"
            )
    mask = build_neutral_mask(options.detector, base_dq=base, readpatt=options.readpatt)
    parts = ["neutral", options.detector, options.readpatt, "mask"]
    stem = options.output_dir / "_".join(filter(None, parts))
    return write_mask(mask, stem, dry_run=options.dry_run)
