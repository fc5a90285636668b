"""The pages as a reader has them: in Chromium, from disk, without network."""

import base64
import json
import re

import numpy as np
import pytest
from report_history import (
    BEFORE,
    CANDIDATE,
    CONTROL,
    LEVEL,
    NOISE,
    PIXELS,
    ROWS,
    STARTS,
    date_of,
    make_interval,
    make_report_history,
    open_chromium,
    open_page,
    wait_for,
    write_products,
)

from jwst_tvbadpix.refmodels.history import pack_residuals
from jwst_tvbadpix.report import build_report, write_page

# What a page for 40 full-frame exposures may take.
MOST_MS, MOST_BYTES = 2000, 15e6


@pytest.fixture(scope="module")
def chrome():
    with open_chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    events = {"mjd": [STARTS[6] + 3], "label": ["anneal <b>"], "kind": ["anneal"]}
    write_page(
        build_report(write_products(make_report_history(events=events), folder)),
        folder / "run_report.html",
    )
    return folder / "run_report.html"


@pytest.fixture
def opened(chrome, path):
    open_page(chrome, path)
    wait_for(lambda: ask(chrome, "message.text"))
    return chrome


def ask(chrome, what):
    """Ask for a part of the models: `map`, `curve`, `pixel`, `date`, `message`."""
    return chrome.execute_script(
        f"""const find = name =>
          Bokeh.documents.map(d => d.get_model_by_name(name)).find(model => model);
        const [map, curve, pixel, date, message] =
          ["map", "curve", "pixel", "date", "message"].map(find);
        const get = (renderer, key) => Array.from(renderer.data_source.get_column(key));
        return {what};"""
    )


def type_pixel(chrome, text):
    """Type into the field, as a reader does; what the plot then says."""
    from selenium.webdriver.common.keys import Keys

    before = ask(chrome, "message.text")
    field = chrome.execute_script(
        """const search = root => {
          for (const node of root.querySelectorAll("*")) {
            if (node.matches("input[type=text]")) return node;
            const found = node.shadowRoot && search(node.shadowRoot);
            if (found) return found;
          }
        };
        return search(document);"""
    )
    field.clear()
    nothing = wait_for(lambda: (now := ask(chrome, "message.text")) != before and now)
    assert nothing.endswith('found "".')
    field.send_keys(text, Keys.ENTER)
    wait_for(lambda: ask(chrome, "message.text") != nothing)
    return ask(chrome, "[curve.title.text, message.text]")


def click_map(chrome, y, x):
    """Click a place of the map, in pixels of the detector."""
    from selenium.webdriver.common.action_chains import ActionChains

    chrome.execute_script("document.querySelector('#plot-1').scrollIntoView()")
    place = ask(
        chrome,
        f"""(() => {{
          const view = Bokeh.index.find_one(map);
          const box = view.canvas_view.el.getBoundingClientRect();
          const frame = view.frame.bbox;
          const [x_range, y_range] = [map.x_range, map.y_range];
          return [
            box.left + frame.left
              + frame.width * ({x} - x_range.start) / (x_range.end - x_range.start),
            box.top + frame.top
              + frame.height * (y_range.end - {y}) / (y_range.end - y_range.start),
          ];
        }})()""",
    )
    actions = ActionChains(chrome)
    actions.w3c_actions.pointer_action.move_to_location(*(round(value) for value in place))
    actions.w3c_actions.pointer_action.click()
    actions.perform()


def read_points(chrome):
    """Times [MJD], residuals and colours of the light curve that is shown."""
    time, residual, colour = ask(
        chrome,
        """(() => {
          const points = curve.renderers.filter(r => r.glyph.type === "Scatter")[0];
          return ["time", "residual", "colour"].map(key => get(points, key));
        })()""",
    )
    return np.array(time) / 86400e3 + 40587, np.array(residual), np.array(colour)


def read_spans(chrome):
    left, right = ask(
        chrome,
        """(() => {
          const spans = curve.renderers.filter(r => r.glyph.type === "VStrip")[0];
          return ["left", "right"].map(key => get(spans, key));
        })()""",
    )
    return (np.array([left, right]).T / 86400e3 + 40587).tolist()


