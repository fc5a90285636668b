"""What several commands share."""

import argparse
from collections.abc import Sequence
from pathlib import Path

__all__ = ["add_output_dir", "read_natural", "report_paths"]


def add_output_dir(parser: argparse.ArgumentParser) -> None:
    """Add --output-dir, the present folder by default."""
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to write (default: here)",
    )


def read_natural(text: str) -> int:
    """Read a whole number from 0 on; a type for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text!r}")
    return int(text)


def report_paths(paths: Sequence[Path]) -> int:
    """Print the files that were written; the exit status of success."""
    for path in paths:
        print(path)
    return 0
