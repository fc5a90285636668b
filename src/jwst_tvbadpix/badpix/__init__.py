"""Numerics of bad pixels: arrays in, frozen results out."""

from .block import CalibrationBlock
from .candidates import Candidates, Control
from .depths import DEPTHS, DepthClass, group_depths
from .find import PixelHistories, Settings, find_histories
from .intervals import CLASSES, Intervals, extract_intervals
from .selftest import SelfTest, pool_histories, run_self_test
from .series import (
    DATING,
    DatedIntervals,
    date_intervals,
    follow_masked,
    list_epochs,
    select_active,
    select_counted,
    select_masked,
)
from .spans import MaskSpan, choose_starts, cost_starts, plan_masks
from .states import stretch_time
from .update import update_histories

__all__ = [
    "CLASSES",
    "DATING",
    "DEPTHS",
    "CalibrationBlock",
    "Candidates",
    "Control",
    "DatedIntervals",
    "DepthClass",
    "Intervals",
    "MaskSpan",
    "PixelHistories",
    "SelfTest",
    "Settings",
    "choose_starts",
    "cost_starts",
    "date_intervals",
    "extract_intervals",
    "find_histories",
    "follow_masked",
    "group_depths",
    "list_epochs",
    "plan_masks",
    "pool_histories",
    "run_self_test",
    "select_active",
    "select_counted",
    "select_masked",
    "stretch_time",
    "update_histories",
]
