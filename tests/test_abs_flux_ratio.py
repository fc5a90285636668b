"""AbsFluxRatio as users run it: tables, spectra, associations, templates, bad input."""

import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fluxtables import FACTORS, STARS, T0, throughput, write_photometry, write_spectra
from jwst.datamodels import ModelLibrary
from pipeline import idle_collector, make_bare_environment
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import EvidenceError, InputError, TvBadPixError
from jwst_tvbadpix.fluxcal import fit_factors
from jwst_tvbadpix.refmodels import CLOSURE
from jwst_tvbadpix.refmodels.absflux import read_absflux
from jwst_tvbadpix.simulate import simulate_standard_stars
from jwst_tvbadpix.standards import read_standards
from jwst_tvbadpix.steps import AbsFluxRatio

BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench" / "absflux"
REAL = BENCH.parents[1] / "realdata" / "lrs_calspec"


@pytest.fixture(autouse=True)
def _no_crds(monkeypatch):
    for name in ("CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


def run(inputs, folder, **parameters):
    """Run the step and save; the products by the end of their names."""
    settings = {"output_dir": str(folder), "output_file": "std", "report": False} | parameters
    with idle_collector():
        AbsFluxRatio.call(inputs, save_results=True, **settings)
    return {path.name.removeprefix("std_"): path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    return write_photometry(tmp_path_factory.mktemp("tables"), odd=("HD 2811", 0.006))


@pytest.fixture(scope="module")
def products(tables, tmp_path_factory):
    photometry, models = tables
    return run(
        str(photometry),
        tmp_path_factory.mktemp("products"),
        model_fluxes=str(models),
        t0_mjd=T0,
        report=True,
    )


def test_the_products_are_those_of_the_design(products):
    assert sorted(products) == [
        "MIRIMAGE_imaging_photom.asdf",
        "MIRIMAGE_imaging_photom.fits",
        "absflux.asdf",
        "budget.png",
        "dependences.ecsv",
        "dependences.png",
        "factors.png",
        "leave_out.ecsv",
        "left_out.png",
        "modes.ecsv",
        "ratios.ecsv",
        "ratios.png",
        "repeatability.ecsv",
        "repeatability.png",
        "report.html",
        "residuals_flux_jy.png",
        "residuals_mjd.png",
        "residuals_wave.png",
        "response.png",
        "slopes.png",
        "star_factors.png",
        "stars.ecsv",
        "stars.png",
        "throughput.png",
        "visits.ecsv",
    ]
    fit = read_absflux(products["absflux.asdf"])
    assert list(fit.references) == ["std_MIRIMAGE_imaging_photom"]
    assert fit.closure.instance["reference"] == list(fit.references)
    assert 0 < fit.closure.instance["worst"][0] <= CLOSURE


def test_every_column_of_the_tables_is_described(products):
    tables = {name: Table.read(path) for name, path in products.items() if "ecsv" in name}
    assert len(tables) == 7
    for name, table in tables.items():
        assert all(table[column].description for column in table.colnames), name


def test_modes_say_what_the_reference_holds(products):
    modes = Table.read(products["modes.ecsv"])
    rows = fits.getdata(products["MIRIMAGE_imaging_photom.fits"], "PHOTOM")
    assert len(modes) == len(FACTORS)
    for row in modes:
        (written,) = rows[(rows["filter"] == row["filter"]) & (rows["subarray"] == "FULL")]
        assert written["photmjsr"] == pytest.approx(row["factor"], rel=1e-6)
        assert written["uncertainty"] == pytest.approx(row["factor_err"], rel=1e-6)
        assert (row["n_stars"], row["n_visits"]) == (len(STARS), 24 + 2 * len(STARS))
        # Jitter of the visits, 0.25 %, and noise of 0.1 % that is known of.
        assert row["rms_formal"] == pytest.approx(1e-3, rel=0.01)
        assert row["rms"] == pytest.approx(np.hypot(row["rms_formal"], row["rms_excess"]))
        assert row["rms_excess"] == pytest.approx(2.5e-3, rel=0.4)


def test_no_dependence_is_named_where_there_is_none(products):
    table = Table.read(products["dependences.ecsv"])
    assert "log10 flux [Jy]" in list(table["quantity"])
    assert set(table["verdict"]) == {"none"}


def test_stars_classes_and_epochs_are_left_out_in_turn(products):
    table = Table.read(products["leave_out.ecsv"])
    stars = set(Table.read(products["stars.ecsv"])["name"])
    assert set(table["name"][table["by"] == "star"]) == stars
    assert set(table["by"]) == {"star", "class", "epoch"}
    modes = set(Table.read(products["modes.ecsv"])["mode"])
    assert set(table["mode"]) == modes
    alone = table[table["by"] == "star"]
    pull = alone["ln_residual"] / np.hypot(alone["predicted_err"], alone["ln_err"])
    assert 0.5 < np.mean(np.abs(pull) < 1) < 0.95
    assert (table["ln_err"] > 0).all()
    assert (np.abs(table["ln_shift"]) > 0).all()


def test_rows_are_the_truth_and_its_change(products):
    with datamodels.open(products["MIRIMAGE_imaging_photom.fits"]) as model:
        rows = {(r["filter"], r["subarray"]): r for r in model.phot_table}
        tables = model.timecoeff_linear, model.timecoeff_exponential
    for name, truth in FACTORS.items():
        row = rows[name, "FULL"]
        assert row["photmjsr"] == pytest.approx(truth, abs=3 * float(row["uncertainty"]))
        assert row["uncertainty"] / truth < 0.01
        for mjd in (T0 + 600, T0 + 1200):
            linear, exponential = (
                t[(t["filter"] == name) & (t["subarray"] == "FULL")][0] for t in tables
            )
            days = mjd - T0
            f = 1 - linear["lossperyear"] * days / 365
            f *= (
                exponential["amplitude"] * np.exp(-days / exponential["tau"]) + exponential["const"]
            )
            assert f == pytest.approx(throughput(name, mjd), rel=0.01)


def test_the_asdf_twin_reads_as_the_fits_file(products):
    with (
        datamodels.open(products["MIRIMAGE_imaging_photom.fits"]) as one,
        datamodels.open(products["MIRIMAGE_imaging_photom.asdf"]) as two,
    ):
        assert type(one) is type(two)
        for name in ("phot_table", "timecoeff_linear"):
            np.testing.assert_array_equal(
                np.asarray(getattr(one, name)), np.asarray(getattr(two, name))
            )


def test_the_odd_star_is_found_and_no_other(products):
    stars = Table.read(products["stars.ecsv"])
    assert set(stars["name"]) == set(STARS)
    odd = {row["name"]: row["verdict"] for row in stars if row["verdict"] != "ok"}
    assert odd == {"HD 2811": "slope"}
    (row,) = stars[stars["name"] == "HD 2811"]
    assert row["slope_per_um"] == pytest.approx(0.006, abs=3 * row["slope_err"] + 1e-3)
    assert "%/um" in row["reason"]
    assert stars["slope_per_um"].unit == "1 / um"


def test_every_measurement_is_in_the_table_of_visits(products, tables):
    visits, photometry = Table.read(products["visits.ecsv"]), Table.read(tables[0])
    assert len(visits) == len(photometry)
    assert visits["used"].all()
    assert set(visits["given"]) == set(photometry["name"])
    good = visits[visits["name"] != "HD 2811"]
    assert np.std(good["residual"]) < 0.015


def test_the_same_tables_in_any_order_make_the_same_bytes(tables, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    photometry, models = tables
    table = Table.read(photometry)
    parts = []
    for name in np.unique(table["filter"]):
        parts.append(str(tmp_path / f"{name}.ecsv"))
        table[table["filter"] == name].write(parts[-1])
    found = [
        run(
            inputs,
            tmp_path / str(number),
            model_fluxes=str(models),
            time_form="linear",
            report=True,
        )
        for number, inputs in enumerate((parts, parts[::-1]))
    ]
    assert found[0].keys() == found[1].keys()
    differ = [
        name for name, path in found[0].items() if path.read_bytes() != found[1][name].read_bytes()
    ]
    assert not differ


def test_models_and_libraries_give_what_their_files_give(tmp_path):
    stars = simulate_standard_stars(tmp_path, filters=("F770W",), n_visits=5, subarray="SUB64")
    models = [datamodels.open(path) for path in stars.rates]
    made = [
        run(
            inputs,
            tmp_path / f"out{number}",
            model_fluxes=str(stars.models),
            apcorr=str(stars.apcorr),
        )
        for number, inputs in enumerate(
            (str(stars.association), models, ModelLibrary(str(stars.association)))
        )
    ]
    tables = [Table.read(part["visits.ecsv"]) for part in made]
    for other in tables[1:]:
        np.testing.assert_array_equal(other["factor"], tables[0]["factor"])
    truth = stars.factors["F770W"]
    left = [stars.losses["F770W"].evaluate(mjd) for mjd in tables[0]["mjd"]]
    np.testing.assert_allclose(tables[0]["factor"] * left, truth, rtol=0.03)
    for model in models:
        model.close()


def test_aperture_corrections_come_from_crds_where_asked_for(tmp_path):
    stars = simulate_standard_stars(tmp_path, filters=("F770W",), n_visits=4, subarray="SUB64")
    inputs, parameters = str(stars.association), {"model_fluxes": str(stars.models)}
    with pytest.raises(InputError, match="no CRDS set-up"):
        run(inputs, tmp_path / "none", apcorr="crds", **parameters)
    context = build_context(tmp_path / "crds", {"apcorr": [stars.apcorr]})
    with use_context(context):
        made = run(inputs, tmp_path / "out", apcorr="crds", **parameters)
    files = read_absflux(made["absflux.asdf"]).files
    assert context.names[stars.apcorr] in list(files.name)
    given = run(inputs, tmp_path / "given", apcorr=str(stars.apcorr), **parameters)
    tables = [Table.read(part["visits.ecsv"])["factor"] for part in (made, given)]
    np.testing.assert_array_equal(*tables)


def test_template_keeps_rows_and_their_order(products, tables, tmp_path):
    photometry, models = tables
    template = datamodels.MirImgPhotomModel(str(products["MIRIMAGE_imaging_photom.fits"]))
    table = Table.read(photometry)
    part = tmp_path / "part.ecsv"
    table[table["filter"] == "F1500W"].write(part)
    made = run(
        str(part),
        tmp_path / "out",
        model_fluxes=str(models),
        time_form="linear+exponential",
        t0_mjd=T0,
        template_photom=[str(products["MIRIMAGE_imaging_photom.fits"])],
    )
    old = template.phot_table
    new = fits.getdata(made["MIRIMAGE_imaging_photom.fits"], "PHOTOM")
    keys = [(row["filter"], row["subarray"]) for row in old]
    assert [(row["filter"], row["subarray"]) for row in new] == keys
    for (name, _), before, after in zip(keys, old, new, strict=True):
        assert (before["photmjsr"] == after["photmjsr"]) == (name != "F1500W")


def test_settings_that_the_measurements_speak_against_are_kept(tables, tmp_path):
    photometry, models = tables
    settings = {"time_form": "linear", "share": "common", "t0_mjd": T0}
    made = run(str(photometry), tmp_path / "out", model_fluxes=str(models), **settings)
    read = read_absflux(made["absflux.asdf"])
    (form,) = (note for note in read.notes if "given, linear, describes" in note)
    (share,) = (note for note in read.notes if "gives all modes one loss" in note)
    assert f"chi2 {read.share_test.chi2:.1f}" in share
    forms = read.forms.instance
    (aic,) = forms["aic"][forms["chosen"]]
    assert f"AIC larger by {aic:.1f}" in form


def test_template_of_another_instrument_is_refused_and_nothing_left(tables, tmp_path):
    photometry, models = tables
    path = tmp_path / "nircam.fits"
    model = datamodels.NrcImgPhotomModel()
    model.phot_table = np.array([("F200W", "CLEAR", 1, 0)], model.get_dtype("phot_table"))
    model.meta.instrument.name, model.meta.instrument.detector = "NIRCAM", "NRCB1"
    model.meta.reftype, model.meta.exposure.type = "PHOTOM", "NRC_IMAGE"
    model.meta.telescope, model.meta.author, model.meta.pedigree = "JWST", "A. Tester", "GROUND"
    model.meta.description, model.meta.useafter = "A test", "2022-01-01T00:00:00"
    model.save(path)
    with pytest.raises(InputError, match=r"NrcImgPhotomModel of NIRCAM NRCB1"):
        run(
            str(photometry),
            tmp_path / "out",
            model_fluxes=str(models),
            template_photom=[str(path)],
        )
    assert not list(tmp_path.glob("out/*"))


def test_spectra_in_an_association_carry_target_date_and_mode(tmp_path):
    stars = {"BD+60 1753": 0.0, "GSPC P330-E": 0.0, "10 Lac": 0.0, "HD 2811": 0.0, "mu Col": 0.016}
    paths = write_spectra(tmp_path, stars)
    said = {"exptype": "science", "instrument": "MIRI", "mode": "lrs", "subarray": "FULL"}
    members = [
        {"expname": path.name, "target": star, "mjd": T0 + 100 * k, **said}
        for k, (path, star) in enumerate(zip(paths, stars, strict=True))
    ]
    association = {"asn_type": "fluxcal", "products": [{"name": "lrs", "members": members}]}
    path = tmp_path / "lrs_asn.json"
    path.write_text(json.dumps(association))
    made = run(str(path), tmp_path / "out", time_form="none")
    row = fits.getdata(made["MIRIMAGE_lrs_photom.fits"], "PHOTOM")[0]
    # 5 uJy per DN/s of a point source, in pixels of PIXAR_SR.
    area = fits.getval(made["MIRIMAGE_lrs_photom.fits"], "PIXAR_SR")
    factor = row["photmjsr"] * row["relresponse"] * area
    np.testing.assert_allclose(factor, 5e-12, rtol=0.015)
    verdicts = {row["name"]: row["verdict"] for row in Table.read(made["stars.ecsv"])}
    assert verdicts.pop("mu Col") == "slope"
    assert set(verdicts.values()) == {"ok"}


def test_spectra_of_an_unknown_mode_make_tables_and_no_reference(tmp_path, caplog):
    paths = write_spectra(tmp_path, {"BD+60 1753": 0.0, "GSPC P330-E": 0.0}, header={"TARGET": "x"})
    members = [{"expname": path.name, "target": path.stem, "exptype": "science"} for path in paths]
    association = tmp_path / "asn.json"
    association.write_text(json.dumps({"products": [{"name": "x", "members": members}]}))
    with caplog.at_level(logging.WARNING):
        made = run(str(association), tmp_path / "out")
    assert not [name for name in made if "photom" in name]
    assert {"stars.ecsv", "visits.ecsv", "absflux.asdf"} <= set(made)
    assert "mode is not known" in caplog.text


@pytest.mark.parametrize(
    ("change", "parameters", "error", "message"),
    [
        ({}, {"model_fluxes": ""}, EvidenceError, "no model flux"),
        ({"timemid_mjd": 59800.0}, {"time_form": "linear"}, EvidenceError, "time"),
        ({"filter": "F999W"}, {}, TvBadPixError, "F999W"),
        ({}, {"time_form": "cubic"}, InputError, "cubic"),
        ({}, {"t0_mjd": 2459720.5}, TvBadPixError, "in t0_mjd, found 2.45"),
        ({"aperture_sum_bkgsub_dn_s": -1.0}, {}, EvidenceError, "positive"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(
    tables, tmp_path, change, parameters, error, message
):
    photometry, models = tables
    table = Table.read(photometry)
    for name, value in change.items():
        table[name] = value
    path = tmp_path / "photometry.ecsv"
    table.write(path)
    with pytest.raises(error, match=message):
        run(str(path), tmp_path / "out", **{"model_fluxes": str(models), **parameters})
    assert not list(tmp_path.glob("out/*"))


def test_parameters_have_the_names_and_defaults_of_the_numerics():
    defaults = AbsFluxRatio().get_pars()
    for function in (fit_factors, read_standards):
        for name, parameter in inspect.signature(function).parameters.items():
            if name in ("measurements", "inputs", "said"):
                continue
            # In a spec there is no None and no infinity: empty, and 0, say so.
            ours, theirs = defaults[name], parameter.default
            assert ours == theirs or (theirs in (None, np.inf) and not ours), name


def test_the_published_recipe_stands_beside_the_joint_fit(tables, tmp_path):
    photometry, models = tables
    made = run(str(photometry), tmp_path, model_fluxes=str(models), method="gordon2025")
    recipe = Table.read(made["recipe.ecsv"])
    rows = fits.getdata(made["MIRIMAGE_imaging_photom.fits"], "PHOTOM")
    for row in recipe:
        (written,) = rows[(rows["filter"] == row["filter"]) & (rows["subarray"] == "SUB64")]
        # By the recipe, one response of a subarray in all filters.
        assert written["photmjsr"] * 0.966 == pytest.approx(row["recipe"], rel=1e-6)
        assert abs(row["ln_recipe_over_joint_t0"]) < 0.02
        assert row["recipe"] != row["joint"]
    assert all(recipe[column].description for column in recipe.colnames)
    history = " ".join(fits.getheader(made["MIRIMAGE_imaging_photom.fits"])["HISTORY"])
    assert "Method gordon2025" in history
    assert read_absflux(made["absflux.asdf"]).settings.method == "gordon2025"


@pytest.mark.skipif(not BENCH.is_dir(), reason="benchmark tables are absent")
def test_strun_takes_the_tables_of_the_public_recipe(tmp_path):
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("strun")),
            "abs_flux_ratio",
            str(BENCH / "photometry.ecsv"),
            f"--model_fluxes={BENCH / 'model_flux_jy.ecsv'}",
        ],
        env=make_bare_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = fits.getdata(tmp_path / "photometry_MIRIMAGE_imaging_photom.fits", "PHOTOM")
    truth = Table.read(BENCH / "truth.ecsv")
    for line in truth:
        (row,) = rows[(rows["filter"] == line["filter"]) & (rows["subarray"] == "FULL")]
        assert row["photmjsr"] == pytest.approx(line["C_true"], rel=0.01)
    verdicts = Table.read(tmp_path / "photometry_stars.ecsv")
    odd = verdicts[verdicts["verdict"] != "ok"]
    assert list(odd["name"]) == ["HD 180609"]


@pytest.mark.skipif(not REAL.is_dir(), reason="spectra of flight are absent")
def test_real_spectra_run_as_they_are(tmp_path):
    paths = sorted(REAL.glob("*.fits"))
    made = run([str(path) for path in paths], tmp_path / "out", instrument="MIRI", mode="lrs")
    row = fits.getdata(made["MIRIMAGE_lrs_photom.fits"], "PHOTOM")[0]
    area = fits.getval(made["MIRIMAGE_lrs_photom.fits"], "PIXAR_SR")
    factor = 1e12 * row["photmjsr"] * area * np.interp(8.0, row["wavelength"], row["relresponse"])
    # Between the smallest and the largest of the five visits.
    assert 5.20 < factor < 5.38
    stars = Table.read(made["stars.ecsv"])
    assert set(stars["verdict"]) == {"ok"}
