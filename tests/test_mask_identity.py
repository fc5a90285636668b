"""What masks are for, through crds and the stock steps: filters, depths, the IRS2 frame."""

import os

import asdf
import crds
import numpy as np
import pytest
from astropy.io import fits
from crds import certify
from crds.core import log
from jwst.dq_init.dq_init_step import DQInitStep
from jwst.refpix.irs2_subtract_reference import make_irs2_mask, strip_ref_pixels
from stdatamodels.jwst.datamodels import MaskModel, RampModel

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import InputError, ProductError
from jwst_tvbadpix.refmodels import (
    MaskSeries,
    build_history,
    build_mask,
    build_mask_at,
    build_mask_series,
    build_neutral_mask,
    check_filter,
    dq_value,
    history_columns,
    list_series,
    list_useafter,
    read_history,
    read_mask_dq,
    write_asdf,
    write_twins,
)

DNU = dq_value("DO_NOT_USE")
REFERENCE = dq_value("REFERENCE_PIXEL")
FIRST = "2021-12-25T00:00:00"
EPOCHS = ("2022-08-01T00:00:00", "2023-06-01T00:00:00", "2024-02-01T00:00:00")
MJD = (59792.0, 60096.0, 60341.0)
INF = np.inf
SHAPES = {"MIRIMAGE": (1024, 1032), "NRS1": (2048, 2048), "NRS2": (2048, 2048)}


def make_mask(detector="MIRIMAGE", useafter=FIRST, dq=None, **selection):
    if dq is None:
        dq = np.zeros(SHAPES[detector], np.uint32)
        dq[600, 10] = dq_value("HOT", "DO_NOT_USE")
    return build_mask(
        dq,
        detector=detector,
        useafter=useafter,
        description="Time-variable bad pixels",
        history=["Made by a test."],
        pedigree="SIMULATION",
        **selection,
    )


# --- filters -----------------------------------------------------------------------------------


def test_several_filters_are_in_both_twins(tmp_path):
    model = make_mask(filter_name="F560W|F770W")
    asdf_path, fits_path = write_twins(model, tmp_path / "mask")
    header = fits.getheader(fits_path)
    assert (header["FILTER"], header["P_FILTER"]) == ("F560W", "F560W|F770W|")
    with asdf.open(asdf_path) as file:
        assert file["meta"]["instrument"]["p_filter"] == "F560W|F770W|"
    for path in (asdf_path, fits_path):
        with MaskModel(path) as opened:
            np.testing.assert_array_equal(opened.dq, model.dq)
    one = write_twins(make_mask(filter_name="F560W"), tmp_path / "one")[1]
    assert "P_FILTER" not in fits.getheader(one)


def test_a_lost_p_filter_is_noticed(tmp_path, monkeypatch):
    write = fits.HDUList.writeto

    def forget(hdus, *args, **kwargs):
        del hdus[0].header["P_FILTER"]
        write(hdus, *args, **kwargs)

    monkeypatch.setattr(fits.HDUList, "writeto", forget)
    with pytest.raises(ProductError, match="P_FILTER"):
        write_twins(make_mask(filter_name="F560W|F770W"), tmp_path / "mask")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["F560W|ANY", "F560W|N/A", "F560W|F560W", "F560W|F1W", "|", ""])
def test_filters_that_cannot_be_listed(name):
    if name:
        with pytest.raises(ProductError, match=r"expected .* found"):
            check_filter(name)
        with pytest.raises(ProductError, match="expected"):
            make_mask(filter_name=name)
    check_filter("F560W|F770W")
    check_filter("F560W|F770W|")


def complain(paths):
    log.reset()
    certify.certify_files([str(path) for path in paths], "jwst_0001.pmap", observatory="jwst")
    return log.errors(), log.warnings()


