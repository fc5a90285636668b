"""The environment that makes the pipeline use a local context, once it is seen to be whole."""

import ast
import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from .context import _environ, _environment
from .derive import find_cached, load_mappings
from .observatory import find_config

__all__ = ["format_environment", "resolve_context", "write_delivered"]

_DELIVERED = "delivered.json"


def write_delivered(cache: Path, checksums: Mapping[str, str]) -> None:
    """Write into a cache which references it must hold: CRDS name -> SHA-256."""
    text = json.dumps(dict(sorted(checksums.items())), indent=1) + "\n"
    (find_config(cache) / _DELIVERED).write_text(text)


def resolve_context(folder: str | Path) -> dict[str, str]:
    """Check a local context, and list the variables that make crds and strun use it.

    Parameters
    ----------
    folder : str or Path
        The output folder of `deliver`, or a cache.

    Returns
    -------
    dict of str to str

    Raises
    ------
    InputError
        There is no cache, it was only written in part, a mapping is missing or changed, or a
        reference is.

    Notes
    -----
    Of a context that was derived from another only the delivered references, and links to
    others, must be there: nobody has all references of the telescope. Of one built from the
    references alone all must be.
    """
    folder = Path(folder).resolve()
    places = [path for path in (folder, folder / "cache") if find_config(path).is_dir()]
    if not places:
        raise InputError(
            f"expected a CRDS cache, or a folder that `tvbadpix deliver` wrote, found no "
            f"config/*/server_config in {folder}; give another folder"
        )
    cache = places[0]
    name = _read_context_name(cache)
    with _environ(_environment(cache, name, parameters=False)):
        mappings, references = load_mappings(cache, name)
    delivered = _read_delivered(cache)
    for reference in delivered if delivered is not None else references:
        path = find_cached(cache, reference)
        if not path.is_file():
            raise InputError(
                f"expected the reference {reference} of {name}, found no file {path}; build the "
                "context again"
            )
        if delivered and hashlib.sha256(path.read_bytes()).hexdigest() != delivered[reference]:
            raise InputError(
                f"expected {path} as it was delivered, found other content; build the context again"
            )
    for link in sorted((cache / "references").rglob("*")):
        if link.is_symlink() and not link.exists():
            raise InputError(
                f"expected {link} to lead to a reference of the CRDS cache that the context was "
                "derived from, found nothing there; put the cache back, or derive again"
            )
    parameters = any("_pars-" in mapping for mapping in mappings)
    return _environment(cache, name, parameters=parameters)


def _read_context_name(cache: Path) -> str:
    path = find_config(cache) / "server_config"
    try:
        return str(ast.literal_eval(path.read_text())["operational_context"])
    except (OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise InputError(
            f"expected the name of the context in {path}, found {type(error).__name__}: {error}; "
            "the cache is not whole, build it again"
        ) from error


def _read_delivered(cache: Path) -> dict[str, str] | None:
    path = find_config(cache) / _DELIVERED
    if not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"expected the list of references in {path}, found {error}; build the context again"
        ) from error


def format_environment(env: Mapping[str, str], shell: str) -> list[str]:
    """Write variables as commands for a shell.

    Parameters
    ----------
    env : mapping of str to str
    shell : {'sh', 'csh'}

    Returns
    -------
    list of str
        For ``eval``, any character in a value being safe.
    """
    if shell == "sh":
        return [f"export {key}={shlex.quote(value)};" for key, value in env.items()]
    # In quotes csh still takes ! for its history.
    return [
        "setenv {} {};".format(key, shlex.quote(value).replace("!", "\\!"))
        for key, value in env.items()
    ]
