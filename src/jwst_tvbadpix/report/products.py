"""Which products lie on disk, what they are, and which belong together."""

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from asdf.util import load_yaml

from ..errors import InputError
from ..files import read_yaml, require_plain_tree
from ..processes import run_beside

__all__ = ["KINDS", "Product", "find_groups", "pick_products", "read_product"]

# REFTYPE of our products, and that of the one that leads those of a run.
KINDS: Mapping[str, str] = {
    "BADPIXHISTORY": "BADPIXHISTORY",
    "MASK": "BADPIXHISTORY",
    "STARFLAT": "STARFLAT",
    "FLAT": "STARFLAT",
    "ABSFLUX": "ABSFLUX",
    "PHOTOM": "ABSFLUX",
}

# Files from which a second process is worth its start, and most whose heads are kept.
_MANY, _MOST_HEADS = 64, 4096
# Lines of a tree from its key `meta` or `roman` to its next one.
_BRANCH = re.compile(rb"^(?:meta|roman):.*?(?=^[^\s#]|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Product:
    """What an ASDF file says of itself.

    Attributes
    ----------
    path : Path
    reftype, detector : str
        A key of `KINDS`; empty where it names no detector.
    useafter : str
    """

    path: Path
    reftype: str
    detector: str
    useafter: str

    @property
    def name(self) -> str:
        """NAME of its run: the file name up to the detector, or without its last part."""
        stem = self.path.stem
        name = stem.rpartition(f"_{self.detector}_")[0] if self.detector else ""
        return name or stem.rpartition("_")[0] or stem

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it shares with those that belong on one page with it."""
        kind = KINDS[self.reftype]
        own = self.detector if kind == "BADPIXHISTORY" else ""
        return kind, str(self.path.parent), self.name, own


_Key = tuple[Path, int, int, int, int]
# What files were found to be, once for all parts of a page while they stay as they are.
_HEADS: dict[_Key, Product] = {}


def read_product(path: Path) -> Product:
    """Read what a file is, without its arrays.

    Raises
    ------
    InputError
        It is no product of this package.
    """
    advice = "give a history, mask, star flat, flat, absflux or photom file (.asdf), or a folder"
    if not path.is_file():
        raise InputError(f"expected a product, found no file at {path}; {advice}")
    key = _identify(path)
    if key not in _HEADS:
        if len(_HEADS) >= _MOST_HEADS:
            _HEADS.clear()
        _HEADS[key] = _read_head(path, advice)
    return _HEADS[key]


def _read_ahead(paths: Sequence[Path]) -> None:
    """Read what many files are in two processes, so that `read_product` knows it."""
    new = [path for path in paths if path.is_file() and _identify(path) not in _HEADS]
    if len(new) < _MANY:
        return
    with run_beside(partial(_read_heads, new[::2])) as wait:
        heads = _read_heads(new[1::2])
        _HEADS.update(heads | wait())


def _read_heads(paths: Sequence[Path]) -> dict[_Key, Product]:
    heads = {}
    for path in paths:
        with suppress(InputError):
            heads[_identify(path)] = read_product(path)
    return heads


def _identify(path: Path) -> _Key:
    """Tell a file from what it becomes when it is written again."""
    now = path.stat()
    return path, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def _read_head(path: Path, advice: str) -> Product:
    """Read what a file is."""
    try:
        require_plain_tree(path)
        tree = _load_meta(path) or load_yaml(path, tagged=False)
        meta: Any = tree.get("roman", tree)["meta"]
        reftype = str(meta.get("reftype")).upper()
        detector = str(meta.get("instrument", {}).get("detector") or "")
    except Exception as error:  # asdf and yaml raise what they like on what is no ASDF
        raise InputError(
            f"expected a product in ASDF, found {path}: {type(error).__name__}: "
            f"{str(error).partition(chr(10))[0]}; {advice}"
        ) from error
    if reftype not in KINDS:
        raise InputError(
            f"expected one of {', '.join(KINDS)} in {path}, found REFTYPE {reftype!r}; {advice}"
        )
    return Product(
        path, reftype, "" if detector == "N/A" else detector, _read_useafter(meta.get("useafter"))
    )


def _load_meta(path: Path) -> dict[str, Any] | None:
    """Load the branch of a tree that has its `meta`, as asdf writes it; None where it cannot be.

    Hundreds of masks have long histories: to load these takes most of the time.
    """
    branch = _BRANCH.search(read_yaml(path))
    if branch is None:
        return None
    try:
        tree = yaml.load(branch[0], yaml.CSafeLoader)  # which knows no tags of others
    except yaml.YAMLError:
        return None
    return tree if isinstance(tree.get("roman", tree).get("meta"), dict) else None


def _read_useafter(value: Any) -> str:
    """Read USEAFTER as JWST writes it; Roman has a time, with parts of the second."""
    return str(value or "")[:19]


def pick_products(paths: Sequence[Path], reftype: str) -> list[Path]:
    """Pick the ASDF products of a REFTYPE among files, in order."""
    return [
        path
        for path in sorted(paths)
        if path.suffix == ".asdf" and read_product(path).reftype == reftype
    ]


def find_groups(paths: Iterable[Path]) -> dict[str, list[Path]]:
    """Find the products of each run that was named, and what lies beside them.

    Parameters
    ----------
    paths : iterable of Path
        Products, and folders of products; for a product also those beside it of the same run.

    Returns
    -------
    dict of str to list of Path
        By the name of the page: ``NAME``, or what tells runs of the same NAME apart; ASDF
        products and ECSV tables in order.

    Raises
    ------
    InputError
        A file is no product of this package, or a folder holds none.
    """
    names: dict[str, list[Path]] = {}
    done = set()
    for path in paths:
        for product in _list_folder(path) if path.is_dir() else [read_product(path)]:
            if product.key in done:
                continue
            done.add(product.key)
            near = _list_near(product)
            name = _name_group(product, near)
            while name in names:
                name += "_2"
            tables = [
                table
                for table in product.path.parent.glob("*.ecsv")
                if table.name.startswith(f"{product.name}_")
            ]
            own = [other.path for other in near if other.key == product.key]
            names[name] = sorted([*own, *tables])
    return names


def _name_group(product: Product, near: Sequence[Product]) -> str:
    """Name a page: NAME, with the detector and the kind where others share the NAME."""
    keys = {other.key for other in near}
    detector = product.key[3] if len({key[3] for key in keys}) > 1 else ""
    kind = product.key[0].lower() if len({key[0] for key in keys}) > 1 else ""
    return "_".join(filter(None, (product.name, detector, kind)))


def _list_folder(folder: Path) -> list[Product]:
    """List the products in a folder; other files are none of our business."""
    found = []
    paths = sorted(folder.glob("*.asdf"))
    _read_ahead(paths)
    for path in paths:
        try:
            found.append(read_product(path))
        except InputError:
            continue
    if not found:
        raise InputError(
            f"expected products (*.asdf) in {folder}, found none; give the folder of a run's "
            "output, or a product"
        )
    return found


def _list_near(product: Product) -> list[Product]:
    """List the products of the same NAME in the folder, that one included."""
    found = [product]
    paths = sorted(product.path.parent.glob(f"{glob.escape(product.name)}_*.asdf"))
    _read_ahead(paths)
    for path in paths:
        if path == product.path:
            continue
        try:
            other = read_product(path)
        except InputError:
            continue
        if other.name == product.name:
            found.append(other)
    return found
