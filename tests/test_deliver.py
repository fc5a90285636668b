"""A delivery from end to end, and what is refused."""

import hashlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from astropy.io import fits
from crds.refactoring.checksum import update_checksum
from references import (
    BASE,
    BASE_PIXELS,
    FIRST,
    make_flat,
    make_history,
    make_photom,
    write_masks,
)
from tasks import started

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import (
    build_context,
    deliver,
    format_environment,
    resolve_context,
)
from jwst_tvbadpix.delivery.publish import OWN, publish
from jwst_tvbadpix.errors import InputError, ProductError, TvBadPixError
from jwst_tvbadpix.refmodels import build_mask, write_twins

DATES = (FIRST, "2022-05-06T00:00:00", "2022-06-05T00:00:00")
# Exposures of the history start on 2022-05-01 and every 30 days after that.
EXPECTED = {f"jw{k:03d}_rate.fits": f"jwst_miri_mask_{min(k, 2) + 1:04d}.fits" for k in range(4)}
# Nothing of the environment but what a process cannot do without.
BARE = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/nowhere"}

SLITLESS = {
    "META.INSTRUMENT.NAME": "MIRI",
    "META.INSTRUMENT.DETECTOR": "MIRIMAGE",
    "META.INSTRUMENT.FILTER": "P750L",
    "META.SUBARRAY.NAME": "SLITLESSPRISM",
    "META.EXPOSURE.READPATT": "FASTR1",
    "META.EXPOSURE.NGROUPS": "10",
    "META.OBSERVATION.TIME": "12:00:00",
}


