"""What a folder holds for delivery: references with their twins, histories, and the rest."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asdf
from astropy.io import fits

from ..errors import DateError, InputError
from ..files import open_asdf
from .context import _read_header, list_parkeys
from .observatory import JWST, ROMAN, Observatory, of_instrument

__all__ = ["Found", "Reference", "find_references"]

_HISTORY = "BADPIXHISTORY"
_ABSENT = ("UNDEFINED", "")
# What USEAFTER may look like: the second form is the one that masks of this package have.
_DATE_LENGTHS = {10: "T00:00:00", 19: ""}
# What a file must say about itself beside its REFTYPE and what selects it.
_NEEDED = ("INSTRUMENT.NAME", "USEAFTER", "PEDIGREE", "AUTHOR")


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference to deliver.

    Attributes
    ----------
    fits : Path
        The file that CRDS gets; of Roman it is ASDF.
    asdf : Path or None
        Its twin, for use without CRDS; None where there is none.
    kind, instrument, detector : str
        Reference type and instrument in lower case, DETECTOR.
    useafter : str
        YYYY-MM-DDThh:mm:ss (UTC).
    keys : mapping of str to str
        What selects the file beside its date: name, as crds has it -> value; lists as ``A|B``.
    header : mapping of str to str
        All metadata as crds reads them.
    """

    fits: Path
    asdf: Path | None
    kind: str
    instrument: str
    detector: str
    useafter: str
    keys: Mapping[str, str]
    header: Mapping[str, str]

    @property
    def series(self) -> tuple[str, ...]:
        """What the file has in common with those that replace each other in time."""
        return (self.instrument, self.kind, *(f"{k}={v}" for k, v in sorted(self.keys.items())))


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds.

    Attributes
    ----------
    references : tuple of Reference
        In order of instrument, type, selection and date.
    histories : tuple of Path
        Bad-pixel histories.
    ignored : tuple of str
        Names of all else.
    """

    references: tuple[Reference, ...]
    histories: tuple[Path, ...]
    ignored: tuple[str, ...]

    @property
    def observatory(self) -> Observatory:
        """The telescope that the references are of."""
        return of_instrument(self.references[0].instrument)


def find_references(folder: str | Path, *, skip: Iterable[str] = ()) -> Found:
    """Find what a folder holds; subfolders are not searched.

    Parameters
    ----------
    folder : str or Path
    skip : iterable of str
        Names that are neither used nor listed.

    Returns
    -------
    Found

    Raises
    ------
    InputError
        The folder is absent or holds no reference; a FITS file is truncated or of another
        telescope; a reference lacks what every reference must have; an ASDF reference of JWST has
        no FITS twin, the only form that CRDS takes; references of JWST and Roman are mixed; or two
        have the same USEAFTER and are selected by the same keywords.
    DateError
        A USEAFTER cannot be read.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise InputError(f"expected a folder with references, found none at {folder}; check it")
    skipped = set(skip)
    entries = [path for path in sorted(folder.iterdir()) if path.name not in skipped]
    files = [path for path in entries if path.is_file()]
    found = {path: _read_fits_kind(path) for path in files if path.suffix == ".fits"}
    known = {path: _read_asdf_kind(path) for path in files if path.suffix == ".asdf"}
    trees = {path: kind for path, (kind, telescope) in known.items() if telescope is JWST}
    kinds = {path: kind for path, kind in found.items() if kind}
    roman = {path: kind for path, (kind, telescope) in known.items() if kind and telescope is ROMAN}
    if kinds and roman:
        raise InputError(
            f"expected references of one telescope in {folder}, found {next(iter(kinds)).name} of "
            f"JWST and {next(iter(roman)).name} of Roman; put them into two folders"
        )
    kinds = kinds or roman
    if not kinds:
        raise InputError(
            f"expected at least one reference of JWST in FITS, or of Roman in ASDF, in {folder}, "
            f"found none among {len(entries)} entries; give the folder that the steps wrote to"
        )
    twins = {path: path.with_suffix(".asdf") for path in kinds}
    references = [
        _describe(path, kind, twins[path] if trees.get(twins[path]) == kind else None)
        for path, kind in kinds.items()
    ]
    for path, kind in trees.items():
        if path.with_suffix(".fits") not in kinds and kind in _list_kinds():
            raise InputError(
                f"expected the FITS twin of {path}, found none; CRDS takes no {kind} in ASDF: make "
                "both, or leave this one out"
            )
        if path.with_suffix(".fits") in kinds and kind != kinds[path.with_suffix(".fits")]:
            raise InputError(
                f"expected {path} to be the twin of its FITS file, a "
                f"{kinds[path.with_suffix('.fits')]}, found REFTYPE {kind or 'none'}; make both "
                "again, or rename one"
            )
    references.sort(key=lambda reference: (reference.series, reference.useafter))
    _require_different(references)
    histories = tuple(path for path, kind in trees.items() if kind == _HISTORY)
    used = {*kinds, *histories, *(r.asdf for r in references if r.asdf)}
    ignored = tuple(path.name for path in entries if path not in used)
    return Found(tuple(references), histories, ignored)


