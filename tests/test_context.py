import os
import shutil
import socket
import subprocess
import sys

import crds
import numpy as np
import pytest
from crds import certify
from crds.core import log
from references import make_photom
from stdatamodels.jwst.datamodels import GainModel

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.errors import InputError, ProductError
from jwst_tvbadpix.refmodels import build_mask, dq_value, write_twins

SHAPE = (1024, 1032)
DATES = ("2021-12-25T00:00:00", "2023-09-01T00:00:00")
LRS_FULL = {
    "META.INSTRUMENT.NAME": "MIRI",
    "META.INSTRUMENT.DETECTOR": "MIRIMAGE",
    "META.INSTRUMENT.FILTER": "P750L",
    "META.SUBARRAY.NAME": "FULL",
    "META.EXPOSURE.READPATT": "FASTR1",
    "META.EXPOSURE.NGROUPS": "20",
    "META.OBSERVATION.TIME": "00:00:00.000",
}
LRS_SLITLESS = {
    **LRS_FULL,
    "META.SUBARRAY.NAME": "SLITLESSPRISM",
    "META.EXPOSURE.READPATT": "SLOWR1",
    "META.EXPOSURE.NGROUPS": "900",
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("network attempt")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def write_mask(path, useafter, x=10, **selection):
    dq = np.zeros(SHAPE, np.uint32)
    dq[600, x] = dq_value("HOT", "TELEGRAPH", "DO_NOT_USE")
    model = build_mask(
        dq,
        detector="MIRIMAGE",
        useafter=useafter,
        description="Time-variable bad pixels",
        history=["Made by a test."],
        pedigree="SIMULATION",
        **selection,
    )
    return write_twins(model, path)


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    folder = tmp_path_factory.mktemp("series")
    return [write_mask(folder / f"mask_{n}", date, x=10 + n) for n, date in enumerate(DATES)]


@pytest.fixture(scope="module")
def context(series, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    return build_context(cache, {"mask": [fits for _, fits in series]})


def find_mask(exposure, date):
    keys = {**exposure, "META.OBSERVATION.DATE": date}
    found = crds.getreferences(keys, reftypes=["mask"], observatory="jwst")
    return os.path.basename(found["mask"])


@pytest.mark.parametrize(
    "exposure",
    [
        LRS_FULL,
        LRS_SLITLESS,
        {**LRS_FULL, "META.INSTRUMENT.FILTER": "F770W", "META.SUBARRAY.NAME": "SUB64"},
        {**LRS_FULL, "META.INSTRUMENT.FILTER": "N/A"},
    ],
)
def test_selects_by_date_for_every_mode(context, series, exposure):
    names = [context.names[fits.resolve()] for _, fits in series]
    with use_context(context):
        assert find_mask(exposure, "2021-12-25") == names[0]
        assert find_mask(exposure, "2023-08-31") == names[0]
        assert find_mask(exposure, "2023-09-01") == names[1]
        assert find_mask(exposure, "2030-01-01") == names[1]
        with pytest.raises(crds.CrdsLookupError):
            find_mask(exposure, "2021-12-24")


def test_asdf_masks_are_selected_too(series, tmp_path):
    context = build_context(tmp_path, {"mask": [asdf for asdf, _ in series]})
    with use_context(context):
        assert find_mask(LRS_SLITLESS, "2024-01-01") == "jwst_miri_mask_0002.asdf"


def test_a_specific_series_is_preferred_to_the_generic_one(tmp_path):
    kinds = {
        "generic": {},
        "lrs": {"filter_name": "P750L"},
        "slow": {"filter_name": "P750L", "readpatt": "SLOWR1"},
        "deep": {"filter_name": "P750L", "ngroups": (50, 400)},
    }
    masks = {
        key: write_mask(tmp_path / key, DATES[0], x=n, **selection)[1].resolve()
        for n, (key, selection) in enumerate(kinds.items())
    }
    context = build_context(tmp_path / "cache", {"mask": list(masks.values())})
    exposures = {
        "generic": {**LRS_FULL, "META.INSTRUMENT.FILTER": "F770W"},
        "lrs": {**LRS_FULL, "META.EXPOSURE.NGROUPS": "49"},
        "slow": LRS_SLITLESS,
        "deep": {**LRS_FULL, "META.EXPOSURE.NGROUPS": "50"},
    }
    with use_context(context):
        for key, exposure in exposures.items():
            assert find_mask(exposure, "2024-01-01") == context.names[masks[key]]
        beyond = {**LRS_FULL, "META.EXPOSURE.NGROUPS": "400"}
        assert find_mask(beyond, "2024-01-01") == context.names[masks["lrs"]]
        assert count_complaints([str(path) for path in masks.values()]) == (0, 0)


def count_complaints(paths):
    log.reset()
    certify.certify_files(paths, "jwst_0001.pmap", observatory="jwst")
    return log.errors(), log.warnings()


def test_certify_has_no_complaint(context, series):
    with use_context(context):
        assert count_complaints([str(fits) for _, fits in series]) == (0, 0)


def test_environment_is_restored(series, tmp_path, monkeypatch):
    monkeypatch.setenv("CRDS_PATH", "/somewhere/else")
    monkeypatch.setenv("CRDS_MODE", "local")
    before = dict(os.environ)
    context = build_context(tmp_path, {"mask": [fits for _, fits in series]})
    assert dict(os.environ) == before
    with use_context(context):
        assert os.environ["CRDS_PATH"] == str(tmp_path)
        assert os.environ.get("CRDS_MODE") != "local"
    assert dict(os.environ) == before


def test_another_process_needs_only_the_environment(context):
    code = (
        "import crds, os; h = dict(eval(os.environ['KEYS'])); "
        "h['META.OBSERVATION.DATE'] = '2024-01-01'; "
        "print(crds.getreferences(h, reftypes=['mask', 'dark'], observatory='jwst'))"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CRDS_")}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **context.env, "KEYS": repr(LRS_FULL)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "jwst_miri_mask_0002.fits" in run.stdout
    assert "NOT FOUND" in run.stdout  # the dark is N/A


def test_builds_where_crds_was_not_imported(series, tmp_path):
    code = """
import sys
from jwst_tvbadpix.delivery import build_context, use_context
assert "crds" not in sys.modules
context = build_context(sys.argv[1], {"mask": [sys.argv[2]]})
import crds, os
assert "CRDS_PATH" not in os.environ
with use_context(context):
    keys = {**eval(sys.argv[3]), "META.OBSERVATION.DATE": "2024-01-01"}
    print(crds.getreferences(keys, reftypes=["mask"], observatory="jwst"))
assert "CRDS_PATH" not in os.environ
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("CRDS_")}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(series[0][1]), repr(LRS_FULL)],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert "jwst_miri_mask_0001.fits" in run.stdout


def test_contexts_share_a_cache(series, tmp_path):
    newer = write_mask(tmp_path / "newer", "2024-06-01T00:00:00", x=20)[1]
    old = [fits for _, fits in series]
    first = build_context(tmp_path / "cache", {"mask": old})
    second = build_context(tmp_path / "cache", {"mask": [newer, *old]}, name="jwst_0002.pmap")
    for context, expected in ((first, "mask_0002"), (second, "mask_0003"), (first, "mask_0002")):
        with use_context(context):
            assert expected in find_mask(LRS_FULL, "2025-01-01")


def test_other_types_need_only_the_keywords_they_have(series, tmp_path):
    gain = GainModel(data=np.ones((4, 4), np.float32))
    meta = gain.meta
    meta.reftype, meta.useafter, meta.description = "GAIN", DATES[0], "Gain"
    meta.author, meta.pedigree = "A test", "SIMULATION"
    meta.instrument.name, meta.instrument.detector = "MIRI", "MIRIMAGE"
    meta.subarray.name = "GENERIC"
    gain.save(tmp_path / "gain.fits")
    context = build_context(
        tmp_path / "cache", {"mask": [series[0][1]], "gain": [tmp_path / "gain.fits"]}
    )
    with use_context(context):
        keys = {**LRS_SLITLESS, "META.OBSERVATION.DATE": "2024-01-01"}
        found = crds.getreferences(keys, reftypes=["gain"], observatory="jwst")
    assert found["gain"].endswith("jwst_miri_gain_0001.fits")


def test_several_instruments_share_a_context(series, tmp_path):
    mask = build_mask(
        np.zeros((2048, 2048), np.uint32),
        detector="NIS",
        useafter=DATES[0],
        description="Time-variable bad pixels",
        history=["Made by a test."],
        pedigree="SIMULATION",
    )
    other = write_twins(mask, tmp_path / "nis")[1]
    context = build_context(tmp_path / "cache", {"mask": [series[0][1], other]})
    niriss = {"META.INSTRUMENT.NAME": "NIRISS", "META.INSTRUMENT.DETECTOR": "NIS"}
    with use_context(context):
        assert find_mask(LRS_FULL, "2024-01-01") == "jwst_miri_mask_0001.fits"
        assert find_mask({**LRS_FULL, **niriss}, "2024-01-01") == "jwst_niriss_mask_0001.fits"


def test_photom_files_of_several_modes_are_told_apart(tmp_path):
    modes = {name: write_photom(tmp_path / name, name) for name in ("MIR_IMAGE", "MIR_TACQ")}
    context = build_context(tmp_path / "cache", {"photom": list(modes.values())})
    with use_context(context):
        for name, path in modes.items():
            keys = {**LRS_FULL, "META.EXPOSURE.TYPE": name, "META.OBSERVATION.DATE": "2024-01-01"}
            found = crds.getreferences(keys, reftypes=["photom"], observatory="jwst")
            assert found["photom"].endswith(context.names[path.resolve()])


def write_photom(path, exp_type):
    return write_twins(make_photom(exp_type=exp_type), path)[1]


def test_links_keep_their_names(series, tmp_path):
    """What a link leads to may be called anything, in a store by checksum for example."""
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(series[0][1], store / "0f3a")
    link = tmp_path / "mask.fits"
    link.symlink_to(store / "0f3a")
    context = build_context(tmp_path / "cache", {"mask": [link]})
    assert context.names == {link.parent.resolve() / link.name: "jwst_miri_mask_0001.fits"}


def test_refuses_bad_references(series, tmp_path):
    fits = series[0][1]
    before = dict(os.environ)
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE  = nothing of the kind")
    same_date = write_mask(tmp_path / "same", DATES[0], x=50)[1]
    cases = [
        ({"mask": [tmp_path / "absent.fits"]}, InputError, "found nothing"),
        ({"mask": [broken]}, InputError, "readable"),
        ({"mask": []}, InputError, "no file"),
        ({"mask": [fits, fits]}, InputError, "once"),
        ({"flat": [fits]}, InputError, "REFTYPE FLAT"),
        ({"mask": [fits, same_date]}, ProductError, "own date"),
    ]
    for references, error, message in cases:
        with pytest.raises(error, match=message):
            build_context(tmp_path / "cache", references)
    with pytest.raises(InputError, match="context name"):
        build_context(tmp_path / "cache", {"mask": [fits]}, name="jwst_1.pmap")
    assert dict(os.environ) == before
