"""``tvbadpix download``: the exposures of a programme from the archive."""

import argparse
from typing import Any

from ._shared import add_output_dir, report_paths

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    download = commands.add_parser(
        "download",
        help="download the exposures of a programme from the archive (extra [mast])",
        description="Ask the archive (MAST) for the exposures of a programme and download them. "
        "Files that are there already are kept. Needs pip install 'jwst-tvbadpix[mast]'.",
    )
    download.add_argument("program", metavar="PID", help="number of the programme, such as 4497")
    download.add_argument(
        "--mode", metavar="MODE", help="LRS, imaging, MRS, NIRSpec, or the name of one mode"
    )
    download.add_argument(
        "--stage",
        action="append",
        metavar="STAGE",
        help="uncal, rate, rateints, cal, calints, x1d or x1dints; may be repeated "
        "(default: rate and rateints)",
    )
    add_output_dir(download)
    download.add_argument(
        "--dry-run", action="store_true", help="list the files and download nothing"
    )
    download.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..programmes.mast import build_queries, download_files, run_query
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
        for row in rows:
            print(row["filename"])
        print(f"download: {len(rows)} files, {size:.1f} GB")
        return 0 if rows else 1
    paths, refused = download_files(
        rows, options.output_dir, progress=show_progress("Downloading") if rows else None
    )
    report_paths(paths)
    for problem in refused:
        print(f"not given: {problem}")
    print(f"download: {len(paths)} of {len(rows)} files, {size:.1f} GB")
    return 0 if rows and len(paths) == len(rows) else 1
