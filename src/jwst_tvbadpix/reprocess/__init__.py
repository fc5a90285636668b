"""Reprocess the exposures of an association by the standard stages."""

from .run import ExposureOutcome, ReprocessPlan, ReprocessResult, plan_reprocess, reprocess

__all__ = ["ExposureOutcome", "ReprocessPlan", "ReprocessResult", "plan_reprocess", "reprocess"]
