"""Masks of one series on disk: the first from its model, the others from the bytes of the first.

The masks of a series differ in their flags and in a few texts. What the writers made of the first
is kept as a stamp, and of another mask only what differs is put into it. A stamp is used only if
it gives the very bytes of the mask that it was cut from.
"""

import hashlib
import logging
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import yaml
from astropy.io import fits
from stdatamodels.jwst.datamodels import MaskModel

from ..atomic import find_creation_time
from ..errors import ProductError
from .series import MaskSeries, PlannedMask
from .twins import ZLIB_LEVEL, format_date, publish, unvalidated, was_decoded, write_twins

__all__ = ["MaskWriter"]

log = logging.getLogger(__name__)

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_END_OF_TREE, _INDEX = b"\n...\n", b"#ASDF BLOCK INDEX"
# A block: magic, size of the header that follows, flags, compression, sizes allocated, used and
# unpacked, MD5 of what is used (ASDF standard 1.6.0, low-level file layout).
_BLOCK = struct.Struct(">4sHI4sQQQ16s")
_MAGIC, _HEADER_SIZE = b"\xd3BLK", 48
# Entries of meta in which masks of a series differ, and their keywords.
_KEYWORDS = {"useafter": "USEAFTER", "filename": "FILENAME", "date": "DATE"}
# The first entry of HISTORY, in which they differ too.
_ENTRY = "description"
# Bytes of a card and of a block of FITS, and how it shifts unsigned flags.
_CARD_SIZE, _BLOCK_SIZE, _SHIFT = 80, 2880, np.uint32(2**31)


