"""Spectra made into calibration factors: common bins, models at the resolution, exclusions."""

from dataclasses import replace

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError, InputError
from jwst_tvbadpix.fluxcal.modes import Mode
from jwst_tvbadpix.fluxcal.spectra import (
    RESOLUTION_PIXELS,
    StarSpectrum,
    measure_spectra,
    rebin,
    smooth_model,
)

MODE = Mode("MIRI", "MIRIMAGE", "lrs", "P750L")


def compute_factor(wave):
    """Calibration factor [MJy per DN/s]: a smooth curve."""
    return 1e-12 * (2.0 + 0.3 * wave)


def make_spectrum(star="BD+60 1753", shift=0.0, error=0.01, n=120, **changes):
    wave = 5.0 + np.linspace(0, 1, n) ** 0.7 * 7.0 + shift
    model = 0.02 * (wave / 8.0) ** -2
    rate = 1e-6 * model / compute_factor(wave)
    spectrum = StarSpectrum(
        mode=MODE,
        star=star,
        star_class="adwarf",
        given=star,
        visit="",
        subarray="FULL",
        mjd=np.nan,
        wave=wave,
        rate=rate,
        err=error * rate,
        model_jy=model,
        source=f"{star} {shift}",
    )
    return replace(spectrum, **changes)


def get_waves(m):
    return np.array([m.bands[b].wave for b in m.band])


def test_factors_are_model_over_rate_whatever_the_sampling():
    shifted = [make_spectrum(shift=s) for s in (0.0, 0.007, -0.013)]
    m = measure_spectra(shifted)
    assert m.used.all()
    assert len(m.bands) == 60
    assert len(m.used) == 180
    # The first bins are wide: the mean over one is not the value at its middle.
    np.testing.assert_allclose(m.factor, compute_factor(get_waves(m)), rtol=2e-3)
    np.testing.assert_allclose(np.median(m.factor / compute_factor(get_waves(m))), 1, rtol=5e-5)
    # Two pixels in a bin, each with an error of 1 %.
    assert np.median(m.sigma) == pytest.approx(0.01 / np.sqrt(2), rel=0.15)
    assert len(set(m.visit.tolist())) == 3


def test_order_of_spectra_does_not_matter():
    spectra = [make_spectrum(shift=s) for s in (0.0, 0.007, -0.013)]
    first, second = measure_spectra(spectra), measure_spectra(spectra[::-1])
    assert first.bands == second.bands
    assert first.factor.tobytes() == second.factor.tobytes()
    assert first.source.tolist() == second.source.tolist()


def test_modes_have_bins_of_their_own():
    other = Mode("NIRSPEC", "NRS1", "fixed_slit", "CLEAR", "N/A", "PRISM", "S1600A1")
    m = measure_spectra([make_spectrum(), make_spectrum(mode=other, n=30)])
    assert {b.mode for b in m.bands} == {MODE, other}
    assert sum(b.mode == other for b in m.bands) == 15
    np.testing.assert_allclose(m.factor, compute_factor(get_waves(m)), rtol=5e-3)


def test_bins_are_limited():
    assert len(measure_spectra([make_spectrum(n=3000)]).bands) == 400
    assert len(measure_spectra([make_spectrum(n=300)], max_bins=20).bands) == 20


def test_scaling_the_rate_scales_the_factor():
    spectrum = make_spectrum()
    half = replace(spectrum, rate=spectrum.rate / 2, err=spectrum.err / 2)
    m, n = measure_spectra([spectrum]), measure_spectra([half])
    np.testing.assert_allclose(n.factor, 2 * m.factor, rtol=1e-12)
    np.testing.assert_allclose(n.sigma, m.sigma, rtol=1e-12)


def test_bad_pixels_leave_factors_as_they_are():
    spectrum = make_spectrum()
    rate = spectrum.rate.copy()
    rate[40] = np.nan
    rate[60:70] = np.nan
    whole, holed = measure_spectra([spectrum]), measure_spectra([replace(spectrum, rate=rate)])
    np.testing.assert_allclose(
        holed.factor[holed.used], compute_factor(get_waves(holed)[holed.used]), rtol=0.02
    )
    assert holed.used.sum() < whole.used.sum()
    both = measure_spectra([spectrum, replace(spectrum, rate=rate, source="holed", mjd=60000.0)])
    assert set(both.reason[~both.used].tolist()) == {"no good pixel"}


