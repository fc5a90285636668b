"""Neighbours of hot pixels: an excess by crosstalk is not a defect of their own."""

import numpy as np

__all__ = ["find_own_excess", "measure_crosstalk"]

# Brightest pixels that the crosstalk is measured on, and the fewest that will do.
_N_BRIGHT, _FEWEST = 300, 12
# Share taken where it cannot be measured: typical of Si:As and H2RG arrays, per neighbour
# (0.5 to 3 %).
_TYPICAL = 0.01
# Crosstalk over the error of a candidate from which neighbours must have been noticed.
_VISIBLE = 5.0
# Uncertainty of the crosstalk of one pixel, relative: it differs from pixel to pixel.
_RELATIVE_ERR = 0.3
_STEPS = {"along y": ((-1, 0), (1, 0)), "along x": ((0, -1), (0, 1))}


def _look_up(plane: np.ndarray, y: np.ndarray, x: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Values at y + dy, x + dx; the plane has a margin of one pixel."""
    return np.asarray(plane[y + 1 + step[0], x + 1 + step[1]])


def measure_crosstalk(plane: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[float, float]:
    """Measure the share of a pixel's excess that shows in each neighbour.

    Parameters
    ----------
    plane : ndarray of float, shape (ny + 2, nx + 2)
        Excess of the candidates [DN/s], 0 elsewhere, with a margin of one pixel.
    y, x : ndarray of int, shape (n,)
        Positions of the brightest pixels, 0-based without the margin.

    Returns
    -------
    tuple of float
        Along y and along x: the median over neighbours; 0.01 with fewer than 12 pixels.
    """
    if y.size < _FEWEST:
        return _TYPICAL, _TYPICAL
    bright = plane[y + 1, x + 1]
    shares = []
    for steps in _STEPS.values():
        ratio = np.concatenate([_look_up(plane, y, x, step) / bright for step in steps])
        shares.append(float(np.clip(np.median(ratio[ratio < 0.5]), 0, 0.1)))
    return shares[0], shares[1]


def find_own_excess(
    y: np.ndarray, x: np.ndarray, amplitude: np.ndarray, amplitude_err: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Take the crosstalk of the neighbours off the excess of each candidate.

    Parameters
    ----------
    y, x : ndarray of int, shape (n,)
        Positions of the candidates.
    amplitude, amplitude_err : ndarray of float64, shape (n,)
        Excess while bad and its error [DN/s]; 0 where a candidate is good.

    Returns
    -------
    excess : ndarray of float64, shape (n,)
        What is left [DN/s].
    err : ndarray of float64, shape (n,)
        Its error; 30 % of what was taken off included.

    Notes
    -----
    Only neighbours whose excess is larger count; their crosstalk is taken off in modulus. The
    shares along y and x are measured on the 300 brightest positive candidates.
    """
    if not y.size:
        return amplitude, amplitude_err
    y, x = y - y.min(), x - x.min()
    plane = np.zeros((int(y.max()) + 3, int(x.max()) + 3))
    plane[y + 1, x + 1] = amplitude
    order = np.argsort(amplitude, kind="stable")[::-1][:_N_BRIGHT]
    # Bright enough for their neighbours to be candidates: the others say nothing of the share.
    order = order[amplitude[order] > _VISIBLE / _TYPICAL * np.median(amplitude_err)]
    taken = np.zeros(y.size)
    for share, steps in zip(
        measure_crosstalk(plane, y[order], x[order]), _STEPS.values(), strict=True
    ):
        for step in steps:
            near = _look_up(plane, y, x, step)
            taken += share * np.where(np.abs(near) > np.abs(amplitude), near, 0)
    own = np.sign(amplitude) * np.maximum(np.abs(amplitude) - np.abs(taken), 0)
    # A light that goes out leaves the same excess, of either sign, to the time before.
    return own, np.hypot(amplitude_err, _RELATIVE_ERR * taken)
