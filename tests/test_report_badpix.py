import re
import subprocess
import sys
from pathlib import Path

import asdf
import numpy as np
import pytest
from matplotlib.figure import Figure
from report_history import (
    BASE,
    BEFORE,
    CANDIDATE,
    CONTROL,
    LEVEL,
    NOISE,
    PIXELS,
    STARTS,
    date_of,
    make_report_history,
    write_products,
)

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.refmodels import (
    compose_dq,
    dq_value,
    read_history,
    unpack_residuals,
    write_asdf,
)
from jwst_tvbadpix.report import (
    badpix_page,
    build_report,
    plot_bad_pixel_map,
    plot_base_change,
    plot_growth,
    plot_growth_per_year,
    plot_light_curve,
    plot_odds,
    tabulate_growth,
)
from jwst_tvbadpix.report.light_curves import ADVICE
from jwst_tvbadpix.simulate import simulate_programme
from jwst_tvbadpix.steps import TimeVariableBadPixel

SECTIONS = ["Pixels", "Last mask", "Growth", "Examples", "Odds", "Exposures"]


@pytest.fixture(scope="module")
def history():
    return make_report_history()


@pytest.fixture(scope="module")
def products(history, tmp_path_factory):
    return write_products(history, tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def page(products):
    return build_report(products)


@pytest.fixture
def axes():
    return Figure().add_subplot()


def find_verdict(page, words):
    (verdict,) = [one for one in page.verdicts if words in one.check]
    return verdict


def remake(folder, **changes):
    """The page of a history that differs."""
    return build_report(write_products(make_report_history(**changes), folder))


def list_items(page):
    return {item.name or item.title: item for part in page.sections for item in part.items}


# ------------------------------------------------------------------------------------ verdicts


def test_a_sound_run_passes(page):
    judged = {one.check: one.passed for one in page.verdicts if one.passed is not None}
    assert len(judged) == 6
    assert all(judged.values())
    assert find_verdict(page, "False flags expected among all").value == "1.90 % (19 of 1000)"
    assert find_verdict(page, "mask of an exposure").value == "2 (median), 2 (most)"
    assert find_verdict(page, "Exposures used").value == "12 of 12"
    assert find_verdict(page, "own state").value == "12 of 12"
    assert find_verdict(page, "Base mask").value == "base_mask.fits (arbitrate)"
    assert page.missing == ()
    assert [part.title for part in page.sections] == SECTIONS


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        ("False flags expected among all", {"settings": {"expected_false": 21.0}}),
        (
            "Base mask",
            {"base": None, "warnings": ["NOT FOR DELIVERY: made without a base mask"]},
        ),
    ],
)
def test_what_is_wrong_fails(tmp_path, words, changes):
    page = remake(tmp_path, **changes)
    failed = [one.check for one in page.verdicts if one.passed is False]
    assert len(failed) == 1
    assert words in failed[0]


@pytest.mark.parametrize(("column", "words"), [("used", "Exposures used"), ("neutral", "neutral")])
def test_exposures_that_say_nothing_fail(tmp_path, history, column, words):
    exposures = dict(history.exposures.instance)
    exposures[column] = np.zeros(len(STARTS), bool)
    verdict = find_verdict(remake(tmp_path, exposures=exposures), words)
    assert verdict.passed is False
    assert verdict.value.startswith("0 of")


def test_a_mask_that_lacks_fails_the_exposures_of_its_epoch(products):
    # The onset and the death fall into the masks of exposures 4 and 5, and of 6 and 7.
    page = build_report(products[:2] + products[3:])
    assert find_verdict(page, "Masks of the series").passed is False
    own = find_verdict(page, "own state")
    assert (own.value, own.passed) == ("10 of 12", False)


def alter(mask):
    mask["dq"] = np.array(mask["dq"])
    mask["dq"][10, 10] |= 1


def shift(mask):
    mask["meta"]["useafter"] = "2023-08-01T00:00:00"


def spoil(mask):
    mask["meta"]["useafter"] = "soon"


