"""Calibration factors as photom references that the stock photom step applies."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import asdf
import numpy as np
from asdf.util import load_yaml
from stdatamodels.jwst import datamodels
from stdatamodels.jwst.datamodels import JwstDataModel

from ..errors import InputError, ProductError
from ..files import require_plain_tree
from .closure import check_closure
from .mask import AUTHOR, SOFTWARE, check_useafter, require_pedigree
from .photom_mrs import build_mrs_photom
from .photom_rows import (
    LAYOUTS,
    Layout,
    PhotomRow,
    list_nircam_subarrays,
    make_row,
    make_tables,
    read_rows,
)
from .roman_products import RomanPhotom, read_roman_photom
from .twins import write_twins

if TYPE_CHECKING:
    from ..fluxcal import Factor

__all__ = [
    "PhotomHeader",
    "build_photom_models",
    "freeze_factors",
    "group_factors",
    "read_template",
    "serves",
    "write_photom",
]

log = logging.getLogger(__name__)

# PIXAR_SR of the MIRI imager [sr], as in the photom references of its own calibration
# (STScI-MIRI/ImagingFluxCal, create_photom_reffile.py).
_MIRI_PIXEL_SR = 2.8606325654256e-13
_ARCSEC2_PER_SR = (180 * 3600 / np.pi) ** 2

_FULL, _GENERIC = "FULL", "GENERIC"


@dataclass(frozen=True, slots=True)
class PhotomHeader:
    """What photom references say about themselves.

    Attributes
    ----------
    useafter : str
        YYYY-MM-DDThh:mm:ss (UTC).
    pedigree, description, author : str
        As `build_mask`.
    history : tuple of str
        At least one entry.
    pixel_area_sr : mapping of str to float
        DETECTOR -> nominal solid angle of a pixel [sr], where there is no template that has it.
    """

    useafter: str
    pedigree: str
    description: str
    history: tuple[str, ...]
    author: str = AUTHOR
    pixel_area_sr: Mapping[str, float] = field(default_factory=lambda: {"MIRIMAGE": _MIRI_PIXEL_SR})


def build_photom_models(
    factors: Sequence[Factor],
    header: PhotomHeader,
    *,
    templates: Sequence[JwstDataModel] = (),
    wavelengths: Mapping[tuple[str, str], np.ndarray] = MappingProxyType({}),
) -> dict[str, JwstDataModel]:
    """Build the photom references of all modes, in memory, ready for `write_photom`.

    Parameters
    ----------
    factors : sequence of Factor
        Of any instruments. Those of MIRI MRS are ratios to the template, see `build_mrs_photom`;
        modes of kind ``unknown`` are left out with a warning.
    header : PhotomHeader
    templates : sequence of photom models
        References whose rows, in their order, are kept where no factor replaces them; at most one
        per reference. MIRI MRS needs one for every detector and band.
    wavelengths : mapping of (DETECTOR, BAND) to ndarray of float64, shape (ny, nx)
        For MIRI MRS: wavelength of each pixel [um], NaN outside the slices; see
        `read_mrs_wavelengths`.

    Returns
    -------
    dict of str to photom model
        ``DETECTOR_MODE[_BAND]``, as in file names, -> reference. Those of NIRSpec serve both
        detectors, and are named ``NRS`` where both were seen.

    Raises
    ------
    ProductError
        photom would not apply what a factor says, without a word: a throughput that is not
        positive, one that changes for the IFU of NIRSpec, one of another form than the reference
        can hold, two factors of one row, no FULL row; or a keyword is invalid.
    InputError
        A template is of another instrument or mode than all factors, or is given twice.

    Notes
    -----
    Filters of which a template has subarrays that no factor is of keep their ratio to FULL. A
    reference of NIRCam has a row for every subarray of the schema once one has a factor of its
    own, because photom leaves others in DN/s then; those without have the factor of FULL. A MIRI
    filter has a GENERIC row for what is not listed. The throughput of NIRISS images that is linear
    in time is one row per row of the main table, in the same order, without filter and pupil,
    which the schema does not have; photom applies it by number.
    """
    check_useafter(header.useafter)
    require_pedigree(header.pedigree)
    if not header.history:
        raise ProductError("expected at least one history entry, found none; CRDS requires one")
    grouped = group_factors(factors)
    chosen = _assign_templates(templates, grouped)
    models: dict[str, JwstDataModel] = {}
    for key, group in grouped.items():
        instrument, label, place, band = key
        if band:
            model = build_mrs_photom(
                group, template=chosen.get(key), wavelength=wavelengths.get((place, band))
            )
            kept = 0
            exp_types: tuple[str, ...] = ("MIR_MRS",)
        else:
            layout = LAYOUTS[instrument, group[0].mode.kind]
            model, kept = _build_model(group, layout, chosen.get(key))
            exp_types = layout.exp_types
        _describe(model, group, header, exp_types=exp_types, template=chosen.get(key), kept=kept)
        name = "_".join(filter(None, (model.meta.instrument.detector, label, band)))
        models[name.replace("N/A", "NRS")] = model
    return models


def write_photom(
    model: JwstDataModel,
    path_without_suffix: str | Path,
    *,
    factors: Sequence[Factor],
    wavelength: np.ndarray | None = None,
) -> tuple[Path, Path]:
    """Write the ASDF and the FITS file of a photom reference that passes its closure, or neither.

    Parameters
    ----------
    model : photom model
        From `build_photom_models`.
    path_without_suffix : str or Path
        As `write_twins`.
    factors : sequence of Factor
        What it was built from, all instruments or its own.
    wavelength : ndarray, optional
        For MIRI MRS, as it was built with.

    Returns
    -------
    asdf_path, fits_path : Path
        Stock stages read the ASDF file where this package is installed, the FITS file anywhere.

    Raises
    ------
    ProductError
        The stock photom step does not give what the factors say, or as `write_twins`.
    """
    closure = check_closure(model, factors, wavelength=wavelength)
    paths = write_twins(model, path_without_suffix)
    log.info(
        "%s: %d rows through the photom step at %d dates, at most %.1e off",
        paths[1].name,
        closure.n_rows,
        len(closure.mjd),
        closure.worst,
    )
    return paths


def freeze_factors(factors: Iterable[Factor], mjd: float) -> list[Factor]:
    """Take the factors as they are at one date, for modes whose time tables photom ignores.

    Parameters
    ----------
    factors : iterable of Factor
    mjd : float
        Date [MJD].

    Returns
    -------
    list of Factor
        Constant ones. One reference per epoch, each with its USEAFTER, then follows the change.
    """
    from ..fluxcal import Throughput

    frozen = []
    for factor in factors:
        f = float(factor.throughput.evaluate(mjd))
        if not 0 < f < np.inf:
            raise ProductError(
                f"expected a positive throughput of {factor.mode.label} at MJD {mjd}, found {f}; "
                "choose a date that the fit covers"
            )
        frozen.append(
            replace(
                factor,
                value=factor.value / f,
                uncertainty=factor.uncertainty / f,
                throughput=Throughput(mjd),
            )
        )
    return frozen


def read_template(path: str | Path) -> JwstDataModel | RomanPhotom:
    """Read a photom reference whose rows are to be kept.

    Parameters
    ----------
    path : str or Path
        FITS, or ASDF as this package writes it; of Roman ASDF.

    Returns
    -------
    photom model
        In memory.

    Raises
    ------
    InputError
        It cannot be read, is invalid, or is no photom reference.
    """
    try:
        if Path(path).suffix.lower() == ".asdf":
            require_plain_tree(path)
            if "roman" in load_yaml(path):
                return read_roman_photom(path)
        with datamodels.open(path, strict_validation=True) as model:
            model.validate()
            # Copied, so that nothing is left open.
            opened = model.copy()
    except Exception as error:
        raise InputError(
            f"expected a photom reference in {path}, found {type(error).__name__}: {error}; give "
            "one as CRDS delivers it"
        ) from error
    kind = str(getattr(opened.meta, "reftype", None)).upper()
    if kind != "PHOTOM" or "Photom" not in type(opened).__name__:
        raise InputError(
            f"expected a photom reference in {path}, found {type(opened).__name__} with REFTYPE "
            f"{kind}; give one as CRDS delivers it"
        )
    opened.meta.filename = Path(path).name
    return opened


_Key = tuple[str, str, str, str]


def group_factors(factors: Sequence[Factor]) -> dict[_Key, list[Factor]]:
    """Sort factors by reference: (instrument, label, detector, band)."""
    grouped: dict[_Key, list[Factor]] = {}
    unknown = {f.mode.label for f in factors if f.mode.kind == "unknown"}
    for label in sorted(unknown):
        log.warning("%s: no photom reference, because the mode is not known", label)
    for factor in factors:
        mode = factor.mode
        instrument = mode.instrument.upper()
        if mode.kind == "unknown":
            continue
        if (instrument, mode.kind) == ("WFI", "imaging"):
            key = (instrument, "imaging", mode.detector.upper(), "")
        elif (instrument, mode.kind) == ("MIRI", "mrs"):
            key = (instrument, "mrs", mode.detector.upper(), mode.band.upper())
        elif (instrument, mode.kind) in LAYOUTS:
            # CRDS selects references of NIRSpec by EXP_TYPE alone.
            place = "" if instrument == "NIRSPEC" else mode.detector.upper()
            key = (instrument, LAYOUTS[instrument, mode.kind].label, place, "")
        else:
            others = (("MIRI", "mrs"), ("WFI", "imaging"))
            known = ", ".join(f"{i} {k}" for i, k in (*LAYOUTS, *others))
            raise ProductError(
                f"expected a mode with a photom reference ({known}), found {instrument} "
                f"{mode.kind}; correct the instrument or the kind"
            )
        grouped.setdefault(key, []).append(factor)
    return dict(sorted(grouped.items()))


def _assign_templates(
    templates: Sequence[JwstDataModel], grouped: Mapping[_Key, Sequence[Factor]]
) -> dict[_Key, JwstDataModel]:
    """Find what each template is for."""
    chosen: dict[_Key, JwstDataModel] = {}
    for template in templates:
        keys = [key for key in grouped if serves(template, key)]
        meta = template.meta.instrument
        what = f"{meta.name} {meta.detector} {type(template).__name__}"
        if not keys:
            wanted = ", ".join(" ".join(filter(None, key)) for key in grouped) or "nothing"
            raise InputError(
                f"expected a template for {wanted}, found {template.meta.filename}, a {what}; give "
                "one of the same instrument, detector and mode, or none"
            )
        if keys[0] in chosen:
            raise InputError(
                f"expected one template of {what}, found {chosen[keys[0]].meta.filename} and "
                f"{template.meta.filename}; give one"
            )
        chosen[keys[0]] = template
    return chosen


def serves(template: JwstDataModel, key: _Key) -> bool:
    """Tell whether a template is of the reference of a group of `group_factors`."""
    instrument, label, place, band = key
    meta = template.meta.instrument
    if str(meta.name).upper() != instrument:
        return False
    if place and str(meta.detector or place).upper() != place:
        return False
    if instrument == "WFI":
        return True
    if band:
        return type(template).__name__ == "MirMrsPhotomModel" and str(meta.band).upper() == band
    layouts = {layout for (name, _), layout in LAYOUTS.items() if name == instrument}
    return any(one.label == label and one.model == type(template).__name__ for one in layouts)


def _build_model(
    factors: Sequence[Factor], layout: Layout, template: JwstDataModel | None
) -> tuple[JwstDataModel, int]:
    """Build the tables of one reference; also the number of rows kept from the template."""
    if layout.label == "ifu":
        _require_constant(factors)
    keys = layout.keys
    if layout.model == "NrcImgPhotomModel":
        tabled = template is not None and "subarray" in template.phot_table.dtype.names
        if tabled or any(f.subarray.upper() not in (_FULL, _GENERIC) for f in factors):
            keys = (*keys, "subarray")
    fresh = _make_rows(factors, layout, keys)
    old = [] if template is None else _read_template_rows(template, layout, keys)
    rows = _merge(old, fresh, keys, scaled=not layout.spectral)
    if "subarray" in keys and not layout.spectral:
        rows = _complete(rows, keys, nircam=layout.model == "NrcImgPhotomModel")
    model = layout.create()
    for name, table in make_tables(layout, rows, keys).items():
        setattr(model, name, table)
    if layout.unit:
        model.phot_unit, model.wave_unit = layout.unit, "um"
        if template is not None and (template.phot_unit or layout.unit) != layout.unit:
            raise ProductError(
                f"expected a template in {layout.unit}, found {template.meta.filename} in "
                f"{template.phot_unit}; convert it first"
            )
    return model, sum(row.factor is None for row in rows if old)


def _require_constant(factors: Iterable[Factor]) -> None:
    """Refuse time tables of the IFU of NIRSpec: jwst takes the conversion and nothing else."""
    for factor in factors:
        if make_row(factor, (), spectral=True).times:
            raise ProductError(
                f"expected a constant throughput of {factor.mode.label}, found one that changes; "
                "photom ignores every time table of the NIRSpec IFU: write one reference per "
                "epoch, each with its USEAFTER, from freeze_factors"
            )


def _make_rows(
    factors: Sequence[Factor], layout: Layout, keys: Sequence[str]
) -> dict[tuple[Any, ...], PhotomRow]:
    """Make the rows, by key; imaging speaks for FULL where a coronagraph's filter has both."""
    rows: dict[tuple[Any, ...], PhotomRow] = {}
    # Images before the same filter behind a coronagraph, so that theirs are the first.
    for factor in sorted(factors, key=lambda one: one.mode.kind != "imaging"):
        row = make_row(factor, keys, spectral=layout.spectral)
        other = rows.get(row.keys)
        if other is None:
            rows[row.keys] = row
            continue
        assert other.factor is not None
        first = other.factor.mode
        if first.kind != factor.mode.kind and factor.subarray.upper() == _FULL:
            log.info("%s: its FULL row is that of %s", factor.mode.label, first.label)
        elif layout.label == "fixedslit" and first.detector != factor.mode.detector:
            rows[row.keys] = _join(other, row)
        else:
            raise ProductError(
                f"expected one factor per row, found two of {' '.join(map(str, row.keys))}: "
                f"{first.label} {other.factor.subarray} and {factor.mode.label} "
                f"{factor.subarray}; photom has no column that tells them apart: leave one out"
            )
    return rows


