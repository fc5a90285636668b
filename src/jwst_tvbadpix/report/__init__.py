"""Figures and pages, from products alone."""

from .figures import (
    plot_bad_pixel_map,
    plot_growth,
    plot_light_curve,
    plot_self_test,
    plot_summary,
    plot_timeline,
)

__all__ = [
    "plot_bad_pixel_map",
    "plot_growth",
    "plot_light_curve",
    "plot_self_test",
    "plot_summary",
    "plot_timeline",
]
