"""What changes in time: recovered within its errors, silent where nothing does."""

import numpy as np
import pytest

from jwst_tvbadpix.errors import EvidenceError
from jwst_tvbadpix.flatfield import find_drifts, make_epochs

ERR = 1e-3
N_VISITS = 10
VISIT = np.repeat(np.arange(N_VISITS), 2)
MJD = 59700 + np.repeat(np.linspace(0, 800, N_VISITS), 2) + np.tile([0, 0.1], N_VISITS)
YEARS = (MJD - MJD.mean()) / 365.25
FALL = np.exp(-(MJD - MJD[:2].mean()) / 200)


def draw(rng, n_series=6, *, visit=VISIT, within=0.0, between=0.0):
    """White noise, scatter within and between visits: values and their covariance."""
    shape = len(visit), n_series
    values = rng.normal(0, ERR, shape) + rng.normal(0, within, shape)
    values += rng.normal(0, between, (visit.max() + 1, n_series))[visit]
    return values, np.tile(ERR**2 * np.eye(len(visit)), (n_series, 1, 1))


def believed(drifts):
    """Significant changes: bool (n_terms, n_series)."""
    return np.array([term.significant for term in drifts.terms])


def test_errors_of_slope_and_exponential_cover_the_truth():
    rng = np.random.default_rng(1)
    pulls = []
    for _ in range(60):
        values, covariance = draw(rng)
        values[:, :3] += 0.004 * YEARS[:, None]
        values[:, 3:] += 0.006 * FALL[:, None]
        found = find_drifts(values, covariance, MJD, VISIT)
        pulls.append((found.slope.value[:3] - 0.004) / found.slope.err[:3])
        pulls.append((found.exponential.value[3:] - 0.006) / found.exponential.err[3:])
        assert np.all(found.slope.upper_limit >= np.abs(found.slope.value))
    pulls = np.array(pulls)
    assert abs(np.mean(pulls)) < 4 / np.sqrt(pulls.size)
    # Scatter can only be added to the errors: they cover a little more than 68 %.
    assert 0.64 < np.mean(np.abs(pulls) < 1) < 0.85


@pytest.mark.parametrize("kind", ["within_visit", "between_visits"])
def test_scatter_is_recovered_within_its_interval(kind):
    rng = np.random.default_rng(2)
    covered, below = [], []
    for _ in range(50):
        scatter = {"within": 0.003} if kind == "within_visit" else {"between": 0.003}
        term = getattr(find_drifts(*draw(rng, **scatter), MJD, VISIT), kind)
        covered.append(np.abs(term.value - 0.003) < term.err)
        below.append(term.upper_limit > 0.003)
    assert 0.6 < np.mean(covered) < 0.78
    assert np.mean(below) > 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.parametrize("scatter", [{}, {"within": 0.001}, {"within": 0.004}])
def test_silent_on_noise_at_the_stated_rate(scatter):
    """Also where the errors given lack a scatter from exposure to exposure."""
    rng = np.random.default_rng(3)
    n_draws, rate = 100, 0.1
    alarms = 0
    for _ in range(n_draws):
        drifts = find_drifts(*draw(rng, **scatter), MJD, VISIT, false_discovery_rate=rate)
        alarms += bool(drifts.drifting.any())
    assert alarms <= n_draws * rate + 2.5 * np.sqrt(n_draws * rate * (1 - rate))


def test_scatter_between_visits_is_no_trend():
    rng = np.random.default_rng(4)
    found = [find_drifts(*draw(rng, between=0.01), MJD, VISIT) for _ in range(30)]
    kinds = [kind for drifts in found for kind in drifts.kind]
    assert kinds.count("between visits") > 0.9 * len(kinds)
    assert all(drifts.verdict == "DRIFT" for drifts in found)


def test_names_what_is_there():
    rng = np.random.default_rng(5)
    values, covariance = draw(rng, 5)
    values[:, 1] += 0.02 * YEARS
    values[:, 2] += 0.03 * FALL
    values[:, 3] += rng.normal(0, 0.03, len(VISIT))
    drifts = find_drifts(values, covariance, MJD, VISIT, names=list("abcde"))
    assert drifts.kind == ("stable", "slope", "exponential", "within visit", "stable")
    assert drifts.drifting.tolist() == [False, True, True, False, False]
    lines = drifts.describe(scale=100, unit="%")
    assert lines[0].startswith("DRIFT: 5 series, 20 epochs in 10 visits over 800.0 days")
    assert any(line.startswith("b, slope: 2.") and line.endswith("% per year") for line in lines)
    assert not any(line.startswith("b, exponential") for line in lines)


def test_noise_alone_and_a_change_within_visits_have_verdicts_of_their_own():
    rng = np.random.default_rng(6)
    assert find_drifts(*draw(rng), MJD, VISIT).verdict == "STABLE"
    assert find_drifts(*draw(rng, within=0.05), MJD, VISIT).verdict == "VARIES WITHIN VISITS"


