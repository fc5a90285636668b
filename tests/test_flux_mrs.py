"""MIRI MRS through the step: spectra in flux units and their reference in, a new one out."""

import logging

import numpy as np
import pytest
from fluxfactors import MRS_SPANS, make_mrs_template, make_mrs_wavelengths
from jwst.photom.photom_step import PhotomStep
from pipeline import idle_collector
from standard_files import compute_model, write_calspec
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.fluxcal import Throughput
from jwst_tvbadpix.refmodels.closure import make_mrs_wcs
from jwst_tvbadpix.steps import AbsFluxRatio

DETECTOR, BAND, NY = "MIRIFULONG", "SHORT", 64
T0 = 59750.0
STARS = {"BD+60-1753": "bd60d1753", "HD163466": "hd163466", "P330E": "p330e"}
TEMPLATE = "jwst_miri_photom_0000.fits"


def compute_ratio(wave):
    """New conversion over that of the template."""
    return 1.05 - 0.004 * (wave - 15)


def compute_kept(wave, mjd):
    """Half is lost in a year at 26 um."""
    alpha = np.log(0.5) / np.log(395 / 30) * (np.asarray(wave) / 26.0) ** 4
    return ((mjd - T0 + 30.0) / 30.0) ** alpha


def write_template(folder, name=TEMPLATE):
    """Template with a loss that is wrong: 10 % in a year in channel 4, and one in channel 3."""
    template = make_mrs_template(DETECTOR, BAND, ny=NY)
    for channel, ends in (("ch3", (11.6, 13.4)), ("ch4", (17.8, 20.9))):
        table = np.zeros(2, template.get_dtype(f"timecoeff_powerlaw_{channel}"))
        table["binwave"], table["year1value"], table["tsoft"] = ends, (0.99, 0.9), 20
        table["alpha"], table["t0"] = (-0.01, -0.05), 59700
        setattr(template, f"timecoeff_powerlaw_{channel}", table)
    template.meta.reftype, template.meta.author = "PHOTOM", "A test"
    template.meta.description, template.meta.pedigree = "Template of a test", "GROUND"
    template.meta.useafter = "2021-12-25T00:00:00"
    template.meta.filename = name
    template.save(folder / name)
    return template


def keep_of_template(template, channel, wave, mjd):
    """Throughput of the template at wavelengths of a channel, as photom has it."""
    table = getattr(template, f"timecoeff_powerlaw_{channel}")
    kept = [
        Throughput(
            float(row["t0"]),
            alpha=float(row["alpha"]),
            tsoft_days=float(row["tsoft"]),
            year1value=float(row["year1value"]),
        ).evaluate(mjd)
        for row in table
    ]
    bins = np.array(table["binwave"], float)
    slope = np.diff(np.minimum(kept, 1)) / np.diff(bins)
    return np.minimum(kept, 1)[0] + slope * (wave - bins[0])


def write_spectra(folder, template, *, n_epochs=5, seed=1, r_photom=TEMPLATE):
    rng = np.random.default_rng(seed)
    paths = []
    for star in STARS:
        level = 0.006 * rng.normal()
        for epoch in range(n_epochs):
            mjd = T0 + 12 + 290 * epoch + 11 * rng.random()
            jitter = level + 0.002 * rng.normal()
            for channel, ends in zip(("4", "3"), MRS_SPANS[DETECTOR], strict=True):
                # Cubes reach a little beyond the pixels.
                wave = np.linspace(ends[0] - 0.02, ends[1] + 0.02, 160)
                seen = compute_kept(wave, mjd) / compute_ratio(wave)
                seen /= keep_of_template(template, f"ch{channel}", wave, mjd)
                flux = compute_model(wave) * seen * np.exp(jitter)
                flux *= 1 + 0.002 * rng.normal(size=len(wave))
                name = f"{STARS[star]}_{epoch}_ch{channel}-short_x1d.fits"
                _write(folder / name, star, wave, flux, mjd, channel, r_photom)
                paths.append(str(folder / name))
    return paths


def _write(path, star, wave, flux, mjd, channel, r_photom):
    spec = datamodels.SpecModel()
    table = np.zeros(len(wave), spec.get_dtype("spec_table"))
    table["WAVELENGTH"], table["FLUX"], table["FLUX_ERROR"] = wave, flux, 0.002 * flux
    spec.spec_table = table
    with datamodels.MultiSpecModel() as model:
        model.spec.append(spec)
        model.meta.instrument.name, model.meta.instrument.detector = "MIRI", DETECTOR
        model.meta.instrument.band, model.meta.instrument.channel = BAND, channel
        model.meta.exposure.type, model.meta.exposure.mid_time = "MIR_MRS", mjd
        model.meta.target.catalog_name, model.meta.cal_step.photom = star, "COMPLETE"
        model.meta.subarray.name = "FULL"
        model.meta.ref_file.photom.name = f"crds://{r_photom}"
        model.save(path)


