"""Products of the flat of one set of images: models, names, dates, table of exposures."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..dates import to_isot
from ..errors import DetectorError
from ..exposures import ExcludedExposure
from ..flatfield import BuiltFlat, ExposureFacts, FlatSettings, MergedFlat
from ..imaging import ImageSet
from ..refmodels import FlatSelection, build_flat_model, build_star_flat_model, make_pedigree
from ..refmodels.roman_products import build_roman_flat

__all__ = ["FlatNames", "build_products", "name_sets"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FlatNames:
    """A set of images, how its products are called and what its flats are selected by.

    Attributes
    ----------
    images : ImageSet
    stem : str
        Name of the products without their endings.
    subarray, readpatt : str
        SUBARRAY and READPATT of the flats: GENERIC and N/A where they serve all.
    """

    images: ImageSet
    stem: str
    subarray: str
    readpatt: str

    def select(self, useafter: str) -> FlatSelection:
        """Say what the flat from a date on is selected by."""
        images = self.images
        return FlatSelection(
            images.detector.name,
            images.filter,
            images.pupil,
            self.subarray,
            images.corner,
            self.readpatt,
            useafter,
        )


def name_sets(name: str, sets: Sequence[ImageSet]) -> Iterator[FlatNames]:
    """Name the products of each set: what they are specific to is in the name.

    Raises
    ------
    DetectorError
        Images of one SUBARRAY lie at different places: nothing would tell their flats apart.
    """
    seen: dict[tuple[str, ...], tuple[int, int]] = {}
    for images in sets:
        key = (images.detector.name, images.filter, images.pupil, images.subarray, images.readpatt)
        if seen.setdefault(key, images.corner) != images.corner:
            raise DetectorError(
                f"expected {images.label} at one place of the detector, found it at (y, x) = "
                f"{seen[key]} and {images.corner}; run the step once for each"
            )
        alike = [
            other
            for other in sets
            if (other.detector, other.filter, other.pupil, other.subarray)
            == (images.detector, images.filter, images.pupil, images.subarray)
        ]
        parts = [name, images.detector.name, images.filter]
        full = images.is_full
        parts += [images.pupil] if images.pupil != "N/A" else []
        parts += [] if full else [images.subarray]
        parts += [images.readpatt] if len(alike) > 1 else []
        yield FlatNames(
            images,
            "_".join(parts),
            "GENERIC" if full else images.subarray,
            images.readpatt if len(alike) > 1 else "N/A",
        )


def build_products(
    built: BuiltFlat,
    names: FlatNames,
    facts: ExposureFacts,
    *,
    excluded: Sequence[ExcludedExposure],
    settings: FlatSettings,
    extra_settings: Mapping[str, Any],
    first_useafter: str,
    suffix: str,
) -> list[Any]:
    """Build the models of one set: the parts, then the flats.

    Parameters
    ----------
    built : BuiltFlat
    names : FlatNames
    facts : ExposureFacts
    excluded : sequence of ExcludedExposure
        What was given and is in no set.
    settings : FlatSettings
    extra_settings : mapping
        Parameters of the run beside these.
    first_useafter : str
        USEAFTER of the first flat.
    suffix : str
        Ending of the file of the parts.

    Returns
    -------
    list of StarFlatModel and FlatModel (RomanFlat for Roman)
        Each with ``meta.filename``.
    """
    images = names.images
    dates = _list_dates(images, facts, len(built.flats), first_useafter)
    stems = [f"{names.stem}_flat_{date.replace('-', '').replace(':', '')}" for date in dates]
    pedigree = make_pedigree(images.mid_mjd[facts.used], images.detector.telescope)
    history = _list_history(built, images, facts)
    chosen = {**asdict(settings.stack), **asdict(settings), **extra_settings}
    del chosen["stack"]
    parts = build_star_flat_model(
        built,
        selection=names.select(dates[0]),
        flats={"filename": stems, "useafter": dates},
        exposures=_tabulate(built, images, facts, excluded),
        settings=chosen,
        notes=[
            *built.notes,
            *_warn_of_area(built, images),
            *(f"Left out: {e.filename}: {e.reason}" for e in excluded),
        ],
        area="distorted" if images.distorted else "constant",
        pedigree=pedigree,
        description=f"Parts of the flats of {images.label}",
    )
    parts.meta.filename = f"{names.stem}_{suffix}.asdf"
    models: list[Any] = [parts]
    for flat, date, stem in zip(built.flats, dates, stems, strict=True):
        about: dict[str, Any] = {
            "selection": names.select(date),
            "pedigree": pedigree,
            "description": f"External flat of {images.detector.name} in {images.filter}",
            "history": [*history, _describe_flags(flat)],
        }
        planes, filename = (flat.flat, flat.err, flat.flags), f"{stem}.asdf"
        if images.detector.telescope == "ROMAN":
            models.append(build_roman_flat(*planes, filename=filename, **about))
            continue
        model = build_flat_model(*planes, exp_type=_stage2_type(images), **about)
        model.meta.filename = filename
        models.append(model)
    return models


def _warn_of_area(built: BuiltFlat, images: ImageSet) -> list[str]:
    """Say where a star flat met the sky without the pixel area that distortion makes."""
    if built.star is None or images.distorted:
        return []
    # From the distortion of MIRI in orbit.
    size = " (it varies by up to 3.7 %)" if images.detector.instrument == "MIRI" else ""
    text = (
        "The WCS of the keywords has no distortion, so the area of the pixels is taken as constant "
        f"and lacks in the flat{size}; give distortion=crds or a distortion reference, or _cal "
        "files of calwebb_image2 with --steps.flat_field.skip=True, or use star_flat=never"
    )
    log.warning("%s: %s", images.label, text)
    return [text]


def _stage2_type(images: ImageSet) -> str:
    """EXP_TYPE for stage 2, which knows no WCS of MIR_FLATIMAGE-EXT."""
    found = images.images[0].record.exp_type
    return "MIR_IMAGE" if found.startswith("MIR_") else found


def _list_dates(
    images: ImageSet, facts: ExposureFacts, n_flats: int, first_useafter: str
) -> list[str]:
    """USEAFTER of each flat: the middle of the gap before its epoch, whole seconds."""
    start = np.array([image.record.start_mjd for image in images.images])
    end = np.array([image.record.end_mjd for image in images.images])
    dates = [first_useafter]
    for epoch in range(1, n_flats):
        middle = (end[facts.epoch < epoch].max() + start[facts.epoch == epoch].min()) / 2
        dates.append(to_isot(middle)[:19])
    return dates


def _list_history(built: BuiltFlat, images: ImageSet, facts: ExposureFacts) -> list[str]:
    """Say in the HISTORY what the flat was made of."""
    stack = built.stack
    types = sorted({image.record.exp_type for image in images.images})
    entries = [
        f"Built from {stack.n_used} exposures of {images.label} (EXP_TYPE {', '.join(types)}), "
        f"{stack.n_pointings} pointings in {stack.n_tiles} groups.",
        "Normalised to mean 1 over the good pixels of the field; pixel area included.",
        "Inputs: " + ", ".join(image.record.filename for image in images.images),
    ]
    if built.star is None:
        entries.append("Low frequencies from the sky: no star flat.")
    else:
        entries.append(
            f"Low frequencies from {built.star.n_used} measurements of stars, order "
            f"{built.star.order}, error {100 * built.star.sigma:.3f} percent."
        )
    if not images.distorted:
        entries.append("Pixel area constant: the WCS of the keywords has no distortion.")
    if built.check is not None:
        entries.append(built.check.describe())
    used = [image.record.filename for image, u in zip(images.images, facts.used, strict=True) if u]
    return entries + [
        f"Left out of the stack: {used[frame.index]}: {frame.reason}" for frame in stack.excluded
    ]


def _describe_flags(flat: MergedFlat) -> str:
    counts = ", ".join(f"{name} {int(marked.sum())}" for name, marked in flat.flags.items())
    return f"Pixels flagged: {counts}."


def _tabulate(
    built: BuiltFlat,
    images: ImageSet,
    facts: ExposureFacts,
    excluded: Sequence[ExcludedExposure],
) -> dict[str, Any]:
    """Tabulate the exposures: those of the set in order of time, then those left out."""
    n, records = len(images), [image.record for image in images.images]
    rows = np.flatnonzero(facts.used)
    status = ["used" if used else "held out" for used in facts.used]
    reason = [""] * n
    for frame in built.stack.excluded:
        row = int(rows[frame.index])
        status[row], reason[row] = "left out of the stack", frame.reason
    level, masked, zero, zero_err = (np.full(n, np.nan) for _ in range(4))
    level[rows] = [background.level for background in built.stack.backgrounds]
    masked[rows] = built.stack.masked
    if built.star is not None:
        zero[built.star.exposure_id] = built.star.zero_point
        zero_err[built.star.exposure_id] = built.star.zero_point_err
    offset = np.zeros((n, 2)) if built.matched is None else built.matched.offset_arcsec
    none = np.full(len(excluded), np.nan)
    numbers = {
        "start_mjd": np.array([record.start_mjd for record in records]),
        "end_mjd": np.array([record.end_mjd for record in records]),
        "sky_level": level,
        "masked": masked,
        "zero_point": zero,
        "zero_point_err": zero_err,
        "offset_ra": offset[:, 0],
        "offset_dec": offset[:, 1],
    }
    blank = [""] * len(excluded)
    return {
        "filename": [r.filename for r in records] + [e.filename for e in excluded],
        "sha256": [r.sha256 for r in records] + [e.sha256 for e in excluded],
        "exp_type": [r.exp_type for r in records] + blank,
        "visit": [image.visit for image in images.images] + blank,
        "epoch": np.concatenate([facts.epoch, np.full(len(excluded), -1)]).astype(np.int32),
        "status": status + ["left out"] * len(excluded),
        "reason": reason + [e.reason for e in excluded],
        **{name: np.concatenate([values, none]) for name, values in numbers.items()},
    }
