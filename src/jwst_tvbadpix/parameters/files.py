"""Make, find, copy and check parameter files."""

import hashlib
import io
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..atomic import replace_whole
from ..errors import InputError, ProductError
from ..files import open_asdf
from ._table import TABLE, Entry, make_tree

__all__ = ["ParameterFile", "copy_parameters", "find_shipped", "make_files", "read_parameters"]

_SCHEMA = "http://stsci.edu/schemas/stpipe/step_config-1.0.0"
_SCHEMA_WITH_METADATA = "http://stsci.edu/schemas/stpipe/step_config_with_metadata-1.0.0"


@dataclass(frozen=True, slots=True)
class ParameterFile:
    """A parameter file that stpipe takes.

    Attributes
    ----------
    path : Path
        The file.
    sha256 : str
        Its checksum.
    step_class : type
        The step or pipeline it is for.
    overrides : tuple of (str, str, str)
        Step, parameter and value of each reference file that it names.
    """

    path: Path
    sha256: str
    step_class: type
    overrides: tuple[tuple[str, str, str], ...]


def find_shipped(name: str) -> Path:
    """Find a shipped parameter file.

    Parameters
    ----------
    name : str
        One of `TABLE`.

    Returns
    -------
    Path
        The file, in the package.

    Raises
    ------
    InputError
        There is none of this name.
    """
    if name not in TABLE:
        raise InputError(
            f"expected a shipped parameter file ({', '.join(TABLE)}), found {name!r}; see "
            "tvbadpix parameters"
        )
    return Path(str(files(__package__) / f"{name}.asdf"))


def read_parameters(source: str | Path) -> ParameterFile:
    """Read a parameter file and check that its class takes it.

    Parameters
    ----------
    source : str or Path
        A file, or the name of a shipped one.

    Returns
    -------
    ParameterFile

    Raises
    ------
    InputError
        The file is absent, no ASDF, not valid against stpipe's schema, of a class that cannot be
        imported or is no step, or has parameters that the class does not take.
    """
    path = find_shipped(str(source)) if str(source) in TABLE else Path(source)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"expected a parameter file or the name of a shipped one ({', '.join(TABLE)}), found "
            f"{source}: {error.strerror}; see tvbadpix parameters"
        ) from error
    tree = _read_tree(path)
    step_class = _import_class(path, tree["class"])
    _require_accepted(path, step_class)
    overrides = [
        (str(part["name"]), key, str(value))
        for part in (tree, *tree.get("steps", ()))
        for key, value in part["parameters"].items()
        if key.startswith("override_") and isinstance(value, str)
    ]
    return ParameterFile(
        path.resolve(), hashlib.sha256(content).hexdigest(), step_class, tuple(overrides)
    )


def copy_parameters(
    name: str, folder: str | Path, *, mask: str | Path | None = None, dry_run: bool = False
) -> Path:
    """Copy a shipped parameter file, the mask filled in where one is given.

    Parameters
    ----------
    name : str
        One of `TABLE`.
    folder : str or Path
        Where to; made when absent.
    mask : str or Path, optional
        Mask for dq_init, for a file that overrides it.
    dry_run : bool
        Check everything and write nothing.

    Returns
    -------
    Path
        The copy.

    Raises
    ------
    InputError
        The name is unknown, the mask is absent or not wanted, or the folder has another file of
        this name.
    ProductError
        It cannot be written.
    """
    source = find_shipped(name)
    entry = TABLE[name]
    folder = Path(folder)
    target = folder / source.name
    if mask is not None:
        from ..refmodels import read_mask_dq

        if "override_mask" not in entry.steps.get("dq_init", {}):
            raise InputError(
                f"expected a parameter file with dq_init for the mask {mask}, found {name}; give "
                "detector1_neutral"
            )
        read_mask_dq(Path(mask))  # fails on what is no mask
        dq_init = {"override_mask": str(Path(mask).resolve())}
        entry = Entry(
            entry.class_name,
            entry.purpose,
            f"The mask is {dq_init['override_mask']}.",
            steps={**entry.steps, "dq_init": dq_init},
            selection=entry.selection,
        )
    tree = make_tree(entry)
    if target.exists() and not _same_content(target, tree):
        raise InputError(
            f"expected no {target.name} in {folder}, found one that differs; remove it or choose "
            "another folder"
        )
    if dry_run:
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _write(tree, target)
    except OSError as error:
        raise ProductError(
            f"expected to write {target}, found {error}; nothing was left there. Check the folder "
            "and the space on its disk"
        ) from error