def find_mask(date="2024-06-01", instrument="MIRI", detector="MIRIMAGE", **keys):
    header = {
        "META.INSTRUMENT.NAME": instrument,
        "META.INSTRUMENT.DETECTOR": detector,
        "META.INSTRUMENT.FILTER": keys.get("filter", "P750L"),
        "META.SUBARRAY.NAME": keys.get("subarray", "FULL"),
        "META.EXPOSURE.READPATT": keys.get("readpatt", "FASTR1"),
        "META.EXPOSURE.NGROUPS": str(keys.get("ngroups", 20)),
        "META.OBSERVATION.DATE": date,
        "META.OBSERVATION.TIME": "00:00:00",
    }
    found = crds.getreferences(header, reftypes=["mask"], observatory="jwst")
    return os.path.basename(found["mask"])


@pytest.mark.parametrize("suffix", [".fits", ".asdf"])
def test_crds_selects_by_several_filters(tmp_path, suffix):
    masks = {
        name: write_twins(make_mask(filter_name=filters), tmp_path / name)
        for name, filters in (("lrs", "P750L"), ("imaging", "F560W|F770W"))
    }
    paths = {
        name: next(p for p in twins if p.suffix == suffix).resolve()
        for name, twins in masks.items()
    }
    context = build_context(tmp_path / "cache", {"mask": list(paths.values())})
    with use_context(context):
        for filter_name, name in (("P750L", "lrs"), ("F560W", "imaging"), ("F770W", "imaging")):
            assert find_mask(filter=filter_name) == context.names[paths[name]]
            assert find_mask(filter=filter_name, subarray="SUB64") == context.names[paths[name]]
        with pytest.raises(crds.CrdsLookupError):
            find_mask(filter="F1000W")
        if suffix == ".fits":
            assert complain(paths.values()) == (0, 0)


# --- depth -------------------------------------------------------------------------------------

# Three exposures of each class; the pixels' noise falls with depth.
EXPOSURES = [("FASTR1", 20)] * 3 + [("FASTR1", 80)] * 3 + [("SLOWR1", 30)] * 3
NOISE = np.repeat([2, 1, 0.2], 3) / 3


def tabulate(rows):
    dull = {"state": 1, "pending": False, "dnu": True, "n_looks": 5, "amplitude": 100.0}
    columns = {}
    for name, (dtype, *_) in history_columns()["intervals"].items():
        columns[name] = np.array([row.get(name, dull.get(name, 0)) for row in rows], dtype=dtype)
    return columns


# Column of pixel 0 of the tests below: right of the reference pixels.
LEFT = 10


def row(x, name, start=-INF, end=INF, **more):
    return {"y": 600, "x": LEFT + x, "class": name, "start_mjd": start, "end_mjd": end, **more}


def make_history(rows, exposures=EXPOSURES, detector="MIRIMAGE", hidden=(), **settings):
    n = len(exposures)
    table = {
        name: ["text"] * n if dtype == "str" else np.zeros(n)
        for name, (dtype, *_) in history_columns()["exposures"].items()
    }
    table["readpatt"], table["ngroups"] = (list(v) for v in zip(*exposures, strict=True))
    table["used"] = np.ones(n, bool)
    table["expstart_mjd"] = np.linspace(59700, 60700, n)
    table["expend_mjd"] = table["expstart_mjd"] + 0.01
    pixels = sorted({r["x"] for r in rows}, reverse=True)
    noise = np.tile(np.rint(1000 * np.resize(NOISE, n)), (len(pixels), 1))
    for x, columns in hidden:
        noise[pixels.index(LEFT + x), list(columns)] = -32768
    return build_history(
        detector=detector,
        exposures=table,
        intervals=tabulate(rows),
        residuals={
            "y": np.full(len(pixels), 600),
            "x": pixels,
            "residual": np.zeros((len(pixels), n)),
            "noise": noise,
            "scale": np.full(len(pixels), 0.001),
        },
        base=None,
        settings={
            "base_policy": None,
            "first_useafter": FIRST,
            "mask_filter": "P750L" if detector == "MIRIMAGE" else "N/A",
            "fdr": 0.02,
            "flags": 100,
            "expected_false": 2.0,
            "n_decoys": 1000,
            "max_masks": 0,
            "depth": "single",
            **settings,
        },
        versions={"jwst-tvbadpix": "9.8.7"},
        warnings=[],
        useafter=FIRST,
        pedigree="INFLIGHT 2022-07-01 2025-06-30",
        description="History",
    )


