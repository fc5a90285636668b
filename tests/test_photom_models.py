"""Photom references: every mode through the stock step, and what is refused."""

import dataclasses

import numpy as np
import pytest
from fluxfactors import (
    ALL,
    DECAY,
    HEADER,
    LINE,
    MODES,
    POWER,
    STILL,
    make_factor,
    make_mrs_factors,
    make_mrs_template,
    make_mrs_wavelengths,
    vectors,
)
from jwst.photom.photom_step import PhotomStep
from stdatamodels.jwst.datamodels import ImageModel

from jwst_tvbadpix.errors import DateError, InputError, ProductError
from jwst_tvbadpix.fluxcal import Mode, Throughput
from jwst_tvbadpix.refmodels import (
    CLOSURE,
    build_photom_models,
    check_closure,
    freeze_factors,
    read_template,
    write_photom,
)
from jwst_tvbadpix.refmodels.photom_rows import MISSION_MJD, rebase

DATES = (59772.0, 60123.0, 61500.0, 63410.0)


def build(factors, **more):
    (model,) = build_photom_models(factors, HEADER, **more).values()
    return model


@pytest.mark.parametrize("name", MODES)
def test_every_mode_closes_through_the_photom_step(name):
    models = build_photom_models(MODES[name], HEADER)
    assert list(models) == [name]
    closure = check_closure(models[name], MODES[name], mjd=DATES)
    assert closure.worst < CLOSURE
    assert closure.n_rows == len(models[name].phot_table)


def test_a_wrong_reference_does_not_close():
    factors = MODES["MIRIMAGE_imaging"]
    model = build(factors)
    model.phot_table["photmjsr"][1] *= 1 + 3e-6
    with pytest.raises(ProductError, match=r"F770W SUB256 at MJD 59772 .* 3.*e-06 off"):
        check_closure(model, factors)
    model = build(factors)
    model.timecoeff_exponential["tau"][0] *= 1.001
    with pytest.raises(ProductError, match="F770W FULL"):
        check_closure(model, factors)


def test_niriss_images_follow_a_line_row_by_row():
    model = build(MODES["NIS_imaging"])
    assert model.timecoeff_linear.dtype.names == ("t0", "lossperyear")
    assert model.timecoeff_linear["lossperyear"].tolist() == pytest.approx(
        [0.003, 0.002, 0], rel=1e-5
    )
    swapped = model.copy()
    swapped.timecoeff_linear = np.array(model.timecoeff_linear)[::-1].copy()
    with pytest.raises(ProductError, match="off"):
        check_closure(swapped, MODES["NIS_imaging"])


@pytest.mark.parametrize("throughput", [LINE, DECAY, POWER, ALL])
def test_rebasing_changes_nothing_but_a_constant(throughput):
    moved, norm = rebase(throughput)
    days = np.linspace(*MISSION_MJD, 50)
    assert moved.t0_mjd == np.round(throughput.t0_mjd)
    np.testing.assert_allclose(norm * moved.evaluate(days), throughput.evaluate(days), rtol=1e-12)


MIRI = Mode("MIRI", "MIRIMAGE", "imaging", "F770W")
SLIT = Mode("NIRSPEC", "NRS1", "fixed_slit", "CLEAR", grating="PRISM", slit="S200A1")
IFU = Mode("NIRSPEC", "NRS1", "ifu", "CLEAR", grating="PRISM")
LRS = Mode("MIRI", "MIRIMAGE", "lrs", "P750L")


def bad(wave=(1, 2), response=(1, 1), error=(0, 0)):
    names = ("wave", "relresponse", "reluncertainty")
    arrays = (wave, response, error)
    return {n: np.array(a, float) for n, a in zip(names, arrays, strict=True)}


