"""The demonstration: simulate, build dated masks, let the pipeline pick them, compare."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time
from scipy.ndimage import binary_dilation

from .atomic import open_hidden_folder, replace_whole
from .delivery import build_context, use_context
from .errors import ProductError
from .refmodels import compose_dq, dq_value
from .report import plot_summary
from .simulate import (
    Defects,
    ExposureSpec,
    build_lrs_scene,
    simulate_programme,
    write_ramp,
    write_references,
)

__all__ = ["DemoResult", "Picked", "find_haloes", "run_demo"]

_SEED = 7831
_N_EXPOSURES = 16
# Neighbours of a pixel brighter than this get an excess by crosstalk that is real, but no defect.
_HALO_DNS = 10.0
_SUBARRAYS = ("SLITLESSPRISM", "FULL", "SLITLESSPRISM")


@dataclass(frozen=True, slots=True)
class Picked:
    """What calwebb_detector1 did with one ramp.

    Attributes
    ----------
    date, subarray : str
        Start of the exposure and SUBARRAY.
    expected, found : str
        Mask of the series that is valid at the date, and the one R_MASK names.
    n_mask, n_pixeldq : int
        Bad pixels of that mask in the subarray, and those of them flagged in PIXELDQ.
    """

    date: str
    subarray: str
    expected: str
    found: str
    n_mask: int
    n_pixeldq: int

    @property
    def right(self) -> bool:
        """Whether the right mask was picked, and used in full."""
        return self.expected == self.found and self.n_mask == self.n_pixeldq


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration found.

    Attributes
    ----------
    folder, picture, page : Path
        Where everything is; the figure; the page of the run, for a browser.
    n_exposures, n_masks : int
    precision, recall : float
        Of bad (pixel, exposure) pairs against the truth; quiet spells of telegraph pixels and
        the crosstalk of hot pixels into their neighbours do not count.
    recall_by_kind : dict
        The same for each kind of defect.
    picked : tuple of Picked
        One per ramp.
    """

    folder: Path
    picture: Path
    page: Path
    n_exposures: int
    n_masks: int
    precision: float
    recall: float
    recall_by_kind: dict[str, float]
    picked: tuple[Picked, ...]


