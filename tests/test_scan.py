"""Headers of exposures: what is read, what is absent, what is refused."""

import gzip
import shutil

import pytest
from astropy.io import fits
from exposure_headers import COMMON, write_exposure
from stdatamodels.jwst.datamodels import JwstDataModel, ReferenceFileModel
from stdatamodels.schema import walk_schema

from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.headers import KEYWORDS
from jwst_tvbadpix.programmes.scan import CARDS, Observation, list_fits, scan_headers
from jwst_tvbadpix.simulate import simulate_programme

# Where each card lies in a data model, for those whose attribute is not in the core schema.
POINTING = {"RA_REF", "DEC_REF", "RA_V1", "DEC_V1"}


def keywords_of(model):
    """FITS keywords of a model's schema, with the type of their values."""
    found = {}

    def note(schema, path, combiner, ctx, recurse):
        if "fits_keyword" in schema:
            found[schema["fits_keyword"]] = schema.get("type")

    walk_schema(model.schema, note)
    return found


def test_every_card_is_one_of_the_jwst_schema():
    from stdatamodels.jwst.datamodels import ImageModel

    with JwstDataModel() as core, ImageModel() as image, ReferenceFileModel() as reference:
        known = {**keywords_of(image), **keywords_of(core), **keywords_of(reference)}
    assert set(CARDS.values()) <= set(known)
    assert set(KEYWORDS) <= set(known)
    assert len(set(CARDS.values())) == len(CARDS)
    types = {"integer": "int", "number": "float", "boolean": "bool", "string": "str"}
    for field in Observation.__dataclass_fields__.values():
        if field.name in CARDS:
            assert str(field.type) == f"{types[known[CARDS[field.name]]]} | None", field.name


def test_masks_read_the_same_cards_by_the_same_names():
    """KEYWORDS serves the pixels, CARDS the bookkeeping; what both read is one card."""
    shared = {"TELESCOP", "DETECTOR", "FILTER", "EXP_TYPE", "EXPSTART", "DATE-OBS", "NGROUPS"}
    assert shared <= set(KEYWORDS) & set(CARDS.values())


def test_values_come_typed_and_absent_ones_are_none(tmp_path):
    path = write_exposure(
        tmp_path / "a_rate.fits",
        science={"RA_REF": 10.5, "DEC_REF": -3.25},
        PROGRAM="1539",
        NGROUPS="10",
        BKGDTARG=True,
        TSOVISIT="F",
        BAND="N/A",
        TARGPROP="  BD+60-1753 ",
        TARG_RA="UNKNOWN",
        PUPIL="",
    )
    (found,) = scan_headers([path])
    assert (found.program, found.ngroups, found.target) == ("01539", 10, "BD+60-1753")
    assert (found.background_target, found.tso_visit) == (True, False)
    assert (found.ra_ref, found.dec_ref) == (10.5, -3.25)
    assert found.band is found.target_ra is found.pupil is found.module is found.date is None
    assert found.start_mjd == 60000.0


def test_a_primary_header_is_enough(tmp_path):
    header = fits.Header(list(COMMON.items()))
    fits.PrimaryHDU(header=header).writeto(tmp_path / "a_x1d.fits")
    (found,) = scan_headers([tmp_path / "a_x1d.fits"])
    assert (found.detector, found.ra_ref, found.stage) == ("MIRIMAGE", None, "x1d")


@pytest.mark.parametrize(
    ("cards", "start"),
    [
        ({"EXPSTART": 59000.5}, 59000.5),
        ({"EXPSTART": None, "DATE_OBS": "2023-02-25", "TIME_OBS": "12:00:00.0"}, 60000.5),
        ({"EXPSTART": None, "DATE_OBS": "2023-02-25"}, 60000.0),
        ({"EXPSTART": None, "EXPMID": 60001.0}, 60001.0),
        ({"EXPSTART": None}, None),
    ],
)
def test_start_falls_back(tmp_path, cards, start):
    (found,) = scan_headers([write_exposure(tmp_path / "a_rate.fits", **cards)])
    assert found.start_mjd == start


@pytest.mark.parametrize("cards", [{"EXPSTART": 1e9}, {"EXPSTART": None, "EXPMID": 0.0}])
def test_a_start_long_before_or_after_jwst_is_refused(tmp_path, cards):
    (found,) = scan_headers([write_exposure(tmp_path / "a_rate.fits", **cards)])
    with pytest.raises(InputError, match=r"EXPSTART .* in .*a_rate\.fits as MJD"):
        _ = found.start_mjd


def test_a_date_that_is_none_is_refused(tmp_path):
    path = write_exposure(tmp_path / "a_rate.fits", EXPSTART=None, DATE_OBS="25/02/2023")
    (found,) = scan_headers([path])
    with pytest.raises(InputError, match=r"a_rate\.fits.*25/02/2023"):
        _ = found.start_mjd


