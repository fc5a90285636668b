"""What the benchmarks share: data with truth, runs of the step, numbers beside their limits."""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from astropy.io import fits
from astropy.time import Time

from jwst_tvbadpix.refmodels import read_history

# The dates in the products, so that equal runs give equal bytes.
_SOURCE_DATE_EPOCH = "1767225600"
# Starts a command and prints its peak memory and processor time. A process that is started from
# a large one begins with the peak of its parent; from this one it begins with some MB.
_STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdout=open(sys.argv[1], "w"), stderr=subprocess.STDOUT)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss * 1024 / 1e9, usage.ru_utime + usage.ru_stime)
sys.exit(status != 0)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the step.

    Attributes
    ----------
    output : Path
        Folder of its products.
    seconds, cpu_seconds : float
        Wall time, and time on all processors, start of Python included.
    peak_gb : float
        Peak resident memory [1e9 byte].
    expected_false : float
        False flags (pixel, look) that the history expects.
    """

    output: Path
    seconds: float
    cpu_seconds: float
    peak_gb: float
    expected_false: float

    def read_series(self) -> list[tuple[float, np.ndarray]]:
        """Read (USEAFTER as MJD, bad pixels bool (ny, nx)) of each mask, in order of date.

        Reference pixels, which every mask holds, are left out.
        """
        series = []
        for path in sorted(self.output.glob("bench_*_mask_*.fits")):
            with fits.open(path) as hdus:
                dq = np.asarray(hdus["DQ"].data)
                bad = (dq & 1 != 0) & (dq & 2**31 == 0)
                series.append((Time(hdus[0].header["USEAFTER"]).mjd, bad))
        return series

    def read_found(self, mjd: np.ndarray) -> np.ndarray:
        """Read the mask that CRDS would pick at each date: bool (n_dates, ny, nx)."""
        series = self.read_series()
        useafter = np.array([date for date, _ in series])
        return np.stack([series[k][1] for k in np.searchsorted(useafter, mjd, side="right") - 1])


def run_step(files: Sequence[Path], output: Path, arguments: Sequence[str]) -> Run:
    """Run the step on files as a user does, in the order given, without any CRDS set-up."""
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("bench_*"):
        old.unlink()
    log = output / "log.txt"
    command = [
        *(str(Path(sys.executable).with_name("strun")), "time_variable_bad_pixel"),
        *map(str, files),
        f"--output_dir={output}",
        "--output_file=bench",
        *arguments,
    ]
    seconds, cpu_seconds, peak_gb = run_command(command, log)
    (history,) = output.glob("bench_*_badpixhistory.asdf")
    expected = float(read_history(history).settings.instance["expected_false"])
    return Run(output, seconds, cpu_seconds, peak_gb, expected)


def run_command(command: Sequence[str], log: Path) -> tuple[float, float, float]:
    """Run a command without any CRDS set-up; wall seconds, processor seconds, peak [1e9 byte]."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("CRDS_")}
    env["SOURCE_DATE_EPOCH"] = _SOURCE_DATE_EPOCH
    begin = time.monotonic()
    started = [sys.executable, "-c", _STARTER, str(log), *command]
    done = subprocess.run(started, env=env, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.monotonic() - begin
    if done.returncode:
        raise SystemExit(f"{command[0]} failed, see {log}")
    peak_gb, cpu_seconds = map(float, done.stdout.split())
    return seconds, cpu_seconds, peak_gb


def make_data(
    bench: Path, seed: int, folder: Path, *, defects: bool = True, n_exposures: int = 40
) -> Path:
    """Generate the exposures of a seed where they are not there yet; folder of them.

    Without defects the generator is told, between its draws of the pixels and of the images, that
    none is ever bad: exposures are those of the seed in all else. It is read, not copied.
    """
    suffix = "" if n_exposures == 40 else f"_{n_exposures}"
    data = folder / f"{'b' if defects else 'n'}{seed}{suffix}"
    if (data / "truth.npz").is_file():
        return data
    source = (bench / "gen.py").read_text(encoding="utf-8")
    if not defects:
        before = "    cr = np.zeros("
        if source.count(before) != 1:
            raise SystemExit(f"expected {before!r} once in {bench / 'gen.py'}; adapt make_data")
        source = source.replace(before, f"    state[:] = False\n{before}")
    command = [sys.executable, "-c", source, "--seed", str(seed), "--out", str(data)]
    command += ["--nep", str(n_exposures)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return data


def import_score(bench: Path) -> ModuleType:
    """Import ``score.py`` of the benchmark's folder."""
    spec = importlib.util.spec_from_file_location("score", bench / "score.py")
    if spec is None or spec.loader is None or not (bench / "score.py").is_file():
        raise SystemExit(f"expected score.py in {bench}, found none; give the benchmark's folder")
    score = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(score)
    return score


def list_exposures(data: Path, n: int | None) -> tuple[list[Path], np.ndarray]:
    """List n exposures of a folder, spread over all (None: all), and their indices."""
    files = sorted(data.glob("*_rate.fits"))
    chosen = np.arange(len(files))
    if n is not None and n < len(files):
        chosen = np.linspace(0, len(files) - 1, n).round().astype(int)
    return [files[k] for k in chosen], chosen


def judge(name: str, value: float, *, low: float = -np.inf, high: float = np.inf) -> None:
    """Print a number beside its limits; NaN fails."""
    limits = [f"{sign} {x:.4g}" for sign, x in ((">=", low), ("<=", high)) if np.isfinite(x)]
    verdict = "PASS" if low <= value <= high else "FAIL"
    print(f"{verdict}  {name:62s} {value:10.4g}   limit {' and '.join(limits)}", flush=True)


def tell(name: str, value: float | str) -> None:
    """Print a number that has no limit."""
    text = value if isinstance(value, str) else f"{value:10.4g}"
    print(f"      {name:62s} {text}", flush=True)


def tell_load() -> None:
    """Say what else the machine does: times count only where it is idle."""
    tell("load average before the first run (times count where it is 0)", os.getloadavg()[0])
