"""Read observations of standard stars, whatever they are kept in."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..errors import InputError
from ..files import compute_sha256
from ..fluxcal.aliases import find_star
from ..fluxcal.gather import join_measurements, require_used
from ..fluxcal.measurements import Measurements
from ..fluxcal.modes import Mode
from ..fluxcal.spectra import StarSpectrum, measure_spectra
from ..fluxcal.tables import COLUMNS, measure_table
from .apertures import read_apcorr
from .files import Columns, FileUsed, Item, list_items, open_fits, read_columns
from .images import measure_images, photometer, read_image
from .keywords import get
from .models import Models, find_models
from .photom import PhotomFiles, list_photoms
from .roman import is_roman, open_roman
from .spectra import read_table_spectrum
from .x1d import read_x1d

__all__ = ["Standards", "read_standards"]

log = logging.getLogger(__name__)

# Units of the columns of photometry.
_UNITS = {
    "rate": "DN/s",
    "rate_err": "DN/s",
    "pixarea_sr": "sr",
    "model_flux_jy": "Jy",
    "mjd": "d",
    "pivot_um": "um",
    "exposure_s": "s",
    "tgroup_s": "s",
}
# Factors beyond these are of other units than said: of images [MJy/sr / (DN/s)], of spectra
# [MJy / (DN/s)]. In flight they are 0.05 to 30 (without neutral density), and 1e-13 to 1e-10.
_FACTORS = {"images": (1e-3, 1e2), "spectra": (1e-16, 1e-8)}
_IMAGES = ("imaging", "coronagraphy")
_COPY = "duplicate of row"


@dataclass(frozen=True, slots=True)
class Standards:
    """What observations of standard stars say.

    Attributes
    ----------
    measurements : Measurements
        In the order of modes and inputs' names.
    files : tuple of FileUsed
        Inputs, models, bandpasses and references that took part, with their checksums.
    pixel_area_sr : mapping of str to float
        DETECTOR -> median area of a pixel that the photometry of images went by [sr].
    """

    measurements: Measurements
    files: tuple[FileUsed, ...]
    pixel_area_sr: Mapping[str, float]


def read_standards(
    inputs: Any,
    *,
    model_fluxes: Path | str | None = None,
    model_spectra: Path | str | None = None,
    bandpasses: Path | str | None = None,
    apcorr: Path | str | Mapping[str, float] | Sequence[Path | str] | None = None,
    ee: float = 0.7,
    photom: Path | str | Sequence[Path | str] | None = None,
    said: Mapping[str, str] | None = None,
    saturation: float = np.inf,
) -> Standards:
    """Read observations of standard stars and compare them with their models.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or a sequence of these
        Images (_rate, _cal, _i2d), spectra (_x1d, tables), tables of photometry.
    model_fluxes : path, optional
        Table of flux densities by star and filter [Jy].
    model_spectra : path, optional
        Folder of CALSPEC files.
    bandpasses : path, optional
        Folder of bandpasses by filter, for synthetic photometry of `model_spectra`.
    apcorr : path, sequence of paths, or mapping, optional
        APCORR references of the imagers (matched by instrument), or ``ee``, ``radius``,
        ``apcorr``, ``sky_in`` and ``sky_out`` [pixel]; needed for images.
    ee : float
        Encircled energy of the aperture, where it is taken from a reference.
    photom : path or sequence of paths, optional
        Photom references that made spectra in flux units, or folders of them.
    said : mapping, optional
        Instrument, detector, mode and the like of inputs that do not say them.
    saturation : float
        Limit of the brightest pixel of tables, in their unit.

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
    models = find_models(*(_as_path(p) for p in (model_fluxes, model_spectra, bandpasses)))
    reader = _Reader(models, PhotomFiles(list_photoms(_as_paths(photom))), dict(said or {}))
    reader.apertures, reader.ee, reader.saturation = _read_apertures(apcorr, reader), ee, saturation
    for item in list_items(inputs):
        reader.add(item)
    return reader.finish()


