"""``tvbadpix check``: which defects lie in an extraction, and how large they show."""

from dataclasses import dataclass, field
from pathlib import Path

import gwcs
import numpy as np
import pytest
from astropy import coordinates, units
from astropy.io import fits
from astropy.modeling import models
from astropy.table import Table
from gwcs import coordinate_frames
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.check import check_exposure
from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import DateError, DetectorError, InputError
from jwst_tvbadpix.refmodels import (
    build_history,
    build_mask,
    history_columns,
    read_history,
    write_asdf,
    write_twins,
)

# Exposures of the history, and when the exposure that is checked was taken.
DAYS = (60000.0, 60300.0, 60600.0)
DAY = 60400.0
CORNER = (528, 0)  # of SLITLESSPRISM in the full frame
SHAPE = (416, 72)
COLUMN, SIGMA, FLUX, SKY, NOISE = 38.0, 1.5, 100.0, 20.0, 0.05
DNU, HOT = 1, 2048
NAME = "jw07831001001_02101_00001_mirimage"


def make_history(*rows, detector="MIRIMAGE", base=None, days=DAYS):
    """A history of a few pixels; each row names what differs from a static hot pixel."""
    columns = {
        "state": 1,
        "class": "HOT",
        "start_mjd": -np.inf,
        "end_mjd": np.inf,
        "amplitude": 10.0,
        "amplitude_err": 0.1,
        "response": 1.0,
        "log_odds": 8.0,
        "n_looks": 3,
        "pending": False,
        "dnu": True,
    }
    filled = []
    for row in rows:
        one = {**columns, **row}
        for side in ("start", "end"):
            one[f"{side}_lo"] = one[f"{side}_hi"] = one[f"{side}_mjd"]
        filled.append(one)
    names = history_columns()["intervals"]
    intervals = {name: [row[name] for row in filled] for name in names}
    n = len(days)
    exposures = {
        name: [""] * n if dtype == "str" else np.ones(n)
        for name, (dtype, _, _) in history_columns()["exposures"].items()
    }
    exposures |= {
        f"exp{side}_mjd": np.array(days) + 0.01 * k
        for k, side in enumerate(("start", "mid", "end"))
    }
    nothing = {"y": (), "x": (), "residual": (), "noise": (), "scale": ()}
    return build_history(
        detector=detector,
        exposures=exposures,
        intervals=intervals,
        residuals=nothing,
        base=base,
        settings={"first_useafter": "2021-12-25T00:00:00", "base_policy": "arbitrate"},
        versions={"jwst-tvbadpix": "1"},
        warnings=[],
        useafter="2021-12-25T00:00:00",
        pedigree="GROUND",
        description="History",
    )


@dataclass
class Star:
    """A star along the rows of SLITLESSPRISM, with defects: (row, column) of the subarray."""

    flux: float = FLUX
    excess: dict = field(default_factory=dict)
    response: dict = field(default_factory=dict)

    def render(self):
        """Rates and the flux of the star in each row."""
        y, x = np.indices(SHAPE)
        profile = np.exp(-0.5 * ((x - COLUMN) / SIGMA) ** 2)
        profile /= profile.sum(axis=1, keepdims=True)
        along = self.flux * (1 + 0.5 * y / SHAPE[0])
        image = SKY + along * profile + np.random.default_rng(3).normal(0, NOISE, SHAPE)
        for (row, column), factor in self.response.items():
            image[row, column] *= factor
        for (row, column), extra in self.excess.items():
            image[row, column] += extra
        return image, along[:, 0], profile


