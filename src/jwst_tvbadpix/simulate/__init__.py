"""Simulated exposures with bad pixels that come and go, and the truth about them."""

from .cosmic_rays import CosmicRays
from .defects import KINDS, Defects, draw_defects, make_defects, read_truth, write_truth
from .electronics import Electronics, Region, find_region, get_electronics
from .exposures import (
    ExposureSpec,
    Rate,
    compute_true_rate,
    render_ramps,
    render_rate,
    render_rateints,
)
from .flat_programme import (
    FLAT_TRUTH,
    FieldOfView,
    FlatPattern,
    FlatProgramme,
    StarCloud,
    simulate_flat_programme,
    write_flat_truth,
)
from .layers import DarkPedestal, Layer, PixelPattern, RenderContext, Scene
from .layers_imaging import (
    ImagePersistence,
    KnownStars,
    SourceField,
    UndispersedSky,
    build_imaging_scene,
    build_nircam_scene,
    compute_star_profile,
)
from .layers_lrs import (
    CoronagraphWindows,
    FieldStars,
    PersistenceStreak,
    SkyField,
    SlitStrip,
    SourceTrace,
    build_lrs_scene,
)
from .layers_mrs import DriftingPedestal, SlicedChannel, build_mrs_scene
from .layers_nirspec import FixedSlits, ShutterTraces, build_nirspec_scene
from .modes import MODES, Mode, build_scene
from .optics import DISTORTION, Optics, make_distortion, make_optics, write_distortion
from .programme import Programme, draw_specs, simulate_programme
from .references import write_references
from .references_imaging import IMAGING_PHOTMJSR, write_imaging_references
from .references_lrs import BOX_HALF_WIDTH, write_spectral_references
from .setups import (
    Aperture,
    Setup,
    make_imaging_setup,
    make_lrs_setup,
    make_mrs_setup,
    make_nircam_setup,
    make_nirspec_setup,
)
from .standard_stars import (
    STANDARDS,
    Loss,
    Standard,
    StandardStars,
    simulate_lrs_standards,
    simulate_standard_stars,
)
from .star_lrs import PIXEL_SR, StarTrace, Trace, get_trace
from .writers import write_ramp, write_rate, write_rateints

__all__ = [
    "BOX_HALF_WIDTH",
    "DISTORTION",
    "FLAT_TRUTH",
    "IMAGING_PHOTMJSR",
    "KINDS",
    "MODES",
    "PIXEL_SR",
    "STANDARDS",
    "Aperture",
    "CoronagraphWindows",
    "CosmicRays",
    "DarkPedestal",
    "Defects",
    "DriftingPedestal",
    "Electronics",
    "ExposureSpec",
    "FieldOfView",
    "FieldStars",
    "FixedSlits",
    "FlatPattern",
    "FlatProgramme",
    "ImagePersistence",
    "KnownStars",
    "Layer",
    "Loss",
    "Mode",
    "Optics",
    "PersistenceStreak",
    "PixelPattern",
    "Programme",
    "Rate",
    "Region",
    "RenderContext",
    "Scene",
    "Setup",
    "ShutterTraces",
    "SkyField",
    "SlicedChannel",
    "SlitStrip",
    "SourceField",
    "SourceTrace",
    "Standard",
    "StandardStars",
    "StarCloud",
    "StarTrace",
    "Trace",
    "UndispersedSky",
    "build_imaging_scene",
    "build_lrs_scene",
    "build_mrs_scene",
    "build_nircam_scene",
    "build_nirspec_scene",
    "build_scene",
    "compute_star_profile",
    "compute_true_rate",
    "draw_defects",
    "draw_specs",
    "find_region",
    "get_electronics",
    "get_trace",
    "make_defects",
    "make_distortion",
    "make_imaging_setup",
    "make_lrs_setup",
    "make_mrs_setup",
    "make_nircam_setup",
    "make_nirspec_setup",
    "make_optics",
    "read_truth",
    "render_ramps",
    "render_rate",
    "render_rateints",
    "simulate_flat_programme",
    "simulate_lrs_standards",
    "simulate_programme",
    "simulate_standard_stars",
    "write_distortion",
    "write_flat_truth",
    "write_imaging_references",
    "write_ramp",
    "write_rate",
    "write_rateints",
    "write_references",
    "write_spectral_references",
    "write_truth",
]