@pytest.mark.parametrize(
    ("change", "own"), [(alter, "12 of 12"), (shift, "11 of 12"), (spoil, "10 of 12")]
)
def test_a_mask_that_is_not_what_the_history_says_fails(tmp_path, history, change, own):
    paths = write_products(history, tmp_path)
    rewrite(paths[2], change)
    page = build_report(paths)
    series = find_verdict(page, "Masks of the series")
    assert (series.value, series.passed) == ("3 of 4", False)
    assert find_verdict(page, "own state").value == own
    assert page.missing == ()


def test_masks_of_an_earlier_run_and_broken_ones_fail(tmp_path, history):
    paths = write_products(history, tmp_path)
    older = paths[1].with_name(paths[1].name.replace("20211225", "20220101"))
    older.write_bytes(paths[1].read_bytes())
    series = find_verdict(build_report([*paths, older]), "Masks of the series")
    assert (series.value, series.passed) == ("4 of 4; not of it: 1", False)
    paths[1].write_bytes(paths[1].read_bytes()[:-2000])
    series = find_verdict(build_report(paths), "Masks of the series")
    assert (series.value, series.passed) == ("3 of 4", False)


def test_masks_in_the_irs2_frame_are_compared(tmp_path):
    exposures = dict(make_report_history().exposures.instance)
    exposures["readpatt"] = ["NRSIRS2"] * len(STARTS)
    page = remake(tmp_path, detector="NRS1", exposures=exposures)
    series = find_verdict(page, "Masks of the series")
    assert (series.value, series.passed) == ("4 of 4", True)


def test_what_cannot_be_judged_fails(products, monkeypatch):
    def fail(history, masks):
        raise RuntimeError("of another version\nwith more to say")

    monkeypatch.setitem(badpix_page._JUDGES, "Base mask", fail)
    page = build_report(products)
    assert find_verdict(page, "Base mask").passed is False
    assert page.missing == ("Base mask: RuntimeError: of another version",)


def test_fewer_masks_than_changes_are_not_judged_by_state(tmp_path):
    page = remake(tmp_path, settings={"max_masks": 2})
    own = find_verdict(page, "own state")
    assert own.passed is None
    assert int(own.value.split()[0]) < 12
    assert find_verdict(page, "Masks of the series").passed is True


def test_warnings_of_the_run_are_told(tmp_path):
    texts = ["Left out: dark.fits (<no date>)", "Recovery is not measurable"]
    page = remake(tmp_path, warnings=texts)
    assert find_verdict(page, "Warning").value == texts[1]
    assert find_verdict(page, "Exposures used").value == "12 of 13"
    assert page.sections[-1].text == texts[0]


def test_the_self_test_is_reported_not_judged(tmp_path):
    group = {
        "new_flags": 0.5,
        "left_out": ["TELEGRAPH: too few"],
        "class": ["HOT"] * 2,
        "history": ["always", "onset"],
        "amplitude": [6, 6],
        "response": [1, 1],
        "n_injected": [100, 100],
        "completeness": [0.9, 0.8],
        "completeness_err": [0.03, 0.04],
        "found": [0.9, 0.8],
        "found_err": [0.03, 0.04],
        "purity": [0.95, 0.95],
        "purity_err": [0.02, 0.02],
        "dated": [np.nan, 0.7],
        "dated_err": [np.nan, 0.05],
    }
    page = remake(tmp_path, self_test=group)
    verdict = find_verdict(page, "Self-test, HOT")
    assert verdict.passed is None
    assert verdict.value.startswith("0.85 ± 0.0")
    assert find_verdict(page, "left out").value == "TELEGRAPH: too few"
    assert "self_test" in list_items(page)


def test_provenance_and_inputs(page, products):
    text = " ".join(page.provenance.values())
    for word in (products[0].name, "base_mask.fits", "0f0f", "fdr=0.02", "jwst-tvbadpix 0.1.0"):
        assert word in text
    (table,) = [item.content for item in page.sections[-1].items]
    assert list(table["exposure"]) == [f"exposure_{k:02d}_rate.fits" for k in range(12)]
    assert table["SHA-256"][3] == f"{3:064x}"