def fill_meta(model, *, day=DAY, unit="DN/s", detector="MIRIMAGE", exp_type="MIR_LRS-SLITLESS"):
    meta = model.meta
    meta.telescope = "JWST"
    meta.instrument.name, meta.instrument.detector = "MIRI", detector
    meta.exposure.type = exp_type
    meta.exposure.start_time, meta.exposure.mid_time, meta.exposure.end_time = day, day, day
    meta.observation.date, meta.observation.time = _iso(day).split("T")
    meta.subarray.name = "SLITLESSPRISM"
    meta.subarray.xstart, meta.subarray.ystart = CORNER[1] + 1, CORNER[0] + 1
    meta.subarray.ysize, meta.subarray.xsize = SHAPE
    meta.bunit_data = unit
    return model


def _iso(day):
    from astropy.time import Time

    return Time(day, format="mjd").isot


def write_rate(folder, image, *, stage="rate", dq=None, wcs=None, kind=None, **meta):
    model = (kind or datamodels.ImageModel)(data=image.astype(np.float32))
    model.dq = np.zeros(image.shape, np.uint32) if dq is None else dq
    fill_meta(model, **meta)
    if model.meta.exposure.type == "MIR_LRS-SLITLESS":
        model.meta.wcsinfo.dispersion_direction = 2
    if wcs is not None:
        model.meta.wcs = wcs
    path = Path(folder) / f"{NAME}_{stage}.fits"
    model.save(path)
    model.close()
    return path


def make_wcs(slope_ra=0.0, shape=SHAPE):
    """Wavelength falls with the row; RA [deg] rises with the column."""
    forward = models.Mapping((0, 1, 1)) | (
        models.Linear1D(slope_ra, 80.0) & models.Const1D(-69.0) & models.Linear1D(-0.02, 14.0)
    )
    sky = coordinate_frames.CelestialFrame(reference_frame=coordinates.ICRS(), axes_order=(0, 1))
    spectral = coordinate_frames.SpectralFrame(unit=units.um, axes_order=(2,), axes_names=("wave",))
    world = coordinate_frames.CompositeFrame([sky, spectral], name="world")
    wcs = gwcs.WCS(
        forward, input_frame=coordinate_frames.Frame2D(name="detector"), output_frame=world
    )
    wcs.bounding_box = ((-0.5, shape[1] - 0.5), (-0.5, shape[0] - 0.5))
    return wcs


def place(row, column, **more):
    """A row of the history for a pixel of the subarray."""
    return {"y": row + CORNER[0], "x": column + CORNER[1], **more}


def test_sizes_are_those_that_were_put_in(tmp_path):
    star = Star(excess={(100, 39): 10.0, (200, 36): 40.0}, response={(300, 38): 0.4})
    image, flux, profile = star.render()
    path = write_rate(tmp_path, image)
    history = make_history(
        place(100, 39),
        place(200, 36, amplitude=40.0, amplitude_err=0.4),
        place(300, 38, amplitude=-5.0, amplitude_err=0.1, response=0.4, **{"class": "LOW_QE"}),
        place(150, 60),  # off the trace
    )
    found = check_exposure(path, history)
    table = found.table
    assert [(r["y_sub"], r["x_sub"]) for r in table] == [(200, 36), (300, 38), (100, 39)]
    assert list(table["y"]) == [728, 828, 628]
    assert list(table["y_ds9"]) == [201, 301, 101]
    level = SKY + flux[300] * profile[300, 38]
    true = 100 * np.array([40 / flux[200], -0.6 * level / flux[300], 10 / flux[100]])
    # The error of a row's flux: noise of 11 pixels, smoothed over 15 rows; and 1 % of bias.
    np.testing.assert_allclose(table["spike_percent"], true, rtol=0.015)
    np.testing.assert_allclose(table["seen_percent"], true, atol=5 * 100 * NOISE / FLUX)
    assert np.all(np.abs(table["spike_percent"] - true) < 5 * table["spike_err"])
    gap = [-100 * profile[300, x] for x in (36, 38, 39)]
    np.testing.assert_allclose(table["gap_percent"], gap, rtol=0.03, atol=0.2)
    assert "trace seen at 38" in found.apertures[0]
    assert found.verdict.startswith("3 defects in the aperture, 3 of them above 1 %")
    assert not np.isfinite(table["wavelength"]).any()
    assert any("no WCS" in note for note in found.notes)


