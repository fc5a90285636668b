"""Simulated exposures of Roman, and the associations that are made of them."""

import json
import re
import sys

import asdf
import numpy as np
import pytest
from astropy.table import Table
from astropy.time import Time
from exposure_headers import name_file, write_exposure
from pipeline import idle_collector

rdm = pytest.importorskip("roman_datamodels.datamodels")
from roman_datamodels.dqflags import pixel  # noqa: E402
from roman_files import make_l2  # noqa: E402
from roman_small import shrink_wfi, write_field  # noqa: E402
from skyfield import make_field  # noqa: E402

from jwst_tvbadpix.cli import main  # noqa: E402
from jwst_tvbadpix.errors import InputError, ProductError  # noqa: E402
from jwst_tvbadpix.programmes.associate import plan_associations  # noqa: E402
from jwst_tvbadpix.programmes.recipes import find_recipe  # noqa: E402
from jwst_tvbadpix.programmes.scan import list_exposures, list_fits, scan_headers  # noqa: E402
from jwst_tvbadpix.refmodels import dq_value, read_mask_dq  # noqa: E402
from jwst_tvbadpix.simulate import (  # noqa: E402
    Scene,
    UndispersedSky,
    draw_specs,
    make_cal_step,
    make_defects,
    read_truth,
    render_rate,
    save_roman,
    simulate_programme,
    write_wfi_image,
)
from jwst_tvbadpix.steps import ExternalFlatBuilder, TimeVariableBadPixel  # noqa: E402

SHAPE = (150, 170)
START, END = Time("2024-01-01").mjd, Time("2026-01-01").mjd
MASKS, FLATS = "time_variable_bad_pixel", "external_flat_builder"


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink_wfi(monkeypatch, SHAPE)


def draw(n=2):
    return draw_specs(mode="wfi", n_exposures=n, start_mjd=START, end_mjd=END, seed=3)


# ----------------------------------------------------------------------------------- simulated


def test_a_programme_is_valid_by_rad_and_of_known_truth(tmp_path):
    made = simulate_programme(
        tmp_path, mode="wfi", n_exposures=4, ramp_dates=["2026-05-01"], seed=5
    )
    assert made.association.name == "r09005-simulated_wfi01-wfi_asn.json"
    members = json.loads(made.association.read_text())["products"][0]["members"]
    assert [member["expname"] for member in members] == [path.name for path in made.rates]
    assert len(read_truth(made.truth)) == len(made.defects) == len(Table.read(made.truth))
    for path, spec in zip(made.rates, made.specs, strict=True):
        assert re.fullmatch(r"r\d{19}_0001_wfi01_f158_cal\.asdf", path.name)
        with rdm.ImageModel(path, memmap=False) as image:
            image.validate()
            assert (image.meta.filename, image.data.shape) == (path.name, SHAPE)
            assert image.meta.exposure.start_time.mjd == pytest.approx(spec.mjd, abs=1e-8)
            assert image.meta.instrument.detector == "WFI01"
            data, err = np.array(image.data), np.array(image.err, np.float32)
        hot = (made.defects.amplitude > 1) & made.defects.state(spec.mjd)
        at = made.defects.y[hot] - 4, made.defects.x[hot] - 4
        assert hot.sum() > 20
        assert (data[at] > np.nanmedian(data) + 0.5)[np.isfinite(data[at])].mean() > 0.9
        assert 0.02 < np.median(err) < 0.2
    (ramp,) = made.ramps
    with rdm.ScienceRawModel(ramp, memmap=False) as raw:
        raw.validate()
        assert raw.data.shape == (3, 158, 178)
        assert [len(reads) for reads in raw.meta.exposure.read_pattern] == [8, 8, 8]
        slope = np.diff(np.array(raw.data, float), axis=0).mean(axis=0)
        assert slope[:4].max() == 0
        assert np.median(slope[4:-4, 4:-4]) > 0


