"""Files of standard stars made into measurements: tables, images, spectra, models, references."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from standard_files import (
    AREA,
    compute_factor,
    compute_model,
    make_x1d,
    write_calspec,
    write_photom,
)
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.errors import EvidenceError, InputError, TvBadPixError
from jwst_tvbadpix.fluxcal.synthetic import Spectrum, compute_band_flux
from jwst_tvbadpix.standards import read_standards
from jwst_tvbadpix.standards.models import read_bandpass, read_fluxes, read_spectrum

SHARED = Path(__file__).resolve().parents[2] / "shared"


def write_photometry(path, **changes):
    table = Table(
        {
            "srctype": ["ADwarfs", "ADwarfs"],
            "name": ["BD+60 1753", "HD 2811"],
            "filter": ["F770W", "F770W"],
            "subarray": ["SUB256", "SUB64"],
            "timemid_mjd": [59800.0, 59900.0],
            "aperture_sum_bkgsub_dn_s": [1e5, 1e6],
            "aperture_sum_bkgsub_err": [100.0, 1000.0],
            "apcorr": [1.53, 1.53],
            "pixarea_sr": [AREA, AREA],
            "pix_max": [1e9, 1e9],
        }
    )
    for key, value in changes.items():
        table[key] = value
    table.write(path)
    return path


def write_models(path, unit="Jy", scale=1.0, key="F770W"):
    table = Table({"name": ["BD60-1753", "HD2811"], key: np.array([0.0114, 0.114]) * scale})
    if unit:
        table[key].unit = unit
    table.write(path)
    return path


def test_a_table_with_the_names_of_the_recipe_is_taken_as_it_is(tmp_path):
    table = write_photometry(tmp_path / "photometry.ecsv")
    models = write_models(tmp_path / "models.ecsv")
    found = read_standards(table, model_fluxes=models)
    m = found.measurements
    assert m.used.all()
    expected = 1e-6 * np.array([0.0114 / 1e5, 0.114 / 1e6]) / (1.53 * AREA)
    np.testing.assert_allclose(m.factor, expected, rtol=1e-12)
    assert m.bands[0].mode.label == "MIRIMAGE imaging F770W"
    assert {(f.role, f.name) for f in found.files} == {
        ("input", "photometry.ecsv"),
        ("model", "models.ecsv"),
    }
    assert all(len(f.sha256) == 64 for f in found.files)


@pytest.mark.parametrize("suffix", ["ecsv", "csv", "fits"])
def test_tables_of_all_formats_say_the_same(tmp_path, suffix):
    table = write_photometry(tmp_path / f"photometry.{suffix}")
    models = write_models(tmp_path / f"models.{suffix}", unit="" if suffix == "csv" else "Jy")
    factor = read_standards(table, model_fluxes=models).measurements.factor
    np.testing.assert_allclose(factor, 1e-6 * 1.14e-7 / (1.53 * AREA), rtol=1e-12)


def test_fluxes_of_another_unit_are_converted_or_refused(tmp_path):
    table = write_photometry(tmp_path / "photometry.ecsv")
    jy = write_models(tmp_path / "jy.ecsv")
    mjy = write_models(tmp_path / "mjy.ecsv", unit="mJy", scale=1000.0)
    first, second = (
        read_standards(table, model_fluxes=path).measurements.factor for path in (jy, mjy)
    )
    np.testing.assert_allclose(first, second, rtol=1e-12)
    with pytest.raises(InputError, match=r"in the column F770W of mag\.ecsv"):
        read_standards(table, model_fluxes=write_models(tmp_path / "mag.ecsv", unit="mag"))


def test_rates_of_another_unit_are_refused(tmp_path):
    table = Table.read(write_photometry(tmp_path / "photometry.ecsv"))
    table["aperture_sum_bkgsub_dn_s"].unit = "MJy/sr"
    table.write(tmp_path / "other.ecsv")
    with pytest.raises(InputError, match="expected numbers in DN/s"):
        read_standards(tmp_path / "other.ecsv", model_fluxes=write_models(tmp_path / "models.ecsv"))


def test_columns_without_a_unit_go_with_that_of_the_rate(tmp_path):
    plain = Table.read(write_photometry(tmp_path / "photometry.ecsv"))
    other = plain.copy()
    for key in ("aperture_sum_bkgsub_dn_s", "aperture_sum_bkgsub_err"):
        other[key] = 60 * plain[key]
    other["aperture_sum_bkgsub_dn_s"].unit = "DN/min"
    other.write(tmp_path / "minutes.ecsv")
    models = write_models(tmp_path / "models.ecsv")
    one, two = (
        read_standards(tmp_path / name, model_fluxes=models).measurements
        for name in ("photometry.ecsv", "minutes.ecsv")
    )
    np.testing.assert_allclose(two.factor, one.factor)
    np.testing.assert_allclose(two.sigma, one.sigma)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"pixarea_sr": 0.0121}, "expected areas of pixels in sr"),
        (
            {"aperture_sum_bkgsub_dn_s": 10.0, "aperture_sum_bkgsub_err": 0.1},
            "in other units than said",
        ),
        ({"telescope": "HST"}, r"observations of JWST or Roman in photometry\.ecsv, found HST"),
        ({"timemid_mjd": 2459800.5}, r"dates as MJD within .* in photometry\.ecsv"),
        ({"filter": ["F770W", "XYZ"], "name": "BD+60 1753"}, "pivot wavelength .* for XYZ"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, changes, why):
    table = write_photometry(tmp_path / "photometry.ecsv", **changes)
    with pytest.raises(TvBadPixError, match=why):
        read_standards(table, model_fluxes=write_models(tmp_path / "models.ecsv"))


@pytest.mark.parametrize(
    ("column", "why"), [("name", "no name of the star"), ("filter", "no filter")]
)
def test_rows_without_a_star_or_a_filter_are_left_out(tmp_path, column, why):
    table = Table(Table.read(write_photometry(tmp_path / "photometry.ecsv")), masked=True)
    table[column].mask = [False, True]
    table.write(tmp_path / "masked.ecsv")
    found = read_standards(
        tmp_path / "masked.ecsv", model_fluxes=write_models(tmp_path / "models.ecsv")
    )
    assert found.measurements.reason.tolist() == ["", why]


def test_fluxes_that_are_text_are_refused(tmp_path):
    path = tmp_path / "models.csv"
    path.write_text("name,F770W\nBD+60 1753,11.4 mJy\n")
    with pytest.raises(InputError, match=r"expected numbers in Jy in the column F770W"):
        read_fluxes(path)


def test_an_input_given_twice_is_refused(tmp_path):
    table = write_photometry(tmp_path / "a.ecsv")
    copy = tmp_path / "b.ecsv"
    copy.write_bytes(table.read_bytes())
    with pytest.raises(InputError, match=r"b\.ecsv the same as a\.ecsv"):
        read_standards([table, copy], model_fluxes=write_models(tmp_path / "models.ecsv"))


def test_a_star_twice_in_the_models_is_refused(tmp_path):
    path = tmp_path / "models.csv"
    path.write_text("name,F770W\nBD+60 1753,0.01\nBD60-1753,0.02\n")
    with pytest.raises(InputError, match="each star once"):
        read_fluxes(path)


@pytest.mark.parametrize("text", ["", "not a table", "a,b\n1,2\n"])
def test_a_broken_table_is_named(tmp_path, text):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"broken\.csv"):
        read_standards(path)


@pytest.mark.parametrize(
    "inputs", ["nothing.ecsv", "nothing.json", 7, []], ids=["file", "asn", "number", "empty"]
)
def test_no_input_is_named(inputs):
    with pytest.raises(InputError, match="expected"):
        read_standards(inputs)


# --- models ------------------------------------------------------------------------------------


def write_bandpass(folder, name="F770W.ecsv"):
    folder.mkdir(exist_ok=True)
    wave = np.linspace(6.5, 8.8, 400)
    throughput = np.exp(-0.5 * ((wave - 7.65) / 0.7) ** 8)
    table = Table({"wavelength": wave, "throughput": throughput})
    table["wavelength"].unit = "um"
    table.write(folder / name)
    return folder


def test_a_calspec_file_is_read_in_um_and_jy(tmp_path):
    spectrum = read_spectrum(write_calspec(tmp_path / "c") / "bd60d1753_mod_006.fits")
    assert (spectrum.wave[0], spectrum.wave[-1]) == pytest.approx((0.4, 32.0))
    np.testing.assert_allclose(spectrum.flux_jy, compute_model(spectrum.wave), rtol=1e-6)


def test_a_text_file_of_synphot_is_read_too(tmp_path):
    wave = np.geomspace(4.0, 12.0, 500)
    flam = compute_model(wave) * 1e-23 * 2.99792458e18 / (wave * 1e4) ** 2
    path = tmp_path / "hd2811_model.dat"
    np.savetxt(path, np.column_stack([wave * 1e4, flam]))
    spectrum = read_spectrum(path)
    np.testing.assert_allclose(spectrum.flux_jy, compute_model(spectrum.wave), rtol=1e-6)


def test_synthetic_photometry_of_a_folder(tmp_path):
    spectra = write_calspec(tmp_path / "calspec")
    write_calspec(spectra, "hd2811_mod_006.fits")
    bandpasses = write_bandpass(tmp_path / "passes", "miri_F770W_pce.ecsv")
    table = write_photometry(tmp_path / "photometry.ecsv")
    found = read_standards(table, model_spectra=spectra, bandpasses=bandpasses)
    bandpass = read_bandpass(bandpasses / "miri_F770W_pce.ecsv", "F770W")
    wave = np.linspace(6, 10, 3000)
    flux = compute_band_flux(Spectrum("star", wave, compute_model(wave)), bandpass)
    np.testing.assert_allclose(found.measurements.flux_jy, flux, rtol=1e-6)
    # The pivot is that of the bandpass, not the name's.
    assert found.measurements.bands[0].wave == pytest.approx(7.62, abs=0.02)
    assert {f.role for f in found.files} == {"input", "model", "bandpass"}


def test_a_mode_without_bandpass_is_named(tmp_path):
    table = write_photometry(tmp_path / "photometry.ecsv")
    spectra = write_calspec(tmp_path / "calspec")
    with pytest.raises(InputError, match="expected a bandpass of F770W"):
        read_standards(table, model_spectra=spectra)


def test_a_star_without_model_is_named(tmp_path):
    table = write_photometry(tmp_path / "photometry.ecsv")
    m = read_standards(
        table,
        model_spectra=write_calspec(tmp_path / "calspec"),
        bandpasses=write_bandpass(tmp_path / "passes"),
    ).measurements
    assert m.reason.tolist() == ["", "no model flux of HD 2811 in F770W"]


def test_a_broken_spectrum_is_named(tmp_path):
    path = tmp_path / "p330e_mod_001.fits"
    path.write_bytes(b"SIMPLE  =                    T")
    with pytest.raises(InputError, match="p330e_mod_001"):
        read_spectrum(path)


# --- spectra -----------------------------------------------------------------------------------


def write_spectrum(path, shift=0.0, header=(), ivar=False, unit="um", scale=1.0):
    wave = np.linspace(5.0, 12.0, 200) + shift
    rate = 1e-6 * compute_model(wave) / compute_factor(wave)
    err = 0.01 * rate
    table = Table(
        {
            "wavelength" if ivar else "wave": wave * scale,
            "data": rate,
            "data_ivar" if ivar else "var": 1 / err**2 if ivar else err**2,
            "calspec_model" if ivar else "model": compute_model(wave) * 1e6,
        }
    )
    table["wavelength" if ivar else "wave"].unit = unit
    table["calspec_model" if ivar else "model"].unit = "uJy"
    hdu = fits.table_to_hdu(table)
    hdu.header.update(dict(header))
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)
    return path


def check_spectra(m, rtol=1e-3):
    wave = np.array([m.bands[b].wave for b in m.band])
    np.testing.assert_allclose(m.factor[m.used], compute_factor(wave)[m.used], rtol=rtol)


def test_tables_of_spectra_are_visits(tmp_path):
    calspec = {"CALSPREF": "bd60d1753_mod_006.fits"}
    paths = [
        write_spectrum(tmp_path / f"{k}.fits", shift=0.002 * k, header=calspec, ivar=k == 1)
        for k in range(3)
    ]
    m = read_standards(paths, said={"instrument": "MIRI", "mode": "lrs"}).measurements
    check_spectra(m)
    assert set(m.star.tolist()) == {"BD+60 1753"}
    assert len(set(m.visit.tolist())) == 3
    assert m.bands[0].mode.label == "MIRIMAGE lrs P750L"


def test_units_of_wavelength_are_converted(tmp_path):
    header = {"TARGNAME": "BD+60 1753"}
    path = write_spectrum(tmp_path / "a.fits", header=header, unit="Angstrom", scale=1e4)
    check_spectra(read_standards(path).measurements)


def test_an_association_says_target_time_and_mode(tmp_path):
    write_spectrum(tmp_path / "a.fits")
    write_spectrum(tmp_path / "b.fits", shift=0.001)
    members = [
        {
            "expname": name,
            "exptype": "science",
            "target": "P330E",
            "mjd": mjd,
            "instrument": "MIRI",
            "detector": "MIRIMAGE",
            "mode": "lrs",
        }
        for name, mjd in (("a.fits", 59800.0), ("b.fits", 60100.0))
    ]
    path = tmp_path / "asn.json"
    path.write_text(json.dumps({"products": [{"name": "x", "members": members}]}))
    m = read_standards(path).measurements
    assert set(m.star.tolist()) == {"GSPC P330-E"}
    assert set(m.given.tolist()) == {"P330E"}
    assert set(m.mjd.tolist()) == {59800.0, 60100.0}
    assert m.bands[0].mode.kind == "lrs"


def test_errors_go_with_the_unit_of_the_data(tmp_path):
    header = {"TARGNAME": "BD+60 1753"}
    table = Table.read(write_spectrum(tmp_path / "a.fits", header=header), hdu=1)
    table["data"], table["var"] = 60 * table["data"], 3600 * table["var"]
    table["data"].unit = "DN/min"
    table.meta.update(header)
    table.write(tmp_path / "b.ecsv")
    one, two = (read_standards(tmp_path / k).measurements for k in ("a.fits", "b.ecsv"))
    np.testing.assert_allclose(two.sigma, one.sigma)
    np.testing.assert_allclose(two.factor, one.factor)


def test_models_in_another_unit_than_said_are_refused(tmp_path):
    path = write_spectrum(tmp_path / "a.fits", header={"TARGNAME": "BD+60 1753"})
    table = Table.read(path, hdu=1)
    table["model"] *= 1e-6
    table.write(tmp_path / "b.fits")
    with pytest.raises(InputError, match="in other units than said"):
        read_standards(tmp_path / "b.fits", said={"instrument": "MIRI", "mode": "lrs"})


def test_a_spectrum_of_nobody_is_named(tmp_path):
    with pytest.raises(InputError, match=r"expected the star of a\.fits"):
        read_standards(write_spectrum(tmp_path / "a.fits"))


def test_a_spectrum_of_no_such_mode_is_refused(tmp_path):
    path = write_spectrum(tmp_path / "a.fits", header={"TARGNAME": "BD+60 1753"})
    with pytest.raises(InputError, match="expected a mode out of"):
        read_standards(path, said={"instrument": "MIRI", "mode": "banana"})


def test_rows_of_no_wavelength_are_left_out(tmp_path):
    path = write_spectrum(tmp_path / "a.fits", header={"TARGNAME": "BD+60 1753"})
    table = Table.read(path, hdu=1)
    table["wave"][5], table["wave"][9] = np.nan, table["wave"][8]
    table.write(tmp_path / "b.fits")
    check_spectra(read_standards(tmp_path / "b.fits").measurements, rtol=0.01)


def test_a_spectrum_of_an_unknown_mode_is_measured(tmp_path):
    path = write_spectrum(tmp_path / "a.fits", header={"TARGNAME": "BD+60 1753"})
    assert read_standards(path).measurements.bands[0].mode.kind == "unknown"


def test_x1d_in_dn_is_compared_with_the_model(tmp_path):
    model = make_x1d()
    path = tmp_path / model.meta.filename
    model.save(path)
    found = read_standards(path, model_spectra=write_calspec(tmp_path / "calspec"))
    check_spectra(found.measurements)
    m = found.measurements
    assert m.bands[0].mode.label == "MIRIMAGE lrs P750L"
    assert set(m.subarray.tolist()) == {"FULL"}
    assert [f.about for f in found.files if f.role == "model"] == ["BD+60 1753"]
    in_memory = read_standards(model, model_spectra=tmp_path / "calspec").measurements
    np.testing.assert_array_equal(in_memory.factor, m.factor)


def test_x1d_in_jy_is_brought_back_by_the_reference_that_made_it(tmp_path):
    """C_new = C_R_PHOTOM(t) x model / observed: its error and its loss fall out."""
    photom = write_photom(tmp_path / "jwst_miri_photom_0042.fits")
    model = make_x1d(flux_units=True, r_photom="crds://jwst_miri_photom_0042.fits")
    spectra = write_calspec(tmp_path / "calspec")
    found = read_standards(model, model_spectra=spectra, photom=photom)
    check_spectra(found.measurements)
    assert [f.name for f in found.files if f.role == "photom"] == [photom.name]


@pytest.mark.parametrize(
    ("r_photom", "why"),
    [
        ("crds://jwst_miri_photom_0001.fits", "expected the photom reference crds://"),
        (None, "expected R_PHOTOM"),
    ],
)
def test_x1d_in_jy_without_its_reference_is_refused(tmp_path, r_photom, why):
    photom = write_photom(tmp_path / "jwst_miri_photom_0042.fits")
    model = make_x1d(flux_units=True, r_photom=r_photom)
    with pytest.raises(InputError, match=why):
        read_standards(model, model_spectra=write_calspec(tmp_path / "calspec"), photom=photom)


def test_a_reference_without_the_row_is_refused(tmp_path):
    photom = write_photom(tmp_path / "jwst_miri_photom_0042.fits", subarray="SLITLESSPRISM")
    model = make_x1d(flux_units=True, r_photom=photom.name)
    with pytest.raises(InputError, match="expected a row of MIRIMAGE lrs P750L FULL"):
        read_standards(model, model_spectra=write_calspec(tmp_path / "calspec"), photom=photom)


def test_a_background_and_a_star_without_model_are_left_out(tmp_path):
    spectra = write_calspec(tmp_path / "calspec")
    good = make_x1d()
    others = [make_x1d(target=t, mjd=60200.0 + k) for k, t in enumerate(("HD2811-BKG", "10LAC"))]
    m = read_standards([good, *others], model_spectra=spectra).measurements
    assert set(m.reason.tolist()) == {
        "",
        "the target is a background",
        "no model spectrum of 10LAC",
    }


# --- images ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    from jwst_tvbadpix.simulate.standard_stars import simulate_standard_stars

    return simulate_standard_stars(tmp_path_factory.mktemp("stars"), n_visits=2, jitter=0.0)


def get_truth(simulated, m):
    stars = {find: star.offset for find, star in zip(m.source, simulated.stars, strict=True)}
    true = [
        simulated.factors[m.bands[b].mode.filter]
        / simulated.losses[m.bands[b].mode.filter].evaluate(t)
        * np.exp(-stars[source])
        for b, t, source in zip(m.band, m.mjd, m.source, strict=True)
    ]
    return np.array(true)


def test_images_of_standards_give_the_factors(simulated):
    found = read_standards(
        simulated.association, model_fluxes=simulated.models, apcorr=simulated.apcorr
    )
    m = found.measurements
    assert m.used.all()
    pull = np.log(m.factor / get_truth(simulated, m)) / m.sigma
    assert np.abs(pull).max() < 3.5
    assert (m.sigma < 0.01).all()
    assert m.bands[0].mode.label == "MIRIMAGE imaging F1000W"
    assert np.isfinite(m.well_depth).all()
    assert ((m.well_depth > 0) & (m.well_depth < 1)).all()
    assert "apcorr" in {f.role for f in found.files}


def change_image(simulated, tmp_path, change):
    """Read the first image after a change."""
    with datamodels.open(simulated.rates[0]) as model:
        copy = model.copy()
    change(copy)
    path = tmp_path / simulated.rates[0].name
    copy.save(path)
    return read_standards(path, model_fluxes=simulated.models, apcorr=simulated.apcorr).measurements


def test_a_calibrated_image_is_not_corrected_twice(simulated, tmp_path):
    """PHOTMJSR holds the change with time; divided by it, an image is in DN/s again."""

    def calibrate(model):
        model.data = model.data * 0.31
        model.err = model.err * 0.31
        model.meta.bunit_data = "MJy/sr"
        model.meta.photometry.conversion_megajanskys = 0.31

    first = change_image(simulated, tmp_path, lambda model: None)
    second = change_image(simulated, tmp_path, calibrate)
    np.testing.assert_allclose(second.factor, first.factor, rtol=1e-5)
    np.testing.assert_allclose(second.sigma, first.sigma, rtol=1e-5)


def set_unit(unit):
    def change(model):
        model.meta.bunit_data = unit

    return change


@pytest.mark.parametrize("unit", ["MJy", "electron/s", None])
def test_an_image_of_another_unit_is_refused(simulated, tmp_path, unit):
    with pytest.raises(InputError, match="expected BUNIT DN/s or MJy/sr"):
        change_image(simulated, tmp_path, set_unit(unit))


def test_a_calibrated_image_without_photmjsr_is_refused(simulated, tmp_path):
    with pytest.raises(InputError, match="expected PHOTMJSR"):
        change_image(simulated, tmp_path, set_unit("MJy/sr"))


def saturate(model):
    y, x = np.unravel_index(np.nanargmax(model.data), model.data.shape)
    model.dq[y, x] |= 2


def blank(model):
    y, x = np.unravel_index(np.nanargmax(model.data), model.data.shape)
    model.data[y, x] = np.nan


def darken(model):
    model.meta.exposure.type = "MIR_DARKIMG"


def refilter(model):
    model.meta.instrument.filter = "F2550W"


def rename(model):
    model.meta.target.catalog_name = "HD2811-BKG"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (saturate, "saturated"),
        (blank, "bad pixel in the core"),
        (darken, "EXP_TYPE MIR_DARKIMG is no image of the sky"),
        (refilter, "no row of F2550W in the APCORR reference"),
        (rename, "the target is a background"),
    ],
)
def test_an_image_that_cannot_be_measured_says_why(simulated, tmp_path, change, why):
    with pytest.raises(EvidenceError, match=why):
        change_image(simulated, tmp_path, change)


def test_a_pixel_area_that_contradicts_the_wcs_is_said(simulated, tmp_path, caplog):
    def change(model):
        model.meta.photometry.pixelarea_steradians = 1.02 * AREA

    change_image(simulated, tmp_path, change)
    assert "the WCS counts" in caplog.text


def test_an_encircled_energy_that_the_reference_lacks_is_refused(simulated):
    with pytest.raises(InputError, match=r"encircled energy 0\.75 .* found 0\.50, 0\.60"):
        read_standards(
            simulated.rates[0],
            model_fluxes=simulated.models,
            apcorr=simulated.apcorr,
            ee=0.75,
        )


def test_given_apertures_are_of_one_energy(simulated):
    given = {"ee": 0.7, "radius": 3.0, "apcorr": 1.25, "sky_in": 6.0, "sky_out": 9.0}
    with pytest.raises(InputError, match="of another aperture"):
        read_standards(simulated.rates[0], model_fluxes=simulated.models, apcorr=given)
    with pytest.raises(InputError, match="found no sky_in, sky_out"):
        read_standards(
            simulated.rates[0],
            model_fluxes=simulated.models,
            apcorr={"ee": 0.7, "radius": 3.0, "apcorr": 1.45},
        )


def test_images_without_aperture_are_refused(simulated):
    with pytest.raises(InputError, match="expected an APCORR reference of MIRI"):
        read_standards(simulated.rates[0], model_fluxes=simulated.models)


# --- real data ---------------------------------------------------------------------------------

BENCH, REAL = SHARED / "bench" / "absflux", SHARED / "realdata"


@pytest.mark.skipif(not BENCH.is_dir(), reason="the benchmark is not here")
def test_the_benchmark_is_read_as_it_is():
    m = read_standards(
        BENCH / "photometry.ecsv", model_fluxes=BENCH / "model_flux_jy.ecsv"
    ).measurements
    assert m.used.sum() == 637
    truth = Table.read(BENCH / "truth.ecsv")
    offsets = Table.read(BENCH / "truth_star_offsets.ecsv")
    delta = dict(zip(offsets["name"], offsets["delta"], strict=True))
    c_true = dict(zip(truth["filter"], truth["C_true"], strict=True))
    short = np.array([m.bands[b].mode.filter in ("F560W", "F770W") for b in m.band])
    early = short & (m.mjd < 59900) & (m.star == "BD+60 1753")
    true = np.array([c_true[m.bands[b].mode.filter] for b in m.band[early]])
    # A star brighter by delta gives a factor lower by it; the subarray adds 2 %.
    np.testing.assert_allclose(m.factor[early] / true + delta["BD+60 1753"], 1, atol=0.035)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real spectra are not here")
@pytest.mark.parametrize(
    ("visit", "expected"),
    [
        ("jw01033002-bd60d1753", (3.2895, 5.3721, 10.820, 40.210)),
        ("jw06620-obs13", (3.3572, 5.3526, 10.706, 39.650)),
        ("jw04496017-j1757132", (3.2742, 5.2713, 10.653, 39.514)),
        ("jw01538021-p330e", (3.2592, 5.2863, 10.708, 39.402)),
        ("jw06606036-p330e", (3.2537, 5.2268, 10.613, 39.249)),
    ],
)
def test_real_lrs_spectra_give_the_known_factors(visit, expected):
    path = REAL / "lrs_calspec" / f"calspec_correction_{visit}.fits"
    m = read_standards(path, said={"instrument": "MIRI", "mode": "lrs"}).measurements
    wave = np.array([m.bands[b].wave for b in m.band])
    found = np.interp((6.0, 8.0, 10.0, 11.5), wave, 1e12 * m.factor)
    np.testing.assert_allclose(found, expected, rtol=0.01)
    assert m.used[wave < 13].all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the real spectra are not here")
@pytest.mark.parametrize(
    ("grating", "waves"),
    [
        ("g140h_f100lp", (1.05, 1.4, 1.75)),
        ("g235m_f170lp", (2.07, 3.40, 4.73)),
        ("g395m_f290lp", (3.05, 4.10, 5.15)),
    ],
)
def test_real_nirspec_spectra_give_the_curve_of_the_authors(grating, waves):
    path = REAL / "nirspec_ifu_calspec" / f"msaexp_ifu_sensitivity_{grating}_p330e_001.fits"
    optics = dict(zip(("grating", "filter"), grating.upper().split("_"), strict=True))
    said = {"instrument": "NIRSPEC", "detector": "NRS1", "mode": "ifu", **optics}
    m = read_standards(path, said=said).measurements
    table = fits.getdata(path)
    name = "orig_sensitivity" if "orig_sensitivity" in table.names else "sensitivity"
    wave = np.array([m.bands[b].wave for b in m.band])[m.used]
    ratio = m.factor[m.used] / (1e-12 / np.interp(wave, table["wavelength"], table[name]))
    for middle in waves:
        near = np.abs(wave / middle - 1) < 0.01
        assert near.any()
        assert np.median(ratio[near]) == pytest.approx(1, abs=0.012)
