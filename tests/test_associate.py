"""Associations: what exposures are, what goes together, and files that the pipeline loads."""

import json
import sys
import types
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from astropy.table import MaskedColumn, Table
from exposure_headers import cards_of, name_file, write_exposure
from hypothesis import given
from hypothesis import strategies as st
from jwst.associations import load_asn
from jwst.associations.load_as_asn import LoadAsLevel2Asn
from jwst.datamodels import ModelLibrary

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import DateError, InputError
from jwst_tvbadpix.programmes.associate import EPOCH_GAP_DAYS, plan_associations
from jwst_tvbadpix.programmes.associations import make_name, write_associations
from jwst_tvbadpix.programmes.classify import classify
from jwst_tvbadpix.programmes.mast import MastQuery, build_queries, download_files, run_query
from jwst_tvbadpix.programmes.modes import MODES, get_mode
from jwst_tvbadpix.programmes.recipes import find_recipe, list_recipes, read_recipe
from jwst_tvbadpix.programmes.scan import Observation, scan_headers
from jwst_tvbadpix.simulate import simulate_programme
from jwst_tvbadpix.steps import TimeVariableBadPixel

MASKS, FLATS, FLUXES = "time_variable_bad_pixel", "external_flat_builder", "abs_flux_ratio"
STAR = {"TARGPROP": "BD+60-1753", "EXP_TYPE": "MIR_IMAGE", "FILTER": "F770W"}
FIELD = {"TARGPROP": "LMC-MIRI-A-IMG", "EXP_TYPE": "MIR_IMAGE", "FILTER": "F770W"}


def make(**fields):
    """An observation in memory."""
    common = {
        "path": Path("a_rate.fits"),
        "stage": "rate",
        "exposure_id": "a",
        "telescope": "JWST",
        "instrument": "MIRI",
        "detector": "MIRIMAGE",
        "exp_type": "MIR_LRS-FIXEDSLIT",
        "target": "SOMETHING",
    }
    return Observation(**{**common, **fields})


def plan_files(folder, *exposures, **kwargs):
    """Write exposures, each (stage, cards), and plan their associations."""
    paths = [
        write_exposure(folder / name_file(k, stage=stage), **cards)
        for k, (stage, cards) in enumerate(exposures, start=1)
    ]
    return plan_associations(scan_headers(paths), **kwargs)


# --- what an exposure is


@pytest.mark.parametrize(
    ("fields", "role", "word"),
    [
        ({}, "science", "SOMETHING"),
        ({"target": None}, "science", "not named"),
        ({"exp_type": "MIR_TACQ"}, "acquisition", "MIR_TACQ"),
        ({"exp_type": "NRS_WATA"}, "acquisition", "NRS_WATA"),
        ({"exp_type": "NRS_MSATA"}, "acquisition", "NRS_MSATA"),
        ({"exp_type": "MIR_DARKIMG"}, "dark", "MIR_DARKIMG"),
        ({"exp_type": "MIR_DARKMRS"}, "dark", "MIR_DARKMRS"),
        ({"exp_type": "FGS_DARK"}, "dark", "FGS_DARK"),
        ({"exp_type": "MIR_FLATMRS"}, "other", "lamp"),
        ({"exp_type": "NRC_FOCUS"}, "other", "engineering"),
        ({"exp_type": "FGS_FINEGUIDE"}, "other", "no observing mode"),
        ({"exp_type": None}, "science", "SOMETHING"),
        ({"exp_type": None, "target": "BLANK-SKY"}, "blank", "BLANK-SKY"),
        ({"reftype": "MASK"}, "other", "reference"),
        ({"visit_status": "FAILED"}, "failed", "VISITSTA = FAILED"),
        ({"visit_status": "SUCCESSFUL"}, "science", "SOMETHING"),
        ({"data_problem": True}, "failed", "DATAPROB"),
        ({"background_target": True}, "background", "BKGDTARG"),
        ({"target": "HD2811-BKG"}, "background", "HD2811-BKG"),
        ({"target": "HD2811-WBKG"}, "science", "HD2811-WBKG"),
        ({"target": "BLANK SKY 2"}, "blank", "BLANK"),
        ({"target": None, "target_name": "Blank-Sky"}, "blank", "Blank-Sky"),
        ({"visit_status": "FAILED", "background_target": True}, "failed", "VISITSTA"),
        ({"visit_status": "FAILED", "exp_type": "MIR_DARKIMG"}, "dark", "MIR_DARKIMG"),
    ],
)
def test_roles_and_their_reasons(fields, role, word):
    found = classify(make(**fields))
    assert found.name == role
    assert word in found.reason


