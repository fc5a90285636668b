"""The page of flats and its figures show what is in the products, and say what is not."""

import shutil
import sys
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.table import Table
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pipeline import idle_collector
from report_history import open_chromium, open_page, wait_for

from jwst_tvbadpix.errors import EvidenceError, InputError
from jwst_tvbadpix.flatfield import FieldBasis
from jwst_tvbadpix.refmodels import read_star_flat
from jwst_tvbadpix.report import (
    build_report,
    find_groups,
    plot_background,
    plot_connectivity,
    plot_distortion,
    plot_flat_map,
    plot_flat_maps,
    plot_hold_out,
    plot_modes,
    plot_null_space,
    plot_residuals_by_position,
    plot_residuals_by_star,
    plot_stability,
    write_page,
)
from jwst_tvbadpix.report.flat_maps import FLAT_MAPS, find_stretch, scale_map
from jwst_tvbadpix.report.flat_zoom import average_squares, make_zoom
from jwst_tvbadpix.simulate import find_region, simulate_flat_programme
from jwst_tvbadpix.steps import ExternalFlatBuilder

STEM = "mine_MIRIMAGE_F770W_SUB256"
ADDED = ("residuals", "series", "distortion")
OF_STARS = ("star", "stars", "residuals", "gauge", "distortion", "check")


# Row, column and value in what stands beside the mouse, which lies in shadow trees.
TOOLTIP = """const text = root => Array.from(root.querySelectorAll("*")).map(
    node => node.shadowRoot ? node.shadowRoot.textContent + text(node.shadowRoot) : "").join("");
  const found = /y, x:\\s*(\\d+), (\\d+)\\s*value:\\s*(-?[\\d.]+) %/.exec(text(document));
  return found && found.slice(1);"""


@pytest.fixture(scope="module")
def programme(tmp_path_factory):
    """A field whose flat drifts from one epoch to the next."""
    return simulate_flat_programme(
        tmp_path_factory.mktemp("programme"),
        region=find_region("SUB256"),
        n_exposures=9,
        n_tiles=3,
        density=3000,
        drift=0.05,
        epoch_mjd=(59700.0, 59900.0),
    )


@pytest.fixture(scope="module")
def folder(programme, tmp_path_factory):
    """What a run leaves: a flat for each of two epochs."""
    folder = tmp_path_factory.mktemp("products")
    with idle_collector():
        ExternalFlatBuilder.call(
            str(programme.association),
            save_results=True,
            output_dir=str(folder),
            output_file="mine",
            hold_out=2,
        )
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    return read_star_flat(folder / f"{STEM}_starflat.asdf")


@pytest.fixture
def ax():
    return Figure().subplots()


def list_products(folder):
    return sorted(path for path in folder.iterdir() if path.suffix in (".asdf", ".ecsv"))


def copy_products(folder, target, change=None, *, stem=STEM):
    """Copy the products under another stem; `change` edits the tree of the parts."""
    target.mkdir(exist_ok=True)
    for path in list_products(folder):
        copy = target / path.name.replace(STEM, stem)
        shutil.copyfile(path, copy)
        if path.name.endswith("_starflat.asdf"):
            with asdf.open(copy, memmap=False, lazy_load=False) as file:
                tree = file.tree
                names = tree["flats"]["filename"]
                tree["flats"]["filename"] = [name.replace(STEM, stem) for name in names]
                if change is not None:
                    change(tree)
                file.write_to(copy, all_array_compression="zlib")
    return target


def make_page(folder):
    return build_report(list_products(folder))


def read_verdicts(page):
    return {row.check: row for row in page.verdicts}


def list_titles(page):
    return {item.title for section in page.sections for item in section.items}


def drop(*names):
    def change(tree):
        for name in names:
            tree.pop(name, None)

    return change


# Figures


def test_maps_are_per_cent_of_the_mean_with_one_stretch_for_both_errors(parts):
    maps = parts.maps.instance
    known = np.isfinite(maps["err_random"][1])
    for name, expected in (
        ("p_flat", 100 * (maps["p_flat"] - 1)),
        ("ratio", 100 * (maps["ratio"][1] - 1)),
        ("err_systematic", 100 * maps["err_systematic"][1]),
        ("coverage", maps["coverage"]),
    ):
        shown = scale_map(parts, name, flat=1)[0]
        np.testing.assert_allclose(shown[known], expected[known], atol=1e-5)
        assert name == "coverage" or np.isnan(shown[~known]).all()
    smooth = scale_map(parts, "l_flat", flat=1)[0]
    assert np.nanmean(smooth) == pytest.approx(0, abs=1e-4)
    low, high = find_stretch(parts, "p_flat")
    assert low == -high
    p_flat = scale_map(parts, "p_flat")[0]
    assert np.mean(np.abs(p_flat[np.isfinite(p_flat)]) <= high) == pytest.approx(0.995, abs=1e-3)
    assert find_stretch(parts, "err_random") == find_stretch(parts, "err_systematic")


