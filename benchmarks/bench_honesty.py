"""Honesty of TimeVariableBadPixel: false flags as promised, none without defects or without order.

Five checks, each of whole runs of the step; what is judged is what is on disk:

fdr      achieved over nominal share of false flags at ``--fdr`` 0.01, 0.05 and 0.10
null     exposures without a defect: false flags, beside what the history expects
shuffle  the same exposures with their dates exchanged: no onset structure may be left
order    the files in reversed and in random order: the same bytes
memory   the peak with 20, 40 and 80 exposures

    python benchmarks/bench_honesty.py --bench ../shared/bench/badpix --data DIR --work DIR
"""

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time
from measuring import import_score, judge, list_exposures, make_data, run_step, tell, tell_load

from jwst_tvbadpix.badpix.series import select_counted
from jwst_tvbadpix.demo import find_haloes
from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.refmodels import read_history
from jwst_tvbadpix.simulate import draw_defects, read_truth, simulate_programme

_NOMINAL = (0.01, 0.05, 0.10)
_FDR_RATIO = (0.5, 1.5)
_MOST_NULL_FLAGS = 20.0
# Standard deviations within which counts agree with what is expected.
_N_SIGMA = 3.0
_N_MEMORY = (20, 40, 80)
_MOST_GB, _MOST_GROWTH = 1.5, 0.10
# Share of turn-on pixels that may get the right onset from shuffled dates.
_MOST_BY_CHANCE = 0.02
# Exposures and seed of our own simulation.
_N_OWN, _OWN_SEED = 20, 7831
# Class number of turn-on pixels in the truth, and S/N while bad from which they are judged.
_TURN_ON, _SNR = 4, 5.0


@dataclass(frozen=True, slots=True)
class Truth:
    """What is in a set of exposures.

    Attributes
    ----------
    mjd : ndarray of float64, shape (n_looks,)
        Starts of the exposures [MJD].
    state, care : ndarray of bool, shape (n_looks, ny, nx)
        Whether a pixel is bad then, and whether it counts.
    """

    mjd: np.ndarray
    state: np.ndarray
    care: np.ndarray


@dataclass(frozen=True, slots=True)
class Dataset:
    """Exposures of a name, and their truth."""

    name: str
    files: list[Path]
    truth: Truth


def read_truth_of_bench(bench: Path, data: Path, chosen: np.ndarray) -> Truth:
    """Read the truth of some exposures of the shared benchmark."""
    whole = import_score(bench).Truth(str(data))
    return Truth(whole.mjd[chosen], whole.state[chosen], whole.care[chosen])


def read_truth_of_own(folder: Path, files: Sequence[Path]) -> Truth:
    """Read the truth of our own simulation: as the demonstration, crosstalk does not count."""
    defects = read_truth(folder / "truth.ecsv")
    detector = get_detector("MIRIMAGE")
    headers = [fits.getheader(path) for path in files]
    state = np.zeros((len(files), *detector.shape), bool)
    care = np.repeat(~detector.reference_pixels()[None], len(files), axis=0)
    telegraph = defects.kind == "TELEGRAPH"
    for k, header in enumerate(headers):
        state[k] = defects.bad_map(header["EXPMID"], detector.shape)
        bad = defects.state(header["EXPMID"])
        care[k] &= ~find_haloes(defects, bad, detector.shape)
        quiet = telegraph & ~bad
        care[k, defects.y[quiet], defects.x[quiet]] = False
    return Truth(np.array([header["EXPSTART"] for header in headers]), state, care)


def simulate(folder: Path, *, defects: bool) -> list[Path]:
    """Simulate full frames with our own simulator, once; their files."""
    if not (folder / "truth.ecsv").is_file():
        limits = {"start_mjd": 59760.0, "end_mjd": 61220.0, "seed": _OWN_SEED}
        simulate_programme(
            folder,
            mode="slit",
            n_exposures=_N_OWN,
            seed=_OWN_SEED,
            defects=None if defects else draw_defects("MIRIMAGE", "FULL", **limits, density=0.0),
        )
    return list_exposures(folder, None)[0]


