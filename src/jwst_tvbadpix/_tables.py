"""Tables in ASDF that read back as FITS tables, the only kind that the photom step takes."""

from typing import Any

from asdf.extension import Converter, Extension, TagDefinition

__all__ = ["AsdfTable", "TableExtension"]

_TAG = "asdf://jwst-tvbadpix/tags/table-1.0.0"


class AsdfTable:
    """A table to be written to ASDF.

    Parameters
    ----------
    array : ndarray
        Structured, one element per row.
    """

    def __init__(self, array: Any) -> None:
        self.array = array


class _TableConverter(Converter):
    """Write `AsdfTable`, read ``FITS_rec``; tables of other packages are left alone."""

    tags = (_TAG,)
    types = (AsdfTable,)

    def to_yaml_tree(self, obj: AsdfTable, tag: str, ctx: Any) -> dict[str, Any]:
        return {"table": obj.array}

    def from_yaml_tree(self, node: dict[str, Any], tag: str, ctx: Any) -> Any:
        import numpy as np
        from astropy.io.fits import BinTableHDU

        table = node["table"]
        array = table._make_array() if hasattr(table, "_make_array") else table
        return BinTableHDU(np.array(array)).data


class TableExtension(Extension):
    """What asdf needs to know of our tables."""

    extension_uri = "asdf://jwst-tvbadpix/extensions/tables-1.0.0"
    converters = (_TableConverter(),)
    tags = (TagDefinition(_TAG, title="Table that reads as one of FITS"),)
