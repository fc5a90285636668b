"""From the products of a run, as they are on disk, to its page."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from ..errors import InputError
from .page import Page
from .products import KINDS, read_product

__all__ = ["build_report"]

# Of each kind (see `KINDS`) what makes its page from all files of a run, tables included; imported
# when it is wanted, since flats and fluxes bring their numerics along.
_MAKERS: Mapping[str, tuple[str, str]] = {
    "ABSFLUX": (".flux_page", "make_flux_page"),
    "BADPIXHISTORY": (".badpix_page", "make_badpix_page"),
    "STARFLAT": (".flat_page", "make_flat_page"),
}


def build_report(paths: Sequence[Path]) -> Page:
    """Build the page of one run.

    Parameters
    ----------
    paths : sequence of Path
        Its products, tables included, see `find_groups`.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        No page is made of such products.
    """
    kinds = {KINDS[read_product(path).reftype] for path in sorted(paths) if path.suffix == ".asdf"}
    makers = [_MAKERS[kind] for kind in sorted(kinds) if kind in _MAKERS]
    if len(makers) != 1 or len(kinds) != 1:
        names = ", ".join(path.name for path in sorted(paths)[:3])
        raise InputError(
            f"expected the products of one run with a page ({', '.join(_MAKERS)}), found "
            f"{', '.join(sorted(kinds)) or 'none'} ({names}, ...); give one run at a time"
        )
    module, maker = makers[0]
    page: Page = getattr(import_module(module, __package__), maker)(paths)
    return page
