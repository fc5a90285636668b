"""Stages over associations: what is planned, kept, resumed and refused.

Most runs here are of the quick stages beside; one is of calwebb_detector1 and
calwebb_spec2 themselves.
"""

import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from pipeline import make_bare_environment
from tasks import LIMIT_S, act, is_alive, started, wait_until

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import InputError, ProductError
from jwst_tvbadpix.files import compute_sha256
from jwst_tvbadpix.refmodels import build_mask, build_neutral_mask, write_twins
from jwst_tvbadpix.reprocess import plan_reprocess, reprocess
from jwst_tvbadpix.reprocess.ledger import STATE_FOLDER, open_ledger
from jwst_tvbadpix.reprocess.plan import read_exposures, read_masks, read_stages
from jwst_tvbadpix.reprocess.workers import Workers
from jwst_tvbadpix.simulate import (
    DarkPedestal,
    ExposureSpec,
    Scene,
    SkyField,
    StarTrace,
    build_lrs_scene,
    make_imaging_setup,
    write_ramp,
    write_rate,
    write_references,
    write_spectral_references,
)

TESTS = Path(__file__).parent
OBSERVATIONS = (701, 702, 703)


def write_pars(path, step_class, **parameters):
    tree = {"class": step_class, "name": step_class.rpartition(".")[2], "parameters": parameters}
    asdf.AsdfFile(tree).write_to(path)
    return path


def write_asn(path, *products):
    """Each product a list of (expname, exptype), or of names of science members."""
    content = [
        {
            "name": f"p{k}",
            "members": [
                {"expname": m, "exptype": "science"}
                if isinstance(m, str)
                else {"expname": m[0], "exptype": m[1]}
                for m in members
            ],
        }
        for k, members in enumerate(products)
    ]
    path.write_text(json.dumps({"products": content}))
    return path


class Place:
    """Three small slitless ramps, a CRDS context for them, and quick stages."""

    def __init__(self, folder):
        self.folder = folder
        scene = build_lrs_scene(seed=1)
        self.ramps = [
            write_ramp(
                folder,
                ExposureSpec(
                    59800.0 + k, subarray="SLITLESSPRISM", ngroups=4, nints=2, seed=k, observation=k
                ),
                scene,
            )
            for k in OBSERVATIONS
        ]
        self.asn = write_asn(folder / "ramps_asn.json", [ramp.name for ramp in self.ramps])
        static = build_mask(
            np.zeros((1024, 1032), np.uint32),
            detector="MIRIMAGE",
            useafter="2021-12-25T00:00:00",
            description="No bad pixel",
            history=["Made by a test."],
            pedigree="SIMULATION",
        )
        self.mask = write_twins(static, folder / "static")[1]
        self.neutral = write_twins(build_neutral_mask("MIRIMAGE"), folder / "neutral")[1]
        self.references = write_references(folder / "references")
        self.context = build_context(folder / "crds", {"mask": [self.mask], **self.references})
        self.rates = self.write_pars("rates")

    def write_pars(self, name, step="QuickDetector1", **parameters):
        return write_pars(self.folder / f"{name}.asdf", f"quick_stages.{step}", **parameters)

    @property
    def names(self):
        return [ramp.stem.removesuffix("_uncal") for ramp in self.ramps]

    def run(self, output, *parameters, asn=None, **keywords):
        return reprocess(
            asn or self.asn,
            parameters or [self.rates],
            output_dir=output,
            context=self.context,
            **{"processes": 1, **keywords},
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return Place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def forked(monkeypatch):
    """Processes that have imported all that this one has, 4 s each; others here start afresh."""
    importlib.import_module("quick_stages")
    monkeypatch.setattr("jwst_tvbadpix.reprocess.workers._START", "fork")
    # They hold the ends of each other's pipes, and are killed.
    monkeypatch.setattr("jwst_tvbadpix.reprocess.workers._PATIENCE_S", 0.1)


# Warnings are errors in them no more than in those that start afresh; xdist has a thread, which
# waits, but makes python 3.12 warn.
forks = pytest.mark.filterwarnings("default")


def states(result):
    return [outcome.state for outcome in result.outcomes]


def find_leftovers(folder):
    """All that a run should not leave: work in progress, hidden and temporary files."""
    known = {STATE_FOLDER, "lock"}
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.name not in known and path.suffix not in (".fits", ".json", ".log")
    ) + sorted(path.name for path in folder.rglob("work-*"))


