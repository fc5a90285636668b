"""``tvbadpix download``: the exposures of a programme from the archive."""

import argparse
from typing import Any

from ._shared import add_output_dir, report_paths, report_planned

__all__ = ["add_command"]

_EPILOG = """\
The exit status is 1 where there is no file, or one was not given.

examples:
  tvbadpix download 4497 --mode LRS --output-dir data
  tvbadpix download 1539 --stage rate --stage x1d --dry-run
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    download = commands.add_parser(
        "download",
        help="download the exposures of a programme from the archive (extra [mast])",
        description="Ask the archive (MAST) for the exposures of a programme and download them. "
        "Files that are there already are kept. Needs pip install 'jwst-tvbadpix[mast]'.",
        epilog=_EPILOG,
    )
    download.add_argument("program", metavar="PID", help="number of the programme, such as 4497")
    download.add_argument(
        "--mode",
        metavar="MODE",
        help="LRS, imaging, MRS, NIRSpec, or the name of one mode (default: all)",
    )
    download.add_argument(
        "--stage",
        action="append",
        metavar="STAGE",
        help="uncal, rate, rateints, cal, calints, x1d or x1dints; may be repeated "
        "(default: rate and rateints)",
    )
    add_output_dir(download)
    download.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..programmes.mast import build_queries, download_files, list_missing, run_query
    from ..programmes.modes import MODES, get_mode
    from ..steps._base import show_progress

    queries = build_queries(
        get_mode(options.mode) if options.mode else MODES,
        program=options.program,
        stages=tuple(dict.fromkeys(options.stage or ("rate", "rateints"))),
    )
    rows = [row for query in queries for row in run_query(query)]
    size = sum(float(row.get("fileSize") or 0) for row in rows) / 1e9
    if options.dry_run:
        report_planned(list_missing(rows, options.output_dir))
        print(f"download: {len(rows)} files, {size:.1f} GB")
        return 0 if rows else 1
    paths, refused = download_files(
        rows,
        options.output_dir,
        progress=show_progress("Downloading", unit="file") if rows else None,
    )
    report_paths(paths)
    for problem in refused:
        print(f"not given: {problem}")
    print(f"download: {len(paths)} of {len(rows)} files, {size:.1f} GB")
    return 0 if rows and len(paths) == len(rows) else 1
