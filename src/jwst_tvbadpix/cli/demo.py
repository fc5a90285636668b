"""``tvbadpix demo``: the demonstration."""

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

from ._shared import add_dry_run, check_space, report_planned

__all__ = ["add_command"]

log = logging.getLogger(__name__)

_SIZE_GB = 0.6

_EPILOG = """\
The last line is the verdict: PASS if calwebb_detector1 picked the right mask for each date, and
used all of it.

examples:
  tvbadpix demo
  tvbadpix demo --output-dir demo
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo",
        help="simulate, build dated masks, see calwebb_detector1 pick them (about a minute)",
        description="Simulate MIRI LRS exposures over four years, build the dated masks through "
        "time_variable_bad_pixel, put them into a local CRDS context, run the unmodified "
        "calwebb_detector1 on ramps of three dates, compare with the truth and draw a picture.",
        epilog=_EPILOG,
    )
    demo.add_argument(
        "--output-dir",
        type=Path,
        default=Path("tvbadpix_demo"),
        metavar="DIR",
        help=f"where everything is written, about {_SIZE_GB} GB (default: %(default)s)",
    )
    add_dry_run(demo)
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    check_space(options.output_dir, _SIZE_GB)
    if options.dry_run:
        report_planned([f"{options.output_dir}/"])
        print(f"demo: nothing written, about {_SIZE_GB} GB fit")
        return 0
    from ..demo import run_demo

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = run_demo(options.output_dir, say=log.info)
    print(
        f"\n{result.n_masks} dated masks from {result.n_exposures} exposures; bad pixel-exposures: "
        f"precision {result.precision:.3f}, recall {result.recall:.3f}"
    )
    for kind, recall in result.recall_by_kind.items():
        print(f"  recall {kind:12s} {recall:.3f}")
    print("\nWhat calwebb_detector1 picked by date (R_MASK), and found in PIXELDQ:")
    for ramp in result.picked:
        print(
            f"  {ramp.date} {ramp.subarray:13s} {ramp.found} "
            f"{'as it should' if ramp.right else 'WRONG, expected ' + ramp.expected}; "
            f"{ramp.n_pixeldq} of {ramp.n_mask} bad pixels flagged"
        )
    good = all(ramp.right for ramp in result.picked)
    print(f"\nFiles: {result.folder}\nPicture: {result.picture}\nPage: {result.page}")
    print(f"demo: {'PASS' if good else 'FAIL'}")
    return 0 if good else 1
