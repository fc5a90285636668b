import logging
import os
import shutil
import stat
import time
from collections import defaultdict

import asdf
import numpy as np
import pytest
from asdf.schema import load_schema
from astropy.io import fits
from astropy.table import Table
from jwst.dq_init.dq_init_step import DQInitStep
from stdatamodels.jwst.datamodels import MaskModel, RampModel, model_base

from jwst_tvbadpix.atomic import make_hidden_folder
from jwst_tvbadpix.errors import DateError, DetectorError, InputError, ProductError
from jwst_tvbadpix.refmodels import (
    BadPixHistoryModel,
    build_history,
    build_mask,
    build_neutral_mask,
    dq_value,
    history_columns,
    identity_dq_def,
    read_history,
    read_mask_dq,
    twins,
    write_asdf,
    write_twins,
)

SHAPE = (1024, 1032)
DATES = ("2021-12-25T00:00:00", "2023-09-01T00:00:00", "2024-02-03T04:05:06")
FLAGS = ("TELEGRAPH", "HOT", "WARM", "DO_NOT_USE")


def make_dq(seed=0):
    rng = np.random.default_rng(seed)
    dq = np.zeros(SHAPE, np.uint32)
    y, x = rng.integers(0, SHAPE[0], 400), rng.integers(0, SHAPE[1], 400)
    dq[y, x] = dq_value(*FLAGS)
    dq[530, 10], dq[540, 20] = dq_value("WARM"), dq_value("HOT", "DO_NOT_USE")
    dq[:, :4] |= np.uint32(dq_value("REFERENCE_PIXEL"))
    return dq


def make_mask(dq=None, **changes):
    settings = {
        "detector": "MIRIMAGE",
        "useafter": DATES[0],
        "description": "Time-variable bad pixels",
        "history": ["Made by a test.", "A second entry."],
        "pedigree": "INFLIGHT 2022-06-01 2023-12-31",
        **changes,
    }
    return build_mask(make_dq() if dq is None else dq, **settings)


def test_dq_value_knows_names_only():
    assert dq_value() == 0
    assert dq_value("DO_NOT_USE", "HOT") == 2049
    with pytest.raises(ProductError, match="LUKEWARM"):
        dq_value("HOT", "LUKEWARM")


def test_identity_dq_def_is_fresh_and_complete():
    first, second = identity_dq_def(), identity_dq_def()
    assert len(first) == 32
    assert not np.shares_memory(first, second)
    assert (first["VALUE"] == 1 << first["BIT"].astype(np.uint64)).all()


def test_twins_of_several_epochs_are_identical(tmp_path):
    for number, date in enumerate(DATES):
        dq = make_dq(number)
        model = make_mask(dq, useafter=date)
        before = model.copy()
        asdf_path, fits_path = write_twins(model, tmp_path / f"a.b_mask_{number}")
        assert (asdf_path.name, fits_path.name) == (
            f"a.b_mask_{number}.asdf",
            f"a.b_mask_{number}.fits",
        )
        assert model.to_flat_dict(include_arrays=False) == before.to_flat_dict(include_arrays=False)
        for path in (asdf_path, fits_path):
            with MaskModel(str(path)) as opened:
                np.testing.assert_array_equal(opened.dq, dq)
                assert (opened.meta.useafter, opened.meta.filename) == (date, path.name)
            read, detector = read_mask_dq(path)
            np.testing.assert_array_equal(read, dq)
            assert (read.dtype, detector) == (np.uint32, "MIRIMAGE")
        with asdf.open(asdf_path) as file:
            assert "dq_def" not in file.tree
            assert file["dq"]._source is not None
        with fits.open(fits_path) as hdus:
            assert hdus[0].header["FILENAME"] == fits_path.name
            assert list(hdus[0].header["HISTORY"]) == ["Made by a test.", "A second entry."]
            assert [hdu.name for hdu in hdus] == ["PRIMARY", "DQ", "DQ_DEF"]
    assert len(list(tmp_path.iterdir())) == 2 * len(DATES)


