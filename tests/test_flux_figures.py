"""Figures of a flux calibration show what is in the fit."""

import numpy as np
import pytest
from fluxtables import PIVOTS, STARS, write_photometry
from matplotlib.figure import Figure

from jwst_tvbadpix.fluxcal import fit_factors
from jwst_tvbadpix.report import plot_dependences, plot_stars, plot_throughput
from jwst_tvbadpix.standards import read_standards


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    photometry, models = write_photometry(tmp_path_factory.mktemp("t"), odd=("HD 2811", 0.006))
    return fit_factors(read_standards(photometry, model_fluxes=models).measurements)


def test_throughput_has_a_curve_and_points_for_each_filter(fit):
    ax = plot_throughput(fit, Figure().subplots())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [label.split()[-1] for label in labels] == list(PIVOTS)
    n_points = sum(len(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "None")
    assert n_points == len(fit.rows.index)
    assert "throughput" in ax.get_ylabel()
    # The curve falls as the throughput of the fit does.
    handle = next(line for line in ax.lines if "F2100W" in str(line.get_label()))
    drawn = (line for line in ax.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1)
    curve = next(line for line in drawn if line.get_color() == handle.get_color())
    fall = np.diff(curve.get_ydata()[[0, -1]])[0]
    assert fall == pytest.approx(-0.11, abs=0.03)


def test_stars_are_marked_by_their_verdicts(fit):
    ax = plot_stars(fit, Figure().subplots())
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"ok ({len(STARS) - 1})", "slope (1)"]
    assert "%" in ax.get_xlabel()


def test_a_page_without_dependences_says_so(fit):
    assert "no quantity varies" in plot_dependences(fit, []).get_suptitle()
