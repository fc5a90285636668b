"""The bad pixels put into a simulation, and when each of them is bad."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.table import Table

from ..atomic import replace_whole
from ..detectors import Detector, get_detector
from ..errors import DateError, EvidenceError, InputError
from .electronics import Region, find_region

__all__ = ["KINDS", "Defects", "draw_defects", "make_defects", "read_truth", "write_truth"]

KINDS = ("STATIC_HOT", "STATIC_WARM", "STATIC_LOW", "TURN_ON", "RECOVER", "TELEGRAPH")

# Defects per pixel, by kind; assumption: 0.3 % static, and a growth of 0.04 % per year, which
# is what dated NIRCam long-wave lists show to a factor of two (grizli issue 233).
_DENSITY = {
    "STATIC_HOT": 2.0e-3,
    "STATIC_WARM": 5.0e-4,
    "STATIC_LOW": 3.0e-4,
    "TURN_ON": 1.5e-3,
    "RECOVER": 2.0e-4,
    "TELEGRAPH": 3.0e-4,
}
# Additive excess while bad: (median [DN/s], standard deviation [dex]); assumptions chosen so
# that most, and not all, exceed 5 sigma of a rate of a few hundred seconds (0.2 DN/s).
_AMPLITUDE = {
    "STATIC_HOT": (12.0, 0.50),
    "STATIC_WARM": (1.0, 0.20),
    "TURN_ON": (6.0, 0.45),
    "RECOVER": (6.0, 0.40),
    "TELEGRAPH": (6.0, 0.35),
}
# Share of TURN_ON pixels that lose response instead of gaining counts; assumption.
_LOW_SHARE = 0.2
# Largest response of a low pixel; assumption.
_LOW_RESPONSE = 0.6
# Excess noise of a hot pixel relative to its error, uniform from 1; assumption.
_NOISE_FACTOR = 2.0
# Mean dwell time in either state of a telegraph pixel [day], log-uniform; assumption, the JWST
# outlier-detection documentation says "sometimes as short as 2 days".
_DWELL_DAYS = (15.0, 250.0)
# Shortest time a recovering pixel is bad, as a share of the programme; assumption.
_RECOVER_SHARE = (0.1, 0.5)


@dataclass(frozen=True, slots=True)
class Defects:
    """Bad pixels with their history.

    Attributes
    ----------
    y, x : ndarray of int16, shape (n,)
        Full-frame position, 0-based.
    kind : ndarray of str, shape (n,)
        One of ``KINDS``.
    amplitude : ndarray of float32, shape (n,)
        Counts added while bad [DN/s].
    response : ndarray of float32, shape (n,)
        Factor on the light while bad; 1 = unchanged.
    noise_factor : ndarray of float32, shape (n,)
        Factor on the noise while bad.
    initially_bad : ndarray of bool, shape (n,)
        State before the first switch.
    switch_mjd : ndarray of float64, shape (n, n_switches)
        Dates at which the state flips, ascending, padded with +inf [MJD, UTC].
    detector : str
        DETECTOR keyword.
    seed : int
        Seed they were drawn with; -1 when they were not drawn.
    """

    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    amplitude: np.ndarray
    response: np.ndarray
    noise_factor: np.ndarray
    initially_bad: np.ndarray
    switch_mjd: np.ndarray
    detector: str = "MIRIMAGE"
    seed: int = -1

    def __len__(self) -> int:
        return len(self.y)

    def state(self, mjd: float) -> np.ndarray:
        """Find which are bad at a date: bool (n,), True = bad; a switch counts from its date on."""
        flips = (self.switch_mjd <= mjd).sum(axis=1)
        return self.initially_bad ^ (flips % 2 == 1)

    def bad_map(self, mjd: float, shape: tuple[int, int]) -> np.ndarray:
        """Map the pixels that are bad at a date: bool, full-frame (ny, nx), True = bad."""
        bad = np.zeros(shape, bool)
        on = self.state(mjd)
        bad[self.y[on], self.x[on]] = True
        return bad

    def select(self, chosen: np.ndarray) -> "Defects":
        """Keep some: a new object of those where ``chosen`` (bool or index, (n,)) says so."""
        return Defects(
            **{name: getattr(self, name)[chosen] for name in _COLUMNS},
            detector=self.detector,
            seed=self.seed,
        )


_COLUMNS = (
    "y",
    "x",
    "kind",
    "amplitude",
    "response",
    "noise_factor",
    "initially_bad",
    "switch_mjd",
)


def draw_defects(
    detector: str | Detector,
    region: str | Region,
    *,
    start_mjd: float,
    end_mjd: float,
    seed: int,
    density: float = 1.0,
    amplitude: float = 1.0,
    n_static_hot: int | None = None,
    n_static_warm: int | None = None,
    n_static_low: int | None = None,
    n_turn_on: int | None = None,
    n_recover: int | None = None,
    n_telegraph: int | None = None,
) -> Defects:
    """Draw a population of bad pixels.

    Parameters
    ----------
    detector : str or Detector
        Detector or its DETECTOR keyword.
    region : str or Region
        Subarray within which they lie; positions are full-frame all the same.
    start_mjd, end_mjd : float
        Time over which pixels change [MJD].
    seed : int
        Seed of the draw.
    density : float
        Factor on the default populations.
    amplitude : float
        Factor on the default amplitudes, which suit MIRI LRS.
    n_static_hot, n_static_warm, n_static_low, n_turn_on, n_recover, n_telegraph : int or None
        Size of each class; None = the default density times the pixels of the region.

    Returns
    -------
    Defects
        Sorted by position within each kind; no pixel twice, no reference pixel.

    Raises
    ------
    DateError
        When the end is not after the start.
    DetectorError
        When the detector or the region is unknown.
    EvidenceError
        When the region has fewer pixels than defects asked for.
    """
    facts = detector if isinstance(detector, Detector) else get_detector(detector)
    if not end_mjd > start_mjd:
        raise DateError(
            f"end_mjd must be after start_mjd = {start_mjd}, found {end_mjd}; give a later end"
        )
    area = region if isinstance(region, Region) else find_region(region, detector=facts)
    given = (n_static_hot, n_static_warm, n_static_low, n_turn_on, n_recover, n_telegraph)
    free = np.zeros(facts.shape, bool)
    free[area.slices] = True
    free &= ~facts.reference_pixels()
    candidates = np.flatnonzero(free)
    counts = [
        round(_DENSITY[kind] * density * candidates.size) if n is None else n
        for kind, n in zip(KINDS, given, strict=True)
    ]
    if sum(counts) > candidates.size:
        raise EvidenceError(
            f"{area.subarray} has {candidates.size} pixels, found {sum(counts)} defects; "
            "ask for fewer"
        )
    rng = np.random.default_rng([seed, 1])
    where = rng.choice(candidates, sum(counts), replace=False)
    parts = []
    for kind, pixels in zip(KINDS, np.split(where, np.cumsum(counts)[:-1]), strict=True):
        pixels.sort()
        drawn = _draw_kind(kind, pixels.size, start_mjd, end_mjd, rng)
        drawn["amplitude"] *= np.float32(amplitude)
        parts.append({"pixel": pixels, "kind": np.full(pixels.size, kind, "U11"), **drawn})
    return _join_parts(parts, facts, seed)


def make_defects(
    detector: str,
    y: np.ndarray,
    x: np.ndarray,
    *,
    amplitude: np.ndarray | float,
    onset_mjd: np.ndarray | float = -np.inf,
    recovery_mjd: np.ndarray | float = np.inf,
) -> Defects:
    """Make hot pixels at given places and dates.

    Parameters
    ----------
    detector : str
        DETECTOR keyword.
    y, x : ndarray of int, shape (n,)
        Full-frame position, 0-based.
    amplitude : ndarray of float, shape (n,), or float
        Counts added while bad [DN/s].
    onset_mjd, recovery_mjd : ndarray of float, shape (n,), or float
        When they turn bad and good again [MJD]; -inf = bad since ever, +inf = never good again.

    Returns
    -------
    Defects
        Of the kinds STATIC_HOT, TURN_ON and RECOVER, in the order given.

    Raises
    ------
    DateError
        When a recovery does not come after its onset.
    DetectorError
        When the detector is unknown.
    EvidenceError
        When a position lies outside of the detector, or is given twice.
    """
    ny, nx = get_detector(detector).shape
    y, x = np.asarray(y, np.int16), np.asarray(x, np.int16)
    onset, recovery, strength = (
        np.broadcast_to(values, y.shape).astype(float)
        for values in (onset_mjd, recovery_mjd, amplitude)
    )
    if ((y < 0) | (y >= ny) | (x < 0) | (x >= nx)).any():
        raise EvidenceError(
            f"positions must lie within {ny} x {nx} pixels of {detector}, found rows to "
            f"{y.max()} and columns to {x.max()}; leave the others out"
        )
    if len(np.unique(y.astype(int) * nx + x)) < y.size:
        raise EvidenceError("each position must be given once, found one twice; remove one")
    if (recovery <= onset).any():
        raise DateError(
            "recovery_mjd must be after onset_mjd, found one that is not; give a later date"
        )
    always = onset == -np.inf
    kind = np.where(np.isfinite(recovery), "RECOVER", np.where(always, "STATIC_HOT", "TURN_ON"))
    late = np.stack([onset, recovery], axis=1)
    early = np.stack([recovery, np.full(y.shape, np.inf)], axis=1)
    return Defects(
        y=y,
        x=x,
        kind=kind.astype("U11"),
        amplitude=strength.astype(np.float32),
        response=np.ones(y.shape, np.float32),
        noise_factor=np.ones(y.shape, np.float32),
        initially_bad=always,
        switch_mjd=np.where(always[:, None], early, late),
        detector=detector,
    )


def _join_parts(parts: list[dict[str, np.ndarray]], facts: Detector, seed: int) -> Defects:
    """Concatenate the kinds into one population."""
    n_switches = max(part["switch_mjd"].shape[1] for part in parts)
    for part in parts:
        missing = n_switches - part["switch_mjd"].shape[1]
        part["switch_mjd"] = np.pad(
            part["switch_mjd"], ((0, 0), (0, missing)), constant_values=np.inf
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    y, x = np.divmod(joined.pop("pixel"), facts.shape[1])
    return Defects(
        y=y.astype(np.int16), x=x.astype(np.int16), **joined, detector=facts.name, seed=seed
    )


def _draw_kind(
    kind: str, n: int, start_mjd: float, end_mjd: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Draw strength and history of one kind."""
    amplitude = np.zeros(n)
    if kind in _AMPLITUDE:
        median, dex = _AMPLITUDE[kind]
        amplitude = median * 10 ** rng.normal(0, dex, n)
    response = np.ones(n)
    low = np.full(n, kind == "STATIC_LOW")
    if kind == "TURN_ON":
        # An exact share rather than a draw: a small population keeps both sorts.
        low = rng.permutation(n) < round(_LOW_SHARE * n)
    response[low] = rng.uniform(0, _LOW_RESPONSE, low.sum())
    amplitude[low] = 0
    initially_bad, switch_mjd = _HISTORIES[kind](n, start_mjd, end_mjd, rng)
    return {
        "amplitude": amplitude.astype(np.float32),
        "response": response.astype(np.float32),
        "noise_factor": rng.uniform(1, _NOISE_FACTOR, n).astype(np.float32),
        "initially_bad": initially_bad,
        "switch_mjd": switch_mjd,
    }


