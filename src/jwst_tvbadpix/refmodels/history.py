"""The history of a detector's bad pixels as a JWST data model."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from asdf.schema import load_schema
from asdf.tags.core import AsdfObject
from asdf.tags.core.ndarray import asdf_datatype_to_numpy_dtype

from .._integration import SCHEMA_URI_PREFIX
from ..detectors import get_detector
from ..errors import InputError, ProductError
from ..files import open_asdf
from .mask import AUTHOR, SOFTWARE, check_useafter
from .product import ProductModel

__all__ = [
    "SCHEMA_VERSION",
    "BadPixHistoryModel",
    "as_scalar",
    "build_history",
    "history_columns",
    "pack_residuals",
    "read_history",
    "unpack_residuals",
]

# 1.1.0: control; 1.2.0: calibration
SCHEMA_VERSION = "1.2.0"

_SCHEMA_URL = f"{SCHEMA_URI_PREFIX}/badpixhistory.schema"
_REFTYPE = "BADPIXHISTORY"
_GROUPS = ("exposures", "intervals", "residuals", "base")
# Groups that a history may be without.
_OPTIONAL_GROUPS = ("control", "events", "self_test")
# What a group holds beside its columns.
_EXTRAS: Mapping[str, Mapping[str, Callable[[Any], Any]]] = {
    "base": {"file": str, "sha256": str},
    "self_test": {"new_flags": float, "left_out": lambda texts: [str(text) for text in texts]},
}
# Packed residuals: no evidence, and the integer that the largest value of a pixel becomes.
_NO_EVIDENCE = np.iinfo(np.int16).min
_LARGEST = 32000


class BadPixHistoryModel(ProductModel):
    """When each pixel of one detector was bad, why, and from which exposures.

    Attributes
    ----------
    exposures, intervals, residuals, base : object
        Groups of columns; `history_columns` lists names, dtypes and units.
    control, events, self_test : object
        Groups that not every history has, see `hasattr`: evidence of good pixels, not in files
        before version 1.1; events and self-test where they were asked for.
    calibration : object
        What later exposures can be added to, see `unpack_block`; only of runs with a store.
    coverage : object
        `shape`, the full frame (ny, nx).
    settings, versions : object
        Settings of the run and versions of the software, by name.
    schema_version : str
        Version of this layout.
    warnings : list of str
        What the user should know.
    """

    schema_url = _SCHEMA_URL
    _instance: Any

    def validate(self) -> None:
        """Check against the schema: of a column of text one, for it asks the same of each."""
        whole, self._instance = self._instance, _shorten(self._instance)
        try:
            super().validate()
        finally:
            self._instance = whole


def _shorten(node: Any) -> Any:
    """Copy a tree, with the first only of texts in a list."""
    if isinstance(node, dict):
        return type(node)({key: _shorten(value) for key, value in node.items()})
    if isinstance(node, list) and all(type(text) is str for text in node):
        return node[:1]
    return node


def history_columns() -> dict[str, dict[str, tuple[str, str, str]]]:
    """List the columns of a history, as its schema has them.

    Returns
    -------
    dict
        group -> column -> (dtype, unit, title). The dtype is ``"str"`` for a list of text,
        otherwise a numpy name such as ``"float64"`` or ``"<U16"``.
    """
    return {
        group: {
            name: (_dtype_name(column), column["unit"], column["title"])
            for name, column in columns.items()
        }
        for group, columns in _schema_columns().items()
    }


@functools.cache
def _schema_columns() -> dict[str, dict[str, dict[str, Any]]]:
    """Read the schema: group -> column -> its part of the schema."""
    own = load_schema(_SCHEMA_URL)["allOf"][-1]["properties"]
    return {
        group: {
            name: column for name, column in own[group]["properties"].items() if "unit" in column
        }
        for group in (*_GROUPS, *_OPTIONAL_GROUPS)
    }


def _dtype_name(column: Mapping[str, Any]) -> str:
    if "datatype" not in column:
        return "str"
    dtype = asdf_datatype_to_numpy_dtype(column["datatype"]).newbyteorder("=")
    return dtype.str if dtype.kind == "U" else dtype.name


def build_history(
    *,
    detector: str,
    exposures: Mapping[str, Any],
    intervals: Mapping[str, Any],
    residuals: Mapping[str, Any],
    base: Mapping[str, Any] | None,
    control: Mapping[str, Any] | None = None,
    events: Mapping[str, Any] | None = None,
    self_test: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any],
    versions: Mapping[str, str],
    warnings: Sequence[str],
    useafter: str,
    pedigree: str,
    description: str,
    author: str = AUTHOR,
) -> BadPixHistoryModel:
    """Build the history of one detector, ready for `write_asdf`.

    Parameters
    ----------
    detector : str
        DETECTOR keyword.
    exposures, intervals, residuals : mapping of str to sequence
        All columns that `history_columns` lists for the group, and no others; one value per row
        (residual and noise: (n_pixel, n_exp)). They are cast to the dtypes of the schema.
    base : mapping, optional
        As the others, and ``file`` and ``sha256`` (str) of the base mask. None: no base mask.
    control, events, self_test : mapping, optional
        As the others (`control` as `residuals`); `self_test` also has ``new_flags`` (float) and
        ``left_out`` (sequence of str). None: the history has no such group.
    calibration : mapping, optional
        The calibration block, see `pack_block`.
    settings : mapping of str to bool, int, float, str or None
        Settings of the run.
    versions : mapping of str to str
        Versions of the software.
    warnings : sequence of str
        What the user should know.
    useafter, pedigree, description, author : str
        As `build_mask`.

    Returns
    -------
    BadPixHistoryModel
        In memory; it shares no array with the input.

    Raises
    ------
    ProductError
        When a column is missing, unknown, of another length than its group, or does not fit
        its dtype; or a setting is no scalar.
    DetectorError, DateError
        When the detector or the date is not one.
    """
    facts = get_detector(detector)
    check_useafter(useafter)
    base = _EMPTY_BASE if base is None else base
    tree: dict[str, Any] = {
        group: _cast_group(group, columns)
        for group, columns in zip(_GROUPS, (exposures, intervals, residuals, base), strict=True)
    }
    for group, columns in zip(_OPTIONAL_GROUPS, (control, events, self_test), strict=True):
        if columns is not None:
            tree[group] = _cast_group(group, columns)
    _require_shapes(tree)
    if calibration is not None:
        tree["calibration"] = dict(calibration)
    tree["schema_version"] = SCHEMA_VERSION
    tree["coverage"] = {"shape": list(facts.shape)}
    tree["settings"] = {str(key): as_scalar(key, value) for key, value in settings.items()}
    tree["versions"] = {str(key): str(value) for key, value in versions.items()}
    tree["warnings"] = [str(text) for text in warnings]
    tree["meta"] = {
        "reftype": _REFTYPE,
        "author": str(author),
        "pedigree": str(pedigree),
        "description": str(description),
        "useafter": useafter,
        "instrument": {"name": facts.instrument, "detector": facts.name},
    }
    model = BadPixHistoryModel(AsdfObject(tree))
    count = len(tree["exposures"]["filename"])
    model.add_history_entry(f"Built from {count} exposures of {facts.name}.", SOFTWARE)
    return model


_NO_RESIDUALS: Mapping[str, Any] = dict.fromkeys(("y", "x", "residual", "noise", "scale"), ())
_EMPTY_BASE: Mapping[str, Any] = {"file": "", "sha256": "", "y": (), "x": (), "dq": ()}


def _cast_group(group: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Cast the columns of a group to the dtypes of the schema."""
    wanted = _schema_columns()[group]
    extras = _EXTRAS.get(group, {})
    missing = [name for name in (*extras, *wanted) if name not in columns]
    unknown = [name for name in columns if name not in wanted and name not in extras]
    if missing or unknown:
        raise ProductError(
            f"expected the columns {', '.join((*extras, *wanted))} in {group}; missing: "
            f"{', '.join(missing) or 'none'}; unknown: {', '.join(unknown) or 'none'}"
        )
    cast: dict[str, Any] = {name: kind(columns[name]) for name, kind in extras.items()}
    for name, column in wanted.items():
        where = f"{group}.{name}"
        if "datatype" in column:
            cast[name] = _cast_array(where, columns[name], column)
        else:
            cast[name] = ["" if text is None else str(text) for text in columns[name]]
    lengths = {name: len(cast[name]) for name in wanted}
    if len(set(lengths.values())) > 1:
        raise ProductError(
            f"expected columns of equal length in {group}, found {lengths}; give one value per row"
        )
    return cast