def run_demo(folder: Path, *, say: Callable[[str], None]) -> DemoResult:
    """Run the demonstration.

    Parameters
    ----------
    folder : Path
        Where to write; made when absent.
    say : callable
        Told what happens next.

    Returns
    -------
    DemoResult
    """
    from .steps import TimeVariableBadPixel

    folder.mkdir(parents=True, exist_ok=True)
    say(f"Simulating {_N_EXPOSURES} blank-sky and failed MIRI LRS exposures over four years")
    programme = simulate_programme(
        folder / "exposures", mode="slit", n_exposures=_N_EXPOSURES, seed=_SEED
    )
    say("Building the history and the dated masks (strun time_variable_bad_pixel)")
    masks_folder = folder / "masks"
    with _quiet():
        history, *masks = TimeVariableBadPixel.call(
            str(programme.association),
            output_dir=str(masks_folder),
            save_results=True,
            configure_log=False,
        )
    paths = [masks_folder / mask.meta.filename for mask in masks]
    say("Making a local CRDS context that holds the series, and ramps of three dates")
    references = write_references(folder / "references")
    context = build_context(
        folder / "crds",
        {"mask": [path.with_suffix(".fits") for path in paths], **references},
    )
    useafter = [str(mask.meta.useafter) for mask in masks]
    picked = []
    for observation, (date, subarray) in enumerate(
        zip(_choose_dates(useafter), _SUBARRAYS, strict=True), start=901
    ):
        say(f"Running calwebb_detector1 on a {subarray} ramp of {date[:10]}, without any override")
        k = max(i for i, start in enumerate(useafter) if start <= date)
        expected = context.names[paths[k].with_suffix(".fits").resolve()]
        dq = np.asarray(masks[k].dq)
        picked.append(
            _run_detector1(
                folder, date, subarray, programme.defects, context, expected, dq, observation
            )
        )
    say("Comparing with the truth and drawing the picture")
    precision, recall, by_kind, number = _compare(history, programme.defects, programme.specs)
    picture = folder / "tvbadpix_demo.png"
    with replace_whole(picture) as temporary:
        plot_summary(history, truth=number).savefig(temporary, dpi=120)
    page = next(masks_folder.glob("*_report.html"), None)
    if page is None:
        raise ProductError(
            f"expected the page of the run in {masks_folder}, found none; check the space on its "
            "disk, or see what `tvbadpix report` says of the folder"
        )
    return DemoResult(
        folder=folder,
        picture=picture,
        page=page,
        n_exposures=len(programme.rates),
        n_masks=len(masks),
        precision=precision,
        recall=recall,
        recall_by_kind=by_kind,
        picked=tuple(picked),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of the pipeline: the demonstration tells what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _choose_dates(useafter: list[str]) -> list[str]:
    """Choose a date within the first, the middle and the last epoch."""
    last = Time(useafter[-1]).mjd + 30
    starts = [Time("2022-03-01").mjd, Time(useafter[len(useafter) // 2]).mjd + 1, last]
    return [str(Time(mjd, format="mjd").isot[:19]) for mjd in starts]


def _run_detector1(
    folder: Path,
    date: str,
    subarray: str,
    defects: Defects,
    context: Any,
    expected: str,
    dq: np.ndarray,
    observation: int,
) -> Picked:
    """Simulate a ramp, run the stock pipeline, look at R_MASK and PIXELDQ."""
    spec = ExposureSpec(
        Time(date).mjd, subarray=subarray, ngroups=8, seed=_SEED, observation=observation
    )
    ramps = folder / "ramps"
    ramps.mkdir(exist_ok=True)
    path = write_ramp(ramps, spec, build_lrs_scene(seed=_SEED), defects)
    with use_context(context), _quiet(), open_hidden_folder(ramps) as work:
        from jwst.pipeline import Detector1Pipeline

        rate = Detector1Pipeline.call(
            str(path),
            output_dir=str(work),
            save_results=True,
            save_calibrated_ramp=True,
            configure_log=False,
        )
        for made in work.iterdir():
            made.replace(ramps / made.name)
    found = str(rate.meta.ref_file.mask.name).removeprefix("crds://")
    rate.close()
    rows, columns = spec.region.slices
    bad = np.uint32(dq_value("DO_NOT_USE"))
    wanted = (dq[rows, columns] & bad) != 0
    with fits.open(path.with_name(path.name.replace("_uncal", "_ramp"))) as hdus:
        flagged = (np.asarray(hdus["PIXELDQ"].data) & bad) != 0
    return Picked(date, subarray, expected, found, int(wanted.sum()), int((wanted & flagged).sum()))


def _compare(
    history: Any, defects: Defects, specs: tuple[ExposureSpec, ...]
) -> tuple[float, float, dict[str, float], np.ndarray]:
    """Compare the mask of each exposure with the truth at its middle."""
    reference = np.uint32(dq_value("REFERENCE_PIXEL"))
    bad_bit = np.uint32(dq_value("DO_NOT_USE"))
    telegraph = defects.kind == "TELEGRAPH"
    hits = {kind: [0, 0] for kind in np.unique(defects.kind)}
    n_found = n_right = 0
    number = []
    for spec in specs:
        dq = compose_dq(history, spec.mid_mjd)
        found = (dq & bad_bit != 0) & (dq & reference == 0)
        state = defects.state(spec.mid_mjd)
        here = found[defects.y, defects.x]
        for kind, tally in hits.items():
            chosen = state & (defects.kind == kind)
            tally[0] += int((here & chosen).sum())
            tally[1] += int(chosen.sum())
        found[find_haloes(defects, state, found.shape)] = False
        n_found += int(found.sum()) - int((here & telegraph & ~state).sum())
        n_right += int((here & state).sum())
        number.append(int((state | telegraph).sum()))
    total = sum(tally[1] for tally in hits.values())
    by_kind = {str(kind): right / max(1, n) for kind, (right, n) in hits.items()}
    return n_right / max(1, n_found), n_right / max(1, total), by_kind, np.array(number)


def find_haloes(defects: Defects, state: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mark the neighbours of hot pixels that are no defects themselves."""
    hot = np.zeros(shape, bool)
    bright = state & (defects.amplitude > _HALO_DNS)
    hot[defects.y[bright], defects.x[bright]] = True
    halo = binary_dilation(hot)
    halo[defects.y, defects.x] = False
    return halo
