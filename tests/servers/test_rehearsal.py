"""A rehearsal on real servers under load (E21): what it finds, and that nothing of it is left.

The lab has four: the master, two siblings and an heir. Each test leaves them as it found them.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pymysql
import pytest
from labs import Lab, Site, until
from witness import OneOpen, Writers, topology

from reaper.adapters.clock import SystemClock
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.mariadb import MariadbDialect
from reaper.adapters.mysql.rehearse import CHANNEL, accounts, rehearse, transport_offered, unrehearse, words_of
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.mysql.server import SqlServer
from reaper.cli import compose
from reaper.domain.errors import ServerError, ServerGoneError
from reaper.domain.facts import Address, Flavour, Instance
from reaper.domain.rehearsal import Account, Attempt, Rehearsed, Transport, Trial
from reaper.workflow.engine import Login
from reaper.workflow.rehearsing import Theatre, take_back
from reaper.workflow.rehearsing import rehearse as rehearse_all

WITHIN = timedelta(seconds=10)
SHORT = timedelta(seconds=1)
WORDS = words_of(Flavour.MARIADB)
Hook = Callable[[str, "Understudy"], None]


class Understudy(SqlServer):
    """The server's connection with the rehearsal's methods; `hook` sees each statement before it is sent."""

    def __init__(self, instance: Instance, connection: Connection, replication: ReplicationAccount, hook: Hook) -> None:
        super().__init__(instance.id, connection, MariadbDialect(), replication)
        self._plain_ask = connection.ask
        self._hook = hook
        self._ask = self.ask

    def ask(self, sql: str, *arguments: object) -> list[dict[str, Any]]:
        self._hook(sql, self)
        return self._plain_ask(sql, *arguments)

    def rehearse(self, heir: Address, within: timedelta) -> Attempt:
        return rehearse(self._ask, WORDS, heir, self._replication, within)

    def unrehearse(self) -> None:
        unrehearse(self._ask, WORDS)

    def accounts(self, user: str) -> tuple[Account, ...] | None:
        return accounts(self._ask, user)

    def transport_offered(self) -> Transport:
        return transport_offered(self._ask, WORDS)


@dataclass
class Stage:
    """The lab and a load on it."""

    lab: Lab
    writers: Writers
    hook: Hook = lambda _sql, _server: None
    password: str = ""

    def members(self) -> dict[str, Instance]:
        fleet = compose.Site(self.lab.site.home).fleet
        return {m.id.short: m for m in fleet.members(self.lab.name)}

    @property
    def siblings(self) -> list[str]:
        return [i for i in self.lab.instances if i != self.lab.master][:2]

    @property
    def heir(self) -> str:
        return [i for i in self.lab.instances if i != self.lab.master][2]

    def connect(self, instance: Instance) -> Understudy:
        book = self.lab.book()
        login = Login(book["admin"]["user"], book["admin"]["password"])
        replication = ReplicationAccount(Login("replication", self.password or book["replication"]["password"]))
        at = Address("127.0.0.1", self.lab.record(instance.id.short)["port"])  # whatever a sibling is told
        return Understudy(instance, Connection(at, login, tls=None), replication, self.hook)

    def theatre(self, within: timedelta = WITHIN) -> Theatre:
        return Theatre(connect=self.connect, clock=SystemClock(), check=lambda: None, within=within)

    def rehearse(
        self, siblings: list[str], within: timedelta = WITHIN, at: Address | None = None
    ) -> tuple[Rehearsed, ...]:
        members = self.members()
        heir = members[self.heir]
        heir = replace(heir, address=at) if at else heir
        chosen = tuple(members[name] for name in siblings)
        return rehearse_all(self.theatre(within), members[self.lab.master], chosen, heir)

    def channels(self, name: str) -> list[str]:
        return [r["Connection_name"] for r in self.lab.sql(name, "SHOW ALL SLAVES STATUS")]

    def on_heir(self, *statements: str) -> None:
        """Change accounts on the heir alone."""
        self.lab.root_sql(self.heir, "SET SESSION sql_log_bin = 0", *statements)


@pytest.fixture(scope="module")
def load(module_site: Site) -> Iterator[tuple[Lab, Writers]]:
    lab = module_site.make_lab("rehearsal", 4)
    with OneOpen(lab) as one, Writers(lab, pause_s=0.01) as writers:
        yield lab, writers
    one.check()


@pytest.fixture
def stage(load: tuple[Lab, Writers]) -> Iterator[Stage]:
    """The lab, which must be after each test what it was before it: threads, accounts, files, positions, rows."""
    lab, writers = load
    made = Stage(lab, writers)
    before = topology(lab)
    files = {name: _replication_files(lab, name) for name in lab.instances}
    yield made
    writers.more(20)  # commits are acknowledged
    until(lambda: topology(lab) == before, "everybody replicates as before")
    until(lambda: not _feeds(lab, made.heir), "the heir feeds nobody any more")
    for name in lab.instances:
        assert _replication_files(lab, name) == files[name]
        assert CHANNEL not in (lab.data(name) / "multi-master.info").read_text() if name in made.siblings else True
        assert writers.missing(name) == set(), "a write was skipped"
    state = lab.sql(lab.master, "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_no_tx'")[0]
    assert state["Value"] == "0", "a commit was not waited for"


def _feeds(lab: Lab, name: str) -> int:
    dumps = "SELECT COUNT(*) AS n FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'"
    return int(lab.sql(name, dumps)[0]["n"])


def _replication_files(lab: Lab, name: str) -> set[str]:
    """Names of a replica's own files, the numbers of relay logs left out."""
    found = {p.name for p in lab.data(name).iterdir() if p.name.startswith(("relay", "master"))}
    return {"relay.N" if n.startswith("relay.0") else n for n in found}


