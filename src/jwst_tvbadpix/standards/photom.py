"""What a photom reference has multiplied a spectrum by."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import compute_sha256
from ..fluxcal.modes import Mode
from .files import FileUsed

__all__ = ["PhotomFiles", "list_photoms"]

log = logging.getLogger(__name__)

_CLASSES = {
    ("MIRI", "lrs"): "MirLrsPhotomModel",
    ("MIRI", "mrs"): "MirMrsPhotomModel",
    ("NIRSPEC", "fixed_slit"): "NrsFsPhotomModel",
    ("NIRSPEC", "ifu"): "NrsMosPhotomModel",
    ("NIRISS", "soss"): "NisSossPhotomModel",
}
# Channels of the MRS on each detector, and a wavelength between the two in each band [um]: those of
# neighbouring bands overlap.
_CHANNELS = {"MIRIFUSHORT": (1, 2), "MIRIFULONG": (3, 4)}
_BETWEEN = {
    "MIRIFUSHORT": {"SHORT": 6.6, "MEDIUM": 7.65, "LONG": 8.8},
    "MIRIFULONG": {"SHORT": 15.6, "MEDIUM": 18.1, "LONG": 21.1},
}


def list_photoms(given: Path | Sequence[Path] | None) -> list[Path]:
    """List photom references: a file, several, or those of a folder.

    Raises
    ------
    InputError
        A path does not exist.
    """
    paths = [] if given is None else [given] if isinstance(given, Path) else list(given)
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise InputError(f"expected a photom reference, found none at {path}; check the path")
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [file for file in files if file.suffix.lower() in (".fits", ".asdf")]
    return found


class PhotomFiles:
    """Photom references by name, each opened when it is first asked for."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Keep the paths."""
        self._paths = {path.stem: path for path in reversed(paths)}
        self.used: dict[str, FileUsed] = {}

    def convert(
        self,
        r_photom: str | None,
        mode: Mode,
        subarray: str,
        wave: np.ndarray,
        mjd: float,
        pixarea_sr: float | None,
    ) -> np.ndarray:
        """Evaluate the conversion that a spectrum carries, at its time.

        Parameters
        ----------
        r_photom : str or None
            R_PHOTOM of the spectrum.
        mode : Mode
        subarray : str
        wave : ndarray, shape (n,)
            Wavelengths [um].
        mjd : float
            EXPMID [MJD].
        pixarea_sr : float or None
            PIXAR_SR of the spectrum, by which a conversion to MJy/sr is multiplied.

        Returns
        -------
        ndarray, shape (n,)
            MJy per DN/s, already divided by the throughput at `mjd`. For the MRS, whose
            reference is an image, the inverse of the throughput alone: what is measured then is
            relative to that image.

        Raises
        ------
        InputError
            The reference is not there, is another one, or has no row of the mode.
        """
        path = self._find(r_photom, mode)
        self.used[path.name] = FileUsed("photom", path.name, compute_sha256(path), mode.label)
        from stdatamodels.jwst import datamodels

        name = _CLASSES.get((mode.instrument, mode.kind))
        if name is None:
            raise InputError(
                f"expected a spectrum in DN/s for {mode.label}, found flux units; run "
                "calwebb_spec2 with photom skipped"
            )
        with getattr(datamodels, name)(path) as model:
            if str(model.meta.instrument.name).upper() != mode.instrument:
                raise InputError(
                    f"expected a photom reference of {mode.instrument} in {path}, found one of "
                    f"{model.meta.instrument.name}; give the file that R_PHOTOM names"
                )
            if mode.kind == "mrs":
                return 1 / _evaluate_mrs(model, mode, wave, mjd)
            return _evaluate_row(model, path, mode, subarray, wave, mjd, pixarea_sr)

    def _find(self, r_photom: str | None, mode: Mode) -> Path:
        """Find the file of R_PHOTOM."""
        if not r_photom or r_photom in ("N/A", "None"):
            raise InputError(
                f"expected R_PHOTOM in a spectrum in flux units ({mode.label}), found none; give "
                "spectra in DN/s (photom skipped)"
            )
        stem = Path(r_photom.removeprefix("crds://")).stem
        if stem not in self._paths:
            known = ", ".join(path.name for path in self._paths.values()) or "none"
            raise InputError(
                f"expected the photom reference {r_photom} that made the spectrum, found {known}; "
                "give it, or spectra in DN/s (photom skipped)"
            )
        return self._paths[stem]


