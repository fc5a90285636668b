"""What several commands share."""

import argparse
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astropy.table import Table

__all__ = [
    "HelpFormatter",
    "above_bars",
    "add_common",
    "add_dry_run",
    "add_output_dir",
    "check_space",
    "drop_crds_variables",
    "list_twins",
    "log_to_stderr",
    "read_natural",
    "report_paths",
    "report_planned",
    "write_table",
]

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps the paragraphs of descriptions and epilogs, those with indented lines excepted."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        parts = (
            super(HelpFormatter, self)._fill_text(part, width, indent)
            if "\n " in part
            else argparse.HelpFormatter._fill_text(self, part, width, indent)
            for part in text.strip().split("\n\n")
        )
        return "\n\n".join(parts)


def add_common(parser: argparse.ArgumentParser, **defaults: Any) -> None:
    """Add the options that every command has; without defaults those of the main parser hold."""
    group = parser.add_argument_group("common options")
    group.add_argument(
        "--log-level",
        type=str.upper,
        choices=_LEVELS,
        default=defaults.get("log_level", argparse.SUPPRESS),
        metavar="LEVEL",
        help="least level of the messages on stderr: DEBUG (also what the pipeline tells), INFO, "
        "WARNING or ERROR (default: INFO)",
    )
    group.add_argument(
        "--debug",
        action="store_true",
        default=defaults.get("debug", argparse.SUPPRESS),
        help="show the traceback of an error",
    )


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    """Add --dry-run."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="read and check the input, print what would be written, write nothing",
    )


def add_output_dir(parser: argparse.ArgumentParser) -> None:
    """Add --output-dir, the present folder by default, and --dry-run."""
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="folder to write to, made when absent (default: the present one)",
    )
    add_dry_run(parser)


def read_natural(text: str) -> int:
    """Read a whole number from 0 on; a type for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text!r}")
    return int(text)


def above_bars() -> AbstractContextManager[None]:
    """Make room on stderr above progress bars, where there are some."""
    if "tqdm" not in sys.modules:
        return nullcontext()
    from tqdm import tqdm

    bars: AbstractContextManager[None] = tqdm.external_write_mode(file=sys.stderr)
    return bars


class _Handler(logging.StreamHandler[Any]):
    """Writes above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        with above_bars():
            super().emit(record)


@contextmanager
def log_to_stderr(level: str) -> Iterator[None]:
    """Show messages of this level on stderr, and warnings of other packages."""
    handler = _Handler(sys.stderr)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    ours, others = logging.getLogger(__name__.partition(".")[0]), logging.getLogger()
    before = ours.level, others.level
    ours.setLevel(level)
    others.setLevel(logging.INFO if level == "DEBUG" else max(ours.level, logging.WARNING))
    others.addHandler(handler)
    try:
        yield
    finally:
        others.removeHandler(handler)
        ours.setLevel(before[0])
        others.setLevel(before[1])


@contextmanager
def drop_crds_variables() -> Iterator[None]:
    """Hide what the environment says of CRDS, which its import reads, and may fail of."""
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("CRDS_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def check_space(folder: Path, size_gb: float) -> None:
    """Require space for what a command is going to write; InputError where it lacks."""
    import shutil

    from ..errors import InputError

    free_gb = shutil.disk_usage(_require_folder(folder)).free / 1e9
    if free_gb < size_gb:
        raise InputError(
            f"expected {size_gb:g} GB free for {folder}, found {free_gb:.2f} GB; free some or "
            "choose another --output-dir"
        )


def _require_folder(folder: Path) -> Path:
    """Find the folder itself or that in which it can be made; InputError where none is."""
    from ..errors import InputError

    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(
            f"expected a folder that can be written to, found {above}; choose another --output-dir"
        )
    return above


def list_twins(stem: Path) -> tuple[Path, Path]:
    """Name the two files of a reference, as `refmodels.write_twins` does."""
    return stem.with_name(f"{stem.name}.asdf"), stem.with_name(f"{stem.name}.fits")


def write_mask(mask: Any, stem: Path, *, dry_run: bool) -> int:
    """Write a mask, as twins or as Roman has it, or say so; print its files, return the status."""
    from ..refmodels import RomanMask, write_twins

    roman = isinstance(mask, RomanMask)
    paths = list_twins(stem)[: 1 if roman else 2]
    if dry_run:
        return report_planned(paths)
    stem.parent.mkdir(parents=True, exist_ok=True)
    return report_paths([mask.save(paths[0])] if roman else write_twins(mask, stem))


def report_paths(paths: Iterable[Path]) -> int:
    """Print the files that were written; the exit status of success."""
    for path in paths:
        print(path)
    return 0


def report_planned(paths: Iterable[Path | str]) -> int:
    """Print the files that would be written, a folder with a slash; the status of success.

    Raises
    ------
    InputError
        A folder cannot be written to.
    """
    listed = [str(path) for path in paths]
    for folder in dict.fromkeys(Path(path).parent for path in listed):
        _require_folder(folder)
    for path in listed:
        print(f"would {'replace' if os.path.lexists(path) else 'write'} {path}")
    return 0


def write_table(table: "Table", path: Path, *, dry_run: bool = False) -> None:
    """Write a table as ECSV under a temporary name, then rename it; or only say so."""
    from ..atomic import replace_whole
    from ..errors import InputError

    if path.suffix.lower() != ".ecsv":
        raise InputError(f"expected a name that ends in .ecsv for the table, found {path}; add it")
    if dry_run:
        report_planned([path])
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_whole(path) as temporary:
        table.write(temporary, format="ascii.ecsv")
