"""A detector of WFI small enough for tests, and dithered images of stars on it."""

from dataclasses import replace
from types import MappingProxyType

from astropy.time import Time, TimeDelta

from jwst_tvbadpix import detectors
from jwst_tvbadpix.simulate import make_cal_step, make_wfi_image, make_wfi_wcs, save_roman

__all__ = ["SCALE", "shrink_wfi", "write_field"]

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


def write_field(folder, field, *, element="F158", flat_field="INCOMPLETE", wcs="COMPLETE", day=1):
    """Write the exposures of `skyfield.make_field` as level-2 images with an assigned WCS."""
    paths = []
    for k in range(len(field)):
        start = Time(f"2027-01-{day:02d}T00:00:00") + TimeDelta(600.0 * k, format="sec")
        path = folder / f"r{k:04d}_wfi01_{element.lower()}_cal.asdf"
        model = make_wfi_image(
            field.rate[k],
            optical_element=element,
            start=str(start.isot),
            err=field.err[k],
        )
        model.meta.wcs = make_wfi_wcs(*field.offset[k], 80.0, -30.0)
        model.meta.cal_step = make_cal_step(flat_field=flat_field, assign_wcs=wcs)
        model.meta.observation.visit_id = f"{field.tiles[k]:019d}"
        paths.append(save_roman(model, path, compression=None))
    return paths
