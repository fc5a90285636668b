"""ExternalFlatBuilder on a simulated programme, and calwebb_image2 with what it makes."""

import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from flatness import (
    measure_flatness,
    measure_repeatability,
    read_cal,
    run_image2,
    write_stage2,
)
from jwst.flatfield import FlatFieldStep
from pipeline import idle_collector, make_bare_environment
from stdatamodels.jwst import datamodels

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.delivery import build_context, deliver, open_context, use_context
from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.parameters import find_shipped
from jwst_tvbadpix.simulate import (
    find_region,
    make_distortion,
    simulate_flat_programme,
    write_distortion,
)
from jwst_tvbadpix.steps import ExternalFlatBuilder

HELD = 4


@dataclass(frozen=True)
class Run:
    """A programme and the folder of what was made of it."""

    programme: object
    folder: Path

    def find(self, pattern):
        (path,) = self.folder.glob(pattern)
        return path


def build(programme, folder, **parameters):
    """Run the step as users do, without any CRDS set-up."""
    inputs = getattr(programme, "association", programme)
    with idle_collector():
        ExternalFlatBuilder.call(
            str(inputs) if isinstance(inputs, Path) else inputs,
            save_results=True,
            output_dir=str(folder),
            report=False,
            **parameters,
        )
    return Run(programme, folder)


@pytest.fixture(autouse=True)
def _no_crds(monkeypatch):
    for name in ("CRDS_PATH", "CRDS_SERVER_URL", "CRDS_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    return simulate_flat_programme(
        tmp_path_factory.mktemp("programme"),
        region=find_region("SUB256"),
        n_exposures=16,
        density=2500,
        scattered=0.02,
        distortion=make_distortion(),
    )


@pytest.fixture(scope="module")
def distortion(tmp_path_factory):
    return write_distortion(tmp_path_factory.mktemp("optics"))


