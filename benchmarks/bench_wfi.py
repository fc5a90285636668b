"""Accuracy, time and memory of TimeVariableBadPixel on a WFI detector of Roman, with known truth.

Makes exposures of 4088 x 4088 pixels over four years (level-2 ASDF as romancal writes it, 95 MB
each) and scores the masks that are on disk, each exposure with the one that CRDS would pick for
it. The scene is its own; the package only writes its files: sky, undersampled stars and galaxies
in dithered fields, persistence of bright stars, cosmic rays that jump detection left, snowballs,
1/f rows, interpixel capacitance; hot, warm, low, noisy, telegraph, turning-on and recovering
pixels with dates, as dense and, in units of the noise, as large as in the MIRI benchmark, whose
limits are asked here too. Rates of all of these are assumptions. By default scene and detector
are cut to 1016 x 1016 pixels, all else as it is; ``--size 4088`` is the whole.

    python benchmarks/bench_wfi.py --data DIR [--size 4088] [--miri-cpu SECONDS]
"""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import asdf
import numpy as np
from astropy.time import Time
from headline import Headline, Took, measure_floor, name_tool
from measuring import Run, judge, run_command, tell, tell_load

from jwst_tvbadpix import detectors

WHOLE, EDGE = 4088, 4
N_PIXELS = WHOLE
MEGAPIXELS = N_PIXELS**2 / 1e6
GAIN, READ_NOISE, FRAME_S = 1.8, 5.0, 3.1  # e/DN, DN, s
START_MJD, END_MJD = 61406.0, 62866.0
# Per megapixel, as in the MIRI benchmark; log10 of the amplitude [DN/s] and its scatter.
POPULATIONS = {
    "static_hot": (2080, 0.30, 0.60),
    "static_warm": (473, -0.80, 0.25),
    "static_low": (284, None, None),
    "turn_on": (1420, -0.10, 0.55),
    "telegraph": (284, 0.00, 0.40),
    "recover": (189, 0.10, 0.40),
}
FLOORS = {"prec": 0.90, "rec": 0.82, "f1": 0.855, "onset_within1": 0.90}
DATE_FLOORS = {"date_prec": 0.90, "date_rec": 0.85}
MOST_AFTER_RECOVERY, MOST_CR_PER_MEGAPIXEL, MOST_GB, MOST_TIMES_MIRI = 0.01, 5.0, 3.0, 1.5


@dataclass(frozen=True, slots=True)
class Defects:
    """Bad pixels: one entry of each array per pixel, `state` (n_exposures, n)."""

    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray
    amplitude: np.ndarray
    response: np.ndarray
    noise: np.ndarray
    t_on: np.ndarray
    t_off: np.ndarray
    state: np.ndarray


def cut_detector(n: int) -> None:
    """Make scene and detector ones of n x n pixels within the edge; of all later calls."""
    global N_PIXELS, MEGAPIXELS
    N_PIXELS, MEGAPIXELS = n, n**2 / 1e6
    own = MappingProxyType({"FULL": (EDGE + 1, EDGE + 1, n, n)})
    small = replace(
        detectors.get_detector("WFI01"), shape=(n + 2 * EDGE, n + 2 * EDGE), subarrays=own
    )
    detectors.DETECTORS = MappingProxyType({**detectors.DETECTORS, "WFI01": small})


