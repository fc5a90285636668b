"""Our check of references in ASDF by the rules that crds has for FITS; not an approval by CRDS."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..refmodels import identity_dq_def

__all__ = ["asdf_rules"]


@contextmanager
def asdf_rules() -> Iterator[None]:
    """Let crds certify read ASDF as it reads FITS, within this process and block.

    Yields
    ------
    None

    Notes
    -----
    crds 14.0 refuses to look at an array of an ASDF file, does not find keywords by their FITS
    names there, and reads no table. Each of the three is supplied from the data model, which
    knows the HDU and keyword of every entry; the rules (.tpn) are those of the installed crds.
    """
    from crds.io import asdf as crds_asdf
    from crds.io import tables

    read_header, count_tables, read_tables = (
        crds_asdf.AsdfFile.get_raw_header,
        tables.ntables,
        tables.tables,
    )

    def get_raw_header(self: Any, needed_keys: tuple[str, ...] = (), **keys: Any) -> Any:
        header = read_header(self, needed_keys, **keys)
        for path, keyword in _list_keywords(self.filepath).items():
            if path.upper() in header:
                header.setdefault(keyword, header[path.upper()])
        return header

    def ntables(filename: str) -> Any:
        if not filename.endswith(".asdf"):
            return count_tables(filename)
        return len(_read_tables(filename))

    def list_tables(filename: str) -> Any:
        if not filename.endswith(".asdf"):
            return read_tables(filename)
        found = enumerate(_read_tables(filename), start=1)
        return [_make_table(filename, segment, table) for segment, table in found]

    list_tables.cache = read_tables.cache  # type: ignore[attr-defined]
    try:
        crds_asdf.AsdfFile.get_array_properties = _get_array_properties
        crds_asdf.AsdfFile.get_raw_header = get_raw_header
        tables.ntables, tables.tables = ntables, list_tables
        yield
    finally:
        del crds_asdf.AsdfFile.get_array_properties
        crds_asdf.AsdfFile.get_raw_header = read_header
        tables.ntables, tables.tables = count_tables, read_tables


def _get_array_properties(self: Any, array_name: str, keytype: str = "A") -> Any:
    """Describe an array by the name of its HDU, as the FITS twin would show it."""
    from crds.core import utils

    array = _read_arrays(self.filepath).get(str(array_name))
    if array is None:
        return "UNDEFINED"
    names = array.dtype.names
    return utils.Struct(
        SHAPE=array.shape,
        KIND="TABLE" if names else "IMAGE",
        DATA_TYPE={name.upper(): _name_dtype(array.dtype[name]) for name in names}
        if names
        else array.dtype.name,
        COLUMN_NAMES=[name.upper() for name in names] if names else None,
        NAME=array_name,
        EXTENSION=array_name,
        DATA=array if keytype == "D" else None,
    )


def _name_dtype(dtype: np.dtype) -> str:
    """Name the type of a column as it is in a FITS table."""
    base = dtype.base
    name = {
        "u": f">i{base.itemsize}",
        "U": f"|S{base.itemsize // 4}",
    }.get(base.kind, base.newbyteorder(">").str)
    return str((name, dtype.shape)) if dtype.shape else name


def _walk(filename: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Go through the schema of a file's model: (dotted path, part of the schema, model)."""
    from stdatamodels import schema
    from stdatamodels.jwst import datamodels

    with datamodels.open(filename) as model:
        parts: list[tuple[str, dict[str, Any]]] = []

        def visit(part: dict[str, Any], path: list[Any], *_: Any) -> None:
            parts.append((".".join(map(str, path)), part))

        schema.walk_schema(model._schema, visit)
        for path, part in parts:
            yield path, part, model


def _list_keywords(filename: str) -> dict[str, str]:
    """List the FITS keywords of the primary header: dotted path -> keyword."""
    return {
        path: part["fits_keyword"]
        for path, part, _ in _walk(filename)
        if "fits_keyword" in part and part.get("fits_hdu", "PRIMARY") == "PRIMARY"
    }


def _read_arrays(filename: str) -> dict[str, np.ndarray]:
    """Read the arrays that the file has: name of the HDU -> array."""
    arrays = {
        part["fits_hdu"]: np.array(model._instance[path])
        for path, part, model in _walk(filename)
        if "fits_hdu" in part and "." not in path and path in model._instance
    }
    if "DQ" in arrays:
        # Left out of our ASDF files, whose flags have their standard bits; FITS has it.
        arrays.setdefault("DQ_DEF", identity_dq_def())
    return arrays


def _read_tables(filename: str) -> list[np.ndarray]:
    return [array for array in _read_arrays(filename).values() if array.dtype.names]


def _make_table(filename: str, segment: int, table: np.ndarray) -> Any:
    """Make the table object of crds from an array, as from a FITS table."""
    from crds.io import tables

    made = tables.SimpleTable.__new__(tables.SimpleTable)
    made.filename, made.basename, made.segment = filename, Path(filename).name, segment
    made._columns = None
    made.colnames = tuple(name.upper() for name in table.dtype.names or ())
    made.rows = tuple(
        tuple(v.decode().strip() if isinstance(v, bytes) else v for v in row)
        for row in table.tolist()
    )
    return made
