"""Buffer pools and canaries of a simulated world: deterministic, on its clock, without threads."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from reaper.domain.canary import Canary
from reaper.domain.errors import ServerError
from reaper.domain.facts import Instance
from reaper.domain.pagelist import Room, Tablespace
from reaper.testing.clock import FakeClock
from reaper.workflow.pools import Loading, Pace, Reads, Sampled, Side, Unlisted


@dataclass(kw_only=True)
class FakePool:
    """A pool that reads at its pace, throttled as a replica's is, and may forget pages while it does."""

    clock: FakeClock
    spaces: tuple[Tablespace, ...] = ()
    pages: list[int] = field(default_factory=list)  # resident, hottest first
    size: int = 1_000_000
    rate: Pace = field(default_factory=lambda: Pace(normal=200, most=2000))
    unlisted: str = ""  # why its list cannot be had
    unwritable: str = ""  # why none can be brought there
    forgets: Callable[[int], int] = lambda _load: 0  # so many of what its nth load brings are gone when that ends
    loads: int = 0
    opened: bool = True  # False: it has opened no file since its start, and lists none
    _wanted: "list[int]" = field(default_factory=list)
    _began_ns: int = 0
    _pace_then: int = 0

    def resident(self) -> "array[int] | Unlisted":
        """Part of `workflow.pools.Pool`, as everything here."""
        self._arrive()
        return Unlisted(why=self.unlisted) if self.unlisted else array("Q", self.pages)

    def tablespaces(self) -> tuple[Tablespace, ...]:
        """Its data files."""
        return self.spaces if self.opened else ()

    def open_files(self) -> None:
        """Open them."""
        self.opened = True

    def room(self) -> Room:
        """How much it holds."""
        return Room(pages=self.size)

    def begin_load(self, pages: "array[int]") -> Unlisted | None:
        """Those that are not resident arrive one after the other."""
        if self.unwritable:
            return Unlisted(why=self.unwritable)
        self.loads += 1
        there = set(self.pages)
        self._wanted = [page for page in pages[: self.size] if page not in there]
        self._began_ns, self._pace_then = self.clock.monotonic_ns(), self.rate.normal
        return None

    def loading(self) -> Loading:
        """How far that is."""
        missing = len(self._wanted)
        read = self._read()
        self._arrive()
        return Loading(read=read, done=read >= missing)

    def _read(self) -> int:
        spent_s = (self.clock.monotonic_ns() - self._began_ns) / 1e9
        return min(len(self._wanted), int(spent_s * self._pace_then))

    def _arrive(self) -> None:
        if self._wanted and self._read() >= len(self._wanted):
            self.pages = self._wanted[: len(self._wanted) - self.forgets(self.loads)] + self.pages
            self._wanted = []

    def pace(self) -> Pace:
        """How fast it may read."""
        return self.rate

    def set_pace(self, pace: Pace) -> None:
        """Change that."""
        self.rate = pace


Takes = Callable[[Canary, int], "float | ServerError"]  # milliseconds, or what is raised


@dataclass(kw_only=True)
class FakeCanaries:
    """A session whose answers take what they are told to take."""

    clock: FakeClock
    takes: Takes = lambda _canary, _turn: 1.0
    suggests: Sampled = field(default_factory=lambda: Sampled(canaries=()))
    runs: list[str] = field(default_factory=list)  # every statement that was run
    asked: int = 0
    missed: int = 0
    misses: int = 0  # of the ten pages that each run asks for

    def sample(self, most: int) -> Sampled:
        """Part of `workflow.pools.Canaries`, as everything here."""
        return Sampled(canaries=self.suggests.canaries[:most], why=self.suggests.why)

    def run(self, canary: Canary, turn: int) -> float:
        """Take the time that it takes."""
        self.runs.append(canary.statements[turn % len(canary.statements)])
        took = self.takes(canary, turn)
        if isinstance(took, ServerError):
            raise took
        self.asked += 10
        self.missed += self.misses
        self.clock.sleep(timedelta(milliseconds=took))
        return took

    def reads(self) -> Reads:
        """The counters."""
        return Reads(asked=self.asked, missed=self.missed)


def warm_side(clock: FakeClock, instance: Instance) -> Side:
    """A server whose pool holds nothing and that suggests no canary: every gate of such a pair is passed."""
    return Side(instance=instance, pool=FakePool(clock=clock), canaries=FakeCanaries(clock=clock))
