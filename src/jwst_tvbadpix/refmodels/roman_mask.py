"""Masks of Roman's Wide Field Instrument: made when asked for, written by `roman`, read back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import InputError
from .roman import RomanHeader, RomanProduct, map_dq_from_roman, map_dq_to_roman, write_roman_mask

__all__ = ["RomanMask", "build_roman_mask", "read_roman_mask"]

_TAGS = "asdf://stsci.edu/datamodels/roman/tags/reference_files/"
# The tag of a mask in RAD 1.1 and 1.2.
_KNOWN_TAG = "mask-2.0.0"


@dataclass(frozen=True, slots=True)
class RomanMask(RomanProduct):
    """The mask of one epoch of a WFI detector; a series of them would not fit in memory.

    Attributes
    ----------
    filename : str
        Ending in ``.asdf``.
    header : RomanHeader
    compose : callable
        Makes the flags: uint32 (4096, 4096) in standard bits, those of JWST.
    """

    filename: str
    header: RomanHeader
    compose: Callable[[], np.ndarray]
    reftype: ClassVar[str] = "MASK"

    @property
    def dq(self) -> np.ndarray:
        """Flags in standard bits, made anew; in the file they are Roman's."""
        return self.compose()

    def save(self, path: str | Path) -> Path:
        """Write the file; see `write_roman_mask`."""
        header = self.header
        return write_roman_mask(
            path,
            map_dq_to_roman(self.dq)[0],
            detector=header.detector,
            useafter=header.useafter,
            description=header.description,
            pedigree=header.pedigree,
            history=header.history,
            author=header.author,
            origin=header.origin,
        )


def build_roman_mask(
    compose: Callable[[], np.ndarray],
    *,
    detector: str,
    useafter: str,
    description: str,
    history: Sequence[str],
    pedigree: str,
    name: str,
) -> RomanMask:
    """Build the mask of one epoch; see `RomanMask`.

    Parameters
    ----------
    compose : callable
        Makes the flags.
    detector, useafter, description, pedigree : str
    history : sequence of str
        As `RomanHeader`.
    name : str
        With which the file name begins: ``NAME_mask_YYYYMMDDThhmmss.asdf``.
    """
    header = RomanHeader(detector, useafter, description, pedigree, tuple(history))
    stamp = useafter.replace("-", "").replace(":", "")
    return RomanMask(f"{name}_mask_{stamp}.asdf", header, compose)


def read_roman_mask(tree: Any, path: Path) -> tuple[str | None, np.ndarray]:
    """Read detector and flags of a mask of Roman, whoever made it.

    Parameters
    ----------
    tree : mapping
        What the file has under ``roman``.
    path : Path
        Of the file, for messages.

    Returns
    -------
    detector : str or None
    dq : uint32 (ny, nx)
        In standard bits; flags that JWST has no name for are left out.

    Raises
    ------
    InputError
        It is no mask, or one of an unknown version of RAD.
    """
    tag = str(getattr(tree, "_read_tag", None) or getattr(tree, "_tag", ""))
    kind = tag.removeprefix(_TAGS)
    if not isinstance(tree, Mapping) or kind != _KNOWN_TAG:
        raise InputError(
            f"expected a mask of Roman ({_KNOWN_TAG}, RAD 1.1 or 1.2) in {path}, found "
            f"{kind or 'none'}; give a mask of WFI, or fetch one of this version"
        )
    return tree["meta"]["instrument"].get("detector"), map_dq_from_roman(np.array(tree["dq"]))[0]
