"""Products of a flux calibration: photom references, and what CRDS asks of them."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ProductError
from ..fluxcal import Factor, FluxFit, Mode
from ..refmodels import make_pedigree
from ..refmodels.absflux import AbsFluxNotes
from ..refmodels.closure import Closure, check_closure
from ..refmodels.photom import PhotomHeader, build_photom_models, group_factors, serves
from ..refmodels.roman_products import RomanPhotom, build_roman_photom
from ..standards import Standards
from ._flux_rows import choose_rows, settle_mrs, split_epochs

__all__ = ["PhotomReferences", "build_references", "describe_run", "quieten"]

log = logging.getLogger(__name__)

# Conversions of these are of surface brightness in photom references, of flux in fits.
_PER_PIXEL = ("lrs",)
# What new and old conversions of MRS may differ by, in either direction.
_RATIOS = (0.2, 5.0)


@dataclass(frozen=True, slots=True)
class PhotomReferences:
    """Photom references of a run.

    Attributes
    ----------
    models : list of photom models
        Each with ``meta.filename``, each row tried in the stock photom step.
    closures : list of (str, Closure)
        How closely the step follows each of them, by its name; none of those of Roman, whose rows
        are read back and hold nothing but the numbers.
    problems : list of str
        Why there is no reference of a mode.
    """

    models: list[Any]
    closures: list[tuple[str, Closure]]
    problems: list[str]


def build_references(
    fit: FluxFit,
    factors: Sequence[Factor],
    name: str,
    *,
    standards: Standards,
    useafter: str,
    method: str = "joint",
    freeze_days: float = 365.0,
    templates: Sequence[Any] = (),
    wavelengths: Mapping[tuple[str, str], np.ndarray],
) -> PhotomReferences:
    """Build the photom reference of each instrument and kind of modes.

    Parameters
    ----------
    fit : FluxFit
        For the history.
    factors : sequence of Factor
        Rows of the references.
    name : str
        Name of the products.
    standards : Standards
        What was fitted, for the history and the pixel areas.
    useafter : str
        USEAFTER of all.
    method : str
        How the factors came about, for the history.
    freeze_days : float
        Time that a reference serves where photom ignores its time tables [day].
    templates : sequence of photom models
        References whose rows are kept where nothing was fitted.
    wavelengths : mapping of (DETECTOR, BAND) to ndarray
        Of each pixel [um], for MIRI MRS.

    Returns
    -------
    PhotomReferences

    Raises
    ------
    InputError
        A template is of no mode that was fitted.
    """
    header = _make_header(fit, standards, useafter, method)
    groups = group_factors(factors)
    for template in templates:
        if not any(serves(template, key) for key in groups):
            raise InputError(
                f"expected a template of a mode that was measured "
                f"({'; '.join(' '.join(filter(None, key)) for key in groups) or 'none is known'}), "
                f"found {template.meta.filename}, a {type(template).__name__} of "
                f"{template.meta.instrument.name} {template.meta.instrument.detector}; leave it out"
            )
    made = PhotomReferences([], [], [])
    for key, mine in groups.items():
        suited = [template for template in templates if serves(template, key)]
        rows = choose_rows(mine, fit.measurements)
        try:
            if mine[0].mode.kind == "mrs":
                _require_made_by(suited, standards, mine[0].mode)
                rows = settle_mrs(rows, fit, wavelengths.get(key[2:]))
            for start, part in split_epochs(rows, fit, freeze_days):
                own = replace(header, useafter=start) if start else header
                stamp = "_" + start.replace("-", "").replace(":", "") if start else ""
                stem = f"{name}_{{}}_photom{stamp}"
                if key[0] == "WFI":
                    made.models.append(_build_roman(part, own, stem, suited))
                    continue
                for model, closure in _build(part, own, stem, suited, wavelengths):
                    made.models.append(model)
                    made.closures.append((Path(model.meta.filename).stem, closure))
        except ProductError as error:
            made.problems.append(f"No photom reference of {' '.join(filter(None, key))}: {error}")
            log.warning("%s", made.problems[-1])
    return made


def describe_run(
    fit: FluxFit,
    standards: Standards,
    references: PhotomReferences,
    *,
    useafter: str,
    settings: Mapping[str, Any],
) -> AbsFluxNotes:
    """Say what belongs to a run beside its fit.

    Parameters
    ----------
    fit : FluxFit
    standards : Standards
        What was fitted.
    references : PhotomReferences
        What `build_references` made.
    useafter : str
    settings : mapping
        Of the run.

    Returns
    -------
    AbsFluxNotes
    """
    header = _make_header(fit, standards, useafter, str(settings["method"]))
    m = fit.measurements
    reasons, counts = np.unique(m.reason[~m.used], return_counts=True)
    left = [f"Left out: {n} measurements: {why}" for why, n in zip(reasons, counts, strict=True)]
    odd = [
        f"{star.name} in {star.group}: {star.verdict} ({star.reason})"
        for star in fit.stars
        if star.verdict != "ok"
    ]
    names = [Path(model.meta.filename).stem for model in references.models]
    return AbsFluxNotes(
        useafter=useafter,
        pedigree=header.pedigree,
        description=f"{header.description}: the fit",
        files=[(file.role, file.name, file.sha256) for file in standards.files],
        references=names,
        settings=settings,
        notes=[*header.history, *fit.warnings, *references.problems, *left, *odd],
        closures=references.closures,
    )


def _build(
    factors: Sequence[Factor],
    header: PhotomHeader,
    name: str,
    templates: Sequence[Any],
    wavelengths: Mapping[tuple[str, str], np.ndarray],
) -> list[tuple[Any, Closure]]:
    """Build one reference, and try its rows."""
    _require_ratios(factors)
    area = dict(header.pixel_area_sr)
    for template in templates:
        known = template.meta.photometry.pixelarea_steradians
        if known:
            area[str(template.meta.instrument.detector)] = known
    rows = [_convert(factor, area) for factor in factors]
    mode = factors[0].mode
    wavelength = wavelengths.get((mode.detector, mode.band))
    tried = []
    built = build_photom_models(rows, header, templates=templates, wavelengths=wavelengths)
    for key, model in built.items():
        with quieten("jwst.photom", "stpipe.step"):
            closure = check_closure(model, rows, wavelength=wavelength)
        log.info(
            "%s: %d rows through the photom step, at most %.1e off",
            key,
            closure.n_rows,
            closure.worst,
        )
        model.meta.filename = f"{name.format(key)}.asdf"
        tried.append((model, closure))
    return tried


def _build_roman(
    factors: Sequence[Factor], header: PhotomHeader, name: str, templates: Sequence[Any]
) -> RomanPhotom:
    """Build the reference of a detector of Roman."""
    if len(templates) > 1:
        raise InputError(
            f"expected one template of {factors[0].mode.detector}, found "
            f"{' and '.join(one.filename for one in templates)}; give one"
        )
    place = f"{factors[0].mode.detector}_imaging"
    return build_roman_photom(
        factors,
        header,
        template=templates[0] if templates else None,
        filename=f"{name.format(place)}.asdf",
    )


def _require_made_by(templates: Sequence[Any], standards: Standards, mode: Mode) -> None:
    """Refuse a template of MRS that is not what made the spectra: factors are ratios to that."""
    made = sorted({f.name for f in standards.files if (f.role, f.about) == ("photom", mode.label)})
    given = [str(template.meta.filename) for template in templates]
    if made and given and {Path(name).stem for name in made} != {Path(n).stem for n in given}:
        raise ProductError(
            f"expected the template of {mode.label} to be the reference that made its spectra, "
            f"{' and '.join(made)} (R_PHOTOM), found {' and '.join(given)}; give that one, and "
            "spectra that one reference made"
        )


def _require_ratios(factors: Sequence[Factor]) -> None:
    """Refuse factors of MRS that are no ratios: its reference is a template times a ratio."""
    values = [factor.value for factor in factors if factor.mode.kind == "mrs"]
    if values and not _RATIOS[0] < np.median(values) < _RATIOS[1]:
        raise ProductError(
            f"expected ratios to the template of {factors[0].mode.label}, found factors of "
            f"{np.median(values):.3g}; give _x1d spectra in flux units, the reference that made "
            "them as photom and as template_photom, and exposures after assign_wcs as mrs_exposures"
        )


@contextmanager
def quieten(*names: str) -> Iterator[None]:
    """Keep loggers to warnings, where the same lines would come again and again."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _convert(factor: Factor, area: Mapping[str, float]) -> Factor:
    """Turn the conversion of a point source's spectrum into one of surface brightness."""
    if factor.mode.kind not in _PER_PIXEL:
        return factor
    pixel = area.get(factor.mode.detector)
    if not pixel:
        raise ProductError(
            f"expected the pixel area of {factor.mode.detector}, found none; give a template of "
            "its photom reference"
        )
    return replace(factor, value=factor.value / pixel, uncertainty=factor.uncertainty / pixel)


