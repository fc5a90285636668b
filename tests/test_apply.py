"""ApplyTimeVariableMask: as a hook the same as the mask of the date as override, and alone."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from dated import (
    CHANGES,
    DATES,
    FULL,
    SIZES,
    build_setting,
    draw_static_dq,
    make_history,
    make_static,
    mjd,
)
from jwst.dq_init.dq_init_step import DQInitStep
from jwst.refpix.irs2_subtract_reference import make_irs2_mask, strip_ref_pixels
from pipeline import (
    DNU,
    assert_same_products,
    find_products,
    idle_collector,
    make_bare_environment,
    read_planes,
    read_products,
    run_detector1,
)
from stdatamodels.jwst import datamodels
from stdatamodels.jwst.datamodels.dqflags import group, pixel
from stpipe._hooks import hook_from_string

from jwst_tvbadpix.delivery import build_context, use_context
from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.errors import DateError, DetectorError, InputError
from jwst_tvbadpix.refmodels import build_mask_at, build_mask_series, write_asdf, write_twins
from jwst_tvbadpix.refmodels.irs2 import strip_irs2
from jwst_tvbadpix.steps import ApplyTimeVariableMask
from jwst_tvbadpix.steps.detector1 import TvBadPixDQInitStep

CLASS = "jwst_tvbadpix.steps.ApplyTimeVariableMask"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """No CRDS set-up but where a test makes one."""
    for key in [key for key in os.environ if key.startswith("CRDS_")]:
        monkeypatch.delenv(key)
    with idle_collector():
        yield


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return build_setting(tmp_path_factory.mktemp("dated") / "a.folder")


@pytest.fixture(scope="module")
def ramps(setting):
    """One ramp per date: before, between and after the changes."""
    return {number: setting.write_ramp(number) for number in (0, 2, 3)}


@pytest.fixture(scope="module")
def overridden(setting, ramps):
    """What calwebb_detector1 makes with the mask of the date as override."""
    return {
        number: run_detector1(
            ramp,
            setting.folder / f"override{number}",
            setting.context,
            dq_init={"override_mask": str(setting.find_mask(DATES[number]))},
        )
        for number, ramp in ramps.items()
    }


@pytest.fixture(scope="module")
def static(setting, ramps):
    """What calwebb_detector1 makes with the static mask that CRDS has."""
    folder = setting.folder / "static"
    return {n: run_detector1(ramp, folder, setting.context) for n, ramp in ramps.items()}


def read_model(path, kind=datamodels.open):
    with kind(str(path)) as opened:
        return opened.copy()


def read_planes_of(model):
    names = ("data", "err", "dq", "var_poisson", "var_rnoise", "pixeldq", "groupdq")
    return {name: np.array(getattr(model, name)) for name in names if model.hasattr(name)}


def assert_same_planes(one, two):
    first, second = read_planes_of(one), read_planes_of(two)
    assert first.keys() == second.keys()
    for name, plane in first.items():
        np.testing.assert_array_equal(plane, second[name], err_msg=name)


def test_dates_and_masks_differ(setting, static, overridden):
    """Without this the tests below could pass with one mask for all."""
    assert setting.useafter == ("2021-12-25T00:00:00", *CHANGES)
    names = {setting.find_mask(DATES[number]).name for number in overridden}
    assert len(names) == 3
    for number, products in overridden.items():
        (before,), (after,) = (
            read_planes(made["ramp"], "PIXELDQ") for made in (static[number], products)
        )
        assert ((before & DNU) & ~after).any()
        assert ((after & DNU) & ~before).any()


# --- as a hook ---------------------------------------------------------------------------------


def make_hook(setting, form):
    if form == "text":  # the folder has a dot, and so has the file
        return f"{CLASS}(history='{setting.history}')"
    if form == "bare name":
        return ApplyTimeVariableMask(history=str(setting.history.with_suffix("")))
    if form == "history folder":
        return ApplyTimeVariableMask(history=str(setting.history.parent))
    if form == "masks as text":
        return f"{CLASS}(masks='{setting.masks}')"
    return ApplyTimeVariableMask(masks=[str(setting.masks)])


@pytest.mark.parametrize(
    ("number", "form"),
    [(0, "text"), (2, "masks"), (3, "text")],
)
def test_hook_equals_override(setting, ramps, overridden, tmp_path, number, form):
    products = run_detector1(
        ramps[number],
        tmp_path,
        setting.context,
        dq_init={"post_hooks": [make_hook(setting, form)]},
    )
    assert_same_products(products, overridden[number])
    expected = setting.find_mask(DATES[number], ".asdf").name
    for path in products.values():
        assert fits.getval(path, "R_MASK") == expected
    with datamodels.open(str(products["rate"])) as rate:
        told = [line for line in rate.cal_logs.calwebb_detector1 if "state of USEAFTER" in line]
    assert len(told) == 1
    assert expected in told[0]
    assert "jwst_miri_mask_0001.fits released" in told[0]


def run_strun(setting, folder, *arguments, crds=True):
    env = make_bare_environment() | (dict(setting.context.env) if crds else {})
    return subprocess.run(
        [str(Path(sys.executable).with_name("strun")), *map(str, arguments)],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_strun_takes_the_hook(setting, ramps, overridden, tmp_path):
    done = run_strun(
        setting,
        tmp_path,
        "calwebb_detector1",
        ramps[2],
        f"--steps.dq_init.post_hooks={CLASS}(history='{setting.history}'),",
        f"--output_dir={tmp_path}",
        "--save_calibrated_ramp=True",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_products(find_products(ramps[2], tmp_path), overridden[2])
    assert "state of USEAFTER 2023-06-01T00:00:00" in done.stderr + done.stdout


def test_strun_takes_a_hook_of_two_arguments(setting, ramps, overridden, tmp_path):
    """They need quotes of their own, or the list of hooks would be split at the comma."""
    hook = f"{CLASS}(history='{setting.history}', r_mask='{setting.static}')"
    done = run_strun(
        setting,
        tmp_path,
        "jwst::dq_init",
        ramps[2],
        f'--post_hooks="{hook}",',
        "--output_file=x.fits",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (product,) = tmp_path.glob("x*.fits")
    (pixeldq,) = read_planes(product, "PIXELDQ")
    (wanted,) = read_planes(overridden[2]["ramp"], "PIXELDQ")
    np.testing.assert_array_equal(pixeldq, wanted)


def test_only_our_steps_with_arguments_are_refused_as_modules():
    step = DQInitStep()
    hook = hook_from_string(step, "post", 0, f"{CLASS}(history='/a.b/c.d.asdf')")
    assert isinstance(hook, ApplyTimeVariableMask)
    assert hook.history == "/a.b/c.d.asdf"
    with pytest.raises(ModuleNotFoundError):
        __import__("jwst_tvbadpix.steps.nothing")
    with pytest.raises(ModuleNotFoundError):
        __import__("jwst_tvbadpix.nothing(a='b.c')")
    assert [type(f).__name__ for f in sys.meta_path].count("_HooksWithArguments") == 1


@pytest.mark.parametrize(
    ("subarray", "form"),
    [("FULL", "masks as text"), ("SLITLESSPRISM", "bare name"), ("FULL", "history folder")],
)
def test_hook_on_dq_init_alone(setting, subarray, form):
    ramp = setting.write_ramp(1, subarray=subarray, nints=1, ngroups=3, observation=70)
    with use_context(setting.context):
        hooked = DQInitStep.call(str(ramp), post_hooks=[make_hook(setting, form)])
        mask = setting.find_mask(DATES[1], ".asdf")
        direct = DQInitStep.call(str(ramp), override_mask=str(mask))
    assert_same_planes(hooked, direct)
    assert hooked.meta.ref_file.mask.name == mask.name
    reference = (hooked.pixeldq & np.uint32(pixel["REFERENCE_PIXEL"])) != 0
    assert reference[:, :4].all()
    assert not (hooked.pixeldq[:, :4] & DNU).any()
    hooked.close()
    direct.close()


@pytest.mark.parametrize("as_text", [True, False])
def test_hook_knows_what_else_dq_init_was_given(setting, ramps, tmp_path, as_text):
    """An override, in place of the mask of CRDS, and flags of the user, which stay."""
    other = draw_static_dq(seed=8)
    override = next(
        p for p in write_twins(make_static(other), tmp_path / "o") if p.suffix == ".fits"
    )
    user = np.zeros((416, 72), np.uint32)
    user[50:90, 30] = pixel["OTHER_BAD_PIXEL"] | DNU
    user[600 - 528, 10] = DNU
    cut = other[528:944, :72]
    y, x = np.argwhere((cut & (pixel["HOT"] | DNU)) == (pixel["HOT"] | DNU))[100]
    user[y, x] = DNU
    fits.writeto(tmp_path / "user.fits", user)
    mask = str(setting.find_mask(DATES[2]))
    given = {"user_supplied_dq": str(tmp_path / "user.fits")}
    hook = make_hook(setting, "text" if as_text else "masks")
    with use_context(setting.context):
        hooked = DQInitStep.call(
            str(ramps[2]), override_mask=str(override), post_hooks=[hook], **given
        )
        direct = DQInitStep.call(str(ramps[2]), override_mask=mask, **given)
    assert_same_planes(hooked, direct)
    assert direct.pixeldq[y, x] == DNU
    hooked.close()
    direct.close()


def test_hook_on_ramp_fit_only_adds(setting, ramps, static, tmp_path):
    hook = ApplyTimeVariableMask(history=str(setting.history))
    products = run_detector1(ramps[2], tmp_path, setting.context, ramp_fit={"post_hooks": [hook]})
    dated = fits.getdata(setting.find_mask(DATES[2]), "DQ")[528:944, :72]
    bad = (dated & DNU) != 0
    one, two = read_products(static[2]), read_products(products)
    for kind in ("rate", "rateints"):
        np.testing.assert_array_equal(two[kind, "DQ"], one[kind, "DQ"] | dated)
        nan = np.isnan(one[kind, "SCI"]) | bad
        np.testing.assert_array_equal(np.isnan(two[kind, "SCI"]), nan)
        history = " ".join(map(str, fits.getheader(products[kind])["HISTORY"]))
        assert "state of USEAFTER 2023-06-01T00:00:00" in history
    np.testing.assert_array_equal(one["ramp", "PIXELDQ"], two["ramp", "PIXELDQ"])


def test_as_a_pre_hook_of_a_pipeline_it_gets_a_name(setting, static):
    hook = ApplyTimeVariableMask(history=str(setting.history))
    model = hook.run(str(static[2]["rateints"]))
    assert type(model) is datamodels.CubeModel
    model.close()


# --- alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rate", "rateints"])
def test_rates_get_what_ramp_fit_gives(setting, static, overridden, kind, caplog):
    given = read_model(static[2][kind])
    before = read_planes_of(given)
    with use_context(setting.context), caplog.at_level(logging.WARNING):
        result = ApplyTimeVariableMask(history=str(setting.history)).run(given)
    assert_same_planes(given, read_model(static[2][kind]))  # the input is left alone
    planes, wanted = read_planes_of(result), read_products(overridden[2])
    dated = fits.getdata(setting.find_mask(DATES[2]), "DQ")[528:944, :72]
    old = fits.getdata(setting.static, "DQ")[528:944, :72]
    bad, was = (dated & DNU) != 0, (old & DNU) != 0
    assert (bad & ~was).any()
    names = {"data": "SCI", "err": "ERR", "var_poisson": "VAR_POISSON", "var_rnoise": "VAR_RNOISE"}
    for name, extension in names.items():
        plane = planes[name]
        np.testing.assert_array_equal(plane[..., bad], wanted[kind, extension][..., bad])
        np.testing.assert_array_equal(plane[..., ~bad], before[name][..., ~bad])
    np.testing.assert_array_equal(planes["dq"], before["dq"] | dated)
    # None of the pixels that the old mask hides can be restored; it says how many.
    kept = int((was & ~bad).sum())
    assert kept > 100
    assert f"{kept} pixels keep the DO_NOT_USE of crds://jwst_miri_mask_0001.fits" in caplog.text
    assert result.meta.cal_step.instance["apply_time_variable_mask"] == "COMPLETE"


def test_without_crds_a_rate_still_gets_its_flags(setting, static, caplog):
    with caplog.at_level(logging.WARNING):
        result = ApplyTimeVariableMask(history=str(setting.history)).run(str(static[2]["rate"]))
    assert "could not be told from others and stay" in caplog.text
    named = ApplyTimeVariableMask(history=str(setting.history), r_mask=str(setting.static))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again = named.run(str(static[2]["rate"]))
    assert f"keep the DO_NOT_USE of {setting.static}" in caplog.text
    assert_same_planes(result, again)
    result.close()
    again.close()


def test_calibrated_products_keep_nan_in_all_planes(setting, static):
    given = read_model(static[2]["rate"])
    given.var_flat = np.ones(given.data.shape, np.float32)
    given.meta.cal_step.flat_field = given.meta.cal_step.photom = "COMPLETE"
    result = ApplyTimeVariableMask(history=str(setting.history)).run(given)
    bad = (result.dq & DNU) != 0
    for name in ("data", "err", "var_poisson", "var_rnoise", "var_flat"):
        np.testing.assert_array_equal(np.isnan(getattr(result, name)), bad, err_msg=name)


@pytest.mark.parametrize("kind", ["rate", "rateints", "ramp"])
def test_twice_is_once(setting, static, kind):
    step = ApplyTimeVariableMask(history=str(setting.history))
    with use_context(setting.context):
        once = step.run(str(static[3][kind]))
        twice = step.run(once)
    assert_same_planes(once, twice)
    once.close()


@pytest.mark.parametrize("suffix", [".fits", ".asdf"])
def test_either_twin_names_the_same_mask(setting, overridden, suffix):
    """Where the override that dq_init took is no longer where it was."""
    ramp = read_model(overridden[2]["ramp"])
    ramp.meta.ref_file.mask.name = f"/gone/{setting.find_mask(DATES[2], suffix).name}"
    with use_context(setting.context):
        result = ApplyTimeVariableMask(history=str(setting.history)).run(ramp)
    assert_same_planes(result, ramp)
    assert result.meta.ref_file.mask.name == setting.find_mask(DATES[2], ".asdf").name


def test_uncal_alone_gets_flags_and_name(setting, ramps):
    """Without dq_init there is nothing to remove."""
    result = ApplyTimeVariableMask.call(str(ramps[3]), history=str(setting.history))
    mask = setting.find_mask(DATES[3], ".asdf")
    direct = DQInitStep(override_mask=str(mask)).process(str(ramps[3]))
    assert_same_planes(result, direct)
    assert result.meta.ref_file.mask.name == mask.name
    result.close()
    direct.close()


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_finished_ramp_is_reflagged(setting, static, overridden, number):
    """The end of calwebb_detector1: whole groups and saturation stay, masked pixels come back."""
    with use_context(setting.context):
        result = ApplyTimeVariableMask(history=str(setting.history)).run(
            str(static[number]["ramp"])
        )
    wanted = read_products(overridden[number])
    np.testing.assert_array_equal(result.pixeldq, wanted["ramp", "PIXELDQ"])
    # jump looks at no masked pixels: what it would have found in them is not known.
    flags = np.uint8(~group["JUMP_DET"] & 0xFF)
    np.testing.assert_array_equal(result.groupdq & flags, wanted["ramp", "GROUPDQ"] & flags)
    assert (wanted["ramp", "GROUPDQ"][:, -1] & DNU).all()  # lastframe
    result.close()


def test_outputs_are_named_for_the_stock_stages(setting, static, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"history": str(setting.history), "save_results": True}
    stem = static[2]["rate"].stem.removesuffix("_rate")
    for kind in ("rate", "rateints", "ramp"):
        ApplyTimeVariableMask.call(
            str(static[2][kind]), output_dir=str(tmp_path / "out"), **settings
        ).close()
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == sorted(f"{stem}_tvmask_{kind}.fits" for kind in ("rate", "rateints", "ramp"))
    product = tmp_path / "out" / f"{stem}_tvmask_rate.fits"
    content = product.read_bytes()
    with pytest.raises(InputError, match="not its input"):
        ApplyTimeVariableMask.call(str(product), output_dir=str(tmp_path / "out"), **settings)
    assert product.read_bytes() == content
    assert len(list((tmp_path / "out").iterdir())) == 3
    ApplyTimeVariableMask.call(
        str(product), output_file=str(tmp_path / "mine.fits"), **settings
    ).close()
    with datamodels.open(str(tmp_path / "mine_tvmask_rate.fits")) as saved:
        assert saved.meta.filename == "mine_tvmask_rate.fits"
        assert isinstance(saved, datamodels.ImageModel)


def test_several_products_keep_their_names(setting, static, tmp_path):
    names = [str(static[2][kind]) for kind in ("rate", "rateints")]
    results = ApplyTimeVariableMask.call(
        names, history=str(setting.history), output_dir=str(tmp_path), save_results=True
    )
    stem = static[2]["rate"].stem.removesuffix("_rate")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{stem}_tvmask_rate.fits",
        f"{stem}_tvmask_rateints.fits",
    ]
    assert [type(one).__name__ for one in results] == ["ImageModel", "CubeModel"]
    for one in results:
        one.close()


def test_compressed_products_keep_their_kind(setting, static, tmp_path):
    stem = static[2]["rate"].stem.removesuffix("_rate")
    packed = tmp_path / f"{stem}_cal.fits.gz"
    with fits.open(static[2]["rate"]) as hdus:
        hdus.writeto(packed)
    ApplyTimeVariableMask.call(
        str(packed),
        history=str(setting.history),
        output_dir=str(tmp_path / "out"),
        save_results=True,
    ).close()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{stem}_tvmask_cal.fits"]


def test_two_inputs_of_one_name_are_refused(setting, static, tmp_path):
    """The second would replace the first."""
    (tmp_path / "b").mkdir()
    twin = tmp_path / "b" / static[2]["rate"].name
    shutil.copy(static[2]["rate"], twin)
    with pytest.raises(InputError, match=rf"two that become .*{twin.stem[:-5]}_tvmask_rate\.fits"):
        ApplyTimeVariableMask.call(
            [str(static[2]["rate"]), str(twin)],
            history=str(setting.history),
            output_dir=str(tmp_path / "out"),
            save_results=True,
        )
    assert not list((tmp_path / "out").iterdir())


def test_an_input_is_needed(setting):
    with pytest.raises(InputError, match="expected an exposure, found none"):
        ApplyTimeVariableMask(history=str(setting.history)).run()


def test_parameter_file_does_the_same(setting, static, tmp_path):
    """strun by alias, by class name, and from the parameters it saved; without any CRDS."""
    pars = tmp_path / "pars.asdf"
    runs = {
        "alias": ("apply_time_variable_mask", f"--save-parameters={pars}"),
        "class": (CLASS,),
        "file": (pars,),
    }
    rate = static[2]["rate"]
    made = []
    for name, (first, *options) in runs.items():
        folder = tmp_path / name
        folder.mkdir()
        given = [] if name == "file" else [f"--history={setting.history}"]
        done = run_strun(
            setting, folder, first, rate, *given, *options, f"--output_dir={folder}", crds=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        (product,) = folder.iterdir()
        made.append(read_model(product))
    assert_same_planes(made[0], made[1])
    assert_same_planes(made[0], made[2])


# --- which mask --------------------------------------------------------------------------------


def test_series_files_and_context_give_the_same(setting, static, tmp_path):
    files = [str(path) for path in sorted(setting.masks.glob("*.fits"))]
    context = build_context(tmp_path / "crds", {"mask": files})
    rate = str(static[2]["rate"])
    results = [
        ApplyTimeVariableMask(history=str(setting.history)).run(rate),
        ApplyTimeVariableMask(masks=[str(setting.masks)]).run(rate),
        ApplyTimeVariableMask(masks=files).run(rate),
    ]
    with use_context(context):
        results.append(ApplyTimeVariableMask(masks=["crds"]).run(rate))
    for one in results:
        assert_same_planes(one, results[0])
        one.close()


@pytest.mark.parametrize("by", ["history", "masks"])
def test_mask_holds_from_its_first_moment(setting, static, by):
    given = read_model(static[0]["rate"])
    source = (
        {"history": str(setting.history)} if by == "history" else {"masks": [str(setting.masks)]}
    )
    used = []
    for moment in ("2022-07-31T23:59:59.999", "2022-08-01T00:00:00.000"):
        given.meta.observation.date, given.meta.observation.time = moment.split("T")
        result = ApplyTimeVariableMask(**source).run(given)
        used.append(bool(result.dq[610 - 528, 20] & pixel["HOT"]))
    assert used == [False, True]


def write_masks(folder, *masks):
    for number, mask in enumerate(masks):
        write_twins(mask, folder / f"m{number}_mask_{number}")
    return [str(folder)]


def test_the_more_specific_mask_is_taken(static, tmp_path):
    tests = {"N/A": None, "P750L": "P750L", "wrong": "F560W"}
    dq = {name: np.zeros(FULL, np.uint32) for name in tests}
    for k, name in enumerate(tests):
        dq[name][700 + k, 40] = pixel["HOT"] | DNU
    folder = write_masks(
        tmp_path, *(make_static(dq[name], filter_name=value) for name, value in tests.items())
    )
    result = ApplyTimeVariableMask(masks=folder).run(str(static[2]["rate"]))
    assert [bool(result.dq[700 - 528 + k, 40] & pixel["HOT"]) for k in range(3)] == [0, 1, 0]
    result.close()


def test_depth_of_the_exposure_decides(static, tmp_path):
    dq = [np.zeros(FULL, np.uint32) for _ in range(2)]
    for k in range(2):
        dq[k][700 + k, 40] = pixel["HOT"] | DNU
    masks = [
        make_static(one, readpatt="FASTR1", ngroups=limits)
        for one, limits in zip(dq, ((1, 6), (6, 100)), strict=True)
    ]
    result = ApplyTimeVariableMask(masks=write_masks(tmp_path, *masks)).run(str(static[2]["rate"]))
    assert [bool(result.dq[700 - 528 + k, 40] & pixel["HOT"]) for k in range(2)] == [0, 1]
    result.close()


# --- IRS2 --------------------------------------------------------------------------------------

IRS2 = "NRSIRS2|NRSIRS2RAPID"


def write_saturation(detector, folder):
    dq = np.zeros(SIZES[detector], np.uint32)
    dq[700, 77] = pixel["NO_SAT_CHECK"] | DNU
    return save_saturation(dq, "NIRSPEC", detector, folder)


def save_saturation(dq, instrument, detector, folder):
    reference = datamodels.SaturationModel(data=np.ones(dq.shape, np.float32), dq=dq)
    meta, sub = reference.meta, reference.meta.subarray
    meta.instrument.name, meta.instrument.detector = instrument, detector
    sub.name, sub.xstart, sub.ystart, sub.ysize, sub.xsize = "FULL", 1, 1, *dq.shape
    path = folder / "saturation.fits"
    reference.save(path)
    return path


def make_irs2_ramp(detector, readpatt="NRSIRS2RAPID"):
    ramp = datamodels.RampModel((1, 2, 3200 if "IRS2" in readpatt else 2048, 2048))
    meta = ramp.meta
    meta.telescope, meta.filename = "JWST", "nirspec_ramp.fits"
    meta.instrument.name, meta.instrument.detector = "NIRSPEC", detector
    meta.exposure.type, meta.exposure.readpatt = "NRS_FIXEDSLIT", readpatt
    meta.exposure.ngroups = 2
    meta.observation.date, meta.observation.time = "2024-01-01", "00:00:00.000"
    sub = meta.subarray
    sub.name, sub.xstart, sub.ystart, sub.xsize, sub.ysize = "FULL", 1, 1, 2048, 2048
    sub.fastaxis, sub.slowaxis = (2, 1) if detector == "NRS1" else (-2, -1)
    return ramp


@pytest.mark.parametrize("detector", ["NRS1", "NRS2"])
def test_irs2_frame_before_and_after_refpix(tmp_path, detector):
    rows = [(600, 10, "HOT", -np.inf, np.inf), (1900, 200, "DEAD", mjd(CHANGES[1]), np.inf)]
    rows.append((30, 300, "HOT", -np.inf, mjd(CHANGES[1])))
    history = make_history(rows, detector, ("NRSIRS2RAPID", "NRSRAPID"))
    path = tmp_path / f"x_{detector}_badpixhistory.asdf"
    history.meta.filename = path.name
    write_asdf(history, path)
    dq = np.zeros(SIZES[detector], np.uint32)
    dq[600, 10] = dq[30, 300] = dq[700:800, 77] = pixel["DEAD"] | DNU
    static = next(
        p
        for p in write_twins(make_static(dq, detector, readpatt=IRS2), tmp_path / "s")
        if p.suffix == ".fits"
    )
    wanted = build_mask_at(history, "2024-01-01", readpatt="NRSIRS2RAPID")
    flagged = DQInitStep(override_mask=str(static)).process(make_irs2_ramp(detector))
    flagged.meta.cal_step.dq_init = "COMPLETE"
    step = ApplyTimeVariableMask(history=str(path), r_mask=str(static))
    result = step.run(flagged)
    np.testing.assert_array_equal(result.pixeldq, wanted.dq)
    np.testing.assert_array_equal(result.groupdq[0, 1], wanted.dq & DNU)
    np.testing.assert_array_equal(
        TvBadPixDQInitStep(history=str(path)).process(make_irs2_ramp(detector)).pixeldq, wanted.dq
    )
    anyone = build_mask_at(history, "2024-01-01", readpatt="NRSRAPID")
    anyone.meta.exposure.readpatt, anyone.meta.exposure.p_readpatt = "N/A", None
    (tmp_path / "any").mkdir()
    flagged.meta.cal_step.saturation = "COMPLETE"  # whose reference is never in the IRS2 frame
    flagged.meta.ref_file.saturation.name = str(write_saturation(detector, tmp_path))
    step = ApplyTimeVariableMask(masks=write_masks(tmp_path / "any", anyone), r_mask=str(static))
    result = step.run(flagged)
    strayed = strip_irs2(result.pixeldq, get_detector(detector)) != anyone.dq
    assert np.argwhere(strayed).tolist() == [[700, 77]]
    flagged.meta.cal_step.saturation = None
    step = ApplyTimeVariableMask(history=str(path), r_mask=str(static))
    strip_ref_pixels(flagged, make_irs2_mask(3200, 2048, 16, 4))  # what refpix does
    flagged.data = flagged.data[:, :, :2048]
    assert flagged.pixeldq.shape == (2048, 2048)
    plain = build_mask_at(history, "2024-01-01", readpatt="NRSRAPID").dq
    stripped = step.run(flagged)
    np.testing.assert_array_equal(stripped.pixeldq, plain)
    assert plain[1900, 200] == pixel["DEAD"] | DNU
    assert (stripped.groupdq == (plain & DNU)).all()


# --- what others flagged -----------------------------------------------------------------------


def make_late_ramp(static_dq, sat_dq, folder):
    """A ramp after dq_init and saturation, in memory: SUB64 of MIRIMAGE."""
    ramp = datamodels.RampModel((1, 4, 64, 72))
    meta = ramp.meta
    meta.telescope, meta.filename = "JWST", "late_ramp.fits"
    meta.instrument.name, meta.instrument.detector = "MIRI", "MIRIMAGE"
    meta.instrument.filter = "P750L"
    meta.exposure.type, meta.exposure.readpatt, meta.exposure.ngroups = "MIR_IMAGE", "FASTR1", 4
    meta.observation.date, meta.observation.time = "2023-01-01", "00:00:00.000"
    sub = meta.subarray
    sub.name, sub.xstart, sub.ystart, sub.xsize, sub.ysize = "SUB64", 1, 779, 72, 64
    sub.fastaxis, sub.slowaxis = 1, 2
    cut = np.s_[778:842, :72]
    ramp.pixeldq = static_dq[cut] | sat_dq[cut]
    ramp.groupdq[:] = static_dq[cut] & DNU
    meta.cal_step.dq_init = meta.cal_step.saturation = "COMPLETE"
    path = save_saturation(sat_dq, "MIRI", "MIRIMAGE", folder)
    meta.ref_file.saturation.name = str(path)
    return ramp


def test_flags_of_later_steps_stay(setting, tmp_path):
    hot = np.uint32(pixel["HOT"] | DNU)
    static, sat = np.zeros(FULL, np.uint32), np.zeros(FULL, np.uint32)
    static[780, 10:20] = hot
    sat[780, 12] = pixel["NO_SAT_CHECK"] | DNU
    sat[790, 30] = pixel["NO_SAT_CHECK"] | DNU
    ramp = make_late_ramp(static, sat, tmp_path)
    ramp.groupdq[0, 3] |= DNU  # the last frame
    ramp.groupdq[0, 2, 2, 13] |= group["AD_FLOOR"]
    ramp.groupdq[0, 1:, 2, 14] |= group["SATURATED"]
    ramp.groupdq[0, 1, 20, 20] |= DNU  # of a good pixel
    step = ApplyTimeVariableMask(
        history=str(setting.history), r_mask=str(write_static(static, tmp_path))
    )
    result = step.run(ramp)
    assert result.pixeldq[2, 10] == 0
    assert result.pixeldq[2, 12] == pixel["NO_SAT_CHECK"] | DNU
    assert result.pixeldq[12, 30] == pixel["NO_SAT_CHECK"] | DNU
    assert list(result.groupdq[0, :, 2, 10]) == [0, 0, 0, DNU]
    assert list(result.groupdq[0, :, 2, 13]) == [0, 0, DNU | group["AD_FLOOR"], DNU]
    assert list(result.groupdq[0, :, 2, 14]) == [0, 2, 2, 3]
    assert list(result.groupdq[0, :, 20, 20]) == [0, DNU, 0, DNU]
    assert_same_planes(step.run(result), result)


def write_static(dq, folder):
    paths = write_twins(make_static(dq), folder / "static")
    return next(path for path in paths if path.suffix == ".fits")


def test_what_cannot_be_told_apart_stays(setting, tmp_path, caplog):
    static, sat = np.zeros(FULL, np.uint32), np.zeros(FULL, np.uint32)
    static[780, 10:20] = pixel["HOT"] | DNU
    ramp = make_late_ramp(static, sat, tmp_path)
    mask = str(write_static(static, tmp_path))
    ramp.meta.ref_file.saturation.name = "crds://jwst_miri_saturation_9999.fits"
    step = ApplyTimeVariableMask(history=str(setting.history), r_mask=mask)
    with caplog.at_level(logging.WARNING):
        result = step.run(ramp)
    assert "not found: saturation crds://jwst_miri_saturation_9999.fits" in caplog.text
    assert (result.pixeldq[2, 10:20] & DNU).all()
    assert result.meta.ref_file.mask.name is None
    # A mask that was not the one.
    ramp.meta.ref_file.saturation.name = "N/A"
    static[800, 50] = DNU
    other = str(write_static(static, tmp_path))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        result = ApplyTimeVariableMask(history=str(setting.history), r_mask=other).run(ramp)
    assert "another mask was used" in caplog.text
    assert (result.pixeldq[2, 10:20] & DNU).all()


# --- bad input ---------------------------------------------------------------------------------


@pytest.fixture
def rate(static):
    return read_model(static[2]["rate"])


def change(model, **values):
    for place, value in values.items():
        node = model.meta
        *parts, last = place.split("__")
        for part in parts:
            node = getattr(node, part)
        setattr(node, last, value)
    return model


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"telescope": "ROMAN"}, InputError, "TELESCOP = JWST"),
        ({"instrument__detector": "MIRIFULONG"}, DetectorError, "history of MIRIFULONG"),
        ({"instrument__detector": None}, DetectorError, "DETECTOR must be"),
        ({"observation__date": None}, DateError, "DATE-OBS and TIME-OBS"),
        ({"observation__time": None}, DateError, "DATE-OBS and TIME-OBS"),
        ({"observation__date": "2021-01-01"}, DateError, "from 2021-12-25T00:00:00 on"),
        ({"subarray__ystart": None}, DetectorError, "rectangle of the mask"),
        ({"subarray__ystart": 900}, DetectorError, "rectangle of the mask"),
        ({"cal_step__resample": "COMPLETE"}, InputError, "pixels of the detector"),
    ],
)
@pytest.mark.parametrize("by", ["history", "masks"])
def test_exposures_that_cannot_be(setting, rate, changes, error, words, by):
    change(rate, **changes)
    source = (
        {"history": str(setting.history)} if by == "history" else {"masks": [str(setting.masks)]}
    )
    if by == "masks":
        words = words.replace("history of", "masks of")
    with pytest.raises(error, match=words) as caught:
        ApplyTimeVariableMask(**source).run(rate)
    assert rate.meta.filename in str(caught.value)


def test_another_filter(setting, rate, caplog):
    """Files say what they are for, as in CRDS; the state of a pixel is what it is."""
    change(rate, instrument__filter="F770W")
    with pytest.raises(InputError, match=r"found none among 4 of MIRIMAGE") as caught:
        ApplyTimeVariableMask(masks=[str(setting.masks)]).run(rate)
    assert "FILTER F770W" in str(caught.value)
    with caplog.at_level(logging.WARNING):
        result = ApplyTimeVariableMask(history=str(setting.history)).run(rate)
    assert "are for FILTER P750L, but the exposure is one of FILTER F770W" in caplog.text
    assert result.dq[610 - 528, 20] & pixel["HOT"]


def test_a_history_of_another_shape(rate, tmp_path):
    path = tmp_path / "x_MIRIMAGE_badpixhistory.asdf"
    history = make_history([(1500, 10, "HOT", -np.inf, np.inf)])
    history.meta.filename = path.name
    write_asdf(history, path)
    with pytest.raises(InputError, match=r"pixels of MIRIMAGE, \(1024, 1032\)"):
        ApplyTimeVariableMask(history=str(path)).run(rate)


def test_a_cut_out_is_no_exposure_of_the_detector(setting, rate):
    rate.data, rate.dq = rate.data[:50], rate.dq[:50]
    with pytest.raises(DetectorError, match="rectangle of the mask"):
        ApplyTimeVariableMask(history=str(setting.history)).run(rate)


@pytest.mark.parametrize("rows", [None, 50])
def test_a_rate_needs_its_flags(setting, rate, rows):
    rate.dq = None if rows is None else rate.dq[:rows]
    with pytest.raises(InputError, match=r"DQ of .* beside SCI"):
        ApplyTimeVariableMask(history=str(setting.history)).run(rate)


@pytest.mark.parametrize("both", [True, False])
def test_one_source_is_needed(setting, rate, both):
    given = {"history": str(setting.history), "masks": ["crds"]}
    given = given if both else {"history": "None", "masks": "None"}
    with pytest.raises(InputError, match="one of history and masks"):
        ApplyTimeVariableMask(**given).run(rate)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"history": "nothing"}, "no file at nothing.asdf"),
        ({"history": "."}, "one \\*_badpixhistory.asdf in"),
        ({"masks": ["."]}, "masks of a series"),
        ({"masks": ["none.fits"]}, "no file or folder at none.fits"),
        ({"masks": ["crds"]}, "no CRDS set-up"),
        ({"masks": ["rate.fits"]}, "REFTYPE MASK"),
        ({"masks": ["text.fits"]}, "text.fits"),
    ],
)
def test_sources_that_are_none(rate, tmp_path, monkeypatch, given, words):
    monkeypatch.chdir(tmp_path)
    rate.save(tmp_path / "rate.fits")
    (tmp_path / "text.fits").write_text("no FITS file")
    with pytest.raises(InputError, match=words):
        ApplyTimeVariableMask(**given).run(rate)


def test_r_mask_must_be_a_mask(setting, static, tmp_path):
    for name in ("absent.fits", str(static[2]["rate"])):
        with pytest.raises(InputError, match="mask reference file"):
            ApplyTimeVariableMask(history=str(setting.history), r_mask=name).run(
                str(static[2]["rate"])
            )


def test_two_masks_of_one_date_are_refused(rate, tmp_path):
    one, two = np.zeros(FULL, np.uint32), np.zeros(FULL, np.uint32)
    two[5, 5] = DNU
    with pytest.raises(InputError, match=r"one mask of USEAFTER 2021-12-25T00:00:00, found 2"):
        ApplyTimeVariableMask(masks=write_masks(tmp_path, make_static(one), make_static(two))).run(
            rate
        )


@pytest.mark.parametrize("content", ["absent", "text", "association", "reference"])
def test_files_that_are_no_exposure(setting, tmp_path, content):
    path = tmp_path / ("a.json" if content == "association" else "a.fits")
    if content == "reference":
        path = setting.static  # a reference of JWST is no exposure
    elif content != "absent":
        path.write_text("{}")
    with pytest.raises(InputError, match=path.name):
        ApplyTimeVariableMask.call(str(path), history=str(setting.history), save_results=True)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_raw_model_must_be_opened_as_a_ramp(setting, ramps):
    with (
        datamodels.Level1bModel(str(ramps[2])) as raw,
        pytest.raises(InputError, match="as a ramp"),
    ):
        ApplyTimeVariableMask(history=str(setting.history)).run(raw)


def test_series_of_the_history_are_dated(setting):
    assert len(build_mask_series(make_history())) == len(setting.useafter) == 4
