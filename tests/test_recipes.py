"""Recipes: every row of the observation tables, checked formats, and the way to a row."""

import re
from collections import Counter
from pathlib import Path

import pytest
from exposure_headers import cards_of, write_exposure

from jwst_tvbadpix.errors import InputError, RecipeError
from jwst_tvbadpix.programmes import recipes
from jwst_tvbadpix.programmes.classify import classify
from jwst_tvbadpix.programmes.modes import MODES, find_mode, get_mode
from jwst_tvbadpix.programmes.recipes import (
    STEPS,
    find_recipe,
    list_recipes,
    match_row,
    read_program,
    read_recipe,
)
from jwst_tvbadpix.programmes.scan import scan_headers
from jwst_tvbadpix.programmes.targets import find_standard, is_dense_field, normalise, read_name

SHIPPED = ("1539", "4487", "4497", "7487", "7831")
TABLES = Path(__file__).parents[2] / "shared" / "programmes"
ROWS = [
    pytest.param(program, number, id=f"{program}-{number}")
    for program in SHIPPED
    for number, row in enumerate(find_recipe(program).rows)
    if row.count
]
GOOD = """
program = 1234
title = "A programme"
[[row]]
label = "MIRI Imaging"
template = "MIRI Imaging"
target = "A star"
mode = "miri-imaging"
step = "abs_flux_ratio"
role = "science"
"""


