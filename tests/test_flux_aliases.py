"""Names of standard stars, and what filters alone say of a mode."""

import pytest

from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.fluxcal.aliases import find_calspec, find_star, list_standards
from jwst_tvbadpix.fluxcal.filters import infer_mode, name_bandpass, name_kind, read_pivot
from jwst_tvbadpix.fluxcal.modes import Mode
from jwst_tvbadpix.programmes.targets import STANDARDS

CLASSES = {"hot": "hot", "A dwarf": "adwarf", "solar analog": "solar"}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("BD+60-1753", "BD+60 1753"),
        ("BD+60-1753-wbkg", "BD+60 1753"),
        ("HD163466-BKG", "HD 163466"),
        ("HD-2811-lrs wbkg", "HD 2811"),
        ("HD-55677-bkg", "HD 55677"),
        ("J1743045-OFFSET-ROUND", "2MASS J17430448+6655015"),
        ("J1757132", "2MASS J17571324+6703409"),
        ("2MASS-J18022716+6043356", "2MASS J18022716+6043356"),
        ("muCol-WBKG", "mu Col"),
        ("10LAC", "10 Lac"),
        ("WD1057+719", "WD 1057+719"),
        ("HR 6538", "HD 159222"),
        ("HR5467", "HD 128998"),
        ("HD 1452331", "HD 142331"),
        ("HD 146233", "18 Sco"),
        ("P330E", "GSPC P330-E"),
    ],
)
def test_spellings_of_a_star_are_one(given, name):
    assert find_star(given).name == name


@pytest.mark.parametrize(
    "given", ["HD28119", "HD 2811 B", "GD1531", "GD15", "VEGA", "10 Lacertae X"]
)
def test_other_stars_keep_their_name_and_have_no_class(given):
    star = find_star(given)
    assert (star.name, star.star_class) == (given, "")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("bd60d1753_mod_006.fits", "BD+60 1753"),
        ("https://x.edu/current_calspec/p330e_mod_008.fits", "GSPC P330-E"),
        ("1757132_mod_007.fits", "2MASS J17571324+6703409"),
        ("g191b2b_stiswfcnic_003.fits", "G 191-B2B"),
        ("wd1057_719_stisnic_009.fits", "WD 1057+719"),
        ("sf1615_001a_stisnic_007.fits", "SF1615+001A"),
        ("nosuchstar_mod_001.fits", "nosuchstar"),
    ],
)
def test_a_calspec_file_tells_its_star(file, name):
    assert find_calspec(file).name == name


@pytest.mark.parametrize(
    ("star", "kind"), [(star, kind) for kind, stars in STANDARDS.items() for star in stars]
)
def test_every_star_of_the_programmes_has_its_class(star, kind):
    assert find_star(star).star_class == CLASSES[kind]


def test_names_of_stars_are_unique_and_find_themselves():
    names = [star.name for star in list_standards()]
    assert len(names) == len(set(names)) > 40
    assert [find_star(name).name for name in names] == names


@pytest.mark.parametrize(
    ("filter_", "known", "mode"),
    [
        ("F770W", {}, Mode("MIRI", "MIRIMAGE", "imaging", "F770W")),
        ("f1550c", {}, Mode("MIRI", "MIRIMAGE", "coronagraphy", "F1550C")),
        ("F380M", {}, Mode("NIRISS", "NIS", "imaging", "F380M", "CLEARP")),
        (
            "F150W",
            {"instrument": "NIRISS"},
            Mode("NIRISS", "NIS", "imaging", "CLEAR", "F150W"),
        ),
        (
            "F405N",
            {"detector": "NRCALONG"},
            Mode("NIRCAM", "NRCALONG", "imaging", "F444W", "F405N"),
        ),
        (
            "F200W",
            {"instrument": "NIRCAM", "detector": "NRCA1"},
            Mode("NIRCAM", "NRCA1", "imaging", "F200W", "CLEAR"),
        ),
        # Without what tells them apart.
        ("F200W", {}, Mode("N/A", "N/A", "unknown", "F200W")),
        ("F405N", {}, Mode("N/A", "N/A", "unknown", "F405N")),
        (
            "N/A",
            {"instrument": "FGS", "detector": "GUIDER1", "kind": "imaging"},
            Mode("FGS", "GUIDER1", "imaging"),
        ),
    ],
)
def test_a_mode_is_inferred_where_the_filter_tells(filter_, known, mode):
    assert infer_mode(filter_, **known) == mode


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"instrument": "NIRCAM"}, "expected F770W with MIRI"),
        ({"instrument": "MIRRI"}, "expected an instrument out of"),
        ({"kind": "banana"}, "expected a mode out of"),
    ],
)
def test_a_mode_that_is_none_is_refused(known, why):
    with pytest.raises(InputError, match=why):
        infer_mode("F770W", **known)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"detector": "NRCA1"}, "expected a detector of MIRI, found NRCA1"),
        ({"kind": "lrs"}, "expected the mode imaging of F770W, found lrs"),
    ],
)
def test_what_a_filter_cannot_go_with_is_refused(known, why):
    with pytest.raises(InputError, match=why):
        infer_mode("F770W", **known)


def test_the_external_flat_template_takes_the_kind_of_its_filter():
    assert name_kind("MIR_FLATIMAGE-EXT", "F1550C") == "coronagraphy"
    assert name_kind("MIR_FLATIMAGE-EXT", "F770W") == "imaging"
    assert name_kind("MIR_IMAGE", "F770W") == "imaging"
    assert name_kind("NRS_IFU", "F290LP") == "ifu"
    assert name_kind("MIR_DARKIMG", "OPAQUE") == "unknown"


def test_bandpasses_and_pivots_go_by_the_filter_that_shapes_the_light():
    assert name_bandpass("F444W", "F405N", "NRCALONG") == "F405N"
    assert name_bandpass("CLEAR", "F150W", "NIS") == "F150W"
    assert name_bandpass("F770W", "N/A", "MIRIMAGE") == "F770W"
    assert name_bandpass("N/A", "N/A", "GUIDER1") == "GUIDER1"
    assert read_pivot("F2550WR") == pytest.approx(25.5)
    assert read_pivot("F070W") == pytest.approx(0.7)
    assert read_pivot("XYZ") is None