def list_datasets(options: argparse.Namespace, *, defects: bool) -> Iterator[Dataset]:
    """Make the data sets, one after the other: the shared benchmark's seeds, then our own."""
    seeds = options.seed if defects else [options.null_seed]
    for seed in seeds:
        data = make_data(options.bench, seed, options.data, defects=defects)
        files, chosen = list_exposures(data, options.exposures)
        yield Dataset(f"seed {seed}", files, read_truth_of_bench(options.bench, data, chosen))
    folder = options.work / ("own" if defects else "own_null")
    files = simulate(folder, defects=defects)
    yield Dataset("own simulator", files, read_truth_of_own(folder, files))


def check_fdr(options: argparse.Namespace) -> None:
    """Compare the share of false flags with the one asked for."""
    for dataset in list_datasets(options, defects=True):
        truth = dataset.truth
        for nominal in _NOMINAL:
            arguments = [*options.arguments, f"--fdr={nominal}"]
            run = run_step(dataset.files, options.work / "fdr", arguments)
            found = run.read_found(truth.mjd) & truth.care
            false = found & ~truth.state
            n_found, n_false = int(found.sum()), int(false.sum())
            n_right = n_found - n_false
            name = f"{dataset.name}, fdr {nominal:.2f}"
            low, high = _FDR_RATIO
            share = n_false / n_found if n_found else np.nan
            judge(f"{name}: achieved over nominal", share / nominal, low=low, high=high)
            tell("  false flags, of all found", f"{n_false} / {n_found}")
            tell("  false flags expected by the log", run.expected_false)
            tell("  of the false, on pixels that are bad at other looks",
                 float(false[:, truth.state.any(axis=0)].sum()))  # fmt: skip
            tell("  recall", n_right / float((truth.state & truth.care).sum()))


def check_null(options: argparse.Namespace) -> None:
    """Count the flags where no pixel is bad; expected and found must agree.

    A pixel that passes for bad is flagged at many looks at once, so that the variance of the
    number of flags is the expectation times the flags of a pixel, flags weighting.
    """
    for dataset in list_datasets(options, defects=False):
        run = run_step(dataset.files, options.work / "null", options.arguments)
        n_looks = len(dataset.files)
        flags = (run.read_found(dataset.truth.mjd) & ~dataset.truth.state).sum(axis=0)
        flagged = flags[flags > 0]
        total = float(flagged.sum())
        tell(f"{dataset.name} without defects: pixels flagged", float(flagged.size))
        judge(f"{dataset.name} without defects: flags per exposure", total / n_looks,
              high=_MOST_NULL_FLAGS)  # fmt: skip
        tell("  expected per exposure by the history", run.expected_false / n_looks)
        cluster = float((flagged**2).sum() / total) if total else float(n_looks)
        sigma = np.sqrt(max(run.expected_false, 1.0) * cluster)
        judge("  |found - expected| over Poisson sigma",
              abs(total - run.expected_false) / sigma, high=_N_SIGMA)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Onsets:
    """Changes that a history dates.

    Attributes
    ----------
    n_onsets, n_recoveries, n_pixels : int
        Changes with a date, and pixels, of intervals that go into masks, TELEGRAPH left out.
    alone : ndarray of float64, shape (ny, nx)
        Date of the onset of pixels that turn bad once and stay so [MJD]; NaN elsewhere.
    """

    n_onsets: int
    n_recoveries: int
    n_pixels: int
    alone: np.ndarray


def read_onsets(output: Path) -> _Onsets:
    """Read the dated changes from the history of a run."""
    (path,) = output.glob("bench_*_badpixhistory.asdf")
    history = read_history(path)
    rows = {name: np.asarray(column) for name, column in history.intervals.instance.items()}
    chosen = select_counted(rows) & (rows["class"] != "TELEGRAPH")
    rows = {name: column[chosen] for name, column in rows.items()}
    shape = tuple(history.coverage.shape)
    number = np.zeros(shape, int)
    np.add.at(number, (rows["y"], rows["x"]), 1)
    starts, ends = np.isfinite(rows["start_mjd"]), np.isfinite(rows["end_mjd"])
    once = starts & ~ends & (number[rows["y"], rows["x"]] == 1)
    alone = np.full(shape, np.nan)
    alone[rows["y"][once], rows["x"][once]] = rows["start_mjd"][once]
    return _Onsets(int(starts.sum()), int(ends.sum()), int((number > 0).sum()), alone)


