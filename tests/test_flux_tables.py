"""Tables of photometry made into calibration factors: values, classes, visits, exclusions."""

import numpy as np
import pytest

from jwst_tvbadpix.errors import DateError, EvidenceError, InputError
from jwst_tvbadpix.fluxcal.gather import join_measurements
from jwst_tvbadpix.fluxcal.tables import measure_table

AREA = 2.8606e-13
TRUE = 0.26
MODELS = {"BD+60-1753": {"F770W": 9e-3, "F1000W": 5e-3}, "10LAC": {"F770W": 0.5, "F1000W": 0.3}}
STARS = ("BD+60 1753", "BD+60 1753", "10 Lac", "10 Lac")
FILTERS = ("F770W", "F1000W", "F770W", "F1000W")


def make_table(**changes):
    """Four rows whose factors are exactly TRUE."""
    flux = np.array([9e-3, 5e-3, 0.5, 0.3])
    table = {
        "name": np.array(STARS),
        "filter": np.array(FILTERS),
        "rate": 1e-6 * flux / (1.5 * AREA * TRUE),
        "rate_err": 1e-8 * flux / (1.5 * AREA * TRUE),
        "apcorr": np.full(4, 1.5),
        "pixarea_sr": np.full(4, AREA),
        "mjd": np.array([59800.0, 59800.2, 59900.0, 59901.0]),
    }
    return {**table, **{key: np.asarray(value) for key, value in changes.items()}}


def reasons(table, **kwargs):
    return measure_table(table, MODELS, **kwargs).reason.tolist()


def change(key, row, value):
    column = make_table()[key].astype(object if isinstance(value, str) else float)
    column[row] = value
    return {key: column}


def test_factors_are_model_over_observed():
    m = measure_table(make_table(), MODELS)
    assert m.used.all()
    np.testing.assert_allclose(m.factor, TRUE, rtol=1e-14)
    np.testing.assert_allclose(m.sigma, 0.01, rtol=1e-14)
    assert [m.bands[b].mode.filter for b in m.band] == list(FILTERS)
    assert m.star_class.tolist() == ["adwarf", "adwarf", "hot", "hot"]
    assert m.flux_jy.tolist() == [9e-3, 5e-3, 0.5, 0.3]
    # Half a day apart is one visit, a day is not.
    assert m.visit[0] == m.visit[1]
    assert len(set(m.visit.tolist())) == 3


def test_the_given_name_is_kept():
    names = np.array(["BD60-1753", "bd+60 1753", "10LAC", "HD 214680"])
    m = measure_table(make_table(name=names), MODELS)
    assert m.given.tolist() == names.tolist()
    assert m.star.tolist() == list(STARS)


def test_a_table_may_carry_its_own_fluxes_and_modes():
    table = make_table(
        name=["Mystery"] * 4,
        filter=["F200W"] * 4,
        instrument=["NIRCAM"] * 4,
        detector=["NRCA1", "NRCA1", "NRCB1", "NRCB1"],
        model_flux_jy=make_table()["rate"] * 1.5 * AREA * TRUE * 1e6,
        srctype=["SolarAnalogs"] * 4,
        subarray=["SUB64P"] * 4,
    )
    m = measure_table(table, {})
    np.testing.assert_allclose(m.factor, TRUE, rtol=1e-12)
    assert [b.mode.detector for b in m.bands] == ["NRCA1", "NRCB1"]
    assert set(m.star_class.tolist()) == {"solar"}
    assert set(m.subarray.tolist()) == {"SUB64P"}


def test_an_unknown_mode_is_measured_all_the_same(caplog):
    m = measure_table(
        make_table(
            filter=["F200W"] * 4, model_flux_jy=[1e-3] * 4, mjd=[60001.0, 60002.0, 60003.0, 60004.0]
        ),
        {},
    )
    assert m.used.all()
    assert {b.mode.kind for b in m.bands} == {"unknown"}
    assert "F200W" in caplog.text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (change("rate", 1, -5.0), "rate is not positive"),
        (change("rate", 1, 0.0), "rate is not positive"),
        (change("rate", 1, np.nan), "rate or its error is no number"),
        (change("rate_err", 1, np.nan), "rate or its error is no number"),
        (change("rate_err", 1, 0.0), "error of the rate is not positive"),
        (change("rate_err", 1, 1e12), "rate below 3 sigma"),
        (change("apcorr", 1, np.nan), "apcorr is not positive"),
        (change("pixarea_sr", 1, 0.0), "pixarea_sr is not positive"),
        (change("name", 1, "No Such Star"), "no model flux of No Such Star in F1000W"),
        ({"model_flux_jy": [1e-2, -1.0, 1e-2, 1e-2]}, "model flux is not positive"),
        ({"saturated": [False, True, False, False]}, "saturated"),
        ({"saturated": ["no", "yes", "no", "no"]}, "saturated"),
        ({"reason": ["", "guide star lost", "", ""]}, "guide star lost"),
    ],
)
def test_a_row_that_is_no_measurement_is_named(changes, why):
    found = reasons(make_table(**changes))
    assert found == ["", why, "", ""]


