"""The system's clocks."""

import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """Wall time for calendars, CLOCK_MONOTONIC for budgets."""

    def now(self) -> datetime:
        """The wall time, aware, UTC."""
        return datetime.now(UTC)

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds."""
        return time.monotonic_ns()

    def sleep(self, span: timedelta) -> None:
        """Wait."""
        time.sleep(max(0.0, span.total_seconds()))
