from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from arrays import assemble_histories
from astropy.time import Time, TimeDelta

from jwst_tvbadpix.badpix import (
    CLASSES,
    Candidates,
    DatedIntervals,
    Intervals,
    Settings,
)
from jwst_tvbadpix.badpix.histories import PixelStates
from jwst_tvbadpix.errors import DateError, DetectorError
from jwst_tvbadpix.refmodels import (
    BaseMask,
    build_badpix_history,
    build_history,
    build_mask_at,
    build_mask_series,
    compose_dq,
    dq_value,
    history_columns,
    list_useafter,
    plan_mask_series,
    read_history,
    unpack_residuals,
    write_asdf,
)
from jwst_tvbadpix.refmodels.badpix import BASE_POLICIES

SHAPE = (1024, 1032)
FIRST = "2021-12-25T00:00:00"
DNU = dq_value("DO_NOT_USE")
REFERENCE = dq_value("REFERENCE_PIXEL")
# Whole seconds, as the dating has them; the second and third lie within one day.
EPOCHS = (
    "2022-08-01T12:00:07",
    "2023-03-04T05:06:07",
    "2023-03-04T23:59:59",
    "2025-01-01T00:00:00",
)
INF = np.inf


def mjd(date):
    return float(Time(date, scale="utc").mjd)


def floor_to_second(date):
    """The nearest float64 below or at a whole second, as floor(86400 t) / 86400 gives it."""
    return np.floor(mjd(date) * 86400 + 0.5) / 86400


def row(y, x, name, start=-INF, end=INF, **more):
    return {"y": y, "x": x, "class": name, "start_mjd": start, "end_mjd": end, **more}


def tabulate(rows):
    """Columns of the intervals table: those that matter here, dull values for the others."""
    dull = {"state": 1, "pending": False, "dnu": True, "n_looks": 5}
    columns = {}
    for name, (dtype, *_) in history_columns()["intervals"].items():
        values = [r.get(name, dull.get(name, 0)) for r in rows]
        columns[name] = np.array(values, dtype=dtype)
    return columns


def make_history(rows, *, base=None, policy=None, n_exposures=3, unused=(), **changes):
    names = [f"exposure_{k:03d}_rate.fits" for k in range(n_exposures)]
    exposures = {
        name: ["text"] * n_exposures if dtype == "str" else np.zeros(n_exposures)
        for name, (dtype, *_) in history_columns()["exposures"].items()
    }
    exposures["filename"] = names
    exposures["used"] = [k not in unused for k in range(n_exposures)]
    if base is not None:
        y, x = np.nonzero(base)
        base = {"file": "base.fits", "sha256": "00", "y": y, "x": x, "dq": base[y, x]}
    settings = {"base_policy": policy, "first_useafter": FIRST, "mask_filter": "P750L"}
    settings |= {"fdr": 0.02, "expected_false": 1.5, "flags": 80, "n_decoys": 60_000}
    return build_history(
        detector="MIRIMAGE",
        exposures=exposures,
        intervals=tabulate(rows),
        residuals={"y": [], "x": [], "residual": [], "noise": [], "scale": []},
        base=base,
        settings={**settings, **changes.pop("settings", {})},
        versions={"jwst-tvbadpix": "9.8.7"},
        warnings=changes.pop("warnings", ["Something the user should know"]),
        useafter=FIRST,
        pedigree="INFLIGHT 2022-07-01 2025-06-30",
        description="History",
    )


def neutral_dq():
    dq = np.zeros(SHAPE, np.uint32)
    dq[:, :4] = dq[:, -4:] = REFERENCE
    return dq


