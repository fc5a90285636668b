"""ExternalFlatBuilder: dithered images of a field in, flats and what they are known by out."""

import logging
from typing import Any

from astropy.table import Table

from ..errors import EvidenceError
from ..flatfield import FlatSettings, StackSettings, build_flat
from ..imaging import ImageSet, list_sets, open_images
from ..refmodels import StarFlatModel, check_useafter, list_tables
from ._base import TvBadPixStep, show_progress
from ._flat_products import FlatNames, build_products, name_sets
from ._flat_sets import choose_fwhm, gather_facts, has_cruciform, mark_field, mark_slit
from ._flat_wcs import DistortionFinder

__all__ = ["ExternalFlatBuilder"]

log = logging.getLogger(__name__)


class ExternalFlatBuilder(TvBadPixStep):
    """Make flats of dithered images of a field: their sky, and the same stars all over it.

    The input is an association, a list of ``_rate`` files (or ``_cal`` files, also of Roman, that
    were not flat-fielded) or models, or a ModelLibrary; filters, subarrays and read-out patterns
    are told apart. The output is one flat for each (by epoch where it changed), and beside it the
    parts it is made of, with their errors, and tables.
    """

    class_alias = "external_flat_builder"

    spec = """
        distortion = string(default='')  # For images without an assigned WCS, so that the pixel area is known: a distortion reference, or crds; empty: none
        star_flat = option('auto', 'never', 'always', default='auto')  # Low frequencies from stars: where they determine them | from the sky | or an error
        order = integer(min=0, max=20, default=0)  # Total degree of the star flat; 0: by cross-validation over stars
        zero_point_scatter = float(min=-1.0, max=1.0, default=-1.0)  # Scatter of the sensitivity between exposures [ln flux]; -1: found from the stars
        by_epoch = option('auto', 'never', 'always', default='auto')  # A flat per epoch: where the star flat changes from visit to visit or single pixels change | one for all | always
        epoch_gap = float(min=0.01, default=10.0)  # Exposures further apart than this are of different epochs [day]
        hold_out = integer(min=0, default=0)  # Exposures of each set that are kept aside, and compared before and after its flat
        fwhm = float(min=0.0, default=0.0)  # FWHM of a star [pixel]; 0: that of the filter
        least_response = float(min=0.01, max=0.9, default=0.1)  # Response below which a pixel is not used
        unreliable_err = float(min=0.0, default=0.02)  # Relative error above which the flat of a pixel is UNRELIABLE_FLAT
        first_useafter = string(default='2021-12-25T00:00:00')  # USEAFTER of the first flat
        report = boolean(default=True)  # Write NAME_report.html and its figures beside the products: verdicts, provenance, what was found
        suffix = string(default='starflat')  # Ending of the file of the parts
    """  # noqa: E501  # one line per parameter is what --help shows

    def process(self, *inputs: Any) -> list[Any]:
        """Build the flats of every set of images.

        Parameters
        ----------
        *inputs : str, Path, list, JwstDataModel or ModelLibrary
            Dithered images.

        Returns
        -------
        list
            For each set its parts (`StarFlatModel`) and one `FlatModel` per epoch (`RomanFlat`
            for Roman), each with ``meta.filename``.

        Raises
        ------
        TvBadPixError
            No set of images makes a flat; the message says what each lacks.
        """
        check_useafter(self.first_useafter)
        optics = None
        if self.distortion:
            optics = DistortionFinder(self.make_input_path(self.distortion))
        assign = None if optics is None else optics.assign
        images, excluded = open_images(self.resolve_paths(inputs), assign=assign)
        if optics is not None:
            self._reference_files_used += optics.used
        name = self.make_product_name(inputs)
        products: list[Any] = []
        problems: list[EvidenceError] = []
        sets = list_sets(images)
        for names in name_sets(name, sets):
            try:
                products += self._build(names, excluded)
            except EvidenceError as error:
                problems.append(EvidenceError(f"{names.images.label}: {error}"))
                log.warning("No flat of %s", problems[-1])
        if not products:
            raise (
                problems[0] if len(problems) == 1 else EvidenceError("; ".join(map(str, problems)))
            )
        return products

    def save_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a model; with the parts of flats, their tables."""
        saved = super().save_model(model, *args, **kwargs)
        if saved and isinstance(model, StarFlatModel):
            stem = model.meta.filename.removesuffix(f"_{self.suffix}.asdf")
            folder = self.stage(self._output_folder())
            for kind, columns in list_tables(model).items():
                Table(columns).write(folder / f"{stem}_{kind}.ecsv", overwrite=True)
        return saved

    def _build(self, names: FlatNames, excluded: tuple[Any, ...]) -> list[Any]:
        """Build the products of one set."""
        images: ImageSet = names.images
        settings = FlatSettings(
            stack=StackSettings(
                fwhm=self.fwhm or choose_fwhm(images), cruciform=has_cruciform(images)
            ),
            star_flat=self.star_flat,
            order=self.order or None,
            zero_point_scatter=None if self.zero_point_scatter < 0 else self.zero_point_scatter,
            by_epoch=self.by_epoch,
            least_response=self.least_response,
            unreliable_err=self.unreliable_err,
        )
        log.info("%s: %d exposures", images.label, len(images))
        facts = gather_facts(images, epoch_gap=self.epoch_gap, hold_out=self.hold_out)
        built = build_flat(
            images,
            facts,
            mark_field(images),
            settings=settings,
            non_science=mark_slit(images),
            progress=show_progress(f"Stacking {images.label}"),
        )
        used = [k for k, kept in enumerate(facts.used) if kept]
        for frame in built.stack.excluded:
            name = images.images[used[frame.index]].record.filename
            log.warning("%s is left out of the stack: %s", name, frame.reason)
        if built.check is not None:
            log.info("%s: %s", images.label, built.check.describe())
        extra = {"epoch_gap": self.epoch_gap, "hold_out": self.hold_out}
        return build_products(
            built,
            names,
            facts,
            excluded=excluded,
            settings=settings,
            extra_settings=extra,
            first_useafter=self.first_useafter,
            suffix=str(self.suffix),
        )
