"""Whether the stock photom step does with a reference what the factors in it say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from stdatamodels.jwst import datamodels

from ..errors import ProductError
from .photom_mrs import evaluate_mrs
from .photom_rows import LAYOUTS, MISSION_MJD, Layout, PhotomRow, evaluate_times, read_rows

if TYPE_CHECKING:
    from ..fluxcal import Factor

__all__ = ["CLOSURE", "Closure", "check_closure", "make_mrs_wcs"]

# Largest relative departure: what float32 columns leave of an exact product.
CLOSURE = 1e-6

# Days at which a reference is tried; photom counts time in float32, where whole days are exact.
_MJD = (MISSION_MJD[0], 61000.0, MISSION_MJD[1])

# A solid angle for modes that photom divides by it [arcsec2]; it is multiplied out again.
_AREA_ARCSEC2 = 0.01
_AREA_SR = _AREA_ARCSEC2 * (np.pi / (180 * 3600)) ** 2

# The channels of MIRI MRS; the step leaves out the last column, which is one of references.
_PARTS = (("left", slice(None, 512)), ("right", slice(512, 1031)))

# Exposures made here: their keywords are those of the reference, which is validated.
_UNCHECKED = {"validate_on_assignment": False}


@dataclass(frozen=True, slots=True)
class Closure:
    """How closely the photom step follows a reference.

    Attributes
    ----------
    n_rows : int
        Rows tried, each at every date; of MIRI MRS, the channels.
    worst : float
        Largest relative departure from ``value / f(t)``.
    row : str
        Where it is.
    mjd : tuple of float
        Dates [MJD].
    """

    n_rows: int
    worst: float
    row: str
    mjd: tuple[float, ...]


def check_closure(
    model: Any,
    factors: Sequence[Factor] = (),
    *,
    mjd: Sequence[float] = _MJD,
    wavelength: np.ndarray | None = None,
) -> Closure:
    """Run every row of a photom reference through the stock photom step.

    Parameters
    ----------
    model : photom model
        It is not edited.
    factors : sequence of Factor
        What its rows should do; rows that no factor is of are held against their own tables.
    mjd : sequence of float
        Dates [MJD], whole days.
    wavelength : ndarray of float64, shape (ny, nx), optional
        For MIRI MRS: wavelength of each pixel [um].

    Returns
    -------
    Closure

    Raises
    ------
    ProductError
        A row does not calibrate its exposure, or departs by more than `CLOSURE`.

    Notes
    -----
    An exposure of 1 DN/s is made for every row; for the IFU of NIRSpec the wavelengths of its
    pixels are given to the step, which otherwise wants the complete optical model.
    """
    worst, where = 0.0, ""
    rows = set()
    for row, day, expected, found in _try_rows(model, factors, mjd, wavelength):
        rows.add(row)
        name = f"{type(model).__name__} {row} at MJD {day:.0f}"
        # Rows of a template may have gaps; factors have none.
        known = np.isfinite(expected) & (expected != 0)
        off = float(np.max(np.abs(found[known] / expected[known] - 1), initial=0.0))
        if not off <= CLOSURE:
            raise ProductError(
                f"expected the photom step to convert {name} as the factor says, found it "
                f"{off:.3g} off; nothing is written. The reference and this version of jwst do "
                "not agree: report it with the factors"
            )
        if off >= worst:
            worst, where = off, name
    return Closure(len(rows), worst, where, tuple(mjd))


def _try_rows(
    model: Any, factors: Sequence[Factor], mjd: Sequence[float], wavelength: np.ndarray | None
) -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
    """Go through rows and dates: (row, MJD, expected conversion, found)."""
    if isinstance(model, datamodels.MirMrsPhotomModel):
        yield from _try_mrs(model, factors, mjd, wavelength)
        return
    meta = model.meta
    layout = _find_layout(model)
    keys = list(layout.keys)
    if "subarray" in model.phot_table.dtype.names and "subarray" not in keys:
        keys.append("subarray")
    known = {_key(factor, keys): factor for factor in _select(factors, meta, layout)}
    opened = _open(model)
    for row in read_rows(model, layout, keys):
        factor = known.get(row.keys)
        if layout.spectral and not len(row.wavelength):  # type: ignore[arg-type]
            continue
        elements = dict(zip(keys, row.keys, strict=True))
        # Rows that are kept or copied say nothing new about time.
        for number, day in enumerate(mjd if factor else mjd[:1]):
            exposure = _make_exposure(meta, layout, elements, row, day)
            expected = _expect(row, factor, day, layout, exposure)
            try:
                found = _run(exposure, opened, layout, row, whole=not number and factor)
            except Exception as error:
                raise ProductError(
                    f"expected the photom step to convert {' '.join(map(str, row.keys))}, found "
                    f"{type(error).__name__}: {error}; correct the template or the factor"
                ) from error
            yield " ".join(map(str, row.keys)), day, expected, found


def _open(model: Any) -> Any:
    """Open a reference as the step does, and validate it so."""
    opened = datamodels.open(model.copy(), strict_validation=True)
    opened.validate()
    return opened


def _find_layout(model: Any) -> Layout:
    kind = str(model.meta.exposure.type).upper()
    for layout in LAYOUTS.values():
        if layout.model == type(model).__name__ and kind in layout.exp_types:
            return layout
    raise ProductError(
        f"expected a photom reference with an EXP_TYPE it serves, found {type(model).__name__} for "
        f"{kind}; correct it"
    )


def _select(factors: Sequence[Factor], meta: Any, layout: Layout) -> Iterator[Factor]:
    """Choose the factors of a reference that have a row to themselves."""
    place = str(meta.instrument.detector).upper()
    seen: dict[tuple[Any, ...], int] = {}
    ours = [
        factor
        for factor in factors
        if LAYOUTS.get((factor.mode.instrument.upper(), factor.mode.kind)) == layout
        and place in ("N/A", factor.mode.detector.upper())
    ]
    for factor in ours:
        key = _key(factor, layout.keys)
        seen[key] = seen.get(key, 0) + 1
    # Images come last, because they have the FULL row of a filter that a coronagraph shares.
    for factor in sorted(ours, key=lambda one: one.mode.kind == "imaging"):
        if layout.label != "fixedslit" or seen[_key(factor, layout.keys)] == 1:
            yield factor


def _key(factor: Factor, keys: Sequence[str]) -> tuple[Any, ...]:
    values = (factor.subarray if k == "subarray" else getattr(factor.mode, k) for k in keys)
    return tuple(v if isinstance(v, int) else v.upper() for v in values)


def _expect(
    row: PhotomRow, factor: Factor | None, day: float, layout: Layout, exposure: Any
) -> np.ndarray:
    """Compute the conversion that a factor, or the row itself, stands for."""
    if factor is None:
        value, response = row.value / evaluate_times(row.times, day), row.relresponse
    else:
        value = factor.value / float(factor.throughput.evaluate(day))
        response = factor.relresponse
        if factor.wave is not None and response is not None:
            response = np.asarray(response, np.float64)[np.argsort(factor.wave)]
    if not layout.spectral:
        return np.array(value)
    assert response is not None
    expected = value * response
    if layout.label == "wfss":
        wave = exposure.slits[0].wavelength
        expected = expected / np.abs(
            np.gradient(wave[0] if _runs_along_x(exposure) else wave[:, 0])
        )
    return expected


def _runs_along_x(exposure: Any) -> bool:
    from jwst.lib.dispaxis import get_dispersion_direction

    meta = exposure.meta
    names = (meta.instrument.grating, meta.instrument.filter, meta.instrument.pupil)
    return bool(get_dispersion_direction(meta.exposure.type, *names) == 1)


def _make_exposure(
    meta: Any, layout: Layout, elements: Mapping[str, Any], row: PhotomRow, day: float
) -> Any:
    """Make an exposure of 1 DN/s that the photom step matches with a row."""
    wave = None if row.wavelength is None else row.wavelength.astype(np.float32)
    exposure: Any
    if layout.label == "soss":
        exposure = _make_soss(wave, elements["order"])
    elif layout.label in ("fixedslit", "wfss"):
        exposure = datamodels.MultiSlitModel(**_UNCHECKED)
    elif layout.label == "lrs":
        exposure = _make_slit(wave)
    elif layout.label == "ifu":
        assert wave is not None
        exposure = datamodels.IFUImageModel(**_UNCHECKED, **_make_arrays((1, len(wave))))
    else:
        exposure = datamodels.ImageModel(**_UNCHECKED, **_make_arrays((2, 2)))
    instrument = exposure.meta.instrument
    instrument.name = meta.instrument.name
    place = str(meta.instrument.detector)
    instrument.detector = "NRS1" if place == "N/A" else place
    for name in ("filter", "pupil", "grating"):
        if name in elements:
            setattr(instrument, name, elements[name])
    exposure.meta.exposure.type, exposure.meta.exposure.mid_time = meta.exposure.type, day
    subarray = str(elements.get("subarray", "FULL"))
    exposure.meta.subarray.name = subarray
    exposure.meta.target.source_type = "POINT"
    if layout.label in ("fixedslit", "wfss"):
        slit = _make_slit(wave)
        slit.name = elements.get("slit", "1")
        slit.source_type = "POINT"
        slit.meta.wcsinfo.spectral_order = elements.get("order", 1)
        if layout.label == "wfss" and not _runs_along_x(exposure):
            for name in (*_make_arrays(()), "wavelength"):
                setattr(slit, name, getattr(slit, name).T)
        exposure.slits.append(slit)
    return exposure


def _make_slit(wave: np.ndarray | None) -> Any:
    assert wave is not None
    return datamodels.SlitModel(
        **_UNCHECKED, **_make_arrays((2, len(wave))), wavelength=np.tile(wave, (2, 1))
    )


def _make_arrays(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Make all arrays that the step works on: 1 DN/s, without flags."""
    names = ("data", "err", "var_poisson", "var_rnoise", "var_flat")
    return {"dq": np.zeros(shape, np.uint32)} | {n: np.ones(shape, np.float32) for n in names}


