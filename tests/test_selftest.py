"""Self-test: what is put in is what it says, and the score is what a slow count gives."""

import gc
import os
import types
from dataclasses import fields, replace

import numpy as np
import pytest
from arrays import CORNER, ArrayStack
from matplotlib.figure import Figure

from jwst_tvbadpix.badpix import (
    CLASSES,
    Settings,
    extract_intervals,
    find_histories,
    pool_histories,
    run_self_test,
    selftest,
)
from jwst_tvbadpix.refmodels import build_mask_at, read_history, write_asdf
from jwst_tvbadpix.report import plot_self_test
from jwst_tvbadpix.simulate import simulate_programme
from jwst_tvbadpix.steps import TimeVariableBadPixel

SHAPE, N_LOOKS, SIGMA = (256, 256), 16, 0.3
MJD = np.sort(np.random.default_rng(3).uniform(59800, 61200, N_LOOKS))


def make_rate(n_looks=N_LOOKS, shape=SHAPE):
    """Sky that changes, a pattern, cosmic rays, and 0.3 % of the pixels bad."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[: shape[0], : shape[1]]
    sky = rng.uniform(0.7, 1.4, (n_looks, 1, 1)) * (8 + 4 * x / shape[1] + 3 * y / shape[0])
    rate = sky + rng.normal(0, 0.05, shape) + rng.normal(0, SIGMA, (n_looks, *shape))
    hit = rng.uniform(size=rate.shape) < 5e-4
    rate[hit] += rng.exponential(20, hit.sum())
    hot = rng.uniform(size=shape) < 3e-3
    rate[:, hot] += rng.uniform(2, 30, hot.sum())
    rate = rate.astype(np.float32)
    rate.flags.writeable = False
    return rate


@pytest.fixture(scope="module")
def rate():
    return make_rate()


@pytest.fixture(scope="module")
def histories(rate):
    return find_histories(ArrayStack(rate), MJD, [2] * N_LOOKS)


def run(stack, histories, identity=("a", "b")):
    axes = [2] * len(histories.mid_mjd)
    return run_self_test(stack, histories, dispersion_axes=axes, identity=identity)


@pytest.fixture(scope="module")
def result(rate, histories):
    return run(ArrayStack(rate), histories)


def as_rows(result):
    return {"class": result.name, **{f.name: getattr(result, f.name) for f in fields(result)}}


def assert_same(one, two):
    for f in fields(one):
        np.testing.assert_array_equal(getattr(two, f.name), getattr(one, f.name), err_msg=f.name)


# -------------------------------------------------------------------------------- results


def test_completeness_rises_with_size_to_one(result):
    pooled = pool_histories(as_rows(result))
    share = {(row["class"], row["amplitude"]): row["completeness"] for row in pooled}
    # Eleven pixels: two sigma of one look are eight of sixteen.
    assert 0.5 < share["WARM", 2] <= share["WARM", 4]
    assert share["WARM", 4] > 0.9
    assert share["HOT", 6] > 0.9
    assert share["HOT", 30] > 0.98
    assert share["HOT", 100] > 0.98
    assert share["TELEGRAPH", 30] > 0.5
    assert share["UNRELIABLE_SLOPE", 30] > 0.6
    (dead,) = (row["completeness"] for row in pooled if row["class"] == "DEAD")
    assert dead > 0.98


def test_classes_and_dates_are_mostly_right(result, histories):
    hot = (result.name == "HOT") & (result.amplitude >= 10)
    changes = np.isin(result.history, ("onset", "recovery"))
    assert (result.dated[hot & changes] > 0.9).all()
    assert np.isnan(result.dated[~changes]).all()
    for name in ("HOT", "LOW_QE", "DEAD", "TELEGRAPH"):
        purity = set(result.purity[result.name == name].tolist())
        assert len(purity) == 1
        # A telegraph pixel that is rarely seen to switch passes for HOT.
        assert purity.pop() > (0.5 if name == "HOT" else 0.75), name
    # Half of what the threshold allows.
    assert result.new_flags < 0.01 * histories.bad.sum() / N_LOOKS
    assert result.left_out == ()


def test_all_classes_get_as_many_pixels(result):
    assert set(result.name) == set(CLASSES) - {"OTHER_BAD_PIXEL"}
    numbers = [result.n_injected[result.name == name].sum() for name in set(result.name)]
    assert np.ptp(numbers) <= 2
    assert 0.8 * 0.003 * np.prod(SHAPE) < sum(numbers) <= 0.003 * np.prod(SHAPE)
    # A response of zero loses the whole level, of the order of 12 DN/s against 0.3.
    lost = result.amplitude[result.name == "DEAD"]
    np.testing.assert_allclose(lost, 11.5 * 1.05 / SIGMA, rtol=0.35)
    low = result.amplitude[result.name == "LOW_QE"]
    # Three medians of eleven pixels each, whose levels and noise scatter by 17 %: 4 % per class.
    assert low.mean() == pytest.approx(0.7 * lost.mean(), rel=0.16)


def test_size_of_blocks_does_not_matter(rate, histories, result):
    assert_same(result, run(ArrayStack(rate, rows=100), histories))


def test_settings_and_exposures_seed_the_places(histories):
    seeds = {
        selftest._make_seed(histories.settings, ["a", "b"]),
        selftest._make_seed(histories.settings, ["b", "a"]),
        selftest._make_seed(replace(histories.settings, min_effect=2.5), ["a", "b"]),
    }
    assert len(seeds) == 3


# Shares as half the width of (p + 1/2n -+ sqrt(p(1-p)/n + 1/4n^2)) / (1 + 1/n), by hand.
@pytest.mark.parametrize(
    ("share", "n", "error"), [(0.5, 100, 0.0497519), (1.0, 4, 0.1), (0.0, 9, 0.05)]
)
def test_errors_are_those_of_wilson(share, n, error):
    found = selftest._share("x", share, n)
    assert found["x"] == share
    assert found["x_err"] == pytest.approx(error, rel=1e-5)


def test_pooling_weighs_by_pixels():
    rows = {
        "class": np.array(["HOT", "HOT", "LOW_QE", "LOW_QE"]),
        "amplitude": np.array([6.0, 6.0, 40.0, 60.0]),
        "response": np.array([1, 1, 0.3, 0.3]),
        "n_injected": np.array([30, 10, 5, 5]),
        "completeness": np.array([1.0, 0.0, 0.5, 0.7]),
        "purity": np.array([0.9, 0.9, 0.8, 0.8]),
        "purity_err": np.full(4, 0.1),
    }
    hot, low = pool_histories(rows)
    assert (hot["class"], hot["n_injected"], hot["completeness"]) == ("HOT", 40, 0.75)
    assert (low["amplitude"], low["n_injected"]) == (50, 10)
    assert low["completeness"] == pytest.approx(0.6)
    assert low["completeness_err"] == pytest.approx(selftest._share("x", 0.6, 10)["x_err"])


# ------------------------------------------------------------------------------- injection


@pytest.fixture(scope="module")
def injection(rate, histories):
    rng = np.random.default_rng(5)
    kinds, left_out = selftest._list_kinds(N_LOOKS, True, Settings())
    assert left_out == []
    y, x = selftest._choose_places(histories, N_LOOKS, 6, rng)
    level, sigma = selftest._measure(ArrayStack(rate), y, x, N_LOOKS, lambda done: None)
    drawn = selftest._draw_defects(y, x, level, sigma, kinds, Settings(), rng)
    return kinds, drawn, level, sigma


def test_places_keep_their_distance(histories, injection):
    _, drawn, *_ = injection
    candidates = histories.candidates
    places = np.stack([drawn.y, drawn.x], axis=1)
    distance = np.abs(places[:, None] - places).max(axis=2)
    assert distance[~np.eye(len(places), dtype=bool)].min() == 3
    flagged = histories.bad.any(axis=0)
    bad = np.stack([candidates.y, candidates.x], axis=1)[flagged].astype(int)
    assert np.abs(places[:, None] - bad).max(axis=2).min() == 3
    known = set(zip(candidates.y.tolist(), candidates.x.tolist(), strict=True))
    assert not known & set(map(tuple, places.tolist()))
    # Over the whole field.
    quarter = np.bincount((places[:, 0] - CORNER[0]) // 64 * 4 + (places[:, 1] - CORNER[1]) // 64)
    assert quarter.size == 16
    assert quarter.min() >= 2


def test_level_and_noise_are_those_of_the_sky(rate, injection):
    _, drawn, level, sigma = injection
    y, x = drawn.y - CORNER[0], drawn.x - CORNER[1]
    # Noise and pattern; the scale of 169 differences has an error of 9 %, 16 looks average.
    expected = np.hypot(SIGMA, 0.05)
    assert sigma.mean() == pytest.approx(expected, rel=0.03)
    assert np.median(sigma, axis=0) == pytest.approx(expected, rel=0.15)
    # The nearer of two medians is a little nearer than either.
    difference = rate[:, y, x] - level
    assert abs(np.median(difference)) < 0.02
    assert 0.75 < np.quantile(np.abs(difference), 0.68) / expected < 1.05


def test_signal_is_what_the_kind_says(injection):
    kinds, drawn, level, sigma = injection
    noise = np.median(sigma, axis=0)
    assert len(set(drawn.kind)) == len(kinds)
    assert (drawn.signal[~drawn.bad] == 0).all()
    for i, index in enumerate(drawn.kind):
        kind, bad = kinds[index], drawn.bad[:, i]
        signal = drawn.signal[bad, i]
        if kind.name in ("LOW_QE", "DEAD"):
            np.testing.assert_allclose(level[bad, i] + signal, kind.response * level[bad, i], 1e-3)
        elif kind.name == "UNRELIABLE_SLOPE":
            assert (signal / sigma[bad, i]).mean() == pytest.approx(0, abs=1e-3)
            assert 0.2 * kind.size < (signal / sigma[bad, i]).std() < 2.5 * kind.size
        else:
            np.testing.assert_allclose(signal, kind.size * noise[i], rtol=1e-6)
        flips = (bad[1:] != bad[:-1]).sum()
        expected = {"always": 0, "onset": 1, "recovery": 1}
        if kind.history == "switching":
            assert flips >= 4
        else:
            assert flips == expected[kind.history]
            assert bad[-1] == (kind.history != "recovery")
            assert bad.sum() >= (4 if kind.name == "UNRELIABLE_SLOPE" else 2)
            assert kind.history == "always" or (~bad).sum() >= 2


@pytest.mark.parametrize("n_looks", [5, 6, 20])
def test_changes_are_drawn_at_every_date(n_looks):
    rng = np.random.default_rng(1)
    for history in ("onset", "recovery"):
        drawn = {int(selftest._draw_state(history, n_looks, 2, rng).sum()) for _ in range(500)}
        assert drawn == set(range(2, n_looks - 1))


def test_injected_stack_adds_the_signal_once_everywhere(rate, injection):
    _, drawn, *_ = injection
    expected = rate.copy()
    expected[:, drawn.y - CORNER[0], drawn.x - CORNER[1]] += drawn.signal
    stack = selftest._InjectedStack(ArrayStack(rate, rows=50), drawn)
    y0, y1 = stack.window[:2]
    for look in (0, 5):
        np.testing.assert_array_equal(stack.read_look(look)[0], expected[look])
        some = stack.read_look(look, slice(y0 + 7, y0 + 30))[0]
        np.testing.assert_array_equal(some, expected[look, 7:30])
    np.testing.assert_array_equal(stack.read_rows(y0, y1, [3, 1]), expected[[3, 1]])
    np.testing.assert_array_equal(stack.read_rows(y0, y1), expected)
    np.testing.assert_array_equal(stack.read_rows(y0 + 7, y0 + 30), expected[:, 7:30])


def test_score_is_that_of_a_slow_count(rate, histories, injection):
    """Defects put into a copy of the array, flags taken from the rows of the intervals."""
    kinds, drawn, *_ = injection
    injected = rate.copy()
    injected[:, drawn.y - CORNER[0], drawn.x - CORNER[1]] += drawn.signal
    after = find_histories(ArrayStack(injected), MJD, [2] * N_LOOKS)
    result = selftest._score(drawn, kinds, [], histories, after)
    rows = extract_intervals(after)
    flags, names = {}, {}
    for k in np.flatnonzero(~rows.pending):
        place = int(rows.y[k]), int(rows.x[k])
        names[place] = rows.name[k]
        looks = range(rows.first[k], rows.last[k] + 1)
        flags.setdefault(place, set()).update(
            range(N_LOOKS) if rows.name[k] == "TELEGRAPH" else looks
        )
    places = list(zip(drawn.y.tolist(), drawn.x.tolist(), strict=True))
    for row, kind in enumerate(kinds):
        own = np.flatnonzero(drawn.kind == row)
        hits = [
            len(flags.get(places[i], set()) & set(np.flatnonzero(drawn.bad[:, i]))) for i in own
        ]
        assert result.n_injected[row] == own.size
        total = drawn.bad[:, own].sum()
        assert result.completeness[row] == pytest.approx(sum(hits) / total, rel=1e-6)
        assert result.found[row] == pytest.approx(np.mean(np.array(hits) > 0), rel=1e-6)
        given = [i for i, place in enumerate(places) if names.get(place) == kind.name]
        right = [kinds[drawn.kind[i]].name == kind.name for i in given]
        assert result.purity[row] == pytest.approx(np.mean(right), rel=1e-6)
    rows = extract_intervals(histories)
    old = {(int(y), int(x)) for y, x in zip(rows.y, rows.x, strict=True)}
    near = {(y + j, x + i) for y, x in places for j in (-1, 0, 1) for i in (-1, 0, 1)}
    new = [len(looks) for place, looks in flags.items() if place not in near | old]
    assert result.new_flags >= sum(new) / N_LOOKS
    assert result.new_flags < 0.01 * histories.bad.sum() / N_LOOKS


@pytest.mark.parametrize(
    ("n_looks", "dated", "missing"),
    [
        (2, True, ["onset and recovery", "TELEGRAPH", "UNRELIABLE_SLOPE"]),
        (4, True, ["onset and recovery", "TELEGRAPH"]),
        (5, True, ["TELEGRAPH"]),
        (8, True, []),
        (8, False, ["onset and recovery", "TELEGRAPH"]),
    ],
)
def test_what_few_looks_cannot_show_is_left_out(n_looks, dated, missing):
    kinds, left_out = selftest._list_kinds(n_looks, dated, Settings())
    assert [text.partition(" (")[0] for text in left_out] == missing
    assert {"HOT", "WARM", "LOW_QE", "DEAD"} <= {kind.name for kind in kinds}
    assert ("onset" in {kind.history for kind in kinds}) != ("onset and recovery" in missing)
    for name in ("TELEGRAPH", "UNRELIABLE_SLOPE"):
        assert (name in {kind.name for kind in kinds}) != (name in missing)


@pytest.mark.parametrize("n_looks", [2, 5])
def test_small_field_with_few_looks_says_what_is_missing(n_looks):
    stack = ArrayStack(make_rate(n_looks, (64, 64)))
    histories = find_histories(stack, MJD[:n_looks], [2] * n_looks)
    result = run(stack, histories)
    assert result.n_injected.sum() <= 0.003 * 64 * 64
    assert any("too few quiet pixels" in text for text in result.left_out)


# ------------------------------------------------------------------------------------ step


@pytest.fixture(scope="module")
def environment():
    """No CRDS set-up, fixed dates, and no garbage collection after each step."""
    with pytest.MonkeyPatch.context() as patch:
        for key in os.environ:
            if key.startswith(("CRDS_", "STPIPE_")):
                patch.delenv(key)
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        idle = types.SimpleNamespace(**{**vars(gc), "collect": lambda *_: 0})
        patch.setattr("stpipe.step.gc", idle)
        yield


@pytest.fixture(scope="module")
def programme(tmp_path_factory, environment):
    return simulate_programme(
        tmp_path_factory.mktemp("programme"), mode="slitless", n_exposures=6, seed=3
    )


def call(programme, **parameters):
    inputs = list(map(str, programme.rates))
    if parameters.pop("backwards", False):
        inputs = inputs[::-1]
    out = programme.association.parent / "out"
    return TimeVariableBadPixel.call(
        inputs, output_file="test", output_dir=str(out), report=False, **parameters
    )


@pytest.fixture(scope="module")
def tested(programme):
    return call(programme, self_test=True)


@pytest.fixture(scope="module")
def plain(programme):
    return call(programme)


def test_masks_stay_as_they_are_but_for_their_history(plain, tested):
    history, *masks = plain
    assert not history.hasattr("self_test")
    assert [m.meta.filename for m in masks] == [m.meta.filename for m in tested[1:]]
    for one, two in zip(masks, tested[1:], strict=True):
        np.testing.assert_array_equal(two.dq, one.dq)
        assert not list_lines(one)
        lines = list_lines(two)
        assert 3 <= len(lines) <= 9
        for name in ("HOT", "WARM", "LOW_QE", "DEAD"):
            (line,) = (text for text in lines if text.startswith(f"Self-test {name}:"))
            assert "completeness" in line
            assert "purity" in line
    for name, column in history.intervals.instance.items():
        np.testing.assert_array_equal(tested[0].intervals.instance[name], column)


def list_lines(mask):
    entries = mask._instance["history"]["entries"]
    return [e["description"] for e in entries if e["description"].startswith("Self-test")]


def test_input_order_gives_the_same_bytes(programme, tested, tmp_path):
    history, *masks = call(programme, self_test=True, backwards=True)
    (tmp_path / "backwards").mkdir()
    one = write_asdf(tested[0], tmp_path / "h.asdf")
    two = write_asdf(history, tmp_path / "backwards" / "h.asdf")
    assert one.read_bytes() == two.read_bytes()
    assert [list_lines(m) for m in masks] == [list_lines(m) for m in tested[1:]]


def test_history_round_trip_and_mask_of_a_date(tested, tmp_path):
    read = read_history(write_asdf(tested[0], tmp_path / "h.asdf"))
    wanted, found = (part.self_test.instance for part in (tested[0], read))
    assert found.keys() == wanted.keys()
    for name, column in wanted.items():
        np.testing.assert_array_equal(found[name], column)
    assert found["n_injected"].sum() > 0
    mask = build_mask_at(read, "2026-12-31")
    assert list_lines(mask) == list_lines(tested[-1])


def test_figure_shows_each_class_with_errors(tested):
    axes = plot_self_test(tested[0], Figure().add_subplot())
    rows = tested[0].self_test.instance
    labels = [text.get_text().split(" (")[0] for text in axes.get_legend().get_texts()]
    assert sorted(labels) == sorted(set(rows["class"]))
    assert len(axes.containers) == len(labels)
    assert axes.get_xscale() == "log"
    assert f"{rows['n_injected'].sum()} defects" in axes.get_title()


def test_figure_needs_a_self_test(plain):
    with pytest.raises(ValueError, match="--self_test"):
        plot_self_test(plain[0], Figure().add_subplot())
