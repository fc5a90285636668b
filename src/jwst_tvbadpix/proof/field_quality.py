"""How good the photometry of the star field is: stars off their known flux, mask by mask."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from astropy.stats import mad_std
from astropy.time import Time

from .field import IMAGING, find_near
from .measure import THRESHOLD, Quality
from .photometry import WAYS, Measured
from .results import Check, Total
from .scene import Plan

__all__ = ["RECOMMENDED_WAY", "Photometry", "check_field", "judge_field", "sum_field"]

# The way that the verdict is about: of the three the one that knows which pixels are masked.
RECOMMENDED_WAY = "psf"
# Share of stars of a Gaussian beyond the threshold of 3 sigma.
_GAUSSIAN = 0.0027
# Share of the stars that a perfect mask puts right that the dated series must put right, and
# defects of known dates that must lie in apertures: as on the traces.
_REMOVED, _MIN_DEFECTS = 0.95, 40


@dataclass(frozen=True, slots=True)
class Photometry:
    """The fluxes of the stars at a date and how good they are.

    Attributes
    ----------
    epoch : int
        0 before the first change, k after the k-th; -1 for exposures without any defect.
    date : str
        Start of the first exposure.
    n_defects : int
        Defects in the apertures that are bad now or were bad at first.
    measured : Measured
    near : ndarray of bool, shape (n_images, n_stars)
        Stars that have one of these defects in their aperture.
    deviation : ndarray of float, shape (n_images, n_stars)
        Measured / true flux - 1, the aperture correction divided out; -1 where lost.
    quality : Quality
        A feature is a star off by more than 3 sigma; `rms` is that of all stars.
    """

    epoch: int
    date: str
    n_defects: int
    measured: Measured
    near: np.ndarray
    deviation: np.ndarray
    quality: Quality


def judge_field(plan: Plan, found: Mapping[int, Sequence[Measured]]) -> tuple[Photometry, ...]:
    """Compare the fluxes with the truth.

    Parameters
    ----------
    plan : Plan
    found : mapping of int to sequence of Measured
        By epoch; -1, which must be there, without defects.

    Returns
    -------
    tuple of Photometry
        In order of epoch.

    Notes
    -----
    The exposures without defects, with the static mask, give the aperture correction of each way
    (median of measured / true) and how much larger the scatter is than ERR says (crowding,
    sampling); noise is Gaussian otherwise.
    """
    null = {one.way: one for one in found[-1] if one.mask == "static"}
    level = {way: float(np.nanmedian(one.ratio)) for way, one in null.items()}
    scale = {
        way: float(mad_std((one.ratio - level[way]) / one.sigma, ignore_nan=True))
        for way, one in null.items()
    }
    return tuple(
        _judge(plan, epoch, one, level[one.way], scale[one.way])
        for epoch in sorted(found)
        for one in found[epoch]
    )


def _judge(plan: Plan, epoch: int, one: Measured, level: float, scale: float) -> Photometry:
    """Compare one set of fluxes with the truth."""
    mjd = plan.star_mjd[epoch]
    defects = plan.defects
    chosen = defects.state(mjd) | defects.state(plan.first_mjd)
    within = find_near(plan, chosen)
    near: np.ndarray = np.any(within, axis=2)
    if one.ratio.shape[0] == 1:
        near = np.any(near, axis=0, keepdims=True)
    deviation = np.where(np.isfinite(one.ratio), one.ratio / level - 1, -1.0)
    with np.errstate(invalid="ignore"):
        fine = np.abs(deviation) <= THRESHOLD * scale * one.sigma / level
    off = ~fine
    quality = Quality(
        largest=float(np.abs(deviation[near]).max()) if near.any() else 0.0,
        rms=float(np.sqrt(np.mean(deviation**2))),
        level=float(np.nanmedian(one.ratio)),
        n_features=int((off & near).sum()),
        n_expected=_GAUSSIAN * float(near.sum()),
        n_elsewhere=int((off & ~near).sum()),
        sign=np.where(off & near, np.sign(deviation), 0).astype(int),
    )
    date = str(Time(mjd, format="mjd").isot[:10])
    n_defects = int(np.any(within, axis=(0, 1)).sum())
    return Photometry(epoch, date, n_defects, one, near, deviation, quality)


def sum_field(photometry: Sequence[Photometry]) -> Iterator[Total]:
    """Sum over the dates with defects, for each way."""
    for way in WAYS:
        static, dated, perfect = (
            [
                p.quality
                for p in photometry
                if p.epoch >= 0 and (p.measured.mask, p.measured.way) == (mask, way)
            ]
            for mask in ("static", "dated", "perfect")
        )
        pairs = zip(dated, static, strict=True)
        yield Total(
            mode=IMAGING,
            extraction=way,
            replacement="-",
            static=sum(q.excess for q in static),
            dated=sum(q.excess for q in dated),
            added=sum(int(((new.sign != 0) & (old.sign == 0)).sum()) for new, old in pairs),
            expected=sum(q.n_expected for q in dated),
            largest_static=max(q.largest for q in static),
            largest_dated=max(q.largest for q in dated),
            rms_static=float(np.sqrt(np.mean([q.rms**2 for q in static]))),
            rms_dated=float(np.sqrt(np.mean([q.rms**2 for q in dated]))),
            perfect=sum(q.excess for q in perfect),
        )


def check_field(
    plan: Plan,
    photometry: Sequence[Photometry],
    total: Total,
    expected: Mapping[str, Sequence[str]],
) -> Iterator[Check]:
    """List what must hold for imaging.

    Parameters
    ----------
    plan : Plan
    photometry : sequence of Photometry
    total : Total
        Of ``RECOMMENDED_WAY``.
    expected : mapping of str to sequence of str
        Name of the mask at each date, by 'static', 'dated' and 'perfect'.
    """
    wrong = [
        p for p in photometry if set(p.measured.mask_names) != {expected[p.measured.mask][p.epoch]}
    ]
    yield Check(
        f"{IMAGING}: sets of exposures whose mask is not the one of their date",
        f"{len(wrong)} of {len(photometry)}",
        "0",
        not wrong,
    )
    dated = np.any(np.isin(plan.defects.switch_mjd, plan.change_mjd), axis=1)
    n = int(np.any(find_near(plan, dated), axis=(0, 1)).sum())
    yield Check(
        f"{IMAGING}: defects of known dates in apertures",
        str(n),
        f">= {_MIN_DEFECTS}",
        n >= _MIN_DEFECTS,
    )
    # Crosstalk of a masked hot pixel stays, whatever the mask: the best there is sets the measure.
    assert total.perfect is not None
    removed, possible = total.static - total.dated, total.static - total.perfect
    share = removed / possible if possible > 0 else 0.0
    yield Check(
        f"{IMAGING}: of the stars that a perfect mask puts right the series puts right",
        f"{100 * share:.1f} % (static {total.static:.1f} -> dated {total.dated:.1f}, "
        f"perfect {total.perfect:.1f})",
        f">= {100 * _REMOVED:.0f} %",
        share >= _REMOVED,
    )
    yield Check(
        f"{IMAGING}: stars that only the series puts off",
        f"{total.added:.0f}",
        f"<= {total.allowed:.1f} (noise)",
        bool(total.added <= total.allowed),
    )
    yield from _check_null(photometry)


def _check_null(photometry: Sequence[Photometry]) -> Iterator[Check]:
    """List what the masks must not cost where there is no defect."""
    static, dated = (
        p.quality
        for mask in ("static", "dated")
        for p in photometry
        if (p.epoch, p.measured.mask, p.measured.way) == (-1, mask, RECOMMENDED_WAY)
    )
    allowed = 2 * np.sqrt(dated.n_expected)
    yield Check(
        f"{IMAGING}: stars off without any defect",
        f"{static.n_features} -> {dated.n_features}",
        f"<= {allowed:.1f} more (noise)",
        bool(dated.n_features - static.n_features <= allowed),
    )
    yield Check(
        f"{IMAGING}: rms without any defect",
        f"{100 * static.rms:.2f} -> {100 * dated.rms:.2f} %",
        "unchanged by a tenth",
        dated.rms <= 1.1 * static.rms,
    )
    yield Check(
        f"{IMAGING}: level without any defect",
        f"{static.level:.4f} -> {dated.level:.4f}",
        "the same within 0.002, 1 within 0.01",
        abs(dated.level - static.level) <= 0.002 and abs(static.level - 1) <= 0.01,
    )