def test_the_peak_guards_only_when_a_limit_is_given():
    table = make_table(peak=[10.0, 99.0, 10.0, 10.0])
    assert reasons(table) == [""] * 4
    assert reasons(table, saturation=50.0) == ["", "saturated: peak above 50", "", ""]
    with pytest.raises(InputError, match="expected a column peak"):
        measure_table(make_table(), MODELS, saturation=50.0)


def test_duplicated_rows_count_once():
    twice = {key: np.concatenate([value, value[:1]]) for key, value in make_table().items()}
    m = measure_table(twice, MODELS)
    assert m.reason.tolist() == [""] * 4 + ["duplicate of row 1"]
    assert m.used.sum() == 4


def test_an_aperture_correction_of_another_energy_is_named():
    many = {key: np.tile(value, 3) for key, value in make_table().items()}
    many["mjd"] = many["mjd"] + np.repeat([0.0, 50.0, 100.0], 4)
    many["apcorr"][0] = 1.25
    found = reasons(many)
    assert found[0] == "apcorr differs from the 1.5000 of the filter: of another EE"
    assert found[1:] == [""] * 11


def test_an_aperture_correction_belongs_to_its_own_energy():
    table = make_table(eefraction=[0.7, 0.7, 0.85, 0.7])
    why = "apcorr is not of the encircled energy of the aperture"
    assert reasons(table) == ["", "", why, ""]


def test_two_apertures_of_one_filter_are_no_contradiction():
    apcorr = np.array([1.5, 1.5, 1.72, 1.5])
    assert reasons(make_table(apcorr=apcorr, eefraction=[0.7, 0.7, 0.6, 0.7])) == [""] * 4


def test_a_missing_column_is_an_error_that_names_what_is_accepted():
    table = make_table()
    del table["rate"]
    with pytest.raises(InputError, match="rate or aperture_sum_bkgsub_dn_s"):
        measure_table(table, MODELS)


def test_a_table_without_rows_is_an_error():
    with pytest.raises(InputError, match="expected rows"):
        measure_table({key: value[:0] for key, value in make_table().items()}, MODELS)


def test_text_in_a_column_of_numbers_is_an_error():
    with pytest.raises(InputError, match="expected numbers in the column rate"):
        measure_table(make_table(rate=["a", "b", "c", "d"]), MODELS)


def test_dates_that_are_no_mjd_are_refused():
    with pytest.raises(DateError, match="expected dates as MJD within 59573 to 75000 in table"):
        measure_table(make_table(mjd=[2459800.5, 59800.0, 59900.0, np.nan]), MODELS)


def test_photmjsr_reveals_other_units():
    table = make_table(photmjsr=[TRUE] * 4)
    assert measure_table(table, MODELS).used.all()
    milli = {s: {f: 1e3 * v for f, v in fluxes.items()} for s, fluxes in MODELS.items()}
    with pytest.raises(InputError, match="model fluxes in Jy"):
        measure_table(table, milli)


def test_nothing_usable_says_why():
    with pytest.raises(EvidenceError, match=r"no model flux of BD\+60 1753 in F770W"):
        measure_table(make_table(), {})


def test_a_filter_without_wavelength_is_an_error():
    with pytest.raises(InputError, match="expected a pivot wavelength"):
        measure_table(make_table(filter=["XYZ"] * 4), MODELS)


def test_order_of_rows_does_not_matter():
    table, order = make_table(), np.array([2, 0, 3, 1])
    m, n = (measure_table(t, MODELS) for t in (table, {k: v[order] for k, v in table.items()}))
    assert m.bands == n.bands
    for key in ("factor", "sigma", "star", "band"):
        assert getattr(m, key)[order].tolist() == getattr(n, key).tolist()


def test_joined_measurements_keep_their_bands():
    first = measure_table(make_table(), MODELS)
    other = measure_table(
        make_table(
            filter=["F560W"] * 4, model_flux_jy=[1e-2] * 4, mjd=[60001.0, 60002.0, 60003.0, 60004.0]
        ),
        {},
    )
    joined = join_measurements([first, other])
    assert [b.mode.filter for b in joined.bands] == ["F1000W", "F560W", "F770W"]
    assert [joined.bands[b].mode.filter for b in joined.band] == [*FILTERS, *["F560W"] * 4]
    assert joined.factor.tolist() == [*first.factor.tolist(), *other.factor.tolist()]
