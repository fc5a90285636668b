"""``tvbadpix demo``: the demonstration."""

import argparse
import warnings
from pathlib import Path
from typing import Any

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    demo = commands.add_parser(
        "demo", help="simulate, build dated masks, see calwebb_detector1 pick them (about a minute)"
    )
    demo.add_argument(
        "--output-dir",
        type=Path,
        default=Path("tvbadpix_demo"),
        metavar="DIR",
        help="where everything is written, about 0.6 GB (default: %(default)s)",
    )
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..demo import run_demo

    warnings.simplefilter("ignore")
    result = run_demo(options.output_dir, say=lambda text: print(f"* {text}", flush=True))
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
