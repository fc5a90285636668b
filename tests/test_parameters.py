import json
import shutil
import subprocess
import sys
from pathlib import Path

import asdf
import crds
import numpy as np
import pytest
from astropy.io import fits
from crds import certify
from crds.core import log
from jwst.pipeline import Spec2Pipeline
from pipeline import make_bare_environment
from stdatamodels.jwst.datamodels import read_metadata
from stpipe import Step
from stpipe.entry_points import get_steps

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import build_context, open_context, use_context
from jwst_tvbadpix.errors import InputError, ProductError
from jwst_tvbadpix.parameters import (
    NEUTRAL_MASK,
    TABLE,
    copy_parameters,
    find_shipped,
    make_files,
    read_parameters,
)
from jwst_tvbadpix.proof import RECOMMENDED
from jwst_tvbadpix.refmodels import build_mask, build_neutral_mask, write_twins
from jwst_tvbadpix.simulate import (
    ExposureSpec,
    build_lrs_scene,
    make_imaging_setup,
    write_ramp,
    write_rate,
    write_references,
)
from jwst_tvbadpix.steps import TimeVariableBadPixel

STAGES = [name for name in TABLE if not name.startswith("time_variable")]
SCHEMAS = ("step_config-1.0.0", "step_config_with_metadata-1.0.0")
OWN = "pars-timevariablebadpixel"


def read_tree(path):
    with asdf.open(path) as file:
        tree = {key: file.tree[key] for key in file.tree if key not in ("asdf_library", "history")}
        return json.loads(json.dumps(tree))