# ------------------------------------------------------------------------------------- figures


def test_growth_is_counted_by_class(history):
    table = {row["class"]: row for row in tabulate_growth(history)}
    years = (STARTS[-1] - STARTS[0]) / 365.25
    assert [table["HOT"][name] for name in ("first", "last", "onsets", "recoveries")] == [
        1,
        2,
        1,
        0,
    ]
    assert [table["WARM"][name] for name in ("first", "last", "onsets", "recoveries")] == [
        1,
        0,
        0,
        1,
    ]
    assert table["HOT"]["growth"] == pytest.approx(1 / years, rel=0.01)
    assert table["TELEGRAPH"]["onsets"] == 0
    assert [table["all"][name] for name in ("first", "last")] == [3, 4]
    assert "OTHER_BAD_PIXEL" not in [name for name in table if table[name]["last"]]


def test_a_pixel_that_switches_is_counted_once(tmp_path, axes):
    y, x = PIXELS["telegraph"][:2]
    again = (y, x, "TELEGRAPH", 7, 9, False)
    history = make_report_history((*PIXELS.values(), again))
    last = compose_dq(history, STARTS[-1])
    n_bad = int((last & dq_value("DO_NOT_USE") != 0).sum() - 1)  # one is of the base mask alone
    assert plot_bad_pixel_map(history, STARTS[-1], axes).get_title().startswith(f"{n_bad} bad")
    assert "TELEGRAPH (1)" in [line.get_label() for line in axes.lines]
    table = {row["class"]: row for row in tabulate_growth(history)}
    assert (table["TELEGRAPH"]["last"], table["all"]["last"]) == (1, n_bad)
    assert plot_growth(history, Figure().add_subplot()).lines[0].get_ydata()[-1] == n_bad
    sources = [one.data for one in get_sources(build_report(write_products(history, tmp_path)))]
    masked = [one["y"].tolist() for one in sources if {"y", "start"} <= set(one)]
    assert masked.count([y]) == 1


def test_nothing_bad_is_drawn_without_warnings(axes):
    history = make_report_history(())
    assert plot_bad_pixel_map(history, STARTS[-1], axes).get_legend() is None
    assert plot_odds(history, Figure().add_subplot()).get_ylim() == (0.1, 5)


def test_bars_of_a_year_add_up_to_its_changes(history, axes):
    ax = plot_growth_per_year(history, axes)
    # Onsets of 2023 (exposures 4 and 6) and the recovery of 2024 (8), of a full and a part year.
    share = 0.68  # until 2024-09-07
    height = np.array([bar.get_height() for bar in ax.patches])
    assert height[height > 0].sum() == pytest.approx(2, rel=0.02)
    assert height[height < 0].sum() == pytest.approx(-1 / share, rel=0.05)


def test_the_base_mask_is_compared(history, axes):
    ax = plot_base_change(history, STARTS[-1], axes)
    places = {line.get_label().rpartition(" (")[0]: line.get_xydata()[:, ::-1] for line in ax.lines}
    assert places["kept, seen bad"].tolist() == [list(BASE["kept"])]
    assert places["kept, never seen bad"].tolist() == [list(BASE["unseen"])]
    assert places["dropped"].tolist() == [list(BASE["released"])]
    added = sorted(list(PIXELS[name][:2]) for name in ("onset", "telegraph", "dead"))
    assert sorted(places["added"].tolist()) == added


def test_odds_promise_what_they_say(history, axes):
    title = plot_odds(history, axes).get_title()
    share = 100 / (1 + np.exp(8))
    assert title == f"False flags: {share:.2g} % by the odds, 1.9 % by 5000 decoys"


def test_light_curves_of_candidates_and_of_the_control_sample(history):
    for place, n in ((PIXELS["onset"][:2], 12), (CANDIDATE, 12), (CONTROL, 11)):
        ax = plot_light_curve(history, *place, Figure().add_subplot())
        assert len(ax.containers[0][0].get_xdata()) == n
    ax = plot_light_curve(history, *PIXELS["onset"][:2], Figure().add_subplot())
    good, bad = (line.get_ydata()[0] for line in ax.lines[-2:])
    assert bad - good == pytest.approx(LEVEL)
    assert good == pytest.approx(0, abs=NOISE)
    with pytest.raises(ValueError, match="y=3 x=4"):
        plot_light_curve(history, 3, 4, Figure().add_subplot())


