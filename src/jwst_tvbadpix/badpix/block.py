"""The calibration block: what exposures say together, frozen so that new ones can be added."""

from dataclasses import dataclass, fields
from typing import Any

import bottleneck as bn
import numpy as np

from .candidates import Surroundings, compute_sigma
from .noise import NoiseModel, compute_variance, measure_noise
from .odds import Calibration
from .residuals import LocalResiduals, combine_axes, subtract_medians
from .usability import OUTLIER, Usability, judge_looks

__all__ = ["CalibrationBlock", "measure_look"]


@dataclass(frozen=True, slots=True)
class CalibrationBlock:
    """What the looks of a search say together; of each other look it is asked alone.

    Attributes
    ----------
    key : str
        Hash under which the evidence of looks is kept.
    identities : tuple of str
        Checksum of the exposure behind each look that it was measured on.
    window : tuple of int
        (y0, y1, x0, x1) of all planes in the full frame.
    strips : ndarray of int, shape (n_strips, 2)
        Full-frame rows (first, last + 1) from which noise is measured.
    part_mjd : ndarray of float64, shape (n_parts - 1,)
        First time of the second and later parts of the time, see `Surroundings`.
    noise : NoiseModel
    usability : Usability
    expected_false : ndarray of float64, shape (n_looks,)
        False flags expected at each look.
    calibration : Calibration
        What scores mean.
    surroundings : Surroundings
    levels : ndarray of float32, shape (2, ny, nx)
        Offset [DN/s] and response of every pixel.
    watched : ndarray of bool, shape (ny, nx)
        Pixels that are solved whatever new looks say: they were bad at some look, or nearly.
    doubtful : ndarray of bool, shape (ny, nx)
        Those that quick tests chose and that are not watched.
    control_y, control_x : ndarray of int16, shape (n_control,)
        Full-frame position of the control sample.
    """

    key: str
    identities: tuple[str, ...]
    window: tuple[int, int, int, int]
    strips: np.ndarray
    part_mjd: np.ndarray
    noise: NoiseModel
    usability: Usability
    expected_false: np.ndarray
    calibration: Calibration
    surroundings: Surroundings
    levels: np.ndarray
    watched: np.ndarray
    doubtful: np.ndarray
    control_y: np.ndarray
    control_x: np.ndarray

    def list_kept(self) -> np.ndarray:
        """List the pixels that may be asked for, numbered along the rows of the window.

        First those always asked for, watched ones and the control sample; then doubtful ones.
        """
        y0, _, x0, x1 = self.window
        control = (self.control_y.astype(np.intp) - y0) * (x1 - x0) + self.control_x - x0
        return np.concatenate(
            [np.flatnonzero(self.watched), control, np.flatnonzero(self.doubtful)]
        )


def measure_look(
    block: CalibrationBlock, rate: np.ndarray, axes: dict[str, Any]
) -> tuple[NoiseModel, Usability]:
    """Measure noise and worth of one look, given the block.

    Parameters
    ----------
    block : CalibrationBlock
    rate : ndarray of float32, shape (1, ny, nx)
        Count rates of the whole window [DN/s].
    axes : dict
        Its dispersion axis, and windows, for `compute_residuals`.

    Returns
    -------
    NoiseModel, Usability
        Of one look. The noise of one that no strip meets is the median of the block's.

    Notes
    -----
    As `fit_noise` and `assess_looks`, with the pattern of each pixel known: noise is the scatter
    about offset and response of the block, and a source is an outlier where no pixel is watched.
    """
    y0 = block.window[0]
    rows = np.concatenate([np.arange(start - y0, stop - y0) for start, stop in block.strips])
    offset, response = block.levels[:, rows]
    medians = subtract_medians(rate, block.surroundings.outcast, **axes)

    def measure(found: LocalResiduals) -> tuple[NoiseModel, LocalResiduals]:
        sample = LocalResiduals(*(getattr(found, f.name)[:, rows] for f in fields(found)))
        return _measure_noise(block, sample, offset + response * sample.local), sample

    rough = combine_axes(medians)
    sigma = compute_sigma(measure(rough)[0], rough)
    noise, sample = measure(combine_axes(medians, sigma))
    evidence = np.isfinite(sample.residual)
    variance = compute_variance(noise, sample.local)
    with np.errstate(invalid="ignore"):
        out = np.abs(sample.residual) > OUTLIER * np.sqrt(variance + noise.pattern(sample.local))
    out &= ~(block.watched | block.doubtful | block.surroundings.outcast)[rows]
    n = int(evidence.sum())
    nothing = np.array([np.nan])
    usability = judge_looks(
        np.array([out.sum() / max(n, 1)]),
        np.array([bn.nanmedian(sample.local[evidence])], float) if n else nothing,
        np.array([np.sqrt(bn.nanmedian(variance[evidence]))], float) if n else nothing,
        np.array([n > 0]),
        usual=(block.usability.background, block.usability.noise),
    )
    return noise, usability


def _measure_noise(
    block: CalibrationBlock, sample: LocalResiduals, expected: np.ndarray
) -> NoiseModel:
    """Measure the noise of one look on the strips, or borrow it."""
    known = block.noise
    seen = np.isfinite(sample.residual)
    if seen.any():
        level, sigma = measure_noise(
            sample.local[seen], (sample.residual - expected)[seen], n_bins=known.level.shape[1]
        )
    else:
        level, sigma = (bn.nanmedian(table, axis=0) for table in (known.level, known.sigma))
    return NoiseModel(
        level[None],
        sigma[None],
        known.sigma_offset,
        known.sigma_response,
        np.array([seen.sum()]),
    )