def make_files(folder: str | Path) -> list[Path]:
    """Write all parameter files of the table; this is how the shipped ones are made.

    Parameters
    ----------
    folder : str or Path
        Where to.

    Returns
    -------
    list of Path
        The files, in the order of the table.
    """
    return [
        _write(make_tree(entry), Path(folder) / f"{name}.asdf") for name, entry in TABLE.items()
    ]


def _write(tree: dict[str, Any], path: Path) -> Path:
    """Write a tree that is valid against both schemas of stpipe; a history, for CRDS."""
    import asdf
    from asdf.tags.core import HistoryEntry

    time = datetime.fromisoformat(tree["meta"]["date"])
    entry = HistoryEntry({"description": "Made by jwst_tvbadpix.parameters.", "time": time})
    with asdf.AsdfFile({**tree, "history": {"entries": [entry]}}) as file:
        for schema in (_SCHEMA, _SCHEMA_WITH_METADATA):
            _require_valid(file, schema)
        # asdf itself would leave a temporary file where the disk is full.
        content = io.BytesIO()
        file.write_to(content)
    with replace_whole(path) as temporary:
        temporary.write_bytes(content.getvalue())
    return path


def _require_valid(file: Any, schema: str) -> None:
    """Raise asdf's ValidationError where a tree does not follow a schema."""
    import asdf

    tree = asdf.yamlutil.custom_tree_to_tagged_tree(file.tree, file)
    asdf.schema.validate(tree, file, asdf.schema.load_schema(schema))


def _read_tree(path: Path) -> dict[str, Any]:
    """Read what a parameter file says; its history and the version of asdf are of no interest."""
    try:
        with open_asdf(path) as file:
            _require_valid(file, _SCHEMA)
            tree = dict(file.tree)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"expected an ASDF parameter file of stpipe, found {path}: {first}; make one with "
            "tvbadpix parameters or strun --save-parameters"
        ) from error
    tree = {
        key: tree[key] for key in ("class", "name", "parameters", "steps", "meta") if key in tree
    }
    unnamed = [part for part in (tree, *tree.get("steps", ())) if not part.get("name")]
    if unnamed:
        raise InputError(
            f"expected a name beside each class in {path}, found none for {unnamed[0]['class']}; "
            "add it"
        )
    return tree


def _same_content(path: Path, tree: dict[str, Any]) -> bool:
    try:
        return _read_tree(path) == tree
    except InputError:
        return False


def _import_class(path: Path, name: str) -> type:
    """Import the step class that a file names, by its path or its alias."""
    from stpipe import Step
    from stpipe.utilities import import_class, resolve_step_class_alias

    try:
        found = import_class(resolve_step_class_alias(name))
    except Exception as error:
        raise InputError(
            f"expected a class that is installed in {path}, found {name}: {error}; correct it or "
            "install its package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise InputError(f"expected a step or pipeline in {path}, found {name}; correct it")
    return found


def _require_accepted(path: Path, step_class: Any) -> None:
    """Let the class itself judge the parameters."""
    try:
        step_class.from_config_file(str(path))
    except Exception as error:
        raise InputError(
            f"expected parameters of {step_class.__name__} in {path}, found: {error}; correct them"
        ) from error
