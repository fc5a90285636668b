"""Standard stars in every kind of mode: slits, orders, channels, resampled and assigned images."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.modeling import models as shapes
from astropy.table import Table
from gwcs import WCS, coordinate_frames
from standard_files import compute_factor, compute_model, make_x1d, write_calspec
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.standards import read_standards

PIXEL_ARCSEC = 0.11
AREA = np.radians(PIXEL_ARCSEC / 3600) ** 2


def make_like(instrument, detector, exp_type, **cards):
    """Product of extract_1d of another mode."""
    model = make_x1d()
    model.meta.filename = f"{instrument.lower()}_x1d.fits"
    model.meta.instrument.name, model.meta.instrument.detector = instrument, detector
    model.meta.exposure.type = exp_type
    for key, value in cards.items():
        setattr(model.meta.instrument, key, value)
    return model


def test_of_several_slits_the_one_with_the_star_counts(tmp_path):
    model = make_like(
        "NIRSPEC", "NRS1", "NRS_FIXEDSLIT", filter="F290LP", grating="G395M", fixed_slit="S200A1"
    )
    model.spec[0].name = "S200A1"
    other = make_x1d().spec[0].instance
    model.spec.append(other)
    model.spec[1].name = "S400A1"
    m = read_standards(model, model_spectra=write_calspec(tmp_path / "c")).measurements
    assert {b.mode.label for b in m.bands} == {"NRS1 fixed_slit F290LP G395M S200A1"}
    assert len(m.used) == len(m.bands)


def test_orders_of_soss_are_modes_and_integrations_are_averaged(tmp_path):
    model = datamodels.TSOMultiSpecModel()
    plain = make_x1d()
    model.update(plain)
    wave = np.linspace(5.0, 12.0, 200)
    rate = 1e-6 * compute_model(wave) / compute_factor(wave)
    for order in (1, 2):
        spec = datamodels.TSOSpecModel()
        names = ("WAVELENGTH", "FLUX", "FLUX_ERROR", "DQ")
        base = spec.get_dtype("spec_table")
        dtype = [(n, base[n], (200,)) if n in names else (n, base[n]) for n in base.names]
        table = np.zeros(4, dtype)
        table["WAVELENGTH"], table["FLUX_ERROR"] = wave, 0.02 * rate
        table["FLUX"] = rate * np.array([0.98, 1.0, 1.02, 5.0])[:, None]
        table["DQ"][3] = 1
        spec.spec_table = table
        model.spec.append(spec.instance)
        model.spec[-1].spectral_order = order
    meta = model.meta
    meta.instrument.name, meta.instrument.detector = "NIRISS", "NIS"
    meta.instrument.filter, meta.instrument.pupil = "CLEAR", "GR700XD"
    meta.exposure.type, meta.subarray.name = "NIS_SOSS", "SUBSTRIP256"
    meta.cal_step.photom = "SKIPPED"
    m = read_standards(model, model_spectra=write_calspec(tmp_path / "c")).measurements
    assert {b.mode.order for b in m.bands} == {1, 2}
    assert {b.mode.pupil for b in m.bands} == {"GR700XD"}
    found = np.array([m.bands[b].wave for b in m.band])
    np.testing.assert_allclose(m.factor, compute_factor(found), rtol=1e-3)
    # The last integration is flagged; three are averaged, and two pixels are in a bin.
    assert np.median(m.sigma) == pytest.approx(0.02 / np.sqrt(3 * 2), rel=0.1)


def write_mrs_photom(path, year1value):
    model = datamodels.MirMrsPhotomModel((4, 4))
    model.meta.instrument.name = "MIRI"
    for channel in range(1, 5):
        name = f"timecoeff_powerlaw_ch{channel}"
        table = np.zeros(3, model.get_dtype(name))
        table["binwave"] = (4.0, 8.0, 12.5) if channel == 2 else (90.0, 91.0, 92.0)
        table["year1value"], table["tsoft"], table["t0"] = year1value, 1.0, 59720.0
        setattr(model, name, table)
    model.save(path)
    return path


def test_mrs_is_relative_to_the_image_that_made_it(tmp_path):
    """Model over observed, as before the time correction of the reference."""
    photom = write_mrs_photom(tmp_path / "jwst_miri_photom_0077.fits", 0.8)
    model = make_like("MIRI", "MIRIFUSHORT", "MIR_MRS", channel="12", band="SHORT", filter=None)
    wave = model.spec[0].spec_table["WAVELENGTH"]
    model.spec[0].spec_table["FLUX"] = compute_model(wave) / 1.05
    model.spec[0].spec_table["FLUX_ERROR"] = 0.001
    model.meta.cal_step.photom = "COMPLETE"
    model.meta.ref_file.photom.name = photom.name
    m = read_standards(model, model_spectra=write_calspec(tmp_path / "c"), photom=photom)
    m = m.measurements
    np.testing.assert_allclose(m.factor, 1.05 / 0.8, rtol=1e-4)
    assert m.bands[0].mode.label == "MIRIFUSHORT mrs SHORT"


def test_a_spectrum_of_the_lrs_needs_no_more_than_its_exp_type(tmp_path):
    spectra = write_calspec(tmp_path / "c")
    bare = make_like("MIRI", None, "MIR_LRS-FIXEDSLIT", filter=None)
    bare.meta.instrument.name = None
    m = read_standards(bare, model_spectra=spectra).measurements
    assert {b.mode.label for b in m.bands} == {"MIRIMAGE lrs P750L"}


@pytest.mark.parametrize(
    ("cards", "why"),
    [
        ({"detector": None}, "expected INSTRUME and DETECTOR in .*_x1d.fits"),
        ({"detector": "NRCA1"}, "expected a detector of NIRSPEC, found NRCA1"),
        ({"grating": None}, "expected filter and grating of a NIRSpec spectrum"),
    ],
)
def test_a_spectrum_whose_mode_is_not_known_is_refused(tmp_path, cards, why):
    cards = {"detector": "NRS1", "filter": "F290LP", "grating": "G395M", **cards}
    model = make_like("NIRSPEC", exp_type="NRS_FIXEDSLIT", **cards)
    with pytest.raises(InputError, match=why):
        read_standards(model, model_spectra=write_calspec(tmp_path / "c"))


def test_a_spectrum_of_an_image_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a spectroscopic EXP_TYPE"):
        read_standards(
            make_like("MIRI", "MIRIMAGE", "MIR_IMAGE"), model_spectra=write_calspec(tmp_path / "c")
        )


# --- images ------------------------------------------------------------------------------------

FWHM_SIGMA = 1.5
TRUE = 0.3
FLUX_JY = 0.01


def make_image(scale=1.0, shift=(0.0, 0.0), neighbour=False, instrument="MIRI", **cards):
    """Star at the target of an assigned WCS; pixels `scale` times as large as the detector's."""
    size = int(61 / scale)
    centre = (size - 1) / 2
    rows, columns = np.indices((size, size)) - centre
    sigma = FWHM_SIGMA / scale
    area = AREA * scale**2
    total = 1e-6 * FLUX_JY / (TRUE * area)

    def star(x, y, flux):
        r2 = (columns - x) ** 2 + (rows - y) ** 2
        return flux * np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)

    data = 20.0 + star(*shift, total)
    if neighbour:
        data += star(20.0, 20.0, 5 * total)
    model = datamodels.ImageModel(data.astype(np.float32))
    model.err = np.full(data.shape, 0.5, np.float32)
    meta = model.meta
    meta.filename, meta.bunit_data = "star_i2d.fits", "DN/s"
    meta.instrument.name, meta.instrument.detector = instrument, "MIRIMAGE"
    meta.instrument.filter, meta.exposure.type = "F770W", "MIR_IMAGE"
    meta.subarray.name, meta.exposure.mid_time = "FULL", 60000.0
    meta.target.catalog_name, meta.target.ra, meta.target.dec = "BD+60-1753", 200.0, 60.0
    meta.wcs = make_wcs(centre, scale)
    for key, value in cards.items():
        setattr(meta.instrument, key, value)
    return model


