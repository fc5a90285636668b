"""Shared by the tests of the numerics: stacks of looks in memory, and their histories."""

from dataclasses import dataclass

import numpy as np

from jwst_tvbadpix.badpix import Control, PixelHistories, Settings, find_histories
from jwst_tvbadpix.badpix.candidates import (
    choose_looks,
    choose_some,
    compute_sigma,
    divide_time,
    measure_surroundings,
    weigh_looks,
)
from jwst_tvbadpix.badpix.noise import NoiseModel, fit_noise
from jwst_tvbadpix.badpix.odds import Calibration
from jwst_tvbadpix.badpix.outofcore import split_piece
from jwst_tvbadpix.badpix.residuals import compute_residuals
from jwst_tvbadpix.badpix.usability import Usability

# Full-frame row and column of the first pixel.
CORNER = (100, 8)


@dataclass(frozen=True)
class Block:
    rate: np.ndarray
    y: int
    x: int
    core: slice
    hidden: np.ndarray


@dataclass(frozen=True)
class ArrayStack:
    """Looks somewhere in the frame, handed out as they are; `hidden`: bool, shape of `rate`."""

    rate: np.ndarray
    rows: int = 64
    hidden: np.ndarray | None = None

    @property
    def window(self):
        (y, x), (ny, nx) = CORNER, self.rate.shape[1:]
        return y, y + ny, x, x + nx

    @property
    def row_ranges(self):
        return (self.window[:2],)

    def read_rows(self, start, stop, looks=None):
        rate = self.rate if looks is None else self.rate[looks]
        return rate[:, start - CORNER[0] : stop - CORNER[0]]

    def read_look(self, look, rows=None, core=None):
        rows = rows or slice(*self.window[:2])
        hidden = np.zeros(self.rate.shape, bool) if self.hidden is None else self.hidden
        own = slice(rows.start - CORNER[0], rows.stop - CORNER[0])
        return self.rate[look, own], int(hidden[look, own][core or slice(None)].sum())

    def row_blocks(self, *, halo):
        y0, y1, x0, _ = self.window
        hidden = np.zeros(self.rate.shape, bool) if self.hidden is None else self.hidden
        for start in range(y0, y1, self.rows):
            stop = min(y1, start + self.rows)
            first, last = max(y0, start - halo), min(y1, stop + halo)
            core = slice(start - first, stop - first)
            count = hidden[:, start - y0 : stop - y0].sum(axis=(1, 2))
            yield Block(self.read_rows(first, last), first, x0, core, count)


def select(rate, core, y, x, noise, axes):
    """Search the core rows of a block at once: the candidates, and the control sample."""
    part = divide_time(len(rate))
    some = choose_some(len(rate))
    own = rate[some], core, choose_looks(noise, some), axes, some, part
    whole = measure_surroundings(own[0], slice(None), *own[2:])[0]
    values = weigh_looks(rate, noise, axes, whole, part)[:, :, core]
    around = measure_surroundings(*own)[0]
    window = y + core.start, y + core.stop, x, x + rate.shape[2]
    return split_piece(0, values.reshape(len(rate), 3, -1), noise, around, window)[:2]


def find(rate, mjd, *, axes=2, rows=64, hidden=None, **kwargs):
    """Find the histories of looks with one dispersion axis, or a list of them."""
    axes = axes if isinstance(axes, list) else [axes] * len(rate)
    return find_histories(ArrayStack(rate, rows, hidden), mjd, axes, **kwargs)


def measure(rate):
    """Measure spectra with the dispersion along y as `find_histories` does: (residuals, noise)."""
    good, axes = np.zeros(rate.shape[1:], bool), {"dispersion_axes": [2] * len(rate)}
    rough = compute_residuals(rate, good, **axes)
    found = compute_residuals(rate, good, sigma=compute_sigma(fit_noise(rough), rough), **axes)
    return found, fit_noise(found)


def flag_cube(histories):
    """Looks at which each pixel of the window is bad: bool (n_looks, ny, nx)."""
    y0, y1, x0, x1 = histories.window
    cube = np.zeros((len(histories.bad), y1 - y0, x1 - x0), bool)
    cube[:, histories.candidates.y - y0, histories.candidates.x - x0] = histories.bad
    return cube


# Log-odds are the scores themselves, from -12 to 30.
CALIBRATION = Calibration(
    fdr=0.02,
    threshold=6.0,
    expected_false=0.0,
    n_flags=0,
    n_decoys=0,
    excess=1.0,
    score=np.empty(0),
    log_odds=np.empty(0),
    slope=1.0,
)


def assemble_histories(candidates, states, bad, *, n_evidence, window, mid_mjd, **changes):
    """Histories made by hand: all looks alike and usable unless `changes` say otherwise."""
    n = len(mid_mjd)
    looks = np.ones(n)
    values = {
        "score": states.log_odds,
        "calibration": CALIBRATION,
        "expected_false": np.zeros(n),
        "noise": NoiseModel(np.zeros((n, 1)), np.ones((n, 1)), 0.05, 0.01, looks),
        "n_pixels": np.full(n, 100),
        "n_hidden": np.zeros(n, int),
        "usability": Usability(np.zeros(n), 10 * looks, looks, looks, ("",) * n),
        "settings": Settings(),
    }
    return PixelHistories(
        candidates=candidates,
        control=Control(*(np.zeros(0, np.int16),) * 2, *(np.zeros((n, 0), np.float32),) * 2),
        states=states,
        bad=bad,
        n_evidence=n_evidence,
        window=window,
        mid_mjd=mid_mjd,
        **values | changes,
    )
