"""Inputs one by one: members of associations, tables and their units, checksums."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.utils.exceptions import AstropyUserWarning

from ..errors import InputError
from ..files import read_association

__all__ = ["Columns", "FileUsed", "Item", "list_items", "open_fits", "read_columns"]

# Members that are measured; the pipeline has subtracted backgrounds already, or an annulus will.
_MEASURED = ("science", "")
# What members may say of themselves beside expname and exptype.
_MEMBER_KEYS = (
    "target",
    "mjd",
    "instrument",
    "detector",
    "mode",
    "filter",
    "pupil",
    "grating",
    "slit",
    "band",
    "order",
    "subarray",
    "visit",
)
_TABLES = {".ecsv": "ascii.ecsv", ".csv": "ascii.csv"}


@dataclass(frozen=True, slots=True)
class FileUsed:
    """A file that took part.

    Attributes
    ----------
    role : str
        'input', 'model', 'bandpass', 'apcorr' or 'photom'.
    name, sha256 : str
        File name and checksum; '' for what was in memory.
    about : str
        The star, filter or reference that it is of.
    """

    role: str
    name: str
    sha256: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One input: a path or a data model, and what its association says of it."""

    what: Any
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name for messages."""
        if isinstance(self.what, Path):
            return self.what.name
        return str(getattr(self.what.meta, "filename", None) or "model in memory")


@dataclass(frozen=True, slots=True)
class Columns:
    """A table: its columns, their units ('' where absent) and its header."""

    name: str
    values: Mapping[str, np.ndarray]
    units: Mapping[str, str]
    header: Mapping[str, Any]

    def find(self, *names: str) -> str | None:
        """Find the first of some columns that there is, whatever its case; None without."""
        known = {key.lower(): key for key in self.values}
        return next((known[name] for name in names if name in known), None)

    def convert(
        self, key: str, unit: str, *, power: int = 1, like: str | None = None
    ) -> np.ndarray:
        """Take a column of numbers in a unit, which is taken for granted where it has none.

        Parameters
        ----------
        key : str
            The column.
        unit : str
            What it is wanted in.
        power : int
            Of the unit, in the column and in what is wanted: 2 for a variance.
        like : str, optional
            Column whose unit it has, in this power, where it has none of its own.

        Raises
        ------
        InputError
            Its unit cannot be converted, or it holds no numbers.
        """
        said = self.units[key]
        try:
            values = np.asarray(self.values[key], np.float64)
            if said.upper() == "MJD":
                return values
            if not said and like and self.units[like]:
                return values * u.Unit(self.units[like]).to(u.Unit(unit)) ** power
            return values * u.Unit(said).to(u.Unit(unit) ** power) if said else values
        except (ValueError, TypeError, u.UnitConversionError) as error:
            raise InputError(
                f"expected numbers in {unit} in the column {key} of {self.name}, found the unit "
                f"{said!r}: {error}; convert them"
            ) from error


def list_items(inputs: Any) -> Iterator[Item]:
    """Flatten associations, lists and libraries.

    Raises
    ------
    InputError
        An association cannot be read or lists nothing, or an input is of no known kind.
    """
    if isinstance(inputs, Item):
        yield inputs
    elif isinstance(inputs, str | Path):
        path = Path(inputs)
        if path.suffix.lower() == ".json":
            yield from _list_members(path)
        elif not path.is_file():
            raise InputError(f"expected a file, found none at {path}; check the path")
        else:
            yield Item(path)
    elif hasattr(inputs, "borrow"):
        with inputs:
            for model in inputs:
                yield Item(model)
                inputs.shelve(model, modify=False)
    elif hasattr(inputs, "meta") and not isinstance(inputs, Table):
        yield Item(inputs)
    elif isinstance(inputs, Iterable) and not isinstance(inputs, Table):
        for item in inputs:
            yield from list_items(item)
    else:
        raise InputError(
            f"expected paths, associations, data models or a ModelLibrary, found "
            f"{type(inputs).__name__}; give one of these"
        )


def _list_members(path: Path) -> Iterator[Item]:
    """List the members of an association that are measured, each once."""
    members = [
        member
        for product in read_association(path)
        for member in product.members
        if member["exptype"] in _MEASURED
    ]
    paths = [path.parent / member["expname"] for member in members]
    if not paths:
        raise InputError(
            f"expected science members in {path}, found none; add the exposures or tables"
        )
    seen = set()
    for member, file in zip(members, paths, strict=True):
        if file in seen:
            continue
        seen.add(file)
        if not file.is_file():
            raise InputError(f"expected the member {member['expname']} beside {path}, found none")
        said = {key: member[key] for key in _MEMBER_KEYS if member.get(key) not in (None, "")}
        yield Item(file, said)


def read_columns(path: Path) -> Columns:
    """Read a table: ECSV, CSV, or the first table of a FITS file.

    Raises
    ------
    InputError
        The file cannot be read as one.
    """
    form = _TABLES.get(path.suffix.lower())
    try:
        if form:
            table = Table.read(path, format=form)
            values = {name: _fill(table[name]) for name in table.colnames}
            units = {name: str(table[name].unit or "") for name in table.colnames}
            return Columns(path.name, values, units, dict(table.meta))
        with open_fits(path) as hdus:
            found = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
            if found is None:
                raise InputError(
                    f"expected a table in {path}, found none; give .ecsv, .csv or a FITS table"
                )
            header = {**dict(hdus[0].header), **dict(found.header)}
            values = {
                name: np.array(found.data[name]).astype(found.data[name].dtype.newbyteorder("="))
                for name in found.columns.names
            }
            units = {c.name: str(c.unit or "") for c in found.columns}
            return Columns(path.name, values, units, header)
    except (OSError, ValueError, TypeError, KeyError, fits.VerifyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"expected a table in {path}, found {error}; give .ecsv, .csv or a FITS table"
        ) from error


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """Open a FITS file; what is wrong with it is an error of the caller, not a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyUserWarning)
        with fits.open(path, memmap=False) as hdus:
            yield hdus


def _fill(column: Any) -> np.ndarray:
    """Take the values of a column: NaN or '' where they are masked."""
    masked = np.ma.getmaskarray(getattr(column, "data", column))
    values = np.asarray(np.ma.getdata(column.data))
    if not masked.any():
        return values
    if values.dtype.kind in "US":
        return np.where(masked, "", values)
    return np.where(masked, np.nan, values.astype(np.float64))
