"""Intervals and their dates: each exposure gets the mask of its own state."""

import logging
from dataclasses import fields, replace

import numpy as np
import pytest
from arrays import CALIBRATION, assemble_histories
from hypothesis import given
from hypothesis import strategies as st

from jwst_tvbadpix.badpix import Candidates, Settings
from jwst_tvbadpix.badpix.histories import PixelStates
from jwst_tvbadpix.badpix.intervals import CLASSES, extract_intervals
from jwst_tvbadpix.badpix.series import DATING, date_intervals, list_epochs, select_active

SECOND = 1 / 86400
SIGMA = 0.5


def make_histories(bad, *, evidence=None, mjd=None, log_ratio=None, histories=None, **levels):
    """Histories of pixels in one row; bad, evidence: bool (n_looks, n_pixels)."""
    bad = np.asarray(bad, bool)
    n_looks, n = bad.shape
    evidence = np.ones_like(bad) if evidence is None else np.asarray(evidence, bool)
    mjd = 60000.0 + 10 * np.arange(n_looks) if mjd is None else mjd
    if log_ratio is None:
        log_ratio = np.where(bad, 9.0, -1.0)
    planes = np.where(evidence, 10.0, np.nan).astype(np.float32)
    candidates = Candidates(
        y=np.full(n, 5, np.int16),
        x=np.arange(n, dtype=np.int16),
        residual=planes,
        local=planes,
        variance=np.where(evidence, SIGMA**2, np.nan).astype(np.float32),
        sigma_offset=np.zeros(n, np.float32),
        sigma_response=np.zeros(n, np.float32),
    )
    values = {
        "amplitude": np.full(n, 8.0),
        "amplitude_err": np.full(n, 0.1),
        "multiplicative": np.zeros(n, bool),
        "variance_ratio": np.ones(n),
    } | {key: np.broadcast_to(value, n) for key, value in levels.items()}
    states = PixelStates(
        bad=bad.astype(float),
        log_ratio=np.where(evidence, log_ratio, 0.0),
        log_odds=np.full(n, 50.0),
        offset=np.zeros(n),
        response=np.zeros(n),
        **values,
    )
    return assemble_histories(
        candidates,
        states,
        bad,
        n_evidence=evidence.sum(axis=0),
        n_pixels=evidence.sum(axis=1),
        window=(5, 6, 0, n),
        mid_mjd=mjd,
        **histories or {},
    )


def column(text):
    """One pixel: 1 bad, 0 good, . = not read; returns (bad, evidence)."""
    bad = np.array([[c == "1"] for c in text])
    return bad, np.array([[c != "."] for c in text])


def extract(text, **kwargs):
    bad, evidence = column(text)
    return extract_intervals(make_histories(bad, evidence=evidence, **kwargs))


def rows_of(intervals):
    keys = ("before", "first", "last", "after")
    return list(zip(*(getattr(intervals, k).tolist() for k in keys), strict=True))


# ------------------------------------------------------------------------ extract_intervals


@pytest.mark.parametrize(
    ("history", "rows"),
    [
        ("0000", []),
        ("1111", [(-1, 0, 3, -1)]),
        ("0011", [(1, 2, 3, -1)]),
        ("1100", [(-1, 0, 1, 2)]),
        ("0110", [(0, 1, 2, 3)]),
        ("1001", [(-1, 0, 0, 1), (2, 3, 3, -1)]),
        ("010110", [(0, 1, 1, 2), (2, 3, 4, 5)]),
        # What was not read is bridged within a state and open between two.
        ("0..11", [(0, 3, 4, -1)]),
        ("1..00", [(-1, 0, 0, 3)]),
        ("1.1.0", [(-1, 0, 2, 4)]),
        ("..1..", [(-1, 2, 2, -1)]),
        (".01.1.0.", [(1, 2, 4, 6)]),
    ],
)
def test_brackets_lie_between_looks_with_evidence(history, rows):
    found = extract(history)
    assert rows_of(found) == rows
    counts = [history[first : last + 1].count("1") for _, first, last, _ in rows]
    assert found.n_looks.tolist() == counts
    # What the last look with evidence alone says is pending, whatever was before.
    alone = [old >= 0 and one == two and new < 0 for old, one, two, new in rows]
    assert found.pending.tolist() == alone


def test_rows_belong_to_their_pixels():
    text = ["1010", "0000", "0111", "1111", "0000"]
    bad = np.array([[c == "1" for c in row] for row in text]).T
    found = extract_intervals(make_histories(bad))
    assert found.pixel.tolist() == [0, 0, 2, 3]
    assert found.x.tolist() == [0, 0, 2, 3]
    assert (found.y == 5).all()
    assert rows_of(found) == [(-1, 0, 0, 1), (1, 2, 2, 3), (0, 1, 3, -1), (-1, 0, 3, -1)]
    lengths = {getattr(found, f.name).shape for f in fields(found)}
    assert lengths == {(4,)}


