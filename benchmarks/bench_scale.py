"""Time and memory of the masks for more and more full frames, and of an update by one.

Exposures are made here: 1032 x 1024 SCI, ERR and DQ with a lit field, a fixed pattern, photon and
read noise, cosmic rays, a known mask and pixels that change; 13 MB each. Beside the time of the
whole process stands that of reading SCI of the same files once. ``--update`` also runs the last
number of exposures with a store (25 MB for each) and adds one more, then another, for which the
evidence of other pixels is asked; ``--json`` prints a headline on a line for each of these.

    python benchmarks/bench_scale.py --data DIR --n 100 300 1000 --update
"""

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.time import Time
from headline import Headline, Took, measure_floor, name_tool, show
from measuring import run_command, run_step, tell, tell_load

from jwst_tvbadpix.simulate import draw_defects

# What must be reached, by number of exposures: wall seconds, 1e9 byte.
_MOST = {40: (12.0, 1.0), 1000: (200.0, 2.0)}
_MOST_UPDATE_SECONDS = 20.0
_SHAPE, _START_MJD, _END_MJD = (1024, 1032), 59760.0, 61220.0
# Exposure [s], gain [e/DN], read noise of a rate [DN/s], cosmic-ray residuals in an exposure.
_EXPOSURE_S, _GAIN, _READ_NOISE, _RAYS = 666.0, 3.1, 0.05, 300


def make_exposures(folder: Path, n: int) -> list[Path]:
    """Make the exposures that are not there yet; the first n of them, at random dates."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"k{k:05d}_rate.fits" for k in range(n)]
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: _SHAPE[0], : _SHAPE[1]].astype(np.float32)
    sky = 1 + 50 * (x > 360) * (1 + 0.1 * np.sin(x / 200) * np.cos(y / 150))
    flat = 1 + 0.01 * rng.standard_normal(_SHAPE, np.float32)
    pattern = 0.05 * rng.standard_normal(_SHAPE, np.float32)
    known = (rng.random(_SHAPE) < 0.005).astype(np.uint32)
    defects = draw_defects(
        "MIRIMAGE", "FULL", start_mjd=_START_MJD, end_mjd=_END_MJD, seed=0, amplitude=1.0
    )
    for k, path in enumerate(files):
        if path.is_file():
            continue
        rng = np.random.default_rng([1, k])
        start = rng.uniform(_START_MJD, _END_MJD)
        light = sky * np.float32(rng.uniform(0.8, 1.2))
        err = np.sqrt(light / (_GAIN * _EXPOSURE_S) + _READ_NOISE**2)
        rate = light * flat + pattern + err * rng.standard_normal(_SHAPE, np.float32)
        on = defects.state(start)
        here = defects.y[on], defects.x[on]
        rate[here] += defects.amplitude[on] - (1 - defects.response[on]) * light[here]
        hits = rng.integers(0, _SHAPE[0], _RAYS), rng.integers(0, _SHAPE[1], _RAYS)
        rate[hits] += rng.exponential(2.0, _RAYS)
        temporary = path.with_suffix(".part")
        _write(temporary, start, rate.astype(np.float32), err.astype(np.float32), known)
        temporary.rename(path)
    return files


def _write(path: Path, start: float, rate: np.ndarray, err: np.ndarray, dq: np.ndarray) -> None:
    """Write what the step asks of a rate product."""
    date, time_obs = Time(start, format="mjd").isot.split("T")
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"TELESCOP": "JWST", "INSTRUME": "MIRI", "DETECTOR": "MIRIMAGE", "FILTER": "P750L"}
        | {"EXP_TYPE": "MIR_LRS-FIXEDSLIT", "READPATT": "FASTR1", "NINTS": 1, "NGROUPS": 60}
        | {"DATE-OBS": date, "TIME-OBS": time_obs, "EFFEXPTM": _EXPOSURE_S, "SUBARRAY": "FULL"}
        | {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": _SHAPE[1], "SUBSIZE2": _SHAPE[0]}
        | {"EXPSTART": start, "EXPMID": start + _EXPOSURE_S / 2 / 86400, "DATAMODL": "ImageModel"}
        | {"EXPEND": start + _EXPOSURE_S / 86400, "FASTAXIS": 1, "SLOWAXIS": 2}
    )
    science = fits.ImageHDU(rate, name="SCI")
    science.header.update({"BUNIT": "DN/s", "DISPAXIS": 2})
    planes = [science, fits.ImageHDU(err, name="ERR"), fits.ImageHDU(dq, name="DQ")]
    fits.HDUList([primary, *planes]).writeto(path, overwrite=True)


def report(
    name: str, data: str, run: tuple[float, ...], files: list[Path], limits: tuple[float, ...]
) -> Headline:
    """Put what a run took, seconds, processor seconds and peak, beside its floor and limits."""
    ours = Took(name_tool("ours"), *run, "")
    return Headline(name, data, *measure_floor(files), *limits, ours, (), os.getloadavg()[0])


def update(
    files: list[Path], extra: list[Path], output: Path, arguments: list[str]
) -> list[Headline]:
    """Run with a store, then add exposures one after the other."""
    store = output.with_name("store")
    run = run_step(files, output, [f"--store={store}", *arguments])
    tell(f"{len(files)} exposures with a store: wall seconds", run.seconds)
    tell(f"{len(files)} exposures with a store: peak memory [GB]", run.peak_gb)
    (history,) = output.glob("bench_*_badpixhistory.asdf")
    headlines = []
    for k, path in enumerate(extra):
        command = [sys.executable, "-m", "jwst_tvbadpix.cli", "update", str(history), str(path)]
        command += ["--store", str(store), "--output-dir", str(output)]
        os.sync()  # or the update waits for what the run before it has left in memory
        took = run_command(command, output / "update.txt")
        what = f"one more full frame on {len(files) + k}"
        limits = _MOST_UPDATE_SECONDS, math.inf
        headlines.append(report("Update", what, took, [path], limits))
    return headlines


def main() -> None:
    """Run for each number of exposures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="where the data go (13 MB each)")
    parser.add_argument("--n", type=int, nargs="+", default=[40, 100, 300, 1000])
    parser.add_argument("--update", action="store_true", help="also add two to the last number")
    parser.add_argument("--json", action="store_true", help="the headlines as JSON, one a line")
    parser.add_argument("arguments", nargs="*", help="passed on to the step, after --")
    options = parser.parse_args()
    files = make_exposures(options.data, max(options.n) + 2 * options.update)
    tell_load()
    for n in options.n:
        run = run_step(files[:n], options.data / "out", options.arguments)
        took = run.seconds, run.cpu_seconds, run.peak_gb
        limits = _MOST.get(n, (math.inf, math.inf))
        show(report("Masks", f"{n} full frames", took, files[:n], limits), as_json=options.json)
    if options.update:
        last = options.n[-1]
        extra = files[last : last + 2]
        for added in update(files[:last], extra, options.data / "out", options.arguments):
            show(added, as_json=options.json)


if __name__ == "__main__":
    main()