@pytest.mark.parametrize(
    ("factors", "words"),
    [
        ([make_factor(MIRI, 0.0)], "positive finite conversion"),
        ([make_factor(MIRI, np.nan)], "positive finite conversion"),
        ([dataclasses.replace(make_factor(MIRI, 1.0), uncertainty=np.nan)], "uncertainty"),
        ([make_factor(MIRI, 1.0, Throughput(59720, loss_per_year=0.2))], "found -.* photom would"),
        ([make_factor(MIRI, 1.0, Throughput(60000, alpha=-0.1))], "found nan at 59772"),
        ([make_factor(MIRI, 1.0, Throughput(59720, amplitude=1.2))], "to be positive"),
        ([make_factor(MIRI, 1.0, STILL, "SUB64")], "FULL row of F770W"),
        ([make_factor(MIRI, 1.0), make_factor(MIRI, 1.1)], "one factor per row"),
        ([make_factor(dataclasses.replace(MIRI, filter="F" * 13), 1.0)], "at most 12 characters"),
        ([make_factor(dataclasses.replace(MIRI, detector="NRCA9"), 1.0)], "keywords"),
        ([make_factor(dataclasses.replace(MIRI, kind="soss"), 1.0)], "found MIRI soss"),
        ([make_factor(SLIT, 1.0)], "response of NRS1 fixed_slit"),
        ([make_factor(SLIT, 1.0, **bad(wave=(1, 1)))], "each once"),
        ([make_factor(SLIT, 1.0, **bad(wave=(1e4, 2e4)))], "wavelengths .* in um"),
        ([make_factor(SLIT, 1.0, **bad(response=(1, 0)))], "found 0.0 .* at 2.0 um"),
        ([make_factor(SLIT, 1.0, **bad(error=(0, np.nan)))], "finite error"),
        ([make_factor(SLIT, 1.0, **bad(response=(1, 1, 1)))], r"found shapes \(2,\), \(3,\)"),
        ([make_factor(IFU, 1.0, LINE, **vectors(1, 2))], "ignores every time table"),
    ],
)
def test_what_photom_would_misuse_is_refused(factors, words):
    with pytest.raises(ProductError, match=words):
        build_photom_models(factors, HEADER)


def test_two_detectors_of_nirspec_share_one_row_and_one_throughput():
    one, other = MODES["NRS_fixedslit"][1:]
    table = build([one, other]).phot_table
    assert len(table) == 1
    assert table["nelem"][0] == 80
    relative = dataclasses.replace(other, throughput=DECAY)
    with pytest.raises(ProductError, match="one throughput for both"):
        build_photom_models([one, relative], HEADER)
    with pytest.raises(ProductError, match="each once"):
        build_photom_models([one, dataclasses.replace(other, wave=one.wave)], HEADER)


def test_frozen_factors_are_for_modes_without_time():
    moving = make_factor(IFU, 2e-12, LINE, **vectors(1, 2))
    (frozen,) = freeze_factors([moving], 61000.0)
    assert frozen.value == pytest.approx(2e-12 / LINE.evaluate(61000.0))
    assert frozen.uncertainty / frozen.value == pytest.approx(0.01)
    assert check_closure(build([frozen]), [frozen]).worst < CLOSURE
    with pytest.raises(ProductError, match="choose a date"):
        freeze_factors([make_factor(MIRI, 1.0, POWER)], 59000.0)


def test_modes_that_are_not_known_have_no_file(caplog):
    unknown = make_factor(Mode("MIRI", "MIRIMAGE", "unknown"), 1.0)
    models = build_photom_models([unknown, make_factor(MIRI, 1.0)], HEADER)
    assert list(models) == ["MIRIMAGE_imaging"]
    assert "no photom reference" in caplog.text


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"useafter": "2022"}, DateError),
        ({"pedigree": "INFLIGHT"}, ProductError),
        ({"history": ()}, ProductError),
    ],
)
def test_headers_are_checked(changes, error):
    with pytest.raises(error):
        build_photom_models([make_factor(MIRI, 1.0)], dataclasses.replace(HEADER, **changes))