@pytest.mark.parametrize(
    ("shift", "fields", "role"),
    [
        (1.0, {}, "science"),
        (3.0, {}, "failed"),
        (3.0, {"x_offset": 1.0, "y_offset": 0.0}, "science"),
        (3.0, {"exp_type": "MIR_IMAGE"}, "science"),
        (90.0, {"exp_type": "MIR_IMAGE"}, "failed"),
        (90.0, {"exp_type": "MIR_IMAGE", "target": "LMC-MIRI-A-IMG"}, "science"),
        (90.0, {"prime_parallel": "PARALLEL_COORDINATED"}, "science"),
        (90.0, {"aperture": "NRCB1_FULL", "pps_aperture": "NRCALL_FULL"}, "science"),
        (90.0, {"aperture": "MIRIM_SLIT", "pps_aperture": "MIRIM_SLIT"}, "failed"),
        (90.0, {"aperture": "MIRIFU_CHANNEL1A", "pps_aperture": "MIRIFU_CNTR"}, "failed"),
        (90.0, {"target_type": "MOVING"}, "science"),
        (90.0, {"ra_ref": None}, "science"),
        (90.0, {"target_ra": 0.0, "target_dec": 0.0}, "science"),
        (1296000.0 - 1.0, {}, "science"),
    ],
)
def test_a_target_off_the_aperture_was_missed(shift, fields, role):
    """`shift` in arcsec of right ascension at the equator; 360 deg are none."""
    pointing = {"target_ra": 0.001, "target_dec": 0.0, "dec_ref": 0.0}
    pointing["ra_ref"] = pointing["target_ra"] + shift / 3600
    assert classify(make(**{**pointing, **fields})).name == role


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"exp_type": None}, "EXP_TYPE is absent"),
        ({"pcs_mode": "COARSE"}, "PCS_MODE"),
        ({"pointing_quality": "PLANNED"}, "ENGQLPTG"),
        ({"engineering_quality": "SUSPECT"}, "ENG_QUAL"),
        ({"guide_star_status": "FAILED"}, "GSACSTAT"),
        ({"label": "slitless - bkg", "target": "BD+60-1753-wbkg"}, "label"),
        ({"target": "HD2811-BKG", "background_target": False}, "BKGDTARG = F"),
        ({"data_problem": True}, "damaged"),
    ],
)
def test_doubts_do_not_decide(fields, word):
    assert any(word in doubt for doubt in classify(make(**fields)).doubts)
    assert classify(make()).doubts == ()


# --- what goes together


def summarise(plan):
    """Step, roles and number of members of each association."""
    return sorted(
        (a.step, len(a.members), *sorted({m.role.name for m in a.members}))
        for a in plan.associations
    )


def test_masks_take_a_detector_whatever_mode_programme_and_epoch(tmp_path):
    plan = plan_files(
        tmp_path,
        ("rate", {}),
        ("rate", {"EXP_TYPE": "MIR_LRS-SLITLESS", "SUBARRAY": "SLITLESSPRISM", "EXPSTART": 61000}),
        ("rate", {"EXP_TYPE": "MIR_IMAGE", "FILTER": "F770W", "PROGRAM": "01234"}),
        ("rate", {"TARGPROP": "X", "VISITSTA": "FAILED"}),
        ("rate", {"TARGPROP": "X", "BKGDTARG": True}),
        ("rate", {"EXP_TYPE": "MIR_DARKIMG", "TARGPROP": "DARK"}),
        ("rate", {"DETECTOR": "MIRIFULONG", "EXP_TYPE": "MIR_MRS"}),
    )
    assert summarise(plan) == [
        (MASKS, 1, "blank"),
        (MASKS, 6, "background", "blank", "dark", "failed"),
    ]
    one, many = sorted(plan.associations, key=lambda a: len(a.members))
    assert one.doubts == ("one exposure: a static mask at best",)
    assert one.name == "09999_time_variable_bad_pixel_MIRIFULONG_mrs_P750L_FULL"
    assert many.name == "multi_time_variable_bad_pixel_MIRIMAGE"
    types = [member.exptype for member in many.members]
    assert types == ["science"] * 4 + ["background", "dark"]
    assert plan.leftovers == ()


def test_flats_are_split_by_filter_subarray_field_and_epoch(tmp_path):
    gap = EPOCH_GAP_DAYS[FLATS]
    exposures = [FIELD, {**FIELD, "EXPSTART": 60000 + gap}]
    exposures += [{**FIELD, "EXPSTART": 60000 + 2 * gap + 1}]
    exposures += [{**FIELD, "FILTER": "F560W"}, {**FIELD, "SUBARRAY": "BRIGHTSKY"}]
    exposures += [{**FIELD, "TARGPROP": "LMC-MIRI-B-IMG"}, {**FIELD, "PROGRAM": "01040"}]
    exposures += [{"TARGPROP": "X", "EXP_TYPE": "MIR_FLATIMAGE-EXT"}]
    plan = plan_files(tmp_path, *(("rate", cards) for cards in exposures))
    assert summarise(plan) == [(FLATS, 1, "science")] * 6 + [(FLATS, 2, "science")]
    names = {association.name for association in plan.associations}
    begin = "09999_external_flat_builder_MIRIMAGE_miri-imaging_F770W_FULL_LMC-MIRI-A-IMG_"
    assert {begin + "20230225", begin + "20230427"} <= names


