"""JWST reference models of our products: build, save as twins, read back."""

from .badpix import BaseMask, build_badpix_history
from .dq import dq_value, identity_dq_def
from .history import (
    BadPixHistoryModel,
    build_history,
    history_columns,
    read_history,
    unpack_residuals,
)
from .mask import build_mask, build_neutral_mask, check_filter, check_useafter, read_mask_dq
from .series import (
    MaskSeries,
    build_mask_at,
    build_mask_series,
    compose_dq,
    list_series,
    list_useafter,
)
from .twins import rename_all, write_asdf, write_twins

__all__ = [
    "BadPixHistoryModel",
    "BaseMask",
    "MaskSeries",
    "build_badpix_history",
    "build_history",
    "build_mask",
    "build_mask_at",
    "build_mask_series",
    "build_neutral_mask",
    "check_filter",
    "check_useafter",
    "compose_dq",
    "dq_value",
    "history_columns",
    "identity_dq_def",
    "list_series",
    "list_useafter",
    "read_history",
    "read_mask_dq",
    "rename_all",
    "unpack_residuals",
    "write_asdf",
    "write_twins",
]
