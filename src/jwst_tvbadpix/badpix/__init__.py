"""Numerics of bad pixels: arrays in, frozen results out."""

from .candidates import Candidates
from .find import PixelHistories, Settings, find_histories
from .intervals import CLASSES, Intervals, extract_intervals
from .series import (
    DATING,
    DatedIntervals,
    date_intervals,
    list_epochs,
    select_active,
    select_counted,
    select_masked,
)

__all__ = [
    "CLASSES",
    "DATING",
    "Candidates",
    "DatedIntervals",
    "Intervals",
    "PixelHistories",
    "Settings",
    "date_intervals",
    "extract_intervals",
    "find_histories",
    "list_epochs",
    "select_active",
    "select_counted",
    "select_masked",
]
