"""Stars: found, measured, matched on the sky; the area of pixels."""

import numpy as np
import pytest
from astropy.wcs import WCS

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import (
    StarTable,
    compute_area_ratio,
    find_stars,
    fit_psf,
    make_basis,
    match_stars,
    solve_star_flat,
    sum_apertures,
)

SHAPE = (200, 220)
FWHM = 2.4
SCALE_DEG = 0.11 / 3600


def make_wcs(ra=80.0, dec=-69.5, *, roll_deg=0.0, centre=(110.0, 100.0)):
    """Tangent-plane WCS of a small detector."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [centre[0] + 1, centre[1] + 1]
    angle = np.deg2rad(roll_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = SCALE_DEG * turn @ np.diag([-1.0, 1.0])
    return wcs


def as_sky(wcs):
    return lambda x, y: wcs.pixel_to_world_values(x, y)


def draw_image(x, y, flux, *, noise=0.5, seed=1, shape=SHAPE):
    """Gaussian stars on a sloping background."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = 10 + 0.01 * columns + 0.005 * rows
    sigma = FWHM / 2.3548
    for a, b, f in zip(x, y, flux, strict=True):
        image = image + f / (2 * np.pi * sigma**2) * np.exp(
            -((columns - a) ** 2 + (rows - b) ** 2) / (2 * sigma**2)
        )
    err = np.full(shape, noise)
    return image + np.random.default_rng(seed).normal(0, noise, shape), err