_History = tuple[np.ndarray, np.ndarray]


def _draw_static(n: int, start: float, end: float, rng: np.random.Generator) -> _History:
    """Bad always."""
    return np.ones(n, bool), np.empty((n, 0))


def _draw_turn_on(n: int, start: float, end: float, rng: np.random.Generator) -> _History:
    """Bad from a date on."""
    return np.zeros(n, bool), rng.uniform(start, end, (n, 1))


def _draw_recover(n: int, start: float, end: float, rng: np.random.Generator) -> _History:
    """Bad until a date, half of them only after an earlier date."""
    span = end - start
    initially_bad = rng.permutation(n) < n // 2
    onset = start + span * rng.uniform(0, 0.5, n)
    recovery = onset + span * rng.uniform(*_RECOVER_SHARE, n)
    late = np.stack([onset, recovery], axis=1)
    early = np.stack([recovery, np.full(n, np.inf)], axis=1)
    return initially_bad, np.where(initially_bad[:, None], early, late)


def _draw_telegraph(n: int, start: float, end: float, rng: np.random.Generator) -> _History:
    """Back and forth with exponential dwell times of their own."""
    if n == 0:
        return np.zeros(0, bool), np.empty((0, 0))
    mean_days = np.exp(rng.uniform(np.log(_DWELL_DAYS[0]), np.log(_DWELL_DAYS[1]), (n, 2)))
    bad_share = mean_days[:, 1] / mean_days.sum(axis=1)
    initially_bad = rng.random(n) < bad_share
    # Enough dwells that the slowest sum of the quickest pixels passes the end.
    n_pairs = int(np.ceil((end - start) / (2 * _DWELL_DAYS[0]) * 1.5)) + 10
    dwell = rng.exponential(1.0, (n, n_pairs, 2))
    order = np.where(initially_bad[:, None], mean_days[:, ::-1], mean_days)
    switch = start + np.cumsum((dwell * order[:, None, :]).reshape(n, -1), axis=1)
    switch[switch > end] = np.inf
    most = int(np.isfinite(switch).sum(axis=1).max())
    return initially_bad, switch[:, :most]