def test_backgrounds_join_their_star_and_serve_the_masks(tmp_path):
    mrs = {"EXP_TYPE": "MIR_MRS", "DETECTOR": "MIRIFULONG", "FILTER": None, "BAND": "SHORT"}
    star, sky = {**mrs, "TARGPROP": "HD163466"}, {**mrs, "TARGPROP": "HD163466-BKG"}
    plan = plan_files(
        tmp_path,
        ("x1d", star),
        ("x1d", {**star, "EXPSTART": 60100}),
        ("x1d", {**star, "BAND": "LONG"}),
        ("x1d", {**sky, "EXPSTART": 60000.2}),
        ("rate", {**sky, "EXPSTART": 60100.2}),
        ("x1d", {**mrs, "TARGPROP": "HD2811-BKG"}),
    )
    assert summarise(plan) == [
        (FLUXES, 1, "science"),
        (FLUXES, 1, "science"),
        (FLUXES, 2, "background", "science"),
        (MASKS, 1, "background"),
    ]
    (both,) = [a for a in plan.associations if len(a.members) == 2]
    assert both.target == "HD163466"
    assert [m.exptype for m in both.members] == ["science", "background"]
    # A mask of nothing but backgrounds still needs a science member to be an association.
    (mask,) = [a for a in plan.associations if a.step == MASKS]
    assert [m.exptype for m in mask.members] == ["science"]
    (left,) = plan.leftovers
    assert left.reason.startswith("background without its star: no exposure of HD2811")


def test_a_background_without_its_star_is_still_evidence_and_said_to_be_alone(tmp_path):
    plan = plan_files(tmp_path, ("rate", {"EXP_TYPE": "MIR_MRS", "TARGPROP": "HD2811-BKG"}))
    assert summarise(plan) == [(MASKS, 1, "background")]
    assert any("without its star" in doubt for doubt in plan.associations[0].doubts)


@pytest.mark.parametrize(
    ("cards", "stages", "chosen"),
    [
        ({}, ("uncal", "rate", "rateints", "cal"), {MASKS: "rate"}),
        ({"NINTS": 5}, ("uncal", "rate", "rateints", "cal"), {MASKS: "rateints"}),
        ({"NINTS": 5}, ("uncal", "rate"), {MASKS: "rate"}),
        ({}, ("cal", "x1d"), {MASKS: "cal"}),
        ({}, ("uncal",), {MASKS: "uncal"}),
        ({}, ("x1d", "s2d"), {}),
        ({"EXP_TYPE": "NRS_FIXEDSLIT", "DETECTOR": "NRS1"}, ("cal",), {}),
        (FIELD, ("uncal", "rate", "cal", "i2d"), {FLATS: "rate"}),
        (FIELD, ("cal", "i2d"), {FLATS: "cal"}),
        (FIELD, ("i2d",), {}),
        (STAR, ("uncal", "rate", "cal", "i2d"), {FLUXES: "cal"}),
        (STAR, ("rate", "i2d"), {FLUXES: "rate"}),
        ({"TARGPROP": "BD+60-1753"}, ("rate", "cal", "x1d", "s2d"), {FLUXES: "x1d"}),
        ({"TARGPROP": "BD+60-1753"}, ("rate", "cal"), {FLUXES: "cal"}),
        (
            {"TARGPROP": "BD+60-1753-bkg", "NINTS": 9, "EXP_TYPE": "MIR_LRS-SLITLESS"},
            ("rateints", "x1dints"),
            {MASKS: "rateints"},
        ),
    ],
)
def test_each_step_gets_the_product_that_suits_it(tmp_path, cards, stages, chosen):
    paths = [write_exposure(tmp_path / name_file(1, stage=stage), **cards) for stage in stages]
    plan = plan_associations(scan_headers(paths))
    assert {a.step: a.members[0].observation.stage for a in plan.associations} == chosen
    used = {m.observation.path for a in plan.associations for m in a.members}
    assert used | {left.observation.path for left in plan.leftovers} == set(paths)
    assert all(left.lost is not bool(chosen) for left in plan.leftovers)


def test_products_that_need_work_stand_apart_and_say_so(tmp_path):
    plan = plan_files(tmp_path, ("rate", {}), ("uncal", {}), ("cal", {}))
    assert summarise(plan) == [(MASKS, 1, "blank")] * 3
    assert Counter(a.ready for a in plan.associations) == {True: 2, False: 1}
    assert len({a.name for a in plan.associations}) == 3


def test_combined_products_are_used_only_without_their_exposures(tmp_path):
    combined = write_exposure(tmp_path / "jw09999-o001_t001_miri_f770w_i2d.fits", **STAR)
    single = write_exposure(tmp_path / name_file(1, stage="cal"), **STAR)
    alone = plan_associations(scan_headers([combined]))
    assert [a.stage for a in alone.associations] == ["i2d"]
    both = plan_associations(scan_headers([combined, single]))
    assert [a.stage for a in both.associations] == ["cal"]
    assert [left.observation.path for left in both.leftovers] == [combined]


