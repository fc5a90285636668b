"""Accuracy, time and memory of TimeVariableBadPixel on a benchmark with truth.

The benchmark is a folder with ``gen.py`` (makes rate files and ``truth.npz`` for a seed) and
``score.py``; nothing of it is part of this package. What is scored is what is on disk: the masks
of the series, each exposure with the one that CRDS would pick for it.

    python benchmarks/bench_badpix.py --bench ../shared/bench/badpix --seed 7831 --data DIR
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time


def make_data(bench: Path, seed: int, folder: Path) -> Path:
    """Generate the exposures of a seed where they are not there yet."""
    data = folder / f"b{seed}"
    if not (data / "truth.npz").is_file():
        command = [sys.executable, str(bench / "gen.py"), "--seed", str(seed), "--out", str(data)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return data


def run_step(data: Path, output: Path, arguments: list[str]) -> tuple[float, float]:
    """Run the step as a user does; return wall seconds and peak memory in GB."""
    for old in output.glob("bench_*"):
        old.unlink()
    files = sorted(map(str, data.glob("*_rate.fits")))
    command = [
        str(Path(sys.executable).with_name("strun")),
        "time_variable_bad_pixel",
        *files,
        f"--output_dir={output}",
        "--output_file=bench",
        *arguments,
    ]
    env = {key: value for key, value in os.environ.items() if not key.startswith("CRDS_")}
    begin = time.monotonic()
    with (output / "log.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the step failed, see {output / 'log.txt'}")
    return time.monotonic() - begin, usage.ru_maxrss / 1e6


def read_series(output: Path) -> list[tuple[float, np.ndarray]]:
    """Read (USEAFTER as MJD, bad pixels) of each mask, in order of date."""
    series = []
    for path in sorted(output.glob("bench_*_mask_*.fits")):
        with fits.open(path) as hdus:
            dq = np.asarray(hdus["DQ"].data)
            bad = (dq & 1 != 0) & (dq & 2**31 == 0)
            series.append((Time(hdus[0].header["USEAFTER"]).mjd, bad))
    return series


def main() -> None:
    """Run and score each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True, help="folder with gen.py and score.py")
    parser.add_argument("--seed", type=int, nargs="+", default=[7831])
    parser.add_argument("--data", type=Path, required=True, help="where the data go (1 GB a seed)")
    parser.add_argument("arguments", nargs="*", help="passed on to the step, after --")
    options = parser.parse_args()
    sys.path.insert(0, str(options.bench))
    import score

    for seed in options.seed:
        data = make_data(options.bench, seed, options.data)
        output = options.data / "out"
        output.mkdir(exist_ok=True)
        seconds, memory = run_step(data, output, options.arguments)
        series = read_series(output)
        truth = score.Truth(str(data))
        useafter = np.array([date for date, _ in series])
        chosen = np.searchsorted(useafter, truth.mjd, side="right") - 1
        found = np.stack([series[k][1] for k in chosen])
        scores = score.score(truth, found)
        print(score.line(f"seed {seed}", scores, seconds, memory))
        print(f"false flags by cosmic rays per exposure: {scores['fp_cr']:.2f}")
        dates = score.score_dates(truth, series)
        print(
            f"series on random dates: P={dates['date_prec']:.3f} R={dates['date_rec']:.3f}, "
            f"{dates['nmask']} masks"
        )


if __name__ == "__main__":
    main()
