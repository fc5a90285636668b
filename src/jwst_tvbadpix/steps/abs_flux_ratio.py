"""AbsFluxRatio: standard stars in, photom references and what they are known by out."""

import logging
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from astropy.table import Table

from ..fluxcal import (
    Dependence,
    FluxFit,
    compare_modes,
    fit_factors,
    fit_gordon2025,
    leave_out,
    measure_dependences,
    measure_repeatability,
)
from ..fluxcal.gather import check_dates
from ..refmodels import check_useafter
from ..refmodels.absflux import build_absflux_model
from ..refmodels.photom import read_template
from ..standards import Standards, read_standards
from ._base import TvBadPixStep
from ._flux_columns import describe_columns
from ._flux_inputs import find_apcorr, read_wavelengths
from ._flux_products import build_references, describe_run, quieten
from ._flux_tables import compare_recipe, tabulate_all, tabulate_left_out

__all__ = ["AbsFluxRatio"]

log = logging.getLogger(__name__)

# What inputs may leave to parameters.
_SAID = ("instrument", "detector", "mode", "filter", "grating", "slit", "band")

# Rows up to which the fit is done again without each star, class and epoch (a minute or two).
_MOST_LEFT_OUT = 5_000


class AbsFluxRatio(TvBadPixStep):
    """Compare what is seen of standard stars with their models: calibration factors of all modes.

    The input is an association or a list of images, spectra or tables of standard stars, of any
    instruments. The output is a photom reference for each instrument and kind of mode, which the
    stock photom step applies, and beside it the fit with its errors, and tables.
    """

    class_alias = "abs_flux_ratio"

    _tables: Mapping[str, Table] = MappingProxyType({})

    spec = """
        model_fluxes = string(default='')  # Table of model fluxes: a column name, and one for each filter [Jy]
        model_spectra = string(default='')  # Folder of model spectra, FITS as those of CALSPEC, found by the star
        bandpasses = string(default='')  # Folder of bandpasses, named after the filters, for synthetic photometry
        apcorr = string(default='')  # Aperture corrections of images: an APCORR reference, several with commas between, or crds
        ee = float(min=0.05, max=0.99, default=0.7)  # Encircled energy of the aperture of images
        photom = force_list(default=list())  # Photom references that made spectra in flux units (R_PHOTOM), or folders of them
        instrument = string(default='')  # INSTRUME of inputs that do not say it
        detector = string(default='')  # DETECTOR of inputs that do not say it
        mode = string(default='')  # Kind of mode of inputs that do not say it: imaging, coronagraphy, lrs, mrs, wfss, soss, fixed_slit, ifu
        filter = string(default='')  # FILTER of spectra in tables that do not say it
        grating = string(default='')  # GRATING of spectra in tables that do not say it
        slit = string(default='')  # FXD_SLIT of spectra in tables that do not say it
        band = string(default='')  # BAND of spectra in tables that do not say it
        saturation = float(min=0.0, default=0.0)  # Brightest pixel above which a measurement is left out, in the unit of its column; 0: no limit
        method = option('joint', 'gordon2025', default='joint')  # All stars, modes and visits at once | the published recipe, for MIRI imaging
        time_form = string(default='auto')  # Throughput: auto (by information criterion), none, or linear, exponential, powerlaw joined by +
        share = option('smooth', 'common', 'free', default='smooth')  # Throughput over wavelength: a smooth curve | one for all | each mode its own
        t0_mjd = float(min=0.0, default=0.0)  # Epoch of the factors [MJD]; 0: the day of the first measurement
        subarray_err = float(min=0.0, default=0.02)  # Prior error of the response of a subarray that has no published one
        class_err = float(min=0.0, default=0.005)  # Prior error that the models of a class of stars share
        apcorr_err = float(min=0.0, default=0.0)  # Error of the aperture correction of each filter
        model_err = float(min=0.0, default=0.0)  # Error that all models share
        template_photom = force_list(default=list())  # Photom references whose rows, in their order, are kept where nothing is fitted
        mrs_exposures = force_list(default=list())  # For MIRI MRS: exposures after assign_wcs, one for each detector and band, that tell the wavelength of each pixel
        freeze_days = float(min=1.0, default=365.0)  # Days that a reference serves where photom ignores time tables (NIRSpec IFU)
        first_useafter = string(default='2021-12-25T00:00:00')  # USEAFTER of the references
        report = boolean(default=True)  # Write NAME_report.html and its figures beside the products: verdicts, provenance, what was found
        suffix = string(default='absflux')  # Ending of the file of the fit
    """  # noqa: E501  # one line per parameter is what --help shows

    def process(self, *inputs: Any) -> list[Any]:
        """Measure, fit and build the references.

        Parameters
        ----------
        *inputs : str, Path, list, JwstDataModel or ModelLibrary
            Standard stars: images, spectra, or tables of their photometry.

        Returns
        -------
        list
            The fit (`AbsFluxModel`) and the photom models, each with ``meta.filename``.

        Raises
        ------
        TvBadPixError
            Nothing can be measured or fitted; the message says what is lacking.
        """
        check_useafter(self.first_useafter)
        check_dates(np.array([self.t0_mjd or np.nan]), "t0_mjd")
        templates = [read_template(self.make_input_path(path)) for path in self.template_photom]
        standards = self._read(inputs)
        name = self.make_product_name(inputs)
        fit = self._fit(standards)
        factors, recipe = fit.list_factors(), None
        if self.method == "gordon2025":
            recipe = fit_gordon2025(standards.measurements)
            factors = recipe.list_factors()
        references = build_references(
            fit,
            factors,
            name,
            standards=standards,
            useafter=self.first_useafter,
            method=self.method,
            freeze_days=self.freeze_days,
            templates=templates,
            wavelengths=read_wavelengths(
                [self.make_input_path(path) for path in self.mrs_exposures]
            ),
        )
        ratios, repeatability = compare_modes(fit), measure_repeatability(fit)
        dependences = self._measure_dependences(fit)
        tables = tabulate_all(fit, repeatability, dependences, ratios)
        if len(fit.rows.index) <= _MOST_LEFT_OUT:
            with quieten("jwst_tvbadpix.fluxcal"):
                parts = {by: leave_out(fit, by) for by in ("star", "class", "epoch")}
            left_out = tabulate_left_out(fit, parts)
            tables["leave_out"] = describe_columns("leave_out", left_out)
        else:
            log.info("no table of fits without each star: %d rows", len(fit.rows.index))
        if recipe is not None:
            tables["recipe"] = compare_recipe(fit, recipe)
        self._tables = {f"{name}_{kind}.ecsv": table for kind, table in tables.items()}
        about = describe_run(
            fit,
            standards,
            references,
            useafter=self.first_useafter,
            settings=self._settings(),
        )
        absflux = build_absflux_model(fit, about, ratios=ratios, repeatability=repeatability)
        absflux.meta.filename = f"{name}_{self.suffix}.asdf"
        return [absflux, *references.models]

    def _settings(self) -> dict[str, Any]:
        """List the parameters of the run that are not those of the fit; files by their names."""
        found = {key: getattr(self, key) for key in ("method", "ee", "saturation", *_SAID)}
        for key in ("apcorr", "photom", "template_photom", "mrs_exposures"):
            value = getattr(self, key)
            paths = value.split(",") if isinstance(value, str) else value
            found[key] = ", ".join(Path(path.strip()).name for path in paths)
        return found

    def _measure_dependences(self, fit: FluxFit) -> tuple[Dependence, ...]:
        dependences = measure_dependences(fit)
        for d in dependences:
            if d.verdict != "none":
                text = "%s depends on %s: %+.4f +- %.4f (ln observed/model)"
                log.warning(text, d.group, d.quantity, d.slope, d.error)
        return dependences

    def save_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a model; with the first, the tables."""
        saved = super().save_model(model, *args, **kwargs)
        if saved and self._tables:
            folder = self.stage(self._output_folder())
            for name, table in self._tables.items():
                table.write(folder / name, overwrite=True)
            self._tables = {}
        return saved

    def _read(self, inputs: Any) -> Standards:
        inputs = self.resolve_paths(inputs)
        return read_standards(
            inputs,
            model_fluxes=self._find(self.model_fluxes),
            model_spectra=self._find(self.model_spectra),
            bandpasses=self._find(self.bandpasses),
            said={key: value for key in _SAID if (value := getattr(self, key))},
            saturation=self.saturation or np.inf,
            apcorr=self._find_apcorr(inputs),
            ee=self.ee,
            photom=[Path(path).expanduser() for path in self.photom],
        )

    def _find_apcorr(self, inputs: Any) -> list[Path]:
        """Find the aperture corrections: as given, or what CRDS has for the images."""
        if self.apcorr != "crds":
            return [Path(path.strip()).expanduser() for path in self.apcorr.split(",") if path]
        return find_apcorr(inputs)

    def _find(self, path: str) -> Path | None:
        return Path(path).expanduser() if path else None

    def _fit(self, standards: Standards) -> FluxFit:
        return fit_factors(
            standards.measurements,
            time_form=self.time_form,
            share=self.share,
            t0_mjd=self.t0_mjd or None,
            subarray_err=self.subarray_err,
            class_err=self.class_err,
            apcorr_err=self.apcorr_err,
            model_err=self.model_err,
        )