def check_shuffle(options: argparse.Namespace) -> None:
    """Exchange the dates: pixels that turn on now come and go, and their onsets must be gone.

    An onset structure is pixels with one onset, at the right date, and no recovery. What a
    perfect mask would show of it in the shuffled order is counted from the truth. The correlation
    with the true date is told and not judged: the few pixels that still turn on once, say at the
    last two looks, do so because they were bad at few looks, that is, turned on late.
    """
    rng = np.random.default_rng(options.seed[0])
    data = make_data(options.bench, options.seed[0], options.data)
    files, chosen = list_exposures(data, options.exposures)
    truth = import_score(options.bench).Truth(str(data))
    mjd, state = truth.mjd[chosen], truth.state[chosen]
    turns_on = (truth.cls == _TURN_ON) & (state.sum(axis=0) >= 2) & ~state[0]
    ratio = np.where(state, truth.snr[chosen], np.nan)[:, turns_on]
    turns_on[turns_on] = np.nanmedian(ratio, axis=0) >= _SNR
    place = rng.permutation(len(files))
    folder = options.work / "shuffled"
    shuffled = redate(files, folder, mjd[place])
    as_seen = np.empty_like(state)
    as_seen[place] = state
    n = int(turns_on.sum())
    print(f"      {n} pixels of seed {options.seed[0]} turn on within the exposures, S/N >= {_SNR}")
    matched = {}
    for name, given, seen in (("true dates", files, state), ("shuffled", shuffled, as_seen)):
        run = run_step(given, options.work / "shuffle", options.arguments)
        onsets = read_onsets(run.output)
        alone = turns_on & np.isfinite(onsets.alone)
        perfect = turns_on & _turns_on_once(seen) & _agree(_first_date(seen, mjd), truth.t_on, mjd)
        agree = alone & _agree(onsets.alone, truth.t_on, mjd)
        matched[name] = (int(agree.sum()), int(perfect.sum()))
        tell(f"{name}: dated onsets, recoveries",
             f"{onsets.n_onsets}, {onsets.n_recoveries}")  # fmt: skip
        changes = onsets.n_onsets + onsets.n_recoveries
        tell(f"{name}: dated changes per bad pixel", changes / max(onsets.n_pixels, 1))
        tell(
            f"{name}: pixels with one onset and no recovery", float(np.isfinite(onsets.alone).sum())
        )
        tell(f"{name}: of those that turn on, with one onset", float(alone.sum()))
        tell(f"{name}: and within one epoch of the truth / a perfect mask",
             f"{agree.sum()} / {perfect.sum()}")  # fmt: skip
        if alone.sum() > 2:
            r = np.corrcoef(onsets.alone[alone], truth.t_on[alone])[0, 1]
            tell(f"{name}: correlation of their dates with the truth", float(r))
    tell("true dates: share of them with the right onset", matched["true dates"][0] / n)
    found, perfect = (number / n for number in matched["shuffled"])
    judge("shuffled: share of them with the right onset", found, high=perfect + _MOST_BY_CHANCE)


def _first_date(state: np.ndarray, mjd: np.ndarray) -> np.ndarray:
    return mjd[state.argmax(axis=0)]


def _turns_on_once(state: np.ndarray) -> np.ndarray:
    """Mark pixels that are good, then bad until the end: bool (ny, nx)."""
    return ~state[0] & state[-1] & ((state[1:] != state[:-1]).sum(axis=0) == 1)