@pytest.mark.parametrize("width", [13.5, 8.0])
def test_the_maps_keep_every_pixel_in_the_file(parts, width):
    figure = plot_flat_maps(parts, flat=1, width=width)
    images = [panel.images[0] for panel in figure.axes if panel.images]
    assert len(images) == len(FLAT_MAPS)
    FigureCanvasAgg(figure).draw()
    ny, nx = parts.maps.coverage.shape
    for image in images:
        box = image.axes.get_window_extent()
        assert (box.width >= nx, box.height >= ny) == (True, True)
    shown = images[list(FLAT_MAPS).index("l_flat")].get_array().filled(np.nan)
    np.testing.assert_array_equal(shown, scale_map(parts, "l_flat", flat=1)[0])


def test_a_map_is_drawn_on_the_axes_given(parts, ax):
    assert plot_flat_map(parts, "ratio", ax) is ax
    assert "sky over star" in ax.get_title()


def test_modes_are_shown_with_their_errors(parts, ax):
    plot_modes(parts, ax)
    star = parts.star.instance
    shown = np.concatenate([bars[0].get_ydata() for bars in ax.containers])
    np.testing.assert_allclose(np.sort(shown), np.sort(100 * np.asarray(star["coefficients"])))
    assert len(ax.get_legend().get_texts()) == star["order"]


def test_null_space_shows_the_worst_combinations_and_the_limit(parts):
    figure = plot_null_space(parts)
    gauge = parts.gauge.instance
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), gauge["shares"])
    assert figure.axes[0].lines[1].get_ydata()[0] == 1e-3
    assert len(figure.axes) == 1 + np.shape(gauge["combinations"])[1]


def test_exposures_are_connected_by_the_stars_they_share(parts, ax):
    plot_connectivity(parts, ax)
    shown = np.asarray(ax.images[0].get_array())
    seen = parts.residuals.instance
    rows = np.unique(seen["exposure"])
    status = np.array(parts.exposures.instance["status"])
    assert set(status[rows]) == {"used"}
    stars = [set(np.asarray(seen["star"])[seen["exposure"] == row]) for row in rows]
    expected = [[len(one & other) for other in stars] for one in stars]
    np.testing.assert_array_equal(shown, expected)
    links = [len(one & set.union(*(s for s in stars if s is not one))) for one in stars]
    np.testing.assert_array_equal(parts.gauge.n_links, links)


def test_residuals_of_stars_stand_beside_what_is_expected(parts, ax):
    plot_residuals_by_star(parts, ax)
    seen, stars = parts.residuals.instance, parts.stars.instance
    good = ~np.asarray(seen["outlier"])
    mine = good & (np.asarray(seen["star"]) == 3)
    rms = 100 * np.sqrt(np.mean(np.asarray(seen["value"])[mine] ** 2))
    points = np.concatenate([line.get_xydata() for line in ax.lines[:-1]])
    flux = np.exp(stars["ln_flux"][3])
    (row,) = np.flatnonzero(np.isclose(points[:, 0], flux, rtol=1e-9))
    assert points[row, 1] == pytest.approx(rms, rel=1e-5)
    assert f"{good.sum()} measurements" in ax.get_title()
    chi2 = float(ax.get_title().split("chi2 ")[1].split()[0])
    assert chi2 == pytest.approx(1, abs=0.15)


