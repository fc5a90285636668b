"""Bad pixels of real NIRCam maps, injected where they are and dated between the maps.

A folder with ``nrc_badpix_YYMMDD_DETECTOR.fits.gz`` of two dates (bit 1 = bad) gives places and
the clustering of pixels that go bad in flight. Simulated exposures get the pixels of the first
map from the start, and those that the second adds from random dates in between. Amplitudes are
not in the maps: log-normal and independent, an assumption.

    python benchmarks/bench_nircam_maps.py --maps ../shared/realdata/nircam_badpix --data DIR
"""

import argparse
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time
from scipy.ndimage import binary_dilation, find_objects, label

from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.refmodels import compose_dq, dq_value
from jwst_tvbadpix.simulate import (
    Defects,
    ExposureSpec,
    Region,
    build_scene,
    draw_specs,
    make_defects,
    write_rate,
)
from jwst_tvbadpix.steps import TimeVariableBadPixel

# Dates of the maps, and the exposures around them.
FIRST_MAP, LAST_MAP = "2024-06-27", "2025-10-16"
START, END = "2024-01-01", "2026-01-01"
# Amplitude: median [DN/s] and standard deviation [dex]; assumption. One exposure has an error of
# 0.02 DN/s in the full frame.
AMPLITUDE = (1.0, 0.5)
# Share of its counts that a pixel's neighbour sees in the simulation.
_CROSSTALK = 0.01


def read_map(folder: Path, date: str, detector: str) -> np.ndarray:
    """Read a map: bool (2048, 2048), True = bad; reference pixels are left out."""
    name = f"nrc_badpix_{date.replace('-', '')[2:]}_{detector}.fits.gz"
    bad = (fits.getdata(folder / name) & 1) != 0
    return bad & ~get_detector(detector).reference_pixels()


def make_map_defects(folder: Path, detector: str, *, seed: int) -> Defects:
    """Make defects of all pixels of the last map, those not in the first from a random date on."""
    first, last = (read_map(folder, date, detector) for date in (FIRST_MAP, LAST_MAP))
    y, x = np.nonzero(first | last)
    rng = np.random.default_rng(seed)
    onset = rng.uniform(Time(FIRST_MAP).mjd, Time(LAST_MAP).mjd, y.size)
    median, dex = AMPLITUDE
    return make_defects(
        detector,
        y,
        x,
        amplitude=median * 10 ** rng.normal(0, dex, y.size),
        onset_mjd=np.where(first[y, x], -np.inf, onset),
    )


@dataclass(frozen=True, slots=True)
class MapExposures:
    """Files of the exposures, what each was made of, and the defects in them."""

    paths: tuple[Path, ...]
    specs: tuple[ExposureSpec, ...]
    defects: Defects

    @property
    def err(self) -> float:
        """Median error of a pixel in one exposure [DN/s]."""
        return float(np.median([np.nanmedian(fits.getdata(path, "ERR")) for path in self.paths]))


def simulate(
    folder: Path, maps: Path, *, detector: str, region: Region | None, n_exposures: int, seed: int
) -> MapExposures:
    """Write exposures evenly spaced from `START` to `END`."""
    folder.mkdir(parents=True, exist_ok=True)
    start, end = Time(START).mjd, Time(END).mjd
    drawn = draw_specs(
        mode="nircam",
        detector=detector,
        region=region,
        n_exposures=n_exposures,
        start_mjd=start,
        end_mjd=end,
        seed=seed,
    )
    dates = np.linspace(start, end, n_exposures)
    specs = tuple(replace(s, mjd=float(mjd)) for s, mjd in zip(drawn, dates, strict=True))
    defects = make_map_defects(maps, detector, seed=seed)
    scene = build_scene("nircam", detector=detector, seed=seed)
    paths = tuple(write_rate(folder, spec, scene, defects) for spec in specs)
    return MapExposures(paths, specs, defects)


