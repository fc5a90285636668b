"""What a run says of its exposures: rows of the table, and what the user must know."""

import logging

import numpy as np
import pytest
from arrays import assemble_histories

from jwst_tvbadpix.badpix import Candidates
from jwst_tvbadpix.badpix.histories import PixelStates
from jwst_tvbadpix.badpix.usability import Usability
from jwst_tvbadpix.detectors import get_detector
from jwst_tvbadpix.exposures import ExcludedExposure, ExposureStack
from jwst_tvbadpix.headers import ExposureRecord
from jwst_tvbadpix.refmodels import BaseMask, dq_value, history_columns
from jwst_tvbadpix.steps._account import list_warnings, tabulate_exposures

FULL = get_detector("MIRIMAGE").shape
CORNER, SHAPE = (528, 4), (416, 68)
N_SEEN = SHAPE[0] * SHAPE[1]


def make_record(k, **changes):
    values = {
        "filename": f"exposure_{k}_rate.fits",
        "sha256": f"{k:064d}",
        "detector": "MIRIMAGE",
        "exp_type": "MIR_LRS-SLITLESS",
        "filter": "P750L",
        "subarray": "SLITLESSPRISM",
        "readpatt": "FASTR1",
        "r_mask": "N/A",
        "cal_ver": "1.2.3",
        "corner": CORNER,
        "shape": SHAPE,
        "start_mjd": 60000.0 + k,
        "expstart_mjd": 60000.0 + k,
        "mid_mjd": 60000.1 + k,
        "end_mjd": 60000.2 + k,
        "exposure_s": 100.0,
        "ngroups": 10,
        "nints": 1,
        "dispersion_axis": 2,
        "unit": "DN/s",
        "photmjsr": 1.0,
    }
    return ExposureRecord(**values | changes)


def make_stack(n=3, *, records=None, looks=None, **changes):
    records = tuple(make_record(k) for k in range(n)) if records is None else tuple(records)
    (y, x), (ny, nx) = CORNER, SHAPE
    values = {
        "detector": get_detector("MIRIMAGE"),
        "records": records,
        "looks": tuple((k, ()) for k in range(n)) if looks is None else tuple(looks),
        "window": (y, y + ny, x, x + nx),
        "unit": "DN/s",
        "excluded": (),
        "_sources": (),
    }
    return ExposureStack(**values | changes)


def make_histories(stack, *, n_evidence=None, **changes):
    """Histories without candidates of looks that saw every pixel, but for `changes`."""
    n = len(stack.looks)
    none, planes = np.empty(0), np.empty((n, 0))
    candidates = Candidates(none, none, planes, planes, planes, none, none)
    states = PixelStates(planes, planes, none, none, none, none, none, none > 0, none)
    values = {"n_pixels": np.full(n, N_SEEN), "n_hidden": np.zeros(n, int)}
    return assemble_histories(
        candidates,
        states,
        planes > 0,
        n_evidence=np.full(SHAPE, n) if n_evidence is None else n_evidence,
        window=stack.window,
        mid_mjd=np.arange(n, dtype=float),
        **values | changes,
    )


def make_base(dq=None):
    if dq is None:
        dq = np.zeros(FULL, np.uint32)
        dq[0, 7] = dq_value("DO_NOT_USE", "DEAD")  # not read out here
    return BaseMask("base.fits", "00", dq, "union")


def warn(caplog, stack=None, base=None, **changes):
    """List the warnings of a run, each of which must be logged."""
    stack = make_stack() if stack is None else stack
    with caplog.at_level(logging.WARNING):
        texts = list_warnings(stack, make_histories(stack, **changes), base)
    assert [record.message for record in caplog.records] == texts
    return texts


# -------------------------------------------------------------------------------- warnings


def test_nothing_to_say(caplog):
    assert warn(caplog, base=make_base()) == []


def test_products_without_base_mask_are_not_for_delivery(caplog):
    (text,) = warn(caplog)
    assert text.startswith("NOT FOR DELIVERY")


def test_a_single_exposure_gives_no_dates(caplog):
    stack = make_stack(
        records=[make_record(0, nints=3, settled=(0, 1, 2))],
        looks=[(0, (0,)), (0, (1,)), (0, (2,))],
    )
    (text,) = warn(caplog, stack, base=make_base())
    assert "could not be dated" in text


def test_another_unit_is_told(caplog):
    (text,) = warn(caplog, make_stack(unit="MJy/sr"), base=make_base())
    assert "Amplitudes are in MJy/sr" in text


def test_excluded_exposures_are_named_with_their_reason(caplog):
    excluded = (
        ExcludedExposure("one.fits", "1", "expected dates, found none; add them"),
        ExcludedExposure("two.fits", "2", "of another day"),
    )
    found = warn(caplog, make_stack(excluded=excluded), base=make_base())
    assert found == [
        "Left out: one.fits (expected dates, found none; add them)",
        "Left out: two.fits (of another day)",
    ]


