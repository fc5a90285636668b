"""What each exposure is, from its header alone, and why."""

import logging
import math
from dataclasses import dataclass
from functools import cache

from .modes import find_mode
from .scan import Observation
from .targets import is_dense_field, read_name

__all__ = ["ROLES", "Role", "classify", "list_acquisitions"]

log = logging.getLogger(__name__)

ROLES = ("science", "background", "blank", "failed", "dark", "acquisition", "other")
# What an EXP_TYPE that the pipeline groups apart from science is here.
_SPECIAL = {"dark": "dark", "target_acquisition": "acquisition"}
_WORDS = {
    "flat": "exposure of the internal lamp",
    "engineering": "engineering exposure",
    "autoflat": "exposure of the internal lamp",
    "autowave": "exposure of the internal lamp",
}


@dataclass(frozen=True, slots=True)
class Role:
    """What an exposure is.

    Attributes
    ----------
    name : str
        One of `ROLES`: "science" (the target is in the aperture), "background" (dedicated to a
        target elsewhere), "blank" (sky without a target), "failed" (the target was missed, or the
        visit did not succeed), "dark" (no light), "acquisition", "other" (lamps, engineering,
        guiding, references).
    reason : str
        Why, with the keyword that decided.
    doubts : tuple of str
        What in the header speaks against it, or makes it uncertain.
    """

    name: str
    reason: str
    doubts: tuple[str, ...] = ()


def classify(observation: Observation) -> Role:
    """Tell what an exposure is.

    Parameters
    ----------
    observation : Observation
        From `scan_headers`.

    Returns
    -------
    Role

    Notes
    -----
    In this order: EXP_TYPE (acquisitions, darks, lamps); VISITSTA other than SUCCESSFUL; DATAPROB;
    BKGDTARG; the name of the target (TARGPROP, else TARGNAME); the distance between target
    (TARG_RA, TARG_DEC) and aperture (RA_REF, DEC_REF) beyond the dither (XOFFSET, YOFFSET) and
    the mode's `off_target`. An absent keyword decides nothing and excludes nothing. The distance
    is not asked of parallel exposures, of moving targets, of dense fields (a mosaic has tiles
    beside its target), nor where another aperture was pointed (PPS_APER unlike APERNAME), as for
    most NIRCam detectors. Files of Roman name no target: their images are science.
    """
    special = _find_special(observation)
    if special is not None:
        return special
    if observation.telescope == "ROMAN":
        return Role("science", "image of WFI: the sky moves over its pixels")
    mode = find_mode(observation.exp_type)
    doubts = _find_doubts(observation)
    status = (observation.visit_status or "SUCCESSFUL").upper()
    if status != "SUCCESSFUL":
        return Role("failed", f"VISITSTA = {status}", doubts)
    if observation.data_problem:
        return Role(
            "failed", "DATAPROB = T", (*doubts, "telemetry was disturbed: pixels may be damaged")
        )
    name = observation.target or observation.target_name or ""
    said = read_name(name)
    if observation.background_target:
        return Role("background", "BKGDTARG = T", doubts)
    if said == "background" and observation.background_target is False:
        doubts = (*doubts, "BKGDTARG = F though the name says background")
    if said in ("background", "blank", "failed"):
        return Role(said, f"target is {name}", doubts)
    offset = _measure_offset(observation)
    missed = mode is not None and offset is not None and offset > mode.off_target
    if missed and offset is not None and not is_dense_field(name):
        return Role("failed", f"target lies {_say_arcsec(offset)} from the aperture", doubts)
    return Role("science", f"target is {name or 'not named'}", doubts)


