"""The page of a flux calibration: what it says, what it lacks, how it works in a browser."""

import dataclasses
import html
import re
import shutil
import sys
import time
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.table import Table, vstack
from matplotlib.figure import Figure
from report_history import open_chromium, open_page, wait_for

from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.fluxcal import (
    Band,
    Measurements,
    Mode,
    compare_modes,
    fit_factors,
    measure_dependences,
    measure_repeatability,
)
from jwst_tvbadpix.refmodels import (
    CLOSURE,
    AbsFluxNotes,
    Closure,
    build_absflux_model,
    read_absflux,
    write_asdf,
)
from jwst_tvbadpix.report import (
    Item,
    Page,
    Section,
    build_report,
    find_groups,
    plot_budget,
    plot_factor,
    plot_left_out,
    plot_ratios,
    plot_repeatability,
    plot_residuals,
    plot_slopes,
    plot_star_factor,
    read_flux_record,
    write_page,
)
from jwst_tvbadpix.report.flux_errors import BEYOND, sum_budget
from jwst_tvbadpix.report.flux_explorer import make_explorer
from jwst_tvbadpix.report.flux_record import take_record
from jwst_tvbadpix.report.flux_verdicts import judge_flux
from jwst_tvbadpix.steps._flux_tables import tabulate_all, tabulate_left_out

FILTERS = (("F560W", 5.6), ("F770W", 7.7), ("F2550W", 25.2))
MIRI = Mode("MIRI", "MIRIMAGE", "imaging")
LOSS = 0.01  # [1/yr]
# One star's name holds what a browser would run, and what a tooltip would show as mark-up.
STARS = ("10 Lac", "<script>window.bitten=1</script>", "<b>bold</b> & @visit", "HD 2811", "mu Col")


def measure(filters=FILTERS, stars=STARS, n_visits=6, mode=MIRI, *, dated=True, seed=0):
    """Measurements of all stars in all filters; one row has no error and is left out."""
    rng = np.random.default_rng(seed)
    axes = range(len(filters)), range(len(stars)), range(n_visits)
    band, star, visit = (a.ravel() for a in np.meshgrid(*axes))
    n = len(band)
    days = 30.0 + 200 * visit + 10 * star
    modes = [
        mode if mode.kind != "imaging" else dataclasses.replace(mode, filter=f) for f, _ in filters
    ]
    level = np.exp(rng.normal(0, 0.008, len(stars)))[star]
    sigma = np.full(n, 0.002)
    if n > 10:
        sigma[7] = 0.0
    return Measurements(
        bands=tuple(Band(m, w) for m, (_, w) in zip(modes, filters, strict=True)),
        band=band.astype(np.int32),
        star=np.array(stars)[star],
        star_class=np.array(("hot", "adwarf", ""))[star % 3],
        visit=np.array([f"{s}-{v}" for s, v in zip(star, visit, strict=True)]),
        subarray=np.where(visit > 3, "SUB256", "FULL"),
        mjd=59800.0 + days if dated else np.full(n, np.nan),
        factor=(0.3 + 0.1 * band) * level * np.exp(LOSS * days / 365 + rng.normal(0, 0.003, n)),
        sigma=sigma,
        flux_jy=10.0 ** (-1 - star),
        peak=1e4 * 10.0 ** (-1 - star),
        well_depth=np.full(n, np.nan),
        background=np.full(n, np.nan),
        exposure_s=np.full(n, np.nan),
        used=np.ones(n, bool),
        reason=np.full(n, ""),
        source=np.array([f"stars.ecsv {k}" for k in range(n)]),
    )