def _list_kinds() -> set[str]:
    """List the types of the installed crds that are delivered as FITS, in capitals."""
    from crds.jwst import TYPES

    return {
        kind.upper()
        for kinds in TYPES.unified_defs.values()
        for kind, spec in kinds.items()
        if spec.get("file_ext") == ".fits"
    }


def _read_fits_kind(path: Path) -> str | None:
    """Read REFTYPE of a whole FITS file of JWST, in capitals; None = no reference."""
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*truncated.*")
            with fits.open(file, memmap=False, lazy_load_hdus=False) as hdus:
                header = hdus[0].header
                telescope, kind = header.get("TELESCOP"), header.get("REFTYPE")
                size = max(info["datLoc"] + info["datSpan"] for info in map(_place, hdus))
        if path.stat().st_size < size:
            raise OSError(f"{path.stat().st_size} bytes instead of {size}")
    except Exception as error:
        raise InputError(
            f"expected a whole FITS file, found {path}: {error}; copy or make it again, or leave "
            "it out"
        ) from error
    if (telescope is not None or kind is not None) and str(telescope).upper() != "JWST":
        raise InputError(
            f"expected TELESCOP JWST in {path}, found {telescope!r}; leave the file out"
        )
    return str(kind).upper() if kind is not None else None


def _place(hdu: Any) -> dict[str, int]:
    """Tell where the data of an HDU lie in the file."""
    info: dict[str, int] = hdu.fileinfo()
    return info


def _read_asdf_kind(path: Path) -> tuple[str | None, Observatory]:
    """Read meta.reftype of an ASDF file, in capitals (None = it has none), and its telescope."""
    try:
        with warnings.catch_warnings():
            # Parameter files and results may have tags of packages that are not installed.
            warnings.simplefilter("ignore", asdf.exceptions.AsdfWarning)
            with open_asdf(path) as file:
                telescope = ROMAN if "roman" in file.tree else JWST
                tree = file.tree["roman"] if telescope is ROMAN else file.tree
                meta = tree.get("meta")
                kind = meta.get("reftype") if hasattr(meta, "get") else None
    except Exception as error:
        what = " ".join(str(error).split())  # yaml says where in lines of its own
        raise InputError(
            f"expected a readable ASDF file, found {path}: {what}; copy or make it again, or "
            "leave it out"
        ) from error
    return str(kind).upper() if kind is not None else None, telescope


def _describe(path: Path, kind: str, twin: Path | None) -> Reference:
    """Read what a reference says about itself."""
    header = _read_header(path)
    missing = [name for name in _NEEDED if header.get(f"META.{name}", "UNDEFINED") in _ABSENT]
    if missing:
        raise InputError(
            f"expected META.{', META.'.join(missing)} in {path}, found none; make it again with "
            "these set"
        )
    instrument, useafter = header["META.INSTRUMENT.NAME"].lower(), header["META.USEAFTER"]
    if not list_parkeys(instrument, kind.lower()):
        raise InputError(
            f"expected a reference type of an instrument of JWST or Roman in {path}, found {kind} "
            f"of {instrument.upper()}; correct REFTYPE or INSTRUME, or leave the file out"
        )
    date = useafter.replace(" ", "T").split(".")[0]
    try:
        if len(date) not in _DATE_LENGTHS:
            raise ValueError(f"{len(date)} characters")
        datetime.fromisoformat(date)
    except ValueError as error:
        raise DateError(
            f"expected USEAFTER as YYYY-MM-DDThh:mm:ss (UTC) in {path}, found {useafter!r}; "
            "correct it"
        ) from error
    matched = _apply_patterns(header, instrument, kind.lower())
    keys = {
        key: _normalise(matched[key])
        for key in list_parkeys(instrument, kind.lower())
        if matched.get(key, "UNDEFINED") not in _ABSENT
    }
    return Reference(
        fits=path,
        asdf=twin,
        kind=kind.lower(),
        instrument=instrument,
        detector=header.get("META.INSTRUMENT.DETECTOR", "N/A"),
        useafter=date + _DATE_LENGTHS[len(date)],
        keys=keys,
        header=header,
    )


def _apply_patterns(header: Mapping[str, str], instrument: str, kind: str) -> dict[str, str]:
    """Put what P_ keywords say in the place of the keywords that they stand for."""
    observatory = of_instrument(instrument)
    spec = observatory.rules(instrument).get(kind, {})
    patterns = spec.get("reference_to_dataset") or {}
    rules = SimpleNamespace(name=kind, filename=kind, reference_to_dataset=patterns)
    return dict(observatory.locate.reference_keys_to_dataset_keys(rules, header))


def _normalise(value: str) -> str:
    """Write a keyword, or a list of a P_ keyword, as crds matches it: without order."""
    return "|".join(sorted(filter(None, value.upper().split("|"))))


def _require_different(references: list[Reference]) -> None:
    """Refuse two files of which CRDS could keep one only."""
    seen: dict[tuple[tuple[str, ...], str], Reference] = {}
    for reference in references:
        other = seen.setdefault((reference.series, reference.useafter), reference)
        if other is not reference:
            keys = ", ".join(f"{k.split('.')[-1]} {v}" for k, v in reference.keys.items())
            raise InputError(
                f"expected one {reference.kind} per date and selection, found {other.fits} and "
                f"{reference.fits}, both USEAFTER {reference.useafter} for {keys}; remove one, or "
                "give it another date"
            )
