"""Observing modes: which EXP_TYPE belongs to which, and in which service of the archive it lies."""

from dataclasses import dataclass

from ..errors import InputError

__all__ = ["MODES", "SERVICES", "Mode", "find_mode", "get_mode"]

# Services of the archive by instrument, as in Mast.Jwst.Filtered.SERVICE.
SERVICES = {
    "MIRI": "Miri",
    "NIRCAM": "Nircam",
    "NIRISS": "Niriss",
    "NIRSPEC": "Nirspec",
    "FGS": "Fgs",
}


@dataclass(frozen=True, slots=True)
class Mode:
    """One observing mode.

    Attributes
    ----------
    name : str
        As in file names, recipes and --mode.
    instrument : str
        INSTRUME.
    exp_types : tuple of str
        EXP_TYPE of its exposures.
    kind : str
        "image" or "spectrum".
    off_target : float
        How far the target may lie from the aperture's reference point, dithers left aside, until
        the exposure counts as one that missed it [arcsec]: about half the field of the aperture,
        the slit's half-length for slits.
    """

    name: str
    instrument: str
    exp_types: tuple[str, ...]
    kind: str
    off_target: float


# Fields of view: MIRI imager 74" x 113", MRS 3.3" to 7.7", LRS slit 4.7" x 0.51"; NIRSpec IFU 3",
# fixed slits 3.2"; a NIRCam short-wave detector 64" (JWST user documentation).
MODES = (
    Mode("lrs-slit", "MIRI", ("MIR_LRS-FIXEDSLIT",), "spectrum", 2.4),
    Mode("lrs-slitless", "MIRI", ("MIR_LRS-SLITLESS",), "spectrum", 4.0),
    Mode("mrs", "MIRI", ("MIR_MRS",), "spectrum", 4.0),
    Mode("miri-imaging", "MIRI", ("MIR_IMAGE",), "image", 60.0),
    Mode("miri-external-flat", "MIRI", ("MIR_FLATIMAGE-EXT",), "image", 60.0),
    Mode("miri-coronagraphy", "MIRI", ("MIR_4QPM", "MIR_LYOT", "MIR_CORONCAL"), "image", 20.0),
    Mode("miri-wfss", "MIRI", ("MIR_WFSS",), "spectrum", 60.0),
    Mode("miri-dark", "MIRI", ("MIR_DARKIMG", "MIR_DARKMRS", "MIR_DARKALL"), "image", 0.0),
    Mode("nircam-imaging", "NIRCAM", ("NRC_IMAGE", "NRC_TSIMAGE"), "image", 60.0),
    Mode("nircam-coronagraphy", "NIRCAM", ("NRC_CORON",), "image", 20.0),
    Mode("nircam-wfss", "NIRCAM", ("NRC_WFSS", "NRC_GRISM"), "spectrum", 60.0),
    Mode("nircam-tsgrism", "NIRCAM", ("NRC_TSGRISM",), "spectrum", 20.0),
    Mode("nircam-dark", "NIRCAM", ("NRC_DARK",), "image", 0.0),
    Mode("niriss-imaging", "NIRISS", ("NIS_IMAGE", "NIS_EXTCAL"), "image", 60.0),
    Mode("niriss-soss", "NIRISS", ("NIS_SOSS",), "spectrum", 10.0),
    Mode("niriss-wfss", "NIRISS", ("NIS_WFSS",), "spectrum", 60.0),
    Mode("niriss-ami", "NIRISS", ("NIS_AMI",), "image", 4.0),
    Mode("niriss-dark", "NIRISS", ("NIS_DARK",), "image", 0.0),
    Mode("nirspec-fixed-slit", "NIRSPEC", ("NRS_FIXEDSLIT",), "spectrum", 1.6),
    Mode("nirspec-bright-object", "NIRSPEC", ("NRS_BRIGHTOBJ",), "spectrum", 1.6),
    Mode("nirspec-ifu", "NIRSPEC", ("NRS_IFU",), "spectrum", 2.0),
    Mode("nirspec-mos", "NIRSPEC", ("NRS_MSASPEC",), "spectrum", 120.0),
    Mode("nirspec-dark", "NIRSPEC", ("NRS_DARK",), "image", 0.0),
    Mode("fgs-imaging", "FGS", ("FGS_IMAGE", "FGS_SKYFLAT"), "image", 60.0),
    Mode("fgs-dark", "FGS", ("FGS_DARK",), "image", 0.0),
)
# Of Roman, which the archive of JWST is not asked for; its detectors have no targets of their own.
_ROMAN = Mode("wfi-imaging", "WFI", ("WFI_IMAGE",), "image", 0.0)
# What --mode takes besides the names: several modes at once, darks of the detectors included.
_FAMILIES = {
    "lrs": ("lrs-slit", "lrs-slitless"),
    "imaging": ("miri-imaging", "miri-external-flat"),
    "nirspec": ("nirspec-fixed-slit", "nirspec-bright-object", "nirspec-ifu", "nirspec-mos"),
    "nircam": ("nircam-imaging",),
    "niriss": ("niriss-imaging", "niriss-soss"),
}
_BY_EXP_TYPE = {exp_type: mode for mode in (*MODES, _ROMAN) for exp_type in mode.exp_types}


def find_mode(exp_type: str | None) -> Mode | None:
    """Find the mode of an EXP_TYPE; None where it is no observing mode (or None)."""
    return _BY_EXP_TYPE.get((exp_type or "").upper())


def get_mode(name: str) -> tuple[Mode, ...]:
    """Find modes by name, whatever its case: "LRS", "imaging", "MRS", "NIRSpec", or one of `MODES`.

    Raises
    ------
    InputError
        The name is none of these.
    """
    wanted = _FAMILIES.get(name.lower(), (name.lower(),))
    found = tuple(mode for mode in MODES if mode.name in wanted)
    if not found:
        names = (*_FAMILIES, *(mode.name for mode in MODES))
        raise InputError(
            f"expected a mode out of {', '.join(names)}, found {name!r}; choose one of these"
        )
    return found
