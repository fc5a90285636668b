"""Save reference models so that what is on disk is what was meant, or nothing is."""

import logging
import os
import shutil
import warnings
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import asdf
import numpy as np
from asdf.schema import load_schema
from asdf.tags.core import AsdfObject
from astropy.io import fits
from stdatamodels import schema as walker
from stdatamodels.jwst.datamodels import JwstDataModel

from .._tables import AsdfTable
from ..atomic import find_creation_time, is_hidden, open_hidden_folder
from ..errors import ProductError
from .dq import identity_dq_def

__all__ = [
    "ZLIB_LEVEL",
    "as_array",
    "format_date",
    "publish",
    "rename_all",
    "unvalidated",
    "was_decoded",
    "write_asdf",
    "write_twins",
]

log = logging.getLogger(__name__)

_REQUIRED = ("description", "reftype", "author", "pedigree", "useafter", "instrument.name")

# FILTER keyword for several filters: CRDS selects by it, the schema of masks does not have it.
_P_FILTER = "meta.instrument.p_filter"
_P_FILTER_SCHEMA = "http://stsci.edu/schemas/jwst_datamodel/keyword_pfilter.schema"

# Entries of a tree that asdf itself fills in.
_ASDF_OWN = ("history", "asdf_library")

# zlib takes half the time of its default level for a mask, which becomes 40 kB instead of 20.
ZLIB_LEVEL = 3

# Arrays of fewer bytes are compressed whatever they hold.
_LARGE = 1_000_000

# Flags that stdatamodels has decoded rightly out of our files, by model and form of the file.
_DECODED: defaultdict[tuple[type, str], set[int]] = defaultdict(set)

# Flags that a schema allows, by model: type and number of axes, all that it prescribes.
_VALID: set[tuple[type, np.dtype, int]] = set()


def write_twins(model: JwstDataModel, path_without_suffix: str | Path) -> tuple[Path, Path]:
    """Write the ASDF and the FITS file of one reference model, or neither.

    Parameters
    ----------
    model : ReferenceFileModel
        The reference in memory, `dq` in standard bits; it is not edited.
    path_without_suffix : str or Path
        Where to write; ``.asdf`` and ``.fits`` are appended. The folder must exist.

    Returns
    -------
    asdf_path, fits_path : Path
        The two files. The ASDF file has standard bits and no DQ_DEF, the only form that the
        stock steps decode rightly; the FITS file has a DQ_DEF that maps each flag to itself.

    Raises
    ------
    ProductError
        When the metadata are incomplete or invalid, a file cannot be written, or one of them
        reads back differently. Nothing new is then left on disk.

    Notes
    -----
    Both files are written under temporary names beside their final ones, read back with asdf or
    astropy and as the stock steps open them, compared with the arrays and all metadata of the
    model, and renamed only when both agree. With SOURCE_DATE_EPOCH set, equal models give equal
    bytes. The model is validated once, strictly: what is compared equal to it needs no second
    validation.
    """
    stem = Path(path_without_suffix)
    asdf_path, fits_path = (stem.with_name(stem.name + suffix) for suffix in (".asdf", ".fits"))
    prepared, wanted = _prepare(model, asdf_path, find_creation_time())
    _require_fits_text(wanted, fits_path)
    with publish(asdf_path, fits_path) as (asdf_temporary, fits_temporary):
        _save_asdf(prepared, asdf_temporary, level=ZLIB_LEVEL)
        _compare_asdf(wanted, asdf_temporary, type(model))
        for tree in (prepared._instance, wanted):
            tree["meta"]["filename"] = fits_path.name
        homes = _list_fits_homes(prepared)
        _save_fits(prepared._instance, homes, fits_temporary)
        _compare_fits(wanted, homes, fits_temporary, type(model))
    log.debug("Wrote %s and its FITS twin", asdf_path)
    return asdf_path, fits_path