def assert_same_files(one, two):
    """Require equal files but for dates: the primary DATE, and the log in the ASDF extension."""
    names = sorted(path.name for path in one.glob("*.fits"))
    assert names
    assert names == sorted(path.name for path in two.glob("*.fits"))
    for name in names:
        diff = fits.FITSDiff(
            str(one / name), str(two / name), ignore_keywords=["DATE"], ignore_hdus=["ASDF"]
        )
        assert diff.identical, diff.report()


# ----- what is planned -----


def plan(asn, levels=(1,)):
    exposures = read_exposures(asn, levels)
    return {
        one.path.name: (one.is_look, [(path.name, kind) for path, kind in one.others])
        for one in exposures.values()
    }


@pytest.fixture
def empty_files(tmp_path):
    for name in "abcd":
        (tmp_path / f"{name}_rate.fits").touch()
    return tmp_path


def test_absent_members_are_all_named(empty_files):
    asn = write_asn(empty_files / "asn.json", ["a_rate.fits", "x_rate.fits", "/no/y_rate.fits"])
    with pytest.raises(InputError, match="2 absent") as caught:
        plan(asn)
    assert str(empty_files / "x_rate.fits") in str(caught.value)
    assert "/no/y_rate.fits" in str(caught.value)
    assert "a_rate" not in str(caught.value)
    with pytest.raises(InputError, match="1 absent"):
        plan(write_asn(empty_files / "asn.json", ["a_rate.fits", "/"]))


def test_all_products_are_taken_and_each_exposure_once(empty_files):
    absolute = str(empty_files / "c_rate.fits")
    asn = write_asn(empty_files / "asn.json", ["a_rate.fits", "b_rate.fits"], [absolute])
    assert list(plan(asn)) == ["a_rate.fits", "b_rate.fits", "c_rate.fits"]
    asn = write_asn(empty_files / "asn.json", ["a_rate.fits"], ["a_rate.fits"])
    assert list(plan(asn)) == ["a_rate.fits"]


def test_backgrounds_accompany_science(empty_files):
    nods = [
        [("a_rate.fits", "science"), ("b_rate.fits", "background")],
        [("b_rate.fits", "SCIENCE"), ("a_rate.fits", "background"), ("c_rate.fits", "imprint")],
    ]
    found = plan(write_asn(empty_files / "asn.json", *nods))
    assert found["a_rate.fits"] == (True, [("b_rate.fits", "background")])
    assert found["b_rate.fits"] == (
        True,
        [("a_rate.fits", "background"), ("c_rate.fits", "imprint")],
    )
    assert found["c_rate.fits"] == (False, [])


def test_backgrounds_alone_are_looks_themselves(empty_files):
    asn = write_asn(empty_files / "asn.json", [("a_rate.fits", "background")])
    assert plan(asn) == {"a_rate.fits": (True, [])}


def test_other_members_go_to_stage_2_as_they_are(empty_files):
    members = [("a_rate.fits", "science"), ("ta_cal.fits", "target_acquisition")]
    asn = write_asn(empty_files / "asn.json", members)
    assert list(plan(asn, [1])) == ["a_rate.fits"]  # it need not be there for stage 1
    with pytest.raises(InputError, match="ta_cal"):
        plan(asn, [2])
    (empty_files / "ta_cal.fits").touch()
    assert plan(asn, [2]) == {"a_rate.fits": (True, [("ta_cal.fits", "target_acquisition")])}


def test_the_ramp_beside_a_rate_is_taken(empty_files):
    (empty_files / "a_uncal.fits").touch()
    asn = write_asn(empty_files / "asn.json", ["a_rate.fits", "b_rate.fits"])
    assert list(plan(asn, [1, 2])) == ["a_uncal.fits", "b_rate.fits"]
    assert list(plan(asn, [2])) == ["a_rate.fits", "b_rate.fits"]


def test_a_link_is_the_exposure_that_it_leads_to_by_its_own_name(empty_files):
    """In a store by checksum the target has any name; the same file twice is one exposure."""
    (empty_files / "again").mkdir()
    for name in ("l_uncal.fits", "again/l_uncal.fits"):
        (empty_files / name).symlink_to(empty_files / "a_rate.fits")
    asn = write_asn(empty_files / "asn.json", ["l_uncal.fits"], ["again/l_uncal.fits"])
    assert plan(asn) == {"l_uncal.fits": (True, [])}


