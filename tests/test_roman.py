"""Exposures of Roman: what is read of them, the masks made of them, and what is refused."""

import dataclasses
import json
import logging
import shutil
import sys
from types import MappingProxyType

import asdf
import numpy as np
import pytest
from asdf.util import load_yaml
from astropy.time import Time
from roman_files import make_l2, name_dq, write_l2
from stdatamodels.jwst.datamodels import ImageModel

from jwst_tvbadpix import detectors, roman
from jwst_tvbadpix.check import check_exposure
from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import build_context
from jwst_tvbadpix.errors import DetectorError, InputError, ProductError
from jwst_tvbadpix.exposures import open_exposures
from jwst_tvbadpix.planes import find_planes
from jwst_tvbadpix.refmodels import (
    build_mask_at,
    build_neutral_mask,
    dq_value,
    make_pedigree,
    read_history,
    read_mask_dq,
)
from jwst_tvbadpix.refmodels import roman as writers
from jwst_tvbadpix.report import build_report, write_page
from jwst_tvbadpix.sources import scan_exposures
from jwst_tvbadpix.steps import TimeVariableBadPixel

rdm = pytest.importorskip("roman_datamodels.datamodels")

N = 120
FULL = N + 8
DNU = dq_value("DO_NOT_USE")
SIGMA = 0.05


@pytest.fixture(autouse=True, scope="module")
def small_detector():
    """WFI01 with few pixels, so that the tests are quick; all else is that of the real one."""
    size = MappingProxyType({"FULL": (5, 5, N, N)})
    real = detectors.DETECTORS["WFI01"]
    small = dataclasses.replace(real, shape=(FULL, FULL), subarrays=size)
    table = MappingProxyType({**detectors.DETECTORS, "WFI01": small})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detectors, "DETECTORS", table)
        for key in ("CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT", "SOURCE_DATE_EPOCH"):
            patch.delenv(key, raising=False)
        yield


def make_rate(k=0, seed=3):
    return np.random.default_rng([seed, k]).normal(0.8, SIGMA, (N, N)).astype(np.float32)


HOT, ONSET, LOW, TELEGRAPH = (30, 40), (50, 60), (70, 20), (90, 90)
LOOKS = 8
START = [f"{2024 + k // 2}-{1 + 6 * (k % 2):02d}-01T06:00:00" for k in range(LOOKS)]


def make_looks():
    """Looks with pixels that are hot, turn on at the fifth, are low, and blink."""
    looks = [make_rate(k) for k in range(LOOKS)]
    for k, rate in enumerate(looks):
        rate[HOT] += 4
        rate[LOW] -= 0.7
        rate[ONSET] += 4 * (k >= 4)
        rate[TELEGRAPH] += 4 * (k in (0, 1, 4, 5, 6))
    return looks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return [
        write_l2(folder / f"r{k}_wfi01_f158_cal.asdf", rate, start=START[k])
        for k, rate in enumerate(make_looks())
    ]


def place(pixel):
    """Full-frame place of a pixel of the level-2 image."""
    return pixel[0] + 4, pixel[1] + 4


# ------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("compression", [None, "lz4", "zlib"])
def test_rows_are_those_of_the_array_within_the_reference_pixels(tmp_path, compression):
    rate = make_rate()
    path = write_l2(tmp_path / "a_cal.asdf", rate, start=START[0], compression=compression)
    other = write_l2(tmp_path / "b_cal.asdf", make_rate(1), start=START[1])
    stack = open_exposures([other, path])
    assert stack.window == (4, N + 4, 4, N + 4)
    assert stack.unit == "DN/s"
    for start, stop in ((0, 9), (40, 60), (N, FULL)):
        rows = stack.read_rows(start, stop)[0]
        expected = np.pad(rate, ((4, 4), (0, 0)), constant_values=np.nan)[start:stop]
        np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("compression", [None, "lz4", "zlib"])
