"""Whether the files hold what was meant: masks against their history, twins against each other."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stdatamodels.jwst import datamodels

from ..errors import InputError
from ..refmodels import (
    BadPixHistoryModel,
    RomanMask,
    build_mask_series,
    dq_value,
    map_dq_from_roman,
    map_dq_to_roman,
    read_history,
    read_mask_dq,
    read_roman_dq,
)
from .found import Found, Reference
from .observatory import ROMAN, of_file, of_instrument

__all__ = ["Meant", "ReadBack", "match_histories", "read_back", "read_bad"]

log = logging.getLogger(__name__)

_REFUSED = "NOT FOR DELIVERY"
# The two forms are written one after the other, and only FITS codes flags by a table.
_DIFFERENT = ("meta.filename", "meta.date", "meta.model_type")
_LEFT_OUT = ("dq_def", "extra_fits", "_fits_hash", "history", "asdf_library")


@dataclass(frozen=True, slots=True)
class Meant:
    """What a mask should be, by its history.

    Attributes
    ----------
    history : Path
        The file.
    compose : callable
        Makes the flags: uint32, standard bits, in the frame of the file; a series of large masks
        would not fit in memory.
    base : str
        Name of the base mask.
    base_bad : ndarray of bool, shape of the detector
        DO_NOT_USE of the base mask.
    """

    history: Path
    compose: Callable[[], np.ndarray]
    base: str
    base_bad: np.ndarray

    @property
    def dq(self) -> np.ndarray:
        """The flags, made anew."""
        return self.compose()


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What the files of a reference hold.

    Attributes
    ----------
    flags : tuple of str
        How the flags differ from the history; empty where every bit is the same.
    twins : tuple of str
        How the two forms differ.
    bad : ndarray of bool or None
        See `read_bad`.
    """

    flags: tuple[str, ...]
    twins: tuple[str, ...]
    bad: np.ndarray | None


def match_histories(
    found: Found,
) -> tuple[dict[Path, Meant], dict[Path, BadPixHistoryModel], list[str]]:
    """Compose every mask from its history.

    Parameters
    ----------
    found : Found

    Returns
    -------
    meant : dict of Path to Meant
        FITS file of a mask -> what it should be.
    histories : dict of Path to BadPixHistoryModel
        Those that the masks are from.
    absent : list of str
        Epochs of these histories of which there is no mask.

    Raises
    ------
    InputError
        A mask has no history of its detector and selection, or two; its USEAFTER is none of the
        history's; or it was made without a base mask, or one of reference pixels only.
    """
    models = {path: read_history(path) for path in found.histories}
    # Built once per history: masks by selection and date.
    built = {path: _index(model) for path, model in models.items()}
    meant: dict[Path, Meant] = {}
    taken: set[tuple[Path, tuple[str, str]]] = set()
    for reference in found.references:
        if reference.kind != "mask":
            continue
        _require_deliverable(reference)
        path = _choose_history(reference, models)
        model, key = models[path], _key_of(reference)
        if key not in built[path]:
            dates = sorted(date for chosen, date in built[path] if chosen == key[0])
            raise InputError(
                f"expected the history of {reference.fits}, found {path}, of which the masks for "
                f"{key[0]} begin at {', '.join(dates) or 'no date'}, not {key[1]}; give the "
                "history that was made with the mask"
            )
        base = model.base.instance
        bad = np.zeros(model.coverage.shape, bool)
        bad[base["y"], base["x"]] = (base["dq"] & np.uint32(dq_value("DO_NOT_USE"))) != 0
        meant[reference.fits] = Meant(path, built[path][key], base["file"], bad)
        taken.add((path, key))
    used = {item.history for item in meant.values()}
    absent = [
        f"{path.name}: {key[1]} for {key[0]}"
        for path in sorted(used)
        for key in built[path]
        if (path, key) not in taken
    ]
    return meant, {path: models[path] for path in sorted(used)}, absent


def _require_deliverable(reference: Reference) -> None:
    if _REFUSED in reference.header.get("META.HISTORY", ""):
        raise InputError(
            f"expected a mask made from a base mask, found {reference.fits} marked {_REFUSED}; "
            "run time_variable_bad_pixel again with --base_mask=FILE, the mask now in CRDS"
        )


