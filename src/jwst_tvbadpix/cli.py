"""``tvbadpix``: the commands beside the steps."""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__
from .errors import TvBadPixError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 1 with a message on stderr when it fails.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when absent.
    """
    options = _build_parser().parse_args(argv)
    try:
        return int(options.run(options))
    except (TvBadPixError, OSError) as error:
        print(f"tvbadpix {options.command}: error: {error}", file=sys.stderr)
        return 1


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tvbadpix",
        description="Time-variable bad-pixel masks for JWST: the commands beside "
        "`strun time_variable_bad_pixel`.",
    )
    parser.add_argument("--version", action="version", version=f"jwst_tvbadpix {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_demo, _add_simulate, _add_mask_at, _add_neutral_mask):
        add(commands)
    return parser


def _add_demo(commands: Any) -> None:
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
    demo.set_defaults(run=_demo)


def _add_simulate(commands: Any) -> None:
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
    simulate.add_argument("--seed", type=_natural, default=7831, help="default: %(default)s")
    simulate.add_argument(
        "--ramp-date",
        action="append",
        default=[],
        metavar="DATE",
        help="also write an _uncal ramp of this date; may be repeated",
    )
    simulate.set_defaults(run=_simulate)


def _natural(text: str) -> int:
    """Read a whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text!r}")
    return int(text)


def _add_mask_at(commands: Any) -> None:
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
    _add_output_dir(at)
    at.set_defaults(run=_mask_at)


def _add_neutral_mask(commands: Any) -> None:
    neutral = commands.add_parser(
        "neutral-mask",
        help="write the mask with which calwebb_detector1 fits every pixel",
        description="Write a mask of reference and non-science pixels only. Exposures that are "
        "reprocessed with it (calwebb_detector1 --steps.dq_init.override_mask=FILE) show the "
        "pixels that the standard mask hides, so that they can be seen to recover.",
    )
    neutral.add_argument("--detector", default="MIRIMAGE", help="default: %(default)s")
    neutral.add_argument(
        "--base-mask",
        type=Path,
        metavar="FILE",
        help="mask whose REFERENCE_PIXEL and NON_SCIENCE pixels are kept",
    )
    neutral.add_argument(
        "--readpatt",
        metavar="PATTERN",
        help="READPATT of the exposures; NRSIRS2 or NRSIRS2RAPID: with the interleaved reference "
        "pixels of their ramps",
    )
    _add_output_dir(neutral)
    neutral.set_defaults(run=_neutral_mask)


def _add_output_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to write (default: here)",
    )


def _demo(options: argparse.Namespace) -> int:
    from .demo import run_demo

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
    print(f"\nFiles: {result.folder}\nPicture: {result.picture}")
    print(f"demo: {'PASS' if good else 'FAIL'}")
    return 0 if good else 1


def _simulate(options: argparse.Namespace) -> int:
    from .simulate import simulate_programme
    from .steps._base import show_progress

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


def _mask_at(options: argparse.Namespace) -> int:
    from .refmodels import build_mask_at, read_history, write_twins

    history = read_history(options.history)
    date, detector, readpatt, ngroups = options.date, None, options.readpatt, None
    if options.exposure:
        from .headers import read_readout, read_start

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
    return _report(write_twins(mask, options.output_dir / Path(mask.meta.filename).stem))


def _neutral_mask(options: argparse.Namespace) -> int:
    from .errors import DetectorError
    from .refmodels import build_neutral_mask, read_mask_dq, write_twins

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
    options.output_dir.mkdir(parents=True, exist_ok=True)
    return _report(write_twins(mask, options.output_dir / "_".join(filter(None, parts))))


def _report(paths: Sequence[Path]) -> int:
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
