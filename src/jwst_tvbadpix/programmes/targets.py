"""Names of targets: one spelling, whether they say background, and which are standard stars."""

import re

__all__ = ["DENSE_FIELDS", "STANDARDS", "find_standard", "is_dense_field", "normalise", "read_name"]

# Stars of the absolute flux calibration of JWST and their class; Gordon et al. 2022, AJ 163, 267,
# and the programmes that observe them. Other spellings are found by `find_standard`.
STANDARDS = {
    "hot": (
        "G191B2B",
        "GD71",
        "GD153",
        "LDS749B",
        "WD1057+719",
        "WD1657+343",
        "10Lac",
        "lamLep",
        "muCol",
    ),
    "A dwarf": (
        "HD163466",
        "HD2811",
        "HD14943",
        "HD37725",
        "HD55677",
        "HD101452",
        "HD116405",
        "HD128998",
        "HD158485",
        "HD180609",
        "BD+60-1753",
        "J1732526",
        "J1743045",
        "J1757132",
        "J1802271",
        "J1805292",
        "J1808347",
        "J1812095",
        "delUMi",
        "HD166205",
    ),
    "solar analog": (
        "P330E",
        "P177D",
        "P041C",
        "C26202",
        "SNAP2",
        "SF1615+001A",
        "NGC2506G31",
        "16CygB",
        "18Sco",
        "HD37962",
        "HD38949",
        "HD106252",
        "HD115169",
        "HD142331",
        "HD146233",
        "HD159222",
        "HD167060",
        "HD205905",
    ),
}
# Parts of the names of crowded fields used for external flats.
DENSE_FIELDS = ("LMC", "SMC", "47TUC", "NGC104", "OMEGACEN", "NGC5139", "M92", "GALACTICBULGE")

_TWO_MASS = re.compile(r"^2MASS(?=J\d)")
# A name or label of a background: -BKG, BKG2, BACKGROUND, OFF-SKY; WBKG means with background,
# which is the pointing at the star.
_BACKGROUND = re.compile(r"(?<!W)BKGD?(?![A-Z])|BACKGROUND|BACKGR(?![A-Z])")
_BLANK = re.compile(r"BLANK|EMPTY|(?<![A-Z])(DARK|DEEP)?-?_? ?SKY(?![A-Z])")
_FAILED = re.compile(r"(?<![A-Z])FAILED")


def normalise(name: str) -> str:
    """Spell a name as capitals and digits alone: "BD+60 1753" and "BD+60-1753" are one."""
    return re.sub(r"[^A-Z0-9]", "", name.upper())


def read_name(name: str) -> str | None:
    """Tell what a target's name (or a label) says of its role.

    Parameters
    ----------
    name : str
        TARGPROP, or the label of an observation.

    Returns
    -------
    str or None
        "background", "blank", "failed", or None where it says none of these.
    """
    text = name.upper()
    if _FAILED.search(text):
        return "failed"
    if _BACKGROUND.search(text):
        return "background"
    return "blank" if _BLANK.search(text) else None


def find_standard(name: str | None) -> tuple[str, str] | None:
    """Find the standard star that a target's name begins with.

    Parameters
    ----------
    name : str or None
        TARGPROP, such as "HD-2811-lrs wbkg".

    Returns
    -------
    (str, str) or None
        Its name and its class; None where it is none of `STANDARDS`.
    """
    spelled = _TWO_MASS.sub("", normalise(name or ""))
    for kind, stars in STANDARDS.items():
        for star in stars:
            start = normalise(star)
            # HD2811 is not the beginning of HD28119.
            if spelled.startswith(start) and not (
                start[-1].isdigit() and spelled[len(start) :][:1].isdigit() and start[0] != "J"
            ):
                return star, kind
    return None


def is_dense_field(name: str | None) -> bool:
    """Tell whether a target's name is that of a crowded field."""
    return normalise(name or "").startswith(DENSE_FIELDS)
