"""Observations of standard stars, from files or models, made into measurements."""

from .files import FileUsed
from .read import Standards, read_standards

__all__ = ["FileUsed", "Standards", "read_standards"]
