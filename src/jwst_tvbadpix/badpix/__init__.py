"""Numerics of bad pixels: arrays in, frozen results out."""

from .depths import DEPTHS, DepthClass, group_depths
from .find import Candidates, PixelHistories, Settings, find_histories
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
from .spans import MaskSpan, choose_starts, cost_starts, plan_masks

__all__ = [
    "CLASSES",
    "DATING",
    "DEPTHS",
    "Candidates",
    "DatedIntervals",
    "DepthClass",
    "Intervals",
    "MaskSpan",
    "PixelHistories",
    "Settings",
    "choose_starts",
    "cost_starts",
    "date_intervals",
    "extract_intervals",
    "find_histories",
    "group_depths",
    "list_epochs",
    "plan_masks",
    "select_active",
    "select_counted",
    "select_masked",
]