def test_residuals_by_position_are_means_of_cells(parts, ax):
    plot_residuals_by_position(parts, ax)
    image = ax.images[0].get_array()
    left, right, bottom, top = ax.images[0].get_extent()
    side = (right - left) / image.shape[1]
    assert (top - bottom) / image.shape[0] == pytest.approx(side)
    seen = {key: np.asarray(values) for key, values in parts.residuals.instance.items()}
    mine = (seen["x"] // side == 4) & (seen["y"] // side == 2) & ~seen["outlier"]
    assert mine.sum() >= 3
    mean = 100 * np.average(seen["value"][mine], weights=1 / seen["sigma"][mine].astype(float) ** 2)
    assert image[2, 4] == pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("what", ["flat", "PSF core", "distortion", "distortion, linear"])
def test_stability_shows_the_values_of_the_verdict(parts, ax, what):
    plot_stability(parts, what, ax)
    series = parts.series.instance[what]
    assert parts.drifts.verdicts.instance[what] in ax.get_title()
    first = np.asarray(series["values"])[:, 0]
    shown = ax.containers[0][0].get_ydata()
    scale = (shown[0] - shown[-1]) / (first[0] - first[-1])
    np.testing.assert_allclose(shown, scale * (first - np.nanmean(first)), rtol=1e-6, atol=1e-12)
    assert scale == pytest.approx({"distortion": 1e3, "distortion, linear": 1e6}.get(what, 100))
    assert ax.containers[0].has_yerr
    assert len(ax.get_legend().get_texts()) <= 7


def test_long_gaps_are_cut_out_of_the_axis(parts, ax):
    plot_stability(parts, "flat", ax)
    mjd = np.asarray(parts.series.instance["flat"]["mid_mjd"])
    place = ax.containers[2][0].get_xdata()
    assert np.argsort(place).tolist() == np.argsort(mjd).tolist()
    # 200 days between two epochs of hours.
    assert np.diff(np.sort(place)).max() < 5 * np.median(np.diff(np.sort(place)))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "200"]
    assert "2022-05-01" in ax.get_xlabel()


def test_modes_of_the_epochs_differ_by_what_the_flat_drifted(programme, parts):
    series = parts.series.instance["flat"]
    late = np.asarray(series["mid_mjd"]) > 59800
    values = np.asarray(series["values"])
    found = np.linalg.norm(values[late].mean(axis=0) - values[~late].mean(axis=0))
    truth = np.std(np.log(programme.star_flats[1] / programme.star_flats[0]))
    assert found == pytest.approx(truth, rel=0.2)


def test_arrows_are_the_distortion_that_was_found(parts, ax):
    plot_distortion(parts, ax)
    (arrows,) = (child for child in ax.get_children() if type(child).__name__ == "Quiver")
    found = parts.distortion.instance
    basis = FieldBasis(
        found["order"],
        np.ones(parts.maps.coverage.shape, bool),
        tuple(found["bounds"]),
        np.asarray(found["transform"]),
        np.asarray(found["degree"]),
    )
    x, y = arrows.XY[7]
    at = basis.evaluate(np.array([x]), np.array([y]))[0]
    shift = 1e3 * np.asarray(found["coefficients"]) @ at
    np.testing.assert_allclose((arrows.U[7], arrows.V[7]), shift, rtol=1e-9)
    assert "mas" in ax.get_title(loc="left")


def test_sky_levels_are_those_of_the_table(parts, ax):
    plot_background(parts, ax)
    level = np.asarray(parts.exposures.instance["sky_level"])
    points = [line.get_ydata() for line in ax.lines if line.get_linestyle() == "None"]
    shown = np.concatenate(points)
    np.testing.assert_array_equal(np.sort(shown), np.sort(level[np.isfinite(level)]))


def test_bars_are_the_held_out_rms(parts, ax):
    plot_hold_out(parts, ax)
    heights = [bar.get_height() for bar in ax.patches]
    check = parts.check.instance
    expected = [100 * check[f"{key}_{when}"] for when in ("before", "after") for key in keys(check)]
    np.testing.assert_allclose(heights, expected)


def keys(check):
    return [key for key in ("pixel", "smooth", "star") if f"{key}_after" in check]


# What the reader zooms


@pytest.mark.parametrize(("shape", "factor"), [((7, 10), 3), ((8, 8), 1), ((5, 4), 8)])
def test_squares_are_averaged_without_nan(shape, factor):
    image = np.random.default_rng(1).normal(size=shape)
    image[0, :3] = np.nan
    found = average_squares(image, factor)
    for j, i in np.ndindex(found.shape):
        cut = image[j * factor : (j + 1) * factor, i * factor : (i + 1) * factor]
        expected = np.mean(cut[np.isfinite(cut)]) if np.isfinite(cut).any() else np.nan
        assert found[j, i] == pytest.approx(expected, nan_ok=True)


