"""The product of time tables is the one that photom evaluates."""

import numpy as np
import pytest

from jwst_tvbadpix.fluxcal import Mode, Throughput

DAYS = np.array([-0.5, 0.0, 37.25, 365.0, 1230.0, 3000.0])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"loss_per_year": 0.006},
        {"amplitude": 0.2, "tau_days": 180.0},
        {"alpha": -0.02, "tsoft_days": 3.0, "year1value": 0.97},
        {"loss_per_year": 0.01, "amplitude": 0.1, "alpha": -0.05, "year1value": 0.9},
    ],
)
def test_product_is_that_of_photom(settings):
    from jwst.photom import time_dependence as td

    f = Throughput(59720.0, **settings)

    def photom(mjd):
        return (
            td.linear_correction(mjd, f.t0_mjd, f.loss_per_year)
            * td.exponential_correction(mjd, f.t0_mjd, f.amplitude, f.tau_days, 1.0 - f.amplitude)
            * td.powerlaw_correction(mjd, f.t0_mjd, f.year1value, f.tsoft_days, f.alpha)
        )

    expected = photom(f.t0_mjd + DAYS)
    np.testing.assert_allclose(f.evaluate(f.t0_mjd + DAYS), expected, rtol=1e-13)


def test_power_law_has_no_value_before_its_beginning():
    assert np.isnan(Throughput(59720.0, alpha=-0.1, tsoft_days=2.0).evaluate(59717.0))


def test_labels_name_what_a_mode_has():
    mode = Mode("NIRSPEC", "NRS1", "fixed_slit", filter="F100LP", grating="G140H", slit="S1600A1")
    assert mode.label == "NRS1 fixed_slit F100LP G140H S1600A1"
    assert Mode("NIRISS", "NIS", "soss", filter="CLEAR", order=2).label.endswith("order 2")
