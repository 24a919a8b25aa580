"""Two consistent read views at exactly the same GTID position, locking neither server.

A view is a transaction that began WITH CONSISTENT SNAPSHOT. The subject's applier stops, the reference's
view is opened at or after the place where it stopped, the applier goes on up to exactly that position, the
subject's view is opened, and the applier goes on for good. One class per flavour, since what a view's
position is, and how an applier is told where to stop, differ.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from reaper.adapters.mysql.checksum import Table
from reaper.adapters.mysql.connection import WAIT_SLICE_S, Ask, Row
from reaper.adapters.mysql.dialect import quoted
from reaper.adapters.mysql.tablelist import read_tables
from reaper.domain.errors import RefusedError, ServerError, StatementTimeoutError
from reaper.domain.facts import Address
from reaper.domain.gtid import MariadbGtidSet, MysqlGtidSet

_LOOK_EVERY_S = 0.002
_QUIET_TRIES = 100
_QUIET_FOR_S = 0.02
_SNAPSHOT = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two servers: a session that holds the view, and one that steers replication."""

    name: str  # for messages
    address: Address
    view: Ask
    steer: Ask


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Where both views stand, and the subject's tables there."""

    position: str
    tables: dict[str, Table]


class Patience:
    """How long the alignment may take; raises StatementTimeoutError when it is over, and what `check` raises."""

    def __init__(self, within: timedelta, check: Callable[[], None]) -> None:
        self._deadline = time.monotonic() + within.total_seconds()
        self._check = check

    def keep(self, waiting_for: str) -> float:
        """Seconds left, more than none."""
        self._check()
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise StatementTimeoutError(f"{waiting_for} took too long: nothing was compared; try again")
        return left


class Views(Protocol):
    """One flavour's way to open both views."""

    bound: str  # the statement that bounds every later one of a session, with a place for milliseconds
    session: tuple[str, ...]  # what else a session of this flavour needs

    def align(self, reference: Side, subject: Side, patience: Patience) -> Aligned:
        """Open both views; the appliers run again when it returns or raises, unless a session was lost."""

    def release(self, ask: Ask) -> None:
        """Let a replica go on for good that was stopped, or told where to stop; nothing for any other server."""


