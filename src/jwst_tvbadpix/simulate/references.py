"""The reference files without which calwebb_detector1 does not run, for simulated ramps."""

from pathlib import Path

import numpy as np
from stdatamodels.jwst.datamodels import (
    GainModel,
    JwstDataModel,
    ReadnoiseModel,
    SaturationModel,
)

from ..detectors import get_detector
from .electronics import get_electronics
from .saving import save_model

__all__ = ["fill_frame", "fill_reference", "write_references"]

# Before the first exposure of the observatory, as the first delivered masks have it.
_USEAFTER = "2021-12-25T00:00:00"


def write_references(folder: str | Path, *, detector: str = "MIRIMAGE") -> dict[str, list[Path]]:
    """Write gain, read noise and saturation as FITS, ready for CRDS.

    Parameters
    ----------
    folder : str or Path
        Where to write; made when absent.
    detector : str
        DETECTOR keyword.

    Returns
    -------
    dict of str to list of Path
        Files by reference type. With a mask beside them calwebb_detector1 runs without an
        override; every other type may be N/A, and its step then skips itself.

    Raises
    ------
    DetectorError
        When the detector is unknown, or its instrument is not simulated.
    """
    facts, electronics = get_detector(detector), get_electronics(detector)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    gain = GainModel(data=np.full(facts.shape, electronics.gain_e_per_dn, np.float32))
    gain.meta.bunit = "electrons/DN"
    # The pipeline takes the read noise of a difference of two reads.
    noise_dn = electronics.read_noise_dn * np.sqrt(2)
    noise = ReadnoiseModel(data=np.full(facts.shape, noise_dn, np.float32))
    noise.meta.bunit_data = "DN"
    saturation = SaturationModel(
        data=np.full(facts.shape, electronics.saturation_dn, np.float32),
        dq=np.zeros(facts.shape, np.uint32),
    )
    saturation.meta.bunit_data = "DN"
    models = {"gain": gain, "readnoise": noise, "saturation": saturation}
    return {reftype: [_save(model, folder, reftype, detector)] for reftype, model in models.items()}


def fill_reference(model: JwstDataModel, path: Path, reftype: str, detector: str) -> None:
    """Fill what CRDS asks of every reference: who, for what, from when."""
    facts = get_detector(detector)
    meta = model.meta
    meta.filename, meta.telescope = path.name, "JWST"
    meta.reftype = reftype.upper()
    meta.author = "jwst_tvbadpix"
    meta.pedigree = "SIMULATION"
    meta.description = f"Uniform {reftype} of simulated {facts.instrument} exposures"
    meta.useafter = _USEAFTER
    meta.instrument.name, meta.instrument.detector = facts.instrument, facts.name
    model.add_history_entry("Assumed by jwst_tvbadpix.simulate, not measured.")


def fill_frame(model: JwstDataModel, reftype: str, detector: str) -> None:
    """Fill which pixels a reference is for: the full frame, of which subarrays are cut."""
    facts = get_detector(detector)
    ny, nx = facts.shape
    subarray = model.meta.subarray
    # The installed rules of gain know no GENERIC: only N/A serves every subarray there.
    subarray.name = "N/A" if reftype == "gain" else "GENERIC"
    subarray.xstart, subarray.ystart, subarray.xsize, subarray.ysize = 1, 1, nx, ny
    subarray.fastaxis, subarray.slowaxis = facts.fastaxis, facts.slowaxis


def _save(model: JwstDataModel, folder: Path, reftype: str, detector: str) -> Path:
    """Fill what CRDS asks for and write."""
    path = folder / f"simulated_{detector.lower()}_{reftype}.fits"
    fill_reference(model, path, reftype, detector)
    fill_frame(model, reftype, detector)
    if reftype == "gain":
        model.meta.instrument.filter = model.meta.instrument.band = "N/A"
    else:
        # CRDS selects by FILTER, for which these schemas have no place.
        model.extra_fits = {"PRIMARY": {"header": [["FILTER", "N/A", "any filter"]]}}
    return save_model(model, path)
