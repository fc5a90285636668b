"""Sources in front of the sky: where they are, how their light spreads, what is masked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.sparse import csc_array
from scipy.spatial import cKDTree

__all__ = [
    "Profile",
    "StarLight",
    "Stars",
    "collect_cutouts",
    "detect_stars",
    "find_extended",
    "make_profile",
    "mark_cruciform",
    "measure_stars",
    "render_stars",
]

# Half of the side of the profile in FWHM, and its limits [pixel].
_REACH_FWHM, _REACH = 32.0, (12, 100)
# Radius of the aperture that defines the flux of a star [FWHM].
_APERTURE_FWHM = 1.5
# Least share of the light in a ring that must be measured (that of saturated cores is not).
_LEAST_LIGHT = 0.5
# The profile is smoothed from these radii on [FWHM], with these widths [pixel].
_SMOOTHING = ((4.0, 1.0), (10.0, 2.0))
# Light below this fraction of the noise of one pixel is not rendered.
_FAINTEST = 0.03
# Radii of the images of stars that are kept [pixel], up to that of the profile, and pixels of them
# made at once.
_REACHES, _VALUES_AT_ONCE = np.array([0, 3, 5, 8, 12, 16, 22, 30, 40, 55, 75, 100]), 200_000
# Rounds in which overlapping stars share their light.
_FLUX_ROUNDS = 3
# Least light in the brightest pixel beside a maximum, over that of a Gaussian star.
_LEAST_BESIDE = 0.4
# Stars of one exposure whose surroundings show the profile.
_N_BRIGHT = 8
# Smoothing, threshold and growth of what is left of the sky after the stars are subtracted.
_EXTENDED_SIGMA, _EXTENDED_GROWTH = 2.5, 2
# Half width of the arms of the cruciform artefact [pixel].
_ARM = 3


@dataclass(frozen=True, slots=True)
class Stars:
    """Positions and fluxes on one image.

    Attributes
    ----------
    x, y : ndarray of float64, shape (n,)
        Pixel coordinates, 0-based; they may lie outside of the image.
    flux : ndarray of float64, shape (n,)
        Light within the aperture of the profile [unit of the image x pixel].
    """

    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray


@dataclass(frozen=True, slots=True)
class Profile:
    """How the light of a star spreads over the pixels, in detector coordinates.

    Attributes
    ----------
    image : ndarray of float32, shape (2 * reach + 1, 2 * reach + 1)
        Light per pixel for a star in the middle; the sum within `aperture` is 1.
    aperture : float
        Radius [pixel].
    outer : ndarray of float64, shape (reach + 1,)
        Largest mean light beyond each integer radius (means over rings), never increasing.
    n_stars : int
        Star images that it was measured from; 0 = an assumed Gaussian.
    """

    image: np.ndarray
    aperture: float
    outer: np.ndarray
    n_stars: int

    @property
    def reach(self) -> int:
        """Pixels from the middle to the edge."""
        return self.image.shape[0] // 2

    def find_reach(self, flux: np.ndarray, level: float) -> np.ndarray:
        """Radius beyond which stars are fainter than a level: int (n,), at least 2 pixels."""
        limit = level / np.maximum(np.abs(flux), 1e-30)
        brighter = self.outer.size - np.searchsorted(self.outer[::-1], limit, side="right")
        return np.clip(brighter, 2, self.reach)


def _ring_radius(reach: int) -> np.ndarray:
    """Distance of each pixel from the middle of a square of ``2 * reach + 1``."""
    axis = np.arange(-reach, reach + 1, dtype=float)
    return np.hypot(axis[:, None], axis)


def make_profile(
    cutouts: Sequence[tuple[np.ndarray, float]], fwhm: float, shape: tuple[int, int]
) -> Profile:
    """Make the profile from star images, or assume a Gaussian where there is none.

    Parameters
    ----------
    cutouts : sequence of (ndarray of float32, float)
        Images of stars over their flux, and that flux, see `collect_cutouts`; NaN = unknown.
    fwhm : float
        Of a star [pixel].
    shape : tuple of int
        Of the detector.
    """
    reach = _choose_reach(fwhm, shape)
    radius = _ring_radius(reach)
    aperture = _APERTURE_FWHM * fwhm
    n = len(cutouts)
    if n == 0:
        image = np.exp(-4 * np.log(2) * (radius / fwhm) ** 2)
    else:
        # A background that is wrong by a constant matters least where the star is bright.
        weights = np.array([flux for _, flux in cutouts]) ** 2
        image = _weighted_median(np.stack([c[1:-1, 1:-1] for c, _ in cutouts]), weights)
        image = np.nan_to_num(image.astype(float))
        for start, sigma in _SMOOTHING:
            smooth = ndimage.gaussian_filter(image, sigma)
            image = np.where(radius > start * fwhm, smooth, image)
    image /= image[radius <= aperture].sum()
    rings = np.clip(radius.astype(int), 0, reach)
    mean = np.bincount(rings.ravel(), image.ravel()) / np.bincount(rings.ravel())
    outer = np.maximum.accumulate(np.clip(mean, 0, None)[::-1])[::-1]
    return Profile(image.astype(np.float32), aperture, outer, n)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median along the first axis, NaN ignored; NaN where there is no value."""
    order = np.argsort(values, axis=0)  # NaN last
    ordered = np.take_along_axis(values, order, axis=0)
    shares = np.where(np.isfinite(ordered), weights[order], 0).cumsum(axis=0)
    index = np.argmax(shares >= 0.5 * shares[-1], axis=0)
    return np.take_along_axis(ordered, index[None], axis=0)[0]


