"""A local, server-less CRDS context for reference files of our own."""

import ast
import filecmp
import os
import pprint
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InputError, ProductError

__all__ = ["Context", "build_context", "open_context", "use_context"]

# Any address with "serverless" in it keeps crds from trying to connect.
_SERVER_URL = "https://jwst-serverless-mode.stsci.edu"

# Asked for by spectroscopic and imaging steps, absent from the type list of some instruments.
_ALSO_ABSENT = ("area", "dflat", "fflat", "refpix", "sflat", "sirskernel", "superbias")

_ABSENT = "UNDEFINED"

# How the types of parameter files begin; what they are mostly selected by, and the keyword that
# holds several values of it.
_PARAMETERS = "pars-"
_SELECTS_PARAMETERS = {
    "META.EXPOSURE.TYPE": "META.EXPOSURE.P_EXPTYPE",
    "META.INSTRUMENT.DETECTOR": "META.INSTRUMENT.P_DETECTOR",
}

# What an rmap takes over from the type list of the installed crds.
_HEADER_KEYS = (
    "file_ext",
    "filekind",
    "filetype",
    "instrument",
    "mapping",
    "observatory",
    "reference_to_dataset",
    "rmap_relevance",
    "substitutions",
    "suffix",
    "text_descr",
)


@dataclass(frozen=True, slots=True)
class Context:
    """A CRDS cache on disk and how to use it.

    Attributes
    ----------
    env : mapping of str to str
        Environment variables that make crds, strun and the steps use this context.
    names : mapping of Path to str
        The absolute path of each given reference -> its CRDS name in the cache.
    """

    env: Mapping[str, str]
    names: Mapping[Path, str]


def build_context(
    cache: str | Path,
    references: Mapping[str, Sequence[str | Path]],
    *,
    name: str = "jwst_0001.pmap",
) -> Context:
    """Build a CRDS cache that selects the given references by date and mode, without a server.

    Parameters
    ----------
    cache : str or Path
        Folder to hold the cache; made when absent. A context of the same name is replaced.
    references : mapping of str to sequence of path
        Reference type, such as ``"mask"``, -> FITS or ASDF files of one and the same instrument.
        Their own metadata decide what they are selected for.
    name : str
        Name of the context, ``jwst_NNNN.pmap``.

    Returns
    -------
    Context
        The environment to run with and the names given to the files.

    Raises
    ------
    InputError
        When a file cannot be read, lacks what selects it, is of another instrument than the
        others, or its type is unknown to the installed crds; or when `name` is malformed.
    ProductError
        When crds does not take the files into its rules, for example two of the same date.

    Notes
    -----
    The rules are those that the installed crds ships as the start of each type (parkeys,
    substitutions), less the keywords that none of the files of a type has; those of MIRI for the
    masks of all instruments, so that READPATT tells the frames of NIRSpec apart; GENERIC stands
    for every subarray in all of them. Every type without a file is N/A: a step that needs it must
    be skipped or given an override. The environment is left as it was, but for the variables that
    the first import of crds itself sets. A file already in the cache keeps its name, so that
    several contexts can share one cache.
    """
    serial = _serial(name)
    paths = {
        kind.lower(): [Path(path).resolve() for path in files]
        for kind, files in references.items()
        if files
    }
    cache = Path(cache).resolve()
    env = _environment(cache, name, parameters=any(kind.startswith(_PARAMETERS) for kind in paths))
    with _environ(env):
        instrument = _common_instrument(paths)
        _write_config(cache, name)
        names: dict[Path, str] = {}
        selections: dict[str, str] = {}
        for kind, files in sorted(paths.items()):
            folder = cache / "references" / "jwst" / instrument
            named = _store_references(files, folder, f"jwst_{instrument}_{kind}", names)
            selections[kind] = _write_rmap(cache, instrument, kind, serial, named)
        _write_contexts(cache, instrument, serial, selections)
    return Context(MappingProxyType(env), MappingProxyType(names))