def test_asdf_is_compressed(tmp_path):
    asdf_path, fits_path = write_twins(make_mask(), tmp_path / "mask")
    assert asdf_path.stat().st_size < fits_path.stat().st_size / 20


def make_slitless_ramp():
    ramp = RampModel((1, 3, 416, 72))
    ramp.meta.instrument.name, ramp.meta.instrument.detector = "MIRI", "MIRIMAGE"
    ramp.meta.instrument.filter = "P750L"
    ramp.meta.exposure.type = "MIR_LRS-SLITLESS"
    ramp.meta.observation.date, ramp.meta.observation.time = "2024-01-01", "00:00:00.000"
    sub = ramp.meta.subarray
    sub.name, sub.fastaxis, sub.slowaxis = "SLITLESSPRISM", 1, 2
    sub.xstart, sub.ystart, sub.xsize, sub.ysize = 1, 529, 72, 416
    return ramp


@pytest.mark.parametrize("epoch", [0, 1])
def test_dq_init_flags_the_same_from_both_twins(tmp_path, epoch):
    dq = make_dq(epoch)
    cut = dq[528 : 528 + 416, :72]
    for path in write_twins(make_mask(dq, useafter=DATES[epoch]), tmp_path / "mask"):
        with make_slitless_ramp() as ramp:
            result = DQInitStep(override_mask=str(path)).process(ramp)
            np.testing.assert_array_equal(result.pixeldq, cut)
            assert (result.groupdq == (cut & dq_value("DO_NOT_USE"))).all()


def test_bytes_follow_source_date_epoch(tmp_path, monkeypatch):
    def save(name):
        folder = tmp_path / name
        folder.mkdir()
        paths = [*write_twins(make_mask(), folder / "mask")]
        paths.append(write_asdf(make_history(), folder / "h.asdf"))
        return [path.read_bytes() for path in paths]

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first = save("a")
    time.sleep(1.1)
    assert save("b") == first
    assert b"2023-11-14T22:13:20.000" in first[0]
    assert b"2023-11-14T22:13:20.000" in first[1]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000001")
    assert save("c")[1] != first[1]
    model = make_mask()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ProductError, match="SOURCE_DATE_EPOCH"):
        write_twins(model, tmp_path / "mask")


def test_without_an_epoch_only_dates_differ(tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    contents = []
    for name in "ab":
        (tmp_path / name).mkdir()
        contents.append(write_twins(make_mask(), tmp_path / name / "mask")[1].read_bytes())
    different = [
        (one, two)
        for one, two in zip(*(text.split(b"DATE    =") for text in contents), strict=True)
        if one[80:] != two[80:]
    ]
    assert not different


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        paths = write_twins(make_mask(), tmp_path / "mask")
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o640}


def fail_to_save(model, path, *args, **kwargs):
    with open(path, "w") as file:
        file.write("half a file")
    raise OSError("no space left on device")


@pytest.mark.parametrize("writer", [(MaskModel, "to_asdf"), (fits.HDUList, "writeto")])
def test_a_failing_saver_leaves_nothing(tmp_path, monkeypatch, writer):
    monkeypatch.setattr(*writer, fail_to_save)
    for folder in (tmp_path, make_hidden_folder(tmp_path)):
        before = set(tmp_path.rglob("*"))
        with pytest.raises(ProductError, match="no space left") as caught:
            write_twins(make_mask(), folder / "mask")
        assert isinstance(caught.value.__cause__, OSError)
        assert set(tmp_path.rglob("*")) == before


