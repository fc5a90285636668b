"""``tvbadpix report``: the page of a run, remade from its products."""

import argparse
from pathlib import Path
from typing import Any

from ._shared import add_output_dir, report_paths, report_planned

__all__ = ["add_command"]

_EPILOG = """\
examples:
  tvbadpix report masks/lrs_MIRIMAGE_badpixhistory.asdf
  tvbadpix report masks --figures png --figures pdf --output-dir pages
"""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    report = commands.add_parser(
        "report",
        help="remake the page of a run from its products",
        description="Remake NAME_report.html of a run from its products alone: a bad-pixel "
        "history and its masks, a star flat and its flats, a flux fit and its photom files. For a "
        "file, what lies beside it of the same run is used too; a folder makes a page per run.",
        epilog=_EPILOG,
    )
    report.add_argument(
        "products",
        nargs="+",
        type=Path,
        metavar="PRODUCT",
        help="an .asdf product of a step of this package, or a folder of them",
    )
    report.add_argument(
        "--figures",
        choices=("png", "pdf"),
        action="append",
        default=[],
        help="also write the static figures as files of their own; may be given for each "
        "(default: the page alone)",
    )
    add_output_dir(report)
    report.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..report import build_report, find_groups, list_figures, write_figures, write_page

    listed = []
    for name, paths in find_groups(options.products).items():
        page = build_report(paths)
        stem = options.output_dir / name
        path = stem.with_name(f"{name}_report.html")
        if options.dry_run:
            listed += [path, *list_figures(page, stem, options.figures)]
            continue
        write_page(page, path)
        listed += [path, *write_figures(page, stem, options.figures)]
    return report_planned(listed) if options.dry_run else report_paths(listed)
