"""Reading exposures: the same rows whatever the container, and errors that say what to do."""

import gc
import hashlib
import json
import logging
import shutil
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from pipeline import REAL_RATES
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.errors import DateError, DetectorError, EvidenceError, InputError
from jwst_tvbadpix.exposures import open_exposures
from jwst_tvbadpix.simulate import (
    ExposureSpec,
    build_lrs_scene,
    find_region,
    render_rate,
    write_rate,
    write_rateints,
)

DNU, JUMP = 1, 4
SLITLESS = find_region("SLITLESSPRISM")
SHAPE = SLITLESS.shape
# What every message holds: what was expected, what was found, what to do.
ADVICE = r"(?s)(expected|must be).*found.*(;|:).*(give|check|download|correct|leave|run|make|add)"


def spec_of(mjd, **kwargs):
    settings = {"subarray": "SLITLESSPRISM", "ngroups": 60, "seed": int(mjd)} | kwargs
    return ExposureSpec(mjd, **settings)


SPECS = tuple(spec_of(60000.5 + 40 * k, observation=1 + k) for k in range(3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three slitless rates, an association of them, and one rateints."""
    folder = tmp_path_factory.mktemp("exposures")
    scene = build_lrs_scene(seed=3)
    for spec in SPECS:
        write_rate(folder, spec, scene)
    write_rateints(folder, spec_of(60200.5, nints=4, observation=9), scene)
    members = [{"expname": spec.filename("rate"), "exptype": "science"} for spec in SPECS]
    others = [
        {"expname": "catalogue.ecsv", "exptype": "sourcecat"},
        {"expname": "ta_rate.fits", "exptype": "target_acquisition"},
    ]
    for name, listed in (("science_asn.json", members), ("asn.json", members + others)):
        asn = {"asn_id": "a3001", "asn_pool": "none"}
        asn["products"] = [{"name": "p", "members": listed}]
        (folder / name).write_text(json.dumps(asn))
    return folder


@pytest.fixture(scope="module")
def rates(folder):
    return [folder / spec.filename("rate") for spec in SPECS]


@pytest.fixture(scope="module")
def rateints(folder):
    return next(folder.glob("*_rateints.fits"))


def header_of(k=0, subarray="SLITLESSPRISM", **changes):
    """Cards of exposure number k; None leaves a card out."""
    region = find_region(subarray)
    start = Time(60000.5 + k, format="mjd")
    cards = {
        "TELESCOP": "JWST",
        "DETECTOR": "MIRIMAGE",
        "EXP_TYPE": "MIR_LRS-SLITLESS",
        "DATE-OBS": start.isot[:10],
        "TIME-OBS": start.isot[11:],
        "EXPSTART": start.mjd,
        "EXPMID": start.mjd + 0.01,
        "EXPEND": start.mjd + 0.02,
        "EFFEXPTM": 1728.0,
        "SUBARRAY": subarray,
        "SUBSTRT1": region.x_start + 1,
        "SUBSTRT2": region.y_start + 1,
        "SUBSIZE1": region.nx,
        "SUBSIZE2": region.ny,
    } | {key.replace("_", "-") if "OBS" in key else key: v for key, v in changes.items()}
    return {key: value for key, value in cards.items() if value is not None}


def make_file(path, k=0, *, rate=None, dq=None, planes=("SCI", "DQ"), unit="DN/s", **cards):
    """Write the least that is a rate product."""
    header = header_of(k, **cards)
    if rate is None:
        rate = np.full(find_region(header["SUBARRAY"]).shape, k + 1.0, np.float32)
    dq = np.zeros(rate.shape, np.uint32) if dq is None else dq
    primary = fits.PrimaryHDU()
    primary.header.update(header)
    hdus = [primary]
    for name, plane in (("SCI", rate), ("DQ", dq)):
        if name in planes:
            hdus.append(fits.ImageHDU(plane, name=name))
    if "SCI" in planes:
        hdus[1].header["BUNIT"] = unit
    fits.HDUList(hdus).writeto(path)
    return path


def read_all(stack):
    return stack.read_rows(*stack.window[:2])


def load_model(path):
    """A model in memory; its file is closed."""
    with datamodels.ImageModel(path) as model:
        return model.copy()


def load_models(paths):
    return [load_model(path) for path in paths]


# ------------------------------------------------------------------------------- what is read


def test_rows_are_those_of_the_files(rates):
    stack = open_exposures(rates)
    y0, x0 = SLITLESS.y_start, SLITLESS.x_start
    assert stack.window == (y0, y0 + SHAPE[0], x0, x0 + SHAPE[1])
    found = read_all(stack)
    assert found.dtype == np.float32
    for image, path in zip(found, rates, strict=True):
        data = fits.getdata(path, "SCI")
        assert np.isfinite(data[:, 4:]).all()
        np.testing.assert_array_equal(image[:, 4:], data[:, 4:])
        # Reference pixels.
        assert np.isnan(image[:, :4]).all()


def test_records_hold_the_header(rates):
    stack = open_exposures(rates)
    assert stack.dated
    for record, spec in zip(stack.records, SPECS, strict=True):
        assert record.filename == spec.filename("rate")
        assert (record.detector, record.subarray) == ("MIRIMAGE", "SLITLESSPRISM")
        assert (record.filter, record.readpatt, record.r_mask) == ("P750L", "FASTR1", "N/A")
        assert (record.ngroups, record.nints) == (60, 1)
        assert record.dispersion_axis == 2
        assert record.corner == (SLITLESS.y_start, SLITLESS.x_start)
        assert record.shape == SHAPE
        assert record.settled == ()
        # DATE-OBS and TIME-OBS hold milliseconds.
        assert record.start_mjd == pytest.approx(spec.mjd, abs=0.001 / 86400)
        assert record.expstart_mjd == spec.mjd
        assert record.mid_mjd == pytest.approx(spec.mid_mjd, abs=1e-9)
        assert record.end_mjd == pytest.approx(spec.end_mjd, abs=1e-9)
        assert record.exposure_s == pytest.approx(spec.exposure_s)
    assert len({record.sha256 for record in stack.records}) == 3


def library_of(folder, on_disk):
    from jwst.datamodels import ModelLibrary

    if not on_disk:
        return ModelLibrary(folder / "science_asn.json")
    temporary = folder / "temporary"
    temporary.mkdir()
    return ModelLibrary(folder / "science_asn.json", on_disk=True, temp_directory=temporary)


CONTAINERS = {
    "paths as text": lambda folder, rates: [str(path) for path in rates],
    "generator": lambda folder, rates: (path for path in rates),
    "association": lambda folder, rates: folder / "asn.json",
    "association as text": lambda folder, rates: str(folder / "asn.json"),
    "nested": lambda folder, rates: [rates[0], [rates[1:]]],
    "other order": lambda folder, rates: rates[::-1],
    "models": lambda folder, rates: load_models(rates),
    "model among paths": lambda folder, rates: [rates[2], load_model(rates[0]), rates[1]],
    "library in memory": lambda folder, rates: library_of(folder, False),
    "library on disk": lambda folder, rates: library_of(folder, True),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_rows(folder, rates, container):
    expected = open_exposures(rates)
    found = open_exposures(CONTAINERS[container](folder, rates))
    np.testing.assert_array_equal(read_all(found), read_all(expected))
    assert found.window == expected.window
    assert found.looks == expected.looks
    names = ("filename", "start_mjd", "mid_mjd", "end_mjd", "corner", "filter", "dispersion_axis")
    for name in names:
        one, two = ([getattr(r, name) for r in s.records] for s in (found, expected))
        assert one == two


def test_library_is_left_as_it_was(folder, rates):
    library = library_of(folder, False)
    open_exposures(library)
    with library:
        for model, path in zip(library, rates, strict=True):
            np.testing.assert_array_equal(model.data, fits.getdata(path, "SCI"))
            library.shelve(model, modify=False)


def test_models_are_not_edited(rates):
    models = load_models(rates)
    before = [model.data.copy() for model in models]
    read_all(open_exposures(models))
    for model, data in zip(models, before, strict=True):
        np.testing.assert_array_equal(model.data, data)


def test_subarray_lies_where_it_was_read_out(tmp_path, rates):
    spec = spec_of(60300.0, subarray="FULL", observation=7)
    full = write_rate(tmp_path, spec, build_lrs_scene(seed=3))
    stack = open_exposures([*rates, full])
    assert stack.window == (0, 1024, 0, 1032)
    found = read_all(stack)
    inside = np.zeros((1024, 1032), bool)
    inside[SLITLESS.slices] = True
    assert np.isnan(found[:3, ~inside]).all()
    np.testing.assert_array_equal(found[0][SLITLESS.slices][:, 4:], fits.getdata(rates[0])[:, 4:])
    np.testing.assert_array_equal(found[3][:, 4:-4], fits.getdata(full)[:, 4:-4])
    assert np.isnan(found[:, :, [0, 1, 2, 3, 1028, 1029, 1030, 1031]]).all()


def test_subarray_away_from_the_edges(tmp_path, rates):
    corner = {"SUBSTRT1": 413, "SUBSTRT2": 51, "SUBSIZE1": 256, "SUBSIZE2": 256}
    rate = np.arange(256 * 256, dtype=np.float32).reshape(256, 256)
    path = make_file(tmp_path / "x_rate.fits", rate=rate, SUBARRAY="SUB256", **corner)
    stack = open_exposures([rates[0], path])
    assert stack.window == (50, 944, 0, 668)
    found = read_all(stack)[0 if stack.records[0].filename == "x_rate.fits" else 1]
    np.testing.assert_array_equal(found[:256, 412:], rate)
    assert np.isfinite(found).sum() == rate.size


def test_do_not_use_and_nan_are_no_evidence(tmp_path):
    rate, dq = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.uint32)
    rate[10, 20], rate[11, 20] = np.nan, np.inf
    dq[10, 30], dq[10, 31] = DNU | JUMP, JUMP
    paths = [make_file(tmp_path / f"{k}.fits", k, rate=rate * (k + 1), dq=dq) for k in range(2)]
    found = read_all(open_exposures(paths))
    expected = np.ones(SHAPE, bool)
    expected[:, :4] = False
    expected[10, 20] = expected[11, 20] = expected[10, 30] = False
    np.testing.assert_array_equal(np.isfinite(found), [expected, expected])


def test_corner_of_the_tables_is_used_where_the_file_has_none(tmp_path, caplog):
    absent = dict.fromkeys(("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"))
    paths = [make_file(tmp_path / f"{k}.fits", k, **absent) for k in range(2)]
    with caplog.at_level(logging.INFO):
        stack = open_exposures(paths)
    assert stack.records[0].corner == (SLITLESS.y_start, SLITLESS.x_start)
    assert "corner of SLITLESSPRISM is taken from the tables" in caplog.text


def test_absent_dispersion_follows_from_the_type(tmp_path, caplog):
    types = ("MIR_LRS-SLITLESS", "MIR_IMAGE", None, "MIR_LRS-SLITLESS")
    paths = [make_file(tmp_path / f"{k}.fits", k, EXP_TYPE=t) for k, t in enumerate(types)]
    with caplog.at_level(logging.INFO):
        found = [record.dispersion_axis for record in open_exposures(paths).records]
    assert found == [2, None, None, 2]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    told = [r.getMessage() for r in caplog.records if "DISPAXIS" in r.getMessage()]
    assert told == [
        "DISPAXIS is absent: 2 follows from MIR_LRS-SLITLESS (2 exposures, 0.fits the first)",
        "DISPAXIS is absent: none (image) follows from MIR_IMAGE (1 exposures, 1.fits the first)",
        "DISPAXIS is absent: none (image) follows from N/A (1 exposures, 2.fits the first)",
    ]


# DETECTOR, SUBARRAY, (SUBSTRT1, SUBSTRT2), shape, EXP_TYPE, optics, DISPAXIS of the pipeline.
PLACES = [
    ("NRS1", "FULL", (1, 1), (2048, 2048), "NRS_MSASPEC", {"GRATING": "G395H"}, 1),
    ("NRS2", "SUB2048", (1, 1), (32, 2048), "NRS_BRIGHTOBJ", {"GRATING": "G395H"}, 1),
    ("NRS1", "ALLSLITS", (1, 897), (256, 2048), "NRS_FIXEDSLIT", {"GRATING": "PRISM"}, 1),
    ("NRCALONG", "SUBGRISM256", (1, 1), (256, 2048), "NRC_TSGRISM", {"PUPIL": "GRISMR"}, 1),
    ("NRCBLONG", "FULL", (1, 1), (2048, 2048), "NRC_WFSS", {"PUPIL": "GRISMC"}, 2),
    ("NRCB1", "SUB64P", (1961, 1), (64, 64), "NRC_TSIMAGE", {"PUPIL": "CLEAR"}, None),
    ("NIS", "SUBSTRIP256", (1, 1793), (256, 2048), "NIS_SOSS", {"FILTER": "CLEAR"}, 1),
    ("NIS", "SUBSTRIP96", (1, 1803), (96, 2048), "NIS_SOSS", {"FILTER": "CLEAR"}, 1),
    ("NIS", "FULL", (1, 1), (2048, 2048), "NIS_WFSS", {"FILTER": "GR150R"}, 2),
    ("GUIDER2", "A_NEW_NAME", (1000, 500), (128, 128), "FGS_IMAGE", {}, None),
    ("MIRIFULONG", "FULL", (1, 1), (1024, 1032), "MIR_MRS", {}, 2),
    ("MIRIMAGE", "SUB64", (1, 779), (64, 72), "MIR_IMAGE", {"FILTER": "F770W"}, None),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda p: f"{p[0]}-{p[1]}")
def test_every_read_out_lies_in_its_place(tmp_path, place):
    name, subarray, (x, y), shape, exp_type, optics, axis = place
    rate = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape) % 1009
    cards = {"DETECTOR": name, "SUBARRAY": subarray, "EXP_TYPE": exp_type, **optics}
    cards |= {"SUBSTRT1": x, "SUBSTRT2": y, "SUBSIZE1": shape[1], "SUBSIZE2": shape[0]}
    paths = [make_file(tmp_path / f"{k}_rate.fits", k, rate=rate, **cards) for k in range(2)]
    stack = open_exposures(paths)
    assert stack.window == (y - 1, y - 1 + shape[0], x - 1, x - 1 + shape[1])
    assert [record.dispersion_axis for record in stack.records] == [axis, axis]
    full = np.full(stack.detector.shape, np.nan, np.float32)
    full[y - 1 : y - 1 + shape[0], x - 1 : x - 1 + shape[1]] = rate
    if name == "MIRIFULONG":
        full -= np.median(rate[50:974, 474:507])
    full[stack.detector.reference_pixels()] = np.nan
    y0, y1, x0, x1 = stack.window
    for image in read_all(stack):
        np.testing.assert_array_equal(image, full[y0:y1, x0:x1])


def test_subarray_with_the_full_frame_of_a_near_infrared_detector(tmp_path):
    """What the subarray did not read is no evidence, whatever the full frame holds."""
    cards = {"DETECTOR": "NIS", "EXP_TYPE": "NIS_SOSS", "SUBSTRT1": 1, "SUBSIZE1": 2048}
    paths = [
        make_file(
            tmp_path / f"{name}.fits",
            k,
            rate=np.full((ny, 2048), k + 1, np.float32),
            **cards | {"SUBARRAY": name, "SUBSTRT2": start, "SUBSIZE2": ny},
        )
        for k, (name, start, ny) in enumerate([("FULL", 1, 2048), ("SUBSTRIP96", 1803, 96)])
    ]
    stack = open_exposures(paths)
    full, strip = (np.concatenate(parts) for parts in zip(*iterate_core(stack), strict=True))
    lit = ~stack.detector.reference_pixels()
    np.testing.assert_array_equal(full == 1, lit)
    rows = np.zeros((2048, 1), bool)
    rows[1802:1898] = True
    np.testing.assert_array_equal(strip == 2, lit & rows)
    assert np.isnan(strip[~(lit & rows)]).all()


def iterate_core(stack):
    for block in stack.row_blocks(halo=3, max_bytes=2_000_000):
        yield block.rate[:, block.core]


def test_corner_of_an_unlisted_subarray_is_told(tmp_path, caplog):
    cards = {"DETECTOR": "NRCA1", "EXP_TYPE": "NRC_IMAGE"}
    rate = np.ones((64, 64), np.float32)
    corner = {"SUBSTRT1": 9, "SUBSTRT2": 5, "SUBSIZE1": 64, "SUBSIZE2": 64}
    paths = [
        make_file(tmp_path / f"{k}.fits", k, rate=rate, SUBARRAY="SUB64FP1A", **cards, **corner)
        for k in range(2)
    ]
    with caplog.at_level(logging.INFO):
        assert open_exposures(paths).window == (4, 68, 8, 72)
    assert "SUB64FP1A is in no table of NRCA1: its corner is the file's (2 exp" in caplog.text
    nowhere = make_file(tmp_path / "x.fits", 3, rate=rate, SUBARRAY="SUB64FP1A", **cards)
    for card in corner:
        fits.delval(nowhere, card)
    message = refuse([*paths, nowhere], DetectorError, "or another with SUBSTRT and SUBSIZE")
    assert "x.fits" in message
    assert "SUB64FP1A" in message


def test_read_out_in_stripes_is_refused(tmp_path):
    cards = {"DETECTOR": "NRCA1", "EXP_TYPE": "NRC_TSGRISM", "SUBARRAY": "SUB164STRIPE4_DHS"}
    corner = {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 2048, "SUBSIZE2": 164}
    rate = np.ones((164, 2048), np.float32)
    path = make_file(tmp_path / "dhs_rate.fits", rate=rate, MSTR_RD1=1, **cards, **corner)
    assert "dhs_rate.fits" in refuse(path, DetectorError, "one rectangle .*stripes")


def test_bands_of_the_spectrometer_are_one_run(tmp_path):
    """BAND and CHANNEL of MIRI, GRATING of NIRSpec: none of them changes the pixels."""
    for name, exp_type, optics in (
        ("MIRIFUSHORT", "MIR_MRS", [{"BAND": b, "CHANNEL": "12"} for b in ("SHORT", "LONG")]),
        ("NRS1", "NRS_IFU", [{"GRATING": g, "FILTER": "F290LP"} for g in ("G395H", "G395M")]),
    ):
        shape = (1024, 1032) if name == "MIRIFUSHORT" else (2048, 2048)
        cards = {"DETECTOR": name, "EXP_TYPE": exp_type, "SUBARRAY": "FULL"}
        cards |= {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": shape[1], "SUBSIZE2": shape[0]}
        rate = np.ones(shape, np.float32)
        paths = [
            make_file(tmp_path / f"{name}{k}.fits", k, rate=rate, **cards, **optic)
            for k, optic in enumerate(optics)
        ]
        assert len(open_exposures(paths).looks) == 2


# ---------------------------------------------------------------------------------- pedestal


def make_spectrometer(path, k, rate, **cards):
    cards = {"DETECTOR": "MIRIFUSHORT", "EXP_TYPE": "MIR_MRS", "SUBARRAY": "FULL"} | cards
    corner = {"SUBSTRT1": 1, "SUBSTRT2": 1, "SUBSIZE1": 1032, "SUBSIZE2": 1024}
    return make_file(path, k, rate=rate, **corner, **cards)


def test_pedestal_is_subtracted_from_each_integration(tmp_path):
    rng = np.random.default_rng(4)
    sky = rng.normal(2, 0.1, (1024, 1032)).astype(np.float32)
    sky[50:974, 503:516] = 0
    sky[60, 510] = 50.0  # a hot pixel in the gap
    drift = np.array([0.5, -0.3, 1.0, 0.25], np.float32)
    cube = sky + drift[:, None, None]
    dark = make_spectrometer(tmp_path / "0_rate.fits", 0, cube[2])
    cube_path = make_spectrometer(tmp_path / "1_rateints.fits", 1, cube)
    expected = sky.copy()
    expected[:, [0, 1, 2, 3, 1028, 1029, 1030, 1031]] = np.nan
    found = read_all(open_exposures([dark, cube_path]))
    np.testing.assert_allclose(found, [expected, expected], atol=1e-5)
    found = read_all(open_exposures(cube_path))
    np.testing.assert_allclose(found, [expected] * 4, atol=1e-5)


def test_pedestal_is_the_same_in_every_block_and_measured_once(tmp_path, monkeypatch):
    rng = np.random.default_rng(5)
    images = rng.normal(1, 1, (2, 1024, 1032)).astype(np.float32)
    images[1, :, 503:516] = np.nan  # without a gap nothing can be said
    paths = [make_spectrometer(tmp_path / f"{k}.fits", k, im) for k, im in enumerate(images)]
    stack = open_exposures(paths)
    blocks = np.concatenate(list(iterate_core(stack)), axis=1)
    np.testing.assert_array_equal(blocks, read_all(open_exposures(paths)))
    lit = ~stack.detector.reference_pixels()
    level = np.median(images[0, 50:974, 503:516])
    np.testing.assert_allclose(blocks[0][lit], (images[0] - level)[lit], atol=1e-6)
    np.testing.assert_array_equal(blocks[1][lit], images[1][lit])
    read = []
    original = type(stack._sources[0]).read
    monkeypatch.setattr(
        type(stack._sources[0]),
        "read",
        lambda self, rows: read.append(rows) or original(self, rows),
    )
    stack.read_rows(0, 8)
    assert len(read) == 2


# ------------------------------------------------------------------------------------ hidden


SATURATED, NON_SCIENCE, REFERENCE, HOT = 2, 2**9, 2**31, 2**11


def hidden_by_block(stack):
    blocks = list(stack.row_blocks(halo=4, max_bytes=40_000))
    assert len(blocks) > 3
    assert all(block.hidden.dtype == np.int64 for block in blocks)
    return np.sum([block.hidden for block in blocks], axis=0).tolist()


def test_hidden_pixels_are_those_that_nothing_but_a_mask_explains(tmp_path):
    rate, dq = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.uint32)
    clean = make_file(tmp_path / "clean.fits", 0, rate=rate.copy(), dq=dq.copy())
    dq[:, :4] = REFERENCE | DNU
    rate[50, 2] = np.nan  # a reference pixel that DQ does not know
    dq[50, 2] = 0
    dq[60, 10:20] = SATURATED | DNU
    rate[60, 10:20] = np.nan
    dq[70, 10:13] = NON_SCIENCE | DNU
    dq[80, 10] = HOT  # flagged, fitted, seen
    explained = make_file(tmp_path / "explained.fits", 1, rate=rate.copy(), dq=dq.copy())
    rate[90, 10:15] = np.nan
    dq[91, 10:17] = DNU | HOT
    rate[92, 10], dq[92, 10] = np.nan, DNU
    masked = make_file(tmp_path / "masked.fits", 2, rate=rate, dq=dq)
    assert hidden_by_block(open_exposures([masked, explained, clean])) == [0, 0, 13]


def test_pixels_of_rateints_are_hidden_in_all_settled_integrations(tmp_path):
    cube = np.ones((4, *SHAPE), np.float32)
    cube[0] += 30  # not settled
    dq = np.zeros(cube.shape, np.uint32)
    dq[1:, 10, 20:25] = DNU  # hidden where it counts
    dq[:, 11, 20:23] = DNU
    dq[:3, 12, 20:40] = DNU  # seen at the end
    dq[:, 13, 20:40] = DNU
    dq[2, 13, 20:40] |= SATURATED
    paths = [
        make_file(tmp_path / "0_rate.fits", 0),
        make_file(tmp_path / "1_rateints.fits", 1, rate=cube, dq=dq),
    ]
    stack = open_exposures(paths)
    assert stack.records[1].unsettled == (0,)
    assert hidden_by_block(stack) == [0, 8]


def test_an_exposure_of_nan_hides_all_it_read(tmp_path, rates):
    path = make_file(tmp_path / "empty.fits", 400, rate=np.full(SHAPE, np.nan, np.float32))
    stack = open_exposures([path, rates[0]])
    assert np.isnan(read_all(stack)[1]).all()
    assert hidden_by_block(stack) == [0, SHAPE[0] * (SHAPE[1] - 4)]


def test_the_real_archive_rates_hide_what_their_mask_hid():
    if not REAL_RATES.is_file():
        pytest.skip("the real ramps of ../shared/realdata are absent")
    stack = open_exposures(REAL_RATES)
    dq = fits.getdata(REAL_RATES, "DQ")[list(stack.records[0].settled)]
    blocks = list(stack.row_blocks(halo=0))
    hidden = np.sum([block.hidden for block in blocks], axis=0)
    expected = [((plane & DNU) != 0)[:, 4:].sum() for plane in dq]
    assert hidden.tolist() == expected
    assert min(expected) >= 64


def test_unsettled_integrations_are_told(tmp_path, caplog):
    cube = np.full((5, *SHAPE), 2, np.float32)
    cube[0] += 30
    cube[3] = np.nan
    paths = [
        make_file(tmp_path / "0_rate.fits", 0),
        make_file(tmp_path / "1_rateints.fits", 1, rate=cube),
    ]
    with caplog.at_level(logging.INFO):
        records = open_exposures(paths).records
    assert (records[0].settled, records[0].unsettled) == ((), ())
    assert (records[1].settled, records[1].unsettled) == ((1, 2, 4), (0, 3))
    assert "1_rateints.fits: integrations 1, 4 have not settled" in caplog.text


# --------------------------------------------------------------------------------- rateints


def test_integrations_of_one_exposure_are_looks(rateints):
    stack = open_exposures(rateints)
    assert not stack.dated
    assert stack.looks == tuple((0, (k,)) for k in range(4))
    found = read_all(stack)
    np.testing.assert_array_equal(found[:, :, 4:], fits.getdata(rateints, "SCI")[:, :, 4:])
    assert len(stack.look_records) == 4


def test_rateints_among_rates_is_one_look(rates, rateints):
    stack = open_exposures([*rates, rateints])
    assert [integrations for _, integrations in stack.looks] == [(), (), (), (0, 1, 2, 3)]
    median = np.median(fits.getdata(rateints, "SCI"), axis=0)
    np.testing.assert_allclose(read_all(stack)[3][:, 4:], median[:, 4:], rtol=1e-6)


def test_three_integrations_are_enough_and_unsettled_ones_do_not_count(tmp_path, caplog):
    cube = np.full((4, *SHAPE), 2, np.float32)
    cube[0] += 30
    path = make_file(tmp_path / "settling_rateints.fits", rate=cube)
    with caplog.at_level(logging.WARNING):
        stack = open_exposures([path])
    assert stack.looks == ((0, (1,)), (0, (2,)), (0, (3,)))
    assert "its 3 settled integrations give a static mask" in caplog.text
    short = make_file(tmp_path / "short_rateints.fits", rate=cube[:3])
    with pytest.raises(EvidenceError, match=r"with 2 settled integrations; give more"):
        open_exposures(short)


def test_a_pixel_lost_in_some_integrations_keeps_the_others(tmp_path):
    cube = np.stack([np.full(SHAPE, v, np.float32) for v in (1, 2, 4, 5)])
    dq = np.zeros(cube.shape, np.uint32)
    dq[1:3, 50, 20] = DNU
    paths = [
        make_file(tmp_path / "0_rateints.fits", 0, rate=cube, dq=dq),
        make_file(tmp_path / "1_rate.fits", 1),
    ]
    found = read_all(open_exposures(paths))[0]
    assert found[50, 20] == 3
    assert found[51, 20] == 3
    dq[:, 50, 20] = DNU
    paths[0] = make_file(tmp_path / "2_rateints.fits", 0, rate=cube, dq=dq)
    found = read_all(open_exposures(paths))[0]
    assert np.isnan(found[50, 20])
    assert found[51, 20] == 3


# ------------------------------------------------------------------------------- row blocks


@pytest.mark.parametrize("max_bytes", [1, 40_000, 10**9])
def test_blocks_cover_the_window_once(rates, max_bytes):
    stack = open_exposures(rates)
    whole, halo = read_all(stack), 5
    y0, y1, x0, _ = stack.window
    covered = []
    for block in stack.row_blocks(halo=halo, max_bytes=max_bytes):
        assert block.x == x0
        first = block.y - y0
        np.testing.assert_array_equal(block.rate, whole[:, first : first + block.rate.shape[1]])
        rows = range(block.y + block.core.start, block.y + block.core.stop)
        covered.extend(rows)
        assert block.y == max(y0, rows.start - halo)
        assert block.y + block.rate.shape[1] == min(y1, rows.stop + halo)
        core = block.rate[:, block.core]
        assert core.nbytes <= max_bytes or core.shape[1] <= 8
    assert covered == list(range(y0, y1))


def test_memory_does_not_grow_with_the_number_of_exposures(tmp_path):
    paths = [make_file(tmp_path / f"{k}.fits", k) for k in range(32)]

    def measure(part):
        stack = open_exposures(part)
        tracemalloc.start()
        for block in stack.row_blocks(halo=2, max_bytes=300_000):
            del block
            gc.collect()  # open FITS files are cycles, whose end is the collector's choice
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    measure(paths[:2])
    few, many = measure(paths[:8]), measure(paths)
    # The rates of the other 24 take 2.9 MB; their halo, which is not part of max_bytes, 28 kB.
    assert many < few + 600_000


def test_memory_does_not_grow_with_the_number_of_integrations(tmp_path):
    """A long series is read in blocks of fewer rows."""

    def measure(n):
        path = make_file(tmp_path / f"{n}_rateints.fits", 0, rate=np.ones((n, *SHAPE), np.float32))
        other = make_file(tmp_path / f"{n}_rate.fits", 1)
        stack = open_exposures([path, other])
        tracemalloc.start()
        for block in stack.row_blocks(halo=2, max_bytes=1_200_000):
            del block
            gc.collect()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    measure(8)
    few, many = measure(16), measure(64)
    # The other 48 integrations take 5.8 MB, each time they are copied.
    assert many < few + 2_000_000


# --------------------------------------------------------------------- inputs that are wrong


def refuse(inputs, error, match):
    with pytest.raises(error, match=match) as caught:
        open_exposures(inputs)
    assert caught.match(ADVICE)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_truncated_file(tmp_path, rates):
    path = tmp_path / "short_rate.fits"
    path.write_bytes(rates[0].read_bytes()[:-20000])
    assert "short_rate.fits" in refuse([rates[1], path], InputError, "truncated")


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_file_truncated_within_a_header(tmp_path, rates):
    path = tmp_path / "short_rate.fits"
    path.write_bytes(rates[0].read_bytes()[:1000])
    assert "short_rate.fits" in refuse([rates[1], path], InputError, "FITS")


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_header_unit_that_astropy_does_not_know(tmp_path, rates):
    path = tmp_path / "odd_rate.fits"
    content = rates[0].read_bytes()
    path.write_bytes(3 * content[:400] + content)
    assert "odd_rate.fits" in refuse([rates[1], path], InputError, "FITS")


@pytest.mark.parametrize("content", [b"", b"not a FITS file\n" * 300], ids=["empty", "text"])
def test_not_fits(tmp_path, rates, content):
    path = tmp_path / "text_rate.fits"
    path.write_bytes(content)
    assert "text_rate.fits" in refuse([*rates, path], InputError, "expected a FITS rate product")


def test_absent_file_and_folder(tmp_path, rates):
    refuse([*rates, tmp_path / "absent_rate.fits"], InputError, "absent_rate.fits")
    refuse([*rates, tmp_path], InputError, "expected a FITS rate product")


@pytest.mark.parametrize("telescope", ["HST", None])
def test_not_jwst(tmp_path, rates, telescope):
    path = make_file(tmp_path / "other_rate.fits", TELESCOP=telescope)
    found = refuse([*rates, path], InputError, "TELESCOP = JWST")
    assert repr(telescope) in found
    assert "other_rate.fits" in found


@pytest.mark.parametrize("planes", [("SCI",), ("DQ",), ()])
def test_missing_planes(tmp_path, rates, planes):
    path = make_file(tmp_path / "bare_rate.fits", planes=planes)
    message = refuse([*rates, path], InputError, "expected SCI and DQ images")
    assert ("found " + (", ".join(planes) or "none")) in message


def test_planes_of_different_shapes(tmp_path, rates):
    path = make_file(tmp_path / "odd_rate.fits", dq=np.zeros((4, 5), np.uint32))
    refuse([*rates, path], InputError, r"one shape .*\(416, 72\) and \(4, 5\)")


def test_ramp_instead_of_rate(tmp_path, rates):
    path = make_file(tmp_path / "x_uncal.fits", rate=np.zeros((1, 2, *SHAPE), np.float32))
    refuse([*rates, path], InputError, "run calwebb_detector1 first")


@pytest.mark.parametrize("unit", ["DN", "MJy", "Jy"])
def test_other_units(tmp_path, rates, unit):
    path = make_file(tmp_path / "x_cal.fits", unit=unit)
    refuse([*rates, path], InputError, rf"expected BUNIT = DN/s or MJy/sr .*found '{unit}'")


def make_calibrated(path, k, factor, exp_type="MIR_IMAGE"):
    make_file(path, k, unit="MJy/sr", EXP_TYPE=exp_type)
    if factor is not None:
        fits.setval(path, "PHOTMJSR", value=factor, extname="SCI")
    return path


def test_calibrated_images_are_turned_back(tmp_path, caplog):
    rate = make_file(tmp_path / "0_rate.fits", 0)
    calibrated = [make_calibrated(tmp_path / f"{k}_cal.fits", k, 0.1 * k) for k in (1, 2)]
    with caplog.at_level(logging.INFO):
        stack = open_exposures([rate, *calibrated])
    assert stack.unit == "DN/s"
    found = read_all(stack)[:, 100, 40]
    np.testing.assert_allclose(found, [1, 2 / 0.1, 3 / 0.2], rtol=1e-6)
    assert "2 calibrated exposures are divided by their PHOTMJSR" in caplog.text
    # The same through models.
    models = load_models([rate, *calibrated])
    np.testing.assert_array_equal(read_all(open_exposures(models))[:, 100, 40], found)


@pytest.mark.parametrize(
    ("exp_type", "factor"), [("MIR_IMAGE", None), ("MIR_LRS-SLITLESS", 0.5)], ids=["none", "LRS"]
)
def test_calibrated_exposures_that_cannot_be_turned_back(tmp_path, caplog, exp_type, factor):
    """PHOTMJSR of a spectrum is only part of its conversion."""
    paths = [make_calibrated(tmp_path / f"{k}_cal.fits", k, factor, exp_type) for k in range(2)]
    with caplog.at_level(logging.WARNING):
        stack = open_exposures(paths)
    assert stack.unit == "MJy/sr"
    assert read_all(stack)[:, 100, 40].tolist() == [1, 2]
    assert [r.getMessage() for r in caplog.records].count(
        "the exposures are calibrated: amplitudes are in MJy/sr, not DN/s"
    ) == 1
    rate = make_file(tmp_path / "5_rate.fits", 5)
    message = refuse([*paths, rate], InputError, "expected exposures in one unit")
    for word in ("0_cal.fits in MJy/sr", "PHOTMJSR", "5_rate.fits in DN/s"):
        assert word in message


def test_photmjsr_must_be_positive(tmp_path, rates):
    refuse([*rates, make_calibrated(tmp_path / "x.fits", 7, 0.0)], InputError, "PHOTMJSR > 0 in x")


@pytest.mark.parametrize("n_slits", [1, 2])
def test_cut_out_slits(tmp_path, rates, n_slits):
    model = datamodels.MultiSlitModel()
    model.update(load_model(rates[0]))
    for _ in range(n_slits):
        model.slits.append(datamodels.SlitModel(data=np.ones((20, 300), np.float32)))
    path = tmp_path / "slits_cal.fits"
    model.save(path)
    message = refuse([*rates, path], InputError, "found cut-outs of slits; give the _rate")
    assert "slits_cal.fits" in message
    refuse([*rates, model], InputError, "found cut-outs of slits; give the _rate")


@pytest.mark.parametrize("detector", ["MIRIFUMEDIUM", "NRCA9", None])
def test_unknown_detector(tmp_path, rates, detector):
    path = make_file(tmp_path / "ifu_rate.fits", DETECTOR=detector)
    message = refuse(path, DetectorError, "MIRIMAGE")
    assert repr(detector) in message
    assert "ifu_rate.fits" in message


def test_mixed_detectors(tmp_path, rates):
    path = make_file(tmp_path / "long_rate.fits", DETECTOR="MIRIFULONG")
    message = refuse([*rates, path], DetectorError, "exposures of one detector")
    assert "MIRIFULONG (long_rate.fits)" in message
    assert f"MIRIMAGE ({SPECS[0].filename('rate')})" in message


@pytest.mark.parametrize("name", ["SUB_UNKNOWN", None])
def test_unknown_subarray(tmp_path, rates, name):
    rate = np.zeros(SHAPE, np.float32)
    path = tmp_path / "sub_rate.fits"
    make_file(path, rate=rate)
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["SUBARRAY"] = name
        if name is None:
            del hdus[0].header["SUBARRAY"]
    assert repr(name) in refuse(
        [*rates, path], DetectorError, "SUBARRAY of MIRIMAGE to be one of FULL,"
    )


@pytest.mark.parametrize(
    "cards",
    [
        {"rate": np.zeros((64, 72), np.float32)},
        {"SUBSIZE1": 73},
        {"SUBSTRT1": 1000},
        {"SUBSTRT2": 0},
        {"SUBSTRT2": 610},
    ],
    ids=["shape", "size", "right", "below", "above"],
)
def test_subarray_that_does_not_fit(tmp_path, rates, cards):
    path = make_file(tmp_path / "sub_rate.fits", **cards)
    refuse([*rates, path], DetectorError, r"sub_rate.fits: .*within MIRIMAGE of 1032 x 1024")


def test_subarray_whose_corner_is_in_no_table(tmp_path, rates):
    absent = dict.fromkeys(("SUBSTRT1", "SUBSTRT2", "SUBSIZE1", "SUBSIZE2"))
    path = make_file(tmp_path / "slit_rate.fits", **absent)
    fits.setval(path, "SUBARRAY", value="SUBSLIT")
    refuse([*rates, path], DetectorError, r"SUBSTRT1/2 and SUBSIZE1/2 with SUBARRAY SUBSLIT")


@pytest.mark.parametrize("case", ["same path", "copy", "rate and rateints", "file and model"])
def test_duplicates(tmp_path, rates, case):
    if case == "same path":
        twice = [rates[0], rates[0]]
    elif case == "copy":
        twice = [rates[0], shutil.copy(rates[0], tmp_path / "copy_rate.fits")]
    elif case == "file and model":
        twice = [rates[0], load_model(rates[0])]
    else:
        cube = np.ones((3, *SHAPE), np.float32)
        twice = [
            make_file(tmp_path / "a_rate.fits", 3),
            make_file(tmp_path / "a_rateints.fits", 3, rate=cube),
        ]
    refuse([*twice, rates[1]], InputError, "expected each exposure once")


NO_DATE = dict.fromkeys(("DATE_OBS", "TIME_OBS", "EXPSTART", "EXPMID", "EXPEND"))


def test_no_date_at_all(tmp_path, rates):
    path = make_file(tmp_path / "undated_rate.fits", **NO_DATE)
    refuse(
        [*rates, path], DateError, "expected EXPMID, EXPSTART and EXPEND, or DATE-OBS in undated"
    )


def test_no_date_is_needed_for_a_static_mask(tmp_path):
    path = make_file(
        tmp_path / "undated_rateints.fits", rate=np.ones((3, *SHAPE), np.float32), **NO_DATE
    )
    assert len(open_exposures(path).looks) == 3


@pytest.mark.parametrize("kept", ["EXPSTART", "EXPMID", "DATE_OBS"])
def test_one_date_is_enough(tmp_path, rates, kept):
    cards = {key: value for key, value in NO_DATE.items() if key not in (kept, "TIME_OBS")}
    path = make_file(tmp_path / "x_rate.fits", 5, **cards)
    record = open_exposures([rates[0], path]).records[1]
    assert record.filename == "x_rate.fits"
    # What is lost is at most the exposure's length, and its middle is half of that off its ends.
    for value in (record.start_mjd, record.expstart_mjd, record.mid_mjd, record.end_mjd):
        assert value == pytest.approx(60005.51, abs=0.03)
    assert record.start_mjd <= record.mid_mjd <= record.end_mjd


CONTRADICTIONS = {
    "EXPSTART": (60030.5, "expected EXPSTART within a day of DATE-OBS, found MJD 60030.500"),
    "EXPMID": (70000.0, "expected EXPMID within a day of the start"),
    "EXPEND": (50000.0, "EXPEND after it"),
}


@pytest.mark.parametrize("card", CONTRADICTIONS)
def test_dates_that_contradict_each_other_leave_the_exposure_out(tmp_path, rates, caplog, card):
    value, reason = CONTRADICTIONS[card]
    path = make_file(tmp_path / "odd_rate.fits", **{card: value})
    with caplog.at_level(logging.WARNING):
        stack = open_exposures([path, *rates])
    assert [r.filename for r in stack.records] == [path.name for path in rates]
    (excluded,) = stack.excluded
    assert excluded.filename == "odd_rate.fits"
    assert excluded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert reason in excluded.reason
    assert "odd_rate.fits is left out: expected" in caplog.text
    np.testing.assert_array_equal(read_all(stack), read_all(open_exposures(rates)))
    assert open_exposures(rates).excluded == ()


def test_nothing_left_but_contradictions(tmp_path, rates):
    odd = [make_file(tmp_path / f"odd{k}_rate.fits", k, EXPSTART=60030.5) for k in range(2)]
    message = refuse(odd, EvidenceError, "expected usable exposures, found none; correct")
    assert "odd0_rate.fits (expected EXPSTART" in message
    assert "odd1_rate.fits (expected EXPSTART" in message
    message = refuse([*odd, rates[0]], EvidenceError, "expected at least two independent looks")
    assert "odd1_rate.fits (expected EXPSTART" in message


def test_input_order_changes_nothing(tmp_path, rates, rateints):
    odd = [make_file(tmp_path / f"odd{k}_rate.fits", k, EXPSTART=60030.5) for k in range(2)]
    given = [*rates, rateints, *odd]
    one = open_exposures(given)
    for order in (given[::-1], [given[k] for k in (3, 5, 0, 4, 2, 1)]):
        two = open_exposures(order)
        assert (two.records, two.looks, two.excluded) == (one.records, one.looks, one.excluded)
        np.testing.assert_array_equal(read_all(two), read_all(one))


FALLBACKS = {
    "EXPMID": ({"EXPMID": None}, ["EXPMID is absent: the middle of EXPSTART and EXPEND"]),
    "EXPEND": (
        {"EXPMID": None, "EXPEND": None},
        ["EXPMID is absent: EXPSTART and half", "EXPEND is absent: EXPMID and half"],
    ),
    "DATE-OBS alone": (
        dict.fromkeys(("EXPMID", "EXPEND", "EXPSTART")),
        [
            "EXPMID is absent: DATE-OBS, TIME-OBS and half",
            "EXPSTART is absent: DATE-OBS and TIME-OBS",
            "EXPEND is absent: EXPMID and half",
        ],
    ),
    "TIME-OBS": ({"TIME_OBS": None}, ["TIME-OBS is absent: EXPSTART is used"]),
    "DATE-OBS": ({"DATE_OBS": None}, ["DATE-OBS is absent: the start of the exposure"]),
    "day alone": (
        {"TIME_OBS": None, "EXPSTART": None},
        ["TIME-OBS is absent: midnight", "EXPSTART is absent: DATE-OBS and TIME-OBS"],
    ),
}


@pytest.mark.parametrize("case", FALLBACKS)
def test_each_fallback_of_a_date_is_told(tmp_path, caplog, case):
    cards, told = FALLBACKS[case]
    paths = [make_file(tmp_path / f"{k}_rate.fits", k, DISPAXIS=2, **cards) for k in range(3)]
    paths.append(make_file(tmp_path / "whole_rate.fits", 9, DISPAXIS=2))
    with caplog.at_level(logging.INFO):
        stack = open_exposures(paths)
    assert stack.records[-1].fallbacks == ()
    for record in stack.records[:-1]:
        assert len(record.fallbacks) == len(told)
        for text, expected in zip(record.fallbacks, told, strict=True):
            assert text.startswith(expected)
    lines = [r.getMessage() for r in caplog.records if " is absent: " in r.getMessage()]
    assert len(lines) == len(told)
    assert all("(3 exposures, 0_rate.fits the first)" in line for line in lines)


def test_date_that_is_none(tmp_path, rates):
    path = make_file(tmp_path / "odd_rate.fits", DATE_OBS="yesterday")
    assert "'yesterday'" in refuse([*rates, path], DateError, "as YYYY-MM-DD")


def test_one_rate_alone(rates):
    message = refuse(rates[0], EvidenceError, "at least two independent looks")
    assert SPECS[0].filename("rate") in message


@pytest.mark.parametrize("nothing", [[], (), iter(())], ids=["list", "tuple", "iterator"])
def test_nothing(nothing):
    refuse(nothing, EvidenceError, "found none; give rate files or an association")


def test_something_else(rates):
    refuse([*rates, 42], InputError, "found int; give one of these")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"products": [{"name": "x", "members": []}]}', "expected members of type science"),
        (
            '{"products": [{"name": "x", "members": [{"expname": "a", "exptype": "guide"}]}]}',
            "expected members of type science",
        ),
        ('{"members": []}', "expected a JWST association"),
        ("[1, 2]", "expected a JWST association"),
        ("SIMPLE  = T", "expected a JWST association"),
        ("", "expected a JWST association"),
    ],
    ids=["no members", "no exposures", "no products", "list", "not JSON", "empty"],
)
def test_bad_association(tmp_path, content, match):
    path = tmp_path / "bad_asn.json"
    path.write_text(content)
    assert "bad_asn.json" in refuse(path, InputError, match)


def test_absent_association_and_member(tmp_path):
    refuse(tmp_path / "absent_asn.json", InputError, "absent_asn.json")
    path = tmp_path / "asn.json"
    member = {"expname": "absent_rate.fits", "exptype": "science"}
    path.write_text(json.dumps({"products": [{"name": "p", "members": [member]}]}))
    refuse(path, InputError, "absent_rate.fits")


def test_model_without_arrays(rates):
    refuse([*rates, datamodels.JwstDataModel()], InputError, "a rate model with data and dq")


def test_a_model_made_by_hand_is_enough():
    """No file, no name, nothing but what is needed."""
    models = []
    for k in range(2):
        rate = render_rate(spec_of(60000.0 + k), build_lrs_scene(seed=1))
        model = datamodels.ImageModel(data=rate.rate, dq=rate.dq)
        model.meta.telescope, model.meta.instrument.detector = "JWST", "MIRIMAGE"
        model.meta.exposure.start_time = 60000.0 + k
        model.meta.subarray.name = "SLITLESSPRISM"
        models.append(model)
    stack = open_exposures(models)
    assert [record.mid_mjd for record in stack.records] == [60000.0, 60001.0]
    np.testing.assert_array_equal(read_all(stack)[1][:, 4:], models[1].data[:, 4:])


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"DISPAXIS": 3}, "DISPAXIS 1"),
        ({"EFFEXPTM": "long"}, "a number for EFFEXPTM"),
        ({"EFFEXPTM": -5.0}, "EFFEXPTM >= 0"),
        ({"NGROUPS": "x"}, "a whole number for NGROUPS"),
        ({"SUBSTRT1": 1.5}, "a whole number for SUBSTRT1"),
        ({"EXPMID": "noon"}, "a number for EXPMID"),
    ],
)
def test_cards_that_are_no_numbers(tmp_path, rates, cards, words):
    path = make_file(tmp_path / "odd_rate.fits")
    for card, value in cards.items():
        fits.setval(path, card, value=value)
    assert "odd_rate.fits" in refuse([*rates, path], InputError, words)


def test_compressed_files_are_read(tmp_path):
    paths = [make_file(tmp_path / f"{k}_rate.fits{end}", k) for k, end in enumerate(("", ".gz"))]
    assert np.isfinite(read_all(open_exposures(paths))).any(axis=(1, 2)).all()


def test_products_may_share_a_member(tmp_path):
    for k in range(3):
        make_file(tmp_path / f"{k}_rate.fits", k)
    products = [
        {
            "name": f"p{k}",
            "members": [
                {"expname": f"{k}_rate.fits", "exptype": "science"},
                {"expname": "2_rate.fits", "exptype": "background"},
            ],
        }
        for k in range(2)
    ]
    (tmp_path / "asn.json").write_text(json.dumps({"products": products}))
    assert len(open_exposures(tmp_path / "asn.json").records) == 3


def test_rateints_without_settled_integration_hold_no_evidence(tmp_path):
    paths = [make_file(tmp_path / f"{k}_rate.fits", k) for k in range(2)]
    cube = np.ones((3, *SHAPE), np.float32)
    bad = np.ones(cube.shape, np.uint32)
    paths.append(make_file(tmp_path / "2_rateints.fits", 2, rate=cube, dq=bad))
    rows = read_all(open_exposures(paths))
    assert np.isfinite(rows[:2]).any()
    assert not np.isfinite(rows[2]).any()


@pytest.mark.parametrize("order", [1, -1])
def test_segments_of_one_exposure_are_one_look(tmp_path, order):
    rng = np.random.default_rng(2)
    cube = rng.normal(3, 0.1, (6, *SHAPE)).astype(np.float32)
    other = make_file(tmp_path / "other_rate.fits", 5)
    whole = make_file(tmp_path / "whole_rateints.fits", 1, rate=cube)
    segments = [
        make_file(tmp_path / f"s-seg00{k}_rateints.fits", 1, rate=part, EXSEGNUM=k)
        for k, part in enumerate(np.split(cube, [2]), start=1)
    ]
    joined = open_exposures([*segments[::order], other])
    assert len(joined.looks) == 2
    assert "s-seg001_rateints.fits + s-seg002_rateints.fits" in joined.records[0].filename
    np.testing.assert_array_equal(read_all(joined), read_all(open_exposures([whole, other])))
    refuse([*segments, segments[0], other], InputError, "same content")
    # A single exposure in segments gives its integrations as looks.
    assert len(open_exposures(segments).looks) == 6


def test_segments_follow_each_other_by_number(tmp_path):
    parts = [np.full((1, *SHAPE), float(k), np.float32) for k in range(1, 13)]
    paths = [
        make_file(tmp_path / f"s-seg{k:03d}_rateints.fits", 1, rate=part, EXSEGNUM=k)
        for k, part in enumerate(parts, start=1)
    ]
    stack = open_exposures(paths[::-1])
    levels = read_all(stack)[:, 100, 40]
    assert np.all(np.diff(levels) > 0)
    assert len(levels) >= 3
