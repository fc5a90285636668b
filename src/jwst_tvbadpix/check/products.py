"""Products of one exposure, of any stage, with the place of their pixels on the detector."""

import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bottleneck as bn
import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from ..errors import ContradictoryDateError, DateError, InputError
from ..headers import KEYWORDS, ExposureRecord, make_record
from ..refmodels import dq_value
from ..sources import is_asdf, scan_exposures

__all__ = ["Plane", "Product", "blank_flagged", "read_product"]

log = logging.getLogger(__name__)

_RECTIFIED = ("s2d", "s3d", "i2d")
_SPECTRA = ("x1d", "x1dints", "c1d")
# Products that hold the detector's pixels, for a spectrum and for its conversion into DN/s.
_IMAGES = {"x1d": ("cal", "rate"), "x1dints": ("calints", "cal", "rateints", "rate")}
_RATES = ("rate", "rateints")
# EXP_TYPE for which the pipeline finds the target by the WCS.
_WITH_TARGET = ("MIR_LRS-FIXEDSLIT", "NRS_FIXEDSLIT", "NRS_MSASPEC", "NRS_BRIGHTOBJ")


@dataclass(frozen=True, slots=True)
class Plane:
    """An image of the detector, or what was cut out along a slit.

    Attributes
    ----------
    slit : str
        Name of the slit; empty where the image is not cut.
    data : ndarray of float64, shape (ny, nx)
        In the unit of the product, the median of the integrations; NaN = no value.
    dq : ndarray of uint32, shape (ny, nx)
        Flags that most integrations carry.
    corner : tuple of int
        0-based full-frame (y, x) of the first pixel.
    axis : int or None
        DISPAXIS; None = image.
    wavelength : ndarray of float64, shape (ny, nx), or None
        [um]; None where the product has none.
    trace : ndarray of float64, shape (n_along,), or None
        Pixel across the dispersion at which the WCS puts the target; None where it does not say.
    distance : ndarray of float64, shape (ny, nx), or None
        Distance of each pixel on the sky from the target of an integral-field unit [arcsec].
    width : float or None
        Width of the extraction across the dispersion that the spectrum names [pixel].
    window : tuple of int or None
        (y0, y1, x0, x1), half open, within the plane, of an extraction from these pixels.
    rate : ndarray of float64, shape (ny, nx), or None
        The same pixels in DN/s; None where no rate product was found.
    """

    slit: str
    data: np.ndarray
    dq: np.ndarray
    corner: tuple[int, int]
    axis: int | None
    wavelength: np.ndarray | None
    trace: np.ndarray | None
    distance: np.ndarray | None
    width: float | None
    window: tuple[int, int, int, int] | None
    rate: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Product:
    """What a file and those beside it say about one exposure.

    Attributes
    ----------
    given, path : Path
        The file that was given, and that with the pixels.
    record : ExposureRecord
        Its header, checked.
    unit : str
        BUNIT of the pixels.
    photmjsr : float
        Of an image in MJy/sr: MJy/sr per DN/s; 1 for rates; NaN = not known.
    planes : tuple of Plane
        One, or one per slit.
    rate_path : Path or None
        The rate product that `Plane.rate` comes from.
    """

    given: Path
    path: Path
    record: ExposureRecord
    unit: str
    photmjsr: float
    planes: tuple[Plane, ...]
    rate_path: Path | None


def read_product(path: Path, *, image: Path | None = None) -> Product:
    """Read a product of one exposure.

    Parameters
    ----------
    path : Path
        ``_rate``, ``_rateints``, ``_cal``, ``_calints`` (also cut out along slits), ``_crf``, or
        an ``_x1d``, ``_x1dints``, whose 2-D product lies beside it; or a level-2 image of Roman.
    image : Path, optional
        The 2-D product of a spectrum, where it lies elsewhere.

    Returns
    -------
    Product

    Raises
    ------
    InputError
        The file cannot be read, is rectified, of several exposures, or has no pixels; or its 2-D
        product is not found.
    DetectorError, DateError
        Its place on the detector or its date cannot be read.
    """
    path = Path(path)
    if image is None and is_asdf(path):
        return _read_asdf(path)
    stage, cards = _read_cards(path)
    widths: dict[str, _Extraction] = {}
    given = path
    if _is_spectrum(stage, cards):
        widths = _read_extractions(path)
        spectrum = cards
        path = _find_image(path, stage, image)
        stage, cards = _read_cards(path)
        if _is_spectrum(stage, cards):
            raise InputError(
                f"expected a 2-D product with --image, found {path}; give _cal or _rate"
            )
        _require_same_exposure(given, spectrum, path, cards)
    elif image is not None:
        raise InputError(
            f"expected a spectrum (_x1d) where a 2-D product is given too, found {path}; leave "
            "--image out"
        )
    if stage in _RECTIFIED or cards["S_RESAMP"] == "COMPLETE":
        raise InputError(
            f"expected pixels of the detector, found the rectified product {path}; give the _cal "
            "or _rate product of the exposure"
        )
    return _read_image(given, path, cards, widths)