def write_asdf(model: JwstDataModel, path: str | Path) -> Path:
    """Write a product that has only an ASDF form, with the guarantees of `write_twins`.

    Parameters
    ----------
    model : JwstDataModel
        The product in memory; it is not edited.
    path : str or Path
        The final name, ending in ``.asdf``. The folder must exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ProductError
        As `write_twins`.
    """
    path = Path(path)
    if path.suffix != ".asdf":
        raise ProductError(f"expected a file name ending in .asdf, found {path.name!r}; rename it")
    prepared, wanted = _prepare(model, path, find_creation_time())
    with publish(path) as (temporary,):
        _save_asdf(prepared, temporary, level=ZLIB_LEVEL)
        _compare_asdf(wanted, temporary, type(model))
    log.debug("Wrote %s", path)
    return path


def _prepare(
    model: JwstDataModel, final: Path, made: datetime
) -> tuple[JwstDataModel, dict[str, Any]]:
    """Copy a model as it shall be on disk, validate it strictly; a copy of its tree, too.

    The writers edit the model that they are given; the tree stays what was meant.
    """
    prepared = model.copy()
    if _P_FILTER in _metadata(model._instance):
        extra = load_schema(_P_FILTER_SCHEMA)
        prepared._schema = walker.merge_property_trees({"allOf": [prepared._schema, extra]})
    prepared._strict_validation = prepared._validate_arrays = True
    prepared._validate_on_assignment = False  # the whole is validated below
    # The table would be decoded as bytes from ASDF, where every flag is then lost.
    prepared._instance.pop("dq_def", None)
    prepared.on_save(str(final))
    prepared.meta.date = format_date(made)
    if "SOURCE_DATE_EPOCH" in os.environ:
        for entry in _history(prepared._instance):
            entry["time"] = made
    _require_metadata(prepared, final)
    whole = prepared._instance
    arrays = {key: node for key, node in whole.items() if _is_array(node)}
    # Of a model with flags alone: they take longer than all else.
    kind = None
    if arrays.keys() == {"dq"}:
        kind = type(model), arrays["dq"].dtype, arrays["dq"].ndim
    # What asdf itself prescribes it validates when it writes.
    done = {*_ASDF_OWN, *(arrays if kind in _VALID else ())}
    prepared._instance = {key: node for key, node in whole.items() if key not in done}
    try:
        prepared.validate()
    except Exception as error:
        raise ProductError(
            f"expected a model that follows the schema of {type(model).__name__} for "
            f"{final.name}, found: {error}; correct the array or the metadata"
        ) from error
    prepared._instance = whole
    if kind:
        _VALID.add(kind)
    return prepared, deepcopy(whole)


def format_date(made: datetime) -> str:
    """Write a date as DATE has it."""
    return made.strftime("%Y-%m-%dT%H:%M:%S.") + f"{made.microsecond // 1000:03d}"


def _history(tree: dict[str, Any]) -> list[dict[str, Any]]:
    history = tree.get("history", {})
    return history.get("entries", []) if isinstance(history, dict) else list(history)


def _require_metadata(model: JwstDataModel, final: Path) -> None:
    """Refuse a model without the metadata that every reference must have."""
    flat = _metadata(model._instance)
    missing = [name for name in _REQUIRED if not str(flat.get(f"meta.{name}") or "").strip()]
    if missing:
        raise ProductError(
            f"expected meta.{', meta.'.join(_REQUIRED)} in {final.name}, "
            f"found none for {', '.join(missing)}; set them before saving"
        )


