"""The two-state chain against all its histories."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jwst_tvbadpix.badpix.states import (
    Transitions,
    compute_transitions,
    infer_states,
    stretch_time,
)

probability = st.floats(1e-6, 1 - 1e-6)


@st.composite
def chains(draw, max_looks=8):
    n = draw(st.integers(1, max_looks))
    steps = st.lists(probability, min_size=n - 1, max_size=n - 1).map(np.array)
    ratio = st.lists(st.floats(-10, 10), min_size=n, max_size=n).map(np.array)
    return draw(ratio), Transitions(draw(probability), draw(steps), draw(steps))


def enumerate_histories(log_ratio, transitions):
    """Sum over all 2^n histories: posterior and log of the mean likelihood ratio."""
    total, bad = 0.0, np.zeros(len(log_ratio))
    for history in product((False, True), repeat=len(log_ratio)):
        weight = transitions.start_bad if history[0] else 1 - transitions.start_bad
        steps = zip(history, history[1:], transitions.onset, transitions.recovery, strict=False)
        for now, then, onset, recovery in steps:
            turns = recovery if now else onset
            weight *= turns if now != then else 1 - turns
        weight *= np.exp(log_ratio[list(history)].sum())
        total += weight
        bad += weight * np.array(history)
    return bad / total, np.log(total)


@given(chains())
def test_equals_the_sum_over_all_histories(chain):
    log_ratio, transitions = chain
    odds = infer_states(log_ratio[:, None], transitions)
    bad, log_evidence = enumerate_histories(log_ratio, transitions)
    np.testing.assert_allclose(odds.bad[:, 0], bad, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(odds.log_evidence[0], log_evidence, rtol=1e-8, atol=1e-8)


@given(chains(max_looks=40))
def test_probabilities_are_probabilities(chain):
    log_ratio, transitions = chain
    bad = infer_states(log_ratio[:, None], transitions).bad
    assert ((bad >= 0) & (bad <= 1 + 1e-12)).all()


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_certain_transitions_stay_finite(certain):
    transitions = Transitions(certain, np.full(4, certain), np.full(4, certain))
    log_ratio = np.array([[10.0, -10.0, 10.0, 10.0, -10.0]]).T
    odds = infer_states(log_ratio, transitions)
    # Never bad, or bad at every other look: the looks have no say.
    expected = np.array([1, 0, 1, 0, 1]) * certain
    np.testing.assert_allclose(odds.bad[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(odds.log_evidence, (log_ratio[:, 0] * expected).sum(), atol=1e-9)


@given(chains(max_looks=12))
def test_no_evidence_returns_the_prior(chain):
    log_ratio, transitions = chain
    odds = infer_states(np.zeros((len(log_ratio), 1)), transitions)
    prior = [transitions.start_bad]
    for onset, recovery in zip(transitions.onset, transitions.recovery, strict=True):
        prior.append(prior[-1] * (1 - recovery) + (1 - prior[-1]) * onset)
    np.testing.assert_allclose(odds.bad[:, 0], prior, rtol=1e-9)
    np.testing.assert_allclose(odds.log_evidence, 0, atol=1e-12)


@given(chains(max_looks=12))
def test_reversed_time_with_symmetric_transitions_is_mirrored(chain):
    log_ratio, transitions = chain
    change = transitions.onset
    forward = infer_states(log_ratio[:, None], Transitions(0.5, change, change))
    backward = infer_states(log_ratio[::-1, None], Transitions(0.5, change[::-1], change[::-1]))
    np.testing.assert_allclose(forward.bad[:, 0], backward.bad[::-1, 0], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(forward.log_evidence, backward.log_evidence, rtol=1e-8, atol=1e-9)


def test_pixels_do_not_touch_each_other():
    rng = np.random.default_rng(2)
    log_ratio = rng.uniform(-10, 10, (9, 30))
    transitions = Transitions(0.01, rng.uniform(size=8), rng.uniform(size=8))
    together = infer_states(log_ratio, transitions)
    order = rng.permutation(30)
    shuffled = infer_states(log_ratio[:, order], transitions)
    np.testing.assert_array_equal(shuffled.bad, together.bad[:, order])
    np.testing.assert_array_equal(shuffled.log_evidence, together.log_evidence[order])
    alone = infer_states(log_ratio[:, :1], transitions)
    np.testing.assert_allclose(alone.bad, together.bad[:, :1], rtol=1e-12)


def test_looks_without_order_share_one_state():
    """All at the same time: nothing can change between them."""
    transitions = compute_transitions(
        np.full(4, 60000.0), start_bad=0.01, onset_per_year=0.1, recovery_per_year=0.2
    )
    assert not transitions.onset.any()
    assert not transitions.recovery.any()
    log_ratio = np.array([3.0, -1.0, 4.0, 2.0])
    odds = infer_states(log_ratio[:, None], transitions)
    weight = 0.01 * np.exp(log_ratio.sum())
    np.testing.assert_allclose(odds.bad[:, 0], weight / (weight + 0.99), rtol=1e-12)


def test_transitions_follow_the_rates():
    """A Poisson process: no event in t years has probability exp(-rate t)."""
    mjd = 60000 + 365.25 * np.array([0, 0.5, 0.5, 3.0])
    found = compute_transitions(mjd, start_bad=0.003, onset_per_year=0.1, recovery_per_year=2.0)
    assert found.start_bad == 0.003
    np.testing.assert_allclose(1 - found.onset, np.exp([-0.05, 0, -0.25]), rtol=1e-9)
    np.testing.assert_allclose(1 - found.recovery, np.exp([-1.0, 0, -5.0]), rtol=1e-9)
    # Small probabilities keep their precision.
    tiny = compute_transitions(
        np.array([0, 1e-6]), start_bad=0, onset_per_year=1e-6, recovery_per_year=0
    )
    assert tiny.onset[0] == pytest.approx(1e-12 / 365.25, rel=1e-9)


LOOKS = np.array([60000.0, 60002.0, 60050.0, 60400.0])


def stretch(*events, boost=100.0):
    return stretch_time(LOOKS, np.array(events), event_boost=boost)


@pytest.mark.parametrize("events", [(), (60010.0, 60300.0)])
def test_boost_of_one_and_no_events_change_nothing(events):
    boost = 1.0 if events else 100.0
    np.testing.assert_array_equal(stretch(*events, boost=boost), LOOKS)


@pytest.mark.parametrize(
    ("event", "gap"), [(60001.0, 0), (60002.0, 0), (60002.001, 1), (60399.9, 2), (60400.0, 2)]
)
def test_event_raises_the_rates_of_its_gap_alone(event, gap):
    """As if the rate were a hundred times its value for thirty days, in that gap."""
    rates = {"start_bad": 0.01, "onset_per_year": 0.02, "recovery_per_year": 0.3}
    plain = compute_transitions(LOOKS, **rates)
    raised = compute_transitions(stretch(event), **rates)
    expected = np.diff(LOOKS) / 365.25
    expected[gap] += 99 * 30 / 365.25
    np.testing.assert_allclose(raised.onset, 1 - np.exp(-0.02 * expected), rtol=1e-9)
    np.testing.assert_allclose(raised.recovery, 1 - np.exp(-0.3 * expected), rtol=1e-9)
    others = np.arange(3) != gap
    np.testing.assert_allclose(raised.onset[others], plain.onset[others], rtol=1e-9)


@pytest.mark.parametrize("event", [59000.0, 60000.0, 60400.1, 70000.0])
def test_events_outside_the_looks_change_nothing(event):
    np.testing.assert_array_equal(stretch(event), LOOKS)


def test_events_of_one_gap_add():
    one, two = stretch(60010.0, boost=3.0), stretch(60010.0, 60011.0, boost=3.0)
    np.testing.assert_allclose(two - LOOKS, 2 * (one - LOOKS), rtol=1e-9)


def test_looks_without_order_know_no_events():
    same = np.zeros(4)
    np.testing.assert_array_equal(stretch_time(same, LOOKS, event_boost=1e4), same)