# Thresholds, three times the noise, are 2.0, 1.0 and 0.2 DN/s.
DEPTH_ROWS = [
    row(1, "HOT", amplitude=3.0),
    row(2, "HOT", amplitude=1.5),
    row(3, "WARM", amplitude=0.5),
    row(4, "OTHER_BAD_PIXEL", amplitude=-0.5),
    row(5, "LOW_QE", amplitude=-0.1),
    row(6, "TELEGRAPH", MJD[0], MJD[1], amplitude=0.1),
    row(7, "HOT", MJD[0], amplitude=1.5),
    row(8, "WARM", MJD[1], amplitude=0.5),
    row(9, "UNRELIABLE_SLOPE", amplitude=0.0),
    row(10, "HOT", amplitude=9.0, pending=True, dnu=False),
]


def test_depth_classes_mask_what_matters_at_their_depth():
    history = make_history(DEPTH_ROWS, depth="auto")
    shallow, medium, deep = list_series(history)
    assert [str(s) for s in (shallow, medium, deep)] == [
        "SHALLOW FASTR1 NGROUPS 1 to 49",
        "MEDIUM FASTR1 NGROUPS 50 to 99999",
        "DEEP SLOWR1 NGROUPS 1 to 99999",
    ]
    expected = {
        "SHALLOW": (
            {1, 5, 6, 9},
            {2: "WARM", 3: "WARM", 4: "OTHER_BAD_PIXEL", 7: "WARM", 8: "WARM"},
        ),
        "MEDIUM": ({1, 2, 5, 6, 7, 9}, {3: "WARM", 4: "OTHER_BAD_PIXEL", 8: "WARM"}),
        "DEEP": ({1, 2, 3, 4, 5, 6, 7, 8, 9}, {}),
    }
    for depth, (masked, advised) in expected.items():
        readpatt = "SLOWR1" if depth == "DEEP" else "FASTR1"
        line = build_mask_at(history, "2024-06-01", depth=depth, readpatt=readpatt).dq[600, LEFT:]
        assert set(np.flatnonzero(line & DNU).tolist()) == masked
        for x, name in advised.items():
            assert line[x] == dq_value(name)
        assert line[10] == 0
    # Advisory pixels make no epoch.
    assert list_useafter(history, shallow) == [FIRST]
    assert list_useafter(history, medium) == [FIRST, EPOCHS[0]]
    assert list_useafter(history, deep) == [FIRST, *EPOCHS[:2]]


def test_a_pixel_not_seen_at_a_depth_keeps_its_flag():
    history = make_history(DEPTH_ROWS, depth="auto", hidden=[(3, (0, 1, 2))])
    line = build_mask_at(history, "2024-06-01", depth="SHALLOW").dq[600, LEFT:]
    assert line[3] == dq_value("WARM", "DO_NOT_USE")
    assert line[8] == dq_value("WARM")


def test_single_depth_masks_all():
    history = make_history(DEPTH_ROWS)
    assert list_series(history) == (MaskSeries(),)
    line = build_mask_at(history, "2024-06-01").dq[600, LEFT:]
    assert set(np.flatnonzero(line & DNU).tolist()) == set(range(1, 10))


