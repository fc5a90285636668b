"""tvbadpix_detector1: the mask of the date without an override, and R_MASK that names it."""

import subprocess
import sys
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from crds.core.exceptions import CrdsLookupError
from dated import DATES, build_setting, draw_static_dq, make_static
from jwst.dq_init.dq_init_step import DQInitStep
from jwst.pipeline import Detector1Pipeline
from pipeline import (
    assert_same_products,
    find_products,
    idle_collector,
    make_bare_environment,
    run_detector1,
)
from stdatamodels.jwst.datamodels import RampModel

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import DateError, DetectorError, InputError
from jwst_tvbadpix.refmodels import write_twins
from jwst_tvbadpix.steps import TvBadPixDetector1Pipeline
from jwst_tvbadpix.steps.detector1 import TvBadPixDQInitStep


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return build_setting(tmp_path_factory.mktemp("dated"))


@pytest.fixture(scope="module")
def ramp(setting):
    return setting.write_ramp(2)


@pytest.fixture(scope="module")
def overridden(setting, ramp):
    mask = str(setting.find_mask(DATES[2]))
    return run_detector1(
        ramp, setting.folder / "override", setting.context, dq_init={"override_mask": mask}
    )


def run(ramp, folder, context, **dq_init):
    with idle_collector(), use_context(context):
        TvBadPixDetector1Pipeline.call(
            str(ramp),
            save_results=True,
            save_calibrated_ramp=True,
            output_dir=str(folder),
            steps={"dq_init": dq_init},
        ).close()
    return find_products(ramp, folder)


def read_history(path):
    return " ".join(map(str, fits.getheader(path).get("HISTORY", [])))


@pytest.mark.parametrize("by", ["history", "masks"])
def test_equals_override_and_names_the_mask(setting, ramp, overridden, tmp_path, by):
    given = {"history": str(setting.history), "masks": [str(setting.masks)]}
    products = run(ramp, tmp_path, setting.context, **{by: given[by]})
    assert_same_products(products, overridden)
    mask = setting.find_mask(DATES[2], ".asdf")
    for path in products.values():
        header = fits.getheader(path)
        assert header["R_MASK"] == mask.name
        assert header["R_GAIN"] == "crds://jwst_miri_gain_0001.fits"
        assert header["S_DQINIT"] == "COMPLETE"
        told = read_history(path)
        assert told.count("dq_init: state of USEAFTER 2023-06-01T00:00:00") == 1
        assert "sha256" in told.replace(" ", "")
    assert mask.is_file()  # what R_MASK names lies beside the history


def test_without_a_history_it_is_the_stock_pipeline(setting, ramp, tmp_path):
    stock = run_detector1(ramp, tmp_path / "stock", setting.context)
    ours = run(ramp, tmp_path / "ours", setting.context)
    assert_same_products(ours, stock)
    for path in ours.values():
        assert fits.getval(path, "R_MASK") == "crds://jwst_miri_mask_0001.fits"
        assert "USEAFTER" not in read_history(path)


def test_no_mask_of_crds_is_asked_for(setting, ramp, overridden, tmp_path):
    """Where the only one is too late, for which the stock pipeline ends with an error."""
    late = make_static(draw_static_dq(), useafter="2030-01-01T00:00:00")
    files = [path for path in write_twins(late, tmp_path / "late") if path.suffix == ".fits"]
    context = build_context(tmp_path / "crds", {"mask": files, **setting.references})
    with pytest.raises(CrdsLookupError):
        run(ramp, tmp_path / "stock", context)
    products = run(ramp, tmp_path / "ours", context, history=str(setting.history))
    assert_same_products(products, overridden)


def test_strun_runs_it(setting, ramp, overridden, tmp_path):
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("strun")),
            "tvbadpix_detector1",
            str(ramp),
            f"--steps.dq_init.history={setting.history}",
            "--save_calibrated_ramp=True",
            f"--output_dir={tmp_path}",
        ],
        env=make_bare_environment() | dict(setting.context.env),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_products(find_products(ramp, tmp_path), overridden)


def test_parameters_of_the_stock_pipeline_apply():
    """Those that CRDS has for calwebb_detector1 and dq_init, and the same steps but one."""
    assert TvBadPixDetector1Pipeline.get_config_reftype() == Detector1Pipeline.get_config_reftype()
    ours, stock = TvBadPixDetector1Pipeline.step_defs, Detector1Pipeline.step_defs
    assert list(ours) == list(stock)
    for name, step in ours.items():
        assert step.get_config_reftype() == stock[name].get_config_reftype()
    assert [name for name in ours if ours[name] is not stock[name]] == ["dq_init"]
    own, theirs = (cls.load_spec_file() for cls in (TvBadPixDetector1Pipeline, Detector1Pipeline))
    assert set(own) == set(theirs)
    assert own["save_calibrated_ramp"] == theirs["save_calibrated_ramp"]
    more = set(own["steps"]["dq_init"]) - set(theirs["steps"]["dq_init"])
    assert more == {"history", "masks"}


