"""Noise, low frequencies, ERR, time and memory of the stacked flat, beside a public stacker.

The benchmark is a folder with ``stack_case.py`` (45 dithered exposures of an LMC-like field, with
truth); nothing of it is part of this package. The exposures have no WCS, so sources are sought in
each by itself. Without it the exposures are those of ``tvbadpix simulate``. ccdproc (``pip install
ccdproc``; scale 1 / median, 3-sigma clip, median) gets the same files in the same run. The last
part puts real pixel flats under simulated dithers.

    python benchmarks/bench_stack.py
    python benchmarks/bench_stack.py --bench ../shared/bench/flat --data DIR
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from astropy.io import fits
from headline import Headline, add_options, make_folder, measure
from measuring import judge, tell

# What must be reached.
_MOST_NOISE, _MOST_LOW = 1.12, 0.03
_PULL = (0.9, 1.1)
_MOST_SECONDS, _MOST_GB = 10.0, 1.0
# Rows and columns that are lit to their edges where they are simulated: the imager.
_SIMULATED_FIELD = np.s_[10:1014, 370:1020]
# Of the case: gain [e/DN], exposure time [s], read noise [DN], side of the cells [pixel].
_GAIN, _EXPOSURE_S, _READ_NOISE, _CELL = 4.0, 300.0, 6.0, 32
# FWHM of F560W [pixel], whose profile the case uses, and of F770W, which is simulated.
_FWHM, _FWHM_SIMULATED = 1.88, 2.45
# Exposures that are simulated.
_N_EXPOSURES = 45
_PSF = "miri_psf/MIRI_LMC_55mas_emp_nomask_psf.fits"
_FLATS = ("jwst_miri_flat_0407.fits", "jwst_miri_flat_0413.fits")


class RateFiles:
    """Exposures of the case, read by rows."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*_rate.fits"))
        self.shape = fits.getdata(self.files[0], "SCI").shape

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rates and errors, NaN where DO_NOT_USE is set."""
        with fits.open(self.files[index], memmap=False) as hdus:
            rate, err = (hdus[n].section[start:stop].astype(np.float32) for n in ("SCI", "ERR"))
            rate[(hdus["DQ"].section[start:stop] & 1) != 0] = np.nan
        return rate, err


def work(tool: str, data: Path) -> None:
    """Make a flat of the files of a folder with one tool."""
    maps = stack_ours(data) if tool == "ours" else stack_ccdproc(data)
    np.savez(data / f"{tool}.npz", **maps)


def is_simulated(data: Path) -> bool:
    """Tell the simulation of this package from the case."""
    return (data / "truth_flat.fits").is_file()


def stack_ours(data: Path) -> dict[str, np.ndarray]:
    """Stack with this package."""
    from jwst_tvbadpix.flatfield import StackSettings, stack_flat

    files = RateFiles(data)
    number = np.arange(len(files))
    tiles = number * 5 // len(files)
    fwhm = _FWHM_SIMULATED if is_simulated(data) else _FWHM
    stack = stack_flat(files, tiles, 60000.0 + number, settings=StackSettings(fwhm))
    names = ("err", "err_formal", "err_random", "err_jackknife", "err_systematic")
    return {"flat": stack.flat, **{name: getattr(stack, name) for name in names}}


def stack_ccdproc(data: Path) -> dict[str, np.ndarray]:
    """Stack with ccdproc: each over its median, 3-sigma clip, median."""
    from astropy import units
    from astropy.nddata import CCDData
    from ccdproc import Combiner

    files = RateFiles(data)
    lit = read_truth(data)[1]
    images = []
    for k in range(len(files)):
        rate = files.read(k, 0, files.shape[0])[0]
        images.append(CCDData(rate, mask=~np.isfinite(rate), unit=units.adu))
    combiner = Combiner(images, dtype=np.float32)
    combiner.scaling = lambda image: 1 / np.ma.median(image[lit])
    combiner.sigma_clipping(3, 3, func=np.ma.median)
    return {"flat": np.ma.filled(combiner.median_combine(), np.nan)}


def simulate(data: Path) -> Path:
    """Simulate dithered full frames where they are not there yet; their folder."""
    from jwst_tvbadpix.simulate import find_region, simulate_flat_programme, write_flat_truth

    folder = data / "simulated"
    if not (folder / "truth_flat.fits").is_file():
        region = find_region("FULL")
        programme = simulate_flat_programme(folder, region=region, n_exposures=_N_EXPOSURES)
        write_flat_truth(folder, programme)
    return folder


def read_truth(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the true response float64, and which pixels count bool: both (ny, nx)."""
    if is_simulated(data):
        flat = np.asarray(fits.getdata(data / "truth_flat.fits", "SKY"), float)
        field = np.zeros(flat.shape, bool)
        field[_SIMULATED_FIELD] = True
        return flat, field
    truth = np.load(data / "truth.npz")
    return truth["F"], truth["fov"] & ~truth["bad"]


def find_error(path: Path) -> np.ndarray:
    """Error of the flat that a tool has left in the folder of the data; NaN where none counts."""
    flat, (true, good) = np.load(path)["flat"], read_truth(path.parent)
    good = good & np.isfinite(flat)
    error = np.full(good.shape, np.nan)
    error[good] = flat[good] / flat[good].mean() - true[good] / true[good].mean()
    return error


def say_error(path: Path) -> str:
    """Say the errors of a flat."""
    error = find_error(path)
    return f"rms {100 * np.nanstd(error):.3f} %, smooth {100 * compute_low(error):.4f} %"


