"""Observed over model for standard stars: calibration factors and how they change with time."""

from .factors import Factor
from .measurements import Measurements
from .modes import KINDS, Band, Mode
from .throughput import YEAR_DAYS, Throughput

__all__ = ["KINDS", "YEAR_DAYS", "Band", "Factor", "Measurements", "Mode", "Throughput"]