def test_plots_refuse_what_they_cannot_show(history):
    exposures = dict(history.exposures.instance)
    exposures["expmid_mjd"] = np.full(len(STARTS), STARTS[0])
    with pytest.raises(InputError, match="different dates"):
        tabulate_growth(make_report_history(exposures=exposures))
    with pytest.raises(InputError, match="--base_mask"):
        plot_base_change(make_report_history(base=None), STARTS[-1])


def get_sources(page):
    from bokeh.models import ColumnDataSource

    (layout,) = [item.content for item in page.sections[0].items]
    return [model for model in layout.references() if isinstance(model, ColumnDataSource)]


def test_the_page_packs_residuals_finely_enough(page, history):
    (pixels,) = [source.data for source in get_sources(page) if "residual_step" in source.data]
    assert pixels["residual"].dtype == np.int16
    assert pixels["noise"].dtype == np.uint8
    residual, noise = (
        np.concatenate(parts)
        for parts in zip(
            *(unpack_residuals(history, g) for g in ("residuals", "control")), strict=True
        )
    )
    seen = np.isfinite(residual)
    np.testing.assert_array_equal(pixels["residual"] != -32768, seen)
    for values, name, worst in ((residual, "residual", 0.11), (noise, "noise", 0.03)):
        found = pixels[name] * pixels[f"{name}_step"][:, None]
        assert np.abs(found - values)[seen].max() <= worst * NOISE


# -------------------------------------------------------------------- what is absent, or not ours


def test_a_page_without_bokeh_shows_the_rest(products, page, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "bokeh"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "bokeh", None)
    without = build_report(products)
    (text,) = without.missing
    assert text.startswith("Map and light curves: needs bokeh")
    assert without.verdicts == page.verdicts
    assert [len(part.items) for part in without.sections] == [0, *map(count, page.sections[1:])]


def count(section):
    return len(section.items)


def test_a_history_alone(products):
    page = build_report(products[:1])
    assert page.missing == ("Masks: none of this run lies beside the history",)
    assert find_verdict(page, "Masks of the series").passed is False
    assert [part.title for part in page.sections] == SECTIONS


def test_masks_without_their_history(products):
    page = build_report(products[1:])
    assert page.missing == ("History: no *_badpixhistory.asdf file of this run was found",)
    (table,) = [item.content for item in page.sections[0].items]
    assert table["valid from (USEAFTER)"][1][:10] == date_of(BEFORE[4])


def rewrite(path, change):
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        tree = dict(file.tree)
    change(tree)
    asdf.AsdfFile(tree).write_to(path)


def test_a_history_of_another_version_shows_its_masks(tmp_path, history):
    paths = write_products(history, tmp_path)
    rewrite(paths[0], lambda tree: tree.update(schema_version="2.0.0"))
    page = build_report(paths)
    (text,) = page.missing
    assert "found 2.0.0" in text
    assert count(page.sections[0]) == 1


def test_a_history_before_the_control_sample(tmp_path, history):
    paths = write_products(history, tmp_path)

    def age(tree):
        del tree["control"]
        tree["schema_version"] = "1.0.0"

    rewrite(paths[0], age)
    page = build_report(paths)
    (text,) = page.missing
    assert text.startswith("Control sample: histories of layout 1.0.0 hold none")
    labels = [source.data["y"] for source in get_sources(page) if "residual_step" in source.data]
    assert len(labels[0]) == len(PIXELS) + 1