def list_runs_slowly(bad, evidence):
    """Each pixel's looks with evidence one after the other."""
    runs = []
    for pixel, (states, seen) in enumerate(zip(bad.T, evidence.T, strict=True)):
        looks = np.flatnonzero(seen).tolist()
        for k, look in enumerate(looks):
            if not states[look]:
                continue
            if k == 0 or not states[looks[k - 1]]:
                runs.append([pixel, look, look, looks[k - 1] if k else -1, -1, 0])
            runs[-1][2], runs[-1][5] = look, runs[-1][5] + 1
            runs[-1][4] = looks[k + 1] if k + 1 < len(looks) else -1
    return runs


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 9))
def test_rows_are_those_of_a_slow_oracle(seed, share, n_looks):
    rng = np.random.default_rng(seed)
    evidence = rng.random((n_looks, 6)) < share
    # What looks without evidence are said to be makes no difference.
    bad = rng.random(evidence.shape) < 0.5
    rows = extract_intervals(make_histories(bad, evidence=evidence, mjd=np.zeros(n_looks)))
    names = ("pixel", "first", "last", "before", "after", "n_looks")
    found = np.stack([getattr(rows, name) for name in names], axis=1)
    assert found.tolist() == list_runs_slowly(bad, evidence)


def test_no_candidates_give_no_rows():
    found = extract_intervals(make_histories(np.zeros((4, 0))))
    assert all(getattr(found, f.name).shape == (0,) for f in fields(found))


@pytest.mark.parametrize(
    ("history", "pending_look"),
    [("00000", 4), ("000..", 2), ("0", None), ("1000", None)],
    ids=["last", "last that was read", "the only look", "bad before"],
)
def test_only_a_last_look_that_says_all_is_pending(history, pending_look):
    bad, evidence = column(history)
    n = len(history)
    cap = Settings().llr_cap
    for look in range(n):
        log_ratio = np.full((n, 1), -1.0)
        log_ratio[look] = cap
        found = extract_intervals(make_histories(bad, evidence=evidence, log_ratio=log_ratio))
        if look == pending_look:
            assert rows_of(found)[-1] == (look - 1, look, look, -1)
            assert found.pending.tolist() == [True]
        else:
            assert not found.pending.any()
    almost = np.full((n, 1), cap * 0.99)
    found = extract_intervals(make_histories(bad, evidence=evidence, log_ratio=almost))
    assert not found.pending.any()


@pytest.mark.parametrize(("log_ratio", "pending"), [(8.0, True), (7.9, False)])
def test_a_look_of_less_weight_says_all_that_it_can(log_ratio, pending):
    """The most that a look can say is the cap times its weight."""
    weights = np.array([1.0, 1.0, 1.0, 0.8])
    usability = replace(make_histories(np.zeros((4, 1))).usability, score=weights)
    ratios = np.full((4, 1), -1.0)
    ratios[3] = log_ratio
    found = extract("0000", log_ratio=ratios, histories={"usability": usability})
    assert found.pending.tolist() == [True] * pending


def test_nothing_is_pending_without_order():
    log_ratio = np.full((4, 1), 10.0)
    found = extract_intervals(
        make_histories(np.zeros((4, 1)), mjd=np.full(4, 60000.0), log_ratio=log_ratio)
    )
    assert not rows_of(found)


@pytest.mark.parametrize(
    ("history", "name"),
    [
        ("0011100", "HOT"),  # two changes
        ("0101111", "TELEGRAPH"),  # three
        ("1010101", "TELEGRAPH"),
        ("0.10..11", "TELEGRAPH"),  # between looks with evidence
        ("0.10..1", "HOT"),  # the last look alone does not count
        ("1.1.1.1", "HOT"),
    ],
)
def test_three_changes_make_a_telegraph(history, name):
    assert set(extract(history).name) == {name}


def test_number_of_changes_is_a_setting():
    found = extract("0011100", histories={"settings": Settings(telegraph_transitions=2)})
    assert found.name.tolist() == ["TELEGRAPH"]


