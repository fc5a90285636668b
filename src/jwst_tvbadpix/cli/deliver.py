"""``tvbadpix deliver``: test references as CRDS would, and make what a delivery needs."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ._shared import drop_crds_variables

__all__ = ["add_command"]

_DESCRIPTION = """\
Test the references in DIR as CRDS would, without any server, and write to OUT:

  cache/            a local CRDS context with them (see `tvbadpix context`)
  manifest.json     files, checksums, dates, what each supersedes and how it differs (also .txt)
  bestrefs.json     which data sets get which file (also .txt)
  submission/       the form of CRDS, one per instrument and type, filled
  logs/             what crds said of each file
  crds_diff.txt     crds diff of the old and the new context (with --derive-from)
  verdict.json      the checks (also .txt)

DIR holds references in FITS with their ASDF twins and, beside masks, the
*_badpixhistory.asdf that was made with them. FITS alone is delivered; ASDF alone is not,
because CRDS does not take it. Everything else there is listed and ignored; subfolders are not
searched. Files that OUT holds already stay, those of an earlier run are replaced.
The last line is the verdict; the exit status is 0 only if every check holds."""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    deliver = commands.add_parser(
        "deliver",
        help="test references as CRDS would, and make what a delivery needs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    deliver.add_argument("folder", type=Path, metavar="DIR", help="folder with the references")
    deliver.add_argument(
        "--output-dir", type=Path, required=True, metavar="OUT", help="where to write"
    )
    deliver.add_argument(
        "--derive-from",
        metavar="CONTEXT",
        help="add the references to this context, jwst_NNNN.pmap, of the cache that CRDS_PATH "
        "names (default: a context of these references alone)",
    )
    deliver.add_argument(
        "--datasets",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="data sets to ask bestrefs for: JSON {id: {META.INSTRUMENT.NAME: ...}}, FITS files "
        "or folders of them (default: the exposures of the histories)",
    )
    deliver.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    # The one variable of CRDS that counts, and only when it is asked for.
    source = os.environ.get("CRDS_PATH") if options.derive_from else None
    with drop_crds_variables():
        from ..delivery import deliver

        verdict = deliver(
            options.folder,
            options.output_dir,
            derive_from=options.derive_from,
            source=Path(source) if source else None,
            datasets=options.datasets,
            say=lambda text: print(text, file=sys.stderr),
        )
    for stage, seconds in verdict.seconds.items():
        print(f"{stage}: {seconds} s", file=sys.stderr)
    for name in verdict.ignored:
        print(f"ignored: {name}")
    for note in verdict.notes:
        print(f"note: {note}")
    print(f"written: {verdict.folder}, context {verdict.context}")
    print(verdict.format_checks(), end="")
    print(verdict.line)
    return 0 if verdict.passed else 1