@dataclass(slots=True)
class _Reader:
    """Sorts inputs by their kind as they come, so that one at a time is in memory."""

    models: Models
    photoms: PhotomFiles
    said: dict[str, str]
    apertures: dict[str, Any] = field(default_factory=dict)
    ee: float = 0.7
    saturation: float = np.inf
    parts: list[Measurements] = field(default_factory=list)
    spectra: list[StarSpectrum] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, FileUsed] = field(default_factory=dict)
    references: list[FileUsed] = field(default_factory=list)
    areas: dict[str, list[float]] = field(default_factory=dict)

    def add(self, item: Item) -> None:
        """Read one input."""
        item = Item(item.what, {**self.said, **item.said})
        if is_roman(item.what):
            model, sha256 = open_roman(item)
            self._add_model(model, item)
            self._keep(FileUsed("input", item.name, sha256))
            return
        used = _identify(item)
        if isinstance(item.what, Path) and _is_table(item.what):
            self._add_table(read_columns(item.what), item)
        else:
            with _open(item) as model:
                self._add_model(model, item)
        self._keep(used)

    def _keep(self, used: FileUsed) -> None:
        """Keep what is known of an input; refuse one that is given twice."""
        if used.sha256 in self.files:
            raise InputError(
                f"expected every input once, found {used.name} the same as "
                f"{self.files[used.sha256].name}; leave one out"
            )
        self.files[used.sha256] = used

    def _add_table(self, table: Columns, item: Item) -> None:
        header = {key.lower(): value for key, value in table.header.items()}
        key = table.find("telescop", "telescope")
        said = [] if key is None else np.unique(table.values[key]).tolist()
        for telescope in (header.get("telescop"), header.get("telescope"), *said):
            _require_known(telescope, item.name)
        if table.find("wave", "wavelength"):
            self.spectra.append(read_table_spectrum(table, item, self.models, item.said))
        else:
            part = _measure_photometry(table, self.models, item.said, self.saturation)
            key = table.find("pixarea_sr", *COLUMNS["pixarea_sr"])
            if key is not None:
                self._keep_areas(part, table.convert(key, "sr"))
            self.parts.append(part)

    def _keep_areas(self, part: Measurements, area_sr: np.ndarray) -> None:
        """Keep the pixel areas of the rows that are used, by detector."""
        for row in np.flatnonzero(part.used):
            detector = part.bands[part.band[row]].mode.detector
            self.areas.setdefault(detector, []).append(float(area_sr[row]))

    def _add_model(self, model: Any, item: Item) -> None:
        _require_known(get(model, "meta.telescope"), item.name)
        if model.hasattr("spec"):
            self.spectra += read_x1d(model, item, self.models, self.photoms)
            return
        image = read_image(model, item)
        instrument = image.cards["instrument"].upper()
        table = self.apertures.get(instrument, self.apertures.get(""))
        if table is None:
            raise InputError(
                f"expected an APCORR reference of {instrument}, or radius, annulus and correction, "
                f"to measure {item.name}, found none; give it as apcorr"
            )
        self.rows.append(photometer(image, table, self.ee))

    def finish(self) -> Standards:
        """Compare all that was read with the models."""
        parts = list(self.parts)
        if self.rows:
            order = sorted(self.rows, key=lambda row: (row["exposure"], row["name"], row["mjd"]))
            parts.append(measure_images(order, self.models))
            self._keep_areas(parts[-1], np.array([row["pixarea_sr"] for row in order]))
        if self.spectra:
            parts.append(measure_spectra(self.spectra))
        if not parts:
            raise InputError("expected observations of standard stars, found no input; give some")
        joined = join_measurements(parts)
        _require_one_telescope(joined)
        measurements = require_used(joined)
        _log(measurements)
        _require_units(measurements)
        files = {
            *self.files.values(),
            *self.models.used.values(),
            *self.photoms.used.values(),
            *self.references,
        }
        areas = {name: float(np.median(values)) for name, values in sorted(self.areas.items())}
        kept = sorted(files, key=lambda f: (f.role, f.name))
        return Standards(measurements, tuple(kept), areas)


def _read_apertures(given: Any, reader: _Reader) -> dict[str, Any]:
    """Read apertures: by instrument, or one under '' for all."""
    if isinstance(given, Mapping):
        return {"": given}
    tables = {}
    for path in _as_paths(given) or ():
        table, used = read_apcorr(path)
        tables[used.about] = table
        reader.references.append(used)
    return tables


def _as_paths(given: Path | str | Sequence[Path | str] | None) -> list[Path] | None:
    if given is None or not given:
        return None
    return [Path(given)] if isinstance(given, str | Path) else [Path(path) for path in given]