def _require_fits_text(tree: dict[str, Any], final: Path) -> None:
    """Refuse text that a FITS header cannot hold."""
    texts = {key: v for key, v in _metadata(tree).items() if isinstance(v, str)}
    for number, entry in enumerate(_history(tree)):
        texts[f"history entry {number + 1}"] = str(entry["description"])
    for key, text in texts.items():
        if not (text.isascii() and text.isprintable()):
            raise ProductError(
                f"expected printable ASCII, as FITS headers need, for {key} of {final.name}, "
                f"found {text!r}; write it with ASCII characters on one line"
            )


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Flatten a model tree, history left out: (dotted path, value)."""
    nodes: list[tuple[str, Any]] = [(key, tree[key]) for key in tree if key not in _ASDF_OWN]
    while nodes:
        path, node = nodes.pop()
        if isinstance(node, dict):
            nodes += [(f"{path}.{key}", value) for key, value in node.items()]
        elif isinstance(node, list | tuple):
            nodes += [(f"{path}.{number}", value) for number, value in enumerate(node)]
        else:
            yield path, node


def _is_array(node: Any) -> bool:
    return hasattr(node, "dtype") and np.ndim(node) > 0


def _metadata(tree: dict[str, Any]) -> dict[str, Any]:
    return {path: node for path, node in _leaves(tree) if not _is_array(node)}


def _arrays(tree: dict[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.asarray(node) for path, node in _leaves(tree) if _is_array(node)}


@contextmanager
def publish(*finals: Path) -> Iterator[list[Path]]:
    """Hand out names in a folder beside the final ones; rename all at the end, or remove all.

    The folder also holds what asdf leaves of its own where the disk is full. Within one that is
    hidden itself, and removed by whoever made it, the final names are handed out.
    """
    home = finals[0].parent
    try:
        if is_hidden(home):
            try:
                yield list(finals)
            except BaseException:
                for path in finals:
                    path.unlink(missing_ok=True)
                raise
            return
        with open_hidden_folder(home) as folder:
            temporaries = [folder / path.name for path in finals]
            yield temporaries
            rename_all(temporaries, finals)
    except ProductError:
        raise
    except Exception as error:
        raise ProductError(
            f"expected to write and read back {', '.join(str(path) for path in finals)}, found "
            f"{type(error).__name__}: {error}; nothing was left there. Check the folder, "
            "the space on its disk and the values"
        ) from error


def rename_all(temporaries: Sequence[Path], finals: Sequence[Path]) -> None:
    """Rename every file, or put back what was there.

    Parameters
    ----------
    temporaries, finals : sequence of Path
        Files, in a folder of their own, and what each shall be called on the same file system;
        what is called so is replaced.
    """
    backups = [path.with_name(f".{path.name}.old") for path in temporaries]
    renamed: list[tuple[Path, Path]] = []
    try:
        for temporary, final, backup in zip(temporaries, finals, backups, strict=True):
            if os.path.lexists(final):
                _back_up(final, backup)
            os.replace(temporary, final)
            renamed.append((final, backup))
    except BaseException:
        for final, backup in renamed:
            if os.path.lexists(backup):
                os.replace(backup, final)
            else:
                final.unlink()
        raise
    finally:
        for backup in backups:
            backup.unlink(missing_ok=True)


def _back_up(path: Path, backup: Path) -> None:
    """Give a file a second name, which it keeps when another takes its place; or copy it."""
    backup.unlink(missing_ok=True)
    try:
        os.link(path, backup)
    except OSError:  # no hard links here
        shutil.copy2(path, backup, follow_symlinks=False)


def _save_asdf(model: JwstDataModel, path: Path, **options: int) -> None:
    """Save as the stock writer does, keeping the name and date already in the model."""
    # It was validated; on_save would put the temporary name and the present time into it.
    object.__setattr__(model, "validate", lambda: None)
    object.__setattr__(model, "on_save", lambda path=None: None)
    tables = {key: node for key, node in model._instance.items() if _is_table(node)}
    noisy = [node for _, node in _leaves(model._instance) if _is_array(node) and _is_noisy(node)]
    if not tables and not noisy:
        model.to_asdf(str(path), all_array_compression="zlib", compression_kwargs=options)
        return
    # The stock writer makes plain arrays of tables, with which the photom step cannot work.
    tree = {**model._instance, **{key: AsdfTable(as_array(node)) for key, node in tables.items()}}
    file = asdf.AsdfFile(AsdfObject(tree))
    for _, node in _leaves(tree):
        node = node.array if isinstance(node, AsdfTable) else node
        if _is_array(node) and not any(node is one for one in noisy):
            file.set_array_compression(node, "zlib", **options)
    file.write_to(path)


def _is_noisy(array: np.ndarray) -> bool:
    """Tell by a part of it whether zlib would gain less than a fifth, for much time."""
    plain = np.asarray(array)
    if plain.nbytes < _LARGE or not plain.flags.c_contiguous:
        return False
    middle = plain.nbytes // 2
    part = plain.reshape(-1).view(np.uint8)[middle : middle + _LARGE // 4]
    return len(zlib.compress(part.tobytes(), 1)) > 0.8 * part.size


def _is_table(node: Any) -> bool:
    return _is_array(node) and bool(node.dtype.names)


def as_array(table: np.ndarray) -> np.ndarray:
    """Take a table out of its FITS clothes: a structured array, bytes for text."""
    plain = np.asarray(table).view(np.ndarray)
    return plain.astype(np.dtype(plain.dtype.descr).newbyteorder("="))


class _Home(NamedTuple):
    """Where an entry of a model belongs in FITS; an array has no keyword."""

    hdu: str
    keyword: str | None
    title: str


def _list_fits_homes(model: JwstDataModel) -> dict[str, _Home]:
    """Find where the schema puts each entry in FITS: dotted path -> home."""
    homes: dict[str, _Home] = {}

    def visit(node: dict[str, Any], path: list[str], *_: Any) -> None:
        if "fits_keyword" in node or "fits_hdu" in node:
            homes[".".join(map(str, path))] = _Home(
                node.get("fits_hdu", "PRIMARY"), node.get("fits_keyword"), node.get("title", "")
            )

    walker.walk_schema(model._schema, visit)
    return homes


def _save_fits(tree: dict[str, Any], homes: dict[str, _Home], path: Path) -> None:
    """Save as the stock writer does, less the ASDF extension that it makes and discards."""
    arrays, metadata = _arrays(tree), _metadata(tree)
    hdus: dict[str, Any] = {"PRIMARY": fits.PrimaryHDU()}
    for key, home in homes.items():
        if home.keyword is None and key in arrays:
            kind = fits.BinTableHDU if arrays[key].dtype.names else fits.ImageHDU
            hdus[home.hdu] = kind(arrays[key], name=home.hdu, ver=1)
    if "dq" in arrays:
        hdus["DQ_DEF"] = fits.BinTableHDU(identity_dq_def(), name="DQ_DEF", ver=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Card is too long")
        for key, home in homes.items():
            if home.keyword is not None and key in metadata:
                if home.hdu not in hdus:
                    hdus[home.hdu] = fits.ImageHDU(name=home.hdu, ver=1)
                hdus[home.hdu].header[home.keyword] = (metadata[key], home.title)
        for entry in _history(tree):
            hdus["PRIMARY"].header["HISTORY"] = entry["description"]
        fits.HDUList(list(hdus.values())).writeto(path, overwrite=True)


def _same_array(expected: np.ndarray, found: np.ndarray) -> bool:
    """Compare values, shape and kind of type; byte order and NaN make no difference."""
    if expected.shape != found.shape or expected.dtype != found.dtype.newbyteorder("="):
        return False
    if expected.dtype.names:
        return all(_same_array(expected[name], found[name]) for name in expected.dtype.names)
    return np.array_equal(expected, found, equal_nan=expected.dtype.kind in "fc")


def _require_same(
    where: str, what: str, expected: Any, found: Any, same: Callable[[Any, Any], bool]
) -> None:
    if not same(expected, found):
        raise ProductError(
            f"expected {what} of {where} to read back as "
            f"{_shorten(expected)}, found {_shorten(found)}; the file was removed"
        )


def _shorten(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    return repr(value)


def _same_scalar(expected: Any, found: Any) -> bool:
    return bool(expected == found) or bool(expected != expected and found != found)


def _compare_trees(where: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    """Require equal arrays and equal metadata, key by key."""
    kinds = (
        (_arrays(expected), _arrays(found), _same_array),
        (_metadata(expected), _metadata(found), _same_scalar),
    )
    for wanted, read, same in kinds:
        _require_same(where, "the list of entries", sorted(wanted), sorted(read), _same_scalar)
        for key, value in wanted.items():
            _require_same(where, key, value, read[key], same)  # type: ignore[arg-type]


def _compare_asdf(wanted: dict[str, Any], path: Path, kind: type[JwstDataModel]) -> None:
    """Compare an ASDF file, read with asdf alone and as steps do, with the tree it came from."""
    name = wanted["meta"]["filename"]
    with unvalidated(), asdf.open(path, memmap=False) as file:
        _compare_trees(name, wanted, dict(file.tree))
        found = [entry["description"] for entry in _history(dict(file.tree))]
        entries = [entry["description"] for entry in _history(wanted)]
        _require_same(name, "the history", entries, found, _same_scalar)
        _compare_opened(name, _arrays(wanted), kind, file)


@contextmanager
def unvalidated() -> Iterator[None]:
    """Read without asdf's validation, for what is compared with a validated model anyway."""
    with asdf.config_context() as config:
        config.validate_on_read = False
        yield


