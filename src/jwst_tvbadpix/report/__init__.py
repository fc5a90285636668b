"""Figures and pages, from products alone."""

from importlib import import_module
from typing import Any

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
from .light_curves import plot_pixels
from .page import (
    COLOURS,
    Item,
    Page,
    Section,
    Verdict,
    import_drawing,
    list_figures,
    try_item,
    write_figures,
    write_page,
)
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
    "import_drawing",
    "list_figures",
    "plot_background",
    "plot_bad_pixel_map",
    "plot_base_change",
    "plot_budget",
    "plot_connectivity",
    "plot_dependence",
    "plot_dependences",
    "plot_distortion",
    "plot_factor",
    "plot_factors",
    "plot_field",
    "plot_flat_map",
    "plot_flat_maps",
    "plot_growth",
    "plot_growth_per_year",
    "plot_hold_out",
    "plot_left_out",
    "plot_light_curve",
    "plot_modes",
    "plot_null_space",
    "plot_odds",
    "plot_pixels",
    "plot_proof",
    "plot_ratios",
    "plot_reference_flat",
    "plot_repeatability",
    "plot_residuals",
    "plot_residuals_by_position",
    "plot_residuals_by_star",
    "plot_response",
    "plot_self_test",
    "plot_slopes",
    "plot_spectrum",
    "plot_stability",
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

# Imported when they are asked for: a run of masks has no use for the numerics of flats and fluxes.
_LATE = {
    "flat_figures": (
        "plot_background",
        "plot_connectivity",
        "plot_hold_out",
        "plot_modes",
        "plot_residuals_by_star",
        "plot_stability",
    ),
    "flat_maps": (
        "plot_distortion",
        "plot_flat_map",
        "plot_flat_maps",
        "plot_null_space",
        "plot_reference_flat",
        "plot_residuals_by_position",
    ),
    "flux_errors": (
        "plot_budget",
        "plot_dependence",
        "plot_dependences",
        "plot_left_out",
        "plot_ratios",
        "plot_repeatability",
    ),
    "flux_figures": (
        "plot_factor",
        "plot_factors",
        "plot_residuals",
        "plot_response",
        "plot_slopes",
        "plot_star_factor",
        "plot_star_factors",
        "plot_stars",
        "plot_throughput",
    ),
    "flux_record": ("FluxRecord", "read_flux_record", "tabulate_visits"),
}
_HOMES = {name: module for module, names in _LATE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the figures of flats and fluxes on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
