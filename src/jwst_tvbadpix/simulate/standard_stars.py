"""Standard stars of known flux, seen again and again by a telescope that loses throughput."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import uniform_filter
from stdatamodels.jwst.datamodels import MirImgApcorrModel

from ..errors import EvidenceError
from .electronics import find_region
from .exposures import ExposureSpec
from .layers import PixelPattern, Scene
from .layers_imaging import KnownStars, UndispersedSky, compute_star_profile
from .references import fill_reference
from .references_lrs import build_transform
from .saving import save_model
from .setups import Setup, make_imaging_setup, make_lrs_setup
from .star_lrs import PIXEL_SR, StarTrace
from .writers import write_association, write_rate

__all__ = [
    "FLUX_TRUTH",
    "STANDARDS",
    "Loss",
    "Standard",
    "StandardStars",
    "simulate_lrs_standards",
    "simulate_standard_stars",
    "write_flux_truth",
]

# Name of the file that write_flux_truth writes.
FLUX_TRUTH = "truth_factors.ecsv"
# Pivot wavelength [um] and FWHM [pixel] of the filters that are simulated: JWST documentation.
_FILTERS = {
    "F560W": (5.6, 1.88),
    "F770W": (7.6, 2.45),
    "F1000W": (10.0, 2.98),
    "F1500W": (15.0, 4.44),
}
# Conversions that are simulated [MJy/sr / (DN/s)]; of the order of the first in flight.
_FACTORS = {"F560W": 0.46, "F770W": 0.26, "F1000W": 0.37, "F1500W": 0.37}
_ENERGIES = (0.5, 0.6, 0.7, 0.8)
# Encircled energies between which the sky is taken.
_SKY = (0.80, 0.85)
# Samples per pixel of the image from which energies are summed, and its half width [pixel].
_STEPS, _REACH = 15, 12
# Conversion of LRS [MJy/sr / (DN/s)], as low as lets the standards not saturate; assumption.
_LRS_FACTOR = 20.0
_GROUPS = {"MIR_IMAGE": 20, "MIR_LRS-FIXEDSLIT": 8}
_SPEED_OF_LIGHT = 2.99792458e18  # [A/s]


@dataclass(frozen=True, slots=True)
class Loss:
    """How throughput falls: a line times an exponential, 1 at t0.

    Attributes
    ----------
    t0_mjd : float
        [MJD]
    per_year : float
        Linear loss [1 / 365 days].
    amplitude, tau_days : float
        Of the exponential; its time constant [day].
    """

    t0_mjd: float = 59720.0
    per_year: float = 0.006
    amplitude: float = 0.0
    tau_days: float = 200.0

    def evaluate(self, mjd: float) -> float:
        """Compute the share of the throughput that is left at a date [MJD]."""
        days = mjd - self.t0_mjd
        fading = self.amplitude * np.exp(-days / self.tau_days) + 1 - self.amplitude
        return float((1 - self.per_year * days / 365.0) * fading)


@dataclass(frozen=True, slots=True)
class Standard:
    """A star with a model, and how far it is from it.

    Attributes
    ----------
    name : str
        TARGNAME keyword.
    flux_jy : float
        Flux density of the model at 10 um [Jy]; it falls with the square of the wavelength.
    offset : float
        ln of the true flux over that of the model, at 10 um.
    slope : float
        Its change with wavelength [1/um].
    """

    name: str
    flux_jy: float
    offset: float = 0.0
    slope: float = 0.0

    def model(self, wavelength_um: np.ndarray | float) -> np.ndarray:
        """Compute the flux density of the model [Jy]."""
        return self.flux_jy * (np.asarray(wavelength_um, float) / 10.0) ** -2.0

    def flux(self, wavelength_um: np.ndarray | float) -> np.ndarray:
        """Compute the true flux density [Jy]."""
        wavelength = np.asarray(wavelength_um, float)
        return self.model(wavelength) * np.exp(self.offset + self.slope * (wavelength - 10.0))


# As bright as standards are that a subarray of the imager takes; their offsets are drawn.
STANDARDS = (
    Standard("BD+60-1753", 5.4e-3, 0.006),
    Standard("P330-E", 2.1e-3, -0.009),
    Standard("J1757132", 2.6e-3, 0.004),
    Standard("GD153", 1.2e-3, -0.002),
)


@dataclass(frozen=True, slots=True)
class StandardStars:
    """Files of simulated standard stars, and the truth.

    Attributes
    ----------
    rates : tuple of Path
        ``_rate`` files in order of time.
    association : Path
        Of the rates.
    models : Path
        Of images: table of the stars' model fluxes (name, then a column of each filter [Jy]).
        Of spectra: folder of FITS spectra as those of CALSPEC.
    apcorr : Path or None
        Of images: reference of the aperture corrections, FITS.
    factors : mapping of str to float
        Conversion at t0 of each filter [MJy/sr / (DN/s)].
    losses : mapping of str to Loss
        Of each filter.
    specs : tuple of ExposureSpec
        One for each of the rates.
    stars : tuple of Standard
        The star of each of the rates.
    """

    rates: tuple[Path, ...]
    association: Path
    models: Path
    apcorr: Path | None
    factors: Mapping[str, float]
    losses: Mapping[str, Loss]
    specs: tuple[ExposureSpec, ...]
    stars: tuple[Standard, ...]


@dataclass(frozen=True, slots=True)
class _Visit:
    """A visit: its number from 1, its date [MJD], its star, and ln of its own factor."""

    number: int
    mjd: float
    star: Standard
    offset: float


def _draw_visits(
    rng: np.random.Generator,
    stars: Sequence[Standard],
    mjd: tuple[float, float],
    n_visits: int,
    jitter: float,
) -> list[_Visit]:
    """Spread visits evenly over the dates, the stars in turn."""
    dates = np.linspace(*mjd, n_visits).tolist()
    offsets = (jitter * rng.standard_normal(n_visits)).tolist()
    return [
        _Visit(k + 1, date, stars[k % len(stars)], offset)
        for k, (date, offset) in enumerate(zip(dates, offsets, strict=True))
    ]


def simulate_standard_stars(
    folder: str | Path,
    *,
    filters: Sequence[str] = ("F770W", "F1000W"),
    stars: Sequence[Standard] = STANDARDS,
    n_visits: int = 8,
    mjd: tuple[float, float] = (59740.0, 60900.0),
    losses: Mapping[str, Loss] | None = None,
    jitter: float = 0.0025,
    subarray: str = "SUB128",
    pattern: PixelPattern | None = None,
    level: float = 20.0,
    seed: int = 1539,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
) -> StandardStars:
    """Simulate visits to standard stars with the MIRI imager, every filter in each.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    filters : sequence of str
        FILTER keywords.
    stars : sequence of Standard
        Seen in turn.
    n_visits : int
        Visits, evenly spread over `mjd`.
    mjd : tuple of float
        First and last date [MJD].
    losses : mapping of str to Loss or None
        Of each filter; None = 0.6 % a year, and more by an exponential at long wavelengths.
    jitter : float
        Scatter of the flux from visit to visit [ln].
    subarray : str
        SUBARRAY keyword.
    pattern : PixelPattern or None
        Response of the pixels, that the flat of `write_imaging_references` undoes.
    level : float
        Sky [DN/s].
    seed : int
        Seed of everything.
    progress : callable or None
        Called as ``progress(done, total)`` after each file.
    dry_run : bool
        Write nothing; the paths are those that would be written.

    Returns
    -------
    StandardStars

    Raises
    ------
    EvidenceError
        A filter is not one that is simulated, or there is no visit.
    DetectorError
        The subarray is not one of the imager.
    """
    unknown = [name for name in filters if name not in _FILTERS]
    if unknown:
        raise EvidenceError(
            f"expected filters among {', '.join(_FILTERS)}, found {', '.join(unknown)}; change them"
        )
    if n_visits < 1:
        raise EvidenceError(f"expected at least 1 visit, found {n_visits}; ask for more")
    folder = Path(folder)
    losses = losses or {
        name: Loss(amplitude=0.01 * (_FILTERS[name][0] / 10.0) ** 2) for name in filters
    }
    rng = np.random.default_rng([seed, 21])
    setups = {name: _point_at_middle(_set_imager(name, subarray)) for name in filters}
    jobs, seen = [], []
    for visit in _draw_visits(rng, stars, mjd, n_visits, jitter):
        for k, (name, setup) in enumerate(setups.items()):
            first = _make_spec(visit, setup, seed * 1000 + visit.number * 20 + k, "01539")
            dither = rng.uniform(-0.5, 0.5, 2)
            spec = replace(
                first,
                mjd=visit.mjd + 0.01 * k,
                exposure=k + 1,
                dither=(float(dither[0]), float(dither[1])),
            )
            share = np.exp(visit.offset) * losses[name].evaluate(spec.mid_mjd)
            layers = UndispersedSky(level), _place(visit.star, name, setup, share)
            jobs.append((spec, Scene(layers, pattern=pattern)))
            seen.append(visit.star)
    specs = tuple(spec for spec, _ in jobs)
    made = StandardStars(
        tuple(folder / spec.filename("rate") for spec in specs),
        folder / "jw01539-standards_asn.json",
        folder / "model_fluxes.ecsv",
        folder / "simulated_mirimage_apcorr.fits",
        {name: _FACTORS[name] for name in filters},
        dict(losses),
        specs,
        tuple(seen),
    )
    if not dry_run:
        _write_exposures(made, [scene for _, scene in jobs], progress)
        _write_fluxes(made.models, stars, filters)
        _write_apcorr(folder, filters)
    return made


def _write_exposures(
    made: StandardStars, scenes: Sequence[Scene], progress: Callable[[int, int], None] | None
) -> None:
    """Write a rate of each scene, and their association."""
    made.association.parent.mkdir(parents=True, exist_ok=True)
    for done, (path, spec, scene) in enumerate(
        zip(made.rates, made.specs, scenes, strict=True), start=1
    ):
        write_rate(path, spec, scene)
        if progress is not None:
            progress(done, len(scenes))
    write_association(
        made.association, made.rates, kind="fluxcal", program="01539", target="standards"
    )


def write_flux_truth(folder: str | Path, made: StandardStars) -> Path:
    """Write truth_factors.ecsv: the conversion of each filter at t0, and how throughput falls."""
    losses = [made.losses[name] for name in made.factors]
    table = Table(
        {
            "filter": list(made.factors),
            "factor": list(made.factors.values()),
            "t0_mjd": [loss.t0_mjd for loss in losses],
            "loss_per_year": [loss.per_year for loss in losses],
            "amplitude": [loss.amplitude for loss in losses],
            "tau_days": [loss.tau_days for loss in losses],
        },
        units={"factor": "MJy s / (sr DN)", "t0_mjd": "day", "tau_days": "day"},
    )
    path = Path(folder) / FLUX_TRUTH
    table.write(path, overwrite=True)
    return path


def simulate_lrs_standards(
    folder: str | Path,
    *,
    stars: Sequence[Standard] = STANDARDS,
    n_visits: int = 6,
    mjd: tuple[float, float] = (59740.0, 60900.0),
    loss: Loss | None = None,
    jitter: float = 0.0025,
    pattern: PixelPattern | None = None,
    seed: int = 4497,
) -> StandardStars:
    """Simulate visits to standard stars with LRS through the slit.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    stars, n_visits, mjd, jitter, pattern, seed
        As for `simulate_standard_stars`.
    loss : Loss or None
        At all wavelengths; None = 3 % a year.

    Returns
    -------
    StandardStars
        The conversion is that at the peak of the response, at t0.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    loss = loss or Loss(per_year=0.03)
    rng = np.random.default_rng([seed, 22])
    setup = make_lrs_setup("FULL")
    paths, specs, seen = [], [], []
    for visit in _draw_visits(rng, stars, mjd, n_visits, jitter):
        spec = _make_spec(visit, setup, seed * 1000 + visit.number, "04497")
        share = np.exp(visit.offset) * loss.evaluate(spec.mid_mjd)
        trace = _StandardTrace(photmjsr=_LRS_FACTOR, standard=visit.star, share=float(share))
        paths.append(write_rate(folder, spec, Scene((trace,), pattern=pattern)))
        specs.append(spec)
        seen.append(visit.star)
    association = write_association(
        folder / "jw04497-standards_asn.json",
        paths,
        kind="fluxcal",
        program="04497",
        target="standards",
    )
    return StandardStars(
        tuple(paths),
        association,
        _write_spectra(folder / "models", stars),
        None,
        {"P750L": _LRS_FACTOR},
        {"P750L": loss},
        tuple(specs),
        tuple(seen),
    )