def test_contradictions_are_refused(empty_files):
    (empty_files / "sub").mkdir()
    (empty_files / "sub" / "a_rate.fits").touch()
    asn = write_asn(empty_files / "asn.json", ["a_rate.fits", "sub/a_rate.fits"])
    with pytest.raises(InputError, match="same name"):
        plan(asn)
    products = [[("a_rate.fits", "science"), (f"{b}_rate.fits", "background")] for b in "bc"]
    with pytest.raises(InputError, match="different ones"):
        plan(write_asn(empty_files / "asn.json", *products))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"products": [{"members": [{}]}]}', "nonsense"])
def test_what_is_no_association_is_refused_by_name(tmp_path, text):
    (tmp_path / "bad_asn.json").write_text(text)
    with pytest.raises(InputError, match=r"bad_asn\.json"):
        plan(tmp_path / "bad_asn.json")
    with pytest.raises(InputError, match="absent"):
        plan(tmp_path / "absent.json")
    with pytest.raises(InputError, match="science or background"):
        plan(write_asn(tmp_path / "bad_asn.json", [("x.fits", "sourcecat")]))


@pytest.mark.parametrize(
    "step_class",
    [
        "jwst_tvbadpix.steps.TimeVariableBadPixel",
        "jwst.dq_init.DQInitStep",
        "jwst.pipeline.Image3Pipeline",
        "stpipe.Step",
    ],
)
def test_parameters_of_another_class_are_refused_by_name(tmp_path, step_class):
    path = write_pars(tmp_path / "other.asdf", step_class)
    with pytest.raises(InputError, match=step_class.rpartition(".")[2]) as caught:
        read_stages([path])
    assert "other.asdf" in str(caught.value)


def test_stages_are_put_in_order_one_of_each_level():
    found = read_stages(["spec2_mrs", "detector1_neutral"])
    assert [stage.alias for stage in found] == ["calwebb_detector1", "calwebb_spec2"]
    for names in ([], ["spec2_mrs", "image2_flats"]):
        with pytest.raises(InputError, match="one of each level"):
            read_stages(names)


def test_masks_are_told_apart_by_detector(place, tmp_path, monkeypatch):
    stages = read_stages(["detector1_neutral"])
    assert read_masks([place.neutral], stages) == {"MIRIMAGE": place.neutral}
    with pytest.raises(InputError, match="one mask for each detector"):
        read_masks([place.neutral, place.mask], stages)
    with pytest.raises(InputError, match="calwebb_detector1 with the mask"):
        read_masks([place.neutral], read_stages(["spec2_mrs"]))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"neutral_MIRIMAGE_mask\.fits.*\n?.*neutral-mask"):
        read_masks([], stages)
    write_twins(build_neutral_mask("MIRIMAGE"), tmp_path / "neutral_MIRIMAGE_mask")
    assert read_masks([], stages) == {"MIRIMAGE": tmp_path / "neutral_MIRIMAGE_mask.fits"}


# ----- what is kept -----

MADE = {"inputs": [["a", "b"]], "parameters": "c"}


def publish(ledger, made_from=MADE, **contents):
    work = ledger.make_work_folder("k")
    for name, text in contents.items():
        (work / name).write_text(text)
    ledger.publish("k", made_from, work, {name: compute_sha256(work / name) for name in contents})
    ledger.drop(work)


def test_a_record_holds_until_something_changes(tmp_path):
    with open_ledger(tmp_path) as ledger:
        assert ledger.find_finished("k", MADE) is None
        publish(ledger, x="1", y="2")
        assert set(ledger.find_finished("k", MADE)) == {"x", "y"}
        assert ledger.find_finished("k", {**MADE, "parameters": "d"}) is None
        assert ledger.find_finished("other", MADE) is None
        (tmp_path / "x").write_text("changed")
        assert ledger.find_finished("k", MADE) is None
        publish(ledger, x="1")  # what a run no longer makes is removed
        assert not (tmp_path / "y").exists()
        (tmp_path / "x").unlink()
        assert ledger.find_finished("k", MADE) is None
        (ledger.state / "k.json").write_text('{"products"')
        assert ledger.find_finished("k", MADE) is None