def test_a_copy_is_used_once_and_named(tmp_path):
    paths = [write_exposure(tmp_path / folder / name_file(1)) for folder in "ab"]
    plan = plan_associations(scan_headers(paths))
    assert [len(a.members) for a in plan.associations] == [1]
    assert str(paths[0]) in plan.leftovers[0].reason


@pytest.mark.parametrize(
    ("cards", "words"),
    [
        ({"TARGPROP": "NGC 1234"}, "no blank sky, no standard star and no dense field"),
        ({"TARGPROP": None}, "without a name"),
        ({"EXP_TYPE": "MIR_TACQ"}, "EXP_TYPE = MIR_TACQ"),
        ({"EXP_TYPE": None, "TARGPROP": "P330E"}, "in a mode that is not known"),
        ({"DETECTOR": None}, "DETECTOR is absent"),
        ({"DETECTOR": "MULTIPLE"}, "DETECTOR is MULTIPLE"),
        ({"TARGPROP": "P330E", "EXP_TYPE": "NIS_AMI"}, "no step for a standard star in niriss-ami"),
        ({"TARGPROP": "LMC", "EXP_TYPE": "MIR_MRS"}, "no step for a dense field in mrs"),
        ({"REFTYPE": "MASK"}, "reference file"),
    ],
)
def test_what_fits_no_step_is_left_over_with_the_reason(tmp_path, cards, words):
    plan = plan_files(tmp_path, ("rate", cards))
    assert plan.associations == ()
    assert words in plan.leftovers[0].reason


def test_a_standard_may_be_named_by_its_category(tmp_path):
    cards = {"TARGPROP": "HD 999999", "TARGCAT": "Calibration"}
    cards["TARGDESC"] = "[Spectrophotometric standard]"
    assert summarise(plan_files(tmp_path, ("x1d", cards))) == [(FLUXES, 1, "science")]


@pytest.mark.parametrize("program", ["1539", "4487", "4497", "7487"])
def test_a_whole_programme_goes_by_its_recipe(tmp_path, program):
    recipe = find_recipe(program)
    rows = [row for row in recipe.rows for _ in range(row.count)]
    paths = []
    for k, row in enumerate(rows):
        stage = "rate" if row.step == FLATS else "x1d"
        stage = "cal" if get_mode(row.mode)[0].kind == "image" and stage == "x1d" else stage
        stages = (stage, "rate") if "background" in row.roles else (stage,)
        paths += [
            write_exposure(
                tmp_path / f"jw{recipe.program}{k:03d}001_02101_00001_d_{own}.fits",
                **cards_of(row, recipe.program, k),
            )
            for own in stages
        ]
    plan = plan_associations(scan_headers(paths), recipes=[recipe], program=recipe.program)
    assert plan.leftovers == plan.without_row == ()
    assert all(found == row.count for _, row, found in plan.rows)
    counted = Counter(m.exptype for a in plan.associations for m in a.members if a.step == FLUXES)
    assert counted["science"] == sum(row.roles == ("science",) for row in rows) * (
        program != "4487"
    )
    assert counted["background"] == sum(row.roles == ("background",) for row in rows)
    assert all(a.program == recipe.program and a.ready for a in plan.associations)
    detectors = {cards_of(row, "", 0)["DETECTOR"] for row in rows if "background" in row.roles}
    assert sum(a.step == MASKS for a in plan.associations) == len(detectors)


def test_a_programme_takes_its_own_exposures_and_lists_what_is_missing(tmp_path):
    recipe = find_recipe("4487")
    own = {**FIELD, "PROGRAM": "04487", "OBSERVTN": "001"}
    plan = plan_files(
        tmp_path,
        ("rate", own),
        ("rate", {**own, "PROGRAM": "01040"}),
        ("rate", {**own, "PROGRAM": None}),
        ("rate", {**own, "TARGPROP": "BLANK-SKY"}),
        recipes=[recipe],
        program="04487",
    )
    found = {row.target: found for _, row, found in plan.rows}
    assert found == {"LMC-MIRI-A-IMG": 1, "LMC-MIRI-B-IMG": 0}
    assert [left.reason for left in plan.leftovers] == ["programme 01040 was not asked for"]
    assert [o.target for o in plan.without_row] == ["BLANK-SKY"]
    assert any("PROGRAM is absent" in doubt for a in plan.associations for doubt in a.doubts)


def test_a_recipe_may_send_a_field_to_the_masks(tmp_path):
    """Of one's own, for a programme whose fields are known to be empty."""
    (tmp_path / "mine.toml").write_text(
        """
program = 9999
title = "Empty fields"
[[row]]
label = "Deep field"
template = "MIRI Low Resolution Spectroscopy"
target = "NOTHING-THERE"
mode = "lrs-slit"
step = "time_variable_bad_pixel"
role = "science"
[[row]]
label = "Guiding test"
template = "MIRI Low Resolution Spectroscopy"
target = "TEST"
mode = "lrs-slit"
step = "none"
reason = "the shutter was closed"
role = "science"
""",
        encoding="utf-8",
    )
    recipe = read_recipe(tmp_path / "mine.toml")
    plan = plan_files(
        tmp_path,
        ("rate", {"TARGPROP": "Nothing there"}),
        ("rate", {"TARGPROP": "TEST"}),
        recipes=[recipe],
        program=recipe.program,
    )
    assert summarise(plan) == [(MASKS, 1, "science")]
    assert [left.reason for left in plan.leftovers] == ["the shutter was closed"]


