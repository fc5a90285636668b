"""``tvbadpix reprocess``: the standard stages over an association."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._shared import add_output_dir, report_planned

if TYPE_CHECKING:
    from ..reprocess import ReprocessResult

__all__ = ["add_command"]

log = logging.getLogger(__name__)

_EPILOG = """\
Logs of single runs lie in
DIR/.tvbadpix_reprocess. --dry-run names the main product of each stage.

examples:
  tvbadpix reprocess ramps_asn.json --context crds_cache --output-dir reduced \\
      --parameters detector1_neutral --mask jwst_miri_mask_0067.fits
"""

# More need a lot of memory: about 0.7 GB for each full frame.
_MOST_PROCESSES = 4


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "reprocess",
        help="run standard stages over an association, several exposures at a time",
        description="Run calwebb_detector1, calwebb_spec2 or calwebb_image2, or the first and one "
        "of the others, over the exposures of a JWST association, with the CRDS set-up of the "
        "environment or a local one. What is done and unchanged is skipped, so that a run that "
        "was killed is resumed by the same command. Exit status 1 if an exposure failed.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "association", type=Path, metavar="ASN", help="association of level 2 or 3 (.json)"
    )
    parser.add_argument(
        "--parameters",
        action="append",
        required=True,
        metavar="FILE|NAME",
        help="parameter file (.asdf), or name of a shipped one (see tvbadpix parameters); once "
        "for each stage",
    )
    parser.add_argument(
        "--mask",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="mask for calwebb_detector1, such as the one of tvbadpix neutral-mask; once for each "
        "detector (default: that of the parameter file, or of CRDS)",
    )
    parser.add_argument(
        "--context",
        type=Path,
        metavar="DIR",
        help="local CRDS cache to use (default: that of CRDS_PATH and CRDS_SERVER_URL)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=min(_MOST_PROCESSES, os.cpu_count() or 1),
        metavar="N",
        help="exposures at a time, about 0.7 GB of memory each (default: %(default)s)",
    )
    add_output_dir(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..delivery import open_context
    from ..reprocess import plan_reprocess, reprocess

    context = open_context(options.context) if options.context else None
    if options.dry_run:
        plan = plan_reprocess(
            options.association,
            options.parameters,
            output_dir=options.output_dir,
            masks=options.mask,
            context=context,
        )
        report_planned(plan.products)
        return _sum_up(plan.result, "to do")
    with tqdm(total=0, desc="Reprocessing", unit="run", disable=None) as bar:
        result = reprocess(
            options.association,
            options.parameters,
            output_dir=options.output_dir,
            processes=options.processes,
            masks=options.mask,
            context=context,
            progress=_make_progress(bar),
        )
    return _sum_up(result, "done")


def _sum_up(result: "ReprocessResult", done: str) -> int:
    """Print what became of each exposure; the exit status."""
    for outcome in result.outcomes:
        state = done if outcome.state == "done" else outcome.state
        print(f"{outcome.name}: {state}{outcome.error and f': {outcome.error}'}")
    n_done, skipped, failed = map(result.count, ("done", "skipped", "failed"))
    print(f"reprocess: {n_done} {done}, {skipped} skipped (unchanged), {failed} failed")
    return 1 if failed else 0


def _make_progress(bar: Any) -> Callable[[int, int, str], None]:
    """Move the bar on a terminal; write a line elsewhere."""

    def report(finished: int, total: int, text: str) -> None:
        if bar.disable:
            log.info("%d of %d: %s", finished, total, text)
            return
        bar.total = total
        bar.set_postfix_str(text, refresh=False)
        bar.update(finished - bar.n)

    return report
