"""The IRS2 frame of NIRSpec: interleaved reference pixels between the rows of the detector."""

import numpy as np

from ..detectors import Detector
from .dq import dq_value

__all__ = ["IRS2_READPATTS", "interleave_irs2", "strip_irs2"]

IRS2_READPATTS = ("NRSIRS2", "NRSIRS2RAPID")

# Pixels read between two jumps to reference pixels, and reference pixels per jump: the defaults
# of jwst.refpix and the only values with which NIRSpec is operated.
_NORMAL, _REFERENCE = 16, 4


def interleave_irs2(dq: np.ndarray, detector: Detector) -> np.ndarray:
    """Put a mask of the detector into the IRS2 frame.

    Parameters
    ----------
    dq : uint32 (2048, 2048)
        Standard bits, DMS orientation.
    detector : Detector
        NRS1 or NRS2.

    Returns
    -------
    uint32 (3200, 2048)
        The rows of `dq` where jwst.refpix finds them again; REFERENCE_PIXEL in all others: the
        reference output and the interleaved reference pixels.
    """
    rows = _select_rows(detector)
    frame = np.full((rows.size, dq.shape[1]), dq_value("REFERENCE_PIXEL"), np.uint32)
    frame[rows] = dq
    return frame


def strip_irs2(dq: np.ndarray, detector: Detector) -> np.ndarray:
    """Take the pixels of the detector out of an IRS2 frame: the inverse of `interleave_irs2`."""
    return dq[_select_rows(detector)]


def _select_rows(detector: Detector) -> np.ndarray:
    """Mark the rows of the IRS2 frame that are pixels of the detector: bool (3200,)."""
    # Here, because jwst is slow to import and few need this.
    from jwst.refpix.irs2_subtract_reference import make_irs2_mask

    assert detector.irs2_shape is not None
    rows = make_irs2_mask(*detector.irs2_shape, _NORMAL, _REFERENCE)
    # Rows run along the slow readout axis of NRS1 and against that of NRS2.
    return rows[::-1] if detector.slowaxis < 0 else rows