def _choose_reach(fwhm: float, shape: tuple[int, int]) -> int:
    return int(min(np.clip(_REACH_FWHM * fwhm, *_REACH), min(shape) // 3))


def detect_stars(
    image: np.ndarray, good: np.ndarray, noise: float, fwhm: float, *, threshold: float = 5.0
) -> Stars:
    """Find local maxima of the image smoothed by the width of a star.

    Parameters
    ----------
    image : ndarray of float32, shape (ny, nx)
        Sky-subtracted, flat-fielded image.
    good : ndarray of bool, shape (ny, nx)
        Pixels to use.
    noise : float
        1-sigma noise of one pixel [unit of the image].
    fwhm : float
        Of a star [pixel].
    threshold : float
        Least significance of the smoothed maximum.

    Returns
    -------
    Stars
        In order of the smoothed maximum, brightest first; `flux` is a first estimate of the light
        of a Gaussian star of this peak.
    """
    sigma = fwhm / 2.3548
    weight = ndimage.gaussian_filter(good.astype(np.float32), sigma)
    smooth = ndimage.gaussian_filter(np.where(good, image, np.float32(0)), sigma)
    seen = weight > 0.25
    np.divide(smooth, weight, out=smooth, where=seen)
    smooth[~seen] = 0
    # Noise of a Gaussian mean.
    limit = threshold * noise / (2 * np.sqrt(np.pi) * max(sigma, 0.3))
    size = 2 * int(np.ceil(fwhm)) + 1
    above = smooth > limit
    peaks = above & (smooth == ndimage.maximum_filter(smooth, size=size))
    y, x = np.nonzero(peaks)
    stellar = ~_find_hits(image, good, y, x, noise, fwhm)
    y, x = y[stellar], x[stellar]
    order = np.lexsort((x, y, -smooth[y, x]))
    y, x = y[order], x[order]
    dy, dx = _find_vertex(smooth, y, x)
    flux = smooth[y, x].astype(float) * 4 * np.pi * sigma**2
    return Stars(x + dx, y + dy, flux)


def _find_hits(
    image: np.ndarray, good: np.ndarray, y: np.ndarray, x: np.ndarray, noise: float, fwhm: float
) -> np.ndarray:
    """Mark maxima of a single pixel, which no star makes: cosmic rays, hot pixels."""
    peak, beside = np.where(good[y, x], image[y, x], -np.inf), np.full(y.size, -np.inf)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        yy, xx = y + dy, x + dx
        inside = (yy >= 0) & (yy < image.shape[0]) & (xx >= 0) & (xx < image.shape[1])
        yy, xx = np.where(inside, yy, 0), np.where(inside, xx, 0)
        seen = inside & good[yy, xx]
        beside = np.maximum(beside, np.where(seen, image[yy, xx], -np.inf))
    expected = _LEAST_BESIDE * np.exp(-4 * np.log(2) / fwhm**2) * peak
    known = np.isfinite(beside) & np.isfinite(peak)
    return known & (np.where(known, expected, 0) - np.where(known, beside, 0) > 2 * noise)


def _find_vertex(smooth: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertex of the parabolas through the maxima and their neighbours: offsets within +-0.5."""
    offsets = []
    for axis, (dy, dx) in enumerate(((1, 0), (0, 1))):
        size, at = smooth.shape[axis], (y, x)[axis]
        inside = (at > 0) & (at < size - 1)
        up, down = (
            smooth[np.clip(y + s * dy, 0, None) % smooth.shape[0], (x + s * dx) % smooth.shape[1]]
            for s in (1, -1)
        )
        middle = smooth[y, x]
        bend = 2 * middle - up - down
        shift = np.zeros(y.size)
        np.divide(up - down, 2 * bend, out=shift, where=inside & (bend > 0))
        offsets.append(np.clip(shift, -0.5, 0.5))
    return offsets[0], offsets[1]


def measure_stars(
    image: np.ndarray, good: np.ndarray, stars: Stars, profile: Profile, noise: float
) -> tuple[Stars, np.ndarray]:
    """Measure the fluxes of stars, each with the others subtracted.

    Parameters
    ----------
    image, good, noise
        As for `detect_stars`.
    stars : Stars
        Positions; fluxes are where the measurement starts.
    profile : Profile

    Returns
    -------
    Stars
        The same positions. Where the core is not measured (saturated), the flux comes from the
        wings; a star of which nothing is seen keeps its flux.
    ndarray of float32, shape (ny, nx)
        Their light, see `StarLight`.
    """
    flux = np.maximum(stars.flux, 0)
    held, whole = _sum_around((), good, stars, profile, 0.0, profile.aperture)[1:]
    core = held >= _LEAST_LIGHT * whole
    render = StarLight(stars, profile, image.shape, noise).render
    for _ in range(_FLUX_ROUNDS):
        light = render(flux)
        for chosen, ring in (
            (np.flatnonzero(core), (0.0, profile.aperture)),
            (np.flatnonzero(~core), (profile.aperture, 3 * profile.aperture)),
        ):
            if chosen.size == 0:
                continue
            some = Stars(stars.x[chosen], stars.y[chosen], flux[chosen])
            (seen, expected), held, whole = _sum_around((image, light), good, some, profile, *ring)
            # A share of all the light there: neighbours that overlap do not count it twice.
            measured = (expected > 0) & (held >= _LEAST_LIGHT * whole)
            share = np.divide(seen, expected, out=np.ones(seen.size), where=measured)
            flux[chosen] *= np.clip(share, 0, 10)
    return Stars(stars.x, stars.y, flux), render(flux)


def _sum_around(
    images: Sequence[np.ndarray],
    good: np.ndarray,
    stars: Stars,
    profile: Profile,
    inner: float,
    outer: float,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Sum a ring about each star: images and profile over good pixels, the whole profile.

    Every second or third pixel and row are enough where the ring is wide.
    """
    x, y = (np.floor(a + 0.5).astype(int) for a in (stars.x, stars.y))
    total, light = np.zeros((len(images), x.size)), np.zeros(x.size)
    whole = 0.0
    step = 1 + int(outer) // 12
    reach = min(int(outer), profile.reach) // step * step
    for dy in range(-reach, reach + 1, step):
        for dx in range(-reach, reach + 1, step):
            if not inner <= np.hypot(dy, dx) <= outer:
                continue
            yy, xx = y + dy, x + dx
            inside = (yy >= 0) & (yy < good.shape[0]) & (xx >= 0) & (xx < good.shape[1])
            yy, xx = np.where(inside, yy, 0), np.where(inside, xx, 0)
            used = inside & good[yy, xx]
            for row, image in zip(total, images, strict=True):
                row += np.where(used, image[yy, xx], 0)
            share = float(profile.image[profile.reach + dy, profile.reach + dx])
            light += used * share
            whole += share
    return total, light, whole


class StarLight:
    """Images of stars on one frame, rendered for fluxes that change while the places stay.

    Parameters
    ----------
    stars : Stars
        Positions, and fluxes to begin with.
    profile : Profile
    shape : tuple of int
    noise : float
        1-sigma noise of one pixel [unit of the image]: a star is rendered as far as its light
        reaches above a fraction of it.

    Notes
    -----
    Each star is a column of a sparse matrix; rendering multiplies it with the fluxes.
    """

    def __init__(
        self, stars: Stars, profile: Profile, shape: tuple[int, int], noise: float
    ) -> None:
        self._stars, self._profile, self._shape = stars, profile, shape
        self._faintest = _FAINTEST * noise
        self._built = np.zeros(stars.x.size, int)
        self._build(self._find_reach(stars.flux))

    def render(self, flux: np.ndarray) -> np.ndarray:
        """Render the stars with these fluxes; none where it is not above 0: float32, `shape`."""
        reach = self._find_reach(flux)
        if (reach > self._built).any():
            self._build(np.maximum(reach, self._built))
        seen = self._ring <= np.repeat(reach.astype(np.uint8), np.diff(self._start))
        size = self._shape[0] * self._shape[1]
        # The last row takes what lies outside.
        columns = csc_array((self._light * seen, self._pixel, self._start), (size + 1, flux.size))
        image = columns @ np.maximum(flux, 0).astype(np.float32)
        return image[:size].reshape(self._shape)

    def _find_reach(self, flux: np.ndarray) -> np.ndarray:
        """Radii to which light counts, 0 where there is none on the frame."""
        reach = self._profile.find_reach(flux, self._faintest)
        lit = flux > 0
        for place, n in zip((self._stars.y, self._stars.x), self._shape, strict=True):
            lit &= (place + reach > -1) & (place - reach < n)
        return np.where(lit, reach, 0)

    def _build(self, reach: np.ndarray) -> None:
        """Make the columns; stars of like reach together, each a little wider than it must be."""
        sizes = np.unique(np.minimum(_REACHES, self._profile.reach))
        self._built = sizes[np.searchsorted(sizes, reach)]
        y, x = (np.floor(a + 0.5).astype(int) for a in (self._stars.y, self._stars.x))
        dy, dx = self._stars.y - y, self._stars.x - x
        self._start = np.concatenate([[0], np.cumsum((2 * self._built + 1) ** 2)])
        self._light = np.empty(self._start[-1], np.float32)
        self._pixel = np.empty(self._start[-1], np.int32)
        self._ring = np.empty(self._start[-1], np.uint8)
        ny, nx = self._shape
        kinds = np.stack([self._built, dy > 0, dx > 0], axis=1)
        for kind in np.unique(kinds, axis=0):
            r = int(kind[0])
            members = np.flatnonzero((kinds == kind).all(axis=1))
            axis = np.arange(-r, r + 1)
            ring = np.maximum(np.abs(axis[:, None]), np.abs(axis)).ravel()
            some = max(1, _VALUES_AT_ONCE // ring.size)
            for part in (members[k : k + some] for k in range(0, members.size, some)):
                light = _shift(self._profile.image, dy[part], dx[part], r)
                yy, xx = (c[part][:, None] + axis for c in (y, x))
                inside = ((yy >= 0) & (yy < ny))[:, :, None] & ((xx >= 0) & (xx < nx))[:, None]
                pixel = np.where(inside, yy[:, :, None] * nx + xx[:, None], ny * nx)
                for k, row, column in zip(part, light, pixel, strict=True):
                    own = slice(self._start[k], self._start[k + 1])
                    self._light[own], self._pixel[own] = row.ravel(), column.ravel()
                    self._ring[own] = ring


def render_stars(
    stars: Stars, profile: Profile, shape: tuple[int, int], noise: float
) -> np.ndarray:
    """Render the light of stars: float32, `shape`; see `StarLight`."""
    return StarLight(stars, profile, shape, noise).render(stars.flux)


def _shift(image: np.ndarray, dy: np.ndarray, dx: np.ndarray, reach: int) -> np.ndarray:
    """Middle of the profile, moved by fractions of a pixel of one sign (linear interpolation).

    Shape (n, 2 * reach + 1, 2 * reach + 1) for n shifts.
    """
    middle = image.shape[0] // 2
    r = min(reach, middle)
    a, b = np.abs(dy), np.abs(dx)
    sy, sx = (-1 if (v > 0).any() else 1 for v in (dy, dx))
    padded = image if r < middle else np.pad(image, 1)
    m = padded.shape[0] // 2
    out = np.zeros((dy.size, 2 * r + 1, 2 * r + 1), np.float32)
    for weight, oy, ox in (
        ((1 - a) * (1 - b), 0, 0),
        (a * (1 - b), sy, 0),
        ((1 - a) * b, 0, sx),
        (a * b, sy, sx),
    ):
        cut = padded[m - r + oy : m + r + 1 + oy, m - r + ox : m + r + 1 + ox]
        out += weight.astype(np.float32)[:, None, None] * cut
    return out


def collect_cutouts(
    rest: np.ndarray,
    good: np.ndarray,
    stars: Stars,
    profile: Profile | None,
    noise: float,
    fwhm: float,
) -> list[tuple[np.ndarray, float]]:
    """Cut out the brightest stars of an image, over their flux, the others subtracted.

    Parameters
    ----------
    rest : ndarray of float32, shape (ny, nx)
        Sky-subtracted, flat-fielded image, the light of the stars subtracted.
    good, noise, fwhm
        As for `detect_stars`.
    stars : Stars
    profile : Profile or None
        That was subtracted for them; None = they are still there.

    Returns
    -------
    list of (ndarray of float32, shape (2 * reach + 3, 2 * reach + 3), float)
        Images, NaN = unknown, and fluxes of at most eight stars whose core is measured and whose
        light exceeds the noise of a pixel at three FWHM.
    """
    reach = _choose_reach(fwhm, rest.shape) + 1
    x, y = (np.floor(a + 0.5).astype(int) for a in (stars.x, stars.y))
    inside = (x >= 0) & (x < rest.shape[1]) & (y >= 0) & (y < rest.shape[0])
    bright = np.argsort(-stars.flux, kind="stable")
    cutouts: list[tuple[np.ndarray, float]] = []
    for k in bright[: 4 * _N_BRIGHT]:
        # Light per pixel at three FWHM is about 1e-3 of the whole (MIRI F560W).
        if len(cutouts) == _N_BRIGHT or stars.flux[k] < 1e3 * noise:
            break
        if not inside[k] or not good[y[k], x[k]]:
            continue
        cutout = np.full((2 * reach + 1, 2 * reach + 1), np.nan, np.float32)
        y0, y1 = max(y[k] - reach, 0), min(y[k] + reach + 1, rest.shape[0])
        x0, x1 = max(x[k] - reach, 0), min(x[k] + reach + 1, rest.shape[1])
        window = np.where(good[y0:y1, x0:x1], rest[y0:y1, x0:x1], np.nan)
        y2, x2 = y0 - y[k] + reach, x0 - x[k] + reach
        cutout[y2 : y2 + y1 - y0, x2 : x2 + x1 - x0] = window / np.float32(stars.flux[k])
        if profile is not None:
            offset = stars.y[k : k + 1] - y[k], stars.x[k : k + 1] - x[k]
            cutout[1:-1, 1:-1] += _shift(profile.image, *offset, profile.reach)[0]
        cutouts.append((cutout, float(stars.flux[k])))
    return cutouts


def find_extended(rest: np.ndarray, good: np.ndarray, noise: float) -> np.ndarray:
    """Mark what is left of the sky when background and stars are subtracted.

    Parameters
    ----------
    rest : ndarray of float32, shape (ny, nx)
        Image less background and stars.
    good : ndarray of bool, shape (ny, nx)
    noise : float
        1-sigma noise of one pixel.

    Returns
    -------
    ndarray of bool, shape (ny, nx)
        Galaxies, nebulae, remains of bright stars, afterimages: light or lack of it that is
        significant in a smoothed image, grown by some pixels.
    """
    sigma = _EXTENDED_SIGMA
    weight = ndimage.gaussian_filter(good.astype(np.float32), sigma, truncate=3)
    # A single pixel, however bright, is left to the clipping of residuals.
    clipped = np.clip(np.where(good, rest, np.float32(0)), -5 * noise, 5 * noise)
    smooth = ndimage.gaussian_filter(clipped, sigma, truncate=3)
    limit = 5.0 * noise / (2 * np.sqrt(np.pi) * sigma)
    marked = np.abs(smooth) > limit * np.sqrt(np.maximum(weight, 0.05))
    if not marked.any():
        return marked
    return ndimage.binary_dilation(marked, iterations=_EXTENDED_GROWTH)


def mark_cruciform(
    stars: Stars, profile: Profile, shape: tuple[int, int], noise: float
) -> np.ndarray:
    """Mark rows and columns through bright stars, where light scatters within the detector.

    Parameters
    ----------
    stars, profile, shape, noise
        As for `render_stars`.

    Returns
    -------
    ndarray of bool, `shape`

    Notes
    -----
    What the arms hold above their surroundings is measured on the outer half of the profile and
    taken to fall as the inverse square of the distance beyond it; arms are marked as far as they
    exceed a third of the noise. Within the reach of the profile they are part of it.
    """
    marked = np.zeros(shape, bool)
    middle, reach = profile.reach, profile.reach
    half = np.abs(np.arange(-reach, reach + 1)) > reach // 2
    arms = [
        profile.image[middle - 1 : middle + 2, half],
        profile.image[half, middle - 1 : middle + 2].T,
    ]
    beside = (
        [
            np.concatenate(
                [turned[middle - 9 : middle - 5, half], turned[middle + 6 : middle + 10, half]]
            )
            for turned in (profile.image, profile.image.T)
        ]
        if reach > 10
        else arms
    )
    excess = float(np.mean(arms) - np.mean(beside))
    if profile.n_stars == 0 or excess <= 0:
        return marked
    # Mean of 1/r^2 over the outer half of the reach is that at 0.71 of it.
    length = 0.71 * reach * np.sqrt(np.maximum(stars.flux, 0) * excess / (noise / 3))
    for k in np.flatnonzero(length > reach // 2):
        y, x = int(stars.y[k] + 0.5), int(stars.x[k] + 0.5)
        n = int(length[k])
        y0, y1, x0, x1 = (max(v, 0) for v in (y - _ARM, y + _ARM + 1, x - _ARM, x + _ARM + 1))
        marked[y0:y1, max(x - n, 0) : max(x + n + 1, 0)] = True
        marked[max(y - n, 0) : max(y + n + 1, 0), x0:x1] = True
    return marked


def count_pointings(lists: Sequence[Stars], distance: float, area: float) -> int:
    """Count the exposures whose stars are not where those of another one are.

    Parameters
    ----------
    lists : sequence of Stars
        Of each exposure, in detector coordinates.
    distance : float
        [pixel] that stars must have moved.
    area : float
        Pixels in which they lie.

    Returns
    -------
    int
        Exposures with fewer than five stars count as different: there is nothing that would hide
        the same pixels.
    """
    # Few enough that not more than one in ten lies near another one by chance.
    most = int(np.clip(0.1 * area / (np.pi * distance**2), 5, 100))
    leaders: list[cKDTree] = []
    for stars in lists:
        chosen = np.argsort(-stars.flux, kind="stable")[:most]
        points = np.stack([stars.x[chosen], stars.y[chosen]], axis=1)
        if len(points) < 5 or not any(
            np.mean(tree.query(points)[0] < distance) > 0.5 for tree in leaders if tree.n >= 5
        ):
            leaders.append(cKDTree(points))
    return len(leaders)
