"""Read observations of standard stars, whatever they are kept in."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..fluxcal.measurements import Measurements
from ..fluxcal.gather import join_measurements, require_used
from ..fluxcal.spectra import StarSpectrum, measure_spectra
from ..fluxcal.tables import COLUMNS, measure_table
from .files import Columns, FileUsed, Item, checksum, list_items, read_columns
from .models import Models, find_models
from .spectra import read_table_spectrum

__all__ = ["Standards", "read_standards"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standards:
    """What observations of standard stars say.

    Attributes
    ----------
    measurements : Measurements
        In the order of modes and inputs' names.
    files : tuple of FileUsed
        Inputs, models, bandpasses and references that took part, with their checksums.
    """

    measurements: Measurements
    files: tuple[FileUsed, ...]


def read_standards(
    inputs: Any,
    *,
    model_fluxes: Path | str | None = None,
    model_spectra: Path | str | None = None,
    bandpasses: Path | str | None = None,
    said: Mapping[str, str] | None = None,
    saturation: float = np.inf,
) -> Standards:
    """Read observations of standard stars and compare them with their models.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or a sequence of these
        Tables of photometry or of spectra.
    model_fluxes : path, optional
        Table of flux densities by star and filter [Jy].
    model_spectra : path, optional
        Folder of CALSPEC files.
    bandpasses : path, optional
        Folder of bandpasses by filter.
    said : mapping, optional
        Instrument, detector and mode of inputs that do not say them.
    saturation : float
        Limit of the brightest pixel.

    Returns
    -------
    Standards

    Raises
    ------
    InputError
        An input cannot be read, is given twice, or is contradictory.
    EvidenceError
        Nothing usable is left.
    """
    said = dict(said or {})
    models = find_models(*(_as_path(p) for p in (model_fluxes, model_spectra, bandpasses)))
    parts: list[Measurements] = []
    spectra: list[StarSpectrum] = []
    files: dict[str, FileUsed] = {}
    for item in list_items(inputs):
        used = _identify(item, files)
        table = read_columns(item.what)
        own = {**said, **item.said}
        if table.find("wave", "wavelength"):
            spectra.append(read_table_spectrum(table, item, models, own))
        else:
            parts.append(_measure_photometry(table, models, own, saturation))
        files[used.sha256] = used
    if spectra:
        parts.append(measure_spectra(spectra))
    if not parts:
        raise InputError("expected observations of standard stars, found no input; give some")
    measurements = require_used(join_measurements(parts))
    _log(measurements)
    kept = sorted({*files.values(), *models.used.values()}, key=lambda f: (f.role, f.name))
    return Standards(measurements, tuple(kept))


def _as_path(path: Path | str | None) -> Path | None:
    return None if path is None or not str(path) else Path(path)


def _identify(item: Item, known: Mapping[str, FileUsed]) -> FileUsed:
    """Take the checksum of an input; refuse one that is given twice."""
    used = FileUsed("input", item.name, checksum(item.what))
    if used.sha256 in known:
        raise InputError(
            f"expected every input once, found {item.name} the same as "
            f"{known[used.sha256].name}; leave one out"
        )
    return used


def _measure_photometry(
    table: Columns, models: Models, said: Mapping[str, str], saturation: float
) -> Measurements:
    """Measure a table of photometry."""
    columns = dict(table.values)
    for ours, unit in (
        ("rate", "DN/s"),
        ("rate_err", "DN/s"),
        ("pixarea_sr", "sr"),
        ("model_flux_jy", "Jy"),
    ):
        key = table.find(ours, *COLUMNS[ours])
        if key is not None:
            columns[key] = table.convert(key, unit)
    filters = _find_filters(columns, table)
    stars = _find_names(columns, table)
    fluxes = {s: {f: models.get_flux(s, f) for f in filters} for s in stars}
    pivots = {f: models.get_pivot(f) for f in filters}
    return measure_table(
        columns,
        fluxes,
        name=table.name,
        pivots={f: p for f, p in pivots.items() if p},
        instrument=said.get("instrument", ""),
        detector=said.get("detector", ""),
        kind=said.get("mode", ""),
        saturation=saturation,
    )


def _find_filters(columns: Mapping[str, np.ndarray], table: Columns) -> list[str]:
    key = table.find("filter")
    return [] if key is None else sorted({str(v).strip().upper() for v in columns[key]})


def _find_names(columns: Mapping[str, np.ndarray], table: Columns) -> list[str]:
    from ..fluxcal.aliases import find_star

    key = table.find("name", *COLUMNS["name"])
    return [] if key is None else sorted({find_star(str(v)).name for v in columns[key]})


def _log(measurements: Measurements) -> None:
    """Say how much there is, and what is left out."""
    m = measurements
    log.info(
        "%d measurements of %d stars in %d bands, %d used",
        len(m.used),
        len(np.unique(m.star)),
        len(m.bands),
        m.used.sum(),
    )
    reasons, counts = np.unique(m.reason[~m.used], return_counts=True)
    for reason, count in zip(reasons.tolist(), counts.tolist(), strict=True):
        log.warning("%d measurements are left out: %s", count, reason)
