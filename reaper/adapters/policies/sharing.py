"""One object for all parts of policies that are equal: a thousand policies differ in a name, a target and an hour."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

_T = TypeVar("_T")


class Sharing:
    """What it was given before. Facts are frozen, so nobody can tell an equal one from another."""

    def __init__(self) -> None:
        self._known: dict[tuple[type, Any], Any] = {}  # Any: facts of every kind

    def shared(self, fact: _T) -> _T:
        """An equal fact, of parts that others have as well."""
        if not is_dataclass(fact) and not isinstance(fact, tuple):
            return fact
        known: _T | None = self._known.get((type(fact), fact))
        if known is None:
            known = self._of_shared_parts(fact)
            self._known[type(fact), known] = known
        return known

    def _of_shared_parts(self, fact: Any) -> Any:
        if isinstance(fact, tuple):
            return tuple(self.shared(part) for part in fact)
        return replace(fact, **{field.name: self.shared(getattr(fact, field.name)) for field in fields(fact)})
