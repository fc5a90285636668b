"""AbsFluxRatio on standard stars seen by Roman, and romancal's photom with what it writes."""

import numpy as np
import pytest
from astropy.table import Table
from fluxtables import AREA_SR, STARS

pytest.importorskip("roman_datamodels")
from jwst_tvbadpix.refmodels import RomanHeader, write_roman_photom
from jwst_tvbadpix.refmodels.roman_products import read_roman_photom
from jwst_tvbadpix.steps import AbsFluxRatio

# Day of the first observation [MJD], conversions [MJy/sr / (DN/s)], wavelengths [um].
T0 = 61415.0
FACTORS = {"F129": 0.41, "F158": 0.32}
PIVOTS = {"F129": 1.29, "F158": 1.58}
ELEMENTS = ("F062", "F129", "F158")


def write_template(path, detector="WFI01", elements=ELEMENTS):
    """A photom reference as it might be in use, every row of its own effective area."""
    wave = np.linspace(0.5, 2.3, 20, dtype="f4")
    rows = {
        element: {
            "photmjsr": 1.0,
            "uncertainty": 0.1,
            "pixelareasr": 2.8e-13,
            "collecting_area": 3.6,
            "wavelength": wave,
            "effective_area": wave * (k + 1),
        }
        for k, element in enumerate(elements)
    }
    rows["GRISM"] = {**rows[elements[0]], "photmjsr": None, "uncertainty": None}
    rows["GRISM"]["pixelareasr"] = None
    header = RomanHeader(detector, "2026-10-01T00:00:00", "In use", "GROUND", ("Made by a test.",))
    return write_roman_photom(path, rows, header=header)


def write_photometry(folder, *, loss=0.0, seed=4):
    """Photometry of standard stars through two elements, and the fluxes of their models [Jy]."""
    rng = np.random.default_rng(seed)
    rows, fluxes = [], {"name": list(STARS)}
    for star, (_, flux) in STARS.items():
        for visit in range(3):
            mjd = rng.uniform(T0, T0 + 600)
            for element, factor in FACTORS.items():
                model = flux * (PIVOTS[element] / 10) ** -2
                seen = model * (1 - loss * (mjd - T0) / 365)
                rate = 1e-6 * seen / (factor * AREA_SR) * np.exp(rng.normal(0, 2e-3))
                rows.append((star, element, mjd, rate, 1e-3 * rate, visit))
    names = ("name", "filter", "mjd", "rate", "rate_err", "visit")
    table = Table(dict(zip(names, zip(*rows, strict=True), strict=True)))
    table["instrument"], table["detector"] = "WFI", "WFI01"
    table["apcorr"], table["pixarea_sr"] = 1.0, AREA_SR
    photometry, models = folder / "photometry.ecsv", folder / "models.ecsv"
    table.write(photometry)
    for element, wave in PIVOTS.items():
        fluxes[element] = [flux * (wave / 10) ** -2 for _, flux in STARS.values()]
    made = Table(fluxes)
    for element in PIVOTS:
        made[element].unit = "Jy"
    made.write(models)
    return photometry, models


def run(inputs, folder, models, **parameters):
    AbsFluxRatio.call(
        str(inputs),
        save_results=True,
        output_dir=str(folder),
        output_file="std",
        model_fluxes=str(models),
        t0_mjd=T0,
        **parameters,
    )
    return {path.name.removeprefix("std_"): path for path in sorted(folder.iterdir())}


def test_rows_have_the_conversions_and_keep_the_rest(tmp_path):
    photometry, models = write_photometry(tmp_path)
    template = write_template(tmp_path / "template.asdf")
    files = run(
        photometry, tmp_path / "out", models, template_photom=[str(template)], time_form="none"
    )
    print(list(files))
    made, before = (
        read_roman_photom(path) for path in (files["WFI01_imaging_photom.asdf"], template)
    )
    print(made.header)
    assert made.rows.keys() == before.rows.keys()
    for element, factor in FACTORS.items():
        row = made.rows[element]
        print(row["photmjsr"], row["uncertainty"])
    assert 0
