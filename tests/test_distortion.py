"""Distortion from stars: its change by epoch within its errors, linear terms apart."""

from pathlib import Path

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import (
    StarObservations,
    find_distortion_drifts,
    make_basis,
    measure_distortion,
)

FIELD = np.ones((260, 200), bool)
SCALE = 0.11
FWHM = 1.88
N_VISITS, N_EACH = 6, 4
BASIS = make_basis(FIELD, 3)


def point(east, north, roll_deg):
    """WCS without distortion, pointed and rolled."""
    cosine, sine = np.cos(np.deg2rad(roll_deg)), np.sin(np.deg2rad(roll_deg))

    def sky(x, y):
        u, v = np.asarray(x) - 100, np.asarray(y) - 130
        a, b = cosine * u - sine * v + east, sine * u + cosine * v + north
        degree = SCALE / 3600
        return 80.5 - degree * a / np.cos(np.deg2rad(69.5)), -69.5 + degree * b

    return sky


def observe(seed, *, common=0.0, change=0.0, stretch=0.0, roll_deg=0.0, outliers=0.0, n=400):
    """Positions in six visits; from the fourth on one mode [arcsec] and the scale differ."""
    rng = np.random.default_rng(seed)
    stars, flux = rng.uniform(-260, 260, (n, 2)), 10 ** rng.uniform(3, 4, n)
    shape = np.zeros((2, BASIS.n_modes))
    shape[:, 2:] = rng.normal(0, common, (2, BASIS.n_modes - 2))
    skies, rows = [], []
    for j in range(N_VISITS * N_EACH):
        late = j >= N_VISITS * N_EACH // 2
        centre, roll = rng.uniform(-50, 50, 2), roll_deg * late
        cosine, sine = np.cos(np.deg2rad(roll)), np.sin(np.deg2rad(roll))
        dx, dy = (stars - centre).T
        x, y = 100 + cosine * dx + sine * dy, 130 - sine * dx + cosine * dy
        skies.append(point(*(centre + rng.normal(0, 3, 2)), roll))
        now = shape.copy()
        now[0, 3] += change * (late - 0.5)
        k = np.flatnonzero(BASIS.contains(x, y))
        off = BASIS.evaluate(x[k], y[k]) @ now.T / SCALE
        off += late * stretch * np.column_stack([x[k] - 100, y[k] - 130])
        relative = 3 / np.sqrt(flux[k]) / 30
        noise = np.hypot(FWHM / 2.3548 * relative, 0.01)[:, None] * rng.normal(size=(len(k), 2))
        noise[rng.uniform(size=len(k)) < outliers] += 0.8
        x, y = x[k] + off[:, 0] + noise[:, 0], y[k] + off[:, 1] + noise[:, 1]
        rows.append([np.full(len(k), j), k, x, y, flux[k], relative * flux[k]])
    columns = np.hstack(rows)
    return (
        StarObservations(columns[0].astype(int), columns[1].astype(int), *columns[2:]),
        skies,
    )


VISIT = np.repeat(np.arange(N_VISITS), N_EACH)
MJD = 59700 + 100.0 * VISIT + 0.01 * np.tile(np.arange(N_EACH), N_VISITS)
EPOCH = dict(enumerate(VISIT))
EPOCH_MJD = 59700 + 100.0 * np.arange(N_VISITS)


def follow(seed, **kwargs):
    measured = measure_distortion(*observe(seed, **kwargs), FIELD, fwhm=FWHM, epoch=EPOCH, order=3)
    drifts = find_distortion_drifts(measured, (EPOCH_MJD, np.arange(N_VISITS)), (MJD, VISIT))
    return measured, *drifts