def _join(one: PhotomRow, other: PhotomRow) -> PhotomRow:
    """Join the halves of a spectrum on two detectors, which photom takes from one row."""
    assert one.factor is not None
    assert other.factor is not None
    if one.times != other.times:
        raise ProductError(
            f"expected one throughput for both detectors of {one.factor.mode.label}, found "
            f"{one.factor.throughput} and {other.factor.throughput}; photom has one row for both: "
            "fit them with one time dependence"
        )
    ratio = other.value / one.value
    wave = np.concatenate([one.wavelength, other.wavelength])  # type: ignore[list-item]
    joined = replace(
        one.factor,
        wave=wave,
        relresponse=np.concatenate([one.relresponse, ratio * other.relresponse]),  # type: ignore
        reluncertainty=np.concatenate(
            [one.reluncertainty, ratio * other.reluncertainty]  # type: ignore
        ),
    )
    made = make_row(joined, (), spectral=True)
    return replace(made, keys=one.keys)


def _read_template_rows(
    template: JwstDataModel, layout: Layout, keys: Sequence[str]
) -> list[PhotomRow]:
    """Read the rows; those of a NIRCam file without subarrays are for FULL, and so for all."""
    if "subarray" in keys and "subarray" not in template.phot_table.dtype.names:
        rows = read_rows(template, layout, layout.keys)
        return [replace(row, keys=(*row.keys, _FULL)) for row in rows]
    return read_rows(template, layout, keys)


