"""Cosmic rays: tracks in ramps, and what they and showers leave in slopes."""

from dataclasses import dataclass

import numpy as np

__all__ = ["CosmicRays", "draw_hits", "draw_residuals"]

# Pixels a track has at most; their number is geometric.
_TRACK_PIXELS = 4


@dataclass(frozen=True, slots=True)
class CosmicRays:
    """How often a detector is hit, and what is left of a hit; all assumptions.

    Attributes
    ----------
    hits_per_s : float
        Hits on the full frame [1/s]: about 5 per cm^2 and s behind the shielding (JWST
        documentation of the radiation environment), on 6.5 cm^2 of MIRI unless given.
    residual_share : float
        Share of hits that survive jump detection.
    hit_dn, residual_dn : tuple of float
        Counts a hit leaves in a ramp, and a surviving one in a slope: median [DN] and standard
        deviation [dex].
    showers_per_s, shower_dn : float
        Showers on the full frame [1/s], and their mean counts per pixel at the centre [DN].
    shower_radius : tuple of float
        Smallest and largest radius of a shower, 1 sigma [pixel].
    """

    hits_per_s: float = 33.0
    residual_share: float = 0.01
    hit_dn: tuple[float, float] = (1200.0, 0.40)
    residual_dn: tuple[float, float] = (150.0, 0.40)
    showers_per_s: float = 1 / 500
    shower_dn: float = 60.0
    shower_radius: tuple[float, float] = (10.0, 35.0)


def draw_hits(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    mean_hits: float,
    counts_dn: tuple[float, float],
) -> np.ndarray:
    """Draw tracks of cosmic rays.

    Parameters
    ----------
    rng : Generator
        Where chance comes from.
    shape : tuple of int
        (ny, nx) of what is read out.
    mean_hits : float
        Expected number of hits on it.
    counts_dn : tuple of float
        Counts in the brightest pixel of a track: median [DN] and standard deviation [dex].

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Counts [DN].
    """
    ny, nx = shape
    median, dex = counts_dn
    n_hits = rng.poisson(mean_hits)
    length = np.minimum(rng.geometric(0.5, n_hits), _TRACK_PIXELS)
    angle = rng.uniform(0, np.pi, n_hits)
    counts = median * 10 ** rng.normal(0, dex, n_hits)
    step = np.arange(_TRACK_PIXELS)[:, None]
    y = np.rint(rng.uniform(0, ny, n_hits) + step * np.sin(angle)).astype(int)
    x = np.rint(rng.uniform(0, nx, n_hits) + step * np.cos(angle)).astype(int)
    share = rng.uniform(0.4, 1.0, (_TRACK_PIXELS, n_hits))
    inside = (step < length) & (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    pixel = np.where(inside, y * nx + x, 0).ravel()
    weight = np.where(inside, counts * share, 0).ravel()
    return np.bincount(pixel, weight, ny * nx).reshape(shape).astype(np.float32)


def draw_residuals(
    rng: np.random.Generator,
    shape: tuple[int, int],
    rays: CosmicRays,
    *,
    area_share: float,
    integration_s: float,
) -> np.ndarray:
    """Draw what cosmic rays and showers leave in the slope of one integration.

    Parameters
    ----------
    rng : Generator
        Where chance comes from.
    shape : tuple of int
        (ny, nx) of what is read out.
    rays : CosmicRays
        How often, and how strong.
    area_share : float
        Area of what is read out relative to the full frame.
    integration_s : float
        Length of the integration [s].

    Returns
    -------
    ndarray of float32, shape (ny, nx)
        Rate [DN/s].
    """
    ny, nx = shape
    n_hits = rays.hits_per_s * rays.residual_share * integration_s
    image = draw_hits(rng, shape, mean_hits=n_hits * area_share, counts_dn=rays.residual_dn)
    y, x = np.arange(ny)[:, None], np.arange(nx)[None, :]
    for _ in range(rng.poisson(rays.showers_per_s * integration_s * area_share)):
        radius = rng.uniform(*rays.shower_radius)
        column = np.exp(-0.5 * ((x - rng.uniform(0, nx)) / radius) ** 2)
        row = np.exp(-0.5 * ((y - rng.uniform(0, ny)) / radius) ** 2)
        image += (rng.exponential(rays.shower_dn) * row * column).astype(np.float32)
    return image / np.float32(integration_s)
