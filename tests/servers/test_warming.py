"""E25 on real servers: page lists, the gate and canaries of MariaDB."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from labs import Lab, Row, until

from reaper.adapters.clock import SystemClock
from reaper.adapters.local.pagefiles import LocalPageFiles
from reaper.adapters.mysql.canaries import LIMIT, SqlCanaries
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.engines import find_engine
from reaper.adapters.mysql.pages import SqlPool
from reaper.cli.compose import Site
from reaper.domain.canary import Canary
from reaper.domain.errors import ServerError, UsageError
from reaper.domain.facts import Address, Berth, Flavour, Instance
from reaper.domain.pagelist import Resident, ship
from reaper.domain.snapshots import Keeping
from reaper.domain.warmth import Baseline, Warmth, WarmthGate
from reaper.workflow.engine import Login, Logins, Seat
from reaper.workflow.pools import Side, Unlisted
from reaper.workflow.recovery import follow
from reaper.workflow.warming import Surroundings, baseline, choose_canaries, must_pass, warm_up

CANARIES = ("SELECT COUNT(*) FROM app.hot WHERE id BETWEEN 100 AND 900", "SELECT payload FROM app.hot WHERE id = 777")
FILL = "INSERT INTO app.{} (payload) SELECT REPEAT(CHAR(65 + seq % 26), 1000) FROM seq_1_to_{}"


class OutOfReach:
    """A provider that cannot reach its servers' files."""

    def read(self, _instance: Instance) -> bytes | None:
        return None

    def write(self, _instance: Instance, _pages: bytes) -> None:
        raise UsageError("out of reach")


@dataclass
class Pair:
    """A master with data in its pool, and a copy that replicates from it and from which nobody has read."""

    lab: Lab
    site: Site
    master: Instance
    heir: Instance

    @contextlib.contextmanager
    def side(self, instance: Instance) -> Iterator[Side]:
        login = self.site.registry(self.lab.name).read().admin.login()
        files = LocalPageFiles(self.site.registry(self.lab.name).home.parent)
        with contextlib.ExitStack() as stack:
            pages, reads = (
                stack.enter_context(contextlib.closing(Connection(instance.address, login, tls=None))) for _ in range(2)
            )
            yield Side(
                instance=instance,
                pool=SqlPool(pages.ask, Flavour.MARIADB, instance, files),
                canaries=SqlCanaries(reads.ask, Flavour.MARIADB),
            )

    def warm(self, gate: WarmthGate) -> Warmth:
        around = Surroundings(clock=SystemClock(), check=lambda: None, tell=lambda _words: None)
        with self.side(self.master) as victim, self.side(self.heir) as heir:
            return warm_up(gate, victim, heir, around, heir.pool.pace())

    def on(self, instance: Instance, statement: str) -> list[Row]:
        return self.lab.sql(instance.id.short, statement)

    def caught_up(self) -> None:
        position = self.on(self.master, "SELECT @@global.gtid_binlog_pos AS pos")[0]["pos"]
        assert self.on(self.heir, f"SELECT MASTER_GTID_WAIT('{position}', 30) AS w")[0]["w"] == 0


@pytest.fixture(scope="module")
def pair(lab: Lab) -> Pair:
    """The master reads all of `hot` and a part of `cold`; the copy is made of the replica n2."""
    for name, rows in (("hot", 4000), ("cold", 8000)):
        lab.endpoint_sql(
            "USE app",
            f"CREATE TABLE app.{name} (id INT AUTO_INCREMENT PRIMARY KEY, payload VARCHAR(1000) NOT NULL)",
            FILL.format(name, rows),
        )
    site = Site(lab.site.home)
    members = {m.id.short: m for m in site.fleet.members(lab.name)}
    master, source = members[lab.master], next(m for n, m in members.items() if n != lab.master)
    with contextlib.closing(site.connect(lab.name, source)) as server:
        history = server.executed()
    snapshot = site.fleet.snapshot(source, "warmth-snap", lambda: None)
    heir = site.fleet.launch(lab.name, snapshot, "warmth-heir", Keeping.MOVE, Berth(), lambda: None)
    with contextlib.closing(site.connect(lab.name, heir)) as server:
        server.join(master.address, position=snapshot.position, history=history)
    found = Pair(lab, site, master, heir)
    found.caught_up()
    return found


