"""``tvbadpix mask-at``: the mask of a date."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, report_paths

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    at = commands.add_parser("mask-at", help="write the mask of a date from a history")
    at.add_argument("history", type=Path, metavar="HISTORY", help="a *_badpixhistory.asdf file")
    when = at.add_mutually_exclusive_group(required=True)
    when.add_argument("--date", help="YYYY-MM-DD or YYYY-MM-DDThh:mm:ss (UTC)")
    when.add_argument(
        "--exposure",
        type=Path,
        metavar="FILE",
        help="take date, detector and readout from this JWST file",
    )
    at.add_argument(
        "--depth",
        choices=("SHALLOW", "MEDIUM", "DEEP"),
        help="depth class of the exposure, for a history made with depth=auto",
    )
    at.add_argument(
        "--readpatt",
        metavar="PATTERN",
        help="READPATT of the exposure, where there is more than one series of masks",
    )
    add_output_dir(at)
    at.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..refmodels import build_mask_at, read_history, write_twins

    history = read_history(options.history)
    date, detector, readpatt, ngroups = options.date, None, options.readpatt, None
    if options.exposure:
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
    options.output_dir.mkdir(parents=True, exist_ok=True)
    return report_paths(write_twins(mask, options.output_dir / Path(mask.meta.filename).stem))
