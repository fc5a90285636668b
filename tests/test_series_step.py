"""The step and its files with a budget of masks, depth classes and several filters."""

import os

import numpy as np
import pytest
from astropy.io import fits

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import InputError, ProductError
from jwst_tvbadpix.refmodels import dq_value, list_series, list_useafter, read_history, read_mask_dq
from jwst_tvbadpix.simulate import simulate_programme
from jwst_tvbadpix.steps import TimeVariableBadPixel

DNU = dq_value("DO_NOT_USE")


@pytest.fixture(scope="module", autouse=True)
def environment():
    with pytest.MonkeyPatch.context() as patch:
        for key in os.environ:
            if key.startswith(("CRDS_", "STPIPE_")):
                patch.delenv(key)
        yield


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    """Exposures of three depths: their headers say so, and the noise is as short or long ones."""
    made = simulate_programme(
        tmp_path_factory.mktemp("programme"), mode="slitless", n_exposures=12, seed=5
    )
    for k, path in enumerate(made.rates):
        readpatt, ngroups = (("FASTR1", 30), ("FASTR1", 200), ("SLOWR1", 40))[k % 3]
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.update(READPATT=readpatt, NGROUPS=ngroups)
    return made


@pytest.fixture(scope="module")
def run(programme, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    TimeVariableBadPixel.call(
        str(programme.association),
        depth="auto",
        max_masks=2,
        mask_filter="P750L|F1000W",
        output_dir=str(out),
        output_file="mine",
        save_results=True,
        report=False,
    )
    return out


def test_each_depth_has_its_few_files(run):
    history = read_history(run / "mine_MIRIMAGE_badpixhistory.asdf")
    settings = history.settings.instance
    assert (settings["depth"], settings["max_masks"]) == ("auto", 2)
    series = list_series(history)
    assert [one.depth for one in series] == ["SHALLOW", "MEDIUM", "DEEP"]
    for one in series:
        prefix = f"mine_MIRIMAGE_P750L-F1000W_{one.depth}_{one.readpatt}_mask_"
        dates = [date.replace("-", "").replace(":", "") for date in list_useafter(history, one)]
        assert len(dates) == 2
        for suffix in ("asdf", "fits"):
            names = sorted(path.name for path in run.glob(f"{prefix}*.{suffix}"))
            assert names == [f"{prefix}{date}.{suffix}" for date in dates]
    header = fits.getheader(next(run.glob("*DEEP*.fits")))
    assert (header["FILTER"], header["P_FILTER"]) == ("P750L", "P750L|F1000W|")
    assert (header["READPATT"], header["NGROUPS"]) == ("SLOWR1", "BETWEEN 1 100000")
    assert len([*run.glob("*.asdf"), *run.glob("*.fits")]) == 13


@pytest.mark.parametrize("depth", ["SHALLOW", "MEDIUM", "DEEP"])
def test_mask_at_gives_the_file_of_the_date(run, tmp_path, capsys, depth):
    history = run / "mine_MIRIMAGE_badpixhistory.asdf"
    files = sorted(run.glob(f"*_{depth}_*.fits"))
    second = fits.getval(files[1], "USEAFTER")
    for date, file in (("2022-01-01", files[0]), (second, files[1]), ("2026-06-30", files[1])):
        arguments = ["--date", date, "--depth", depth, "--output-dir", str(tmp_path)]
        assert main(["mask-at", str(history), *arguments]) == 0
        written = capsys.readouterr().out.split()[1]
        assert os.path.basename(written) == file.name
        np.testing.assert_array_equal(read_mask_dq(written)[0], read_mask_dq(file)[0])
        assert (read_mask_dq(file)[0] & DNU).any()


def test_one_mask_for_all(programme):
    history, *masks = TimeVariableBadPixel.call(str(programme.association), max_masks=1)
    assert len(masks) == 1
    assert masks[0].meta.useafter == history.meta.useafter
    every = TimeVariableBadPixel.call(str(programme.association))[1:]
    assert len(every) > 3
    bad = [mask.dq & DNU != 0 for mask in every]
    static = masks[0].dq & DNU != 0
    # What is always bad is in it; what never is, is not.
    assert not (np.logical_and.reduce(bad) & ~static).any()
    assert not (static & ~np.logical_or.reduce(bad)).any()
    assert static.sum() > np.logical_and.reduce(bad).sum()


def test_errors_come_before_the_work(programme, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "jwst_tvbadpix.steps.time_variable_bad_pixel.find_histories",
        lambda *_, **__: pytest.fail("the long part was run"),
    )
    with pytest.raises(ProductError, match="different names"):
        TimeVariableBadPixel.call(str(programme.association), mask_filter="P750L|ANY")
    paths = []
    for path in programme.rates:
        with fits.open(path) as hdus:
            del hdus[0].header["NGROUPS"]
            hdus.writeto(tmp_path / os.path.basename(path))
        paths.append(str(tmp_path / os.path.basename(path)))
    with pytest.raises(InputError, match="expected READPATT and NGROUPS"):
        TimeVariableBadPixel.call(paths, depth="auto")
