"""Flux densities of models through bandpasses, as detectors that count photons see them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError

__all__ = ["Bandpass", "Spectrum", "compute_band_flux", "compute_pivot"]

_UM_TO_ANGSTROM = 1e4
# Wavelengths that differ by less are one, for synphot too (relative).
_SAME = 1e-9
# Share of a bandpass that a spectrum may leave uncovered.
_UNCOVERED = 1e-3


@dataclass(frozen=True, slots=True)
class Bandpass:
    """Throughput of a mode: photons counted per photon that arrives, on any scale.

    Attributes
    ----------
    name : str
        Filter, for messages.
    wave : ndarray, shape (n,)
        Wavelengths, rising [um].
    throughput : ndarray, shape (n,)
    """

    name: str
    wave: np.ndarray
    throughput: np.ndarray

    def __post_init__(self) -> None:
        """Check the arrays.

        Raises
        ------
        InputError
            They are no bandpass.
        """
        _check_curve(f"bandpass {self.name}", self.wave, self.throughput)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Model of a star.

    Attributes
    ----------
    name : str
        For messages.
    wave : ndarray, shape (n,)
        Wavelengths, rising [um].
    flux_jy : ndarray, shape (n,)
        Flux density [Jy].
    """

    name: str
    wave: np.ndarray
    flux_jy: np.ndarray

    def __post_init__(self) -> None:
        """Check the arrays.

        Raises
        ------
        InputError
            They are no spectrum.
        """
        _check_curve(f"model {self.name}", self.wave, self.flux_jy)


def _check_curve(name: str, wave: np.ndarray, values: np.ndarray) -> None:
    """Refuse what is no curve over rising wavelengths, or is not positive anywhere."""
    wrong = (
        wave.ndim != 1
        or wave.shape != values.shape
        or len(wave) < 2
        or not (np.isfinite(wave).all() and np.isfinite(values).all())
        or not ((np.diff(wave) > 0).all() and wave[0] > 0)
        or (values < 0).any()
        or not (values > 0).any()
    )
    if wrong:
        raise InputError(
            f"expected rising wavelengths and values that are finite, not negative and not all "
            f"zero in the {name}, found {len(wave)} of which some are not; correct it"
        )


def compute_pivot(bandpass: Bandpass) -> float:
    """Compute the pivot wavelength ``sqrt(int R lam dlam / int R / lam dlam)`` [um]."""
    wave, throughput = bandpass.wave, bandpass.throughput
    return float(
        np.sqrt(np.trapezoid(throughput * wave, wave) / np.trapezoid(throughput / wave, wave))
    )


def compute_band_flux(source: Spectrum | Any, bandpass: Bandpass) -> float:
    """Compute the flux density of a source at the pivot of a bandpass [Jy].

    Parameters
    ----------
    source : Spectrum or synphot.SourceSpectrum
    bandpass : Bandpass

    Returns
    -------
    float
        ``<F_lam> lam_p^2 / c`` with ``<F_lam> = int lam R F_lam dlam / int lam R dlam``, the mean
        over the photons that are counted, which equals ``int R F_nu dlam/lam / int R dlam/lam``.

    Raises
    ------
    InputError
        The spectrum does not cover the bandpass.

    Notes
    -----
    synphot integrates by trapezoids on the wavelengths of both; a bandpass that is coarser than
    its features is as wrong here as elsewhere (the public recipe samples 1-40 um by 501 points).
    """
    import astropy.units as u
    from synphot import Empirical1D, Observation, SourceSpectrum, SpectralElement

    wave, throughput = bandpass.wave, bandpass.throughput
    if isinstance(source, Spectrum):
        outside = (wave < source.wave[0]) | (wave > source.wave[-1])
        lost = np.trapezoid(np.where(outside, throughput, 0.0) * wave, wave)
        if lost > _UNCOVERED * np.trapezoid(throughput * wave, wave):
            raise InputError(
                f"expected a model of {source.name} over {wave[0]:.3f} to {wave[-1]:.3f} um "
                f"(bandpass {bandpass.name}), found {source.wave[0]:.3f} to "
                f"{source.wave[-1]:.3f} um; give a model that reaches further"
            )
        spectrum = SourceSpectrum(
            Empirical1D,
            points=source.wave * _UM_TO_ANGSTROM,
            lookup_table=source.flux_jy * u.Jy,
        )
    else:
        spectrum = source
    element = SpectralElement(
        Empirical1D, points=wave * _UM_TO_ANGSTROM, lookup_table=throughput, fill_value=0.0
    )
    # Integrated between the ends of the bandpass, where all that either has points for is sampled;
    # the bins of an Observation, which take long to make, are not used.
    own = source.wave if isinstance(source, Spectrum) else _sample(source)
    low, high = wave[0] * (1 + _SAME), wave[-1] * (1 - _SAME)
    grid = np.union1d(wave, own[(own > low) & (own < high)]) * _UM_TO_ANGSTROM
    grid = grid[np.concatenate([[True], np.diff(grid) > _SAME * grid[1:]])]
    observation = Observation(spectrum, element, binset=grid[[0, -1]], force="taper")
    mean = observation.effstim("flam", wavelengths=grid).value * u.Unit("erg / (s cm2 AA)")
    pivot = compute_pivot(bandpass) * u.um
    return float(mean.to_value(u.Jy, equivalencies=u.spectral_density(pivot)))


def _sample(source: Any) -> np.ndarray:
    """List the wavelengths a source of synphot has points for [um]; none for analytic ones."""
    waveset = source.waveset
    return np.zeros(0) if waveset is None else np.asarray(waveset.value) / _UM_TO_ANGSTROM
