"""What a set of images is to the making of its flat: field, stars' width, epochs, visits."""

import logging
import re

import numpy as np

from ..errors import EvidenceError
from ..flatfield import ExposureFacts, compute_scale
from ..imaging import ImageSet

__all__ = ["choose_fwhm", "gather_facts", "has_cruciform", "mark_field", "mark_slit"]

log = logging.getLogger(__name__)

# FWHM of the MIRI imager [pixel]: JWST documentation, MIRI point-spread functions.
_MIRI_FWHM = {
    "F560W": 1.88,
    "F770W": 2.45,
    "F1000W": 2.98,
    "F1130W": 3.41,
    "F1280W": 3.82,
    "F1500W": 4.44,
    "F1800W": 5.37,
    "F2100W": 6.13,
    "F2550W": 7.30,
}
# FWHM of a diffraction-limited star over wavelength / diameter, and the mirrors [m].
_AIRY, _MIRROR_M = 1.03, {"JWST": 6.5, "ROMAN": 2.4}
# MIRI's detector scatters along rows and columns up to this wavelength [um].
_CRUCIFORM_UM = 10.1
_ARCSEC = np.rad2deg(1) * 3600


def choose_fwhm(images: ImageSet) -> float:
    """Choose the FWHM of a star [pixel] by filter.

    Raises
    ------
    EvidenceError
        The filter's name holds no wavelength.
    """
    known = _MIRI_FWHM.get(images.filter) if images.detector.instrument == "MIRI" else None
    if known is not None:
        return known
    scale = compute_scale(images.images[0].wcs.to_sky, images.shape)
    mirror = _MIRROR_M[images.detector.telescope]
    wide = _AIRY * _read_wavelength(images) * 1e-6 / mirror * _ARCSEC / scale
    # Undersampled stars are as wide as the pixels make them.
    return float(np.hypot(wide, 1.0))


def has_cruciform(images: ImageSet) -> bool:
    """Whether light scatters along rows and columns of the detector."""
    return images.detector.name == "MIRIMAGE" and _read_wavelength(images) < _CRUCIFORM_UM


def _read_wavelength(images: ImageSet) -> float:
    """Read the wavelength [um] from the name of the element that makes the band."""
    for name in (images.pupil, images.filter):
        match = re.match(r"F(\d{3,4})", name)
        if match:
            return int(match[1]) / 100
    raise EvidenceError(
        f"expected a filter whose name tells its wavelength, found {images.filter}; give fwhm"
    )


def mark_field(images: ImageSet) -> np.ndarray:
    """Mark the pixels of the imager's field among those read out: bool (ny, nx)."""
    return _cut(images, images.detector.imager, default=True)


def mark_slit(images: ImageSet) -> np.ndarray:
    """Mark the pixels of a spectrograph's slit: bool (ny, nx)."""
    return _cut(images, images.detector.slit, default=False)


def _cut(images: ImageSet, box: tuple[int, int, int, int] | None, *, default: bool) -> np.ndarray:
    """Mark a box of the full frame in what was read out."""
    full = np.full(images.detector.shape, default and box is None)
    if box is not None:
        full[box[0] : box[1], box[2] : box[3]] = True
    (y, x), (ny, nx) = images.corner, images.shape
    cut = full[y : y + ny, x : x + nx]
    # A subarray beside the imager's field is a field of its own.
    return cut if cut.any() or not default else np.ones(cut.shape, bool)


def gather_facts(images: ImageSet, *, epoch_gap: float, hold_out: int) -> ExposureFacts:
    """Gather what the making of a flat asks of exposures besides their pixels.

    Parameters
    ----------
    images : ImageSet
    epoch_gap : float
        Exposures further apart than this are of different epochs [day].
    hold_out : int
        Exposures to keep aside, evenly spaced in time.

    Returns
    -------
    ExposureFacts
    """
    mid_mjd, n = images.mid_mjd, len(images)
    epoch = np.concatenate([[0], np.cumsum(np.diff(mid_mjd) > epoch_gap)]).astype(int)
    used = np.ones(n, bool)
    if hold_out:
        kept = min(hold_out, max(n - 3, 0))
        used[np.round((np.arange(kept) + 0.5) * n / max(kept, 1) - 0.5).astype(int)] = False
        if kept < hold_out:
            log.warning("%s: only %d exposures can be held out", images.label, kept)
        # An epoch without exposures of its own would have no flat.
        for k in np.setdiff1d(epoch, epoch[used]):
            used[np.argmax(epoch == k)] = True
    return ExposureFacts(
        tuple(image.wcs.to_sky for image in images.images),
        tuple(image.wcs.to_pixel for image in images.images),
        images.tiles,
        np.array([image.run for image in images.images]),
        mid_mjd,
        epoch,
        used,
        tuple(image.record.filename for image in images.images),
    )
