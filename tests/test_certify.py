"""What crds certify, and ours for ASDF, say; the list of warnings that may stand."""

import gc
import json
import os
import re
import sys
import tempfile
from pathlib import Path

import asdf
import numpy as np
import pytest
import tasks
from crds.core import log
from references import make_flat, make_history, make_mrs_photom, make_photom, write_masks
from tasks import LIMIT_S, is_alive, started, wait_until

from jwst_tvbadpix._tables import AsdfTable
from jwst_tvbadpix.delivery import ALLOWED_WARNINGS, build_context, use_context
from jwst_tvbadpix.delivery.allowed import find_allowed
from jwst_tvbadpix.delivery.asdf_check import asdf_rules
from jwst_tvbadpix.delivery.certify import certify_asdf, certify_fits, insert_on_trial
from jwst_tvbadpix.delivery.workers import submit, workers
from jwst_tvbadpix.refmodels import write_twins
from jwst_tvbadpix.refmodels.twins import as_array

CONTEXT = "jwst_0001.pmap"


@pytest.fixture(autouse=True)
def no_garbage():
    """Crds collects garbage all the time: what pytest and others hold is none."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    write_masks(folder, make_history(1), "lrs")[0].rename(folder / "mask.fits")
    (folder / "lrs_MIRIMAGE_P750L_mask_20211225T000000.asdf").rename(folder / "mask.asdf")
    write_twins(make_flat(), folder / "flat")
    write_twins(make_photom(), folder / "photom")
    write_twins(make_mrs_photom("SHORT"), folder / "mrs")
    return folder


@pytest.fixture(scope="module")
def context(folder, tmp_path_factory):
    kinds = {"mask": ["mask"], "flat": ["flat"], "photom": ["photom", "mrs"]}
    paths = {kind: [folder / f"{name}.fits" for name in names] for kind, names in kinds.items()}
    return build_context(tmp_path_factory.mktemp("cache"), paths)


def count(task, path):
    log.reset()
    task(str(path), CONTEXT)
    return log.errors(), log.warnings()


@pytest.mark.parametrize("name", ["mask", "flat", "photom", "mrs"])
def test_twins_have_no_complaint(folder, context, name):
    with use_context(context):
        assert count(certify_fits, folder / f"{name}.fits") == (0, 0)
        assert count(certify_asdf, folder / f"{name}.asdf") == (0, 0)


def change(folder, tmp_path, name, edit):
    with asdf.open(folder / f"{name}.asdf", memmap=False, lazy_load=False) as file:
        tree = dict(file.tree)
    edit(tree)
    for key, node in tree.items():
        if getattr(getattr(node, "dtype", None), "names", None):
            tree[key] = AsdfTable(as_array(node))
    path = tmp_path / "changed.asdf"
    asdf.AsdfFile(tree).write_to(path)
    return path


def drop_area(tree):
    del tree["meta"]["photometry"]["pixelarea_arcsecsq"]


def cut_dq(tree):
    tree["dq"] = np.asarray(tree["dq"])[:512]


def turn(tree):
    tree["meta"]["subarray"]["fastaxis"] = 7


def repeat_row(tree):
    tree["phot_table"] = np.repeat(np.asarray(tree["phot_table"])[:1], 2)


@pytest.mark.parametrize(
    ("name", "edit", "expected"),
    [
        ("photom", drop_area, (1, 0)),
        ("mask", cut_dq, (1, 0)),
        ("mask", turn, (1, 0)),
        ("photom", repeat_row, (0, 1)),
    ],
)
def test_asdf_check_sees_what_is_wrong(folder, context, tmp_path, name, edit, expected):
    path = change(folder, tmp_path, name, edit)
    with use_context(context):
        errors, warnings = count(certify_asdf, path)
    assert (errors >= expected[0], warnings >= expected[1]) == (True, True)
    assert errors + warnings > 0


def test_stock_certify_is_as_before_afterwards(folder, context):
    with use_context(context):
        assert count(certify_fits, folder / "mask.asdf")[0] == 1
        with asdf_rules():
            assert count(certify_fits, folder / "mask.asdf") == (0, 0)
        assert count(certify_fits, folder / "mask.asdf")[0] == 1


def test_overlapping_files_are_found(folder, context, tmp_path):
    flat = make_flat()
    flat.meta.exposure.p_readpatt = "FASTR1|SLOWR1|"
    paths = [str(folder / "flat.fits"), str(write_twins(flat, tmp_path / "both")[1])]
    with use_context(context):
        log.reset()
        insert_on_trial(paths[:1], "miri", "flat", CONTEXT)
        assert (log.errors(), log.warnings()) == (0, 0)
        insert_on_trial(paths, "miri", "flat", CONTEXT)
        assert log.errors() + log.warnings() > 0


def fail(text):
    log.warning("first", text)
    sys.stdout.write(f"printed {os.environ.get('CRDS_MODE')} {tempfile.gettempdir()}\n")
    raise ValueError(text)


def test_workers_keep_what_is_said(context, tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_MODE", "remote")
    with workers(context.env, tmp_path) as pool:
        outcome = submit(pool, fail, "some text").result(LIMIT_S)
    assert outcome.errors == ("ValueError: some text",)
    assert outcome.warnings == ("first some text",)
    assert re.search(rf"printed None {re.escape(str(tmp_path))}/worker-\w+\n", outcome.log)
    assert outcome.value is None


PARENT = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from tasks import wait
from jwst_tvbadpix.delivery.workers import submit, workers
if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[2])
    with workers(json.loads(sys.argv[3]), folder) as pool:
        submit(pool, wait, str(folder / "pid")).result()
"""


def test_workers_die_with_their_parent(context, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    note = tmp_path / "pid"
    arguments = [Path(tasks.__file__).parent, tmp_path, json.dumps(dict(context.env))]
    with started(
        [sys.executable, str(tmp_path / "parent.py"), *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)},
    ):
        wait_until(lambda: note.exists() and note.read_text())
    pid = int(note.read_text())
    wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("message", "kind", "allowed"),
    [
        ("Differing HDU counts in '/a/b c.fits' and 'd.fits' : 1 vs. 2", "photom", True),
        ("Differing HDU counts in '/a/b c.fits' and 'd.fits' : 2 vs. 1", "photom", False),
        ("Differing HDU counts in '/a/b c.fits' and 'd.fits' : 1 vs. 2", "flat", False),
        (
            "No comparison reference for 'a.fits' in context 'jwst_0001.pmap'. Skipping tables "
            "comparison.",
            "photom",
            True,
        ),
        ("Duplicate definitions in 'new reference' for mode: x", "photom", False),
    ],
)
def test_only_listed_warnings_are_allowed(message, kind, allowed):
    assert (find_allowed(message, kind) is not None) == allowed


def test_each_allowed_warning_has_a_reason():
    assert all(len(entry.reason) > 20 for entry in ALLOWED_WARNINGS)
