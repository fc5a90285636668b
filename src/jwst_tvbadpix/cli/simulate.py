"""``tvbadpix simulate``: simulated exposures."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_dry_run, read_natural, report_planned

__all__ = ["add_command"]

_EPILOG = """\
The last line is the association. The truth lies beside it: truth.ecsv (defects, with their dates),
truth_flat.fits or truth_factors.ecsv.

examples:
  tvbadpix simulate field --mode slitless --exposures 4
  tvbadpix simulate flats --mode flats --size full --exposures 20
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    simulate = commands.add_parser(
        "simulate",
        help="write simulated rate files, their association and the truth",
        description="Simulate exposures over four years on a detector whose pixels go bad and "
        "recover at known dates, the dithered exposures of a star field for flats, or visits to "
        "standard stars of known flux.",
        epilog=_EPILOG,
    )
    simulate.add_argument(
        "output_dir", type=Path, metavar="DIR", help="folder to write to, made when absent"
    )
    simulate.add_argument(
        "--mode",
        choices=(
            *("slit", "slitless", "imaging", "mrs", "nirspec", "nircam", "wfi"),
            *("flats", "standards"),
        ),
        default="slit",
        metavar="MODE",
        help="slit or slitless (MIRI LRS), imaging or mrs (MIRI), nirspec, nircam, "
        "wfi (Roman: level-2 images of 4088 x 4088, 130 MB each); flats: a "
        "dense star field dithered over the MIRI imager (F770W), with the distortion reference; "
        "standards: stars seen by the MIRI imager (F770W, F1000W) as it loses throughput, with "
        "their model fluxes and the aperture corrections (default: %(default)s)",
    )
    simulate.add_argument(
        "--detector", metavar="NAME", help="where the mode has several (default: its first)"
    )
    simulate.add_argument(
        "--exposures",
        type=int,
        metavar="N",
        help="how many (default: 12; of wfi 6, of flats and standards 16)",
    )
    simulate.add_argument(
        "--size",
        choices=("small", "full"),
        help="of flats: SUB256 or the full frame (default: small)",
    )
    simulate.add_argument(
        "--seed",
        type=read_natural,
        default=7831,
        metavar="N",
        help="seed of detector, defects, dates and noise, from 0 on (default: %(default)s)",
    )
    simulate.add_argument(
        "--ramp-date",
        action="append",
        default=[],
        metavar="DATE",
        help="also write an _uncal ramp of this date, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss (UTC); may "
        "be repeated (default: none)",
    )
    add_dry_run(simulate)
    simulate.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import InputError

    of_fields = {"flats": _run_flats, "standards": _run_standards}
    if options.mode in of_fields and (options.detector or options.ramp_date):
        raise InputError(
            f"expected neither --detector nor --ramp-date with --mode {options.mode}, which is of "
            "MIRIMAGE rates; leave them out"
        )
    if options.size and options.mode != "flats":
        raise InputError(
            f"expected --size with --mode flats alone, found --mode {options.mode}; leave it out"
        )
    if options.mode in of_fields:
        return of_fields[options.mode](options)
    from ..simulate import simulate_programme
    from ..steps._base import show_progress

    # Each of Roman has 16 million pixels.
    usual = 6 if options.mode == "wfi" else 12
    programme = simulate_programme(
        options.output_dir,
        mode=options.mode,
        detector=options.detector,
        n_exposures=usual if options.exposures is None else options.exposures,
        seed=options.seed,
        ramp_dates=options.ramp_date,
        progress=show_progress("Simulating", unit="file"),
        dry_run=options.dry_run,
    )
    if options.dry_run:
        return _report(*programme.rates, *programme.ramps, programme.truth, programme.association)
    print(
        f"{len(programme.rates)} rates and {len(programme.ramps)} ramps; truth: {programme.truth}"
    )
    print(programme.association)
    return 0


def _report(*paths: Path) -> int:
    """Print what would be written; the exit status."""
    report_planned(paths)
    print(f"simulate: nothing written, {len(paths)} files")
    return 0


def _run_flats(options: argparse.Namespace) -> int:
    from ..simulate import (
        DISTORTION,
        FLAT_TRUTH,
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
        progress=show_progress("Simulating", unit="file"),
        dry_run=options.dry_run,
    )
    if options.dry_run:
        folder = options.output_dir
        return _report(
            *programme.rates, folder / FLAT_TRUTH, folder / DISTORTION, programme.association
        )
    truth = write_flat_truth(options.output_dir, programme)
    print(f"{len(programme.rates)} rates; truth: {truth}")
    print(f"distortion: {write_distortion(options.output_dir, distortion)}")
    print(programme.association)
    return 0


def _run_standards(options: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..simulate import FLUX_TRUTH, simulate_standard_stars, write_flux_truth
    from ..steps._base import show_progress

    n_exposures = 16 if options.exposures is None else options.exposures
    if n_exposures % 2:
        raise InputError(
            f"expected an even number of exposures with --mode standards, one in each filter, "
            f"found {n_exposures}; change --exposures"
        )
    programme = simulate_standard_stars(
        options.output_dir,
        n_visits=n_exposures // 2,
        seed=options.seed,
        progress=show_progress("Simulating", unit="file"),
        dry_run=options.dry_run,
    )
    tables = [path for path in (programme.models, programme.apcorr) if path]
    if options.dry_run:
        truth = options.output_dir / FLUX_TRUTH
        return _report(*programme.rates, *tables, truth, programme.association)
    truth = write_flux_truth(options.output_dir, programme)
    print(f"{len(programme.rates)} rates; truth: {truth}")
    print(f"model fluxes and aperture corrections: {', '.join(map(str, tables))}")
    print(programme.association)
    return 0
