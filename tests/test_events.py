"""Tables of dated events: read in any format, refused with words, and what they change."""

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from astropy.time import Time

from jwst_tvbadpix.errors import DateError, InputError
from jwst_tvbadpix.events import read_events

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