def _merge(
    old: Sequence[PhotomRow],
    fresh: Mapping[tuple[Any, ...], PhotomRow],
    keys: Sequence[str],
    *,
    scaled: bool,
) -> list[PhotomRow]:
    """Replace rows in place, keep the others, put new ones at the end."""
    rows: list[PhotomRow] = []
    full = {row.keys: row for row in old}
    for row in old:
        new = fresh.get(row.keys)
        if new is None and scaled and "subarray" in keys:
            whole = _to_full(row.keys)
            # Old files have GENERIC in the place of FULL.
            before = full.get(whole) or (row if row.keys[-1] == _GENERIC else None)
            if whole in fresh and before is not None:
                new = _follow(fresh[whole], row.value / before.value, row.keys[-1])
        rows.append(new or row)
    present = {row.keys for row in rows}
    return rows + [row for key, row in fresh.items() if key not in present]


def _to_full(keys: tuple[Any, ...]) -> tuple[Any, ...]:
    """Key of the FULL row; the subarray is always last."""
    return (*keys[:-1], _FULL)


def _follow(full: PhotomRow, ratio: float, subarray: str) -> PhotomRow:
    """Make the row of a subarray that keeps its ratio to FULL."""
    assert full.factor is not None
    value, uncertainty = full.value * ratio, full.uncertainty * ratio
    factor = replace(
        full.factor,
        subarray=subarray,
        value=full.factor.value * ratio,
        uncertainty=full.factor.uncertainty * ratio,
    )
    keys = (*full.keys[:-1], subarray)
    return replace(full, keys=keys, value=value, uncertainty=uncertainty, factor=factor)