def write_products(folder, measurements, *, left_out=True, **settings):
    """Fit, and write what the step writes; all files."""
    fit = fit_factors(measurements, **settings)
    known = MIRI.kind in {band.mode.kind for band in measurements.bands}
    name = "run_MIRIMAGE_imaging_photom"
    about = AbsFluxNotes(
        useafter="2021-12-25T00:00:00",
        pedigree="INFLIGHT 2022-06-01 2025-06-01",
        description="Fit of a test",
        files=[("input", "stars.ecsv", "0" * 64)],
        references=[name] if known else [],
        settings={"time_form": settings.get("time_form", "auto")},
        notes=["A note with <i>mark-up</i>."],
        closures=[(name, Closure(9, 2e-7, "F560W FULL", (61000.0,)))] if known else (),
    )
    ratios, repeats = compare_modes(fit), measure_repeatability(fit)
    model = build_absflux_model(fit, about, ratios=ratios, repeatability=repeats)
    folder.mkdir(exist_ok=True)
    path = write_asdf(model, folder / "run_absflux.asdf")
    tables = tabulate_all(fit, repeats, measure_dependences(fit), ratios)
    if left_out:
        tables["leave_out"] = tabulate_left_out(fit, {})
    for kind, table in tables.items():
        table.write(folder / f"run_{kind}.ecsv", overwrite=True)
    return fit, [path, *folder.glob("*.ecsv")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A fit and its files."""
    return write_products(tmp_path_factory.mktemp("run"), measure(), time_form="linear")


@pytest.fixture(scope="module")
def page(run):
    return build_report(run[1])


@pytest.fixture
def record(run):
    return read_flux_record(run[1][0])


def verdict_of(page, begin):
    (found,) = (v for v in page.verdicts if v.check.startswith(begin))
    return found


def titles(page):
    return [item.title for section in page.sections for item in section.items]


def points(ax):
    """All that lines and error bars show."""
    shown = [np.asarray(line.get_xydata(), float) for line in ax.lines]
    return np.vstack([part for part in shown if part.size])


def test_the_product_gives_the_figures_that_the_fit_gives(run, record):
    fit = run[0]
    label = next(iter(record.modes))
    for draw in (
        plot_budget,
        plot_repeatability,
        lambda given, ax: plot_residuals(given, "flux_jy", ax),
        plot_slopes,
        lambda given, ax: plot_factor(given, label, ax),
        lambda given, ax: plot_star_factor(given, label, ax),
    ):
        one, two = (draw(given, Figure().subplots()) for given in (fit, record))
        assert len(one.lines) + len(one.patches) > 0
        if one.lines:
            np.testing.assert_allclose(points(one), points(two), rtol=1e-12)
        bars = [[patch.get_bbox().bounds for patch in ax.patches] for ax in (one, two)]
        np.testing.assert_allclose(*bars)
    model = read_absflux(run[1][0])
    np.testing.assert_array_equal(
        plot_ratios(model, Figure().subplots()).images[0].get_array(),
        plot_ratios(fit, Figure().subplots()).images[0].get_array(),
    )


def test_points_lie_where_they_were_measured(run, record):
    m = run[0].measurements
    label = "MIRIMAGE imaging F770W"
    ax = plot_factor(record, label, Figure().subplots())
    shown = np.concatenate(
        [line.get_ydata() for line in ax.lines if line.get_linestyle() == "None"]
    )
    band = [b.mode.filter for b in m.bands].index("F770W")
    mine = (m.band == band) & m.used & (m.subarray == "FULL")
    assert len(shown) == ((m.band == band) & m.used).sum()
    # FULL is not scaled: these are the very measurements.
    assert np.isclose(shown[:, None], m.factor[mine]).any(axis=0).all()


def test_the_record_refuses_what_it_is_not(record):
    assert take_record(record) is record
    with pytest.raises(InputError, match="FluxFit"):
        take_record(3)
    with pytest.raises(InputError, match="F999W"):
        plot_factor(record, "F999W", Figure().subplots())
    with pytest.raises(InputError, match="mjd, flux_jy, wave"):
        plot_residuals(record, "phase", Figure().subplots())
    with pytest.raises(InputError, match="leave_out"):
        plot_left_out(record, Figure().subplots())
    alone = take_record(record.model)
    with pytest.raises(InputError, match=r"NAME_visits\.ecsv"):
        plot_residuals(alone, ax=Figure().subplots())


def test_what_was_given_and_is_wrong_fails(tmp_path):
    """A form and a common loss that the measurements speak against."""
    fade = measure()
    years = (fade.mjd - 59800.0) / 365
    fade = dataclasses.replace(fade, factor=fade.factor * np.exp(0.03 * fade.band * years))
    made = {"none": {}, "linear": {"share": "common"}}
    for form, more in made.items():
        _, files = write_products(tmp_path / form, fade, time_form=form, **more)
        made[form] = build_report(files)
    form = verdict_of(made["none"], "Form of")
    assert form.passed is False
    assert float(form.value.partition("AIC +")[2].split()[0]) > 10
    share = verdict_of(made["linear"], "One loss")
    assert share.passed is False
    assert "chance" in share.value


def test_the_budget_adds_up_and_tells_subarrays_from_classes(record):
    parts = sum_budget(record)
    later = parts.pop(BEYOND)
    total = np.sqrt(sum(part**2 for part in parts.values()))
    by_wave = [units[0] for units in record.modes.values()]
    np.testing.assert_allclose(total, (record.error / record.factor)[by_wave], rtol=1e-6)
    assert (parts["subarray"] > 0).all()
    assert (parts["class"] > 0).all()
    assert (later > 0).all()


def test_the_page_begins_with_what_was_checked(page, run):
    fit = run[0]
    used = verdict_of(page, "Measurements used")
    assert used.value == "89 of 90; left out: 1 error is zero, negative or not a number"
    assert verdict_of(page, "Fit converged").passed is True
    assert verdict_of(page, "Closure of run_").limit == f"{CLOSURE:g}"
    assert verdict_of(page, "Closure of run_").passed is True
    # The photom file itself is not among the products of this run.
    assert verdict_of(page, "Modes and").passed is False
    assert verdict_of(page, "Modes and").value.endswith("not beside the fit: 1")
    form = verdict_of(page, "Form of")
    assert form.value.startswith("linear, as given: AIC +")
    assert form.passed is True
    assert "a year later" in verdict_of(page, "Dates and").value
    scatter = [v for v in page.verdicts if v.check.startswith("Scatter")]
    assert [v.check.split()[-1] for v in scatter] == ["F560W", "F770W", "F2550W"]
    odd = [star for star in fit.stars if star.verdict != "ok"]
    assert verdict_of(page, "Stars").passed is (not odd)
    assert "Every measurement" in titles(page)
    assert page.provenance["settings"].startswith("apcorr_err")
    assert page.missing == (
        "Fits without each star, class and epoch: not made (see the log), or NAME_leave_out.ecsv "
        "is gone",
        "Photom references that are not beside the fit: run_MIRIMAGE_imaging_photom",
    )


def test_references_beside_the_fit_pass(record):
    told = {row.check: row for row in judge_flux(record, set(record.model.references), [])}
    assert told["Modes and their photom references"].passed is True


def test_a_fit_of_another_version_is_named(run, tmp_path):
    path = Path(shutil.copy(run[1][0], tmp_path))
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        asdf.AsdfFile({**file.tree, "schema_version": "9.0.0"}).write_to(path)
    page = build_report([path])
    (text,) = page.missing
    assert "found ABSFLUX and 9.0.0" in text
    assert page.sections[0].text == "Photom references: 0."


def test_an_odd_star_and_a_bad_closure_fail(tmp_path):
    m = measure()
    factor = m.factor * np.where(m.star == "HD 2811", 1.15, 1.0)
    _, paths = write_products(tmp_path, dataclasses.replace(m, factor=factor), time_form="linear")
    with asdf.open(paths[0], memmap=False, lazy_load=False) as file:
        tree = dict(file.tree)
    tree["closure"]["worst"] = np.array([2 * CLOSURE])
    tree["notes"] = ["No photom reference of MIRI MIRIMAGE mrs: expected a template"]
    asdf.AsdfFile(tree).write_to(paths[0])
    page = build_report(paths)
    found = verdict_of(page, "Stars")
    assert found.passed is False
    assert found.value.startswith("HD 2811 in MIRI imaging: offset")
    assert found.limit.startswith("none beyond 3 sigma")
    assert verdict_of(page, "Closure of run_").passed is False
    assert verdict_of(page, "Modes and").passed is False
    assert "expected a template" in verdict_of(page, "Modes and").value


@pytest.mark.parametrize(
    ("change", "lacking", "shown"),
    [
        ({"stars": ("HD 2811",)}, "Slopes of stars", "Factors with time"),
        ({"n_visits": 1}, "Repeatability", "Factors by star and class"),
        ({"stars": ("HD 2811",), "n_visits": 1}, "Repeatability", "Error budget"),
        ({"dated": False}, "no measurement has a date", "Factors by star and class"),
        ({"filters": FILTERS[:1]}, "there is one mode", "Every measurement"),
        (
            {
                "filters": [("P750L", w) for w in np.linspace(5, 10, 6)],
                "mode": Mode("MIRI", "MIRIMAGE", "lrs", "P750L"),
            },
            "",
            "Factors by wavelength",
        ),
        (
            {
                "filters": [("N/A", w) for w in np.linspace(5, 10, 6)],
                "mode": Mode("N/A", "N/A", "unknown"),
                "dated": False,
            },
            "no measurement has a date",
            "Offsets",
        ),
        (
            {"filters": [(f"F{k}W", k / 100) for k in range(200, 1600, 100)]},
            "2 more modes",
            "Stars",
        ),
    ],
    ids=["one star", "one visit", "one row", "no dates", "one mode", "spectra", "unknown", "many"],
)
def test_what_cannot_be_shown_is_said_and_the_rest_is_shown(tmp_path, change, lacking, shown):
    _, paths = write_products(tmp_path, measure(**change))
    page = build_report(paths)
    assert any(lacking in text for text in page.missing), page.missing
    assert shown in titles(page), page.missing
    # Nothing is missing for a reason that nobody thought of.
    assert not [text for text in page.missing if re.search("(Error|Warning): ", text)]
    if "unknown" in str(change.get("mode")):
        assert verdict_of(page, "Modes and").passed is False
        assert "mode is not known" in verdict_of(page, "Modes and").value


@pytest.mark.parametrize("kind", ["visits", "dependences"])
@pytest.mark.parametrize("problem", ["gone", "broken", "short"])
def test_a_table_that_is_not_there_costs_only_what_it_holds(run, tmp_path, kind, problem):
    paths = [tmp_path / path.name for path in run[1]]
    for old, new in zip(run[1], paths, strict=True):
        shutil.copy(old, new)
    (table,) = (path for path in paths if path.name == f"run_{kind}.ecsv")
    if problem == "gone":
        table.unlink()
        paths.remove(table)
    elif problem == "broken":
        table.write_text("nothing")
    else:
        Table({"name": ["x"]}).write(table, overwrite=True)
    page = build_report(paths)
    assert any(f"_{kind}.ecsv" in text for text in page.missing)
    assert "Error budget" in titles(page)
    assert ("Every measurement" in titles(page)) == (kind != "visits")
    assert ("All that was tried" in titles(page)) == (kind == "visits")


def test_tables_of_another_run_are_left_alone(run, tmp_path):
    paths = [tmp_path / path.name for path in run[1]]
    for old, new in zip(run[1], paths, strict=True):
        shutil.copy(old, new)
    # The step gives the files that it wrote; others of the same name may lie beside them.
    page = build_report([path for path in paths if "dependences" not in path.name])
    assert any("NAME_dependences.ecsv" in text for text in page.missing)
    table = Table.read(tmp_path / "run_visits.ecsv")
    table[:-1].write(tmp_path / "run_visits.ecsv", overwrite=True)
    page = build_report(paths)
    assert any("another run, with 89 measurements and not 90" in text for text in page.missing)
    assert "Every measurement" not in titles(page)


def test_tables_are_found_from_within_the_folder(run, monkeypatch):
    monkeypatch.chdir(run[1][0].parent)
    (paths,) = find_groups([Path()]).values()
    assert {path.name for path in paths} == {path.name for path in run[1]}
    assert "Every measurement" in titles(build_report(paths))


def test_the_fit_alone_has_a_page(run, tmp_path):
    path = tmp_path / "run_absflux.asdf"
    shutil.copy(run[1][0], path)
    page = build_report([path])
    assert {"Factors", "Factors with time", "Offsets", "Error budget"} <= set(titles(page))


def test_a_missing_library_costs_the_interactive_figure_alone(tmp_path, monkeypatch):
    _, paths = write_products(tmp_path, measure(FILTERS[:1], n_visits=2))
    monkeypatch.setitem(sys.modules, "bokeh", None)
    for name in [name for name in sys.modules if name.startswith("bokeh.")]:
        monkeypatch.setitem(sys.modules, name, None)
    page = build_report(paths)
    assert any("needs bokeh" in text for text in page.missing)
    assert "Factors with time" in titles(page)
    write_page(page, tmp_path / "page.html")


def test_text_is_text(page, tmp_path):
    path = tmp_path / "page.html"
    write_page(page, path)
    text = path.read_text(encoding="utf-8")
    assert "window.bitten" in text
    assert "<script>window.bitten" not in text
    assert html.escape("A note with <i>mark-up</i>.") in text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_mission_is_thinned_and_opens_at_once(record, tmp_path):
    n = 100_000
    rng = np.random.default_rng(3)
    some = rng.integers(0, len(record.visits), n)
    visits = vstack([record.visits[some[:1]], record.visits[some[1:]]])
    visits["mjd"] = rng.uniform(59830, 61000, n)
    big = dataclasses.replace(record, visits=visits, unit=record.unit[some])
    begin = time.process_time()
    explorer = make_explorer(big)
    assert time.process_time() - begin < 20
    assert explorer.n_rows > 95_000
    assert explorer.n_shown == 20_000
    few = make_explorer(record)
    assert (few.n_shown, few.n_rows) == (90, 90)
    shown = Section("All", "", (Item("Every measurement", "", explorer.layout),))
    path = tmp_path / "page.html"
    write_page(Page("A mission", (), {}, (shown,)), path)
    assert path.stat().st_size < 10e6
    with open_chromium() as browser:
        # The best of three, for the machine may be busy.
        assert min(float(open_page(browser, path)) for _ in range(3)) < 2000


# --- in a browser ------------------------------------------------------------------------------

FIND = """
const models = Bokeh.documents.flatMap(d => [...d._all_models.values()]);
const plot = models.find(m => m.type === "Figure");
const view = Bokeh.index.find_one(plot);
const legend = Bokeh.index.find_one(plot.right.find(m => m.type === "Legend"));
const points = plot.renderers.filter(m => m.glyph.type === "Scatter");
const data = points[0].data_source.data;
"""
TOOLTIP = """
const found = [];
const walk = node => {
  for (const child of node.querySelectorAll("*")) {
    if (child.classList.contains("bk-tooltip-content")) found.push(child.textContent);
    if (child.shadowRoot) walk(child.shadowRoot);
  }
};
walk(document);
return found.join();
"""


def point_at(browser, x, y, *, click=False):
    kinds = ["mouseMoved", *(("mousePressed", "mouseReleased") if click else ())]
    for kind in kinds:
        where = {"type": kind, "x": x, "y": y}
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", where | button)


def test_a_reader_points_clicks_and_chooses(page, tmp_path):
    path = tmp_path / "page.html"
    write_page(page, path)
    with open_chromium() as browser:
        open_page(browser, path)
        assert browser.execute_script("return window.bitten || 0") == 0
        errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
        assert not errors
        browser.execute_script(FIND + "view.el.scrollIntoView({block: 'center'})")
        x, y, file = browser.execute_script(
            FIND
            + """
            const k = [...data.name].findIndex(
              (n, i) => n.includes("@visit") && data.mode[i].endsWith("F560W"));
            const box = view.el.getBoundingClientRect();
            return [box.x + view.frame.x_scale.compute(data.x[k]),
                    box.y + view.frame.y_scale.compute(data.y[k]), data.source[k]];
            """
        )
        point_at(browser, x - 30, y)
        point_at(browser, x, y)
        said = wait_for(lambda: browser.execute_script(TOOLTIP))
        # Mark-up in a name is shown as it is written.
        assert "<b>bold</b> & @visit" in said
        assert file in said
        assert "observed over fitted" in said
        visible = "return points.map(p => p.visible)"
        before = browser.execute_script(FIND + visible)
        x, y = browser.execute_script(
            FIND
            + """
            const box = legend.entries[1].el.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
            """
        )
        point_at(browser, x, y, click=True)
        assert all(before[:-1])
        # The last are measurements that were left out: they are shown when asked for.
        assert not before[-1]
        wait_for(lambda: not browser.execute_script(FIND + visible)[0])
        assert browser.execute_script(FIND + visible)[1:] == before[1:]
        line = "return [...plot.renderers.find(m => m.glyph.type === 'Line').data_source.data.y]"
        first = browser.execute_script(FIND + line)
        browser.execute_script(
            FIND
            + """
            const chosen = models.find(m => m.type === "Select");
            chosen.value = chosen.options[2];
            """
        )
        second = browser.execute_script(FIND + line)
        # The factor of F2550W at t0 is 0.5, that of F560W 0.3.
        assert first[0] == pytest.approx(0.3, rel=0.03)
        assert second[0] == pytest.approx(0.5, rel=0.03)
        shown = browser.execute_script(
            FIND + "return [...Bokeh.index.find_one(points[1]).all_indices].length"
        )
        assert shown == 6
