"""Reaper: database servers as disposable components."""

__version__ = "0.1.0"
