"""Numerics of flat fields: arrays in, frozen results out."""

from .basis import FieldBasis, make_basis
from .gauge import Gauge, RollForecast
from .observations import StarObservations
from .orders import OrderChoice
from .starflat import StarFlat, solve_star_flat
from .weights import NoiseModel

__all__ = [
    "FieldBasis",
    "Gauge",
    "NoiseModel",
    "OrderChoice",
    "RollForecast",
    "StarFlat",
    "StarObservations",
    "make_basis",
    "solve_star_flat",
]