def _read_asdf(path: Path) -> Product:
    """Read a level-2 image of Roman."""
    (scan,) = scan_exposures(path)
    shape = scan.source.shape
    record = make_record(scan.name, scan.sha256, scan.keywords, shape, ())
    data, dq = scan.source.read(slice(0, shape[0]))
    nothing: Any = dict.fromkeys(("axis", "wavelength", "trace", "distance", "width", "window"))
    plane = Plane("", data.astype(np.float64), dq, record.corner, rate=None, **nothing)
    return Product(path, path, record, record.unit, record.photmjsr, (plane,), None)


def _read_cards(path: Path) -> tuple[str, dict[str, Any]]:
    """Read the stage that the name says, and the cards of primary header and first SCI."""
    try:
        with warnings.catch_warnings(), fits.open(path, memmap=False) as hdus:
            # A truncated file is an error below, with better words than the warning's.
            warnings.simplefilter("ignore", AstropyUserWarning)
            names = [hdu.name for hdu in hdus]
            headers = [hdus[0].header] + ([hdus["SCI"].header] if "SCI" in names else [])
            needed = max(info["datLoc"] + info["datSpan"] for info in (h.fileinfo() for h in hdus))
            whole = hdus._file.compression not in (None, "") or path.stat().st_size >= needed
    except (OSError, ValueError, TypeError, KeyError, fits.VerifyError) as error:
        raise InputError(
            f"expected a FITS product of JWST, found {path}: {error}; check the path and the "
            "download"
        ) from error
    if not whole:
        raise InputError(
            f"expected {needed} bytes in {path}, found {path.stat().st_size}: the file is "
            "truncated; download it again"
        )
    wanted = (*KEYWORDS, "DATAMODL", "S_RESAMP")
    cards = {key: next((h[key] for h in headers if key in h), None) for key in wanted}
    cards["EXTENSIONS"] = names
    match = re.search(r"_([a-z0-9]+)\.fits(\.gz)?$", path.name.lower())
    return (match[1] if match else ""), cards


def _require_same_exposure(
    given: Path, spectrum: dict[str, Any], path: Path, image: dict[str, Any]
) -> None:
    """Require a spectrum and an image of one detector and start; absent cards decide nothing."""
    for key in ("DETECTOR", "DATE-OBS", "TIME-OBS"):
        if None not in (spectrum[key], image[key]) and spectrum[key] != image[key]:
            raise InputError(
                f"expected {key} = {spectrum[key]} in {path}, as in {given}, found {image[key]}; "
                "give the 2-D product of the same exposure"
            )


def _is_spectrum(stage: str, cards: dict[str, Any]) -> bool:
    names = cards["EXTENSIONS"]
    return "SCI" not in names and ("EXTRACT1D" in names or stage in _SPECTRA)


@dataclass(frozen=True, slots=True)
class _Extraction:
    """Where one spectrum says that it was extracted, 1-based and inclusive as in its header."""

    x: tuple[float, float]
    y: tuple[float, float]
    rectified: bool


def _read_extractions(path: Path) -> dict[str, _Extraction]:
    """Read EXTRXSTR and its like from each spectrum, by the name of its slit."""
    found: dict[str, _Extraction] = {}
    with fits.open(path, memmap=False) as hdus:
        rectified = hdus[0].header.get("S_RESAMP") == "COMPLETE"
        for hdu in hdus:
            cards = [hdu.header.get(f"EXTR{k}") for k in ("XSTR", "XSTP", "YSTR", "YSTP")]
            if hdu.name == "EXTRACT1D" and all(isinstance(c, int | float) for c in cards):
                x0, x1, y0, y1 = map(float, cards)
                name = str(hdu.header.get("SLTNAME") or "")
                found.setdefault(name, _Extraction((x0, x1), (y0, y1), rectified))
    return found


def _find_image(path: Path, stage: str, image: Path | None) -> Path:
    """Find the 2-D product that a spectrum was extracted from."""
    if image is not None:
        return image
    wanted = _IMAGES.get(stage, _IMAGES["x1d"])
    for candidate in _list_beside(path, wanted):
        log.info("the pixels of %s are those of %s", path.name, candidate.name)
        return candidate
    raise InputError(
        f"expected the 2-D product of {path} beside it ({', '.join('_' + w for w in wanted)}), "
        "found none; give it with --image"
    )