def open_context(cache: str | Path) -> Context:
    """Open a CRDS cache that `build_context` has made.

    Parameters
    ----------
    cache : str or Path
        Its folder.

    Returns
    -------
    Context
        With the last context built in it; `names` is empty.

    Raises
    ------
    InputError
        There is no such cache, or it is incomplete.
    """
    cache = Path(cache).resolve()
    config = cache / "config" / "jwst" / "server_config"
    try:
        name = str(ast.literal_eval(config.read_text())["operational_context"])
        env = _environment(cache, name, parameters=False)
        with _environ(env):
            from crds.core import rmap

            found = {Path(part).name for part in rmap.get_cached_mapping(name).mapping_names()}
    except (Exception, SystemExit) as error:
        raise InputError(
            f"expected a CRDS cache with a complete context in {cache}, found: {error}; "
            "build it again"
        ) from error
    has_parameters = any(f"_{_PARAMETERS}" in part for part in found)
    env = _environment(cache, name, parameters=has_parameters)
    return Context(MappingProxyType(env), MappingProxyType({}))


@contextmanager
def use_context(context: Context) -> Iterator[Context]:
    """Run what is inside with a context, in this process; then put the environment back.

    Parameters
    ----------
    context : Context
        From `build_context`.

    Yields
    ------
    Context
        The same object.
    """
    with _environ(context.env):
        yield context


def _environment(cache: Path, name: str, *, parameters: bool) -> dict[str, str]:
    """Name the variables; parameters of steps are looked up where the context has some."""
    return {
        "CRDS_PATH": str(cache),
        "CRDS_SERVER_URL": _SERVER_URL,
        "CRDS_CONTEXT": name,
        "CRDS_OBSERVATORY": "jwst",
        "CRDS_READONLY_CACHE": "1",
        "CRDS_CLIENT_RETRY_COUNT": "1",
        "CRDS_CLIENT_RETRY_DELAY_SECONDS": "0",
        "STPIPE_DISABLE_CRDS_STEPPARS": "false" if parameters else "true",
    }


@contextmanager
def _environ(env: Mapping[str, str]) -> Iterator[None]:
    """Set all that crds reads, and make it forget what it read before, on entry and on exit."""
    # First, because the import itself writes variables that crds cannot do without later.
    from crds.client import api
    from crds.core import config, utils

    saved = {key: value for key, value in os.environ.items() if _is_ours(key)}
    server, layout = api.get_crds_server(), config.CRDS_REF_SUBDIR_MODE
    try:
        _replace_variables({**_NO_REMOTE_FILES, **env})
        api.set_crds_server(env["CRDS_SERVER_URL"])
        config.CRDS_REF_SUBDIR_MODE = "instrument"
        utils.clear_function_caches()
        yield
    finally:
        _replace_variables(saved)
        api.set_crds_server(server)
        config.CRDS_REF_SUBDIR_MODE = layout
        utils.clear_function_caches()


# crds 14.0 fails on the first look-up of one of these when it is absent.
_NO_REMOTE_FILES = {
    f"CRDS_{kind}_URI": "none" for kind in ("CONFIG", "MAPPING", "PICKLE", "REFERENCE")
}


def _replace_variables(env: Mapping[str, str]) -> None:
    """Make `env` all that the environment says about CRDS."""
    for key in [key for key in os.environ if _is_ours(key)]:
        del os.environ[key]
    os.environ.update(env)


def _is_ours(key: str) -> bool:
    return key.startswith("CRDS_") or key == "STPIPE_DISABLE_CRDS_STEPPARS"


def _serial(name: str) -> str:
    """Take the number out of a context name."""
    serial = name.removeprefix("jwst_").removesuffix(".pmap")
    if name != f"jwst_{serial}.pmap" or not (serial.isdecimal() and len(serial) == 4):
        raise InputError(f"expected a context name like jwst_0001.pmap, found {name!r}; rename it")
    return serial


def _common_instrument(references: Mapping[str, Sequence[Path]]) -> str:
    """Read the instrument that all files are for, in lower case; check their types."""
    found: dict[str, Path] = {}
    for kind, path in [(kind, path) for kind, files in references.items() for path in files]:
        header = _read_header(path)
        reftype = header.get("META.REFTYPE", _ABSENT)
        if reftype.lower() != kind:
            raise InputError(
                f"expected REFTYPE {kind.upper()} in {path}, found {reftype}; "
                "list it under its own type"
            )
        found.setdefault(header.get("META.INSTRUMENT.NAME", _ABSENT).lower(), path)
    if len(found) != 1 or _ABSENT.lower() in found:
        listed = ", ".join(f"{key} ({path.name})" for key, path in found.items()) or "no file"
        raise InputError(
            f"expected references of one instrument, found {listed}; build one context for each"
        )
    return next(iter(found))


