"""Who may import whom, how long a file may be, and how quick an import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jwst_tvbadpix

PACKAGE = Path(jwst_tvbadpix.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("stdatamodels", "jwst", "asdf", "matplotlib", "stpipe", "crds")
OURS = (
    "atomic",
    "refmodels",
    "exposures",
    "files",
    "headers",
    "imaging",
    "planes",
    "roman",
    "sources",
    "standards",
    "events",
    "check",
    "cluster",
    "steps",
    "cli",
    "demo",
    "proof",
    "delivery",
    "programmes",
    "parameters",
    "report",
    "reprocess",
    "simulate",
    "store",
)
NUMERICS = ("badpix", "flatfield", "fluxcal", "robust", "detectors", "errors", "traces")


def name_of(path):
    """Dotted name within the package: 'badpix.find'."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def modules(part):
    """The module, or all modules of the subpackage; () where it does not exist (yet)."""
    return [p for p in FILES if p.relative_to(PACKAGE).with_suffix("").parts[0] == part]


def imports_of(path, *, top_level=False):
    """Absolute dotted names of all that a file imports, also within functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _outside_functions(tree) if top_level else ast.walk(tree)
    return set(_absolute_names(nodes, path))


def _outside_functions(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from _outside_functions(child)


def _absolute_names(nodes, path):
    here = ("jwst_tvbadpix", *path.relative_to(PACKAGE).parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            base = ".".join(filter(None, (base, node.module)))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def touches(name, forbidden):
    return any(name == f or name.startswith(f + ".") for f in forbidden)


def offenders(paths, forbidden, **kwargs):
    found = [
        f"{name_of(path)} imports {name}"
        for path in paths
        for name in sorted(imports_of(path, **kwargs))
        if touches(name, forbidden)
    ]
    return "\n".join(found)


def ours(*names):
    return tuple(f"jwst_tvbadpix.{name}" for name in names)


def test_the_reader_of_imports_sees_them():
    """Known imports of each kind, so that the tests below can fail."""
    find = imports_of(PACKAGE / "badpix" / "find.py")
    assert {"numpy", "jwst_tvbadpix.errors.EvidenceError"} <= find
    assert "jwst_tvbadpix.badpix.noise.fit_noise" in find
    assert "jwst_tvbadpix.badpix.find.find_histories" in imports_of(
        PACKAGE / "badpix" / "__init__.py"
    )
    assert "astropy.io.fits" in imports_of(PACKAGE / "sources.py")
    lazy = PACKAGE / "_integration.py"
    assert "asdf.resource.DirectoryResourceMapping" in imports_of(lazy)
    assert "asdf.resource.DirectoryResourceMapping" not in imports_of(lazy, top_level=True)
    assert len(FILES) > 20


@pytest.mark.parametrize("part", NUMERICS)
def test_numerics_know_no_files_models_figures_or_steps(part):
    forbidden = (*HEAVY, "astropy.io", "tqdm", *ours(*OURS))
    assert not offenders(modules(part), forbidden)


@pytest.mark.parametrize("part", ["robust", "detectors", "errors"])
def test_foundations_do_not_build_on_the_numerics(part):
    assert modules(part)
    assert not offenders(modules(part), ours("badpix", "flatfield", "fluxcal"))


def test_simulate_shares_no_code_with_what_it_tests():
    allowed = ours("simulate", "atomic", "dates", "detectors", "errors")
    wrong = {
        f"{name_of(path)} imports {name}"
        for path in modules("simulate")
        for name in imports_of(path)
        if touches(name, ["jwst_tvbadpix"]) and not touches(name, allowed)
    }
    assert modules("simulate")
    assert not wrong


def test_only_the_demonstration_uses_the_simulator():
    paths = [
        p for p in FILES if name_of(p).split(".")[0] not in ("simulate", "demo", "cli", "proof")
    ]
    assert not offenders(paths, ours("simulate"))


def test_report_draws_results_and_knows_no_steps():
    assert not offenders(modules("report"), ours("steps", "cli"))


def test_programmes_know_no_steps():
    assert modules("programmes")
    assert not offenders(modules("programmes"), ours("steps", "cli", "report", "delivery"))


def test_refmodels_and_delivery_know_no_steps():
    readers = [
        path for part in ("exposures", "headers", "roman", "sources") for path in modules(part)
    ]
    paths = modules("refmodels") + modules("delivery") + readers
    assert len(readers) == 4
    assert not offenders(paths, ours("steps", "cli", "report"))
    assert not offenders(modules("refmodels"), ours("delivery"))


def test_pipelines_are_never_imported_at_the_top():
    """They import every step of the pipeline, and so this package: a circle, and slow."""
    # It is a pipeline; `steps` imports it only when it is asked for.
    own = PACKAGE / "steps" / "detector1.py"
    others = [path for path in FILES if path != own]
    assert not offenders(others, ("jwst.pipeline", "jwst.step"), top_level=True)
    assert not offenders(others, ours("steps.detector1"), top_level=True)


def test_only_the_command_line_prints():
    wrong = [
        f"{name_of(path)}:{node.lineno}"
        for path in FILES
        if name_of(path).split(".")[0] not in ("cli", "__main__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert not wrong


@pytest.mark.parametrize(
    "module", ["jwst_tvbadpix", "jwst_tvbadpix._integration", "jwst_tvbadpix.cli"]
)
def test_import_is_light(module):
    """`strun` and `stpipe list` import the entry points of every package."""
    heavy = (*HEAVY, "numpy", "scipy", "astropy", "bottleneck")
    code = (
        f"import sys, {module}\nprint(*sorted(m for m in {heavy!r} if m in sys.modules), sep=',')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("step", ["TimeVariableBadPixel", "ApplyTimeVariableMask"])
def test_masks_need_no_numerics_of_flats_and_fluxes(step):
    """Nor the packages that only these use, which take as long to import as all the rest."""
    foreign = ("photutils", "scipy.stats", "synphot", *ours("flatfield", "fluxcal"))
    code = (
        f"import sys\nfrom jwst_tvbadpix.steps import {step}\n"
        "from jwst_tvbadpix.report import badpix_page\n"
        f"print(*sorted(m for m in {foreign!r} if m in sys.modules), sep=',')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_have_at_most_600_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_have_at_most_60_lines(path):
    """Lines of code: neither docstring, comments nor empty lines."""
    lines = path.read_text(encoding="utf-8").splitlines()
    long = []
    for node in ast.walk(ast.parse("\n".join(lines))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node, clean=False) is not None
        skipped = range(node.body[0].lineno, node.body[0].end_lineno + 1) if docstring else ()
        count = sum(
            bool(line.strip()) and not line.strip().startswith("#")
            for number, line in enumerate(lines[: node.end_lineno], start=1)
            if number >= node.lineno and number not in skipped
        )
        if count > 60:
            long.append(f"{node.name}: {count}")
    assert not long
