"""A local context derived from one that the user's CRDS cache holds."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InputError, ProductError
from .context import (
    Context,
    _environ,
    _environment,
    _write_config,
    _write_imap,
    _write_rmap,
)
from .found import Reference
from .observatory import of_instrument, of_mapping

__all__ = [
    "choose_value",
    "derive_context",
    "find_cached",
    "find_superseded",
    "has_rules",
    "load_mappings",
    "print_difference",
]


def derive_context(
    cache: Path, references: Sequence[Reference], *, source: Path, name: str
) -> Context:
    """Add references to the rules of an existing context, in a cache of our own.

    Parameters
    ----------
    cache : Path
        Folder of the new cache; made when absent.
    references : sequence of Reference
    source : Path
        The CRDS cache that holds the context; it is only read.
    name : str
        The context, ``jwst_NNNN.pmap`` or ``roman_NNNN.pmap``, of the telescope of the references.

    Returns
    -------
    Context
        The new one: rules of the old one with the references inserted.

    Raises
    ------
    InputError
        The context is not in the cache, or does not resolve.
    ProductError
        crds does not take a reference into the rules.

    Notes
    -----
    All mappings of the old context are copied. Of its references those that the cache has are
    linked, so that the stages find them; they are never copied, a cache being large. Numbers are
    the next free ones of the cache: provisional, the CRDS server gives its own.
    """
    telescope = of_instrument(references[0].instrument).name
    if not re.fullmatch(rf"{telescope}_\d{{4,}}\.pmap", name):
        raise InputError(
            f"expected a context like {telescope}_1303.pmap, found {name!r}; correct it"
        )
    source, cache = source.resolve(), cache.resolve()
    if not (source / "mappings" / telescope / name).is_file():
        raise InputError(
            f"expected the context {name} in the CRDS cache {source}, found no file "
            f"mappings/{telescope}/{name}; check CRDS_PATH, or run `crds sync --contexts {name}`"
        )
    with _environ(_environment(source, name, parameters=False)):
        mappings, kept = load_mappings(source, name)
    folder = cache / "mappings" / telescope
    folder.mkdir(parents=True, exist_ok=True)
    for mapping in mappings:
        shutil.copyfile(source / "mappings" / telescope / mapping, folder / mapping)
    _link_references(source, cache, kept)
    taken = {path.name for path in (source / "mappings" / telescope).iterdir()}
    with _environ(_environment(cache, name, parameters=False)):
        _write_config(cache, name)
        names = _store(cache, source, references, kept)
        new = _write_mappings(cache, name, references, names, taken)
    _write_config(cache, new)
    parameters = any("_pars-" in mapping for mapping in mappings)
    env = _environment(cache, new, parameters=parameters)
    return Context(MappingProxyType(env), MappingProxyType(names))


def find_superseded(context: Context, old: str) -> dict[str, str]:
    """Find what the old context gives where a new reference begins to be valid.

    Parameters
    ----------
    context : Context
        From `derive_context`.
    old : str
        Name of the context that it was derived from.

    Returns
    -------
    dict of str to str
        CRDS name of the new reference -> CRDS name of the old one; only where there is one.
    """
    import crds

    superseded, observatory = {}, of_mapping(old)
    with _environ(context.env):
        pmap = crds.get_cached_mapping(context.env["CRDS_CONTEXT"])
        for name in context.names.values():
            _, instrument, kind, *_ = name.split("_")
            rules = pmap.get_imap(instrument).get_rmap(kind)
            for _, selection, date in rules.file_matches(name):
                header = {key: choose_value(value) for key, value in (*selection, *date)}
                header[observatory.instrument_key] = instrument.upper()
                found = crds.getrecommendations(
                    header, reftypes=[kind], context=old, observatory=observatory.name, fast=True
                )[kind]
                if not found.upper().startswith("NOT FOUND") and found.upper() != "N/A":
                    superseded[name] = Path(found).name
    return superseded


def has_rules(context: Context, name: str, instrument: str, kind: str) -> bool:
    """Tell whether a context has rules of a type.

    Parameters
    ----------
    context : Context
        Of the cache.
    name : str
        The context in this cache that is asked.
    instrument, kind : str
        In lower case.

    Returns
    -------
    bool
    """
    import crds

    with _environ(context.env):
        return _find_rules(crds.get_cached_mapping(name), instrument, kind) is not None


def print_difference(old: str, new: str) -> None:
    """Run crds diff on two contexts of the cache; in a process of `workers`.

    Parameters
    ----------
    old, new : str
        Names of the contexts.
    """
    from crds.diff import DiffScript

    DiffScript(["crds.diff", f"crds://{old}", f"crds://{new}"])()


def load_mappings(cache: Path, name: str) -> tuple[list[str], list[str]]:
    """Load a context with all its mappings and their checksums.

    Parameters
    ----------
    cache : Path
        The cache that the environment says, for messages.
    name : str
        The context.

    Returns
    -------
    mappings, references : list of str
        Names of all files that it is made of, and selects.

    Raises
    ------
    InputError
        A mapping is missing, or its text is not what its checksum says.
    """
    from crds.core import config, rmap

    waiting, mappings, references = [name], set(), set()
    while waiting:
        mapping = waiting.pop()
        if mapping in mappings:
            continue
        try:
            loaded = rmap.load_mapping(config.locate_mapping(mapping, of_mapping(name).name))
            waiting += loaded.mapping_names()
        except Exception as error:
            raise InputError(
                f"expected the context {name} in {cache} to resolve, found that {mapping} does "
                f"not: {error}; fetch or build the context again"
            ) from error
        mappings.add(mapping)
        if mapping.endswith(".rmap"):
            references.update(loaded.reference_names())
    return sorted(mappings), sorted(references)


def choose_value(value: str) -> str:
    """Choose one value that a keyword of an rmap matches."""
    if value.upper().startswith("BETWEEN"):
        return value.split()[1]
    return value.split("|")[0]


def find_cached(cache: Path, reference: str) -> Path:
    """Tell where a cache has a reference, in either layout; the first where it has none."""
    folder = cache / "references" / of_mapping(reference).name
    nested = folder / reference.split("_")[1] / reference
    flat = folder / reference
    return flat if flat.exists() and not nested.exists() else nested


def _link_references(source: Path, cache: Path, names: Sequence[str]) -> None:
    """Link the references that the source has."""
    for name in names:
        path = find_cached(source, name)
        if path.is_file():
            link = cache / "references" / of_mapping(name).name / name.split("_")[1] / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())


def _store(
    cache: Path, source: Path, references: Sequence[Reference], kept: Sequence[str]
) -> dict[Path, str]:
    """Copy the references under the next free CRDS names."""
    names: dict[Path, str] = {}
    used = set(kept)
    for reference in references:
        telescope = of_instrument(reference.instrument).name
        prefix = f"{telescope}_{reference.instrument}_{reference.kind}_"
        folder = source / "references" / telescope
        there = [
            p.name for f in (folder, folder / reference.instrument) for p in f.glob(f"{prefix}*")
        ]
        number = _next_number(prefix, {*used, *there})
        target = cache / "references" / telescope / reference.instrument
        target.mkdir(parents=True, exist_ok=True)
        name = f"{prefix}{number:04d}{reference.fits.suffix}"
        shutil.copyfile(reference.fits, target / name)
        names[reference.fits] = name
        used.add(name)
    return names


def _next_number(prefix: str, names: set[str]) -> int:
    """Give the number after the highest that names with a prefix have."""
    found = [re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names]
    return max((int(match[1]) for match in found if match), default=0) + 1


def _write_mappings(
    cache: Path,
    name: str,
    references: Sequence[Reference],
    names: Mapping[Path, str],
    taken: set[str],
) -> str:
    """Write new rmaps, imaps and the pmap; return the name of the pmap."""
    import crds
    from crds.refactoring import newcontext, refactor

    telescope = of_mapping(name).name
    folder = cache / "mappings" / telescope
    pmap = crds.get_cached_mapping(name)
    groups: dict[str, dict[str, list[Path]]] = {}
    for reference in references:
        stored = cache / "references" / telescope / reference.instrument / names[reference.fits]
        kinds = groups.setdefault(reference.instrument, {})
        kinds.setdefault(reference.kind, []).append(stored)

    def following(old: str) -> str:
        prefix, suffix = re.sub(r"\d+\.\w+$", "", old), Path(old).suffix
        same = {other for other in taken if other.endswith(suffix)}
        return f"{prefix}{_next_number(prefix, same):04d}{suffix}"

    imaps = []
    for instrument, kinds in sorted(groups.items()):
        rmaps = []
        for kind, files in sorted(kinds.items()):
            old = _find_rules(pmap, instrument, kind)
            new = following(old or f"{telescope}_{instrument}_{kind}_0000.rmap")
            if old:
                with _refusing(new, files):
                    refactor.rmap_insert_references(
                        str(folder / old), str(folder / new), list(map(str, files)), telescope
                    )
                refactor.update_derivation(str(folder / new), old)
            else:
                _write_rmap(cache, instrument, kind, _serial_of(new), files)
            rmaps.append(new)
        old = _find_rules(pmap, instrument)
        new = following(old or f"{telescope}_{instrument}_0000.imap")
        if old:
            newcontext.hack_in_new_maps(
                str(folder / old), str(folder / new), [str(folder / rmap) for rmap in rmaps]
            )
            refactor.update_derivation(str(folder / new), old)
        else:
            selections = {rmap.split("_")[2]: rmap for rmap in rmaps}
            _write_imap(cache, instrument, _serial_of(new), selections)
        imaps.append(new)
    new = following(name)
    newcontext.hack_in_new_maps(
        str(folder / name), str(folder / new), [str(folder / imap) for imap in imaps]
    )
    refactor.update_derivation(str(folder / new), name)
    return new


def _serial_of(mapping: str) -> str:
    return Path(mapping).stem.rpartition("_")[2]


def _find_rules(pmap: Any, instrument: str, kind: str | None = None) -> str | None:
    """Name the imap of an instrument, or the rmap of a type; None where there is none."""
    from crds.core.exceptions import CrdsError

    try:
        imap = pmap.get_imap(instrument)
        return str(imap.basename if kind is None else imap.get_rmap(kind).basename)
    except (CrdsError, LookupError, AttributeError):  # unknown; N/A or omitted; N/A instrument
        return None


@contextmanager
def _refusing(rmap: str, files: Sequence[Path]) -> Iterator[None]:
    """Turn what crds says against an insertion into our error."""
    try:
        yield
    except Exception as error:
        listed = ", ".join(path.name for path in files)
        raise ProductError(
            f"expected crds to take {listed} into {rmap}, found {error}; check USEAFTER and the "
            "keywords that select them"
        ) from error