def make_wcs(centre, scale):
    step = PIXEL_ARCSEC / 3600 * scale
    transform = (
        shapes.Shift(-centre) & shapes.Shift(-centre)
        | shapes.Scale(-step) & shapes.Scale(step)
        | shapes.Pix2Sky_TAN()
        | shapes.RotateNative2Celestial(200.0, 60.0, 180.0)
    )
    detector = coordinate_frames.Frame2D(name="detector")
    import astropy.coordinates as coord

    sky = coordinate_frames.CelestialFrame(reference_frame=coord.ICRS(), name="world")
    return WCS([(detector, transform), (sky, None)])


RADIUS = 5.0
EE = float(1 - np.exp(-(RADIUS**2) / (2 * FWHM_SIGMA**2)))
GIVEN = {"ee": EE, "radius": RADIUS, "apcorr": 1 / EE, "sky_in": 12.0, "sky_out": 18.0}


def measure(model, tmp_path, apcorr=None):
    models = tmp_path / "models.csv"
    models.write_text(f"name,F770W,GUIDER1,F150W\nBD+60 1753,{FLUX_JY},{FLUX_JY},{FLUX_JY}\n")
    m = read_standards(model, model_fluxes=models, apcorr=apcorr or GIVEN, ee=EE).measurements
    assert m.used.all()
    return m


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_apertures_follow_the_pixels_of_resampled_images(tmp_path, scale):
    model = make_image(scale)
    model.meta.resample.pixel_scale_ratio = scale
    assert measure(model, tmp_path).factor[0] == pytest.approx(TRUE, rel=0.01)