@pytest.fixture(scope="module")
def run(programme, distortion, tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    return build(programme, folder, hold_out=HELD, distortion=str(distortion))


@pytest.fixture(scope="module")
def full_run(distortion, tmp_path_factory):
    programme = simulate_flat_programme(
        tmp_path_factory.mktemp("full"),
        n_exposures=14,
        n_tiles=4,
        scattered=0.02,
        distortion=make_distortion(),
    )
    folder = tmp_path_factory.mktemp("full_products")
    return build(programme, folder, hold_out=2, distortion=str(distortion))


def read_flat(path):
    with datamodels.open(path) as model:
        return model.data.copy(), model.err.copy(), model.dq.copy(), model.meta.instance


def read_history(path):
    return str(fits.getheader(path)["HISTORY"]).replace("\n", "")


def compare(flat, err, truth):
    """Pulls and relative errors where the flat is used, both of mean 1."""
    used = np.isfinite(flat)
    error = flat[used] / flat[used].mean() - truth[used] / truth[used].mean()
    return error / err[used], error


def test_products_are_named_and_complete(run):
    stem = "jw04487-flat_f770w_MIRIMAGE_F770W_SUB256"
    names = sorted(path.name for path in run.folder.iterdir())
    assert names == [
        f"{stem}_drifts.ecsv",
        f"{stem}_exposures.ecsv",
        f"{stem}_flat_20211225T000000.asdf",
        f"{stem}_flat_20211225T000000.fits",
        f"{stem}_modes.ecsv",
        f"{stem}_starflat.asdf",
        f"{stem}_stars.ecsv",
    ]


def test_flat_is_the_truth_within_its_error(run):
    flat, err, dq, _ = read_flat(run.find("*_flat_*.fits"))
    truth = run.programme.star_flats[0]
    pull, error = compare(flat, err, truth * run.programme.area)
    assert np.mean(pull**2) == pytest.approx(1, abs=0.1)
    assert np.std(error) < 0.004
    # Without the area of the pixels it would be wrong by far more.
    assert np.mean(compare(flat, err, truth)[0] ** 2) > 2
    used = (dq & 1) == 0
    assert used.mean() > 0.99
    assert (flat[used] > 0).all()
    assert np.isfinite(err[used]).all()
    assert np.isnan(flat[~used]).all()


def test_twins_are_equal_and_decoded_right(run):
    one, two = (read_flat(run.find(f"*_flat_*.{kind}")) for kind in ("asdf", "fits"))
    for first, second in zip(one[:3], two[:3], strict=True):
        np.testing.assert_array_equal(first, second)
    with asdf.open(run.find("*_flat_*.asdf")) as file:
        assert "dq_def" not in file.tree
    with fits.open(run.find("*_flat_*.fits")) as hdus:
        assert "DQ_DEF" in hdus
        header = hdus[0].header
    expected = {
        "REFTYPE": "FLAT",
        "FILTER": "F770W",
        "BAND": "N/A",
        "SUBARRAY": "SUB256",
        "SUBSTRT1": 413,
        "SUBSTRT2": 51,
        "USEAFTER": "2021-12-25T00:00:00",
    }
    assert {key: header[key] for key in expected} == expected


def test_parts_multiply_to_the_flat_and_show_the_scattered_light(run):
    flat = read_flat(run.find("*_flat_*.fits"))[0]
    with asdf.open(run.find("*_starflat.asdf"), memmap=False, lazy_load=False) as file:
        tree = file.tree
        maps = tree["maps"]
        np.testing.assert_allclose(maps["p_flat"] * maps["l_flat"][0], flat, rtol=1e-5)
        ratio, ratio_err = maps["ratio"][0], maps["ratio_err"][0]
        star = tree["star"]
        assert star["covariance"].shape == (len(star["degree"]),) * 2
        assert np.linalg.eigvalsh(star["covariance"]).min() > 0
        assert tree["gauge"]["n_components"] == 1
        used = sum(status == "used" for status in tree["exposures"]["status"])
        assert len(tree["gauge"]["n_links"]) == used
        check = tree["check"]
        assert tree["area"] == "distorted"
        used = np.isfinite(flat)
        np.testing.assert_allclose(maps["area"][used], run.programme.area[used], rtol=2e-4)
    truth = run.programme.sky_flat / run.programme.star_flats[0] / run.programme.area
    pull = (ratio / np.nanmean(ratio) - truth / truth.mean()) / ratio_err
    assert np.nanmax(np.abs(pull)) < 5
    assert check["n_exposures"] == HELD
    assert check["pixel_after"] < 0.7 * check["pixel_before"]
    assert check["star_after"] < check["star_before"]


def test_tables_tell_every_exposure(run):
    table = Table.read(run.find("*_exposures.ecsv"))
    assert len(table) == len(run.programme.rates)
    assert list(table["status"]).count("held out") == HELD
    assert list(table["status"]).count("used") == len(table) - HELD
    used = table["status"] == "used"
    assert np.isfinite(table["zero_point"][used]).all()
    # Pointings were off by 0.7 pixels of 0.11 arcsec.
    assert 0.02 < np.std(table["offset_ra"][used]) < 0.3
    stars = Table.read(run.find("*_stars.ecsv"))
    assert (stars["n_exposures"] >= 2).all()
    assert (
        np.hypot((stars["ra"] - 270) * np.cos(np.deg2rad(66.46)), stars["dec"] - 66.46).max() < 0.02
    )
    modes = Table.read(run.find("*_modes.ecsv"))
    assert (modes["err"] > 0).all()
    assert len(modes) >= 2
    assert set(Table.read(run.find("*_drifts.ecsv"))["term"]) >= {"slope", "exponential"}


@pytest.mark.parametrize("where", ["run", pytest.param("full_run", marks=pytest.mark.slow)])
def test_image2_picks_the_flat_by_itself(where, request, tmp_path):
    run = request.getfixturevalue(where)
    table = Table.read(run.find("*_exposures.ecsv"))
    names = table["filename"][table["status"] == "held out"]
    rates = [run.programme.association.parent / name for name in names]
    stars = Table.read(run.find("*_stars.ecsv"))
    references = write_stage2(tmp_path / "references")
    found = {}
    for kind in ("none", "fits", "asdf"):
        flat = run.find(f"*_flat_*.{kind.replace('none', 'fits')}")
        context = build_context(tmp_path / kind / "crds", {**references, "flat": [flat]})
        folder = tmp_path / kind / "products"
        steps = {"none": {"flat_field": {"skip": True}}, "asdf": {"resample": {"skip": True}}}
        # The twin is asked for one exposure alone, to be quick.
        mine = rates[:1] if kind == "asdf" else rates
        for rate in mine:
            run_image2(rate, folder, context, bkg_subtract={"skip": True}, **steps.get(kind, {}))
        cals = found[kind] = sorted(folder.glob("*_cal.fits"))
        assert len(cals) == len(mine)
        for path in cals:
            header = read_cal(path)[1]
            assert (header["S_WCS"], header["S_PHOTOM"]) == ("COMPLETE", "COMPLETE")
            if kind != "none":
                assert header["R_FLAT"] == f"crds://{context.names[flat.resolve()]}"
                assert header["S_FLAT"] == "COMPLETE"
    first, second = (read_cal(found[kind][0])[0] for kind in ("fits", "asdf"))
    assert set(first) == {"SCI", "ERR", "DQ", "VAR_FLAT"}
    for key, plane in first.items():
        np.testing.assert_array_equal(plane, second[key])
    good = np.isfinite(read_flat(run.find("*_flat_*.fits"))[0])
    before, after = (describe_cals(found[kind], good, stars) for kind in ("none", "fits"))
    logging.getLogger(__name__).info("%s, rms [%%]: %s -> %s", where, before, after)
    assert after["pixels"] < 0.65 * before["pixels"]
    assert after["cells"] < 0.9 * before["cells"]
    assert after["stars"] < 0.9 * before["stars"]
    assert after["pairs"] > 15


def describe_cals(cals, good, stars):
    """Say how flat the sky and how alike the stars are after calwebb_image2."""
    pixels, cells = np.median([measure_flatness(path, good) for path in cals], axis=0)
    i2ds = [path.with_name(path.name.replace("_cal", "_i2d")) for path in cals]
    scatter, pairs = measure_repeatability(i2ds, np.array(stars["ra"]), np.array(stars["dec"]))
    values = {"pixels": pixels, "cells": cells, "stars": scatter}
    return {name: round(float(value), 3) for name, value in values.items()} | {"pairs": pairs}


def test_flat_divides_what_image2_calibrates(run, tmp_path):
    flat = run.find("*_flat_*.fits")
    context = build_context(tmp_path / "crds", {"flat": [flat]})
    steps = {name: {"skip": True} for name in ("assign_wcs", "bkg_subtract", "photom", "resample")}
    rate = run.programme.rates[0]
    run_image2(rate, tmp_path, context, **steps)
    planes = read_cal(tmp_path / rate.name.replace("_rate", "_cal"))[0]
    response, _, dq, _ = read_flat(flat)
    with fits.open(rate) as hdus:
        before = hdus["SCI"].data / response
    used = (dq & 1) == 0
    np.testing.assert_allclose(planes["SCI"][used], before[used], rtol=1e-5)
    assert np.isnan(planes["SCI"][~used]).all()
    assert (planes["DQ"][~used] & 1).all()


def test_cal_files_of_the_shipped_parameters_give_the_same_flat(run, distortion, tmp_path):
    rates = run.programme.rates[::4]
    context = build_context(tmp_path / "crds", write_stage2(tmp_path / "references"))
    cals = tmp_path / "cals"
    for rate in rates:
        run_image2(rate, cals, context, find_shipped("image2_flats"))
    paths = sorted(cals.glob("*_cal.fits"))
    assert len(paths) == len(rates)
    assert not list(cals.glob("*_i2d.fits"))
    header = read_cal(paths[0])[1]
    assert (header["S_WCS"], header["S_FLAT"]) == ("COMPLETE", "SKIPPED")
    assert fits.getval(paths[0], "BUNIT", ext=1) == "MJy/sr"
    flats = []
    for inputs, extra in ((paths, {}), (rates, {"distortion": str(distortion)})):
        with idle_collector():
            parts, flat = ExternalFlatBuilder.call([str(path) for path in inputs], **extra)
        assert parts.area == "distorted"
        flats.append((flat.data, flat.err, parts.maps.l_flat[0]))
    for one, two in zip(*flats, strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-3)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory):
    return simulate_flat_programme(
        tmp_path_factory.mktemp("drifting"),
        region=find_region("SUB256"),
        n_exposures=9,
        n_tiles=3,
        density=3000,
        drift=0.05,
        epoch_mjd=(59700.0, 59900.0),
    )