def _complete(rows: list[PhotomRow], keys: Sequence[str], *, nircam: bool) -> list[PhotomRow]:
    """Add rows for subarrays that are not listed, which have the factor of FULL."""
    rows = [row for row in rows if not (nircam and row.keys[-1] == _GENERIC)] + [
        replace(row, keys=_to_full(row.keys)) for row in rows if nircam and row.keys[-1] == _GENERIC
    ]
    present = {row.keys for row in rows}
    wanted = list_nircam_subarrays() if nircam else (_GENERIC,)
    for key in dict.fromkeys(_to_full(row.keys) for row in rows):
        whole = next((row for row in rows if row.keys == key), None)
        if whole is None:
            generic = (*key[:-1], _GENERIC)
            if generic in present:
                continue
            raise ProductError(
                f"expected a FULL row of {' '.join(map(str, key[:-1]))}, found subarrays only; "
                "photom would leave other subarrays in DN/s: give a factor for FULL or a template"
            )
        new = [(*key[:-1], name) for name in wanted]
        rows += [_copy_full(whole, one) for one in new if one not in present]
    return rows


def _copy_full(row: PhotomRow, keys: tuple[Any, ...]) -> PhotomRow:
    """Copy a FULL row for another subarray."""
    return replace(row, keys=keys)


