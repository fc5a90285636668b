"""The background in time: season, trend and transients, and what a short programme cannot tell."""

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import find_background_trend

N_EACH = 5
YEAR = 365.25


def draw(rng, *, n_visits=14, span=1500.0, season=0.0, slope=0.0, fall=0.0, between=0.006):
    """Levels of two fields: level, err, mjd, visit, field."""
    inside = rng.uniform(0, span, n_visits - 2)
    start = 60000 + np.sort(np.concatenate([[0, span], inside]))
    visit = np.repeat(np.arange(n_visits), N_EACH)
    mjd = start[visit] + 0.02 * np.tile(np.arange(N_EACH), n_visits)
    level = np.where(visit % 2, 1.5, 2.0) + season * np.cos(2 * np.pi * (mjd - 60100) / YEAR)
    level += slope * (mjd - 60000) / YEAR + fall * np.exp(-(mjd - 60000) / 200)
    level += rng.normal(0, between, n_visits)[visit] + rng.normal(0, 0.006, len(mjd))
    return level, np.full(len(mjd), 0.003), mjd, visit, np.array(["a", "b"])[visit % 2]


def find(data, **kwargs):
    return find_background_trend(*data[:4], field=data[4], **kwargs)


def test_season_and_slope_are_recovered_together_within_their_errors():
    rng = np.random.default_rng(1)
    pulls, held, kinds = [], [], []
    for _ in range(60):
        trend = find(draw(rng, season=0.1, slope=0.06))
        pulls.append(
            [
                (trend.season.value - 0.1) / trend.season.err,
                (trend.slope.value - 0.06) / trend.slope.err,
                ((trend.maximum_mjd - 60100 + YEAR / 2) % YEAR - YEAR / 2) / trend.maximum_err_day,
            ]
        )
        held.append(trend.season.upper_limit > 0.1)
        kinds.append(trend.kind)
    assert np.all(np.abs(np.mean(pulls, axis=0)) < 0.6)
    # Student's distribution of some ten visits is wider than the normal one.
    assert np.all(np.std(pulls, axis=0) < 1.5)
    assert np.mean(np.abs(pulls) < 1) > 0.58
    assert np.mean(held) > 0.88
    assert kinds.count("slope") >= 55


def test_an_exponential_is_told_from_a_slope():
    trend = find(draw(np.random.default_rng(2), fall=0.4, season=0.05))
    assert trend.kind == "exponential"
    assert trend.verdict == "DRIFT"
    assert abs(trend.exponential.value - 0.4) < 4 * trend.exponential.err
    np.testing.assert_allclose(trend.field_level, [2.0, 1.5], atol=5 * trend.field_level_err.max())
    assert trend.thermal[0] == pytest.approx(0.4, abs=0.05)
    assert np.ptp(trend.seasonal) == pytest.approx(0.1, abs=0.04)
    text = "\n".join(trend.describe(unit="MJy/sr"))
    assert f"exponential: {trend.exponential.value:.3g} +-" in text
    assert "slope" not in text


@pytest.mark.parametrize("between", [0.0, 0.006, 0.03])
def test_silent_on_levels_that_only_scatter(between):
    rng = np.random.default_rng(3)
    n_draws, rate, alarms = 60, 0.1, 0
    for _ in range(n_draws):
        trend = find(draw(rng, between=between), false_discovery_rate=rate)
        alarms += trend.season.significant or trend.kind != "none"
    assert alarms <= n_draws * rate + 2.5 * np.sqrt(n_draws * rate * (1 - rate))


def test_season_alone():
    trend = find(draw(np.random.default_rng(4), season=0.2))
    assert (trend.verdict, trend.kind) == ("SEASON", "none")
    assert not trend.thermal.any()


