"""Reference files that follow the JWST detectors through time."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("jwst-tvbadpix")
