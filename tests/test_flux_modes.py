"""One run over images and spectra of all instruments, as the programmes of standard stars have."""

import json

import asdf
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from pipeline import idle_collector

from jwst_tvbadpix.steps import AbsFluxRatio

STARS = {"BD+60 1753": "ADwarfs", "GD153": "HotStars", "P330E": "SolarAnalogs"}
FIRST, LOSS = 59750.0, 0.01
# INSTRUME, DETECTOR, mode, FILTER, PUPIL, SUBARRAY, pivot [um], factor.
IMAGES = (
    ("MIRI", "MIRIMAGE", "imaging", "F770W", "N/A", "SUB256", 7.6, 0.26),
    ("MIRI", "MIRIMAGE", "coronagraphy", "F1065C", "N/A", "MASK1065", 10.6, 1.4),
    ("MIRI", "MIRIMAGE", "coronagraphy", "F2300C", "N/A", "MASKLYOT", 22.8, 0.7),
    ("MIRI", "MIRIMAGE", "imaging", "F1550C", "N/A", "FULL", 15.5, 1.3),
    ("NIRCAM", "NRCBLONG", "imaging", "F444W", "CLEAR", "SUB64P", 4.4, 0.4),
    ("NIRCAM", "NRCBLONG", "coronagraphy", "F335M", "MASKRND", "FULL", 3.4, 0.6),
    ("NIRISS", "NIS", "imaging", "CLEAR", "F200W", "SUB64", 2.0, 0.2),
    ("FGS", "GUIDER1", "imaging", "N/A", "N/A", "FULL", 2.7, 0.1),
)
# The same, and the elements and the wavelengths [um].
SPECTRA = (
    ("MIRI", "MIRIMAGE", "lrs", {"filter": "P750L", "subarray": "SLITLESSPRISM"}, (5, 12)),
    (
        "NIRSPEC",
        "NRS1",
        "fixed_slit",
        {"filter": "CLEAR", "grating": "PRISM", "slit": "S1600A1", "subarray": "SUB512"},
        (0.7, 5.2),
    ),
    ("NIRSPEC", "NRS1", "ifu", {"filter": "F290LP", "grating": "G395M"}, (2.9, 5.1)),
    ("NIRISS", "NIS", "soss", {"filter": "CLEAR", "pupil": "GR700XD", "order": 1}, (0.9, 2.8)),
    ("MIRI", "MIRIFUSHORT", "mrs", {"band": "SHORT"}, (4.9, 5.7)),
)


def throughput(mjd):
    return 1 - LOSS * (mjd - FIRST) / 365


def write_inputs(folder):
    rng = np.random.default_rng(3)
    rows = []
    for number, (*mode, pivot, factor) in enumerate(IMAGES):
        for star, star_class in STARS.items():
            for k in range(3):
                mjd = FIRST + 300 * k + 10 * number + len(star)
                flux = 1e-2 * (pivot / 10) ** -2
                rate = 1e-6 * flux / (factor * 1e-13 * 1.5) * throughput(mjd)
                rate *= np.exp(rng.normal(0, 0.003))
                rows.append(
                    (*mode, star, star_class, mjd, rate, 1e-3 * rate, flux, pivot, len(rows))
                )
    names = "instrument detector mode filter pupil subarray name srctype mjd rate rate_err"
    names += " model_flux_jy pivot_um exposure"
    table = Table(rows=rows, names=names.split())
    table["apcorr"], table["pixarea_sr"] = 1.5, 1e-13
    table.write(folder / "photometry.ecsv")
    members = [{"expname": "photometry.ecsv", "exptype": "science"}]
    for instrument, detector, kind, elements, ends in SPECTRA:
        for star in STARS:
            for k in range(2):
                mjd = FIRST + 10 + 400 * k + len(star)
                wave = np.linspace(*ends, 60)
                model = 1e3 * (wave / 10) ** -2
                data = model / 5 * throughput(mjd) * np.exp(rng.normal(0, 0.003))
                data *= np.exp(rng.normal(0, 1e-3, wave.size))
                one = Table({"wave": wave, "data": data, "var": (1e-3 * data) ** 2, "model": model})
                name = f"{kind}_{len(members)}.ecsv"
                one.write(folder / name)
                said = {"target": star, "mjd": mjd, "instrument": instrument, "mode": kind}
                member = {"expname": name, "exptype": "science", "detector": detector}
                members.append(member | said | elements)
    association = folder / "all_asn.json"
    association.write_text(json.dumps({"products": [{"name": "all", "members": members}]}))
    return association


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    association = write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch, idle_collector():
        for name in ("CRDS_PATH", "CRDS_SERVER_URL"):
            patch.delenv(name, raising=False)
        AbsFluxRatio.call(
            str(association),
            save_results=True,
            report=False,
            output_dir=str(folder / "out"),
            t0_mjd=FIRST,
            time_form="linear",
        )
    return folder / "out"


