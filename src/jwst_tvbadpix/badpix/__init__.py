"""Numerics of bad pixels: arrays in, frozen results out."""

from .candidates import Candidates
from .find import PixelHistories, Settings, find_histories
from .intervals import CLASSES, Intervals, extract_intervals
from .selftest import SelfTest, pool_histories, run_self_test
from .series import (
    DATING,
    DatedIntervals,
    date_intervals,
    list_epochs,
    select_active,
    select_counted,
    select_masked,
)
from .states import stretch_time

__all__ = [
    "CLASSES",
    "DATING",
    "Candidates",
    "DatedIntervals",
    "Intervals",
    "PixelHistories",
    "SelfTest",
    "Settings",
    "date_intervals",
    "extract_intervals",
    "find_histories",
    "list_epochs",
    "pool_histories",
    "run_self_test",
    "select_active",
    "select_counted",
    "select_masked",
    "stretch_time",
]
