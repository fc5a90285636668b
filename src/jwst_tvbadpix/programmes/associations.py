"""Associations: what one holds, its name, and its file."""

import logging
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import open_hidden_folder
from ..errors import InputError
from ..refmodels.twins import rename_all
from .classify import Role
from .scan import Observation

__all__ = ["Association", "Member", "make_name", "write_associations"]

log = logging.getLogger(__name__)

# A product name becomes part of file names and of a FITS header.
_LONGEST_NAME = 110
_LONGEST_PART = 40


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an association.

    Attributes
    ----------
    observation : Observation
        The file.
    role : Role
        What the exposure is, and why.
    exptype : str
        Member type: "science", "background" or "dark".
    """

    observation: Observation
    role: Role
    exptype: str


@dataclass(frozen=True, slots=True)
class Association:
    """Files that a step takes together.

    Attributes
    ----------
    name : str
        Name of the one product; the file is called so, with ``_asn.json``.
    step : str
        `class_alias` of the step.
    program, target : str
        Five digits, or "multi"; the target, or "multi".
    kind : str
        "image" or "spectrum".
    stage : str
        What the members are: "rateints", "x1d", ...; several as "rate|rateints".
    ready : bool
        Whether the step takes these products as they are; else they must be reprocessed first.
    members : tuple of Member
        Science first, then background and dark, each in order of time.
    doubts : tuple of str
        What is uncertain, with the number of members it concerns.
    """

    name: str
    step: str
    program: str
    target: str
    kind: str
    stage: str
    ready: bool
    members: tuple[Member, ...]
    doubts: tuple[str, ...] = ()

    @property
    def filename(self) -> str:
        """Name of its file."""
        return f"{self.name}_asn.json"


def make_name(parts: Sequence[str | None]) -> str:
    """Join parts to the name of a product: letters, digits and ``_+.-`` alone.

    Parts that are absent are left out; a part, and the whole, are cut where they are too long.
    """
    cleaned = [re.sub(r"[^A-Za-z0-9_+.-]+", "-", part).strip("-._") for part in parts if part]
    name = "_".join(part[:_LONGEST_PART] for part in cleaned if part)
    return name[:_LONGEST_NAME].rstrip("-._")


def write_associations(associations: Sequence[Association], folder: Path) -> tuple[Path, ...]:
    """Write associations: all of them or none.

    Parameters
    ----------
    associations : sequence of Association
        With names that differ.
    folder : Path
        Where to write; made when absent. A file of the same name is replaced: the name says what
        belongs into it.

    Returns
    -------
    tuple of Path
        ``NAME_asn.json`` of each, in their order.

    Raises
    ------
    InputError
        An association cannot be loaded by ``jwst.associations`` once written.
    OSError
        The folder cannot be written to; nothing was left there.

    Notes
    -----
    A member is named by its path relative to the folder where it lies in or beneath it, by its
    absolute path elsewhere.
    """
    if not associations:
        return ()
    folder.mkdir(parents=True, exist_ok=True)
    finals = [folder / association.filename for association in associations]
    if len({str(path).lower() for path in finals}) < len(finals):
        raise InputError(f"expected names that differ, found {', '.join(p.name for p in finals)}")
    with open_hidden_folder(folder) as hidden:
        temporaries = [hidden / path.name for path in finals]
        for association, final, temporary in zip(associations, finals, temporaries, strict=True):
            text = _serialise(association, folder)
            if final.is_file() and final.read_text(encoding="utf-8") != text:
                log.info("%s held another association: it is replaced", final)
            temporary.write_text(text, encoding="utf-8")
            _check_loads(association, temporary)
        rename_all(temporaries, finals)
    return tuple(finals)


def _serialise(association: Association, folder: Path) -> str:
    """Make the text of an association with the pipeline's own rule."""
    from jwst.associations.asn_from_list import asn_from_list
    from jwst.associations.lib.rules_level3_base import DMS_Level3_Base

    with warnings.catch_warnings():
        # It warns that names hold paths; where the files lie elsewhere they must.
        warnings.simplefilter("ignore", UserWarning)
        made: Any = asn_from_list(
            [(_name_member(m.observation.path, folder), m.exptype) for m in association.members],
            rule=DMS_Level3_Base,
            product_name=association.name,
            with_exptype=True,
        )
        kinds = {"image": "image3", "spectrum": "spec3"}
        made["asn_type"] = kinds.get(association.kind, "user_built")
        made["program"], made["target"] = association.program, association.target
        made["asn_pool"], made["asn_id"] = "none", "a3001"
        text: str = made.dump("json")[1]
    return text + "\n"


def _name_member(path: Path, folder: Path) -> str:
    path, folder = path.absolute(), folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _check_loads(association: Association, path: Path) -> None:
    """Load an association as the pipeline does, and compare."""
    from jwst.associations import load_asn
    from jwst.associations.exceptions import AssociationNotValidError

    try:
        with warnings.catch_warnings(), path.open(encoding="utf-8") as stream:
            warnings.simplefilter("ignore", UserWarning)
            (product,) = load_asn(stream)["products"]
        found = [member["exptype"] for member in product["members"]]
    except (AssociationNotValidError, ValueError, KeyError) as error:
        raise InputError(
            f"expected an association that jwst.associations loads, found {error!r} for "
            f"{association.name}; check the names of its members"
        ) from error
    if found != [member.exptype for member in association.members]:
        raise InputError(
            f"expected {len(association.members)} members in {association.name}, found "
            f"{len(found)} once written; check the names of its members"
        )