def _make_spec(visit: _Visit, setup: Setup, seed: int, program: str) -> ExposureSpec:
    return ExposureSpec(
        mjd=visit.mjd,
        setup=setup,
        ngroups=_GROUPS[setup.exp_type],
        seed=seed,
        program=program,
        observation=visit.number,
        target=visit.star.name,
    )


@dataclass(frozen=True, slots=True)
class _StandardTrace(StarTrace):
    """The spectrum of a standard, of which the telescope passes a share."""

    standard: Standard = STANDARDS[0]
    share: float = 1.0

    def flux(self, wavelength_um: np.ndarray) -> np.ndarray:
        """Compute the flux density that is seen [Jy]."""
        return self.standard.flux(wavelength_um) * self.share


def _place(star: Standard, filter_name: str, setup: Setup, share: float) -> KnownStars:
    """Put a star, of which the telescope passes a share, at the middle of what is read."""
    pivot, fwhm = _FILTERS[filter_name]
    counts = share * star.flux(pivot) / (_FACTORS[filter_name] * 1e6 * PIXEL_SR)
    region = setup.region
    y = region.y_start + (region.ny - 1) / 2
    x = region.x_start + (region.nx - 1) / 2
    return KnownStars(np.array([y]), np.array([x]), np.atleast_1d(counts), fwhm)


