"""One exposure of the star through calwebb_detector1 and calwebb_spec2, in a process of its own."""

import gc
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..atomic import open_hidden_folder
from ..delivery import Context, use_context
from ..processes import end_with_parent
from ..simulate import Defects, ExposureSpec, write_ramp
from .scene import Plan, build_star_scene

__all__ = [
    "RECOMMENDED",
    "REPLACEMENTS",
    "Extracted",
    "prepare_worker",
    "run_detector1",
    "run_star",
    "scratch_folder",
]

# Settings of pixel_replace: off, the default of the code, and the one that the verdict is about.
RECOMMENDED = "fit_profile"
REPLACEMENTS = ("off", RECOMMENDED)
# Arrays of a rate.
_ARRAYS = ("data", "err", "dq", "var_poisson", "var_rnoise")
# Weights of resample_spec. The default, ivm, weighs a pixel whose ramp has a jump less than its
# neighbour in the profile of the trace: each such pixel leaves a feature of up to 3 %, whatever
# the mask.
_WEIGHTS = "exptime"


@dataclass(frozen=True, slots=True)
class Extracted:
    """One spectrum.

    Attributes
    ----------
    mask : str
        'static' or 'dated'; 'none' where no pixel is masked.
    mask_name : str
        The file that R_MASK names.
    replacement : str
        'off', or the algorithm of pixel_replace.
    extraction : str
        'box' or 'optimal'.
    draw : int
        Which draw of the noise.
    wavelength_um : ndarray of float, shape (n_bins,)
        Wavelength [um], ascending.
    ratio : ndarray of float, shape (n_bins,)
        Extracted / true flux, integrations averaged.
    """

    mask: str
    mask_name: str
    replacement: str
    extraction: str
    draw: int
    wavelength_um: np.ndarray
    ratio: np.ndarray


def prepare_worker() -> None:
    """Set up a process that runs pipelines: quiet, one thread, and quick at collecting garbage."""
    end_with_parent()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import jwst.pipeline  # noqa: F401  # here, so that what it leaves is frozen below

    # stpipe collects after each of the fifty steps: what lives for ever need not be looked at.
    gc.collect()
    gc.freeze()


def run_star(
    folder: Path,
    plan: Plan,
    mode: str,
    spec: ExposureSpec,
    defects: Defects | None,
    contexts: dict[str, Context],
    replacements: Sequence[str],
) -> list[Extracted]:
    """Simulate an exposure of the star and extract it with each mask, in each way.

    Parameters
    ----------
    folder : Path
        Where the spectra are kept; everything else is deleted.
    plan : Plan
    mode : str
        'slitless' or 'slit'.
    spec : ExposureSpec
        The exposure: one or several draws of the noise, by its number of integrations.
    defects : Defects or None
        Bad pixels.
    contexts : dict of str to Context
        By name of the mask, which is the one that CRDS picks.
    replacements : sequence of str
        Settings of pixel_replace, of those in ``REPLACEMENTS``.

    Returns
    -------
    list of Extracted
        For each context with each setting, by each extraction of the mode, each draw; in the slit,
        where each draw is a run of calwebb_spec2, only the first but with ``RECOMMENDED``.
    """
    scene, _ = build_star_scene(mode, plan)
    found = []
    with scratch_folder(folder) as scratch:
        ramp = write_ramp(scratch, spec, scene, defects)
        for mask, context in contexts.items():
            with use_context(context):
                rates = _split_rate(run_detector1(ramp, spec), mode)
                for replacement in replacements:
                    files = rates if replacement == RECOMMENDED else rates[:1]
                    for first, rate in enumerate(files):
                        for extraction, path in _run_spec2(rate, mode, replacement).items():
                            name = "_".join(
                                (path.name[:13], mode, mask, replacement, extraction, str(first))
                            )
                            kept = Path(shutil.move(path, folder / f"{name}_x1d.fits"))
                            settings = (mask, replacement, extraction)
                            found += _read(kept, plan, mode, settings, first)
    return found


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Make a folder that is gone afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_hidden_folder(folder) as hidden:
        yield hidden


def run_detector1(ramp: Path, spec: ExposureSpec) -> Path:
    """Run the stock pipeline; the product that the second stage takes."""
    from jwst.pipeline import Detector1Pipeline

    model = Detector1Pipeline.call(
        str(ramp), save_results=True, output_dir=str(ramp.parent), configure_log=False
    )
    model.close()
    suffix = "rate" if spec.nints == 1 else "rateints"
    return ramp.with_name(ramp.name.replace("_uncal", f"_{suffix}"))


def _split_rate(rate: Path, mode: str) -> list[Path]:
    """Give each integration in the slit a file of its own; those of time series stay together."""
    if mode != "slit" or rate.name.endswith("_rate.fits"):
        return [rate]
    from stdatamodels.jwst import datamodels

    paths = []
    with datamodels.open(rate) as cube:
        for k in range(cube.data.shape[0]):
            arrays = {name: getattr(cube, name)[k] for name in _ARRAYS}
            model = datamodels.ImageModel(**arrays)
            model.update(cube)
            model.meta.exposure.nints = 1
            folder = rate.parent / str(k)
            folder.mkdir(exist_ok=True)
            paths.append(folder / rate.name.replace("_rateints", "_rate"))
            model.save(paths[-1])
            model.close()
    return paths


def _run_spec2(rate: Path, mode: str, replacement: str) -> dict[str, Path]:
    """Run the stock pipeline; in the slit also its last step again, for the optimal extraction."""
    from jwst.extract_1d.extract_1d_step import Extract1dStep
    from jwst.pipeline import Spec2Pipeline

    settings: dict[str, Any] = {"skip": True}
    if replacement != "off":
        settings = {"skip": False, "algorithm": replacement}
    Spec2Pipeline.call(
        str(rate),
        steps={"pixel_replace": settings, "resample_spec": {"weight_type": _WEIGHTS}},
        save_results=True,
        output_dir=str(rate.parent),
        configure_log=False,
    )
    if mode == "slitless":
        # Of slitless spectra jwst 3.0 does not find the place: optimal extraction needs it.
        return {"box": rate.with_name(rate.name.replace("_rateints", "_x1dints"))}
    box = rate.with_name(rate.name.replace("_rate", "_x1d"))
    resampled = rate.with_name(rate.name.replace("_rate", "_s2d"))
    optimal = rate.with_name(rate.name.replace("_rate", "_optimal"))
    spectrum = Extract1dStep.call(str(resampled), extraction_type="optimal", configure_log=False)
    spectrum.save(optimal)
    spectrum.close()
    return {"box": box, "optimal": optimal}


def _read(
    path: Path, plan: Plan, mode: str, settings: tuple[str, str, str], first: int
) -> list[Extracted]:
    """Read the spectra of a file; the integrations of a draw are averaged."""
    with fits.open(path) as hdus:
        table = hdus["EXTRACT1D"].data
        wavelength = np.atleast_2d(np.array(table["WAVELENGTH"], float))[0]
        flux = np.atleast_2d(np.array(table["FLUX"], float))
        name = hdus[0].header.get("R_MASK", "N/A").removeprefix("crds://")
    mask, replacement, extraction = settings
    order = np.argsort(wavelength)
    _, star = build_star_scene(mode, plan)
    ratio = np.where(flux == 0, np.nan, flux) / star.flux(wavelength)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a bin that no integration has
        means = [np.nanmean(part, axis=0) for part in plan.split_integrations(mode, ratio)]
    return [
        Extracted(mask, name, replacement, extraction, draw, wavelength[order], mean[order])
        for draw, mean in enumerate(means, start=first)
    ]
