"""What a flux calibration needs beside the observations: aperture corrections, wavelengths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stdatamodels.jwst import datamodels

from ..errors import InputError
from ..refmodels.photom_mrs import read_mrs_wavelengths
from ..standards import list_items
from ._base import ask_crds

__all__ = ["find_apcorr", "read_wavelengths"]

_TABLES = (".ecsv", ".csv")


def find_apcorr(inputs: Any) -> list[Path]:
    """Find the aperture corrections that CRDS has for the images among the inputs.

    Parameters
    ----------
    inputs : path, association, data model, ModelLibrary, or a sequence of these

    Returns
    -------
    list of Path
        References, each once.

    Raises
    ------
    InputError
        There is no CRDS set-up, it has no such reference, or an image cannot be read.
    """
    found: dict[tuple[str, ...], Path] = {}
    for item in list_items(inputs):
        if isinstance(item.what, Path):
            if item.what.suffix.lower() not in _TABLES:
                with _open(item.what) as model:
                    _ask(model, item.name, found)
        else:
            _ask(item.what, item.name, found)
    return list(dict.fromkeys(found.values()))


def _open(path: Path) -> Any:
    try:
        return datamodels.open(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"expected a product of the pipeline in {path}, found {error}; check the download"
        ) from error


def _ask(model: Any, name: str, found: dict[tuple[str, ...], Path]) -> None:
    """Ask for the correction of one image, unless another of its kind has it."""
    meta = model.meta
    place = (str(meta.instrument.name), str(meta.instrument.detector), str(meta.exposure.type))
    if model.hasattr("data") and not model.hasattr("spec") and place not in found:
        found[place] = ask_crds("apcorr", model.get_crds_parameters(), name)


def read_wavelengths(paths: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """Read the wavelength of each pixel of MIRI MRS from exposures that have a WCS.

    Parameters
    ----------
    paths : sequence of str
        After assign_wcs, one for each detector and band.

    Returns
    -------
    dict of (DETECTOR, BAND) to ndarray of float64, shape (ny, nx)
        Wavelengths [um], NaN outside the slices.
    """
    found = {}
    for path in paths:
        with _open(Path(path)) as exposure:
            place = (str(exposure.meta.instrument.detector), str(exposure.meta.instrument.band))
            found[place] = read_mrs_wavelengths(exposure)
    return found