def test_a_cold_copy_gets_the_masters_hot_pages_and_passes_while_it_replicates(pair: Pair) -> None:
    before = {i.id: pair.on(i, "SELECT @@global.innodb_io_capacity AS c, @@global.innodb_buffer_pool_dump_pct AS p")
              for i in (pair.master, pair.heir)}  # fmt: skip
    gate = WarmthGate(canaries=CANARIES, within=timedelta(minutes=2), factor=10.0)  # a busy machine is not judged here
    with pair.side(pair.heir) as heir, pair.side(pair.master) as victim:
        hot = victim.pool.resident()
        assert not isinstance(hot, Unlisted)
        spaces = victim.pool.tablespaces()
        cold = heir.pool.resident()
        assert not isinstance(cold, Unlisted)
        shipped = ship(hot, spaces, spaces, victim.pool.room(), 1)
        assert shipped.hot > 700  # of 12 MB in pages of 16 KiB
        assert Resident(cold).count(shipped.pages) < shipped.hot / 2
    found = pair.warm(gate)
    must_pass(gate, found)
    assert found.resident is not None
    assert found.resident >= gate.gate
    assert [(c.victim.runs, c.heir.runs) for c in found.canaries] == [(20, 20)] * 2
    assert found.hit_ratio is not None
    assert found.hit_ratio > 0.9
    for instance in (pair.master, pair.heir):
        now = pair.on(instance, "SELECT @@global.innodb_io_capacity AS c, @@global.innodb_buffer_pool_dump_pct AS p")
        assert now == before[instance.id]
    pair.lab.endpoint_sql("INSERT INTO app.hot (payload) VALUES ('after the gate')")
    pair.caught_up()
    assert pair.on(pair.heir, "SELECT COUNT(*) AS n FROM app.hot WHERE payload = 'after the gate'") == [{"n": 1}]


def test_a_table_that_was_rebuilt_after_the_copy_is_found_by_its_name(pair: Pair) -> None:
    pair.on(pair.heir, "SET STATEMENT sql_log_bin = 0 FOR CREATE TABLE reaper.only_here (a INT)")  # takes a number
    pair.lab.endpoint_sql("ALTER TABLE app.hot FORCE")
    pair.caught_up()
    with pair.side(pair.master) as victim, pair.side(pair.heir) as heir:
        heir.pool.open_files()
        here, there = (
            {space.name: space.id for space in side.pool.tablespaces()}["app/hot"] for side in (victim, heir)
        )
    assert here != there
    assert pair.warm(WarmthGate(within=timedelta(minutes=2))).passed


def test_a_dump_right_after_another_one_is_waited_for(pair: Pair) -> None:
    with pair.side(pair.master) as victim:
        for number in range(3):
            table = f"late_{number}"
            pair.lab.endpoint_sql(
                "USE app",
                f"CREATE TABLE app.{table} (id INT AUTO_INCREMENT PRIMARY KEY, payload VARCHAR(1000) NOT NULL)",
                FILL.format(table, 200),
            )
            listed = victim.pool.resident()
            assert not isinstance(listed, Unlisted)
            (space,) = (s.id for s in victim.pool.tablespaces() if s.name == f"app/{table}")
            assert sum(page >> 32 == space for page in listed) >= 10


def test_without_its_file_the_list_is_asked_for_in_a_statement_and_cannot_be_brought(pair: Pair) -> None:
    login = pair.site.registry(pair.lab.name).read().admin.login()
    with (
        pair.side(pair.master) as victim,
        contextlib.closing(Connection(pair.master.address, login, tls=None)) as connection,
    ):
        pool = SqlPool(connection.ask, Flavour.MARIADB, pair.master, OutOfReach())
        listed, asked = victim.pool.resident(), pool.resident()
        assert not isinstance(listed, Unlisted)
        assert not isinstance(asked, Unlisted)
        spaces = pool.tablespaces()
        tables = [ship(some, spaces, spaces, pool.room(), 1).pages for some in (listed, asked)]
        assert Resident(tables[1]).count(tables[0]) >= 0.95 * len(tables[0])
        refused = pool.begin_load(asked)
    assert refused is not None
    assert "out of reach" in refused.why


def test_canaries_are_followed_on_the_server_that_becomes_master(pair: Pair) -> None:
    clock = SystemClock()
    with pair.side(pair.master) as victim, pair.side(pair.heir) as heir:
        chosen = choose_canaries(WarmthGate(canaries=CANARIES), victim.canaries)
        before: Baseline = baseline(chosen, victim.canaries, clock)
        found = follow(
            heir.canaries, chosen.canaries, before, clock, killed_ns=clock.monotonic_ns(), factor=50.0
        )  # fmt: skip
    assert [latency.name for latency in found.baseline] == ["canary 1", "canary 2"]
    assert found.time_to_normal is not None
    assert all(point.ratio is not None for point in found.curve)


