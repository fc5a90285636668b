"""Figures and pages, from products alone."""

from .build import build_report
from .figures import (
    plot_bad_pixel_map,
    plot_growth,
    plot_light_curve,
    plot_self_test,
    plot_summary,
    plot_timeline,
)
from .flux_figures import (
    plot_dependence,
    plot_dependences,
    plot_fit,
    plot_stars,
    plot_throughput,
)
from .page import COLOURS, Item, Page, Section, Verdict, try_item, write_figures, write_page
from .products import find_groups
from .proof_figures import plot_field, plot_proof, plot_spectrum

__all__ = [
    "COLOURS",
    "Item",
    "Page",
    "Section",
    "Verdict",
    "build_report",
    "find_groups",
    "plot_bad_pixel_map",
    "plot_dependence",
    "plot_dependences",
    "plot_field",
    "plot_fit",
    "plot_growth",
    "plot_light_curve",
    "plot_proof",
    "plot_self_test",
    "plot_spectrum",
    "plot_stars",
    "plot_summary",
    "plot_throughput",
    "plot_timeline",
    "try_item",
    "write_figures",
    "write_page",
]
