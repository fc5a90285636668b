"""What a fit tells of modes and circumstances: repeatability, ratios, dependences."""

from dataclasses import replace

import numpy as np
import pytest
from standards_sample import FILTERS, T0, make_sample, take

from jwst_tvbadpix.fluxcal import (
    Band,
    Mode,
    compare_modes,
    fit_factors,
    measure_dependences,
    measure_repeatability,
)

FORM = "linear+exponential"


@pytest.fixture(scope="module")
def fit():
    return fit_factors(make_sample().measurements, t0_mjd=T0, time_form=FORM)


def test_repeatability_is_the_jitter_put_in(fit):
    found = measure_repeatability(fit)
    for mode in [f"MIRIMAGE imaging {f}" for f in FILTERS]:
        (whole,) = [r for r in found if r.mode == mode and r.subset == "all"]
        assert whole.n_stars == 9
        assert whole.n_visits == 30 + 8 * 2
        assert whole.rms_formal == pytest.approx(0.001)
        assert whole.rms_excess == pytest.approx(0.0025, rel=0.3)
        assert whole.rms**2 == pytest.approx(whole.rms_formal**2 + whole.rms_excess**2)
        assert len([r for r in found if r.mode == mode and r.subset == "class"]) == 3
        assert len([r for r in found if r.mode == mode and r.subset == "star"]) == 9
    (detector,) = [r for r in found if r.subset == "detector"]
    assert detector.name == "MIRI MIRIMAGE"
    assert detector.n_rows == len(fit.rows.index)


def test_repeatability_of_a_star_seen_once_is_not_known():
    m = make_sample(1).measurements
    once = take(m, (m.star != "star 3") | np.char.endswith(m.visit, "-0"))
    found = measure_repeatability(fit_factors(once, t0_mjd=T0, time_form=FORM))
    single = [r for r in found if r.subset == "star" and r.name == "star 3"]
    assert len(single) == len(FILTERS)
    assert all(np.isnan(r.rms) and r.n_visits == 1 for r in single)


def test_ratios_are_antisymmetric_and_have_their_covariance(fit):
    found = compare_modes(fit)
    np.testing.assert_allclose(found.ln_ratio, -found.ln_ratio.T)
    np.testing.assert_allclose(found.star_ratio, -found.star_ratio.T, atol=1e-15)
    n = len(FILTERS)
    np.testing.assert_allclose(found.covariance, fit.covariance[:n, :n], atol=1e-12)
    # What all filters share, as the mean of the stars, does not count in a ratio.
    one = np.sqrt(np.diag(found.covariance))
    off = ~np.eye(n, dtype=bool)
    assert (found.error[off] < np.hypot(one[:, None], one[None, :])[off]).all()
    assert (found.n_stars == 9).all()


def test_modes_that_see_different_stars_are_tied_by_those_in_common():
    """Where one mode has four stars more, 3 % bright, the mean over its stars is off by 1.5 %."""
    m = make_sample(
        3, n_stars=8, throughput=lambda _: {}, filters={"F200W": 2.0, "F277W": 2.8}
    ).measurements
    modes = {
        "F200W": Mode("NIRCAM", "NRCA1", "imaging", filter="F200W"),
        "F277W": Mode("NIRCAM", "NRCALONG", "imaging", filter="F277W"),
    }
    m = replace(m, bands=tuple(Band(modes[b.mode.filter], b.wave) for b in m.bands))
    more = np.isin(m.star, ["star 1", "star 3", "star 5", "star 7"])
    bright = np.where((m.band == 1) & more, 0.03, 0.0)
    m = take(replace(m, factor=m.factor * np.exp(-bright)), ~more | (m.band == 1))
    found = compare_modes(fit_factors(m, time_form="none"))
    assert found.labels == ("NRCA1 imaging F200W", "NRCALONG imaging F277W")
    assert found.n_stars[0, 1] == 4
    assert found.n_stars[1, 1] == 8
    assert found.ln_ratio[0, 1] == pytest.approx(-0.2, abs=0.004)
    assert abs(found.star_ratio[0, 1]) < 3 * found.star_error[0, 1]


def test_no_dependence_is_named_where_there_is_none(fit):
    found = measure_dependences(fit)
    assert {d.quantity for d in found} >= {"log10 flux [Jy]", "well depth", "class hot"}
    # All stars have one integration time, and the sky is not known.
    assert not any("time" in d.quantity or "background" in d.quantity for d in found)
    assert {d.verdict for d in found} == {"none"}


@pytest.mark.parametrize(
    ("column", "quantity", "slope"),
    [("well_depth", "well depth", 0.01), ("flux_jy", "log10 flux [Jy]", 0.02)],
)
def test_a_dependence_put_in_is_found(column, quantity, slope):
    m = make_sample(7, n_stars=12, scatter=0.003).measurements
    x = getattr(m, column)
    x = x if column == "well_depth" else np.log10(x)
    bent = replace(m, factor=m.factor * np.exp(-slope * x))
    fit = fit_factors(bent, t0_mjd=T0, time_form=FORM)
    (found,) = [d for d in measure_dependences(fit) if d.quantity == quantity]
    assert found.verdict == "dependence"
    assert abs(found.slope - slope) < 3 * found.error
    assert found.error < slope / 3


@pytest.mark.parametrize("spread", [0.003, 0.1])
def test_the_peak_does_not_depend_on_the_residual_it_shares(spread):
    """Stars alike, whose brightest pixel goes up and down with their rate, and by its phase."""
    m = make_sample(9, n_stars=6, scatter=0.004).measurements
    ratio = np.exp(-np.log(m.factor) + spread * np.random.default_rng(4).normal(size=len(m.star)))
    m = replace(m, flux_jy=np.ones(len(m.star)), peak=1e4 * ratio, well_depth=0.3 * ratio)
    found = measure_dependences(fit_factors(m, t0_mjd=T0, time_form=FORM))
    assert any("peak" in d.quantity for d in found)
    assert {d.verdict for d in found} == {"none"}


def test_false_dependences_are_controlled():
    count = 0
    for seed in range(8):
        m = make_sample(20 + seed, n_monitor=12).measurements
        fit = fit_factors(m, t0_mjd=T0, time_form="linear+exponential")
        count += sum(d.verdict == "dependence" for d in measure_dependences(fit))
    assert count <= 2


def test_a_subarray_off_its_prior_is_named():
    sample = make_sample(8, n_stars=16, subarrays=("FULL", "SUB256"), responses=(1.0, 0.95))
    fit = fit_factors(sample.measurements, t0_mjd=T0, time_form=FORM)
    (found,) = [d for d in measure_dependences(fit) if d.quantity == "subarray SUB256"]
    assert found.verdict == "dependence"
    assert found.slope < 0