def test_a_history_without_exposures(tmp_path, history):
    exposures = {name: values[:0] for name, values in history.exposures.instance.items()}
    empty = {"y": [], "x": [], "residual": np.zeros((0, 0)), "noise": np.zeros((0, 0)), "scale": []}
    made = make_report_history(exposures=exposures, residuals=empty, control=empty)
    path = write_asdf(made, tmp_path / "run_MIRIMAGE_badpixhistory.asdf")
    assert main(["report", str(path), f"--output-dir={tmp_path}"]) == 0
    text = (tmp_path / "run_report.html").read_text(encoding="utf-8")
    missing = re.search(r'id="missing".*?</div>', text, re.S)[0]
    for words in (
        "Growth and examples: the history has no exposures",
        "Map and light curves: expected exposures",
        "Exposures: expected exposures",
    ):
        assert words in missing
    assert missing.count("<li>") == 4  # and the masks
    assert "<h2>Last mask</h2>" in text
    assert "run_" not in missing
    assert text.count("<img") == 3


def test_a_run_from_one_exposure_without_an_order_in_time(tmp_path, history):
    exposures = dict(history.exposures.instance)
    for name in ("expstart_mjd", "expmid_mjd", "expend_mjd"):
        exposures[name] = np.full(len(STARTS), np.nan)
    page = remake(tmp_path, exposures=exposures)
    assert find_verdict(page, "own state").passed is None
    assert count(page.sections[0]) == 1


# ------------------------------------------------------------------------- the command, the step


def test_the_command_remakes_the_page(products, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["report", str(products[0]), f"--output-dir={out}", "--figures=pdf"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == str(out / "run_report.html")
    assert sorted(map(str, out.iterdir())) == sorted(printed)
    assert str(out / "run_growth.pdf") in printed
    first = (out / "run_report.html").read_bytes()
    assert main(["report", str(products[0].parent), f"--output-dir={out}"]) == 0
    assert (out / "run_report.html").read_bytes() == first


@pytest.fixture(scope="module")
def rates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rates")
    return simulate_programme(folder, mode="slitless", n_exposures=4).rates


def test_a_failure_to_draw_keeps_the_products(rates, tmp_path, monkeypatch, caplog):
    def fail(products):
        raise RuntimeError("no ink")

    (tmp_path / "run_report.html").write_text("of an earlier run")
    monkeypatch.setattr("jwst_tvbadpix.steps._base.build_report", fail)
    models = TimeVariableBadPixel.call(
        [str(path) for path in rates],
        output_dir=str(tmp_path),
        output_file="run",
        save_results=True,
    )
    assert "No run_report.html: RuntimeError: no ink" in caplog.text
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2 * len(models) - 1
    assert not any("report" in name for name in names)


def test_the_step_writes_a_page_unless_told_not_to(rates, tmp_path):
    for wanted in (True, False):
        TimeVariableBadPixel.call(
            [str(path) for path in rates],
            output_dir=str(tmp_path / str(wanted)),
            output_file="run",
            save_results=True,
            report=wanted,
        )
    texts = {path.name for path in (tmp_path / "True").iterdir()}
    assert {"run_report.html", "run_map.png", "run_growth.png"} <= texts
    ends = {path.suffix for path in (tmp_path / "False").iterdir()}
    assert ends == {".asdf", ".fits"}
    (path,) = (tmp_path / "True").glob("*_badpixhistory.asdf")
    history = read_history(path)
    # Of 416 rows and 68 science columns 1 % are drawn.
    assert 200 < len(history.control.y) < 370
    kept = {(y, x) for y, x in zip(history.residuals.y, history.residuals.x, strict=True)}
    assert not kept & set(zip(history.control.y, history.control.x, strict=True))
    residual, noise = unpack_residuals(history, "control")
    assert 0.5 < np.nanmedian(np.abs(residual / noise)) < 0.9  # 0.67 for a Gaussian


def test_the_lines_for_other_pixels_work(rates):
    y, x = 700, 30
    code = (
        ADVICE.partition("(in their folder):\n\n")[2].replace("<y>", str(y)).replace("<x>", str(x))
    )
    code = code.replace("plt.show()", "print(*plt.gca().lines[0].get_ydata())")
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(rates[0]).parent,
        env={"MPLBACKEND": "agg", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    values = np.array(done.stdout.split(), float)
    assert values.size == 4
    assert np.isfinite(values).all()
    assert np.abs(values).max() < 50