def _list_beside(path: Path, stages: tuple[str, ...]) -> Iterator[Path]:
    """List the files of other stages of the same exposure in the same folder."""
    stem, _, _ = re.sub(r"\.fits(\.gz)?$", "", path.name).rpartition("_")
    for stage in stages:
        for ending in (".fits", ".fits.gz"):
            candidate = path.with_name(f"{stem}_{stage}{ending}")
            if stem and candidate.is_file():
                yield candidate


def _read_image(
    given: Path, path: Path, cards: dict[str, Any], widths: dict[str, _Extraction]
) -> Product:
    """Read the pixels with the pipeline's own models, which know where the WCS is."""
    from stdatamodels.jwst import datamodels
    from stdatamodels.validate import ValidationWarning

    try:
        with warnings.catch_warnings():
            # Keywords outside the schema are no concern here.
            warnings.simplefilter("ignore", ValidationWarning)
            model = datamodels.open(path)
    except Exception as error:
        raise InputError(
            f"expected a product of the pipeline, found {path}: {type(error).__name__}: {error}; "
            "check the download"
        ) from error
    with model:
        parts = list(model.slits) if hasattr(model, "slits") else [model]
        shapes = {part.data.shape for part in parts if getattr(part, "data", None) is not None}
        if not shapes or min(map(min, shapes)) == 0:
            raise InputError(f"expected pixels in {path}, found none; give a _rate or _cal product")
        if {len(shape) for shape in shapes} - {2, 3}:
            raise InputError(
                f"expected a 2-D or 3-D image in {path}, found {sorted(shapes)[0]}; run "
                "calwebb_detector1 first"
            )
        cut = hasattr(model, "slits") or cards["DATAMODL"] == "SlitModel"
        shape = sorted(shapes)[0]
        if cut:
            shape = tuple(int(cards[k] or 0) for k in ("SUBSIZE2", "SUBSIZE1"))
        # The unit is of no concern to the record: spectra of point sources are in MJy.
        try:
            record = make_record(path.name, "", {**cards, "BUNIT": None}, shape[-2:], ())
        except ContradictoryDateError as error:
            raise DateError(f"{path}: {error}") from error
        rate_path, rate = (None, None)
        if str(cards["BUNIT"] or "DN/s").replace(" ", "").lower() != "dn/s":
            rate_path, rate = _read_rate(path, record)
        planes = tuple(
            _make_plane(model, part, cut, record, rate, _choose(widths, part)) for part in parts
        )
    if not any(np.isfinite(plane.data).any() for plane in planes):
        raise InputError(
            f"expected pixels with values in {path}, found none; give another product of the "
            "exposure"
        )
    unit = str(cards["BUNIT"] or "DN/s")
    photmjsr = 1.0 if rate_path is None and unit.lower() == "dn/s" else np.nan
    if unit.lower() == "mjy/sr" and record.dispersion_axis is None and cards["PHOTMJSR"]:
        photmjsr = float(cards["PHOTMJSR"])
    return Product(given, path, record, unit, photmjsr, planes, rate_path)


def _choose(widths: dict[str, _Extraction], part: Any) -> _Extraction | None:
    """Choose the extraction of a slit: that of its name, or the only one."""
    name = str(getattr(part, "name", None) or "")
    return widths.get(name, next(iter(widths.values())) if len(widths) == 1 else None)


def _read_rate(path: Path, record: ExposureRecord) -> tuple[Path | None, np.ndarray | None]:
    """Read the rate product beside a calibrated one; None where there is none of its shape."""
    for candidate in _list_beside(path, _RATES):
        with fits.open(candidate, memmap=False) as hdus:
            data = np.asarray(hdus["SCI"].data, np.float64)
        if data.shape[-2:] == record.shape:
            return candidate, data if data.ndim == 2 else bn.nanmedian(data, axis=0)
        log.warning("%s has another shape than %s and is not used", candidate, path)
    return None, None


