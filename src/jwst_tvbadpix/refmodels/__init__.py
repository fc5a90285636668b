"""JWST reference models of our products: build, save as twins, read back."""

from .badpix import BaseMask, build_badpix_history, make_pedigree
from .dq import dq_value, identity_dq_def
from .flat import FlatSelection, build_flat_model
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
from .starflat import StarFlatModel, build_star_flat_model, list_tables
from .twins import rename_all, write_asdf, write_twins

__all__ = [
    "BadPixHistoryModel",
    "BaseMask",
    "FlatSelection",
    "MaskSeries",
    "StarFlatModel",
    "build_badpix_history",
    "build_flat_model",
    "build_history",
    "build_mask",
    "build_mask_at",
    "build_mask_series",
    "build_neutral_mask",
    "build_star_flat_model",
    "check_filter",
    "check_useafter",
    "compose_dq",
    "dq_value",
    "history_columns",
    "identity_dq_def",
    "list_series",
    "list_tables",
    "list_useafter",
    "make_pedigree",
    "read_history",
    "read_mask_dq",
    "rename_all",
    "unpack_residuals",
    "write_asdf",
    "write_twins",
]
