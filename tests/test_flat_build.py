"""The making of a flat, in memory: pixel area, pointings, parts of the sky, stability."""

import re
from dataclasses import replace

import numpy as np
import pytest
from skyfield import EXPOSURE_S, FWHM, GAIN, READ_NOISE, make_flat, render

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import (
    ExposureFacts,
    FlatSettings,
    StackSettings,
    build_flat,
    make_plane,
    match_stars,
)

SHAPE = (160, 192)
SCALE = 0.11 / 3600
MIDDLE = SHAPE[1] / 2
SETTINGS = FlatSettings(StackSettings(FWHM))
FIELD = np.ones(SHAPE, bool)


class Camera:
    """Exposures of a star field through a camera whose pixels grow along x.

    On the sky (in pixels of the middle) a pixel lies at ``x + k (x - middle)^2``.
    """

    def __init__(self, *, n_exp=20, k=0.0, seed=3, miss=0.5, n_fields=1, level=16.0):
        rng = np.random.default_rng(seed)
        self.shape, self.k = SHAPE, k
        self.response = make_flat(SHAPE, rng)
        self.area = np.broadcast_to(1 + 2 * k * (np.arange(SHAPE[1]) - MIDDLE), SHAPE)
        tile = np.arange(n_exp) % 5
        corner = np.array([(0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)])[tile] * 50
        self.offset = corner + rng.uniform(-15, 15, (n_exp, 2))
        self.turned = tile % 2
        self.part = np.arange(n_exp) * n_fields // n_exp
        self.tiles = tile + 5 * self.part
        u, v = rng.uniform(-180, 180, (2, n_fields, 350))
        flux = np.minimum(25 * rng.uniform(1e-9, 1, (n_fields, 350)) ** (-1 / 0.9), 2e3)
        self.rate, self.err = [], []
        self.wrong = rng.normal(0, miss, (n_exp, 2))
        for e in range(n_exp):
            x, y = self._place(e, u[self.part[e]], v[self.part[e]], self.offset[e])
            near = (np.abs(x - MIDDLE) < SHAPE[1]) & (np.abs(y - 80) < 200)
            stars = render(x[near], y[near], flux[self.part[e]][near], SHAPE)
            zero = np.exp(rng.normal(0, 0.002))
            count = (level * self.area * (1 + 0.02 * rng.normal()) + stars) * self.response * zero
            sigma = np.sqrt(count / (GAIN * EXPOSURE_S) + READ_NOISE**2)
            seen = count + sigma * rng.normal(size=SHAPE)
            self.rate.append(seen.astype(np.float32))
            noise = np.sqrt(np.maximum(seen, 0) / (GAIN * EXPOSURE_S) + READ_NOISE**2)
            self.err.append(noise.astype(np.float32))

    def _turn(self, e, a, b):
        """Half of the exposures are turned by 90 degrees."""
        return (b, -a) if self.turned[e] else (a, b)

    def _place(self, e, u, v, offset):
        """Pixels of places on the sky, exactly."""
        a, b = self._turn(e, u, v)
        a, b = a - offset[0], b - offset[1]
        root = np.sqrt(np.maximum(1 + 4 * self.k * a, 0.01)) if self.k else 1
        x = MIDDLE + ((root - 1) / (2 * self.k) if self.k else a)
        return x, 80 + b

    def __len__(self):
        return len(self.rate)

    def read(self, index, start, stop):
        return self.rate[index][start:stop], self.err[index][start:stop]

    def to_pixel(self, e):
        def pixel(ra, dec):
            u = (np.asarray(ra) - 80 - self.part[e]) / SCALE
            return self._place(e, u, np.asarray(dec) / SCALE, self.offset[e] + self.wrong[e])

        return pixel

    def to_sky(self, e):
        def sky(x, y):
            d = np.asarray(x, float) - MIDDLE
            a = d + self.k * d**2 + self.offset[e, 0] + self.wrong[e, 0]
            b = np.asarray(y, float) - 80 + self.offset[e, 1] + self.wrong[e, 1]
            u, v = (-b, a) if self.turned[e] else (a, b)
            return 80 + self.part[e] + u * SCALE, v * SCALE

        return sky

    def facts(self, *, held=()):
        n = len(self)
        used = np.ones(n, bool)
        used[list(held)] = False
        return ExposureFacts(
            tuple(self.to_sky(e) for e in range(n)),
            tuple(self.to_pixel(e) for e in range(n)),
            self.tiles,
            self.tiles,
            59700 + 0.01 * np.arange(n),
            np.zeros(n, int),
            used,
            tuple(f"exposure {e}" for e in range(n)),
        )


def compare(flat, err, truth):
    used = np.isfinite(flat)
    error = flat[used] / flat[used].mean() - truth[used] / truth[used].mean()
    return float(np.mean((error / err[used]) ** 2)), float(np.std(error))


