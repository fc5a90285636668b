import logging
import re
import sys
from pathlib import Path

import asdf
import numpy as np
import pytest
from astropy.table import Table
from matplotlib.figure import Figure

from jwst_tvbadpix.cli import main
from jwst_tvbadpix.errors import InputError
from jwst_tvbadpix.report import (
    Item,
    Page,
    Section,
    Verdict,
    build_report,
    find_groups,
    import_drawing,
    try_item,
    write_figures,
    write_page,
)
from jwst_tvbadpix.report.page import encode_plot, save_beside
from jwst_tvbadpix.report.products import read_product

EVIL = "<script>alert('1')</script>&\"</td>"
SAFE = "&lt;script&gt;alert("


def make_figure(title="a figure"):
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().set(title=title)
    return figure


def make_plot(title="a plot"):
    from bokeh.plotting import figure

    plot = figure(width=200, height=200, title=title)
    plot.scatter(np.arange(5, dtype=np.int16), np.arange(5.0))
    return plot


def make_page(*items, **changes):
    values = {
        "title": "A page",
        "verdicts": (Verdict("check", "1", "2", True),),
        "provenance": {"setting": "value"},
        "sections": (Section("Part one", "Text.", items),),
        **changes,
    }
    return Page(**values)


def write(page, folder, name="page.html"):
    write_page(page, folder / name)
    return (folder / name).read_text(encoding="utf-8")


def test_all_text_is_escaped(tmp_path):
    table = Table({EVIL: [EVIL]})
    page = Page(
        EVIL,
        (Verdict(EVIL, EVIL, EVIL, None),),
        {EVIL: EVIL},
        (Section(EVIL, EVIL, (Item(EVIL, EVIL, table), Item(EVIL, EVIL, make_figure()))),),
        (EVIL,),
    )
    text = write(page, tmp_path)
    assert "<script" not in text
    assert text.count(SAFE) >= 15


def test_a_plot_with_evil_text_stays_within_its_script(tmp_path):
    text = write(make_page(Item("", "", make_plot(EVIL))), tmp_path)
    (block,) = re.findall(r'<script type="application/json".*?</script>', text, re.S)
    assert "\\u003cscript>alert(" in block
    assert block.count("<") == 2


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        ((True, True, None), "All 2 checks pass."),
        ((True, False, None), "1 of 2 checks fail."),
        ((None,), "Nothing was judged."),
    ],
)
def test_the_verdicts_are_summed_up(tmp_path, passed, words):
    verdicts = tuple(Verdict(f"check {k}", "v", "l", one) for k, one in enumerate(passed))
    text = write(make_page(verdicts=verdicts), tmp_path)
    assert words in text
    found = re.findall(r'<td class="(pass|fail|none)">', text)
    assert found == [{True: "pass", False: "fail", None: "none"}[one] for one in passed]


def test_a_page_needs_no_other_file(tmp_path):
    text = write(make_page(Item("", "", make_plot()), Item("", "", make_figure())), tmp_path)
    wanted = re.findall(r"<(?:script|img|link|iframe)[^>]*?(?:src|href)=\"([^\"]*)", text)
    assert len(wanted) == 2
    assert all(address.startswith("data:") for address in wanted)
    assert "@import" not in text.partition("</style>")[0]
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_script_of_plots_is_there_once_and_only_where_needed(tmp_path):
    from bokeh.models.widgets import TextInput

    without = write(make_page(Item("", "", make_figure())), tmp_path)
    plots = write(make_page(*(Item("", "", make_plot()) for _ in range(3))), tmp_path)
    assert len(without) < 60_000
    assert plots.count("BEGIN bokeh.min.js") == 1
    assert "BEGIN bokeh-widgets.min.js" not in plots
    widgets = write(make_page(Item("", "", TextInput())), tmp_path)
    assert widgets.count("BEGIN bokeh-widgets.min.js") == 1


def test_tables_show_all_rows_with_units(tmp_path):
    table = Table({"flux": np.arange(300.0), "name": [f"star {k}" for k in range(300)]})
    table["flux"].unit = "Jy"
    table["flux"].info.format = ".2f"
    text = write(make_page(Item("Stars", "", table)), tmp_path)
    assert "<th>flux [Jy]</th><th>name</th>" in text
    assert text.count("<tr><td>") == 300 + 1
    assert "<td>299.00</td><td>star 299</td>" in text


def test_same_page_same_bytes(tmp_path):
    first = write(make_page(Item("", "", make_plot()), Item("", "", make_figure())), tmp_path)
    make_plot()  # Bokeh numbers its models per process
    assert first == write(
        make_page(Item("", "", make_plot()), Item("", "", make_figure())), tmp_path
    )