@pytest.mark.parametrize("name", TABLE)
def test_shipped_files_are_those_of_the_table(name, tmp_path):
    (made,) = [path for path in make_files(tmp_path) if path.stem == name]
    assert read_tree(find_shipped(name)) == read_tree(made)
    assert sorted(tmp_path.iterdir()) == sorted(tmp_path / f"{each}.asdf" for each in TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_shipped_files_are_valid_against_the_schemas_of_stpipe(name):
    for schema in SCHEMAS:
        uri = f"http://stsci.edu/schemas/stpipe/{schema}"
        with asdf.open(find_shipped(name), custom_schema=uri) as file:
            text = json.dumps(read_tree(find_shipped(name)))
            assert file["meta"]["reftype"] == f"pars-{file['name'].lower()}"
    assert "SPECIFY" not in text
    assert "input_dir" not in text
    assert "output_dir" not in text
    bad = read_tree(find_shipped(name))
    bad["meta"]["author"] = "<SPECIFY>"
    with pytest.raises(asdf.ValidationError, match="SPECIFY"):
        asdf.AsdfFile(bad, custom_schema=uri).validate()


@pytest.mark.parametrize("name", TABLE)
def test_every_parameter_is_set_and_the_others_are_left_alone(name):
    """The class takes the file, and what differs from its defaults is what the table says."""
    entry, found = TABLE[name], read_parameters(name)
    step = Step.from_config_file(str(find_shipped(name)))
    assert type(step) is found.step_class
    assert found.step_class.__name__ in {c.class_name.rpartition(".")[2] for c in get_steps()}
    pars, defaults = step.get_pars(), found.step_class().get_pars()
    steps = pars.pop("steps", {}), defaults.pop("steps", {})
    for key, value in entry.parameters.items():
        assert pars.pop(key) == value
        defaults.pop(key)
    assert pars == defaults
    for part, parameters in steps[0].items():
        wanted = dict(entry.steps.get(part, {}))
        if "override_mask" in wanted:  # no parameter by its specification
            assert step.dq_init.override_mask == wanted.pop("override_mask")
        assert parameters == {**steps[1][part], **wanted}
        assert not wanted or parameters != steps[1][part]


def test_lrs_files_turn_pixel_replacement_on_and_say_why():
    for name in ("spec2_lrs_slit", "spec2_lrs_slitless"):
        tree = read_tree(find_shipped(name))
        step = Step.from_config_file(str(find_shipped(name)))
        assert step.pixel_replace.skip is False
        assert step.pixel_replace.algorithm == RECOMMENDED
        weights = ("exptime", "ivm")[name == "spec2_lrs_slitless"]
        assert step.resample_spec.weight_type == weights
        assert type(step)().pixel_replace.skip is True
        assert "pixel_replace is on" in tree["meta"]["description"]
        assert "deficit" in tree["meta"]["description"]


def test_lrs_defaults_of_the_search_are_those_of_the_step():
    defaults = TimeVariableBadPixel().get_pars()
    for key, value in TABLE["time_variable_bad_pixel_lrs"].parameters.items():
        assert key == "mask_filter" or defaults[key] == value


@pytest.fixture(scope="module")
def pars_context(tmp_path_factory):
    references = {}
    for name in STAGES:
        if name != "image2_flats":  # selected for the same exposures as those of standard stars
            references.setdefault(TABLE[name].reftype, []).append(find_shipped(name))
    return build_context(tmp_path_factory.mktemp("pars"), references)


def test_crds_certifies_them(pars_context):
    paths = [str(find_shipped(name)) for name in STAGES if name != "image2_flats"]
    with use_context(pars_context):
        for group in (paths, [str(find_shipped("image2_flats"))]):
            log.reset()
            certify.certify_files(group, "jwst_0001.pmap", observatory="jwst")
            assert (log.errors(), log.warnings()) == (0, 0)


def test_certify_would_complain(pars_context, tmp_path):
    with asdf.open(find_shipped("spec2_mrs")) as file:
        tree = dict(file.tree)
        del tree["meta"]["pedigree"]
        asdf.AsdfFile(tree).write_to(tmp_path / "bad.asdf")
    with use_context(pars_context):
        log.reset()
        certify.certify_files([str(tmp_path / "bad.asdf")], "jwst_0001.pmap", observatory="jwst")
        assert log.errors() > 0


def test_listed_with_class_and_purpose(capsys):
    assert main(["parameters"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TABLE)
    for line, entry in zip(lines, TABLE.values(), strict=True):
        assert entry.class_name.rpartition(".")[2] in line
        assert entry.purpose in line


def test_copied_out(tmp_path, capsys):
    folder = tmp_path / "new"
    arguments = ["parameters", "spec2_mrs", "image2_flats", "--output-dir", str(folder)]
    for _ in range(2):  # a copy may be replaced by the same
        assert main(arguments) == 0
        paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
        assert paths == [folder / "spec2_mrs.asdf", folder / "image2_flats.asdf"]
        assert read_tree(paths[0]) == read_tree(find_shipped("spec2_mrs"))
    (folder / "spec2_mrs.asdf").write_text("mine")
    assert main(arguments) == 1
    assert "differs" in capsys.readouterr().err
    assert (folder / "spec2_mrs.asdf").read_text() == "mine"


def test_unknown_names_copy_nothing(tmp_path, capsys):
    assert main(["parameters", "spec2_mrs", "nosuch", "--output-dir", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "nosuch" in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())


def test_a_copy_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ProductError, match=r"write .*/file/spec2_mrs.asdf"):
        copy_parameters("spec2_mrs", tmp_path / "file")
    full = """if True:
        import resource, sys
        from jwst_tvbadpix.cli import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
        sys.exit(main(["parameters", "spec2_mrs", "--output-dir", sys.argv[1]]))
    """
    run = subprocess.run(
        [sys.executable, "-B", "-c", full, str(tmp_path / "out")],
        env=make_bare_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 1
    assert "spec2_mrs.asdf, found [Errno 27]" in run.stderr
    assert list((tmp_path / "out").iterdir()) == []


def write_neutral(folder):
    return write_twins(build_neutral_mask("MIRIMAGE"), Path(folder) / Path(NEUTRAL_MASK).stem)[1]


def test_mask_is_filled_in(tmp_path, capsys):
    mask = write_neutral(tmp_path)
    copy = copy_parameters("detector1_neutral", tmp_path, mask=mask)
    (override,) = read_parameters(copy).overrides
    assert override == ("dq_init", "override_mask", str(mask))
    tree = read_tree(copy)
    assert str(mask) in tree["meta"]["description"]
    assert NEUTRAL_MASK not in tree["meta"]["description"].replace(str(mask), "")
    with pytest.raises(InputError, match="detector1_neutral"):
        copy_parameters("spec2_mrs", tmp_path, mask=mask)
    with pytest.raises(ValueError, match=r"nosuch\.fits"):
        copy_parameters("detector1_neutral", tmp_path / "x", mask=tmp_path / "nosuch.fits")
    assert not (tmp_path / "x").exists()
    assert main(["parameters", "--mask", str(mask)]) == 1
    assert "names to copy" in capsys.readouterr().err


def write_pars(path, **tree):
    content = {"class": "jwst.pipeline.Spec2Pipeline", "name": "x", "parameters": {}, **tree}
    asdf.AsdfFile({k: v for k, v in content.items() if v is not None}).write_to(path)
    return path


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"class": "no.such.Pipeline"}, "class that is installed"),
        ({"class": "pathlib.Path"}, "step or pipeline"),
        ({"class": None}, "'class' is a required property"),
        ({"name": None}, "name beside each class"),
        ({"parameters": {"nosuch": 1}}, "nosuch"),
        ({"parameters": {"skip": 5}}, "skip"),
    ],
)
def test_bad_parameter_files_are_refused_by_name(tmp_path, tree, words):
    path = write_pars(tmp_path / "mine.asdf", **tree)
    with pytest.raises(InputError, match=words) as caught:
        read_parameters(path)
    assert "mine.asdf" in str(caught.value)