def test_E21_every_sibling_replicates_from_the_heir_while_clients_write(stage: Stage) -> None:
    """Many times: what breaks semi-sync breaks it only if an event arrives at the wrong moment."""
    for _ in range(5):
        heard = stage.rehearse(stage.siblings)
        assert [(r.instance.short, r.trial) for r in heard] == [(s, Trial.PASSED) for s in stage.siblings], heard
        assert stage.heir in heard[0].why
    assert all(r.ok for r in heard)


def test_E21_nothing_is_applied_and_no_position_changes(stage: Stage) -> None:
    """What the channel fetches is what the main one has received too; the applier of the channel never starts."""
    seen: list[tuple[str, str]] = []

    def look(sql: str, server: Understudy) -> None:
        if sql == WORDS.stop:
            rows = server._plain_ask("SHOW ALL SLAVES STATUS")
            seen.extend((r["Connection_name"], r["Slave_SQL_Running"]) for r in rows)

    stage.hook = look
    assert all(r.ok for r in stage.rehearse(stage.siblings[:1]))
    assert (CHANNEL, "No") in seen
    assert ("", "Yes") in seen


def _wrong_password(stage: Stage) -> None:
    stage.password = "not this one"


BROKEN = [
    pytest.param(None, None, ("its password is another one there",), id="a wrong password"),
    pytest.param(
        "REVOKE REPLICATION SLAVE ON *.* FROM {account}",
        "GRANT REPLICATION SLAVE ON *.* TO {account}",
        ("lacks REPLICATION SLAVE", "Grant it"),
        id="a missing grant",
    ),
    pytest.param(
        "RENAME USER {account} TO 'replication'@'10.9.8.%'",
        "RENAME USER 'replication'@'10.9.8.%' TO {account}",
        ("may not come from 127.0.0.1", "'replication'@'10.9.8.%'"),
        id="a user that may not come from that host",
    ),
    pytest.param(
        "RENAME USER {account} TO 'another'@'127.0.0.1'",
        "RENAME USER 'another'@'127.0.0.1' TO {account}",
        ("there is no account 'replication'",),
        id="no such user",
    ),
    pytest.param(
        "ALTER USER {account} REQUIRE SSL",
        "ALTER USER {account} REQUIRE NONE",
        ("must use TLS there", "channel of"),
        id="an account that must use TLS over a channel that does not",
    ),
]


@pytest.mark.parametrize(("damage", "repair", "words"), BROKEN)
def test_E21_what_would_fail_after_the_kill_is_told_before_it(
    stage: Stage, damage: str | None, repair: str | None, words: tuple[str, ...]
) -> None:
    account = "'replication'@'127.0.0.1'"
    if damage is None or repair is None:
        _wrong_password(stage)
        heard = stage.rehearse(stage.siblings[:1])
    else:
        stage.on_heir(damage.format(account=account))
        try:
            heard = stage.rehearse(stage.siblings[:1])
        finally:
            stage.on_heir(repair.format(account=account))
    _assert_told(stage, heard, words)


def _assert_told(stage: Stage, heard: tuple[Rehearsed, ...], words: tuple[str, ...]) -> None:
    (one,) = heard
    assert one.trial is Trial.FAILED
    assert one.why.startswith(f"{stage.siblings[0]} cannot replicate from {stage.heir} (127.0.0.1:")
    for word in words:
        assert word in one.why, one.why


def test_E21_a_channel_with_tls_and_an_heir_without_it(stage: Stage) -> None:
    """MariaDB would send the password in clear."""
    sibling = stage.siblings[0]
    _set_tls(stage.lab, sibling, 1)
    try:
        until(lambda: _receives(stage.lab, sibling), "the sibling receives")
        heard = stage.rehearse([sibling])
    finally:
        _set_tls(stage.lab, sibling, 0)
        until(lambda: _receives(stage.lab, sibling), "the sibling receives")
    _assert_told(stage, heard, ("asks for TLS", "offers none", "certificate"))