def test_what_cannot_be_made_is_named(caplog):
    missing = []

    def lack():
        raise ModuleNotFoundError("No module named 'bokeh'", name="bokeh")

    def refuse():
        raise InputError("expected this, found that; do so")

    with caplog.at_level(logging.CRITICAL):
        assert try_item(missing, "Plot", lack) is None
        assert try_item(missing, "Table", refuse) is None
        assert try_item(missing, "Figure", lambda: 1 / 0) is None
    item = Item("", "", Table())
    assert try_item(missing, "Fine", lambda: item) is item
    assert missing == [
        "Plot: needs bokeh; install it and make the page again",
        "Table: expected this, found that; do so",
        "Figure: ZeroDivisionError: division by zero",
    ]
    assert "<li>Plot: needs bokeh;" in write_text(make_page(missing=tuple(missing)))


def write_text(page):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return write(page, Path(folder))


def test_a_failing_page_leaves_the_old_one(tmp_path):
    write(make_page(), tmp_path)
    before = (tmp_path / "page.html").read_bytes()
    with pytest.raises(AttributeError):
        write(make_page(Item("", "", object())), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_bytes() == before


def test_what_draws_is_imported_where_it_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "bokeh.plotting", None)
    monkeypatch.delitem(sys.modules, "jinja2", raising=False)
    import_drawing()
    assert "jinja2" in sys.modules


def test_what_is_saved_beside_is_not_drawn_again(tmp_path, monkeypatch):
    items = Item("", "", make_figure()), Item("", "", make_plot()), Item("", "", Table({"n": [1]}))
    plain = write(make_page(*items[:1]), tmp_path)
    figure = Item("", "", make_figure())
    with save_beside([figure, *items[1:]]):
        encoded = encode_plot(items[1].content)
    monkeypatch.setattr(Figure, "savefig", None)
    assert write(make_page(figure), tmp_path) == plain
    assert encode_plot(items[1].content) is encoded
    with pytest.raises(TypeError), save_beside([Item("", "", make_figure())]):
        pass