def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(twins, "_compare_fits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_twins(make_mask(), tmp_path / "mask")
    assert list(tmp_path.iterdir()) == []


def damage_fits_table(hdus):
    hdus["DQ_DEF"].data["VALUE"] += 1


@pytest.mark.parametrize(
    ("writer", "damage", "message"),
    [
        ((fits.HDUList, "writeto"), lambda hdus: hdus[1].data.__setitem__((7, 7), 4), "DQ"),
        ((MaskModel, "to_asdf"), lambda model: model.dq.__setitem__((7, 7), 4), "dq"),
        (
            (fits.HDUList, "writeto"),
            lambda hdus: hdus[0].header.set("USEAFTER", DATES[2]),
            "USEAFTER",
        ),
        (
            (MaskModel, "to_asdf"),
            lambda model: setattr(model.meta.exposure, "readpatt", "FASTR1"),
            "readpatt",
        ),
        ((fits.HDUList, "writeto"), damage_fits_table, "DQ_DEF"),
    ],
)
def test_what_reads_back_differently_is_not_left(tmp_path, monkeypatch, writer, damage, message):
    save = getattr(*writer)

    def save_damaged(given, *args, **kwargs):
        damage(given)
        return save(given, *args, **kwargs)

    monkeypatch.setattr(*writer, save_damaged)
    with pytest.raises(ProductError, match=message):
        write_twins(make_mask(), tmp_path / "mask")
    assert list(tmp_path.iterdir()) == []


def test_flags_are_decoded_anew_where_they_are_new(tmp_path, monkeypatch):
    """What stdatamodels decoded rightly is not asked again; what it never saw is."""
    monkeypatch.setattr(twins, "_DECODED", defaultdict(set))
    write_twins(make_mask(), tmp_path / "one")

    def lose(model, *args, **kwargs):
        return model.dq & ~np.uint32(dq_value("LOW_QE"))

    monkeypatch.setattr(model_base, "dynamic_mask", lose)
    write_twins(make_mask(make_dq(1)), tmp_path / "two")
    dq = make_dq()
    dq[600, 600] = dq_value("LOW_QE", "DO_NOT_USE")
    with pytest.raises(ProductError, match="dq opened by stdatamodels"):
        write_twins(make_mask(dq), tmp_path / "three")
    assert len(list(tmp_path.iterdir())) == 4


def test_an_array_of_another_type_is_refused_after_one_of_the_right(tmp_path):
    write_twins(make_mask(), tmp_path / "one")
    wrong = make_mask()
    wrong._instance["dq"] = make_dq().astype(np.int64)
    with pytest.raises(ProductError, match="follows the schema of MaskModel"):
        write_twins(wrong, tmp_path / "two")
    assert len(list(tmp_path.iterdir())) == 2


def list_cards(header):
    """Keyword -> (value, comment), the comment cards that only divide the header left out."""
    return {
        card.keyword: (card.value, card.comment)
        for card in header.cards
        if card.keyword not in ("", "HISTORY", "DATE", "FILENAME", "COMMENT")
    }


def test_fits_twin_equals_what_the_stock_writer_saves(tmp_path):
    model = make_mask(filter_name="P750L", ngroups=(1, 50), description="d" * 150)
    _, fits_path = write_twins(model, tmp_path / "mask")
    stock = model.copy()
    stock.dq_def = identity_dq_def()
    stock.save(tmp_path / "stock.fits")
    with fits.open(fits_path) as ours, fits.open(tmp_path / "stock.fits") as theirs:
        assert [hdu.name for hdu in ours] == [hdu.name for hdu in theirs]
        for one, two in zip(ours, theirs, strict=True):
            assert list_cards(one.header) == list_cards(two.header)
            assert one.data is two.data is None or (one.data == two.data).all()
        assert list(ours[0].header["HISTORY"]) == list(theirs[0].header["HISTORY"])
        np.testing.assert_array_equal(ours["DQ"].data, model.dq)


def refuse_links(source, target):
    """As some network file systems do."""
    raise PermissionError("refused")


@pytest.mark.parametrize("links", [True, False])
def test_a_failed_rename_restores_the_older_files(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", refuse_links)
    paths = write_twins(make_mask(), tmp_path / "mask")
    before = [path.read_bytes() for path in paths]
    replace = os.replace

    def refuse_fits(source, target):
        if ".tvbadpix-" in str(source) and str(target).endswith(".fits"):
            raise PermissionError("refused")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_fits)
    with pytest.raises(ProductError, match="refused"):
        write_twins(make_mask(make_dq(5)), tmp_path / "mask")
    assert [path.read_bytes() for path in paths] == before
    with pytest.raises(ProductError, match="refused"):
        write_twins(make_mask(), tmp_path / "other")
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_no_folder_or_no_permission_is_an_error(tmp_path):
    with pytest.raises(ProductError, match="absent"):
        write_twins(make_mask(), tmp_path / "absent" / "mask")
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(ProductError, match="locked"):
            write_twins(make_mask(), folder / "mask")
        assert list(folder.iterdir()) == []
    finally:
        folder.chmod(0o700)


def test_incomplete_or_unprintable_metadata_are_refused(tmp_path):
    model = make_mask()
    model.meta.author = " "
    with pytest.raises(ProductError, match="author"):
        write_twins(model, tmp_path / "mask")
    with pytest.raises(ProductError, match="ASCII"):
        write_twins(make_mask(description="Masque de bad pixels à jour"), tmp_path / "mask")
    with pytest.raises(ProductError, match="history entry 1"):
        write_twins(make_mask(history=["two\nlines"]), tmp_path / "mask")
    model = make_mask()
    model._instance["meta"]["instrument"]["filter"] = "F999W"
    with pytest.raises(ProductError, match="F999W"):
        write_twins(model, tmp_path / "mask")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"useafter": "2022-06-01"}, DateError),
        ({"useafter": "2022-6-1T00:00:00"}, DateError),
        ({"useafter": None}, DateError),
        ({"pedigree": "INFLIGHT"}, ProductError),
        ({"pedigree": "INFLIGHT 2023-01-01 2022-01-01"}, ProductError),
        ({"history": []}, ProductError),
        ({"filter_name": "F999W"}, ProductError),
        ({"readpatt": "FASTR2"}, ProductError),
        ({"ngroups": (50, 50)}, ProductError),
        ({"description": 3}, ProductError),
        ({"detector": "NRCA9"}, DetectorError),
        ({"dq": np.zeros((10, 10), np.uint32)}, DetectorError),
        ({"dq": np.zeros(SHAPE, np.int64)}, ProductError),
    ],
)
def test_build_mask_refuses(changes, error):
    with pytest.raises(error, match=r"expected|must"):
        make_mask(**changes)


