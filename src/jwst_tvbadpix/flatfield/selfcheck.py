"""What a flat does to exposures that it was not made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import bottleneck as bn
import numpy as np

from .frames import Exposures
from .matching import MatchedStars
from .merge import MergedFlat
from .sky import fit_background
from .stars import StarTable

__all__ = ["SelfCheck", "check_flat"]

# Side of the cells in which the sky is averaged [pixel], and least share of one that is used.
_CELL, _LEAST_SHARE = 32, 0.3
# Pixels this far from the median of the sky hold a source [scatter of the pixels].
_N_SIGMA = 3.0
# Stars of a lower signal-to-noise ratio say nothing about a flat.
_LEAST_SNR = 30.0


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """Held-out exposures before and after the flat: rms over the mean, or of ln flux.

    Attributes
    ----------
    n_exposures, n_stars : int
        Held out; measurements of known stars in them.
    pixel_before, pixel_after : float
        Scatter of the sky from pixel to pixel.
    smooth_before, smooth_after : float
        rms of the sky in cells of 32 x 32 pixels, planes of the sky itself taken off.
    star_before, star_after : float
        Scatter of the flux of stars about what other exposures say; NaN without a star flat.
    """

    n_exposures: int
    n_stars: int
    pixel_before: float
    pixel_after: float
    smooth_before: float
    smooth_after: float
    star_before: float
    star_after: float

    def describe(self) -> str:
        """Say it in one line."""
        pairs = (
            ("pixels", self.pixel_before, self.pixel_after),
            ("sky", self.smooth_before, self.smooth_after),
            (f"{self.n_stars} star fluxes", self.star_before, self.star_after),
        )
        return f"{self.n_exposures} held-out exposures, rms before -> after: " + ", ".join(
            f"{name} {100 * one:.3f} -> {100 * two:.3f} %"
            for name, one, two in pairs
            if np.isfinite(one)
        )


def check_flat(
    exposures: Exposures,
    held: Sequence[tuple[int, MergedFlat]],
    tables: Sequence[StarTable],
    matched: MatchedStars | None,
    ln_flux: Mapping[int, float] | None,
    *,
    aperture: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], StarTable],
) -> SelfCheck:
    """Divide held-out exposures by the flat, and compare sky and stars before and after.

    Parameters
    ----------
    exposures : Exposures
    held : sequence of (int, MergedFlat)
        Number of each held-out exposure and the flat of its epoch.
    tables : sequence of StarTable, length n_exp
        Stars of each exposure, by number.
    matched : MatchedStars or None
        The same stars under common numbers.
    ln_flux : mapping of int to float, or None
        What the other exposures say of each star, by its common number.
    aperture : callable
        (rate, err, x, y) -> StarTable.

    Returns
    -------
    SelfCheck
        Medians over the exposures; star fluxes pooled, the zero point of each exposure taken off.

    Notes
    -----
    The reference flat holds the pixel area, so star fluxes after it are multiplied by the area.
    """
    pixel: list[tuple[float, float]] = []
    smooth: list[tuple[float, float]] = []
    star: list[tuple[np.ndarray, np.ndarray]] = []
    for index, flat in held:
        rate, err = exposures.read(index, 0, exposures.shape[0])
        usable = flat.region & np.isfinite(flat.flat) & np.isfinite(rate)
        flat_fielded = rate / flat.flat
        used = _find_sky(flat_fielded, usable)
        before, after = (_measure_sky(image, used) for image in (rate, flat_fielded))
        pixel.append((before[0], after[0]))
        smooth.append((before[1], after[1]))
        if matched is None or ln_flux is None:
            continue
        mine = matched.observations.exposure == index
        x, y = matched.observations.x[mine], matched.observations.y[mine]
        known = np.array([ln_flux.get(int(n), np.nan) for n in matched.observations.star[mine]])
        raw = aperture(rate, err, x, y)
        times_area = flat.area / flat.flat
        corrected = aperture(rate * times_area, err * times_area, x, y)
        star.append(_compare_stars(raw, corrected, known))
    middle = [np.median(np.array(values), axis=0) for values in (pixel, smooth)]
    both = [np.concatenate(parts) for parts in zip(*star, strict=True)] if star else []
    scatter = [_spread(values) if values.size else np.nan for values in both] or [np.nan] * 2
    return SelfCheck(
        len(held),
        int(both[0].size) if both else 0,
        *(float(value) for value in (*middle[0], *middle[1], *scatter)),
    )


def _find_sky(image: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Mark pixels without sources, from the flat-fielded image."""
    values = image[usable]
    middle = bn.median(values)
    low = values[values <= middle]
    sigma = 1.4826 * bn.median(middle - low)
    return usable & (np.abs(image - middle) < _N_SIGMA * sigma)


def _measure_sky(image: np.ndarray, used: np.ndarray) -> tuple[float, float]:
    """Measure pixel scatter and the rms of cells, over the level."""
    background = fit_background(np.where(used, image, 0).astype(np.float32), used, order=1)
    relative = np.where(used, image / background.evaluate(image.shape) - 1, np.nan)
    ny, nx = (n // _CELL for n in image.shape)
    cut = relative[: ny * _CELL, : nx * _CELL].reshape(ny, _CELL, nx, _CELL)
    count = np.isfinite(cut).sum(axis=(1, 3))
    filled = count > _LEAST_SHARE * _CELL**2
    mean = np.nansum(cut, axis=(1, 3))[filled] / count[filled]
    pixels = _spread(relative[used])
    return pixels, float(mean.std()) if mean.size > 1 else np.nan


def _compare_stars(
    raw: StarTable, corrected: StarTable, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compare ln flux with what is known, before and after, for the same bright stars."""
    with np.errstate(invalid="ignore", divide="ignore"):
        used = np.isfinite(known) & (raw.flux / raw.flux_err > _LEAST_SNR)
        used &= corrected.flux > 0
        parts = [np.log(table.flux[used]) - known[used] for table in (raw, corrected)]
    one, two = (part - np.median(part) if part.size else part for part in parts)
    return one, two


def _spread(values: np.ndarray) -> float:
    """Scatter that outliers do not raise."""
    return 1.4826 * float(bn.median(np.abs(values - bn.median(values))))
