"""Shared by the tests of dated masks in exposures: a history made by hand, ramps, a context."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.time import Time
from stdatamodels.jwst.datamodels.dqflags import pixel

from jwst_tvbadpix.delivery import build_context
from jwst_tvbadpix.refmodels import (
    build_history,
    build_mask,
    build_mask_series,
    history_columns,
    write_asdf,
    write_twins,
)
from jwst_tvbadpix.simulate import ExposureSpec, build_lrs_scene, write_ramp, write_references

FIRST = "2021-12-25T00:00:00"
# The changes of the history below, and a date before, between and after them.
CHANGES = ("2022-08-01T00:00:00", "2023-06-01T00:00:00", "2024-02-01T00:00:00")
DATES = ("2022-03-01T05:00:00", "2023-01-01T06:00:00", "2023-09-01T07:00:00", "2024-09-01T08:00:00")
INF = np.inf
FULL = (1024, 1032)
SIZES = {"MIRIMAGE": FULL, "NRS1": (2048, 2048), "NRS2": (2048, 2048)}


def mjd(date):
    return float(Time(date, scale="utc").mjd)


# y, x, class, start, end: within SLITLESSPRISM (rows 528 to 943, columns 0 to 71).
ROWS = [
    (600, 10, "HOT", -INF, INF),
    (610, 20, "HOT", mjd(CHANGES[0]), INF),
    (620, 30, "DEAD", mjd(CHANGES[1]), INF),
    (630, 40, "UNRELIABLE_SLOPE", -INF, mjd(CHANGES[1])),
    (640, 50, "TELEGRAPH", mjd(CHANGES[0]), mjd(CHANGES[2])),
    (650, 60, "WARM", mjd(CHANGES[0]), mjd(CHANGES[2])),
    (100, 500, "HOT", mjd(CHANGES[0]), INF),  # outside
    *((700 + k, 15, "HOT", mjd(CHANGES[k % 3]), INF) for k in range(12)),
]


def make_history(rows=ROWS, detector="MIRIMAGE", readpatts=("FASTR1",), **settings):
    """A history whose intervals are `rows`."""
    n = 6
    exposures = {
        name: ["text"] * n if dtype == "str" else np.zeros(n)
        for name, (dtype, *_) in history_columns()["exposures"].items()
    }
    exposures["readpatt"] = [readpatts[k % len(readpatts)] for k in range(n)]
    exposures["ngroups"] = np.full(n, 8)
    exposures["used"] = np.ones(n, bool)
    exposures["expstart_mjd"] = np.linspace(59700, 60700, n)
    exposures["expend_mjd"] = exposures["expstart_mjd"] + 0.01
    names = ("y", "x", "class", "start_mjd", "end_mjd")
    named = dict(zip(names, zip(*rows, strict=True), strict=True))
    named |= {"state": 1, "dnu": True, "pending": False, "n_looks": 5, "amplitude": 100.0}
    intervals = {
        name: np.broadcast_to(np.asarray(named.get(name, 0)), len(rows)).astype(dtype)
        for name, (dtype, *_) in history_columns()["intervals"].items()
    }
    nothing = np.zeros((0, n))
    return build_history(
        detector=detector,
        exposures=exposures,
        intervals=intervals,
        residuals={"y": (), "x": (), "residual": nothing, "noise": nothing, "scale": ()},
        base=None,
        settings={
            "base_policy": "none",
            "first_useafter": FIRST,
            "mask_filter": "P750L" if detector == "MIRIMAGE" else "N/A",
            "fdr": 0.02,
            "flags": 100,
            "expected_false": 2.0,
            "n_decoys": 1000,
            "max_masks": 0,
            "depth": "single",
            **settings,
        },
        versions={"jwst-tvbadpix": "9.8.7"},
        warnings=[],
        useafter=FIRST,
        pedigree="INFLIGHT 2022-07-01 2025-06-30",
        description="History",
    )


def draw_static_dq(seed=3):
    """The mask of today: bad pixels of its own, and some of the history's, with other bits."""
    rng = np.random.default_rng(seed)
    dq = np.zeros(FULL, np.uint32)
    y, x = rng.integers(0, 1024, 3000), rng.integers(4, 1028, 3000)
    dq[y, x] = pixel["DEAD"] | pixel["DO_NOT_USE"]
    y, x = rng.integers(530, 940, 200), rng.integers(4, 72, 200)
    dq[y, x] = pixel["HOT"] | pixel["DO_NOT_USE"]
    dq[:, :4] = dq[:, -4:] = pixel["REFERENCE_PIXEL"] | pixel["DO_NOT_USE"]
    dq[600, 10] = pixel["DEAD"] | pixel["DO_NOT_USE"]
    dq[620, 30] = pixel["LOW_QE"]
    return dq


def make_static(dq, detector="MIRIMAGE", useafter=FIRST, **selection):
    """A mask as today's CRDS has it."""
    return build_mask(
        dq,
        detector=detector,
        useafter=useafter,
        description="Static mask",
        history=["Made by a test."],
        pedigree="SIMULATION",
        **selection,
    )


@dataclass(frozen=True)
class Setting:
    """All that a run with and without dated masks takes."""

    folder: Path
    history: Path
    masks: Path
    useafter: tuple
    static: Path
    references: dict
    context: object

    def find_mask(self, date, suffix=".fits"):
        """The file of the series that is valid at a date."""
        stamp = max(u for u in self.useafter if u <= date).replace("-", "").replace(":", "")
        return next(self.masks.glob(f"*_mask_{stamp}{suffix}"))

    def write_ramp(self, number, **changes):
        """A ramp of the date of this number."""
        changes = {"subarray": "SLITLESSPRISM", "ngroups": 6, "nints": 2} | changes
        changes = {"seed": number, "observation": number + 1} | changes
        spec = ExposureSpec(mjd(DATES[number]), **changes)
        return write_ramp(self.folder, spec, build_lrs_scene(seed=5))


def build_setting(folder):
    """History, series, and a context that has a static mask alone."""
    folder.mkdir(parents=True, exist_ok=True)
    masks = folder / "masks"
    masks.mkdir()
    history = make_history()
    path = masks / "test_MIRIMAGE_badpixhistory.asdf"
    history.meta.filename = path.name
    write_asdf(history, path)
    series = build_mask_series(history, "test")
    for mask in series:
        write_twins(mask, masks / Path(mask.meta.filename).stem)
    static = next(
        p
        for p in write_twins(make_static(draw_static_dq()), folder / "static")
        if p.suffix == ".fits"
    )
    references = write_references(folder / "references")
    context = build_context(folder / "crds", {"mask": [static], **references})
    useafter = tuple(str(mask.meta.useafter) for mask in series)
    return Setting(folder, path, masks, useafter, static, references, context)
