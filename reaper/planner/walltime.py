"""From the reading of a clock on a wall to the moment it means, also where clocks are changed.

A reading that comes twice (autumn) means the first time, a reading that never comes (spring) means the
moment at which the clock jumps over it. Both are stated once, here, for windows, freezes and schedules.
"""

from datetime import UTC, datetime, timedelta, tzinfo

_SECOND = timedelta(seconds=1)


def reading(moment: datetime, zone: tzinfo) -> datetime:
    """What a clock on the wall shows at a moment, without its zone."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def moments(wall: datetime, zone: tzinfo) -> tuple[datetime, ...]:
    """Every moment, in UTC, at which the wall's clock shows this: one, two, or none."""
    both = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return tuple(sorted(m for m in both if reading(m, zone) == wall))


def moment_of(wall: datetime, zone: tzinfo) -> datetime:
    """The moment, in UTC, that a reading means: the first at which the clock shows it or has jumped over it."""
    real = moments(wall, zone)
    return real[0] if real else _jump_over(wall, zone)


def last_moment_of(wall: datetime, zone: tzinfo) -> datetime:
    """The same, but the second time for a reading that comes twice: for the end of what has to be respected."""
    real = moments(wall, zone)
    return real[-1] if real else _jump_over(wall, zone)


def _jump_over(wall: datetime, zone: tzinfo) -> datetime:
    """The moment of the jump, to the second. The two offsets around it give two moments that enclose it."""
    low, high = sorted(wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    low, high = low - _SECOND, high + _SECOND
    while high - low > _SECOND:  # halves the distance each time
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle <= low:
            middle = low + _SECOND
        if reading(middle, zone) < wall:
            low = middle
        else:
            high = middle
    return high
