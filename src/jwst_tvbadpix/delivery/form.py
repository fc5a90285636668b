"""The submission form of CRDS, filled from the files."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from .found import Reference
from .manifest import Entry
from .observatory import JWST, ROMAN, of_instrument

__all__ = ["fill_form"]

# What the server rejects in a text; what stands for the most frequent of these is legible.
_FORBIDDEN = re.compile(r"[^A-Za-z0-9._ /,=+-]")
_INSTEAD = {"|": " or ", ":": "-", ";": ",", "(": ", ", ")": "", "&": " and "}
_LONGEST = 500
# Where the last part of a META name does not say what it is.
_LABELS = {"META.SUBARRAY.NAME": "subarray", "META.EXPOSURE.TYPE": "exp_type"}


def fill_form(entries: Sequence[Entry], references: Sequence[Reference], tests: str) -> str:
    """Fill the form for the files of one instrument and type.

    Parameters
    ----------
    entries : sequence of Entry
    references : sequence of Reference
        The same files.
    tests : str
        What was checked, and with what result.

    Returns
    -------
    str
        YAML, one field a line, with only the characters that the form allows.

    Notes
    -----
    The fields are those of the CRDS user guide; the live form is the server's, so compare before
    a delivery. What only a person can say is left as "none" or empty.
    """
    first = references[0]
    dates = [entry.useafter[:10] for entry in entries]
    counts = [entry.supersedes or entry.follows for entry in entries]
    differ = any(c and (c.added or c.removed or c.kept is None) for c in counts)
    replaced = sorted(
        {e.supersedes.name for e in entries if e.supersedes and e.supersedes.what == "old context"}
    )
    fields: dict[str, str | bool] = {
        "deliverer": _join(reference.header["META.AUTHOR"] for reference in references),
        "other_email": "",
        "instrument": first.instrument,
        "file_type": first.kind.upper(),
        "history_updated": True,
        "pedigree_updated": True,
        "keywords_checked": True,
        "descrip_updated": True,
        "useafter_updated": True,
        "useafter_matches": "N/A",
        "compliance_verified": "Yes",
        "etc_delivery": False,
        "calpipe_version": f"Yes, {_name_pipeline(first.instrument)}",
        "replacement_files": bool(replaced),
        "old_reference_files": ", ".join(replaced),
        "replacing_badfiles": "No",
        "jira_issue": "",
        "table_rows_changed": "",
        "modes_affected": _name_modes(entries),
        "change_level": "MODERATE" if differ or not any(counts) else "TRIVIAL",
        "correctness_testing": tests,
        "additional_considerations": "",
        "description": (
            f"{_join(r.header.get('META.DESCRIPTION', '') for r in references)}. {len(entries)} "
            f"files, USEAFTER {min(dates)} to {max(dates)}"
        ),
    }
    # What JSON says of text and truth, YAML says too.
    lines = [
        f"{name}: {json.dumps(value if isinstance(value, bool) else _clean(value))}"
        for name, value in fields.items()
    ]
    return "\n".join(lines) + "\n"


def _name_pipeline(instrument: str) -> str:
    """Name the pipeline of an instrument with its version; its models where it is absent."""
    for name in ("jwst",) if of_instrument(instrument) is JWST else ("romancal",):
        with suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
    return f"roman_datamodels {version('roman_datamodels')}"


def _join(texts: object) -> str:
    """Join different texts, in order."""
    return ", ".join(dict.fromkeys(filter(None, map(str, texts))))  # type: ignore[call-overload]


def _name_modes(entries: Sequence[Entry]) -> str:
    """Name what the files are selected for."""
    values: dict[str, set[str]] = {}
    for entry in entries:
        for key, value in entry.keys.items():
            name = _LABELS.get(key.removeprefix(ROMAN.prefix), key.split(".")[-1].lower())
            values.setdefault(name, set()).add(value)
    shown = [
        f"{name} {' '.join(sorted(found))}"
        for name, found in values.items()
        if found - {"N/A", "GENERIC"}
    ]
    return ", ".join(shown) or "all"


def _clean(text: str) -> str:
    """Leave the characters that the form allows."""
    for wrong, right in _INSTEAD.items():
        text = text.replace(wrong, right)
    return re.sub(r"\s+", " ", _FORBIDDEN.sub("-", text)).strip()[:_LONGEST]
