"""Run standard stages over the exposures of an association: in parallel, and resumable."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..delivery import Context, use_context
from ..errors import InputError, TvBadPixError
from ..files import compute_sha256
from .ledger import Ledger, open_ledger
from .plan import (
    Exposure,
    Stage,
    check_exposure,
    find_context,
    read_exposures,
    read_header,
    read_masks,
    read_stages,
)
from .stage import PRODUCTS, Task, run_stage
from .workers import Finished, Workers

__all__ = ["ExposureOutcome", "ReprocessPlan", "ReprocessResult", "plan_reprocess", "reprocess"]

log = logging.getLogger(__name__)

# What calwebb_spec2 and calwebb_image2 take by integration, whether or not TSOVISIT says so.
_TIME_SERIES = ("MIR_LRS-SLITLESS", "NIS_SOSS", "NRC_TSGRISM", "NRC_TSIMAGE", "NRS_BRIGHTOBJ")

# What numpy and the system say when a disk is full; the stages pass it on in various ways.
_NO_SPACE = re.compile(r"requested and \d+ written|No space left|File too large|[Qq]uota exceeded")

_PACKAGES = ("crds", "jwst", "jwst-tvbadpix", "stcal", "stdatamodels", "stpipe")


@dataclass(frozen=True, slots=True)
class ExposureOutcome:
    """What became of an exposure.

    Attributes
    ----------
    name : str
        Of its files, without suffix.
    state : str
        ``done``, ``skipped`` (all of it was done before and is unchanged) or ``failed``.
    files : tuple of Path
        Its products, those of earlier runs included.
    error : str
        Why it failed.
    """

    name: str
    state: str
    files: tuple[Path, ...]
    error: str


@dataclass(frozen=True, slots=True)
class ReprocessResult:
    """What became of all exposures, in the order of the association.

    Attributes
    ----------
    outcomes : tuple of ExposureOutcome
    """

    outcomes: tuple[ExposureOutcome, ...]

    def count(self, state: str) -> int:
        """Count the exposures of a state."""
        return sum(outcome.state == state for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class ReprocessPlan:
    """What a run would do.

    Attributes
    ----------
    result : ReprocessResult
        "done" is what would be.
    products : tuple of Path
        The main product of each run of a stage; what else it writes goes by its parameters.
    """

    result: ReprocessResult
    products: tuple[Path, ...]


def reprocess(
    association: str | Path,
    parameters: Sequence[str | Path],
    *,
    output_dir: str | Path,
    processes: int = 1,
    masks: Sequence[str | Path] = (),
    context: Context | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> ReprocessResult:
    """Run stages over the exposures of an association.

    Parameters
    ----------
    association : str or Path
        JWST association of level 2 or 3; all products are taken, paths are relative to it. Where
        calwebb_detector1 is to run and ``X_uncal.fits`` lies beside a member ``X_rate.fits``, the
        former is taken.
    parameters : sequence of str or Path
        Parameter files, or names of shipped ones: of calwebb_detector1, of calwebb_spec2 or
        calwebb_image2 (subclasses included), or of one of each level.
    output_dir : str or Path
        Where the products go, and the records by which a later run knows what is done.
    processes : int
        Exposures at a time, each in a process of its own.
    masks : sequence of str or Path
        Masks that dq_init takes instead of that of CRDS; one per detector.
    context : Context, optional
        CRDS context; that of the environment when absent.
    progress : callable, optional
        Told how many runs of a stage are finished, of how many, and what the last one was.

    Returns
    -------
    ReprocessResult

    Raises
    ------
    InputError
        The association, a member, a parameter file, a mask or the CRDS set-up is absent or not
        what it must be; nothing has been started.
    ProductError
        The folder cannot be written to, or another run is at work there.

    Notes
    -----
    A stage's products appear when it is complete and they have been read back. It is run again
    only if an input, a parameter file or a reference that it names, a mask, the CRDS context or
    the version of a package has changed, or a product. An exposure that fails does not stop the
    others. Stage 2 gets the rate of an exposure, its rateints where it is a time series.
    Members of type background and imprint go through stage 1 and are handed to stage 2 beside
    the science members of their product; where a product has no science member they are taken
    for such. All other types are handed to stage 2 as they are.
    """
    if processes < 1:
        raise InputError(f"expected at least one process, found {processes}; give a number from 1")
    run = _prepare(association, parameters, output_dir, masks)
    run.progress = progress or run.progress
    with use_context(context) if context else nullcontext():
        run.context = find_context()
        with open_ledger(output_dir), Workers(run_stage, processes=processes) as workers:
            run.check()
            for stage in run.stages:
                run.run_stage(stage, workers)
    return run.sum_up()


def plan_reprocess(
    association: str | Path,
    parameters: Sequence[str | Path],
    *,
    output_dir: str | Path,
    masks: Sequence[str | Path] = (),
    context: Context | None = None,
) -> ReprocessPlan:
    """Tell what `reprocess` would do; parameters and errors are the same, nothing is written."""
    run = _prepare(association, parameters, output_dir, masks)
    with use_context(context) if context else nullcontext():
        run.context = find_context()
        run.check()
        products = [path for stage in run.stages for path in run.plan_stage(stage)]
    return ReprocessPlan(run.sum_up(), tuple(products))


def _prepare(
    association: str | Path,
    parameters: Sequence[str | Path],
    output_dir: str | Path,
    masks: Sequence[str | Path],
) -> "_Run":
    """Read association, parameter files and masks."""
    folder = Path(output_dir).resolve()
    if os.path.expandvars(folder) != str(folder):
        raise InputError(
            f"expected an output folder without the name of a variable, found {folder}: stpipe "
            f"would write to {os.path.expandvars(folder)}; choose another"
        )
    stages = read_stages(parameters)
    exposures = read_exposures(Path(association), [stage.level for stage in stages])
    return _Run(Ledger(folder), stages, exposures, read_masks(masks, stages))


@dataclass(slots=True)
class _Run:
    """All that a run knows."""

    ledger: Ledger
    stages: Sequence[Stage]
    exposures: Mapping[str, Exposure]
    masks: Mapping[str, Path]
    context: str = ""
    progress: Callable[[int, int, str], None] = lambda *_: None
    n_finished: int = 0
    # What each exposure in work depends on, by the key of its run.
    made_from: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    # Checksums of what all exposures share.
    checksums: dict[str, str] = field(default_factory=dict)

    def sum_up(self) -> ReprocessResult:
        """Tell what became of the exposures."""
        return ReprocessResult(
            tuple(
                ExposureOutcome(
                    one.name,
                    "failed" if one.error else "done" if one.ran else "skipped",
                    tuple(one.products),
                    one.error,
                )
                for one in self.exposures.values()
            )
        )

    def check(self) -> None:
        """Read the headers and find what cannot work; each such exposure has failed."""
        for one in self.exposures.values():
            try:
                one.header = read_header(one.path)
                check_exposure(one, self.stages, self.masks)
                for stage in self.stages if one.is_look else self.stages[:1]:
                    names = [f"{one.name}_{suffix}.fits" for suffix in PRODUCTS[stage.level]]
                    self.ledger.require_free(names, _key(one, stage))
            except TvBadPixError as error:
                one.error = str(error)

    def run_stage(self, stage: Stage, workers: Workers) -> None:
        """Run a stage over the exposures that have come so far."""
        for finished in workers.run(self._plan(stage)):
            one = self.exposures[finished.task.exposure]
            self._take(one, finished)
            outcome = "failed" if one.error else "done"
            self._report(f"{one.name}: {stage.alias} {outcome}")

    def plan_stage(self, stage: Stage) -> Iterator[Path]:
        """Tell what a stage would make; name its products where others are made of them."""
        made = {one.path for one in self.exposures.values() if one.ran}
        for one in self._list_exposures(stage):
            if one.error:
                continue
            # Of what is still to be made no checksum is known.
            new = stage.level == 2 and made & {one.path, *(path for path, _ in one.others)}
            try:
                members = self._list_members(one, stage)
                finished = not new and self.ledger.find_finished(
                    _key(one, stage), self._describe(one, stage, members)
                )
            except (TvBadPixError, OSError) as error:
                one.error = f"{stage.alias}: {error}"
                continue
            names = list(finished or [_name_product(one, stage)])
            one.products += [self.ledger.folder / name for name in names]
            if not finished:
                one.ran = True
                yield one.products[-1]

    def _plan(self, stage: Stage) -> Iterator[Task]:
        """Make the tasks of a stage, one by one; what is done and unchanged needs none."""
        for one in self._list_exposures(stage):
            if one.error:
                self._report(f"{one.name}: failed before {stage.alias}")
                continue
            key = _key(one, stage)
            try:
                members = self._list_members(one, stage)
                made_from = self._describe(one, stage, members)
                finished = self.ledger.find_finished(key, made_from)
                if finished is None:
                    work = self.ledger.make_work_folder(key)
            except (TvBadPixError, OSError) as error:
                one.error = f"{stage.alias}: {error}"
                self._report(f"{one.name}: failed before {stage.alias}")
                continue
            if finished is not None:
                one.products += [self.ledger.folder / name for name in finished]
                self._report(f"{one.name}: {stage.alias} was done before and is unchanged")
                continue
            self.made_from[key] = made_from
            yield Task(
                one.name,
                key,
                stage.level,
                stage.parameters.path,
                stage.parameters.sha256,
                members,
                self._override(one, stage),
                work,
                self.ledger.find_log(key),
            )

    def _take(self, one: Exposure, finished: Finished) -> None:
        """Put the products of a stage in their place, or note why there are none."""
        key = finished.task.key
        problem = finished.error and f"{finished.error} (see {finished.task.log})"
        if not problem:
            try:
                products: dict[str, str] = finished.value
                made_from = self.made_from.pop(key)
                self.ledger.publish(key, made_from, finished.task.work / "products", products)
                one.products += [self.ledger.folder / name for name in products]
                one.ran = True
            except (TvBadPixError, OSError) as error:
                problem = str(error)
        if _NO_SPACE.search(problem):
            problem = f"no space for the products in {self.ledger.folder}: {problem}"
        if problem:
            one.error = f"{key.rpartition('.')[2]}: {problem}"
        self.ledger.drop(finished.task.work)

    def _list_exposures(self, stage: Stage) -> list[Exposure]:
        return [one for one in self.exposures.values() if stage.level == 1 or one.is_look]

    def _report(self, text: str) -> None:
        self.n_finished += 1
        total = sum(len(self._list_exposures(stage)) for stage in self.stages)
        self.progress(self.n_finished, total, text)

    def _list_members(self, one: Exposure, stage: Stage) -> tuple[tuple[Path, str], ...]:
        """List what a stage reads: the exposure, and for stage 2 what accompanies it."""
        if stage.level == 1:
            return ((one.path, "science"),)
        members = [(_choose_input(one, one.header), "science")]
        for path, kind in one.others:
            other = next((each for each in self.exposures.values() if each.path == path), None)
            if other is not None and other.error:
                raise InputError(f"the {kind} {path.name} has failed: {other.error}")
            members.append((path if other is None else _choose_input(other, {}), kind))
        return tuple(members)

    def _override(self, one: Exposure, stage: Stage) -> dict[str, dict[str, str]]:
        """Name the mask for an exposure."""
        if stage.level != 1 or not self.masks:
            return {}
        return {"dq_init": {"override_mask": str(self.masks[one.header["DETECTOR"]])}}

    def _describe(
        self, one: Exposure, stage: Stage, members: Sequence[tuple[Path, str]]
    ) -> dict[str, Any]:
        """List all that the products of a stage depend on, as JSON has it."""
        overrides = {
            f"{step}.{key}": value
            for step, key, value in stage.parameters.overrides
            if Path(value).is_file()
        }
        for step, parameters in self._override(one, stage).items():
            overrides |= {f"{step}.{key}": value for key, value in parameters.items()}
        return {
            "inputs": [[path.name, kind, compute_sha256(path)] for path, kind in members],
            "parameters": stage.parameters.sha256,
            "overrides": {key: self._hash_once(Path(path)) for key, path in overrides.items()},
            "context": [self.context, self._hash_mappings(str(one.header["INSTRUME"]))],
            "crds_parameters": os.environ.get("STPIPE_DISABLE_CRDS_STEPPARS", ""),
            "versions": {package: version(package) for package in _PACKAGES},
        }

    def _hash_once(self, path: Path) -> str:
        if str(path) not in self.checksums:
            self.checksums[str(path)] = compute_sha256(path)
        return self.checksums[str(path)]

    def _hash_mappings(self, instrument: str) -> str:
        """Compute one checksum of all rules of a context for an instrument."""
        from crds.core import config, rmap

        if instrument not in self.checksums:
            imap = rmap.get_cached_mapping(self.context).selections.get(instrument.lower(), "N/A")
            if isinstance(imap, str):
                raise InputError(
                    f"expected rules for {instrument} in the CRDS context {self.context}, found "
                    "none; use another context"
                )
            names = sorted({self.context, *imap.mapping_names()})
            paths = [config.locate_mapping(name, "jwst") for name in names]
            together = "".join(compute_sha256(path) for path in paths)
            self.checksums[instrument] = hashlib.sha256(together.encode()).hexdigest()
        return self.checksums[instrument]


def _key(one: Exposure, stage: Stage) -> str:
    return f"{one.name}.{stage.alias}"


def _choose_input(one: Exposure, header: Mapping[str, Any]) -> Path:
    """Choose what stage 2 takes of an exposure: integrations of a time series, else the rate."""
    made = {path.name: path for path in one.products}
    rate, rateints = (made.get(f"{one.name}_{suffix}.fits") for suffix in ("rate", "rateints"))
    return (_is_series(header) and rateints) or rate or one.path


def _is_series(header: Mapping[str, Any]) -> bool:
    return bool(header.get("TSOVISIT") or header.get("EXP_TYPE") in _TIME_SERIES)


def _name_product(one: Exposure, stage: Stage) -> str:
    """Name the main product of a stage."""
    plain, *by_integration = PRODUCTS[stage.level]
    series = by_integration and _is_series(one.header)
    return f"{one.name}_{by_integration[0] if series else plain}.fits"
