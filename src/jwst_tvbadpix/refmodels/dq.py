"""Data-quality bits by name, as the pipeline defines them."""

import numpy as np
from stdatamodels.jwst.datamodels.dqflags import pixel

from ..errors import ProductError

__all__ = ["dq_value", "identity_dq_def"]

# The columns that dq_def.schema of stdatamodels prescribes.
_DQ_DEF_DTYPE = np.dtype([("BIT", "i4"), ("VALUE", "u4"), ("NAME", "S40"), ("DESCRIPTION", "S80")])


def dq_value(*names: str) -> int:
    """Combine named pixel flags into one DQ value.

    Parameters
    ----------
    *names : str
        Mnemonics of the pipeline, such as ``"HOT"`` or ``"DO_NOT_USE"``.

    Returns
    -------
    int
        The bitwise OR of the standard values; 0 without names.

    Raises
    ------
    ProductError
        When a name is not a pixel flag of the installed stdatamodels.
    """
    unknown = [name for name in names if name not in pixel]
    if unknown:
        raise ProductError(
            f"expected pixel flags of stdatamodels ({', '.join(pixel)}), found "
            f"{', '.join(map(repr, unknown))}; use the exact mnemonics"
        )
    value = 0
    for name in names:
        value |= pixel[name]
    return value


def identity_dq_def() -> np.ndarray:
    """Make the DQ_DEF table in which every flag keeps its standard bit.

    Returns
    -------
    structured array (n_flags,)
        BIT i4, VALUE u4, NAME S40, DESCRIPTION S80, one row per named pixel flag. With this
        table, decoding twice is harmless and no flag is dropped on save.

    Notes
    -----
    Each call makes a new array: saving a FITS file shifts the VALUE column of the very array it
    was given, so that a shared table silently corrupts the next file.
    """
    rows = [
        (value.bit_length() - 1, value, name.encode(), name.replace("_", " ").lower().encode())
        for name, value in pixel.items()
        if value
    ]
    return np.array(rows, dtype=_DQ_DEF_DTYPE)