def test_zoomed_maps_hold_the_values_and_move_together(parts):
    bokeh = pytest.importorskip("bokeh.models")
    layout = make_zoom(parts)
    first, second = layout.select({"type": bokeh.Plot})
    assert first.x_range is second.x_range
    assert first.y_range is second.y_range
    level = layout.select_one({"name": "p_flat"}).data_source.data["image"][0]
    low, high = find_stretch(parts, "p_flat")
    value = low + (level.astype(float) - 1) * (high - low) / 253
    expected = scale_map(parts, "p_flat")[0]
    np.testing.assert_array_equal(level == 0, np.isnan(expected))
    within = np.abs(expected) <= high
    assert np.abs(value - expected)[within].max() <= (high - low) / 253 * 0.51
    few = make_zoom(parts, most_pixels=10_000).select_one({"name": "p_flat"})
    assert few.data_source.data["image"][0].shape == (86, 86)


def test_the_mouse_shows_the_value_of_a_pixel(folder, parts):
    from selenium.webdriver.common.action_chains import ActionChains

    with open_chromium() as chrome:
        assert int(open_page(chrome, folder / "mine_report.html")) < 5000
        plot = chrome.find_element("id", "plot-1")
        chrome.execute_script("arguments[0].scrollIntoView()", plot)
        mouse = ActionChains(chrome).move_to_element_with_offset(plot, -350, 0)

        def read():
            mouse.move_by_offset(1, 0).perform()
            return chrome.execute_script(TOOLTIP)

        y, x, value = map(float, wait_for(read))
        severe = [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"]
    expected = scale_map(parts, "p_flat")[0][int(y), int(x)]
    low, high = find_stretch(parts, "p_flat")
    assert value == pytest.approx(np.clip(expected, low, high), abs=(high - low) / 253)
    assert not severe


# The page


def test_step_leaves_its_page_and_figures(folder):
    text = (folder / "mine_report.html").read_text(encoding="utf-8")
    assert "<h1>Flats of MIRIMAGE F770W SUB256</h1>" in text
    figures = {path.name.removeprefix(f"{STEM}_") for path in folder.glob("*.png")}
    assert figures >= {"maps_1.png", "maps_2.png", "modes.png", "null.png", "links.png"}
    assert figures >= {"stars.png", "place.png", "distortion.png", "background.png", "check.png"}
    assert (folder / "mine_report.html").stat().st_size < 8e6


def test_page_begins_with_what_was_judged(folder, parts):
    page = make_page(folder)
    rows = read_verdicts(page)
    assert rows["exposures"].value == "18: 16 used, 2 held out"
    files = rows["flats, each P times L of its parts"]
    assert (files.value, files.passed) == ("2 of 2", True)
    sigma = 100 * np.sqrt(np.trace(np.asarray(parts.star.covariance)))
    error = rows["star flat: error, rms over the field"]
    assert (error.value, error.limit, error.passed) == (f"{sigma:.3g} %", "at most 1 %", True)
    assert rows["star flat: determined"].passed is True
    assert rows["star flat: determined"].limit == "at least 0.001"
    # Rates have no distortion.
    assert rows["pixel area"].passed is False
    assert rows["stability: flat"].value == "DRIFT; 2 flats by epoch"
    assert rows["stability: flat"].passed is True
    assert rows["rms of held-out star fluxes, before -> after"].passed is True
    assert rows["UNRELIABLE_FLAT"].value.count("%") == 2
    assert rows["UNRELIABLE_FLAT"].limit == "error above 2 %"
    assert f"{parts.star.n_used} measurements" in rows["star flat"].value
    assert "1 direction(s)" in rows["star flat: gauge"].value
    assert rows["star flat: chi2"].passed is None
    assert not page.missing
    assert "hold_out=2" in page.provenance["settings"]


def scale(tree):
    tree["data"] = np.asarray(tree["data"]) * np.float32(1.001)


def shift(tree):
    tree["meta"]["useafter"] = "2023-01-01T00:00:00"


@pytest.mark.parametrize("change", [scale, shift])
def test_a_flat_that_is_not_that_of_its_parts_fails(folder, tmp_path, change):
    copy = copy_products(folder, tmp_path / "copy")
    path = min(copy.glob("*_flat_*.asdf"))
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        tree = dict(file.tree)
        change(tree)
        asdf.AsdfFile(tree).write_to(path)
    files = read_verdicts(make_page(copy))["flats, each P times L of its parts"]
    assert (files.value, files.passed) == ("1 of 2", False)


def test_flags_are_counted_in_the_flats(folder):
    page = make_page(folder)
    (item,) = (i for s in page.sections for i in s.items if i.title == "Flats")
    assert len(item.content) == 2
    for row, path in zip(item.content, sorted(folder.glob("*_flat_*.asdf")), strict=True):
        with asdf.open(path) as file:
            dq = np.asarray(file["dq"])
        assert row["usable"] == np.sum(dq & (1 | 2**18) == 0)
        assert row["NO_FLAT_FIELD"] == np.sum(dq & 2**18 != 0)


def test_changes_are_tabulated_with_their_limits(folder, parts):
    page = make_page(folder)
    (item,) = (i for s in page.sections for i in s.items if i.title == "Changes")
    drifts = parts.drifts.instance
    believed = {
        (what, term)
        for what, term, yes in zip(
            drifts["what"], drifts["term"], drifts["significant"], strict=True
        )
        if yes
    }
    assert ("flat", "slope") in believed or ("flat", "between visits") in believed
    shown = {(row["what"], row["term"]) for row in item.content if row["believed"] != "none"}
    assert shown == believed


def test_page_without_tables_lacks_nothing(folder, tmp_path):
    copy = copy_products(folder, tmp_path / "copy")
    for table in copy.glob("*.ecsv"):
        table.unlink()
    assert not make_page(copy).missing


def test_page_without_stars_says_so(folder, tmp_path):
    def change(tree):
        drop(*OF_STARS)(tree)
        tree["series"] = {}
        tree["drifts"] = {
            key: {"background": "STABLE"} if key == "verdicts" else values[:0]
            for key, values in tree["drifts"].items()
        }
        tree["maps"]["ratio"] = np.full_like(tree["maps"]["ratio"], np.nan)
        tree["notes"] = ["No star flat: too few stars"]

    page = make_page(copy_products(folder, tmp_path / "copy", change))
    rows = read_verdicts(page)
    assert "No star flat: too few stars" in rows["star flat"].value
    assert rows["pixel area"].passed is None
    assert len(page.missing) == 2
    assert "there is no star flat" in page.missing[0]
    assert "--hold_out" in page.missing[1]
    assert {"P and L", "Background"} <= list_titles(page)
    assert "Modes" not in list_titles(page)


def test_product_of_the_first_version_shows_what_it_has(folder, tmp_path):
    def change(tree):
        drop(*ADDED)(tree)
        tree["schema_version"] = "1.0.0"
        del tree["gauge"]["shares"], tree["gauge"]["combinations"]

    page = make_page(copy_products(folder, tmp_path / "copy", change))
    lines = "\n".join(page.missing)
    for what in ("chi2", "Stars in common", "Residuals by star", "Null space", "flat against time"):
        assert what in lines
    assert "version" in lines
    assert {"Modes", "Held-out exposures", "P and L", "Background"} <= list_titles(page)


def test_product_of_a_later_version_leaves_the_flats(folder, tmp_path):
    page = make_page(
        copy_products(folder, tmp_path / "copy", lambda tree: tree.update(schema_version="2.0.0"))
    )
    assert len(page.missing) == 1
    assert "2.0.0" in page.missing[0]
    assert read_verdicts(page)["UNRELIABLE_FLAT"].passed is None
    assert len(page.sections) == 1
    assert len(page.sections[0].items) == 3


def test_parts_without_their_flats_and_flats_without_their_parts(folder, tmp_path):
    copy = copy_products(folder, tmp_path / "copy")
    first, second = sorted(copy.glob("*_flat_*.asdf"))
    second.unlink()
    page = make_page(copy)
    assert len(page.missing) == 1
    assert page.missing[0].startswith(second.stem)
    assert read_verdicts(page)["UNRELIABLE_FLAT"].value.count("%") == 1
    (copy / f"{STEM}_starflat.asdf").unlink()
    page = make_page(copy)
    assert "_starflat.asdf" in page.missing[0]
    assert first.stem in list_titles(page)


def test_damaged_files_are_named_and_the_rest_is_shown(folder, tmp_path):
    copy = copy_products(folder, tmp_path / "copy")
    first, second = sorted(copy.glob("*_flat_*.asdf"))
    second.write_bytes(second.read_bytes()[:20_000])
    page = make_page(copy)
    assert any(second.name in line for line in page.missing)
    assert "Maps, from 2021-12-25T00:00:00 on" in list_titles(page)
    path = copy / f"{STEM}_starflat.asdf"
    path.write_bytes(path.read_bytes()[:40_000])
    page = make_page(copy)
    assert any(path.name in line for line in page.missing)
    assert first.stem in list_titles(page)


def test_several_sets_of_one_run_are_on_one_page(folder, tmp_path):
    copy = copy_products(folder, tmp_path / "copy")
    copy_products(folder, copy, drop("check"), stem="mine_MIRIMAGE_F1000W")
    (paths,) = find_groups([copy]).values()
    page = build_report(paths)
    rows = read_verdicts(page)
    assert (
        rows["MIRIMAGE F770W SUB256, star flat"].value == rows["MIRIMAGE F1000W, star flat"].value
    )
    assert len(page.missing) == 1
    assert page.missing[0].startswith("MIRIMAGE F1000W, Held-out exposures: ")
    names = [item.name for section in page.sections for item in section.items if item.name]
    assert len(names) == len(set(names)) > 20
    titles = [section.title for section in page.sections]
    assert len(titles) == len(set(titles)) == 8


def test_many_flats_do_not_make_the_page_large(folder, monkeypatch):
    monkeypatch.setattr("jwst_tvbadpix.report.flat_page._MOST_MAPS", 1)
    page = make_page(folder)
    (line,) = page.missing
    assert "plot_flat_maps" in line
    assert sum(title.startswith("Maps") for title in list_titles(page)) == 1


def test_a_check_that_cannot_be_made_leaves_the_others(folder, tmp_path):
    def change(tree):
        tree["maps"]["coverage"] = np.zeros_like(tree["maps"]["coverage"])
        tree["settings"].pop("unreliable_err")

    page = make_page(copy_products(folder, tmp_path / "copy", change))
    assert [line for line in page.missing if line.startswith("flagged pixels: ")]
    rows = read_verdicts(page)
    assert "100.00 % of the pixels never" in rows["coverage"].value
    assert rows["stability: flat"].passed is True


def test_what_is_no_product_of_parts_is_refused(folder):
    path = next(folder.glob("*_flat_*.asdf"))
    with pytest.raises(InputError, match=r"parts of flats \(\*_starflat.asdf\)"):
        read_star_flat(path)


def test_without_bokeh_the_static_figures_are_shown(folder, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "bokeh"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    page = make_page(folder)
    assert len(page.missing) == 1
    assert page.missing[0].startswith("P and L: needs bokeh")
    assert {"Maps, from 2021-12-25T00:00:00 on", "Modes"} <= list_titles(page)


def test_what_headers_say_is_text(folder, tmp_path):
    def change(tree):
        drop(*OF_STARS)(tree)
        tree["meta"]["author"] = "<script>alert(1)</script>"
        tree["notes"] = ["<b>bold</b>"]

    page = make_page(copy_products(folder, tmp_path / "copy", change))
    write_page(page, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<b>bold" not in text


def test_a_full_frame_stays_small(folder, tmp_path):
    rng = np.random.default_rng(5)

    def change(tree):
        # Figures of stars are small whatever the frame.
        drop(*OF_STARS)(tree)
        for name, image in tree["maps"].items():
            wide = np.tile(image, (1,) * (image.ndim - 2) + (4, 4))
            noise = rng.normal(0, 1e-3, wide.shape).astype(np.float32)
            tree["maps"][name] = wide + (noise if wide.dtype == np.float32 else 0)

    page = make_page(copy_products(folder, tmp_path / "copy", change))
    write_page(page, tmp_path / "page.html")
    # Two flats of 1024 x 1024 pixels, noise in all maps.
    assert (tmp_path / "page.html").stat().st_size < 15e6


def test_figures_say_what_they_lack(folder, tmp_path, ax):
    copy = copy_products(folder, tmp_path / "copy", drop(*OF_STARS))
    lacking = read_star_flat(copy / f"{STEM}_starflat.asdf")
    for plot in (plot_modes, plot_connectivity, plot_residuals_by_star, plot_distortion):
        with pytest.raises(EvidenceError, match="in the product"):
            plot(lacking, ax)
    with pytest.raises(EvidenceError, match="--hold_out"):
        plot_hold_out(lacking, ax)
    with pytest.raises(EvidenceError, match=r"found .*flat"):
        plot_stability(lacking, "moon", ax)


def test_tables_of_the_run_are_those_of_the_parts(folder, parts):
    table = Table.read(folder / f"{STEM}_modes.ecsv")
    np.testing.assert_allclose(table["coefficient"], parts.star.coefficients)
    assert Path(folder / f"{STEM}_stars.ecsv").is_file()