def test_only_what_holds_at_the_date_is_listed(tmp_path):
    path = write_rate(tmp_path, Star().render()[0])
    telegraph = {"class": "TELEGRAPH"}
    base = {
        "file": "b.fits",
        "sha256": "",
        "y": [CORNER[0] + 90, CORNER[0] + 91, CORNER[0] + 10],
        "x": [38, 39, 38],
        "dq": [DNU | HOT, HOT, DNU | HOT],
    }
    history = make_history(
        place(10, 38, state=0, dnu=False, **{"class": "GOOD"}),  # released
        place(20, 38, end_mjd=60350.0),  # recovered
        place(30, 38, start_mjd=60450.0),  # not yet
        place(40, 38, start_mjd=60350.0, end_mjd=60450.0),
        place(50, 38, start_mjd=60350.0, pending=True, dnu=False),
        place(60, 38, end_mjd=60100.0, **telegraph),
        place(60, 38, start_mjd=60350.0, end_mjd=60500.0, amplitude=7.0, **telegraph),
        place(70, 38, end_mjd=60100.0, **telegraph),
        place(70, 38, start_mjd=60500.0, **telegraph),
        base=base,
    )
    table = check_exposure(path, history).table
    assert {r["y_sub"]: r["state"] for r in table} == {
        40: "bad",
        50: "pending",
        60: "telegraph",
        70: "telegraph-off",
        90: "base",
    }
    rows = {r["y_sub"]: r for r in table}
    assert rows[60]["amplitude"] == 7
    assert (rows[40]["since"], rows[40]["until"]) == ("2024-02-10", "2024-05-20")
    assert (rows[70]["since"], rows[50]["until"]) == ("<2023-02-25", "")
    assert rows[90]["class"] == "HOT"
    assert np.isnan(rows[90]["spike_percent"])
    assert len(table) == 5


def test_flags_of_product_and_mask_are_told(tmp_path):
    star = Star(excess={(100, 38): 50.0, (200, 38): 50.0})
    dq = np.zeros(SHAPE, np.uint32)
    dq[100, 38] = DNU | HOT
    path = write_rate(tmp_path, star.render()[0], dq=dq)
    history = make_history(place(100, 38), place(200, 38))
    full = np.zeros((1024, 1032), np.uint32)
    full[628, 38] = DNU | HOT
    mask = build_mask(
        full,
        detector="MIRIMAGE",
        useafter="2021-12-25T00:00:00",
        description="x",
        history=["x"],
        pedigree="GROUND",
    )
    (_, written) = write_twins(mask, tmp_path / "mask")
    found = check_exposure(path, history, mask=written)
    rows = {r["y_sub"]: r for r in found.table}
    assert rows[100]["flagged"]
    assert (rows[100]["dq"], rows[100]["mask"]) == ("DO_NOT_USE|HOT",) * 2
    assert np.isnan(rows[100]["seen_percent"])
    assert not rows[200]["flagged"]
    assert (rows[200]["dq"], rows[200]["mask"]) == ("", "")
    assert "1 of them above" in found.verdict
    assert found.verdict.endswith("1 had been flagged")
    with pytest.raises(DetectorError, match="MIRIFULONG"):
        check_exposure(path, make_history(detector="MIRIFULONG"), mask=written)


def test_masked_pixels_that_are_good_now_are_counted(tmp_path):
    dq = np.zeros(SHAPE, np.uint32)
    dq[[10, 20, 30, 40], 38] = DNU
    dq[20, 60] = DNU  # outside the aperture
    path = write_rate(tmp_path, Star().render()[0], dq=dq)
    history = make_history(
        place(10, 38, state=0, dnu=False, **{"class": "GOOD"}),
        place(20, 38, end_mjd=60350.0),
        place(20, 60, end_mjd=60350.0),
        place(30, 38),
    )
    found = check_exposure(path, history)
    (note,) = [note for note in found.notes if "good at this date" in note]
    assert note.startswith("2 pixels")