def test_what_is_no_parameter_file_is_refused(tmp_path):
    (tmp_path / "text.asdf").write_text("[steps]")
    for name, words in (("text.asdf", "ASDF parameter file"), ("absent.asdf", "No such file")):
        with pytest.raises(InputError, match=words) as caught:
            read_parameters(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="Is a directory"):
        read_parameters(tmp_path)


# ----- in a CRDS context -----


@pytest.fixture(scope="module")
def exposures(tmp_path_factory):
    """LRS rates of two dates and an image, all of one field."""
    folder = tmp_path_factory.mktemp("exposures")
    scene = build_lrs_scene(seed=3)
    dates = {"early": 59800.0, "late": 60400.0}
    return {
        name: write_rate(folder, ExposureSpec(mjd, seed=k, observation=710 + k), scene)
        for k, (name, mjd) in enumerate(dates.items())
    }


def write_own(path, useafter, exp_type, **parameters):
    tree = read_tree(find_shipped("time_variable_bad_pixel_lrs"))
    tree["parameters"] = parameters
    tree["meta"]["useafter"] = useafter
    tree["meta"]["exposure"] = {"type": exp_type}
    asdf.AsdfFile(tree).write_to(path)
    return path


@pytest.fixture(scope="module")
def own_context(tmp_path_factory):
    """Parameters of our step: for LRS through the slit of two epochs, and for images."""
    folder = tmp_path_factory.mktemp("own")
    files = [
        write_own(folder / "a.asdf", "2021-12-25T00:00:00", "MIR_LRS-FIXEDSLIT", fdr=0.03),
        write_own(folder / "b.asdf", "2023-09-01T00:00:00", "MIR_LRS-FIXEDSLIT", fdr=0.04),
        write_own(folder / "c.asdf", "2021-12-25T00:00:00", "MIR_IMAGE", fdr=0.05),
    ]
    return build_context(folder / "crds", {OWN: files})


def find_fdr(step_class, *arguments, **keywords):
    config, _ = step_class.build_config(*arguments, **keywords)
    config.pop("class", None)
    return step_class.from_config_section(config).fdr


def test_own_parameters_are_found_by_date_and_exposure_type(own_context, exposures, tmp_path):
    image = write_rate(
        tmp_path,
        ExposureSpec(59800.0, seed=9, setup=make_imaging_setup()),
        build_lrs_scene(seed=3),
    )
    with use_context(own_context):
        assert find_fdr(TimeVariableBadPixel, str(exposures["early"])) == 0.03
        assert find_fdr(TimeVariableBadPixel, str(exposures["late"])) == 0.04
        assert find_fdr(TimeVariableBadPixel, str(image)) == 0.05
        assert find_fdr(TimeVariableBadPixel, str(exposures["late"]), fdr=0.1) == 0.1
    assert find_fdr(TimeVariableBadPixel, str(exposures["late"])) == 0.02