def draw_defects(rng: np.random.Generator, mjd: np.ndarray) -> Defects:
    """Draw the population: as dense as in the MIRI benchmark, a fifth of it in clusters."""
    names = list(POPULATIONS)
    counts = [round(POPULATIONS[name][0] * MEGAPIXELS) for name in names]
    n = sum(counts)
    kind = np.repeat(names, counts)
    flat = np.unique(rng.integers(0, N_PIXELS**2, n + n // 10))
    for k in rng.choice(flat.size, n // 5, replace=False):
        flat[k] = (flat[k - 1] + rng.choice([1, N_PIXELS])) % N_PIXELS**2
    flat = rng.permutation(np.unique(flat))[:n]
    if flat.size < n:
        raise SystemExit("too few places for the defects; enlarge the draw")
    amplitude, response, noise = np.zeros(n), np.ones(n), rng.uniform(1, 2, n)
    t_on, t_off = np.full(n, -np.inf), np.full(n, np.inf)
    span = END_MJD - START_MJD
    for name, (_, centre, scatter) in POPULATIONS.items():
        own = kind == name
        if centre is not None:
            amplitude[own] = 10 ** rng.normal(centre, scatter, own.sum())
    low = kind == "static_low"
    response[low] = rng.uniform(0, 0.5, low.sum())
    on = np.flatnonzero(kind == "turn_on")
    t_on[on] = rng.uniform(START_MJD, END_MJD, on.size)
    how = rng.choice(3, on.size, p=[0.80, 0.12, 0.08])
    amplitude[on[how > 0]] = 0
    response[on[how == 1]] = rng.uniform(0, 0.7, (how == 1).sum())
    noise[on[how == 2]] = 10 ** rng.uniform(0.7, 1.6, (how == 2).sum())
    off = np.flatnonzero(kind == "recover")
    late = rng.random(off.size) < 0.5
    t_on[off[late]] = START_MJD + rng.uniform(0, 0.5, late.sum()) * span
    t_off[off] = np.where(
        late,
        t_on[off] + rng.uniform(0.1, 0.45, off.size) * span,
        START_MJD + rng.uniform(0.1, 0.9, off.size) * span,
    )
    state = (mjd[:, None] >= t_on) & (mjd[:, None] < t_off)
    tel = np.flatnonzero(kind == "telegraph")
    duty, dwell = rng.uniform(0.15, 0.85, tel.size), rng.uniform(1, 6, tel.size)
    now = rng.random(tel.size) < duty
    for k in range(len(mjd)):
        state[k, tel] = now
        flips = np.where(now, 1 - duty, duty) / dwell * 2
        now = now ^ (rng.random(tel.size) < np.minimum(1, flips))
    y, x = np.divmod(flat, N_PIXELS)
    return Defects(y, x, kind, amplitude, response, noise, t_on, t_off, state)


def add_sources(
    image: np.ndarray, y: np.ndarray, x: np.ndarray, flux: np.ndarray, width: np.ndarray
) -> None:
    """Add Gaussians, cut at five pixels from their centres."""
    offsets = np.arange(-5, 6)
    for dy in offsets:
        for dx in offsets:
            yy, xx = np.rint(y).astype(int) + dy, np.rint(x).astype(int) + dx
            good = (yy >= 0) & (yy < N_PIXELS) & (xx >= 0) & (xx < N_PIXELS)
            r2 = (yy - y) ** 2 + (xx - x) ** 2
            value = flux / (2 * np.pi * width**2) * np.exp(-r2 / (2 * width**2))
            np.add.at(image, (yy[good], xx[good]), value[good].astype(np.float32))


def draw_field(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Draw a field somewhat larger than the detector: y, x, flux [DN/s], width [pixel]."""
    n = round(14_000 * ((N_PIXELS + 400) / (WHOLE + 400)) ** 2)
    star = rng.random(n) < 0.25
    flux = 0.3 * (1 - rng.random(n)) ** (-1 / 0.8)
    width = np.where(star, 0.55, rng.uniform(0.7, 2.5, n))
    y, x = rng.uniform(-200, N_PIXELS + 200, (2, n))
    return y, x, np.minimum(flux, 5e4), width


def draw_cosmic_rays(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Draw what jump detection left of cosmic rays: short tracks [DN/s]."""
    image = np.zeros((N_PIXELS, N_PIXELS), np.float32)
    n = rng.poisson(6.0 * seconds * (N_PIXELS / WHOLE) ** 2)
    y, x = rng.integers(0, N_PIXELS, (2, n))
    angle, length = rng.uniform(0, np.pi, n), np.minimum(1 + rng.geometric(0.5, n), 8)
    energy = rng.exponential(1.7, n) * min(3.0, 300.0 / seconds) + 0.01
    for j in range(8):
        yy = np.rint(y + j * np.sin(angle)).astype(int)
        xx = np.rint(x + j * np.cos(angle)).astype(int)
        good = (length > j) & (yy < N_PIXELS) & (xx >= 0) & (xx < N_PIXELS)
        values = energy[good] * rng.uniform(0.4, 1, good.sum())
        np.add.at(image, (yy[good], xx[good]), values.astype(np.float32))
    return image


def add_snowballs(
    rng: np.random.Generator, image: np.ndarray, core: np.ndarray, seconds: float
) -> None:
    """Add snowballs: a saturated core, marked in `core`, and a halo."""
    for _ in range(rng.poisson(8 * seconds / 300 * (N_PIXELS / WHOLE) ** 2)):
        y, x = rng.integers(0, N_PIXELS, 2)
        radius = rng.uniform(3, 15)
        reach = int(3 * radius)
        rows = slice(max(0, y - reach), y + reach + 1)
        columns = slice(max(0, x - reach), x + reach + 1)
        yy, xx = np.ogrid[rows, columns]
        yy, xx = yy[yy < N_PIXELS][:, None], xx[xx < N_PIXELS][None]
        r = np.hypot(yy - y, xx - x)
        image[rows, columns] += (0.3 * np.exp(-((r / (1.5 * radius)) ** 2))).astype(np.float32)
        core[rows, columns] |= r < radius


def capacitance(image: np.ndarray) -> np.ndarray:
    """Spread one per cent to each of the four neighbours."""
    padded = np.pad(image, 1, mode="edge")
    around = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return 0.96 * image + 0.01 * around


def make_exposures(folder: Path, seed: int, n: int) -> None:
    """Make the exposures and ``truth.npz``."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    visits = np.sort(rng.uniform(START_MJD, END_MJD, n - 6))
    mjd = np.sort(np.r_[visits, rng.choice(visits, 6) + rng.uniform(0.02, 2.0, 6)])
    seconds = rng.choice([108.0, 150.0, 300.0, 590.0], n)
    defects = draw_defects(rng, mjd)
    at = defects.y, defects.x
    flat = 1 + 0.005 * rng.standard_normal((N_PIXELS, N_PIXELS), np.float32)
    dark = 0.01 + 0.004 * rng.standard_normal((N_PIXELS, N_PIXELS), np.float32)
    rows, columns = np.mgrid[0:N_PIXELS, 0:N_PIXELS].astype(np.float32) / N_PIXELS - 0.5
    sigma, before = np.zeros(n), None
    deep = draw_field(rng)  # seen again and again, as that of a time-domain survey
    for k in range(n):
        level = 0.6 * rng.uniform(0.6, 1.6)
        image = (level * (1 + 0.05 * rng.normal() * rows + 0.05 * rng.normal() * columns)).astype(
            np.float32
        )
        field = deep if rng.random() < 0.3 else draw_field(rng)
        dither = rng.uniform(-150, 150, 2)
        y, x, flux, width = field[0] + dither[0], field[1] + dither[1], *field[2:]
        add_sources(image, y, x, flux, width)
        if before is not None and rng.random() < 0.5:  # persistence of the exposure before
            add_sources(image, *before)
        bright = flux > 300
        before = y[bright], x[bright], 0.003 * flux[bright], width[bright]
        on = defects.state[k]
        image *= flat
        image[at] *= np.where(on, defects.response, 1)
        image += dark
        jitter = 1 + 0.05 * rng.standard_normal(on.size)
        image[at] += np.where(on, defects.amplitude * jitter, 0).astype(np.float32)
        image = capacitance(image)
        rays = draw_cosmic_rays(rng, seconds[k])
        core = np.zeros(image.shape, bool)
        image += rays
        add_snowballs(rng, image, core, seconds[k])
        frames = seconds[k] / FRAME_S
        read = 12 * READ_NOISE**2 / ((frames**3 - frames) * FRAME_S**2)
        noise = np.sqrt(1.2 * np.maximum(image, 0.05) / (GAIN * seconds[k]) + read)
        sigma[k] = np.sqrt(1.2 * level / (GAIN * seconds[k]) + read)
        err = noise.astype(np.float16)
        noise[at] *= np.where(on, defects.noise, 1)
        image += noise * rng.standard_normal(image.shape, np.float32)
        image += (0.2 * sigma[k] * rng.standard_normal(N_PIXELS)).astype(np.float32)[:, None]
        name = f"r{k:03d}_wfi01_f158_cal.asdf"
        dq = {"SATURATED": core | (image * seconds[k] > 60_000), "JUMP_DET": core}
        write_image(folder / name, image, err, dq, mjd[k], seconds[k])
        excess = np.zeros_like(image)
        excess[at] = np.where(on, defects.amplitude, 0)
        planes = {"rays": rays > 0, "halo": capacitance(excess) > 3 * sigma[k]}
        packed = {key: np.packbits(plane) for key, plane in planes.items()}
        np.savez_compressed(folder / f"truth_{k:03d}.npz", **packed)
        print(f"{name} {seconds[k]:.0f} s sky {level:.2f} bad {on.sum()}", flush=True)
    parts = {name: getattr(defects, name) for name in Defects.__slots__}
    np.savez_compressed(folder / "truth.npz", mjd=mjd, sigma=sigma, **parts)


def write_image(
    path: Path,
    image: np.ndarray,
    err: np.ndarray,
    flags: dict[str, np.ndarray],
    mjd: float,
    seconds: float,
) -> None:
    """Write a level-2 image with the flags that are given."""
    from roman_datamodels.dqflags import pixel

    from jwst_tvbadpix.simulate import make_wfi_image, save_roman

    dq = np.zeros(image.shape, np.uint32)
    for name, where in flags.items():
        dq[where] |= np.uint32(pixel[name])
    start = str(Time(mjd, format="mjd").isot)
    model = make_wfi_image(image, dq=dq, err=err, start=start, exposure_s=seconds)
    model.meta.exposure.ma_table_name = f"IM_{seconds:.0f}"
    save_roman(model, path)


@dataclass(slots=True)
class Counts:
    """True, false and missed flags."""

    true: int = 0
    false: int = 0
    missed: int = 0

    def rates(self) -> tuple[float, float]:
        """Precision and recall."""
        return self.true / max(1, self.true + self.false), self.true / max(
            1, self.true + self.missed
        )


def read_series(run: Run) -> tuple[np.ndarray, list[Path]]:
    """List the masks in order of date: USEAFTER as MJD, and the files."""
    paths = sorted(run.output.glob("bench_*_mask_*.asdf"))
    dates = []
    for path in paths:
        with asdf.open(path) as file:
            dates.append(file["roman"]["meta"]["useafter"].mjd)
    return np.array(dates), paths


def read_bad(path: Path) -> np.ndarray:
    """Read DO_NOT_USE of the inner array."""
    with asdf.open(path) as file:
        dq = np.asarray(file["roman"]["dq"])
        return (dq[EDGE:-EDGE, EDGE:-EDGE] & 1) != 0


def score(data: Path, run: Run) -> dict[str, float]:
    """Score as the MIRI benchmark does: pooled over (pixel, exposure), halos left out."""
    with np.load(data / "truth.npz") as kept:
        truth = {name: kept[name] for name in kept.files}
    dates, paths = read_series(run)
    mjd, state, at = truth["mjd"], truth["state"], (truth["y"], truth["x"])
    quiet = truth["kind"] == "telegraph"
    counts, rays, flagged = Counts(), 0, np.zeros_like(state)
    halos = np.zeros((N_PIXELS, N_PIXELS), bool)
    last, bad = None, np.empty(0)
    for k, t in enumerate(mjd):
        own = int(np.searchsorted(dates, t, side="right")) - 1
        if own != last:
            last, bad = own, read_bad(paths[own])
        shape = bad.shape
        with np.load(data / f"truth_{k:03d}.npz") as planes:
            halo, ray = (
                np.unpackbits(planes[key], count=bad.size).astype(bool).reshape(shape)
                for key in ("halo", "rays")
            )
        halos |= halo
        good = ~halo
        good[at] = ~(state[k] | quiet) & good[at]
        flagged[k] = bad[at]
        counts.true += int((flagged[k] & state[k]).sum())
        counts.missed += int((~flagged[k] & state[k]).sum())
        counts.false += int((bad & good).sum())
        rays += int((bad & good & ray).sum())
    scores = dict(zip(("prec", "rec"), counts.rates(), strict=True))
    scores["f1"] = 2 * scores["prec"] * scores["rec"] / (scores["prec"] + scores["rec"])
    scores["fp_cr"] = rays / len(mjd) / MEGAPIXELS
    for name in POPULATIONS:
        own = (truth["kind"] == name) & state
        scores[f"rec_{name}"] = float(flagged[own].mean())
    after = (truth["kind"] == "recover") & (mjd[:, None] >= truth["t_off"])
    scores["after_recovery"] = float(flagged[after].mean())
    scores["onset_within1"] = score_onsets(truth, flagged)
    return scores | score_dates(truth, dates, paths, halos)


def score_onsets(truth: dict[str, np.ndarray], flagged: np.ndarray) -> float:
    """Share of the onsets of at least five sigma that are dated within one exposure."""
    state = truth["state"]
    size = truth["amplitude"] / truth["sigma"][:, None]
    own = (truth["kind"] == "turn_on") & (state.sum(axis=0) >= 2)
    errors = []
    for k in np.flatnonzero(own):
        if np.median(size[state[:, k], k]) >= 5:
            found = flagged[:, k]
            first = found.argmax() if found.any() else np.inf
            errors.append(abs(first - state[:, k].argmax()))
    return float(np.mean(np.array(errors) <= 1))


def score_dates(
    truth: dict[str, np.ndarray], dates: np.ndarray, paths: list[Path], halos: np.ndarray
) -> dict[str, float]:
    """Score the series on sixty random dates; telegraph pixels are bad at all of them."""
    mjd, kind = truth["mjd"], truth["kind"]
    when = np.sort(np.random.default_rng(1).uniform(mjd[0], mjd[-1] + 20, 60))
    own = np.searchsorted(dates, when, side="right") - 1
    at, counts = (truth["y"], truth["x"]), Counts()
    others = ~halos  # good pixels that count
    others[at] = False
    for k in np.unique(own):
        bad = read_bad(paths[k])
        for t in when[own == k]:
            state = (t >= truth["t_on"]) & (t < truth["t_off"]) | (kind == "telegraph")
            found = bad[at]
            counts.true += int((found & state).sum())
            counts.missed += int((~found & state).sum())
            counts.false += int((found & ~state).sum() + (bad & others).sum())
    return dict(zip(("date_prec", "date_rec"), counts.rates(), strict=True))


def run(files: Sequence[Path], output: Path, size: int) -> Run:
    """Run the step in a process of its own, where the detector is cut too."""
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob("bench_*"):
        old.unlink()
    command = [sys.executable, str(Path(__file__).resolve()), f"--size={size}"]
    command += ["--data", str(output), "--run", *map(str, files)]
    return Run(output, *run_command(command, output / "log.txt"), expected_false=math.nan)


def main() -> None:
    """Make what is not there yet, run, score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="where the data go (3.5 GB)")
    parser.add_argument("--size", type=int, default=1016, help="pixels each way; 4088 = the whole")
    parser.add_argument("--json", action="store_true", help="the headline too, on the last line")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="where the products go (default: DATA/out)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--exposures", type=int, default=40)
    parser.add_argument(
        "--miri-cpu",
        type=float,
        help="processor seconds of bench_badpix.py on this machine, for 40 exposures",
    )
    options = parser.parse_args()
    cut_detector(options.size)
    if options.run:
        from jwst_tvbadpix.steps import TimeVariableBadPixel

        saved = {"save_results": True, "output_dir": str(options.data), "output_file": "bench"}
        TimeVariableBadPixel.call(options.run, **saved)
        return
    tell_load()
    load = os.getloadavg()[0]
    cut = "" if options.size == WHOLE else f"_{options.size}"
    data = options.data / f"wfi{options.seed}_{options.exposures}{cut}"
    if not (data / "truth.npz").is_file():
        make_exposures(data, options.seed, options.exposures)
    files = sorted(data.glob("*_cal.asdf"))
    took = run(files, options.work or options.data / "out", options.size)
    scores = score(data, took)
    for name in (*(f"rec_{kind}" for kind in POPULATIONS),):
        tell(name, scores[name])
    for name, limit in (FLOORS | DATE_FLOORS).items():
        judge(name, scores[name], low=limit)
    judge("share flagged after recovery", scores["after_recovery"], high=MOST_AFTER_RECOVERY)
    judge(
        "false flags by cosmic rays per exposure and megapixel",
        scores["fp_cr"],
        high=MOST_CR_PER_MEGAPIXEL,
    )
    tell("wall seconds", took.seconds)
    per_pixel = took.cpu_seconds / (len(files) * MEGAPIXELS)
    tell("processor seconds", took.cpu_seconds)
    if options.miri_cpu:
        miri = options.miri_cpu / (40 * 1024 * 1032 / 1e6)
        judge(
            "processor time per pixel and exposure over that of MIRI",
            per_pixel / miri,
            high=MOST_TIMES_MIRI,
        )
    judge("peak memory [GB]", took.peak_gb, high=MOST_GB)
    if options.json:
        headline = Headline(
            "Masks of Roman WFI",
            f"{len(files)} exposures of {N_PIXELS} x {N_PIXELS}, files to masks and report",
            *measure_floor(files),
            *(math.inf, MOST_GB),
            ours=Took(
                name_tool("ours"),
                *(took.seconds, took.cpu_seconds, took.peak_gb),
                f"F1 {scores['f1']:.3f}",
            ),
            peers=(),
            load=load,
        )
        print(headline.to_json())


if __name__ == "__main__":
    main()
