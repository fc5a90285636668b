"""What crds certify says of files and mappings; each function runs in a process of `workers`."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from .asdf_check import asdf_rules
from .derive import choose_value, load_mappings
from .observatory import of_mapping

__all__ = [
    "certify_asdf",
    "certify_fits",
    "certify_mappings",
    "find_unreachable",
    "insert_on_trial",
]


def certify_fits(path: str, context: str) -> None:
    """Run stock certify on one file; `insert_on_trial` is its last part.

    Parameters
    ----------
    path : str
        Absolute path.
    context : str
        Name of the context that tells the rules and the file to compare with.
    """
    from crds import certify

    observatory = of_mapping(context).name
    certify.certify_files([path], context, observatory=observatory, check_rmap=False)


def certify_asdf(path: str, context: str) -> None:
    """Run certify on one ASDF file with what it lacks for ASDF; our check, not CRDS's.

    Parameters
    ----------
    path, context : str
        As `certify_fits`.
    """
    from crds import certify

    with asdf_rules():
        certify.certify_files([path], context, observatory="jwst", check_rmap=False)


def insert_on_trial(paths: Sequence[str], instrument: str, kind: str, context: str) -> None:
    """Insert files of one type into its rules, and certify these, as certify does at its end.

    Parameters
    ----------
    paths : sequence of str
        All files of the type.
    instrument, kind : str
        In lower case.
    context : str
        Name of the context with the rules.

    Notes
    -----
    certify itself writes to a fixed name in /tmp, where two of them at a time collide.
    """
    import crds
    from crds import certify
    from crds.refactoring import refactor

    old = crds.get_cached_mapping(context).get_imap(instrument).get_rmap(kind)
    with tempfile.TemporaryDirectory() as folder:
        new = str(Path(folder) / old.basename)
        observatory = of_mapping(context).name
        refactor.rmap_insert_references(old.filename, new, list(paths), observatory=observatory)
        certify.certify_file(new, context)


def certify_mappings(context: str, compared: str | None) -> int:
    """Certify a context with all its mappings, and require the new references to be there.

    Parameters
    ----------
    context : str
        Name of the context.
    compared : str or None
        The context that it was derived from, whose own mappings are loaded, with their
        checksums, and not parsed again.

    Returns
    -------
    int
        Number of mappings.
    """
    from crds import certify
    from crds.core import config

    cache = Path(config.get_crds_path())
    every = set(load_mappings(cache, context)[0])
    older = set(load_mappings(cache, compared)[0]) if compared else set()
    observatory = of_mapping(context).name
    paths = [config.locate_mapping(name, observatory) for name in sorted(every - older)]
    certify.certify_files(
        paths,
        compared or context,
        observatory=observatory,
        check_references=None if compared else "exist",
        check_rmap=False,
    )
    return len(every)


def find_unreachable(context: str, dates: Mapping[str, str]) -> list[str]:
    """Find delivered files that no exposure would get.

    Parameters
    ----------
    context : str
        Name of the context.
    dates : mapping of str to str
        CRDS name -> USEAFTER.

    Returns
    -------
    list of str
        What an exposure with the file's own keywords, at its USEAFTER, gets instead.
    """
    import crds

    pmap, observatory = crds.get_cached_mapping(context), of_mapping(context)
    wrong = []
    for name, useafter in dates.items():
        _, instrument, kind, *_ = name.split("_")
        rules = pmap.get_imap(instrument).get_rmap(kind)
        matches = rules.file_matches(name)
        if not matches:
            wrong.append(f"{name} is not in the rules")
        for _, selection, _ in matches:
            header = {key: choose_value(value) for key, value in selection}
            date, time = useafter.split("T")
            header |= observatory.date_header(date, time)
            header[observatory.instrument_key] = instrument.upper()
            found = crds.getrecommendations(
                header, reftypes=[kind], context=context, observatory=observatory.name, fast=True
            )[kind]
            if Path(found).name != name:
                wrong.append(f"{name}: {Path(found).name} is selected")
    return wrong