def read_table(program):
    """Rows of the observation table as (label, template, target, number); spelled alike."""
    columns, rows = None, Counter()
    for line in (TABLES / f"{program}.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or set(line) <= set("|:- "):
            continue
        if columns is None:
            columns = cells
            continue
        entry = dict(zip(columns, cells, strict=True))
        target = re.sub(r"^\(?\d+\)", "", entry["Science Target"])
        number = int(entry["Observation"]) if "Observation" in entry else None
        spelled = (normalise(t) for t in (entry["Label"], entry["Observing Template"], target))
        rows[*spelled, number] += 1
    return rows


@pytest.mark.skipif(not TABLES.is_dir(), reason="the tables of ../shared/programmes are absent")
@pytest.mark.parametrize("program", SHIPPED)
def test_every_row_of_the_table_is_covered_exactly(program):
    recipe, expected = find_recipe(program), read_table(program)
    found = Counter()
    for row in recipe.rows:
        spelled = [normalise(text) for text in (row.label, row.template, row.target)]
        for number in row.observations or [None] * row.count:
            found[*spelled, number] += 1
    assert found == expected
    assert sum(expected.values()) == {"1539": 86, "4497": 25, "7487": 16}.get(
        program, 2 if program == "4487" else 0
    )


def test_the_recipes_that_come_with_the_package():
    assert list_recipes() == SHIPPED
    assert find_recipe("01539").program == "01539"
    assert find_recipe("1540") is find_recipe("one") is None
    assert [p for p in SHIPPED if find_recipe(p).archival] == ["7831"]


@pytest.mark.parametrize("program", SHIPPED)
def test_rows_say_what_they_are(program):
    recipe = find_recipe(program)
    science = {row.target for row in recipe.rows if row.roles == ("science",)}
    for row in recipe.rows:
        assert row.step in STEPS
        assert row.reason == ""
        if row.background_of:
            assert row.background_of in science
            assert read_name(row.target) == "background"
            assert find_standard(row.target) == find_standard(row.background_of)
        elif not recipe.archival:
            assert read_name(row.target) is None
            assert (row.step == "abs_flux_ratio") == (find_standard(row.target) is not None)
            assert (row.step == "external_flat_builder") == is_dense_field(row.target)


@pytest.mark.parametrize(("program", "number"), ROWS)
def test_an_exposure_of_each_row_finds_it(program, number, tmp_path):
    recipe = find_recipe(program)
    row = recipe.rows[number]
    path = write_exposure(tmp_path / "a_rate.fits", **cards_of(row, program, 0))
    (observation,) = scan_headers([path])
    found, doubts = match_row(recipe, observation, classify(observation))
    assert found is row
    assert doubts == ()
    assert find_mode(row.exp_types[-1]).name == row.mode


@pytest.mark.parametrize(("program", "number"), ROWS)
def test_without_label_and_template_target_and_setting_decide(program, number, tmp_path):
    """What several rows share (repeats) may be found in any of these."""
    recipe = find_recipe(program)
    row = recipe.rows[number]
    cards = {**cards_of(row, program, 0), "OBSLABEL": None, "TEMPLATE": None, "OBSERVTN": None}
    (observation,) = scan_headers([write_exposure(tmp_path / "a_rate.fits", **cards)])
    found, doubts = match_row(recipe, observation, classify(observation))
    same = (found.target, found.mode, found.step, found.roles, found.match)
    assert same == (row.target, row.mode, row.step, row.roles, row.match)
    assert doubts == ()


def match(program, tmp_path, **cards):
    (observation,) = scan_headers([write_exposure(tmp_path / "a_rate.fits", **cards)])
    return match_row(find_recipe(program), observation, classify(observation))


def test_swapped_labels_follow_the_target_and_say_so(tmp_path):
    """7487: the row labelled background points at the star with background, and vice versa."""
    common = {"EXP_TYPE": "MIR_LRS-SLITLESS", "SUBARRAY": "SLITLESSPRISM", "PROGRAM": "07487"}
    star, _ = match("7487", tmp_path / "1", TARGPROP="BD+60-1753-wbkg", **common)
    sky, _ = match("7487", tmp_path / "2", TARGPROP="BD+60-1753-bkg", **common)
    assert (star.roles, star.background_of) == (("science",), "")
    assert (sky.roles, sky.background_of) == (("background",), "BD+60-1753-wbkg")
    assert "bkg" in star.label
    assert "bkg" not in sky.label
    assert star.doubts
    assert sky.doubts


def test_an_observation_number_outweighs_what_differs(tmp_path):
    """4497, observation 16: SUB160P in a table whose scan reads Sub1 60P."""
    row, doubts = match(
        "4497",
        tmp_path,
        EXP_TYPE="NRC_IMAGE",
        PROGRAM="04497",
        OBSERVTN="016",
        TARGPROP="GD 153",
        MODULE="B",
        SUBARRAY="SUB160",
    )
    assert row.observations == (16,)
    assert doubts == ("SUBARRAY is SUB160, the row's SUB160P",)


def test_a_repeat_under_another_number_is_found_and_doubted(tmp_path):
    cards = {"EXP_TYPE": "MIR_IMAGE", "PROGRAM": "04497", "OBSERVTN": "101", "TARGPROP": "GD153"}
    row, doubts = match("4497", tmp_path, **cards)
    assert row.observations == (1,)
    assert doubts == ("observation 101 is not in the table",)


def test_what_fits_no_row_finds_none(tmp_path):
    assert match("1539", tmp_path / "1", EXP_TYPE="MIR_TACQ", TARGPROP="BD+60-1753")[0] is None
    assert match("1539", tmp_path / "2", EXP_TYPE="MIR_IMAGE", TARGPROP="P330E")[0] is None


def test_rows_that_differ_are_not_guessed_between(tmp_path):
    cards = {"EXP_TYPE": "MIR_MRS", "PROGRAM": "01539", "TARGPROP": None}
    row, doubts = match("1539", tmp_path, **cards)
    assert row is None
    assert "fits several rows of recipe 1539" in doubts[0]
    assert "HD163466-BKG" in doubts[0]


def test_nd_squares_are_taken_from_acquisitions(tmp_path):
    cards = {"EXP_TYPE": "NRC_TACQ", "OBSERVTN": "021", "SUBARRAY": "SUBNDA210R"}
    row, _ = match("4497", tmp_path, TARGPROP="10Lac", **cards)
    assert row.label.endswith("210R")
    assert row.roles == ("science",)


def test_the_readme_lists_every_key_and_no_other():
    text = (Path(recipes.__file__).parent / "recipes" / "README.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    listed = Counter(name for cell in cells for name in re.findall(r"`(\w+)`", cell))
    assert listed == Counter([*(set(recipes._TOP) - {"row"}), *recipes._ROW])


def change(old, new):
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("program = ", "in TOML"),
        ("program = 1\ntitle = 'x'\nrow = []", "at least one row"),
        (change("program = 1234", "program = 'x'"), "program to be a whole number"),
        (change("program = 1234", "program = true"), "program to be a whole number"),
        (change("program = 1234", "program = -1"), "from 1 to 99999"),
        (change("program = 1234", "program = 123456"), "from 1 to 99999"),
        (change('"science"', "3"), "role to be a text or a list"),
        (change("program = 1234", ""), "no program"),
        (change("title =", "name ="), "unknown name"),
        (change("[[row]]", "row = [1]\n[other]"), "unknown other"),
        (change("target =", "source ="), "no target"),
        (change('"miri-imaging"', '"imagery"'), "mode to be one of"),
        (change("abs_flux_ratio", "photom"), "step to be one of"),
        (change('"abs_flux_ratio"', '"none"'), "a reason"),
        (GOOD + "reason = 'no'", "a reason"),
        (change('"science"', '"failed"'), "role to be one of"),
        (change('"science"', '["science", "background"]'), "role to be one of"),
        (change('"science"', '"background"'), "background_of"),
        (GOOD + "background_of = 'A star'", "background_of"),
        (GOOD + "count = 0", "count above 0"),
        (GOOD + "count = 2\nobservations = [1]", "as many observations"),
        (GOOD + "observations = [0]", "as many observations"),
        (GOOD + "count = 2\nobservations = [1, 1]", "each observation in one row"),
        (GOOD + "match = { colour = 'red' }", "match to name fields"),
        (GOOD + "match = { filter = 1 }", "list of texts"),
        (GOOD + "exp_types = 'MIR_IMAGE'", "exp_types to be a list"),
        (GOOD + "doubts = ['']", "list of texts"),
    ],
)
def test_a_recipe_that_breaks_a_rule_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=rf"{words}.*") as caught:
        read_recipe(path)
    assert "mine.toml" in str(caught.value)
    assert Path(str(caught.value).rpartition("; see ")[2]).is_file()


