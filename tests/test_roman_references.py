"""References of Roman: written, certified, delivered, picked by date, and used by romancal."""

import subprocess
import sys
from dataclasses import replace

import asdf
import numpy as np
import pytest
from astropy.time import Time
from references import FIRST, make_history, make_photom

rdm = pytest.importorskip("roman_datamodels.datamodels")
from roman_datamodels.dqflags import pixel  # noqa: E402
from roman_small import shrink_wfi, write_field  # noqa: E402
from skyfield import make_field  # noqa: E402
from stdatamodels.jwst.datamodels import dqflags  # noqa: E402
from test_roman_flux import write_template  # noqa: E402

from jwst_tvbadpix.delivery import build_context, deliver, open_context, use_context  # noqa: E402
from jwst_tvbadpix.delivery.found import find_references  # noqa: E402
from jwst_tvbadpix.delivery.readback import match_histories, read_back, read_bad  # noqa: E402
from jwst_tvbadpix.errors import DateError, DetectorError, InputError, ProductError  # noqa: E402
from jwst_tvbadpix.refmodels import (  # noqa: E402
    RomanHeader,
    build_mask_series,
    dq_value,
    map_dq_from_roman,
    map_dq_to_roman,
    roman,
    write_asdf,
    write_roman_flat,
    write_roman_mask,
    write_roman_photom,
    write_twins,
)
from jwst_tvbadpix.refmodels.roman_products import read_roman_photom  # noqa: E402

# What lies within the reference pixels, in place of 4088 x 4088.
SHAPE = (800, 112)
FULL = (808, 120)
HEADER = RomanHeader("WFI01", "2026-10-01T00:00:00", "A test", "GROUND", ("Made by a test.",))
DATES = ("2026-10-01T00:00:00", "2027-03-01T00:00:00")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    shrink_wfi(monkeypatch, SHAPE)


def write_mask(path, *, dq=None, **changed):
    if dq is None:
        dq = np.zeros(FULL, np.uint32)
        dq[600, 7] = pixel.DO_NOT_USE | pixel.HOT
    about = {
        "detector": "WFI01",
        "useafter": DATES[0],
        "description": "A test",
        "pedigree": "GROUND",
        "history": ["Made by a test."],
    }
    return write_roman_mask(path, dq, **about | changed)


def write_flat(path, *, header=HEADER, element="F158", **changed):
    planes = {
        "flat": np.full(SHAPE, 1.25, np.float32),
        "err": np.full(SHAPE, 0.01, np.float32),
        "dq": np.zeros(SHAPE, np.uint32),
    }
    planes["flat"][5, 6], planes["dq"][5, 6] = np.nan, pixel.NO_FLAT_FIELD | pixel.DO_NOT_USE
    planes |= changed
    return write_roman_flat(path, **planes, header=header, optical_element=element)


def make_raw(start, shape=FULL):
    """A level-1 exposure of two resultants."""
    raw = rdm.ScienceRawModel.create_fake_data(shape=(2, *shape))
    raw.meta.instrument.detector = "WFI01"
    raw.meta.instrument.optical_element = "F158"
    raw.meta.exposure.start_time = Time(start)
    raw.meta.exposure.read_pattern = [[1], [2]]
    return raw


def test_flags_go_by_name_both_ways():
    for name in sorted(set(pixel.__members__) & set(dqflags.pixel) - {"GOOD"}):
        dq = np.full((2, 3), dqflags.pixel[name], np.uint32)
        mapped, lost = map_dq_to_roman(dq)
        assert lost == ()
        assert (mapped == pixel[name]).all()
        back, lost = map_dq_from_roman(mapped)
        assert lost == ()
        assert np.array_equal(back, dq)


def test_flags_of_one_telescope_alone_are_listed():
    dq = np.full((2, 2), dq_value("HOT", "RC", "OPEN", "OUTLIER"), np.uint32)
    mapped, lost = map_dq_to_roman(dq)
    assert set(lost) == {"RC", "OPEN"}
    assert (mapped == pixel.HOT | pixel.OUTLIER).all()
    assert dqflags.pixel["OUTLIER"] != pixel.OUTLIER
    theirs = np.full((2, 2), pixel.HOT | pixel.GW_AFFECTED_DATA | (1 << 14), np.uint32)
    mapped, lost = map_dq_from_roman(theirs)
    assert lost == ("GW_AFFECTED_DATA", "bit 14")
    assert (mapped == dq_value("HOT")).all()
    with pytest.raises(ProductError, match="uint32"):
        map_dq_to_roman(dq.astype(np.int64))


