"""Images for a flat: which belong together, their rates with DQ applied, where they look."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from astropy.wcs import WCS

from .detectors import Detector, get_detector
from .errors import DateError, DetectorError, EvidenceError, InputError
from .exposures import ExcludedExposure, refuse_duplicates
from .headers import ExposureRecord, make_record
from .refmodels.dq import dq_value
from .sources import Scan, Source, scan_exposures

__all__ = ["AssignWCS", "ImageSet", "SkyImage", "SkyWCS", "build_wcs", "list_sets", "open_images"]

log = logging.getLogger(__name__)

# Makes the gwcs of an exposure of its record and keywords.
AssignWCS = Callable[[ExposureRecord, Mapping[str, Any]], Any]

# Images of the sky through the imagers; pupil and grism images show no field.
_EXP_TYPES = (
    "MIR_IMAGE",
    "MIR_FLATIMAGE-EXT",
    "NRC_IMAGE",
    "NIS_IMAGE",
    "WFI_IMAGE",
)
# A rate beyond this is no number of a detector; its square leaves float32.
_ABSURD = 1e9
_WCS_CARDS = ("CRPIX", "CRVAL", "CDELT")
_MATRIX_CARDS = ("PC1_1", "PC1_2", "PC2_1", "PC2_2")


class SkyWCS(Protocol):
    """Pixels of an image (0-based, of what was read out) and the sky (ra, dec [deg])."""

    @property
    def distorted(self) -> bool:
        """Whether the distortion of the optics is in it."""

    def to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project pixels to the sky."""

    def to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project the sky to pixels."""


@dataclass(frozen=True, slots=True)
class _KeywordWCS:
    """Tangent plane of the keywords: no distortion."""

    wcs: WCS
    distorted: bool = False

    def to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ra, dec = self.wcs.wcs_pix2world(np.ravel(x), np.ravel(y), 0)
        return ra, dec

    def to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.wcs.wcs_world2pix(np.ravel(ra), np.ravel(dec), 0)
        return x, y


@dataclass(frozen=True, slots=True)
class _AssignedWCS:
    """The gwcs that assign_wcs made, also where it sees no use in it (the bounding box)."""

    gwcs: Any
    distorted: bool = True

    def to_sky(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ra, dec = self.gwcs(np.ravel(x), np.ravel(y), with_bounding_box=False)[:2]
        return np.asarray(ra, float), np.asarray(dec, float)

    def to_pixel(self, ra: np.ndarray, dec: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x, y = self.gwcs.invert(np.ravel(ra), np.ravel(dec), with_bounding_box=False)[:2]
        return np.asarray(x, float), np.asarray(y, float)


@dataclass(frozen=True, slots=True)
class SkyImage:
    """One image, its header read and its pixels not.

    Attributes
    ----------
    record : ExposureRecord
    pupil, visit : str
        PUPIL and VISIT_ID; "N/A" where absent.
    wcs : SkyWCS
    run : int
        Number of the exposures, in order of time, between two changes of visit or optics.
    """

    record: ExposureRecord
    pupil: str
    visit: str
    wcs: SkyWCS
    run: int
    _source: Source = field(repr=False)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of what was read out: rate and error, float32 [DN/s]; NaN = no evidence.

        No evidence: DO_NOT_USE or SATURATED, reference pixels, no finite rate or error.
        """
        rows = slice(start, stop)
        data, quality = self._source.read(rows)
        err = self._source.read_err(rows)
        assert err is not None  # `open_images` has looked
        detector = get_detector(self.record.detector)
        (y, x), (ny, nx) = self.record.corner, self.record.shape
        reference = detector.reference_pixels()[y : y + ny, x : x + nx][rows]
        bad = (quality & np.uint32(dq_value("DO_NOT_USE", "SATURATED"))) != 0
        with np.errstate(invalid="ignore"):
            bad |= reference | ~(np.abs(data) < _ABSURD) | ~((err > 0) & (err < _ABSURD))
        factor = np.float32(self.record.photmjsr)
        rate, sigma = (
            np.where(bad, np.float32(np.nan), np.asarray(plane, np.float32) / factor)
            for plane in (data, err)
        )
        return rate, sigma


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images through the same optics, of the same pixels, read out alike, in order of time.

    Attributes
    ----------
    detector : Detector
    filter, pupil, subarray, readpatt : str
        Keywords that they share; "N/A" where absent.
    images : tuple of SkyImage
    """

    detector: Detector
    filter: str
    pupil: str
    subarray: str
    readpatt: str
    images: tuple[SkyImage, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that were read out."""
        return self.images[0].record.shape

    @property
    def corner(self) -> tuple[int, int]:
        """0-based (y, x) of the first pixel in the full frame."""
        return self.images[0].record.corner

    @property
    def is_full(self) -> bool:
        """Whether that is all that the detector has; of Roman, less the reference pixels."""
        return self.shape == self.detector.shape or self.detector.telescope == "ROMAN"

    @property
    def tiles(self) -> np.ndarray:
        """Number of the visit of each image: int (n,)."""
        return np.unique([image.visit for image in self.images], return_inverse=True)[1]

    @property
    def mid_mjd(self) -> np.ndarray:
        """Mid-times [MJD]: float64 (n,)."""
        return np.array([image.record.mid_mjd for image in self.images])

    @property
    def distorted(self) -> bool:
        """Whether their WCS have the distortion of the optics, and so the area of the pixels."""
        return all(image.wcs.distorted for image in self.images)

    @property
    def label(self) -> str:
        """What tells it from other sets, for messages."""
        parts = (self.detector.name, self.filter, self.pupil, self.subarray, self.readpatt)
        return " ".join(part for part in parts if part != "N/A")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Read rows of one image; see `SkyImage.read`."""
        return self.images[index].read(start, stop)


def open_images(
    inputs: Iterable[Any] | Any, *, assign: AssignWCS | None = None
) -> tuple[tuple[SkyImage, ...], tuple[Any, ...]]:
    """Read the headers of images that a flat can be made of.

    Parameters
    ----------
    inputs : path, association (.json), data model, ModelLibrary, or a sequence of these
        ``_rate`` files, or ``_cal`` files (of Roman, too) that were not flat-fielded.
    assign : callable, optional
        (record, keywords) -> gwcs, for images without one; without it theirs is of the keywords.

    Returns
    -------
    images : tuple of SkyImage
        In order of time.
    excluded : tuple of ExcludedExposure
        Those left out, and why; each is logged.

    Raises
    ------
    InputError
        A file is unreadable, truncated, no such product, or given twice; or they are of JWST and
        of Roman.
    EvidenceError
        Nothing usable is left; the message says why.
    """
    scans = scan_exposures(inputs)
    found: list[tuple[ExposureRecord, Scan, SkyWCS]] = []
    excluded = []
    for scan in scans:
        try:
            found.append(_check(scan, assign))
        except (DateError, DetectorError, InputError) as error:
            excluded.append(ExcludedExposure(scan.name, scan.sha256, str(error)))
            log.warning("%s is left out: %s", scan.name, error)
    for scan, reason in _refuse_mixture(found):
        excluded.append(ExcludedExposure(scan.name, scan.sha256, reason))
        log.warning("%s is left out: %s", scan.name, reason)
    out = {(exposure.filename, exposure.sha256) for exposure in excluded}
    found = [item for item in found if (item[1].name, item[1].sha256) not in out]
    if not found:
        reasons = Counter(exposure.reason for exposure in excluded).most_common(3)
        raise EvidenceError(
            f"expected images to make a flat of, found none usable among {len(scans)}: "
            + "; ".join(f"{reason} ({count} exposures)" for reason, count in reasons)
        )
    found.sort(key=lambda item: (item[0].mid_mjd, item[0].filename, item[0].sha256))
    refuse_duplicates([record for record, _, _ in found])
    excluded.sort(key=lambda exposure: (exposure.filename, exposure.sha256))
    return tuple(_number(found)), tuple(excluded)


def _refuse_mixture(
    found: Sequence[tuple[ExposureRecord, Scan, SkyWCS]],
) -> Iterator[tuple[Scan, str]]:
    """Refuse images without distortion where others of their detector have it: one area for all."""
    bent = {record.detector for record, _, wcs in found if wcs.distorted}
    for record, scan, wcs in found:
        if record.detector in bent and not wcs.distorted:
            yield (
                scan,
                "expected a WCS with distortion, as other images of "
                f"{record.detector} have it, found that of the keywords; give distortion, or run "
                "calwebb_image2 with --steps.flat_field.skip=True",
            )


def _number(found: Sequence[tuple[ExposureRecord, Scan, SkyWCS]]) -> Iterator[SkyImage]:
    """Count the changes of visit or optics before each exposure."""
    states = []
    for record, scan, _ in found:
        pupil, visit = (str(scan.keywords[card] or "N/A") for card in ("PUPIL", "VISIT_ID"))
        states.append((record.detector, record.filter, pupil, visit))
    runs = np.concatenate([[0], np.cumsum([a != b for a, b in pairwise(states)])]).astype(int)
    for (record, scan, wcs), (_, _, pupil, visit), run in zip(found, states, runs, strict=True):
        yield SkyImage(record, pupil, visit, wcs, int(run), scan.source)


def _check(scan: Scan, assign: AssignWCS | None) -> tuple[ExposureRecord, Scan, SkyWCS]:
    """Check one exposure; raise what is wrong with it."""
    exp_type = scan.keywords["EXP_TYPE"]
    if exp_type not in _EXP_TYPES:
        raise InputError(
            f"expected an image of the sky (EXP_TYPE {', '.join(_EXP_TYPES)}), found {exp_type}; "
            "leave the exposure out"
        )
    if len(scan.source.shape) != 2:
        raise InputError(
            f"expected one image, found SCI of shape {scan.source.shape}; give the _rate product"
        )
    if scan.keywords["S_FLAT"] == "COMPLETE":
        raise InputError(
            "expected an image that is not flat-fielded, found S_FLAT COMPLETE; "
            + (
                "run roman_elp with --steps.flatfield.skip=True"
                if scan.keywords["TELESCOP"] == "ROMAN"
                else "give the _rate product, or run calwebb_image2 with "
                "--steps.flat_field.skip=True"
            )
        )
    if scan.source.read_err(slice(0, 1)) is None:
        raise InputError("expected an ERR image beside SCI, found none; give the _rate product")
    record = make_record(scan.name, scan.sha256, scan.keywords, scan.source.shape, ())
    if np.isnan(record.mid_mjd):
        raise DateError("expected EXPMID or DATE-OBS, found none; add one of them")
    if record.filter == "N/A":
        raise InputError("expected a FILTER, found none; add the keyword")
    if np.isnan(record.photmjsr):
        raise InputError(
            f"expected PHOTMJSR with an image in {record.unit}, found none; give the _rate product"
        )
    return record, scan, _find_wcs(scan, record, assign)


def _find_wcs(scan: Scan, record: ExposureRecord, assign: AssignWCS | None) -> SkyWCS:
    """Take the WCS of an image: the one assigned, or to be assigned, else that of its keywords."""
    if scan.keywords["S_WCS"] == "COMPLETE":
        gwcs = scan.load_wcs()
        if gwcs is not None:
            return _AssignedWCS(gwcs)
    if get_detector(record.detector).telescope == "ROMAN":
        raise InputError(
            "expected the WCS that assign_wcs of romancal makes, found none; run roman_elp"
        )
    if assign is not None:
        return _AssignedWCS(assign(record, scan.keywords))
    return _KeywordWCS(build_wcs(scan.keywords))


def build_wcs(keywords: Mapping[str, Any]) -> WCS:
    """Build the WCS of the keywords; raise where they make none."""
    cards = [f"{card}{axis}" for card in _WCS_CARDS for axis in (1, 2)] + list(_MATRIX_CARDS)
    missing = [card for card in cards if not _is_number(keywords[card])]
    if missing:
        raise InputError(
            "expected a WCS, assigned or in the keywords CRPIX, CRVAL, CDELT and PC, found no "
            f"number for {', '.join(missing)}; run calwebb_detector1 with pointing information, "
            "or give _cal products of assign_wcs"
        )
    value = {card: float(keywords[card]) for card in cards}
    matrix = np.array([[value["PC1_1"], value["PC1_2"]], [value["PC2_1"], value["PC2_2"]]])
    step = (value["CDELT1"], value["CDELT2"])
    if not abs(np.linalg.det(matrix) * step[0] * step[1]) > 0:
        raise InputError(
            "expected pixels with an area on the sky, found CDELT and PC that give them none; "
            "correct the WCS"
        )
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.crpix = value["CRPIX1"], value["CRPIX2"]
    wcs.wcs.crval = value["CRVAL1"], value["CRVAL2"]
    wcs.wcs.cdelt, wcs.wcs.pc = step, matrix
    wcs.wcs.set()
    return wcs


def _is_number(value: Any) -> bool:
    """Tell whether a card holds a finite number."""
    return isinstance(value, int | float) and bool(np.isfinite(value))


def list_sets(images: Sequence[SkyImage]) -> tuple[ImageSet, ...]:
    """Sort images by detector, filter, pupil, subarray and read-out pattern.

    Zero points are not shared between them: subarrays and patterns differ by up to 3 %. Flats of
    Roman are not selected by the read-out (``ma_table_name``), which is left aside.
    """
    groups: dict[tuple[str, ...], list[SkyImage]] = {}
    for image in images:
        r = image.record
        corner = f"{r.corner}{r.shape}"
        readpatt = "N/A" if get_detector(r.detector).telescope == "ROMAN" else r.readpatt
        key = (r.detector, r.filter, image.pupil, r.subarray, readpatt, corner)
        groups.setdefault(key, []).append(image)
    return tuple(
        ImageSet(get_detector(detector), filter_, pupil, subarray, readpatt, tuple(members))
        for (detector, filter_, pupil, subarray, readpatt, _), members in sorted(groups.items())
    )
