"""Standard stars: one name and class for all spellings of TARGNAME and of CALSPEC files."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

__all__ = ["CLASSES", "Standard", "find_calspec", "find_star", "list_standards", "spell"]

# Classes of stars, and how tables of photometry call them (SRCTYPE).
CLASSES = MappingProxyType(
    {
        "hot": "hot",
        "hotstar": "hot",
        "hotstars": "hot",
        "adwarf": "adwarf",
        "adwarfs": "adwarf",
        "solar": "solar",
        "solaranalog": "solar",
        "solaranalogs": "solar",
        "asteroid": "asteroid",
        "asteroids": "asteroid",
    }
)
# What target names carry besides the star: which pointing, template or background it is.
_REST = re.compile(
    r"(W?BKGD?|BACKGROUND|WITH|OFFSET|ROUND|BAR|MIRI|NIRCAM|NIRSPEC|NIRISS|FGS|LRS|MRS|SOSS|FS"
    r"|IFU|SLITLESS|SLIT|IMAGING|CORON|ND|TA|STAR|CAL|COPY|OBS|MASK[A-Z0-9]+|\d)*"
)


@dataclass(frozen=True, slots=True)
class Standard:
    """A star, as the table of aliases has it.

    Attributes
    ----------
    name : str
        What results call it; the given name where it is none of the table.
    star_class : str
        'hot', 'adwarf', 'solar', 'asteroid', or '' where unknown.
    calspec : tuple of str
        How its CALSPEC files begin.
    """

    name: str
    star_class: str = ""
    calspec: tuple[str, ...] = ()


def spell(name: str) -> str:
    """Spell a name as capitals and digits alone: "BD+60 1753" and "BD+60-1753" are one."""
    return re.sub(r"[^A-Z0-9]", "", name.upper())


@cache
def list_standards() -> tuple[Standard, ...]:
    """List the standard stars of the table ``standards.csv``."""
    return tuple(dict.fromkeys(_read_aliases().values()))


@cache
def _read_aliases() -> Mapping[str, Standard]:
    """Read the table: spelled alias to star."""
    text = resources.files(__package__).joinpath("standards.csv").read_text(encoding="utf-8")
    stars: dict[str, Standard] = {}
    for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#")):
        calspec = tuple(filter(None, row["calspec"].split("|")))
        star = Standard(row["name"], row["class"], calspec)
        for alias in (row["name"], *calspec, *filter(None, row["aliases"].split("|"))):
            stars[spell(alias)] = star
    return MappingProxyType(stars)


@cache
def find_star(name: str) -> Standard:
    """Find the standard star that a name stands for.

    Parameters
    ----------
    name : str
        TARGNAME, TARGPROP, the ``name`` of a table, or the name of a CALSPEC file.

    Returns
    -------
    Standard
        With the given name, no class and no CALSPEC files where it is none of the table.

    Notes
    -----
    A name may go on after the star with words that say which pointing it is ("HD-2811-lrs wbkg",
    "J1743045-OFFSET-ROUND"), but not with others: HD28119 and HD 2811 B are other stars.
    """
    stars, spelled = _read_aliases(), spell(name)
    if spelled in stars:
        return stars[spelled]
    for alias in sorted(stars, key=len, reverse=True):
        rest = spelled[len(alias) :]
        if (
            spelled.startswith(alias)
            and not (alias[-1].isdigit() and rest[0].isdigit())
            and _REST.fullmatch(rest)
        ):
            return stars[alias]
    return Standard(name.strip())


def find_calspec(filename: str) -> Standard:
    """Find the star of a CALSPEC file: 'bd60d1753_mod_006.fits' is of BD+60 1753.

    Parameters
    ----------
    filename : str
        Name, path or address of the file.

    Returns
    -------
    Standard
        With the stem of the file as its name where it is none of the table.
    """
    stem = re.split(r"[/\\]", filename)[-1].lower()
    stem = re.split(r"_(?:mod|stis|nic|fos|iue|wfc|model)[a-z]*(?=[_.])|\.", stem)[0]
    return find_star(stem)
