"""JWST reference models of our products: build, save as twins, read back."""

from .absflux import AbsFluxModel, AbsFluxNotes, build_absflux_model, read_absflux
from .badpix import BaseMask, build_badpix_history, make_pedigree
from .closure import CLOSURE, Closure, check_closure
from .dq import dq_value, identity_dq_def
from .flat import FlatSelection, build_flat_model
from .frozen import pack_block, unpack_block
from .history import (
    BadPixHistoryModel,
    build_history,
    history_columns,
    read_history,
    unpack_residuals,
)
from .mask import build_mask, build_neutral_mask, check_filter, check_useafter, read_mask_dq
from .photom import (
    PhotomHeader,
    build_photom_models,
    freeze_factors,
    read_template,
    write_photom,
)
from .photom_mrs import read_mrs_wavelengths
from .roman import (
    RomanHeader,
    map_dq_from_roman,
    map_dq_to_roman,
    read_roman_dq,
    read_roman_flat,
    write_roman_flat,
    write_roman_mask,
    write_roman_photom,
)
from .roman_mask import RomanMask
from .roman_products import RomanFlat, RomanPhotom
from .series import (
    MaskSeries,
    PlannedMask,
    build_mask_at,
    build_mask_series,
    compose_dq,
    iterate_masks,
    list_series,
    list_useafter,
    plan_mask_series,
)
from .stamps import MaskWriter
from .starflat import StarFlatModel, build_star_flat_model, list_tables, read_star_flat
from .twins import rename_all, write_asdf, write_twins

__all__ = [
    "CLOSURE",
    "AbsFluxModel",
    "AbsFluxNotes",
    "BadPixHistoryModel",
    "BaseMask",
    "Closure",
    "FlatSelection",
    "MaskSeries",
    "MaskWriter",
    "PhotomHeader",
    "PlannedMask",
    "RomanFlat",
    "RomanHeader",
    "RomanMask",
    "RomanPhotom",
    "StarFlatModel",
    "build_absflux_model",
    "build_badpix_history",
    "build_flat_model",
    "build_history",
    "build_mask",
    "build_mask_at",
    "build_mask_series",
    "build_neutral_mask",
    "build_photom_models",
    "build_star_flat_model",
    "check_closure",
    "check_filter",
    "check_useafter",
    "compose_dq",
    "dq_value",
    "freeze_factors",
    "history_columns",
    "identity_dq_def",
    "iterate_masks",
    "list_series",
    "list_tables",
    "list_useafter",
    "make_pedigree",
    "map_dq_from_roman",
    "map_dq_to_roman",
    "pack_block",
    "plan_mask_series",
    "read_absflux",
    "read_history",
    "read_mask_dq",
    "read_mrs_wavelengths",
    "read_roman_dq",
    "read_roman_flat",
    "read_star_flat",
    "read_template",
    "rename_all",
    "unpack_block",
    "unpack_residuals",
    "write_asdf",
    "write_photom",
    "write_roman_flat",
    "write_roman_mask",
    "write_roman_photom",
    "write_twins",
]