def write_parameters(path, cls, parameters, steps=()):
    meta = {"author": "a", "date": "2024-01-01T00:00:00", "description": "d", "origin": "STScI"}
    meta |= {"pedigree": "GROUND", "telescope": "JWST", "useafter": "2021-12-25T00:00:00"}
    meta |= {"instrument": {"name": "MIRI"}, "reftype": f"pars-{cls.__name__.lower()}"}
    tree = {"class": f"{cls.__module__}.{cls.__name__}", "name": cls.__name__, "meta": meta}
    tree |= {"parameters": parameters, "steps": list(steps)}
    file = asdf.AsdfFile(tree)
    file.add_history_entry("Made by a test.")
    file.write_to(path)
    return path


def test_parameter_references_of_crds_are_applied(setting, ramp, tmp_path, monkeypatch):
    jump = {"class": "jwst.jump.jump_step.JumpStep", "name": "jump"}
    jump["parameters"] = {"rejection_threshold": 77.0}
    files = {
        "pars-detector1pipeline": [
            write_parameters(
                tmp_path / "d.asdf", Detector1Pipeline, {"save_calibrated_ramp": True}, [jump]
            )
        ],
        "pars-dqinitstep": [
            write_parameters(tmp_path / "q.asdf", DQInitStep, {"user_supplied_dq": "user.fits"})
        ],
    }
    context = build_context(tmp_path / "crds", {**files, "gain": setting.references["gain"]})
    with use_context(context):
        monkeypatch.delenv("STPIPE_DISABLE_CRDS_STEPPARS")
        config, _ = TvBadPixDetector1Pipeline.build_config(str(ramp))
    assert config["save_calibrated_ramp"]
    assert config["steps"]["jump"]["rejection_threshold"] == 77.0
    assert config["steps"]["dq_init"]["user_supplied_dq"] == "user.fits"


@pytest.mark.parametrize(
    ("date", "detector", "error", "words"),
    [
        ("2021-06-01", "MIRIMAGE", DateError, "from 2021-12-25T00:00:00 on"),
        (None, "MIRIMAGE", DateError, "DATE-OBS"),
        ("2023-01-01", "MIRIFULONG", DetectorError, "MIRIFULONG"),
    ],
)
def test_ramps_that_have_no_mask(setting, ramp, date, detector, error, words):
    step = TvBadPixDQInitStep(history=str(setting.history))
    with RampModel(str(ramp)) as model:
        model.meta.observation.date, model.meta.instrument.detector = date, detector
        with pytest.raises(error, match=words):
            step.process(model)


def test_history_and_override_contradict(setting, ramp):
    mask = str(setting.find_mask(DATES[2]))
    step = TvBadPixDQInitStep(history=str(setting.history), override_mask=mask)
    with pytest.raises(InputError, match="override_mask"):
        step.process(str(ramp))


def test_the_next_exposure_gets_its_own_mask(setting, tmp_path):
    """One pipeline object, two dates."""
    pipeline = TvBadPixDetector1Pipeline(steps={"dq_init": {"history": str(setting.history)}})
    names = []
    with idle_collector(), use_context(setting.context):
        for number in (0, 3):
            rate = pipeline.run(str(setting.write_ramp(number)))
            names.append(rate.meta.ref_file.mask.name)
            rate.close()
    assert names == [setting.find_mask(DATES[n], ".asdf").name for n in (0, 3)]
    assert len(set(names)) == 2


def test_it_is_loaded_only_when_asked_for():
    code = (
        "import sys; from jwst_tvbadpix.steps import ApplyTimeVariableMask; "
        "print('jwst.pipeline' in sys.modules); "
        "from jwst_tvbadpix.steps import TvBadPixDetector1Pipeline; "
        "print('jwst.pipeline' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.split() == ["False", "True"]


def test_dq_init_alone(setting, ramp):
    with use_context(setting.context):
        model = TvBadPixDQInitStep.call(str(ramp), masks=[str(setting.masks)])
    mask = setting.find_mask(DATES[2], ".asdf")
    assert model.meta.ref_file.mask.name == mask.name
    dated = fits.getdata(mask.with_suffix(".fits"), "DQ")[528:944, :72]
    np.testing.assert_array_equal(model.pixeldq, dated)
    model.close()
