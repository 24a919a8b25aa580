"""After the kill: what the dead master holds that nobody else does (E03, I6)."""

from datetime import timedelta
from typing import Protocol

from reaper.domain.errors import OwnershipLostError, ReaperError
from reaper.domain.facts import Instance
from reaper.domain.gtid import GtidSet
from reaper.domain.ledger import Ledger
from reaper.domain.tail import Forensics, Tail, classify


class DeadLogs(Protocol):
    """The binary logs of an instance that is dead, read without starting it. Providers implement it."""

    def read(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """Every transaction in its logs that `held` lacks; changes nothing of the victim, may be called again.

        `probe_tables`: `schema.table`, whose rows are wanted. What cannot be read is said in the tail, not raised.
        """


def dissect(
    logs: DeadLogs,
    victim: Instance,
    executed: GtidSet,
    ledger: Ledger | None,
    *,
    probe_tables: frozenset[str],
    lossless: bool,
    within: timedelta,
) -> Forensics:
    """Read the victim's tail and judge it against the new master, which has executed `executed`.

    `executed` is read after the promotion; `lossless` and `ledger`: see `classify`. A provider that fails makes
    the tail unknown, and does not stop a run that only goes forward.
    """
    try:
        tail = logs.read(victim, executed, probe_tables=probe_tables, within=within)
    except OwnershipLostError:
        raise
    except ReaperError as error:
        tail = Tail(unreadable=str(error))
    return classify(tail, executed, ledger, lossless=lossless)
