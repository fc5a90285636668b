"""What our own products are, whichever telescope their exposures come from."""

from typing import Any

from stdatamodels.jwst.datamodels import JwstDataModel
from stdatamodels.jwst.datamodels.reference import ReferenceFileModel

__all__ = ["ProductModel"]


class ProductModel(ReferenceFileModel):
    """A reference file that no stock step reads; ``meta.telescope`` is that of its instrument."""

    def __init__(self, init: Any = None, **kwargs: Any) -> None:
        super().__init__(init=init, **kwargs)
        if self.meta.instrument.name == "WFI":
            self.meta.telescope = "ROMAN"  # the base class says JWST, whatever was given

    def validate(self) -> None:
        """Check against the schema; what JWST requires beyond it only of products of JWST."""
        if self.meta.telescope == "JWST":
            super().validate()
        else:
            JwstDataModel.validate(self)
