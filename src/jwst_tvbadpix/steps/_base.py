"""What all our steps share: log lines, several products, twins, and life without CRDS."""

import errno
import glob
import logging
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from jwst.stpipe import Step
from stdatamodels.jwst.datamodels import ReferenceFileModel
from stpipe import config_parser, crds_client
from stpipe.exceptions import StpipeExitException
from tqdm import tqdm

from ..atomic import is_hidden, make_hidden_folder, open_hidden_folder
from ..dates import allow_far_dates, to_isot
from ..errors import InputError, ProductError, TvBadPixError
from ..files import read_association
from ..headers import ExposureRecord
from ..processes import run_beside
from ..refmodels import (
    BadPixHistoryModel,
    MaskWriter,
    PlannedMask,
    RomanFlat,
    RomanMask,
    RomanPhotom,
    StarFlatModel,
    rename_all,
    write_asdf,
    write_twins,
)
from ..refmodels.absflux import AbsFluxModel
from ..report import build_report, find_groups, import_drawing, write_figures, write_page

__all__ = ["Products", "TvBadPixStep", "ask_crds", "find_reference", "has_crds", "show_progress"]

log = logging.getLogger(__name__)

# Endings that are no part of a product's name: ours, and those of the files that we take.
_SUFFIX = re.compile(
    r"(_badpixhistory|_starflat|_absflux|_photom|_(mask|flat)(_\d{8}T\d{6})?"
    r"|_rate|_rateints|_cal|_uncal|_i2d|_x1d|_asn)$",
    re.IGNORECASE,
)


# Products of Roman write themselves.
_ROMAN = RomanFlat | RomanMask | RomanPhotom


# How a system says that a folder cannot be written to: crds makes some in its cache.
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)

# Most masks that are held in memory [4 to 8 MB each].
_HELD_MASKS = 64