def _compare_fits(
    wanted: dict[str, Any], homes: dict[str, _Home], path: Path, kind: type[JwstDataModel]
) -> None:
    """Compare a FITS file, read with astropy alone and as steps do, with the tree it came from."""
    name, metadata, arrays = wanted["meta"]["filename"], _metadata(wanted), _arrays(wanted)
    decoded = dict(arrays)
    with fits.open(path, memmap=False) as hdus:
        for key, (hdu, keyword, _) in homes.items():
            if keyword is not None and key in metadata:
                value = hdus[hdu].header.get(keyword)
                _require_same(name, f"{keyword} ({key})", metadata[key], value, _same_scalar)
            elif keyword is None and key in arrays:
                array = np.asarray(hdus[hdu].data)
                _require_same(name, f"{hdu} ({key})", arrays[key], array, _same_array)
        if "dq" in arrays:
            table = hdus["DQ_DEF"].data
            found = dict(zip(table["NAME"], table["VALUE"].tolist(), strict=True))
            pairs = {row["NAME"].decode(): int(row["VALUE"]) for row in identity_dq_def()}
            _require_same(name, "DQ_DEF", pairs, found, _same_scalar)
            # Flags are decoded value by value: one of each shows all there is to see.
            decoded["dq"] = _list_flags(arrays["dq"])[None]
            hdus["DQ"].data = decoded["dq"]
        _compare_opened(name, decoded, kind, hdus)