def _cast_array(where: str, values: Any, column: Mapping[str, Any]) -> np.ndarray:
    """Copy values into an array of the schema's dtype that holds them without change."""
    dtype = np.dtype(_dtype_name(column))
    given = np.asarray(values)
    if given.ndim == 1 and not given.size:
        return np.zeros((0,) * column["ndim"], dtype)
    if given.ndim != column["ndim"]:
        raise ProductError(
            f"expected {where} with {column['ndim']} axes, found shape {given.shape}; reshape it"
        )
    if dtype.kind == "U":
        strange = sorted({str(text) for text in given.flat} - set(column["one_of"]))
        if strange:
            raise ProductError(
                f"expected {where} among {', '.join(column['one_of'])}, found "
                f"{', '.join(strange)}; use these names"
            )
        return given.astype(dtype)
    if given.dtype == dtype:
        return given.copy()
    if given.dtype.kind not in "biuf":
        raise ProductError(f"expected numbers in {where}, found {given.dtype}; convert them")
    with np.errstate(invalid="ignore", over="ignore"):
        cast = given.astype(dtype)
    same = np.isfinite(given) == np.isfinite(cast) if dtype.kind == "f" else cast == given
    if not np.all(same):
        raise ProductError(
            f"expected values of {where} that fit {dtype}, found {given[~same].flat[0]!r}; "
            "check the values"
        )
    return cast


