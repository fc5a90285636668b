"""``tvbadpix simulate``: simulated exposures."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import read_natural

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    simulate = commands.add_parser(
        "simulate", help="write simulated rate files, their association and the truth"
    )
    simulate.add_argument("output_dir", type=Path, metavar="DIR", help="where to write")
    simulate.add_argument(
        "--mode",
        choices=("slit", "slitless", "imaging", "mrs", "nirspec", "nircam"),
        default="slit",
        help="MIRI LRS through the slit or slitless, MIRI imaging or MRS, NIRSpec, NIRCam "
        "(default: %(default)s)",
    )
    simulate.add_argument(
        "--detector", metavar="NAME", help="where the mode has several (default: its first)"
    )
    simulate.add_argument(
        "--exposures", type=int, default=12, metavar="N", help="how many (default: %(default)s)"
    )
    simulate.add_argument("--seed", type=read_natural, default=7831, help="default: %(default)s")
    simulate.add_argument(
        "--ramp-date",
        action="append",
        default=[],
        metavar="DATE",
        help="also write an _uncal ramp of this date; may be repeated",
    )
    simulate.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..simulate import simulate_programme
    from ..steps._base import show_progress

    programme = simulate_programme(
        options.output_dir,
        mode=options.mode,
        detector=options.detector,
        n_exposures=options.exposures,
        seed=options.seed,
        ramp_dates=options.ramp_date,
        progress=show_progress("Simulating"),
    )
    print(
        f"{len(programme.rates)} rates and {len(programme.ramps)} ramps; truth: {programme.truth}"
    )
    print(programme.association)
    return 0