@pytest.mark.parametrize(
    ("n_pixels", "n_hidden", "neutral"),
    [
        # Ramp fitting loses one pixel in ten thousand.
        ((10_000, 10_000, 10_000), (500, 2, 500), (False, False, False)),
        ((10_000, 9_999, 10_000), (500, 1, 500), (False, True, False)),
        ((10_000, 10_000, 0), (2, 2, 0), (False, False, False)),
        ((10_000, 10_000, 10_000), (0, 0, 0), (True, True, True)),
    ],
    ids=["a mask", "one without", "an empty one", "none"],
)
def test_recovery_is_measurable_with_one_neutral_exposure(caplog, n_pixels, n_hidden, neutral):
    changes = {"n_pixels": np.array(n_pixels), "n_hidden": np.array(n_hidden)}
    texts = warn(caplog, base=make_base(), **changes)
    told = [text for text in texts if "Recovery is not measurable" in text]
    assert len(texts) == len(told) == (not any(neutral))
    stack = make_stack()
    table, _ = tabulate_exposures(stack, make_histories(stack, **changes))
    assert table["neutral"] == list(neutral)


@pytest.mark.parametrize("with_base", [False, True])
def test_pixels_that_no_exposure_shows_are_counted(caplog, with_base):
    n_evidence = np.full(SHAPE, 3)
    n_evidence[5, 10] = n_evidence[6, 11:13] = 0
    dq = np.zeros(FULL, np.uint32)
    dq[CORNER[0] + 6, CORNER[1] + 11] = dq_value("NON_SCIENCE")
    base = make_base(dq) if with_base else None
    *_, text = warn(caplog, base=base, n_evidence=n_evidence)
    # Of those that the base mask calls NON_SCIENCE nothing is expected.
    assert f"by the mask it was made with: {2 if with_base else 3};" in text
    assert ("keep what the base mask says" if with_base else "are not flagged") in text


def test_reference_pixels_are_not_missed(caplog):
    """The window begins with the four reference columns, which hold no evidence."""
    record = make_record(0)
    records = [make_record(k, corner=(528, 0), shape=(416, 72)) for k in range(3)]
    assert record.corner != records[0].corner
    n_evidence = np.full((416, 72), 3)
    n_evidence[:, :4] = 0
    stack = make_stack(records=records, window=(528, 944, 0, 72))
    assert warn(caplog, stack, base=make_base(), n_evidence=n_evidence) == []


# ----------------------------------------------------------------------------------- table


def make_usability(score, reason):
    n = len(score)
    return Usability(np.zeros(n), np.ones(n), np.ones(n), np.array(score), tuple(reason))


def test_columns_are_those_of_the_schema():
    stack = make_stack()
    table, look_rows = tabulate_exposures(stack, make_histories(stack))
    assert set(table) == set(history_columns()["exposures"])
    assert {len(column) for column in table.values()} == {3}
    assert look_rows == [0, 1, 2]


def test_rows_say_what_each_exposure_is_worth():
    stack = make_stack(
        records=[
            make_record(0),
            make_record(1, r_mask="jwst_miri_mask_0036.fits"),
            make_record(2, settled=(1, 2), unsettled=(0, 5)),
        ],
        looks=[(0, ()), (1, ()), (2, (1, 2))],
    )
    histories = make_histories(
        stack,
        usability=make_usability([1.0, 0.0, 0.3], ["", "sources cover 40% of it", "too bright"]),
        n_pixels=np.array([N_SEEN, 0, N_SEEN // 2]),
        expected_false=np.array([1.5, 0.0, 2.25]),
    )
    table, _ = tabulate_exposures(stack, histories)
    assert table["filename"] == [f"exposure_{k}_rate.fits" for k in range(3)]
    assert table["r_mask"] == ["N/A", "jwst_miri_mask_0036.fits", "N/A"]
    assert table["used"] == [True, False, True]
    # The weight of a look, times the share of its pixels that hold evidence.
    assert table["score"] == pytest.approx([1.0, 0.0, 0.15])
    assert table["expected_false"] == [1.5, 0.0, 2.25]
    assert table["neutral"] == [True, False, True]
    assert table["reason"] == [
        "",
        "sources cover 40% of it",
        "too bright; integrations left out, not settled: 1, 6",
    ]


def test_a_look_without_pixels_has_a_reason():
    stack = make_stack()
    histories = make_histories(stack, n_pixels=np.array([N_SEEN, 0, N_SEEN]))
    table, _ = tabulate_exposures(stack, histories)
    assert table["reason"] == ["", "no pixel with evidence", ""]


def test_integrations_of_one_exposure_have_rows_of_their_own():
    record = make_record(0, nints=5, settled=(1, 2, 4), unsettled=(0,))
    stack = make_stack(records=[record], looks=[(0, (k,)) for k in record.settled])
    histories = make_histories(
        stack,
        usability=make_usability([1.0, 0.5, 1.0], ["", "", "too noisy"]),
        expected_false=np.array([0.5, 1.0, 2.0]),
    )
    table, look_rows = tabulate_exposures(stack, histories)
    assert look_rows == [1, 2, 4]
    assert table["filename"] == [f"{record.filename}[{k}]" for k in range(1, 6)]
    assert table["used"] == [False, True, True, False, True]
    assert table["neutral"] == [False, True, True, False, True]
    assert table["score"] == pytest.approx([0, 1, 0.5, 0, 1])
    assert table["expected_false"] == [0, 0.5, 1, 0, 2]
    unsettled = "the level has not settled after the reset"
    assert table["reason"] == [unsettled, "", "", unsettled, "too noisy"]
