"""How every simulated model is written."""

import os
from pathlib import Path

from stdatamodels.jwst.datamodels import JwstDataModel

from ..atomic import find_creation_time, replace_whole

__all__ = ["save_model"]


def save_model(model: JwstDataModel, path: Path) -> Path:
    """Write a model whole or not at all, and close it; the path.

    With SOURCE_DATE_EPOCH set, the file and its history have that date.
    """
    made, on_save = find_creation_time(), model.on_save

    def set_date(name: str) -> None:
        on_save(name)
        model.meta.date = made.isoformat(timespec="milliseconds")[:23]

    if "SOURCE_DATE_EPOCH" in os.environ:
        for entry in model._instance.get("history", {}).get("entries", []):
            entry["time"] = made
    object.__setattr__(model, "on_save", set_date)
    with replace_whole(path) as temporary:
        model.save(temporary)
    model.close()
    return path
