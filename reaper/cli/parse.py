"""What people type, as values."""

import re
from datetime import timedelta

import typer

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def span(text: str) -> timedelta:
    """A duration such as 500ms, 2s, 1.5m, 2h or 1d."""
    match = _SPAN.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration: write for example 500ms, 2s, 30m, 2h or 1d")
    try:
        return timedelta(seconds=float(match.group(1)) * _UNITS[match.group(2)])
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is longer than any duration that makes sense") from None
