"""Files of one standard star: its CALSPEC model, a product of extract_1d, a photom reference."""

import numpy as np
from astropy.io import fits
from stdatamodels.jwst import datamodels

AREA = 2.8606e-13
T0 = 59720.0


def compute_model(wave):
    """Flux density of a star [Jy]."""
    return 0.02 * (wave / 8.0) ** -2


def write_calspec(folder, name="bd60d1753_mod_006.fits", low=0.4, high=32.0):
    folder.mkdir(exist_ok=True)
    wave = np.geomspace(low, high, 5000)
    flam = compute_model(wave) * 1e-23 * 2.99792458e18 / (wave * 1e4) ** 2
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column("WAVELENGTH", "D", "ANGSTROMS", array=wave * 1e4),
            fits.Column("FLUX", "D", "FLAM", array=flam),
        ]
    )
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(folder / name)
    return folder


def compute_factor(wave):
    """Calibration factor [MJy per DN/s]."""
    return 1e-12 * (2.0 + 0.3 * wave)


def make_x1d(flux_units=False, target="BD+60-1753", mjd=60100.0, r_photom=None):
    """Product of extract_1d of the LRS."""
    model = datamodels.MultiSpecModel()
    spec = datamodels.SpecModel()
    wave = np.linspace(5.0, 12.0, 200)
    rate = 1e-6 * compute_model(wave) / compute_factor(wave)
    table = np.zeros(200, spec.get_dtype("spec_table"))
    table["WAVELENGTH"], table["FLUX"], table["FLUX_ERROR"] = wave, rate, 0.01 * rate
    if flux_units:
        # Made by a reference that is 10 % too low, and knows a loss that the data have not.
        scale = 1e6 * 0.9 * compute_factor(wave) / compute_loss(mjd)
        table["FLUX"] *= scale
        table["FLUX_ERROR"] *= scale
    spec.spec_table = table
    model.spec.append(spec)
    meta = model.meta
    meta.filename = "jw01536001001_03101_00001_mirimage_x1d.fits"
    meta.instrument.name, meta.instrument.detector = "MIRI", "MIRIMAGE"
    meta.instrument.filter, meta.exposure.type = "P750L", "MIR_LRS-FIXEDSLIT"
    meta.subarray.name, meta.target.catalog_name = "FULL", target
    meta.exposure.mid_time = mjd
    meta.cal_step.photom = "COMPLETE" if flux_units else "SKIPPED"
    meta.ref_file.photom.name = r_photom
    return model


def compute_loss(mjd):
    return 1 - 0.02 * (mjd - T0) / 365.0


def write_photom(path, subarray="GENERIC"):
    """Reference of the LRS that is 10 % too low, with a linear loss."""
    model = datamodels.MirLrsPhotomModel()
    wave = np.linspace(4.0, 14.0, 150)
    row = np.zeros(1, model.get_dtype("phot_table"))
    row["filter"], row["subarray"], row["photmjsr"], row["nelem"] = "P750L", subarray, 1.0, 150
    size = model.get_dtype("phot_table")
    table = np.zeros(
        1,
        [
            (name, size[name], 150)
            if name in ("wavelength", "relresponse", "reluncertainty")
            else (name, size[name])
            for name in size.names
        ],
    )
    for name in ("filter", "subarray", "photmjsr", "nelem"):
        table[name] = row[name]
    table["wavelength"], table["relresponse"] = wave, 0.9 * compute_factor(wave) / AREA
    model.phot_table = table
    linear = np.zeros(1, model.get_dtype("timecoeff_linear"))
    linear["filter"], linear["subarray"] = "P750L", subarray
    linear["t0"], linear["lossperyear"] = T0, 0.02
    model.timecoeff_linear = linear
    model.meta.instrument.name = "MIRI"
    model.meta.photometry.pixelarea_steradians = AREA
    model.save(path)
    return path