def test_the_archival_recipe_takes_blank_fields_of_any_programme(tmp_path):
    plan = plan_files(
        tmp_path,
        ("rate", {}),
        ("rate", {"PROGRAM": "01234", "VISITSTA": "FAILED", "TARGPROP": "X"}),
        ("rate", {"EXP_TYPE": "MIR_DARKIMG"}),
        ("rate", {"TARGPROP": "HD2811"}),
        ("rate", {"EXP_TYPE": "NRC_IMAGE", "DETECTOR": "NRCB1"}),
        recipes=[find_recipe("7831")],
        program="07831",
    )
    assert summarise(plan) == [(MASKS, 3, "blank", "dark", "failed")]
    assert plan.associations[0].name.startswith("07831_time_variable_bad_pixel_MIRIMAGE")
    assert all("no evidence for 07831" in left.reason for left in plan.leftovers)


@pytest.mark.parametrize(
    ("cards", "role"),
    [
        ({"TARGPROP": "BD+60-1753-wbkg"}, "science"),
        ({"TARGPROP": "BD+60-1753-wbkg", "BKGDTARG": True}, "background"),
        ({"TARGPROP": "BD+60-1753-wbkg", "VISITSTA": "FAILED"}, "failed"),
        ({"TARGPROP": "BD+60-1753-bkg"}, "background"),
        ({"TARGPROP": "BD+60-1753-bkg", "BKGDTARG": False}, "background"),
    ],
)
def test_the_header_overrules_the_recipe(tmp_path, cards, role):
    slitless = {"EXP_TYPE": "MIR_LRS-SLITLESS", "SUBARRAY": "SLITLESSPRISM", "PROGRAM": "07487"}
    plan = plan_files(tmp_path, ("rateints", {**slitless, **cards}), recipes=[find_recipe("7487")])
    roles = {m.role.name for a in plan.associations for m in a.members}
    assert roles == {role}
    assert all("the target decides" in " ".join(a.doubts) for a in plan.associations)


_TEXTS = st.sampled_from
_OBSERVATIONS = st.lists(
    st.builds(
        dict,
        stage=_TEXTS(["uncal", "rate", "rateints", "cal", "x1d", "i2d", "s3d", ""]),
        number=st.integers(1, 6),
        detector=_TEXTS([None, "MIRIMAGE", "MIRIFULONG", "NRS1"]),
        exp_type=_TEXTS([None, "FGS_TRACK", "MIR_TACQ", *(m.exp_types[0] for m in MODES)]),
        target=_TEXTS([None, "BLANK", "HD2811", "HD2811-BKG", "hd 2811 bkg", "LMC/1", "LMC:1"]),
        program=_TEXTS([None, "01539", "07487"]),
        visit_status=_TEXTS([None, "FAILED"]),
        subarray=_TEXTS([None, "FULL", "full", "SUB64"]),
        channel=_TEXTS([None, "12", "34"]),
        nints=st.integers(1, 4),
        expstart=st.none() | st.floats(59000, 61000).map(lambda x: round(x, 1)),
    ),
    max_size=12,
)


@given(_OBSERVATIONS, st.randoms(use_true_random=False), st.sampled_from([None, "1539", "7831"]))
def test_every_file_has_one_place_whatever_the_order(drawn, random, program):
    observations = []
    for k, entry in enumerate(drawn):
        values = dict(entry)
        number = values.pop("number")
        values["path"] = Path(f"{k:02d}") / f"e{number}_{values['stage']}.fits"
        observations.append(make(exposure_id=f"e{number}", **values))
    recipes = [find_recipe(program)] if program else []
    asked = recipes[0].program if recipes else None
    plan = plan_associations(observations, recipes=recipes, program=asked)
    shuffled = random.sample(observations, len(observations))
    assert plan_associations(shuffled, recipes=recipes, program=asked) == plan
    used = [(a.step, m.observation.path) for a in plan.associations for m in a.members]
    left = [leftover.observation.path for leftover in plan.leftovers]
    assert len(used) == len(set(used))
    assert {path for _, path in used}.isdisjoint(left)
    assert sorted({path for _, path in used} | set(left)) == [o.path for o in observations]
    assert len(left) == len(set(left))
    names = [a.name.lower() for a in plan.associations]
    assert len(names) == len(set(names))
    for association in plan.associations:
        members = [m.observation for m in association.members]
        assert len({m.detector for m in members}) == 1
        assert any(m.exptype == "science" for m in association.members)
        assert not set(association.name) & set("/\\: ")
        if association.step != MASKS:
            assert len({(m.program, m.channel) for m in members}) == 1
            starts = sorted(m.expstart for m in members if m.expstart is not None)
            gaps = [b - a for a, b in pairwise(starts)]
            assert all(gap <= EPOCH_GAP_DAYS[association.step] for gap in gaps)