def _make_header(fit: FluxFit, standards: Standards, useafter: str, method: str) -> PhotomHeader:
    """Say what the references are made of."""
    m = fit.measurements
    mjd = m.mjd[m.used & np.isfinite(m.mjd)]
    stars = sorted(set(m.star[m.used].tolist()))
    forms = {" x ".join(parts) or "constant" for parts in fit.forms.values()}
    how = [
        f"Conversions are those of MJD {fit.t0_mjd:g}; throughput: {', '.join(sorted(forms))}.",
        "Fit: " + ", ".join(f"{key}={value}" for key, value in fit.settings.items()) + ".",
    ]
    if method != fit.settings["method"]:
        how = [f"Method {method}: the published recipe; each table has its own date of origin."]
    entries = [
        f"Observed over model of {len(stars)} standard stars ({', '.join(stars)}): "
        f"{int(m.used.sum())} measurements, {int((~m.used).sum())} left out.",
        *how,
    ]
    for role in dict.fromkeys(file.role for file in standards.files):
        names = [file.name for file in standards.files if file.role == role]
        entries.append(f"Files ({role}): {', '.join(names)}.")
    telescope = "ROMAN" if any(band.mode.instrument == "WFI" for band in m.bands) else "JWST"
    header = PhotomHeader(
        useafter=useafter,
        pedigree=make_pedigree(mjd, telescope) if mjd.size else "GROUND",
        description="Absolute flux calibration from standard stars",
        history=tuple(entries),
    )
    # A flux is the sum of surface brightness times PIXAR_SR: the area that the factors went by.
    return replace(header, pixel_area_sr={**header.pixel_area_sr, **standards.pixel_area_sr})