def _is_table(path: Path) -> bool:
    """Tell a plain table from a data model."""
    if path.suffix.lower() in (".ecsv", ".csv"):
        return True
    if path.suffix.lower() == ".asdf":
        return False
    try:
        with open_fits(path) as hdus:
            telescope = hdus[0].header.get("TELESCOP")
            table = "DATAMODL" not in hdus[0].header and "SCI" not in hdus
    except (OSError, ValueError, TypeError, KeyError, fits.VerifyError) as error:
        raise InputError(
            f"expected an image, a spectrum or a table, found {path}: {error}; check the path and "
            "the download"
        ) from error
    _require_known(telescope, path.name)
    return table


def _require_known(telescope: Any, name: str) -> None:
    """Refuse observations of another telescope; without a name it is JWST."""
    if telescope and str(telescope).strip().upper() not in ("JWST", "ROMAN"):
        raise InputError(
            f"expected observations of JWST or Roman in {name}, found {telescope}; leave the file "
            "out"
        )


def _require_one_telescope(m: Measurements) -> None:
    """Refuse observations of JWST and of Roman together: their references go to two places."""
    instruments = sorted({band.mode.instrument for band in m.bands} - {""})
    if "WFI" in instruments and len(instruments) > 1:
        raise InputError(
            f"expected observations of one telescope, found those of {', '.join(instruments)}, of "
            "which WFI is of Roman; run the step once for each"
        )


def _require_units(m: Measurements) -> None:
    """Refuse modes whose factors are of other units than said; neutral density is left aside."""
    dimmed = np.char.startswith(m.subarray.astype(str), "SUBND")
    rows: dict[Mode, list[int]] = {}
    for row in np.flatnonzero(m.used & ~dimmed).tolist():
        rows.setdefault(m.bands[m.band[row]].mode, []).append(row)
    for mode, mine in rows.items():
        if mode.kind in ("mrs", "unknown") or mode.filter == "FND":
            continue
        what = "images" if mode.kind in _IMAGES else "spectra"
        (low, high), found = _FACTORS[what], float(np.median(m.factor[mine]))
        if not low <= found <= high:
            unit = "MJy/sr / (DN/s)" if what == "images" else "MJy / (DN/s)"
            raise InputError(
                f"expected factors of {mode.label} between {low:g} and {high:g} {unit}, found "
                f"{found:.3g}: rates, pixel areas or models are in other units than said; give "
                "the units of their columns"
            )


@contextmanager
def _open(item: Item) -> Iterator[Any]:
    """Open a file as a data model; a model in memory is left as it is."""
    if not isinstance(item.what, Path):
        yield item.what
        return
    from stdatamodels.jwst import datamodels

    try:
        model = datamodels.open(item.what)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"expected a product of the pipeline in {item.what}, found {error}; check the download"
        ) from error
    with model:
        yield model


def _as_path(path: Path | str | None) -> Path | None:
    return None if path is None or not str(path) else Path(path)


def _identify(item: Item) -> FileUsed:
    """Take the checksum of an input."""
    sha256 = compute_sha256(item.what) if isinstance(item.what, Path) else _hash_model(item.what)
    return FileUsed("input", item.name, sha256)


def _hash_model(model: Any) -> str:
    """Compute the SHA-256 of what a model in memory holds of the star."""
    digest = hashlib.sha256()
    if model.hasattr("spec"):
        for spec in model.spec:
            digest.update(np.asarray(spec.spec_table["flux"]).tobytes())
    else:
        digest.update(np.asarray(model.data).tobytes())
    for name in ("exposure.start_time", "exposure.mid_time", "target.catalog_name"):
        digest.update(repr(get(model, f"meta.{name}")).encode())
    return digest.hexdigest()


def _measure_photometry(
    table: Columns, models: Models, said: Mapping[str, str], saturation: float
) -> Measurements:
    """Measure a table of photometry."""
    columns = dict(table.values)
    rate = table.find("rate", *COLUMNS["rate"])
    for ours, unit in _UNITS.items():
        key = table.find(ours, *COLUMNS[ours])
        if key is not None:
            columns[key] = table.convert(key, unit, like=rate if ours == "rate_err" else None)
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
    copies = np.char.startswith(reasons.astype(str), _COPY)
    if copies.any():
        log.warning("%d measurements are left out: duplicates of others", counts[copies].sum())
    for reason, count in zip(reasons[~copies].tolist(), counts[~copies].tolist(), strict=True):
        log.warning("%d measurements are left out: %s", count, reason)