def test_the_mask_is_found_beside_the_product(tmp_path):
    path = write_rate(tmp_path, Star().render()[0])
    fits.setval(path, "R_MASK", value="crds://jwst_miri_mask_0099.fits")
    full = np.zeros((1024, 1032), np.uint32)
    full[628, 38] = DNU | HOT
    mask = build_mask(
        full,
        detector="MIRIMAGE",
        useafter="2021-12-25T00:00:00",
        description="x",
        history=["x"],
        pedigree="GROUND",
    )
    write_twins(mask, tmp_path / "jwst_miri_mask_0099")
    (row,) = check_exposure(path, make_history(place(100, 38))).table
    assert row["mask"] == "DO_NOT_USE|HOT"


def test_amplitudes_of_calibrated_spectra_are_left_out(tmp_path):
    path = write_rate(tmp_path, Star(excess={(100, 38): 10.0}).render()[0])
    history = make_history(place(100, 38))
    history.warnings = ["Amplitudes are in MJy/sr, the unit of the exposures"]
    found = check_exposure(path, history)
    assert np.isnan(found.table["spike_percent"][0])
    assert found.table["seen_percent"][0] > 5
    assert any("not in DN/s" in note for note in found.notes)


def test_pixels_that_see_no_light_are_left_out(tmp_path):
    dq = np.zeros(SHAPE, np.uint32)
    dq[100, 38] = DNU | 512  # NON_SCIENCE
    path = write_rate(tmp_path, Star().render()[0], dq=dq)
    history = make_history(place(100, 38), place(101, 38), place(102, 2))
    found = check_exposure(path, history, aperture="all")
    assert list(found.table["y_sub"]) == [101]


def test_pixels_that_the_history_never_saw_are_told(tmp_path):
    path = write_rate(tmp_path, Star().render()[0])
    history = make_history(place(100, 38))
    known = check_exposure(path, history)
    assert known.table.meta["n_unseen"] == 0
    assert known.verdict.endswith("had been flagged")
    history.exposures.subarray = ["SUB64"] * len(DAYS)
    found = check_exposure(path, history)
    assert any("read out by no exposure of the history" in note for note in found.notes)
    # SUB64 covers rows 250 to 313 of SLITLESSPRISM.
    assert found.verdict.endswith(f"nothing is known of {1 - 64 / 416:.0%} of the aperture")


def test_integrations_count_by_their_median_and_most_of_their_flags(tmp_path):
    image = Star(excess={(100, 38): 50.0}).render()[0]
    dq = np.zeros((3, *SHAPE), np.uint32)
    dq[0, 100, 38] = dq[:2, 110, 38] = DNU
    path = write_rate(
        tmp_path, np.stack([image] * 3), stage="rateints", dq=dq, kind=datamodels.CubeModel
    )
    table = check_exposure(path, make_history(place(100, 38), place(110, 38))).table
    assert {r["y_sub"]: bool(r["flagged"]) for r in table} == {100: False, 110: True}


@pytest.mark.parametrize("rates", [True, False])
def test_calibrated_spectra_take_the_conversion_from_the_rates(tmp_path, rates):
    """MJy/sr per DN/s falls with the row, and a background is subtracted."""
    star = Star(excess={(100, 39): 10.0})
    image, flux, _ = star.render()
    conversion = np.linspace(4.0, 0.5, SHAPE[0])[:, None]
    path = write_rate(
        tmp_path, (image - SKY) * conversion, stage="cal", unit="MJy/sr", wcs=make_wcs()
    )
    if rates:
        write_rate(tmp_path, image)
    found = check_exposure(path, make_history(place(100, 39)))
    (row,) = found.table
    assert row["wavelength"] == pytest.approx(12.0)
    true = 100 * 10 / flux[100]
    assert row["seen_percent"] == pytest.approx(true, abs=5 * 100 * NOISE / FLUX)
    if rates:
        assert row["spike_percent"] == pytest.approx(true, rel=0.03)
        assert any("_rate.fits" in note for note in found.notes)
        assert "at 12.00 um" in found.verdict
    else:
        assert np.isnan(row["spike_percent"])
        assert any("only what is seen" in note for note in found.notes)
        assert f"the largest is {row['seen_percent']:+.3g} % at 12.00 um" in found.verdict
    assert "1 of them above 1 %" in found.verdict


