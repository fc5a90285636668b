"""Reprocess the exposures of an association by the standard stages."""

from .run import ExposureOutcome, ReprocessResult, reprocess

__all__ = ["ExposureOutcome", "ReprocessResult", "reprocess"]