def read(run, name, **keys):
    with fits.open(run / f"all_{name}_photom.fits") as hdus:
        rows, line = hdus["PHOTOM"].data.copy(), None
        if "TIMECOEFF_LINEAR" in hdus:
            line = hdus["TIMECOEFF_LINEAR"].data.copy()
    chosen = np.all([rows[key] == value for key, value in keys.items()], axis=0)
    assert chosen.sum() == 1
    return rows[chosen][0], None if line is None else line[chosen][0]


@pytest.mark.parametrize(
    "mode", [m for m in IMAGES if m[0] != "FGS"], ids=lambda m: " ".join(m[:6])
)
def test_images_of_every_mode_have_a_row(run, mode):
    instrument, detector, _, name, pupil, subarray, _, factor = mode
    keys = {"filter": name}
    if instrument != "MIRI":
        keys["pupil"] = pupil
    if instrument != "NIRISS":
        keys["subarray"] = subarray
    row, line = read(run, f"{detector}_imaging", **keys)
    assert row["photmjsr"] == pytest.approx(factor, rel=0.015)
    assert line["lossperyear"] == pytest.approx(LOSS, abs=2.5e-3)


def test_guider_has_its_only_row(run):
    rows = fits.getdata(run / "all_GUIDER1_imaging_photom.fits", "PHOTOM")
    assert rows["photmjsr"] == pytest.approx(0.1, rel=0.015)


@pytest.mark.parametrize(
    ("name", "keys", "column"),
    [
        ("MIRIMAGE_lrs", {"filter": "P750L", "subarray": "SLITLESSPRISM"}, "photmjsr"),
        ("NRS1_fixedslit", {"filter": "CLEAR", "grating": "PRISM", "slit": "S1600A1"}, "photmj"),
        ("NIS_soss", {"filter": "CLEAR", "pupil": "GR700XD", "order": 1}, "photmj"),
    ],
)
def test_spectra_of_every_mode_have_a_row(run, name, keys, column):
    row, line = read(run, name, **keys)
    area = 1e-13 if column == "photmjsr" else 1.0  # that of the images of the same detector
    n = row["nelem"]
    np.testing.assert_allclose(row[column] * row["relresponse"][:n] * area, 5e-12, rtol=0.015)
    assert line["lossperyear"] == pytest.approx(LOSS, abs=2.5e-3)


def test_integral_field_unit_has_a_reference_for_each_year(run):
    paths = sorted(run.glob("*_NRS1_ifu_photom*.fits"))
    assert len(paths) == 2  # of 620 days
    dates = [fits.getval(path, "USEAFTER") for path in paths]
    assert dates[0] == "2021-12-25T00:00:00"
    assert dates == sorted(set(dates))
    values = []
    for path in paths:
        with fits.open(path) as hdus:
            assert "TIMECOEFF_LINEAR" not in hdus
            row = hdus["PHOTOM"].data[0]
            values.append(row["photmj"] * row["relresponse"][10])
    assert (np.diff(values) > 0).all()
    assert values[-1] / values[0] == pytest.approx(1 + LOSS * 310 / 365, abs=4e-3)


def test_mrs_without_its_template_is_said_to_lack_one(run):
    assert not list(run.glob("*MIRIFUSHORT*"))
    with asdf.open(run / "all_absflux.asdf", memmap=False, lazy_load=False) as file:
        (note,) = (text for text in file["notes"] if "No photom reference" in text)
    assert "mrs" in note
    assert "template" in note