def test_strun_takes_them_and_the_command_line_wins(own_context, exposures, tmp_path):
    """In a process that has the environment of the context alone, as `tvbadpix context` gives."""
    strun = str(Path(sys.executable).with_name("strun"))
    saved = tmp_path / "saved.asdf"
    for arguments, fdr in (([], 0.04), (["--fdr=0.2"], 0.2)):
        done = subprocess.run(
            [
                strun,
                "time_variable_bad_pixel",
                str(exposures["late"]),
                f"--save-parameters={saved}",
                *arguments,
            ],
            env={**make_bare_environment(), **own_context.env},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode != 0  # one exposure is too little
        assert read_tree(saved)["parameters"]["fdr"] == fdr, done.stderr
        assert "jwst_miri_pars-timevariablebadpixel_0002.asdf" in done.stderr
        assert "Traceback" not in done.stderr.partition("parameters found")[0]


def test_stages_take_theirs_from_a_context(pars_context, exposures):
    with use_context(pars_context):
        config, _ = Spec2Pipeline.build_config(str(exposures["late"]))
    assert config["steps"]["pixel_replace"]["skip"] is False


def test_a_context_without_parameters_disables_them_and_others_do_not(
    pars_context, own_context, tmp_path
):
    mask = write_neutral(tmp_path)
    plain = build_context(tmp_path / "crds", {"mask": [mask]})
    switch = "STPIPE_DISABLE_CRDS_STEPPARS"
    assert plain.env[switch] == "true"
    assert pars_context.env[switch] == own_context.env[switch] == "false"
    for context in (plain, pars_context, own_context):
        opened = open_context(context.env["CRDS_PATH"])
        assert opened.env == context.env


def test_parameters_of_all_installed_steps_are_known_to_a_context(own_context):
    """A stock pipeline would complain loudly for each step whose parameters are unknown."""
    keys = {
        "META.INSTRUMENT.NAME": "MIRI",
        "META.EXPOSURE.TYPE": "MIR_MRS",
        "META.OBSERVATION.DATE": "2024-01-01",
        "META.OBSERVATION.TIME": "00:00:00",
    }
    types = sorted({f"pars-{c.class_name.rpartition('.')[2].lower()}" for c in get_steps()})
    assert len(types) > 50
    with use_context(own_context):
        found = crds.getreferences(keys, reftypes=[*types], observatory="jwst")
    assert all("N/A" in value.upper() for key, value in found.items() if key != OWN)


def test_a_damaged_cache_is_refused_by_name(own_context, tmp_path):
    with pytest.raises(InputError, match="nothing_here"):
        open_context(tmp_path / "nothing_here")
    cache = tmp_path / "half"
    shutil.copytree(own_context.env["CRDS_PATH"], cache)
    (rmap,) = (cache / "mappings" / "jwst").glob("*timevariable*.rmap")
    rmap.write_text(rmap.read_text()[:200])
    with pytest.raises(InputError, match="half"):
        open_context(cache)


# ----- with the stages themselves -----


def test_detector1_runs_from_the_file_with_the_neutral_mask(tmp_path):
    """`strun detector1_neutral.asdf` takes the mask that lies in the folder, and no other."""
    dq = np.zeros((1024, 1032), np.uint32)
    dq[560, 30] = 1
    static = build_mask(
        dq,
        detector="MIRIMAGE",
        useafter="2021-12-25T00:00:00",
        description="One bad pixel",
        history=["Made by a test."],
        pedigree="SIMULATION",
    )
    mask = write_twins(static, tmp_path / "static")[1]
    context = build_context(
        tmp_path / "crds", {"mask": [mask], **write_references(tmp_path / "references")}
    )
    spec = ExposureSpec(60000.0, subarray="SLITLESSPRISM", ngroups=5, nints=1, seed=4)
    ramp = write_ramp(tmp_path, spec, build_lrs_scene(seed=3))
    copy = copy_parameters("detector1_neutral", tmp_path)
    command = [str(Path(sys.executable).with_name("strun")), copy.name, ramp.name]
    neutral = write_neutral(tmp_path)
    done = subprocess.run(
        command,
        env={**make_bare_environment(), **context.env},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rate = ramp.with_name(ramp.name.replace("_uncal", "_rate"))
    assert fits.getval(rate, "R_MASK") == str(neutral)
    y = 560 - spec.region.slices[0].start
    assert not fits.getdata(rate, "DQ")[y, 30] & 1
    with use_context(context):
        stock = crds.getreferences(read_keys(rate), reftypes=["mask"], observatory="jwst")
    assert Path(stock["mask"]).name == "jwst_miri_mask_0001.fits"


def read_keys(path):
    return {key.upper(): str(value) for key, value in read_metadata(path, flatten=True).items()}
