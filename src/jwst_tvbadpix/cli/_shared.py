"""What several commands share."""

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "add_output_dir",
    "drop_crds_variables",
    "read_natural",
    "report_paths",
    "write_table",
]


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


@contextmanager
def drop_crds_variables() -> Iterator[None]:
    """Hide what the environment says of CRDS, which its import reads, and may fail of."""
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("CRDS_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def report_paths(paths: Sequence[Path]) -> int:
    """Print the files that were written; the exit status of success."""
    for path in paths:
        print(path)
    return 0


def write_table(table: "Table", path: Path) -> None:
    """Write a table as ECSV under a temporary name, then rename it."""
    from ..errors import InputError

    if path.suffix.lower() != ".ecsv":
        raise InputError(f"expected a name that ends in .ecsv for the table, found {path}; add it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        table.write(temporary, format="ascii.ecsv", overwrite=True)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
