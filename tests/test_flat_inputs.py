"""Images for a flat: what is taken, what is left out by name, what belongs together."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from jwst.datamodels import ModelLibrary
from jwst.flatfield import FlatFieldStep
from pipeline import idle_collector
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.errors import DetectorError, EvidenceError, InputError
from jwst_tvbadpix.flatfield import StackSettings
from jwst_tvbadpix.imaging import list_sets, open_images
from jwst_tvbadpix.simulate import find_region, simulate_flat_programme
from jwst_tvbadpix.steps import ExternalFlatBuilder
from jwst_tvbadpix.steps._flat_products import name_sets
from jwst_tvbadpix.steps._flat_sets import (
    choose_fwhm,
    gather_facts,
    has_cruciform,
    mark_field,
    mark_slit,
)


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    return simulate_flat_programme(
        tmp_path_factory.mktemp("rates"),
        region=find_region("SUB256"),
        n_exposures=6,
        n_tiles=3,
        density=1500,
    ).rates


def edit(rates, folder, change, which=None):
    """Copy the rates and change some of them."""
    copies = []
    for k, path in enumerate(rates):
        copies.append(Path(shutil.copy(path, folder)))
        if which is None or k in which:
            with fits.open(copies[-1], mode="update") as hdus:
                change(hdus)
    return copies


def set_card(card, value, hdu=0):
    return lambda hdus: hdus[hdu].header.set(card, value)


def drop_wcs(hdus):
    del hdus["SCI"].header["CRPIX1"]


def drop_err(hdus):
    del hdus["ERR"]


def lose_area(hdus):
    hdus["SCI"].header["CDELT2"] = 0.0


REASONS = [
    (set_card("S_FLAT", "COMPLETE"), "flat_field.skip=True"),
    (drop_wcs, "no number for CRPIX1"),
    (lose_area, "area on the sky"),
    (drop_err, "expected an ERR image"),
    (set_card("EXP_TYPE", "MIR_TACQ"), "EXP_TYPE MIR_IMAGE"),
    (set_card("FILTER", "N/A"), "expected a FILTER"),
    (set_card("BUNIT", "MJy/sr", "SCI"), "expected PHOTMJSR"),
    (set_card("TELESCOP", "HST"), "TELESCOP = JWST"),
    (set_card("SUBARRAY", "SUB999"), "SUBARRAY"),
    (set_card("EXPMID", 70000.0), "EXPMID within a day"),
]


@pytest.mark.parametrize(("change", "words"), REASONS)
def test_what_cannot_be_used_is_left_out_by_name(rates, tmp_path, change, words):
    copies = edit(rates, tmp_path, change, which=[2])
    images, excluded = open_images(copies)
    assert len(images) == len(rates) - 1
    (out,) = excluded
    assert out.filename == rates[2].name
    assert words in out.reason
    with pytest.raises(EvidenceError) as caught:
        open_images([copies[2]])
    assert words in str(caught.value)
    assert "(1 exposures)" in str(caught.value)


def test_exposures_are_given_once(rates):
    with pytest.raises(InputError, match="each exposure once"):
        open_images([*rates, rates[0]])


def test_calibrated_images_are_count_rates_again(rates, tmp_path):
    def calibrate(hdus):
        hdus["SCI"].header["BUNIT"] = "MJy/sr"
        hdus["SCI"].header["PHOTMJSR"] = 0.5
        for name in ("SCI", "ERR"):
            hdus[name].data = hdus[name].data * np.float32(0.5)

    (one,) = list_sets(open_images(rates)[0])
    (two,) = list_sets(open_images(edit(rates, tmp_path, calibrate))[0])
    for plane, other in zip(one.read(1, 20, 60), two.read(1, 20, 60), strict=True):
        np.testing.assert_array_equal(plane, other)


def test_flags_and_nonsense_are_no_evidence(rates, tmp_path):
    def spoil(hdus):
        hdus["DQ"].data[5, 7] |= 1
        hdus["DQ"].data[5, 8] |= 2
        hdus["DQ"].data[5, 9] |= 4
        hdus["SCI"].data[5, 10] = np.inf
        hdus["ERR"].data[5, 11] = 0
        hdus["ERR"].data[5, 12] = np.nan
        hdus["SCI"].data[5, 13] = 1e12

    (images,) = list_sets(open_images(edit(rates, tmp_path, spoil))[0])
    rate, err = images.read(0, 4, 8)
    assert rate.shape == err.shape == (4, 256)
    assert rate.dtype == err.dtype == np.float32
    lost = np.isnan(rate[1, 5:15])
    assert lost.tolist() == [False, False, True, True, False, True, True, True, True, False]
    np.testing.assert_array_equal(np.isnan(rate), np.isnan(err))


def test_models_and_libraries_are_read_as_files_are(rates, tmp_path):
    (files,) = list_sets(open_images(rates)[0])
    models = [datamodels.open(path) for path in rates]
    library = ModelLibrary([datamodels.open(path) for path in rates])
    for inputs in (models, library):
        (images,) = list_sets(open_images(inputs)[0])
        assert len(images) == len(files)
        for k in (0, 5):
            for plane, other in zip(images.read(k, 30, 34), files.read(k, 30, 34), strict=True):
                np.testing.assert_array_equal(plane, other)
            place = np.array([3.0]), np.array([4.0])
            one, two = (s.images[k].wcs.to_sky(*place) for s in (images, files))
            np.testing.assert_allclose(one, two)
    for model in models:
        model.close()


def test_sets_share_optics_pixels_and_read_out(rates, tmp_path):
    copies = edit(rates, tmp_path, set_card("READPATT", "SLOWR1"), which=[0, 1, 2])
    with fits.open(copies[5], mode="update") as hdus:
        hdus[0].header["FILTER"] = "F1500W"
    images, _ = open_images(copies)
    sets = list_sets(images)
    assert [(s.filter, s.readpatt, len(s)) for s in sets] == [
        ("F1500W", "FASTR1", 1),
        ("F770W", "FASTR1", 2),
        ("F770W", "SLOWR1", 3),
    ]
    names = list(name_sets("N", sets))
    assert [name.stem for name in names] == [
        "N_MIRIMAGE_F1500W_SUB256",
        "N_MIRIMAGE_F770W_SUB256_FASTR1",
        "N_MIRIMAGE_F770W_SUB256_SLOWR1",
    ]
    assert [name.readpatt for name in names] == ["N/A", "FASTR1", "SLOWR1"]
    assert {name.subarray for name in names} == {"SUB256"}
    # The change of filter ends the run of exposures.
    assert images[-1].run == images[-2].run + 1
    assert [choose_fwhm(s) for s in sets] == [4.44, 2.45, 2.45]
    assert [has_cruciform(s) for s in sets] == [False, True, True]


def test_one_subarray_is_at_one_place(rates, tmp_path):
    def become_nircam(hdus):
        optics = {"DETECTOR": "NRCALONG", "INSTRUME": "NIRCAM", "FILTER": "F444W"}
        optics |= {"PUPIL": "CLEAR", "EXP_TYPE": "NRC_IMAGE", "SUBARRAY": "SUB160"}
        for card, value in optics.items():
            hdus[0].header[card] = value

    copies = edit(rates, tmp_path, become_nircam)
    (images,) = list_sets(open_images(copies)[0])
    assert choose_fwhm(images) == pytest.approx(1.66, abs=0.02)
    assert not has_cruciform(images)
    assert mark_field(images).all()
    assert [n.stem for n in name_sets("N", [images])] == ["N_NRCALONG_F444W_CLEAR_SUB160"]
    with fits.open(copies[0], mode="update") as hdus:
        hdus[0].header["SUBSTRT1"] += 8
    with pytest.raises(DetectorError, match="at one place"):
        list(name_sets("N", list_sets(open_images(copies)[0])))


def test_same_bytes_whatever_the_order(rates, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name, inputs in (("one", rates), ("two", rates[::-1])):
        call(inputs, tmp_path / name, output_file="same")
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) >= 4
    for name in files:
        first, second = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert first == second, name


def test_facts_of_a_set(rates):
    (images,) = list_sets(open_images(rates)[0])
    facts = gather_facts(images, epoch_gap=0.05, hold_out=2)
    assert facts.tiles.tolist() == [0, 0, 1, 1, 2, 2]
    assert facts.epoch.tolist() == [0, 0, 1, 1, 2, 2]
    assert facts.names == tuple(path.name for path in rates)
    assert (~facts.used).sum() == 2
    assert gather_facts(images, epoch_gap=1, hold_out=0).used.all()
    # Three must be left to make a flat of, and one of each epoch.
    assert gather_facts(images, epoch_gap=1, hold_out=9).used.sum() == 3
    assert mark_field(images).all()
    assert not mark_slit(images).any()
    facts = get_detector("MIRIMAGE")
    y0, y1, x0, x1 = facts.slit
    assert (y0 < 298.7 < y1, x0 < 324.13 < x1) == (True, True)
    assert x1 < facts.imager[2]


def call(inputs, folder, **parameters):
    with idle_collector():
        return ExternalFlatBuilder.call(
            [str(path) for path in inputs],
            save_results=True,
            report=False,
            output_dir=str(folder),
            **parameters,
        )


def test_small_dithers_are_an_error_and_nothing_is_left(rates, tmp_path, caplog):
    def repeat(hdus):
        with fits.open(rates[0]) as first:
            hdus["SCI"].data[:] = first["SCI"].data
            for card in ("CRPIX1", "CRPIX2", "PC1_1", "PC1_2", "PC2_1", "PC2_2"):
                hdus["SCI"].header[card] = first["SCI"].header[card]
        rng = np.random.default_rng(int(hdus[0].header["EXPSTART"] * 1e4) % 1000)
        hdus["SCI"].data += hdus["ERR"].data * rng.normal(size=hdus["SCI"].data.shape)

    (tmp_path / "in").mkdir()
    copies = edit(rates, tmp_path / "in", repeat)
    with pytest.raises(EvidenceError, match=r"F770W.*1\.5 FWHM"):
        call(copies, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_exposures_that_show_nothing_are_left_out_by_name(rates, tmp_path, caplog):
    def blind(hdus):
        hdus["SCI"].data[:] = np.nan

    (tmp_path / "in").mkdir()
    call(edit(rates, tmp_path / "in", blind, which=[2]), tmp_path / "out", star_flat="never")
    assert f"{rates[2].name} is left out of the stack: its level" in caplog.text
    (path,) = (tmp_path / "out").glob("*_exposures.ecsv")
    table = Table.read(path)
    assert table["status"][2] == "left out of the stack"
    assert list(table["status"]).count("used") == len(rates) - 1


def test_stars_that_are_asked_for_are_never_replaced_by_the_sky(tmp_path, caplog):
    programme = simulate_flat_programme(
        tmp_path / "in", region=find_region("SUB256"), n_exposures=4, n_tiles=4, density=1e-9
    )
    with pytest.raises(EvidenceError, match="stars"):
        call(programme.rates, tmp_path / "always", star_flat="always")
    assert not list((tmp_path / "always").glob("*"))
    call(programme.rates, tmp_path / "auto")
    assert "No star flat" in caplog.text
    assert "low frequencies are those of the sky" in caplog.text


def test_sets_without_a_flat_do_not_stop_the_others(rates, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    copies = edit(rates, tmp_path / "in", set_card("FILTER", "F1500W"), which=[4])
    copies += edit(rates[:1], tmp_path, set_card("S_FLAT", "COMPLETE"))
    with fits.open(copies[-1], mode="update") as hdus:
        hdus[0].header["EXPSTART"] += 1e-4
        hdus["SCI"].data[0, 0] += 1
    result = call(copies, tmp_path / "out", star_flat="never", output_file="both")
    assert len(result) == 2
    assert "No flat of MIRIMAGE F1500W" in caplog.text
    stem = tmp_path / "out" / "both_MIRIMAGE_F770W_SUB256"
    table = Table.read(f"{stem}_exposures.ecsv")
    assert table["status"][-1] == "left out"
    assert "S_FLAT COMPLETE" in table["reason"][-1]
    assert len(table) == 6
    history = str(fits.getheader(f"{stem}_flat_20211225T000000.fits")["HISTORY"]).replace("\n", "")
    assert "no star flat" in history


def test_every_kind_of_pixel_is_what_flat_field_can_take(rates, tmp_path):
    """DQ policy: what jwst's own step does with each kind of pixel of a flat that we made."""
    kinds = {
        "dead": lambda hdus, at: hdus["SCI"].data.__setitem__(at, 0.0),
        "low": lambda hdus, at: hdus["SCI"].data.__setitem__(at, hdus["SCI"].data[at] * 0.05),
        "negative": lambda hdus, at: hdus["SCI"].data.__setitem__(at, -hdus["SCI"].data[at]),
        "infinite": lambda hdus, at: hdus["SCI"].data.__setitem__(at, np.inf),
        "flagged": lambda hdus, at: hdus["DQ"].data.__setitem__(at, 1),
        "saturated": lambda hdus, at: hdus["DQ"].data.__setitem__(at, 2),
        "noisy": lambda hdus, at: hdus["ERR"].data.__setitem__(at, 5.0),
        "good": lambda hdus, at: None,
    }
    places = {kind: (40 + 20 * k, 30 + 20 * k) for k, kind in enumerate(kinds)}

    def spoil(hdus):
        for kind, change in kinds.items():
            change(hdus, places[kind])

    (tmp_path / "in").mkdir()
    call(edit(rates, tmp_path / "in", spoil), tmp_path / "out", star_flat="never")
    flats = sorted((tmp_path / "out").glob("*_flat_*"))
    assert [path.suffix for path in flats] == [".asdf", ".fits"]
    for flat in flats:
        context = build_context(tmp_path / flat.suffix, {"flat": [flat]})
        with (
            idle_collector(),
            use_context(context),
            datamodels.open(flat) as reference,
            FlatFieldStep.call(str(rates[0])) as result,
        ):
            for kind, at in places.items():
                flags = reference.dq[at], result.dq[at]
                value, err = result.data[at], result.err[at]
                if kind in ("good", "noisy"):
                    assert flags == ((0, 0) if kind == "good" else (2**25, 2**25)), kind
                    expected = fits.getdata(rates[0], "SCI")[at] / reference.data[at]
                    assert value == pytest.approx(expected, rel=1e-5)
                    share = (value / reference.data[at] * reference.err[at]) ** 2
                    assert result.var_flat[at] == pytest.approx(share, rel=1e-4)
                    assert np.isfinite(err)
                else:
                    assert flags[0] == 1 | 2**18, kind
                    assert flags[1] == 1 | 2**18, kind
                    assert np.isnan(value)
                    assert np.isnan(reference.data[at])
            usable = (reference.dq & 1) == 0
            assert np.isfinite(reference.err[usable]).all()
            assert (reference.data[usable] > 0).all()