def test_the_image_is_what_was_rendered_its_flags_by_name(tmp_path):
    spec = draw()[0]
    scene = Scene().add(UndispersedSky(0.4))
    defects = make_defects("WFI01", [40], [50], amplitude=1e6)
    path = write_wfi_image(tmp_path, spec, scene, defects)
    rate = render_rate(spec, scene, defects)
    with rdm.ImageModel(path, memmap=False) as image:
        np.testing.assert_array_equal(image.data, rate.rate)
        np.testing.assert_array_equal(image.err, rate.err.astype(np.float16))
        dq = np.array(image.dq)
    assert np.argwhere(dq).tolist() == [[36, 46]]
    assert dq[36, 46] == pixel.SATURATED | pixel.DO_NOT_USE


def test_noise_is_what_err_says_and_stripes_run_along_rows():
    result = render_rate(draw()[0], Scene().add(UndispersedSky(0.4, 0, 0)))
    pull = (result.rate - 0.4 * draw()[0].zodi) / result.err
    assert np.nanstd(pull) == pytest.approx(1, abs=0.05)
    rows, columns = (np.nanmean(pull, axis=axis).std() for axis in (1, 0))
    assert rows > 1.3 * columns


def test_one_place_of_the_sky_in_two_exposures_of_a_field(tmp_path):
    places = []
    for spec in draw():
        with rdm.ImageModel(write_wfi_image(tmp_path, spec, Scene()), memmap=False) as image:
            dy, dx = spec.dither
            places.append(image.meta.wcs((SHAPE[1] - 1) / 2 + dx, (SHAPE[0] - 1) / 2 + dy))
            pointing = image.meta.pointing
            assert places[-1] == pytest.approx((pointing.target_ra, pointing.target_dec))
    assert places[0] == pytest.approx(places[1])


def test_same_bytes_at_a_given_date(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    made = []
    for name in ("a", "b"):
        programme = simulate_programme(
            tmp_path / name, mode="wfi", n_exposures=1, ramp_dates=["2026-01-01"]
        )
        made.append([path.read_bytes() for path in (*programme.rates, *programme.ramps)])
    assert made[0] == made[1]


def test_what_rad_does_not_allow_is_not_left(tmp_path):
    model = make_l2(np.zeros((8, 8), np.float32))
    model._instance["meta"]["exposure"]["nresultants"] = "many"
    with pytest.raises(ProductError, match=r"x_cal\.asdf to be valid by RAD"):
        save_roman(model, tmp_path / "x_cal.asdf")
    assert not list(tmp_path.iterdir())


def test_without_roman_datamodels_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "roman_datamodels", None)
    assert main(["simulate", str(tmp_path / "x"), "--mode", "wfi", "--exposures", "1"]) == 1
    assert "jwst-tvbadpix[roman]" in capsys.readouterr().err


# ---------------------------------------------------------------------------------- associated


def write_image(folder, k, *, detector="WFI01", element="F158", program=1234, **changed):
    """A level-2 image as associations see it: metadata, and next to no pixels."""
    name = f"r{program:05d}01001001{k:03d}001_0001_{detector.lower()}_{element.lower()}_cal.asdf"
    model = make_l2(
        np.zeros((8, 8), np.float32),
        detector=detector,
        optical_element=element,
        start=f"2027-{k:02d}-01T00:00:00",
        exp_type=changed.pop("exp_type", "WFI_IMAGE"),
    )
    model.meta.observation.program, model.meta.observation.observation = program, k
    model.meta.cal_step = make_cal_step(**{"assign_wcs": "COMPLETE"} | changed)
    return save_roman(model, folder / name)


def plan(folder, **keywords):
    return plan_associations(scan_headers(list_exposures([folder])), **keywords)