def test_build_mask_copies_and_records_what_selects_it():
    dq = make_dq()
    model = make_mask(dq, filter_name="P750L", readpatt="FASTR1", ngroups=(1, 50))
    assert not np.shares_memory(model.dq, dq)
    assert model.meta.instrument.filter == "P750L"
    assert model.meta.exposure.readpatt == "FASTR1"
    assert model.meta.exposure.ngroups == "BETWEEN 1 50"
    assert (model.meta.subarray.xsize, model.meta.subarray.ysize) == (1032, 1024)
    neutral = make_mask()
    assert neutral.meta.instrument.filter == neutral.meta.exposure.ngroups == "N/A"
    assert neutral._instance["history"]["entries"][0]["software"]["name"] == "jwst_tvbadpix"


def test_neutral_mask_hides_no_science_pixel(tmp_path):
    base = make_dq()
    base[100:200, 300:400] = dq_value("NON_SCIENCE", "DO_NOT_USE", "LOW_QE")
    base[300, 2] = dq_value("REFERENCE_PIXEL", "DO_NOT_USE")
    neutral = build_neutral_mask("MIRIMAGE", base_dq=base)
    reference = np.zeros(SHAPE, bool)
    reference[:, :4] = reference[:, -4:] = True
    expected = np.where(reference, np.uint32(dq_value("REFERENCE_PIXEL")), np.uint32(0))
    expected[100:200, 300:400] = dq_value("NON_SCIENCE", "DO_NOT_USE")
    expected[:, :4] |= np.where(base[:, :4] & np.uint32(1), np.uint32(1), np.uint32(0))
    np.testing.assert_array_equal(neutral.dq, expected)
    alone = build_neutral_mask("MIRIMAGE")
    np.testing.assert_array_equal(alone.dq != 0, reference)
    write_twins(alone, tmp_path / "neutral")
    with pytest.raises(DetectorError):
        build_neutral_mask("MIRIMAGE", base_dq=base[:416, :72])


def write_coded_mask(path, table, dq):
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(dq, name="DQ")])
    hdus[0].header.update(REFTYPE="MASK", DETECTOR="MIRIMAGE")
    hdus.append(fits.BinTableHDU(table, name="DQ_DEF"))
    hdus.writeto(path)