@pytest.mark.parametrize("n_seeds", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_change_of_shape_is_found_and_its_errors_cover_the_truth(n_seeds):
    pulls = []
    for seed in range(n_seeds):
        measured, shape, linear = follow(seed, change=0.002, common=0.002, outliers=0.01)
        late = np.repeat([-1 / 3, 1 / 3], 3)
        step = np.einsum("e,eaq->aq", late, measured.epoch_coefficients).ravel()
        err = np.sqrt(np.einsum("i,kij,j->k", late, measured.epoch_covariance, late))
        truth = np.zeros(14)
        truth[1] = 0.002
        pulls.append((step - truth) / err)
        assert shape.drifting[1]
        assert np.delete(shape.drifting, 1).sum() <= 1
        assert linear.verdict == "STABLE"
        assert measured.n_outliers > 0.003 * measured.n_used
    assert shape.names[1] == "x, mode 4 (degree 2)"
    assert 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.25
    assert 0.8 < measured.noise.scale * FWHM < 10 * FWHM


def test_a_change_of_scale_is_linear_and_no_change_of_shape():
    _, shape, linear = follow(10, stretch=2e-4)
    assert shape.verdict == "STABLE"
    assert linear.drifting.tolist() == [True, False, False, False]
    assert linear.names == ("scale", "turn", "stretch", "skew")


def test_exposures_of_few_stars_tell_nothing_of_linear_terms():
    measured, _, linear = follow(5, n=90)
    assert np.isnan(measured.linear).all()
    assert linear.verdict == "NOT MEASURABLE"


def test_linear_terms_of_exposures_are_right():
    measured, _, _ = follow(11, stretch=2e-4, common=0.001)
    weight = np.where(VISIT >= 3, 1.0, -1.0) / (len(VISIT) / 2)
    step = weight @ measured.linear
    err = np.sqrt(np.einsum("i,kij,j->k", weight, measured.linear_covariance, weight))
    assert np.all(np.abs(step - [2e-4, 0, 0, 0]) < 3 * err)
    assert np.all(err < 1.5e-4)


@pytest.mark.parametrize("n_seeds", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_silent_where_only_pointing_and_roll_change(n_seeds):
    found = [follow(seed, common=0.002, roll_deg=30.0)[1:] for seed in range(25 - n_seeds, 25)]
    assert [shape.verdict for shape, _ in found].count("STABLE") >= min(n_seeds, 4)
    assert [linear.verdict for _, linear in found].count("STABLE") >= min(n_seeds, 4)


def test_another_roll_tells_more_of_the_modes_that_one_leaves_to_their_prior():
    one, _, _ = follow(30, common=0.002)
    two, _, _ = follow(30, common=0.002, roll_deg=90.0)
    quadratic = one.basis.degree == 2
    assert np.all(one.errors[:, quadratic] > 10 * one.errors[:, ~quadratic].max())
    assert np.all(two.errors[:, quadratic] < 0.75 * one.errors[:, quadratic])
    truth = np.random.default_rng(30)
    truth.uniform(-260, 260, (400, 2))
    truth.uniform(3, 4, 400)
    true = truth.normal(0, 0.002, (2, BASIS.n_modes - 2))
    for measured in (one, two):
        pull = (measured.coefficients[:, 2:] - true) / measured.errors[:, 2:]
        assert np.sqrt(np.mean(pull**2)) < 1.6
        assert np.abs(pull).max() < 4.5


def test_order_of_the_rows_does_not_matter():
    observations, skies = observe(40, change=0.002)
    shuffled = np.random.default_rng(0).permutation(len(observations.x))
    columns = [getattr(observations, name)[shuffled] for name in StarObservations.__slots__]
    one = measure_distortion(observations, skies, FIELD, fwhm=FWHM, epoch=EPOCH)
    two = measure_distortion(StarObservations(*columns), skies, FIELD, fwhm=FWHM, epoch=EPOCH)
    np.testing.assert_allclose(one.epoch_coefficients, two.epoch_coefficients, atol=1e-9)
    np.testing.assert_allclose(one.linear, two.linear, atol=1e-10)


def test_bad_input_is_refused():
    observations, skies = observe(41)
    with pytest.raises(EvidenceError, match="a WCS for every exposure"):
        measure_distortion(observations, skies[:-1], FIELD, fwhm=FWHM)
    with pytest.raises(EvidenceError, match="an epoch for every exposure"):
        measure_distortion(observations, skies, FIELD, fwhm=FWHM, epoch={0: 0})
    with pytest.raises(EvidenceError, match="two epochs or more"):
        measure_distortion(observations, skies, FIELD, fwhm=FWHM, epoch=dict.fromkeys(EPOCH, 1))
    with pytest.raises(EvidenceError, match="orders of 2 or more"):
        measure_distortion(observations, skies, FIELD, fwhm=FWHM, order=1)
    few = np.flatnonzero(observations.star < 12)
    columns = [getattr(observations, name)[few] for name in StarObservations.__slots__]
    with pytest.raises(EvidenceError, match="more than stars"):
        measure_distortion(StarObservations(*columns), skies, FIELD, fwhm=FWHM)
    lost = [*skies[:-1], lambda x, y: (np.full(len(x), np.nan), np.full(len(x), np.nan))]
    with pytest.raises(EvidenceError, match="bounding box"):
        measure_distortion(observations, lost, FIELD, fwhm=FWHM)
    alone = measure_distortion(observations, skies, FIELD, fwhm=FWHM)
    assert alone.epoch_coefficients.shape == (0, 2, 0)
    with pytest.raises(EvidenceError, match="with `epoch`"):
        find_distortion_drifts(alone, (EPOCH_MJD, np.arange(N_VISITS)), (MJD, VISIT))


REAL = Path(__file__).parents[2] / "shared/realdata/miri_distortion"
IMAGER = np.zeros((1024, 1032), bool)
IMAGER[:, 360:1028] = True


def observe_real(seed, early, late):
    """Positions through real distortions of MIRI's imager, the early one taken for the WCS."""
    rng = np.random.default_rng(seed)
    sky = rng.uniform(-95, 95, (1500, 2))
    flux = 10 ** rng.uniform(3.5, 4.5, len(sky))
    skies, rows = [], []
    for j in range(N_VISITS * N_EACH):
        camera = late if j >= N_VISITS * N_EACH // 2 else early
        east, north = rng.uniform(-30, 30, 2)
        x, y = camera.inverse(sky[:, 0] - east - 392.0, sky[:, 1] - north - 376.0)

        def place(x, y, east=east, north=north):
            v2, v3 = early(x, y)
            return 80 + (v2 + 392.0 + east) / 3600, (v3 + 376.0 + north) / 3600

        skies.append(place)
        inside = (x > 360) & (x < 1026) & (y > 0) & (y < 1022)
        k = np.flatnonzero(inside)
        x, y = (values[k] + 0.02 * rng.normal(size=len(k)) for values in (x, y))
        rows.append([np.full(len(k), j), k, x, y, flux[k], 0.003 * flux[k]])
    columns = np.hstack(rows)
    return StarObservations(columns[0].astype(int), columns[1].astype(int), *columns[2:]), skies


def compare_cameras(early, late):
    """Change of the shape in V2 and V3 [arcsec rms], best linear map taken off."""
    y, x = (values.ravel() for values in np.mgrid[8:1020:16, 364:1024:16].astype(float))
    columns = np.column_stack([np.ones(len(x)), x, y])
    change = np.column_stack(early(x, y)) - np.column_stack(late(x, y))
    left = change - columns @ np.linalg.lstsq(columns, change, rcond=None)[0]
    return np.sqrt(np.mean(left**2))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the distortion references of MIRI")
@pytest.mark.parametrize("change", ["launch", pytest.param("boresight", marks=pytest.mark.slow)])
def test_what_the_imager_of_miri_did(change):
    """flt1 to flt9 is a shift of the boresight, from before launch to flt1 the shape changed."""
    import asdf

    names = {
        "launch": ("miri_distortion_0028", "miri_imager_distortion_flt1"),
        "boresight": ("miri_imager_distortion_flt1", "miri_imager_distortion_flt9"),
    }
    early, late = (asdf.open(REAL / f"jwst_{name}.asdf", memmap=False) for name in names[change])
    with early, late:
        cameras = early["model"], late["model"]
        observations, skies = observe_real(1, *cameras)
        truth = compare_cameras(*cameras)
    measured = measure_distortion(
        observations, skies, IMAGER, fwhm=FWHM, epoch=EPOCH, epoch_order=4
    )
    shape, linear = find_distortion_drifts(measured, (EPOCH_MJD, np.arange(N_VISITS)), (MJD, VISIT))
    step = np.einsum("e,eaq->aq", np.repeat([-1 / 3, 1 / 3], 3), measured.epoch_coefficients)
    if change == "launch":
        assert shape.verdict == "DRIFT"
        assert np.sqrt(np.sum(step**2) / 2) == pytest.approx(truth, rel=0.1)
        assert 0.003 < truth < 0.008
    else:
        assert truth < 1e-5
        assert shape.verdict == "STABLE"
        assert linear.verdict == "STABLE"
        assert np.max(shape.between_visits.upper_limit) < 0.001
