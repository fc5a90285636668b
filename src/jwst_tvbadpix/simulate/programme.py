"""A whole programme: exposures over years, their association, and the truth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..dates import to_mjd
from ..detectors import get_detector
from ..errors import DateError, EvidenceError
from .defects import Defects, draw_defects, write_truth
from .electronics import Region
from .exposures import ExposureSpec
from .layers import Scene
from .modes import build_scene, choose_detector, get_mode
from .writers import write_association, write_ramp, write_rate
from .writers_wfi import write_wfi_image, write_wfi_ramp

__all__ = ["Programme", "draw_specs", "simulate_programme"]

# One visit in six is followed by another within two days.
_PAIR_SHARE = 1 / 6
# Exposures of one field, one after the other and dithered, where the mode has fields.
_PER_FIELD = 2
# Annual change of the zodiacal light, its scatter between pointings, and its limits.
_ZODI = (0.20, 0.10, 0.55, 1.6)
# Scatter of the warm background, and its growth per year.
_THERMAL = (0.03, 0.02)
_MOST_EXPOSURES = 400


@dataclass(frozen=True, slots=True)
class Programme:
    """Files of a simulated programme.

    Attributes
    ----------
    rates : tuple of Path
        ``_rate`` files, in order of date.
    ramps : tuple of Path
        ``_uncal`` files, in the order the dates were given.
    association, truth : Path
        Level-3 association of the rates; table of the defects.
    specs, ramp_specs : tuple of ExposureSpec
        What each file was made of.
    defects : Defects
        The bad pixels.
    """

    rates: tuple[Path, ...]
    ramps: tuple[Path, ...]
    association: Path
    truth: Path
    specs: tuple[ExposureSpec, ...]
    ramp_specs: tuple[ExposureSpec, ...]
    defects: Defects


def draw_specs(
    *,
    mode: str = "slit",
    detector: str | None = None,
    region: Region | None = None,
    n_exposures: int,
    start_mjd: float,
    end_mjd: float,
    seed: int,
) -> tuple[ExposureSpec, ...]:
    """Draw when and how deep the exposures are: irregular dates, some pairs, some failed.

    Parameters are those of `simulate_programme`, dates in MJD.

    Raises
    ------
    DetectorError
        When the mode is unknown, or cannot use the detector or region.
    EvidenceError
        When no exposure, or more than 400, are asked for.
    """
    facts = get_mode(mode)
    setups = facts.list_setups(choose_detector(mode, detector), region)
    if not 1 <= n_exposures <= _MOST_EXPOSURES:
        raise EvidenceError(
            f"n_exposures must be 1 to {_MOST_EXPOSURES}, found {n_exposures}; change it"
        )
    rng = np.random.default_rng([seed, 4])
    n_pairs = round(_PAIR_SHARE * n_exposures)
    alone = rng.uniform(start_mjd, end_mjd - 2, n_exposures - n_pairs)
    second = rng.choice(alone, n_pairs, replace=False) + rng.uniform(0.1, 1.9, n_pairs)
    mjd = np.sort(np.concatenate([alone, second]))
    failed = rng.permutation(n_exposures) < round(facts.failed_share * n_exposures)
    depths, shares = zip(*facts.depths, strict=True)
    depth = rng.choice(len(depths), n_exposures, p=shares)
    annual, scatter, low, high = _ZODI
    phase = rng.uniform(0, 2 * np.pi)
    zodi = 1 + annual * np.sin(2 * np.pi * mjd / 365.25 + phase)
    zodi = np.clip(zodi + rng.normal(0, scatter, n_exposures), low, high)
    warm = 1 + rng.normal(0, _THERMAL[0], n_exposures)
    warm += _THERMAL[1] * (mjd - start_mjd) / 365.25
    dither = rng.uniform(-facts.dither, facts.dither, (n_exposures, 2))
    return tuple(
        ExposureSpec(
            mjd=float(mjd[k]),
            setup=setups[k % len(setups)],
            ngroups=depths[depth[k]][0],
            nints=depths[depth[k]][1],
            failed=bool(failed[k]),
            seed=seed * 1000 + k,
            zodi=float(zodi[k]),
            thermal=float(warm[k]),
            program=facts.program,
            observation=facts.first_observation[0] + k,
            field=1 + k // _PER_FIELD if facts.dither else 0,
            dither=(float(dither[k, 0]), float(dither[k, 1])),
        )
        for k in range(n_exposures)
    )


def simulate_programme(
    folder: str | Path,
    *,
    mode: str = "slit",
    detector: str | None = None,
    region: Region | None = None,
    n_exposures: int = 12,
    start: str = "2022-07-01",
    end: str = "2026-06-30",
    seed: int = 7831,
    ramp_dates: Sequence[str] = (),
    defects: Defects | None = None,
    progress: Callable[[int, int], None] | None = None,
    dry_run: bool = False,
) -> Programme:
    """Simulate the exposures of a detector over years.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    mode : str
        LRS blank sky and failed pointings in 'slit' (full frame) or 'slitless' (SLITLESSPRISM),
        dithered fields in 'imaging' (MIRI F770W), 'nircam' (F444W, F200W) and 'wfi' (Roman
        F158), background in 'mrs', slitlets in 'nirspec'.
    detector : str or None
        DETECTOR, where the mode has several; None = the first of the mode.
    region : Region or None
        What is read; None = what is usual in the mode.
    n_exposures : int
        Number of ``_rate`` files; of Roman ``_cal.asdf``, of level 2 (130 MB each).
    start, end : str
        ISO dates between which exposures lie and pixels change.
    seed : int
        Seed of everything: detector, defects, dates, exposures.
    ramp_dates : sequence of str
        ISO dates at which to write an ``_uncal`` file too.
    defects : Defects or None
        Bad pixels; None = drawn, at density and amplitude of the mode.
    progress : callable or None
        Called as ``progress(done, total)`` after each file.
    dry_run : bool
        Write nothing; the paths are those that would be written.

    Returns
    -------
    Programme
        Paths, and what they hold.

    Raises
    ------
    DateError
        When a date cannot be read or the end is not after the start.
    DetectorError
        When the mode is unknown, or cannot use the detector or region.
    EvidenceError
        When no exposure, or more than 400, are asked for.
    ProductError
        When exposures of Roman are asked for and roman_datamodels is not installed.
    """
    start_mjd, end_mjd, *ramp_mjd = _read_dates([start, end, *ramp_dates])
    if end_mjd - start_mjd <= 2:
        raise DateError(
            f"end must be more than 2 days after start, found {start} and {end}; give a later end"
        )
    detector = choose_detector(mode, detector)
    specs = draw_specs(
        mode=mode,
        detector=detector,
        region=region,
        n_exposures=n_exposures,
        start_mjd=start_mjd,
        end_mjd=end_mjd,
        seed=seed,
    )
    if defects is None:
        defects = draw_defects(
            detector,
            specs[0].region,
            start_mjd=start_mjd,
            end_mjd=end_mjd,
            seed=seed,
            density=get_mode(mode).density,
            amplitude=get_mode(mode).amplitude,
        )
    ramp_specs = _make_ramp_specs(mode, specs, ramp_mjd, seed)
    folder = Path(folder)
    programme = Programme(
        rates=tuple(folder / spec.filename("rate") for spec in specs),
        ramps=tuple(folder / spec.filename("uncal") for spec in ramp_specs),
        association=folder / _name_association(mode, specs[0]),
        truth=folder / "truth.ecsv",
        specs=specs,
        ramp_specs=ramp_specs,
        defects=defects,
    )
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        _write(programme, build_scene(mode, detector=detector, seed=seed), progress)
    return programme


def _write(programme: Programme, scene: Scene, progress: Callable[[int, int], None] | None) -> None:
    """Write the files of a programme."""
    write_image: Callable[..., Path] = write_rate
    write_raw: Callable[..., Path] = write_ramp
    if get_detector(programme.defects.detector).telescope == "ROMAN":
        write_image, write_raw = write_wfi_image, write_wfi_ramp
    jobs = [
        *((write_image, *job) for job in zip(programme.rates, programme.specs, strict=True)),
        *((write_raw, *job) for job in zip(programme.ramps, programme.ramp_specs, strict=True)),
    ]
    for done, (write, path, spec) in enumerate(jobs, start=1):
        write(path, spec, scene, programme.defects)
        if progress is not None:
            progress(done, len(jobs))
    write_association(
        programme.association,
        programme.rates,
        kind="badpix",
        program=programme.specs[0].program,
        target="BLANK-SKY",
    )
    write_truth(programme.truth, programme.defects)


def _read_dates(dates: Sequence[str]) -> list[float]:
    """Turn ISO dates into MJD."""
    try:
        return [to_mjd(date) for date in dates]
    except ValueError as error:
        raise DateError(
            f"dates must be ISO, such as 2024-07-01T12:00:00, found {', '.join(dates)}; rewrite it"
        ) from error


def _make_ramp_specs(
    mode: str, specs: Sequence[ExposureSpec], ramp_mjd: Sequence[float], seed: int
) -> tuple[ExposureSpec, ...]:
    """Ramps set like the exposures, apart from these in seed and observation number."""
    facts = get_mode(mode)
    ngroups, nints = facts.ramp_depth
    return tuple(
        ExposureSpec(
            mjd=mjd,
            ngroups=ngroups,
            nints=nints,
            seed=seed * 1000 + _MOST_EXPOSURES + k,
            program=facts.program,
            observation=facts.first_observation[1] + k,
            field=specs[k % len(specs)].field,
            setup=specs[k % len(specs)].setup,
        )
        for k, mjd in enumerate(ramp_mjd)
    )


def _name_association(mode: str, first: ExposureSpec) -> str:
    """Name the Level-3 association of the rates."""
    detector = first.setup.detector
    kind = "miri_p750l" if mode.startswith("slit") else detector.lower()
    telescope = "r" if get_detector(detector).telescope == "ROMAN" else "jw"
    return f"{telescope}{first.program}-simulated_{kind}-{mode}_asn.json"