def test_depth_masks_are_named_and_certified_and_selected(tmp_path):
    history = make_history(DEPTH_ROWS, depth="auto")
    masks = build_mask_series(history, "p7831")
    names = [mask.meta.filename for mask in masks]
    assert names == [
        "p7831_MIRIMAGE_P750L_SHALLOW_FASTR1_mask_20211225T000000.asdf",
        "p7831_MIRIMAGE_P750L_MEDIUM_FASTR1_mask_20211225T000000.asdf",
        "p7831_MIRIMAGE_P750L_MEDIUM_FASTR1_mask_20220801T000000.asdf",
        "p7831_MIRIMAGE_P750L_DEEP_SLOWR1_mask_20211225T000000.asdf",
        "p7831_MIRIMAGE_P750L_DEEP_SLOWR1_mask_20220801T000000.asdf",
        "p7831_MIRIMAGE_P750L_DEEP_SLOWR1_mask_20230601T000000.asdf",
    ]
    assert masks[0].meta.exposure.ngroups == "BETWEEN 1 50"
    assert "SHALLOW" in masks[0].meta.description
    paths = [
        write_twins(mask, tmp_path / name.removesuffix(".asdf"))[1].resolve()
        for mask, name in zip(masks, names, strict=True)
    ]
    context = build_context(tmp_path / "cache", {"mask": paths})
    with use_context(context):
        found = {path: context.names[path] for path in paths}
        for readpatt, ngroups, date, k in (
            ("FASTR1", 1, "2024-06-01", 0),
            ("FASTR1", 49, "2022-01-01", 0),
            ("FASTR1", 50, "2022-01-01", 1),
            ("FASTR1", 50, "2022-08-01", 2),
            ("FASTR1", 9999, "2024-01-01", 2),
            ("SLOWR1", 2, "2022-01-01", 3),
            ("SLOWR1", 900, "2023-05-31", 4),
            ("SLOWR1", 900, "2023-06-01", 5),
        ):
            keys = {"readpatt": readpatt, "ngroups": ngroups, "subarray": "SLITLESSPRISM"}
            assert find_mask(date, **keys) == found[paths[k]]
        assert complain([paths[0], paths[1], paths[3]]) == (0, 0)


def test_series_must_be_chosen_where_there_are_several():
    history = make_history(DEPTH_ROWS, depth="auto")
    for choice in ({}, {"depth": "DEEP", "readpatt": "FASTR1"}, {"readpatt": "FASTR1"}):
        with pytest.raises(InputError, match=r"expected one series .*\(SHALLOW FASTR1"):
            build_mask_at(history, "2024-01-01", **choice)
    with pytest.raises(InputError, match="found 0"):
        build_mask_at(make_history(DEPTH_ROWS), "2024-01-01", depth="DEEP")
    assert build_mask_at(make_history(DEPTH_ROWS), "2024-01-01", readpatt="FASTR1") is not None


# --- budget ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["single", "auto"])
@pytest.mark.parametrize("max_masks", [1, 2, 3])
def test_mask_at_is_the_file_of_a_budgeted_series(tmp_path, max_masks, depth):
    rows = [*DEPTH_ROWS, *(row(x, "HOT", MJD[2], amplitude=9.0) for x in range(20, 30))]
    history = make_history(rows, depth=depth, max_masks=max_masks)
    read = read_history(write_asdf(history, tmp_path / "h.asdf"))
    for series in list_series(history):
        chosen = {"depth": series.depth or None, "readpatt": series.readpatt or None}
        files = [
            mask
            for mask in build_mask_series(history)
            if mask.meta.exposure.readpatt == (series.readpatt or "N/A")
            and mask.meta.exposure.ngroups
            == ("BETWEEN {} {}".format(*series.ngroups) if series.ngroups else "N/A")
        ]
        assert 1 <= len(files) <= max_masks
        assert [mask.meta.useafter for mask in files] == list_useafter(history, series)
        for date in (FIRST, *EPOCHS, "2023-05-31T23:59:59", "2026-01-01T00:00:00"):
            valid = [mask for mask in files if mask.meta.useafter <= date][-1]
            found = build_mask_at(read, date, **chosen)
            assert found.meta.filename == valid.meta.filename
            np.testing.assert_array_equal(found.dq, valid.dq)
    if max_masks == 2:
        # The ten pixels of the third date weigh most.
        assert EPOCHS[2] in list_useafter(history)


# --- IRS2 --------------------------------------------------------------------------------------


def draw_dq(detector):
    rng = np.random.default_rng(4)
    dq = np.zeros((2048, 2048), np.uint32)
    y, x = rng.integers(4, 2044, (2, 3000))
    dq[y, x] = dq_value("HOT", "DO_NOT_USE")
    dq[:4] = dq[-4:] = REFERENCE
    dq[:, :4] = dq[:, -4:] = REFERENCE
    # Not symmetric, so that a wrong direction shows.
    dq[4:300, 100] = dq_value("DEAD", "DO_NOT_USE")
    return dq