def _make_soss(wave: np.ndarray | None, order: int) -> Any:
    """Make extracted spectra of one order, as they come to the photom step."""
    from jwst.datamodels.utils.tso_multispec import make_tso_specmodel

    assert wave is not None
    table = np.ones(len(wave), datamodels.SpecModel().get_dtype("spec_table"))
    table["WAVELENGTH"] = wave
    spec = datamodels.SpecModel(spec_table=table)
    spec.spectral_order = order
    exposure = datamodels.TSOMultiSpecModel(**_UNCHECKED)
    exposure.spec.append(make_tso_specmodel([spec]))
    return exposure


def _run(
    exposure: Any, reference: Any, layout: Layout, row: PhotomRow, *, whole: Any
) -> np.ndarray:
    """Calibrate the exposure; return what 1 DN/s became.

    The whole step validates the reference and copies the exposure each time, so that its inner
    part, with a reference that is open already, does the repetitions.
    """
    from jwst.photom.photom_step import PhotomStep

    area = _make_area(exposure, layout)
    if whole and layout.label != "ifu":
        done = PhotomStep(override_photom=reference, override_area=area).process(exposure)
    else:
        done = _apply(exposure, reference, area, row)
    if layout.label == "soss":
        data = done.spec[0].spec_table["FLUX"]
    elif layout.label in ("fixedslit", "wfss"):
        data = done.slits[0].data
    else:
        data = done.data
    if layout.label == "wfss" and not _runs_along_x(exposure):
        data = data.T
    # The step makes surface brightness of the flux in an IFU.
    return np.array(data[0], np.float64) * (_AREA_SR if layout.label == "ifu" else 1.0)