def test_a_month_measures_neither_season_nor_trend():
    """As programme 4487 alone."""
    rng = np.random.default_rng(5)
    held = []
    for _ in range(30):
        trend = find(draw(rng, span=25, slope=0.05))
        for term in (trend.season, trend.slope, trend.exponential):
            assert term.reason == "25 days, 274 are needed"
            assert not term.significant
            assert np.isnan(term.p_value)
            assert np.isfinite(term.upper_limit)
        held.append(trend.slope.upper_limit > 0.05)
        assert trend.verdict in ("VARIES", "STABLE")
    assert np.mean(held) > 0.85
    assert "slope: not measurable (25 days, 274 are needed), below" in "\n".join(trend.describe())


def test_visits_at_one_season_of_each_year_do_not_tell_the_season():
    rng = np.random.default_rng(9)
    visit = np.repeat(np.arange(12), 3)
    mjd = 60000 + YEAR * visit + np.tile([0.0, 0.1, 0.2], 12)
    level = 1 + rng.normal(0, 0.01, len(visit))
    trend = find_background_trend(level, np.full(len(visit), 0.01), mjd, visit)
    assert "do not tell season" in trend.season.reason
    assert trend.season.upper_limit > 1
    assert trend.verdict == "STABLE"


def test_the_transient_of_programme_1040_is_kept_apart():
    """Levels of three sets of F560W [MJy/sr]: the first has no decay, later ones fall by 20 %."""
    level = np.array([1.510, 1.531, 1.508, 1.507, 1.514] + 2 * [1.95, 1.70, 1.62, 1.60, 1.57])
    sets = np.repeat(np.arange(3), 5)
    mjd = 59700 + 0.01 * np.arange(15) + 0.2 * sets
    trend = find_background_trend(level, 0.001 * level, mjd, ["1"] * 15, sets=sets)
    assert not trend.transient[:5].any()
    assert trend.transient[5] == pytest.approx(0.37, abs=0.05)
    assert not trend.used[[5, 6, 10, 11]].any()
    assert trend.used[:5].all()
    assert trend.verdict == "VARIES"
    assert trend.between_visits.reason == "one visit only for each field"


def test_an_exposure_far_from_its_visit_is_left_out():
    data = draw(np.random.default_rng(6))
    data[0][12] += 1.0
    trend = find(data)
    assert np.flatnonzero(~trend.used).tolist() == [12]
    data[0][20:25] = np.nan
    assert not find(data).used[20:25].any()


def test_order_and_unit_do_not_matter():
    rng = np.random.default_rng(7)
    data = draw(rng, season=0.1)
    shuffled = rng.permutation(len(data[0]))
    one, two = find(data), find([values[shuffled] for values in data])
    big = find((2 * data[0], 2 * data[1], *data[2:]))
    for a, b, c in zip(one.terms, two.terms, big.terms, strict=True):
        assert b.value == pytest.approx(a.value, rel=1e-6)
        assert c.value == pytest.approx(2 * a.value, rel=1e-6)
        assert c.p_value == pytest.approx(a.p_value, rel=1e-5)
    assert one.maximum_mjd == pytest.approx(two.maximum_mjd)


def test_one_exposure_measures_nothing():
    trend = find_background_trend(np.array([1.0]), np.array([0.1]), np.array([60000.0]), ["a"])
    assert trend.verdict == "NOT MEASURABLE"
    assert trend.field_level.tolist() == [1.0]
    assert trend.field_level_err == pytest.approx([0.1])


def test_bad_input_is_refused():
    level, err, mjd, visit, _ = draw(np.random.default_rng(8))
    with pytest.raises(EvidenceError, match="for each exposure"):
        find_background_trend(level[1:], err, mjd, visit)
    with pytest.raises(EvidenceError, match="errors above 0"):
        find_background_trend(level, 0 * err, mjd, visit)
    with pytest.raises(EvidenceError, match="errors above 0"):
        find_background_trend(level * np.nan, err, mjd, visit)
    with pytest.raises(EvidenceError, match="time_constant_day"):
        find_background_trend(level, err, mjd, visit, time_constant_day=0)
