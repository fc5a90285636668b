"""The reference files that calwebb_image2 needs of simulated MIRI images, beside those of LRS."""

from pathlib import Path

import numpy as np
from stdatamodels.jwst.datamodels import (
    FilteroffsetModel,
    JwstDataModel,
    MirImgPhotomModel,
)

from .layers import PixelPattern
from .references import fill_frame, fill_reference
from .references_lrs import build_flat
from .saving import save_model
from .star_lrs import PIXEL_ARCSEC, PIXEL_SR

__all__ = ["IMAGING_PHOTMJSR", "write_imaging_references"]

_DETECTOR = "MIRIMAGE"
# Conversion of the photom reference [MJy/sr / (DN/s)]; assumption.
IMAGING_PHOTMJSR = 0.5


def write_imaging_references(
    folder: str | Path, *, filters: tuple[str, ...], pattern: PixelPattern | None = None
) -> dict[str, list[Path]]:
    """Write filteroffset, flat and photom for MIRI imaging.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    filters : tuple of str
        FILTER keywords.
    pattern : PixelPattern or None
        Pixels of the scene, whose response becomes the flat; None = a flat of ones.

    Returns
    -------
    dict of str to list of Path
        Files by reference type, ready for CRDS. The distortion is the one that
        `write_spectral_references` writes: it is that of the whole imager.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "filteroffset": [_write(_build_filteroffset(filters), folder, "filteroffset", ".asdf")],
        "photom": [
            _write(_build_photom(name), folder, "photom", filter_name=name) for name in filters
        ],
        "flat": [_write(build_flat(pattern), folder, "flat", filter_name=name) for name in filters],
    }


def _write(
    model: JwstDataModel,
    folder: Path,
    reftype: str,
    suffix: str = ".fits",
    *,
    filter_name: str = "",
) -> Path:
    """Fill what CRDS asks for and write."""
    parts = ("simulated_mirimage", filter_name.lower() or "imaging", reftype)
    path = folder / ("_".join(parts) + suffix)
    fill_reference(model, path, reftype, _DETECTOR)
    model.meta.description = f"{reftype} of simulated MIRI images"
    if reftype == "flat":
        fill_frame(model, reftype, _DETECTOR)
    if filter_name:
        model.extra_fits = {"PRIMARY": {"header": [["FILTER", filter_name, "filter"]]}}
    return save_model(model, path)


def _build_filteroffset(filters: tuple[str, ...]) -> FilteroffsetModel:
    """No filter moves the image."""
    model = FilteroffsetModel()
    model.filters = [{"filter": name, "row_offset": 0.0, "column_offset": 0.0} for name in filters]
    model.meta.instrument.channel = model.meta.instrument.band = "N/A"
    model.meta.exposure.type = "MIR_IMAGE"
    model.meta.subarray.name = "GENERIC"
    return model


def _build_photom(filter_name: str) -> MirImgPhotomModel:
    """One factor for every subarray."""
    model = MirImgPhotomModel()
    rows = [(filter_name, "GENERIC", IMAGING_PHOTMJSR, 0.0)]
    model.phot_table = np.array(rows, dtype=model.get_dtype("phot_table"))
    meta = model.meta
    meta.photometry.pixelarea_steradians = PIXEL_SR
    meta.photometry.pixelarea_arcsecsq = PIXEL_ARCSEC**2
    meta.instrument.band = "N/A"
    meta.exposure.type = "MIR_IMAGE"
    return model
