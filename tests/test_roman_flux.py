"""AbsFluxRatio on standard stars seen by Roman."""

import json

import asdf
import numpy as np
import pytest
from astropy.table import Table
from astropy.time import Time
from fluxtables import AREA_SR, STARS
from pipeline import idle_collector
from skyfield import BETA, FWHM, render

pytest.importorskip("roman_datamodels")
from roman_small import SCALE, shrink_wfi

from jwst_tvbadpix.errors import TvBadPixError
from jwst_tvbadpix.refmodels import RomanHeader, write_roman_photom
from jwst_tvbadpix.refmodels.absflux import read_absflux
from jwst_tvbadpix.refmodels.roman_products import read_roman_photom
from jwst_tvbadpix.simulate import make_cal_step, make_wfi_image, make_wfi_wcs, save_roman
from jwst_tvbadpix.steps import AbsFluxRatio

# Day of the first observation [MJD], conversions [MJy/sr / (DN/s)], wavelengths [um].
T0 = 61415.0
FACTORS = {"F129": 0.41, "F158": 0.32}
PIVOTS = {"F129": 1.29, "F158": 1.58}
ELEMENTS = ("F062", "F129", "F158")
SHAPE = (160, 192)
PIXEL_SR = np.radians(SCALE) ** 2
# An aperture [pixel], and what it holds of a star of `render`.
RADIUS = 5.0
EE = 1 - (1 + RADIUS**2 * (2 ** (1 / BETA) - 1) / (FWHM / 2) ** 2) ** (1 - BETA)


def write_template(path, *, useafter="2026-10-01T00:00:00", elements=ELEMENTS):
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
    header = RomanHeader("WFI01", useafter, "In use", "GROUND", ("Made by a test.",))
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


def write_image(path, field_offset, star, visit, *, rate, mjd, target_ra=80.0):
    """A level-2 image with one star, of `rate` [DN/s], in the middle, and where it points."""
    ny, nx = SHAPE
    (x, y), sky = (nx / 2 + field_offset, ny / 2), 1.0
    image = sky + render([x], [y], [rate], SHAPE, reach=60)
    start = str(Time(mjd, format="mjd").isot)
    model = make_wfi_image(image, start=start, err=0.05)
    model.meta.wcs = make_wfi_wcs(-x, -y, 80.0, -30.0)
    model.meta.cal_step = make_cal_step(assign_wcs="COMPLETE")
    model.meta.observation.visit_id = f"{visit:019d}"
    model.meta.pointing.target_ra, model.meta.pointing.target_dec = target_ra, -30.0
    save_roman(model, path)
    return {"expname": path.name, "exptype": "science", "target": star}


def run(inputs, folder, models, **parameters):
    with idle_collector():
        AbsFluxRatio.call(
            inputs if isinstance(inputs, list) else str(inputs),
            save_results=True,
            output_dir=str(folder),
            output_file="std",
            model_fluxes=str(models),
            t0_mjd=T0,
            **{"report": False, "time_form": "none"} | parameters,
        )
    return {path.name.removeprefix("std_"): path for path in sorted(folder.iterdir())}


@pytest.fixture
def template(tmp_path):
    return write_template(tmp_path / "template.asdf")


def same_row(one, other, *left_out):
    keys = one.keys() - set(left_out)
    return one.keys() == other.keys() and all(
        np.array_equal(one[key], other[key])
        and getattr(one[key], "dtype", None) == getattr(other[key], "dtype", None)
        for key in keys
    )


def test_rows_have_the_conversions_and_keep_the_rest(tmp_path, template):
    photometry, models = write_photometry(tmp_path)
    files = run(photometry, tmp_path / "out", models, template_photom=[str(template)], report=True)
    assert "Closure" not in files["report.html"].read_text()  # nothing to measure, nothing missing
    made, before = map(read_roman_photom, (files["WFI01_imaging_photom.asdf"], template))
    assert made.rows.keys() == before.rows.keys()
    assert made.header.pedigree.startswith("INFLIGHT 2027-")
    for element, factor in FACTORS.items():
        row = made.rows[element]
        assert abs(row["photmjsr"] - factor) < 4 * row["uncertainty"] < 0.02 * factor
        assert row["pixelareasr"] == pytest.approx(AREA_SR)
        old = before.rows[element]
        assert same_row(row, old, "photmjsr", "uncertainty", "pixelareasr")
    for element in ("F062", "GRISM"):
        assert same_row(made.rows[element], before.rows[element])
    with asdf.open(files["WFI01_imaging_photom.asdf"]) as file:
        said = [entry["description"] for entry in file["history"]["entries"]]
    assert "Effective areas and all of F062, GRISM are those of template.asdf." in said
    parts = read_absflux(files["absflux.asdf"])
    assert list(parts.references) == ["std_WFI01_imaging_photom"]