def test_files_of_others_are_never_replaced(tmp_path):
    (tmp_path / "x").write_text("mine")
    with open_ledger(tmp_path) as ledger:
        with pytest.raises(ProductError, match="no earlier run"):
            publish(ledger, x="1")
        assert (tmp_path / "x").read_text() == "mine"
        assert ledger.find_finished("k", MADE) is None
    assert not find_leftovers(tmp_path / STATE_FOLDER)


def test_dying_between_two_files_is_made_good(tmp_path, monkeypatch):
    """Whatever rename is the last, the next run knows its own files and redoes the work."""
    real = os.replace
    for survived in range(6):
        folder = tmp_path / str(survived)
        with open_ledger(folder) as ledger:
            publish(ledger, x="0", old="0")
        calls = 0

        def replace(source, target, last=survived):
            nonlocal calls
            calls += 1
            if calls > last:
                raise KeyboardInterrupt
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        changed = {**MADE, "parameters": "new"}
        with open_ledger(folder) as ledger:
            try:
                publish(ledger, changed, x="1", y="1")
            except KeyboardInterrupt:
                assert survived < 4
        monkeypatch.undo()
        with open_ledger(folder) as ledger:
            if ledger.find_finished("k", changed) is None:
                publish(ledger, changed, x="1", y="1")
            assert set(ledger.find_finished("k", changed)) == {"x", "y"}
        texts = {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}
        assert texts == {"x": "1", "y": "1"}


HOLD = """
import sys, time
from jwst_tvbadpix.files import compute_sha256
from jwst_tvbadpix.reprocess.ledger import open_ledger
with open_ledger(sys.argv[1]) as ledger:
    ledger.make_work_folder("half")
    print("locked", flush=True)
    time.sleep(60)
"""


def test_two_runs_at_a_time_are_refused_and_a_dead_one_keeps_nothing(tmp_path):
    with started(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=make_bare_environment(),
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ProductError, match=f"process {holder.pid}"), open_ledger(tmp_path):
            pass
        assert len(list((tmp_path / STATE_FOLDER).glob("work-*half"))) == 1
    with open_ledger(tmp_path):
        assert not find_leftovers(tmp_path / STATE_FOLDER)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(ProductError, match="can be written to"),
        open_ledger(tmp_path / "file" / "out"),
    ):
        pass


# ----- processes -----