@pytest.fixture(scope="module")
def distorted():
    camera = Camera(k=2e-4, seed=5)
    return camera, build_flat(camera, camera.facts(held=(4, 11)), FIELD, settings=SETTINGS)


def test_pixel_area_is_in_the_flat_and_not_in_the_ratio(distorted):
    camera, built = distorted
    assert np.std(camera.area) > 0.01
    (flat,) = built.flats
    assert built.star is not None
    chi2, scatter = compare(flat.flat, flat.err, camera.response * camera.area)
    assert chi2 == pytest.approx(1, abs=0.12)
    assert scatter < 0.006
    # Without the area the stars would contradict the sky by what the area is.
    assert np.std(flat.ratio) < 0.2 * np.std(camera.area)
    np.testing.assert_allclose(flat.area, camera.area / camera.area.mean(), rtol=1e-4)


def test_held_out_exposures_are_flatter_and_their_stars_agree_better(distorted):
    _, built = distorted
    check = built.check
    assert check.n_exposures == 2
    assert check.n_stars > 20
    assert check.pixel_after < 0.8 * check.pixel_before
    assert check.smooth_after < 0.5 * check.smooth_before
    assert check.star_after < check.star_before
    assert "held-out" in check.describe()
    assert built.stack.n_used == 18


def test_pointings_come_from_the_stars(distorted):
    camera, built = distorted
    facts = camera.facts()
    plane = make_plane(facts.skies, facts.pixels, SHAPE, built.matched)
    x, y = np.array([20.0, 96.0, 170.0]), np.array([30.0, 80.0, 140.0])
    u, v = plane.to_sky(3, x, y)
    back = plane.to_detector(3, u, v)
    np.testing.assert_allclose(back, [x, y], atol=1e-5)
    # The same place of the sky, seen by each exposure, is one place of the plane.
    where = []
    for e in range(len(camera)):
        place = camera._place(e, np.array([10.0]), np.array([-5.0]), camera.offset[e])
        where.append(np.ravel(plane.to_sky(e, *place)))
    assert np.std(where, axis=0).max() < 0.08
    assert np.std(camera.wrong) > 0.4


def test_parts_of_the_sky_without_a_common_star_are_solved_together():
    camera = Camera(n_fields=2, seed=5)
    built = build_flat(camera, camera.facts(), FIELD, settings=SETTINGS)
    assert built.star.gauge.n_components == 2
    chi2, _ = compare(built.flats[0].flat, built.flats[0].err, camera.response)
    assert chi2 == pytest.approx(1, abs=0.12)
    facts = camera.facts()
    plane = make_plane(facts.skies, facts.pixels, SHAPE, built.matched)
    assert sorted(set(plane.number)) == [0, 1]
    u, v = plane.to_sky(0, np.array([5.0]), np.array([5.0]))
    assert np.isnan(plane.to_detector(len(camera) - 1, u, v)).all()


def test_an_exposure_of_another_sensitivity_is_named(caplog):
    camera = Camera(n_exp=10)
    for plane in (camera.rate, camera.err):
        plane[3] = plane[3] * np.float32(1.1)
    built = build_flat(camera, camera.facts(), FIELD, settings=SETTINGS)
    (note,) = (note for note in built.notes if "sensitivity" in note)
    assert re.search(r"in exposure 3 \(\+(9|10)\.\d %, 0\.\d % expected\); .*PHOTMJSR", note)
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warned.count(note) == 1


def test_star_flat_can_be_left_out():
    camera = Camera(n_exp=10)
    built = build_flat(camera, camera.facts(), FIELD, settings=replace(SETTINGS, star_flat="never"))
    assert built.star is None
    assert np.isnan(built.flats[0].ratio).all()
    np.testing.assert_allclose(built.flats[0].flat, built.stack.flat, rtol=1e-5)
    assert "background" in built.monitors.verdicts


def test_wcs_without_coordinates_is_named():
    camera = Camera(n_exp=4)
    facts = camera.facts()

    def lost(x, y):
        return np.full(np.shape(x), np.nan), np.full(np.shape(y), np.nan)

    skies = (*facts.skies[:2], lost, facts.skies[3])
    with pytest.raises(EvidenceError, match=r"exposures \[2\]"):
        make_plane(skies, facts.pixels, SHAPE, None)
    with pytest.raises(EvidenceError):
        match_stars([], [])


@pytest.mark.slow
def test_stated_error_of_the_star_flat_is_the_actual_one_in_crowded_fields():
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    errors, stated = [], []
    for seed in range(16):
        camera = Camera(k=2e-4, seed=seed)
        star = build_flat(camera, camera.facts(), FIELD, settings=SETTINGS).star
        modes = star.basis.evaluate(x[star.basis.field], y[star.basis.field])
        truth = modes.T @ np.log(camera.response[star.basis.field]) / len(modes)
        errors.append(np.sum((star.coefficients - truth) ** 2))
        stated.append(star.sigma**2)
    assert np.sqrt(np.mean(stated) / np.mean(errors)) == pytest.approx(1, abs=0.2)