def make_irs2_ramp(detector):
    ramp = RampModel((1, 2, 3200, 2048))
    ramp.meta.instrument.name, ramp.meta.instrument.detector = "NIRSPEC", detector
    ramp.meta.exposure.type, ramp.meta.exposure.readpatt = "NRS_FIXEDSLIT", "NRSIRS2RAPID"
    ramp.meta.observation.date, ramp.meta.observation.time = "2024-01-01", "00:00:00.000"
    sub = ramp.meta.subarray
    sub.name, sub.xstart, sub.ystart, sub.xsize, sub.ysize = "FULL", 1, 1, 2048, 2048
    sub.fastaxis, sub.slowaxis = (2, 1) if detector == "NRS1" else (-2, -1)
    return ramp


@pytest.mark.parametrize("suffix", [".fits", ".asdf"])
@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_irs2_mask_comes_back_through_dq_init_and_refpix(tmp_path, detector, suffix):
    dq = draw_dq(detector)
    model = make_mask(detector, dq=dq, readpatt="NRSIRS2|NRSIRS2RAPID")
    assert model.dq.shape == (3200, 2048)
    assert (model.meta.subarray.xsize, model.meta.subarray.ysize) == (2048, 2048)
    path = next(p for p in write_twins(model, tmp_path / "mask") if p.suffix == suffix)
    with make_irs2_ramp(detector) as ramp:
        result = DQInitStep(override_mask=str(path)).process(ramp)
        np.testing.assert_array_equal(result.pixeldq, model.dq)
        irs2 = make_irs2_mask(3200, 2048, 16, 4)
        interleaved = result.pixeldq[~(irs2 if detector == "NRS1" else irs2[::-1])]
        assert interleaved.shape == (1152, 2048)
        assert (interleaved == REFERENCE).all()
        strip_ref_pixels(result, irs2)
        np.testing.assert_array_equal(result.pixeldq, dq)
        assert (result.groupdq == (dq & DNU)).all()
    np.testing.assert_array_equal(read_mask_dq(path)[0], dq)


def make_nirspec_history(*patterns, **settings):
    rows = [row(50, "HOT"), row(51, "HOT", MJD[1])]
    exposures = [(pattern, 20 + 10 * k) for k, pattern in enumerate(patterns)]
    return make_history(rows, exposures, "NRS1", **settings)


def test_frames_follow_the_inputs():
    frames = {
        ("NRSRAPID", "NRS"): [(2048, "NRS")],
        ("NRSIRS2", "NRSIRS2RAPID"): [(3200, "NRSIRS2")],
        ("NRSIRS2RAPID", "NRSRAPID"): [(2048, "NRS"), (3200, "NRSIRS2")],
    }
    for patterns, expected in frames.items():
        masks = build_mask_series(make_nirspec_history(*patterns))
        assert len(masks) == 2 * len(expected)
        first = [mask for mask in masks if mask.meta.useafter == FIRST]
        assert [(m.dq.shape[0], m.meta.exposure.readpatt) for m in first] == expected
        for mask in first:
            assert f"_{mask.meta.exposure.readpatt}_mask_" in mask.meta.filename


def test_crds_tells_the_frames_apart(tmp_path):
    history = make_nirspec_history("NRSIRS2RAPID", "NRSRAPID")
    masks = build_mask_series(history)
    paths = [write_twins(m, tmp_path / m.meta.filename[:-5])[1].resolve() for m in masks]
    context = build_context(tmp_path / "cache", {"mask": paths})
    with use_context(context):
        for readpatt, first in (
            ("NRSRAPID", 0),
            ("NRS", 0),
            ("NRSRAPIDD6", 0),
            ("NRSIRS2", 2),
            ("NRSIRS2RAPID", 2),
        ):
            for date, k in (("2022-01-01", first), ("2023-06-01", first + 1)):
                keys = {"readpatt": readpatt, "filter": "F100LP", "subarray": "FULL"}
                found = find_mask(date, "NIRSPEC", "NRS1", **keys)
                assert found == context.names[paths[k]]
        assert complain([paths[0], paths[2]]) == (0, 0)
    np.testing.assert_array_equal(read_mask_dq(paths[0])[0], read_mask_dq(paths[2])[0])
    irs2 = build_mask_at(history, "2024-01-01", readpatt="NRSIRS2RAPID")
    assert irs2.meta.filename == masks[3].meta.filename
    np.testing.assert_array_equal(irs2.dq, masks[3].dq)