@dataclass(frozen=True, slots=True)
class MapScores:
    """How well the masks of the first and last exposure match the injected maps.

    Attributes
    ----------
    n_true, n_found, n_right, n_crosstalk : tuple of int
        At the first and the last exposure: bad pixels, flagged pixels, those that are both, and
        flagged neighbours that see more than 1 sigma of a bad pixel's counts (each exposure adds
        to the evidence: it is real, and no defect).
    recall_by_size : dict
        Size of the cluster (8-connected, at the last exposure) -> (bad, flagged) pixels.
    widths : dict
        Smaller side of the bounding box of the cluster -> number of missed pixels that are
        neither bad in one exposure alone nor faint.
    n_once, n_faint : int
        Missed pixels of the last exposure that are bad in that one alone, so that no method can
        tell them from a cosmic ray; of the others, those below 5 sigma of one exposure.
    recall_bright : tuple of float
        Recall at the first and last exposure of pixels above 10 sigma of one exposure, those
        that are bad in that one alone left out.
    recall_single : float
        The same at the last exposure for those with no bad neighbour.
    n_onsets, n_dated, n_within_one : int
        Pixels that turned on between the exposures, those of them flagged at the last one, and
        those of these whose first flagged exposure is within one of the true one.
    n_early : int
        (pixel, exposure) pairs flagged before the onset.
    """

    n_true: tuple[int, int]
    n_found: tuple[int, int]
    n_right: tuple[int, int]
    n_crosstalk: tuple[int, int]
    recall_by_size: dict[int, tuple[int, int]]
    widths: dict[int, int]
    n_once: int
    n_faint: int
    recall_bright: tuple[float, float]
    recall_single: float
    n_onsets: int
    n_dated: int
    n_within_one: int
    n_early: int

    @property
    def precision(self) -> tuple[float, ...]:
        """Share of flagged pixels that are bad, crosstalk left out, at first and last exposure."""
        counts = zip(self.n_right, self.n_found, self.n_crosstalk, strict=True)
        return tuple(right / max(1, found - halo) for right, found, halo in counts)

    @property
    def recall(self) -> tuple[float, ...]:
        """Share of bad pixels that are flagged, at first and last exposure."""
        return tuple(r / max(1, n) for r, n in zip(self.n_right, self.n_true, strict=True))


def score(exposures: MapExposures, history: object) -> MapScores:
    """Compare the mask of each exposure with the truth."""
    region, defects, err = exposures.specs[0].region, exposures.defects, exposures.err
    shape = get_detector(defects.detector).shape
    read = np.zeros(shape, bool)
    read[region.slices] = True
    read &= ~get_detector(defects.detector).reference_pixels()
    defects = defects.select(read[defects.y, defects.x])
    bad_bit, at = np.uint32(dq_value("DO_NOT_USE")), (defects.y, defects.x)
    middles = [spec.mid_mjd for spec in exposures.specs]
    flagged = [(compose_dq(history, mjd) & bad_bit != 0) & read for mjd in middles]
    found = np.stack([one[at] for one in flagged])
    state = np.stack([defects.state(spec.mjd) for spec in exposures.specs])
    counts = np.zeros(shape, np.float32)
    ends = []
    for k in (0, -1):
        truth = np.zeros(shape, bool)
        truth[at] = state[k]
        counts[at] = np.where(state[k], defects.amplitude, 0)
        halo = binary_dilation(counts * _CROSSTALK > err) & ~truth
        ends.append(
            [int(m.sum()) for m in (truth, flagged[k], truth & flagged[k], halo & flagged[k])]
        )
    n_true, n_found, n_right, n_crosstalk = zip(*ends, strict=True)
    # The truth of the last exposure is what is left of the loop.
    clusters, _ = label(truth, np.ones((3, 3)))
    sizes = np.bincount(clusters.ravel())
    sides = [min(s.stop - s.start for s in box) for box in find_objects(clusters)]
    own = clusters[at]
    size = np.where(own > 0, sizes[own], 0)
    missed = state[-1] & ~found[-1]
    once = state.sum(axis=0) == 1
    faint = defects.amplitude < 5 * err
    clustered = own[missed & ~once & ~faint]
    widths = np.unique([sides[c - 1] for c in clustered], return_counts=True)
    bright = defects.amplitude > 10 * err
    turned_on = ~state[0] & state[-1]
    dated = turned_on & found[-1]
    # From the end, so that a stray flag long before does not count as the onset.
    since = (found[::-1].cumprod(axis=0).sum(axis=0), state[::-1].cumprod(axis=0).sum(axis=0))
    return MapScores(
        n_true=n_true,
        n_found=n_found,
        n_right=n_right,
        n_crosstalk=n_crosstalk,
        recall_by_size={
            int(n): (int((size == n).sum()), int((found[-1] & (size == n)).sum()))
            for n in np.unique(size[size > 0])
        },
        widths={int(w): int(n) for w, n in zip(*widths, strict=True)},
        n_once=int((missed & once).sum()),
        n_faint=int((missed & ~once & faint).sum()),
        recall_bright=tuple(float(found[k][state[k] & bright & ~once].mean()) for k in (0, -1)),
        recall_single=float(found[-1][bright & ~once & (size == 1)].mean()),
        n_onsets=int(turned_on.sum()),
        n_dated=int(dated.sum()),
        n_within_one=int((np.abs(since[0] - since[1])[dated] <= 1).sum()),
        n_early=int((found & ~state).sum()),
    )


