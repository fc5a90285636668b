"""The verdict on a delivery."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .bestrefs import Effect
from .manifest import Entry, format_table

__all__ = ["Check", "Verdict"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict.

    Attributes
    ----------
    name : str
    value, limit : int
        What was found, and how much of it there may be.
    detail : str
        What was looked at.
    wrong : tuple of str
        What is wrong, and in which file.
    """

    name: str
    value: int
    limit: int
    detail: str
    wrong: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether it holds."""
        return self.value <= self.limit


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a delivery.

    Attributes
    ----------
    folder : Path
        Where everything is.
    context : str
        Name of the new context.
    checks : tuple of Check
    entries : tuple of Entry
        The manifest.
    effects : tuple of Effect
        Of the data sets, changed and unchanged.
    notes : tuple of str
        What should be known and decides nothing.
    ignored : tuple of str
        Files that are no references.
    seconds : mapping of str to float
        Time of each stage [s].
    """

    folder: Path
    context: str
    checks: tuple[Check, ...]
    entries: tuple[Entry, ...]
    effects: tuple[Effect, ...]
    notes: tuple[str, ...]
    ignored: tuple[str, ...]
    seconds: Mapping[str, float]

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        return all(check.passed for check in self.checks)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        if self.passed:
            return "deliver: PASS"
        failed = sum(not check.passed for check in self.checks)
        return f"deliver: FAIL ({failed} of {len(self.checks)} checks)"

    def format_checks(self) -> str:
        """Set the checks in a table; below it what is wrong."""
        rows = [["check", "value", "limit", "pass", "of"]]
        rows += [
            [c.name, str(c.value), str(c.limit), "yes" if c.passed else "NO", c.detail]
            for c in self.checks
        ]
        wrong = [f"{c.name}: {text}" for c in self.checks for text in c.wrong]
        return format_table(rows) + "".join(f"{text}\n" for text in wrong)

    def format_effects(self) -> str:
        """Set the data sets that get another file in a table."""
        rows = [["data set", "type", "old", "new"]]
        rows += [[e.dataset, e.kind, e.old, e.new] for e in self.effects if e.changed]
        return format_table(rows)