def test_without_a_source_sizes_are_relative_to_the_level(tmp_path):
    path = write_rate(tmp_path, Star(flux=0.0, excess={(100, 5): 10.0}).render()[0])
    found = check_exposure(path, make_history(place(100, 5)))
    (row,) = found.table
    assert "whole field" in found.apertures[0]
    assert row["spike_percent"] == pytest.approx(100 * 10 / SKY, rel=0.01)
    assert np.isnan(row["gap_percent"])
    assert "of the local level" in found.verdict


def test_the_aperture_can_be_given(tmp_path):
    path = write_rate(tmp_path, Star().render()[0])
    history = make_history(place(100, 38), place(100, 10), place(200, 38))
    found = check_exposure(path, history, aperture=[8, 40, 90, 110])
    assert sorted(found.table["x_sub"]) == [10, 38]
    assert "as asked for" in found.apertures[0]
    assert len(check_exposure(path, history, aperture="all").table) == 3
    for wrong in ([8, 72, 0, 10], [40, 8, 0, 10], [0, 1, 0, 416]):
        with pytest.raises(InputError, match="within columns 0 to 71 and rows 0 to 415"):
            check_exposure(path, history, aperture=wrong)


def write_spectrum(folder, *, rectified=False, stage="x1d"):
    """A spectrum that names columns 35 to 41 and rows 51 to 400, 1-based."""
    model = datamodels.MultiSpecModel()
    spec = datamodels.SpecModel()
    spec.spec_table = np.zeros(4, spec.get_dtype("spec_table"))
    spec.extraction_xstart, spec.extraction_xstop = 35, 41
    spec.extraction_ystart, spec.extraction_ystop = 51, 400
    model.spec.append(spec)
    fill_meta(model)
    if rectified:
        model.meta.cal_step.resample = "COMPLETE"
    path = Path(folder) / f"{NAME}_{stage}.fits"
    model.save(path)
    model.close()
    return path


def test_a_spectrum_names_its_window(tmp_path):
    spectrum = write_spectrum(tmp_path)
    history = make_history(
        place(100, 34), place(100, 40), place(100, 33), place(100, 41), place(49, 38), place(50, 38)
    )
    with pytest.raises(InputError, match=r"expected the 2-D product of .*--image"):
        check_exposure(spectrum, history)
    elsewhere = tmp_path / "rates"
    elsewhere.mkdir()
    rate = write_rate(elsewhere, Star().render()[0])
    given = check_exposure(spectrum, history, image=rate)
    rate.rename(tmp_path / rate.name)
    beside = check_exposure(spectrum, history)
    for found in (given, beside):
        places = {(int(r["y_sub"]), int(r["x_sub"])) for r in found.table}
        assert places == {(100, 34), (100, 40), (50, 38)}
        assert "_x1d.fits names" in found.apertures[0]
    with pytest.raises(InputError, match="leave --image out"):
        check_exposure(tmp_path / rate.name, history, image=rate)
    with pytest.raises(InputError, match="expected a 2-D product with --image"):
        check_exposure(spectrum, history, image=spectrum)
    other = write_rate(elsewhere, Star().render()[0], day=DAYS[1])
    with pytest.raises(InputError, match=r"expected DATE-OBS = 2024-03-31 in .*as in .*_x1d\.fits"):
        check_exposure(spectrum, history, image=other)


