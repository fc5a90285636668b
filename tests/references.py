"""References for the tests of delivery: masks with their history, flats, photom files."""

import numpy as np
from stdatamodels.jwst.datamodels import FlatModel, MirImgPhotomModel, MirMrsPhotomModel

from jwst_tvbadpix.refmodels import (
    build_history,
    build_mask_series,
    dq_value,
    history_columns,
    write_asdf,
    write_twins,
)

FIRST = "2021-12-25T00:00:00"
# Exposures every 30 days; a pixel of row 600 turns hot between each and the next.
START, STEP = 59700.0, 30.0
BASE = "jwst_miri_mask_0067.fits"
BASE_PIXELS = [(700 + k, 20 + k) for k in range(50)]
INF = np.inf


def make_history(n_epochs=3, *, base=True, detector="MIRIMAGE", warnings=(), **settings):
    """A history of `n_epochs` masks of 40 pixels that are always bad, and those of row 600."""
    n = n_epochs + 1
    table = {
        name: ["text"] * n if dtype == "str" else np.zeros(n)
        for name, (dtype, *_) in history_columns()["exposures"].items()
    }
    table["filename"] = [f"jw{k:03d}_rate.fits" for k in range(n)]
    table["expstart_mjd"] = START + STEP * np.arange(n)
    table["expend_mjd"] = table["expstart_mjd"] + 0.01
    table["used"] = np.ones(n, bool)
    table["ngroups"] = np.full(n, 20)
    for name, value in (
        ("filter", "P750L"),
        ("subarray", "FULL"),
        ("readpatt", "FASTR1"),
        ("exp_type", "MIR_LRS-FIXEDSLIT"),
    ):
        table[name] = [value] * n
    rows = [(600, 10 + k, START + 5 + STEP * k) for k in range(n_epochs - 1)]
    rows += [(100 + k, 50, -INF) for k in range(40)]
    dull = {"state": 1, "class": "HOT", "end_mjd": INF, "dnu": True, "n_looks": 5, "amplitude": 9}
    columns = {
        name: np.full(len(rows), dull.get(name, 0), dtype=dtype)
        for name, (dtype, *_) in history_columns()["intervals"].items()
    }
    for name, k in (("y", 0), ("x", 1), ("start_mjd", 2)):
        columns[name][:] = [row[k] for row in rows]
    residuals = {"y": columns["y"], "x": columns["x"], "scale": np.full(len(rows), 0.001)}
    residuals |= {"residual": np.zeros((len(rows), n)), "noise": np.ones((len(rows), n))}
    y, x = np.array(BASE_PIXELS).T
    flags = np.full(len(y), dq_value("DO_NOT_USE", "NON_SCIENCE"))
    return build_history(
        detector=detector,
        exposures=table,
        intervals=columns,
        residuals=residuals,
        base={"file": BASE, "sha256": "0" * 64, "y": y, "x": x, "dq": flags} if base else None,
        settings={
            "base_policy": "arbitrate",
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
        warnings=list(warnings),
        useafter=FIRST,
        pedigree="INFLIGHT 2022-07-01 2025-06-30",
        description="History",
    )


def write_masks(folder, history, name="lrs"):
    """Write a history and its masks; the FITS files in order of date."""
    folder.mkdir(exist_ok=True)
    history.meta.filename = f"{name}_{history.meta.instrument.detector}_badpixhistory.asdf"
    write_asdf(history, folder / history.meta.filename)
    masks = build_mask_series(history, name)
    return [write_twins(mask, folder / mask.meta.filename[:-5])[1] for mask in masks]


def describe(model, reftype, useafter, detector="MIRIMAGE"):
    meta = model.meta
    meta.reftype, meta.author, meta.useafter = reftype, "A. Tester", useafter
    meta.pedigree, meta.description = "INFLIGHT 2022-06-01 2023-12-31", f"{reftype} of a test"
    meta.instrument.name, meta.instrument.detector = "MIRI", detector
    meta.instrument.band = "N/A"
    model.add_history_entry("Made by a test.")
    return model


def make_flat(filter_name="F770W", useafter=FIRST, seed=1):
    shape = (1024, 1032)
    data = np.random.default_rng(seed).normal(1, 0.01, shape).astype(np.float32)
    flat = FlatModel(data=data, err=np.full(shape, 0.01, np.float32))
    flat.dq = np.zeros(shape, np.uint32)
    flat.dq[5:9, 7] = dq_value("DO_NOT_USE", "NO_FLAT_FIELD")
    describe(flat, "FLAT", useafter)
    flat.meta.instrument.filter, flat.meta.exposure.readpatt = filter_name, "FASTR1"
    sub = flat.meta.subarray
    sub.name, sub.xstart, sub.ystart, sub.ysize, sub.xsize = "FULL", 1, 1, *shape
    sub.fastaxis, sub.slowaxis = 1, 2
    return flat


def make_photom(useafter=FIRST, *, in_time=True, exp_type="MIR_IMAGE"):
    photom = MirImgPhotomModel()
    rows = [("F770W", "FULL", 0.5, 0.01), ("F1000W", "FULL", 0.6, 0.01)]
    photom.phot_table = np.array(rows, photom.get_dtype("phot_table"))
    if in_time:
        times = [(*row[:2], 59720, 0.9, 100, -0.5) for row in rows]
        dtype = photom.get_dtype("timecoeff_powerlaw")
        photom.timecoeff_powerlaw = np.array(times, dtype)
    describe(photom, "PHOTOM", useafter)
    area = photom.meta.photometry
    area.pixelarea_steradians, area.pixelarea_arcsecsq = 2.86e-13, 0.0121
    photom.meta.exposure.type = exp_type
    return photom


def make_mrs_photom(band, useafter=FIRST, detector="MIRIFUSHORT"):
    shape = (1024, 1032)
    photom = MirMrsPhotomModel(data=np.ones(shape, np.float32), err=np.ones(shape, np.float32))
    photom.dq = np.zeros(shape, np.uint32)
    photom.pixsiz = np.ones(shape, np.float32)
    describe(photom, "PHOTOM", useafter, detector)
    photom.meta.instrument.band, photom.meta.instrument.channel = band, "12"
    photom.meta.exposure.type = "MIR_MRS"
    area = photom.meta.photometry
    area.pixelarea_steradians, area.pixelarea_arcsecsq = 2.86e-13, 0.0121
    return photom