def assert_dq(history, date, flags):
    """The mask of a date holds `flags` = {(y, x): names} and the reference pixels, no more."""
    expected = neutral_dq()
    for (y, x), names in flags.items():
        expected[y, x] |= np.uint32(dq_value(*names))
    np.testing.assert_array_equal(compose_dq(history, date), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_its_flag_and_do_not_use(name):
    history = make_history([row(10, 20, name), row(1023, 1027, name)])
    assert_dq(
        history, 60000.0, {(10, 20): (name, "DO_NOT_USE"), (1023, 1027): (name, "DO_NOT_USE")}
    )


def test_intervals_are_half_open():
    start, end = (floor_to_second(date) for date in EPOCHS[1:3])
    history = make_history(
        [row(1, 10, "HOT", start, end), row(2, 10, "WARM", end=start), row(3, 10, "DEAD", end)]
    )
    second = 1 / 86400
    before, during, after = (
        {(2, 10): ("WARM", "DO_NOT_USE")},
        {(1, 10): ("HOT", "DO_NOT_USE")},
        {(3, 10): ("DEAD", "DO_NOT_USE")},
    )
    for date, expected in (
        (40000.0, before),
        (start - second, before),
        (start, during),
        (end - second, during),
        (end, after),
        (90000.0, after),
    ):
        assert_dq(history, date, expected)


def test_telegraph_is_in_every_mask_and_pending_in_none():
    start, end = (floor_to_second(date) for date in EPOCHS[1:3])
    history = make_history(
        [
            row(1, 10, "TELEGRAPH", start, end),
            row(2, 10, "HOT", start, pending=True, dnu=False),
            row(3, 10, "HOT", start, pending=True),
            row(4, 10, "HOT", start, dnu=False),
            row(5, 10, "GOOD", state=0, dnu=False),
        ]
    )
    for date in (40000.0, start, end, 90000.0):
        assert_dq(history, date, {(1, 10): ("TELEGRAPH", "DO_NOT_USE")})
    assert list_useafter(history) == [FIRST]


def compose_slowly(rows, base, policy, date):
    """The mask of a date, pixel by pixel, from the sentences of the design."""
    kept = dq_value("REFERENCE_PIXEL", "NON_SCIENCE")
    dq = neutral_dq()
    judged = {(r["y"], r["x"]) for r in rows if not r.get("pending", False)}
    for y, x in np.argwhere(base):
        flags = int(base[y, x])
        stays = flags & kept or {
            "union": True,
            "replace": False,
            "arbitrate": (int(y), int(x)) not in judged,
        }.get(policy, True)
        if stays:
            dq[y, x] |= np.uint32(flags)
    for r in rows:
        bad = r.get("state", 1) == 1 and not r.get("pending", False)
        now = r["start_mjd"] <= date < r["end_mjd"] or r["class"] == "TELEGRAPH"
        if bad and now:
            dq[r["y"], r["x"]] |= np.uint32(dq_value(r["class"], "DO_NOT_USE"))
    return dq


def draw_case(seed):
    """Random rows (at most two per pixel, never overlapping) and a random base mask."""
    rng = np.random.default_rng(seed)
    pixels = rng.choice(SHAPE[0] * 1024, 400, replace=False)
    y, x = (v.tolist() for v in np.divmod(pixels, 1024))
    x = [4 + value for value in x]
    dates = np.floor(np.sort(rng.uniform(59800, 60800, 12)) * 86400) / 86400
    rows = []
    for k in range(200):
        a, b, c = np.sort(rng.choice(dates, 3, replace=False)).tolist()
        name = str(rng.choice(CLASSES))
        kind = rng.integers(5)
        if kind == 0:
            rows.append(row(y[k], x[k], "GOOD", state=0, dnu=False))
        elif kind == 1:
            rows.append(row(y[k], x[k], name, c, pending=True, dnu=False))
        elif kind == 2:
            rows += [row(y[k], x[k], name, end=a), row(y[k], x[k], name, b, c)]
        else:
            rows.append(row(y[k], x[k], name, a, b))
    base = np.zeros(SHAPE, np.uint32)
    flags = [
        dq_value(*names, "DO_NOT_USE")
        for names in (("HOT",), ("DEAD",), ("NON_SCIENCE",), ("NON_SCIENCE", "LOW_QE"), ("RC",))
    ]
    base[y[100:300], x[100:300]] = rng.choice(np.array(flags, np.uint32), 200)
    base[y[300:320], x[300:320]] = dq_value("HOT")
    base[100:200, 1] = dq_value("REFERENCE_PIXEL", "DO_NOT_USE", "HOT")
    return rows, base, dates


@pytest.mark.parametrize("policy", BASE_POLICIES)
def test_compose_dq_equals_a_slow_oracle(policy):
    rows, base, dates = draw_case(5)
    history = make_history(rows, base=base, policy=policy)
    masks = [compose_dq(history, date) for date in (dates[0] - 1, *dates, dates[-1] + 1)]
    for date, dq in zip((dates[0] - 1, *dates, dates[-1] + 1), masks, strict=True):
        np.testing.assert_array_equal(dq, compose_slowly(rows, base, policy, date))
        assert dq.dtype == np.uint32
    assert len({dq.tobytes() for dq in masks}) > 10  # the case does change with time


def test_policies_nest():
    rows, base, dates = draw_case(6)
    bad = {
        policy: compose_dq(make_history(rows, base=base, policy=policy), dates[6]) & DNU != 0
        for policy in BASE_POLICIES
    }
    assert (bad["arbitrate"] <= bad["union"]).all()
    assert (bad["replace"] <= bad["arbitrate"]).all()
    assert bad["union"].sum() > bad["arbitrate"].sum() > bad["replace"].sum()


def changing_rows():
    a, b, c, d = (floor_to_second(date) for date in EPOCHS)
    return [
        row(5, 50, "HOT", a),
        row(6, 50, "WARM", end=b),
        row(7, 50, "LOW_QE", b, c),
        row(8, 50, "TELEGRAPH", a + 10, b),
        row(9, 50, "HOT", d),
        row(10, 50, "HOT", c + 30, pending=True, dnu=False),
        row(11, 50, "DEAD"),
    ]


def test_useafter_dates_are_those_at_which_the_mask_changes():
    assert list_useafter(make_history(changing_rows())) == [FIRST, *EPOCHS]
    assert list_useafter(make_history([])) == [FIRST]
    later = make_history(changing_rows(), settings={"first_useafter": EPOCHS[1]})
    assert list_useafter(later) == [EPOCHS[1], *EPOCHS[2:]]
    between = make_history(changing_rows(), settings={"first_useafter": "2023-03-04T05:06:08"})
    assert list_useafter(between) == ["2023-03-04T05:06:08", *EPOCHS[2:]]


def test_first_mask_holds_what_is_bad_at_its_date():
    later = make_history(changing_rows(), settings={"first_useafter": EPOCHS[1]})
    first = build_mask_series(later)[0]
    np.testing.assert_array_equal(first.dq, compose_dq(later, mjd("2023-03-04T12:00:00")))
    assert first.dq[5, 50] == dq_value("HOT", "DO_NOT_USE")
    assert first.dq[6, 50] == 0


@pytest.mark.parametrize("step", [1, 7, 86399, 86400 * 31 + 12345])
def test_any_whole_second_survives_the_way_to_useafter(step):
    # floor(86400 t) / 86400 is not exact in float64: the date must neither slip a second nor
    # leave its own epoch without the change.
    start = Time("2022-07-01T00:00:00", scale="utc")
    dates = [(start + TimeDelta(k * step, format="sec")).isot[:19] for k in range(1, 40)]
    rows = [row(k, 50, "HOT", floor_to_second(date)) for k, date in enumerate(dates)]
    history = make_history(rows)
    assert list_useafter(history) == [FIRST, *dates]
    for k, mask in enumerate(build_mask_series(history)):
        assert (mask.dq[:39, 50] & DNU != 0).sum() == k


def test_series_has_one_mask_per_epoch():
    history = make_history(changing_rows(), n_exposures=4, unused=(1,))
    masks = build_mask_series(history)
    assert [mask.meta.useafter for mask in masks] == [FIRST, *EPOCHS]
    n_bad = [3, 4, 4, 3, 4]
    for mask, n in zip(masks, n_bad, strict=True):
        meta, entries = mask.meta, [e["description"] for e in mask._instance["history"]["entries"]]
        bad = mask.dq & DNU != 0
        assert bad.sum() == n
        assert bad[[8, 11], 50].all()
        assert not bad[10, 50]
        assert (mask.dq[:, :4] == REFERENCE).all()
        assert meta.pedigree == "INFLIGHT 2022-07-01 2025-06-30"
        assert (meta.instrument.detector, meta.instrument.filter) == ("MIRIMAGE", "P750L")
        assert "MIRIMAGE" in meta.description
        assert entries[0].startswith(f"{n} pixels DO_NOT_USE from {meta.useafter}")
        assert "3 exposures" in entries[0]
        assert "9.8.7" in entries[0]
        told = "False flags expected: 1.5 of 80 (pixel, exposure), 0.02 allowed, from 60000 decoys."
        assert entries[1] == told
        assert "exposure_000_rate.fits" in entries[2]
        assert "exposure_001_rate.fits" not in entries[2]
        assert entries[3] == "Something the user should know"
    for one, two in pairwise(masks):
        assert (one.dq != two.dq).any()


def test_masks_are_compared_without_being_painted():
    """Of histories that differ in a row, a class, a base flag, or in nothing."""
    rows = changing_rows()
    hot = [{**each, "class": "WARM"} if each["class"] == "HOT" else each for each in rows]
    base = np.zeros(SHAPE, np.uint32)
    base[11, 50] = DNU | np.uint32(dq_value("DEAD"))  # as the last row has it
    flagged = base.copy()
    flagged[700, 700] = DNU
    bases = [{"base": each, "policy": "union"} for each in (base, flagged)]
    histories = [make_history(each) for each in (rows, rows[:-1], hot)]
    histories += [make_history(each, **more) for each in (rows, rows[:-1]) for more in bases]
    planned = [mask for history in histories for mask in plan_mask_series(history)]
    painted = [mask.paint() for mask in planned]
    likes = [one.is_like(two) for one in planned for two in planned]
    assert likes == [np.array_equal(one, two) for one in painted for two in painted]
    assert len(planned) < sum(likes) < len(likes)


def test_masks_for_any_filter_and_from_many_exposures():
    history = make_history([], n_exposures=60, warnings=[], settings={"mask_filter": "N/A"})
    (mask,) = build_mask_series(history)
    assert mask.meta.instrument.filter == "N/A"
    _, _, inputs = (entry["description"] for entry in mask._instance["history"]["entries"])
    assert "exposure_049_rate.fits, ..." in inputs
    assert "exposure_050_rate.fits" not in inputs


@pytest.mark.parametrize(
    ("date", "epoch"),
    [
        (FIRST, 0),
        ("2021-12-25", 0),
        ("2022-08-01T12:00:06.999", 0),
        (EPOCHS[0], 1),
        ("2022-08-02", 1),
        ("2023-03-04", 1),
        ("2023-03-04T05:06:07", 2),
        ("2023-03-04 05:06:07.5", 2),
        ("2023-03-05", 3),
        ("2025-01-01", 4),
        ("2026-06-30T01:02:03", 4),
    ],
)
def test_mask_at_is_the_mask_of_the_series(date, epoch, tmp_path):
    made = make_history(changing_rows())
    expected = build_mask_series(made)[epoch]
    read = read_history(write_asdf(made, tmp_path / "x_badpixhistory.asdf"))
    for history in (made, read):
        mask = build_mask_at(history, date, detector="MIRIMAGE")
        np.testing.assert_array_equal(mask.dq, expected.dq)
        assert mask.meta.useafter == expected.meta.useafter
        assert mask.meta.description == expected.meta.description


def test_mask_at_refuses_dates_before_the_first_epoch():
    history = make_history(changing_rows())
    for date in ("2021-12-24T23:59:59", "2021-12-24", "2019-01-01"):
        with pytest.raises(DateError, match=f"expected a date from {FIRST} on, found {date}"):
            build_mask_at(history, date)


@pytest.mark.parametrize(
    "date", ["yesterday", "2024-13-01", "2024-02-30", "", "60000", 60000.5, None]
)
def test_mask_at_refuses_what_is_no_date(date):
    with pytest.raises(DateError, match="expected a date as YYYY-MM-DD") as caught:
        build_mask_at(make_history([]), date)
    assert repr(date) in str(caught.value)


def test_mask_at_refuses_another_detector():
    with pytest.raises(DetectorError, match=r"expected a history of MIRIFULONG, found .*MIRIMAGE"):
        build_mask_at(make_history([]), "2024-01-01", detector="MIRIFULONG")


# Seven looks of a window of 6 x 8 pixels at (100, 200); candidates by hand.
WINDOW = (100, 106, 200, 208)
LOOKS = 59800.0 + 100 * np.arange(7)
PLACES = {"bad": (101, 202), "pending": (102, 203), "quiet": (103, 204), "empty": (104, 205)}
N_EVIDENCE = {(105, 200): 2, (105, 201): 3, (105, 202): 0}


def make_result():
    """What the numerics say: one pixel bad from the third look on, one pending, two good."""
    rng = np.random.default_rng(3)
    n, looks = len(PLACES), len(LOOKS)
    y, x = (np.array(v, np.int16) for v in zip(*PLACES.values(), strict=True))
    residual = rng.normal(0, 0.1, (looks, n)).astype(np.float32)
    residual[2:, 0] += 8
    residual[-1, 1] += 4
    residual[3, 2] = residual[:, 3] = np.nan
    candidates = Candidates(
        y,
        x,
        residual,
        np.full((looks, n), 60, np.float32),
        np.full((looks, n), 0.01, np.float32),
        np.full(n, 0.05, np.float32),
        np.full(n, 0.01, np.float32),
    )
    bad = np.zeros((looks, n), bool)
    bad[2:, 0] = True
    odds = np.array([40.0, -1.0, -2.5, 0.0])
    zeros = np.zeros(n)
    states = PixelStates(
        bad.astype(float), np.zeros((looks, n)), odds, zeros, zeros, zeros, zeros, zeros > 1, zeros
    )
    n_evidence = np.full((6, 8), looks, np.int32)
    n_evidence[4, 5] = 0
    for (py, px), count in N_EVIDENCE.items():
        n_evidence[py - WINDOW[0], px - WINDOW[2]] = count
    histories = assemble_histories(
        candidates,
        states,
        bad,
        n_evidence=n_evidence,
        window=WINDOW,
        mid_mjd=LOOKS,
        settings=Settings(min_effect=2.5),
    )
    intervals = Intervals(
        pixel=np.array([0, 1]),
        y=y[:2],
        x=x[:2],
        name=np.array(["HOT", "WARM"]),
        first=np.array([2, 6]),
        last=np.array([6, 6]),
        before=np.array([1, 5]),
        after=np.array([-1, -1]),
        amplitude=np.array([8, 4], np.float32),
        amplitude_err=np.array([0.1, 0.2], np.float32),
        response=np.ones(2, np.float32),
        log_odds=np.array([40, 3], np.float32),
        n_looks=np.array([5, 1], np.int16),
        pending=np.array([False, True]),
    )
    start = LOOKS[[1, 5]] + 50
    closed = (LOOKS[[1, 5]], LOOKS[[2, 6]])
    dated = DatedIntervals(start, *closed, *(np.full(2, INF) for _ in range(3)))
    return histories, intervals, dated


def build_result(base=None, *, look_rows=range(7), n_rows=7, mid=None):
    histories, intervals, dated = make_result()
    mid = LOOKS if mid is None else mid
    exposures = {
        name: ["text"] * n_rows if dtype == "str" else np.zeros(n_rows)
        for name, (dtype, *_) in history_columns()["exposures"].items()
    }
    exposures["expmid_mjd"] = mid
    exposures["used"] = np.ones(n_rows, bool)
    return build_badpix_history(
        exposures,
        list(look_rows),
        histories,
        intervals,
        dated,
        detector="MIRIMAGE",
        base=base,
        settings={"dating": "midpoint", "mask_filter": "P750L"},
        warnings=["Careful"],
        first_useafter=FIRST,
    )


def test_history_records_the_run():
    history = build_result()
    settings = history.settings.instance
    for key, value in asdict(Settings(min_effect=2.5)).items():
        assert settings[key] == value
    assert settings["dating"] == "midpoint"
    assert settings["base_policy"] == "none"
    assert (settings["sigma_offset"], settings["sigma_response"]) == (0.05, 0.01)
    assert settings["first_useafter"] == history.meta.useafter == FIRST
    assert {"jwst", "numpy", "jwst-tvbadpix"} <= set(history.versions.instance)
    assert history.warnings == ["Careful"]
    assert any(e["description"] == "Careful" for e in history._instance["history"]["entries"])
    rows = history.intervals.instance
    assert rows["class"].tolist() == ["HOT", "WARM"]
    assert rows["state"].tolist() == [1, 1]
    assert rows["pending"].tolist() == [False, True]
    assert rows["dnu"].tolist() == [True, False]
    assert rows["start_lo"].tolist() == LOOKS[[1, 5]].tolist()
    assert rows["end_mjd"].tolist() == [INF, INF]
    assert list_useafter(history) == [FIRST, Time(LOOKS[1] + 50, format="mjd").isot[:19]]
    assert_dq(history, LOOKS[-1], {PLACES["bad"]: ("HOT", "DO_NOT_USE")})


def test_residuals_are_packed_within_half_a_step():
    histories, *_ = make_result()
    history = build_result()
    part = history.residuals.instance
    assert part["y"].tolist() == [y for y, _ in PLACES.values()]
    assert part["x"].tolist() == [x for _, x in PLACES.values()]
    step = part["scale"][:, None].astype(float)
    residual = histories.candidates.residual.T
    found, noise = unpack_residuals(history)
    assert found.dtype == noise.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(found), np.isnan(residual))
    assert np.nanmax(np.abs(found - residual) / step) <= 0.5 + 1e-3
    np.testing.assert_array_equal(np.isnan(noise), np.isnan(residual))
    assert np.nanmax(np.abs(noise - 0.1) / step) <= 0.5 + 1e-3
    # Steps are fine against the noise, so that nothing is lost.
    assert (step[:3] < 0.1 / 100).all()


