"""Models of the stars and bandpasses of the modes, read from files."""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import compute_sha256
from ..fluxcal.aliases import find_calspec, find_star, spell
from ..fluxcal.synthetic import Bandpass, Spectrum, compute_band_flux, compute_pivot
from .files import FileUsed, read_columns

__all__ = ["Models", "find_models", "read_bandpass", "read_fluxes", "read_spectrum"]

log = logging.getLogger(__name__)

_SUFFIXES = (".fits", ".ecsv", ".csv", ".dat", ".txt")
_FILTER = re.compile(r"F\d{3,4}(?:W2|[WMNC]R?)|FND")


def read_fluxes(path: Path) -> dict[str, dict[str, float]]:
    """Read a table of model flux densities: a column ``name``, one for each filter [Jy].

    Parameters
    ----------
    path : Path
        ECSV, CSV or FITS. Columns with another unit of flux density are converted, those without
        are taken as Jy.

    Returns
    -------
    dict of str to dict of str to float
        Flux density [Jy] by star and filter; what is NaN or masked is absent.

    Raises
    ------
    InputError
        The file is no such table, or names a star twice with different fluxes.
    """
    table = read_columns(path)
    key = table.find("name", "star", "target")
    if key is None or len(table.values) < 2:
        raise InputError(
            f"expected a column name and one for each filter in {path}, found "
            f"{', '.join(table.values)}; add them"
        )
    filters = [
        c
        for c in table.values
        if c != key and (table.values[c].dtype.kind in "fiu" or _FILTER.fullmatch(c.upper()))
    ]
    fluxes: dict[str, dict[str, float]] = {}
    columns = {f.upper(): table.convert(f, "Jy") for f in filters}
    for row, name in enumerate(str(value).strip() for value in table.values[key]):
        values = {f: float(v[row]) for f, v in columns.items() if np.isfinite(v[row])}
        star = find_star(name).name
        if fluxes.setdefault(star, values) != values:
            raise InputError(
                f"expected each star once in {path}, found {name} ({star}) twice with different "
                "fluxes; leave one out"
            )
    return fluxes


def read_spectrum(path: Path) -> Spectrum:
    """Read the model of a star: a CALSPEC FITS file, or what synphot reads.

    Parameters
    ----------
    path : Path
        Table of wavelength and flux, units in the file; FITS, or text in Angstrom and FLAM.

    Returns
    -------
    Spectrum
        In um and Jy.

    Raises
    ------
    InputError
        The file cannot be read, or is no spectrum.
    """
    import astropy.units as u
    from synphot import SourceSpectrum, units
    from synphot.exceptions import SynphotError

    try:
        if path.suffix.lower() == ".fits":
            # Not by synphot, which leaves broken files open.
            table = read_columns(path)
            keys = [table.find(name) for name in ("wavelength", "flux")]
            if None in keys:
                raise KeyError("WAVELENGTH and FLUX")
            wave, flux = (
                np.asarray(table.values[key], float) * units.validate_unit(table.units[key])
                for key in map(str, keys)
            )
        else:
            source = SourceSpectrum.from_file(str(path))
            wave = source.waveset
            flux = source(wave)
        flux_jy = units.convert_flux(wave, flux, u.Jy).value
    except (SynphotError, OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"expected a spectrum of wavelength and flux with their units in {path}, found "
            f"{error}; give a CALSPEC file"
        ) from error
    return Spectrum(path.name, wave.to_value(u.um), np.maximum(flux_jy, 0.0))


def read_bandpass(path: Path, name: str) -> Bandpass:
    """Read a bandpass: columns wavelength (or wave) and throughput (or transmission, PCE).

    Raises
    ------
    InputError
        The file is no such table; text files without units are taken as um.
    """
    table = read_columns(path)
    wave = table.find("wavelength", "wave", "lambda", "microns")
    value = table.find("throughput", "transmission", "pce", "bandpass", "response")
    if wave is None or value is None:
        raise InputError(
            f"expected columns wavelength and throughput in {path}, found "
            f"{', '.join(table.values)}; rename them"
        )
    return Bandpass(name, table.convert(wave, "um"), table.convert(value, ""))