# --- files


def simulate_masks(folder):
    programme = simulate_programme(folder, mode="slitless", n_exposures=4)
    return plan_associations(scan_headers(programme.rates))


def test_the_step_takes_what_was_written(tmp_path):
    plan = simulate_masks(tmp_path)
    (path,) = write_associations(plan.associations, tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    (product,) = content["products"]
    assert path.name == f"{product['name']}_asn.json"
    assert all("/" not in member["expname"] for member in product["members"])
    history, *masks = TimeVariableBadPixel.call(str(path))
    assert history.meta.filename.startswith(product["name"])
    assert masks
    with ModelLibrary(str(path)) as library:
        assert len(library) == 4
        assert library.asn["products"][0]["name"] == product["name"]
        for model in library:
            library.shelve(model, modify=False)


def test_the_pipeline_loads_science_and_background(tmp_path):
    mrs = {"EXP_TYPE": "MIR_MRS", "DETECTOR": "MIRIFULONG", "FILTER": None, "BAND": "SHORT"}
    plan = plan_files(
        tmp_path,
        ("x1d", {**mrs, "TARGPROP": "HD163466"}),
        ("x1d", {**mrs, "TARGPROP": "HD163466-BKG"}),
    )
    (path,) = write_associations(plan.associations, tmp_path)
    with path.open(encoding="utf-8") as stream:
        loaded = load_asn(stream)
    members = loaded["products"][0]["members"]
    assert [member["exptype"] for member in members] == ["science", "background"]
    assert loaded["asn_type"] == "spec3"
    assert LoadAsLevel2Asn.load(str(path))["products"][0]["members"] == members


def test_members_are_named_relative_beneath_and_absolute_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_exposure(Path("data") / name_file(1))
    plan = plan_associations(scan_headers([Path("data") / name_file(1)]))
    found = {}
    for folder in (".", "data", "out"):
        (path,) = write_associations(plan.associations, Path(folder))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            asn = load_asn(path.read_text(encoding="utf-8"))
        name = asn["products"][0]["members"][0]["expname"]
        assert (path.parent / name).samefile(Path("data") / name_file(1))
        found[folder] = Path(name).is_absolute(), name.count("/")
    assert found["."] == (False, 1)
    assert found["data"] == (False, 0)
    assert found["out"][0]


def test_an_association_is_replaced_by_name_and_written_alike(tmp_path):
    plan = plan_files(tmp_path / "in", ("rate", {}))
    (path,) = write_associations(plan.associations, tmp_path / "out")
    first = path.read_bytes()
    path.write_text("something else", encoding="utf-8")
    write_associations(plan.associations, tmp_path / "out")
    assert path.read_bytes() == first
    assert list((tmp_path / "out").iterdir()) == [path]


def test_all_are_written_or_none(tmp_path, monkeypatch):
    plan = plan_files(tmp_path / "in", ("rate", {}), ("rate", {"DETECTOR": "MIRIFULONG"}))
    assert len(plan.associations) == 2
    write, calls = Path.write_text, []

    def fail_second(self, *args, **kwargs):
        calls.append(self)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", fail_second)
    with pytest.raises(OSError, match="No space"):
        write_associations(plan.associations, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_names_are_cleaned_and_cut():
    assert (
        make_name(["01539", None, "a b/c", "", "BD+60-1753", "..x"]) == "01539_a-b-c_BD+60-1753_x"
    )
    assert len(make_name(["x" * 100] * 10)) <= 110


# --- the command


def run(capsys, *arguments):
    status = main(["associate", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err


def test_the_command_writes_lists_and_counts(tmp_path, capsys):
    write_exposure(tmp_path / "in" / name_file(1))
    write_exposure(tmp_path / "in" / name_file(2))
    write_exposure(tmp_path / "in" / name_file(2, stage="uncal"))
    tacq = write_exposure(tmp_path / "in" / name_file(3), EXP_TYPE="MIR_TACQ")
    write_exposure(tmp_path / "in" / name_file(3, stage="uncal"), EXP_TYPE="MIR_TACQ")
    out = tmp_path / "out"
    status, dry, _ = run(capsys, tmp_path / "in", "--output-dir", out, "--dry-run")
    assert status == 0
    assert not out.exists()
    name = "09999_time_variable_bad_pixel_MIRIMAGE_lrs-slit_P750L_FULL"
    planned = f"would write {out / name}_asn.json"
    assert dry[:2] == [planned, "  time_variable_bad_pixel: 2 _rate (2 blank)"]
    status, lines, _ = run(capsys, tmp_path / "in", "--output-dir", out)
    assert status == 0
    assert lines[0] == str(out / f"{name}_asn.json")
    assert (out / f"{name}_asn.json").is_file()
    assert f"    {tacq} (and _uncal.fits)" in lines
    assert "  1: _rate of the exposure is used" in lines
    assert lines[-1] == dry[-1] == "associate: 1 associations of 5 files; 2 files fit no step"


def test_nothing_to_associate_is_a_failure(tmp_path, capsys):
    path = write_exposure(tmp_path / name_file(1), EXP_TYPE="MIR_TACQ")
    status, lines, _ = run(capsys, path, "--output-dir", tmp_path / "out")
    assert status == 1
    assert lines[-1] == "associate: 0 associations of 1 files; 1 files fit no step"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("program", ["1539", "4487", "4497", "7487", "7831"])
def test_a_recipe_is_printed(capsys, program):
    status, lines, _ = run(capsys, "--program", program, "--dry-run")
    recipe = find_recipe(program)
    assert status == 0
    assert sum(" -> " in line for line in lines) == len(recipe.rows)
    total = sum(row.count for row in recipe.rows)
    assert lines[-1].startswith(f"associate: recipe {program}: {total or len(recipe.rows)} ")


def test_the_programme_of_the_files_finds_its_recipe(tmp_path, capsys):
    cards = {**FIELD, "PROGRAM": "04487"}
    write_exposure(tmp_path / name_file(1), **cards)
    _, plain, _ = run(capsys, tmp_path, "--dry-run")
    assert "1 rows of recipe 4487 have no exposure (--program 4487 lists them)" in plain
    _, asked, _ = run(capsys, tmp_path, "--dry-run", "--program", "4487")
    assert "  1 of 1: Dense field measurements LMC-MIRI-A-IMG" in asked
    assert "  0 of 1: Dense field measurements LMC-MIRI-B-IMG" in asked


def test_another_programme_goes_by_its_headers(tmp_path, capsys):
    write_exposure(tmp_path / name_file(1))
    status, lines, _ = run(capsys, tmp_path, "--dry-run", "--program", "9999")
    assert status == 0
    assert "No recipe of programme 9999 is known: headers alone decided" in lines
    assert lines[-1] == "associate: 1 associations of 1 files; 0 files fit no step"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "expected FITS files or folders, found none"),
        (["--program", "1539"], "--dry-run"),
        (["--program", "9999", "--dry-run"], "no recipe of 09999"),
        (["--program", "x", "--dry-run"], "found 'x'"),
        (["absent.fits"], "no absent.fits"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, words):
    status, lines, error = run(capsys, *arguments)
    assert (status, lines) == (1, [])
    assert error.startswith("tvbadpix associate: error: ")
    assert words in error


def test_another_telescope_is_refused_by_name(tmp_path, capsys):
    write_exposure(tmp_path / name_file(1))
    write_exposure(tmp_path / "hst_flt.fits", TELESCOP="HST")
    status, lines, error = run(capsys, tmp_path, "--output-dir", tmp_path / "out")
    assert (status, lines) == (1, [])
    assert "hst_flt.fits" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, capsys):
    path = write_exposure(tmp_path / name_file(1))
    (tmp_path / "out").write_text("a file")
    status, lines, error = run(capsys, path, "--output-dir", tmp_path / "out")
    assert (status, lines) == (1, [])
    assert str(tmp_path / "out") in error


# --- the archive


class FakeArchive:
    """Answers like astroquery.mast: a table of two files, of which one is not public."""

    def __init__(self, rows, refused=()):
        self.rows, self.refused, self.asked, self.given = rows, refused, [], []

    def service_request(self, service, params):
        self.asked.append((service, params))
        names = [row[0] for row in self.rows]
        sizes = [row[1] for row in self.rows]
        status = MaskedColumn(["T"] * len(names), mask=[True] * len(names))
        return Table({"filename": names, "fileSize": sizes, "bkgdtarg": status})

    def download_file(self, uri, *, local_path, cache, verbose):
        name = uri.rpartition("/")[2]
        self.given.append(name)
        if name in self.refused:
            return "ERROR", "HTTPError: 401", uri
        Path(local_path).write_bytes(b"12345")
        return "COMPLETE", None, uri


@pytest.fixture
def archive(monkeypatch):
    made = FakeArchive([("b_rate.fits", 5), ("a_rate.fits", 5), ("a_rateints.fits", 5)])
    module = types.ModuleType("astroquery.mast")
    module.Mast = module.Observations = made
    monkeypatch.setitem(sys.modules, "astroquery", types.ModuleType("astroquery"))
    monkeypatch.setitem(sys.modules, "astroquery.mast", module)
    return made


def test_queries_ask_by_mode_programme_and_date():
    (lrs,) = build_queries(
        get_mode("LRS"),
        program="01539",
        stages=("rate", "uncal"),
        after="2023-02-25",
        public_at="2023-02-26",
    )
    request = json.loads(lrs.to_json())
    assert request["service"] == "Mast.Jwst.Filtered.Miri"
    filters = {entry["paramName"]: entry["values"] for entry in request["params"]["filters"]}
    assert filters["exp_type"] == [
        "MIR_LRS-FIXEDSLIT",
        "MIR_LRS-SLITLESS",
        "MIR_TACONFIRM",
        "MIR_TACQ",
    ]
    assert (filters["program"], filters["productLevel"]) == (["1539"], ["1b", "2a"])
    assert filters["expstart"][0]["min"] == 60000.0
    assert filters["publicReleaseDate_mjd"][0]["max"] == 60001.0
    services = [query.service for query in build_queries()]
    assert len(services) == len(set(services)) == 5


@pytest.mark.parametrize("program", [p for p in list_recipes() if p != "7831"])
def test_a_download_brings_all_that_the_recipe_takes(program):
    asked = {
        exp_type
        for query in build_queries(program=program)
        for exp_type in dict(query.filters)["exp_type"]
    }
    for row in find_recipe(program).rows:
        assert set(row.exp_types) <= asked, row.label


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"stages": ("rats",)}, InputError),
        ({"stages": ()}, InputError),
        ({"program": "x"}, InputError),
        ({"after": "soon"}, DateError),
    ],
)
def test_queries_refuse_what_they_do_not_know(options, error):
    with pytest.raises(error, match="expected"):
        build_queries(**options)