class Products(list[Any]):
    """A history and its masks, each built when it is taken out; few are then held.

    Attributes
    ----------
    planned : bool
        Whether masks are not built now: they are saved elsewhere.
    """

    planned = False

    def __iter__(self) -> Iterator[Any]:
        return (self[k] for k in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        item = super().__getitem__(index)
        if self.planned or not isinstance(item, PlannedMask):
            return item
        item = item.build()
        if len(self) <= _HELD_MASKS:
            self[index] = item
        return item

    def list_names(self) -> list[str]:
        """List the names of the products without building them."""
        return [
            item.filename if isinstance(item, PlannedMask) else item.meta.filename
            for item in super().__iter__()
        ]


class TvBadPixStep(Step):
    """Base of the steps of this package.

    `process` returns models whose ``meta.filename`` is set; each is written by `refmodels`,
    reference models as ASDF and FITS twins, histories as ASDF.
    """

    spec = """
        output_ext = string(default='.asdf')  # Products are written as ASDF; masks as FITS too
    """

    reference_file_types: ClassVar[list[str]] = []

    _staging: Path | None = None
    # Products of an earlier run that are as this one would make them, and stay.
    _unchanged: tuple[Path, ...] = ()
    # Of a run: what ends with it, the masks that it saves, how many of them were taken from
    # either end of the list, and the end of the process that takes them from the first on.
    _beside: ExitStack | None = None
    _planned: Sequence[PlannedMask] = ()
    _shared: np.ndarray | None = None
    _wait: Callable[[], None] | None = None

    @staticmethod
    def get_stpipe_loggers() -> tuple[str, ...]:
        """Add this package to the loggers that ``strun`` shows."""
        return (*Step.get_stpipe_loggers(), "jwst_tvbadpix")

    @classmethod
    def _get_crds_parameters(cls, dataset: Any) -> tuple[dict[str, Any], str]:
        """Read what CRDS selects parameters by; nothing where the input has no such metadata."""
        try:
            return super()._get_crds_parameters(dataset)
        except Exception as error:  # whatever it is, process() says it better
            log.info("No parameter reference looked up: %s cannot be read (%s)", dataset, error)
            return {}, "jwst"

    @classmethod
    def get_config_from_reference(cls, dataset: Any, **kwargs: Any) -> Any:
        """Look parameters up only where a CRDS set-up resolves; defaults otherwise."""
        if not dataset:
            return config_parser.ConfigObj()
        if not has_crds():
            log.info("No CRDS set-up (CRDS_PATH, CRDS_SERVER_URL): default parameters are used")
            return config_parser.ConfigObj()
        try:
            return super().get_config_from_reference(dataset, **kwargs)
        except (Exception, SystemExit) as error:  # crds exits when it finds nothing
            log.info("No parameter reference found (%s): default parameters are used", error)
            return config_parser.ConfigObj()

    def finalize_result(self, result: Any, reference_files_used: list[tuple[str, str]]) -> None:
        """Record the references used; reference models have no place for the rest."""
        if isinstance(result, PlannedMask):
            return
        if isinstance(result, ReferenceFileModel):
            for reftype, name in reference_files_used:
                result.add_history_entry(f"Used {reftype} reference {name}")
            return
        super().finalize_result(result, reference_files_used)

    def remove_suffix(self, name: str) -> tuple[str, str]:
        """Remove the endings of our own products too, and that of what was compressed."""
        name = name.removesuffix(".fits")
        stripped = _SUFFIX.sub("", name)
        return (stripped, "_") if stripped != name else super().remove_suffix(name)

    def run(self, *args: Any) -> Any:
        """Run the step; its products appear together, when all of them are written."""
        try:
            with allow_far_dates():
                with ExitStack() as self._beside:
                    result = super().run(*args)
                    self._save_planned()
                if isinstance(result, Products):
                    result.planned = False
                paths = self._publish()
                if paths and getattr(self, "report", False):
                    _write_report(paths)
            return result
        except TvBadPixError as error:
            _end_quietly(error)
            raise
        finally:
            if self._staging:
                shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = self._beside = self._wait = self._shared = None
            self._planned = ()

    def list_products(self, history: BadPixHistoryModel, planned: list[PlannedMask]) -> list[Any]:
        """List a history and its masks, and begin to save the masks in a second process.

        Nothing is begun where products are not saved, or a hook may still change them.
        """
        products = Products([history, *planned])
        if self._beside is None or not self.save_results or self._post_hooks:
            return products if len(planned) > _HELD_MASKS else list(products)
        folder = self.stage(self._output_folder())
        # Memory that a fork shares.
        self._planned, self._shared = planned, np.frombuffer(mmap.mmap(-1, 16), np.int64)
        save = partial(_save_masks, planned, folder, self._shared, 0)
        self._wait = self._beside.enter_context(run_beside(save))
        products.planned = True
        return products

    def _save_planned(self) -> None:
        """Save masks from the last on while another process does from the first on."""
        if self._wait is None or self._shared is None:
            return
        if getattr(self, "report", False):
            import_drawing()
        folder = self.stage(self._output_folder())
        _save_masks(self._planned, folder, self._shared, 1)
        self._wait()
        # What the other process could not save, or the reason why.
        left = [mask for mask in self._planned if not (folder / mask.filename).is_file()]
        _save_masks(left, folder, np.zeros(2, int), 0)

    def save_model(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        """Write a reference model through `refmodels`, into a folder of its own at first."""
        if not isinstance(model, ReferenceFileModel | _ROMAN):
            return super().save_model(model, *args, **kwargs)
        if not (self.save_results or kwargs.get("force")):
            return None
        folder = self._output_folder()
        _save(model, self.stage(folder) / model.meta.filename)
        return str(folder / model.meta.filename)

    def stage(self, folder: Path) -> Path:
        """Make the folder in which products wait for each other."""
        if self._staging is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._staging = make_hidden_folder(folder)
            except OSError as error:
                raise ProductError(
                    f"expected a folder that can be written to, found {folder}: "
                    f"{error.strerror}; choose another output_dir"
                ) from error
        return self._staging

    def _output_folder(self) -> Path:
        folder = self.search_attr("output_dir", default="")
        return Path(os.path.expandvars(os.path.expanduser(folder)))

    def _publish(self) -> list[Path]:
        """Move the products to where they belong, and name older ones of the same series."""
        if self._staging is None:
            return []
        folder = self._output_folder()
        # A hidden folder is what a process that was killed has left.
        names = sorted(path.name for path in self._staging.iterdir() if not is_hidden(path))
        paths = [folder / name for name in names]
        rename_all([self._staging / name for name in names], paths)
        ends = " to ".join(dict.fromkeys((names[0], names[-1])))
        log.info("Saved %d files in %s: %s", len(names), folder, ends)
        paths += self._unchanged
        names += [path.name for path in self._unchanged]
        series = {name.partition("_mask_")[0] + "_mask_" for name in names if "_mask_" in name}
        older = sorted(
            path.name
            for prefix in series
            for path in folder.glob(f"{glob.escape(prefix)}*.asdf")
            if path.name not in names
        )
        if older:
            log.warning(
                "%d masks of an earlier run of the same name are in %s too (%s, ...); remove them "
                "before the series is delivered",
                len(older),
                folder,
                older[0],
            )
        return paths

    def make_input_path(self, file_path: Any) -> Any:
        """Find a bare file name here, else beside the first input."""
        if isinstance(file_path, str | Path) and Path(file_path).is_file():
            return str(file_path)
        return super().make_input_path(file_path)

    def make_product_name(self, inputs: tuple[Any, ...]) -> str:
        """Name the products: --output_file, the association's product, or the single input.

        Raises
        ------
        ProductError
            The name cannot be a file's in this folder, or a FITS header's.
        """
        name = self._choose_name(inputs)
        for text in (name, str(self.suffix)):
            if not text.isascii() or not text.isprintable() or not 0 < len(text) <= 150:
                problem = "1 to 150 printable ASCII characters"
            elif set(text) & set("/\\") or text.startswith("."):
                problem = "a file name without a folder"
            else:
                continue
            raise ProductError(
                f"expected {problem} for the name of the products, found {text!r}; give "
                "--output_file, or another product name in the association"
            )
        return name

    def _choose_name(self, inputs: tuple[Any, ...]) -> str:
        if self.output_file:
            return self.remove_suffix(Path(self.output_file).stem)[0]
        only: Any = inputs[0] if len(inputs) == 1 else None
        if isinstance(only, list | tuple) and len(only) == 1:
            only = only[0]
        if isinstance(only, str | Path) and Path(only).suffix.lower() == ".json":
            names = [one.name for one in read_association(Path(self.make_input_path(str(only))))]
        elif hasattr(only, "asn"):
            names = [str(one.get("name") or "") for one in only.asn.get("products", [])]
        else:
            names = []
        if len(names) == 1 and names[0]:
            return names[0]
        name = only if isinstance(only, str | Path) else getattr(only, "meta", None)
        name = getattr(name, "filename", name)
        return self.remove_suffix(Path(name).stem)[0] if name else "tvbadpix"

    def resolve_paths(self, inputs: Any) -> Any:
        """Find the files of (nested) lists as `make_input_path` does; leave models alone."""
        if isinstance(inputs, list | tuple):
            return [self.resolve_paths(item) for item in inputs]
        return self.make_input_path(str(inputs)) if isinstance(inputs, str | Path) else inputs


def _save_masks(planned: Sequence[PlannedMask], folder: Path, taken: np.ndarray, end: int) -> None:
    """Build masks one by one from an end of their list, and save each, until none is left.

    Where two processes meet both may take the same mask: the files are the same.

    Parameters
    ----------
    planned : sequence of PlannedMask
    folder : Path
    taken : ndarray of int, shape (2,)
        How many were taken from the first on, and from the last on; in shared memory.
    end : {0, 1}
        Which of them this process takes.
    """
    writer = MaskWriter()
    with open_hidden_folder(folder) as place:
        while taken.sum() < len(planned):
            mask = planned[-1 - taken[1] if end else taken[0]]
            taken[end] += 1
            writer.write(mask, place)
            # The ASDF file, which tells that a mask is there, last.
            for path in sorted(place.iterdir(), reverse=True):
                path.replace(folder / path.name)


def _save(model: Any, path: Path) -> None:
    """Write a product in the forms that its kind has."""
    if isinstance(model, AbsFluxModel | BadPixHistoryModel | StarFlatModel):
        write_asdf(model, path)
    elif isinstance(model, _ROMAN):
        model.save(path)
    else:
        write_twins(model, path.with_suffix(""))


def _end_quietly(error: TvBadPixError) -> None:
    """Let strun, which has printed the message by then, exit with 1 and without a traceback.

    The error keeps its name and remains what it was; what asks for the exit status is added.
    """
    kind = type(error)
    if not issubclass(kind, StpipeExitException):
        # A process hands it over by its parts.
        own = {"exit_status": 1, "__reduce__": lambda self: (kind, self.args)}
        own |= {"__module__": kind.__module__, "__doc__": kind.__doc__}
        error.__class__ = type(kind.__name__, (kind, StpipeExitException), own)


def _write_report(products: list[Path]) -> None:
    """Write the page of the products of a run beside them; a failure does not touch them."""
    path = products[0].with_name("report.html")
    try:
        # One run; where another of its name is there, that of another detector, both are kept.
        name = next(iter(find_groups(one for one in products if one.suffix == ".asdf")))
        path = products[0].with_name(f"{name}_report.html")
        path.unlink(missing_ok=True)  # of an earlier run
        page = build_report(products)
        write_page(page, path)
        write_figures(page, path.with_name(name))
        log.info("Saved %s: open it in a browser", path)
    except Exception as error:  # whatever it is, the products are what was asked for
        defect = not isinstance(error, OSError | TvBadPixError)
        log.warning("No %s: %s: %s", path.name, type(error).__name__, error, exc_info=defect)


def show_progress(what: str, *, unit: str = "row") -> Callable[[int, int], None]:
    """Make a progress callback: a bar on a terminal, a log line per quarter elsewhere."""
    bar = tqdm(total=0, desc=what, unit=unit, leave=False, disable=None)
    quarter = 0

    def report(done: int, total: int) -> None:
        nonlocal quarter
        if bar.disable:
            if done * 4 // total > quarter:
                quarter = done * 4 // total
                log.info("%s: %d of %d %ss", what, done, total, unit)
            return
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report


def find_reference(
    reftype: str,
    record: ExposureRecord,
    instrument: str,
    optics: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Find the reference that CRDS has for an exposure.

    Parameters
    ----------
    reftype : str
        Such as ``"mask"``.
    record : ExposureRecord
    instrument : str
        INSTRUME keyword.
    optics : mapping of str to str
        Further names within ``meta.instrument``, such as ``"pupil"``, and their values.

    Returns
    -------
    Path
        The file in the CRDS cache; ``N/A`` where CRDS says that none applies.

    Raises
    ------
    InputError
        There is no CRDS set-up, or it has no such reference.
    """
    date, time = to_isot(record.start_mjd).split("T")
    parameters = {
        "meta.instrument.name": instrument,
        "meta.instrument.detector": record.detector,
        "meta.instrument.filter": record.filter,
        "meta.exposure.type": record.exp_type,
        "meta.exposure.readpatt": record.readpatt,
        "meta.exposure.ngroups": record.ngroups,
        "meta.subarray.name": record.subarray,
        "meta.observation.date": date,
        "meta.observation.time": time,
        **{f"meta.instrument.{name}": value for name, value in optics.items()},
    }
    return ask_crds(reftype, parameters, record.filename)


def ask_crds(reftype: str, parameters: dict[str, Any], name: str) -> Path:
    """Ask CRDS for a reference by metadata.

    Parameters
    ----------
    reftype : str
    parameters : dict
        What CRDS selects by, as ``get_crds_parameters`` of a data model has it.
    name : str
        Of the exposure, for the message.

    Returns
    -------
    Path
        The file in the CRDS cache.

    Raises
    ------
    InputError
        There is no CRDS set-up, it has no such reference, or crds cannot write to its cache.
    """
    problem: BaseException | str = "no CRDS set-up (CRDS_PATH, CRDS_SERVER_URL)"
    advice = "set CRDS up, or give a file"
    if has_crds():
        try:
            return Path(crds_client.get_reference_file(parameters, reftype, "jwst"))
        except (Exception, SystemExit) as error:  # crds exits where it finds no cache
            problem = error
            if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
                advice = "set CRDS_READONLY_CACHE=1, as for every cache that may not be written to"
    raise InputError(
        f"expected a {reftype} reference of CRDS for {name}, found: {problem}; {advice}"
    )


def has_crds() -> bool:
    """Whether a CRDS set-up resolves: a local cache that is configured, or a server."""
    cache = os.environ.get("CRDS_PATH")
    configured = cache and (Path(cache) / "config" / "jwst" / "server_config").is_file()
    return bool(configured or os.environ.get("CRDS_SERVER_URL"))
