"""What files say before they are read as data: their checksums, the members of associations."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError

__all__ = ["Product", "compute_sha256", "read_association"]


@dataclass(frozen=True, slots=True)
class Product:
    """A product of an association, its members with the keys they have ('expname', 'exptype')."""

    name: str
    members: list[dict[str, Any]]


def compute_sha256(path: str | Path) -> str:
    """Compute the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_association(path: Path) -> list[Product]:
    """Read the products of a JWST association.

    Parameters
    ----------
    path : Path
        Of a ``.json`` file.

    Returns
    -------
    list of Product
        Each member with 'exptype' in lower case.

    Raises
    ------
    InputError
        It cannot be read, or is no association of named products with members.
    """
    try:
        return [
            Product(
                str(product["name"]),
                [
                    {
                        **member,
                        "expname": str(member["expname"]),
                        "exptype": member["exptype"].lower(),
                    }
                    for member in product["members"]
                ],
            )
            for product in json.loads(path.read_text(encoding="utf-8"))["products"]
        ]
    except OSError as error:
        raise InputError(
            f"expected a readable association, found {path}: {error.strerror}; check the path"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"expected a JWST association with named products and members in {path}, found "
            f"{error!r}; make it with asn_from_list or tvbadpix associate"
        ) from error
