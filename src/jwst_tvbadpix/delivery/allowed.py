"""Warnings of crds certify that do not stop a delivery, each with its reason."""

import re
from dataclasses import dataclass

__all__ = ["ALLOWED_WARNINGS", "AllowedWarning", "find_allowed"]


@dataclass(frozen=True, slots=True)
class AllowedWarning:
    """One warning that is expected.

    Attributes
    ----------
    pattern : str
        Regular expression for the whole message.
    kinds : tuple of str
        Reference types that may have it; empty for all.
    reason : str
        Why it may stand.
    """

    pattern: str
    kinds: tuple[str, ...]
    reason: str


ALLOWED_WARNINGS = (
    AllowedWarning(
        r"Differing HDU counts in '.*' and '.*' : (1 vs\. [2-4]|2 vs\. [34]|3 vs\. 4)",
        ("photom",),
        "a photom file that gains tables of time coefficients has more tables than the file it "
        "replaces",
    ),
    AllowedWarning(
        r"(?s)Duplicate definitions in (old|new) reference '.*' for mode: "
        r"\(\('FILTER', '\w+'\), \('PUPIL', '\w+'\)\) :(?!.*\('PHOTMJSR').*\('T0', .*",
        ("photom",),
        "time tables of NIRCam have a row for every subarray, whose name their schema has no "
        "column for; the photom step takes them by their place",
    ),
    AllowedWarning(
        r"No comparison reference for '.*' in context '.*'\. Skipping tables comparison\.",
        (),
        "the first reference of its selection has none to be compared with",
    ),
)


def find_allowed(message: str, kind: str) -> AllowedWarning | None:
    """Find the entry that allows a warning.

    Parameters
    ----------
    message : str
        As crds logs it.
    kind : str
        Reference type in lower case.

    Returns
    -------
    AllowedWarning or None
        None where the warning stops a delivery.
    """
    for allowed in ALLOWED_WARNINGS:
        if kind in (allowed.kinds or (kind,)) and re.fullmatch(allowed.pattern, message.strip()):
            return allowed
    return None
