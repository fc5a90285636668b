"""Which data sets get another reference by a delivery, asked of crds bestrefs."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dates import to_isot, to_mjd
from ..errors import InputError
from ..refmodels import BadPixHistoryModel
from .context import _read_header
from .observatory import JWST, ROMAN, Observatory, of_instrument, of_mapping

__all__ = [
    "Effect",
    "list_exposures",
    "read_datasets",
    "run_bestrefs",
    "write_datasets",
]

_TIME = "META.OBSERVATION.TIME"
# What may select a reference, of any type that this package makes.
_KEYS = (
    "META.INSTRUMENT.NAME",
    "META.OBSERVATION.DATE",
    _TIME,
    "META.EXPOSURE.START_TIME",
    "META.INSTRUMENT.DETECTOR",
    "META.INSTRUMENT.OPTICAL_ELEMENT",
    "META.INSTRUMENT.FILTER",
    "META.INSTRUMENT.BAND",
    "META.INSTRUMENT.CHANNEL",
    "META.INSTRUMENT.GRATING",
    "META.INSTRUMENT.PUPIL",
    "META.INSTRUMENT.MODULE",
    "META.INSTRUMENT.CORONAGRAPH",
    "META.EXPOSURE.TYPE",
    "META.EXPOSURE.READPATT",
    "META.EXPOSURE.NGROUPS",
    "META.SUBARRAY.NAME",
)
_FORM = '{"ID": {"META.INSTRUMENT.NAME": ..., "META.OBSERVATION.DATE": ..., ...}}'


@dataclass(frozen=True, slots=True)
class Effect:
    """What bestrefs says of one data set and type.

    Attributes
    ----------
    dataset, kind : str
    old, new : str
        CRDS names; N/A for none.
    too_early : bool
        There is none because the first USEAFTER lies after the exposure.
    """

    dataset: str
    kind: str
    old: str
    new: str
    too_early: bool

    @property
    def changed(self) -> bool:
        """Whether the data set gets another file."""
        return self.old != self.new


def list_exposures(histories: Iterable[BadPixHistoryModel]) -> dict[str, dict[str, str]]:
    """List the exposures of histories that are evidence.

    Parameters
    ----------
    histories : iterable of BadPixHistoryModel

    Returns
    -------
    dict of str to dict
        File name -> the keywords that select references, as META names.
    """
    datasets: dict[str, dict[str, str]] = {}
    for history in histories:
        table, meta = history.exposures.instance, history.meta.instrument
        for k in np.flatnonzero(np.asarray(table["used"])):
            start = float(table["expstart_mjd"][k])
            if not np.isfinite(start):
                continue
            date, time = to_isot(start).split("T")
            name = table["filename"][k]
            key = name if name not in datasets else f"{name} ({k + 1})"
            if of_instrument(meta.name.lower()) is ROMAN:
                datasets[key] = {
                    ROMAN.instrument_key: meta.name,
                    "ROMAN.META.INSTRUMENT.DETECTOR": meta.detector,
                    "ROMAN.META.INSTRUMENT.OPTICAL_ELEMENT": table["filter"][k],
                    "ROMAN.META.EXPOSURE.TYPE": table["exp_type"][k],
                    **ROMAN.date_header(date, time),
                }
                continue
            datasets[key] = {
                "META.INSTRUMENT.NAME": meta.name,
                "META.INSTRUMENT.DETECTOR": meta.detector,
                "META.INSTRUMENT.FILTER": table["filter"][k],
                "META.SUBARRAY.NAME": table["subarray"][k],
                "META.EXPOSURE.READPATT": table["readpatt"][k],
                "META.EXPOSURE.NGROUPS": str(int(table["ngroups"][k])),
                "META.EXPOSURE.TYPE": table["exp_type"][k],
                "META.OBSERVATION.DATE": date,
                _TIME: time,
            }
    return datasets


def read_datasets(
    paths: Sequence[str | Path], observatory: Observatory = JWST
) -> dict[str, dict[str, str]]:
    """Read a list of data sets.

    Parameters
    ----------
    paths : sequence of path
        JSON files, exposures (FITS of JWST, ASDF of Roman), or folders of exposures.
    observatory : Observatory
        The telescope that they must be of.

    Returns
    -------
    dict of str to dict
        As `list_exposures`.

    Raises
    ------
    InputError
        A file is absent, unreadable, of another telescope, or lacks instrument or date; or there
        is none.
    """
    datasets: dict[str, dict[str, str]] = {}
    suffix = ".fits" if observatory is JWST else ".asdf"
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(path.glob(f"*{suffix}"))
        elif path.is_file():
            files = [path]
        else:
            raise InputError(f"expected data sets in {path}, found nothing there; check the path")
        for file in files:
            exposure = file.suffix in (".fits", ".asdf")
            found = {file.name: _read_exposure(file, observatory)} if exposure else _read_json(file)
            for name, header in found.items():
                datasets[name] = _check_header(file, name, header, observatory)
    if not datasets:
        raise InputError(
            f"expected data sets in {', '.join(map(str, paths))}, found none; give {suffix} files, "
            f"a folder of them, or JSON as {_FORM}"
        )
    return datasets


def _read_exposure(path: Path, observatory: Observatory) -> dict[str, str]:
    header = _read_header(path)
    if header.get("META.TELESCOPE", "").upper() != observatory.name.upper():
        raise InputError(
            f"expected an exposure of {observatory.title}, found TELESCOP "
            f"{header.get('META.TELESCOPE')!r} in {path}; leave it out"
        )
    keys = [f"{observatory.prefix}{key}" for key in _KEYS]
    return {key: header[key] for key in keys if header.get(key, "UNDEFINED") != "UNDEFINED"}


def _read_json(path: Path) -> dict[str, dict[str, str]]:
    """Read one object, or one per line as crds writes them."""
    try:
        text = path.read_text(encoding="utf-8")
        try:
            found = json.loads(text)
        except json.JSONDecodeError:
            found = {}
            for line in filter(str.strip, text.splitlines()):
                found.update(json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            f"expected FITS, or JSON as {_FORM}, found {path}: {error}; correct it"
        ) from error
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        raise InputError(f"expected JSON as {_FORM} in {path}, found another form; correct it")
    return {str(name): header for name, header in found.items()}


def _check_header(
    path: Path, name: str, header: Mapping[str, object], observatory: Observatory
) -> dict[str, str]:
    """Require what every look-up needs."""
    checked = {str(key).upper(): str(value) for key, value in header.items()}
    needed = (observatory.instrument_key, observatory.date_keys[0])
    missing = [key for key in needed if not checked.get(key)]
    if missing:
        raise InputError(
            f"expected {' and '.join(needed)} of data set {name} in {path}, found no "
            f"{' and no '.join(missing)}; add them"
        )
    if checked[needed[0]].lower() not in observatory.instruments:
        raise InputError(
            f"expected an instrument of {observatory.title} for data set {name} in {path}, found "
            f"{checked[needed[0]]}; correct it or leave it out"
        )
    if observatory is JWST:
        checked.setdefault(_TIME, "00:00:00")
    date = " ".join(checked[key] for key in observatory.date_keys)
    try:
        to_mjd(date.replace("T", " "))
    except ValueError as error:
        raise InputError(
            f"expected a date as YYYY-MM-DD and hh:mm:ss for data set {name} in {path}, found "
            f"{date}; correct it"
        ) from error
    return checked


def write_datasets(datasets: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Write data sets as crds bestrefs --load-pickles reads them: one object per line."""
    lines = [json.dumps({name: dict(datasets[name])}) for name in sorted(datasets)]
    path.write_text("".join(f"{line}\n" for line in lines))


