"""The logs of simulated servers that are dead."""

from collections.abc import Callable
from datetime import timedelta

from reaper.domain.errors import TryAgainError
from reaper.domain.facts import Instance, InstanceId
from reaper.domain.gtid import GtidSet
from reaper.domain.ledger import WriteKey
from reaper.domain.tail import MOST_LISTED, Tail, TailTransaction
from reaper.testing.faults import Faults
from reaper.testing.machine import Machine
from reaper.testing.parts import Transaction, Verb

_TRANSACTION_BYTES = 200


class FakeDeadLogs:
    """The workflow's `DeadLogs` over a simulated fleet's servers; `known` finds one, dead or alive."""

    def __init__(self, known: Callable[[InstanceId], Machine], faults: Faults) -> None:
        self._known = known
        self._faults = faults
        self.unreadable: str | None = None  # of every server, as a test says

    def read(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """Every transaction in its log that `held` lacks. TryAgainError: it lives."""
        del within
        with self._faults.around("read_tail", victim.id.short):
            machine = self._known(victim.id)
            if machine.runs:
                raise TryAgainError(f"{victim.id} is not dead: its logs are not read")
            found = [
                TailTransaction(
                    gtid=str(t.gtid),
                    tables=(t.table,),
                    kinds=(t.verb.value,),
                    probe_rows=_rows(t, probe_tables),
                    size_bytes=_TRANSACTION_BYTES,
                )
                for t in machine.log
                if not held.covers(type(machine.executed)((t.gtid,)))
            ]
        return Tail(
            transactions=tuple(found[:MOST_LISTED]),
            count=len(found),
            size_bytes=len(found) * _TRANSACTION_BYTES,
            unreadable=self.unreadable,
        )


def _rows(transaction: Transaction, probe_tables: frozenset[str]) -> tuple[WriteKey, ...]:
    if transaction.table not in probe_tables or transaction.verb is not Verb.INSERT:
        return ()
    client, seq = transaction.row
    return ((int(str(client)), int(str(seq))),)
