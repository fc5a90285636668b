"""Observations of standard stars, from files or models, made into measurements."""

from .files import FileUsed, list_items
from .read import Standards, read_standards

__all__ = ["FileUsed", "Standards", "list_items", "read_standards"]