def _fit_card(value: float) -> float:
    """Round to what a FITS card holds."""
    return float(f"{value:.12g}")


def _describe(
    model: Any,
    factors: Sequence[Factor],
    header: PhotomHeader,
    *,
    exp_types: Sequence[str],
    template: Any,
    kept: int,
) -> None:
    """Fill in the metadata that select and describe a reference."""
    meta, mode = model.meta, factors[0].mode
    detectors = {factor.mode.detector.upper() for factor in factors}
    known = template.meta.photometry.pixelarea_steradians if template is not None else None
    # NIRSpec has its pixel areas in the references of type AREA.
    area = known or header.pixel_area_sr.get(mode.detector.upper())
    try:
        meta.reftype, meta.author, meta.pedigree = "PHOTOM", header.author, header.pedigree
        meta.description, meta.useafter = header.description, header.useafter
        meta.instrument.name = mode.instrument.upper()
        meta.instrument.detector = detectors.pop() if len(detectors) == 1 else "N/A"
        if mode.instrument.upper() == "MIRI":
            meta.instrument.band = mode.band.upper()
        before = getattr(template.meta.exposure, "p_exptype", None) if template is not None else ""
        listed = dict.fromkeys([*filter(None, str(before or "").split("|")), *exp_types])
        meta.exposure.type = next(iter(listed))
        meta.exposure.p_exptype = "".join(f"{name}|" for name in listed)
        if area is not None:
            meta.photometry.pixelarea_steradians = _fit_card(area)
            meta.photometry.pixelarea_arcsecsq = _fit_card(area * _ARCSEC2_PER_SR)
        elif mode.kind in ("imaging", "coronagraphy"):
            log.warning("%s: no PIXAR_SR, because no pixel area was given", mode.label)
    except asdf.ValidationError as error:
        raise ProductError(
            f"expected keywords that the schema of {type(model).__name__} allows, found: "
            f"{error.message}; correct the detector, the band or the text"
        ) from error
    for entry in header.history:
        model.add_history_entry(entry, SOFTWARE)
    if template is not None:
        source = template.meta.filename
        text = f"{kept} rows are those of {source}." if kept else f"Made from {source}."
        model.add_history_entry(text, SOFTWARE)