def test_template_keeps_rows_and_order():
    old = MODES["MIRIMAGE_imaging"]
    template = build(old)
    template.meta.filename = "old.fits"
    new = [make_factor(MIRI, 0.3, ALL), make_factor(dataclasses.replace(MIRI, filter="F560W"), 0.6)]
    model = build(new, templates=[template])
    names = ("filter", "subarray")
    before, after = (
        [tuple(row[n] for n in names) for row in m.phot_table] for m in (template, model)
    )
    assert after[: len(before)] == before
    assert after[len(before) :] == [("F560W", "FULL"), ("F560W", "GENERIC")]
    kept = [k for k, key in enumerate(before) if key[0] != "F770W"]
    assert len(kept) > 10
    assert (model.phot_table[kept] == template.phot_table[kept]).all()
    assert (model.timecoeff_exponential[kept] == template.timecoeff_exponential[kept]).all()
    # SUB256, of which there is no new factor, keeps its ratio to FULL, and has its throughput.
    sub = before.index(("F770W", "SUB256"))
    assert model.phot_table["photmjsr"][sub] / model.phot_table["photmjsr"][0] == pytest.approx(
        0.27 / 0.26, rel=1e-6
    )
    assert model.timecoeff_powerlaw["alpha"][sub] == np.float32(-0.05)
    assert check_closure(model, new, mjd=DATES).worst < CLOSURE
    entries = [entry["description"] for entry in model._instance["history"]["entries"]]
    assert any(f"{len(kept)} rows are those of old.fits" in text for text in entries)


def test_generic_row_of_an_old_template_follows():
    template = build([make_factor(MIRI, 0.2)])
    template.phot_table = np.array(template.phot_table)[1:].copy()
    assert template.phot_table["subarray"].tolist() == ["GENERIC"]
    template.meta.filename = "old.fits"
    new = [make_factor(MIRI, 0.5, DECAY)]
    model = build(new, templates=[template])
    assert model.phot_table["subarray"].tolist() == ["GENERIC", "FULL"]
    assert model.phot_table["photmjsr"][0] == model.phot_table["photmjsr"][1]
    assert check_closure(model, new).worst < CLOSURE


def test_gaps_and_metres_of_a_template_are_kept(tmp_path):
    """Rows with NaN errors, without wavelengths, with zeros, and with wavelengths in m."""
    slits = ("S200A1", "S200A2", "S400A1")
    old = [
        make_factor(dataclasses.replace(SLIT, slit=name), 2e-12, LINE, **vectors(1, 2))
        for name in slits
    ]
    template = build(old)
    table = np.array(template.phot_table)
    table["uncertainty"][0] = np.nan
    table["relresponse"][0, :5] = 0
    table["nelem"][1] = 0
    table["wavelength"][2] *= 1e-6
    template.phot_table = table
    template.meta.filename = "old.fits"
    new = [make_factor(dataclasses.replace(SLIT, slit="S1600A1"), 3e-12, **vectors(1, 2))]
    model = build(new, templates=[template])
    write_photom(model, tmp_path / "photom", factors=new)
    rows = model.phot_table
    assert rows["nelem"].tolist() == [40, 0, 40, 40]
    assert np.isnan(rows["uncertainty"][0])
    np.testing.assert_allclose(rows["wavelength"][2], rows["wavelength"][0], rtol=1e-6)
    template.phot_table = np.concatenate([table, table[:1]])
    template.timecoeff_linear = np.array(template.timecoeff_linear)[[0, 1, 2, 0]]
    with pytest.raises(ProductError, match="MatchFitsTableRowError"):
        check_closure(build(new, templates=[template]), new)


