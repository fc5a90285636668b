"""Roman WFI exposures of level 2, valid in RAD, from given arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.time import Time, TimeDelta

__all__ = ["make_l2", "name_dq", "write_l2"]


def name_dq(shape: tuple[int, int], flags: Mapping[str, Any]) -> np.ndarray:
    """Make a DQ plane of Roman: {mnemonic: mask or (y, x)} -> uint32."""
    from roman_datamodels.dqflags import pixel

    dq = np.zeros(shape, np.uint32)
    for name, where in flags.items():
        dq[where] |= np.uint32(pixel[name])
    return dq


def make_l2(
    data: np.ndarray,
    *,
    detector: str = "WFI01",
    optical_element: str = "F158",
    start: str = "2027-01-01T00:00:00",
    exposure_s: float = 107.52,
    dq: Mapping[str, Any] | np.ndarray | None = None,
    err: np.ndarray | float = 0.1,
    rnoise: bool = False,
    exp_type: str = "WFI_IMAGE",
    filename: str = "r0000101001001001001_0001_wfi01_f158_cal.asdf",
) -> Any:
    """Make an ImageModel of the inner array.

    Parameters
    ----------
    data : float32 (ny, nx)
        Rates [DN/s] without reference pixels: 4088 x 4088 of a real detector.
    dq : mapping of mnemonic to mask or (y, x), or uint32 (ny, nx)
        In Roman's own flags.
    err : float32 (ny, nx) or float
        Written as float16, as romancal does; its square is ``var_poisson``.
    rnoise : bool
        Whether to write the optional ``var_rnoise`` too.
    """
    from roman_datamodels import datamodels

    model = datamodels.ImageModel.create_fake_data(shape=data.shape)
    meta = model.meta
    meta.filename = filename
    meta.calibration_software_version = "1.1.0"
    meta.instrument.detector = detector
    meta.instrument.optical_element = optical_element
    meta.exposure.type = exp_type
    meta.exposure.start_time = Time(start)
    meta.exposure.end_time = Time(start) + TimeDelta(exposure_s, format="sec")
    meta.exposure.exposure_time = meta.exposure.effective_exposure_time = float(exposure_s)
    meta.exposure.frame_time = 3.072
    meta.exposure.nresultants = 6
    meta.exposure.ma_table_name = "IM_107_8"
    meta.exposure.read_pattern = [[k] for k in range(6)]
    meta.observation.observation_id = "0000101001001001001"
    meta.photometry.conversion_megajanskys = 0.3
    meta.photometry.conversion_megajanskys_uncertainty = 0.003
    meta.photometry.pixel_area = 2.8e-13
    model.data = np.asarray(data, np.float32)
    model.dq = dq if isinstance(dq, np.ndarray) else name_dq(data.shape, dq or {})
    model.err = np.broadcast_to(np.asarray(err), data.shape).astype(np.float16)
    model.var_poisson = (model.err.astype(np.float32) ** 2).astype(np.float16)
    ny, nx = data.shape
    for side, shape in (
        ("left", (ny + 8, 4)),
        ("right", (ny + 8, 4)),
        ("bottom", (4, nx + 8)),
        ("top", (4, nx + 8)),
    ):
        model[f"border_ref_pix_{side}"] = np.zeros((1, *shape), np.float32)
        model[f"dq_border_ref_pix_{side}"] = np.zeros(shape, np.uint32)
    model.amp33 = np.zeros((1, ny + 8, 128), np.uint16)
    if rnoise:
        model.var_rnoise = np.zeros(data.shape, np.float16)
    return model


def write_l2(path: Path, data: np.ndarray, *, compression: str | None = None, **keywords: Any):
    """Write `make_l2` to a file, validated by RAD; ``compression`` such as "lz4"."""
    path = Path(path)
    model = make_l2(data, filename=path.name, **keywords)
    model.validate()
    model.to_asdf(path, all_array_compression=compression)
    return path