@pytest.mark.parametrize(
    ("levels", "name", "amplitude", "response"),
    [
        ({"amplitude": 5 * SIGMA}, "HOT", 5 * SIGMA, 1),
        ({"amplitude": 4.9 * SIGMA}, "WARM", 4.9 * SIGMA, 1),
        ({"amplitude": -8.0}, "OTHER_BAD_PIXEL", -8, 1),
        ({"amplitude": -0.99, "multiplicative": True}, "DEAD", -9.9, 0.01),
        ({"amplitude": -0.7, "multiplicative": True}, "LOW_QE", -7, 0.3),
        ({"amplitude": -0.3, "multiplicative": True}, "OTHER_BAD_PIXEL", -3, 0.7),
        (
            {"amplitude": 0.4, "amplitude_err": 0.1, "variance_ratio": 100.0},
            "UNRELIABLE_SLOPE",
            0.4,
            1,
        ),
    ],
)
def test_levels_make_the_class(levels, name, amplitude, response):
    """The level is 10 DN/s, the noise 0.5 DN/s."""
    levels = {"amplitude_err": 0.01} | levels
    found = extract("0011", **levels)
    assert found.name.tolist() == [name]
    assert name in CLASSES
    assert found.amplitude[0] == pytest.approx(amplitude, rel=1e-5)
    assert found.response[0] == pytest.approx(response, rel=1e-5)
    scale = 10 if levels.get("multiplicative") else 1
    assert found.amplitude_err[0] == pytest.approx(levels["amplitude_err"] * scale, rel=1e-5)


def test_odds_are_evidence_and_prices():
    settings = Settings()
    found = extract("00110")
    years = 10 / 365.25
    onset = np.log(-np.expm1(-settings.onset_per_year * years))
    recovery = np.log(-np.expm1(-settings.recovery_per_year * years))
    assert found.log_odds[0] == pytest.approx(18 + onset + recovery, rel=1e-5)
    always = extract("111")
    assert always.log_odds[0] == pytest.approx(
        27 + np.log(settings.start_bad / (1 - settings.start_bad)), rel=1e-5
    )


def test_odds_are_calibrated():
    """By the table of the calibration, whether the interval or its pixel has the lower score."""
    table = replace(
        CALIBRATION, score=np.array([0.0, 10.0]), log_odds=np.array([-4.0, 1.0]), slope=2.0
    )
    (own,) = extract("00110").log_odds
    assert 0 < own < 10
    for score, expected in ((50.0, -4 + own / 2), (own / 3, -4 + own / 6)):
        histories = {"calibration": table, "score": np.array([score])}
        assert extract("00110", histories=histories).log_odds[0] == pytest.approx(expected)
    (long,) = extract("0011110").log_odds
    assert 10 < long < 30
    (found,) = extract("0011110", histories={"calibration": table}).log_odds
    assert found == pytest.approx(1 + 2 * (long - 10), abs=1e-4)


# ---------------------------------------------------------------------------------- dating

START = 60000.0 + np.array([0.0, 1.0, 1.5, 4.25, 9.0])
END = START + 0.1


@pytest.mark.parametrize(
    ("dating", "onset", "recovery"),
    [
        ("midpoint", (END[0] + START[1]) / 2, (END[2] + START[3]) / 2),
        ("conservative", END[0], START[3]),
        ("detected", START[1], START[3]),
    ],
)
def test_policies(dating, onset, recovery):
    found = date_intervals(extract("01100"), START, END, dating=dating)
    # Floored to the second.
    assert -1e-6 <= (onset - found.start_mjd[0]) / SECOND < 1 + 1e-6
    assert -1e-6 <= (recovery - found.end_mjd[0]) / SECOND < 1 + 1e-6
    brackets = [getattr(found, k)[0] for k in ("start_lo", "start_hi", "end_lo", "end_hi")]
    assert brackets == [END[0], START[1], END[2], START[3]]


def test_default_is_the_midpoint():
    rows = extract("01100")
    default, midpoint = (
        date_intervals(rows, START, END),
        date_intervals(rows, START, END, dating="midpoint"),
    )
    np.testing.assert_array_equal(default.start_mjd, midpoint.start_mjd)


@pytest.mark.parametrize("dating", DATING)
def test_open_ends_are_infinite(dating):
    found = date_intervals(extract("11111"), START, END, dating=dating)
    for name in ("start_mjd", "start_lo", "start_hi"):
        assert getattr(found, name).tolist() == [-np.inf]
    for name in ("end_mjd", "end_lo", "end_hi"):
        assert getattr(found, name).tolist() == [np.inf]


@pytest.mark.parametrize(
    ("dating", "onset_gap", "recovery_gap"),
    [("midpoint", 2, 2), ("conservative", 0, 3), ("detected", 3, 3)],
)
def test_brackets_over_several_gaps_take_one_of_them(dating, onset_gap, recovery_gap):
    """A pixel that looks 1 to 3 did not read shares the date of pixels that they did."""
    histories = {gap: "0" * (gap + 1) + "1" * (4 - gap) for gap in range(4)}
    onset = date_intervals(extract("0...1"), START, END, dating=dating).start_mjd
    others = {
        g: date_intervals(extract(h), START, END, dating=dating) for g, h in histories.items()
    }
    assert onset.tolist() == others[onset_gap].start_mjd.tolist()
    flipped = str.maketrans("01", "10")
    recovery = date_intervals(extract("1...0"), START, END, dating=dating).end_mjd
    other = date_intervals(
        extract(histories[recovery_gap].translate(flipped)), START, END, dating=dating
    )
    assert recovery.tolist() == other.end_mjd.tolist()