class MariadbViews:
    """MariaDB 10.6 and later: the server says at which binary log position a snapshot stands.

    Measured on 10.11: right on a master under load, and on replicas with idle, serial and parallel applier.
    """

    bound = "SET SESSION max_statement_time = {ms} / 1000"
    session: tuple[str, ...] = (
        "SET SESSION idle_transaction_timeout = 0",
        "SET SESSION idle_readonly_transaction_timeout = 0",
    )

    def align(self, reference: Side, subject: Side, patience: Patience) -> Aligned:
        """The subject's receiver runs on if it follows the reference itself, where a file position is enough.

        To stop at a GTID both threads must start together (error 1254 otherwise), which throws relay logs
        away. So what was received is applied before: nothing that was acknowledged is only in there.
        """
        status = _one_channel(subject, subject.steer("SHOW ALL SLAVES STATUS"), "Last_SQL_Error")
        direct = Address(str(status["Master_Host"]), int(status["Master_Port"])) == reference.address
        try:
            if not direct:
                self._drain(subject, patience)
            subject.steer("STOP SLAVE SQL_THREAD")
            stands = self._applied(subject)
            if not direct:
                self._wait_for(reference.view, reference.name, stands, patience)
            position, file, offset = self._open(reference)
            if position != stands:
                until = f"SQL_THREAD UNTIL MASTER_LOG_FILE = {quoted(file)}, MASTER_LOG_POS = {offset}"
                subject.steer(f"START SLAVE {until if direct else f'UNTIL master_gtid_pos = {quoted(str(position))}'}")
                self._wait_at(subject, position, patience)
                subject.steer("STOP SLAVE SQL_THREAD")
            if (stands := self._applied(subject)) != position:
                raise RefusedError(
                    f"{subject.name} stands at {stands or 'no position'} and cannot stand at {position or 'none'},"
                    f" where {reference.name} is: nothing was compared; look for errant transactions"
                )
            subject.view(_SNAPSHOT)
            return Aligned(position=str(position), tables=read_tables(subject.steer))
        finally:
            self.release(subject.steer)

    def release(self, ask: Ask) -> None:
        """An applier that still runs to its last position would stop there: START SLAVE alone changes nothing."""
        for row in ask("SHOW ALL SLAVES STATUS"):
            if row["Until_Condition"] != "None":
                ask("STOP SLAVE" if row["Until_Condition"] == "Gtid" else "STOP SLAVE SQL_THREAD")
            ask("START SLAVE")

    def _open(self, reference: Side) -> tuple[MariadbGtidSet, str, int]:
        reference.view(_SNAPSHOT)
        said = {
            str(r["Variable_name"]).lower(): r["Value"] for r in reference.view("SHOW STATUS LIKE 'binlog_snapsh%'")
        }
        file, offset = str(said.get("binlog_snapshot_file", "")), int(said.get("binlog_snapshot_position") or 0)
        if not file:
            raise RefusedError(f"{reference.name} has no binary log, so a view's position is unknown: set log_bin")
        found = reference.view(f"SELECT BINLOG_GTID_POS({quoted(file)}, {offset}) AS position")[0]["position"]
        if found is None:
            raise RefusedError(f"{reference.name} cannot say which GTID stands at {file}:{offset}")
        return MariadbGtidSet.parse(str(found)), file, offset

    def _drain(self, subject: Side, patience: Patience) -> None:
        subject.steer("STOP SLAVE IO_THREAD")
        row = _one_channel(subject, subject.steer("SHOW ALL SLAVES STATUS"), "Last_SQL_Error")
        if row["Slave_SQL_Running"] == "Yes":  # otherwise nothing moves, and what was received is fetched again
            received = MariadbGtidSet.parse(str(row["Gtid_IO_Pos"] or ""))
            self._wait_for(subject.steer, subject.name, received, patience)

    def _wait_for(self, ask: Ask, name: str, target: MariadbGtidSet, patience: Patience) -> None:
        while target:
            slice_s = min(patience.keep(f"waiting for {name} to apply {target}"), WAIT_SLICE_S)
            if ask(f"SELECT MASTER_GTID_WAIT('{target.position()}', {slice_s:.3f}) AS waited")[0]["waited"] == 0:
                break

    def _wait_at(self, subject: Side, position: MariadbGtidSet, patience: Patience) -> None:
        """Until it is there, or has stopped elsewhere. An idle applier stops at its position with the next event."""
        while self._applied(subject) != position:
            patience.keep(f"waiting for {subject.name} to apply {position}")
            row = _one_channel(subject, subject.steer("SHOW ALL SLAVES STATUS"), "Last_SQL_Error")
            if row["Slave_SQL_Running"] == "No":
                break
            time.sleep(_LOOK_EVERY_S)

    def _applied(self, side: Side) -> MariadbGtidSet:
        return MariadbGtidSet.parse(str(side.steer("SELECT @@global.gtid_slave_pos AS position")[0]["position"]))


