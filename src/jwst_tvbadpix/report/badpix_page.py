"""The page of a bad-pixel history and its masks."""

from collections.abc import Sequence
from pathlib import Path

from astropy.time import Time

from ..refmodels import read_history
from .figures import plot_growth
from .page import Item, Page, Section, try_item
from .products import pick_products

__all__ = ["make_badpix_page"]


def make_badpix_page(paths: Sequence[Path]) -> Page:
    """Make the page of a run's history and masks."""
    (path,) = pick_products(paths, "BADPIXHISTORY")
    history = read_history(path)
    missing: list[str] = []

    def draw() -> Item:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        plot_growth(history, figure.add_subplot())
        return Item("Growth", "Bad pixels against time.", figure, "growth")

    items = [try_item(missing, "Growth", draw)]
    return Page(
        f"Bad pixels of {history.meta.instrument.detector}",
        (),
        {"history": path.name, "made": Time.now().isot[:10]},
        (Section("Growth", "", tuple(filter(None, items))),),
        tuple(missing),
    )