def _make_area(exposure: Any, layout: Layout) -> Any:
    """Make the reference of pixel areas that NIRSpec needs."""
    if layout.label == "fixedslit":
        area = datamodels.NirspecSlitAreaModel()
        rows = [(exposure.slits[0].name, _AREA_ARCSEC2)]
    elif layout.label == "ifu":
        area = datamodels.NirspecIfuAreaModel()
        rows = [(0, _AREA_ARCSEC2)]
    else:
        return "N/A"
    area.area_table = np.array(rows, area.get_dtype("area_table"))
    return area


def _apply(exposure: Any, reference: Any, area: Any, row: PhotomRow) -> Any:
    """Do what the step does with an open reference; for an IFU the wavelengths are given."""
    from jwst.photom.photom import DataSet

    class KnownWavelengths(DataSet):  # type: ignore[misc]
        def calc_nrs_ifu_sens2d(self, area_data: Any) -> tuple[np.ndarray, ...]:
            wave = np.atleast_2d(row.wavelength)  # type: ignore[arg-type]
            return wave, np.full(wave.shape, _AREA_ARCSEC2), np.zeros(wave.shape, np.uint32)

    data = KnownWavelengths(exposure)
    if data.exptype != "NIS_SOSS":
        data.save_area_info(reference, area)
    calculate = getattr(data, f"calc_{data.instrument.lower()}")
    calculate(reference, *([area] if data.instrument == "NIRSPEC" else []))
    return exposure