def make_exposure(wavelength, mjd):
    names = ("data", "err", "var_poisson", "var_rnoise", "var_flat")
    arrays = {name: np.ones(wavelength.shape, np.float32) for name in names}
    exposure = datamodels.IFUImageModel(dq=np.zeros(wavelength.shape, np.uint32), **arrays)
    exposure.meta.instrument.name, exposure.meta.instrument.detector = "MIRI", DETECTOR
    exposure.meta.instrument.band, exposure.meta.exposure.type = BAND, "MIR_MRS"
    exposure.meta.exposure.mid_time, exposure.meta.wcs = mjd, make_mrs_wcs(wavelength)
    return exposure


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mrs")
    for name in STARS.values():
        write_calspec(folder / "models", f"{name}_mod_006.fits")
    template = write_template(folder)
    wavelength = make_mrs_wavelengths(DETECTOR, ny=NY)
    make_exposure(wavelength, T0).save(folder / "wcs_assignwcs.fits")
    return folder, template, wavelength, write_spectra(folder, template)


def run(programme, out, **more):
    folder, _, _, paths = programme
    given = {
        "model_spectra": str(folder / "models"),
        "photom": [str(folder / TEMPLATE)],
        "template_photom": [str(folder / TEMPLATE)],
        "mrs_exposures": [str(folder / "wcs_assignwcs.fits")],
        "output_file": "mrs",
    }
    with pytest.MonkeyPatch.context() as patch, idle_collector():
        for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
            patch.delenv(name, raising=False)
        AbsFluxRatio.call(
            paths, save_results=True, report=False, output_dir=str(out), **(given | more)
        )
    return out / f"mrs_{DETECTOR}_mrs_{BAND}_photom"


@pytest.mark.parametrize("time_form", ["auto", "linear+exponential"])
def test_photom_applies_the_loss_that_grows_with_wavelength(programme, tmp_path, time_form):
    """A power law is chosen whatever is asked for: photom has no other table for the MRS."""
    path = run(programme, tmp_path, time_form=time_form)
    _, template, wavelength, _ = programme
    good = np.isfinite(wavelength)
    for suffix in (".fits", ".asdf") if time_form == "auto" else (".fits",):
        for days in (12.0, 400.0, 1150.0):
            done = PhotomStep(override_photom=str(path) + suffix, override_area="N/A").process(
                make_exposure(wavelength, T0 + days)
            )
            truth = template.data * compute_ratio(wavelength)
            truth = truth / compute_kept(wavelength, T0 + days)
            off = done.data[good] / truth[good] - 1
            assert np.abs(np.median(off)) < 0.012  # three stars that scatter by 0.6 %
            assert np.abs(off - np.median(off)).max() < 0.012
    with datamodels.MirMrsPhotomModel(str(path) + ".fits") as model:
        for channel in ("ch3", "ch4"):
            t0 = getattr(model, f"timecoeff_powerlaw_{channel}")["t0"]
            assert (t0 == np.round(t0)).all()


def test_epoch_in_the_middle_clips_nothing(programme, tmp_path):
    """A t0 after the first measurements makes f larger than 1 before it, which photom clips."""
    path = run(programme, tmp_path, t0_mjd=T0 + 600.25)
    _, template, wavelength, _ = programme
    good = np.isfinite(wavelength)
    done = PhotomStep(override_photom=f"{path}.fits", override_area="N/A").process(
        make_exposure(wavelength, T0 + 30)
    )
    truth = template.data * compute_ratio(wavelength) / compute_kept(wavelength, T0 + 30)
    assert np.abs(done.data[good] / truth[good] - 1).max() < 0.02


def test_template_that_did_not_make_the_spectra_is_refused_by_name(programme, tmp_path, caplog):
    folder = programme[0]
    other = tmp_path / "other"
    other.mkdir()
    write_template(other, "jwst_miri_photom_0999.fits")
    with caplog.at_level(logging.WARNING):
        path = run(programme, tmp_path, template_photom=[str(other / "jwst_miri_photom_0999.fits")])
    assert not path.with_suffix(".fits").exists()
    text = " ".join(record.getMessage() for record in caplog.records)
    assert TEMPLATE in text
    assert "jwst_miri_photom_0999.fits" in text
    assert (tmp_path / "mrs_modes.ecsv").exists()
    assert folder.exists()
