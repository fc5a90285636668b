"""What the metadata of images and spectra say, whatever product they are."""

from typing import Any

import numpy as np

from ..dates import to_mjd
from ..errors import DateError, InputError
from .files import Item

__all__ = ["find_mid_mjd", "find_target", "get"]


def get(model: Any, name: str) -> Any:
    """Read one item of a model's metadata without making it; None where it is absent."""
    *parents, last = name.split(".")
    node = model
    for part in parents:
        node = getattr(node, part, None)
        if node is None:
            return None
    found = getattr(node, "hasattr", None)
    if found is not None and not found(last):
        return None
    return getattr(node, last, None)


def find_target(model: Any, item: Item) -> str:
    """Find the name of the target: as said, the catalogue's, or the proposer's.

    Raises
    ------
    InputError
        There is none.
    """
    named = (
        item.said.get("target"),
        get(model, "meta.target.catalog_name"),
        get(model, "meta.target.proposer_name"),
    )
    known = [str(name).strip() for name in named if name and str(name).strip() not in ("", "N/A")]
    if not known:
        raise InputError(
            f"expected the target of {item.name} as target of the association's member, "
            "TARGNAME or TARGPROP, found none; add it"
        )
    return known[0]


def find_mid_mjd(model: Any, item: Item) -> float:
    """Find the middle of an exposure [MJD]: as said, EXPMID, or from its start and end.

    Returns
    -------
    float
        NaN where nothing says it.

    Raises
    ------
    DateError
        What is said is no date.
    """
    try:
        if item.said.get("mjd") is not None:
            return float(item.said["mjd"])
        times = [get(model, f"meta.exposure.{key}_time") for key in ("mid", "start", "end")]
        mid, start, end = (float(value) if value else np.nan for value in times)
        middles = [value for value in (mid, (start + end) / 2, start) if np.isfinite(value)]
        if middles:
            return middles[0]
        date, time = get(model, "meta.observation.date"), get(model, "meta.observation.time")
        return to_mjd(f"{date}T{time or '00:00:00'}") if date else np.nan
    except (ValueError, TypeError) as error:
        raise DateError(
            f"expected the time of {item.name} as MJD, found {error}; correct it"
        ) from error