def _read_header(path: Path) -> dict[str, str]:
    """Read the keywords of a reference as crds sees them."""
    from crds import data_file

    if not path.is_file():
        raise InputError(f"expected a reference file, found nothing at {path}; check the path")
    try:
        return dict(data_file.get_header(str(path), observatory="jwst"))
    except Exception as error:
        raise InputError(
            f"expected a readable FITS or ASDF reference, found {path}: {error}; "
            "make it again or leave it out"
        ) from error


def _write_config(cache: Path, name: str) -> None:
    """Write the two files by which crds knows a cache."""
    folder = cache / "config" / "jwst"
    folder.mkdir(parents=True, exist_ok=True)
    contexts = ("operational_context", "latest_context", "edit_context", "versions_context")
    config = {
        "observatory": "jwst",
        "bad_files": "",
        "bad_files_list": [],
        "crds_version": {"str": "local"},
        "force_remote_mode": False,
        "last_synced": "",
        "mappings": [],
        **dict.fromkeys(contexts, name),
    }
    (folder / "server_config").write_text(pprint.pformat(config) + "\n")
    # Left to itself crds guesses the layout from the number of entries.
    (folder / "ref_cache_subdir_mode").write_text("instrument")


def _store_references(
    files: Sequence[Path], folder: Path, prefix: str, names: dict[Path, str]
) -> list[Path]:
    """Copy the files into the cache under CRDS names; record the names."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = []
    for path in files:
        if path in names:
            raise InputError(f"expected each reference once, found {path} twice; remove one")
        target = _find_place(path, folder, prefix)
        if target.name in names.values():
            raise InputError(
                f"expected different references, found {path} with the same content as another; "
                "remove one"
            )
        if not target.exists():
            shutil.copyfile(path, target)
        names[path] = target.name
        stored.append(target)
    return stored


def _find_place(path: Path, folder: Path, prefix: str) -> Path:
    """Find the copy of a file in the cache, or the first number that is free."""
    for number in range(1, 10000):
        target = folder / f"{prefix}_{number:04d}{path.suffix}"
        if target.exists():
            if filecmp.cmp(path, target, shallow=False):
                return target
        elif not any(folder.glob(f"{target.stem}.*")):
            return target
    raise ProductError(f"expected fewer than 10000 files in {folder}; use another cache")


def _write_rmap(
    cache: Path, instrument: str, kind: str, serial: str, references: Sequence[Path]
) -> str:
    """Let crds make the rules of one type from the files; return the name of the rmap."""
    from crds.core import rmap
    from crds.jwst import TYPES

    spec = _find_rules(instrument, kind)
    name = f"jwst_{instrument}_{kind}_{serial}.rmap"
    header = {key: spec[key] for key in _HEADER_KEYS if spec.get(key)}
    header |= {"name": name, "derived_from": "generated by jwst_tvbadpix", "sha1sum": "0"}
    if "rmap_relevance" in header:
        # The type list writes keywords with dots, which the rules themselves do not take.
        header["rmap_relevance"] = header["rmap_relevance"].replace(".", "_")
    # The list knows what selects a mask for MIRI alone; our masks of all instruments have it.
    wanted = TYPES.unified_defs["miri"][kind] if kind == "mask" else spec
    header |= {
        "classes": ("Match", "UseAfter"),
        "parkey": _parkeys(wanted["parkey"][0], references),
    }
    if "META.SUBARRAY.NAME" in header["parkey"][0]:
        header["substitutions"] = {"META.SUBARRAY.NAME": {"GENERIC": "N/A"}}
    if kind.startswith(_PARAMETERS):
        header["rmap_relevance"] = _relevance(header["parkey"][0], references)
    mapping = _make_mapping(rmap.ReferenceMapping, cache, header, "Match({\n})")
    for path in references:
        try:
            mapping = mapping.insert_reference(str(path))
        except Exception as error:
            raise ProductError(
                f"expected crds to take {path.name} into {name}, found {error}; "
                "check its USEAFTER and the keywords that select it"
            ) from error
    missing = {path.name for path in references} - set(mapping.reference_names())
    if missing:
        raise ProductError(
            f"expected every file in {name}, found {', '.join(sorted(missing))} replaced by "
            "another of the same selection and USEAFTER; give each epoch its own date"
        )
    mapping.write(str(_mapping_path(cache, name)))
    return name


def _relevance(parkeys: Sequence[str], references: Sequence[Path]) -> str:
    """Say which exposures parameters are for; crds complains where it finds none for others."""
    headers = [_read_header(path) for path in references]
    conditions = ["always"]
    for key, several in _SELECTS_PARAMETERS.items():
        texts = [header.get(several) or header.get(key, _ABSENT) for header in headers]
        values = {value for text in texts for value in text.split("|") if value}
        if key in parkeys and not values & {"ANY", "N/A", _ABSENT}:
            conditions.append(f"{key.replace('.', '_')} in {(*sorted(values), '')!r}")
    return f"({' and '.join(conditions)})"


def _find_rules(instrument: str, kind: str) -> dict[str, Any]:
    """Find what crds knows of a type; parameters of steps it has never heard of are all alike."""
    from crds.jwst import TYPES

    known = TYPES.unified_defs.get(instrument, {})
    if kind in known:
        return dict(known[kind])
    if not kind.startswith(_PARAMETERS):
        raise InputError(
            f"expected a reference type of {instrument} ({', '.join(sorted(known))}), found "
            f"{kind!r}; correct it"
        )
    return {
        "file_ext": ".asdf",
        "filekind": kind.upper(),
        "filetype": kind.upper(),
        "instrument": instrument.upper(),
        "mapping": "REFERENCE",
        "observatory": "JWST",
        "parkey": (("META.EXPOSURE.TYPE",),),
        "suffix": kind,
        "text_descr": f"Parameters of {kind.removeprefix(_PARAMETERS)}",
    }


def _list_parameter_types() -> set[str]:
    """List the types of the parameters of all installed steps, in lower case."""
    from stpipe.entry_points import get_steps

    return {f"{_PARAMETERS}{step.class_name.rpartition('.')[2].lower()}" for step in get_steps()}


def _parkeys(wanted: Sequence[str], references: Sequence[Path]) -> tuple[tuple[str, ...], ...]:
    """List what selects a type; what none of its files has cannot select, and crds refuses it."""
    absent = list(wanted)
    for path in references:
        if not absent:
            break
        header = _read_header(path)
        absent = [key for key in absent if header.get(key, _ABSENT) == _ABSENT]
    return tuple(key for key in wanted if key not in absent), (
        "META.OBSERVATION.DATE",
        "META.OBSERVATION.TIME",
    )


def _write_contexts(
    cache: Path, instrument: str, serial: str, selections: Mapping[str, str]
) -> None:
    """Write the instrument and the pipeline context."""
    from crds.core import rmap
    from crds.jwst import INSTRUMENTS, TYPES

    # The pipelines ask for the types of all instruments, whichever the exposure is of.
    known = {kind for name in INSTRUMENTS for kind in TYPES.get_filekinds(name)}
    kinds = {*known, *_ALSO_ABSENT, *selections, *_list_parameter_types()} - {"all"}
    common = {"derived_from": "generated by jwst_tvbadpix", "observatory": "JWST", "sha1sum": "0"}
    imap: dict[str, Any] = {
        **common,
        "name": f"jwst_{instrument}_{serial}.imap",
        "mapping": "INSTRUMENT",
    }
    imap |= {"instrument": instrument.upper(), "parkey": ("REFTYPE",)}
    types = {kind.upper(): selections.get(kind, "N/A") for kind in kinds}
    pmap: dict[str, Any] = {**common, "name": f"jwst_{serial}.pmap", "mapping": "PIPELINE"}
    pmap |= {"parkey": ("META.INSTRUMENT.NAME",)}
    instruments = {key.upper(): "N/A" for key in INSTRUMENTS if key != "all"}
    instruments[instrument.upper()] = imap["name"]
    for mapping_class, header, body in (
        (rmap.InstrumentContext, imap, types),
        (rmap.PipelineContext, pmap, instruments),
    ):
        mapping = _make_mapping(mapping_class, cache, header, pprint.pformat(body))
        mapping.write(str(_mapping_path(cache, header["name"])))


def _mapping_path(cache: Path, name: str) -> Path:
    folder = cache / "mappings" / "jwst"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _make_mapping(mapping_class: Any, cache: Path, header: dict[str, Any], selector: str) -> Any:
    text = f"header = {pprint.pformat(header)}\n\nselector = {selector}\n"
    path = _mapping_path(cache, header["name"])
    return mapping_class.from_string(text, str(path), ignore_checksum=True)