def _choose_history(reference: Reference, models: Mapping[Path, BadPixHistoryModel]) -> Path:
    """Choose the history of a mask: of its detector and, of several, of its product name."""
    own = [
        path
        for path, model in models.items()
        if model.meta.instrument.detector == reference.detector
    ]
    if len(own) > 1:
        own = [path for path in own if reference.fits.name.startswith(_product(path))]
    if len(own) != 1:
        listed = ", ".join(path.name for path in models) or "none"
        raise InputError(
            f"expected one history of {reference.detector} beside {reference.fits}, found "
            f"{len(own)} among {listed}; put the *_badpixhistory.asdf that was made with the "
            "mask there, and no other"
        )
    history = models[own[0]]
    if not history.base.instance["file"] or any(_REFUSED in text for text in history.warnings):
        raise InputError(
            f"expected masks made from a base mask, found {own[0]} made without one, or with one "
            "of reference pixels only; run time_variable_bad_pixel again with --base_mask=FILE, "
            "the mask now in CRDS"
        )
    return own[0]


def _product(history: Path) -> str:
    """Take NAME_DETECTOR_ out of the name of a history."""
    return history.name.removesuffix("badpixhistory.asdf")


def _index(history: BadPixHistoryModel) -> dict[tuple[str, str], Callable[[], np.ndarray]]:
    """Build all masks of a history: (selection, USEAFTER) -> what makes the flags."""
    indexed: dict[tuple[str, str], Callable[[], np.ndarray]] = {}
    for mask in build_mask_series(history):
        meta = mask.meta
        if isinstance(mask, RomanMask):
            indexed[_name_selection(None, None, None), str(meta.useafter)] = mask.compose
            continue
        filters = getattr(meta.instrument, "p_filter", None) or meta.instrument.filter
        patterns = getattr(meta.exposure, "p_readpatt", None) or meta.exposure.readpatt
        selection = _name_selection(filters, patterns, meta.exposure.ngroups)
        indexed[selection, str(meta.useafter)] = partial(np.asarray, mask.dq)
    return indexed


def _key_of(reference: Reference) -> tuple[str, str]:
    keys = reference.keys
    selection = _name_selection(
        keys.get("META.INSTRUMENT.FILTER"),
        keys.get("META.EXPOSURE.READPATT"),
        keys.get("META.EXPOSURE.NGROUPS"),
    )
    return selection, reference.useafter


def _name_selection(*values: Any) -> str:
    """Name what masks are for: FILTER, READPATT and NGROUPS, lists in order."""
    lists = ["|".join(sorted(filter(None, str(v or "N/A").split("|")))) for v in values]
    return "FILTER {}, READPATT {}, NGROUPS {}".format(*lists)


def read_back(reference: Reference, meant: np.ndarray | None) -> ReadBack:
    """Compare the files of a reference with what was meant, and with each other.

    Parameters
    ----------
    reference : Reference
    meant : ndarray of uint32, or None
        Standard bits of a mask, in the frame of the file; None where there is no history.

    Returns
    -------
    ReadBack
    """
    if of_instrument(reference.instrument) is ROMAN:
        found = read_roman_dq(reference.fits)
        wrong = []
        if meant is not None and found is not None:
            wrong = _compare_flags(reference.fits.name, found, map_dq_to_roman(meant)[0])
        return ReadBack(tuple(wrong), (), _find_roman_bad(found))
    with ExitStack() as stack:
        stack.enter_context(_quiet_models())
        models = [
            (path, stack.enter_context(datamodels.open(path)))
            for path in (reference.fits, reference.asdf)
            if path
        ]
        flags, twins = [], []
        if meant is not None:
            for path, model in models:
                flags += _compare_flags(path.name, np.asarray(model.dq), meant)
        if len(models) == 2:
            texts = _compare_twins(models[0][1]._instance, models[1][1]._instance)
            twins = [f"{reference.fits.name}: {text}" for text in texts]
        bad = _find_bad(reference.fits, models[0][1])
    return ReadBack(tuple(flags), tuple(twins), bad)


