"""Parameter files for the standard stages and our steps: shipped ones, copies, and checks."""

from ._table import NEUTRAL_MASK, TABLE, Entry
from .files import (
    ParameterFile,
    copy_parameters,
    find_shipped,
    make_files,
    read_parameters,
)

__all__ = [
    "NEUTRAL_MASK",
    "TABLE",
    "Entry",
    "ParameterFile",
    "copy_parameters",
    "find_shipped",
    "make_files",
    "read_parameters",
]