def test_flat_image_exposures_serve_stage_2(rates, tmp_path):
    (tmp_path / "in").mkdir()
    copies = edit(rates, tmp_path / "in", set_card("EXP_TYPE", "MIR_FLATIMAGE-EXT"))
    call(copies, tmp_path / "out", star_flat="never")
    (path,) = (tmp_path / "out").glob("*_flat_*.fits")
    header = fits.getheader(path)
    assert header["EXP_TYPE"] == "MIR_IMAGE"
    assert "MIR_FLATIMAGE-EXT" in str(header["HISTORY"]).replace("\n", "")


def test_stars_that_are_asked_for_must_be_there(rates, tmp_path):
    with pytest.raises(EvidenceError, match="order 20"):
        call(rates, tmp_path, star_flat="always", order=20)
    assert not list(tmp_path.glob("*"))


def test_defaults_are_those_of_the_numerics():
    from jwst_tvbadpix.flatfield import FlatSettings

    settings, step = FlatSettings(StackSettings(2.0)), ExternalFlatBuilder()
    for name in ("star_flat", "by_epoch", "least_response", "unreliable_err"):
        assert getattr(step, name) == getattr(settings, name)
    assert (step.order, step.zero_point_scatter) == (0, -1)
    assert (settings.order, settings.zero_point_scatter) == (None, None)