def _agree(date: np.ndarray, true_date: np.ndarray, mjd: np.ndarray) -> np.ndarray:
    """Mark dates that lie within one epoch of the true ones."""
    found, true = (np.searchsorted(mjd, np.nan_to_num(d)) for d in (date, true_date))
    return np.isfinite(date) & (np.abs(found - true) <= 1)


def redate(files: Sequence[Path], folder: Path, start_mjd: np.ndarray) -> list[Path]:
    """Copy exposures (primary header, SCI, DQ) with other dates of start."""
    folder.mkdir(parents=True, exist_ok=True)
    copies = []
    for path, start in zip(files, start_mjd, strict=True):
        copy = folder / path.name
        with fits.open(path, memmap=False) as hdus:
            header = hdus[0].header
            shift = start - header["EXPSTART"]
            for key in ("EXPSTART", "EXPMID", "EXPEND"):
                header[key] += shift
            header["DATE-OBS"], header["TIME-OBS"] = Time(start, format="mjd").isot.split("T")
            parts = fits.HDUList([hdus[0], hdus["SCI"], hdus["DQ"]])
            parts.writeto(copy, overwrite=True, output_verify="silentfix")
        copies.append(copy)
    return copies


def check_order(options: argparse.Namespace) -> None:
    """Compare the products of the files in order, reversed and at random, byte by byte."""
    data = make_data(options.bench, options.seed[0], options.data)
    files, _ = list_exposures(data, options.exposures)
    random = [files[k] for k in np.random.default_rng(1).permutation(len(files))]
    expected: dict[str, str] = {}
    for name, given in (("in order", files), ("reversed", files[::-1]), ("at random", random)):
        run = run_step(given, options.work / "order", options.arguments)
        sums = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(run.output.glob("bench_*"))
        }
        expected = expected or sums
        differ = {key for key in {*sums, *expected} if sums.get(key) != expected.get(key)}
        judge(f"files {name}: products that differ, of {len(sums)}", float(len(differ)), high=0)
        for key in sorted(differ)[:5]:
            tell(f"  differs: {key}", "")


def check_memory(options: argparse.Namespace) -> None:
    """Compare the peak of a quarter, half and all of 80 exposures.

    They are generated for it: copies with other dates would repeat each cosmic ray at the same
    pixel, and everything would look like a defect.
    """
    largest = max(_N_MEMORY)
    data = make_data(options.bench, options.seed[0], options.data, n_exposures=largest)
    peaks = []
    for n in _N_MEMORY:
        files, _ = list_exposures(data, n)
        run = run_step(files, options.work / "memory", options.arguments)
        peaks.append(run.peak_gb)
        judge(f"peak memory with {n} exposures [GB]", run.peak_gb, high=_MOST_GB)
        tell("  wall, processor seconds", f"{run.seconds:.1f}, {run.cpu_seconds:.1f}")
    for k in (1, 2):
        name = f"growth of the peak, {_N_MEMORY[k - 1]} to {_N_MEMORY[k]} exposures"
        judge(name, peaks[k] / peaks[k - 1] - 1, high=_MOST_GROWTH)


_CHECKS = {
    "fdr": check_fdr,
    "null": check_null,
    "shuffle": check_shuffle,
    "order": check_order,
    "memory": check_memory,
}


def main() -> None:
    """Run the checks that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bench", type=Path, required=True, help="folder with gen.py and score.py")
    parser.add_argument(
        "--data", type=Path, required=True, help="where the data go (1 GB per 40 exposures)"
    )
    parser.add_argument("--work", type=Path, required=True, help="products and copies (3 GB)")
    parser.add_argument("--seed", type=int, nargs="+", default=[7831, 7832])
    parser.add_argument("--null-seed", type=int, default=99, help="seed without defects")
    parser.add_argument("--check", nargs="+", choices=_CHECKS, default=list(_CHECKS))
    parser.add_argument("--exposures", type=int, help="use only so many of the shared benchmark's")
    parser.add_argument("arguments", nargs="*", help="passed on to the step, after --")
    options = parser.parse_args()
    tell_load()
    for check in options.check:
        print(check)
        _CHECKS[check](options)


if __name__ == "__main__":
    main()
