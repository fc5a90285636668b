"""Simulated LRS exposures with bad pixels that come and go, and the truth about them."""

from .defects import KINDS, Defects, draw_defects, read_truth, write_truth
from .electronics import Region, find_region
from .exposures import (
    ExposureSpec,
    Rate,
    compute_true_rate,
    render_ramps,
    render_rate,
    render_rateints,
)
from .layers import (
    CoronagraphWindows,
    DarkPedestal,
    FieldStars,
    Layer,
    PersistenceStreak,
    PixelPattern,
    RenderContext,
    Scene,
    SkyField,
    SlitStrip,
    SourceTrace,
    build_lrs_scene,
)
from .programme import Programme, draw_specs, simulate_programme
from .references import write_references
from .writers import write_ramp, write_rate, write_rateints

__all__ = [
    "KINDS",
    "CoronagraphWindows",
    "DarkPedestal",
    "Defects",
    "ExposureSpec",
    "FieldStars",
    "Layer",
    "PersistenceStreak",
    "PixelPattern",
    "Programme",
    "Rate",
    "Region",
    "RenderContext",
    "Scene",
    "SkyField",
    "SlitStrip",
    "SourceTrace",
    "build_lrs_scene",
    "compute_true_rate",
    "draw_defects",
    "draw_specs",
    "find_region",
    "read_truth",
    "render_ramps",
    "render_rate",
    "render_rateints",
    "simulate_programme",
    "write_ramp",
    "write_rate",
    "write_rateints",
    "write_references",
    "write_truth",
]
