"""Accuracy, dates, time and memory of TimeVariableBadPixel on a benchmark with truth.

The benchmark is a folder with ``gen.py`` (makes rate files and ``truth.npz`` for a seed) and
``score.py``; nothing of it is part of this package. What is scored is what is on disk: the masks
of the series, each exposure with the one that CRDS would pick for it. Without it the exposures
are those of ``tvbadpix simulate``. Peers get the same files: ``badpix_selfcal`` of jwst makes one
mask of the minimum of all, ``medfilt`` of stcal (which it uses) one of each by itself.

    python benchmarks/bench_badpix.py
    python benchmarks/bench_badpix.py --bench ../shared/bench/badpix --seed 7831 --data DIR
"""

import argparse
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from astropy.io import fits
from headline import Took, add_options, make_folder, measure, name_tool
from measuring import Run, import_score, judge, list_exposures, make_data, run_step, tell

# What must be reached: the name in the scores, the limit.
_AT_LEAST = {"prec": 0.90, "rec": 0.82, "f1": 0.855, "onset_within1": 0.90}
_AT_MOST = {"still_flagged_after_recovery": 0.01, "fp_cr": 5.0}
_DATES_AT_LEAST = {"date_prec": 0.90, "date_rec": 0.85}
_MOST_SECONDS, _MOST_GB = 12.0, 1.0
# Exposures of a headline; window of the peers along the dispersion [row], threshold [sigma].
_N_EXPOSURES, _WINDOW, _THRESHOLD = 40, 15, 5.0
_NAMES = {
    "prec": "precision",
    "rec": "recall",
    "f1": "F1",
    "onset_within1": "share of onsets within one epoch",
    "still_flagged_after_recovery": "share flagged after recovery",
    "fp_cr": "false flags by cosmic rays per exposure",
    "date_prec": "series on random dates: precision",
    "date_rec": "series on random dates: recall",
}


def read_rate(path: Path) -> np.ndarray:
    """Read a count rate, NaN where DO_NOT_USE is set: float32 (ny, nx)."""
    with fits.open(path, memmap=False) as hdus:
        return np.where(hdus["DQ"].data & 1, np.float32(np.nan), hdus["SCI"].data)


def work(tool: str, data: Path) -> None:
    """Flag bad pixels of the exposures of a folder with a public tool."""
    files, _ = list_exposures(data, None)
    if tool == "badpix_selfcal":
        from jwst.badpix_selfcal.badpix_selfcal import badpix_selfcal

        lowest = read_rate(files[0])
        for path in files[1:]:
            lowest = np.fmin(lowest, read_rate(path))
        found = np.zeros(lowest.shape, bool)
        found[badpix_selfcal(lowest, kernel_size=_WINDOW, dispaxis=2)] = True
    else:
        from stcal.outlier_detection.utils import medfilt

        masks = []
        for path in files:
            rate = read_rate(path)
            rest = np.abs(rate - medfilt(rate, (_WINDOW, 1)))
            masks.append(rest > _THRESHOLD * 1.4826 * np.nanmedian(rest))
        found = np.stack(masks)
    np.savez(data / f"{tool}.npz", found=found)


def simulate(data: Path) -> Path:
    """Simulate exposures with truth where they are not there yet; their folder."""
    from jwst_tvbadpix.simulate import simulate_programme

    folder = data / "simulated"
    if not (folder / "truth.ecsv").is_file():
        simulate_programme(folder, n_exposures=_N_EXPOSURES)
    return folder


def read_simulated(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read which pixels are bad, which count (both bool (n_exp, ny, nx)), and the dates [MJD].

    A pixel that changes all the time counts while it is bad.
    """
    from jwst_tvbadpix.simulate.defects import read_truth

    truth = read_truth(data / "truth.ecsv")
    files, _ = list_exposures(data, None)
    mjd = np.array([fits.getval(path, "EXPSTART") for path in files])
    shape = fits.getdata(files[0], "SCI").shape
    bad = np.stack([truth.bad_map(date, shape) for date in mjd])
    counts = np.ones(bad.shape, bool)
    restless = truth.kind == "TELEGRAPH"
    y, x = truth.y[restless], truth.x[restless]
    counts[:, y, x] = bad[:, y, x]
    counts[..., :4] = counts[..., -4:] = False
    return bad, counts, mjd


def score_f1(found: np.ndarray, bad: np.ndarray, counts: np.ndarray) -> str:
    """Say the F1 of one mask (ny, nx), or of one for each exposure."""
    hits = np.count_nonzero(found & bad & counts)
    wrong = np.count_nonzero((found ^ bad) & counts)
    return f"F1 {2 * hits / max(1, 2 * hits + wrong):.3f}"


def tell_headline(data: Path, run: Run, truth: tuple[np.ndarray, ...], *, as_json: bool) -> None:
    """Put a run beside the peers and the floor."""
    bad, counts, mjd = truth
    accuracy = score_f1(run.read_found(mjd), bad, counts)
    files, _ = list_exposures(data, None)
    measure(
        "Masks",
        f"{len(files)} full frames, files to masks and report",
        files,
        ("badpix_selfcal", "medfilt"),
        data,
        lambda path: score_f1(np.load(path)["found"], bad, counts),
        limits=(_MOST_SECONDS, _MOST_GB),
        ours=Took(name_tool("ours"), run.seconds, run.cpu_seconds, run.peak_gb, accuracy),
        as_json=as_json,
    )


def main() -> None:
    """Run and score each seed, or what is simulated."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "the data (1 GB a seed)")
    parser.add_argument("--seed", type=int, nargs="+", default=[7831])
    parser.add_argument("--products", type=Path, help="where the products go (default: DATA/out)")
    parser.add_argument("arguments", nargs="*", help="passed on to the step, after --")
    options = parser.parse_args()
    if options.work:
        work(options.work, options.data)
        return
    folder = make_folder(options)
    output = options.products or options.data / "out"
    for seed in options.seed:
        run_seed = partial(run_step, output=output, arguments=options.arguments)
        if options.bench is None:
            data = simulate(options.data)
            run = run_seed(list_exposures(data, None)[0])
            tell_headline(data, run, read_simulated(data), as_json=options.json)
            break
        score = import_score(options.bench)
        data = make_data(options.bench, seed, options.data)
        run = run_seed(list_exposures(data, None)[0])
        truth = score.Truth(str(data))
        if not options.json:
            print(f"seed {seed}")
            judge_scores(score, truth, run)
        if seed == options.seed[0]:
            tell_headline(data, run, (truth.state, truth.care, truth.mjd), as_json=options.json)
    del folder


def judge_scores(score: ModuleType, truth: object, run: Run) -> None:
    """Print the scores of a run beside their limits."""
    scores = score.score(truth, run.read_found(truth.mjd))
    dates = score.score_dates(truth, run.read_series())
    print(score.line("", scores, run.seconds, run.peak_gb).strip())
    for name, limit in _AT_LEAST.items():
        judge(_NAMES[name], scores[name], low=limit)
    for name, limit in _AT_MOST.items():
        judge(_NAMES[name], scores[name], high=limit)
    for name, limit in _DATES_AT_LEAST.items():
        judge(_NAMES[name], dates[name], low=limit)
    tell("masks in the series", float(dates["nmask"]))
    judge("wall seconds", run.seconds, high=_MOST_SECONDS)
    tell("processor seconds", run.cpu_seconds)
    judge("peak memory [GB]", run.peak_gb, high=_MOST_GB)


if __name__ == "__main__":
    main()