def _evaluate_row(
    model: Any,
    path: Path,
    mode: Mode,
    subarray: str,
    wave: np.ndarray,
    mjd: float,
    pixarea_sr: float | None,
) -> np.ndarray:
    """Evaluate the row of a mode as photom does: its interpolation, its time correction."""
    from jwst.photom.photom import find_row
    from jwst.photom.time_dependence import get_correction_table

    table = model.phot_table
    keys = {"pupil": mode.pupil, "grating": mode.grating, "slit": mode.slit}
    fields: dict[str, Any] = {"filter": mode.filter}
    fields.update({key: value for key, value in keys.items() if key in table.columns.names})
    if "order" in table.columns.names:
        fields["order"] = mode.order
    row = None
    choices = (subarray, "GENERIC") if "subarray" in table.columns.names else (None,)
    for choice in choices:
        row = find_row(table, {**fields, **({"subarray": choice} if choice else {})})
        if row is not None:
            break
    if row is None:
        raise InputError(
            f"expected a row of {mode.label} {subarray} in {path}, found none; give the file that "
            "made the spectrum"
        )
    line = table[row]
    per_sr = "photmjsr" in table.columns.names
    area = pixarea_sr or model.meta.photometry.pixelarea_steradians if per_sr else 1.0
    if not area:
        raise InputError(
            f"expected PIXAR_SR in the spectrum or in {path}, found none; add it: the reference "
            "converts to MJy/sr"
        )
    n = int(line["nelem"])
    relative = np.interp(wave, line["wavelength"][:n], line["relresponse"][:n], np.nan, np.nan)
    # photom does not look at the time tables of the integral-field unit of NIRSpec.
    corrected = mode.kind != "ifu"
    change = float(get_correction_table(model, mjd)[row]) if corrected else 1.0
    if not (np.isfinite(change) and change > 0):
        raise InputError(
            f"expected a time correction of {path} at MJD {mjd}, found {change}; give EXPMID"
        )
    conversion: np.ndarray = (
        float(line["photmjsr" if per_sr else "photmj"]) * relative * area / change
    )
    return conversion


def _evaluate_mrs(model: Any, mode: Mode, wave: np.ndarray, mjd: float) -> np.ndarray:
    """Evaluate the throughput of the MRS as photom does; 1 without time tables."""
    from jwst.photom.time_dependence import powerlaw_correction
    from scipy.interpolate import RegularGridInterpolator

    change = np.ones(len(wave))
    between = _BETWEEN.get(mode.detector, {}).get(mode.band.upper(), np.nan)
    if np.isnan(between):
        raise InputError(
            f"expected MIRIFUSHORT or MIRIFULONG and one band for the MRS, found {mode.detector} "
            f"{mode.band}; give spectra of one band each"
        )
    for channel, mine in zip(
        _CHANNELS[mode.detector], (wave < between, wave >= between), strict=True
    ):
        name = f"timecoeff_powerlaw_ch{channel}"
        if not mine.any() or not model.hasattr(name) or not len(getattr(model, name)):
            continue
        table = getattr(model, name)
        columns = [np.array(table[key], float) for key in ("t0", "year1value", "tsoft", "alpha")]
        kept = powerlaw_correction(mjd, *columns, bounded=True)
        bins = np.array(table["binwave"], float)
        # As photom: carried on beyond the first and the last bin.
        change[mine] = RegularGridInterpolator([bins], kept, bounds_error=False, fill_value=None)(
            wave[mine]
        )
    if not (np.isfinite(change) & (change > 0)).all():
        raise InputError(
            f"expected a positive time correction of {mode.label} at MJD {mjd}, found "
            f"{np.min(change)}; give EXPMID, and the file that R_PHOTOM names"
        )
    return change
