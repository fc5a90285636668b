"""The sky of all exposures together: sources too faint for one, put back into each."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from scipy import ndimage
from scipy.interpolate import RectBivariateSpline
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..parallel import map_in_threads
from .frames import Look, Run, read_frame
from .sources import Profile, Stars, detect_stars, render_stars

__all__ = ["Pointings", "average_fluxes", "build_catalogue", "project_catalogue"]

log = logging.getLogger(__name__)

# Nodes along each axis between which the transformation to the sky is interpolated.
_NODES = 33
# Most pixels of one combined sky; larger ones are made in parts.
_MOST_PIXELS = 40_000_000
# Pixels further than this from what is expected, where no star is, are hits [sigma].
_HIT = 6.0
# Fluxes are averaged over exposures below this significance; above, each has its own.
_OWN_FLUX = 30.0


class Pointings(Protocol):
    """Where the pixels of each exposure look: to a tangent plane of the sky and back.

    Coordinates are 0-based pixels on the detector (full frame), and pixels of the same size on a
    plane that all exposures share.
    """

    def to_sky(self, index: int, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project pixels (x, y) of an exposure to (u, v) on the plane."""

    def to_detector(
        self, index: int, u: np.ndarray, v: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Project (u, v) on the plane to pixels (x, y) of an exposure."""


def project_box(
    pointings: Pointings, index: int, box: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Project the pixels of a box onto the sky: u and v, float32, shape of the box."""
    y0, y1, x0, x1 = box
    y = np.linspace(y0, y1 - 1, min(_NODES, max(4, y1 - y0)))
    x = np.linspace(x0, x1 - 1, min(_NODES, max(4, x1 - x0)))
    nodes = pointings.to_sky(index, *(a.ravel() for a in np.meshgrid(x, y)))
    planes = []
    for values in nodes:
        spline = RectBivariateSpline(y, x, np.reshape(values, (y.size, x.size)))
        planes.append(spline(np.arange(y0, y1), np.arange(x0, x1)).astype(np.float32))
    return planes[0], planes[1]


def group_overlapping(
    run: Run, looks: Sequence[Look], pointings: Pointings
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Group exposures whose outlines overlap: their positions in `looks`, and (u0, u1, v0, v1)."""
    y0, y1, x0, x1 = run.box
    edge_x, edge_y = np.array([x0, x1, x1, x0]), np.array([y0, y0, y1, y1])
    boxes = []
    for look in looks:
        u, v = pointings.to_sky(look.index, edge_x, edge_y)
        boxes.append((np.min(u), np.max(u), np.min(v), np.max(v)))
    b = np.array(boxes)
    meet = (
        (b[:, None, 0] < b[None, :, 1])
        & (b[None, :, 0] < b[:, None, 1])
        & (b[:, None, 2] < b[None, :, 3])
        & (b[None, :, 2] < b[:, None, 3])
    )
    n, label = connected_components(coo_array(meet), directed=False)
    groups = []
    for k in range(n):
        members = np.flatnonzero(label == k)
        low, high = b[members].min(axis=0), b[members].max(axis=0)
        groups.append((members, np.array([low[0], high[1], low[2], high[3]])))
    return groups


def build_catalogue(
    run: Run, looks: Sequence[Look], profile: Profile, pointings: Pointings
) -> Stars:
    """Find stars on the combined sky.

    Parameters
    ----------
    run : Run
    looks : sequence of Look
        With the stars found in each exposure and its background.
    profile : Profile
    pointings : Pointings

    Returns
    -------
    Stars
        In coordinates of the sky plane.
    """
    parts: list[Stars] = []
    for members, outline in group_overlapping(run, looks, pointings):
        chosen = [looks[k] for k in members]
        parts.extend(_search(run, chosen, profile, pointings, part) for part in _split(outline))
    catalogue = Stars(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("x", "y", "flux")))
    log.info("%d stars on the combined sky of %d exposures", catalogue.x.size, len(looks))
    return catalogue


def _split(outline: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Split an outline into strips that fit into memory."""
    u0, u1, v0, v1 = (int(f(v)) for f, v in zip((np.floor, np.ceil) * 2, outline, strict=True))
    rows = max(1, _MOST_PIXELS // (u1 - u0 + 1))
    return [(u0, u1 + 1, v, min(v + rows, v1 + 1)) for v in range(v0, v1 + 1, rows)]


def _search(
    run: Run,
    looks: Sequence[Look],
    profile: Profile,
    pointings: Pointings,
    part: tuple[int, int, int, int],
) -> Stars:
    """Average exposures on a grid of the sky, and find stars there."""
    u0, u1, v0, v1 = part
    shape = (v1 - v0, u1 - u0)
    total, weight = (
        np.zeros(shape[0] * shape[1], np.float32),
        np.zeros(shape[0] * shape[1], np.float32),
    )

    def place(look: Look) -> tuple[np.ndarray, np.ndarray, float]:
        frame = read_frame(run, look.index, look.scale)
        light = render_stars(look.stars, profile, frame.image.shape, frame.noise)
        sky = frame.image - look.background.evaluate(frame.image.shape)
        hit = (np.abs(sky - light) > _HIT * np.sqrt(frame.variance)) & (light < frame.noise)
        u, v = project_box(pointings, look.index, run.box)
        column, row = (np.floor(u + 0.5).astype(int) - u0, np.floor(v + 0.5).astype(int) - v0)
        inside = (column >= 0) & (column < shape[1]) & (row >= 0) & (row < shape[0])
        used = frame.good & ~hit & inside
        run.tell()
        return (row * shape[1] + column)[used], sky[used], 1 / frame.noise**2

    for where, sky, w in map_in_threads(place, looks):
        n = total.size
        total += np.float32(w) * np.bincount(where, sky, n).astype(np.float32)
        weight += np.float32(w) * np.bincount(where, minlength=n).astype(np.float32)
    seen = weight > 0
    if not seen.any():
        return Stars(*(np.empty(0) for _ in range(3)))
    # In units of its noise, so that depth may differ from place to place.
    np.divide(total, np.sqrt(weight, where=seen, out=np.ones_like(weight)), out=total)
    found = detect_stars(total.reshape(shape), seen.reshape(shape), 1.0, run.settings.fwhm)
    row, column = (np.floor(a + 0.5).astype(int) for a in (found.y, found.x))
    # A maximum may lie on a pixel that nothing fell on.
    around = [
        ndimage.uniform_filter(m.reshape(shape).astype(np.float32), 3) for m in (weight, seen)
    ]
    depth = around[0][row, column] / np.maximum(around[1][row, column], 0.1)
    kept = around[1][row, column] > 0.1
    flux = found.flux[kept] / np.sqrt(depth[kept])
    found = Stars(found.x[kept], found.y[kept], flux)
    return Stars(found.x + u0, found.y + v0, flux)


def project_catalogue(
    catalogue: Stars, looks: Sequence[Look], pointings: Pointings, run: Run, reach: int
) -> list[Look]:
    """Put the catalogue into each exposure: stars whose light may reach the box."""
    y0, y1, x0, x1 = run.box
    out = []
    for look in looks:
        x, y = pointings.to_detector(look.index, catalogue.x, catalogue.y)
        x, y = np.asarray(x, float) - x0, np.asarray(y, float) - y0
        near = np.flatnonzero(
            (x > -reach) & (x < x1 - x0 + reach) & (y > -reach) & (y < y1 - y0 + reach)
        )
        stars = Stars(x[near], y[near], catalogue.flux[near])
        out.append(replace(look, stars=stars, members=near))
    return out


def average_fluxes(looks: Sequence[Look], run: Run, aperture: float) -> list[Look]:
    """Average the fluxes of stars over the exposures that hold them.

    Parameters
    ----------
    looks : sequence of Look
        With stars of the catalogue, as `project_catalogue` makes them, measured.
    run : Run
    aperture : float
        Radius in which fluxes were measured [pixel].

    Returns
    -------
    list of Look
        Faint stars, and those beyond the edge, have the mean flux of all exposures that hold
        them; bright ones, which may vary, their own where they were measured.
    """
    ny, nx = run.flat.shape
    n = 1 + max((int(look.members.max(initial=-1)) for look in looks), default=-1)
    total, count = np.zeros(n), np.zeros(n)
    held = []
    for look in looks:
        x, y = look.stars.x, look.stars.y
        inside = (x > 0) & (x < nx - 1) & (y > 0) & (y < ny - 1)
        total += np.bincount(look.members, look.stars.flux * inside, n)
        count += np.bincount(look.members, inside, n)
        held.append(inside)
    mean = total / np.maximum(count, 1)
    out = []
    for look, inside in zip(looks, held, strict=True):
        stars = look.stars
        limit = _OWN_FLUX * look.noise * np.sqrt(np.pi) * aperture
        own = (inside & (stars.flux > limit)) | (count[look.members] == 0)
        flux = np.where(own, stars.flux, mean[look.members])
        out.append(replace(look, stars=Stars(stars.x, stars.y, flux)))
    return out