def import_case(bench: Path) -> ModuleType:
    """Import ``stack_case.py`` of the benchmark's folder."""
    spec = importlib.util.spec_from_file_location("stack_case", bench / "stack_case.py")
    if spec is None or spec.loader is None or not (bench / "stack_case.py").is_file():
        raise SystemExit(f"expected stack_case.py in {bench}, found none; give its folder")
    case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(case)
    return case


def make_case(bench: Path, psf: Path, seed: int, folder: Path) -> Path:
    """Make the exposures of a seed where they are not there yet; their folder."""
    data = folder / f"stack{seed}"
    if not (data / "truth.npz").is_file():
        import_case(bench).make(seed=seed, out=str(data), psf=str(psf))
    return data


def compute_ideal(truth: np.lib.npyio.NpzFile, good: np.ndarray) -> float:
    """Noise of the inverse-variance mean of exposures without a star, rms over good pixels."""
    flat = truth["F"][good]
    weight = 0.0
    for level in truth["b"]:
        variance = flat * level / (_GAIN * _EXPOSURE_S) + 2 * (_READ_NOISE / _EXPOSURE_S) ** 2
        weight = weight + level**2 / variance
    return float(np.sqrt(np.mean(1 / weight)))


def compute_low(error: np.ndarray) -> float:
    """Rms of the means of cells that are all within the field, about their mean."""
    ny, nx = (n // _CELL for n in error.shape)
    cells = error[: ny * _CELL, : nx * _CELL].reshape(ny, _CELL, nx, _CELL)
    cells = cells.transpose(0, 2, 1, 3).reshape(ny, nx, -1)
    full = np.isfinite(cells).sum(axis=-1) > 0.5 * _CELL**2
    return float(np.nanmean(cells[full], axis=-1).std())


def compare(data: Path, *, as_json: bool) -> Headline:
    """Put this package beside ccdproc and the floor."""
    files = RateFiles(data).files
    return measure(
        "Flat stack",
        f"{len(files)} full frames",
        files,
        ("ours", "ccdproc"),
        data,
        say_error,
        limits=(_MOST_SECONDS, _MOST_GB),
        as_json=as_json,
    )


def judge_case(data: Path) -> None:
    """Print what the flats of the case are worth, beside the noise of the ideal mean."""
    truth = np.load(data / "truth.npz")
    for tool in ("ours", "ccdproc"):
        maps, error = np.load(data / f"{tool}.npz"), find_error(data / f"{tool}.npz")
        good = np.isfinite(error)
        ideal = compute_ideal(truth, good)
        noise, low = float(np.nanstd(error)) / ideal, 100 * compute_low(error)
        if tool == "ccdproc":
            tell("ccdproc: noise over that of the ideal mean", noise)
            tell("ccdproc: low frequencies (32 pixels), rms [%]", low)
            continue
        tell("noise of the ideal mean, rms [%]", 100 * ideal)
        judge("noise over that of the ideal mean (aim 1.05)", noise, high=_MOST_NOISE)
        judge("low frequencies (32 pixels), rms [%] (aim 0.015)", low, high=_MOST_LOW)
        for name in ("err", "err_formal", "err_random"):
            pull = float(np.std(error[good] / maps[name][good]))
            judge(f"true error over {name}", pull, low=_PULL[0], high=_PULL[1])
        tell("err_systematic, median [%]", 100 * float(np.median(maps["err_systematic"][good])))


def judge_real_flats(folder: Path, seeds: list[int]) -> None:
    """Put real pixel flats under simulated dithers; chi2 per pixel of what comes back."""
    from jwst_tvbadpix.flatfield import StackSettings, stack_flat

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from skyfield import FWHM, make_field, score

    for name in _FLATS:
        real = fits.getdata(folder / name, "SCI").astype(float)
        truth = np.where(real > 0, real, 0)
        for seed in seeds:
            field = make_field(shape=real.shape, flat=truth, seed=seed, n_stars=600, tile_step=90)
            for sky, pointings in (("each by itself", None), ("combined sky", field)):
                stack = stack_flat(
                    field,
                    field.tiles,
                    field.mid_mjd,
                    settings=StackSettings(FWHM),
                    pointings=pointings,
                )
                chi2 = float(np.nanmean((score(stack.flat, truth) / stack.err) ** 2))
                what = f"chi2 per pixel, {name[:19]}, seed {seed}, {sky}"
                judge(what, chi2, low=_PULL[0], high=_PULL[1])


def main() -> None:
    """Run what is simulated, or run and judge each seed, then the real flats."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "the data (0.6 GB a seed)")
    parser.add_argument("--real", type=Path, help="folder of real data (default: ../../realdata)")
    parser.add_argument("--seed", type=int, nargs="+", default=[3])
    options = parser.parse_args()
    if options.work:
        work(options.work, options.data)
        return
    folder = make_folder(options)
    if options.bench is None:
        compare(simulate(options.data), as_json=options.json)
        return
    real = options.real or options.bench.parents[1] / "realdata"
    for seed in options.seed:
        data = make_case(options.bench, real / _PSF, seed, options.data)
        compare(data, as_json=options.json)
        if options.json:
            return
        print(f"seed {seed}")
        judge_case(data)
    print("real flats as truth")
    judge_real_flats(real / "miri_flats", options.seed)
    del folder


if __name__ == "__main__":
    main()