def test_a_spectrum_of_a_rectified_image_names_only_its_width(tmp_path):
    spectrum = write_spectrum(tmp_path, rectified=True)
    write_rate(tmp_path, Star().render()[0])
    found = check_exposure(spectrum, make_history(place(10, 38), place(100, 42)))
    assert "3.5 pixels on either side of the trace" in found.apertures[0]
    assert list(found.table["y_sub"]) == [10]


def test_slits_of_nirspec_lie_where_they_were_cut(tmp_path):
    model = datamodels.MultiSlitModel()
    rng = np.random.default_rng(5)
    for name, ystart in (("S200A1", 601), ("S400A1", 1001)):
        y, _ = np.indices((30, 300))
        image = 1 + 50 * np.exp(-0.5 * ((y - 14) / 1.0) ** 2) + rng.normal(0, 0.05, y.shape)
        slit = datamodels.SlitModel(data=image.astype(np.float32))
        slit.dq = np.zeros(image.shape, np.uint32)
        slit.name, slit.xstart, slit.ystart, slit.xsize, slit.ysize = name, 201, ystart, 300, 30
        slit.wavelength = np.broadcast_to(np.linspace(1, 4, 300), image.shape).astype(np.float32)
        slit.meta.wcsinfo.dispersion_direction = 1
        model.slits.append(slit)
    fill_meta(model, detector="NRS1", exp_type="NRS_FIXEDSLIT", unit="MJy")
    model.meta.instrument.name = "NIRSPEC"
    subarray = model.meta.subarray
    subarray.name, subarray.xstart, subarray.ystart = "FULL", 1, 1
    subarray.xsize = subarray.ysize = 2048
    path = tmp_path / "jw01234001001_02101_00001_nrs1_cal.fits"
    model.save(path)
    model.close()
    inside = {"y": 1000 + 15, "x": 200 + 100}
    history = make_history(
        inside, {"y": 1000 + 25, "x": 300}, {"y": 614, "x": 210}, detector="NRS1"
    )
    found = check_exposure(path, history)
    rows = {r["slit"]: r for r in found.table}
    assert set(rows) == {"S200A1", "S400A1"}
    assert len(found.table) == 2
    assert (rows["S400A1"]["y"], rows["S400A1"]["y_ds9"], rows["S400A1"]["x_ds9"]) == (
        1015,
        16,
        101,
    )
    assert rows["S400A1"]["wavelength"] == pytest.approx(1 + 3 * 100 / 299, rel=1e-5)
    assert found.apertures[1].startswith("S400A1: 3 pixels on either side of the trace")
    with fits.open(path, mode="update") as hdus:
        hdus["SCI", 2].header["SLTSTRT2"] = 3000
    with pytest.raises(InputError, match=r"SLTSTRT1/2 of a slit .* give the _rate"):
        check_exposure(path, history)


def test_the_mrs_takes_what_is_near_its_target(tmp_path):
    step = 0.2 / 3600  # RA per column [deg]; at this declination 0.36 of it on the sky
    shape = (1024, 1032)
    model = datamodels.IFUImageModel(data=np.full(shape, 10.0, np.float32))
    model.dq = np.zeros(shape, np.uint32)
    fill_meta(model, detector="MIRIFUSHORT", exp_type="MIR_MRS")
    subarray = model.meta.subarray
    subarray.name, subarray.ystart, (subarray.ysize, subarray.xsize) = "FULL", 1, shape
    model.meta.wcs = make_wcs(step, shape)
    model.meta.target.ra, model.meta.target.dec = 80.0 + 30 * step, -69.0
    path = tmp_path / f"{NAME}_cal.fits"
    model.save(path)
    model.close()
    near = int(2 * (0.033 * (14 - 0.02 * 100) + 0.106) / (0.2 * np.cos(np.deg2rad(69))))
    rows = [{"y": 100, "x": x} for x in (30 + near, 30 + near + 1, 30)]
    found = check_exposure(path, make_history(*rows, detector="MIRIFUSHORT"))
    assert "twice the FWHM" in found.apertures[0]
    assert sorted(found.table["x"]) == [30, 30 + near]
    np.testing.assert_allclose(found.table["wavelength"], 12.0)


