"""Accuracy, dates, time and memory of TimeVariableBadPixel on a benchmark with truth.

The benchmark is a folder with ``gen.py`` (makes rate files and ``truth.npz`` for a seed) and
``score.py``; nothing of it is part of this package. What is scored is what is on disk: the masks
of the series, each exposure with the one that CRDS would pick for it.

    python benchmarks/bench_badpix.py --bench ../shared/bench/badpix --seed 7831 --data DIR
"""

import argparse
from pathlib import Path

from measuring import import_score, judge, list_exposures, make_data, run_step, tell, tell_load

# What must be reached: the name in the scores, the limit.
_AT_LEAST = {"prec": 0.90, "rec": 0.82, "f1": 0.855, "onset_within1": 0.90}
_AT_MOST = {"still_flagged_after_recovery": 0.01, "fp_cr": 5.0}
_DATES_AT_LEAST = {"date_prec": 0.90, "date_rec": 0.85}
_MOST_SECONDS, _MOST_GB = 20.0, 1.5
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


def main() -> None:
    """Run and score each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True, help="folder with gen.py and score.py")
    parser.add_argument("--seed", type=int, nargs="+", default=[7831])
    parser.add_argument("--data", type=Path, required=True, help="where the data go (1 GB a seed)")
    parser.add_argument("--work", type=Path, help="where the products go (default: DATA/out)")
    parser.add_argument("arguments", nargs="*", help="passed on to the step, after --")
    options = parser.parse_args()
    score = import_score(options.bench)
    tell_load()
    for seed in options.seed:
        print(f"seed {seed}")
        data = make_data(options.bench, seed, options.data)
        files, _ = list_exposures(data, None)
        run = run_step(files, options.work or options.data / "out", options.arguments)
        truth = score.Truth(str(data))
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
        judge(f"wall seconds, {len(files)} exposures", run.seconds, high=_MOST_SECONDS)
        tell("processor seconds", run.cpu_seconds)
        judge("peak memory [GB]", run.peak_gb, high=_MOST_GB)


if __name__ == "__main__":
    main()
