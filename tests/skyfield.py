"""Shared by the tests of the flat: dithered exposures of a star field, in memory, with truth."""

from dataclasses import dataclass, field

import numpy as np

GAIN, EXPOSURE_S, READ_NOISE = 4.0, 300.0, 0.02
# FWHM of the stars [pixel] and exponent of their Moffat profile.
FWHM, BETA = 2.0, 2.2
_ALPHA2 = (FWHM / 2) ** 2 / (2 ** (1 / BETA) - 1)


@dataclass
class Field:
    """Exposures with what made them; `read` is what the stack asks for."""

    rate: np.ndarray
    err: np.ndarray
    flat: np.ndarray
    level: np.ndarray
    tiles: np.ndarray
    offset: np.ndarray
    stars: tuple[np.ndarray, np.ndarray, np.ndarray]
    reads: list = field(default_factory=list)

    @property
    def shape(self):
        return self.rate.shape[1:]

    def __len__(self):
        return len(self.rate)

    def read(self, index, start, stop):
        self.reads.append(stop - start)
        return self.rate[index, start:stop], self.err[index, start:stop]

    @property
    def mid_mjd(self):
        return 60000 + 0.01 * np.arange(len(self))

    def to_sky(self, index, x, y):
        return x + self.offset[index, 0], y + self.offset[index, 1]

    def to_detector(self, index, u, v):
        return u - self.offset[index, 0], v - self.offset[index, 1]


def make_flat(shape, rng, *, rms=0.013, field_of_view=None):
    """Pixel noise times a smooth field; 0 outside of the field of view."""
    v, u = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    smooth = 1 + 0.012 * u - 0.008 * v + 0.01 * (u**2 - 1 / 3) - 0.006 * u * v
    flat = smooth * (1 + rms * rng.normal(size=shape))
    if field_of_view is not None:
        flat = np.where(field_of_view, flat, 0)
    return flat / flat[flat > 0].mean()


def make_field(
    *,
    seed=0,
    shape=(160, 192),
    n_exp=20,
    n_tiles=4,
    level=16.0,
    n_stars=400,
    brightest=3e3,
    faintest=5.0,
    dither=25.0,
    tile_step=60.0,
    flat=None,
    levels=None,
    structure=0.0,
):
    """Make a field; stars are drawn over the sky that the exposures see."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    flat = make_flat(shape, rng) if flat is None else flat
    tiles = np.arange(n_exp) * n_tiles // n_exp
    corner = np.array([(0, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)])[tiles % 5] * tile_step
    offset = corner + rng.uniform(-dither, dither, (n_exp, 2))
    margin = 40 + tile_step + dither
    x = rng.uniform(-margin, nx + margin, n_stars)
    y = rng.uniform(-margin, ny + margin, n_stars)
    flux = np.minimum(faintest * rng.uniform(1e-9, 1, n_stars) ** (-1 / 0.9), brightest)
    if levels is None:
        levels = level * (1 + 0.02 * rng.normal(size=n_exp))
    u = 2 * np.arange(nx) / nx - 1
    rate, err = (np.empty((n_exp, ny, nx), np.float32) for _ in range(2))
    for k in range(n_exp):
        image = levels[k] * (1 + structure * u * (k / n_exp - 0.5))
        image = image + render(x - offset[k, 0], y - offset[k, 1], flux, shape)
        count = image * flat
        sigma = np.sqrt(count / (GAIN * EXPOSURE_S) + READ_NOISE**2)
        seen = count + sigma * rng.normal(size=shape)
        rate[k] = seen
        # As a pipeline would: from the count that was found.
        err[k] = np.sqrt(np.maximum(seen, 0) / (GAIN * EXPOSURE_S) + READ_NOISE**2)
    return Field(rate, err, flat, np.asarray(levels), tiles, offset, (x, y, flux))


def render(x, y, flux, shape, reach=40):
    """Add Moffat stars."""
    image = np.zeros(shape)
    norm = (BETA - 1) / (np.pi * _ALPHA2)
    for a, b, f in zip(x, y, flux, strict=True):
        rows = np.arange(max(0, int(b) - reach), min(shape[0], int(b) + reach + 1))
        columns = np.arange(max(0, int(a) - reach), min(shape[1], int(a) + reach + 1))
        if rows.size and columns.size:
            r2 = (rows[:, None] - b) ** 2 + (columns - a) ** 2
            image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += (
                f * norm * (1 + r2 / _ALPHA2) ** -BETA
            )
    return image


def score(found, truth, good=None):
    """Relative error of a flat over good pixels, both of mean 1: (ny, nx), NaN elsewhere."""
    good = (truth > 0) & np.isfinite(found) & (True if good is None else good)
    error = found / found[good].mean() - truth / truth[good].mean()
    return np.where(good, error, np.nan)


def average_cells(error, cell=32):
    """Means of square cells, upper edges cut."""
    ny, nx = (n // cell for n in error.shape)
    cut = error[: ny * cell, : nx * cell].reshape(ny, cell, nx, cell)
    return np.nanmean(cut, axis=(1, 3))