def test_negative_rates_are_named():
    spectrum = make_spectrum()
    rate = spectrum.rate.copy()
    rate[50:60] *= -1
    m = measure_spectra([replace(spectrum, rate=rate)])
    assert set(m.reason[~m.used].tolist()) == {"rate is not positive"}
    assert 2 <= (~m.used).sum() <= 6


def test_rates_that_are_noise_are_named():
    spectrum = make_spectrum()
    err = spectrum.err.copy()
    err[:20] = spectrum.rate[:20]
    m = measure_spectra([replace(spectrum, err=err)])
    assert set(m.reason[~m.used].tolist()) == {"rate below 3 sigma"}
    assert (m.sigma[m.used] < 1 / 3).all()


def test_a_spectrum_left_out_keeps_its_rows():
    spectra = [make_spectrum(), make_spectrum(shift=0.01, reason="no model spectrum of X")]
    m = measure_spectra(spectra)
    assert m.used.sum() == len(m.bands)
    assert set(m.reason[~m.used].tolist()) == {"no model spectrum of X"}
    with pytest.raises(EvidenceError, match="no model spectrum of X"):
        measure_spectra(spectra[1:])


def test_the_same_spectrum_counts_once():
    m = measure_spectra([make_spectrum(), make_spectrum(source="copy")])
    assert m.used.sum() == len(m.bands)
    assert all(why.startswith("duplicate of row") for why in m.reason[~m.used].tolist())


@pytest.mark.parametrize("factor", [1e4, 1e-3])
def test_wavelengths_of_another_unit_are_refused(factor):
    spectrum = make_spectrum()
    with pytest.raises(InputError, match="expected wavelengths in um"):
        measure_spectra([replace(spectrum, wave=spectrum.wave * factor)])


def test_wavelengths_that_do_not_rise_are_refused():
    with pytest.raises(InputError, match="rising wavelengths"):
        measure_spectra([make_spectrum(wave=np.full(120, 7.0))])


def test_rebinning_shares_each_pixel():
    wave = np.array([1.0, 2.0, 3.0, 4.0])
    shares = rebin(wave, np.array([0.5, 2.25, 4.5]))
    np.testing.assert_allclose(shares, [[1, 0.75, 0, 0], [0, 0.25, 1, 1]])


def test_a_line_is_smoothed_to_the_resolution():
    """A narrow line becomes a Gaussian of 2.2 pixels FWHM that keeps its flux."""
    wave = np.geomspace(5, 12, 400000)
    line = 1 + 40 * np.exp(-0.5 * ((wave - 8.0) / 2e-4) ** 2)
    target = np.geomspace(6, 10, 400)
    smooth = smooth_model(wave, line, target) - 1
    step = np.log(target[1] / target[0])
    sigma = RESOLUTION_PIXELS * step / 2.3548
    offset = np.log(target / 8.0)
    area = 40 * 2e-4 * np.sqrt(2 * np.pi) / 8.0
    expected = area / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * (offset / sigma) ** 2)
    np.testing.assert_allclose(smooth, expected, atol=0.02 * expected.max())
    assert np.sum(smooth) * step == pytest.approx(area, rel=5e-3)


def test_smoothing_follows_a_sampling_that_changes():
    target = 5.0 + np.linspace(0, 1, 300) ** 0.5 * 7.0
    target = target[20:]
    wave = np.geomspace(4.5, 13, 100000)
    near = np.interp([8.0, 11.0], target, np.gradient(target))
    for middle, pixel in zip((8.0, 11.0), near, strict=True):
        line = np.exp(-0.5 * ((wave - middle) / 1e-3) ** 2)
        smooth = smooth_model(wave, line, target)
        width = np.sqrt(
            np.trapezoid(smooth * (target - middle) ** 2, target) / np.trapezoid(smooth, target)
        )
        assert width == pytest.approx(RESOLUTION_PIXELS * pixel / 2.3548, rel=0.06)


def test_a_smooth_model_stays_as_it_is_and_ends_where_it_ends():
    wave = np.linspace(6.0, 9.0, 50)
    target = np.linspace(5.0, 10.0, 200)
    smooth = smooth_model(wave, 0.1 * wave, target)
    inside = (target >= 6.0) & (target <= 9.0)
    assert np.isnan(smooth[~inside]).all()
    middle = (target > 6.2) & (target < 8.8)
    np.testing.assert_allclose(smooth[middle], 0.1 * target[middle], rtol=1e-4)
