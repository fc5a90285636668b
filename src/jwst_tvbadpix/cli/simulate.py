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
        choices=("slit", "slitless", "imaging", "mrs", "nirspec", "nircam", "flats"),
        default="slit",
        help="MIRI LRS through the slit or slitless, MIRI imaging or MRS, NIRSpec, NIRCam; flats: "
        "a dense star field dithered over the MIRI imager (F770W), with the distortion reference "
        "(default: %(default)s)",
    )
    simulate.add_argument(
        "--detector", metavar="NAME", help="where the mode has several (default: its first)"
    )
    simulate.add_argument(
        "--exposures", type=int, metavar="N", help="how many (default: 12; of flats 16)"
    )
    simulate.add_argument(
        "--size",
        choices=("small", "full"),
        help="of flats: SUB256 or the full frame (default: small)",
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
    from ..errors import InputError

    if options.mode == "flats":
        if options.detector or options.ramp_date:
            raise InputError(
                "expected neither --detector nor --ramp-date with --mode flats, which is of "
                "MIRIMAGE rates; leave them out"
            )
        return _run_flats(options)
    if options.size:
        raise InputError(
            f"expected --size with --mode flats alone, found --mode {options.mode}; leave it out"
        )
    from ..simulate import simulate_programme
    from ..steps._base import show_progress

    programme = simulate_programme(
        options.output_dir,
        mode=options.mode,
        detector=options.detector,
        n_exposures=12 if options.exposures is None else options.exposures,
        seed=options.seed,
        ramp_dates=options.ramp_date,
        progress=show_progress("Simulating"),
    )
    print(
        f"{len(programme.rates)} rates and {len(programme.ramps)} ramps; truth: {programme.truth}"
    )
    print(programme.association)
    return 0


def _run_flats(options: argparse.Namespace) -> int:
    from ..simulate import (
        find_region,
        make_distortion,
        simulate_flat_programme,
        write_distortion,
        write_flat_truth,
    )
    from ..steps._base import show_progress

    full = options.size == "full"
    distortion = make_distortion()
    programme = simulate_flat_programme(
        options.output_dir,
        region=find_region("FULL" if full else "SUB256"),
        n_exposures=16 if options.exposures is None else options.exposures,
        # A small frame sees as many stars as the solution needs only in a denser field.
        density=900.0 if full else 2500.0,
        scattered=0.02,
        distortion=distortion,
        seed=options.seed,
        progress=show_progress("Simulating"),
    )
    truth = write_flat_truth(options.output_dir, programme)
    print(f"{len(programme.rates)} rates; truth: {truth}")
    print(f"distortion: {write_distortion(options.output_dir, distortion)}")
    print(programme.association)
    return 0
