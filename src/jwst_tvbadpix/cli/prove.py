"""``tvbadpix prove``: what the dated masks do to spectra and to photometry."""

import argparse
import logging
from pathlib import Path
from typing import Any

from ._shared import (
    add_dry_run,
    check_space,
    drop_crds_variables,
    read_natural,
    report_planned,
)

__all__ = ["add_command"]

log = logging.getLogger(__name__)

_SIZE_GB = 1.0

_EPILOG = """\
examples:
  tvbadpix prove
  tvbadpix prove --output-dir proof --seed 2
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    prove = commands.add_parser(
        "prove",
        help="compare science made with a static mask and with dated masks (a few minutes)",
        description="Simulate MIRI LRS slitless and slit ramps of a star whose spectrum is known, "
        "and imaging ramps of stars whose fluxes are, on a detector with defects of known dates; "
        "run calwebb_detector1 and calwebb_spec2, or image2 and image3, with a static mask and "
        "with the dated series that time_variable_bad_pixel makes of simulated LRS blank sky, each "
        "picked by CRDS; compare spectra and fluxes with the truth. The last line is the verdict; "
        "the exit status is 0 only if it is PASS.",
        epilog=_EPILOG,
    )
    prove.add_argument(
        "--output-dir",
        type=Path,
        default=Path("tvbadpix_proof"),
        metavar="DIR",
        help=f"where everything is written, about {_SIZE_GB:g} GB (default: %(default)s)",
    )
    prove.add_argument(
        "--seed",
        type=read_natural,
        default=7831,
        metavar="N",
        help="seed of dates, defects and noise, from 0 on (default: %(default)s)",
    )
    add_dry_run(prove)
    prove.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    check_space(options.output_dir, _SIZE_GB)
    if options.dry_run:
        report_planned([f"{options.output_dir}/"])
        print(f"prove: nothing written, about {_SIZE_GB:g} GB fit")
        return 0
    with drop_crds_variables():
        from ..proof import RECOMMENDED, run_proof

        result = run_proof(options.output_dir, seed=options.seed, say=log.info)
    print(
        "\nFeatures above 3 sigma within 2 bins of a defect (imaging: stars off by as much, with a "
        "defect\nin the aperture), in excess of noise, summed over the dates (mean over draws of "
        "the noise), the\nlargest one and the rms; static mask -> dated series; and what is left "
        "with a mask of just the\npixels that are bad:\n"
        f"  {'mode':9s} {'extraction':10s} {'pixel_replace':13s} {'features':>14s} {'removed':>8s} "
        f"{'largest':>18s} {'rms':>16s} {'perfect mask':>13s}"
    )
    for t in result.totals:
        perfect = "-" if t.perfect is None else f"-> {t.perfect:.1f}"
        print(
            f"  {t.mode:9s} {t.extraction:10s} {t.replacement:13s} "
            f"{t.static:5.1f} -> {t.dated:5.1f} {100 * t.removed:6.1f} % "
            f"{100 * t.largest_static:5.1f} -> {100 * t.largest_dated:5.1f} % "
            f"{100 * t.rms_static:4.2f} -> {100 * t.rms_dated:4.2f} % "
            f"{perfect:>13s}"
        )
    print(
        "\nMasking a pixel alone leaves a gap that box extraction turns into a deficit: run\n"
        "calwebb_spec2 with --steps.pixel_replace.skip=False "
        f"--steps.pixel_replace.algorithm={RECOMMENDED}\n"
        "(mingrad, its default, takes the wings of the trace for its core), and in the slit with\n"
        "--steps.resample_spec.weight_type=exptime, as here. calwebb_image2 replaces no pixels: "
        "fit the PSF to\nthose that are left, or combine dithers (i2d).\n"
    )
    for check in result.checks:
        state = "ok  " if check.holds else "FAIL"
        print(f"  {state} {check.name}: {check.found} (wanted: {check.wanted})")
    print(f"\nFiles: {result.folder}")
    failed = [check.name for check in result.checks if not check.holds]
    print("prove: PASS" if not failed else f"prove: FAIL ({'; '.join(failed)})")
    return 1 if failed else 0