def test_a_server_that_no_application_reads_from_suggests_nothing_and_says_so(pair: Pair) -> None:
    with pair.side(pair.master) as victim:
        found = victim.canaries.sample(5)
    assert found.canaries == ()
    assert "counts no SELECT of an application" in found.why


# ---- a server that remembers its statements


@dataclass
class Lone:
    """One server of its own."""

    address: Address
    logins: Logins

    def connect(self, login: Login) -> Connection:
        return Connection(self.address, login, tls=None)


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lone]:
    """Booted with performance_schema and its histories on, with a table and some reads of an application."""
    home = tmp_path_factory.mktemp("lone")
    for path in (home, *home.parents[:2]):
        path.chmod(0o755)  # the server may run as another user
    engine = find_engine(None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    seat = Seat(home=home, port=port, server_id=1)
    logins = Logins(admin=Login("reaper", "r"), replication=Login("replication", "r"), application=Login("app", "a"))
    engine.initialise(seat.data, logins, ("reaper", "app"), home / "initialise.log")
    seat.tmp.mkdir()
    seat.log.touch()
    seat.log.chmod(0o666)
    home.chmod(0o777)
    seat.config.write_text(
        engine.options(seat)
        + "performance-schema = ON\nread-only = OFF\n"
        + "performance-schema-consumer-events-statements-current = ON\n"  # histories are filled from it
        + "performance-schema-consumer-events-statements-history-long = ON\n"
    )
    with subprocess.Popen(engine.command(seat)) as server:
        try:
            found = Lone(Address("127.0.0.1", port), logins)
            until(lambda: _answers(found), f"the server answers: {_end_of(seat.log)}", within_s=60)
            with contextlib.closing(found.connect(logins.application)) as app:
                app.ask("CREATE TABLE app.items (id INT PRIMARY KEY, name VARCHAR(200) NOT NULL)")
                app.ask("INSERT INTO app.items SELECT seq, CONCAT('item ', seq) FROM app.seq_1_to_2000")
                app.ask("USE app")
                for n in range(5):
                    app.ask(f"SELECT name FROM items WHERE id = {n}")
                    app.ask(f"SELECT name FROM items WHERE id = {n} FOR UPDATE")
                    app.ask(f"SELECT SLEEP(0.01), {n}")
            yield found
        finally:
            server.kill()


def _answers(server: Lone) -> bool:
    try:
        server.connect(server.logins.admin).close()
    except ServerError:
        return False
    return True


def _end_of(log: Path) -> str:
    return log.read_text()[-500:] if log.exists() else "no log"


def test_reads_of_an_application_are_sampled_with_their_literals(lone: Lone) -> None:
    with contextlib.closing(lone.connect(lone.logins.admin)) as connection:
        canaries = SqlCanaries(connection.ask, Flavour.MARIADB)
        found = canaries.sample(5)
        (canary,) = (c for c in found.canaries if "items" in c.name)
        assert sorted(canary.statements) == [f"SELECT name FROM items WHERE id = {n}" for n in range(5)]
        assert canary.schema == "app"
        assert canaries.run(canary, 7) < LIMIT.total_seconds() * 1000
    everything = " ".join(sql for c in found.canaries for sql in c.statements)
    assert "SLEEP" not in everything
    assert "UPDATE" not in everything


def test_a_canary_that_takes_too_long_is_ended_by_the_server(lone: Lone) -> None:
    endless = "SELECT COUNT(*) FROM app.items a, app.items b, app.items c WHERE a.name < b.name AND b.name < c.name"
    with contextlib.closing(lone.connect(lone.logins.admin)) as connection:
        began = time.monotonic()
        took = SqlCanaries(connection.ask, Flavour.MARIADB).run(Canary(name="c", statements=(endless,)), 0)
        assert took == 1000.0
        assert time.monotonic() - began < 30  # it would run for hours
        assert connection.ask("SELECT 1 AS one") == [{"one": 1}]


def test_what_slips_through_the_check_still_writes_nothing(lone: Lone) -> None:
    with contextlib.closing(lone.connect(lone.logins.application)) as connection:
        canaries = SqlCanaries(connection.ask, Flavour.MARIADB)
        with pytest.raises(ServerError):
            canaries.run(Canary(name="c", statements=("INSERT INTO app.items VALUES (0, 'x')",)), 0)
        assert connection.ask("SELECT COUNT(*) AS n FROM app.items") == [{"n": 2000}]
