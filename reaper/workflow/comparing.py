"""What the workflow needs to know whether a replacement holds the same data as its cluster (E16, E29)."""

from collections.abc import Callable
from typing import Protocol

from reaper.domain.comparison import Comparison, Sample
from reaper.domain.facts import Instance


class Comparer(Protocol):
    """Compares the data of two servers at the same GTID position."""

    def compare(
        self,
        cluster: str,
        reference: Instance,
        subject: Instance,
        sample: Sample,
        check: Callable[[], None],
        tell: Callable[[str], None],
    ) -> Comparison:
        """Compare the subject, a replica, with the reference: its master, or another replica of the same master.

        Neither server is locked, and the master never waits. The subject's applier stands still for the
        moment in which the views are opened (on MySQL that of a reference that is a replica, too), and runs
        again when this returns or raises. A process that is killed in that moment leaves it stopped: `release`,
        or this again. It only reads, so it can be called again at any time. `check` is called every so often
        and raises to abort; `tell` gets progress in words.

        Raises:
            RefusedError: there is no common position to be had, and why.
            ServerError: a server failed or went away.
        """

    def release(self, cluster: str, instance: Instance) -> None:
        """Let replication go on that a killed comparison left stopped; nothing on a server where it runs.

        A resumed or undone run calls it for the reference and every subject that stays.
        """