def run_bestrefs(path: str, old: str, new: str, kinds: Sequence[str]) -> list[Effect]:
    """Run crds bestrefs with two contexts; in a process of `workers`.

    Parameters
    ----------
    path : str
        File of `write_datasets`, all of one instrument.
    old, new : str
        Names of the contexts.
    kinds : sequence of str
        Reference types.

    Returns
    -------
    list of Effect
        One per data set and type.
    """
    import crds
    from crds.bestrefs import BestrefsScript
    from crds.bestrefs.headers import load_bestrefs_headers

    contexts = ["--old-context", old, "--new-context", new]
    options = ["--load-pickles", path, "--print-affected", "--types", *kinds]
    # Every error is to be read, whereas crds stops at 500 of a sort and only counts the others.
    options += ["--max-errors-per-class", str(2**31)]
    script = BestrefsScript(["crds.bestrefs", *contexts, *options])
    script()
    updates = {
        (dataset, update.filekind): (_name(update.old_reference), _name(update.new_reference))
        for dataset, changed in script.updates.items()
        for update in changed
    }

    observatory = of_mapping(new)

    def look_up(header: Mapping[str, str], kind: str) -> str:
        found = crds.getrecommendations(
            dict(header), reftypes=[kind], context=new, observatory=observatory.name, fast=True
        )
        return _name(found[kind])

    effects = []
    for dataset, header in sorted(load_bestrefs_headers(path).items()):
        for kind in kinds:
            same = look_up(header, kind)
            before, after = updates.get((dataset, kind), (same, same))
            late = {**header, **observatory.date_header("2100-01-01", "00:00:00")}
            early = after == "N/A" and look_up(late, kind) != "N/A"
            effects.append(Effect(dataset, kind, before, after, early))
    return effects


def _name(reference: str | None) -> str:
    """Name a reference; N/A for none, whatever the reason."""
    text = Path(str(reference)).name.lower()
    return text if "." in text and not text.startswith("not found") else "N/A"
