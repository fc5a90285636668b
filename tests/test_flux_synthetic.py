"""Synthetic photometry against closed forms and the published trapezoid formula."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.fluxcal.synthetic import Bandpass, Spectrum, compute_band_flux, compute_pivot

C_UM = 2.99792458e14  # speed of light [um/s]


def make_top_hat(low=7.0, high=8.0, n=1501):
    wave = np.linspace(low, high, n)
    return Bandpass("top hat", wave, np.full(n, 0.4))


def make_power_law(slope, low=4.0, high=30.0, n=6001):
    wave = np.geomspace(low, high, n)
    return Spectrum("power law", wave, 0.01 * (wave / 10.0) ** slope)


def integrate_power(slope, low, high):
    """Integral of wave^slope."""
    if abs(slope + 1) < 1e-12:
        return np.log(high / low)
    return (high ** (slope + 1) - low ** (slope + 1)) / (slope + 1)


@settings(max_examples=20)
@given(
    slope=st.floats(-4, 3),
    low=st.floats(5, 15),
    width=st.floats(0.05, 0.4),
)
def test_a_power_law_through_a_top_hat_has_a_closed_form(slope, low, width):
    """Photon-weighted: int F_nu dlam/lam / int dlam/lam."""
    high = low * (1 + width)
    found = compute_band_flux(make_power_law(slope), make_top_hat(low, high))
    mean = integrate_power(slope - 1, low, high) / integrate_power(-1, low, high)
    assert found == pytest.approx(0.01 * mean / 10.0**slope, rel=1e-5)


def test_the_pivot_of_a_top_hat_has_a_closed_form():
    expected = np.sqrt((8**2 - 7**2) / 2 / np.log(8 / 7))
    assert compute_pivot(make_top_hat()) == pytest.approx(expected, rel=1e-7)


def test_the_trapezoid_formula_of_the_recipe_agrees():
    """<F_lam> = int lam R F_lam / int lam R on the grid of R, to Jy at the pivot."""
    wave = np.geomspace(5.0, 12.0, 2000)
    throughput = np.exp(-0.5 * ((wave - 7.7) / 0.6) ** 8) * (1 + 0.2 * np.sin(5 * wave))
    source = make_power_law(-1.7)
    f_lam = np.interp(wave, source.wave, source.flux_jy) * C_UM / wave**2
    mean = np.trapezoid(wave * throughput * f_lam, wave) / np.trapezoid(wave * throughput, wave)
    bandpass = Bandpass("bumpy", wave, throughput)
    pivot = compute_pivot(bandpass)
    assert compute_band_flux(source, bandpass) == pytest.approx(mean * pivot**2 / C_UM, rel=1e-5)


def test_the_scale_of_the_throughput_does_not_matter():
    bandpass = make_top_hat()
    other = Bandpass("other", bandpass.wave, 7.0 * bandpass.throughput)
    source = make_power_law(-2.0)
    assert compute_band_flux(source, bandpass) == pytest.approx(compute_band_flux(source, other))


def test_a_source_of_synphot_is_taken_as_it_is():
    import astropy.units as u
    from synphot import ConstFlux1D, SourceSpectrum

    source = SourceSpectrum(ConstFlux1D, amplitude=3 * u.mJy)
    assert compute_band_flux(source, make_top_hat()) == pytest.approx(3e-3, rel=1e-6)


def test_a_line_between_the_points_of_the_bandpass_is_seen():
    """The published 501 points over 1 to 40 um miss it; synphot samples both."""
    wave = np.unique(np.concatenate([np.linspace(5, 10, 501), np.linspace(7.4, 7.42, 2001)]))
    line = np.exp(-0.5 * ((wave - 7.41) / 0.001) ** 2)
    bare = Spectrum("bare", wave, np.full(len(wave), 1e-3))
    star = Spectrum("star", wave, 1e-3 * (1 + 10 * line))
    bandpass = make_top_hat(n=11)
    gain = compute_band_flux(star, bandpass) / compute_band_flux(bare, bandpass) - 1
    width = 10 * 0.001 * np.sqrt(2 * np.pi)
    assert gain == pytest.approx(width / 7.41 / np.log(8 / 7), rel=0.02)


def test_a_model_that_ends_within_the_bandpass_is_refused():
    source = make_power_law(-2.0, high=7.5)
    with pytest.raises(InputError, match=r"found 4.000 to 7.500 um"):
        compute_band_flux(source, make_top_hat())


@pytest.mark.parametrize(
    ("wave", "values"),
    [
        ([1.0, 3.0, 2.0], [1.0, 1.0, 1.0]),
        ([1.0, 2.0, 3.0], [1.0, np.nan, 1.0]),
        ([1.0, 2.0, 3.0], [1.0, -1.0, 1.0]),
        ([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
        ([1.0, 2.0, 3.0], [1.0, 1.0]),
        ([1.0], [1.0]),
    ],
)
@pytest.mark.parametrize("kind", [Bandpass, Spectrum])
def test_what_is_no_curve_is_refused(kind, wave, values):
    with pytest.raises(InputError, match="expected rising wavelengths"):
        kind("broken", np.array(wave), np.array(values))
