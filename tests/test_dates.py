"""Dates: those of UTC, in years without known leap seconds too, and no warning left on or off."""

import warnings

import numpy as np
import pytest
from astropy.time import Time

from jwst_tvbadpix.dates import (
    allow_far_dates,
    to_isot,
    to_isots,
    to_mjd,
    to_mjds,
    to_years,
)

# From the last leap second to the last year that it is known to be so.
KNOWN = np.random.default_rng(3).uniform(57754, 61700, 200)


def test_they_are_those_of_utc():
    known = Time(KNOWN, format="mjd", scale="utc")
    assert [to_isot(mjd) for mjd in KNOWN] == known.isot.tolist()
    assert [to_mjd(date) for date in known.isot] == Time(known.isot, scale="utc").mjd.tolist()
    assert np.array_equal(to_years(KNOWN), known.decimalyear)


def test_all_at_once_they_are_the_same():
    texts = to_isots(KNOWN)
    assert texts == [to_isot(mjd) for mjd in KNOWN]
    assert to_mjds(texts) == [to_mjd(text) for text in texts]
    assert to_isots([]) == to_mjds([]) == []
    with pytest.raises(ValueError, match="soon"):
        to_mjds([texts[0], "soon"])


@pytest.mark.parametrize("year", [2029, 2041, 2060])
def test_later_years_are_like_others(year):
    """A warning is an error here."""
    date = f"{year}-01-01T00:00:00.000"
    mjd = to_mjd(date)
    assert mjd % 1 == 0
    assert to_isot(mjd) == to_isot(date[:10]) == date
    assert to_years(mjd) == year


@pytest.mark.parametrize("text", ["soon", "2024-13-01", "2023-02-29", "60000.5", ""])
def test_what_is_no_date_is_refused(text):
    for function in (to_mjd, to_isot):
        with pytest.raises(ValueError, match=r"\w"):
            function(text)


def test_filters_are_left_as_they_are():
    before = list(warnings.filters)
    with allow_far_dates():
        assert Time("2031-01-01").isot.startswith("2031-01-01")
    assert warnings.filters == before
    with pytest.warns(Warning, match="dubious year"):
        assert Time("2031-01-01").isot
