"""Read a product of ours that has a model of its own, of any layout of this major version."""

from pathlib import Path
from typing import TypeVar

from stdatamodels.jwst.datamodels.reference import ReferenceFileModel

from ..errors import InputError
from ..files import open_asdf

__all__ = ["read_model"]

_Model = TypeVar("_Model", bound=ReferenceFileModel)


def read_model(
    path: str | Path,
    model_type: type[_Model],
    *,
    reftype: str,
    layout: str,
    what: str,
    maker: str,
) -> _Model:
    """Read a product into memory and close its file.

    Parameters
    ----------
    path : str or Path
    model_type : type
        Its model.
    reftype, layout : str
        REFTYPE, and the version of the layout that is written today.
    what, maker : str
        For the messages: what the product is, and the step that makes it.

    Returns
    -------
    ReferenceFileModel
        Of `model_type`.

    Raises
    ------
    InputError
        It cannot be read, is something else, or has another layout.
    """
    try:
        with open_asdf(path) as file, model_type(file, strict_validation=True) as model:
            model.validate()
            read = model.copy()
            kind, found = str(model.meta.reftype), str(model.schema_version)
    except Exception as error:
        raise InputError(
            f"expected {what} in {path}, found {type(error).__name__}: {error}; give what {maker} "
            "wrote"
        ) from error
    if kind != reftype or found.split(".")[0] != layout.split(".")[0]:
        raise InputError(
            f"expected REFTYPE {reftype} and layout {layout} in {path}, found {kind} "
            f"and {found}; make it again with this version"
        )
    return read