@pytest.mark.parametrize("dating", DATING)
def test_changes_in_one_gap_share_one_date(dating):
    bad = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0]], bool)
    found = date_intervals(extract_intervals(make_histories(bad)), START, END, dating=dating)
    assert found.start_mjd[0] != found.start_mjd[1]
    if dating != "conservative":
        # Onset of pixel 0 and recovery of pixel 2, both between looks 1 and 2.
        assert found.start_mjd[0] == found.end_mjd[2]


def test_exposures_within_one_second_are_logged(caplog):
    start = 60000.0 + np.array([0.0, 0.2 * SECOND, 1.0])
    with caplog.at_level(logging.WARNING):
        date_intervals(extract("011"), start, start)
    assert "exposures 0 and 1 start within the same second" in caplog.text
    caplog.clear()
    date_intervals(extract("011"), START[:3], END[:3])
    assert not caplog.text


@st.composite
def programmes(draw):
    """Looks at random times, at least a second apart, and random histories of four pixels."""
    n_looks = draw(st.integers(1, 9))
    gap = st.one_of(st.integers(1, 5), st.floats(1, 100), st.floats(100, 3e6))
    gaps = np.array(draw(st.lists(gap, min_size=n_looks, max_size=n_looks)))
    start = 59800 + (draw(st.sampled_from([0.0, 0.5, 0.999])) + np.cumsum(gaps)) * SECOND
    # An exposure ends before the next begins.
    share = draw(st.lists(st.floats(0, 1), min_size=n_looks, max_size=n_looks))
    end = start + np.append(np.diff(start), 100 * SECOND) * share
    # A candidate was read at some look.
    cells = st.text("01.", min_size=n_looks, max_size=n_looks).filter(lambda t: set(t) != {"."})
    return start, end, np.array([list(draw(cells)) for _ in range(4)]).T


@given(programmes(), st.sampled_from(DATING), st.booleans())
def test_each_exposure_gets_its_own_state(programme, dating, last_says_all):
    start, end, cells = programme
    bad, evidence = cells == "1", cells != "."
    log_ratio = np.full(bad.shape, 10.0 if last_says_all else -1.0)
    histories = make_histories(bad, evidence=evidence, mjd=(start + end) / 2, log_ratio=log_ratio)
    intervals = extract_intervals(histories)
    dated = date_intervals(intervals, start, end, dating=dating)
    in_mask = ~intervals.pending
    bad = bad.copy()
    bad[intervals.last[intervals.pending], intervals.pixel[intervals.pending]] = False
    epochs = list_epochs(dated.start_mjd, dated.end_mjd, in_mask)
    np.testing.assert_allclose(epochs * 86400, np.round(epochs * 86400), atol=2e-6, rtol=0)
    for k, mjd in enumerate(start):
        # CRDS takes the newest mask that begins at or before the exposure.
        useafter = epochs[epochs <= mjd].max(initial=-np.inf)
        for when in (mjd, useafter):
            active = select_active(
                dated.start_mjd, dated.end_mjd, np.zeros(in_mask.shape, bool), when
            )
            found = np.bincount(intervals.pixel[active & in_mask], minlength=4)
            assert found.max(initial=0) <= 1
            read = evidence[k]
            np.testing.assert_array_equal(found[read].astype(bool), bad[k, read])
    has_start, has_end = intervals.before >= 0, intervals.after >= 0
    for has, date, old, new in (
        (has_start, dated.start_mjd, intervals.before, intervals.first),
        (has_end, dated.end_mjd, intervals.last, intervals.after),
    ):
        assert (start[old[has]] < date[has]).all()
        assert (date[has] <= start[new[has]]).all()


# ------------------------------------------------------------------------------ the series


def test_epochs_are_the_finite_dates_of_what_counts():
    start = np.array([-np.inf, 3.0, 5.0, 1.0])
    end = np.array([3.0, np.inf, 9.0, 2.0])
    counts = np.array([True, True, True, False])
    assert list_epochs(start, end, counts).tolist() == [3.0, 5.0, 9.0]
    assert list_epochs(start, end, np.zeros(4, bool)).tolist() == []


def test_a_row_holds_from_its_start_until_before_its_end():
    start, end = np.array([-np.inf, 3.0, 3.0, 5.0]), np.array([3.0, np.inf, 5.0, 9.0])
    always = np.array([False, False, False, True])
    found = {mjd: select_active(start, end, always, mjd).tolist() for mjd in (2.0, 3.0, 4.999, 5.0)}
    assert found == {
        2.0: [True, False, False, True],
        3.0: [False, True, True, True],
        4.999: [False, True, True, True],
        5.0: [False, True, False, True],
    }
    assert not always[:3].any()