def test_coded_masks_are_read_by_name(tmp_path, caplog):
    table = identity_dq_def()[:3].copy()
    table["BIT"], table["VALUE"] = [0, 1, 2], [1, 2, 4]
    table["NAME"] = [b"DO_NOT_USE", b"HOT ", b"NOT_A_FLAG"]
    dq = np.zeros(SHAPE, np.uint8)
    dq[3, 5], dq[6, 7] = 3, 4
    expected = np.zeros(SHAPE, np.uint32)
    expected[3, 5] = dq_value("DO_NOT_USE", "HOT")
    write_coded_mask(tmp_path / "mask.fits", table.copy(), dq)
    tree = {
        "meta": {"reftype": "MASK", "instrument": {"detector": "MIRIMAGE"}},
        "dq": dq,
        "dq_def": table,
    }
    asdf.AsdfFile(tree).write_to(tmp_path / "mask.asdf")
    for suffix in ("fits", "asdf"):
        with caplog.at_level(logging.WARNING):
            read, _ = read_mask_dq(tmp_path / f"mask.{suffix}")
        np.testing.assert_array_equal(read, expected)
        assert "NOT_A_FLAG" in caplog.text
        caplog.clear()
    table["VALUE"] = 2**31 + 1
    write_coded_mask(tmp_path / "corrupt.fits", table, dq)
    with pytest.raises(InputError, match="one bit"):
        read_mask_dq(tmp_path / "corrupt.fits")


