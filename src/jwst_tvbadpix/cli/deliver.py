"""``tvbadpix deliver``: test references as CRDS would, and make what a delivery needs."""

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from ._shared import add_dry_run, drop_crds_variables, report_planned

__all__ = ["add_command"]

log = logging.getLogger(__name__)

_DESCRIPTION = """\
Test the references in DIR as CRDS would, without any server, and write to OUT:

  cache/            a local CRDS context with them (see `tvbadpix context`)
  manifest.json     files, checksums, dates, what each supersedes and how it
                    differs (also .txt)
  bestrefs.json     which data sets get which file (also .txt)
  submission/       the form of CRDS, one per instrument and type, filled
  logs/             what crds said of each file
  crds_diff.txt     crds diff of the old and new context (with --derive-from)
  verdict.json      the checks (also .txt)

DIR holds references in FITS with their ASDF twins and, beside masks, the
*_badpixhistory.asdf that was made with them. FITS alone is delivered; ASDF alone is not,
because CRDS does not take it. References of Roman are ASDF and have no twins. Everything
else there is listed and ignored; subfolders are not searched. Files that OUT
holds already stay, those of an earlier run are replaced.
The last line is the verdict; the exit status is 0 only if every check holds."""

_EPILOG = """\
--dry-run reads the references and makes the context in a temporary folder, so that most of what is
wrong with them shows; certify, bestrefs and the other checks are left out.

examples:
  tvbadpix deliver masks --output-dir delivery
  CRDS_PATH=crds_cache tvbadpix deliver masks --output-dir delivery \\
      --derive-from jwst_1303.pmap
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    deliver = commands.add_parser(
        "deliver",
        help="test references as CRDS would, and make what a delivery needs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    deliver.add_argument("folder", type=Path, metavar="DIR", help="folder with the references")
    deliver.add_argument(
        "--output-dir",
        type=Path,
        required=True,
        metavar="OUT",
        help="folder to write to, made when absent (no default)",
    )
    deliver.add_argument(
        "--derive-from",
        metavar="CONTEXT",
        help="add the references to this context, jwst_NNNN.pmap or roman_NNNN.pmap, of the cache "
        "that CRDS_PATH names (default: a context of these references alone)",
    )
    deliver.add_argument(
        "--datasets",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="data sets to ask bestrefs for: JSON {id: {META.INSTRUMENT.NAME: ...}}, FITS files "
        "(of Roman ASDF) or folders of them (default: the exposures of the histories)",
    )
    add_dry_run(deliver)
    deliver.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    # The one variable of CRDS that counts, and only when it is asked for.
    source = os.environ.get("CRDS_PATH") if options.derive_from else None
    with drop_crds_variables():
        from ..delivery import deliver, plan_delivery

        arguments = {
            "derive_from": options.derive_from,
            "source": Path(source) if source else None,
            "datasets": options.datasets,
        }
        if options.dry_run:
            planned, context = plan_delivery(options.folder, options.output_dir, **arguments)
            report_planned(planned)
            print(f"deliver: nothing written, context {context} can be made")
            return 0
        verdict = deliver(options.folder, options.output_dir, **arguments)
    for stage, seconds in verdict.seconds.items():
        log.info("%s: %s s", stage, seconds)
    for name in verdict.ignored:
        print(f"ignored: {name}")
    for note in verdict.notes:
        print(f"note: {note}")
    print(f"written: {verdict.folder}, context {verdict.context}")
    print(verdict.format_checks(), end="")
    print(verdict.line)
    return 0 if verdict.passed else 1