def test_template_of_nircam_without_subarrays_gains_them():
    old = [
        make_factor(Mode("NIRCAM", "NRCA1", "imaging", name, "CLEAR"), value)
        for name, value in (("F070W", 3.0), ("F212N", 2.0))
    ]
    template = build(old)
    template.meta.filename = "old.fits"
    assert "subarray" not in template.phot_table.dtype.names
    new = MODES["NRCA1_imaging"]
    table = build(new, templates=[template]).phot_table
    rows = {(r["filter"], r["pupil"], r["subarray"]): float(r["photmjsr"]) for r in table}
    assert len(rows) == len(table) == 3 * 80
    assert rows["F070W", "CLEAR", "SUB64P"] == 3.0
    assert rows["F212N", "CLEAR", "SUB160"] == pytest.approx(2.02, rel=1e-5)
    assert rows["F212N", "CLEAR", "SUB64P"] == rows["F212N", "CLEAR", "FULL"]
    assert rows["F212N", "MASKRND", "SUBNDA210R"] == pytest.approx(900, rel=1e-5)
    assert rows["F212N", "CLEAR", "SUBNDA210R"] == rows["F212N", "CLEAR", "FULL"]


def test_templates_of_something_else_are_refused(tmp_path):
    template = build(MODES["NRCA1_imaging"])
    factors = [make_factor(MIRI, 1.0)]
    with pytest.raises(InputError, match=r"MIRI imaging MIRIMAGE, found .* NIRCAM NRCA1"):
        build_photom_models(factors, HEADER, templates=[template])
    own = build(factors)
    with pytest.raises(InputError, match="expected one template"):
        build_photom_models(factors, HEADER, templates=[own, own.copy()])
    (tmp_path / "no.fits").write_bytes(b"no")
    with pytest.raises(InputError, match="as CRDS delivers"):
        read_template(tmp_path / "no.fits")
    image = ImageModel((4, 4))
    image.meta.reftype = None
    image.save(tmp_path / "image.fits")
    with pytest.raises(InputError, match=r"found (ImageModel|\w+Error)"):
        read_template(tmp_path / "image.fits")