def test_read_mask_dq_refuses_what_is_no_mask(tmp_path):
    paths = write_twins(make_mask(), tmp_path / "mask")
    for path in paths:
        for size in (0, 30, 4000, path.stat().st_size // 2):
            broken = tmp_path / f"broken{path.suffix}"
            broken.write_bytes(path.read_bytes()[:size])
            with pytest.raises(InputError, match="broken"):
                read_mask_dq(broken)
    with pytest.raises(InputError, match="no file"):
        read_mask_dq(tmp_path / "absent.fits")
    with pytest.raises(InputError, match="no file"):
        read_mask_dq(tmp_path)
    flat = tmp_path / "flat.fits"
    shutil.copy(paths[1], flat)
    fits.setval(flat, "REFTYPE", value="FLAT")
    with pytest.raises(InputError, match="FLAT"):
        read_mask_dq(flat)
    small = tmp_path / "small.fits"
    write_coded_mask(small, identity_dq_def(), np.zeros((8, 8), np.uint32))
    with pytest.raises(DetectorError, match="full frame"):
        read_mask_dq(small)
    history = write_asdf(make_history(), tmp_path / "h.asdf")
    with pytest.raises(InputError, match="BADPIXHISTORY"):
        read_mask_dq(history)


N_EXP, N_PIXEL = 4, 3


def make_columns(group, n_rows):
    columns = {}
    for name, (dtype, _, _) in history_columns()[group].items():
        if dtype == "str":
            columns[name] = [f"{name} {row}" for row in range(n_rows)]
        elif dtype.startswith("<U"):
            words = ["UNRELIABLE_SLOPE", "HOT", "WARM"]
            columns[name] = (["always", "onset"] if name == "history" else words)[:n_rows]
        elif name in ("residual", "noise"):
            columns[name] = np.arange(n_rows * N_EXP).reshape(n_rows, N_EXP) - 32768
        else:
            columns[name] = np.arange(n_rows) % 2
    return columns


def make_history(**changes):
    intervals = make_columns("intervals", N_PIXEL)
    intervals["end_mjd"] = [60000.25, np.inf, np.inf]
    intervals["response"] = [1, np.nan, 0.5]
    parts = {
        "detector": "MIRIMAGE",
        "exposures": make_columns("exposures", N_EXP),
        "intervals": intervals,
        "residuals": make_columns("residuals", N_PIXEL),
        "base": {"file": "base.fits", "sha256": "00ff", **make_columns("base", 2)},
        "control": make_columns("control", 2),
        "events": make_columns("events", 2),
        "self_test": {"new_flags": 0.5, "left_out": ["TELEGRAPH"], **make_columns("self_test", 2)},
        "settings": {"dating": "midpoint", "max_masks": np.int64(0), "cap": 7.5, "base": None},
        "versions": {"jwst": "3.0.0"},
        "warnings": ["One exposure was left out: José's."],
        "useafter": DATES[0],
        "pedigree": "SIMULATION",
        "description": "History of bad pixels",
        **changes,
    }
    return build_history(**parts)


def test_schema_id_resolves_to_the_file():
    schema = load_schema(BadPixHistoryModel.schema_url)
    assert schema["id"] == BadPixHistoryModel.schema_url
    columns = history_columns()
    assert columns["exposures"]["filename"][0] == "str"
    assert columns["intervals"]["y"][:2] == ("int16", "pix")
    assert columns["intervals"]["end_mjd"][:2] == ("float64", "d")
    assert columns["intervals"]["class"][0] == "<U16"
    assert columns["residuals"]["scale"][:2] == ("float32", "DN/s")
    assert columns["base"]["dq"][0] == "uint32"


def test_history_round_trip(tmp_path):
    model = make_history()
    path = write_asdf(model, tmp_path / "x_badpixhistory.asdf")
    read = read_history(path)
    path.rename(tmp_path / "moved.asdf")  # the arrays are in memory
    for group, columns in history_columns().items():
        wanted, found = (getattr(part, group).instance for part in (model, read))
        for name, (dtype, _, _) in columns.items():
            if dtype == "str":
                assert found[name] == wanted[name]
            else:
                assert type(found[name]) is np.ndarray
                assert found[name].dtype == np.dtype(dtype)
                np.testing.assert_array_equal(found[name], wanted[name])
    assert read.settings.instance == {
        "dating": "midpoint",
        "max_masks": 0,
        "cap": 7.5,
        "base": "none",
    }
    assert read.warnings == ["One exposure was left out: José's."]
    assert (read.self_test.new_flags, read.self_test.left_out) == (0.5, ["TELEGRAPH"])
    assert (read.schema_version, read.coverage.shape) == ("1.2.0", [1024, 1032])
    with BadPixHistoryModel(tmp_path / "moved.asdf") as opened:
        assert opened.intervals.instance["class"][0] == "UNRELIABLE_SLOPE"


def test_an_update_reads_no_evidence(tmp_path):
    """But where it tells which masks there are."""
    for depth, n in (("single", 0), ("auto", N_EXP)):
        model = make_history()
        model.settings.instance["depth"] = depth
        path = write_asdf(model, tmp_path / f"{depth}.asdf")
        read, whole = read_history(path, evidence=False), read_history(path)
        assert read.hasattr("control") == (n > 0)
        assert whole.hasattr("control")
        assert len(read.residuals.instance["y"]) == (len(whole.residuals.instance["y"]) if n else 0)
        for name, values in whole.intervals.instance.items():
            np.testing.assert_array_equal(read.intervals.instance[name], values)
        assert read.exposures.instance["filename"] == whole.exposures.instance["filename"]
    with pytest.raises(InputError, match="settings"):
        read_history(edit_history(path, lambda tree: tree.pop("settings")), evidence=False)


@pytest.mark.parametrize("place", [0, -1])
def test_each_text_of_a_column_is_one(tmp_path, place):
    """Of a column of texts one is validated, unless another is none."""
    path = write_asdf(make_history(), tmp_path / "h.asdf")

    def spoil(tree):
        tree["exposures"]["filename"][place] = 3

    with pytest.raises(InputError, match="3 is not of type"):
        read_history(edit_history(path, spoil))


def edit_history(path, change):
    """A copy of a history with another tree, whose arrays are as they were."""
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        tree = dict(file.tree)
        change(tree)
        edited = path.with_name("edited.asdf")
        asdf.AsdfFile(tree).write_to(edited)
    return edited


def test_history_opens_with_asdf_alone(tmp_path):
    path = write_asdf(make_history(), tmp_path / "h.asdf")
    text = path.read_bytes().split(b"\n...")[0]
    assert b"jwst-tvbadpix/tags" not in text
    with asdf.config_context() as config:
        config.remove_resource_mapping(package="jwst-tvbadpix")
        assert BadPixHistoryModel.schema_url not in config.resource_manager
        with asdf.open(path) as file:
            table = Table(dict(file["intervals"]))
            exposures = Table(dict(file["exposures"]))
    assert table["class"][1] == "HOT"
    assert exposures["filename"][2] == "filename 2"


def test_empty_history_keeps_its_layout(tmp_path):
    nothing = {"base": None, "events": None, "self_test": None}
    model = make_history(
        intervals=make_columns("intervals", 0), residuals=make_columns("residuals", 0), **nothing
    )
    read = read_history(write_asdf(model, tmp_path / "h.asdf"))
    assert read.residuals.residual.shape == (0, N_EXP)
    assert read.intervals.instance["class"].dtype == np.dtype("<U16")
    assert read.base.file == ""
    assert len(read.base.dq) == 0
    assert not read.hasattr("events")
    assert not read.hasattr("self_test")


def without(columns, name):
    return {key: value for key, value in columns.items() if key != name}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exposures": without(make_columns("exposures", N_EXP), "score")}, "missing: score"),
        ({"exposures": {**make_columns("exposures", N_EXP), "colour": [1] * N_EXP}}, "colour"),
        ({"exposures": {**make_columns("exposures", N_EXP), "score": [1.0]}}, "equal length"),
        ({"intervals": {**make_columns("intervals", 1), "class": ["LUKEWARM"]}}, "LUKEWARM"),
        ({"intervals": {**make_columns("intervals", 1), "y": [40000]}}, "fit int16"),
        ({"intervals": {**make_columns("intervals", 1), "y": [0.5]}}, "fit int16"),
        ({"intervals": {**make_columns("intervals", 1), "amplitude": ["a"]}}, "numbers"),
        ({"residuals": {**make_columns("residuals", 1), "noise": [[1, 2]]}}, "one column per"),
        ({"residuals": {**make_columns("residuals", 1), "noise": [1]}}, "2 axes"),
        ({"settings": {"a": [1, 2]}}, "setting 'a'"),
    ],
)
def test_build_history_refuses(changes, message):
    with pytest.raises(ProductError, match=message):
        make_history(**changes)