def _find_special(observation: Observation) -> Role | None:
    """Roles that EXP_TYPE alone decides."""
    if observation.reftype:
        return Role("other", f"reference file (REFTYPE = {observation.reftype})")
    exp_type = (observation.exp_type or "").upper()
    if not exp_type or (find_mode(exp_type) is not None and "DARK" not in exp_type):
        return None
    kind = _map_exp_types().get(exp_type.lower(), "")
    if kind in _SPECIAL:
        return Role(_SPECIAL[kind], f"EXP_TYPE = {exp_type}")
    if "DARK" in exp_type:
        return Role("dark", f"EXP_TYPE = {exp_type}")
    return Role("other", f"{_WORDS.get(kind, 'no observing mode')} (EXP_TYPE = {exp_type})")


def list_acquisitions(exp_type: str) -> list[str]:
    """List the EXP_TYPE of acquisitions by the instrument of another EXP_TYPE."""
    instrument = exp_type[:4]
    return sorted(
        name.upper()
        for name, kind in _map_exp_types().items()
        if kind == "target_acquisition" and name.upper().startswith(instrument)
    )


@cache
def _map_exp_types() -> dict[str, str]:
    from jwst.associations.lib.dms_base import ACQ_EXP_TYPES, EXPTYPE_MAP

    acquisitions = dict.fromkeys(ACQ_EXP_TYPES, "target_acquisition")
    return {**acquisitions, **EXPTYPE_MAP}


def _find_doubts(observation: Observation) -> tuple[str, ...]:
    """List what makes the pointing or the label uncertain, without deciding."""
    doubts = []
    if not observation.exp_type:
        doubts.append("EXP_TYPE is absent: the mode is not known")
    if (observation.pcs_mode or "").upper() in ("COARSE", "NONE"):
        doubts.append(f"PCS_MODE = {observation.pcs_mode}: not guided finely")
    if (observation.pointing_quality or "").upper() == "PLANNED":
        doubts.append("ENGQLPTG = PLANNED: the pointing was not measured")
    if (observation.engineering_quality or "").upper() == "SUSPECT":
        doubts.append("ENG_QUAL = SUSPECT")
    if (observation.guide_star_status or "").upper() in ("FAILED", "FAIL"):
        doubts.append(f"GSACSTAT = {observation.guide_star_status}")
    said = read_name(observation.label or "")
    own = read_name(observation.target or observation.target_name or "")
    if (said == "background") != (own == "background") and observation.label and observation.target:
        doubts.append(
            f"label {observation.label!r} and target {observation.target!r} differ on background"
        )
    return tuple(doubts)


def _measure_offset(observation: Observation) -> float | None:
    """Measure how far target and aperture lie apart beyond the dither [arcsec]."""
    o = observation
    parallel = (o.prime_parallel or "PRIME").upper() != "PRIME"
    apertures = {(name or "").upper() for name in (o.aperture, o.pps_aperture)} - {""}
    # Those of the MRS lie within an arcsecond of each other.
    elsewhere = len(apertures) > 1 and not all(name.startswith("MIRIFU") for name in apertures)
    if parallel or elsewhere or (o.target_type or "").upper() == "MOVING":
        return None
    if o.target_ra is None or o.target_dec is None or o.ra_ref is None or o.dec_ref is None:
        return None
    # APT writes 0, 0 where a target has no position (internal targets).
    if o.target_ra == 0 and o.target_dec == 0:
        return None
    ra, dec, ra0, dec0 = map(math.radians, (o.ra_ref, o.dec_ref, o.target_ra, o.target_dec))
    haversine = (
        math.sin((dec - dec0) / 2) ** 2
        + math.cos(dec) * math.cos(dec0) * math.sin((ra - ra0) / 2) ** 2
    )
    apart = math.degrees(2 * math.asin(min(1.0, math.sqrt(haversine)))) * 3600
    return apart - math.hypot(o.x_offset or 0.0, o.y_offset or 0.0)


def _say_arcsec(offset: float) -> str:
    if offset < 120:
        return f"{offset:.1f} arcsec"
    return f"{offset / 60:.1f} arcmin" if offset < 7200 else f"{offset / 3600:.1f} deg"
