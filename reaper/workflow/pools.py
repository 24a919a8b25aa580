"""What warming needs of the world, as small Protocols: buffer pools, their page lists, canary sessions."""

from array import array
from dataclasses import dataclass
from typing import Protocol

from reaper.domain.canary import Canary
from reaper.domain.facts import Instance
from reaper.domain.pagelist import Room, Tablespace


class PageFiles(Protocol):
    """Where servers keep the page list that they dump and load. Part of what a provider can do."""

    def read(self, instance: Instance) -> bytes | None:
        """The list that the server wrote last; None: there is none, or it cannot be reached from here."""

    def write(self, instance: Instance, pages: bytes) -> None:
        """Put a list there, whole or not at all, readable for the server. UsageError: it cannot be reached."""


@dataclass(frozen=True, kw_only=True)
class Unlisted:
    """A server whose resident pages cannot be had."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast a server reads in the background, pages a second: innodb_io_capacity and its maximum."""

    normal: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How far a load is."""

    read: int  # pages read from disk since it began
    done: bool


class Pool(Protocol):
    """One server's buffer pool."""

    def resident(self) -> "array[int] | Unlisted":
        """The pages in it now, hottest first, as the server itself lists them."""

    def tablespaces(self) -> tuple[Tablespace, ...]:
        """Its data files."""

    def open_files(self) -> None:
        """Open the data files of every table, since a server may list only those that it has opened since its start.

        What does not open in a bounded time stays closed.
        """

    def room(self) -> Room:
        """How much it holds."""

    def begin_load(self, pages: "array[int]") -> Unlisted | None:
        """Let the server read these pages in the background; one that loads already starts again.

        Unlisted: the list cannot be brought there.
        """

    def loading(self) -> Loading:
        """How far that is."""

    def pace(self) -> Pace:
        """How fast it may read in the background now."""

    def set_pace(self, pace: Pace) -> None:
        """Change that, until the server's next start."""


@dataclass(frozen=True, kw_only=True)
class Reads:
    """A server's counters since its start."""

    asked: int  # pages that were asked for
    missed: int  # of them, those that had to be read from disk


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """Canaries that a server suggests."""

    canaries: tuple[Canary, ...]
    why: str = ""  # why there are none, or what was left out


class Canaries(Protocol):
    """A session that runs canaries on one server, each in a read-only transaction with a time limit."""

    def sample(self, most: int) -> Sampled:
        """The queries that this server spends most time reading with, where it remembers them with their literals."""

    def run(self, canary: Canary, turn: int) -> float:
        """Milliseconds that one of its statements took; the limit, if it did not end within it.

        ServerGoneError: no answer; another ServerError: the server rejects the statement.
        """

    def reads(self) -> Reads:
        """The counters of the buffer pool."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """The victim or the heir, as the gate sees it."""

    instance: Instance
    pool: Pool
    canaries: Canaries