def run_tvbadpix(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "jwst_tvbadpix.cli", *map(str, arguments)],
        env={**BARE, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    write_masks(folder, make_history())
    write_twins(make_flat(), folder / "flat")
    write_twins(make_photom(in_time=False), folder / "photom")
    (folder / "lrs_report.html").write_text("text")
    (folder / "stars.ecsv").write_text("# %ECSV 1.0")
    return folder


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    """Each of these small deliveries is checked in one process; the command takes all there are.

    It is forked from one that has imported crds, 4 s each; those of the command start afresh.
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    monkeypatch.setattr("jwst_tvbadpix.delivery.workers._START", "forkserver")
    multiprocessing.set_forkserver_preload(["crds.certify", "stdatamodels.jwst.datamodels"])


@pytest.fixture(scope="module")
def delivered(folder, tmp_path_factory):
    """By the command, in an environment whose CRDS variables are all wrong."""
    output = tmp_path_factory.mktemp("it's a place") / "OUT"
    wrong = {"CRDS_PATH": "/nowhere", "CRDS_CONTEXT": "jwst_9999.pmap", "CRDS_MODE": "remote"}
    # crds cannot even be imported with this one.
    wrong |= {"CRDS_VERBOSITY": "no number"}
    run = run_tvbadpix("deliver", folder, "--output-dir", output, env=wrong)
    assert run.returncode == 0, run.stdout + run.stderr
    return output, run


def read_json(path):
    return json.loads(path.read_text())


def test_passes_and_says_so(delivered):
    output, run = delivered
    lines = run.stdout.splitlines()
    assert lines[-1] == "deliver: PASS"
    assert lines[:2] == ["ignored: lrs_report.html", "ignored: stars.ecsv"]
    verdict = read_json(output / "verdict.json")
    assert verdict["passed"]
    checks = {check["name"]: check for check in verdict["checks"]}
    assert all(check["passed"] and check["value"] == 0 for check in checks.values())
    assert checks["crds certify: errors"]["detail"] == "5 files"
    assert checks["masks against history"]["detail"] == "6 files, every bit"
    assert checks["closure of the context"]["detail"] == "5 mappings"
    assert (output / "verdict.txt").read_text().endswith("deliver: PASS\n")
    logs = {path.name for path in (output / "logs").iterdir()}
    assert {"certify_flat.fits.log", "asdf_flat.asdf.log", "insert_miri_mask.log"} <= logs
    assert "conforms to FITS standards" in (output / "logs/certify_flat.fits.log").read_text()
    assert not list(output.glob(".deliver.tmp*"))


def test_manifest_counts_pixels(delivered, folder):
    output, _ = delivered
    manifest = read_json(output / "manifest.json")
    assert manifest["ignored"] == ["lrs_report.html", "stars.ecsv"]
    entries = {entry["file"]: entry for entry in manifest["files"]}
    assert len(entries) == 5
    for name, entry in entries.items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["size"] == len(content)
        stored = output / "cache/references/jwst/miri" / entry["crds_name"]
        assert stored.read_bytes() == content
    masks = [entry for entry in entries.values() if entry["kind"] == "mask"]
    assert [entry["useafter"] for entry in masks] == list(DATES)
    for k, entry in enumerate(masks):
        kept = len(BASE_PIXELS)
        counts = {"added": 40 + k, "removed": 0, "kept": kept}
        assert entry["supersedes"] == {"name": BASE, "what": "base mask", **counts}
        if k:
            follows = {"added": 1, "removed": 0, "kept": kept + 39 + k}
            assert entry["follows"].items() >= follows.items()
            assert entry["follows"]["name"] == masks[k - 1]["file"]
    assert masks[0]["follows"] is None
    assert entries["flat.fits"]["supersedes"] is None


def test_data_sets_get_the_mask_of_their_date(delivered):
    output, _ = delivered
    effects = read_json(output / "bestrefs.json")
    masks = {e["dataset"]: (e["old"], e["new"]) for e in effects if e["kind"] == "mask"}
    assert masks == {name: (BASE, mask) for name, mask in EXPECTED.items()}
    assert "jwst_miri_mask_0003.fits" in (output / "bestrefs.txt").read_text()


def test_form_has_only_what_the_server_takes(delivered):
    output, _ = delivered
    forms = {path.name: yaml.safe_load(path.read_text()) for path in output.glob("submission/*")}
    assert set(forms) == {f"miri_{kind}.yaml" for kind in ("flat", "mask", "photom")}
    mask = forms["miri_mask.yaml"]
    assert (mask["instrument"], mask["file_type"]) == ("miri", "MASK")
    assert mask["useafter_matches"] == "N/A"
    assert "P750L" in mask["modes_affected"]
    assert mask["description"].endswith("3 files, USEAFTER 2021-12-25 to 2022-06-05")
    assert forms["miri_flat.yaml"]["deliverer"] == "A. Tester"
    for form in forms.values():
        for value in form.values():
            assert isinstance(value, bool) or re.fullmatch(r"[A-Za-z0-9._ /,=+-]*", value)


def test_bestrefs_command_agrees(delivered, tmp_path):
    """The context as `tvbadpix context` says it, in a shell, and the program of crds itself."""
    output, _ = delivered
    days = {"A": "2022-01-01", "B": "2022-05-06", "C": "2025-01-01"}
    sets = {name: {**SLITLESS, "META.OBSERVATION.DATE": day} for name, day in days.items()}
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    tvbadpix = f"{shlex.quote(sys.executable)} -m jwst_tvbadpix.cli"
    contexts = "--old-context jwst_0000.pmap --new-context jwst_0001.pmap"
    options = f"--load-pickles {tmp_path}/sets.json --types mask --print-new-references"
    script = f"""set -e
lines="$({tvbadpix} context {shlex.quote(str(output))})"
eval "$lines"
echo "$CRDS_PATH"
{shlex.quote(sys.executable)} -m crds.bestrefs {contexts} {options} --print-affected
"""
    run = subprocess.run(
        ["sh", "-c", script], env=BARE, capture_output=True, text=True, check=False, timeout=300
    )
    assert run.returncode == 0, run.stderr
    path, *lines = run.stdout.splitlines()
    assert path == str(output / "cache")
    found = {line.split()[0]: line.split()[-1] for line in lines if "mask" in line}
    expected = {name: f"jwst_miri_mask_{k:04d}.fits" for k, name in enumerate("abc", start=1)}
    assert found == expected


@pytest.fixture(scope="module")
def derived(delivered, tmp_path_factory):
    """One mask more, and photom files with a time table, upon the first delivery."""
    output, _ = delivered
    top = tmp_path_factory.mktemp("derived")
    write_masks(top / "new", make_history(4))
    write_twins(make_photom(), top / "new" / "photom")
    write_twins(make_photom("2024-01-01T00:00:00"), top / "new" / "photom_later")
    before = snapshot(output)
    env = {"CRDS_PATH": str(output / "cache"), "CRDS_CONTEXT": "jwst_0000.pmap"}
    options = ["--output-dir", top / "OUT", "--derive-from", "jwst_0001.pmap"]
    run = run_tvbadpix("deliver", top / "new", *options, env=env)
    assert snapshot(output) == before
    return top / "OUT", run


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_derived_context_adds_to_the_old_one(derived):
    output, run = derived
    assert run.returncode == 0, run.stdout + run.stderr
    assert "photom.fits' : 1 vs. 2 (allowed: a photom file that gains tables" in run.stdout
    assert "(allowed: the first reference of its selection" in run.stdout
    diff = (output / "crds_diff.txt").read_text()
    assert "replaced jwst_miri_mask_0001.fits with jwst_miri_mask_0004.fits" in diff
    assert "added terminal jwst_miri_mask_0007.fits" in diff
    assert "replaced jwst_miri_photom_0001.fits with jwst_miri_photom_0002.fits" in diff
    assert "added terminal jwst_miri_photom_0003.fits" in diff
    manifest = read_json(output / "manifest.json")
    assert manifest["context"] == "jwst_0002.pmap"
    assert manifest["derived_from"] == "jwst_0001.pmap"
    last, *photoms = manifest["files"][3:]
    assert last["supersedes"] == {
        "name": "jwst_miri_mask_0003.fits",
        "what": "old context",
        "added": 1,
        "removed": 0,
        "kept": 92,
    }
    old = [entry["supersedes"]["name"] for entry in photoms]
    assert old == ["jwst_miri_photom_0001.fits"] * 2
    effects = read_json(output / "bestrefs.json")
    masks = [(e["old"][-9:-5], e["new"][-9:-5]) for e in effects if e["kind"] == "mask"]
    new = [("0001", "0004"), ("0002", "0005"), ("0003", "0006"), ("0003", "0007")]
    assert masks == [*new, ("0003", "0007")]
    # The flat of the old context is still selected, and can be read.
    env = resolve_context(output)
    assert env["CRDS_CONTEXT"] == "jwst_0002.pmap"
    flat = output / "cache/references/jwst/miri/jwst_miri_flat_0001.fits"
    assert fits.getheader(flat)["REFTYPE"] == "FLAT"


def test_a_second_run_gives_the_same_and_keeps_what_is_not_its_own(delivered, folder, tmp_path):
    output, _ = delivered
    # Quoted by crds as that one.
    again = tmp_path / "it's here"
    shutil.copytree(output, again)
    stranger = again / "cache" / "mine.txt"
    stranger.write_text("mine")
    (again / "logs" / "certify_flat.fits.log").write_text("old")
    assert deliver(folder, again).passed
    assert stranger.read_text() == "mine"
    stranger.unlink()
    here, there = snapshot(again), snapshot(output)
    assert set(here) == set(there)
    for name in here:
        moved = there[name].replace(str(output).encode(), str(again).encode())
        assert here[name] == moved, name


def corrupt_flags(path):
    """Every flag of the file gets another meaning; crds does not look."""
    with fits.open(path, mode="update") as hdus:
        hdus["DQ"].data = hdus["DQ"].data << 1


def test_corrupt_flags_are_caught_though_crds_takes_them(tmp_path, capsys):
    path = write_masks(tmp_path / "in", make_history(1))[0]
    corrupt_flags(path)
    early = {**SLITLESS, "META.OBSERVATION.DATE": "2021-01-01"}
    late = {**SLITLESS, "META.OBSERVATION.DATE": "2025-01-01"}
    other = {**late, "META.INSTRUMENT.NAME": "NIRCAM"}
    sets = tmp_path / "sets.json"
    sets.write_text(
        "".join(json.dumps({k: v}) + "\n" for k, v in zip("abc", (early, late, other), strict=True))
    )
    options = ["--output-dir", str(tmp_path / "out"), "--datasets", str(sets)]
    assert main(["deliver", str(tmp_path / "in"), *options]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "deliver: FAIL (3 of 12 checks)"
    wrong = [line for line in lines if line.startswith("masks against history: ")]
    assert len(wrong) == 1
    assert path.name in wrong[0]
    checks = read_json(tmp_path / "out" / "verdict.json")["checks"]
    failed = {check["name"] for check in checks if not check["passed"]}
    assert failed == {
        "masks against history",
        "twins against each other",
        "exposures before the first epoch",
    }
    assert "exposures before the first epoch: a has no mask yet" in lines
    assert "note: data sets of instruments without a reference here: 1" in lines
    effects = read_json(tmp_path / "out" / "bestrefs.json")
    assert [(e["dataset"], e["new"]) for e in effects] == [
        ("a", "N/A"),
        ("b", "jwst_miri_mask_0001.fits"),
    ]
    assert resolve_context(tmp_path / "out")["CRDS_PATH"] == str(tmp_path / "out" / "cache")


def write_old_context(folder, parkey, selection):
    """A context of one mask without bad pixels, selected by other keywords than ours."""
    mask = build_mask(
        np.zeros((1024, 1032), np.uint32),
        detector="MIRIMAGE",
        useafter=FIRST,
        description="No bad pixel",
        history=["Made by a test."],
        pedigree="SIMULATION",
    )
    path = write_twins(mask, folder / "static")[1]
    build_context(folder / "crds", {"mask": [path]})
    rmap = folder / "crds" / "mappings" / "jwst" / "jwst_miri_mask_0001.rmap"
    text = rmap.read_text()
    ours = "'META.INSTRUMENT.DETECTOR', 'META.INSTRUMENT.FILTER', 'META.SUBARRAY.NAME', "
    ours += "'META.EXPOSURE.READPATT', 'META.EXPOSURE.NGROUPS'"
    assert ours in text
    text = text.replace(ours, parkey).replace("('MIRIMAGE', 'N/A', 'N/A', 'N/A', 'N/A')", selection)
    text = text.replace("('MIRIMAGE', 'N/A', 'GENERIC', 'N/A', 'N/A')", selection)
    assert selection in text
    rmap.write_text(text)
    update_checksum(str(rmap))
    return folder / "crds"


def test_first_masks_of_a_mode_and_type_are_added_to_a_context(tmp_path):
    """What crds warns of there, a new rule and a new type, is what a delivery is for."""
    history = make_history(1)
    # Evidence of a mode that the masks are not for needs no mask.
    history.exposures.filter = ["F770W", "P750L"]
    write_masks(tmp_path / "in", history)
    write_twins(make_photom(), tmp_path / "in" / "photom")
    keys = "'META.INSTRUMENT.DETECTOR', 'META.INSTRUMENT.FILTER', 'META.SUBARRAY.NAME'"
    cache = write_old_context(tmp_path, keys, "('MIRIMAGE', 'N/A', 'GENERIC')")
    verdict = deliver(tmp_path / "in", tmp_path / "o", derive_from="jwst_0001.pmap", source=cache)
    assert verdict.passed, verdict.format_checks()
    found = {e.dataset: e.new for e in verdict.effects if e.kind == "mask"}
    expected = {f"jw{k:03d}_rate.fits": f"jwst_miri_mask_000{k + 1}.fits" for k in range(2)}
    assert found == expected
    assert "exposures of the histories that no mask here is for: 1" in verdict.notes


def test_rules_that_select_by_less_than_the_masks_are_found(tmp_path):
    """Of FILTER they know nothing; and what is for FULL is preferred to what is for any."""
    write_masks(tmp_path / "in", make_history(1))
    keys = "'META.INSTRUMENT.DETECTOR', 'META.SUBARRAY.NAME'"
    cache = write_old_context(tmp_path, keys, "('MIRIMAGE', 'FULL')")
    verdict = deliver(tmp_path / "in", tmp_path / "o", derive_from="jwst_0001.pmap", source=cache)
    wrong = {check.name: check.wrong for check in verdict.checks if not check.passed}
    assert set(wrong) == {"selection keywords", "bestrefs, old against new"}
    (text,) = wrong["selection keywords"]
    assert "META.INSTRUMENT.FILTER P750L, by which jwst_miri_mask_0002.rmap does not" in text
    assert wrong["bestrefs, old against new"] == tuple(
        f"jw00{k}_rate.fits gets jwst_miri_mask_0001.fits, not jwst_miri_mask_0002.fits"
        for k in range(2)
    )


# --- what is refused, quickly and without a trace ---------------------------------------------


def no_base(folder):
    write_masks(folder, make_history(1, base=False))


def reference_pixels_only(folder):
    text = "NOT FOR DELIVERY: the base mask marks no pixel but the reference pixels"
    write_masks(folder, make_history(1, warnings=[text]))


def without_history(folder):
    write_masks(folder, make_history(1))
    (folder / "lrs_MIRIMAGE_badpixhistory.asdf").unlink()


def other_history(folder):
    write_masks(folder, make_history(3))
    write_masks(folder, make_history(1))


def history_of_another_detector(folder):
    write_masks(folder, make_history(1, detector="MIRIFULONG"))
    path = folder / "lrs_MIRIFULONG_badpixhistory.asdf"
    without_history(folder)
    assert path.exists()


def same_epoch(folder):
    paths = write_masks(folder, make_history(1))
    shutil.copy(paths[0], folder / "copy_mask.fits")


def truncated(folder):
    path = write_masks(folder, make_history(1))[0]
    path.write_bytes(path.read_bytes()[:-3000])


def no_fits(folder):
    (folder / "flat.fits").write_bytes(b"SIMPLE  = nothing")


def other_telescope(folder):
    write_masks(folder, make_history(1))
    hdu = fits.PrimaryHDU()
    hdu.header["TELESCOP"], hdu.header["FILETYPE"] = "HST", "BIAS"
    hdu.writeto(folder / "bias.fits")


def asdf_alone(folder):
    write_masks(folder, make_history(1))[0].unlink()
    write_twins(make_flat(), folder / "flat")


def twin_of_another_type(folder):
    write_twins(make_flat(), folder / "flat")
    write_twins(make_photom(), folder / "photom")[0].replace(folder / "flat.asdf")


def unknown_type(folder):
    write_twins(make_flat(), folder / "flat")
    fits.setval(folder / "flat.fits", "REFTYPE", value="FLATTER")
    (folder / "flat.asdf").unlink()


def no_useafter(folder):
    path = write_twins(make_flat(), folder / "flat")[1]
    fits.delval(path, "USEAFTER")


def odd_useafter(folder):
    path = write_twins(make_flat(), folder / "flat")[1]
    fits.setval(path, "USEAFTER", value="Jun 01 2022 00:00:00")


def impossible_useafter(folder):
    write_twins(make_flat(), folder / "flat")
    fits.setval(folder / "flat.fits", "USEAFTER", value="2022-13-45T00:00:00")


def broken_history(folder):
    write_masks(folder, make_history(1))
    path = folder / "lrs_MIRIMAGE_badpixhistory.asdf"
    path.write_bytes(path.read_bytes()[:2000])


def only_an_exposure(folder):
    hdu = fits.PrimaryHDU()
    hdu.header["TELESCOP"], hdu.header["EXP_TYPE"] = "JWST", "MIR_IMAGE"
    hdu.writeto(folder / "x_rate.fits")


CASES = [
    (lambda folder: None, "at least one reference"),
    (only_an_exposure, "at least one reference"),
    (no_base, r"mask_2021.*NOT FOR DELIVERY|badpixhistory.*--base_mask"),
    (reference_pixels_only, r"mask_2021.*NOT FOR DELIVERY|badpixhistory.*--base_mask"),
    (without_history, r"one history of MIRIMAGE beside .*mask_2021"),
    (other_history, r"begin at 2021-12-25T00:00:00, not 2022-05-06"),
    (history_of_another_detector, r"one history of MIRIMAGE beside"),
    (same_epoch, r"copy_mask.fits and .*lrs_MIRIMAGE_P750L_mask|mask.*copy_mask"),
    (truncated, r"whole FITS file.*mask_20211225T000000.fits"),
    (no_fits, r"whole FITS file.*flat.fits"),
    (other_telescope, r"TELESCOP JWST in .*bias.fits.*'HST'"),
    (asdf_alone, r"FITS twin of .*mask_20211225T000000.asdf"),
    (twin_of_another_type, r"flat.asdf to be the twin.*PHOTOM"),
    (unknown_type, r"reference type .*flat.fits.*FLATTER"),
    (no_useafter, r"META.USEAFTER in .*flat.fits"),
    (odd_useafter, r"USEAFTER as .*flat.fits"),
    (impossible_useafter, r"USEAFTER as .*flat.fits.*2022-13-45"),
    (broken_history, r"readable ASDF.*badpixhistory.asdf"),
]


@pytest.mark.parametrize(("prepare", "message"), CASES, ids=[c[0].__name__ for c in CASES])
def test_bad_input_is_refused(tmp_path, capsys, prepare, message):
    (tmp_path / "in").mkdir()
    prepare(tmp_path / "in")
    output = tmp_path / "a" / "out"
    assert main(["deliver", str(tmp_path / "in"), "--output-dir", str(output)]) == 1
    said = capsys.readouterr()
    assert re.search(message, said.err), said.err
    assert said.err.splitlines()[-1].startswith("tvbadpix deliver: error: expected")
    assert said.out == ""
    assert not (tmp_path / "a").exists()


def test_ctrl_c_is_said_without_a_traceback(tmp_path, capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("jwst_tvbadpix.delivery.deliver", interrupt)
    assert main(["deliver", str(tmp_path), "--output-dir", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "tvbadpix deliver: interrupted\n"


def test_absent_folder(tmp_path):
    with pytest.raises(InputError, match="found none at"):
        deliver(tmp_path / "absent", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "another form"),
        ("nothing", "expected FITS, or JSON"),
        ('{"a": {"META.INSTRUMENT.NAME": "MIRI"}}', "META.OBSERVATION.DATE"),
        (
            '{"a": {"META.INSTRUMENT.NAME": "MIRI", "META.OBSERVATION.DATE": "yesterday"}}',
            "yesterday",
        ),
        (
            '{"a": {"META.INSTRUMENT.NAME": "WFC3", "META.OBSERVATION.DATE": "2022-01-01"}}',
            "instrument of JWST.*WFC3",
        ),
        ("{}", "found none"),
    ],
)
def test_bad_data_sets(tmp_path, content, message):
    write_twins(make_photom(), tmp_path / "photom")
    (tmp_path / "sets.json").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        deliver(tmp_path, tmp_path / "out", datasets=[tmp_path / "sets.json"])
    assert "sets.json" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_more_data_sets_than_crds_lists_errors_for(tmp_path):
    """Of each sort it lists 500; that no flat is for these data sets is no fault."""
    (tmp_path / "in").mkdir()
    write_twins(make_flat(), tmp_path / "in" / "flat")
    sets = {f"s{k}": {**SLITLESS, "META.OBSERVATION.DATE": "2023-01-01"} for k in range(600)}
    (tmp_path / "sets.json").write_text(json.dumps(sets))
    verdict = deliver(tmp_path / "in", tmp_path / "out", datasets=[tmp_path / "sets.json"])
    assert verdict.passed, verdict.format_checks()
    assert len(verdict.effects) == 600


def test_disk_full(tmp_path, monkeypatch):
    write_twins(make_photom(), tmp_path / "photom")

    def refuse(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    with pytest.raises(ProductError, match=r"write to .*out.*No space left"):
        deliver(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_derive_needs_the_context(tmp_path, monkeypatch, delivered):
    write_twins(make_photom(), tmp_path / "photom")

    def attempt(source, name):
        with pytest.raises(InputError) as caught:
            deliver(tmp_path, tmp_path / "out", derive_from=name, source=source)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    cache = tmp_path / "cache"
    shutil.copytree(delivered[0] / "cache", cache)
    assert "CRDS_PATH unset" in attempt(None, "jwst_0001.pmap")
    assert "jwst_1303.pmap" in attempt(cache, "jwst_1303.pmap")
    assert "like jwst_1303.pmap" in attempt(cache, "latest")
    mappings = cache / "mappings" / "jwst"
    rmap = mappings / "jwst_miri_mask_0001.rmap"
    text = rmap.read_text()
    rmap.write_text(text.replace("0002.fits", "0007.fits"))
    assert "jwst_miri_mask_0001.rmap" in attempt(cache, "jwst_0001.pmap")
    rmap.unlink()
    assert "jwst_miri_mask_0001.rmap" in attempt(cache, "jwst_0001.pmap")


# --- tvbadpix context -------------------------------------------------------------------------


def drop(name):
    return lambda cache: (cache / name).unlink()


def edit_mapping(cache):
    path = cache / "mappings/jwst/jwst_miri_flat_0001.rmap"
    path.write_text(path.read_text().replace("F770W", "F560W"))


def edit_reference(cache):
    with (cache / "references/jwst/miri/jwst_miri_flat_0001.fits").open("ab") as file:
        file.write(b"more")


def half_config(cache):
    path = cache / "config/jwst/server_config"
    path.write_text(path.read_text()[:40])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop("config/jwst/server_config"), "server_config"),
        (half_config, "server_config"),
        (drop("mappings/jwst/jwst_0001.pmap"), "jwst_0001.pmap"),
        (drop("mappings/jwst/jwst_miri_0001.imap"), "jwst_miri_0001.imap"),
        (drop("mappings/jwst/jwst_miri_mask_0001.rmap"), "jwst_miri_mask_0001.rmap"),
        (edit_mapping, "jwst_miri_flat_0001.rmap"),
        (drop("references/jwst/miri/jwst_miri_mask_0002.fits"), "jwst_miri_mask_0002.fits"),
        (edit_reference, "jwst_miri_flat_0001.fits"),
    ],
)
def test_context_that_is_not_whole(delivered, tmp_path, capsys, damage, message):
    cache = tmp_path / "cache"
    shutil.copytree(delivered[0] / "cache", cache)
    damage(cache)
    assert main(["context", str(cache)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_context_of_no_cache(tmp_path, capsys):
    assert main(["context", str(tmp_path)]) == 1
    assert "found no config" in capsys.readouterr().err


def test_environment_lines_are_safe_in_each_shell():
    env = {"CRDS_PATH": "/a b/it's/$HOME/`x`/!y", "CRDS_CONTEXT": "jwst_0001.pmap"}
    lines = "\n".join(format_environment(env, "sh"))
    script = f'{lines}\nprintf "%s %s" "$CRDS_PATH" "$CRDS_CONTEXT"'
    run = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True, timeout=300
    )
    assert run.stdout == " ".join(env.values())
    csh = format_environment(env, "csh")
    assert csh[0].startswith("setenv CRDS_PATH '")
    assert "\\!y" in csh[0]
    assert csh[1] == "setenv CRDS_CONTEXT jwst_0001.pmap;"


# --- publishing -------------------------------------------------------------------------------


def test_publishing_replaces_its_own_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    for names in (("a/x", "a/y", "end"), ("a/x", "end")):
        with publish(tmp_path, "end") as work:
            (work / "a").mkdir()
            for name in names:
                (work / name).write_text(f"{names}")
    assert sorted(snapshot(tmp_path)) == [OWN, "a/x", "end", "mine.txt"]
    assert (tmp_path / "end").read_text() == "('a/x', 'end')"
    with (
        pytest.raises(ProductError, match=r"mine.txt to be free"),
        publish(tmp_path, "end") as work,
    ):
        (work / "mine.txt").write_text("theirs")
    assert sorted(snapshot(tmp_path)) == [OWN, "a/x", "end", "mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_nothing_is_moved_where_a_file_is_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "cache").write_text("mine")

    def attempt():
        with publish(tmp_path, "end") as work:
            (work / "cache").mkdir()
            (work / "a").write_text("theirs")
            (work / "cache" / "x").write_text("theirs")

    with pytest.raises(ProductError, match=r"cache to be free"):
        attempt()
    assert snapshot(tmp_path) == {"cache": b"mine"}
    with (
        pytest.raises(ProductError, match=rf"write to {tmp_path}/cache, found"),
        publish(tmp_path / "cache", "end"),
    ):
        pass
    assert snapshot(tmp_path) == {"cache": b"mine"}


HOLD = """
import pathlib, sys
from jwst_tvbadpix.delivery.publish import publish
with publish(pathlib.Path(sys.argv[1]), "end"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_two_at_a_time_are_refused_and_a_dead_one_keeps_nothing(tmp_path):
    def attempt():
        with publish(tmp_path, "end") as work:
            (work / "end").write_text("whole")

    with started(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env=BARE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(ProductError, match=rf"no other run in {tmp_path}"):
            attempt()
        assert len(list(tmp_path.iterdir())) == 1
    attempt()
    assert set(snapshot(tmp_path)) == {OWN, "end"}


def test_publishing_nothing_leaves_nothing(tmp_path):
    def attempt():
        with publish(tmp_path / "a" / "b", "end") as work:
            (work / "x").write_text("half")
            raise TvBadPixError("no")

    with pytest.raises(TvBadPixError, match="no"):
        attempt()
    assert list(tmp_path.iterdir()) == []
