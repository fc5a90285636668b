"""The simulated standard stars hold what they are said to hold."""

import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from photutils.aperture import ApertureStats, CircularAnnulus, CircularAperture

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.simulate import (
    PIXEL_SR,
    STANDARDS,
    Loss,
    simulate_lrs_standards,
    simulate_standard_stars,
    write_flux_truth,
)


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    return simulate_standard_stars(
        tmp_path_factory.mktemp("standards"), n_visits=3, jitter=0.0, subarray="SUB64"
    )


def read_apcorr(programme, name):
    rows = fits.getdata(programme.apcorr, "APCORR")
    (row,) = rows[(rows["filter"] == name) & np.isclose(rows["eefraction"], 0.7)]
    return row


def test_the_truth_is_a_table(programme, tmp_path):
    table = Table.read(write_flux_truth(tmp_path, programme))
    assert dict(zip(table["filter"], table["factor"], strict=True)) == dict(programme.factors)
    for row in table:
        loss = programme.losses[row["filter"]]
        assert (row["loss_per_year"], row["amplitude"]) == (loss.per_year, loss.amplitude)


def test_counts_times_the_conversion_are_the_flux_that_is_left(programme):
    ratios, errors = [], []
    for path, spec, star in zip(programme.rates, programme.specs, programme.stars, strict=True):
        name = dict(spec.setup.optics)["filter"]
        with fits.open(path) as hdus:
            image, header, cards = hdus["SCI"].data, hdus["SCI"].header, hdus[0].header
            variance = hdus["ERR"].data ** 2
        assert cards["TARGNAME"] == star.name
        row = read_apcorr(programme, name)
        # Where CRPIX is without dither, and the dither of the sky on the detector.
        place = (header["CRPIX1"] - 1 + spec.dither[1], header["CRPIX2"] - 1 + spec.dither[0])
        ring = CircularAnnulus(place, row["skyin"], row["skyout"])
        circle = CircularAperture(place, row["radius"])
        sky = ApertureStats(image, ring).sum / ring.area
        counts = ApertureStats(image, circle).sum - sky * circle.area
        pivot = {"F770W": 7.6, "F1000W": 10.0}[name]
        seen = counts * row["apcorr"] * programme.factors[name] * 1e6 * PIXEL_SR
        left = programme.losses[name].evaluate(spec.mid_mjd)
        ratios.append(seen / (star.flux(pivot) * left))
        noise = ApertureStats(variance, circle).sum
        noise += ApertureStats(variance, ring).sum * (circle.area / ring.area) ** 2
        errors.append(np.sqrt(noise) / counts)
    pull = (np.array(ratios) - 1) / errors
    assert np.max(errors) < 0.01
    assert np.abs(pull).max() < 3
    assert np.sum(pull**2) < 18  # of six


def test_models_lack_the_offsets_of_the_stars(programme):
    table = Table.read(programme.models)
    assert table["F770W"].unit == "Jy"
    for row, star in zip(table, STANDARDS, strict=True):
        assert row["name"] == star.name
        assert star.flux(7.6) / row["F770W"] == pytest.approx(np.exp(star.offset))


def test_the_association_names_every_file(programme):
    (product,) = json.loads(programme.association.read_text())["products"]
    assert [member["expname"] for member in product["members"]] == [
        path.name for path in programme.rates
    ]


def test_loss_is_one_at_its_date_and_falls():
    loss = Loss(59720.0, 0.01, 0.2, 200.0)
    assert loss.evaluate(59720.0) == 1
    assert loss.evaluate(59720.0 + 365) == pytest.approx(0.99 * (0.2 * np.exp(-1.825) + 0.8))


def test_what_is_not_simulated_is_refused(tmp_path, capsys):
    with pytest.raises(EvidenceError, match="F9999W"):
        simulate_standard_stars(tmp_path, filters=("F9999W",))
    with pytest.raises(EvidenceError, match="at least 1 visit"):
        simulate_standard_stars(tmp_path, n_visits=0)
    command = ["simulate", str(tmp_path), "--mode", "standards", "--exposures", "3"]
    assert main(command) == 1
    assert "even number" in capsys.readouterr().err


def test_spectra_lose_what_they_should(tmp_path):
    star = STANDARDS[0]
    found = simulate_lrs_standards(
        tmp_path, stars=(star,), n_visits=2, jitter=0.0, loss=Loss(per_year=0.1)
    )
    first, last = (fits.getdata(path, "SCI")[10:390, 310:340] for path in found.rates)
    left = [Loss(per_year=0.1).evaluate(spec.mid_mjd) for spec in found.specs]
    assert np.nansum(last) / np.nansum(first) == pytest.approx(left[1] / left[0], rel=2e-3)
    (path,) = (p for p in found.models.iterdir() if "bd" in p.name)
    table = fits.getdata(path, 1)
    jansky = table["FLUX"] * table["WAVELENGTH"] ** 2 / 2.99792458e18 / 1e-23
    wanted = star.model(table["WAVELENGTH"] / 1e4)
    np.testing.assert_allclose(jansky, wanted, rtol=1e-6)