def _list_flags(dq: np.ndarray) -> np.ndarray:
    """List the values other than 0 that occur."""
    return np.unique(dq[dq != 0])


def was_decoded(kind: type[JwstDataModel], dq: np.ndarray) -> bool:
    """Tell whether each flag was decoded rightly before, out of files of both forms."""
    known = (_DECODED[kind, file.__name__] for file in (asdf.AsdfFile, fits.HDUList))
    return set.intersection(*known).issuperset(_list_flags(dq).tolist())


def _compare_opened(
    name: str, wanted: dict[str, np.ndarray], kind: type[JwstDataModel], file: Any
) -> None:
    """Compare the arrays, as stdatamodels decodes them for the steps, with what was meant.

    The arrays of the file, and the table that its flags are decoded by, were compared before: of
    files with flags alone, those in which each was decoded rightly already are not opened again.
    """
    known = _DECODED[kind, type(file).__name__]
    flags = set(_list_flags(wanted["dq"]).tolist()) if "dq" in wanted else set()
    if wanted.keys() == {"dq"} and flags and flags <= known:
        return
    found = _arrays(kind(file, validate_on_assignment=False)._instance)
    for key, value in wanted.items():
        _require_same(name, f"{key} opened by stdatamodels", value, found[key], _same_array)
    known |= flags