def test_exposures_that_are_no_look_have_no_residuals():
    look_rows = [1, 2, 3, 5, 6, 7, 8]
    mid = np.full(9, np.nan)
    mid[look_rows] = LOOKS
    history = build_result(look_rows=look_rows, n_rows=9, mid=mid)
    histories, *_ = make_result()
    found, _ = unpack_residuals(history)
    assert np.isnan(found[:, [0, 4]]).all()
    np.testing.assert_allclose(found[0, look_rows], histories.candidates.residual[:, 0], rtol=1e-3)
    assert history.meta.pedigree.startswith("INFLIGHT")


@pytest.mark.parametrize(
    ("mid", "pedigree"),
    [
        (LOOKS, "INFLIGHT 2022-08-09 2024-03-31"),
        (LOOKS[::-1], "INFLIGHT 2022-08-09 2024-03-31"),
        (LOOKS - 59800 + 58400, "GROUND"),
        (LOOKS - 400, "GROUND"),
        (np.full(7, np.nan), "GROUND"),
    ],
)
def test_pedigree_names_the_dates_of_the_exposures(mid, pedigree):
    assert build_result(mid=mid).meta.pedigree == pedigree


def make_base():
    """Flags on pixels that differ in what the exposures say about them."""
    dq = np.zeros(SHAPE, np.uint32)
    hot = dq_value("HOT", "DO_NOT_USE")
    for place in (
        PLACES["bad"],
        PLACES["quiet"],
        PLACES["empty"],
        (101, 207),  # no candidate: quiet throughout
        (105, 200),  # two looks
        (105, 201),  # three looks
        (105, 202),  # hidden
        (500, 500),  # not read out
    ):
        dq[place] = hot
    dq[101, 206] = dq_value("NON_SCIENCE", "DO_NOT_USE")
    dq[101, 205] = dq_value("REFERENCE_PIXEL")
    return dq


