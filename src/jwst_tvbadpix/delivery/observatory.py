"""Which telescope a reference is of, and what crds calls its things."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from asdf.exceptions import AsdfWarning

from ..errors import InputError
from ..files import open_asdf

__all__ = [
    "JWST",
    "ROMAN",
    "Observatory",
    "find_config",
    "find_observatory",
    "guess_observatory",
    "of_file",
    "of_instrument",
    "of_mapping",
]


@dataclass(frozen=True, slots=True)
class Observatory:
    """A telescope as crds knows it.

    Attributes
    ----------
    name : str
        Of the folders of a cache, and the beginning of all CRDS names.
    title : str
        For messages.
    prefix : str
        What comes before META in a keyword.
    date_keys : tuple of str
        The keywords by which exposures are selected by date.
    """

    name: str
    title: str
    prefix: str
    date_keys: tuple[str, ...]

    @property
    def types(self) -> Any:
        """What crds ships as the start of each type."""
        return import_module(f"crds.{self.name}").TYPES

    @property
    def instruments(self) -> tuple[str, ...]:
        """Its instruments, in lower case."""
        return tuple(key for key in import_module(f"crds.{self.name}").INSTRUMENTS if key != "all")

    @property
    def instrument_key(self) -> str:
        """The keyword of the instrument."""
        return f"{self.prefix}META.INSTRUMENT.NAME"

    @property
    def locate(self) -> Any:
        """How crds reads its files."""
        return import_module(f"crds.{self.name}.locate")

    def date_header(self, date: str, time: str) -> dict[str, str]:
        """Write a date (YYYY-MM-DD) and time as the keywords that select by it."""
        values = (date, time) if len(self.date_keys) == 2 else (f"{date} {time}",)
        return dict(zip(self.date_keys, values, strict=True))

    def read_date(self, header: Mapping[str, str]) -> str:
        """Read the date of an exposure: YYYY-MM-DDThh:mm:ss and, where it has them, decimals."""
        return "T".join(header[key] for key in self.date_keys).replace(" ", "T")

    def rules(self, instrument: str) -> dict[str, Mapping[str, Any]]:
        """List the types of an instrument: kind -> what crds knows of it; {} for none."""
        return dict(self.types.unified_defs.get(instrument, {}))


JWST = Observatory("jwst", "JWST", "", ("META.OBSERVATION.DATE", "META.OBSERVATION.TIME"))
ROMAN = Observatory("roman", "Roman", "ROMAN.", ("ROMAN.META.EXPOSURE.START_TIME",))


def of_instrument(instrument: str) -> Observatory:
    """Tell the telescope of an instrument; that of the unknown is JWST."""
    return ROMAN if instrument in ROMAN.instruments else JWST


def of_mapping(name: str) -> Observatory:
    """Tell the telescope of a CRDS name, such as ``roman_0001.pmap``; of the unknown, JWST."""
    return ROMAN if name.startswith(f"{ROMAN.name}_") else JWST


def of_file(path: Path) -> Observatory:
    """Tell the telescope of a file by itself; that of the unknown, and unreadable, is JWST."""
    try:
        with path.open("rb") as file:
            if file.read(5) != b"#ASDF":
                return JWST
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AsdfWarning)  # tags of what is not installed
            with open_asdf(path) as opened:
                return ROMAN if "roman" in opened.tree else JWST
    except Exception:  # whoever reads it next says what is wrong
        return JWST


def guess_observatory(folder: Path) -> Observatory:
    """Tell whose references a folder holds, before they are read: Roman's if one file is."""
    files = sorted(folder.glob("*.asdf")) if folder.is_dir() else []
    return ROMAN if any(of_file(path) is ROMAN for path in files) else JWST


def find_config(cache: Path) -> Path:
    """Find the folder of a cache that holds its configuration; that of JWST where it has none."""
    places = [cache / "config" / telescope.name for telescope in (JWST, ROMAN)]
    return next((place for place in places if place.is_dir()), places[0])


def find_observatory(paths: Iterable[Path]) -> Observatory:
    """Find the one telescope that files are of.

    Parameters
    ----------
    paths : iterable of Path

    Returns
    -------
    Observatory
        JWST for no file.

    Raises
    ------
    InputError
        They are of two.
    """
    first: dict[Observatory, Path] = {}
    for path in paths:
        first.setdefault(of_file(path), path)
    if len(first) > 1:
        listed = " and ".join(f"{path} of {other.title}" for other, path in first.items())
        raise InputError(
            f"expected references of one telescope, found {listed}; CRDS has a context for each, "
            "take them apart"
        )
    return next(iter(first), JWST)