def test_flat_that_drifts_has_one_file_per_epoch(drifting, tmp_path):
    run = build(drifting, tmp_path / "auto")
    with asdf.open(run.find("*_starflat.asdf")) as file:
        assert file["drifts"]["verdicts"]["flat"] == "DRIFT"
        assert file["maps"]["l_flat"].shape[0] == 2
        # Rates have no gwcs, and so no distortion.
        assert file["area"] == "constant"
        assert any("area of the pixels is taken as constant" in note for note in file["notes"])
        dates = list(file["flats"]["useafter"])
    first, second = sorted(run.folder.glob("*_flat_*.fits"))
    assert [fits.getval(path, "USEAFTER") for path in (first, second)] == dates
    assert dates[0] == "2021-12-25T00:00:00"
    gap = [Time(spec.mjd, format="mjd").isot for spec in (drifting.specs[8], drifting.specs[9])]
    assert gap[0] < dates[1] < gap[1]
    for path, truth in zip((first, second), drifting.star_flats, strict=True):
        flat, err, _, _ = read_flat(path)
        pull, _ = compare(flat, err, truth)
        assert np.mean(pull**2) == pytest.approx(1, abs=0.15)
    # The flat of the other epoch is wrong by far more.
    pull, _ = compare(*read_flat(first)[:2], drifting.star_flats[1])
    assert np.mean(pull**2) > 1.5
    assert deliver(run.folder, tmp_path / "delivery", datasets=drifting.rates).passed
    context = open_context(tmp_path / "delivery" / "cache")
    chosen = []
    for rate in (drifting.rates[0], drifting.rates[-1]):
        with idle_collector(), use_context(context), FlatFieldStep.call(str(rate)) as result:
            name = result.meta.ref_file.flat.name.removeprefix("crds://")
        (path,) = (tmp_path / "delivery" / "cache").rglob(name)
        chosen.append(path.read_bytes())
    assert chosen == [path.read_bytes() for path in (first, second)]


