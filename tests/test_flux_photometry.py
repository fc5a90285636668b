"""Aperture photometry of a star: flux, error, position, and what spoils it."""

import numpy as np
import pytest
from photutils.aperture import CircularAperture

from jwst_tvbadpix.errors import EvidenceError, InputError
from jwst_tvbadpix.fluxcal.photometry import Aperture, measure_star

SIGMA = 1.6
RADIUS = 5.0
# Energy of a Gaussian star within the radius; pixels widen it by their variance, 1/12.
EE = 1 - np.exp(-(RADIUS**2) / (2 * (SIGMA**2 + 1 / 12)))
APERTURE = Aperture(float(EE), RADIUS, 1 / float(EE), 10.0, 14.0)
FLUX = 50000.0
SKY = 30.0


def make_star(x=20.3, y=19.6, flux=FLUX, sky=SKY, size=41, noise=0.0, seed=1):
    """Image of a Gaussian star that is integrated over pixels, and its error plane."""
    from scipy.special import erf

    edges = np.arange(size + 1) - 0.5

    def share(centre):
        return np.diff(erf((edges - centre) / (np.sqrt(2) * SIGMA))) / 2

    image = sky + flux * np.outer(share(y), share(x))
    err = np.full(image.shape, max(noise, 1e-3))
    if noise:
        image = image + np.random.default_rng(seed).normal(0, noise, image.shape)
    return image, err


def test_flux_sky_and_centre_are_found():
    image, err = make_star()
    found = measure_star(image, err, APERTURE, position=(21.0, 19.0))
    assert (found.x, found.y) == pytest.approx((20.3, 19.6), abs=0.02)
    assert found.rate * APERTURE.apcorr == pytest.approx(FLUX, rel=3e-3)
    assert found.background == pytest.approx(SKY, abs=1e-3)
    assert found.peak == image.max()


def test_the_star_is_found_without_a_position_beside_a_hot_pixel():
    image, err = make_star()
    image[5, 5] = 1.2 * image.max()
    assert measure_star(image, err, APERTURE).x == pytest.approx(20.3, abs=0.02)


@pytest.mark.parametrize("factor", [2.0, 1e-3])
def test_scaling_the_image_scales_the_result(factor):
    image, err = make_star(noise=5.0)
    first = measure_star(image, err, APERTURE)
    scaled = measure_star(factor * image, factor * err, APERTURE)
    assert scaled.rate == pytest.approx(factor * first.rate, rel=1e-9)
    assert scaled.rate_err == pytest.approx(factor * first.rate_err, rel=1e-9)


def test_a_flat_sky_changes_nothing_but_the_background():
    image, err = make_star(noise=5.0)
    first, second = (measure_star(image + sky, err, APERTURE) for sky in (0.0, 500.0))
    assert second.rate == pytest.approx(first.rate, rel=1e-6)
    assert second.background == pytest.approx(first.background + 500.0)


def test_the_error_is_the_scatter():
    """Pixel noise once, and the error of the mean sky: neither counted twice."""
    noise = 20.0
    found = [
        measure_star(*make_star(noise=noise, seed=k), APERTURE, position=(20.3, 19.6))
        for k in range(150)
    ]
    rates, errors = (np.array([getattr(f, key) for f in found]) for key in ("rate", "rate_err"))
    area = np.pi * RADIUS**2
    ring = np.pi * (14.0**2 - 10.0**2)
    # Pixels at the edge count by the square of their share.
    shares = CircularAperture((20.3, 19.6), RADIUS).to_mask(method="exact").data
    expected = noise * np.sqrt(np.sum(shares**2) + area**2 / ring)
    assert np.median(errors) == pytest.approx(expected, rel=0.03)
    # The scatter of 150 draws is known to 6 %; centring adds little.
    assert np.std(rates) == pytest.approx(expected, rel=0.2)


def test_few_bad_pixels_are_replaced_and_cost_error():
    image, err = make_star(noise=5.0)
    whole = measure_star(image, err, APERTURE)
    image[22, 21] = np.nan
    holed = measure_star(image, err, APERTURE)
    assert holed.n_replaced == 1
    assert abs(holed.rate - whole.rate) < 2 * holed.rate_err
    assert holed.rate_err > whole.rate_err
    err[22, 22] = np.nan
    assert measure_star(image, err, APERTURE).n_replaced == 2


def spoil(kind):
    image, err = make_star()
    saturated = np.zeros(image.shape, bool)
    if kind == "saturated":
        saturated[20, 20] = True
    elif kind == "core":
        image[20, 21] = np.nan
    elif kind == "many":
        image[17:19, 18:23] = np.nan
    elif kind == "ring":
        image[:, :15] = np.nan
        image[28:] = np.nan
    elif kind == "blank":
        image[:] = SKY + np.random.default_rng(3).normal(0, 1, image.shape)
        err[:] = 1.0
    elif kind == "errors":
        err[:] = 0
    elif kind == "nan":
        image[:] = np.nan
    return image, err, saturated


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("saturated", "saturated"),
        ("core", "bad pixel in the core"),
        ("many", "10 bad pixels in the aperture, more than 9"),
        ("ring", "good pixels in the sky annulus"),
        ("blank", "no star"),
        ("nan", "no good pixel around the target"),
        ("errors", "no good pixel|edge|bad pixel"),
    ],
)
def test_what_spoils_a_star_is_named(kind, why):
    image, err, saturated = spoil(kind)
    with pytest.raises(EvidenceError, match=why):
        measure_star(image, err, APERTURE, position=(20.0, 20.0), saturated=saturated)


def test_saturation_far_from_the_star_does_not_matter():
    image, err = make_star()
    saturated = np.zeros(image.shape, bool)
    saturated[2, 2] = True
    measure_star(image, err, APERTURE, saturated=saturated)


@pytest.mark.parametrize("position", [(500.0, 20.0), (20.0, -30.0), (np.nan, 20.0)])
def test_a_target_off_the_image_is_named(position):
    with pytest.raises(EvidenceError, match="outside of the image"):
        measure_star(*make_star(), APERTURE, position=position)


def test_a_star_at_the_edge_is_named():
    with pytest.raises(EvidenceError, match="edge"):
        measure_star(*make_star(x=1.5), APERTURE, position=(1.5, 19.6))


@pytest.mark.parametrize(
    "values",
    [
        (0.7, 3.2, 1.25, 10.0, 14.0),  # the correction of EE 0.8
        (0.7, 3.2, 1.8, 10.0, 14.0),
        (0.7, 3.2, 0.7, 10.0, 14.0),  # upside down
        (1.7, 3.2, 1.45, 10.0, 14.0),
        (0.7, 3.2, 1.45, 3.0, 14.0),
        (0.7, 3.2, 1.45, 14.0, 10.0),
        (0.7, np.nan, 1.45, 10.0, 14.0),
    ],
)
def test_an_aperture_that_is_none_is_refused(values):
    with pytest.raises(InputError, match="expected"):
        Aperture(*values)


def test_no_input_is_changed():
    image, err = make_star(noise=5.0)
    image[22, 21] = np.nan
    before = image.copy(), err.copy()
    measure_star(image, err, APERTURE)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(err, before[1])
