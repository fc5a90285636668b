"""Photom references of MIRI MRS: a template times a ratio that depends on wavelength."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from stdatamodels.jwst.datamodels import MirMrsPhotomModel

from ..errors import ProductError
from .photom_rows import rebase, require_throughput

if TYPE_CHECKING:
    from ..fluxcal import Factor, Throughput

__all__ = ["MRS_MIDDLE", "build_mrs_photom", "evaluate_mrs", "read_mrs_wavelengths"]

# First column of the right-hand channel (jwst.photom.time_dependence), and which is where.
MRS_MIDDLE = 512
_CHANNELS = {"MIRIFUSHORT": ("ch1", "ch2"), "MIRIFULONG": ("ch4", "ch3")}
# Wavelengths that all channels lie between [um].
_SPAN = (4.0, 30.0)


def read_mrs_wavelengths(exposure: Any) -> np.ndarray:
    """Read the wavelength of each pixel of an exposure, as the photom step does.

    Parameters
    ----------
    exposure : IFUImageModel
        With the WCS that assign_wcs gave it.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        Wavelengths [um]; NaN outside the slices.
    """
    from gwcs.wcstools import grid_from_bounding_box

    wcs = getattr(exposure.meta, "wcs", None)
    if wcs is None:
        raise ProductError(
            f"expected a WCS in {exposure.meta.filename}, found none; run assign_wcs on it first"
        )
    x, y = grid_from_bounding_box(wcs.bounding_box)
    wave = np.array(wcs(x, y)[2], np.float64)
    frame = np.full(exposure.data.shape[-2:], np.nan)
    if wave.shape != frame.shape:
        raise ProductError(
            f"expected a WCS of the whole frame {frame.shape} in {exposure.meta.filename}, found "
            f"one of {wave.shape}; photom wants the whole frame too: take a full exposure"
        )
    frame[:] = np.where(wave > 0, wave, np.nan)
    return frame


def build_mrs_photom(
    factors: Sequence[Factor], *, template: Any, wavelength: np.ndarray | None
) -> MirMrsPhotomModel:
    """Build the photom reference of one detector and band of MIRI MRS.

    Parameters
    ----------
    factors : sequence of Factor
        Of this detector and band, one or several. ``value * relresponse`` at `wave` [um] is the
        ratio of the conversion wanted at t0 to that of the template without its time tables; the
        throughput holds at these wavelengths, and is a power law or constant.
    template : MirMrsPhotomModel
        What is multiplied. Time tables of a channel without factors are kept.
    wavelength : ndarray of float64, shape (ny, nx)
        Of each pixel [um].

    Returns
    -------
    MirMrsPhotomModel
        Without DQ_DEF and description.

    Raises
    ------
    ProductError
        There is no template or no wavelength, a ratio is not positive, a throughput is not a power
        law, or wavelengths are given twice or belong to no channel.

    Notes
    -----
    Ratios are linear between wavelengths and constant beyond the ends of a channel. photom clips
    each power law at 1 and takes f linear between wavelengths; at the ends of a channel the table
    repeats the last power law, because photom would extrapolate.
    """
    label = factors[0].mode.label
    if template is None or wavelength is None:
        raise ProductError(
            f"expected a template and the wavelength of each pixel for {label}, found "
            f"{'no template' if template is None else 'no wavelengths'}; photom has no rows for "
            "MRS: give its present photom reference and an exposure after assign_wcs"
        )
    data = np.asarray(template.data)
    if np.shape(wavelength) != data.shape:
        raise ProductError(
            f"expected wavelengths of shape {data.shape} for {label}, found "
            f"{np.shape(wavelength)}; take them from a full frame"
        )
    nodes = _sort_nodes(factors, label)
    model = MirMrsPhotomModel(
        # A copy in this machine's byte order: FITS arrays have their own.
        data=np.array(data, np.float32),
        err=np.array(template.err, np.float32),
        dq=np.array(template.dq, np.uint32),
        pixsiz=np.array(template.pixsiz, np.float32),
        strict_validation=True,
    )
    used = 0
    ratios = np.ones(data.shape)
    parts = zip(_CHANNELS[factors[0].mode.detector.upper()], (0, MRS_MIDDLE), strict=True)
    tables = _start_tables(model, template)
    for channel, start in parts:
        columns = slice(start, MRS_MIDDLE if start == 0 else None)
        wave = wavelength[:, columns]
        span = (float(np.nanmin(wave)), float(np.nanmax(wave)))
        mine = [node for node in nodes if span[0] <= node[0] <= span[1]]
        if not mine:
            continue
        used += len(mine)
        ratio, error = _interpolate(wave, mine)
        ratios[:, columns] = ratio
        _scale(model, columns, ratio, error)
        tables[channel] = _make_table(model, channel, mine, span)
    if used < len(nodes):
        spans = f"{np.nanmin(wavelength):.2f} to {np.nanmax(wavelength):.2f}"
        raise ProductError(
            f"expected wavelengths of {label} within its channels ({spans} um), found "
            f"{len(nodes) - used} elsewhere; leave them out"
        )
    for channel, table in tables.items():
        setattr(model, f"timecoeff_powerlaw_{channel}", table)
    before = template.meta.photometry.conversion_megajanskys
    if before is not None:
        good = np.isfinite(wavelength) & (data > 0)
        scaled = before * np.median(ratios[good])
        # Rounded to what a FITS card holds.
        model.meta.photometry.conversion_megajanskys = float(f"{scaled:.12g}")
    if template.meta.instrument.hasattr("channel"):
        model.meta.instrument.channel = template.meta.instrument.channel
    return model


_Node = tuple[float, float, float, "Throughput"]


def _sort_nodes(factors: Sequence[Factor], label: str) -> list[_Node]:
    """List (wavelength, ratio, its error, throughput) in order of wavelength."""
    nodes: list[_Node] = []
    for factor in factors:
        require_throughput(factor.mode.label, factor.throughput)
        if factor.throughput.loss_per_year or factor.throughput.amplitude:
            raise ProductError(
                f"expected a constant or a power law in time for {label}, found "
                f"{factor.throughput}; photom has no other table for MRS: fit it with a power law"
            )
        if factor.wave is None:
            raise ProductError(
                f"expected the wavelengths of {label}, found none; give wave and relresponse"
            )
        moved, _ = rebase(factor.throughput)
        response = np.ones(len(factor.wave)) if factor.relresponse is None else factor.relresponse
        error = (
            np.zeros(len(factor.wave)) if factor.reluncertainty is None else factor.reluncertainty
        )
        for wave, ratio, sigma in zip(factor.wave, response, error, strict=True):
            total = np.hypot(factor.value * sigma, factor.uncertainty * ratio)
            nodes.append((float(wave), float(factor.value * ratio), float(total), moved))
    nodes.sort(key=lambda node: node[0])
    waves = np.array([node[0] for node in nodes])
    ratios = np.array([node[1] for node in nodes])
    if not (np.diff(waves) > 0).all() or not ((ratios > 0) & (ratios < np.inf)).all():
        raise ProductError(
            f"expected each wavelength of {label} once with a positive ratio to the template, "
            f"found {len(nodes)} from {waves.min():.3f} to {waves.max():.3f} um, ratios from "
            f"{ratios.min()} to {ratios.max()}; merge or leave out"
        )
    return nodes


def _interpolate(wave: np.ndarray, nodes: Sequence[_Node]) -> tuple[np.ndarray, np.ndarray]:
    """Interpolate ratio and error; 1 and 0 where there is no wavelength."""
    at = [node[0] for node in nodes]
    inside = np.isfinite(wave)
    ratio = np.where(inside, np.interp(wave, at, [node[1] for node in nodes]), 1.0)
    error = np.where(inside, np.interp(wave, at, [node[2] for node in nodes]), 0.0)
    return ratio, error


def _scale(model: Any, columns: slice, ratio: np.ndarray, error: np.ndarray) -> None:
    """Multiply a channel; errors add in quadrature."""
    old = np.array(model.data[:, columns], np.float64)
    err = np.array(model.err[:, columns], np.float64)
    model.data[:, columns] = old * ratio
    model.err[:, columns] = np.hypot(err * ratio, np.abs(old) * error)


def _start_tables(model: Any, template: Any) -> dict[str, np.ndarray]:
    """Take the time tables of the template; constants where it has none."""
    from ..fluxcal import Throughput

    tables = {}
    for channel in ("ch1", "ch2", "ch3", "ch4"):
        name = f"timecoeff_powerlaw_{channel}"
        if template.hasattr(name) and len(getattr(template, name)):
            tables[channel] = np.array(getattr(template, name), model.get_dtype(name))
        else:
            still = [(edge, 1.0, 0.0, 0.0, Throughput(0.0)) for edge in _SPAN]
            tables[channel] = _fill_table(model, channel, [(n[0], n[4]) for n in still])
    return tables


def _make_table(
    model: Any, channel: str, nodes: Sequence[_Node], span: tuple[float, float]
) -> np.ndarray:
    """Make the time table of a channel, carried on to its ends."""
    lines = [(node[0], node[3]) for node in nodes]
    lines = [(span[0] - 0.1, lines[0][1]), *lines, (span[1] + 0.1, lines[-1][1])]
    return _fill_table(model, channel, lines)


def _fill_table(model: Any, channel: str, lines: Sequence[tuple[float, Throughput]]) -> np.ndarray:
    table = np.zeros(len(lines), model.get_dtype(f"timecoeff_powerlaw_{channel}"))
    for row, (wave, one) in zip(table, lines, strict=True):
        row["binwave"], row["t0"] = wave, one.t0_mjd
        row["alpha"], row["year1value"] = one.alpha, one.year1value
        row["tsoft"] = one.tsoft_days
    return table


def evaluate_mrs(
    model: Any, factors: Sequence[Factor], wavelength: np.ndarray, mjd: float
) -> np.ndarray:
    """Evaluate the throughput that a reference of MIRI MRS should have, clipped at 1.

    Parameters
    ----------
    model : MirMrsPhotomModel
        Whose own tables count for a channel without factors.
    factors : sequence of Factor
        Those of other detectors and bands are passed over.
    wavelength : ndarray of float64, shape (ny, nx)
        Of each pixel [um].
    mjd : float
        Date [MJD].

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        1 where there is no wavelength.
    """
    meta = model.meta.instrument
    wanted = ("mrs", str(meta.detector), str(meta.band))
    mine = [f for f in factors if (f.mode.kind, f.mode.detector, f.mode.band) == wanted]
    nodes = _sort_nodes(mine, mine[0].mode.label) if mine else []
    f = np.ones(wavelength.shape)
    for channel, start in zip(_CHANNELS[str(meta.detector)], (0, MRS_MIDDLE), strict=True):
        columns = slice(start, MRS_MIDDLE if start == 0 else None)
        wave = wavelength[:, columns]
        span = (np.nanmin(wave), np.nanmax(wave))
        lines = [(n[0], float(n[3].evaluate(mjd))) for n in nodes if span[0] <= n[0] <= span[1]]
        if not lines:
            table = getattr(model, f"timecoeff_powerlaw_{channel}")
            lines = [(float(row["binwave"]), _evaluate_row(row, mjd)) for row in table]
        at, levels = np.array(lines).T
        inside = np.isfinite(wave)
        f[:, columns] = np.where(inside, np.interp(wave, at, np.minimum(levels, 1.0)), 1.0)
    return f


def _evaluate_row(row: Any, mjd: float) -> float:
    from ..fluxcal import Throughput

    power = Throughput(
        float(row["t0"]),
        alpha=float(row["alpha"]),
        tsoft_days=float(row["tsoft"]),
        year1value=float(row["year1value"]),
    )
    return float(power.evaluate(mjd))
