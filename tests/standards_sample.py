"""Shared by the tests of flux calibration: measurements of standard stars with truth."""

from dataclasses import dataclass, replace

import numpy as np

from jwst_tvbadpix.fluxcal import Band, Measurements, Mode, Throughput

T0 = 59720.0
FILTERS = {"F560W": 5.63, "F1000W": 9.95, "F1500W": 15.05, "F2100W": 20.8, "F2550W": 25.23}
CLASSES = ("hot", "adwarf", "solar")
FORMAL = 0.001


@dataclass(frozen=True)
class Sample:
    measurements: Measurements
    ln_factor: np.ndarray
    throughputs: tuple[Throughput, ...]


def make_sample(
    seed=0,
    *,
    n_stars=9,
    n_monitor=30,
    scatter=0.008,
    jitter=0.0025,
    throughput=lambda wave: {"loss_per_year": 0.006, "amplitude": 0.2 * (wave / 25.23) ** 2.5},
    subarrays=("FULL",),
    responses=(1.0,),
    classes=CLASSES,
    years=4.0,
    filters=FILTERS,
):
    """Nine stars in five filters of MIRI, one of them all year round, in photom's product."""
    rng = np.random.default_rng(seed)
    bands = tuple(
        Band(Mode("MIRI", "MIRIMAGE", "imaging", filter=f), w) for f, w in filters.items()
    )
    throughputs = tuple(Throughput(T0, **throughput(b.wave)) for b in bands)
    ln_factor = np.log(0.4) + 0.2 * np.arange(len(bands))
    rows = []
    for star in range(n_stars):
        offset = scatter * rng.normal()
        n_visits = n_monitor if star == 0 else 2
        for visit, mjd in enumerate(T0 + 10 + years * 365 * rng.random(n_visits)):
            shift = offset + jitter * rng.normal()
            rows += [
                (star, visit, mjd, k, shift + FORMAL * rng.normal()) for k in range(len(bands))
            ]
    star, visit, mjd, band, ln_rate = (np.array(c) for c in zip(*rows, strict=True))
    which = star % len(subarrays)
    ln_rate = ln_rate + np.log(np.array(responses))[which]
    for k, f in enumerate(throughputs):
        ln_rate[band == k] += np.log(f.evaluate(mjd[band == k]))
    n = len(star)
    flux = 10.0 ** -(star % 4)
    measurements = Measurements(
        bands,
        band.astype(np.int32),
        np.array([f"star {s}" for s in star]),
        np.array(classes)[star % len(classes)],
        np.array([f"{s}-{v}" for s, v in zip(star, visit, strict=True)]),
        np.array(subarrays)[which],
        mjd,
        np.exp(ln_factor[band] - ln_rate),
        np.full(n, FORMAL),
        flux,
        1e5 * flux,
        rng.random(n),
        np.full(n, np.nan),
        np.full(n, 30.0),
        np.ones(n, bool),
        np.full(n, "", dtype="U40"),
        np.array([f"row {k}" for k in range(n)]),
    )
    return Sample(measurements, ln_factor, throughputs)


def take(measurements, rows):
    """Keep some rows."""
    names = [n for n in measurements.__dataclass_fields__ if n not in ("bands", "given")]
    return replace(measurements, **{n: getattr(measurements, n)[rows] for n in names})


def make_spectra(seed=0, *, slopes=(0.0, 0.0, 0.0, 0.0), n_bins=60, jitter=0.01):
    """Spectra of LRS: one star of each slope [1/um], two visits each, without dates."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(5.0, 12.0, n_bins)
    bands = tuple(Band(Mode("MIRI", "MIRIMAGE", "lrs", filter="P750L"), float(w)) for w in wave)
    n_visits = 2 * len(slopes)
    star = np.repeat(np.arange(n_visits) // 2, n_bins)
    visit = np.repeat(np.arange(n_visits), n_bins)
    band = np.tile(np.arange(n_bins), n_visits)
    n = len(band)
    ln_rate = np.array(slopes)[star] * (wave[band] - 8.0)
    ln_rate += 0.01 * rng.normal(size=len(slopes))[star] + jitter * rng.normal(size=n_visits)[visit]
    ln_rate += FORMAL * rng.normal(size=n)
    unknown = np.full(n, np.nan)
    return Measurements(
        bands,
        band.astype(np.int32),
        np.array([f"star {s}" for s in star]),
        np.full(n, "adwarf"),
        np.array([f"visit {v}" for v in visit]),
        np.full(n, "FULL"),
        unknown,
        np.exp(np.log(1e-11) + 0.3 * wave[band] - ln_rate),
        np.full(n, FORMAL),
        np.ones(n),
        *(unknown,) * 4,
        np.ones(n, bool),
        np.full(n, "", dtype="U40"),
        np.array([f"row {k}" for k in range(n)]),
    )
