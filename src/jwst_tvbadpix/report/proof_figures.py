"""Figures of the proof on a spectrum, from its result alone."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_field", "plot_proof", "plot_spectrum"]

# Okabe & Ito's palette, safe for the colour-blind.
_COLOURS = {"static": "#D55E00", "dated": "#0072B2"}
_TITLES = {
    "off": "pixel_replace off",
    "fit_profile": "pixel_replace on, fit_profile",
}
_WAYS = {
    "circle": "circle of 3 pixels on each exposure",
    "psf": "fit of the PSF on each exposure",
    "i2d": "circle on the combined image (i2d)",
}


def plot_spectrum(
    result: Any,
    mode: str,
    *,
    epoch: int,
    replacement: str,
    extraction: str = "box",
    ax: "Axes | None" = None,
) -> "Axes":
    """Plot extracted over true flux with either mask, and where the defects are.

    Parameters
    ----------
    result : ProofResult
    mode : str
        'slitless' or 'slit'.
    epoch : int
        0 before the first change, k after the k-th; -1 without any defect.
    replacement : str
        'off', or the algorithm of pixel_replace.
    extraction : str
        'box' or 'optimal'.
    ax : matplotlib Axes, optional
        Drawn on; made when absent.
    """
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.gca()
    for spectrum in result.spectra:
        one = spectrum.extracted
        found = (spectrum.mode, spectrum.epoch, one.replacement, one.extraction)
        if found != (mode, epoch, replacement, extraction) or one.draw > 0:
            continue
        quality = spectrum.quality
        ax.plot(
            one.wavelength_um,
            100 * (one.ratio - 1),
            lw=1.6 if one.mask == "static" else 1.0,
            color=_COLOURS[one.mask],
            label=f"{one.mask}: {max(quality.excess, 0):.0f} features, "
            f"largest {100 * quality.largest:.0f} %",
        )
        places, date = spectrum.defect_um, spectrum.date
    ax.plot(places, np.full(places.size, -41.0), "|", ms=7, color="0.3", clip_on=False)
    ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    ax.set(
        xlim=(5, 12),
        ylim=(-42, 42),
        ylabel="extracted / true - 1 [%]",
        title=f"{mode}, {date}: {_TITLES[replacement]}",
    )
    ax.legend(fontsize=8, loc="upper left", ncols=2, framealpha=0.9)
    return ax


def plot_proof(result: Any, mode: str) -> "Figure":
    """Plot the spectra of a mode after the last change: each setting, and what it all means.

    Parameters
    ----------
    result : ProofResult
    mode : str
        'slitless' or 'slit'.
    """
    from matplotlib.figure import Figure

    found = {s.extracted.replacement for s in result.spectra if s.mode == mode}
    settings = [name for name in _TITLES if name in found]
    last = max(spectrum.epoch for spectrum in result.spectra)
    figure = Figure(figsize=(8, 1 + 2 * len(settings)), layout="constrained")
    panels = figure.subplots(len(settings), 1, sharex=True)
    for replacement, panel in zip(settings, panels, strict=True):
        plot_spectrum(result, mode, epoch=last, replacement=replacement, ax=panel)
        panel.title.set_fontsize(10)
    panels[-1].set_xlabel("wavelength [um]; ticks: defects in the extraction box")
    return figure


def plot_field(result: Any) -> "Figure":
    """Plot the fluxes of the stars after the last change with either mask, for each way to them.

    Parameters
    ----------
    result : ProofResult
    """
    from matplotlib.figure import Figure

    last = max(one.epoch for one in result.photometry)
    shown = [p for p in result.photometry if p.epoch == last and p.measured.mask in _COLOURS]
    figure = Figure(figsize=(8, 7), layout="constrained")
    panels = figure.subplots(len(_WAYS), 1)
    for way, panel in zip(_WAYS, panels, strict=True):
        for one in (one for one in shown if one.measured.way == way):
            mask, quality = one.measured.mask, one.quality
            off = quality.sign != 0
            percent = 100 * np.clip(one.deviation, -0.42, 0.42)
            number = np.arange(percent.size)
            panel.plot(
                number[off.ravel()],
                percent[off],
                "o" if mask == "static" else "x",
                ms=6 if mask == "static" else 5,
                mfc="none",
                color=_COLOURS[mask],
                label=f"{mask}: {off.sum()} of {one.near.sum()} stars with a defect off, "
                f"largest {100 * quality.largest:.0f} %",
            )
            panel.plot(number[~off.ravel()], percent[~off], ".", ms=2, color=_COLOURS[mask])
        panel.axhline(0, color="0.6", lw=0.8, zorder=0)
        panel.set(
            ylim=(-45, 45),
            ylabel="measured / true - 1 [%]",
            xlabel="star" if way == "i2d" else "star, exposure after exposure",
        )
        panel.set_title(f"imaging, {one.date}: {_WAYS[way]}", fontsize=10)
        panel.legend(fontsize=8, loc="upper right", ncols=2, framealpha=0.9)
    return figure
