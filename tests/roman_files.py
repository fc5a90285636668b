"""Level-2 images of Roman with given flags, from the maker of `simulate`."""

import numpy as np

from jwst_tvbadpix.simulate import make_wfi_image, save_roman

__all__ = ["make_l2", "name_dq", "write_l2"]


def name_dq(shape, flags):
    """Make a DQ plane of Roman: {mnemonic: mask or (y, x)} -> uint32."""
    from roman_datamodels.dqflags import pixel

    dq = np.zeros(shape, np.uint32)
    for name, where in flags.items():
        dq[where] |= np.uint32(pixel[name])
    return dq


def make_l2(data, *, dq=(), exp_type="WFI_IMAGE", rnoise=False, **keywords):
    """Make an image: `dq` as for `name_dq`, with the optional ``var_rnoise`` or without."""
    model = make_wfi_image(data, dq=name_dq(data.shape, dict(dq)), **keywords)
    model.meta.exposure.type = exp_type
    if rnoise:
        model.var_rnoise = np.zeros(data.shape, np.float16)
    return model


def write_l2(path, data, *, compression=None, **keywords):
    """Write `make_l2` to a file; ``compression`` such as "lz4"."""
    return save_roman(make_l2(data, **keywords), path, compression=compression)