def test_masks_by_detector_flats_by_detector_and_element(tmp_path):
    for k, (detector, element, program) in enumerate(
        [
            ("WFI01", "F158", 1234),
            ("WFI01", "F158", 1235),
            ("WFI01", "F106", 1234),
            ("WFI02", "F158", 1234),
        ],
        start=1,
    ):
        write_image(tmp_path, k, detector=detector, element=element, program=program)
    write_exposure(tmp_path / name_file(1))
    write_exposure(tmp_path / name_file(2), DETECTOR="MIRIFULONG", EXP_TYPE="MIR_MRS")
    made = {a.name: a for a in plan(tmp_path).associations}
    assert {name: len(a.members) for name, a in made.items()} == {
        "01234_external_flat_builder_WFI01_wfi-imaging_F106_20270301": 1,
        "01234_external_flat_builder_WFI02_wfi-imaging_F158_20270401": 1,
        "multi_external_flat_builder_WFI01_wfi-imaging_F158_20270101": 2,
        "multi_time_variable_bad_pixel_WFI01_wfi-imaging": 3,
        "01234_time_variable_bad_pixel_WFI02_wfi-imaging_F158": 1,
        "09999_time_variable_bad_pixel_MIRIMAGE_lrs-slit_P750L_FULL": 1,
        "09999_time_variable_bad_pixel_MIRIFULONG_mrs_P750L_FULL": 1,
    }
    for association in made.values():
        assert len({m.observation.telescope for m in association.members}) == 1
        assert not [d for d in association.doubts if "flat-fielded" in d]


def test_flats_need_a_wcs_and_no_flat(tmp_path):
    for k, done in enumerate(({}, {"flat_field": "COMPLETE"}, {"assign_wcs": "INCOMPLETE"}), 1):
        write_image(tmp_path, k, **done)
    counts = {a.step: len(a.members) for a in plan(tmp_path).associations}
    assert counts == {MASKS: 3, FLATS: 1}


def test_what_no_step_takes_is_left_over_with_the_reason(tmp_path, capsys):
    write_image(tmp_path, 1)
    write_image(tmp_path, 2, element="GRISM", exp_type="WFI_SPECTRAL")
    write_image(tmp_path, 3, element="PRISM")
    write_image(tmp_path, 4, exp_type="WFI_IM_DARK")
    unknown = write_image(tmp_path, 5)
    content = unknown.read_bytes()
    unknown.write_bytes(re.sub(rb"tags/wfi_image-2\.\d\.0", b"tags/wfi_image-9.0.0", content))
    rdm.L1FaceGuidewindowModel.create_fake_data().to_asdf(tmp_path / "guide.asdf")
    rdm.MosaicModel.create_fake_data(shape=(8, 8)).to_asdf(tmp_path / "mosaic_coadd.asdf")
    mask = rdm.MaskRefModel.create_fake_data(shape=(8, 8))
    mask.meta.telescope = "ROMAN"
    mask.to_asdf(tmp_path / "mask.asdf")
    asdf.AsdfFile({"meta": {"telescope": "JWST"}}).write_to(tmp_path / "badpixhistory.asdf")
    made = plan(tmp_path)
    assert [len(a.members) for a in made.associations] == [1, 1]
    reasons = {left.observation.path.name: left.reason for left in made.leftovers}
    assert len(reasons) == 7  # what is not of Roman is not even listed
    for part, words in (
        ("grism", "WFI_SPECTRAL through GRISM"),
        ("prism", "WFI_IMAGE through PRISM"),
        ("004001", "WFI_IM_DARK"),
        ("005001", "wfi_image-9.0.0"),
        ("guide", "l1_face_guidewindow"),
        ("mosaic", "mosaic"),
        ("mask", "reference file"),
    ):
        (reason,) = (why for name, why in reasons.items() if part in name)
        assert words in reason
        assert "Roman" in reason
    unneeded = [str(path) for path in tmp_path.iterdir() if "grism" in path.name]
    assert main(["associate", *unneeded, "--output-dir", str(tmp_path)]) == 1
    assert "0 associations of 1 files" in capsys.readouterr().out


