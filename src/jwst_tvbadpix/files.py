"""What files say before they are read as data: their checksums, the members of associations."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .dates import allow_far_dates
from .errors import InputError

__all__ = [
    "Product",
    "compute_sha256",
    "open_asdf",
    "read_association",
    "read_yaml",
    "require_plain_tree",
]

# A tree may become this many nodes, or ten times those that are written, by its aliases.
_MOST_NODES = 100_000
_DEEPEST = 200
# What the binary part of an ASDF file begins with.
_BLOCK = b"\xd3BLK"


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
        It cannot be read, is no association of named products with members, or the name of a
        member leads out of its folder.

    Notes
    -----
    A member lies beside the association or beneath it, or is named by an absolute path, as those
    elsewhere are by `tvbadpix associate`; ``../x`` is refused.
    """
    try:
        products = [
            Product(
                str(product["name"]),
                [
                    {
                        **member,
                        "expname": _read_name(member["expname"]),
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"expected a JWST association with named products and members in {path}, found "
            f"{type(error).__name__}: {error}; make it with asn_from_list or tvbadpix associate"
        ) from error
    names = [member["expname"] for product in products for member in product.members]
    outside = [name for name in names if os.path.normpath(name).split(os.sep)[0] == os.pardir]
    if outside:
        raise InputError(
            f"expected members beside {path}, beneath it, or with absolute paths, found "
            f"{outside[0]!r}; name it by its absolute path if it is meant"
        )
    return products


def _read_name(name: Any) -> str:
    """Read the name of a file; ValueError where the system cannot have such a file."""
    if b"\0" in os.fsencode(str(name)):
        raise ValueError(f"the name {name!r}")
    return str(name)


@contextmanager
def open_asdf(path: str | Path, *, lazy_load: bool = False) -> Iterator[Any]:
    """Open an ASDF file that may come from anywhere, its arrays read and their checksums compared.

    Parameters
    ----------
    path : str or Path
    lazy_load : bool
        Whether that is done of an array when it is asked for.

    Yields
    ------
    asdf.AsdfFile

    Raises
    ------
    InputError
        Its tree would grow out of all proportion when its aliases are followed, is nested too
        deeply, or names another file or address to read an array from.
    Exception
        Whatever asdf and yaml raise of a file that is none.
    """
    import asdf

    require_plain_tree(path)
    with allow_far_dates():
        opened = asdf.open(path, memmap=False, lazy_load=lazy_load, validate_checksums=True)
    with opened as file:
        yield file


def require_plain_tree(path: str | Path) -> None:
    """Refuse what `open_asdf` refuses, from the events of the YAML alone: nothing is built."""
    import yaml

    # Of each open node: its anchor, how many nodes it becomes, its tag, its last key.
    nodes: list[list[Any]] = []
    sizes: dict[str | None, float] = {}
    written = 0
    for event in yaml.parse(read_yaml(Path(path)), Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            nodes.append([event.anchor, 0, event.tag or "", None])
            if len(nodes) > _DEEPEST:
                raise _refuse(path, f"more than {_DEEPEST} levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size, *_ = nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            # One that stands within what it names has no size yet.
            anchor, size = None, sizes.get(event.anchor, math.inf)
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 0
            _require_own_array(path, nodes, event.value)
        else:
            continue
        sizes[anchor] = size + 1
        written += 1
        if nodes:
            nodes[-1][1] += size + 1
            if isinstance(event, yaml.ScalarEvent):
                nodes[-1][3] = event.value
        if size > max(_MOST_NODES, 10 * written):
            raise _refuse(path, "aliases within aliases")


def _require_own_array(path: str | Path, nodes: list[list[Any]], value: str) -> None:
    """Refuse an array whose `source` is no block of the file itself."""
    if not nodes or "core/ndarray" not in nodes[-1][2]:
        return
    if nodes[-1][3] == "source" and not value.lstrip("-").isdecimal():
        raise _refuse(path, f"an array to be read from {value}")


def _refuse(path: str | Path, found: str) -> InputError:
    return InputError(
        f"expected a plain ASDF file, complete in itself, found {found} in {path}; do not use it, "
        "ask where it comes from"
    )


def read_yaml(path: Path) -> bytes:
    """Read the tree of an ASDF file as it stands, without its arrays."""
    with path.open("rb") as stream:
        if not stream.readline().startswith(b"#ASDF"):
            raise InputError(f"expected an ASDF file, found another kind in {path}; check the path")
        lines = []
        for line in stream:
            if line.rstrip(b"\r\n") == b"..." or line.startswith(_BLOCK):
                break
            lines.append(line)
    return b"".join(lines)
