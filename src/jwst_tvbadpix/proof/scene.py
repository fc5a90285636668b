"""What the proof looks at: a detector with defects of known dates, and a star at chosen dates."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from astropy.time import Time

from ..simulate import (
    BOX_HALF_WIDTH,
    DarkPedestal,
    Defects,
    ExposureSpec,
    PixelPattern,
    Region,
    Scene,
    SkyField,
    SlitStrip,
    StarTrace,
    draw_defects,
    draw_specs,
    get_trace,
)

__all__ = [
    "CHANGES",
    "MODES",
    "N_BLANK",
    "WAVELENGTHS_UM",
    "Plan",
    "build_star_scene",
    "join_defects",
    "make_plan",
    "select_on_trace",
    "set_dates",
]

# SUBARRAY of each mode.
MODES = {"slitless": "SLITLESSPRISM", "slit": "FULL"}
# Blank-sky exposures of the programme, and the period over which they lie.
N_BLANK = 24
_PERIOD = ("2022-07-01", "2026-06-30")
# Dates at which the defects of the traces change.
CHANGES = 3
# Defects of each trace by history: onsets, recoveries and telegraph pixels.
_N_TURN_ON, _N_RECOVER, _N_TELEGRAPH = 50, 10, 4
# Columns at either side of the trace on which they lie [pixel].
_HALF_COLUMNS = 4
# Wavelengths that are judged [um]: where the star is bright in LRS.
WAVELENGTHS_UM = (5.0, 12.0)
# Groups and integrations of the star: deep enough to see a hot pixel of a few DN/s.
_DEPTHS = {"slitless": (60, 5), "slit": (24, 1)}
_FIRST_OBSERVATION = {"slitless": 601, "slit": 801}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is simulated, and when.

    Attributes
    ----------
    seed : int
        Seed of everything.
    first_mjd : float
        Date of the first blank-sky exposure [MJD].
    change_mjd : tuple of float
        When the defects of the traces change [MJD].
    star_mjd : tuple of float
        Dates of the star, one before the first change and one after each [MJD].
    defects : Defects
        Those of both traces and the usual population of the detector.
    """

    seed: int
    first_mjd: float
    change_mjd: tuple[float, ...]
    star_mjd: tuple[float, ...]
    defects: Defects

    @property
    def period(self) -> tuple[str, str]:
        """First and last day of the programme."""
        return _PERIOD

    @property
    def pattern(self) -> PixelPattern:
        """Pixels of the detector."""
        return PixelPattern(seed=self.seed)

    def make_spec(
        self, mode: str, epoch: int, *, number: int = 0, n_draws: int = 1
    ) -> ExposureSpec:
        """Describe an exposure of the star in an epoch: so many draws, one after the other."""
        ngroups, nints = _DEPTHS[mode]
        observation = _FIRST_OBSERVATION[mode] + 25 * epoch + number
        return ExposureSpec(
            mjd=self.star_mjd[epoch],
            subarray=MODES[mode],
            ngroups=ngroups,
            nints=nints * n_draws,
            seed=self.seed * 1000 + observation,
            observation=observation,
            target="PROOF-STAR",
        )

    def split_integrations(self, mode: str, values: np.ndarray) -> list[np.ndarray]:
        """Split integrations (n, n_bins) into draws of the usual number of them."""
        return np.split(values, max(1, len(values) // _DEPTHS[mode][1]))


def make_plan(seed: int) -> Plan:
    """Draw dates and defects.

    Parameters
    ----------
    seed : int
        Seed of everything.

    Returns
    -------
    Plan
        Changes lie between two blank-sky exposures, the star's dates between others.
    """
    start, end = (float(Time(date, scale="utc").mjd) for date in _PERIOD)
    specs = draw_specs(n_exposures=N_BLANK, start_mjd=start, end_mjd=end, seed=seed)
    blank = np.array([spec.mjd for spec in specs])
    rng = np.random.default_rng([seed, 11])
    ends = [_find_widest_gap(blank, (k + 1) * N_BLANK // (CHANGES + 1)) for k in range(CHANGES)]
    changes = tuple(float(blank[i] + rng.uniform(0.3, 0.7) * np.diff(blank)[i]) for i in ends)
    borders = [0, *(i + 1 for i in ends), N_BLANK]
    star = []
    for first, last in pairwise(borders):
        middle = (first + last - 1) // 2
        star.append(float(0.5 * (blank[middle] + blank[middle + 1])))
    parts = [_draw_on_trace(mode, changes, (start, end), seed) for mode in MODES]
    usual = draw_defects("MIRIMAGE", "FULL", start_mjd=start, end_mjd=end, seed=seed)
    defects = join_defects(*parts, usual)
    return Plan(seed, float(blank[0]), changes, tuple(star), defects)


def _find_widest_gap(blank: np.ndarray, around: int) -> int:
    """Find the exposure after which the widest gap near `around` begins."""
    near = np.arange(around - 3, around + 2)
    return int(near[np.argmax(np.diff(blank)[near])])


def _draw_on_trace(
    mode: str, changes: tuple[float, ...], period: tuple[float, float], seed: int
) -> Defects:
    """Draw defects on a trace at the usual amplitudes, whose dates are the given changes."""
    trace = get_trace(MODES[mode])
    long, short = WAVELENGTHS_UM[::-1]
    wavelength = trace.wavelength(trace.rows)
    # Whole features lie within the wavelengths that are judged.
    rows = trace.rows[(wavelength > short + 0.1) & (wavelength < long - 0.1)]
    x_start = int(trace.x_middle) - _HALF_COLUMNS
    region = Region("FULL", int(rows[0]), x_start, rows.size, 2 * _HALF_COLUMNS + 1)
    drawn = draw_defects(
        "MIRIMAGE",
        region,
        start_mjd=period[0],
        end_mjd=period[1],
        seed=seed * 10 + list(MODES).index(mode),
        n_static_hot=0,
        n_static_warm=0,
        n_static_low=0,
        n_turn_on=_N_TURN_ON,
        n_recover=_N_RECOVER,
        n_telegraph=_N_TELEGRAPH,
    )
    return set_dates(drawn, changes, np.random.default_rng([seed, 12, list(MODES).index(mode)]))


def set_dates(drawn: Defects, changes: tuple[float, ...], rng: np.random.Generator) -> Defects:
    """Move the dates at which defects change to given ones; telegraph pixels keep theirs."""
    switch = drawn.switch_mjd.copy()
    onset = rng.permutation(np.arange(len(drawn)) % len(changes))
    for k in np.flatnonzero(drawn.kind != "TELEGRAPH"):
        finite = np.isfinite(switch[k])
        # A pixel that comes and goes does so at the first and the last change.
        dates = [changes[onset[k]]] if finite.sum() == 1 else [changes[0], changes[-1]]
        switch[k, : len(dates)] = dates
    return replace(drawn, switch_mjd=switch)


def join_defects(*parts: Defects) -> Defects:
    """Join populations of one detector; a pixel belongs to the first that has it."""
    n_switches = max(part.switch_mjd.shape[1] for part in parts)
    columns: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for field in fields(Defects):
            values = getattr(part, field.name)
            if field.name == "switch_mjd":
                room = ((0, 0), (0, n_switches - values.shape[1]))
                values = np.pad(values, room, constant_values=np.inf)
            if isinstance(values, np.ndarray):
                columns.setdefault(field.name, []).append(values)
    joined = Defects(
        **{name: np.concatenate(arrays) for name, arrays in columns.items()},
        detector=parts[0].detector,
        seed=parts[0].seed,
    )
    _, first = np.unique(joined.y.astype(int) * 10000 + joined.x, return_index=True)
    return joined.select(np.sort(first))


def select_on_trace(mode: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Select the pixels that the extraction box of a mode holds, at wavelengths that are judged.

    Parameters
    ----------
    mode : str
        Key of ``MODES``.
    y, x : ndarray of int, shape (n,)
        Full-frame position.

    Returns
    -------
    ndarray of bool, shape (n,)
    """
    trace = get_trace(MODES[mode])
    wavelength = trace.wavelength(y)
    within = (y >= trace.first_row) & (y < trace.first_row + trace.n_rows)
    within &= (wavelength > WAVELENGTHS_UM[0]) & (wavelength < WAVELENGTHS_UM[1])
    return within & (np.abs(x - trace.centre(y)) <= BOX_HALF_WIDTH)


def build_star_scene(mode: str, plan: Plan) -> tuple[Scene, StarTrace]:
    """Build the sky of a mode and the star in it.

    Without cosmic rays: what they leave is the same with any mask, and would only blur the count
    of features. The exposures from which the masks are made have them.
    """
    star = StarTrace()
    sky = SlitStrip() if mode == "slit" else SkyField()
    scene = Scene(
        layers=(sky, DarkPedestal(), star),
        pattern=plan.pattern,
        crosstalk=0.01,
    )
    return scene, star