def test_images_use_photmjsr(tmp_path):
    image = np.full(SHAPE, 5.0) + np.random.default_rng(1).normal(0, 0.01, SHAPE)
    image[50, 50] += 2.0 * 0.5
    path = write_rate(tmp_path, image, stage="cal", unit="MJy/sr", exp_type="MIR_IMAGE")
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["PHOTMJSR"] = 0.5
        hdus["SCI"].header["PHOTMJSR"] = 0.5
    found = check_exposure(path, make_history(place(50, 50, amplitude=2.0)))
    (row,) = found.table
    assert row["spike_percent"] == pytest.approx(20.0, rel=0.02)
    assert row["seen_percent"] == pytest.approx(20.0, abs=1)
    assert any("PHOTMJSR" in note for note in found.notes)


@pytest.mark.parametrize(
    ("day", "text"), [(60700.0, "after the last"), (59900.0, "before the first")]
)
def test_dates_outside_the_history_are_extrapolated_aloud(tmp_path, day, text):
    path = write_rate(tmp_path, Star().render()[0], day=day)
    history = make_history(place(10, 38), place(20, 38, end_mjd=60450.0))
    found = check_exposure(path, history)
    assert any(note.startswith("extrapolated") and text in note for note in found.notes)
    assert len(found.table) == (1 if day > 60450 else 2)


def test_what_cannot_be_checked_is_refused(tmp_path):
    history = make_history(place(10, 38))
    image = Star().render()[0]
    with pytest.raises(DetectorError, match=r"MIRIMAGE, of which the history is.*MIRIFULONG"):
        check_exposure(write_rate(tmp_path, image, detector="MIRIFULONG"), history)
    with pytest.raises(DateError, match="from 2021-12-25 on"):
        check_exposure(write_rate(tmp_path, image, day=59000.0), history)
    with pytest.raises(InputError, match=r"rectified product .*_s2d"):
        check_exposure(write_rate(tmp_path, image, stage="s2d"), history)
    path = write_rate(tmp_path, image)
    fits.setval(path, "TELESCOP", value="HST")
    with pytest.raises(InputError, match="TELESCOP = JWST"):
        check_exposure(path, history)
    fits.setval(path, "TELESCOP", value="JWST")
    fits.setval(path, "S_RESAMP", value="COMPLETE")
    with pytest.raises(InputError, match="rectified product"):
        check_exposure(path, history)
    fits.PrimaryHDU(header=fits.getheader(path)).writeto(tmp_path / "empty_rate.fits")
    with pytest.raises(InputError, match=r"empty_rate\.fits"):
        check_exposure(tmp_path / "empty_rate.fits", history)
    (tmp_path / "text_rate.fits").write_text("no FITS")
    with pytest.raises(InputError, match=r"text_rate\.fits"):
        check_exposure(tmp_path / "text_rate.fits", history)
    with pytest.raises(InputError, match=r"absent_rate\.fits"):
        check_exposure(tmp_path / "absent_rate.fits", history)
    with pytest.raises(InputError, match=r"pixels with values in .*_rate\.fits"):
        check_exposure(write_rate(tmp_path, np.full(SHAPE, np.nan)), history)
    path = write_rate(tmp_path, image)
    with fits.open(path, mode="update") as hdus:
        hdus["DQ"].data = hdus["DQ"].data[:50]
    with pytest.raises(InputError, match=r"SCI and DQ of one shape in .*_rate\.fits"):
        check_exposure(path, history)


