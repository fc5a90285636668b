"""Tables of dated events: read in any format, refused with words, and what they change."""

import gc
import os
import types

import numpy as np
import pytest
from arrays import CORNER, find
from astropy.table import MaskedColumn, Table
from astropy.time import Time
from matplotlib.figure import Figure

from jwst_tvbadpix.badpix import extract_intervals, stretch_time
from jwst_tvbadpix.errors import DateError, InputError
from jwst_tvbadpix.events import read_events
from jwst_tvbadpix.refmodels import read_history, write_asdf
from jwst_tvbadpix.report import plot_growth, plot_light_curve, plot_timeline
from jwst_tvbadpix.simulate import simulate_programme
from jwst_tvbadpix.steps import TimeVariableBadPixel

DATES = ["2024-03-01", "2022-07-15T12:00:00", "2023-01-31"]
LABELS = ["storm, X2.8", "anneal", "bias 2.2 V"]
KINDS = ["storm", "anneal", "settings"]
ORDER = [1, 2, 0]


def as_iso():
    return list(DATES)


def as_mjd():
    return Time(DATES, scale="utc").mjd


def as_time():
    return Time(DATES, scale="utc")


def write(path, **columns):
    Table(columns).write(path)
    return path


@pytest.mark.parametrize("name", ["e.ecsv", "e.csv", "e.fits"])
@pytest.mark.parametrize("dates", [as_iso, as_mjd])
def test_formats_and_dates_give_the_same_events_in_order(tmp_path, name, dates):
    path = write(tmp_path / name, date=dates(), label=LABELS, kind=KINDS)
    events = read_events(path)
    np.testing.assert_allclose(events.mjd, as_mjd()[ORDER], rtol=0, atol=1e-8)
    assert events.label == tuple(LABELS[k] for k in ORDER)
    assert events.kind == tuple(KINDS[k] for k in ORDER)


@pytest.mark.parametrize("name", ["e.ecsv", "e.fits"])
def test_time_columns_are_dates(tmp_path, name):
    path = write(tmp_path / name, date=as_time(), label=LABELS)
    events = read_events(path)
    np.testing.assert_allclose(events.mjd, as_mjd()[ORDER], rtol=0, atol=1e-8)
    assert events.kind == ("", "", "")


def test_order_of_the_rows_does_not_matter(tmp_path):
    label, date = ["b", "a", "c"], [60000.0, 60000.0, 59000.0]
    one = read_events(write(tmp_path / "1.ecsv", date=date, label=label))
    two = read_events(write(tmp_path / "2.ecsv", date=date[::-1], label=label[::-1]))
    assert one.label == two.label == ("c", "a", "b")
    np.testing.assert_array_equal(one.mjd, two.mjd)


def test_empty_table_holds_no_events(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text("date,label\n")
    events = read_events(path)
    assert events.mjd.shape == (0,)
    assert events.label == ()


@pytest.mark.parametrize(
    "bad", ["soon", "", "2024", "2460310.5", "-1", "nan", "1999-12-31", "2024-13-01"]
)
def test_text_that_is_no_date_is_named(tmp_path, bad):
    path = write(tmp_path / "e.ecsv", date=["2024-01-01", bad], label=["a", "b"])
    with pytest.raises(DateError, match="in row 2") as caught:
        read_events(path)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("bad", [2024.0, 2460310.5, np.nan])
def test_number_that_is_no_mjd_is_named(tmp_path, bad):
    path = write(tmp_path / "e.ecsv", date=[60310.0, bad], label=["a", "b"])
    with pytest.raises(DateError, match="in row 2"):
        read_events(path)


def test_column_of_pairs_is_no_date(tmp_path):
    path = write(tmp_path / "e.fits", date=[[60310.0, 0.5], [60311.0, 60312.0]], label=["a", "b"])
    with pytest.raises(DateError, match="in row 1"):
        read_events(path)


@pytest.mark.parametrize("values", [[60310.0, 0.0], ["2024-01-01", ""]])
def test_masked_date_is_named(tmp_path, values):
    dates = MaskedColumn(values, mask=[False, True])
    path = write(tmp_path / "e.ecsv", date=dates, label=["a", "b"])
    with pytest.raises(DateError, match="in row 2"):
        read_events(path)


@pytest.mark.parametrize("name", ["date", "label"])
def test_missing_column_is_named(tmp_path, name):
    columns = {"date": DATES, "label": LABELS, "kind": KINDS}
    columns[f"{name}s"] = columns.pop(name)
    with pytest.raises(InputError, match=rf"found .*{name}s.*add {name}"):
        read_events(write(tmp_path / "e.ecsv", **columns))


@pytest.mark.parametrize(
    ("name", "content"),
    [("e.ecsv", "no header"), ("e.fits", "no FITS"), ("e.xyz", "date,label"), ("e.csv", "")],
)
def test_unreadable_file_is_an_input_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match="columns date and label"):
        read_events(path)


