"""Exposures that are headers alone: no pixels, for what is decided from headers."""

import numpy as np
from astropy.io import fits

# What every exposure has; a card given as None is left out.
COMMON = {
    "TELESCOP": "JWST",
    "INSTRUME": "MIRI",
    "DETECTOR": "MIRIMAGE",
    "EXP_TYPE": "MIR_LRS-FIXEDSLIT",
    "FILTER": "P750L",
    "SUBARRAY": "FULL",
    "PROGRAM": "09999",
    "OBSERVTN": "001",
    "VISIT": "001",
    "VISITSTA": "SUCCESSFUL",
    "TARGPROP": "BLANK-SKY",
    "NINTS": 1,
    "EXPSTART": 60000.0,
}
INSTRUMENTS = {"MIR": "MIRI", "NRC": "NIRCAM", "NRS": "NIRSPEC", "NIS": "NIRISS", "FGS": "FGS"}
DETECTORS = {
    "MIRI": "MIRIMAGE",
    "NIRCAM": "NRCB1",
    "NIRSPEC": "NRS1",
    "NIRISS": "NIS",
    "FGS": "GUIDER1",
}


def write_exposure(path, *, science=None, **cards):
    """Write a file of two headers; `science` are the cards of its SCI extension."""
    header = fits.Header()
    for name, value in {**COMMON, **cards}.items():
        if value is not None:
            header[name.replace("_OBS", "-OBS")] = value
    extension = fits.ImageHDU(np.zeros((2, 2), np.float32), name="SCI")
    for name, value in (science or {}).items():
        extension.header[name] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList([fits.PrimaryHDU(header=header), extension]).writeto(path)
    return path


def name_file(k, detector="mirimage", stage="rate"):
    """Name the k-th exposure of a programme as the archive does."""
    return f"jw09999{k:03d}001_02101_00001_{detector.lower()}_{stage}.fits"


def cards_of(row, program, k):
    """Make the cards of an exposure that belongs to a row of a recipe."""
    exp_type = row.exp_types[0]
    instrument = INSTRUMENTS[exp_type[:3]]
    number = row.observations[0] if row.observations else 100 + k
    match = {name: values[0].replace("?", "A").replace("*", "A") for name, values in row.match}
    return {
        "INSTRUME": instrument,
        "DETECTOR": "MIRIFUSHORT" if row.mode == "mrs" else DETECTORS[instrument],
        "EXP_TYPE": exp_type,
        "FILTER": match.get("filter", "F770W"),
        "SUBARRAY": match.get("subarray", "FULL"),
        "MODULE": match.get("module"),
        "GRATING": match.get("grating"),
        "CORONMSK": match.get("coronagraph"),
        "PROGRAM": program,
        "OBSERVTN": f"{number:03d}",
        "TARGPROP": row.target,
        "OBSLABEL": row.label,
        "TEMPLATE": row.template,
        "EXPSTART": 60000.0 + 0.01 * k,
    }