def test_the_target_of_the_wcs_counts_not_the_brightest_star(tmp_path):
    m = measure(make_image(shift=(1.5, -1.0), neighbour=True), tmp_path)
    assert m.factor[0] == pytest.approx(TRUE, rel=0.01)


def test_without_wcs_pixar_sr_counts(tmp_path):
    model = make_image()
    model.meta.wcs = None
    with pytest.raises(InputError, match="expected a WCS or PIXAR_SR"):
        measure(model, tmp_path)
    model.meta.photometry.pixelarea_steradians = AREA
    assert measure(model, tmp_path).factor[0] == pytest.approx(TRUE, rel=0.01)


def test_an_exposure_of_the_external_flat_template_is_coronagraphy(tmp_path):
    model = make_image(filter="F1550C")
    model.meta.exposure.type = "MIR_FLATIMAGE-EXT"
    models = tmp_path / "m.csv"
    models.write_text(f"name,F1550C\nBD60-1753,{FLUX_JY}\n")
    m = read_standards(model, model_fluxes=models, apcorr=GIVEN).measurements
    assert m.bands[0].mode.label == "MIRIMAGE coronagraphy F1550C"


def test_images_without_exp_type_go_by_their_filter_and_those_without_filter_are_left_out(tmp_path):
    models = tmp_path / "m.csv"
    models.write_text(f"name,F770W\nBD+60 1753,{FLUX_JY}\n")
    bare, blind = make_image(), make_image(filter=None)
    bare.meta.exposure.type = None
    blind.meta.exposure.mid_time = 60001.0
    m = read_standards([bare, blind], model_fluxes=models, apcorr=GIVEN, ee=EE).measurements
    assert sorted(m.reason.tolist()) == ["", "no filter"]
    assert {m.bands[b].mode.label for b in m.band[m.used]} == {"MIRIMAGE imaging F770W"}


def test_an_image_of_another_telescope_is_refused(tmp_path):
    model = make_image()
    model.meta.telescope = "JWST"
    model.save(tmp_path / "star_rate.fits")
    fits.setval(tmp_path / "star_rate.fits", "TELESCOP", value="HST")
    with pytest.raises(InputError, match=r"JWST or Roman in star_rate\.fits, found HST"):
        read_standards(tmp_path / "star_rate.fits", apcorr=GIVEN)


def test_the_guider_and_filters_in_the_pupil_wheel(tmp_path):
    guider = make_image(instrument="FGS", detector="GUIDER1", filter=None)
    guider.meta.exposure.type = "FGS_IMAGE"
    m = measure(guider, tmp_path)
    assert m.bands[0].mode.label == "GUIDER1 imaging"
    niriss = make_image(instrument="NIRISS", detector="NIS", filter="CLEAR", pupil="F150W")
    niriss.meta.exposure.type = "NIS_IMAGE"
    m = measure(niriss, tmp_path)
    assert m.bands[0].mode.label == "NIS imaging CLEAR F150W"
    assert m.bands[0].wave == pytest.approx(1.5)


def test_apertures_may_be_a_plain_table(tmp_path):
    row = {
        "filter": ["F770W", "F770W"],
        "subarray": ["FULL", "SUB64"],
        "eefraction": [EE, EE],
        "radius": [RADIUS, 2.0],
        "apcorr": [1 / EE, 1.1 / EE],
        "skyin": [12.0, 5.0],
        "skyout": [18.0, 6.0],
    }
    path = tmp_path / "apertures.ecsv"
    Table(row).write(path)
    assert measure(make_image(), tmp_path, apcorr=path).factor[0] == pytest.approx(TRUE, rel=0.01)
    Table({key: row[key] for key in ("filter", "radius")}).write(path, overwrite=True)
    with pytest.raises(InputError, match="found no eefraction, apcorr, skyin, skyout"):
        measure(make_image(), tmp_path, apcorr=path)
