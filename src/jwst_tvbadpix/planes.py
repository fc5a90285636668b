"""Images in ASDF files, read by rows: stored plainly, or in the LZ4 chunks that asdf writes."""

import shutil
import struct
import tempfile
import warnings
import weakref
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .errors import InputError

__all__ = ["Plane", "find_planes"]

# Header of a block: magic, size of the rest; flags, compression, sizes that are allocated, used
# and uncompressed, checksum (ASDF standard, "Low-level file layout").
_MAGIC = b"\xd3BLK"
_HEADER = struct.Struct(">4sHI4sQQQ16s")
_STREAMED = 1
_MOST_PADDING = 2**20
# A chunk of LZ4: its size, then the size of what it holds, with which the chunk begins.
_CHUNK = struct.Struct(">I")
_CONTENT = struct.Struct("<I")
# One plane is unpacked whole at a time, whichever file it is of.
_UNPACKING = Lock()
_NONE = bytes(4)
_ADVICE = "download the file again, or make it again"


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of a file: where its content begins, its size, how it is compressed."""

    begin: int
    used: int
    compression: bytes


class Plane:
    """An image in an ASDF file.

    Parameters
    ----------
    path : Path
    keys : tuple of str
        Where the tree has it.
    node : mapping
        What the tree says of it there.
    blocks : sequence
        The blocks of the file.

    Raises
    ------
    InputError
        It is no image in a block of the file.
    """

    def __init__(self, path: Path, keys: tuple[str, ...], node: Any, blocks: list[_Block]) -> None:
        self._path, self._keys = path, keys
        try:
            dtype = np.dtype(str(node["datatype"]))
            self.dtype = dtype.newbyteorder(">" if node["byteorder"] == "big" else "<")
            ny, nx = (int(n) for n in node["shape"])
            self._block = blocks[int(node["source"])]
        except (TypeError, KeyError, ValueError, IndexError) as error:
            raise InputError(
                f"expected the image {'.'.join(keys)} in a block of {path}, found "
                f"{type(error).__name__}: {error}; {_ADVICE}"
            ) from error
        self.shape = (ny, nx)
        size = ny * nx * self.dtype.itemsize
        usual = not {"strides", "mask"} & set(node) and not node.get("offset")
        self._plain = usual and self._block.compression == _NONE and self._block.used == size
        self._chunks = self._list_chunks(size) if usual else []
        self._folder: Path | None = None

    def read(self, rows: slice) -> np.ndarray:
        """Read rows, in the byte order of the machine.

        Raises
        ------
        InputError
            The content cannot be unpacked.
        """
        if self._plain:
            whole = np.memmap(self._path, self.dtype, "r", self._block.begin, self.shape)
            values = whole[rows]
        elif self._chunks:
            values = self._read_chunks(rows)
        else:
            values = np.load(self._unpack(), mmap_mode="r")[rows]
        return np.array(values, self.dtype.newbyteorder("="))

    def _list_chunks(self, size: int) -> list[tuple[int, int, int]]:
        """List the chunks: place and size in the file, and the bytes of the image before it.

        None where the block is not compressed by LZ4, or the chunks do not add up to the image.
        """
        block, chunks, before = self._block, [], 0
        if block.compression != b"lz4\0":
            return []
        end = block.begin + block.used
        with self._path.open("rb") as stream:
            position = block.begin
            while position + _CHUNK.size + _CONTENT.size <= end:
                stream.seek(position)
                (packed,) = _CHUNK.unpack(stream.read(_CHUNK.size))
                (content,) = _CONTENT.unpack(stream.read(_CONTENT.size))
                position += _CHUNK.size
                chunks.append((position, packed, before))
                before += content
                position += packed
        return chunks if before == size and position == end else []

    def _read_chunks(self, rows: slice) -> np.ndarray:
        """Unpack the chunks that hold some rows."""
        from lz4.block import LZ4BlockError, decompress

        start, stop, _ = rows.indices(self.shape[0])
        width = self.shape[1] * self.dtype.itemsize
        starts = [before for *_, before in self._chunks]
        first = bisect_right(starts, start * width) - 1
        last = max(first + 1, bisect_right(starts, stop * width - 1))
        with self._path.open("rb") as stream:
            parts = []
            for position, packed, _ in self._chunks[first:last]:
                stream.seek(position)
                try:
                    parts.append(decompress(stream.read(packed)))
                except LZ4BlockError as error:
                    raise self._refuse(error) from error
        skipped = start * width - starts[first]
        count = max(0, stop - start) * self.shape[1]
        values = np.frombuffer(b"".join(parts), self.dtype, count, skipped)
        return values.reshape(-1, self.shape[1])

    def _unpack(self) -> Path:
        """Unpack the whole, once, into a temporary folder, which goes when this object does."""
        with _UNPACKING:
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="tvbadpix-"))
                weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            path = self._folder / "plane.npy"
            if not path.is_file():
                unfinished = path.with_name("unfinished.npy")
                np.save(unfinished, self._load())
                unfinished.replace(path)
        return path

    def _load(self) -> np.ndarray:
        import asdf

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of versions: that is for the caller to judge
                with asdf.open(self._path, memmap=True, lazy_tree=True) as file:
                    node = file.tree
                    for key in self._keys:
                        node = node[key]
                    values = np.array(node)
            if values.shape != self.shape:
                raise ValueError(f"an array of shape {values.shape}, not {self.shape}")
            return values
        except MemoryError:
            raise
        except Exception as error:  # each decompressor has its own for what it cannot read
            raise self._refuse(error) from error

    def _refuse(self, error: Exception) -> InputError:
        return InputError(
            f"expected a compressed image {'.'.join(self._keys)} in {self._path}, found "
            f"{type(error).__name__}: {error}; {_ADVICE}"
        )


def find_planes(path: Path, tree: Mapping[str, Any], under: str, names: list[str]) -> list[Plane]:
    """Find images in an ASDF file, without reading them.

    Parameters
    ----------
    path : Path
    tree : mapping
        What the file has under the key `under`, as `asdf.util.load_yaml` reads it.
    under : str
    names : list of str
        Their keys in `tree`.

    Returns
    -------
    list of Plane

    Raises
    ------
    InputError
        One is absent, or the file is truncated.
    """
    blocks = _list_blocks(path)
    return [Plane(path, (under, name), tree.get(name), blocks) for name in names]


def _list_blocks(path: Path) -> list[_Block]:
    """List the blocks of an ASDF file by their headers."""
    size = path.stat().st_size
    blocks: list[_Block] = []
    with path.open("rb") as stream:
        while stream.readline().rstrip() not in (b"...", b""):
            pass
        position = stream.tell()
        position += max(0, stream.read(_MOST_PADDING).find(_MAGIC))
        while position < size:
            stream.seek(position)
            header = stream.read(_HEADER.size)
            if not header.startswith(_MAGIC):
                break  # the index, after the last block
            begin = end = size + 1
            if len(header) == _HEADER.size:
                _, rest, flags, compression, allocated, used, _, _ = _HEADER.unpack(header)
                begin = position + 6 + rest
                # A streamed block, the last, ends where the file does.
                end = size if flags & _STREAMED else begin + used
            if end > size:
                raise InputError(
                    f"expected the whole of block {len(blocks)} in {path}, found the end of the "
                    f"file at {size} bytes: it is truncated; download it again"
                )
            blocks.append(_Block(begin, end - begin, compression))
            position = size if flags & _STREAMED else begin + allocated
    return blocks