_HISTORIES: dict[str, Callable[[int, float, float, np.random.Generator], _History]] = {
    "STATIC_HOT": _draw_static,
    "STATIC_WARM": _draw_static,
    "STATIC_LOW": _draw_static,
    "TURN_ON": _draw_turn_on,
    "RECOVER": _draw_recover,
    "TELEGRAPH": _draw_telegraph,
}


def write_truth(path: str | Path, defects: Defects) -> Path:
    """Write the truth of a simulation as an ECSV table, one row per defect.

    Columns: y, x, kind, amplitude [DN/s], response, noise_factor, initially_bad, first_on_mjd,
    first_off_mjd [MJD; -inf = since ever, inf = never], switch_mjd (dates separated by blanks).
    """
    bad = defects.initially_bad
    padded = np.pad(defects.switch_mjd, ((0, 0), (0, 2)), constant_values=np.inf)
    table = Table(
        {
            "y": defects.y,
            "x": defects.x,
            "kind": defects.kind.astype(str),
            "amplitude": defects.amplitude,
            "response": defects.response,
            "noise_factor": defects.noise_factor,
            "initially_bad": bad,
            "first_on_mjd": np.where(bad, -np.inf, padded[:, 0]),
            "first_off_mjd": np.where(bad, padded[:, 0], padded[:, 1]),
            "switch_mjd": np.array(
                [
                    " ".join(repr(float(date)) for date in row[np.isfinite(row)])
                    for row in defects.switch_mjd
                ],
                dtype=str,
            ),
        },
        units={"amplitude": "DN/s", "first_on_mjd": "d", "first_off_mjd": "d"},
        meta={"detector": defects.detector, "seed": defects.seed, "content": "simulation truth"},
    )
    path = Path(path)
    with replace_whole(path) as temporary:
        table.write(temporary, format="ascii.ecsv")
    return path


def read_truth(path: str | Path) -> Defects:
    """Read what `write_truth` wrote.

    Raises
    ------
    InputError
        When the file is absent, unreadable or not such a table.
    """
    try:
        table = Table.read(path, format="ascii.ecsv")
        # A pixel that never switches has an empty cell, which astropy reads as masked.
        texts = np.ma.filled(table["switch_mjd"], "")
        dates = [[float(date) for date in str(text).split()] for text in texts]
        switch_mjd = np.full((len(dates), max(map(len, dates), default=0)), np.inf)
        for row, values in zip(switch_mjd, dates, strict=True):
            row[: len(values)] = values
        columns = {name: np.asarray(table[name]) for name in _COLUMNS[:-1]}
        detector, seed = str(table.meta["detector"]), int(table.meta["seed"])
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} must be the ECSV truth table of a simulation: {error}; "
            "give the truth.ecsv of simulate_programme"
        ) from error
    return Defects(**columns, switch_mjd=switch_mjd, detector=detector, seed=seed)
