"""Numerics of flats: arrays in, frozen results out."""

from .frames import StackSettings
from .stack import ExcludedFrame, StackedFlat, stack_flat

__all__ = ["ExcludedFrame", "StackSettings", "StackedFlat", "stack_flat"]