def _try_mrs(
    model: Any, factors: Sequence[Factor], mjd: Sequence[float], wavelength: np.ndarray | None
) -> Iterator[tuple[str, float, np.ndarray, np.ndarray]]:
    """Calibrate a frame of MIRI MRS: each of its two channels counts as a row."""
    from jwst.photom.photom_step import PhotomStep

    if wavelength is None:
        raise ProductError(
            "expected the wavelength of each pixel for the closure of MIRI MRS, found none; give "
            "what the reference was built with"
        )
    meta, wcs = model.meta.instrument, make_mrs_wcs(wavelength)
    good = (model.data > 0) & np.isfinite(model.data) & np.isfinite(wavelength)
    for day in mjd:
        exposure = datamodels.IFUImageModel(**_UNCHECKED, **_make_arrays(model.data.shape))
        exposure.meta.instrument.name, exposure.meta.instrument.detector = "MIRI", meta.detector
        exposure.meta.instrument.band, exposure.meta.exposure.type = meta.band, "MIR_MRS"
        exposure.meta.exposure.mid_time, exposure.meta.wcs = day, wcs
        done = PhotomStep(override_photom=model.copy(), override_area="N/A").process(exposure)
        expected = model.data / evaluate_mrs(model, factors, wavelength, day)
        for part, columns in _PARTS:
            inside = good[:, columns]
            if inside.any():
                name = f"{meta.detector} {meta.band} {part}"
                yield name, day, expected[:, columns][inside], done.data[:, columns][inside]


def make_mrs_wcs(wavelength: np.ndarray) -> Any:
    """Make a WCS that gives the wavelengths, and no position."""
    from astropy import coordinates
    from astropy import units as u
    from astropy.modeling import models
    from gwcs import coordinate_frames as frames
    from gwcs import wcs

    ny, nx = wavelength.shape
    table = models.Tabular2D(
        points=(np.arange(nx), np.arange(ny)), lookup_table=wavelength.T, method="nearest"
    )
    nowhere = models.Const2D(0.0)
    forward = models.Mapping((0, 1, 0, 1, 0, 1)) | (nowhere & nowhere & table)
    sky = frames.CelestialFrame(reference_frame=coordinates.ICRS(), axes_order=(0, 1))
    light = frames.SpectralFrame(axes_order=(2,), unit=(u.um,), axes_names=("wavelength",))
    made = wcs.WCS(
        forward,
        input_frame=frames.Frame2D(name="detector", unit=(u.pix, u.pix)),
        output_frame=frames.CompositeFrame([sky, light], name="world"),
    )
    made.bounding_box = ((-0.5, nx - 0.5), (-0.5, ny - 0.5))
    return made
