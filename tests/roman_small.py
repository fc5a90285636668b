"""A detector of WFI small enough for tests, and dithered images of stars on it."""

from dataclasses import replace
from types import MappingProxyType

import gwcs
from astropy import units as u
from astropy.coordinates import ICRS
from astropy.modeling.models import Pix2Sky_TAN, RotateNative2Celestial, Scale, Shift
from astropy.time import Time, TimeDelta
from gwcs import coordinate_frames as frames
from roman_files import make_l2

from jwst_tvbadpix import detectors

__all__ = ["SCALE", "make_cal_step", "make_wcs", "shrink_wfi", "write_field"]

_STEPS = [
    "assign_wcs",
    "flat_field",
    "dark",
    "dark_decay",
    "dq_init",
    "flux",
    "linearity",
    "photom",
    "source_catalog",
    "ramp_fit",
    "refpix",
    "saturation",
    "outlier_detection",
    "tweakreg",
    "skymatch",
    "wfi18_transient",
]

# Degrees per pixel of WFI.
SCALE = 0.11 / 3600


def shrink_wfi(monkeypatch, shape, name="WFI01"):
    """Make a detector one of `shape` pixels (ny, nx) within its 4 rows and columns of reference."""
    ny, nx = shape
    small = replace(
        detectors.DETECTORS[name],
        shape=(ny + 8, nx + 8),
        subarrays=MappingProxyType({"FULL": (5, 5, nx, ny)}),
    )
    known = MappingProxyType({**detectors.DETECTORS, name: small})
    monkeypatch.setattr(detectors, "DETECTORS", known)


def make_cal_step(**done):
    """Say what was done to an image: its WCS was assigned, and else nothing."""
    return {**dict.fromkeys(_STEPS, "INCOMPLETE"), "assign_wcs": "COMPLETE", **done}


def make_wcs(x0, y0, ra=80.0, dec=-30.0):
    """Make the WCS of an image whose pixel (-x0, -y0) is at (ra, dec)."""
    to_sky = (
        (Shift(x0) & Shift(y0))
        | (Scale(-SCALE) & Scale(SCALE))
        | Pix2Sky_TAN()
        | RotateNative2Celestial(ra, dec, 180)
    )
    detector = frames.Frame2D(name="detector", unit=(u.pix, u.pix))
    sky = frames.CelestialFrame(name="world", reference_frame=ICRS(), unit=(u.deg, u.deg))
    return gwcs.WCS([(detector, to_sky), (sky, None)])


def write_field(folder, field, *, element="F158", flat_field="INCOMPLETE", wcs="COMPLETE", day=1):
    """Write the exposures of `skyfield.make_field` as level-2 images with an assigned WCS."""
    paths = []
    for k in range(len(field)):
        start = Time(f"2027-01-{day:02d}T00:00:00") + TimeDelta(600.0 * k, format="sec")
        path = folder / f"r{k:04d}_wfi01_{element.lower()}_cal.asdf"
        model = make_l2(
            field.rate[k],
            optical_element=element,
            start=str(start.isot),
            err=field.err[k],
            filename=path.name,
        )
        model.meta.wcs = make_wcs(*field.offset[k])
        model.meta.cal_step = make_cal_step(flat_field=flat_field, assign_wcs=wcs)
        model.meta.observation.visit_id = f"{field.tiles[k]:019d}"
        model.validate()
        model.to_asdf(path)
        paths.append(path)
    return paths