def _make_plane(
    model: Any,
    part: Any,
    cut: bool,
    record: ExposureRecord,
    rate: np.ndarray | None,
    extraction: _Extraction | None,
) -> Plane:
    data = np.asarray(part.data, np.float64)
    dq = np.zeros(0, np.uint32) if part.dq is None else np.asarray(part.dq, np.uint32)
    if dq.shape != data.shape:
        raise InputError(
            f"expected SCI and DQ of one shape in {record.filename}, found {data.shape} and "
            f"{dq.shape}; download the file again"
        )
    if data.ndim == 3:
        common = np.zeros(data.shape[1:], np.uint32)
        for bit in range(32):
            often = ((dq >> np.uint32(bit)) & 1).sum(axis=0) * 2 > len(dq)
            common |= often.astype(np.uint32) << np.uint32(bit)
        data, dq = bn.nanmedian(data, axis=0), common
    ny, nx = data.shape
    start = _find_start(part, data.shape, record) if cut else (0, 0)
    corner = (record.corner[0] + start[0], record.corner[1] + start[1])
    axis = (
        getattr(getattr(part.meta, "wcsinfo", None), "dispersion_direction", None)
        or record.dispersion_axis
    )
    own_rate = None if rate is None else rate[start[0] : start[0] + ny, start[1] : start[1] + nx]
    wavelength, distance = _read_wcs(part, data.shape, record.exp_type, model)
    width, window = None, None
    if extraction is not None:
        low, high = extraction.x if axis == 2 else extraction.y
        width = high - low + 1
        if not extraction.rectified:
            (x0, x1), (y0, y1) = extraction.x, extraction.y
            window = (round(y0) - 1, round(y1), round(x0) - 1, round(x1))
    return Plane(
        slit=str(getattr(part, "name", None) or "") if cut else "",
        data=data,
        dq=dq,
        corner=corner,
        axis=axis,
        wavelength=wavelength,
        trace=_read_trace(model, part, axis) if wavelength is not None else None,
        distance=distance,
        width=width,
        window=window,
        rate=own_rate if own_rate is not None and own_rate.shape == data.shape else None,
    )


def _find_start(part: Any, shape: tuple[int, ...], record: ExposureRecord) -> tuple[int, int]:
    """Find the 0-based (y, x) of a cut-out within the image of the exposure."""
    if shape == record.shape:
        return 0, 0  # not cut: LRS slitless names its corner in the full frame here
    y, x = part.ystart, part.xstart
    inside = isinstance(y, int | float) and isinstance(x, int | float)
    if not inside or not (
        0 < y <= record.shape[0] - shape[0] + 1 and 0 < x <= record.shape[1] - shape[1] + 1
    ):
        raise InputError(
            f"expected SLTSTRT1/2 of a slit of {shape[1]} x {shape[0]} pixels within "
            f"{record.shape[1]} x {record.shape[0]} in {record.filename}, found {x} and {y}; give "
            "the _rate product"
        )
    return int(y) - 1, int(x) - 1


def _read_wcs(
    part: Any, shape: tuple[int, ...], exp_type: str, model: Any
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Read the wavelength of each pixel [um], and for integral-field units its distance."""
    given = getattr(part, "wavelength", None)
    wavelength = None if given is None else np.asarray(given, np.float64)
    if wavelength is not None and wavelength.shape != shape:
        wavelength = None
    wcs = getattr(part.meta, "wcs", None)
    if wcs is None or callable(getattr(wcs, "keys", None)):
        return _drop_empty(wavelength), None
    y, x = np.mgrid[: shape[0], : shape[1]]
    try:
        world = [np.asarray(v, np.float64) for v in wcs(x, y)]
    except Exception as error:
        # A WCS of many slices, or one of another version, is no reason to say nothing at all.
        log.warning("the WCS cannot be used: %s: %s", type(error).__name__, error)
        return _drop_empty(wavelength), None
    if len(world) < 3 or world[2].shape != shape:
        return _drop_empty(wavelength), None
    if wavelength is None:
        wavelength = world[2] * (1e6 if np.nanmedian(np.abs(world[2])) < 1e-3 else 1.0)
    ra, dec = model.meta.target.ra, model.meta.target.dec
    if exp_type not in ("MIR_MRS", "NRS_IFU") or ra is None or dec is None:
        return _drop_empty(wavelength), None
    east = (world[0] - ra + 180) % 360 - 180
    distance = 3600 * np.hypot(east * np.cos(np.deg2rad(dec)), world[1] - dec)
    return _drop_empty(wavelength), distance


def _drop_empty(wavelength: np.ndarray | None) -> np.ndarray | None:
    """Treat zeros as no wavelength; None where nothing is left."""
    if wavelength is None:
        return None
    wavelength = np.where(wavelength > 0, wavelength, np.nan)
    return wavelength if np.isfinite(wavelength).any() else None


def _read_trace(model: Any, part: Any, axis: int | None) -> np.ndarray | None:
    """Ask the pipeline where its extraction would look for the target."""
    known = model.meta.exposure.type in _WITH_TARGET
    if not known or getattr(part.meta, "wcs", None) is None or axis not in (1, 2):
        return None
    from jwst.extract_1d.source_location import location_from_wcs

    try:
        *_, trace = location_from_wcs(model, None if part is model else part)
    except Exception as error:
        log.info("the WCS does not say where the target is: %s", error)
        return None
    return None if trace is None or not np.isfinite(trace).any() else np.asarray(trace)


def blank_flagged(plane: Plane) -> np.ndarray:
    """Take the pixels of a plane, NaN where they are DO_NOT_USE."""
    bad = (plane.dq & np.uint32(dq_value("DO_NOT_USE"))) != 0
    return np.where(bad, np.nan, plane.data)