def test_only_what_rows_cannot_be_read_of_is_unpacked_into_files(tmp_path, compression):
    path = write_l2(tmp_path / "a_cal.asdf", make_rate(), err=0.25, compression=compression)
    (scan,) = scan_exposures(path)
    err = scan.source.read_err(slice(3, 5))
    assert err.dtype == np.float32
    assert err.shape == (2, N)
    assert (err == 0.25).all()
    scan.source.read(slice(0, 1))
    folder = scan.source._data._folder
    assert (folder is not None) is (compression == "zlib")
    del scan
    assert folder is None or not folder.exists()


def test_rows_across_the_chunks_of_lz4(tmp_path):
    """asdf cuts arrays into chunks of 4 MB, or as asked, that end anywhere within a row."""
    image = np.random.default_rng(1).normal(size=(50, 70)).astype(np.float32)
    path = tmp_path / "x.asdf"
    with asdf.config_context():
        file = asdf.AsdfFile({"roman": {"data": image}})
        file.write_to(
            path, all_array_compression="lz4", compression_kwargs={"compression_block_size": 1000}
        )
    (plane,) = find_planes(path, load_yaml(path, tagged=True)["roman"], "roman", ["data"])
    assert len(plane._chunks) == 14
    for rows in (slice(0, 1), slice(3, 9), slice(0, 50), slice(49, 50), slice(7, 7), slice(40, 99)):
        np.testing.assert_array_equal(plane.read(rows), image[rows])
    assert plane._folder is None


def test_record_says_what_the_file_says(tmp_path):
    path = write_l2(tmp_path / "a_cal.asdf", make_rate(), start=START[0], exposure_s=107.52)
    write_l2(tmp_path / "b_cal.asdf", make_rate(1), start=START[1])
    record = open_exposures([path, tmp_path / "b_cal.asdf"]).records[0]
    begin = Time(START[0]).mjd
    assert record.filename == "a_cal.asdf"
    assert len(record.sha256) == 64
    assert (record.detector, record.exp_type, record.filter) == ("WFI01", "WFI_IMAGE", "F158")
    assert (record.corner, record.shape, record.dispersion_axis) == ((4, 4), (N, N), None)
    assert (record.start_mjd, record.expstart_mjd) == (begin, begin)
    np.testing.assert_allclose(
        [record.mid_mjd, record.end_mjd], [begin + 53.76 / 86400, begin + 107.52 / 86400]
    )
    assert record.exposure_s == 107.52


def test_flags_are_mapped_by_name_never_by_value(tmp_path):
    from roman_datamodels.dqflags import pixel

    flags = {name: (2, k) for k, name in enumerate(p.name for p in pixel if int(p))}
    path = write_l2(tmp_path / "a_cal.asdf", make_rate(), dq=flags)
    dq = scan_exposures(path)[0].source.read(slice(0, N))[1]
    unmatched = roman.list_unmatched_flags()
    assert {"GW_AFFECTED_DATA", "UNRELIABLE_ERROR", "UNRELIABLE_RESET"} <= set(unmatched)
    assert pixel["OUTLIER"] != dq_value("OUTLIER")  # so that a mapping by value would be seen
    for name, where in flags.items():
        assert dq[where] == (0 if name in unmatched else dq_value(name)), name
    dq[2] = 0
    assert not dq.any()


def test_unmatched_flags_are_listed_in_the_log(files, caplog):
    with caplog.at_level(logging.INFO, logger="jwst_tvbadpix"):
        open_exposures(files[:2])
    (line,) = [text for text in caplog.messages if "no name for" in text]
    assert all(name in line for name in roman.list_unmatched_flags())


def test_do_not_use_is_no_evidence(tmp_path):
    paths = [
        write_l2(
            tmp_path / f"{k}_cal.asdf", make_rate(k), start=START[k], dq={"DO_NOT_USE": (5, 6)}
        )
        for k in range(2)
    ]
    rate, hidden = open_exposures(paths).read_look(0)
    assert np.isnan(rate[5, 6])
    assert np.isnan(rate).sum() == hidden == 1