def main() -> None:
    """Simulate, run the step, print the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--maps", type=Path, required=True, help="folder with the maps")
    parser.add_argument("--data", type=Path, required=True, help="where the exposures go (1 GB)")
    parser.add_argument("--detector", choices=("NRCALONG", "NRCBLONG"), default="NRCALONG")
    parser.add_argument("--exposures", type=int, default=12)
    parser.add_argument("--seed", type=int, default=240627)
    options = parser.parse_args()
    exposures = simulate(
        options.data,
        options.maps,
        detector=options.detector,
        region=None,
        n_exposures=options.exposures,
        seed=options.seed,
    )
    logging.disable(logging.WARNING)
    begin = time.monotonic()
    history, *masks = TimeVariableBadPixel.call(
        [str(path) for path in exposures.paths], configure_log=False
    )
    seconds = time.monotonic() - begin
    scores = score(exposures, history)
    n = len(exposures.paths)
    print(f"{options.detector}: {n} exposures, {len(masks)} masks, {seconds:.0f} s")
    print(
        f"error of one exposure {exposures.err:.4f} DN/s; amplitudes {AMPLITUDE} (median DN/s, dex)"
    )
    for k, name in enumerate(("first", "last")):
        print(
            f"{name} exposure: P={scores.precision[k]:.3f} R={scores.recall[k]:.3f} "
            f"R(>10 sigma)={scores.recall_bright[k]:.3f}; {scores.n_true[k]} bad, "
            f"{scores.n_found[k]} flagged, {scores.n_right[k]} right, "
            f"{scores.n_crosstalk[k]} by crosstalk"
        )
    print(
        f"onsets: {scores.n_onsets}, {scores.n_dated} flagged at the end, "
        f"{scores.n_within_one} within one exposure; {scores.n_early} flags before the onset"
    )
    print(f"recall of single pixels above 10 sigma: {scores.recall_single:.3f}")
    print(
        f"missed at the end: {scores.n_true[1] - scores.n_right[1]}, {scores.n_once} bad in the "
        f"last exposure alone, {scores.n_faint} of the others below 5 sigma; the rest by width "
        f"of their cluster: {scores.widths}"
    )
    print(f"(bad, flagged) by size of the cluster: {scores.recall_by_size}")


if __name__ == "__main__":
    main()
