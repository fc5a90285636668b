"""Budgeted series: against brute force, and by what they mean."""

from itertools import combinations

import numpy as np
import pytest

from jwst_tvbadpix.badpix import choose_starts, cost_starts, plan_masks

DAY = 86400
INF = np.inf


def draw_segments(seed, n_pixels=40, n_segments=9):
    """Lengths, and pixels that are bad in some segments, or for a part of one."""
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 100 * DAY, n_segments)
    bad = (rng.random((n_pixels, n_segments)) < rng.random((n_pixels, 1))) * length
    return bad, length


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_masks", [1, 2, 3, 5, 9, 20])
def test_choice_costs_as_little_as_the_best_of_all_choices(seed, n_masks):
    bad, length = draw_segments(seed)
    best = min(
        cost_starts(bad, length, np.array([0, *others]))
        for k in range(min(n_masks, 9))
        for others in combinations(range(1, 9), k)
    )
    starts = choose_starts(bad, length, n_masks)
    assert starts[0] == 0
    assert len(starts) <= n_masks
    assert (np.diff(starts) > 0).all()
    assert cost_starts(bad, length, starts) == best


def test_more_masks_never_cost_more():
    bad, length = draw_segments(7, n_pixels=300, n_segments=40)
    costs = [cost_starts(bad, length, choose_starts(bad, length, k)) for k in range(1, 41)]
    assert (np.diff(costs) <= 0).all()
    assert costs[0] > costs[10] > 0
    assert costs[-1] == 0


def test_cost_is_the_time_in_the_wrong_state():
    # Two pixels, segments of 10, 20 and 30 s; one mask flags what is bad for most of it.
    length = np.array([10, 20, 30])
    bad = np.array([[10, 20, 0], [0, 0, 30]])
    assert cost_starts(bad, length, np.array([0])) == 30 + 30
    assert cost_starts(bad, length, np.array([0, 2])) == 0
    assert cost_starts(bad, length, np.array([0, 1])) == 20 + 20


def make_rows(*rows):
    """Columns of intervals from (x, start, end, class)."""
    x, start, end, name = zip(*rows, strict=True)
    n = len(rows)
    return {
        "y": np.full(n, 7, np.int16),
        "x": np.array(x, np.int16),
        "class": np.array(name),
        "state": np.ones(n, np.uint8),
        "dnu": np.ones(n, bool),
        "pending": np.zeros(n, bool),
        "start_mjd": np.array(start, float),
        "end_mjd": np.array(end, float),
    }


FIRST, SEEN = 60000.0, (60000.0, 61000.0)
CHANGING = make_rows(
    (1, -INF, INF, "HOT"),
    (2, 60100, INF, "HOT"),
    (3, -INF, 60200, "WARM"),
    (4, 60110, 60900, "LOW_QE"),
    (5, 60300, 60310, "TELEGRAPH"),
    (6, 60980, INF, "HOT"),
)


def test_without_a_budget_every_change_has_its_mask():
    spans = plan_masks(CHANGING, FIRST, SEEN)
    assert [span.start_mjd for span in spans] == [60000, 60100, 60110, 60200, 60900, 60980]
    for span in spans:
        holds = (CHANGING["start_mjd"] <= span.start_mjd) & (span.start_mjd < CHANGING["end_mjd"])
        holds[4] = True
        np.testing.assert_array_equal(span.flagged, holds)
        assert not span.advised.any()


def test_one_mask_holds_what_is_bad_for_most_of_the_time():
    (span,) = plan_masks(CHANGING, FIRST, SEEN, max_masks=1)
    # 1000 d of exposures and half a year after them; the last pixel is bad for 203 d of it.
    assert span.start_mjd == FIRST
    assert span.flagged.tolist() == [True, True, False, True, True, False]


def test_time_after_the_last_exposure_counts_for_half_a_year():
    for end, expected in ((60000 + 182.0, True), (60000 + 183.0, False)):
        (span,) = plan_masks(make_rows((1, end, INF, "HOT")), FIRST, (FIRST, end), max_masks=1)
        assert span.flagged.tolist() == [expected]


def test_two_masks_begin_where_most_is_lost():
    rows = make_rows(*[(x, 60100, INF, "HOT") for x in range(5)], (9, 60500, INF, "HOT"))
    first, second = plan_masks(rows, FIRST, SEEN, max_masks=2)
    assert (first.start_mjd, second.start_mjd) == (60000, 60100)
    assert not first.flagged.any()
    assert second.flagged.all()


def test_budget_larger_than_the_changes_changes_nothing():
    exact, budget = (
        plan_masks(CHANGING, FIRST, SEEN),
        plan_masks(CHANGING, FIRST, SEEN, max_masks=9),
    )
    assert [span.start_mjd for span in exact] == [span.start_mjd for span in budget]
    for one, two in zip(exact, budget, strict=True):
        np.testing.assert_array_equal(one.flagged, two.flagged)


def test_advisory_rows_make_no_epoch_and_are_shown_by_majority():
    rows = make_rows((1, 60200, INF, "HOT"), (2, 60100, INF, "WARM"), (3, 60150, 60190, "WARM"))
    rows["dnu"] = np.array([True, False, False])
    rows["advisory"] = ~rows["dnu"]
    first, second = plan_masks(rows, FIRST, SEEN)
    assert second.start_mjd == 60200
    assert first.flagged.tolist() == [False, False, False]
    # Half a year before the first exposure does not count, as FIRST is later: 100 of 200 d.
    assert first.advised.tolist() == [False, False, False]
    assert second.flagged.tolist() == [True, False, False]
    assert second.advised.tolist() == [False, True, False]


def test_first_date_after_some_changes():
    spans = plan_masks(CHANGING, 60150.0, SEEN, max_masks=0)
    assert [span.start_mjd for span in spans] == [60150, 60200, 60900, 60980]
    assert spans[0].flagged.tolist() == [True, True, True, True, True, False]


def test_a_large_series_takes_seconds():
    rng = np.random.default_rng(3)
    n, epochs = 4000, 60000 + np.sort(rng.choice(1000, 300, replace=False)) + 1.0
    start = rng.choice(epochs, n)
    end = np.where(rng.random(n) < 0.3, start + 50, INF)
    rows = make_rows(
        *((k % 1000, a, b, "HOT") for k, (a, b) in enumerate(zip(start, end, strict=True)))
    )
    rows["y"] = (np.arange(n) // 1000).astype(np.int16)
    spans = plan_masks(rows, FIRST, SEEN, max_masks=10)
    assert len(spans) == 10
    counts = [int(span.flagged.sum()) for span in spans]
    assert counts[-1] > counts[0]
