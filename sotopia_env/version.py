"""The version of this package; recorded in every episode."""

__version__ = "0.1.0"