@pytest.mark.parametrize("name", ["MIRIMAGE_imaging", "MIRIMAGE_lrs", "NRCA1_imaging", "NIS_soss"])
def test_twins_calibrate_alike_in_the_stock_step(name, tmp_path):
    factors = MODES[name]
    paths = write_photom(build(factors), tmp_path / "photom", factors=factors)
    assert [path.suffix for path in paths] == [".asdf", ".fits"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    opened, other = (read_template(path) for path in paths)
    assert check_closure(opened, factors, mjd=DATES[:1]).worst < CLOSURE
    # Read as a template, either keeps every row.
    for template in (opened, other):
        again = build(factors[:1], templates=[template])
        assert len(again.phot_table) == len(other.phot_table)
        for column in other.phot_table.dtype.names:
            one, expected = (np.asarray(m.phot_table[column]) for m in (again, other))
            if one.dtype.kind == "f":
                np.testing.assert_allclose(one, expected, rtol=2e-7)
            else:
                assert (one == expected).all()


@pytest.mark.parametrize("suffix", [".asdf", ".fits"])
def test_the_step_takes_the_file(suffix, tmp_path):
    factors = [make_factor(MIRI, 0.5, DECAY)]
    write_photom(build(factors), tmp_path / "photom", factors=factors)
    image = ImageModel(data=np.full((3, 3), 7, np.float32), err=np.ones((3, 3), np.float32))
    image.var_poisson = image.var_rnoise = image.var_flat = np.ones((3, 3), np.float32)
    image.dq = np.zeros((3, 3), np.uint32)
    meta = image.meta
    meta.instrument.name, meta.instrument.detector = "MIRI", "MIRIMAGE"
    meta.instrument.filter, meta.exposure.type = "F770W", "MIR_IMAGE"
    meta.subarray.name, meta.exposure.mid_time = "BRIGHTSKY", 60500.0
    override = str(tmp_path / f"photom{suffix}")
    done = PhotomStep(override_photom=override, override_area="N/A").process(image)
    expected = 7 * 0.5 / DECAY.evaluate(60500.0)
    np.testing.assert_allclose(done.data, expected, rtol=1e-6)
    assert done.meta.photometry.pixelarea_steradians == 2.86e-13


def test_nothing_is_left_of_a_reference_that_does_not_close(tmp_path):
    model = build([make_factor(MIRI, 0.5)])
    with pytest.raises(ProductError, match="off"):
        write_photom(model, tmp_path / "photom", factors=[make_factor(MIRI, 0.6)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("detector", ["MIRIFUSHORT", "MIRIFULONG"])
def test_mrs_is_the_template_times_a_ratio(detector, tmp_path):
    factors = make_mrs_factors(detector)
    wave = make_mrs_wavelengths(detector)
    template = make_mrs_template(detector)
    models = build_photom_models(
        factors, HEADER, templates=[template], wavelengths={(detector, "SHORT"): wave}
    )
    model = models[f"{detector}_mrs_SHORT"]
    closure = check_closure(model, factors, wavelength=wave, mjd=DATES)
    assert closure.worst < CLOSURE
    assert closure.n_rows == 2
    first = factors[0].wave[0]
    ratio = model.data / template.data
    nearest = np.nanargmin(np.abs(wave[:, 100] - first))
    # Constant beyond the first and the last wavelength of a channel, linear between.
    assert ratio[0, 100] == pytest.approx(1.02, rel=1e-6)
    assert ratio[-1, 100] == pytest.approx(0.98, rel=1e-6)
    inner = np.interp(wave[nearest, 100], [f.wave[0] for f in factors[:2]], [1.02, 0.98])
    assert ratio[nearest, 100] == pytest.approx(inner, rel=1e-6)
    assert ratio[0, 1030] == 1
    assert (model.err[0, 100]) == pytest.approx(
        np.hypot(0.1 * 1.02, template.data[0, 100] * 0.01), rel=1e-5
    )
    assert (template.data >= 5).all()
    write_photom(model, tmp_path / "mrs", factors=factors, wavelength=wave)


def test_mrs_without_what_it_needs_is_refused():
    factors, wave = make_mrs_factors(), make_mrs_wavelengths()
    given = {"templates": [make_mrs_template()], "wavelengths": {("MIRIFUSHORT", "SHORT"): wave}}
    for name, words in (("templates", "found no template"), ("wavelengths", "no wavelengths")):
        with pytest.raises(ProductError, match=words):
            build_photom_models(factors, HEADER, **{k: v for k, v in given.items() if k != name})
    line = make_mrs_factors(throughputs=(LINE, STILL, STILL, STILL))
    with pytest.raises(ProductError, match="power law"):
        build_photom_models(line, HEADER, **given)
    elsewhere = dataclasses.replace(factors[0], wave=np.array([6.5]))
    with pytest.raises(ProductError, match="1 elsewhere"):
        build_photom_models([elsewhere], HEADER, **given)
    with pytest.raises(ProductError, match="once with a positive ratio"):
        build_photom_models([factors[0], factors[0]], HEADER, **given)
    with pytest.raises(InputError, match=r"found jwst_miri_photom_0000\.fits"):
        build_photom_models(
            factors, HEADER, **(given | {"templates": [make_mrs_template(band="LONG")]})
        )


def test_mrs_keeps_the_time_tables_of_a_channel_without_factors():
    template = make_mrs_template()
    table = np.zeros(2, template.get_dtype("timecoeff_powerlaw_ch2"))
    table["binwave"], table["year1value"], table["tsoft"] = (7, 9), 0.9, 3
    table["alpha"], table["t0"] = -0.1, 59700
    template.timecoeff_powerlaw_ch2 = table
    wave = make_mrs_wavelengths()
    factors = make_mrs_factors()[:2]
    given = {"templates": [template], "wavelengths": {("MIRIFUSHORT", "SHORT"): wave}}
    model = build(factors, **given)
    assert (np.array(model.timecoeff_powerlaw_ch2) == table).all()
    np.testing.assert_array_equal(model.data[:, 512:], template.data[:, 512:])
    assert check_closure(model, factors, wavelength=wave).worst < CLOSURE
