"""JWST reference models of our products: build, save as twins, read back."""

from .dq import dq_value, identity_dq_def
from .history import BadPixHistoryModel, build_history, history_columns, read_history
from .mask import build_mask, build_neutral_mask, read_mask_dq
from .twins import write_asdf, write_twins

__all__ = [
    "BadPixHistoryModel",
    "build_history",
    "build_mask",
    "build_neutral_mask",
    "dq_value",
    "history_columns",
    "identity_dq_def",
    "read_history",
    "read_mask_dq",
    "write_asdf",
    "write_twins",
]