class MaskWriter:
    """Writes planned masks of one history, with a stamp for each series."""

    def __init__(self) -> None:
        self._stamps: dict[MaskSeries, _Stamp | None] = {}

    def write(self, mask: PlannedMask, folder: Path) -> None:
        """Write the files of a mask, with the guarantees of `write_twins`.

        Parameters
        ----------
        mask : PlannedMask
        folder : Path
            It exists.

        Raises
        ------
        ProductError
            As `write_twins`.
        """
        path = folder / mask.filename
        stamp = self._stamps.get(mask.series)
        if stamp is not None:
            dq, entry = mask.fill()
            if was_decoded(MaskModel, dq):
                stamp.press(dq, {"useafter": mask.useafter, _ENTRY: entry}, path)
                return
        model = mask.build()
        if not isinstance(model, MaskModel):
            model.save(path)
            return
        write_twins(model, path.with_suffix(""))
        if mask.series not in self._stamps:
            self._stamps[mask.series] = _cut(path, model.dq)


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What the files of the masks of a series have in common.

    Attributes
    ----------
    tree, header : bytes
        YAML of the ASDF file, and primary header of the FITS file up to its end.
    in_tree, in_header : dict of str to bytes
        What changes of them, as it stands there.
    comments : dict of str to str
        Those of the keywords.
    inner, outer : bytes
        What stands in FITS between the primary header and the flags, and after them.
    """

    tree: bytes
    header: bytes
    in_tree: dict[str, bytes]
    in_header: dict[str, bytes]
    comments: dict[str, str]
    inner: bytes
    outer: bytes

    def press(self, dq: np.ndarray, texts: Mapping[str, str], path: Path) -> None:
        """Write both files of a mask whose ASDF file has this name, and read them back.

        They are compared as bytes. asdf reads the tree; to unpack the flags again would take longer
        than all the rest, so that their checksum, with which zlib ends, is compared.
        """
        fits_path, made = path.with_suffix(".fits"), format_date(find_creation_time())
        texts = {**texts, "date": made, "filename": path.name}
        with publish(path, fits_path) as (asdf_temporary, fits_temporary):
            content = self.compose_asdf(dq, texts)
            packed = content[: content.rindex(_INDEX)]
            same = packed.endswith(zlib.adler32(np.ascontiguousarray(dq).data).to_bytes(4, "big"))
            _require_same(path, same and _write_back(asdf_temporary, content))
            with unvalidated(), asdf.open(asdf_temporary, memmap=False) as file:
                _require_same(path, _list_texts(file.tree) == texts)
            texts["filename"] = fits_path.name
            header = self.compose_header(texts)
            content = b"".join(self.compose_fits(dq, header))
            flags = np.frombuffer(content, ">u4", dq.size, len(header) + len(self.inner))
            same = content.startswith(header) and np.array_equal(flags ^ _SHIFT, dq.ravel())
            _require_same(fits_path, same and _write_back(fits_temporary, content))
            found = fits.getheader(fits_temporary)
            wanted = {_KEYWORDS[key]: texts[key] for key in _KEYWORDS}
            _require_same(fits_path, {key: found[key] for key in wanted} == wanted)

    def compose_asdf(self, dq: np.ndarray, texts: Mapping[str, str]) -> bytes:
        """Compose the ASDF file: tree, block and index."""
        tree = self.tree
        for key, text in texts.items():
            tree = tree.replace(self.in_tree[key], _render(key, text))
        packed = zlib.compress(np.ascontiguousarray(dq).data, ZLIB_LEVEL)
        md5 = hashlib.md5(packed, usedforsecurity=False).digest()
        sizes = len(packed), len(packed), dq.nbytes
        block = _BLOCK.pack(_MAGIC, _HEADER_SIZE, 0, b"zlib", *sizes, md5)
        index = _INDEX + b"\n%%YAML 1.1\n---\n- %d\n...\n" % len(tree)
        return b"".join([tree, block, packed, index])

    def compose_header(self, texts: Mapping[str, str]) -> bytes:
        """Compose the primary header of the FITS file."""
        header = self.header
        for key, text in texts.items():
            card = _render_card(key, text, self.comments.get(key))
            header = header.replace(self.in_header[key], card)
        header += b"END".ljust(_CARD_SIZE)
        return header.ljust(-(-len(header) // _BLOCK_SIZE) * _BLOCK_SIZE)

    def compose_fits(self, dq: np.ndarray, header: bytes) -> tuple[bytes | memoryview, ...]:
        """Compose the FITS file."""
        flags = np.bitwise_xor(dq, _SHIFT, out=np.empty(dq.shape, ">u4"))
        return header, self.inner, flags.data, self.outer


def _cut(path: Path, dq: np.ndarray) -> _Stamp | None:
    """Cut a stamp from the files of a mask; None where it would not give their bytes again."""
    fits_path = path.with_suffix(".fits")
    whole, twin = path.read_bytes(), fits_path.read_bytes()
    with unvalidated(), asdf.open(path, memmap=False) as file:
        texts = _list_texts(file.tree)
    twin_texts = {**texts, "filename": fits_path.name}
    with fits.open(fits_path, memmap=False) as hdus:
        header = hdus[0].header
        comments = {key: header.comments[keyword] for key, keyword in _KEYWORDS.items()}
        start, place = hdus[1].fileinfo()["hdrLoc"], hdus["DQ"].fileinfo()["datLoc"]
    stamp = _Stamp(
        tree=whole[: whole.index(_END_OF_TREE) + len(_END_OF_TREE)],
        header=header.tostring(endcard=False, padding=False).encode("ascii"),
        in_tree={key: _render(key, text) for key, text in texts.items()},
        in_header={k: _render_card(k, text, comments.get(k)) for k, text in twin_texts.items()},
        comments=comments,
        inner=twin[start:place],
        outer=twin[place + dq.nbytes :],
    )
    places = [stamp.tree.count(old) for old in stamp.in_tree.values()]
    places += [stamp.header.count(old) for old in stamp.in_header.values()]
    again = stamp.compose_fits(dq, stamp.compose_header(twin_texts))
    if set(places) != {1} or stamp.compose_asdf(dq, texts) != whole or b"".join(again) != twin:
        log.debug("No stamp of %s: it would give other bytes", path)
        return None
    return stamp


def _render(key: str, text: str) -> bytes:
    """Write an entry of the tree as asdf does, at its depth."""
    node: dict[str, Any] = {"meta": {key: text}}
    if key == _ENTRY:
        node = {"history": node}
    lines = yaml.dump(node, Dumper=_DUMPER, default_flow_style=False, allow_unicode=True)
    return lines[lines.index(f"{key}:") :].encode()


def _render_card(key: str, text: str, comment: str | None) -> bytes:
    """Write an entry of the tree as astropy does into a header."""
    header = fits.Header()
    header[_KEYWORDS.get(key, "HISTORY")] = (text, comment) if comment else text
    return header.tostring(endcard=False, padding=False).encode("ascii")


def _list_texts(tree: Mapping[str, Any]) -> dict[str, str]:
    """List the texts that change."""
    texts = {key: tree["meta"][key] for key in _KEYWORDS}
    return {**texts, _ENTRY: tree["history"]["entries"][0]["description"]}


def _write_back(path: Path, content: bytes) -> bool:
    """Write a file, and tell whether it reads back."""
    path.write_bytes(content)
    return path.read_bytes() == content


def _require_same(path: Path, same: bool) -> None:
    """Require flags and texts of a file as they were meant."""
    if not same:
        raise ProductError(
            f"expected flags and texts of {path.name} to read back as they were written, found "
            "others; the file was removed. Check the disk"
        )