def test_a_recipe_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD, encoding="utf-8")
    recipe, program = read_program(str(path))
    assert (recipe.program, program, recipe.rows[0].count) == ("01234", "01234", 1)
    assert recipe.rows[0].exp_types == ("MIR_IMAGE",)


def test_a_row_without_a_step_needs_its_reason(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(change('"abs_flux_ratio"', '"none"') + "reason = 'not yet'", encoding="utf-8")
    assert read_recipe(path).rows[0].reason == "not yet"


def test_programmes_are_asked_for_by_number():
    assert read_program("4497")[0].program == read_program("04497")[1] == "04497"
    assert read_program("2") == (None, "00002")
    for wrong in ("0", "-1", "x", "1e3", "123456", "१२"):
        with pytest.raises(InputError, match="expected a programme"):
            read_program(wrong)


def test_an_absent_recipe_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.toml"):
        read_program(str(tmp_path / "none.toml"))


def test_modes_share_no_exp_type_and_are_found_by_name():
    types = [exp_type for mode in MODES for exp_type in mode.exp_types]
    assert len(types) == len(set(types))
    assert [mode.name for mode in get_mode("LRS")] == ["lrs-slit", "lrs-slitless"]
    assert all(get_mode(mode.name.upper()) == (mode,) for mode in MODES)
    assert find_mode("mir_mrs").name == "mrs"
    with pytest.raises(InputError, match="found 'x-ray'"):
        get_mode("x-ray")


@pytest.mark.parametrize(
    ("name", "said", "star"),
    [
        ("HD-2811-lrs wbkg", None, "HD2811"),
        ("HD-2811-lrs bkg", "background", "HD2811"),
        ("BD+60 1753", None, "BD+60-1753"),
        ("muCol-BKG", "background", "muCol"),
        ("J1743045-OFFSET-ROUND", None, "J1743045"),
        ("HD 28119", None, None),
        ("GD1533", None, None),
        ("BLANK-SKY", "blank", None),
        ("DARKSKY", "blank", None),
        ("SKYWALKER", None, None),
        ("FAILED-POINTING", "failed", None),
        ("BACKGROUND_3", "background", None),
        ("", None, None),
    ],
)
def test_what_names_of_targets_say(name, said, star):
    assert read_name(name) == said
    found = find_standard(name)
    assert (found[0] if found else None) == star
