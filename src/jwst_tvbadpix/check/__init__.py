"""Is my spectrum affected? The defects of a history within the extraction of one exposure."""

from .exposure import ExposureCheck, check_exposure
from .products import Plane, Product, read_product

__all__ = ["ExposureCheck", "Plane", "Product", "check_exposure", "read_product"]