def test_a_mask_is_valid_and_what_was_meant(tmp_path):
    path = write_mask(tmp_path / "mask.asdf")
    with rdm.MaskRefModel(path) as mask:
        mask.validate()
        assert mask.dq[600, 7] == pixel.DO_NOT_USE | pixel.HOT
        assert np.count_nonzero(mask.dq) == 1
        assert mask.meta.useafter == Time(DATES[0])
        assert (mask.meta.origin, mask.meta.pedigree) == ("STSCI", "GROUND")
        assert mask.meta.telescope == "ROMAN"
    with asdf.open(path) as file:
        (entry,) = file["history"]["entries"]
        assert entry["description"] == "Made by a test."
        assert entry["software"]["name"] == "jwst_tvbadpix"
    assert np.argwhere(read_bad(path)).tolist() == [[600, 7]]


def test_the_same_bytes_at_a_given_date(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    (tmp_path / "again").mkdir()
    for write in (write_mask, write_flat, write_template):
        first, second = (write(folder / "x.asdf") for folder in (tmp_path, tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("changed", "error", "said"),
    [
        ({"detector": "MIRIMAGE"}, DetectorError, "WFI01 to WFI18"),
        ({"detector": "WFI19"}, DetectorError, "WFI19"),
        ({"useafter": "2026-10-01"}, DateError, "YYYY-MM-DDThh:mm:ss"),
        ({"pedigree": "INFLIGHT"}, ProductError, "INFLIGHT YYYY-MM-DD"),
        ({"description": " "}, ProductError, "none for description"),
        ({"history": ()}, ProductError, "none for history"),
        ({"dq": np.zeros(FULL, np.int32)}, ProductError, "int32"),
        ({"dq": np.zeros(SHAPE, np.uint32)}, ProductError, "(808, 120)"),
        ({"dq": np.full(FULL, 1 << 14, np.uint32)}, ProductError, "0x4000"),
        ({"author": 5}, ProductError, "not of type 'string'"),
    ],
)
def test_refuses_masks_that_are_none(tmp_path, changed, error, said):
    with pytest.raises(error) as caught:
        write_mask(tmp_path / "mask.asdf", **changed)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refuses_flats_that_would_spoil_images(tmp_path):
    hole = np.ones(SHAPE, np.float32)
    hole[3, 4] = 0
    for changed, said in (
        ({"flat": hole}, "row 3, column 4"),
        ({"err": np.full(SHAPE, np.nan, np.float32)}, "nan"),
        ({"err": np.zeros((2, 2), np.float32)}, "(2, 2)"),
        ({"flat": hole.astype(np.float64)}, "float64"),
        ({"element": "F770W"}, "F770W"),
    ):
        with pytest.raises(ProductError) as caught:
            write_flat(tmp_path / "flat.asdf", **changed)
        assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_refuses_rows_that_are_none(tmp_path):
    good = read_roman_photom(write_template(tmp_path / "good.asdf")).rows
    for rows, said in (
        ({}, "found none"),
        ({"F158": {**good["F158"], "photmjsr": -1.0}}, "greater than 0"),
        ({"F158": {**good["F158"], "uncertainty": np.nan}}, "uncertainty of F158"),
        ({"F158": {**good["F158"], "wavelength": np.ones(3)}}, "float32"),
        ({"F158": {"photmjsr": 1.0}}, "required"),
        ({"F770W": good["F158"]}, "F770W"),
    ):
        with pytest.raises(ProductError) as caught:
            write_roman_photom(tmp_path / "bad.asdf", rows, header=HEADER)
        assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["good.asdf"]


def test_a_file_that_reads_back_differently_is_not_left(tmp_path, monkeypatch):
    write = asdf.AsdfFile.write_to

    def spoil(self, *args, **kwargs):
        self["roman"].dq = self["roman"].dq | np.uint32(4)
        write(self, *args, **kwargs)

    monkeypatch.setattr(asdf.AsdfFile, "write_to", spoil)
    with pytest.raises(ProductError, match=r"dq of mask\.asdf to read back"):
        write_mask(tmp_path / "mask.asdf")
    assert not list(tmp_path.iterdir())


def test_an_unknown_version_of_rad_is_refused(tmp_path, monkeypatch):
    import rad

    monkeypatch.setattr(rad, "__version__", "7.1.0")
    with pytest.raises(ProductError, match=r"expected RAD 1\.1 or 1\.2, found 7\.1\.0"):
        write_mask(tmp_path / "mask.asdf")
    monkeypatch.setitem(sys.modules, "roman_datamodels", None)
    with pytest.raises(ProductError, match=r"jwst-tvbadpix\[roman\]"):
        roman.require_rad()


def test_jwst_needs_no_roman_datamodels():
    code = (
        "import sys; import jwst_tvbadpix.steps, jwst_tvbadpix.delivery; "
        "print([n for n in ('roman_datamodels', 'rad', 'romancal') if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert run.stdout.strip() == "[]"


@pytest.fixture
def series(tmp_path):
    """Masks of two dates, a flat and a photom reference."""
    paths = []
    for k, date in enumerate(DATES):
        dq = np.zeros(FULL, np.uint32)
        dq[600, : k + 1] = pixel.DO_NOT_USE | pixel.TELEGRAPH
        paths.append(write_mask(tmp_path / f"mask{k}.asdf", dq=dq, useafter=date))
    other = write_mask(tmp_path / "other.asdf", detector="WFI02", dq=np.zeros((4096, 4096), "u4"))
    flat, photom = write_flat(tmp_path / "flat.asdf"), write_template(tmp_path / "photom.asdf")
    return {"mask": [*paths, other], "flat": [flat], "photom": [photom]}


def ask(date, kind="mask", **changed):
    import crds

    header = {
        "ROMAN.META.INSTRUMENT.NAME": "WFI",
        "ROMAN.META.INSTRUMENT.DETECTOR": "WFI01",
        "ROMAN.META.INSTRUMENT.OPTICAL_ELEMENT": "F158",
        "ROMAN.META.EXPOSURE.START_TIME": date,
        **changed,
    }
    return crds.getreferences(header, reftypes=[kind], observatory="roman")[kind].split("/")[-1]


def test_masks_are_picked_by_date(series, tmp_path):
    context = build_context(tmp_path / "cache", series)
    assert context.env["CRDS_CONTEXT"] == "roman_0001.pmap"
    names = list(context.names.values())
    assert names == [
        "roman_wfi_flat_0001.asdf",
        "roman_wfi_mask_0001.asdf",
        "roman_wfi_mask_0002.asdf",
        "roman_wfi_mask_0003.asdf",
        "roman_wfi_photom_0001.asdf",
    ]
    with use_context(open_context(tmp_path / "cache")):
        assert ask("2026-10-01 00:00:00") == "roman_wfi_mask_0001.asdf"
        assert ask("2027-02-28 23:59:59.999") == "roman_wfi_mask_0001.asdf"
        assert ask("2027-03-01 00:00:00") == "roman_wfi_mask_0002.asdf"


def test_romancal_picks_and_uses_the_references(series, tmp_path):
    steps, flatfield, photoms = (
        pytest.importorskip(f"romancal.{name}") for name in ("dq_init", "flatfield", "photom")
    )
    with use_context(build_context(tmp_path / "cache", series)):
        for start, bad in (("2027-02-28T23:59:59", 1), ("2027-03-01T00:00:00", 2)):
            ramp = steps.DQInitStep.call(make_raw(start))
            assert ramp.meta.ref_file.mask == f"crds://roman_wfi_mask_000{bad}.asdf"
            flagged = np.argwhere(ramp.pixeldq)
            assert flagged.tolist() == [[600, x] for x in range(bad)]
            assert (ramp.pixeldq[600, :bad] == pixel.DO_NOT_USE | pixel.TELEGRAPH).all()
        (path,) = write_field(tmp_path, make_field(shape=SHAPE, n_exp=1, n_stars=1))
        with rdm.open(path) as image:
            before = image.data.copy()
            flat = flatfield.FlatFieldStep.call(image)
        assert flat.meta.cal_step.flat_field == "COMPLETE"
        assert flat.dq[5, 6] == pixel.NO_FLAT_FIELD | pixel.DO_NOT_USE
        assert np.count_nonzero(flat.dq) == 1
        used = flat.dq == 0
        np.testing.assert_allclose(flat.data[used], before[used] / 1.25, rtol=1e-6)
        converted = photoms.PhotomStep.call(flat)
        assert converted.meta.photometry.conversion_megajanskys == 1.0
        assert converted.meta.photometry.pixel_area == 2.8e-13


def test_contexts_of_two_telescopes_stand_side_by_side(series, tmp_path):
    import crds

    cache = tmp_path / "cache"
    roman_context = build_context(cache, series)
    write_twins(make_photom(), tmp_path / "photom_jwst")
    jwst_context = build_context(tmp_path / "jwst", {"photom": [tmp_path / "photom_jwst.fits"]})
    keys = {
        "META.INSTRUMENT.NAME": "MIRI",
        "META.INSTRUMENT.DETECTOR": "MIRIMAGE",
        "META.INSTRUMENT.FILTER": "F770W",
        "META.INSTRUMENT.BAND": "N/A",
        "META.EXPOSURE.TYPE": "MIR_IMAGE",
        "META.OBSERVATION.DATE": "2024-01-01",
        "META.OBSERVATION.TIME": "00:00:00",
    }
    for _ in range(2):
        with use_context(roman_context):
            assert ask("2027-01-01 00:00:00") == "roman_wfi_mask_0001.asdf"
        with use_context(jwst_context):
            found = crds.getreferences(keys, reftypes=["photom"], observatory="jwst")["photom"]
            assert found.endswith("jwst_miri_photom_0001.fits")


def test_refuses_a_context_of_two_telescopes(series, tmp_path):
    write_twins(make_photom(), tmp_path / "photom_jwst")
    both = {**series, "photom": [*series["photom"], tmp_path / "photom_jwst.fits"]}
    with pytest.raises(InputError, match=r"of one telescope, found .* of Roman"):
        build_context(tmp_path / "cache", both)
    with pytest.raises(InputError, match=r"a context name like roman_0001\.pmap"):
        build_context(tmp_path / "cache", series, name="jwst_0001.pmap")
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def delivered(tmp_path):
    """A folder of masks with their history, a flat and a photom reference."""
    folder = tmp_path / "references"
    folder.mkdir()
    history = make_history(2, detector="WFI01")
    history.meta.filename = "wide_WFI01_badpixhistory.asdf"
    write_asdf(history, folder / history.meta.filename)
    for mask in build_mask_series(history, "wide"):
        mask.save(folder / mask.filename)
    header = replace(HEADER, useafter=FIRST)
    write_flat(folder / "flat.asdf", header=header)
    write_template(folder / "photom.asdf", useafter=FIRST)
    return folder


def test_a_delivery_passes_stock_certify(delivered, tmp_path):
    verdict = deliver(delivered, tmp_path / "out")
    assert verdict.passed, verdict.format_checks()
    assert verdict.context == "roman_0001.pmap"
    checks = {check.name: check.detail for check in verdict.checks}
    assert checks["crds certify: errors"] == "4 files"
    assert checks["masks against history"] == "2 files, every bit"
    found = {effect.dataset: effect.new for effect in verdict.effects if effect.kind == "mask"}
    assert found == {
        "jw000_rate.fits": "roman_wfi_mask_0001.asdf",
        "jw001_rate.fits": "roman_wfi_mask_0002.asdf",
        "jw002_rate.fits": "roman_wfi_mask_0002.asdf",
    }
    form = (tmp_path / "out" / "submission" / "wfi_mask.yaml").read_text()
    assert 'instrument: "wfi"' in form
    assert "detector WFI01" in form


def test_a_corrupt_mask_is_found(delivered):
    (path,) = delivered.glob("*_mask_20211225T000000.asdf")
    with rdm.MaskRefModel(path, lazy_load=False, memmap=False) as mask:
        dq, header = np.array(mask.dq), mask.meta
        about = {"useafter": FIRST, "pedigree": str(header.pedigree)}
    dq[700, 99] |= np.uint32(pixel.DO_NOT_USE)
    write_mask(path, dq=dq, **about)
    found = find_references(delivered)
    meant, _, _ = match_histories(found)
    read = {r.fits: read_back(r, meant[r.fits].dq) for r in found.references if r.kind == "mask"}
    (said,) = read.pop(path).flags
    assert "1 pixels differ from the history, the first at y=700 x=99" in said
    assert [one.flags for one in read.values()] == [()]


def test_a_folder_of_two_telescopes_is_refused(delivered, tmp_path):
    write_twins(make_photom(), delivered / "photom_jwst")
    with pytest.raises(InputError, match="references of one telescope in"):
        deliver(delivered, tmp_path / "out")