def _require_shapes(tree: Mapping[str, Any]) -> None:
    """Require residuals with one column per exposure."""
    n_exp = len(tree["exposures"]["filename"])
    for group in ("residuals", "control"):
        columns = tree.get(group, {})
        for name in ("residual", "noise") if columns else ():
            shape = columns[name].shape
            if shape[0] and shape[1] != n_exp:
                raise ProductError(
                    f"expected {group}.{name} as (n_pixel, {n_exp}), one column per exposure, "
                    f"found {shape}; keep exposures and residuals in step"
                )
            if not shape[0]:
                columns[name] = np.zeros((0, n_exp), columns[name].dtype)


def as_scalar(key: str, value: Any) -> Any:
    """Turn a setting into what YAML can say; None becomes the text ``none``."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None:
        # A data model drops null entries when it is saved.
        return "none"
    if isinstance(value, bool | int | float | str):
        return value
    raise ProductError(
        f"expected a number, text, true/false or None for setting {key!r}, found "
        f"{type(value).__name__}; convert it"
    )


def pack_residuals(
    residual: np.ndarray, noise: np.ndarray, look_rows: Sequence[int], n_exp: int
) -> dict[str, np.ndarray]:
    """Pack residuals and their noise into int16, one scale per pixel.

    Parameters
    ----------
    residual, noise : ndarray of float32, shape (n_pixels, n_looks)
        [DN/s]; NaN = no evidence.
    look_rows : sequence of int, length n_looks
        Row of the exposures behind each look.
    n_exp : int
        Number of exposures; those that are no look get no evidence.

    Returns
    -------
    dict of str to ndarray
        The columns `residual`, `noise` and `scale` of a history; `unpack_residuals` inverts
        it to half a step of a 32000th of the pixel's largest value.
    """
    largest = np.maximum(np.abs(residual), np.where(np.isfinite(residual), noise, np.nan))
    scale = np.nan_to_num(np.nanmax(largest, axis=1, initial=0)) / _LARGEST
    scale = np.maximum(scale, 1e-12).astype(np.float32)

    def pack(values: np.ndarray) -> np.ndarray:
        packed = np.full((len(values), n_exp), _NO_EVIDENCE, np.int16)
        steps = np.rint(values / scale[:, None])
        packed[:, list(look_rows)] = np.where(np.isfinite(residual), steps, _NO_EVIDENCE)
        return packed

    return {"residual": pack(residual), "noise": pack(noise), "scale": scale}


def unpack_residuals(
    history: BadPixHistoryModel, group: str = "residuals", rows: slice = np.s_[:]
) -> tuple[np.ndarray, np.ndarray]:
    """Unpack the evidence of the candidate pixels, or of the control sample.

    Parameters
    ----------
    history : BadPixHistoryModel
    group : {'residuals', 'control'}
    rows : slice
        Which pixels of the group.

    Returns
    -------
    residual, noise : ndarray of float32, shape (n_pixels, n_exp)
        [DN/s], rows as `y` and `x` of the group; NaN = no evidence.
    """
    kept = history[group].instance
    scale = np.asarray(kept["scale"], np.float32)[rows, None]
    residual, noise = (
        np.where(steps == _NO_EVIDENCE, np.float32(np.nan), steps * scale)
        for steps in (kept["residual"][rows], kept["noise"][rows])
    )
    return residual, noise


def read_history(path: str | Path, *, evidence: bool = True) -> BadPixHistoryModel:
    """Read a history into memory and close its file.

    Parameters
    ----------
    path : str or Path
        The ASDF file.
    evidence : bool
        Whether residuals are wanted. Without them the history has no control sample, and
        candidates only where they tell which masks there are (depth=auto); it is not to be saved.

    Returns
    -------
    BadPixHistoryModel
        With its arrays loaded. `model.intervals.instance` is a plain dict of columns.

    Raises
    ------
    InputError
        When the file is absent, truncated, no history, or of another major version.
    """
    path = Path(path)
    advice = "give a *_badpixhistory.asdf file of this package, or make it again"
    if not path.is_file():
        raise InputError(f"expected a bad-pixel history, found no file at {path}; {advice}")
    try:
        with asdf.config_context() as config:
            config.validate_on_read = False  # it is validated below
            with open_asdf(path, lazy_load=not evidence) as file:
                tree = dict(file.tree)
                if not evidence and tree.get("settings", {}).get("depth") != "auto":
                    tree |= {"residuals": _cast_group("residuals", _NO_RESIDUALS)}
                    tree.pop("control", None)
                tree = _in_memory(tree)
    except Exception as error:
        raise InputError(
            f"expected a readable ASDF file, found {path}: "
            f"{type(error).__name__}: {error}; {advice}"
        ) from error
    meta = tree.get("meta")
    reftype = meta.get("reftype") if isinstance(meta, dict) else None
    if reftype != _REFTYPE:
        raise InputError(f"expected REFTYPE {_REFTYPE} in {path}, found {reftype!r}; {advice}")
    version = str(tree.get("schema_version"))
    if version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        raise InputError(
            f"expected a history of version {SCHEMA_VERSION.split('.')[0]}.x in {path}, found "
            f"{version}; use the jwst_tvbadpix that wrote it, or make it again"
        )
    try:
        model = BadPixHistoryModel(AsdfObject(tree), strict_validation=True, validate_arrays=True)
        model.validate()
    except Exception as error:
        # The schema that follows is a page long.
        problem = " ".join(str(error).partition("\n\n")[0].split())
        raise InputError(
            f"expected all entries of a history in {path}, found: {problem}; {advice}"
        ) from error
    _require_rows(model, path, advice)
    return model


def _require_rows(model: BadPixHistoryModel, path: Path, advice: str) -> None:
    """Require one value per row in all columns, and pixels of the detector.

    Raises
    ------
    InputError
        The message names the group.
    """
    facts = get_detector(model.meta.instrument.detector)
    for group in (*_GROUPS, "control"):
        if not model.hasattr(group):
            continue
        columns = {
            k: v for k, v in model[group].instance.items() if k not in _EXTRAS.get(group, ())
        }
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"expected columns of equal length in {group} of {path}, found {lengths}; {advice}"
            )
        if "y" not in columns:
            continue
        for name, n in zip("yx", facts.shape, strict=True):
            values = columns[name]
            if len(values) and not 0 <= values.min() <= values.max() < n:
                raise InputError(
                    f"expected pixels of {facts.name}, {facts.shape} (ny, nx), in {group} of "
                    f"{path}, found {name} from {values.min()} to {values.max()}; {advice}"
                )


def _in_memory(node: Any) -> Any:
    """Copy a tree with plain dicts and lists, its arrays as numpy's."""
    if isinstance(node, dict):
        return {key: _in_memory(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_in_memory(value) for value in node]
    if hasattr(node, "dtype") and hasattr(node, "shape"):
        return np.asarray(node)
    return node
