"""Entry points: names and paths only, so that ``strun`` and ``stpipe list`` stay quick."""

from importlib.resources import files
from typing import Any

__all__ = ["SCHEMA_URI_PREFIX", "get_extensions", "get_resource_mappings", "get_steps"]

SCHEMA_URI_PREFIX = "asdf://jwst-tvbadpix/schemas"


def get_steps() -> list[tuple[str, str, bool]]:
    """List the steps as (class, alias, is a pipeline) for the ``stpipe.steps`` entry point."""
    return [
        ("jwst_tvbadpix.steps.TimeVariableBadPixel", "time_variable_bad_pixel", False),
        ("jwst_tvbadpix.steps.ExternalFlatBuilder", "external_flat_builder", False),
        ("jwst_tvbadpix.steps.AbsFluxRatio", "abs_flux_ratio", False),
        ("jwst_tvbadpix.steps.ApplyTimeVariableMask", "apply_time_variable_mask", False),
        ("jwst_tvbadpix.steps.TvBadPixDetector1Pipeline", "tvbadpix_detector1", True),
    ]


def get_resource_mappings() -> list[Any]:
    """List the schema folders for the ``asdf.resource_mappings`` entry point."""
    from asdf.resource import DirectoryResourceMapping

    folder = files("jwst_tvbadpix") / "reference_schemas"
    return [
        DirectoryResourceMapping(
            folder, SCHEMA_URI_PREFIX, filename_pattern="*.schema.yaml", stem_filename=True
        )
    ]


def get_extensions() -> list[Any]:
    """List what reads our tables, for the ``asdf.extensions`` entry point."""
    from ._tables import TableExtension

    return [TableExtension()]
