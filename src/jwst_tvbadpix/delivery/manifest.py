"""What a delivery consists of, what it replaces, and what is different."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..files import compute_sha256
from .found import Reference
from .readback import Meant, read_bad

__all__ = ["Change", "Entry", "describe_delivery", "format_table", "tabulate_entries"]

_LONGEST_RULE = 40


@dataclass(frozen=True, slots=True)
class Change:
    """What is different from another file.

    Attributes
    ----------
    name : str
        The other file.
    what : str
        Whether it is the base mask, of the old context, or the one before in the delivery.
    added, removed, kept : int or None
        Pixels with DO_NOT_USE; None where one of the two has no flags, or the other is not there.
    """

    name: str
    what: str
    added: int | None
    removed: int | None
    kept: int | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One delivered reference.

    Attributes
    ----------
    file, crds_name : str
        Its name, and the provisional one in the local context.
    sha256 : str
    size : int
        [byte]
    asdf, asdf_sha256 : str or None
        The twin.
    instrument, kind, detector, useafter : str
    keys : mapping of str to str
        What selects it beside its date.
    history : str or None
        The history of a mask.
    supersedes : Change or None
        Of the old context; without one the base mask. None where there is nothing.
    follows : Change or None
        The file before it in the same series of the delivery; None for the first.
    """

    file: str
    crds_name: str
    sha256: str
    size: int
    asdf: str | None
    asdf_sha256: str | None
    instrument: str
    kind: str
    detector: str
    useafter: str
    keys: Mapping[str, str]
    history: str | None
    supersedes: Change | None
    follows: Change | None


def describe_delivery(
    references: Sequence[Reference],
    names: Mapping[Path, str],
    meant: Mapping[Path, Meant],
    bad_pixels: Mapping[Path, np.ndarray | None],
    superseded: Mapping[str, Path] | None,
) -> list[Entry]:
    """Describe every file of a delivery.

    Parameters
    ----------
    references : sequence of Reference
        In order of series and date.
    names : mapping of Path to str
        FITS file -> CRDS name.
    meant : mapping of Path to Meant
        Of the masks.
    bad_pixels : mapping of Path to ndarray of bool or None
        Of every FITS file.
    superseded : mapping of str to Path, or None
        CRDS name -> where the cache has the file that it supersedes. None: there is no old
        context.

    Returns
    -------
    list of Entry
    """
    entries: list[Entry] = []
    last: tuple[Reference, np.ndarray | None] | None = None
    for reference in references:
        bad = bad_pixels[reference.fits]
        own = meant.get(reference.fits)
        follows = None
        if last and last[0].series == reference.series:
            name = last[0].fits.name
            follows = _compare(name, "before it in the delivery", bad, last[1])
        supersedes = None
        if superseded is None:
            if own:
                supersedes = _compare(own.base, "base mask", bad, own.base_bad)
        elif names[reference.fits] in superseded:
            path = superseded[names[reference.fits]]
            other = read_bad(path) if path.is_file() else None
            supersedes = _compare(path.name, "old context", bad, other)
        entries.append(
            Entry(
                file=reference.fits.name,
                crds_name=names[reference.fits],
                sha256=compute_sha256(reference.fits),
                size=reference.fits.stat().st_size,
                asdf=reference.asdf.name if reference.asdf else None,
                asdf_sha256=compute_sha256(reference.asdf) if reference.asdf else None,
                instrument=reference.instrument,
                kind=reference.kind,
                detector=reference.detector,
                useafter=reference.useafter,
                keys=dict(reference.keys),
                history=own.history.name if own else None,
                supersedes=supersedes,
                follows=follows,
            )
        )
        last = reference, bad
    return entries


def _compare(name: str, what: str, new: np.ndarray | None, old: np.ndarray | None) -> Change:
    """Count the bad pixels that come, go and stay."""
    if new is None or old is None or new.shape != old.shape:
        return Change(name, what, None, None, None)
    return Change(
        name, what, int((new & ~old).sum()), int((old & ~new).sum()), int((old & new).sum())
    )


def tabulate_entries(entries: Sequence[Entry]) -> list[list[str]]:
    """Make the readable table of a manifest, with its heading.

    Parameters
    ----------
    entries : sequence of Entry

    Returns
    -------
    list of list of str
    """
    rows = [["file", "CRDS name", "USEAFTER", "supersedes", "added", "removed", "kept", "sha256"]]
    for entry in entries:
        change = entry.supersedes or entry.follows
        counts = (change.added, change.removed, change.kept) if change else (None,) * 3
        name = f"{change.name} ({change.what})" if change else "nothing"
        shown = ["-" if count is None else str(count) for count in counts]
        rows.append([entry.file, entry.crds_name, entry.useafter, name, *shown, entry.sha256])
    return rows


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Set rows in columns, the first row as heading.

    Parameters
    ----------
    rows : sequence of sequence of str

    Returns
    -------
    str
        With a newline at the end.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruled = [rows[0], ["-" * min(width, _LONGEST_RULE) for width in widths], *rows[1:]]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in ruled
    ]
    return "\n".join(lines) + "\n"
