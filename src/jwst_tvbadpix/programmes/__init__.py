"""Programmes: what their exposures are, which associations they make, and recipes for some."""