RELEASED = [(101, 207), PLACES["quiet"], (105, 201)]


def test_arbitrate_releases_what_three_looks_show_good():
    base = BaseMask("base.fits", "00", make_base(), "arbitrate")
    history = build_result(base)
    rows = history.intervals.instance
    good = rows["state"] == 0
    places = list(zip(rows["y"][good].tolist(), rows["x"][good].tolist(), strict=True))
    assert sorted(places) == sorted(RELEASED)
    assert set(rows["class"][good]) == {"GOOD"}
    assert not rows["dnu"][good].any()
    assert np.isneginf(rows["start_mjd"][good]).all()
    assert np.isposinf(rows["end_mjd"][good]).all()
    by_place = dict(
        zip(places, zip(rows["n_looks"][good], rows["log_odds"][good], strict=True), strict=True)
    )
    assert by_place[(105, 201)] == (3, 0)
    assert by_place[PLACES["quiet"]] == (7, 2.5)  # odds to be good
    dq = make_base()
    for place in (*RELEASED, PLACES["bad"]):
        dq[place] = 0
    np.testing.assert_array_equal(compose_dq(history, LOOKS[0]), dq | neutral_dq())
    dq[PLACES["bad"]] = dq_value("HOT", "DO_NOT_USE")
    np.testing.assert_array_equal(compose_dq(history, LOOKS[-1]), dq | neutral_dq())
    assert (history.base.file, history.base.sha256) == ("base.fits", "00")


