import re
import subprocess
import sys
from dataclasses import fields
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import asdf
import pytest
import yaml
from pipeline import make_bare_environment

from jwst_tvbadpix import steps
from jwst_tvbadpix._integration import SCHEMA_URI_PREFIX, get_steps
from jwst_tvbadpix.badpix import DATING, Settings
from jwst_tvbadpix.refmodels import check_useafter
from jwst_tvbadpix.refmodels.badpix import BASE_POLICIES
from jwst_tvbadpix.steps import TimeVariableBadPixel

# One line of a spec: name = type(...)  # sentence
SPEC_LINE = re.compile(r"(?P<name>\w+) = (?P<kind>\w+)\((?P<rest>.*)\)  # (?P<sentence>\S.*)")


def run(command, *arguments):
    """Run a console script of the environment the tests run in, without any CRDS set-up."""
    script = Path(sys.executable).with_name(command)
    return subprocess.run(
        [str(script), *arguments],
        env=make_bare_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def read_spec(step):
    return [line.strip() for line in step.spec.splitlines() if line.strip()]


def find_class(name):
    module, _, cls = name.rpartition(".")
    return getattr(import_module(module), cls)


def test_entry_point_is_installed():
    (own,) = [e for e in entry_points(group="stpipe.steps") if e.name == "jwst_tvbadpix"]
    assert own.load() is get_steps


@pytest.mark.parametrize(("name", "alias", "is_pipeline"), get_steps())
def test_listed_steps_import_and_carry_their_alias(name, alias, is_pipeline):
    step = find_class(name)
    assert step.class_alias == alias
    assert bool(getattr(step, "step_defs", {})) is is_pipeline


def test_every_step_of_the_package_is_listed():
    listed = {name.rpartition(".")[2] for name, *_ in get_steps()}
    assert set(steps.__all__) == listed
    for name in steps.__all__:
        assert getattr(steps, name).__module__.startswith("jwst_tvbadpix.steps.")
    with pytest.raises(AttributeError, match="NoSuchStep"):
        _ = steps.NoSuchStep


def test_listing_the_steps_imports_nothing_heavy():
    code = (
        "import sys; from jwst_tvbadpix._integration import get_steps; get_steps(); "
        "import jwst_tvbadpix.steps; "
        "print(sorted({'jwst', 'numpy', 'asdf', 'astropy', 'stdatamodels'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]"


def list_imports(name):
    """Modules that are imported when ``strun NAME --help`` ends."""
    code = (
        "import atexit, sys; sys.argv = ['strun', sys.argv[1], '--help']; "
        "atexit.register(lambda: print('\\n', *sorted(sys.modules), file=sys.stderr)); "
        "from stpipe._cli.strun import main; main()"
    )
    command = [sys.executable, "-c", code, name]
    env = make_bare_environment()
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=300)
    return set(done.stderr.splitlines()[-1].split())


@pytest.fixture(scope="module")
def help_of_jwst():
    return list_imports("badpix_selfcal")


def test_help_of_other_steps_pays_for_two_small_modules(help_of_jwst):
    ours = {name for name in help_of_jwst if name.startswith("jwst_tvbadpix")}
    assert ours == {"jwst_tvbadpix", "jwst_tvbadpix._integration"}


@pytest.mark.parametrize("alias", [alias for _, alias, pipeline in get_steps() if not pipeline])
def test_help_of_our_steps_imports_less_than_that_of_others(alias, help_of_jwst):
    """What takes time are the packages, and ours leaves most of jwst alone."""
    found = list_imports(alias)
    assert not {name.partition(".")[0] for name in found - help_of_jwst} & {
        *("bokeh", "ccdproc", "dask", "distributed", "jinja2", "pandas", "requests", "synphot")
    }
    assert f"jwst_tvbadpix.steps.{alias}" in found
    assert "jwst.step" in help_of_jwst - found
    assert len(found) < len(help_of_jwst)


def test_stpipe_lists_it():
    done = run("stpipe", "list", "jwst_tvbadpix*")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    lines = done.stdout.split("\n")
    for name, alias, _ in get_steps():
        assert any(name in line and alias in line for line in lines), done.stdout


def test_help_shows_every_parameter_and_its_sentence():
    done = run("strun", "time_variable_bad_pixel", "--help")
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.split())
    for line in read_spec(TimeVariableBadPixel):
        found = SPEC_LINE.fullmatch(line)
        assert f"--{found['name']} " in shown
        assert " ".join(found["sentence"].split()) in shown


@pytest.mark.parametrize("name", [name for name, *_ in get_steps()])
def test_every_spec_line_has_a_sentence(name):
    for cls in find_class(name).__mro__:
        if not cls.__module__.startswith("jwst_tvbadpix"):
            continue
        lines = read_spec(cls)
        assert lines
        for line in lines:
            found = SPEC_LINE.fullmatch(line)
            assert found, line
            assert "default=" in found["rest"], line
            assert len(found["sentence"].split()) >= 3, line
            assert found["sentence"][0].isupper() or found["sentence"].startswith("USEAFTER"), line


def test_numeric_parameters_are_the_settings_of_the_search():
    defaults = TimeVariableBadPixel().get_pars()
    names = [SPEC_LINE.fullmatch(line)["name"] for line in read_spec(TimeVariableBadPixel)]
    settings = {f.name: f.default for f in fields(Settings)}
    assert {name: defaults[name] for name in settings} == settings
    for name, value in settings.items():
        assert type(defaults[name]) is type(value), name
    other = ["base_mask", "base_policy", "mask_filter", "dating", "first_useafter", "suffix"]
    other += ["events", "event_boost", "self_test", "max_masks", "depth", "report"]
    other += ["store", "max_memory", "scheduler"]
    assert sorted(names) == sorted([*settings, *other])


def read_options(name):
    (line,) = [line for line in read_spec(TimeVariableBadPixel) if line.startswith(f"{name} =")]
    found = SPEC_LINE.fullmatch(line)
    assert found["kind"] == "option"
    choices, _, default = found["rest"].partition(", default=")
    return tuple(word.strip().strip("'") for word in choices.split(",")), default.strip("'")


def test_options_are_those_of_the_code():
    assert read_options("dating") == (DATING, "midpoint")
    assert read_options("base_policy") == (BASE_POLICIES, "arbitrate")
    check_useafter(TimeVariableBadPixel().first_useafter)


def test_schemas_resolve_by_their_id():
    folder = files("jwst_tvbadpix") / "reference_schemas"
    schemas = sorted(path for path in folder.iterdir() if path.name.endswith(".schema.yaml"))
    assert schemas
    assert len(schemas) == len(list(folder.iterdir()))
    manager = asdf.get_config().resource_manager
    for path in schemas:
        content = path.read_bytes()
        uri = yaml.safe_load(content)["id"]
        assert uri == f"{SCHEMA_URI_PREFIX}/{path.name.removesuffix('.yaml')}"
        assert manager[uri] == content
