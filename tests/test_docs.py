"""The pages hold what the code has: each step, argument, schema, command, recipe and error."""

import doctest
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jwst_tvbadpix import errors
from jwst_tvbadpix._integration import get_steps

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.rst") if "_build" not in p.parts)
STEPS = [alias for _, alias, is_pipeline in get_steps() if not is_pipeline]
STEP_PAGES = ["index", "description", "arguments", "reference_files", "api"]
# What sphinx-build needs; the extra [docs].
NEEDED = ("sphinx", "sphinx_rtd_theme", "numpydoc", "myst_parser", "myst_nb")


def load_tables():
    spec = importlib.util.spec_from_file_location("doc_tables", DOCS / "_ext" / "doc_tables.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["doc_tables"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tables = load_tables()


def read(page):
    return (DOCS / f"{page}.rst").read_text(encoding="utf-8")


def cells(lines):
    """Cells of a list-table, row by row, without its markup."""
    rows = []
    for line in lines:
        if line.startswith("   * -"):
            rows.append([])
        if line.startswith(("   * -", "     -")):
            rows[-1].append(line[6:].strip().replace("\\", ""))
    return rows


@pytest.mark.parametrize("alias", STEPS)
def test_argument_table_is_what_a_step_has(alias):
    """Names from the spec's own lines, defaults from an instance: neither goes by our reader."""
    step = tables.find_step(alias)
    names = re.findall(r"^\s*(\w+) = ", step.spec, flags=re.MULTILINE)
    table = cells(tables.write_arguments(alias))[1:]
    assert [row[0] for row in table] == [f"``--{name}``" for name in names]
    instance = step()
    for name, (_, _, default, meaning) in zip(names, table, strict=True):
        value = getattr(instance, name)
        if isinstance(value, float):
            assert float(default.strip("`")) == value
        elif value == []:
            assert default.strip("`") in ("[]", "list()")
        else:
            assert default.strip("`") == (repr(value) if value == "" else str(value))
        assert meaning


@pytest.mark.parametrize("alias", STEPS)
def test_own_and_inherited_arguments_are_all(alias):
    arguments = tables.list_arguments(tables.find_step(alias))
    names = [argument.name for argument in arguments]
    assert sorted(names) == sorted(tables.find_step(alias).load_spec_file().scalars)
    inherited = cells(tables.write_arguments(alias, inherited=True))[1:]
    assert [row[0] for row in inherited] == [f"``--{a.name}``" for a in arguments if a.inherited]
    assert "``--output_dir``" in [row[0] for row in inherited]


def test_bounds_and_choices_are_told():
    found = {a.name: a for a in tables.list_arguments(tables.find_step("time_variable_bad_pixel"))}
    assert (found["fdr"].kind, found["fdr"].allowed) == ("float", "min 1e-5, max 0.5")
    assert found["dating"].allowed == "midpoint, conservative, detected"
    assert found["events"].allowed == ""


@pytest.mark.parametrize("alias", STEPS)
def test_each_step_has_its_pages(alias):
    folder = f"steps/{alias}"
    assert f"{alias}/index" in read("steps/index")
    index = read(f"{folder}/index")
    assert all(f"   {name}\n" in index for name in STEP_PAGES[1:])
    assert f":Alias: {alias}" in read(f"{folder}/description")
    assert f".. step-arguments:: {alias}\n" in read(f"{folder}/arguments")
    name = tables.find_step(alias).__name__
    assert f".. autoclass:: jwst_tvbadpix.steps.{name}\n" in read(f"{folder}/api")


def test_pipelines_and_no_other_steps_are_described():
    pipelines = [alias for _, alias, is_pipeline in get_steps() if is_pipeline]
    assert pipelines
    said = read("steps/apply_time_variable_mask/arguments")
    assert all(f".. step-arguments:: {alias}\n" in said for alias in pipelines)
    folders = [path.name for path in (DOCS / "steps").iterdir() if path.is_dir()]
    assert sorted(folders) == sorted(STEPS)


def test_every_schema_is_rendered_whole():
    import yaml

    shown = re.findall(r"^\.\. schema-tables:: (\w+)$", read("formats"), flags=re.MULTILINE)
    assert sorted(shown) == tables.list_schemas() != []

    def titles(node):
        for value in node.values() if isinstance(node, dict) else node:
            if isinstance(value, dict | list):
                yield from titles(value)
        if isinstance(node, dict) and isinstance(node.get("title"), str):
            yield node["title"]

    for name in shown:
        path = tables.PACKAGE / "reference_schemas" / f"{name}.schema.yaml"
        everything = list(titles(yaml.safe_load(path.read_text(encoding="utf-8"))))
        text = "\n".join(tables.write_schema(name)).replace("\\", "")
        assert len(everything) > 40
        assert [title for title in everything if title not in text] == []


def test_a_column_has_its_type_and_unit():
    rows = {row[0]: row[1:] for row in cells(tables.write_schema("badpixhistory"))}
    assert rows["``amplitude_err``"] == ["float32 (1-D)", "Standard error of the amplitude [DN/s]"]
    assert rows["``class``"][0] == "text of 16 characters (1-D)"
    assert rows["``settings``"][0] == "mapping"
    assert rows["``filename``"] == ["list of string", "Name of the exposure file"]


def test_every_command_and_option_is_there():
    assert ".. commands::" in read("cli")
    commands = tables.list_commands()
    listed = re.findall(r"^    ([a-z-]+)\b", tables.find_parser().format_help(), re.MULTILINE)
    assert sorted(commands) == sorted(listed) != []
    for name, (summary, parser) in commands.items():
        text = "\n".join(tables.write_command(name)).replace("\\", "")
        assert summary[1:] in text
        told = [row[0] for row in cells(text.splitlines())[1:]]
        wanted = [a for a in parser._actions if "--help" not in a.option_strings]
        assert len(told) == len(wanted)
        for action in wanted:
            assert any(all(o in cell for o in action.option_strings) for cell in told)


def test_errors_are_all_there_and_no_others():
    defined = {name for name in errors.__all__ if issubclass(getattr(errors, name), ValueError)}
    assert defined == set(tables.list_errors()) == set(errors.__all__)
    text = read("errors")
    headed = re.findall(r"^(\w+Error)\n=+\n", text, flags=re.MULTILINE)
    assert sorted(headed) == sorted(defined)
    for name in headed:
        part = text.partition(f"\n{name}\n=")[2].partition("\n.. _")[0]
        assert ":Cause:" in part
        assert ":Cure:" in part
        assert f".. error-messages:: {name}\n" in part


def test_messages_are_read_from_the_source():
    messages = tables.list_messages()
    assert {m.error for m in messages} == set(errors.__all__)
    assert (
        tables.Message(
            "DetectorError",
            "exposures",
            "expected exposures of one detector, found ...; run the step once per detector",
        )
        in messages
    )
    assert len(messages) > 300
    for name in errors.__all__:
        table = cells(tables.write_messages(name))
        assert len(table) == 1 + sum(message.error == name for message in messages)


def test_every_row_of_every_recipe_is_there():
    from jwst_tvbadpix.programmes.recipes import find_recipe, list_recipes

    assert ".. programmes::" in read("programmes")
    summary = cells(tables.write_recipes())[1:]
    assert [row[0] for row in summary] == [f":ref:`{p} <programme-{p}>`" for p in list_recipes()]
    for program, row in zip(list_recipes(), summary, strict=True):
        recipe = find_recipe(program)
        assert sum(map(int, row[2:6])) == sum(max(r.count, 1) for r in recipe.rows)
        assert len(cells(tables.write_recipe(program))) == 1 + len(recipe.rows)


def test_parameter_files_and_allowed_warnings_are_there():
    from jwst_tvbadpix.delivery import ALLOWED_WARNINGS
    from jwst_tvbadpix.parameters import TABLE

    assert ".. parameter-files::" in read("reprocessing")
    told = [row[0] for row in cells(tables.write_parameter_files())[1:]]
    assert told == [f"``{name}``" for name in TABLE]
    assert ".. allowed-warnings::" in read("delivery")
    assert len(cells(tables.write_allowed())) == 1 + len(ALLOWED_WARNINGS)


def test_text_that_markup_would_swallow_is_kept():
    text = tables.escape(r"a_b *c* `d` |e| f_ \g")
    assert text == r"a\_b \*c\* \`d\` \|e\| f\_ \\g"


def test_modules_of_the_api_say_what_is_public():
    listed = re.findall(
        r"^\.\. automodule:: (\S+)$",
        "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "api").glob("*.rst")),
        flags=re.MULTILINE,
    )
    assert len(listed) == len(set(listed)) > 15
    for name in listed:
        assert importlib.import_module(name).__all__
    pages = {f"api/{p.stem}" for p in (DOCS / "api").glob("*.rst")}
    assert pages == set(re.findall(r"^   (api/\w+)$", read("api"), flags=re.MULTILINE))


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if ".. doctest::" in p.read_text(encoding="utf-8")],
    ids=lambda p: str(p.relative_to(DOCS)),
)
def test_examples_give_what_is_shown(page):
    failed, attempted = doctest.testfile(str(page), module_relative=False)
    assert attempted
    assert not failed


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED), reason="needs the extra [docs]"
)
def test_pages_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    command += ["-d", str(tmp_path / "doctrees")]
    for builder in ("html", "doctest"):
        done = subprocess.run(
            [*command, "-b", builder, str(DOCS), str(tmp_path / builder)],
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    html = tmp_path / "html"
    for page in PAGES:
        assert (html / page.relative_to(DOCS).with_suffix(".html")).is_file()
    for page in html.rglob("*.html"):
        # Nothing is fetched from elsewhere.
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*", text)
    assert "<math" in (html / "methods" / "bad_pixels.html").read_text(encoding="utf-8")
    assert "onset_per_year" in (
        html / "steps" / "time_variable_bad_pixel" / "arguments.html"
    ).read_text(encoding="utf-8")