def test_union_and_replace_release_nothing_by_row():
    base = make_base()
    union = build_result(BaseMask("base.fits", "00", base, "union"))
    assert (union.intervals.instance["state"] == 1).all()
    np.testing.assert_array_equal(compose_dq(union, LOOKS[0]), base | neutral_dq())
    replace = build_result(BaseMask("base.fits", "00", base, "replace"))
    assert (replace.intervals.instance["state"] == 1).all()
    assert_dq(
        replace,
        LOOKS[-1],
        {
            PLACES["bad"]: ("HOT", "DO_NOT_USE"),
            (101, 206): ("NON_SCIENCE", "DO_NOT_USE"),
            (101, 205): ("REFERENCE_PIXEL",),
        },
    )


def test_base_survives_the_file(tmp_path):
    base = make_base()
    history = build_result(BaseMask("base.fits", "00", base, "arbitrate"))
    read = read_history(write_asdf(history, tmp_path / "h.asdf"))
    for date in (LOOKS[0], LOOKS[-1]):
        np.testing.assert_array_equal(compose_dq(read, date), compose_dq(history, date))
    packed = np.zeros(SHAPE, np.uint32)
    part = read.base.instance
    packed[part["y"], part["x"]] = part["dq"]
    np.testing.assert_array_equal(packed, base)