def test_recipes_of_jwst_are_not_asked_about_roman(tmp_path, capsys):
    write_image(tmp_path, 1, program=1539)
    assert {a.step for a in plan(tmp_path).associations} == {MASKS, FLATS}
    assert main(["associate", str(tmp_path), "--dry-run"]) == 0
    assert "recipe" not in capsys.readouterr().out
    archival = plan(tmp_path, recipes=[find_recipe("07831")], program="07831")
    assert not archival.associations
    assert "no evidence for 07831" in archival.leftovers[0].reason


def test_the_exposure_of_two_levels_is_used_once(tmp_path):
    made = simulate_programme(tmp_path, mode="wfi", n_exposures=1, ramp_dates=["2026-01-01"])
    (ramp,) = made.ramps
    ramp.rename(tmp_path / made.rates[0].name.replace("_cal", "_uncal"))
    found = plan(tmp_path)
    assert {a.step: a.stage for a in found.associations} == {MASKS: "cal", FLATS: "cal"}
    assert [left.reason for left in found.leftovers] == ["_cal of the exposure is used"]
    made.rates[0].unlink()
    raw = plan(tmp_path).associations
    assert [(a.ready, a.stage) for a in raw] == [(False, "uncal")] * 2


def test_files_that_are_none_are_refused_by_name(tmp_path):
    (tmp_path / "x.asdf").write_bytes(b"#ASDF 1.0.0\nno tree")
    with pytest.raises(InputError, match=r"ASDF files of Roman.*found none"):
        list_exposures([tmp_path])
    with pytest.raises(InputError, match=r"x\.asdf"):
        scan_headers([tmp_path / "x.asdf"])
    path = write_image(tmp_path, 1)
    content = path.read_bytes().replace(b"telescope: ROMAN", b"telescope: EUCLI")
    (tmp_path / "y.asdf").write_bytes(content)
    with pytest.raises(InputError, match=r"y\.asdf, found 'EUCLI'"):
        scan_headers([tmp_path / "y.asdf"])
    with pytest.raises(InputError, match="expected FITS files"):
        list_fits([tmp_path])


def test_the_steps_take_the_associations(tmp_path, capsys):
    write_field(tmp_path, make_field(shape=SHAPE, n_exp=6, seed=4))
    assert main(["associate", str(tmp_path), "--output-dir", str(tmp_path)]) == 0
    flats, masks = sorted(map(str, tmp_path.glob("*_asn.json")))
    assert capsys.readouterr().out.splitlines()[-1].startswith("associate: 2 associations of 6")
    common = {"save_results": True, "output_dir": str(tmp_path / "out"), "report": False}
    with idle_collector():
        ExternalFlatBuilder.call(flats, **common)
        TimeVariableBadPixel.call(masks, **common)
    names = [path.name for path in (tmp_path / "out").iterdir()]
    assert any(re.search(r"_WFI01_F158_flat_\d{8}T\d{6}\.asdf", name) for name in names)
    assert any(re.search(r"_WFI01_mask_\d{8}T\d{6}\.asdf", name) for name in names)


def test_masks_of_simulated_images_follow_the_truth(tmp_path):
    specs = draw(10)
    middle = (specs[4].mjd + specs[5].mjd) / 2
    defects = make_defects("WFI01", [40, 60], [50, 70], amplitude=2.0, onset_mjd=[-np.inf, middle])
    scene = Scene().add(UndispersedSky(0.4))
    paths = [str(write_wfi_image(tmp_path, spec, scene, defects)) for spec in specs]
    output = tmp_path / "out"
    with idle_collector():
        TimeVariableBadPixel.call(
            paths, save_results=True, output_dir=str(output), output_file="wfi", report=False
        )
    first, *_, last = sorted(output.glob("wfi_WFI01_mask_*.asdf"))
    bad = [(read_mask_dq(path)[0] & dq_value("DO_NOT_USE")) != 0 for path in (first, last)]
    assert bad[0][40, 50]
    assert not bad[0][60, 70]
    assert bad[1][[40, 60], [50, 70]].all()
    assert bad[1].sum() < 10
