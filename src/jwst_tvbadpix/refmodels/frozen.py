"""The calibration block of a search within its history."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from ..badpix import CalibrationBlock
from ..badpix.candidates import Surroundings
from ..badpix.noise import NoiseModel
from ..badpix.odds import Calibration
from ..badpix.usability import Usability
from ..errors import StoreError
from .history import BadPixHistoryModel

__all__ = ["pack_block", "unpack_block"]

# Bits of the plane `flags`; those of the parts of the time follow.
_OUTCAST, _WATCHED, _DOUBTFUL, _PARTS = 1, 2, 128, 4
_PLANES = ("structure", "relative")
_LEVELS = ("offset", "response")


def pack_block(block: CalibrationBlock, unit: str) -> dict[str, Any]:
    """Pack a block for `build_history`.

    Parameters
    ----------
    block : CalibrationBlock
    unit : str
        Unit of the exposures.
    """
    around = block.surroundings
    flags = np.where(around.outcast, _OUTCAST, 0) + np.where(block.watched, _WATCHED, 0)
    flags += np.where(block.doubtful, _DOUBTFUL, 0)
    for k, then in enumerate(around.outcast_then):
        flags += np.where(then, _PARTS << k, 0)
    return {
        "key": block.key,
        "unit": unit,
        "identities": list(block.identities),
        "window": [int(n) for n in block.window],
        "strips": block.strips,
        "part_mjd": block.part_mjd,
        "expected_false": block.expected_false,
        "control_y": block.control_y,
        "control_x": block.control_x,
        "flags": flags.astype(np.uint8),
        **{name: getattr(around, name) for name in _PLANES},
        **dict(zip(_LEVELS, block.levels, strict=True)),
        "noise": _plain(asdict(block.noise)),
        "usability": _plain(asdict(block.usability)),
        "scores": _plain(asdict(block.calibration)),
    }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers as YAML has them, tuples as lists."""
    return {
        name: value.item()
        if isinstance(value, np.generic)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in values.items()
    }


def unpack_block(history: BadPixHistoryModel) -> tuple[CalibrationBlock, str]:
    """Unpack what `pack_block` has packed: the block, and the unit of the exposures.

    Raises
    ------
    StoreError
        The history has no block, or an incomplete one.
    """
    if not history.hasattr("calibration"):
        raise StoreError(
            "expected a history with a calibration block, found none: it was made without a "
            "store; run time_variable_bad_pixel again with --store, or tvbadpix update with "
            "--recalibrate and all its exposures"
        )
    kept = history.calibration.instance
    try:
        flags = kept["flags"]
        n_parts = len(kept["part_mjd"]) + 1
        surroundings = Surroundings(
            (flags & _OUTCAST) != 0,
            np.stack([(flags & (_PARTS << k)) != 0 for k in range(n_parts)]),
            *(kept[name] for name in _PLANES),
        )
        usability = {**kept["usability"], "reason": tuple(kept["usability"]["reason"])}
        own = {f.name: kept[f.name] for f in fields(CalibrationBlock) if f.name in kept}
        y0, y1, x0, x1 = own.pop("window")
        block = CalibrationBlock(
            **{**own, "identities": tuple(own["identities"]), "noise": NoiseModel(**kept["noise"])}
            | {"usability": Usability(**usability)},
            window=(y0, y1, x0, x1),
            calibration=Calibration(**kept["scores"]),
            surroundings=surroundings,
            levels=np.stack([kept[name] for name in _LEVELS]),
            watched=(flags & _WATCHED) != 0,
            doubtful=(flags & _DOUBTFUL) != 0,
        )
        if {flags.shape, block.levels.shape[1:], block.surroundings.structure.shape} != {
            (y1 - y0, x1 - x0)
        }:
            raise ValueError(f"planes of shape {flags.shape}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"expected a complete calibration block in the history, found {error!r}; run "
            "time_variable_bad_pixel again with --store"
        ) from error
    return block, str(kept["unit"])