def test_a_task_that_fails_leaves_or_dies_does_not_stop_the_others(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = dict(os.environ)
    tasks = ["pid", "fail", "leave", "die", "threads", "pid"]
    found = {}
    with Workers(act, processes=2) as workers:
        for finished in workers.run(tasks):
            found.setdefault(finished.task, []).append(finished)
    with Workers(act, processes=1) as workers:  # a process serves several rounds
        (once,), (again,) = workers.run(["pid"]), workers.run(["pid"])
    assert once.value == again.value
    assert found["fail"][0].error == "ValueError: no luck"
    assert found["leave"][0].error == "SystemExit(-1)"
    assert "killed by signal 9" in found["die"][0].error
    assert found["threads"][0].value == "1"
    assert len(found["pid"]) == 2
    assert all(one.value != os.getpid() and not one.error for one in found["pid"])
    assert dict(os.environ) == before


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from tasks import wait
from jwst_tvbadpix.reprocess.workers import Workers
if __name__ == "__main__":
    with Workers(wait, processes=1) as workers:
        list(workers.run([sys.argv[2]]))
"""


def test_processes_die_with_their_parent(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    note = tmp_path / "pid"
    with started(
        [sys.executable, str(tmp_path / "parent.py"), str(TESTS), str(note)],
        env=make_bare_environment(),
    ):
        wait_until(lambda: note.exists() and note.read_text())
    pid = int(note.read_text())
    wait_until(lambda: not is_alive(pid))


# ----- runs -----


@forks
def test_done_skipped_and_done_again(forked, place, tmp_path):
    out, calls = tmp_path / "out", []
    first = place.run(out, progress=lambda *call: calls.append(call), processes=2)
    assert states(first) == ["done"] * 3
    assert [outcome.name for outcome in first.outcomes] == place.names
    assert [call[:2] for call in calls] == [(1, 3), (2, 3), (3, 3)]
    products = [f"{name}_{kind}.fits" for name in place.names for kind in ("rate", "rateints")]
    assert sorted(path.name for path in out.glob("*")) == [STATE_FOLDER, *products]
    assert [path.name for one in first.outcomes for path in one.files] == products
    assert not find_leftovers(out)
    before = {name: (out / name).read_bytes() for name in products}

    assert states(place.run(out)) == ["skipped"] * 3
    assert {name: (out / name).read_bytes() for name in products} == before

    (out / products[0]).write_bytes(before[products[0]][:-2880])  # damaged
    assert states(place.run(out)) == ["done", "skipped", "skipped"]

    two = write_asn(tmp_path / "two.json", [str(ramp) for ramp in place.ramps[:2]])
    assert states(place.run(out, asn=two, masks=[place.neutral])) == ["done"] * 2
    assert fits.getval(out / products[0], "R_MASK") == str(place.neutral)

    # Integrations that are made no longer do not stay.
    fewer = place.write_pars("fewer", scale=2.0, keep_ints=False)
    assert states(place.run(out, fewer, asn=two)) == ["done"] * 2
    assert sorted(path.name for path in out.glob("*.fits")) == [*products[:4:2], *products[4:]]


@forks
def test_a_changed_input_or_context_is_done_again(forked, place, tmp_path):
    asn = write_asn(tmp_path / "asn.json", [ramp.name for ramp in place.ramps[:2]])
    for ramp in place.ramps[:2]:
        (tmp_path / ramp.name).write_bytes(ramp.read_bytes())
    out = tmp_path / "out"

    def run(context):
        return states(reprocess(asn, [place.rates], output_dir=out, context=context, processes=1))

    assert run(place.context) == ["done"] * 2
    changed = tmp_path / place.ramps[1].name
    with fits.open(changed, mode="update", memmap=False) as hdus:
        hdus["SCI"].data[0, 0, 5, 5] += 1
    assert run(place.context) == ["skipped", "done"]
    # Another context of the same name: its rules differ, not those of the pipeline above them.
    dq = np.zeros((1024, 1032), np.uint32)
    dq[600, 20] = 1
    other = build_mask(
        dq,
        detector="MIRIMAGE",
        useafter="2022-01-01T00:00:00",
        description="One bad pixel",
        history=["Made by a test."],
        pedigree="SIMULATION",
    )
    masks = [place.mask, write_twins(other, tmp_path / "other")[1]]
    context = build_context(tmp_path / "crds", {"mask": masks, **place.references})
    pmap = Path("mappings", "jwst", "jwst_0001.pmap")
    texts = {Path(c.env["CRDS_PATH"], pmap).read_text() for c in (context, place.context)}
    assert len(texts) == 1
    assert run(context) == ["done"] * 2
    assert run(context) == ["skipped"] * 2


def test_an_exposure_that_fails_does_not_stop_the_others(place, tmp_path, capsys):
    bad = place.write_pars("bad", fail_on="702", leave_on="703")
    (tmp_path / "broken_uncal.fits").write_bytes(place.ramps[0].read_bytes()[:5000])
    foreign = tmp_path / "foreign_uncal.fits"
    foreign.write_bytes(place.ramps[0].read_bytes())
    fits.setval(foreign, "TELESCOP", value="HST")
    rate = write_rate(tmp_path, ExposureSpec(59000.0, seed=1), build_lrs_scene(seed=1))
    members = [str(ramp) for ramp in place.ramps] + ["broken_uncal.fits", foreign.name, rate.name]
    asn = write_asn(tmp_path / "asn.json", members)
    command = ["reprocess", str(asn), "--parameters", str(bad), "--processes", "2"]
    command += ["--output-dir", str(tmp_path / "out")]
    with use_context(place.context):
        assert main(command) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "reprocess: 1 done, 0 skipped (unchanged), 5 failed"
    for line, words in zip(
        lines,
        (
            "701001_02101_00001_mirimage: done",
            "a stage that fails",
            "SystemExit(-1)",
            "broken_uncal.fits",
            "TELESCOP='HST'",
            "2 dimensions",
        ),
        strict=False,
    ):
        assert words in line
    log = tmp_path / "out" / STATE_FOLDER / f"{place.names[1]}.quick_detector1.log"
    assert f"see {log}" in lines[1]
    assert "a stage that fails" in log.read_text()
    assert not find_leftovers(tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.fits"))) == 2


@forks
def test_stage_2_gets_integrations_and_backgrounds(forked, place, tmp_path):
    (one, two, three), names = place.ramps, place.names
    members = [(str(one), "science"), (str(two), "science"), (str(three), "background")]
    asn = write_asn(tmp_path / "asn.json", members)
    cal = place.write_pars("cal", "QuickSpec2")
    out = tmp_path / "out"
    result = place.run(out, cal, place.rates, asn=asn)
    assert states(result) == ["done"] * 3
    assert [path.name for path in result.outcomes[0].files] == [
        f"{names[0]}_{kind}.fits" for kind in ("rate", "rateints", "calints")
    ]
    assert not (out / f"{names[2]}_calints.fits").exists()
    for name in names[:2]:
        ints, rate = (
            fits.getdata(out / f"{n}.fits") for n in (f"{name}_rateints", f"{names[2]}_rate")
        )
        np.testing.assert_allclose(
            fits.getdata(out / f"{name}_calints.fits"), ints - rate.mean(dtype=float), rtol=1e-4
        )
    header = fits.getheader(out / f"{names[0]}_calints.fits")
    assert header["FILENAME"] == f"{names[0]}_calints.fits"
    assert states(place.run(out, cal, place.rates, asn=asn)) == ["skipped"] * 3
    # A change of stage 1 reaches stage 2; one of stage 2 leaves stage 1 alone.
    before = (out / f"{names[0]}_rate.fits").read_bytes()
    other = place.write_pars("other_cal", "QuickSpec2", skip=False)
    assert states(place.run(out, other, place.rates, asn=asn)) == ["done", "done", "skipped"]
    assert (out / f"{names[0]}_rate.fits").read_bytes() == before
    # A background that fails takes its science with it.
    bad = place.write_pars("bad_background", fail_on="703")
    result = place.run(out, cal, bad, asn=asn)
    assert states(result) == ["failed"] * 3
    assert "background" in result.outcomes[0].error
    assert "a stage that fails" in result.outcomes[0].error


@forks
def test_a_plan_tells_what_a_run_then_does(forked, place, tmp_path):
    members = [(str(ramp), "science") for ramp in place.ramps[:2]]
    asn = write_asn(tmp_path / "asn.json", [*members, (str(place.ramps[2]), "background")])
    cal, out = place.write_pars("planned_cal", "QuickSpec2"), tmp_path / "out"

    def plan_run(*parameters):
        context = place.context
        found = plan_reprocess(asn, parameters, output_dir=out, context=context)
        return states(found.result), [path.name for path in found.products]

    rates = [f"{name}_rate.fits" for name in place.names]
    calibrated = [f"{name}_calints.fits" for name in place.names[:2]]
    assert plan_run(cal, place.rates) == (["done"] * 3, [*rates, *calibrated])
    assert not out.exists()
    place.run(out, cal, place.rates, asn=asn)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {*rates, *calibrated} <= {path.name for path in before}
    assert plan_run(cal, place.rates) == (["skipped"] * 3, [])
    other = place.write_pars("other_cal", "QuickSpec2", skip=False)
    assert plan_run(other, place.rates) == (["done", "done", "skipped"], calibrated)
    # A background that changes reaches what it is subtracted from, and nothing else.
    (out / rates[2]).write_bytes(b"")
    assert plan_run(cal, place.rates) == (["done"] * 3, [rates[2], *calibrated])
    (out / rates[2]).write_bytes(before.pop(out / rates[2]))
    assert plan_run(cal, place.rates) == (["skipped"] * 3, [])
    assert all(path.read_bytes() == content for path, content in before.items())
    # Files of others are refused as by a run.
    shutil.rmtree(out / STATE_FOLDER)
    assert plan_run(cal, place.rates) == (["failed"] * 3, [])


def test_an_instrument_that_the_context_does_not_know_fails(place, tmp_path):
    ramp = tmp_path / "nircam_uncal.fits"
    ramp.write_bytes(place.ramps[0].read_bytes())
    fits.setval(ramp, "INSTRUME", value="NIRCAM")
    (outcome,) = place.run(
        tmp_path / "out", asn=write_asn(tmp_path / "a.json", [ramp.name])
    ).outcomes
    assert outcome.state == "failed"
    assert "expected rules for NIRCAM" in outcome.error


def test_exposures_of_another_mode_fail_before_they_run(place, tmp_path):
    spec = ExposureSpec(59000.0, seed=1, setup=make_imaging_setup())
    image = write_rate(tmp_path, spec, build_lrs_scene(seed=1))
    asn = write_asn(tmp_path / "asn.json", [image.name, str(place.ramps[0])])
    result = reprocess(asn, ["spec2_lrs_slit"], output_dir=tmp_path / "out", context=place.context)
    assert states(result) == ["failed"] * 2
    assert "MIR_IMAGE" in result.outcomes[0].error
    assert "_rate or _rateints" in result.outcomes[1].error


def test_rates_of_the_archive_are_not_replaced(place, tmp_path):
    """Products beside the inputs, by default, where the archive's rates may lie."""
    ramp = tmp_path / place.ramps[0].name
    ramp.write_bytes(place.ramps[0].read_bytes())
    rate = tmp_path / ramp.name.replace("_uncal", "_rate")
    rate.write_text("of the archive")
    asn = write_asn(tmp_path / "asn.json", [ramp.name])
    (outcome,) = place.run(tmp_path, asn=asn).outcomes
    assert outcome.state == "failed"
    assert rate.name in outcome.error
    assert rate.read_text() == "of the archive"


def test_a_folder_that_stpipe_would_take_for_another_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "other")
    with pytest.raises(InputError, match=rf"\$ELSEWHERE.*write to {tmp_path}/other"):
        place.run(tmp_path / "$ELSEWHERE")
    assert list(tmp_path.iterdir()) == []