@dataclass(slots=True)
class Models:
    """Models of stars, read when they are first asked for; the files that were are kept.

    Attributes
    ----------
    fluxes : mapping of str to mapping of str to float
        Given flux densities [Jy] by star and filter.
    spectra : mapping of str to Path
        Spectra by star, as `spell` has it: one that is no known standard is found too.
    bandpasses : mapping of str to Path
        Bandpasses by filter.
    used : dict
        Files that were read.
    """

    fluxes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    spectra: Mapping[str, Path] = field(default_factory=dict)
    bandpasses: Mapping[str, Path] = field(default_factory=dict)
    used: dict[tuple[str, str], FileUsed] = field(default_factory=dict)
    _cache: dict[Any, Any] = field(default_factory=dict)

    def get_spectrum(self, star: str) -> Spectrum | None:
        """Read the model spectrum of a star; None without."""
        if spell(star) not in self.spectra:
            return None
        path = self.spectra[spell(star)]
        if path not in self._cache:
            self._cache[path] = read_spectrum(path)
            self._keep("model", path, star)
        spectrum: Spectrum = self._cache[path]
        return spectrum

    def get_bandpass(self, filter_: str) -> Bandpass | None:
        """Read the bandpass of a filter; None without."""
        if filter_ not in self.bandpasses:
            return None
        path = self.bandpasses[filter_]
        if path not in self._cache:
            self._cache[path] = read_bandpass(path, filter_)
            self._keep("bandpass", path, filter_)
        bandpass: Bandpass = self._cache[path]
        return bandpass

    def get_flux(self, star: str, filter_: str) -> float:
        """Find the flux density of a star in a filter [Jy]: given, else by synthetic photometry.

        Returns
        -------
        float
            NaN for a star without a model.

        Raises
        ------
        InputError
            There is a model spectrum but no bandpass, or it does not cover it.
        """
        given = self.fluxes.get(star, {}).get(filter_)
        if given is not None:
            return given
        spectrum = self.get_spectrum(star)
        if spectrum is None:
            return np.nan
        bandpass = self.get_bandpass(filter_)
        if bandpass is None:
            raise InputError(
                f"expected a bandpass of {filter_} for synthetic photometry of {star}, found none; "
                "no bandpass comes with jwst: give a table of wavelength and throughput named "
                f"after the filter ({filter_}.ecsv, .csv or .fits) in the folder of bandpasses, or "
                "the fluxes themselves as a table"
            )
        if (star, filter_) not in self._cache:
            self._cache[star, filter_] = compute_band_flux(spectrum, bandpass)
        return float(self._cache[star, filter_])

    def get_pivot(self, filter_: str) -> float | None:
        """Find the pivot wavelength of a filter's bandpass [um]; None without one."""
        bandpass = self.get_bandpass(filter_)
        return None if bandpass is None else compute_pivot(bandpass)

    def _keep(self, role: str, path: Path, about: str) -> None:
        self.used[role, path.name] = FileUsed(role, path.name, compute_sha256(path), about)


def find_models(
    fluxes: Path | None = None, spectra: Path | None = None, bandpasses: Path | None = None
) -> Models:
    """Find models and bandpasses.

    Parameters
    ----------
    fluxes : Path, optional
        Table of flux densities; see `read_fluxes`.
    spectra : Path, optional
        Folder of CALSPEC files, matched to the stars by name; of several versions of one star
        the last by name, one of a model ('_mod_') first.
    bandpasses : Path, optional
        Folder of tables named after the filters: ``F770W.ecsv``, ``miri_F770W_pce.csv``.

    Returns
    -------
    Models

    Raises
    ------
    InputError
        A folder or table is missing or cannot be read.
    """
    used = {}
    table: Mapping[str, Mapping[str, float]] = {}
    if fluxes is not None:
        table = read_fluxes(_require(fluxes, Path.is_file, "a table of model fluxes"))
        used["model", fluxes.name] = FileUsed(
            "model", fluxes.name, compute_sha256(fluxes), "fluxes"
        )
    found: dict[str, Path] = {}
    if spectra is not None:
        for path in sorted(_list(spectra, "model spectra"), key=_rank):
            found[spell(find_calspec(path.name).name)] = path
    passes: dict[str, Path] = {}
    if bandpasses is not None:
        for path in sorted(_list(bandpasses, "bandpasses")):
            name = re.search(rf"(?<![A-Z0-9])({_FILTER.pattern})(?![A-Z0-9])", path.stem.upper())
            passes[name[1] if name else path.stem.upper()] = path
    return Models(table, found, passes, used)


def _rank(path: Path) -> tuple[bool, str]:
    """Order the versions of one star: what comes last is taken."""
    return "_mod_" in path.name, path.name


def _list(folder: Path, what: str) -> list[Path]:
    """List the files of a folder that may be spectra."""
    _require(folder, Path.is_dir, f"a folder of {what}")
    return [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]


def _require(path: Path, check: Any, what: str) -> Path:
    if not check(path):
        raise InputError(f"expected {what}, found none at {path}; check the path")
    return path
