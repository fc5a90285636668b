"""Commands in pages exist and take their options; tutorials and notebooks give what they show."""

import importlib
import json
import re
import shutil
from functools import cache

import pytest
from stpipe.entry_points import get_steps
from tutorials import DOCS, PAGES, ROOT, find_missing, list_commands, read_blocks, run_page

from jwst_tvbadpix.cli import build_parser
from jwst_tvbadpix.programmes.recipes import STEPS, find_recipe, list_recipes

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
TEXTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.rst"))]
_SHELL = re.compile(
    r"^```bash\n((?:(?!```).*\n)*)```"
    r"|^( *)\.\. code-block:: (?:bash|console)\n(?: +:.*\n)*\n((?:(?:\2   .*)?\n)+)",
    re.MULTILINE,
)


def read_shell(path):
    """Shell code of a page, that of tutorials among it."""
    text = path.read_text(encoding="utf-8") + "\n"
    return "\n".join(a or b for a, _, b in _SHELL.findall(text))


COMMANDS = sorted(
    {(path.name, tuple(words)) for path in TEXTS for words in list_commands(read_shell(path))}
)


@cache
def find_spec(name):
    """Parameters of a step or pipeline by its alias."""
    steps = {info.class_alias: info.class_name for info in get_steps()}
    module, _, name = steps[name].rpartition(".")
    return getattr(importlib.import_module(module), name).load_spec_file()


def test_commands_are_found_in_shell_code():
    text = 'a && tvbadpix x --y "1 2" \\\n  z | head\neval "$(tvbadpix context d)"\n$ strun s # no'
    found = [["tvbadpix", "x", "--y", "1 2", "z"], ["strun", "s"], ["tvbadpix", "context", "d"]]
    assert list_commands(text) == found


@pytest.mark.parametrize(
    ("wanted", "came", "agrees"),
    [
        ("rms 0.65 % of 508", "INFO - rms  0.66 % of 510 pixels", True),
        ("rms 0.65 %", "rms 0.85 %", False),
        ("mask_20241008T133434.asdf", "mask_20241008T133435.asdf", False),
        ("mask_20241008T133434.asdf", "mask_20231008T133434.asdf", False),
        ("PASS", "FAIL", False),
        ("a\nb", "b\na", False),
        ("a\n...\nb", "a\nx\nb", True),
    ],
)
def test_shown_lines_are_compared(wanted, came, agrees):
    assert (find_missing(wanted.splitlines(), came) is None) is agrees


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda v: v if isinstance(v, str) else "")
def test_commands_of_the_pages_take_their_options(page, words):
    if words[0] == "tvbadpix":
        if words[-1] not in ("--version", "--help"):
            build_parser().parse_args(words[1:])  # SystemExit fails, and says why
        return
    options = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    if words[1].endswith(".asdf"):
        assert not options
        return
    spec = find_spec(words[1])
    for option in options:
        node = spec
        for part in option.split("."):
            if option != "help":
                assert part in node, f"{words[1]} has no parameter {option}"
                node = node[part]


def test_readme_has_the_status_of_every_programme():
    """Programme, then rows per step and those with a doubt, as the recipes have them."""
    found = re.findall(r"^\| (\d{4}) [^|]+((?:\| *\d+ )+)\|$", TEXTS[0].read_text(), re.MULTILINE)
    told = {program: [int(n) for n in re.findall(r"\d+", numbers)] for program, numbers in found}
    assert told == {program: count_rows(find_recipe(program).rows) for program in list_recipes()}


def count_rows(rows):
    counts = [sum(max(r.count, 1) for r in rows if r.step == step) for step in (*STEPS, "none")]
    return [*counts, sum(bool(r.doubts) for r in rows)]


def test_there_are_tutorials_and_notebooks_of_every_step():
    steps = {"time_variable_bad_pixel", "external_flat_builder", "abs_flux_ratio"}
    assert steps < {page.stem for page in PAGES}
    assert steps == {path.stem for path in NOTEBOOKS}
    for page in PAGES:
        assert any(block.shown for block in read_blocks(page))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_executed_and_small(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 700_000
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [out for out in outputs if out["output_type"] == "error" or "stderr" in str(out)]
    assert sum("image/png" in out.get("data", {}) for out in outputs) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_tutorial_gives_what_it_shows(page, tmp_path):
    assert shutil.which("bash")
    for block, came in run_page(page, tmp_path):
        missing = find_missing(block.shown, came)
        assert missing is None, f"{missing!r} did not come of:\n{block.code}\n{came[-3000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=180, resources={"metadata": {"path": str(tmp_path)}}
    )
    assert client.execute() is notebook
