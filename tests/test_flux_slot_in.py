"""The photom references slot into the stock pipelines: CRDS picks them, with no override."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture
from pipeline import idle_collector

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.parameters import find_shipped
from jwst_tvbadpix.refmodels.absflux import read_absflux
from jwst_tvbadpix.simulate import (
    STANDARDS,
    Loss,
    PixelPattern,
    simulate_lrs_standards,
    simulate_standard_stars,
    write_imaging_references,
    write_spectral_references,
)
from jwst_tvbadpix.steps import AbsFluxRatio

FILTERS = {"F770W": 7.6, "F1500W": 15.0}
LOSSES = {"F770W": Loss(per_year=0.02), "F1500W": Loss(per_year=0.02, amplitude=0.1)}
PATTERN = PixelPattern(seed=3)
# Soon after the first visit, and four years later: a year after the last one.
DATES = (59750.0, 61230.0)


@dataclass(frozen=True)
class Run:
    """Simulated standards, what AbsFluxRatio made of them, and a context that holds it."""

    images: object
    spectra: object
    folder: Path
    context: object

    def find(self, pattern):
        (path,) = self.folder.glob(pattern)
        return path


def run_image2(rates, folder, context, **steps):
    from jwst.pipeline import Image2Pipeline

    with idle_collector(), use_context(context):
        for rate in rates:
            Image2Pipeline.call(str(rate), save_results=True, output_dir=str(folder), **steps)
    return [folder / path.name.replace("_rate", "_cal") for path in rates]


def run_spec2(rates, folder, context, **steps):
    from jwst.pipeline import Spec2Pipeline

    steps |= {"pixel_replace": {"skip": True}, "resample_spec": {"weight_type": "exptime"}}
    with idle_collector(), use_context(context):
        for rate in rates:
            Spec2Pipeline.call(str(rate), save_results=True, output_dir=str(folder), steps=steps)
    return [folder / path.name.replace("_rate", "_x1d") for path in rates]


def list_references(folder):
    """All that the pipelines need of CRDS but photom."""
    parts = (
        write_spectral_references(folder, pattern=PATTERN),
        write_imaging_references(folder, filters=tuple(FILTERS), pattern=PATTERN),
    )
    references = {}
    for part in parts:
        for kind, paths in part.items():
            references[kind] = [*references.get(kind, []), *paths]
    return references


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standards")
    # Two stars, each seen again: the fewest exposures that tell a loss from stars that differ.
    stars = STANDARDS[:2]
    images = simulate_standard_stars(
        folder / "images",
        filters=tuple(FILTERS),
        stars=stars,
        losses=LOSSES,
        pattern=PATTERN,
        n_visits=6,
    )
    spectra = simulate_lrs_standards(folder / "spectra", stars=stars, n_visits=4, pattern=PATTERN)
    references = list_references(folder / "references")
    first = build_context(tmp_path_factory.mktemp("crds"), references)
    config = str(find_shipped("image2_standard_stars"))
    cals = run_image2(images.rates, folder / "images", first, config_file=config)
    x1ds = run_spec2(spectra.rates, folder / "spectra", first, photom={"skip": True})
    assert {fits.getval(path, "BUNIT", "SCI") for path in cals} == {"DN/s"}
    products = folder / "products"
    with idle_collector():
        AbsFluxRatio.call(
            [str(path) for path in (*cals, *x1ds)],
            model_fluxes=str(images.models),
            model_spectra=str(spectra.models),
            apcorr=str(images.apcorr),
            output_file="standards",
            output_dir=str(products),
            save_results=True,
            report=False,
        )
    made = sorted(products.glob("*_photom.fits"))
    second = {**references, "photom": made}
    context = build_context(tmp_path_factory.mktemp("crds"), second)
    return Run(images, spectra, products, context)


def read_row(run, kind, **keys):
    rows = fits.getdata(run.find(f"*_{kind}_photom.fits"), "PHOTOM")
    chosen = np.all([rows[name] == value for name, value in keys.items()], axis=0)
    (row,) = rows[chosen]
    return row


def test_one_run_makes_a_reference_of_images_and_one_of_spectra(run):
    names = [path.name for path in sorted(run.folder.iterdir())]
    for kind in ("imaging", "lrs"):
        for suffix in ("asdf", "fits"):
            assert f"standards_MIRIMAGE_{kind}_photom.{suffix}" in names
    stars = Table.read(run.find("*_stars.ecsv"))
    assert set(stars["verdict"]) == {"ok"}


def test_the_factors_are_the_truth_within_their_errors(run):
    for name, truth in run.images.factors.items():
        row = read_row(run, "imaging", filter=name, subarray="SUB128")
        # The truth is of the t0 of the loss, the factor of the first visit.
        left = LOSSES[name].evaluate(59740.0)
        pull = (row["photmjsr"] * left / truth - 1) / (row["uncertainty"] / row["photmjsr"])
        assert abs(pull) < 3
        assert row["uncertainty"] / row["photmjsr"] < 0.02


def test_the_same_exposures_measure_the_same_from_rates(run, tmp_path):
    """Not flat-fielded, and with the WCS of the keywords."""
    with idle_collector():
        AbsFluxRatio.call(
            str(run.images.association),
            model_fluxes=str(run.images.models),
            apcorr=str(run.images.apcorr),
            output_dir=str(tmp_path),
            save_results=True,
            report=False,
        )
    rates = Table.read(tmp_path / "jw01539-standards_visits.ecsv")
    cals = Table.read(run.find("*_visits.ecsv"))
    cals = cals[cals["mode"] != "MIRIMAGE lrs P750L"]
    assert len(rates) == len(cals) == len(run.images.rates)
    for table in (rates, cals):
        table.sort(["mode", "mjd"])
    ratio = rates["factor"] / cals["factor"]
    np.testing.assert_allclose(ratio, 1, atol=0.02)
    assert np.mean(ratio) == pytest.approx(1, abs=0.003)


def predict_error(run, label, mjd):
    """Error of ln C at a date, by the curve of the fit; for spectra the median of the bins."""
    fit = read_absflux(run.find("*_absflux.asdf"))
    mine = [k for k, name in enumerate(fit.units.label) if name.endswith(label)]
    error = np.asarray(fit.curve.factor_err)[mine] / np.asarray(fit.curve.factor)[mine]
    return float(np.interp(mjd, np.asarray(fit.curve.mjd), np.median(error, axis=0)))


def measure(path, apcorr, name):
    """Measure the star at the middle [Jy], and its relative error: nothing of ours takes part."""
    rows = fits.getdata(apcorr, "APCORR")
    (row,) = rows[(rows["filter"] == name) & np.isclose(rows["eefraction"], 0.7)]
    with fits.open(path) as hdus:
        assert hdus["SCI"].header["BUNIT"] == "MJy/sr"
        image, error = np.nan_to_num(hdus["SCI"].data), hdus["ERR"].data
        area = hdus["SCI"].header["PIXAR_SR"]
    y, x = np.unravel_index(np.argmax(image), image.shape)
    box = np.s_[y - 3 : y + 4, x - 3 : x + 4]
    light = image[box] - np.median(image)
    v, u = np.mgrid[box]
    place = (float((u * light).sum() / light.sum()), float((v * light).sum() / light.sum()))
    ring = CircularAnnulus(place, row["skyin"], row["skyout"])
    circle = CircularAperture(place, row["radius"])
    sky = ApertureStats(image, ring).sum / ring.area
    total = ApertureStats(image, circle).sum - sky * circle.area
    noise = np.sqrt(ApertureStats(np.nan_to_num(error) ** 2, circle).sum) / total
    return total * row["apcorr"] * area * 1e6, noise


def test_fluxes_of_images_are_right_before_and_after_the_loss(run, tmp_path):
    star = replace(STANDARDS[1], name="ANOTHER", offset=0.0)
    seen = simulate_standard_stars(
        tmp_path,
        filters=tuple(FILTERS),
        losses=LOSSES,
        pattern=PATTERN,
        stars=(star,),
        n_visits=2,
        mjd=DATES,
        jitter=0.0,
        seed=77,
    )
    cals = run_image2(seen.rates, tmp_path, run.context)
    for path, spec in zip(cals, seen.specs, strict=True):
        name = dict(spec.setup.optics)["filter"]
        chosen = fits.getval(path, "R_PHOTOM").removeprefix("crds://")
        made = run.find("*_imaging_photom.fits")
        assert chosen == run.context.names[made]
        flux, noise = measure(path, run.images.apcorr, name)
        error = np.hypot(noise, predict_error(run, name, spec.mjd))
        off = flux / star.flux(FILTERS[name]) - 1
        assert abs(off) < 3 * error, (name, spec.mjd, off, error)
        assert abs(off) < 0.02
    # What is corrected is no trifle.
    assert LOSSES["F1500W"].evaluate(DATES[1]) < 0.85


def test_fluxes_of_spectra_are_right_before_and_after_the_loss(run, tmp_path):
    star = replace(STANDARDS[1], name="ANOTHER", offset=0.0)
    seen = simulate_lrs_standards(
        tmp_path, stars=(star,), n_visits=2, mjd=DATES, jitter=0.0, pattern=PATTERN, seed=78
    )
    x1ds = run_spec2(seen.rates, tmp_path, run.context)
    for path, mjd in zip(x1ds, DATES, strict=True):
        chosen = fits.getval(path, "R_PHOTOM").removeprefix("crds://")
        assert chosen == run.context.names[run.find("*_lrs_photom.fits")]
        table = fits.getdata(path, "EXTRACT1D")
        wave, flux = table["WAVELENGTH"], table["FLUX"]
        inner = (wave > 5.5) & (wave < 11.0)
        ratio = flux[inner] / star.flux(wave[inner])
        error = predict_error(run, "P750L", mjd)
        assert error < 0.015
        assert np.median(ratio) == pytest.approx(1, abs=3 * error)
    assert seen.losses["P750L"].evaluate(DATES[1]) < 0.9
    # In flux units, with the file that made them, they say again what that file says.
    with idle_collector():
        AbsFluxRatio.call(
            [str(path) for path in x1ds],
            model_spectra=str(seen.models),
            photom=[str(next(Path(run.context.env["CRDS_PATH"]).rglob(chosen)))],
            time_form="none",
            output_file="again",
            output_dir=str(tmp_path / "again"),
            save_results=True,
            report=False,
        )
    visits = Table.read(tmp_path / "again" / "again_visits.ecsv")
    visits = visits[(visits["wave"] > 5.5) & (visits["wave"] < 11.0)]
    row = read_row(run, "lrs", filter="P750L", subarray="FULL")
    area = fits.getval(run.find("*_lrs_photom.fits"), "PIXAR_SR")
    said = np.interp(visits["wave"], row["wavelength"], row["relresponse"])
    now = visits["factor"] / (said * row["photmjsr"] * area)
    left = np.array([seen.losses["P750L"].evaluate(mjd) for mjd in visits["mjd"]])
    level = seen.losses["P750L"].evaluate(59740.0)
    assert np.median(now * left) == pytest.approx(level, abs=0.02)