def test_a_clicked_pixel_shows_its_light_curve(opened):
    y, x = PIXELS["recovery"][:2]
    click_map(opened, y + 3, x - 3)  # near enough
    wait_for(lambda: ask(opened, "pixel.value") == f"{y}, {x}")
    assert ask(opened, "curve.title.text") == f"y={y} x={x}: WARM"
    message = ask(opened, "message.text")
    assert f"until {date_of(BEFORE[8])}: amplitude 5.00 DN/s, log-odds 8.0" in message
    time, residual, colour = read_points(opened)
    np.testing.assert_allclose(time, STARTS + 0.005, atol=1e-6)
    bad = BEFORE[8] > STARTS
    np.testing.assert_allclose(residual, np.where(bad, LEVEL, 0), atol=5 * NOISE)
    assert len(set(colour[bad])) == len(set(colour[~bad])) == 1
    assert colour[0] != colour[-1]
    ((left, right),) = read_spans(opened)
    assert left < STARTS[0]
    assert right == pytest.approx(BEFORE[8], abs=1e-6)
    assert ask(opened, "curve.renderers.filter(r => r.glyph.type === 'Segment').length") == 2


def test_a_click_far_from_all_names_the_pixel_under_it(opened):
    click_map(opened, 950, 950)
    wait_for(lambda: "not kept" in ask(opened, "curve.title.text"))
    y, x = map(int, ask(opened, "pixel.value").split(","))
    assert abs(y - 950) <= 2
    assert abs(x - 950) <= 2
    assert f"own = rate[:, {y} - max(y0, {y} - 4), {x} - x0]" in ask(opened, "message.text")
    assert read_points(opened)[0].size == 0
    assert read_spans(opened) == []


@pytest.mark.parametrize(
    ("place", "kind", "words", "n"),
    [
        (PIXELS["always"][:2], "HOT", "from before the first exposure until after the last", 11),
        (PIXELS["telegraph"][:2], "TELEGRAPH", "masked at every date", 12),
        (PIXELS["pending"][:2], "candidate, not flagged", "pending: only the last", 12),
        (CANDIDATE, "candidate, not flagged", "never flagged", 12),
        (CONTROL, "control sample", "drawn at random", 11),
    ],
)
def test_a_typed_pixel_shows_its_light_curve(opened, place, kind, words, n):
    title, message = type_pixel(opened, f" {place[0]} ,{place[1]}")
    assert title == f"y={place[0]} x={place[1]}: {kind}"
    assert message.startswith(f"{n} exposures with evidence.")
    assert words in message
    assert read_points(opened)[0].size == n


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<img src=x onerror=alert(1)>", "Expected row and column"),
        ("12", "Expected row and column"),
        ("y=1024 x=5", "Expected a pixel of the detector"),
        ("-3, 5", "Expected row and column"),
        ("1024, 5", "Expected a pixel of the detector, 1024 rows and 1032 columns"),
        ("5, 99999999999999999999", "Expected a pixel of the detector"),
    ],
)
def test_nonsense_is_answered(opened, text, words):
    title, message = type_pixel(opened, text)
    assert title == "No pixel"
    assert words in message
    assert read_points(opened)[0].size == 0
    assert not opened.find_elements("css selector", "img[src=x]")


def test_the_slider_shows_one_mask_after_the_other(opened):
    layers = """map.renderers.filter(r => r.view.filter.type === "BooleanFilter"
      && r.data_source.get_column("start")).map(r => [
        r.data_source.get_column("y").length,
        r.view.filter.booleans === null ? null : r.view.filter.booleans.filter(Boolean).length])"""
    assert sum(n for n, _ in ask(opened, layers)) == 5
    for value, date, count in ((1, "2021-12-25", 3), (2, date_of(BEFORE[4]), 4)):
        ask(opened, f"(date.value = {value})")
        assert ask(opened, "map.title.text").startswith(f"Mask from {date}")
        assert ask(opened, "map.title.text").endswith(f": {count} pixels")
        assert sum(shown for _, shown in ask(opened, layers)) == count
    ask(opened, "(date.value = 0)")
    assert sum(shown for _, shown in ask(opened, layers)) == 5