def test_a_month_measures_no_trend_but_limits_it():
    """As programme 4487 alone: 25 days; the limits hold, though nothing is believed."""
    rng = np.random.default_rng(7)
    mjd = 60400 + (MJD - MJD.min()) * 25 / 800
    held = []
    for _ in range(40):
        values, covariance = draw(rng)
        values += 0.01 * (mjd[:, None] - mjd[0]) / 365.25
        drifts = find_drifts(values, covariance, mjd, VISIT)
        assert not drifts.slope.measurable
        assert "25 days, 91 are needed" in drifts.slope.reason
        assert "100 are needed" in drifts.exponential.reason
        assert np.isnan(drifts.slope.p_value).all()
        assert not drifts.slope.significant.any()
        assert drifts.between_visits.measurable
        held.append(drifts.slope.upper_limit > 0.01)
    assert np.mean(held) > 0.95 - 2.5 * np.sqrt(0.95 * 0.05 / 240)
    assert "slope: not measurable" in "\n".join(drifts.describe())


def test_a_large_change_within_a_month_is_not_missed():
    rng = np.random.default_rng(8)
    mjd = 60400 + (MJD - MJD.min()) * 25 / 800
    values, covariance = draw(rng)
    values[:, 2] += 0.01 * (mjd - mjd[0]) / 25
    drifts = find_drifts(values, covariance, mjd, VISIT)
    assert drifts.kind[2] == "between visits"
    assert drifts.verdict == "DRIFT"


def test_one_visit_says_nothing_about_visits():
    values, covariance = draw(np.random.default_rng(9), visit=np.zeros(4, int))
    drifts = find_drifts(values, covariance, MJD[:4], np.zeros(4, int))
    assert drifts.verdict == "NOT MEASURABLE"
    assert set(drifts.kind) == {"not measurable"}
    assert np.isinf(drifts.between_visits.upper_limit).all()
    assert drifts.within_visit.measurable
    assert "one visit only" in "\n".join(drifts.describe())


def test_only_differences_count_and_order_and_unit_do_not():
    rng = np.random.default_rng(10)
    values, covariance = draw(rng, between=0.003)
    first = find_drifts(values, covariance, MJD, VISIT)
    shuffled = rng.permutation(len(MJD))
    # The covariance of departures from a mean is singular.
    centre = np.eye(len(MJD)) - 1 / len(MJD)
    second = find_drifts(
        2 * (centre @ values + 7)[shuffled],
        4 * (centre @ covariance @ centre)[:, shuffled][:, :, shuffled],
        MJD[shuffled],
        VISIT[shuffled] + 3,
    )
    for one, two in zip(first.terms, second.terms, strict=True):
        np.testing.assert_allclose(two.value, 2 * one.value, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(two.err, 2 * one.err, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(two.p_value, one.p_value, rtol=1e-6)


def test_an_epoch_without_value_is_left_out_of_its_series_only():
    values, covariance = draw(np.random.default_rng(11))
    whole = find_drifts(values, covariance, MJD, VISIT)
    holed = values.copy()
    holed[[3, 8], 1] = np.nan
    found = find_drifts(holed, covariance, MJD, VISIT)
    keep = np.setdiff1d(np.arange(len(MJD)), [3, 8])
    cut = find_drifts(values[keep], covariance[:, keep][:, :, keep], MJD[keep], VISIT[keep])
    assert found.slope.value[1] == pytest.approx(cut.slope.value[1])
    assert found.slope.value[0] == pytest.approx(whole.slope.value[0])
    assert found.slope.value[1] != pytest.approx(whole.slope.value[1])


def test_bad_input_is_refused():
    values, covariance = draw(np.random.default_rng(12))
    with pytest.raises(EvidenceError, match="one row of values"):
        find_drifts(values[:-1], covariance, MJD, VISIT)
    with pytest.raises(EvidenceError, match="expected a covariance of shape"):
        find_drifts(values, covariance[:, 1:], MJD, VISIT)
    with pytest.raises(EvidenceError, match="variance above 0"):
        find_drifts(values, 0 * covariance, MJD, VISIT)
    with pytest.raises(EvidenceError, match="finite times"):
        find_drifts(values, covariance, MJD * np.nan, VISIT)
    with pytest.raises(EvidenceError, match="false_discovery_rate"):
        find_drifts(values, covariance, MJD, VISIT, false_discovery_rate=0)


def test_epochs_are_parts_of_visits_in_order_of_time():
    mjd = np.array([5.0, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 5.1])
    epochs = make_epochs(mjd, ["b"] + ["z"] * 6 + ["b"])
    assert epochs.number.tolist() == [2, 0, 0, 0, 1, 1, 1, 2]
    assert epochs.visit.tolist() == [0, 0, 1]
    np.testing.assert_allclose(epochs.mid_mjd, [1.1, 1.4, 5.05])
    whole = make_epochs(mjd, ["b"] + ["z"] * 6 + ["b"], parts=1)
    assert whole.number.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]
    with pytest.raises(EvidenceError, match="time and the visit"):
        make_epochs(mjd, ["b"])