def _set_tls(lab: Lab, name: str, value: int) -> None:
    lab.root_sql(name, "STOP SLAVE", f"CHANGE MASTER TO MASTER_SSL={value}", "START SLAVE")


def _receives(lab: Lab, name: str) -> bool:
    return bool(lab.sql(name, "SHOW ALL SLAVES STATUS")[0]["Slave_IO_Running"] == "Yes")


def test_E21_E14_an_heir_with_the_siblings_server_id(stage: Stage) -> None:
    own = stage.lab.record(stage.heir)["server_id"]
    taken = stage.lab.record(stage.siblings[0])["server_id"]
    stage.lab.root_sql(stage.heir, f"SET GLOBAL server_id = {taken}")
    try:
        heard = stage.rehearse(stage.siblings[:1])
    finally:
        stage.lab.root_sql(stage.heir, f"SET GLOBAL server_id = {own}")
    _assert_told(stage, heard, ("same server id", "ever had"))


def test_E21_an_heir_whose_firewall_refuses(stage: Stage) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        heard = stage.rehearse(stage.siblings[:1], at=Address("127.0.0.1", nobody.getsockname()[1]))
    _assert_told(stage, heard, ("nothing accepts its connection", "firewall"))


def test_E21_an_heir_that_never_answers(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        heard = stage.rehearse(stage.siblings[:1], SHORT, at=Address("127.0.0.1", mute.getsockname()[1]))
    _assert_told(stage, heard, ("no answer came in time", "firewall drops"))


# ---- never harm


def test_I3_it_is_skipped_where_nobody_else_acknowledges(stage: Stage) -> None:
    sibling, *others = [*stage.siblings, stage.heir]
    for name in others:
        stage.lab.sql(name, "STOP SLAVE IO_THREAD")
    try:
        heard = stage.rehearse([sibling], SHORT)
        stage.writers.more(5)
    finally:
        for name in others:
            stage.lab.sql(name, "START SLAVE IO_THREAD")
    assert heard[0].trial is Trial.SKIPPED
    assert "nobody else acknowledges" in heard[0].why
    assert not heard[0].ok


def test_a_receiver_that_somebody_stopped_stays_stopped(stage: Stage) -> None:
    sibling = stage.siblings[0]
    stage.lab.sql(sibling, "STOP SLAVE IO_THREAD")
    try:
        heard = stage.rehearse([sibling])
        take_back(stage.theatre(), (stage.members()[sibling],))
        assert not _receives(stage.lab, sibling)
    finally:
        stage.lab.sql(sibling, "START SLAVE IO_THREAD")
    assert heard[0].trial is Trial.SKIPPED
    assert "its receiver is stopped" in heard[0].why


STATEMENTS = [
    pytest.param(WORDS.stop_main, id="before the receiver is stopped"),
    pytest.param(WORDS.start, id="after the receiver was stopped"),
    pytest.param(WORDS.stop, id="before the channel is stopped"),
    pytest.param(WORDS.start_main, id="before the receiver is started"),
    pytest.param(WORDS.forget, id="before the channel is forgotten"),
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_I8_a_process_that_dies_in_the_middle_is_cleaned_up_after(stage: Stage, statement: str) -> None:
    """From that statement on nothing is sent any more, as if the process had died; another one takes it back."""
    dead = []

    def die(sql: str, _server: Understudy) -> None:
        if dead or sql == statement:
            dead.append(sql)
            raise ServerGoneError("the process is dead")

    sibling = stage.siblings[0]
    stage.hook = die
    member = stage.members()[sibling]
    with contextlib.closing(stage.connect(member)) as server, pytest.raises(ServerGoneError):
        server.rehearse(Address("127.0.0.1", stage.lab.record(stage.heir)["port"]), WITHIN)
    assert CHANNEL in stage.channels(sibling)
    stage.writers.more(5)
    stage.hook = lambda _sql, _server: None
    for _ in range(2):
        take_back(stage.theatre(), (member,))
    assert stage.channels(sibling) == [""]
    until(lambda: _receives(stage.lab, sibling), "the sibling receives again")


def test_a_connection_that_breaks_in_the_middle_is_replaced(stage: Stage) -> None:
    """The sibling is cleaned up over a new connection before anybody else has his turn."""
    broken = []

    def hang_up(sql: str, server: Understudy) -> None:
        if sql == WORDS.start and not broken:
            broken.append(server)
            with contextlib.suppress(pymysql.MySQLError, ServerError):
                server._plain_ask("KILL CONNECTION_ID()")

    stage.hook = hang_up
    heard = stage.rehearse(stage.siblings)
    assert [r.trial for r in heard] == [Trial.FAILED, Trial.PASSED]
    assert "could not rehearse" in heard[0].why
