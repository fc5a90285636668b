"""Tables of standard stars with known truth, in the columns of the public MIRI recipe."""

import numpy as np
from astropy.table import Table

T0 = 59720.0
PIVOTS = {"F770W": 7.6, "F1500W": 15.0, "F2100W": 21.0}
FACTORS = {"F770W": 0.26, "F1500W": 0.37, "F2100W": 0.43}
LOSS, TAU = 0.006, 200.0
AMPLITUDES = {"F770W": 0.005, "F1500W": 0.03, "F2100W": 0.1}
AREA_SR = 2.86e-13
# Names that the table of aliases knows, one of each class and more A dwarfs; class, flux at 10 um.
STARS = {
    "BD+60 1753": ("ADwarfs", 5.4e-3),
    "HD 163466": ("ADwarfs", 0.1),
    "HD 2811": ("ADwarfs", 0.06),
    "del UMi": ("ADwarfs", 0.9),
    "G 191-B2B": ("HotStars", 3e-4),
    "10 Lac": ("HotStars", 0.3),
    "mu Col": ("HotStars", 0.25),
    "GSPC P330-E": ("SolarAnalogs", 1e-3),
    "16 Cyg B": ("SolarAnalogs", 0.5),
    "HD 167060": ("SolarAnalogs", 0.05),
}


def throughput(name, mjd):
    """The share that is left in a filter at dates."""
    days = np.asarray(mjd) - T0
    fading = AMPLITUDES[name] * np.exp(-days / TAU) + 1 - AMPLITUDES[name]
    return (1 - LOSS * days / 365) * fading


def write_photometry(folder, *, seed=1, n_repeat=24, star_sigma=0.006, jitter=0.0025, odd=None):
    """Write photometry.ecsv and model_fluxes.ecsv; `odd` is a star and its ln flux/model per um.

    Returns
    -------
    photometry, models : Path
    """
    rng = np.random.default_rng(seed)
    visits = [("BD+60 1753", mjd) for mjd in np.linspace(T0 + 15, T0 + 1200, n_repeat)]
    visits += [(star, rng.uniform(T0 + 20, T0 + 1200)) for star in STARS for _ in range(2)]
    offset = {star: rng.normal(0, star_sigma) for star in STARS}
    rows = []
    for number, (star, mjd) in enumerate(visits):
        shift = rng.normal(0, jitter)
        for name, pivot in PIVOTS.items():
            star_class, flux = STARS[star]
            model = flux * (pivot / 10) ** -2
            slope = odd[1] * (pivot - 7.6) if odd and star == odd[0] else 0.0
            seen = model * np.exp(offset[star] + shift + slope) * throughput(name, mjd)
            rate = 1e-6 * seen / (FACTORS[name] * AREA_SR) / 1.5 * np.exp(rng.normal(0, 1e-3))
            rows.append((star_class, star, name, "FULL", mjd, rate, 1e-3 * rate, number))
    columns = zip(*rows, strict=True)
    names = ("srctype", "name", "filter", "subarray", "timemid_mjd")
    names += ("aperture_sum_bkgsub_dn_s", "aperture_sum_bkgsub_err", "exposure")
    table = Table(dict(zip(names, columns, strict=True)))
    table["apcorr"], table["pixarea_sr"] = 1.5, AREA_SR
    photometry, models = folder / "photometry.ecsv", folder / "model_fluxes.ecsv"
    table.write(photometry)
    fluxes = Table({"name": list(STARS)})
    for name, pivot in PIVOTS.items():
        fluxes[name] = [flux * (pivot / 10) ** -2 for _, flux in STARS.values()]
        fluxes[name].unit = "Jy"
    fluxes.write(models)
    return photometry, models


def write_spectra(folder, stars, *, seed=2, header=None):
    """Write spectra as tables (wave, data, var, model), one of each star; their paths."""
    rng = np.random.default_rng(seed)
    wave = np.linspace(5.0, 12.0, 200)
    paths = []
    for star, slope in stars.items():
        model = 1e3 * (wave / 10) ** -2
        level = np.exp(rng.normal(0, 0.005) + slope * (wave - 8.5))
        data = model / 5.0 * level * np.exp(rng.normal(0, 1e-3, wave.size))
        table = Table({"wave": wave, "data": data, "var": (1e-3 * data) ** 2, "model": model})
        table["wave"].unit, table["model"].unit = "um", "uJy"
        table.meta.update(header or {})
        path = folder / f"{star.lower().replace(' ', '_')}.ecsv"
        table.write(path)
        paths.append(path)
    return paths
