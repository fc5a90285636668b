"""Histories of pixels: the right looks are bad, and nothing else."""

from dataclasses import dataclass, fields, replace
from itertools import product

import numpy as np
import pytest
from arrays import CORNER, find, flag_cube

from jwst_tvbadpix.badpix import Candidates, Settings, extract_intervals
from jwst_tvbadpix.badpix.candidates import _largest_step
from jwst_tvbadpix.badpix.find import _choose_strips
from jwst_tvbadpix.badpix.histories import _find_outliers, _split, _start_trials, solve_states
from jwst_tvbadpix.badpix.levels import (
    compare_states,
    compute_log_good,
    fit_levels,
    whiten_looks,
)
from jwst_tvbadpix.badpix.scores import compute_scores
from jwst_tvbadpix.badpix.solver import Solver
from jwst_tvbadpix.badpix.states import compute_transitions, infer_states
from jwst_tvbadpix.errors import EvidenceError

N_LOOKS, N_PIXELS = 30, 200
LOOK = np.arange(N_LOOKS)
SETTINGS = Settings()
SIGMA_OFFSET, SIGMA_RESPONSE = 0.05, 0.01
MJD = np.sort(np.random.default_rng(1).uniform(59800, 61200, N_LOOKS))

# ---------------------------------------------------------------------------- solve_states


def draw(truth, amplitude=0.0, *, multiplicative=False, noise_factor=1.0, seed=2):
    """Residuals of pixels that are bad at the looks `truth`: (residual, local, variance)."""
    rng = np.random.default_rng(seed)
    shape = (N_LOOKS, N_PIXELS)
    local = np.repeat(rng.uniform(6, 14, (N_LOOKS, 1)), N_PIXELS, axis=1)
    sigma = np.repeat(rng.uniform(0.3, 0.6, (N_LOOKS, 1)), N_PIXELS, axis=1)
    truth = np.broadcast_to(truth.reshape(N_LOOKS, -1), shape)
    residual = (
        rng.normal(0, SIGMA_OFFSET, N_PIXELS) + rng.normal(0, SIGMA_RESPONSE, N_PIXELS) * local
    )
    residual += sigma * rng.normal(size=shape) * np.where(truth, noise_factor, 1)
    residual += truth * amplitude * (local if multiplicative else 1)
    return residual, local, sigma**2


def solve(residual, local, variance, *, mjd=MJD, scale=1.0):
    """Histories, and the looks that they flag at a score of 6: (states, bad)."""
    n = residual.shape[1]
    offset, response = np.full(n, SIGMA_OFFSET * scale), np.full(n, SIGMA_RESPONSE)
    states = solve_states(
        residual,
        local,
        variance,
        sigma_offset=offset,
        sigma_response=response,
        transitions=compute_transitions(
            mjd,
            start_bad=SETTINGS.start_bad,
            onset_per_year=SETTINGS.onset_per_year,
            recovery_per_year=SETTINGS.recovery_per_year,
        ),
        llr_caps=SETTINGS.llr_cap,
        min_effect=SETTINGS.min_effect,
        min_noise_ratio=SETTINGS.min_noise_ratio,
    )
    place = np.arange(n, dtype=np.int16)
    candidates = Candidates(place, place, residual, local, variance, offset, response)
    score = compute_scores(candidates, states, SETTINGS.min_noise_ratio, neighbours=False)
    return states, (states.bad > 0.5) & (score > 6)


HISTORIES = {
    "static": LOOK >= 0,
    "turn-on": LOOK >= 12,
    "last four": LOOK >= 26,
    "recovery": LOOK < 12,
    "outburst": (LOOK >= 8) & (LOOK < 15),
}


# The noise of one look is 0.3 to 0.6 DN/s.
@pytest.mark.parametrize("amplitude", [4.0, 500.0, -5.0])
@pytest.mark.parametrize("name", HISTORIES)
def test_shift_is_recovered_with_the_right_looks(name, amplitude):
    truth = HISTORIES[name]
    states, bad = solve(*draw(truth, amplitude))
    assert (bad != truth[:, None]).mean() < 0.005
    additive = ~states.multiplicative
    found, error = states.amplitude[additive], states.amplitude_err[additive]
    # A bad level may drift by 7 % of itself, and err says so.
    limit = 5 * np.median(error) / np.sqrt(additive.sum())
    assert np.median(found) == pytest.approx(amplitude, abs=limit)