class MysqlViews:
    """MySQL 8.0.23 and later, by its manual; no such server was ever met by this module.

    A snapshot does not know its position. A reference that is a replica stands still for the moment, too;
    a reference that is the master must have a quiet moment, in which nothing is in the middle of a commit.
    """

    bound = "SET SESSION max_execution_time = {ms}"
    session: tuple[str, ...] = ()

    def align(self, reference: Side, subject: Side, patience: Patience) -> Aligned:
        """Receivers run on: only appliers stop."""
        status = _one_channel(subject, subject.steer("SHOW REPLICA STATUS"), "Last_SQL_Error")
        direct = Address(str(status["Source_Host"]), int(status["Source_Port"])) == reference.address
        halted = [subject] if direct else [subject, reference]
        if not direct:
            found = _one_channel(reference, reference.steer("SHOW REPLICA STATUS"), "Last_SQL_Error")
            if found["Replica_SQL_Running"] != "Yes":
                raise RefusedError(f"the applier of {reference.name} does not run: compare with another server")
        try:
            for side in halted:
                side.steer("STOP REPLICA SQL_THREAD")
            if direct:
                position = self._open_quietly(reference, patience)
            else:
                position = self._executed(reference) | self._executed(subject)
            for side in halted:
                self._bring(side, position, patience)
            if not direct:
                reference.view(_SNAPSHOT)
            subject.view(_SNAPSHOT)
            return Aligned(position=str(position), tables=read_tables(subject.steer))
        finally:
            with contextlib.ExitStack() as stack:  # each is tried, whatever happens to the other
                for side in halted:
                    stack.callback(self.release, side.steer)

    def release(self, ask: Ask) -> None:
        """As on MariaDB; the receiver never stopped."""
        for row in ask("SHOW REPLICA STATUS"):
            if row["Until_Condition"] != "None":
                ask("STOP REPLICA SQL_THREAD")
            ask("START REPLICA")

    def _open_quietly(self, master: Side, patience: Patience) -> MysqlGtidSet:
        """A view while nothing was written to the binary log and no commit was between log and engine."""
        for _ in range(_QUIET_TRIES):
            patience.keep(f"waiting for a quiet moment of {master.name}")
            before = self._log_end(master), self._executed(master)
            master.view(_SNAPSHOT)
            after = self._log_end(master), self._executed(master)
            time.sleep(_QUIET_FOR_S)  # a commit that was visible and not yet in gtid_executed is in there by now
            if before == after and after[1] == self._executed(master):
                return before[1]
            master.view("ROLLBACK")
        raise RefusedError(
            f"{master.name} is the master and was not quiet for {_QUIET_FOR_S * 1000:.0f} ms in {_QUIET_TRIES} tries,"
            " so no view of a known position can be had of it: compare with a replica instead"
        )

    def _log_end(self, side: Side) -> tuple[str, int]:
        try:
            row = side.steer("SHOW BINARY LOG STATUS")[0]  # 8.2 and later
        except ServerError as error:
            if type(error) is not ServerError:  # gone, denied: another name does not help
                raise
            row = side.steer("SHOW MASTER STATUS")[0]
        return str(row["File"]), int(row["Position"])

    def _bring(self, side: Side, position: MysqlGtidSet, patience: Patience) -> None:
        if not self._executed(side).covers(position):
            side.steer(f"START REPLICA SQL_THREAD UNTIL SQL_AFTER_GTIDS = {quoted(str(position))}")
            while not self._executed(side).covers(position):
                patience.keep(f"waiting for {side.name} to apply {position}")
                time.sleep(_LOOK_EVERY_S)
            side.steer("STOP REPLICA SQL_THREAD")
        if (stands := self._executed(side)) != position:
            raise RefusedError(f"{side.name} stands at {stands} and cannot stand at {position}: nothing was compared")

    def _executed(self, side: Side) -> MysqlGtidSet:
        return MysqlGtidSet.parse(str(side.steer("SELECT @@global.gtid_executed AS executed")[0]["executed"]))


def views_of(ask: Ask) -> Views:
    """The way of the flavour that answers."""
    version = str(ask("SELECT VERSION() AS version")[0]["version"])
    return MariadbViews() if "mariadb" in version.lower() else MysqlViews()


def _one_channel(side: Side, rows: list[Row], error: str) -> Row:
    if len(rows) != 1:
        raise RefusedError(f"{side.name} has {len(rows)} replication channels: data are compared where there is one")
    if rows[0][error]:
        raise RefusedError(f"the applier of {side.name} has failed: {rows[0][error]}; repair or replace it first")
    return rows[0]


@contextlib.contextmanager
def fleeting(ask: Ask) -> Iterator[Ask]:
    """Give up the metadata locks that the statements inside took, and keep the view.

    A view that has read a table blocks its ALTER until the transaction ends, and the ALTER blocks everybody
    who comes after it; going back to a savepoint releases them (as mysqldump --single-transaction does).
    """
    ask("SAVEPOINT reaper")
    try:
        yield ask
    finally:
        ask("ROLLBACK TO SAVEPOINT reaper")
