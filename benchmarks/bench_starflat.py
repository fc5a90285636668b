"""Accuracy, stated errors and time of the star flat on catalogues with truth.

The first benchmark is a folder with ``lflat_case.py`` (star tables of dithered exposures, with the
truth); nothing of it is part of this package. The second rebuilds the surveys of Holmes, Hogg &
Rix (2012) from their description. The Cramer-Rao bounds come from the true noise, the true scatter
of the zero points and the true order, by dense algebra of this file's own. The headline is a
million measurements made here, solved by us and by plain sparse least squares for all stars, zero
points and modes together; without ``--bench`` it is all.

    python benchmarks/bench_starflat.py
    python benchmarks/bench_starflat.py --bench ../shared/bench/flat --seeds 50
"""

import argparse
import importlib.util
import time
from pathlib import Path
from types import ModuleType

import numpy as np
from headline import add_options, make_folder, measure
from measuring import judge, tell, tell_load

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import StarFlat, StarObservations, solve_star_flat

_CASES = {
    "S1": {},
    "S2": {"rolls": (0.0, 90.0)},
    "S3": {"tiles": 1},
    "S4": {"sig_zp": 0.01},
    "S5": {"rolls": (0.0, 90.0), "sig_zp": 0.01},
}
_ORDER, _ZERO_POINT_SCATTER = 5, 0.002
_MOST_RATIO, _MOST_RATIO_WITHOUT_PLANE, _MOST_SIGMA_ERROR = 1.20, 1.08, 0.20
# Holmes et al.: field of view and width of the survey [deg], stars per square degree, noise.
_FOV, _WIDTH, _SKY, _DENSITY = 0.75, 8.0, 9.6, 300
_DELTA, _ETA, _N_GRID = 0.1585, 0.00173, 300
# Of the large catalogue: rows and columns of its detector, and what we may take at order 5 [s].
_LARGE_SHAPE, _MOST_SECONDS_LARGE = (1024, 668), 30.0


def main() -> None:
    """Run the headline, and all that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, "the measurements of the headline")
    parser.add_argument("--seeds", type=int, default=50, help="seeds of each case")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=10, help="draws of each Holmes survey")
    parser.add_argument("--stars", type=int, default=4000, help="stars of each case")
    parser.add_argument("--large", type=int, default=40_000, help="stars of the headline")
    parser.add_argument("--cases", nargs="*", default=list(_CASES), choices=list(_CASES))
    options = parser.parse_args()
    if options.work:
        _work(options.work, options.data)
        return
    folder = make_folder(options)
    _compare(options.data, options.large, as_json=options.json)
    del folder
    if options.json or options.bench is None:
        return
    tell_load()
    case = _import_case(options.bench)
    for name in options.cases:
        seeds = range(options.first_seed, options.first_seed + options.seeds)
        _run_case(case, name, seeds, options.stars)
    for survey in "ACD" if options.draws else "":
        _run_survey(survey, options.draws)
    _run_large()


def _compare(data: Path, n_stars: int, *, as_json: bool) -> None:
    """Put this package beside the plain joint solve and the floor."""
    path = data / "measurements.npy"
    np.save(path, np.stack(_draw_large(n_stars)))
    measure(
        "Star flat",
        f"{25 * n_stars} measurements of {n_stars} stars, order 5",
        [path],
        ("ours", "joint lsqr"),
        data,
        _score_large,
        limits=(_MOST_SECONDS_LARGE, np.inf),
        as_json=as_json,
    )


def _work(tool: str, data: Path) -> None:
    """Solve the measurements of a folder with one tool; leave ln(flat) of each pixel."""
    exposure, star, x, y, flux, err = np.load(data / "measurements.npy")
    exposure, star = exposure.astype(int), star.astype(int)
    field = np.ones(_LARGE_SHAPE, bool)
    if tool == "ours":
        observations = StarObservations(exposure, star, x, y, flux, err)
        flat = np.log(solve_star_flat(observations, field, order=_ORDER).render())
    else:
        flat = _solve_jointly(exposure, star, x, y, flux, err)
    np.savez(data / f"{tool}.npz", flat=flat)


def _solve_jointly(
    exposure: np.ndarray,
    star: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    err: np.ndarray,
) -> np.ndarray:
    """Solve for stars, zero points and modes together by sparse least squares: ln(flat)."""
    from scipy.sparse import csr_array, hstack
    from scipy.sparse.linalg import lsqr

    ny, nx = _LARGE_SHAPE
    columns = _evaluate_legendre(2 * x / (nx - 1) - 1, 2 * y / (ny - 1) - 1)
    weight, rows = flux / err, np.arange(len(x))
    blocks = [csr_array((weight, (rows, number))) for number in (star, exposure)]
    blocks.append(csr_array(columns * weight[:, None]))
    found = lsqr(hstack(blocks, format="csr"), np.log(flux) * weight, atol=1e-9, btol=1e-9)
    v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in _LARGE_SHAPE), indexing="ij")
    shape = _evaluate_legendre(u.ravel(), v.ravel()) @ found[0][-columns.shape[1] :]
    return shape.reshape(_LARGE_SHAPE)


def _evaluate_legendre(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Products of Legendre polynomials, the constant left out: shape (n, n_modes)."""
    along = [np.polynomial.legendre.legvander(w, _ORDER) for w in (u, v)]
    pairs = [(d - j, j) for d in range(1, _ORDER + 1) for j in range(d + 1)]
    return np.stack([along[0][:, i] * along[1][:, j] for i, j in pairs], axis=1)