def test_read_history_refuses_what_is_no_history(tmp_path):
    path = write_asdf(make_history(), tmp_path / "h.asdf")
    whole = path.read_bytes()
    for size in (0, 100, 3000, len(whole) // 2, whole.index(b"#ASDF BLOCK INDEX") - 10):
        (tmp_path / "broken.asdf").write_bytes(whole[:size])
        with pytest.raises(InputError, match="broken"):
            read_history(tmp_path / "broken.asdf")
    mask, _ = write_twins(make_mask(), tmp_path / "mask")
    with pytest.raises(InputError, match="MASK"):
        read_history(mask)
    with asdf.open(path, lazy_load=False, memmap=False) as file:
        intervals = {name: np.array(v) for name, v in file.tree["intervals"].items()}
    for key, value, message in (
        ("schema_version", "2.0.0", "2.0.0"),
        ("intervals", {}, r"entries of a history in .*other\.asdf.* is a required property; give"),
        ("intervals", {**intervals, "x": intervals["x"][1:]}, "equal length in intervals"),
        ("intervals", {**intervals, "y": intervals["y"] + 2048}, "pixels of MIRIMAGE"),
        ("intervals", {**intervals, "x": intervals["x"] - 2048}, "pixels of MIRIMAGE"),
    ):
        with asdf.open(path, lazy_load=False, memmap=False) as file:
            tree = {**file.tree, key: value}
        asdf.AsdfFile(tree).write_to(tmp_path / "other.asdf")
        with pytest.raises(InputError, match=message):
            read_history(tmp_path / "other.asdf")
    with pytest.raises(InputError, match="no file"):
        read_history(tmp_path / "absent.asdf")
    with pytest.raises(ProductError, match=r"ending in \.asdf"):
        write_asdf(make_history(), tmp_path / "h.fits")
