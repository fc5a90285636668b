"""Figures and pages, from products alone."""

from .badpix_figures import plot_base_change, plot_growth_per_year, plot_odds, tabulate_growth
from .build import build_report
from .figures import (
    plot_bad_pixel_map,
    plot_growth,
    plot_light_curve,
    plot_self_test,
    plot_summary,
    plot_timeline,
)
from .flux_errors import (
    plot_budget,
    plot_dependence,
    plot_dependences,
    plot_left_out,
    plot_ratios,
    plot_repeatability,
)
from .flux_figures import (
    plot_factor,
    plot_factors,
    plot_residuals,
    plot_response,
    plot_slopes,
    plot_star_factor,
    plot_star_factors,
    plot_stars,
    plot_throughput,
)
from .flux_record import FluxRecord, read_flux_record, tabulate_visits
from .light_curves import plot_pixels
from .page import COLOURS, Item, Page, Section, Verdict, try_item, write_figures, write_page
from .products import find_groups
from .proof_figures import plot_field, plot_proof, plot_spectrum

__all__ = [
    "COLOURS",
    "FluxRecord",
    "Item",
    "Page",
    "Section",
    "Verdict",
    "build_report",
    "find_groups",
    "plot_bad_pixel_map",
    "plot_base_change",
    "plot_budget",
    "plot_dependence",
    "plot_dependences",
    "plot_factor",
    "plot_factors",
    "plot_field",
    "plot_growth",
    "plot_growth_per_year",
    "plot_left_out",
    "plot_light_curve",
    "plot_odds",
    "plot_pixels",
    "plot_proof",
    "plot_ratios",
    "plot_repeatability",
    "plot_residuals",
    "plot_response",
    "plot_self_test",
    "plot_slopes",
    "plot_spectrum",
    "plot_star_factor",
    "plot_star_factors",
    "plot_stars",
    "plot_summary",
    "plot_throughput",
    "plot_timeline",
    "read_flux_record",
    "tabulate_growth",
    "tabulate_visits",
    "try_item",
    "write_figures",
    "write_page",
]