def test_static_low_response_is_told_from_dark_current():
    states, bad = solve(*draw(LOOK >= 0, -0.6, multiplicative=True))
    assert bad.all()
    assert states.multiplicative.mean() > 0.95
    lost = states.amplitude[states.multiplicative]
    # 30 looks of signal-to-noise 0.6 * 10 / 0.45.
    assert np.median(lost) == pytest.approx(-0.6, abs=0.01)


@pytest.mark.parametrize("name", ["turn-on", "recovery"])
def test_changing_response_is_recovered_with_the_right_looks(name):
    truth = HISTORIES[name]
    _, bad = solve(*draw(truth, -0.6, multiplicative=True))
    assert (bad != truth[:, None]).mean() < 0.005


@pytest.mark.parametrize("name", ["turn-on", "recovery"])
def test_changing_response_is_told_from_dark_current(name):
    """The background changes by more than a factor of two, by many sigma of the shift."""
    states, _ = solve(*draw(HISTORIES[name], -0.6, multiplicative=True))
    assert states.multiplicative.mean() > 0.9


def test_negative_offset_is_told_from_lost_response():
    states, _ = solve(*draw(HISTORIES["turn-on"], -5.0))
    assert states.multiplicative.mean() < 0.1


@pytest.mark.parametrize("amplitude", [5.0, 50.0, 500.0])
def test_slow_telegraph_is_recovered_with_the_right_looks(amplitude):
    """Two levels with dwells of four looks, not one unstable level: so says its class."""
    truth = np.isin(LOOK // 4, (1, 3, 5))
    found = solve(*draw(truth, amplitude))[1]
    assert found[truth].mean() > 0.99
    assert (found != truth[:, None]).mean() < 0.02


@pytest.mark.parametrize("amplitude", [5.0, 20.0, 100.0])
def test_fast_telegraph_is_bad_whenever_it_is_high(amplitude):
    """Quiet looks in between may count as bad: such a pixel is not usable."""
    truth = np.random.default_rng(6).uniform(size=(N_LOOKS, N_PIXELS)) < 0.6
    found = solve(*draw(truth, amplitude))[1]
    assert found.any(axis=0).all()
    assert found[truth].mean() > 0.9


@pytest.mark.parametrize("amplitude", [5.0, 20.0, 50.0, 500.0])
def test_pixel_that_switches_at_each_look_is_bad(amplitude):
    """No switch is too large to be believed when every other look shows it."""
    found = solve(*draw(LOOK % 2 == 1, amplitude))[1]
    assert found.any(axis=0).mean() > 0.95


@pytest.mark.parametrize("name", ["static", "turn-on"])
def test_noisy_pixel_is_recovered(name):
    truth = HISTORIES[name]
    states, found = solve(*draw(truth, noise_factor=12.0))
    assert found.any(axis=0).all()
    # The onset shows in the first look that is far out: one look in four is not.
    assert (found != truth[:, None]).mean() < 0.05
    assert np.median(states.variance_ratio) == pytest.approx(144, rel=0.3)


def test_clean_pixels_are_good():
    assert not solve(*draw(LOOK < 0))[1].any()


@pytest.mark.parametrize("look", [0, 12, N_LOOKS - 1])
@pytest.mark.parametrize("amplitude", [3.0, 50.0, 1e4, -50.0])
def test_one_cosmic_ray_never_flags(look, amplitude):
    assert not solve(*draw(look == LOOK, amplitude))[1].any()


def test_looks_without_evidence_are_bridged():
    truth = HISTORIES["turn-on"]
    residual, local, variance = draw(truth, 5.0)
    gaps = np.random.default_rng(3).uniform(size=residual.shape) < 0.4
    gaps[[10, 11, 12, 13, 14]] = True
    for plane in (residual, local, variance):
        plane[gaps] = np.nan
    states, found = solve(residual, local, variance)
    expected = np.broadcast_to(truth[:, None], found.shape)
    assert (found[~gaps] == expected[~gaps]).mean() > 0.995
    # Between two bad looks the pixel is bad, between two good ones good.
    assert (found[16:] == expected[16:]).mean() > 0.995
    assert (found[:9] == expected[:9]).mean() > 0.995
    np.testing.assert_array_equal(states.log_ratio[gaps], 0)


def test_order_of_pixels_does_not_matter():
    truth = np.random.default_rng(4).uniform(size=(N_LOOKS, N_PIXELS)) < 0.3
    planes = draw(np.sort(truth, axis=0), 5.0)
    order = np.random.default_rng(5).permutation(N_PIXELS)
    one, _ = solve(*planes)
    two, _ = solve(*(np.ascontiguousarray(p[:, order]) for p in planes))
    for f in fields(one):
        np.testing.assert_array_equal(getattr(two, f.name), getattr(one, f.name)[..., order])


@pytest.mark.parametrize("name", HISTORIES)
def test_doubling_noise_and_signal_gives_the_same_states(name):
    residual, local, variance = draw(HISTORIES[name], 3.0)
    one, bad = solve(residual, local, variance)
    two, bad_twice = solve(2 * residual, 2 * local, 4 * variance, scale=2.0)
    np.testing.assert_allclose(two.bad, one.bad, atol=1e-6)
    np.testing.assert_allclose(two.log_odds, one.log_odds, rtol=1e-6)
    np.testing.assert_array_equal(bad_twice, bad)


def test_inputs_of_the_solver_are_not_edited():
    planes = draw(HISTORIES["turn-on"], 5.0)
    for plane in planes:
        plane.flags.writeable = False
    solve(*planes)


@pytest.fixture(scope="module")
def mixture():
    """Pixels of all kinds, good ones too, with gaps: planes (N_LOOKS, 14 * 6)."""
    kinds = [(HISTORIES[name], amplitude) for name in HISTORIES for amplitude in (2.0, 60.0)]
    kinds += [(LOOK < 0, 0.0), (LOOK == 9, 40.0), (HISTORIES["turn-on"], -5.0)]
    draws = [draw(truth, amplitude, seed=k) for k, (truth, amplitude) in enumerate(kinds)]
    draws.append(draw(HISTORIES["last four"], -0.6, multiplicative=True, seed=20))
    planes = [np.concatenate([d[k][:, :6] for d in draws], axis=1) for k in range(3)]
    rng = np.random.default_rng(8)
    planes[0][rng.uniform(size=planes[0].shape) < 0.1] = np.nan
    order = rng.permutation(planes[0].shape[1])
    return [np.ascontiguousarray(plane[:, order]) for plane in planes]


def solve_all_trials(residual, local, variance):
    """The same without a shortcut: all six trials of all pixels, one after the other."""
    n = residual.shape[1]
    prior = {"sigma_offset": np.full(n, SIGMA_OFFSET), "sigma_response": np.full(n, SIGMA_RESPONSE)}
    sigma = np.sqrt(np.nanmedian(np.where(np.isfinite(residual), variance, np.nan), axis=0))
    looks = whiten_looks(residual, local, variance, **prior, minimum_shift=sigma)
    chain = compute_transitions(
        MJD,
        start_bad=SETTINGS.start_bad,
        onset_per_year=SETTINGS.onset_per_year,
        recovery_per_year=SETTINGS.recovery_per_year,
    )
    cap = np.full((N_LOOKS, 1), SETTINGS.llr_cap)
    starts = np.ones(residual.shape, bool), _split(looks), _find_outliers(looks)
    trials = []
    for start, multiplicative in product(starts, (False, True)):
        own = replace(looks, shape=looks.local) if multiplicative else looks
        bad, levels = start.astype(float), None
        for _ in range(4):
            levels = fit_levels(own, bad, levels)
            log_ratio = compare_states(own, levels, cap, SETTINGS.min_noise_ratio)
            odds = infer_states(log_ratio, chain)
            bad = odds.bad
        rank = compute_log_good(own, levels, cap) + odds.log_evidence
        rank -= 0.5 * (bad * (looks.inverse > 0)).sum(axis=0) * np.log(levels.variance_ratio)
        if multiplicative:
            rank[levels.amplitude >= -0.2] = -np.inf
        trials.append((rank, bad, log_ratio, levels.amplitude))
    rank, bad, log_ratio, amplitude = map(np.array, zip(*trials, strict=True))
    best, pixel = rank.argmax(axis=0), np.arange(n)
    return bad[best, :, pixel].T, log_ratio[best, :, pixel].T, amplitude[best, pixel]


def test_trials_left_out_change_nothing(mixture):
    """Starts that are there twice, responses that rose: bit for bit what all trials give."""
    states, _ = solve(*mixture)
    bad, log_ratio, amplitude = solve_all_trials(*mixture)
    np.testing.assert_array_equal(states.bad, bad.astype(np.float32))
    np.testing.assert_array_equal(states.log_ratio, log_ratio.astype(np.float32))
    np.testing.assert_array_equal(states.amplitude, amplitude)


def test_no_trial_is_there_twice_nor_an_impossible_one(mixture):
    n = mixture[0].shape[1]
    prior = {"sigma_offset": np.full(n, SIGMA_OFFSET), "sigma_response": np.full(n, SIGMA_RESPONSE)}
    looks = whiten_looks(*mixture, **prior, minimum_shift=np.ones(n))
    trials, _ = _start_trials(looks, np.full((N_LOOKS, 1), SETTINGS.llr_cap))
    known = looks.inverse[:, trials.pixel] > 0
    table = np.column_stack([trials.pixel, trials.multiplicative, (trials.bad & known).T])
    assert len(np.unique(table, axis=0)) == len(table)
    assert (trials.levels.amplitude[trials.multiplicative] < 0).all()
    assert set(trials.pixel[~trials.multiplicative]) == set(range(n))


@pytest.mark.parametrize("width", [1, 2, 5, 31])
def test_bits_of_a_pixel_do_not_depend_on_its_piece(mixture, width, monkeypatch):
    """What an update solves with other neighbours than the full search stays the same."""
    n = mixture[0].shape[1]
    place = np.arange(n, dtype=np.int16)
    prior = np.full(n, SIGMA_OFFSET), np.full(n, SIGMA_RESPONSE)
    candidates = Candidates(place, place, *mixture, *prior)
    chain = compute_transitions(MJD, start_bad=3e-3, onset_per_year=5e-4, recovery_per_year=0.09)
    solver = Solver(chain, np.full(N_LOOKS, 10.0), 1.0, 4.0)
    whole = solver.solve(candidates)
    monkeypatch.setattr("jwst_tvbadpix.badpix.solver._VALUES_AT_ONCE", 1)
    monkeypatch.setattr("jwst_tvbadpix.badpix.solver._LEAST_PIXELS", width)
    parts = solver.solve(candidates)
    for f in fields(whole):
        np.testing.assert_array_equal(getattr(parts, f.name), getattr(whole, f.name))


def test_no_pixel_has_no_history():
    states, bad = solve(*(np.empty((N_LOOKS, 0)) for _ in range(3)))
    assert states.log_odds.shape == (0,)
    assert bad.shape == (N_LOOKS, 0)


# -------------------------------------------------------------------------- find_histories

SHAPE = (64, 72)
SIGMA = 0.3
PLACES = {
    "static": (10, 10),
    "turn-on": (10, 30),
    "recovery": (10, 50),
    "outburst": (30, 10),
}


@pytest.fixture(scope="module")
def clean():
    """Rates of perfect pixels under a sky that changes."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = rng.uniform(0.7, 1.4, (N_LOOKS, 1, 1)) * (8 + 4 * x / SHAPE[1] + 3 * y / SHAPE[0])
    pattern = 1 + rng.normal(0, 0.01, SHAPE)
    rate = sky * pattern + rng.normal(0, 0.05, SHAPE) + rng.normal(0, SIGMA, (N_LOOKS, *SHAPE))
    return rate.astype(np.float32)


@pytest.fixture(scope="module")
def rate(clean):
    """The same with a pixel for each history, 15 sigma, and two cosmic rays."""
    rate = clean.copy()
    for name, (y, x) in PLACES.items():
        rate[HISTORIES[name], y, x] += 15 * SIGMA
    rate[5, 50, 20] += 1000
    rate[29, 50, 40] += 1000
    return rate


@pytest.fixture(scope="module")
def found(rate):
    return find(rate, MJD, rows=16)


def test_defects_are_found_where_and_when_they_are(found):
    bad = flag_cube(found)
    for name, (y, x) in PLACES.items():
        assert (bad[:, y, x] != HISTORIES[name]).sum() <= 1, name
        bad[:, y, x] = False
    # Four thousand others, and two cosmic rays.
    assert bad.any(axis=0).sum() <= 2
    assert not bad[:, 50, [20, 40]].any()


def test_candidates_are_in_row_major_order_and_complete(found):
    key = found.candidates.y.astype(int) * 10000 + found.candidates.x
    assert (np.diff(key) > 0).all()
    assert found.window == (100, 164, 8, 80)
    assert found.n_evidence.shape == SHAPE
    assert (found.n_evidence == N_LOOKS).all()
    assert found.settings == Settings()
    np.testing.assert_array_equal(found.mid_mjd, MJD)


def test_one_wild_look_is_not_even_a_candidate(found):
    position = set(zip(found.candidates.y.tolist(), found.candidates.x.tolist(), strict=True))
    assert (CORNER[0] + 10, CORNER[1] + 10) in position
    assert (CORNER[0] + 50, CORNER[1] + 20) not in position


def test_cluster_does_not_hide_itself(clean):
    """Sixteen neighbours fill nearly half of their windows, and must not count in them."""
    rate = clean.copy()
    rate[:, 40:44, 30:34] += 50 * SIGMA
    histories = find(rate, MJD)
    y, x = histories.candidates.y - CORNER[0], histories.candidates.x - CORNER[1]
    inside = (y >= 40) & (y < 44) & (x >= 30) & (x < 34)
    assert histories.bad[:, inside].sum() == 16 * N_LOOKS
    # 480 values, whose medians share their neighbours.
    residual = histories.candidates.residual[:, inside].mean()
    assert residual == pytest.approx(50 * SIGMA, abs=0.25 * SIGMA)


def test_noise_is_measured(found):
    # A pixel against the mean of its medians: 0.94 of its noise.
    np.testing.assert_allclose(found.noise.sigma.mean(axis=1), 0.94 * SIGMA, rtol=0.15)


def test_null_data_give_few_flags(clean):
    bad = flag_cube(find(clean, MJD))
    assert bad.any(axis=0).sum() <= 2


@pytest.mark.parametrize("rows", [8, 23, 64])
def test_block_size_does_not_matter(rate, found, rows):
    other = find(rate, MJD, rows=rows)
    np.testing.assert_array_equal(other.bad, found.bad)
    np.testing.assert_array_equal(other.n_evidence, found.n_evidence)
    for part in ("candidates", "states", "noise"):
        for f in fields(getattr(found, part)):
            np.testing.assert_array_equal(
                getattr(getattr(other, part), f.name), getattr(getattr(found, part), f.name)
            )


def test_looks_that_did_not_read_the_pixel_are_bridged(rate):
    part = rate.copy()
    part[14:20, :, :40] = np.nan  # another subarray
    histories = find(part, MJD)
    bad = flag_cube(histories)
    for name, (y, x) in PLACES.items():
        read = np.isfinite(part[:, y, x])
        assert (bad[read, y, x] != HISTORIES[name][read]).sum() <= 1, name
    assert bad[14:20, 10, 10].all()
    assert (histories.n_evidence[:, :40] == N_LOOKS - 6).all()
    assert (histories.n_evidence[:, 40:] == N_LOOKS).all()


def test_frames_scaled_by_two_give_the_same_states(rate, found):
    """The start values of the pattern do not scale, so the noise agrees to a few per cent."""
    bad = flag_cube(find(2 * rate, MJD))
    assert (bad != flag_cube(found)).sum() <= 2


def test_transposed_frames_give_the_same_states(rate, found):
    turned = np.ascontiguousarray(rate.transpose(0, 2, 1))
    bad = flag_cube(find(turned, MJD, axes=1))
    differs = bad.transpose(0, 2, 1) != flag_cube(found)
    assert differs.sum() <= 2


def test_a_bad_frame_changes_little(rate, found):
    spoiled = rate.copy()
    spoiled[20] += np.random.default_rng(1).normal(0, 100, SHAPE)
    bad = flag_cube(find(spoiled, MJD))
    for name, (y, x) in PLACES.items():
        wrong = bad[:, y, x] != HISTORIES[name]
        wrong[20] = False
        assert wrong.sum() <= 1, name
    assert bad.any(axis=0).sum() <= len(PLACES) + 3
    assert found.noise.sigma[20].max() < 1


def test_looks_without_order_have_one_state(rate):
    histories = find(rate, np.full(N_LOOKS, 60000.0))
    assert (histories.bad == histories.bad[0]).all()
    assert flag_cube(histories)[0, 10, 10]


def test_looks_without_evidence_are_counted(clean):
    empty = clean[:3].copy()
    empty[1:] = np.nan
    with pytest.raises(
        EvidenceError, match=r"at least two .* found 1 \(no pixel with evidence\); give more"
    ):
        find(empty, MJD[:3])
    with pytest.raises(EvidenceError, match="give usable exposures"):
        find(np.full_like(empty, np.nan), MJD[:3])


def test_settings_and_progress_are_heard(rate, monkeypatch):
    monkeypatch.setattr("jwst_tvbadpix.badpix.inmemory._TILE_ROWS", 16)
    calls = []
    histories = find(
        rate,
        MJD,
        settings=replace(SETTINGS, min_effect=1e6, min_noise_ratio=1e6),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert not histories.bad.any()
    assert calls == [(16, 64), (32, 64), (48, 64), (64, 64)]


# ------------------------------------------------------------ what came out of trying to break it


@pytest.mark.parametrize("look", [0, 3, -1])
@pytest.mark.parametrize("n_looks", [4, 8, 12])
def test_one_look_alone_enters_no_mask(n_looks, look):
    """Single hits of any size, also at the first and the last look, where one change is enough."""
    rng = np.random.default_rng(n_looks)
    rate = rng.normal(20, 0.14, (n_looks, *SHAPE)).astype(np.float32)
    y, x = (places.ravel() for places in np.mgrid[5:60:6, 5:68:6])
    rate[look, y, x] += 10 ** rng.uniform(0, 3, y.size)
    histories = find(rate, np.linspace(59800, 60800, n_looks))
    pending = extract_intervals(histories).pending
    assert flag_cube(histories)[:, y, x].sum() <= (pending.sum() if look == -1 else 0)
    assert not (extract_intervals(histories).n_looks[~pending] == 1).any()


def test_steady_pixels_are_not_pending():
    rng = np.random.default_rng(3)
    rate = rng.normal(0.02, 0.02, (12, *SHAPE)).astype(np.float32)
    rate += rng.normal(0, 0.1, SHAPE).astype(np.float32)  # a fixed pattern, nothing happens
    assert extract_intervals(find(rate, np.linspace(59800, 60800, 12))).pending.sum() <= 8


def test_unread_looks_change_no_step():
    rng = np.random.default_rng(5)
    z = rng.normal(size=(10, 6, 7)).astype(np.float32)
    z[6:] += 2
    where = np.sort(rng.choice(40, 10, replace=False))
    spread, evidence = np.zeros((40, 6, 7), np.float32), np.zeros((40, 6, 7), bool)
    spread[where], evidence[where] = z, True
    few = _largest_step(z, np.ones_like(z, bool))
    np.testing.assert_allclose(_largest_step(spread, evidence), few, rtol=1e-5)


@pytest.mark.parametrize("n_looks", [10, 40, 130, 1000])
def test_noise_is_sampled_all_over(n_looks):
    @dataclass
    class Full:
        window = (0, 1024, 0, 1032)
        row_ranges = ((0, 1024), (778, 842))

    strips = _choose_strips(Full(), n_looks)
    for first, last in Full.row_ranges:
        inside = [s for s, e in strips if first <= s and e <= last]
        assert len(inside) >= 4
        gaps = np.diff([first, *inside, last])
        assert gaps.max() <= 0.35 * (last - first)


def test_frames_without_noise_and_with_a_wide_source_are_taken():
    rng = np.random.default_rng(9)
    rate = rng.normal(20, 0.14, (6, *SHAPE)).astype(np.float32)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    rate[2] += (500 * np.exp(-((y - 30) ** 2 + (x - 40) ** 2) / 2 / 30**2)).astype(np.float32)
    rate[4] = 20
    rate[3:, 30, 10] += 6
    bad = flag_cube(find(rate, np.linspace(59800, 60800, 6)))
    assert bad[3:, 30, 10].all()
    assert not bad[:3, 30, 10].any()