def test_answers_are_rows_of_the_stages_asked_for(archive):
    rows = run_query(MastQuery("Mast.Jwst.Filtered.Miri", (("exp_type", ("MIR_MRS",)),), ("rate",)))
    assert [row["filename"] for row in rows] == ["a_rate.fits", "b_rate.fits"]
    assert rows[0]["bkgdtarg"] is None
    assert archive.asked[0][1]["filters"] == [{"paramName": "exp_type", "values": ["MIR_MRS"]}]


def test_downloads_keep_what_is_there_and_say_what_was_refused(archive, tmp_path):
    archive.refused = ("b_rate.fits",)
    (tmp_path / "c_rate.fits").write_bytes(b"abcde")
    rows = [{"filename": f"{k}_rate.fits", "fileSize": 5} for k in "abc"]
    paths, refused = download_files(rows, tmp_path)
    assert archive.given == ["a_rate.fits", "b_rate.fits"]
    assert [path.name for path in paths] == ["a_rate.fits", "c_rate.fits"]
    assert refused == ("b_rate.fits: HTTPError: 401",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_rate.fits", "c_rate.fits"]
    assert (tmp_path / "c_rate.fits").read_bytes() == b"abcde"


def test_a_download_of_another_size_is_refused(archive, tmp_path):
    (tmp_path / "a_rate.fits").write_bytes(b"123")
    rows = [{"filename": "a_rate.fits", "fileSize": 7}, {"filename": "b_rate.fits"}]
    paths, refused = download_files(rows, tmp_path)
    assert [path.name for path in paths] == ["b_rate.fits"]
    assert refused == ("a_rate.fits: expected 7 bytes, found 5; try again",)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a_rate.fits", "b_rate.fits"]


def test_a_download_beside_another_gives_whole_files_to_both(archive, tmp_path, monkeypatch):
    rows, others = [{"filename": "a_rate.fits", "fileSize": 5}], []

    def download(uri, *, local_path, **_):
        with Path(local_path).open("wb") as file:
            file.write(b"12")
            if not others:
                others.append(None)
                others.append(download_files(rows, tmp_path))
            file.write(b"345")
        return "COMPLETE", None, uri

    monkeypatch.setattr(archive, "download_file", download)
    assert download_files(rows, tmp_path) == others[1] == ((tmp_path / "a_rate.fits",), ())
    assert (tmp_path / "a_rate.fits").read_bytes() == b"12345"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_download_command(archive, tmp_path, capsys):
    options = ["download", "4497", "--mode", "LRS", "--output-dir", str(tmp_path / "new")]
    assert main([*options, "--dry-run"]) == 0
    dry = capsys.readouterr().out.splitlines()
    names = ("a_rate.fits", "a_rateints.fits", "b_rate.fits")
    planned = [f"would write {tmp_path / 'new' / name}" for name in names]
    assert dry == [*planned, "download: 3 files, 0.0 GB"]
    assert not (tmp_path / "new").exists()
    assert main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(tmp_path / "new" / "a_rate.fits")
    assert lines[-1] == "download: 3 of 3 files, 0.0 GB"
    archive.refused = ("a_rate.fits",)
    (tmp_path / "new" / "a_rate.fits").unlink()
    assert main(options) == 1
    assert "not given: a_rate.fits: HTTPError: 401" in capsys.readouterr().out


def test_without_astroquery_or_network_the_error_says_what_to_do(archive, capsys, monkeypatch):
    def fail(service, params):
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(archive, "service_request", fail)
    assert main(["download", "4497"]) == 1
    assert "check the network" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "astroquery.mast", None)
    assert main(["download", "4497"]) == 1
    assert "jwst-tvbadpix[mast]" in capsys.readouterr().err