def test_the_legend_hides_a_class(opened):
    item = (
        "map.below.find(m => m.type === 'Legend').items.find(i => i.label.value.startsWith('HOT'))"
    )
    assert ask(opened, f"{item}.renderers[0].visible") is True
    assert ask(opened, "map.below.find(m => m.type === 'Legend').click_policy") == "hide"
    assert ask(opened, "map.renderers.filter(r => !r.visible).length") == 2  # candidates, control


def test_no_request_and_no_error(opened):
    click_map(opened, *PIXELS["onset"][:2])
    type_pixel(opened, "1, 1")
    requests = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    addresses = [
        message["params"]["request"]["url"]
        for message in requests
        if message["method"] == "Network.requestWillBeSent"
        and message["params"]["documentURL"].startswith("file:")
    ]
    assert any(address.endswith("run_report.html") for address in addresses)
    assert {address.partition(":")[0] for address in addresses} <= {"file", "data"}
    files = {address for address in addresses if address.startswith("file:")}
    assert len(files) == 1
    wrong = [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"]
    assert wrong == []


def test_it_prints_with_its_figures(opened, path):
    printed = opened.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    pdf = base64.b64decode(printed["data"])
    n_figures = path.read_text(encoding="utf-8").count("<img src=")
    images = re.findall(rb"/Subtype\s*/Image", pdf)
    assert n_figures >= 7
    # The two canvases of the plot are images, too.
    assert len(images) >= n_figures + 2
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) >= 3


# ------------------------------------------------------------------------------- a large history


def make_large_history(n_exposures=40, n_bad=5000, n_candidates=20000, n_control=10000):
    """As many pixels as a full-frame MIRI run of 40 exposures keeps."""
    rng = np.random.default_rng(7)
    n = n_bad + n_candidates + n_control
    place = rng.choice(1024 * 1032, n, replace=False)
    y, x = place // 1032, place % 1032
    starts = 59800 + np.sort(rng.uniform(0, 1400, n_exposures))
    small = make_report_history()
    exposures = {}
    for name, values in small.exposures.instance.items():
        exposures[name] = [values[k % len(values)] for k in range(n_exposures)]
    exposures |= {"expstart_mjd": starts, "expmid_mjd": starts + 0.005, "expend_mjd": starts + 0.01}
    names = rng.choice(["HOT", "WARM", "DEAD", "LOW_QE"], n_bad)
    first = rng.integers(1, n_exposures, n_bad)
    one = make_interval(0, 0, "HOT", None, None, False)
    intervals = {key: np.full(n_bad, value) for key, value in one.items()}
    intervals |= {"y": y[:n_bad], "x": x[:n_bad], "class": names}
    when = (starts[first - 1] + starts[first]) / 2
    when[: n_bad // 2] = -np.inf
    for key in ("start_mjd", "start_lo", "start_hi"):
        intervals[key] = when
    noise = rng.uniform(0.1, 0.5, (n, 1)) * rng.uniform(0.9, 1.1, (n, n_exposures))
    residual = noise * rng.standard_normal((n, n_exposures))
    residual[:n_bad] += np.where(np.arange(n_exposures) >= first[:, None], 10.0, 0.0)
    parts = {}
    for key, chosen in (("residuals", slice(n - n_control)), ("control", slice(n - n_control, n))):
        packed = pack_residuals(residual[chosen], noise[chosen], range(n_exposures), n_exposures)
        parts[key] = {"y": y[chosen], "x": x[chosen], **packed}
    return make_report_history(ROWS, exposures=exposures, intervals=intervals, **parts)


@pytest.mark.slow
def test_a_large_page_is_small_and_quick(chrome, tmp_path):
    """The time is that of an idle machine: the best of five openings."""
    products = write_products(make_large_history(), tmp_path)
    path = tmp_path / "run_report.html"
    write_page(build_report(products), path)
    assert path.stat().st_size < MOST_BYTES
    times = [int(open_page(chrome, path)) for _ in range(5)]
    assert min(times) < MOST_MS, times
