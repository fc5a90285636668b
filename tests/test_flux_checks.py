"""What the user settles about the throughput is compared with what the measurements say."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from standards_sample import T0, make_sample, take

from jwst_tvbadpix.fluxcal import Band, Mode, fit_factors

PRODUCT = "linear+exponential"


def lose_alike(_):
    return {"loss_per_year": 0.006, "amplitude": 0.03}


def lose_more_with_wavelength(wave):
    return {"loss_per_year": 0.006, "amplitude": 0.02 + 0.02 * wave / 25.23}


def test_a_common_loss_is_found_wrong_where_it_is_and_nowhere_else():
    tests = []
    for seed in range(8):
        m = make_sample(seed, throughput=lose_alike).measurements
        fit = fit_factors(m, t0_mjd=T0, share="common", time_form=PRODUCT)
        assert not fit.warnings
        tests.append(fit.share_test)
    # Four filters beyond the first have a loss and an amplitude.
    assert {t.n_degrees for t in tests} == {8}
    assert 0.2 < np.mean([t.chi2 for t in tests]) / 8 < 1.5
    for seed in range(3):
        m = make_sample(seed, throughput=lose_more_with_wavelength).measurements
        fit = fit_factors(m, t0_mjd=T0, share="common", time_form=PRODUCT)
        assert fit.share_test.probability < 1e-6
        (text,) = fit.warnings
        assert f"chi2 {fit.share_test.chi2:.1f} for 8 degrees" in text


def test_a_common_line_is_found_wrong_too(caplog):
    sample = make_sample(throughput=lambda wave: {"loss_per_year": 0.004 + 0.004 * wave / 25.23})
    with caplog.at_level(logging.WARNING):
        fit = fit_factors(sample.measurements, t0_mjd=T0, share="common", time_form="linear")
    assert fit.share_test.probability < 1e-3
    assert "share=common gives all modes one loss, but theirs differ" in caplog.text


def test_a_loss_that_is_not_shared_or_not_there_is_not_tested():
    m = make_sample().measurements
    assert fit_factors(m, t0_mjd=T0, time_form=PRODUCT).share_test is None
    assert fit_factors(m, t0_mjd=T0, time_form="none", share="common").share_test is None
    one = make_sample(filters={"F770W": 7.6}).measurements
    assert fit_factors(one, t0_mjd=T0, time_form="linear", share="common").share_test is None


def test_a_filter_that_was_seen_once_counts_for_nothing_in_the_test():
    m = make_sample(1, throughput=lose_alike).measurements
    last = np.flatnonzero(m.band == 4)
    once = take(m, np.setdiff1d(np.arange(len(m.band)), last[1:]))
    test = fit_factors(once, t0_mjd=T0, share="common", time_form=PRODUCT).share_test
    assert test.n_degrees == 6
    assert test.probability > 1e-3


@pytest.mark.parametrize("form", ["none", "linear", "powerlaw", PRODUCT])
def test_a_given_form_that_is_much_worse_is_named(form, caplog):
    m = make_sample(3).measurements
    with caplog.at_level(logging.WARNING):
        fit = fit_factors(m, t0_mjd=T0, time_form=form)
    (taken,) = (c for c in fit.choices if c.chosen)
    assert taken.forms == next(iter(fit.forms.values()))
    assert min(c.aic for c in fit.choices) == 0
    if form == PRODUCT:
        assert taken.aic < 10
        assert not fit.warnings
        assert not caplog.text
        return
    assert taken.aic > 10
    (text,) = fit.warnings
    assert f"AIC larger by {taken.aic:.1f}" in text
    assert "worse than linear x exponential" in text
    assert text in caplog.text


@pytest.mark.parametrize("form", ["none", "linear"])
def test_a_given_form_that_is_right_is_not_named(form):
    loss = {"loss_per_year": 0.006 * (form == "linear")}
    for seed in range(4):
        m = make_sample(seed, throughput=lambda _: loss).measurements
        assert not fit_factors(m, t0_mjd=T0, time_form=form).warnings


def test_without_dates_no_form_is_compared():
    m = make_sample(n_monitor=3).measurements
    undated = replace(m, mjd=np.full(len(m.mjd), np.nan))
    fit = fit_factors(undated, time_form="none")
    assert fit.choices == ()
    assert not fit.warnings


def test_the_log_names_the_line_that_is_the_telescopes(caplog):
    """A detector seen once has the loss of the other, and no word says that it is constant."""
    m = make_sample(throughput=lambda _: {"loss_per_year": 0.006}).measurements
    nircam = Band(Mode("NIRCAM", "NRCB1", "imaging", filter="F200W", pupil="CLEAR"), 2.0)
    first = (m.band == 0) & np.char.endswith(m.visit, "-0")
    band = np.where(first, len(m.bands), m.band).astype(np.int32)
    mjd = np.where(first, T0 + 50, m.mjd)
    with caplog.at_level(logging.INFO):
        fit = fit_factors(replace(m, bands=(*m.bands, nircam), band=band, mjd=mjd), t0_mjd=T0)
    assert fit.forms == {"MIRI MIRIMAGE": ("linear",), "NIRCAM NRCB1": ("linear",)}
    assert "MIRI MIRIMAGE: throughput linear\n" in caplog.text
    assert "NIRCAM NRCB1: throughput linear, linear being the telescope's\n" in caplog.text
    assert "throughput constant" not in caplog.text