def test_absent_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no file at"):
        read_events(tmp_path / "absent.ecsv")


# ------------------------------------------------------------------- as change-point prior

N_LOOKS, FIRST_BAD, SHAPE = 20, 12, (80, 80)
MJD = 59800 + 60.0 * np.arange(N_LOOKS)
EVENT = np.array([MJD[FIRST_BAD] - 20])
# Weak pixels: the onset is worth little more than the price that it has at ordinary rates.
PLACES = np.stack(np.meshgrid(np.arange(4, 80, 8), np.arange(4, 80, 8)), axis=-1).reshape(-1, 2)


def find_weak(amplitude, boost):
    """Search a field with weak onsets at the event: (found, dated there, false pixels)."""
    rng = np.random.default_rng(4)
    sky = rng.uniform(6, 14, (N_LOOKS, 1, 1))
    rate = sky + rng.normal(0, 0.02, SHAPE) + rng.normal(0, 0.3, (N_LOOKS, *SHAPE))
    rate[FIRST_BAD:, PLACES[:, 0], PLACES[:, 1]] += 0.3 * amplitude
    clock = stretch_time(MJD, EVENT, event_boost=boost)
    rows = extract_intervals(find(rate.astype(np.float32), clock))
    first, counts = np.full(SHAPE, -1), ~rows.pending
    first[rows.y[counts] - CORNER[0], rows.x[counts] - CORNER[1]] = rows.first[counts]
    weak = first[PLACES[:, 0], PLACES[:, 1]]
    found = (weak >= 0).mean()
    return found, (weak == FIRST_BAD).mean(), (first >= 0).sum() - (weak >= 0).sum()


def test_boost_finds_weaker_changes_at_the_event_and_dates_them_there():
    found, dated, false = find_weak(2.3, 1.0)
    boosted, there, also_false = find_weak(2.3, 1000.0)
    # A hundred pixels: the error of a share is 5 %.
    assert boosted > found + 0.15
    assert there > dated + 0.15
    assert there / boosted >= dated / found
    assert also_false <= false + 2


def test_event_changes_little_for_what_is_clear():
    for boost in (1.0, 1000.0):
        found, dated, _ = find_weak(10.0, boost)
        assert found == 1
        assert dated > 0.97


# -------------------------------------------------------------------------------- step


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for key in os.environ:
            if key.startswith(("CRDS_", "STPIPE_")):
                patch.delenv(key)
        idle = types.SimpleNamespace(**{**vars(gc), "collect": lambda *_: 0})
        patch.setattr("stpipe.step.gc", idle)
        yield simulate_programme(
            tmp_path_factory.mktemp("programme"), mode="slitless", n_exposures=6, seed=3
        )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("events") / "events.ecsv"
    dates = ["2024-01-01", "2023-03-01", "2010-01-01"]
    return write(path, date=dates, label=["cost $1 and $2", "b", "before all"], kind=["x", "y", ""])


def call(programme, **parameters):
    return TimeVariableBadPixel.call(str(programme.association), **parameters)


@pytest.fixture(scope="module")
def plain(programme):
    return call(programme)


@pytest.fixture(scope="module")
def drawn(programme, table):
    return call(programme, events=str(table))