def test_one_flat_when_that_is_asked_for(drifting, tmp_path):
    rates = [str(path) for path in drifting.rates[::2]]
    run = build(rates, tmp_path, by_epoch="never")
    assert len(list(run.folder.glob("*_flat_*.fits"))) == 1
    with asdf.open(run.find("*_starflat.asdf")) as file:
        assert file["drifts"]["verdicts"]["flat"] == "DRIFT"


def test_epochs_need_stars(drifting, tmp_path):
    rates = [str(path) for path in drifting.rates[::5]]
    with pytest.raises(EvidenceError, match="tell 2 epochs apart"):
        build(rates, tmp_path, by_epoch="always", star_flat="never")


def test_stable_flat_is_one_file(run):
    with asdf.open(run.find("*_starflat.asdf")) as file:
        assert file["drifts"]["verdicts"]["flat"] == "STABLE"
        assert set(file["drifts"]["verdicts"]) >= {"PSF core", "distortion", "background"}
        assert not any("area of the pixels" in note for note in file["notes"])
    history = read_history(run.find("*_flat_*.fits"))
    assert "Used distortion reference simulated_mirimage_distortion.asdf" in history


def test_two_commands_make_flats_of_a_simulated_field(tmp_path, capsys):
    field, flats = tmp_path / "field", tmp_path / "flats"
    assert main(["simulate", str(field), "--mode", "flats", "--exposures", "10"]) == 0
    lines = capsys.readouterr().out.splitlines()
    association = Path(lines[-1])
    assert association.parent == field
    truth, distortion = field / "truth_flat.fits", field / "simulated_mirimage_distortion.asdf"
    assert lines[:2] == [f"10 rates; truth: {truth}", f"distortion: {distortion}"]
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("strun")),
            "external_flat_builder",
            str(association),
            f"--distortion={distortion}",
            f"--output_dir={flats}",
            "--output_file=mine",
        ],
        env=make_bare_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Stacking MIRIMAGE F770W SUB256" in done.stderr
    names = sorted(path.name for path in flats.iterdir())
    assert "mine_MIRIMAGE_F770W_SUB256_flat_20211225T000000.fits" in names
    assert not [name for name in names if name.startswith(".")]
    flat, err, _, _ = read_flat(flats / "mine_MIRIMAGE_F770W_SUB256_flat_20211225T000000.fits")
    with fits.open(truth) as hdus:
        pull, _ = compare(flat, err, hdus["STAR"].data * hdus["AREA"].data)
        assert hdus["SKY"].data.std() > hdus["STAR"].data.std()
    assert np.mean(pull**2) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "flats", "--detector", "NRS1"], "neither --detector"),
        (["--mode", "slit", "--size", "full"], "--mode flats alone"),
        (["--mode", "flats", "--exposures", "0"], "at least 1 exposure"),
    ],
)
def test_simulation_of_flats_refuses_what_it_has_not(tmp_path, capsys, options, words):
    assert main(["simulate", str(tmp_path / "out"), *options]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_full_frame_is_right_and_spares_the_slit(full_run):
    run = full_run
    flat, err, dq, _ = read_flat(run.find("*_flat_*.fits"))
    assert fits.getval(run.find("*_flat_*.fits"), "SUBARRAY") == "GENERIC"
    inner = np.zeros(flat.shape, bool)
    inner[14:1014, 368:1016] = True  # the field of view has soft edges, which are not response
    pull, error = compare(
        np.where(inner, flat, np.nan),
        np.where(inner, err, np.nan),
        run.programme.star_flats[0] * run.programme.area,
    )
    assert np.mean(pull**2) == pytest.approx(1, abs=0.1)
    assert np.std(error) < 0.004
    slit = dq[296:303, 301:347]
    assert (slit == 512).all()
    assert (dq[300, :290] & 1).all()
    assert np.isfinite(flat[296:303, 301:347]).all()
