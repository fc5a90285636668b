"""Numerics of flats: arrays in, frozen results out."""

from .frames import Exposures, StackSettings
from .merge import MergedFlat, StarResponse, make_flags, merge_flats
from .mosaic import Pointings
from .sky import Background, Transients, find_transients
from .stack import ExcludedFrame, StackedFlat, stack_flat

__all__ = [
    "Background",
    "ExcludedFrame",
    "Exposures",
    "MergedFlat",
    "Pointings",
    "StackSettings",
    "StackedFlat",
    "StarResponse",
    "Transients",
    "find_transients",
    "make_flags",
    "merge_flats",
    "stack_flat",
]