def test_a_truncated_file_is_refused(tmp_path):
    path = write_rate(tmp_path, Star().render()[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(InputError, match="_rate"):
        check_exposure(path, make_history(place(10, 38)))


def test_a_truncated_compressed_file_is_refused(tmp_path):
    """Where it ends astropy finds no further extension, and says nothing."""
    path = write_rate(tmp_path, Star().render()[0])
    with fits.open(path) as hdus:
        hdus[:2].writeto(tmp_path / "cut_rate.fits.gz")
    with pytest.raises(InputError, match=r"SCI and DQ .* in cut_rate\.fits\.gz"):
        check_exposure(tmp_path / "cut_rate.fits.gz", make_history(place(10, 38)))


def test_the_first_exposure_of_a_history_is_not_before_it(tmp_path):
    """Its DATE-OBS and TIME-OBS lie a little before its EXPSTART."""
    path = write_rate(tmp_path, Star().render()[0], day=DAYS[0])
    fits.setval(path, "TIME-OBS", value="00:00:00.000")
    fits.setval(path, "DATE-OBS", value="2023-02-24")
    found = check_exposure(path, make_history(place(10, 38)))
    assert not any(note.startswith("extrapolated") for note in found.notes)


def test_an_aperture_without_light_has_no_continuum(tmp_path):
    image = Star().render()[0]
    image[:20] = np.nan
    found = check_exposure(
        write_rate(tmp_path, image), make_history(place(10, 38)), aperture=(30, 45, 5, 15)
    )
    assert len(found.table) == 1
    assert found.table.meta["relative_to"] == "the local level"


def test_the_command_prints_a_table_and_a_verdict(tmp_path, capsys):
    star = Star(excess={(100, 39): 10.0})
    path = write_rate(tmp_path, star.render()[0])
    history = write_asdf(make_history(place(100, 39)), tmp_path / "h_badpixhistory.asdf")
    table = tmp_path / "out" / "found.ecsv"
    words = ["check", str(path), "--history", str(history), "--output", str(table)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("check: 1 defects in the aperture, 1 of them above 1 %")
    assert "--steps.pixel_replace.skip=False" in lines[-2]
    assert any(line.startswith("aperture: 5 pixels on either side") for line in lines)
    read = Table.read(table, format="ascii.ecsv")
    direct = check_exposure(path, read_history(history)).table
    np.testing.assert_allclose(read["spike_percent"], direct["spike_percent"])
    assert read["wavelength"].unit == "um"
    assert read.meta["relative_to"] == "the continuum"
    assert [p.name for p in table.parent.iterdir()] == [table.name]


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--aperture", "1", "2"], "X0 X1 Y0 Y1"),
        (["--aperture", "1", "2", "3", "-4"], "X0 X1 Y0 Y1"),
        (["--output", "x.fits"], ".ecsv"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path, capsys, more, text):
    path = write_rate(tmp_path, Star().render()[0])
    history = write_asdf(make_history(place(100, 39)), tmp_path / "h_badpixhistory.asdf")
    assert main(["check", str(path), "--history", str(history), *more]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("tvbadpix check: error: expected")
    assert text in printed.err
    assert printed.out == ""


def test_an_image_is_not_told_to_replace_pixels(tmp_path, capsys):
    image = np.full(SHAPE, 5.0) + np.random.default_rng(1).normal(0, 0.01, SHAPE)
    path = write_rate(tmp_path, image, exp_type="MIR_IMAGE")
    history = write_asdf(make_history(place(100, 39)), tmp_path / "h_badpixhistory.asdf")
    assert main(["check", str(path), "--history", str(history)]) == 0
    out = capsys.readouterr().out
    assert "check: 1 defects" in out
    assert "pixel_replace" not in out


def test_no_defect_is_a_verdict_too(tmp_path, capsys):
    path = write_rate(tmp_path, Star().render()[0])
    history = write_asdf(make_history(place(100, 5)), tmp_path / "h_badpixhistory.asdf")
    assert main(["check", str(path), "--history", str(history)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("check: 0 defects in the aperture")