def make_grid_of_stars(seed=3):
    """Isolated stars at positions between pixels."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(20, 210, 30.0), np.arange(20, 190, 30.0))
    x, y = (v.ravel() + rng.uniform(-3, 3, v.size) for v in (x, y))
    return x, y, rng.uniform(2000, 20000, len(x))


def nearest(x, y, found_x, found_y):
    return np.argmin(np.hypot(found_x[None] - x[:, None], found_y[None] - y[:, None]), axis=1)


def test_all_stars_are_found_where_they_are_and_nothing_else():
    x, y, flux = make_grid_of_stars()
    image, _ = draw_image(x, y, flux)
    good = np.ones(SHAPE, bool)
    found_x, found_y = find_stars(image, good, fwhm=FWHM)
    assert len(found_x) == len(x)
    k = nearest(x, y, found_x, found_y)
    assert np.abs(found_x[k] - x).max() < 0.1
    assert np.abs(found_y[k] - y).max() < 0.1


def test_no_star_is_found_on_noise_nor_on_bad_pixels():
    rng = np.random.default_rng(8)
    image = rng.normal(10, 0.5, SHAPE)
    good = np.ones(SHAPE, bool)
    assert len(find_stars(image, good, fwhm=FWHM)[0]) == 0
    image[50, 60] = np.nan
    image[100:104, 100:104] = 5000
    good[98:106, 98:106] = False
    assert len(find_stars(image, good, fwhm=FWHM)[0]) == 0
    with pytest.raises(EvidenceError, match="found none among 44000"):
        find_stars(image, np.zeros(SHAPE, bool), fwhm=FWHM)


def test_apertures_return_the_flux_within_their_errors():
    x, y, flux = make_grid_of_stars()
    pulls = []
    for seed in range(8):
        image, err = draw_image(x, y, flux, seed=seed)
        table = sum_apertures(image, err, np.ones(SHAPE, bool), x, y, radius=5, annulus=(7, 11))
        pulls.append((table.flux - flux * sum_gaussian(5)) / table.flux_err)
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert 0.85 < pulls.std() < 1.15


def test_stars_in_the_ring_are_no_noise_but_where_a_part_of_it_is_missing():
    around = 9 * np.exp(0.5j * np.pi * np.arange(4) + 0.3j)
    x, y = np.append(around.real, 0.0), np.append(around.imag, 0.0)
    flux = np.append(np.full(4, 4000.0), 9000.0)
    found = {}
    for column in (100.0, 6.0):
        for share in (1.0, 0.0):
            light = np.append(share * flux[:4], flux[4])
            image, err = draw_image(x + column, y + 100, light)
            table = sum_apertures(
                image, err, np.ones(SHAPE, bool), [column], [100.0], radius=5, annulus=(7, 11)
            )
            found[column, share] = float(table.flux_err[0])
    assert found[100.0, 1.0] == pytest.approx(found[100.0, 0.0], rel=0.02)
    assert found[6.0, 1.0] > 1.3 * found[6.0, 0.0]


def sum_gaussian(radius):
    """Share of a Gaussian star within a radius."""
    return 1 - np.exp(-(radius**2) / (2 * (FWHM / 2.3548) ** 2))


def test_apertures_refuse_what_they_cannot_measure():
    x = np.array([50.0, 100.0, 106.0, 150.0, 1.0, 180.0])
    y = np.array([50.0, 100.0, 100.0, 150.0, 80.0, 40.0])
    image, err = draw_image(x, y, np.full(6, 5000.0))
    good = np.ones(SHAPE, bool)
    good[51, 50] = False
    image[150, 151] = np.nan
    table = sum_apertures(image, err, good, x, y, radius=5, annulus=(7, 11))
    np.testing.assert_array_equal(np.isfinite(table.flux), [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(np.isfinite(table.flux_err), np.isfinite(table.flux))
    assert table.n_measured == 1
    faint = np.array([5000.0, 60.0])
    image, err = draw_image(np.array([60.0, 66.0]), np.array([60.0, 60.0]), faint)
    table = sum_apertures(
        image, err, np.ones(SHAPE, bool), [60.0, 66.0], [60.0, 60.0], radius=5, annulus=(7, 11)
    )
    np.testing.assert_array_equal(np.isfinite(table.flux), [True, False])
    none = sum_apertures(image, err, good, np.empty(0), np.empty(0), radius=5, annulus=(7, 11))
    assert none.n_measured == 0


def make_psf(oversampling=4, half=12):
    axis = np.arange(-half * oversampling, half * oversampling + 1) / oversampling
    return 7 * np.exp(-np.add.outer(axis**2, axis**2) / (2 * (FWHM / 2.3548) ** 2))


def test_the_psf_fit_splits_close_stars_and_survives_a_bad_pixel():
    x = np.array([50.2, 100.3, 103.1, 150.4])
    y = np.array([50.1, 100.4, 100.2, 150.0])
    flux = np.array([8000.0, 9000.0, 4000.0, 6000.0])
    image, err = draw_image(x, y, flux, noise=0.3)
    good = np.ones(SHAPE, bool)
    image[50, 52] = 1e5
    good[50, 52] = False
    good[150, 150] = False
    table = fit_psf(image, err, good, x + 0.2, y - 0.2, psf=make_psf(), oversampling=4, fwhm=FWHM)
    np.testing.assert_allclose(table.flux[:3], flux[:3], rtol=0.01)
    np.testing.assert_allclose(table.x[:3], x[:3], atol=0.02)
    assert np.isnan(table.flux[3])
    assert np.all(table.flux_err[:3] < 0.01 * table.flux[:3])


# ---------------------------------------------------------------------------------- matching


def make_exposures(*, offsets, rolls, seed=5, n=400):
    """Tables of the same sky, and WCSs whose pointings are wrong by offsets [arcsec]."""
    rng = np.random.default_rng(seed)
    width = 1.2 * max(SHAPE) * SCALE_DEG
    dec = -69.5 + rng.uniform(-width, width, n)
    ra = 80.0 + rng.uniform(-width, width, n) / np.cos(np.deg2rad(69.5))
    flux = 10 ** rng.uniform(2, 4, n)
    tables, skies, numbers = [], [], []
    ra0, dec0 = 80.0, -69.5
    for (east, north), roll in zip(offsets, rolls, strict=True):
        true = make_wcs(ra0, dec0, roll_deg=roll)
        x, y = true.world_to_pixel_values(ra, dec)
        inside = np.flatnonzero((x > 0) & (x < SHAPE[1] - 1) & (y > 0) & (y < SHAPE[0] - 1))
        inside = rng.permutation(inside)
        tables.append(
            StarTable(
                x[inside] + rng.normal(0, 0.02, len(inside)),
                y[inside] + rng.normal(0, 0.02, len(inside)),
                flux[inside] * rng.normal(1, 0.01, len(inside)),
                0.01 * flux[inside],
            )
        )
        wrong = make_wcs(
            ra0 + east / 3600 / np.cos(np.deg2rad(dec0)), dec0 + north / 3600, roll_deg=roll
        )
        skies.append(as_sky(wrong))
        numbers.append(inside)
    return tables, skies, numbers


def score_matches(matched, tables, numbers):
    """Share of pairs of measurements that are rightly joined, and number wrongly joined."""
    truth = np.concatenate(numbers)
    table = np.repeat(np.arange(len(tables)), [len(t.x) for t in tables])
    place = {
        (e, round(x, 6)): s
        for e, x, s in zip(table, np.concatenate([t.x for t in tables]), truth, strict=True)
    }
    o = matched.observations
    true = np.array([place[e, round(x, 6)] for e, x in zip(o.exposure, o.x, strict=True)])
    wrong = sum(len(np.unique(true[o.star == s])) > 1 for s in np.unique(o.star))
    split = sum(len(np.unique(o.star[true == s])) > 1 for s in np.unique(true))
    return wrong, split, len(np.unique(true))


@pytest.mark.parametrize("rolls", [(0, 0, 0, 0), (0, 0, 90, 90), (0, 33, 140, 251)])
def test_stars_are_matched_through_wrong_pointings_and_rolls(rolls):
    offsets = [(0, 0), (1.4, -0.6), (-0.3, 2.0), (0.05, 0.1)]
    tables, skies, numbers = make_exposures(offsets=offsets, rolls=rolls)
    matched = match_stars(tables, skies)
    wrong, split, n = score_matches(matched, tables, numbers)
    assert n > 60
    assert wrong == 0
    assert split <= 0.01 * n
    start = int(np.flatnonzero(matched.n_matched == 0)[0])
    expected = np.array(offsets[start]) - np.array(offsets)
    np.testing.assert_allclose(matched.offset_arcsec, expected, atol=0.01)
    assert np.abs(matched.roll_deg).max() < 0.02


def test_a_wrong_roll_is_found():
    tables, skies, numbers = make_exposures(offsets=[(0, 0), (0.5, 0.2)], rolls=[0, 0])
    wrong = make_wcs(80.0 + 0.5 / 3600 / np.cos(np.deg2rad(69.5)), -69.5, roll_deg=0.15)
    matched = match_stars(tables, [skies[0], as_sky(wrong)], radius_arcsec=0.1)
    assert score_matches(matched, tables, numbers)[:2] == (0, 0)
    np.testing.assert_allclose(np.abs(np.diff(matched.roll_deg)), 0.15, atol=0.01)


def test_two_fields_stay_apart_and_order_does_not_matter():
    tables, skies, _ = make_exposures(offsets=[(0, 0)] * 2, rolls=[0] * 2)
    other, _, _ = make_exposures(offsets=[(0, 0)] * 2, rolls=[0] * 2, seed=6)
    tables, skies = tables + other, skies + [as_sky(make_wcs(84.0, -69.5))] * 2
    matched = match_stars(tables, skies)
    o = matched.observations
    near, away = (set(o.star[np.isin(o.exposure, k)]) for k in ([0, 1], [2, 3]))
    assert near
    assert away
    assert not near & away
    assert np.sum(matched.n_matched == 0) == 2
    back = match_stars(tables[::-1], skies[::-1])
    assert len(back.ra) == len(matched.ra)
    assert len(back.observations.x) == len(o.x)


def test_unmeasured_stars_are_left_out_and_nothing_is_an_error():
    tables, skies, _ = make_exposures(offsets=[(0, 0), (0, 0)], rolls=[0, 0])
    flux = tables[0].flux.copy()
    flux[:10] = np.nan
    cut = StarTable(tables[0].x, tables[0].y, flux, tables[0].flux_err)
    o = match_stars([cut, tables[1]], skies).observations
    assert np.sum(o.exposure == 0) <= len(flux) - 10
    empty = StarTable(*np.empty((4, 0)))
    assert set(match_stars([tables[0], empty], skies).observations.exposure) == {0}
    with pytest.raises(EvidenceError, match="found none in 2 exposures"):
        match_stars([empty, empty], skies)
    with pytest.raises(EvidenceError, match="found 1 for 2"):
        match_stars(tables, skies[:1])


# -------------------------------------------------------------------------------- pixel area


def test_the_area_of_a_flat_projection_is_even_and_that_of_a_distorted_one_is_known():
    field = np.zeros(SHAPE, bool)
    field[10:-10, 30:] = True
    even = compute_area_ratio(as_sky(make_wcs()), field)
    assert np.isnan(even[~field]).all()
    np.testing.assert_allclose(even[field], 1, atol=1e-7)
    flat = as_sky(make_wcs())

    def distorted(x, y):
        return flat(x + 1e-4 * (x - 110) ** 2, y)

    ratio = compute_area_ratio(distorted, field)
    x = np.arange(SHAPE[1])
    expected = np.broadcast_to(1 + 2e-4 * (x - 110), SHAPE)
    np.testing.assert_allclose(ratio[field], (expected / expected[field].mean())[field], atol=1e-7)


def test_a_wcs_that_ends_within_the_field_is_an_error():
    flat = as_sky(make_wcs())

    def boxed(x, y):
        ra, dec = flat(x, y)
        return np.where(x < 200, ra, np.nan), dec

    field = np.ones(SHAPE, bool)
    with pytest.raises(EvidenceError, match="without coordinates"):
        compute_area_ratio(boxed, field)
    field[:, 199:] = False
    assert np.isfinite(compute_area_ratio(boxed, field)[field]).all()


# -------------------------------------------------------------------------------- end to end


def test_from_images_to_a_star_flat():
    """Images of one sky through a response, at two rolls, with wrong pointings."""
    rng = np.random.default_rng(12)
    field = np.zeros(SHAPE, bool)
    field[12:-12, 12:-12] = True
    basis = make_basis(field, 2)
    truth = np.array([0.02, -0.01, 0.015, 0.0, -0.02])
    ra, dec, flux = draw_isolated_sky(rng)
    tables, skies = [], []
    for j in range(14):
        east, north = rng.uniform(-45, 45, 2) * SCALE_DEG
        pointing = (80 + east / np.cos(np.deg2rad(-69.5)), -69.5 + north)
        wcs = make_wcs(*pointing, roll_deg=90.0 * (j % 2))
        x, y = wcs.world_to_pixel_values(ra, dec)
        k = np.flatnonzero((x > -8) & (x < SHAPE[1] + 8) & (y > -8) & (y < SHAPE[0] + 8))
        seen = flux[k] * np.exp(basis.evaluate(x[k], y[k]) @ truth) * rng.normal(1, 0.002)
        image, err = draw_image(x[k], y[k], seen, seed=j, noise=1.0)
        good = rng.uniform(size=SHAPE) > 0.0005
        found = find_stars(image, good, fwhm=FWHM)
        tables.append(sum_apertures(image, err, good, *found, radius=5, annulus=(7, 11)))
        skies.append(as_sky(make_wcs(pointing[0], pointing[1] + 1 / 3600, roll_deg=90.0 * (j % 2))))
    matched = match_stars(tables, skies)
    flat = solve_star_flat(matched.observations, field, order=2)
    assert flat.gauge.n_null == 1
    error = flat.coefficients - truth
    sigma = np.sqrt(np.diag(flat.covariance))
    assert np.all(np.abs(error) < 4.5 * sigma)
    assert flat.sigma < 0.003


def draw_isolated_sky(rng):
    """Stars on a shaken grid, 24 pixels apart, and their fluxes."""
    u, v = (w.ravel() for w in np.meshgrid(np.arange(-180, 181, 24), np.arange(-180, 181, 24)))
    u, v = (w + rng.uniform(-5, 5, w.size) for w in (u, v))
    dec = -69.5 + v * SCALE_DEG
    return (
        80 + u * SCALE_DEG / np.cos(np.deg2rad(dec)),
        dec,
        10 ** rng.uniform(3.8, 4.6, u.size),
    )