def test_no_mask_for_the_detector(place, tmp_path):
    other = write_twins(build_neutral_mask("MIRIFULONG"), tmp_path / "neutral")[1]
    result = place.run(tmp_path / "out", masks=[other])
    assert states(result) == ["failed"] * 3
    assert "MIRIFULONG" in result.outcomes[0].error


def run_command(place, out, *arguments, n_exposures=3, env=None, **keywords):
    ramps = [ramp.name for ramp in place.ramps[:n_exposures]]
    asn = write_asn(place.folder / f"{n_exposures}_asn.json", ramps)
    path = os.pathsep.join([str(TESTS), make_bare_environment()["PYTHONPATH"]])
    return started(
        [
            *(sys.executable, "-m", "jwst_tvbadpix.cli", "reprocess", str(asn)),
            *("--output-dir", str(out), *map(str, arguments)),
        ],
        env={**make_bare_environment(), "PYTHONPATH": path, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **keywords,
    )


def test_without_crds_set_up_it_says_so_before_it_starts(place, tmp_path):
    out = tmp_path / "out"
    with run_command(place, out, "--parameters", place.rates) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "expected a CRDS set-up" in stderr
    assert "--context" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert not out.exists()


def test_contexts_that_do_not_resolve_are_refused(place, tmp_path):
    (tmp_path / "empty").mkdir()
    command = ["reprocess", str(place.asn), "--parameters", str(place.rates)]
    assert main([*command, "--context", str(tmp_path / "empty")]) == 1
    env = {**place.context.env, "CRDS_CONTEXT": "jwst_0999.pmap"}
    arguments = ("--parameters", place.rates)
    with run_command(place, tmp_path / "out", *arguments, env=env) as process:
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert "jwst_0999.pmap" in stderr
    assert "expected a CRDS set-up" in stderr


def test_a_disk_that_is_full_is_said_and_nothing_half_written_stays(place, tmp_path):
    """The limit of the size of a file, here; one product is larger."""
    out = tmp_path / "out"
    size = 300_000
    with run_command(
        place,
        out,
        *("--parameters", place.rates, "--context", place.context.env["CRDS_PATH"]),
        n_exposures=1,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    ) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1, stderr
    assert stdout.splitlines()[-1] == "reprocess: 0 done, 0 skipped (unchanged), 1 failed"
    assert stdout.count(f"no space for the products in {out}") == 1
    assert not list(out.glob("*.fits"))
    assert not find_leftovers(out)


def kill_and_resume(place, folder, arguments, kills, seed):
    """Run undisturbed; run with kills at random moments, then to the end; compare."""
    arguments = (*arguments, "--context", place.context.env["CRDS_PATH"])
    start = time.monotonic()
    with run_command(place, folder / "whole", *arguments) as process:
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, stderr
    length = time.monotonic() - start
    moments = random.Random(seed)
    killed = 0
    while killed < kills:
        with run_command(place, folder / "killed", *arguments, start_new_session=True) as process:
            try:
                process.communicate(timeout=moments.uniform(0.1, 1.0) * length)
            except subprocess.TimeoutExpired:
                # By turns the parent alone: its processes are on their own then.
                kill = os.killpg if killed % 2 else os.kill
                kill(process.pid, signal.SIGKILL)
                process.communicate(timeout=LIMIT_S)
        killed += 1
        assert not any(is_torn(path) for path in (folder / "killed").glob("*.fits"))
    with run_command(place, folder / "killed", *arguments) as process:
        stdout, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, stderr
    assert stdout.splitlines()[-1].endswith("0 failed")
    assert_same_files(folder / "whole", folder / "killed")
    assert not find_leftovers(folder / "killed")


def is_torn(path):
    """Whether a file is shorter than its headers say."""
    with fits.open(path, memmap=False) as hdus:
        ends = [hdu.fileinfo()["datLoc"] + hdu.fileinfo()["datSpan"] for hdu in hdus]
    return path.stat().st_size < max(ends)


def test_killed_and_resumed_gives_the_same_files(place, tmp_path):
    paused = place.write_pars("paused", pause=0.3)
    cal = place.write_pars("plain_cal", "QuickSpec2")
    arguments = ("--parameters", paused, "--parameters", cal, "--processes", "1")
    kill_and_resume(place, tmp_path, arguments, 2, seed=7831)


@pytest.mark.slow
def test_detector1_killed_20_times_gives_the_same_files(place, tmp_path):
    arguments = ("--parameters", "detector1_neutral", "--mask", place.neutral, "--processes", "2")
    kill_and_resume(place, tmp_path, arguments, 20, seed=7832)


def test_files_that_differ_are_told_apart(place, tmp_path):
    """So that the comparison above can fail."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.fits").write_bytes(place.ramps[0].read_bytes())
    fits.setval(tmp_path / "two" / "x.fits", "DATE", value="1999-01-01")
    assert_same_files(tmp_path / "one", tmp_path / "two")
    with fits.open(tmp_path / "two" / "x.fits", mode="update", memmap=False) as hdus:
        hdus["SCI"].data[0, 0, 5, 5] += 1
    with pytest.raises(AssertionError):
        assert_same_files(tmp_path / "one", tmp_path / "two")


def test_lrs_from_ramp_to_spectrum_by_the_shipped_parameters(place, tmp_path, capsys):
    """calwebb_detector1 and calwebb_spec2 themselves, with references of the simulator."""
    references = place.references | write_spectral_references(tmp_path / "references")
    context = build_context(tmp_path / "crds", {"mask": [place.mask], **references})
    scene = Scene((SkyField(), DarkPedestal(), StarTrace(flux_jy=1e-3)))
    spec = ExposureSpec(60000.0, subarray="SLITLESSPRISM", ngroups=6, nints=2, target="STAR")
    ramp = write_ramp(tmp_path, spec, scene)
    asn = write_asn(tmp_path / "asn.json", [ramp.name])
    out = tmp_path / "out"
    command = ["reprocess", str(asn), "--output-dir", str(out), "--processes", "1"]
    command += ["--parameters", "detector1_neutral", "--mask", str(place.neutral)]
    command += ["--parameters", "spec2_lrs_slitless", "--context", context.env["CRDS_PATH"]]
    for line in ("1 done, 0 skipped", "0 done, 1 skipped"):
        assert main(command) == 0
        assert capsys.readouterr().out.splitlines()[-1] == (
            f"reprocess: {line} (unchanged), 0 failed"
        )
    name = ramp.stem.removesuffix("_uncal")
    assert sorted(path.name for path in out.glob("*.fits")) == [
        f"{name}_{kind}.fits" for kind in ("calints", "rate", "rateints", "x1dints")
    ]
    header = fits.getheader(out / f"{name}_x1dints.fits")
    assert header["R_MASK"] == str(place.neutral)
    assert header["S_RAMP"] == header["S_EXTR1D"] == header["S_PXREPL"] == "COMPLETE"
    assert header["CRDS_CTX"] == "jwst_0001.pmap"
