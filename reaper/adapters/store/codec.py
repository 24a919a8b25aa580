"""Domain values as JSON and back: durations in ISO 8601, enumerations as their values."""

from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


@cache
def _codec(of: Any) -> TypeAdapter[Any]:  # Any: pydantic takes more than classes, e.g. `int | None`
    return TypeAdapter(of)


def encode(of: Any, value: object) -> str:
    """A value of the type `of` as JSON."""
    return _codec(of).dump_json(value).decode()


def decode(of: type[T], text: str) -> T:
    """A value of the type `of` from JSON. ValidationError: it is none, as this version of reaper sees it."""
    kind: Any = of  # every type is hashable, which mypy does not see in a type variable
    value: T = _codec(kind).validate_json(text)
    return value