def _set_imager(filter_name: str, subarray: str) -> Setup:
    return make_imaging_setup(find_region(subarray), filter_name=filter_name)


def _point_at_middle(setup: Setup) -> Setup:
    """Put the aperture's reference point where the distortion of the references has the middle."""
    region = setup.region
    x = region.x_start + (region.nx - 1) / 2
    y = region.y_start + (region.ny - 1) / 2
    v2, v3 = build_transform()(x, y)
    return replace(setup, aperture=replace(setup.aperture, v2=float(v2), v3=float(v3)))


def _write_fluxes(path: Path, stars: Sequence[Standard], filters: Sequence[str]) -> Path:
    """Write what the models predict."""
    table = Table({"name": [star.name for star in stars]})
    for name in filters:
        table[name] = [float(star.model(_FILTERS[name][0])) for star in stars]
        table[name].unit = "Jy"
    table.write(path, overwrite=True)
    return path


def _write_spectra(folder: Path, stars: Sequence[Standard]) -> Path:
    """Write the models as CALSPEC has them: WAVELENGTH [A], FLUX [erg/s/cm2/A]."""
    folder.mkdir(exist_ok=True)
    wavelength = np.geomspace(3.0, 16.0, 4000)
    angstrom = wavelength * 1e4
    for star in stars:
        flam = star.model(wavelength) * 1e-23 * _SPEED_OF_LIGHT / angstrom**2
        columns = [
            fits.Column("WAVELENGTH", "D", unit="ANGSTROMS", array=angstrom),
            fits.Column("FLUX", "E", unit="FLAM", array=flam),
        ]
        primary = fits.PrimaryHDU()
        primary.header["TARGETID"] = star.name
        table = fits.BinTableHDU.from_columns(columns)
        name = star.name.lower().replace("+", "_").replace("-", "_")
        fits.HDUList([primary, table]).writeto(folder / f"{name}_mod_001.fits", overwrite=True)
    return folder