def test_depth_classes_of_nirspec_have_their_frames():
    history = make_nirspec_history("NRSIRS2", "NRSIRS2", "NRSIRS2", "NRSRAPID", depth="auto")
    series = {str(s) for s in list_series(history)}
    assert series == {
        "SHALLOW NRSIRS2 NGROUPS 1 to 29",
        "MEDIUM NRSIRS2 NGROUPS 30 to 39",
        "DEEP NRSIRS2 NGROUPS 40 to 99999",
        "MEDIUM NRSRAPID NGROUPS 1 to 99999",
    }
    shapes = {m.meta.exposure.readpatt: m.dq.shape[0] for m in build_mask_series(history)}
    assert shapes == {"NRSIRS2": 3200, "NRSRAPID": 2048}


def test_irs2_frame_is_only_for_nirspec():
    assert make_mask("NRS1", readpatt="NRSRAPID").dq.shape == (2048, 2048)
    assert make_mask("MIRIMAGE", readpatt="FASTR1").dq.shape == (1024, 1032)


@pytest.mark.parametrize("detector", ["NRS2", "NRCALONG", "NIS", "MIRIFULONG", "GUIDER1"])
def test_neutral_masks_of_other_detectors(detector):
    neutral = build_neutral_mask(detector)
    rows = 0 if detector.startswith("MIRI") else 4
    expected = np.full(neutral.dq.shape, REFERENCE, np.uint32)
    expected[rows : neutral.dq.shape[0] - rows, 4:-4] = 0
    np.testing.assert_array_equal(neutral.dq, expected)


# --- commands ----------------------------------------------------------------------------------


def test_neutral_mask_command_for_irs2(tmp_path, capsys):
    arguments = ["--detector", "NRS2", "--readpatt", "NRSIRS2", "--output-dir", str(tmp_path)]
    assert main(["neutral-mask", *arguments]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(tmp_path / f"neutral_NRS2_NRSIRS2_mask{s}") for s in (".asdf", ".fits")]
    with MaskModel(written[1]) as mask:
        assert mask.dq.shape == (3200, 2048)
        assert set(np.unique(mask.dq).tolist()) == {0, REFERENCE}
        assert (mask.dq == 0).sum() == 2040 * 2040
    # As base mask of another run, in either frame.
    base = ["--base-mask", written[1], "--detector", "NRS2", "--output-dir", str(tmp_path)]
    assert main(["neutral-mask", *base]) == 0
    assert read_mask_dq(tmp_path / "neutral_NRS2_mask.fits")[0].shape == (2048, 2048)


def test_mask_at_command_chooses_the_depth(tmp_path, capsys):
    history = make_history(DEPTH_ROWS, depth="auto")
    path = write_asdf(history, tmp_path / "p7831_MIRIMAGE_badpixhistory.asdf")
    common = ["mask-at", str(path), "--date", "2024-01-01", "--output-dir", str(tmp_path)]
    assert main([*common, "--depth", "DEEP"]) == 0
    name = "p7831_MIRIMAGE_P750L_DEEP_SLOWR1_mask_20230601T000000"
    written = capsys.readouterr().out.split()
    assert written == [str(tmp_path / f"{name}{s}") for s in (".asdf", ".fits")]
    expected = build_mask_at(history, "2024-01-01", depth="DEEP").dq
    np.testing.assert_array_equal(read_mask_dq(written[0])[0], expected)
    assert main(common) == 1
    assert "choose one by depth" in capsys.readouterr().err