def test_events_alone_change_no_result(plain, drawn):
    assert len(drawn) == len(plain)
    for group in ("exposures", "intervals", "residuals", "base"):
        wanted, found = (getattr(made[0], group).instance for made in (plain, drawn))
        for name, column in wanted.items():
            np.testing.assert_array_equal(found[name], column)
    for one, two in zip(plain[1:], drawn[1:], strict=True):
        np.testing.assert_array_equal(two.dq, one.dq)
        assert two.meta.useafter == one.meta.useafter


def test_boost_changes_odds(drawn, programme, table):
    boosted = call(programme, events=str(table), event_boost=1000.0)[0]
    assert boosted.settings.instance["event_boost"] == 1000.0
    before, after = (h.intervals.instance["log_odds"] for h in (drawn[0], boosted))
    assert before.shape != after.shape or (before != after).any()


def test_history_keeps_the_events(plain, drawn, tmp_path):
    assert not plain[0].hasattr("events")
    read = read_history(write_asdf(drawn[0], tmp_path / "h.asdf"))
    events = read.events.instance
    assert events["label"] == ["before all", "b", "cost $1 and $2"]
    assert events["kind"] == ["", "y", "x"]
    np.testing.assert_allclose(
        events["mjd"], Time(["2010-01-01", "2023-03-01", "2024-01-01"]).mjd, atol=1e-8
    )


def test_unusable_table_stops_the_step_before_the_search(programme, tmp_path):
    path = write(tmp_path / "e.ecsv", date=["soon"], label=["a"])
    with pytest.raises(DateError, match="soon"):
        call(programme, events=str(path))


def draw(name, history):
    axes = Figure().add_subplot()
    if name == "light curve":
        kept = history.residuals.instance
        return plot_light_curve(history, int(kept["y"][0]), int(kept["x"][0]), axes)
    return {"growth": plot_growth, "timeline": plot_timeline}[name](history, axes)


@pytest.mark.parametrize("name", ["growth", "timeline", "light curve"])
def test_events_within_the_axes_are_drawn_with_their_labels(name, plain, drawn):
    without, axes = (draw(name, made[0]) for made in (plain, drawn))
    labels = [text.get_text() for text in axes.texts]
    assert labels == ["b", r"cost \$1 and \$2"]
    assert len(axes.lines) == len(without.lines) + 2
    one, two = axes.lines[-2:]
    assert one.get_linestyle() != two.get_linestyle()
    expected = Time(["2023-03-01", "2024-01-01"]).decimalyear
    np.testing.assert_allclose([line.get_xdata()[0] for line in (one, two)], expected)
    np.testing.assert_allclose(axes.get_xlim(), without.get_xlim())
    axes.figure.canvas.draw()


def test_timeline_counts_every_change_once(plain):
    rows = plain[0].intervals.instance
    counted = rows["dnu"] & (rows["class"] != "TELEGRAPH")
    axes = draw("timeline", plain[0])
    # Each bar by its corners, the first of which is where it stands.
    corners = [path.vertices for group in axes.collections for path in group.get_paths()]
    tops = [own[np.abs(own[:, 1] - own[0, 1]).argmax(), 1] for own in corners]
    feet = [own[0, 1] for own in corners]
    heights = np.subtract(tops, feet)
    middle = np.array([own[:, 0].min() + own[:, 0].max() for own in corners]) / 2
    starts, ends = (np.isfinite(rows[key])[counted] for key in ("start_mjd", "end_mjd"))
    assert heights[heights > 0].sum() == starts.sum() > 0
    assert -heights[heights < 0].sum() == ends.sum()
    years = Time(plain[0].exposures.instance["expmid_mjd"], format="mjd").decimalyear
    middles = (years[1:] + years[:-1]) / 2
    assert np.abs(middle[heights != 0][:, None] - middles).min(axis=1).max() < 1e-6
    # By gap: those of the first are the changes dated before the second exposure.
    mjd = plain[0].exposures.instance["expmid_mjd"]
    first = rows["start_mjd"][counted & np.isfinite(rows["start_mjd"])] < mjd[1]
    assert heights[(heights > 0) & (middle < years[1])].sum() == first.sum()
    assert f"{starts.sum()} onsets" in axes.get_title()