def _write_apcorr(folder: Path, filters: Sequence[str]) -> Path:
    """Write the corrections for the light outside of the aperture and in the ring of the sky."""
    model = MirImgApcorrModel()
    rows = []
    for name in filters:
        radius_of = _sum_energy(_FILTERS[name][1])
        inner, outer = (radius_of(share) for share in _SKY)
        ring = (_SKY[1] - _SKY[0]) / (outer**2 - inner**2)
        for share in _ENERGIES:
            radius = radius_of(share)
            apcorr = 1 / (share - ring * radius**2)
            rows.append((name, "FULL", share, radius, apcorr, inner, outer))
    dtype = model.get_dtype("apcorr_table")
    names = ("filter", "subarray", "eefraction", "radius", "apcorr", "skyin", "skyout")
    table = np.zeros(len(rows), dtype)
    for column, values in zip(names, zip(*rows, strict=True), strict=True):
        table[column] = values
    model.apcorr_table = table
    path = folder / "simulated_mirimage_apcorr.fits"
    fill_reference(model, path, "apcorr", "MIRIMAGE")
    model.meta.exposure.type = "MIR_IMAGE"
    model.meta.instrument.band = "N/A"
    return save_model(model, path)


def _sum_energy(fwhm: float) -> Callable[[float], float]:
    """Make what finds the radius [pixel] of a share of a star's light, as pixels see it."""
    along = np.arange(-_REACH * _STEPS, _REACH * _STEPS + 1) / _STEPS
    distance = np.hypot(along[:, None], along)
    # A sum over whole pixels is one over the profile averaged over a pixel.
    seen = uniform_filter(compute_star_profile(distance, fwhm), _STEPS, mode="nearest")
    order = np.argsort(distance, axis=None)
    energy = np.cumsum(seen.ravel()[order]) / _STEPS**2
    return lambda share: float(np.interp(share, energy, distance.ravel()[order]))