@pytest.mark.parametrize(
    ("name", "stage", "exposure"),
    [
        ("jw01539001001_02101_00001_mirimage_rate.fits", "rate", True),
        ("jw01539001001_02101_00001_mirimage_rateints.fits", "rateints", True),
        ("jw01539001001_02101_00001_mirimage_uncal.fits.gz", "uncal", True),
        ("JW01539001001_02101_00001_MIRIMAGE_CAL.FITS", "cal", True),
        ("jw01539001001_02101_00001_mirimage_x1d.fits", "x1d", True),
        ("jw01539001001_02101_00001_mirimage_o001_crf.fits", "crf", True),
        ("mine_rate.fits", "rate", False),
        ("mine_s2d.fits", "s2d", False),
        ("jw01539-o001_t001_miri_f770w_i2d.fits", "i2d", False),
    ],
)
def test_stage_and_exposure_follow_from_the_name(tmp_path, name, stage, exposure):
    plain = write_exposure(tmp_path / "plain.fits")
    target = tmp_path / name
    if name.endswith(".gz"):
        with plain.open("rb") as source, gzip.open(target, "wb") as packed:
            shutil.copyfileobj(source, packed)
    else:
        shutil.copy(plain, target)
    (found,) = scan_headers([target])
    assert found.stage == stage
    assert (found.exposure_id == "jw01539001001_02101_00001_mirimage") is exposure


def test_segments_are_exposures_of_their_own(tmp_path):
    names = [f"jw01539001001_02101_00001-seg00{k}_mirimage_rate.fits" for k in (1, 2)]
    names += ["jw01539001001_02101_00001-seg001_mirimage_rateints.fits"]
    one, two, other = scan_headers([write_exposure(tmp_path / name) for name in names])
    assert one.exposure_id != two.exposure_id
    assert one.exposure_id == other.exposure_id


@pytest.mark.parametrize(
    ("unit", "stage"), [("DN/s", "rate"), ("MJy/sr", "cal"), ("counts", ""), (None, "")]
)
def test_a_nameless_stage_follows_from_unit_and_dimensions(tmp_path, unit, stage):
    science = {} if unit is None else {"BUNIT": unit}
    for name in ("whatever.fits", "my_exposure.fits"):
        (found,) = scan_headers([write_exposure(tmp_path / name, science=science)])
        assert found.stage == stage


def test_simulated_exposures_are_read(tmp_path):
    made = simulate_programme(tmp_path, mode="slitless", n_exposures=2)
    found = scan_headers(made.rates)
    assert {(o.stage, o.detector, o.subarray) for o in found} == {
        ("rate", "MIRIMAGE", "SLITLESSPRISM")
    }
    assert len({o.exposure_id for o in found}) == 2
    assert all(o.ra_ref == pytest.approx(o.target_ra) for o in found)


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"TELESCOP": "HST"}, "TELESCOP = JWST"),
        ({"TELESCOP": None}, "TELESCOP = JWST"),
        ({"NINTS": "many"}, "NINTS as whole number"),
        ({"NINTS": 1.5}, "NINTS as whole number"),
        ({"EXPSTART": "soon"}, "EXPSTART as number"),
        ({"BKGDTARG": "perhaps"}, "BKGDTARG as T or F"),
    ],
)
def test_wrong_headers_are_refused_by_name(tmp_path, cards, words):
    path = write_exposure(tmp_path / "bad_rate.fits", **cards)
    with pytest.raises(InputError, match=rf"expected {words} in .*bad_rate\.fits"):
        scan_headers([path])


@pytest.mark.parametrize("content", [b"", b"hello", b"SIMPLE  =                    T" + b" " * 40])
def test_what_is_no_fits_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "bad_rate.fits"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad_rate\.fits"):
        scan_headers([path])


def test_a_truncated_file_still_has_its_header(tmp_path):
    path = write_exposure(tmp_path / "short_rate.fits")
    path.write_bytes(path.read_bytes()[:-2880])
    assert scan_headers([path])[0].detector == "MIRIMAGE"


def test_folders_are_searched_and_files_taken_once(tmp_path):
    one = write_exposure(tmp_path / "deep" / "er" / "a_rate.fits")
    two = write_exposure(tmp_path / "b_rate.fits.gz")
    (tmp_path / "notes.txt").write_text("no exposure")
    (tmp_path / "._b_rate.fits").write_text("hidden")
    (tmp_path / "deep" / "link_rate.fits").symlink_to(one)
    found = list_fits([tmp_path, two, one, str(tmp_path / "deep")])
    assert sorted(path.resolve() for path in found) == sorted([one.resolve(), two.resolve()])


@pytest.mark.parametrize("name", ["absent.fits", "empty"])
def test_paths_without_exposures_are_refused_by_name(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        list_fits([tmp_path / name])
