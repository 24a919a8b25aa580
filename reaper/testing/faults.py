"""Faults on order: a call fails, its answer is lost, or something happens just before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from reaper.domain.errors import ReaperError, ServerError


class When(StrEnum):
    """Where in the call a fault strikes."""

    BEFORE = "before"  # nothing was done
    AFTER = "after"  # it was done, and the answer was lost (E26)


@dataclass(kw_only=True)
class Fault:
    """One order."""

    method: str
    who: str
    times: int
    when: When
    strike: Callable[[], None]

    def lift(self) -> None:
        """It strikes no more."""
        self.times = 0


class Faults:
    """Which calls of the doubles fail. `who` is an instance's short name, a cluster, a snapshot, or `*`."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self.calls: list[tuple[str, str]] = []  # every call so far, in order
        self.power: Callable[[], None] | None = None  # asked on both sides of every call; raises when it is cut

    def fail(
        self,
        method: str,
        who: str = "*",
        times: int = 1,
        error: ReaperError | None = None,
        when: When = When.BEFORE,
    ) -> Fault:
        """Let the next `times` calls of a method fail."""
        raised = error or ServerError(f"{method} fails, as the test ordered")

        def strike() -> None:
            raise raised

        fault = Fault(method=method, who=who, times=times, when=when, strike=strike)
        self._faults.append(fault)
        return fault

    def before(self, method: str, who: str, action: Callable[[], None], times: int = 1) -> None:
        """Let something happen right before the next `times` calls of a method."""
        self._faults.append(Fault(method=method, who=who, times=times, when=When.BEFORE, strike=action))

    @contextmanager
    def around(self, method: str, who: str) -> Iterator[None]:
        """The body of a double's method."""
        self.calls.append((method, who))
        self._strike(method, who, When.BEFORE)
        yield
        self._strike(method, who, When.AFTER)

    def cut(self) -> None:
        """A moment at which the power may be cut."""
        if self.power is not None:
            self.power()

    def _strike(self, method: str, who: str, when: When) -> None:
        self.cut()
        for fault in self._faults:
            if fault.method == method and fault.who in ("*", who) and fault.when is when and fault.times:
                fault.times -= 1
                fault.strike()
