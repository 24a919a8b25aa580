"""Values as a person says them."""

from datetime import timedelta
from functools import lru_cache

_UNITS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000), ("millisecond", 1))


@lru_cache(maxsize=4096)  # a fleet's instances are told against a policy's few limits
def in_words(span: timedelta) -> str:
    """The two largest units that are not zero: `1 day 7 hours`, `20 minutes`, `250 milliseconds`."""
    rest = abs(span) // timedelta(milliseconds=1)
    parts: list[str] = []
    for name, size in _UNITS:
        number, left = divmod(rest, size)
        if number or parts:
            if number:
                parts.append(f"{number} {name}{'' if number == 1 else 's'}")
            rest = left
            if len(parts) == 2 or not number:
                break
    return " ".join(parts) or "no time"


def listed(words: tuple[str, ...], joiner: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} {joiner} {words[-1]}"