def test_models_and_library_are_read_as_their_files(files):
    stack = open_exposures(files[:3])
    with_models = open_exposures([rdm.ImageModel(path) for path in files[:3]])
    np.testing.assert_array_equal(stack.read_rows(0, FULL), with_models.read_rows(0, FULL))
    assert [r.mid_mjd for r in stack.records] == [r.mid_mjd for r in with_models.records]


def test_wcs_is_found(files):
    (scan,) = scan_exposures(files[0])
    assert scan.load_wcs() is not None


# ------------------------------------------------------------------------------------- refused


def rewrite(path, folder, old, new):
    """Copy a file with another text of the same length in its tree."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    target = folder / "other_cal.asdf"
    target.write_bytes(content.replace(old, new))
    return target


def test_unknown_version_of_rad(files, tmp_path):
    path = rewrite(files[0], tmp_path, b"tags/wfi_image-2.1.0", b"tags/wfi_image-9.0.0")
    with pytest.raises(InputError, match=r"other_cal.*wfi_image-9\.0\.0.*RAD"):
        open_exposures([path, files[1]])


def test_rad_1_2_is_known(files, tmp_path):
    """Its images have the same arrays and metadata; only the tags differ."""
    path = rewrite(files[0], tmp_path, b"tags/wfi_image-2.1.0", b"tags/wfi_image-2.2.0")
    stack = open_exposures([path, files[1]])
    np.testing.assert_array_equal(stack.read_rows(4, 9)[0], make_looks()[0][:5])


@pytest.mark.parametrize("model", ["ScienceRawModel", "L1FaceGuidewindowModel", "MosaicModel"])
def test_other_kinds_are_refused(tmp_path, model):
    kind = getattr(rdm, model)
    shape = {"ScienceRawModel": (2, 16, 16), "MosaicModel": (16, 16)}.get(model)
    made = kind.create_fake_data(**({"shape": shape} if shape else {}))
    made.to_asdf(tmp_path / "x.asdf")
    with pytest.raises(InputError, match=r"x\.asdf.*another kind"):
        open_exposures([tmp_path / "x.asdf"])
    with pytest.raises(InputError, match="another kind"):
        open_exposures([made])


@pytest.mark.parametrize(
    "keywords",
    [
        {"exp_type": "WFI_SPECTRAL", "optical_element": "GRISM"},
        {"optical_element": "PRISM"},
        {"exp_type": "WFI_IM_DARK"},
    ],
)
def test_spectral_modes_are_refused(tmp_path, keywords):
    path = write_l2(tmp_path / "x_cal.asdf", make_rate(), **keywords)
    with pytest.raises(InputError, match=r"WFI_IMAGE.*x_cal\.asdf"):
        open_exposures([path])


def test_two_telescopes_in_one_list_or_association(tmp_path, files):
    model = ImageModel((1024, 1032))
    model.meta.telescope = "JWST"
    model.meta.instrument.detector = "MIRIMAGE"
    model.dq = np.zeros(model.shape, np.uint32)
    model.save(tmp_path / "x_rate.fits")
    members = [{"expname": str(path), "exptype": "science"} for path in files[:2]]
    members.append({"expname": "x_rate.fits", "exptype": "science"})
    association = tmp_path / "x_asn.json"
    association.write_text(json.dumps({"products": [{"name": "x", "members": members}]}))
    for inputs in ([*files[:2], tmp_path / "x_rate.fits"], association):
        with pytest.raises(InputError, match=r"one telescope.*JWST \(x_rate.*ROMAN"):
            open_exposures(inputs)


def test_two_detectors(tmp_path, files):
    path = write_l2(tmp_path / "b_cal.asdf", np.zeros((4088, 4088)), detector="WFI02")
    with pytest.raises(DetectorError, match=r"WFI01.*WFI02"):
        open_exposures([files[0], path])


def test_wrong_size(tmp_path):
    path = write_l2(tmp_path / "x_cal.asdf", np.zeros((N, N + 1)))
    with pytest.raises(DetectorError, match=r"x_cal.*120 x 120.*121 x 120"):
        open_exposures([path])


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.999])
def test_truncated_file(tmp_path, compression, share):
    whole = write_l2(tmp_path / "a_cal.asdf", make_rate(), compression=compression)
    content = whole.read_bytes()
    cut = tmp_path / "x_cal.asdf"
    cut.write_bytes(content[: int(share * len(content))])
    if share == 0.999:  # what is lost is the index, or empty planes at the end
        return
    with pytest.raises(InputError, match=r"x_cal\.asdf"):
        open_exposures([cut, write_l2(tmp_path / "b_cal.asdf", make_rate(1), start=START[1])])


def test_damaged_block(tmp_path):
    path = write_l2(tmp_path / "x_cal.asdf", make_rate(), compression="lz4")
    (scan,) = scan_exposures(path)
    content = bytearray(path.read_bytes())
    begin = content.index(b"lz4\0", content.index(b"\xd3BLK"))
    content[begin + 60 : begin + 400] = bytes(340)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"compressed image roman.data in .*x_cal\.asdf"):
        scan.source.read(slice(0, 2))


def test_without_roman_datamodels_the_extra_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "roman_datamodels", None)
    with pytest.raises(InputError, match=r"jwst-tvbadpix\[roman\]"):
        open_exposures(files)


def test_asdf_of_another_kind(tmp_path):
    asdf.AsdfFile({"meta": {"telescope": "JWST"}}).write_to(tmp_path / "x.asdf")
    with pytest.raises(InputError, match=r"x\.asdf, an ASDF file of another kind"):
        open_exposures([tmp_path / "x.asdf"])
    (tmp_path / "y.asdf").write_bytes(b"#ASDF 1.0.0\n%YAML 1.1\n--- [unclosed\n...\n")
    with pytest.raises(InputError, match=r"y\.asdf"):
        open_exposures([tmp_path / "y.asdf"])


# ---------------------------------------------------------------------------------------- step


@pytest.fixture(scope="module")
def products(files, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    results = TimeVariableBadPixel.call(
        [str(path) for path in files],
        output_dir=str(output),
        output_file="wfi",
        save_results=True,
        configure_log=False,
    )
    return output, results


def test_masks_hold_what_was_put_in(products):
    output, (history, *masks) = products
    names = sorted(path.name for path in output.glob("*_mask_*"))
    assert names == sorted(mask.meta.filename for mask in masks)
    assert not list(output.glob("*.fits"))
    assert history.meta.telescope == "ROMAN"
    kept = read_history(output / history.meta.filename)
    assert kept.meta.instrument.name == "WFI"
    dq, detector = read_mask_dq(output / names[0])
    last, _ = read_mask_dq(output / names[-1])
    assert detector == "WFI01"
    hot, bad = dq_value("HOT"), (last & DNU) != 0
    assert last[place(HOT)] == dq[place(HOT)] == hot | DNU
    assert last[place(LOW)] & dq_value("LOW_QE", "DEAD")
    assert last[place(TELEGRAPH)] == dq[place(TELEGRAPH)] == dq_value("TELEGRAPH") | DNU
    assert dq[place(ONSET)] == 0
    assert last[place(ONSET)] & DNU
    assert 4 <= bad[4:-4, 4:-4].sum() <= 6  # chance makes some
    assert (last[:4] == dq_value("REFERENCE_PIXEL")).all()


def test_years_without_known_leap_seconds_are_like_others(tmp_path, capsys):
    """From 2029 on astropy warns of each date, which is an error here; and RAD reads dates too."""
    starts = [f"{2027 + k}-07-01T06:00:00" for k in range(6)]
    files = [
        str(write_l2(tmp_path / f"r{k}_cal.asdf", rate, start=start))
        for k, (rate, start) in enumerate(zip(make_looks()[2:], starts, strict=True))
    ]
    history, *masks = TimeVariableBadPixel.call(
        files, output_dir=str(tmp_path), output_file="far", save_results=True, configure_log=False
    )
    assert history.meta.pedigree == "INFLIGHT 2027-07-01 2032-07-01"
    assert any("2028-07-01" < mask.meta.useafter < "2029-07-02" for mask in masks)
    command = ["mask-at", str(tmp_path / history.meta.filename), "--exposure", files[-1]]
    assert main([*command, "--output-dir", str(tmp_path / "at")]) == 0
    name = capsys.readouterr().out.split("/")[-1].strip()
    assert name == masks[-1].meta.filename
    # What steps and commands do, without them.
    assert [record.start_mjd for record in open_exposures(files).records][-1] > 63000
    kept = read_history(tmp_path / history.meta.filename)
    path = build_mask_at(kept, starts[-1]).save(tmp_path / "own.asdf")
    assert np.array_equal(read_mask_dq(path)[0], read_mask_dq(tmp_path / name)[0])
    assert build_context(tmp_path / "crds", {"mask": [path]}).names
    write_page(build_report([tmp_path / history.meta.filename]), tmp_path / "page.html")
    with pytest.warns(Warning, match="dubious year"):  # the caller's filters are as they were
        assert Time(starts[-1]).isot


@pytest.mark.parametrize(
    ("telescope", "mjd", "pedigree"),
    [
        ("JWST", [59572.0, 60000.0], "GROUND"),
        ("JWST", [59800.0, 60000.0], "INFLIGHT 2022-08-09 2023-02-25"),
        ("ROMAN", [59800.0, 61400.0], "GROUND"),
        ("ROMAN", [61400.0, 61500.0], "INFLIGHT 2026-12-26 2027-04-05"),
        ("ROMAN", [61400.0, np.nan], "GROUND"),
    ],
)
def test_what_is_older_than_the_telescope_in_space_is_ground(telescope, mjd, pedigree):
    assert make_pedigree(np.array(mjd), telescope) == pedigree


def test_masks_are_valid_in_rad_and_dated_between_exposures(products):
    from roman_datamodels.dqflags import pixel

    output, (_, *masks) = products
    useafter = []
    for mask in masks:
        with rdm.MaskRefModel(output / mask.meta.filename) as model:
            model.validate()
            useafter.append(model.meta.useafter.mjd)
            dq = np.array(model.dq)
            assert model.meta.instrument.detector == "WFI01"
    assert dq[place(HOT)] == pixel["HOT"] | pixel["DO_NOT_USE"]
    onset = [Time(START[k]).mjd for k in (3, 4)]
    assert any(onset[0] < date <= onset[1] for date in useafter)


def test_page_is_made(products):
    output, _ = products
    page = (output / "wfi_report.html").read_text(encoding="utf-8")
    assert "WFI01" in page
    assert "could not be judged" not in page
    total = len(list(output.glob("*_mask_*")))
    assert f"{total} of {total}" in page


def test_mask_at_is_that_of_the_series(products, files, tmp_path, capsys):
    output, (history, *masks) = products
    made = tmp_path / "at"
    path = output / history.meta.filename
    command = ["mask-at", str(path), "--output-dir", str(made), "--exposure", str(files[-1])]
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(made / masks[-1].meta.filename)]
    with (
        asdf.open(made / masks[-1].meta.filename) as one,
        asdf.open(output / masks[-1].meta.filename) as other,
    ):
        np.testing.assert_array_equal(one["roman"]["dq"], other["roman"]["dq"])
    assert main([*command, "--dry-run"]) == 0
    assert ".fits" not in capsys.readouterr().out


def test_check_lists_the_defects(products, files):
    output, (history, *_) = products
    found = check_exposure(files[-1], read_history(output / history.meta.filename), aperture="all")
    places = set(zip(found.table["y"], found.table["x"], strict=True))
    assert {place(pixel) for pixel in (HOT, ONSET, LOW, TELEGRAPH)} <= places
    assert len(places) <= 6


def test_update_gives_what_all_exposures_together_give(files, tmp_path, capsys):
    common = {"store": str(tmp_path / "store"), "report": False, "configure_log": False}
    TimeVariableBadPixel.call(
        [str(path) for path in files[:-1]],
        output_dir=str(tmp_path),
        output_file="wfi",
        save_results=True,
        **common,
    )
    history = tmp_path / "wfi_WFI01_badpixhistory.asdf"
    command = ["update", str(history), str(files[-1]), "--store", str(tmp_path / "store")]
    assert main([*command, "--output-dir", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("update: 8 exposures")
    last = sorted((tmp_path / "new").glob("*_mask_*.asdf"))[-1]
    dq = read_mask_dq(last)[0]
    assert all(dq[place(pixel)] & DNU for pixel in (HOT, ONSET, LOW, TELEGRAPH))


def test_base_mask_of_roman(files, tmp_path):
    base = np.zeros((FULL, FULL), np.uint32)
    base[10, 10:20] = name_dq((1, 1), {"NON_SCIENCE": (0, 0), "DO_NOT_USE": (0, 0)})[0, 0]
    writers.write_roman_mask(
        tmp_path / "base.asdf",
        base,
        detector="WFI01",
        useafter="2026-01-01T00:00:00",
        description="base",
        pedigree="GROUND",
        history=["made by a test"],
    )
    _, first, *_ = TimeVariableBadPixel.call(
        [str(path) for path in files],
        base_mask=str(tmp_path / "base.asdf"),
        output_dir=str(tmp_path),
        output_file="wfi",
        report=False,
        configure_log=False,
    )
    assert (first.dq[10, 10:20] == dq_value("NON_SCIENCE", "DO_NOT_USE")).all()


@pytest.mark.parametrize("option", [{"depth": "auto"}, {"mask_filter": "F158"}])
def test_what_masks_of_roman_are_not_selected_by(files, option):
    with pytest.raises(ProductError, match="WFI"):
        TimeVariableBadPixel.call([str(path) for path in files], configure_log=False, **option)


def test_same_bytes_whatever_the_compression(files, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    packed = tmp_path / "packed"
    packed.mkdir()
    for k, (path, rate) in enumerate(zip(files, make_looks(), strict=True)):
        write_l2(packed / path.name, rate, start=START[k], compression="lz4")
    made = []
    for folder, order in ((files[0].parent, 1), (packed, -1)):
        TimeVariableBadPixel.call(
            [str(folder / path.name) for path in files][::order],
            output_dir=str(tmp_path / "out"),
            output_file="wfi",
            save_results=True,
            report=False,
            configure_log=False,
        )
        (mask,) = sorted((tmp_path / "out").glob("*_mask_*.asdf"))[-1:]
        made.append(mask.read_bytes())
        shutil.rmtree(tmp_path / "out")
    assert made[0] == made[1]


def test_neutral_mask(tmp_path, capsys):
    mask = build_neutral_mask("WFI01")
    reference = detectors.DETECTORS["WFI01"].reference_pixels()
    np.testing.assert_array_equal(mask.dq, np.where(reference, dq_value("REFERENCE_PIXEL"), 0))
    assert main(["neutral-mask", "--detector", "WFI01", "--output-dir", str(tmp_path)]) == 0
    (written,) = capsys.readouterr().out.split()
    np.testing.assert_array_equal(read_mask_dq(written)[0], mask.dq)


def test_make_l2_is_valid_without_read_noise():
    """What the tests stand on: the files are those that RAD allows."""
    for rnoise in (False, True):
        model = make_l2(make_rate(), rnoise=rnoise)
        model.validate()
        assert ("var_rnoise" in model) is rnoise
