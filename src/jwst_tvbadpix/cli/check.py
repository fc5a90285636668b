"""``tvbadpix check``: the defects within the extraction of an exposure."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._shared import add_dry_run, write_table

if TYPE_CHECKING:
    from ..check import ExposureCheck

__all__ = ["add_command"]

_EPILOG = """\
The aperture is, in this order: that given; the window that an _x1d made from detector pixels
names; pixels near the target of an integral-field unit (WCS); so many pixels on either side of
the target (WCS), or of the trace that is seen (5 for the LRS, 3 for others, or half the width
that the _x1d names); the whole field. The first lines of the output say which. The exit
status is 0, affected or not. The last line is the summary.

examples:
  tvbadpix check x_rate.fits --history masks/lrs_MIRIMAGE_badpixhistory.asdf
  tvbadpix check x_rate.fits --aperture 30 45 5 395 --output found.ecsv \\
      --history masks/lrs_MIRIMAGE_badpixhistory.asdf
"""

_SHOWN = (
    "y",
    "x",
    "slit",
    "wavelength",
    "class",
    "state",
    "log_odds",
    "since",
    "until",
    "spike_percent",
    "spike_err",
    "seen_percent",
    "gap_percent",
    "flagged",
    "mask",
)


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    check = commands.add_parser(
        "check",
        help="list the defects in the extraction of an exposure",
        description="Is my spectrum affected? The bad pixels within the extraction of an exposure "
        "at its date, with the spike that each is expected to make.",
        epilog=_EPILOG,
    )
    check.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="_rate, _rateints, _cal, _calints, _x1d or _x1dints of one exposure, or a level-2 "
        "image of Roman (_cal.asdf)",
    )
    check.add_argument(
        "--history",
        type=Path,
        required=True,
        metavar="HISTORY",
        help="the *_badpixhistory.asdf file of its detector",
    )
    check.add_argument(
        "--aperture",
        nargs="+",
        metavar="EDGE",
        help="X0 X1 Y0 Y1: first and last column, first and last row (pixels, 0-based, of the "
        "exposure's image), or all; give FILE first (default: found as said below)",
    )
    check.add_argument(
        "--image",
        type=Path,
        metavar="FILE2D",
        help="the 2-D product of an _x1d (default: the one beside it)",
    )
    check.add_argument(
        "--mask",
        type=Path,
        metavar="MASK",
        help="the file that R_MASK names, to show its flags (default: they are not shown)",
    )
    check.add_argument(
        "--output",
        type=Path,
        metavar="FILE.ecsv",
        help="write the whole table as ECSV (default: it is printed alone)",
    )
    add_dry_run(check)
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..check import check_exposure
    from ..refmodels import read_history

    found = check_exposure(
        options.file,
        read_history(options.history),
        aperture=_read_aperture(options.aperture),
        image=options.image,
        mask=options.mask,
    )
    if options.output:
        write_table(found.table, options.output, dry_run=options.dry_run)
    _print(found)
    return 0


def _read_aperture(words: list[str] | None) -> list[int] | str | None:
    from ..errors import InputError

    if words is None:
        return None
    if words == ["all"]:
        return "all"
    if len(words) == 4 and all(word.isdecimal() for word in words):
        return [int(word) for word in words]
    raise InputError(
        f"expected --aperture X0 X1 Y0 Y1 (whole numbers, 0-based) or all, found "
        f"{' '.join(words)}; rewrite it"
    )


def _print(found: "ExposureCheck") -> None:
    import numpy as np

    meta = found.table.meta
    print(f"exposure: {meta['exposure']} of {meta['date']}, R_MASK {meta['r_mask']}")
    for text in found.apertures:
        print(f"aperture: {text}")
    for text in found.notes:
        print(f"note: {text}")
    if len(found.table):
        shown = [name for name in _SHOWN if name != "slit" or any(found.table["slit"])]
        shown = [name for name in shown if name != "mask" or any(found.table["mask"])]
        table = found.table[shown]
        for name in shown:
            if table[name].dtype.kind == "f":
                table[name].format = ".3f" if name == "wavelength" else ".3g"
        print("\n".join(table.pformat(max_lines=-1, max_width=-1, show_unit=True)))
        if np.isfinite(table["gap_percent"]).any():
            print(
                "note: masking leaves a gap (gap_percent): run calwebb_spec2 with "
                "--steps.pixel_replace.skip=False --steps.pixel_replace.algorithm=fit_profile"
            )
    print(f"check: {found.verdict}")