def _compare_flags(name: str, dq: np.ndarray, meant: np.ndarray) -> list[str]:
    """Compare flags, as the stock steps decode them, with those meant, bit for bit."""
    if dq.shape != meant.shape or dq.dtype.newbyteorder("=") != meant.dtype:
        return [f"{name}: dq is {dq.dtype} {dq.shape}, not {meant.dtype} {meant.shape}"]
    wrong = np.argwhere(dq != meant)
    if not len(wrong):
        return []
    y, x = (int(value) for value in wrong[0])
    return [
        f"{name}: {len(wrong)} pixels differ from the history, the first at y={y} x={x} "
        f"(0-based): {dq[y, x]}, not {meant[y, x]}"
    ]


def _compare_twins(fits_tree: Any, asdf_tree: Any) -> list[str]:
    """Compare all arrays and tables, and the metadata that FITS has."""
    (arrays, scalars), (other_arrays, other_scalars) = map(_flatten, (fits_tree, asdf_tree))
    wrong = [
        f"{key} is only in {'FITS' if key in arrays else 'ASDF'}"
        for key in sorted(set(arrays) ^ set(other_arrays))
    ]
    wrong += [
        f"{key} differs between the twins"
        for key in sorted(set(arrays) & set(other_arrays))
        if not _same_array(arrays[key], other_arrays[key])
    ]
    return wrong + [
        f"{key} is {value!r} in FITS, {other_scalars.get(key)!r} in ASDF"
        for key, value in sorted(scalars.items())
        if key not in _DIFFERENT and value != other_scalars.get(key)
    ]


def read_bad(path: Path) -> np.ndarray | None:
    """Read where a reference has DO_NOT_USE.

    Parameters
    ----------
    path : Path
        A mask, or another reference.

    Returns
    -------
    ndarray of bool or None
        Of a mask the frame of the detector; None where the reference has no flags.
    """
    if of_file(path) is ROMAN:
        return _find_roman_bad(read_roman_dq(path))
    with _quiet_models(), datamodels.open(path) as model:
        return _find_bad(path, model)


def _find_roman_bad(dq: np.ndarray | None) -> np.ndarray | None:
    if dq is None:
        return None
    bad: np.ndarray = (map_dq_from_roman(dq)[0] & np.uint32(dq_value("DO_NOT_USE"))) != 0
    return bad


def _find_bad(path: Path, model: Any) -> np.ndarray | None:
    if "dq" not in model._instance:
        return None
    dq = np.asarray(model.dq)
    if isinstance(model, datamodels.MaskModel) and dq.shape[0] != model.meta.subarray.ysize:
        dq = read_mask_dq(path)[0]  # the IRS2 frame
    bad: np.ndarray = (dq & np.uint32(dq_value("DO_NOT_USE"))) != 0
    return bad


@contextmanager
def _quiet_models() -> Iterator[None]:
    """Read without warnings: what matters is compared, and certify reports the rest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _flatten(tree: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Split a tree into arrays and scalars by dotted path; what one form only has is left out."""
    arrays: dict[str, np.ndarray] = {}
    scalars: dict[str, Any] = {}
    nodes: list[tuple[str, Any]] = [(key, tree[key]) for key in tree if key not in _LEFT_OUT]
    while nodes:
        path, node = nodes.pop()
        if hasattr(node, "items"):
            nodes += [(f"{path}.{key}", value) for key, value in node.items()]
        elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
            nodes += [(f"{path}.{k}", value) for k, value in enumerate(node)]
        elif np.ndim(node) or hasattr(node, "dtype"):
            arrays[path] = node
        else:
            scalars[path] = node
    return arrays, scalars


def _same_array(one: Any, other: Any) -> bool:
    """Compare values, shape and type; byte order and the padding of text make no difference."""
    first, second = (_columns(array) for array in (one, other))
    return list(first) == list(second) and all(
        a.shape == b.shape
        and a.dtype.kind == b.dtype.kind
        and (a.dtype.kind == "U" or a.dtype.itemsize == b.dtype.itemsize)
        and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def _columns(array: Any) -> dict[str, np.ndarray]:
    """Take a table apart, column by column; an image is one column."""
    if hasattr(array, "_make_array"):
        array = array._make_array()
    names = array.dtype.names
    columns = {name.lower(): np.asarray(array[name]) for name in names} if names else {"": array}
    return {name: _as_text(np.asarray(column)) for name, column in columns.items()}


def _as_text(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind not in "SU":
        return column
    text = np.char.decode(column, "ascii") if column.dtype.kind == "S" else column
    return np.char.rstrip(text)