def test_a_throughput_that_changes_makes_a_reference_per_epoch(tmp_path, template):
    photometry, models = write_photometry(tmp_path, loss=0.05)
    files = run(
        photometry,
        tmp_path / "out",
        models,
        template_photom=[str(template)],
        time_form="linear",
        freeze_days=300.0,
    )
    photoms = [path for name, path in files.items() if "_photom" in name]
    assert len(photoms) == 2
    first, second = (read_roman_photom(path).rows["F158"]["photmjsr"] for path in photoms)
    # Half of 600 days of 5 % per year lie between their middles.
    assert second / first == pytest.approx(1 + 0.05 * 300 / 365, rel=0.01)


def test_without_a_template_there_is_no_reference(tmp_path, caplog):
    photometry, models = write_photometry(tmp_path)
    files = run(photometry, tmp_path / "out", models)
    assert not [name for name in files if "photom" in name]
    assert "absflux.asdf" in files
    assert "the photom reference in use for WFI01" in caplog.text
    lacking = write_template(tmp_path / "lacking.asdf", elements=["F129"])
    run(photometry, tmp_path / "out", models, template_photom=[str(lacking)])
    assert "give a template with the rows of all" in caplog.text


def test_refuses_what_is_no_template(tmp_path, template):
    photometry, models = write_photometry(tmp_path)
    text = template.read_bytes().replace(b"wfi_img_photom-2.0.0", b"wfi_img_photom-9.0.0")
    (tmp_path / "later.asdf").write_bytes(text)
    for paths, said in (
        ([template, template], "one template of WFI01"),
        ([tmp_path / "later.asdf"], "a photom reference of WFI in .*later.asdf"),
    ):
        with pytest.raises(TvBadPixError, match=said):
            run(photometry, tmp_path / "out", models, template_photom=list(map(str, paths)))


def test_stars_are_measured_in_level_2_images(tmp_path, template, monkeypatch):
    shrink_wfi(monkeypatch, SHAPE)
    _, models = write_photometry(tmp_path)
    members = []
    for k, star in enumerate(("G 191-B2B", "GSPC P330-E", "BD+60 1753")):
        jansky = STARS[star][1] * (PIVOTS["F158"] / 10) ** -2
        rate = 1e-6 * jansky / (FACTORS["F158"] * PIXEL_SR)
        path = tmp_path / f"r{k}_wfi01_f158_cal.asdf"
        members.append(write_image(path, 5 * k, star, k, rate=rate, mjd=T0 + 30 * k))
    association = tmp_path / "asn.json"
    association.write_text(json.dumps({"products": [{"name": "std", "members": members}]}))
    apcorr = tmp_path / "apcorr.ecsv"
    columns = {"filter": ["F158"], "eefraction": [EE], "radius": [RADIUS], "apcorr": [1 / EE]}
    Table({**columns, "skyin": [60.0], "skyout": [75.0]}).write(apcorr)
    files = run(
        association,
        tmp_path / "out",
        models,
        template_photom=[str(template)],
        apcorr=str(apcorr),
        ee=EE,
    )
    row = read_roman_photom(files["WFI01_imaging_photom.asdf"]).rows["F158"]
    assert row["photmjsr"] == pytest.approx(FACTORS["F158"], rel=0.02)
    assert row["pixelareasr"] == pytest.approx(PIXEL_SR, rel=1e-4)


def test_two_telescopes_are_refused(tmp_path):
    photometry, models = write_photometry(tmp_path)
    table = Table.read(photometry)
    table.remove_columns(["filter", "instrument", "detector"])
    table["filter"], table["instrument"], table["detector"] = "F770W", "MIRI", "MIRIMAGE"
    table.write(tmp_path / "jwst.ecsv")
    fluxes = Table.read(models)
    fluxes["F770W"] = fluxes[next(iter(PIVOTS))]
    fluxes.write(models, overwrite=True)
    with pytest.raises(TvBadPixError, match="one telescope, found those of MIRI, WFI"):
        run([str(photometry), str(tmp_path / "jwst.ecsv")], tmp_path / "out", models)