def test_figures_as_files_of_their_own(tmp_path):
    page = make_page(
        Item("", "", make_figure(), "one"), Item("", "", make_figure()), Item("", "", Table(), "no")
    )
    paths = write_figures(page, tmp_path / "new" / "run", ["png", "pdf"])
    assert [path.name for path in paths] == ["run_one.png", "run_one.pdf"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    assert paths[1].read_bytes().startswith(b"%PDF")
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["run_one.pdf", "run_one.png"]


# ---------------------------------------------------------------- which products belong together


def write_head(folder, name, reftype, detector="MIRIMAGE", **more):
    """An ASDF file with as much as tells what it is."""
    meta = {"reftype": reftype, "instrument": {"detector": detector}, **more}
    asdf.AsdfFile({"meta": meta}).write_to(folder / name)
    return folder / name


def names_of(groups):
    return {name: [path.name for path in paths] for name, paths in groups.items()}


def test_products_of_a_run_are_found_beside_each_other(tmp_path):
    history = write_head(tmp_path, "run_MIRIMAGE_badpixhistory.asdf", "BADPIXHISTORY")
    mask = write_head(tmp_path, "run_MIRIMAGE_P750L_mask_20220101T000000.asdf", "MASK")
    write_head(tmp_path, "run_2_MIRIMAGE_mask_20220101T000000.asdf", "MASK")
    (tmp_path / "run_other.asdf").write_text("no ASDF")
    wanted = {"run": [history.name, mask.name]}
    wanted["run"].sort()
    assert names_of(find_groups([history])) == wanted
    assert names_of(find_groups([mask])) == wanted
    assert names_of(find_groups([mask, history])) == wanted


def test_a_product_that_was_replaced_is_read_anew(tmp_path):
    name = "run_MIRIMAGE_P750L_mask_20220101T000000.asdf"
    for date in ("2022-01-01T00:00:00", "2023-01-01T00:00:00"):
        path = write_head(tmp_path, name, "MASK", useafter=date)
        assert read_product(path).useafter == date
    path.unlink()
    with pytest.raises(InputError, match="found no file"):
        read_product(path)


def test_many_products_are_read_in_two_processes(tmp_path):
    dates = [f"{2022 + k // 12}-{1 + k % 12:02d}-01T00:00:00" for k in range(70)]
    paths = [
        write_head(tmp_path, f"run_MIRIMAGE_mask_{k:03d}.asdf", "MASK", useafter=date)
        for k, date in enumerate(dates)
    ]
    (tmp_path / "run_MIRIMAGE_mask_070.asdf").write_text("no ASDF")
    assert names_of(find_groups([tmp_path])) == {"run": [path.name for path in paths]}
    assert [read_product(path).useafter for path in paths] == dates


@pytest.mark.parametrize(
    "text",
    [
        "meta: {reftype: MASK, instrument: {detector: NRS1}, useafter: '2022-01-01T00:00:00'}",
        "meta:\n  reftype: MASK\n# a line\n\n  useafter: '2022-01-01T00:00:00'\n"
        "  instrument: {detector: NRS1}\nother: 1",
        "first: &m {reftype: MASK, instrument: {detector: NRS1}, useafter: '2022-01-01T00:00:00'}\n"
        "meta: *m",
        "{meta: {reftype: MASK, instrument: {detector: NRS1}, useafter: '2022-01-01T00:00:00'}}",
    ],
)
def test_a_head_is_read_however_it_is_written(tmp_path, text):
    path = tmp_path / "run_NRS1_mask_1.asdf"
    start = "#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n--- "
    path.write_text(f"{start}\n{text}\n...\n")
    head = read_product(path)
    assert (head.reftype, head.detector, head.useafter) == ("MASK", "NRS1", "2022-01-01T00:00:00")


def test_runs_of_a_name_get_pages_of_their_own(tmp_path):
    paths = [
        write_head(tmp_path, f"run_{detector}_badpixhistory.asdf", "BADPIXHISTORY", detector)
        for detector in ("NRS1", "NRS2")
    ]
    assert names_of(find_groups(paths[1:])) == {"run_NRS2": [paths[1].name]}
    write_head(tmp_path, "run_absflux.asdf", "ABSFLUX", "N/A")
    assert list(find_groups(paths[:1])) == ["run_NRS1_badpixhistory"]


def test_a_folder_makes_a_page_for_each_run(tmp_path):
    for detector in ("NRS1", "NRS2"):
        write_head(tmp_path, f"run_{detector}_badpixhistory.asdf", "BADPIXHISTORY", detector)
    for name in ("F770W_flat_20220101T000000", "F770W_starflat", "F560W_starflat"):
        reftype = "STARFLAT" if "star" in name else "FLAT"
        write_head(tmp_path, f"sky_MIRIMAGE_{name}.asdf", reftype)
    (tmp_path / "sky_MIRIMAGE_F770W_stars.ecsv").touch()
    (tmp_path / "run.fits").touch()
    assert names_of(find_groups([tmp_path])) == {
        "run_NRS1": ["run_NRS1_badpixhistory.asdf"],
        "run_NRS2": ["run_NRS2_badpixhistory.asdf"],
        "sky": [
            "sky_MIRIMAGE_F560W_starflat.asdf",
            "sky_MIRIMAGE_F770W_flat_20220101T000000.asdf",
            "sky_MIRIMAGE_F770W_starflat.asdf",
            "sky_MIRIMAGE_F770W_stars.ecsv",
        ],
    }


def make_bad(kind, folder):
    path = folder / "x_rate.asdf"
    if kind == "absent":
        return path
    if kind == "empty folder":
        return folder
    if kind == "other":
        return write_head(folder, path.name, "DARK")
    if kind == "no reftype":
        asdf.AsdfFile({"data": 1}).write_to(path)
    elif kind == "fits":
        path.write_bytes(b"SIMPLE  =                    T" + b" " * 2850)
    elif kind == "empty":
        path.touch()
    else:
        whole = write_head(folder, path.name, "MASK").read_bytes()
        path.write_bytes(whole[:80])
    return path


@pytest.mark.parametrize(
    "kind", ["absent", "empty folder", "other", "no reftype", "fits", "empty", "truncated"]
)
def test_what_is_no_product_is_refused(tmp_path, capsys, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    path = make_bad(kind, folder)
    with pytest.raises(InputError, match=re.escape(str(path))):
        find_groups([path])
    assert main(["report", str(path), f"--output-dir={tmp_path / 'out'}"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("tvbadpix report: error: expected")
    assert not out
    assert not (tmp_path / "out").exists()


def test_products_of_two_kinds_make_no_page(tmp_path):
    paths = [
        write_head(tmp_path, "run_MIRIMAGE_badpixhistory.asdf", "BADPIXHISTORY"),
        write_head(tmp_path, "run_absflux.asdf", "ABSFLUX"),
    ]
    with pytest.raises(InputError, match="one run"):
        build_report(paths)
