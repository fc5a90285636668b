"""Shared by the tests of the page of bad pixels: a history made by hand, its products, Chromium."""

import shutil
import tempfile
import time
from contextlib import contextmanager

import numpy as np
import pytest
from astropy.time import Time

from jwst_tvbadpix.refmodels import (
    build_history,
    build_mask_series,
    dq_value,
    history_columns,
    write_asdf,
    write_twins,
)
from jwst_tvbadpix.refmodels.history import pack_residuals

INF = np.inf
# Exposures two months apart; changes lie in the middle of the gaps.
STARTS = 59900.0 + 60.0 * np.arange(12)
ENDS = STARTS + 0.01
NOISE, LEVEL = 0.2, 5.0
BEFORE = {k: float(STARTS[k] - 30) for k in range(12)}
# y, x, class, first bad exposure, first good one after it (None: open), pending.
PIXELS = {
    "always": (500, 500, "HOT", None, None, False),
    "onset": (300, 700, "HOT", 4, None, False),
    "recovery": (700, 300, "WARM", None, 8, False),
    "telegraph": (200, 200, "TELEGRAPH", 2, 5, False),
    "dead": (800, 800, "DEAD", 6, None, False),
    "pending": (400, 100, "OTHER_BAD_PIXEL", 11, None, True),
}
ROWS = tuple(PIXELS.values())
# A candidate that is never flagged, and a pixel of the control sample.
CANDIDATE, CONTROL = (600, 100), (100, 600)
# Of the base mask: one that is seen bad, one never, one that the data release.
BASE = {"kept": (500, 500), "unseen": (50, 60), "released": (900, 910)}
SETTINGS = {
    "dating": "midpoint",
    "depth": "single",
    "max_masks": 0,
    "mask_filter": "N/A",
    "first_useafter": "2021-12-25T00:00:00",
    "base_policy": "arbitrate",
    "fdr": 0.02,
    "threshold": 3.0,
    "flags": 1000,
    "expected_false": 19.0,
    "n_decoys": 5000,
    "decoy_excess": 1.1,
}


def make_interval(y, x, name, first, last, pending):
    start = -INF if first is None else BEFORE[first]
    end = INF if last is None else BEFORE[last]
    columns = {"y": y, "x": x, "state": 1, "class": name, "amplitude": LEVEL}
    for key, when in (("start", start), ("end", end)):
        columns |= {f"{key}_mjd": when, f"{key}_lo": when, f"{key}_hi": when}
    more = {"amplitude_err": 0.1, "response": 1.0, "log_odds": 8.0, "n_looks": 6}
    return {**columns, **more, "pending": pending, "dnu": not pending}


def make_intervals(rows):
    released = make_interval(*BASE["released"], "GOOD", None, None, False)
    every = [make_interval(*row) for row in rows]
    every.append({**released, "state": 0, "dnu": False, "amplitude": 0.0})
    return {key: [row[key] for row in every] for key in every[0]}


def make_evidence(places, seed):
    """Residuals of pixels (y, x, first bad exposure, last); the last exposure is no evidence."""
    rng = np.random.default_rng(seed)
    residual = rng.normal(0, NOISE, (len(places), len(STARTS)))
    for values, (*_, first, last) in zip(residual, places, strict=True):
        values[first:last] += LEVEL
    residual[:, -1:] = np.where(np.arange(len(places))[:, None] == 0, np.nan, residual[:, -1:])
    noise = np.full(residual.shape, NOISE)
    columns = pack_residuals(residual, noise, range(len(STARTS)), len(STARTS))
    y, x = np.array([place[:2] for place in places], int).reshape(-1, 2).T
    return {"y": y, "x": x, **columns}


def make_report_history(rows=ROWS, **changes):
    """A history of six bad pixels, one candidate and one of the control sample."""
    n = len(STARTS)
    exposures = {
        name: [""] * n if dtype == "str" else np.zeros(n)
        for name, (dtype, *_) in history_columns()["exposures"].items()
    }
    exposures["filename"] = [f"exposure_{k:02d}_rate.fits" for k in range(n)]
    exposures["sha256"] = [f"{k:064x}" for k in range(n)]
    exposures["expstart_mjd"], exposures["expend_mjd"] = STARTS, ENDS
    exposures["expmid_mjd"] = (STARTS + ENDS) / 2
    exposures["used"] = exposures["neutral"] = np.ones(n, bool)
    exposures["expected_false"] = np.full(n, 1.5)
    seen = [(y, x, first or 0, n if last is None else last) for y, x, _, first, last, _ in rows]
    y, x = zip(*BASE.values(), strict=True)
    parts = {
        "detector": "MIRIMAGE",
        "exposures": exposures,
        "intervals": make_intervals(rows),
        "residuals": make_evidence([*seen, (*CANDIDATE, 3, 4)], 1),
        "control": make_evidence([(*CONTROL, 0, 0)], 2),
        "base": {
            "file": "base_mask.fits",
            "sha256": "0f" * 32,
            "y": y,
            "x": x,
            "dq": [dq_value("DO_NOT_USE")] * len(y),
        },
        "settings": {**SETTINGS, **changes.pop("settings", {})},
        "versions": {"jwst-tvbadpix": "0.1.0"},
        "warnings": [],
        "useafter": SETTINGS["first_useafter"],
        "pedigree": "INFLIGHT 2022-11-17 2024-09-07",
        "description": "History by hand",
        **changes,
    }
    return build_history(**parts)


def write_products(history, folder, name="run"):
    """Write a history and its masks; their paths, the history first."""
    path = write_asdf(history, folder / f"{name}_MIRIMAGE_badpixhistory.asdf")
    masks = build_mask_series(history, name)
    return [path, *(write_twins(m, (folder / m.meta.filename).with_suffix(""))[0] for m in masks)]


def date_of(mjd):
    return Time(mjd, format="mjd").isot[:10]


# ------------------------------------------------------------------------------- the browser


@contextmanager
def open_chromium():
    """A headless Chromium without network; skips where there is none."""
    selenium = pytest.importorskip("selenium.webdriver")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no Chromium with chromedriver")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1300,1000",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chrome = selenium.Chrome(options, selenium.ChromeService(driver))
        try:
            chrome.execute_cdp_cmd("Network.enable", {})
            offline = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
            chrome.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **offline})
            yield chrome
        finally:
            chrome.quit()


def open_page(chrome, path, seconds=60):
    """Open a page from disk; milliseconds until its plots are drawn."""
    chrome.get(path.resolve().as_uri())
    return wait_for(
        lambda: chrome.execute_script("return document.documentElement.dataset.drawn"), seconds
    )


def wait_for(find, seconds=20):
    """Wait until something is found, and return it."""
    end = time.monotonic() + seconds
    while not (found := find()):
        assert time.monotonic() < end, "nothing appeared on the page"
        time.sleep(0.05)
    return found
