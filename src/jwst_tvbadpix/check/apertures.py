"""Which pixels of a product its spectrum is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..detectors import get_detector
from ..errors import InputError
from ..refmodels import dq_value
from ..traces import find_trace, select_field
from .products import Plane, Product, blank_flagged

__all__ = ["Aperture", "choose_aperture"]

# Half width of the aperture [pixel] where the product does not name one: 11 pixels for the LRS,
# whose extraction takes 8 to 11; 7 for NIRSpec and the others.
_HALF_WIDTH = {"MIR_LRS-FIXEDSLIT": 5.0, "MIR_LRS-SLITLESS": 5.0}
_OTHER_HALF_WIDTH = 3.0
# Radius of the aperture of the MRS: twice the FWHM, (0.033 lambda / um + 0.106) arcsec (Law+ 2023,
# AJ 166, 45); of the integral-field unit of NIRSpec [arcsec].
_MRS_FWHM, _IFU_RADIUS = (0.033, 0.106), 0.5
_IFUS = ("MIR_MRS", "NRS_IFU")
# A trace this far from where the WCS puts the target is worth a warning [pixel].
_OFF_TARGET = 2.0


@dataclass(frozen=True, slots=True)
class Aperture:
    """The pixels that a spectrum is made of.

    Attributes
    ----------
    inside : ndarray of bool, shape (ny, nx)
        True = within the aperture.
    text : str
        What it is, in words.
    extracted : bool
        Whether the flux across the dispersion is added up within it.
    warning : str
        What may be wrong with it; empty for nothing.
    """

    inside: np.ndarray
    text: str
    extracted: bool
    warning: str = ""


def choose_aperture(
    product: Product, plane: Plane, wanted: Sequence[int] | str | None = None
) -> Aperture:
    """Choose the aperture of a plane.

    Parameters
    ----------
    product : Product
    plane : Plane
        One of its planes.
    wanted : sequence of int or 'all', optional
        First and last column, first and last row (0-based, of the exposure's image); 'all' for
        every pixel that sees light. None: see Notes.

    Returns
    -------
    Aperture

    Raises
    ------
    InputError
        The aperture that is asked for lies outside of the image.

    Notes
    -----
    In this order: what is asked for; the window that a spectrum made from these pixels names;
    within a radius on the sky of the target of an integral-field unit; within half a width of
    where the WCS puts the target; within half a width of the trace that is seen; the whole field.
    """
    exp_type, shape = product.record.exp_type, plane.data.shape
    good = ~get_detector(product.record.detector).reference_pixels()
    light = select_field("", plane.corner, shape, good)
    light &= (plane.dq & np.uint32(dq_value("NON_SCIENCE"))) == 0
    if isinstance(wanted, str):
        return Aperture(light, f"all {light.sum()} pixels that see light, as asked for", False)
    if wanted is not None:
        return _cut_box(product, plane, wanted)
    if plane.window is not None and plane.axis and exp_type not in _IFUS:
        y0, y1, x0, x1 = plane.window
        box = np.zeros(shape, bool)
        box[max(y0, 0) : y1, max(x0, 0) : x1] = True
        text = f"columns {x0} to {x1 - 1}, rows {y0} to {y1 - 1}: what {product.given.name} names"
        return Aperture(box & light, text, True)
    near = _select_near(exp_type, plane)
    if near is not None:
        return near
    field = light & select_field(exp_type, plane.corner, shape, good)
    if not plane.axis or exp_type in _IFUS:
        text = f"all {field.sum()} pixels: no extraction is known for this image; see --aperture"
        return Aperture(field, text, False)
    return _follow_trace(exp_type, plane, plane.axis, field, light)


def _cut_box(product: Product, plane: Plane, wanted: Sequence[int]) -> Aperture:
    """Cut a box given in pixels of the exposure's image; refuse one outside of it."""
    x0, x1, y0, y1 = wanted
    ny, nx = product.record.shape
    if not (0 <= x0 <= x1 < nx and 0 <= y0 <= y1 < ny):
        raise InputError(
            f"expected an aperture X0 X1 Y0 Y1 within columns 0 to {nx - 1} and rows 0 to {ny - 1} "
            f"of {product.path}, found {x0} {x1} {y0} {y1}; give first and last, 0-based"
        )
    rows, columns = (
        np.arange(n) + own - corner
        for n, own, corner in zip(
            plane.data.shape, plane.corner, product.record.corner, strict=True
        )
    )
    inside = np.outer((rows >= y0) & (rows <= y1), (columns >= x0) & (columns <= x1))
    text = f"columns {x0} to {x1}, rows {y0} to {y1}, as asked for"
    return Aperture(inside, text, plane.axis is not None)


def _select_near(exp_type: str, plane: Plane) -> Aperture | None:
    """Select the pixels near the target on the sky; None where that is not known."""
    if plane.distance is None:
        return None
    radius, text = np.full(plane.data.shape, _IFU_RADIUS), f"{_IFU_RADIUS} arcsec"
    if exp_type == "MIR_MRS" and plane.wavelength is not None:
        radius = 2 * (_MRS_FWHM[0] * plane.wavelength + _MRS_FWHM[1])
        text = "twice the FWHM"
    with np.errstate(invalid="ignore"):
        near: np.ndarray = np.less_equal(plane.distance, radius)
    text = f"{near.sum()} pixels within {text} of the target (WCS)"
    return Aperture(near, text, False) if near.any() else None


def _follow_trace(
    exp_type: str, plane: Plane, axis: int, field: np.ndarray, light: np.ndarray
) -> Aperture:
    """Take so many pixels on either side of the target, or of the trace that is seen."""
    half = _HALF_WIDTH.get(exp_type, _OTHER_HALF_WIDTH) if plane.width is None else plane.width / 2
    y, x = np.indices(plane.data.shape)
    across, along = (x, y) if axis == 2 else (y, x)
    trace = find_trace(np.where(field, blank_flagged(plane), np.nan), axis)
    if plane.trace is not None:
        middle, warning = float(np.nanmedian(plane.trace)), ""
        with np.errstate(invalid="ignore"):
            inside = (np.abs(across - plane.trace[along]) <= half) & light
        if trace.seen and abs(trace.position - middle) > _OFF_TARGET:
            warning = (
                f"the WCS puts the target at pixel {middle:.1f} across the dispersion, but the "
                f"brightest trace lies at {trace.position:.1f}: see --aperture"
            )
        text = f"{half:g} pixels on either side of the target (WCS), at {middle:.1f}"
        return Aperture(inside, text, True, warning)
    if trace.seen:
        inside = (np.abs(across - trace.position) <= half) & field
        text = (
            f"{half:g} pixels on either side of the trace seen at {trace.position:.1f} "
            f"({trace.snr:.0f} sigma)"
        )
        return Aperture(inside, text, True)
    text = (
        f"the whole field, {field.sum()} pixels: no trace is seen and no WCS says where the target "
        "is; see --aperture"
    )
    return Aperture(field, text, False)
