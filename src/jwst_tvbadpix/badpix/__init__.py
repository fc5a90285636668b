"""Numerics of bad pixels: arrays in, frozen results out."""

from .find import Candidates, PixelHistories, Settings, find_histories

__all__ = ["Candidates", "PixelHistories", "Settings", "find_histories"]