def _score_large(path: Path) -> str:
    """Say the error of a flat."""
    flat = np.load(path)["flat"]
    error = flat - np.log(_respond(np.arange(_LARGE_SHAPE[0])))[:, None]
    return f"rms {100 * float(np.std(error)):.4f} %"


def _import_case(bench: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("lflat_case", bench / "lflat_case.py")
    if spec is None or spec.loader is None or not (bench / "lflat_case.py").is_file():
        raise SystemExit(f"expected lflat_case.py in {bench}, found none; give its folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run_case(case: ModuleType, name: str, seeds: range, n_stars: int) -> None:
    """Solve one case for many seeds: error over bound, stated over actual error, time."""
    field = np.zeros((1024, 1032), bool)
    field[:, 360:1028] = True
    rows, orders, seconds, n_obs = [], [], [], []
    for seed in seeds:
        data = case.make(seed=seed, nstar=n_stars, **_CASES[name])
        table = data["T"]
        observations = StarObservations(
            table[:, 0].astype(int), table[:, 1].astype(int), *table[:, 2:6].T
        )
        took = []
        for order in (None, _ORDER):
            begin = time.process_time()
            flat = solve_star_flat(observations, field, order=order)
            took.append(time.process_time() - begin)
            if order is None:
                found = flat
        shape = np.log(found.render())[data["gy"].astype(int), data["gx"].astype(int)]
        bound = _bound_case(case, data, _CASES[name].get("sig_zp", _ZERO_POINT_SCATTER))
        rows.append([*case.score(data, shape), *bound, *_state(found)])
        orders.append(found.order)
        seconds.append(took)
        n_obs.append(len(table))
    rms = np.sqrt(np.mean(np.square(rows), axis=0))
    print(
        f"{name}: {len(seeds)} seeds, {np.mean(n_obs):.0f} measurements, orders "
        f"{dict(zip(*np.unique(orders, return_counts=True), strict=True))}"
    )
    tell("error / bound / stated, total [%]", "{:.4f} {:.4f} {:.4f}".format(*rms[[0, 2, 4]]))
    tell("error / bound / stated, no plane [%]", "{:.4f} {:.4f} {:.4f}".format(*rms[[1, 3, 5]]))
    judge("error over Cramer-Rao bound, no plane", rms[1] / rms[3], high=_MOST_RATIO_WITHOUT_PLANE)
    judge("error over Cramer-Rao bound, total", rms[0] / rms[2], high=_MOST_RATIO)
    each = np.array(rows)
    tell("mean of the ratios of single seeds, no plane", float(np.mean(each[:, 1] / each[:, 3])))
    tell("mean of the ratios of single seeds, total", float(np.mean(each[:, 0] / each[:, 2])))
    for part, kind in ((0, "total"), (1, "no plane")):
        ratio = rms[4 + part] / rms[part]
        judge(
            f"stated over actual error, {kind}",
            ratio,
            low=1 - _MOST_SIGMA_ERROR,
            high=1 + _MOST_SIGMA_ERROR,
        )
    median = np.median(seconds, axis=0)
    judge("processor seconds at fixed order", median[1], high=0.3)
    judge("processor seconds with the choice of order", median[0], high=2.0)


def _state(flat: StarFlat) -> tuple[float, float]:
    """Stated errors [%], total and without the plane."""
    return 100 * flat.sigma, 100 * flat.sigma_without_plane


def _bound_case(case: ModuleType, data: dict, scatter: float) -> tuple[float, float]:
    """Cramer-Rao bound of the rms error over the field [%], total and without the plane."""
    exposure, star = data["T"][:, 0].astype(int), data["T"][:, 1].astype(int)
    x, y, _, err = data["T"][:, 2:6].T
    # The errors of the case follow from the true flux; this is their inverse.
    a, b, c = 0.003**2, 0.1, 2.25 - err**2
    flux = (-b + np.sqrt(b * b - 4 * a * c)) / (2 * a)
    columns = np.hstack([case.cheb(x, y, _ORDER)[:, 1:], np.eye(data["nexp"])[exposure]])
    prior = np.zeros(columns.shape[1])
    prior[-data["nexp"] :] = scatter**-2
    covariance = _invert(columns, star, (flux / err) ** 2, prior)
    n_modes = columns.shape[1] - data["nexp"]
    grid = case.cheb(data["gx"], data["gy"], _ORDER)[:, 1:]
    grid = grid - grid.mean(axis=0)
    plane = np.column_stack([np.ones(len(grid)), data["gx"], data["gy"]])
    flat = grid - plane @ np.linalg.lstsq(plane, grid)[0]
    modes = covariance[:n_modes, :n_modes]
    return tuple(
        100 * float(np.sqrt(np.einsum("ij,jk,ik->i", g, modes, g).mean())) for g in (grid, flat)
    )


def _invert(columns: np.ndarray, star: np.ndarray, weight: np.ndarray, prior: np.ndarray):
    """Covariance of the columns with the stars' fluxes free."""
    total = np.bincount(star, weight)
    sums = np.column_stack([np.bincount(star, weight * column) for column in columns.T])
    seen = total > 0
    matrix = columns.T @ (columns * weight[:, None])
    matrix -= sums[seen].T @ (sums[seen] / total[seen, None])
    return np.linalg.inv(matrix + np.diag(prior))


def _point_survey(survey: str, rng: np.random.Generator) -> np.ndarray:
    """Centres [deg] and orientations [rad] of nine passes: shape (n, 3)."""
    shapes = {"C": [(12, 12), (13, 11), (11, 13)] * 3}.get(survey, [(12, 12)] * 9)
    half = (_WIDTH - _FOV) / 2
    passes = []
    for nx, ny in shapes:
        x, y = np.meshgrid(np.linspace(-half, half, nx), np.linspace(-half, half, ny))
        passes.append(np.column_stack([x.ravel(), y.ravel(), np.zeros(nx * ny)]))
    pointing = np.vstack(passes)
    if survey == "D":
        pointing[:, :2] += rng.uniform(-0.35, 0.35, (len(pointing), 2))
        pointing[:, 2] = rng.uniform(0, 2 * np.pi, len(pointing))
    return pointing


def _draw_response(rng: np.random.Generator):
    """Second-order polynomial plus 256 sines and cosines, as a function of x, y [deg]."""
    small = 5e-4 * rng.uniform(0, 1, (8, 8, 4))
    small *= (1 + np.add.outer(np.arange(8), np.arange(8)))[:, :, None] ** -0.25

    def response(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total = 1 - 0.01 * x + 0.015 * y - 0.1 * x * x + 0.005 * x * y - 0.25 * y * y
        for a, b in np.ndindex(8, 8):
            kx, ky = np.pi * a * x / _FOV, np.pi * b * y / _FOV
            cc, cs, sc, ss = small[a, b]
            total = total + np.cos(kx) * (cc * np.cos(ky) + cs * np.sin(ky))
            total = total + np.sin(kx) * (sc * np.cos(ky) + ss * np.sin(ky))
        return total

    return response


def _observe(survey: str, seed: int):
    """Observations of one survey, the response, and the true relative error of each."""
    rng = np.random.default_rng(seed)
    response = _draw_response(rng)
    n = int(_DENSITY * _SKY**2)
    sky = rng.uniform(-_SKY / 2, _SKY / 2, (n, 2))
    magnitude = np.linspace(17, 22, 2000)
    counts = np.cumsum(10 ** (-13.05 + 1.25 * magnitude - 0.02 * magnitude**2))
    counts *= np.diff(magnitude)[0] / _DENSITY
    flux = 10 ** (0.4 * (22.5 - np.interp(rng.uniform(0, 1, n), counts, magnitude)))
    columns = []
    for j, (x, y, angle) in enumerate(_point_survey(survey, rng)):
        dx, dy = sky[:, 0] - x, sky[:, 1] - y
        u = np.cos(angle) * dx + np.sin(angle) * dy
        v = np.cos(angle) * dy - np.sin(angle) * dx
        k = np.flatnonzero((np.abs(u) < _FOV / 2) & (np.abs(v) < _FOV / 2))
        columns.append(np.column_stack([np.full(len(k), j), k, u[k], v[k]]))
    exposure, star, u, v = np.vstack(columns).T
    exposure, star = exposure.astype(int), star.astype(int)
    true = response(u, v) * flux[star]
    err = np.sqrt((1 + rng.uniform(0, 1, len(u))) * _DELTA**2 + (_ETA * true) ** 2)
    measured = true + err * rng.normal(size=len(u))
    stated = np.hypot(_DELTA, _ETA * measured)
    x, y = ((w / _FOV + 0.5) * _N_GRID - 0.5 for w in (u, v))
    return StarObservations(exposure, star, x, y, measured, stated), response, err / true


def _run_survey(survey: str, n_draws: int) -> None:
    """Solve a survey with polynomials of order 8, as the paper does: one direct solution."""
    field = np.ones((_N_GRID, _N_GRID), bool)
    y, x = (np.mgrid[:_N_GRID, :_N_GRID] + 0.5) / _N_GRID * _FOV - _FOV / 2
    found, seconds = [], []
    for draw in range(n_draws):
        observations, response, relative_err = _observe(survey, draw)
        begin = time.process_time()
        try:
            flat = solve_star_flat(observations, field, order=8, zero_point_scatter=0)
        except EvidenceError as error:
            print(f"Holmes survey {survey}: {len(observations.x)} measurements")
            judge("said to be determined", float("ill-determined" not in str(error)), high=0)
            tell("the error", str(error))
            return
        seconds.append(time.process_time() - begin)
        truth = np.log(response(x, y))
        modes = flat.basis.evaluate(*np.mgrid[:_N_GRID, :_N_GRID][::-1].reshape(2, -1))
        best = modes.T @ truth.ravel() / truth.size
        covariance = _invert(
            flat.basis.evaluate(observations.x, observations.y),
            observations.star,
            relative_err**-2,
            np.zeros(flat.basis.n_modes),
        )
        found.append(
            [
                np.linalg.norm(flat.coefficients - best),
                np.sqrt(np.trace(covariance)),
                flat.sigma,
                np.std(np.log(flat.render()) - truth),
            ]
        )
    rms = 100 * np.sqrt(np.mean(np.square(found), axis=0))
    print(f"Holmes survey {survey}: {n_draws} draws, {len(observations.x)} measurements")
    tell("weakest mode keeps this share of its information", flat.gauge.weakest)
    tell("B_basis, bound, stated, B_true [%]", "{:.4f} {:.4f} {:.4f} {:.4f}".format(*rms))
    judge("B_basis over Cramer-Rao bound", rms[0] / rms[1], high=1.1)
    judge("said to be ill-determined", float(flat.gauge.ill_determined), high=0)
    tell("processor seconds", float(np.median(seconds)))


def _respond(y: np.ndarray) -> np.ndarray:
    """Response of the large catalogue along the columns."""
    return 1 + 0.02 * (y / 1024 - 0.5) ** 2


def _draw_large(n_stars: int = 40_000) -> tuple[np.ndarray, ...]:
    """Draw stars seen in 25 of 100 exposures: exposure, star, x, y, flux, err."""
    rng = np.random.default_rng(1)
    n_exposures, n_each = 100, 25
    exposure = np.argsort(rng.uniform(size=(n_stars, n_exposures)), axis=1)[:, :n_each].ravel()
    star = np.repeat(np.arange(n_stars), n_each)
    ny, nx = _LARGE_SHAPE
    x, y = rng.uniform(0, nx, len(star)), rng.uniform(0, ny, len(star))
    flux = 10 ** rng.uniform(2, 4, n_stars)[star] * _respond(y)
    err = 0.01 * flux
    flux = flux * rng.normal(1, 0.002, n_exposures)[exposure] + err * rng.normal(size=len(star))
    return exposure, star, x, y, flux, err


def _run_large() -> None:
    """Time a million measurements."""
    exposure, star, *values = _draw_large()
    observations = StarObservations(exposure, star, *values)
    field = np.ones(_LARGE_SHAPE, bool)
    print(f"{len(star)} measurements")
    for order, limit in ((5, 30.0), (None, np.inf)):
        begin, wall = time.process_time(), time.monotonic()
        flat = solve_star_flat(observations, field, order=order)
        kind = "at fixed order" if order else f"with the choice of order ({flat.order})"
        judge(f"processor seconds {kind}", time.process_time() - begin, high=limit)
        tell("wall seconds", time.monotonic() - wall)


if __name__ == "__main__":
    main()
