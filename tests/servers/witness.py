"""What tests see of a run from outside: a load with its own ledger, a lab's state, who accepts writes."""

import contextlib
import itertools
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pymysql
from labs import Lab, alive, until

from reaper.adapters.interrupt import SignalInterrupt
from reaper.adapters.local.endpoint import LocalEndpoint
from reaper.adapters.local.lab import LOOPBACK
from reaper.adapters.store.codec import encode
from reaper.adapters.store.database import Place
from reaper.adapters.store.journal import RunStore
from reaper.cli import compose
from reaper.cli.render import view_as_json
from reaper.domain.facts import Address
from reaper.domain.verdict import Event
from reaper.workflow.observe import observe

WriteKey = tuple[int, int, int]  # (load, client, seq): never used twice
_loads = itertools.count(time.time_ns() // 1_000_000_000 * 1000)


def connect(port: int, login: dict[str, str], *, patience_s: float = 2) -> "pymysql.connections.Connection[Any]":
    """A session that gives up soon: its server may be frozen or dead."""
    return pymysql.connect(
        host="127.0.0.1",
        port=port,
        user=login["user"],
        password=login["password"],
        autocommit=True,
        connect_timeout=2,
        read_timeout=patience_s,
        write_timeout=patience_s,
        ssl_disabled=True,
    )


class Writers:
    """Clients that write unique rows through the endpoint and remember each one that they were told is committed."""

    def __init__(self, lab: Lab, clients: int = 4, pause_s: float = 0.015) -> None:
        self._lab, self._clients, self._pause_s = lab, clients, pause_s
        self._load = next(_loads)
        book = lab.book()
        self._port, self._login = book["endpoint_port"], book["application"]
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(n,), daemon=True) for n in range(clients)]
        self.acknowledged: list[WriteKey] = []  # appended by every client; list.append is atomic

    def __enter__(self) -> "Writers":
        self._lab.endpoint_sql(
            "CREATE TABLE IF NOT EXISTS app.receipts (w BIGINT, client INT, seq BIGINT, PRIMARY KEY (w, client, seq))"
        )
        for thread in self._threads:
            thread.start()
        until(lambda: len({c for _, c, _ in list(self.acknowledged)}) == self._clients, "every client writes")
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(30)

    def more(self, count: int = 40) -> None:
        """Wait until that many further writes have been acknowledged."""
        wanted = len(self.acknowledged) + count
        until(lambda: len(self.acknowledged) >= wanted, f"{count} more writes are acknowledged")

    def _write(self, client: int) -> None:
        session = None
        for seq in itertools.count(1):
            if self._done.wait(self._pause_s):
                break
            try:
                session = session or connect(self._port, self._login)
                with session.cursor() as cursor:
                    cursor.execute("INSERT INTO app.receipts VALUES (%s, %s, %s)", (self._load, client, seq))
                self.acknowledged.append((self._load, client, seq))
            except (pymysql.MySQLError, OSError):
                hang_up(session)
                session = None
        hang_up(session)

    def missing(self, instance: str) -> set[WriteKey]:
        """Acknowledged writes that an instance does not show, after it had time to apply them."""
        acknowledged = set(self.acknowledged)
        deadline = time.monotonic() + 15
        while True:
            rows = self._lab.sql(instance, f"SELECT w, client, seq FROM app.receipts WHERE w = {self._load}")
            left = acknowledged - {(int(r["w"]), int(r["client"]), int(r["seq"])) for r in rows}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.1)


def hang_up(session: "pymysql.connections.Connection[Any] | None") -> None:
    if session is not None:
        with contextlib.suppress(pymysql.MySQLError, OSError):
            session.close()


class OneOpen:
    """Looks every few milliseconds at who accepts writes, for as long as the block lasts (I2).

    Looks at several servers are never simultaneous. But a server that is closed for good never opens
    again, so if A is seen open, then B, then A again, both were open when B was.
    """

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._login = lab.book()["admin"]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._sessions: dict[int, pymysql.connections.Connection[Any]] = {}
        self.owners: list[str] = []  # who was seen open, in order, repeats left out
        self.looks = 0

    def __enter__(self) -> "OneOpen":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)
        for session in self._sessions.values():
            hang_up(session)

    def check(self) -> None:
        """Fail if two were open at once."""
        assert self.looks > 20, "the watch did not watch"
        assert len(self.owners) == len(set(self.owners)), f"two were open at once: {self.owners[:6]}"

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            for record in self._lab.book()["instances"]:
                if self._is_open(record["port"]) and (not self.owners or self.owners[-1] != record["name"]):
                    self.owners.append(record["name"])
            self.looks += 1

    def _is_open(self, port: int) -> bool:
        try:
            if port not in self._sessions:
                self._sessions[port] = connect(port, self._login)
            with self._sessions[port].cursor() as cursor:
                cursor.execute("SELECT @@global.read_only")
                return not int(cursor.fetchone()[0])
        except (pymysql.MySQLError, OSError):
            hang_up(self._sessions.pop(port, None))
            return False


# ---- a lab as it is found


def variables(lab: Lab, instance: str) -> dict[str, str]:
    """Global variables."""
    return {r["Variable_name"]: r["Value"] for r in lab.sql(instance, "SHOW GLOBAL VARIABLES")}


def counters(lab: Lab, instance: str) -> dict[str, str]:
    """How often each kind of statement that can change something was run, privileged ones included."""
    harmless = re.compile(r"com_(select|show_.*|set_option|change_db|admin_commands|stmt_.*|ping|kill|multi)")
    rows = lab.sql(
        instance, "SHOW GLOBAL STATUS WHERE Variable_name LIKE 'Com\\_%' OR Variable_name LIKE 'Binlog\\_commits'"
    )
    return {r["Variable_name"]: r["Value"] for r in rows if not harmless.fullmatch(r["Variable_name"].lower())}


def users(lab: Lab, instance: str) -> list[dict[str, Any]]:
    """Every account and what it may do."""
    return lab.root_sql(instance, "SELECT * FROM mysql.global_priv ORDER BY User, Host") + lab.root_sql(
        instance, "SELECT * FROM mysql.db ORDER BY User, Host, Db"
    )


def own_tables(lab: Lab, instance: str) -> list[str]:
    """Tables in reaper's schema, the marker's apart."""
    found = "SELECT table_name AS t FROM information_schema.tables WHERE table_schema = 'reaper'"
    return sorted(r["t"] for r in lab.sql(instance, found) if r["t"] != "marker")


def markers(lab: Lab, instance: str) -> list[dict[str, Any]]:
    """Rows in the marker table."""
    return lab.rows(instance, "reaper.marker")


def topology(lab: Lab) -> dict[str, Any]:
    """Who is who, without positions, sizes and ages."""
    site = compose.Site(lab.site.home)  # `reaper status --output json`, without the half second of a new interpreter
    view: dict[str, Any] = view_as_json(observe(site.world(site.runs, SignalInterrupt()), lab.name))
    members = {
        m["instance"]: {
            key: m.get(key) for key in ("address", "state", "role", "openness", "server_id", "version", "unreachable")
        }
        | {
            "channels": [(c["source"], c["receiver"], c["applier"], c["errors"]) for c in m.get("channels", ())],
            # A master counts a replica that is gone until it next sends it something.
            "semi_sync": [(k, v) for k, v in m.get("semi_sync", {}).items() if k not in ("unacknowledged", "clients")],
        }
        for m in view["members"]
    }
    return {"shape": view["shape"], "target": view["endpoint_target"], "members": members}


# What servers and the endpoint make by themselves as they go.
_COMES_AND_GOES = re.compile(
    r".*/data/((binlog|relay)\.\d{6}|(binlog|relay)\.(index|state)|relay-log\.info|(multi-)?master\.info|ib_buffer_pool"
    r"|ddl\.log|ibtmp1|aria_log\.\d{8}|mysql_upgrade_info|reaper/marker\.(frm|ibd))|.*/endpoint/route\.json"
)


def files(lab: Lab) -> set[str]:
    """Every file of the lab, instances without their numbers, servers' own logs left out."""
    return {
        re.sub(r"instances/n\d+/", "instances/nX/", str(path.relative_to(lab.directory)))
        for path in lab.directory.rglob("*")
        if not path.is_dir() and not _COMES_AND_GOES.fullmatch(str(path))
    }


def servers_of(lab: Lab) -> dict[str, int]:
    """Living server processes of the lab by the instance named on their command line."""
    pattern, found = re.compile(rf"--defaults-file={re.escape(str(lab.directory))}/instances/(\w+)/my.cnf"), {}
    for proc in Path("/proc").iterdir():
        if proc.name.isdigit() and alive(int(proc.name)):
            with contextlib.suppress(OSError):
                if match := pattern.search((proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()):
                    found[match[1]] = int(proc.name)
    return found


@dataclass(frozen=True)
class Found:
    """A lab as an observer finds it: what an undone run must leave as it was (I9, I11)."""

    topology: dict[str, Any]
    instances: list[dict[str, Any]]
    processes: dict[str, int]
    tables: dict[str, list[str]]
    markers: dict[str, list[dict[str, Any]]]
    files: set[str]
    variables: dict[str, dict[str, str]] = field(repr=False)

    @classmethod
    def of(cls, lab: Lab) -> "Found":
        until(lambda: _settled(topology(lab)), "the receivers are connected")
        return cls(
            topology=topology(lab),
            instances=lab.book()["instances"],
            processes=servers_of(lab),
            tables={i: own_tables(lab, i) for i in lab.instances},
            markers={i: markers(lab, i) for i in lab.instances},
            files=files(lab),
            variables={i: _steady(variables(lab, i)) for i in lab.instances},
        )


def _settled(seen: dict[str, Any]) -> bool:
    return all(c[1] == "running" for m in seen["members"].values() for c in m["channels"])


def _steady(values: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in values.items() if not k.startswith("gtid_")}


# ---- runs


@cache
def store_of(home: Path) -> RunStore:
    """The journal below a data directory."""
    return RunStore(Place(home))


def events(home: Path, run: str | None = None) -> list[dict[str, Any]]:
    """The stored timeline of a run (the newest by default), also while it goes. [] while there is none."""
    store = store_of(home)
    name = run or next((r.run for r in store.runs(most=1)), None)
    return [] if name is None else [_plain(e) for e in store.timeline(name)]


def _plain(event: Event) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(encode(Event, event))
    return plain


def has_step(home: Path, step: str) -> bool:
    """True if the newest run has begun a step."""
    return any(e["step"] == step for e in events(home))


@contextlib.contextmanager
def session_of(lab: Lab, instance: str) -> Iterator["pymysql.connections.Connection[Any]"]:
    """A session of reaper's account, closed at the end whatever became of its server."""
    session = lab.session(instance)
    try:
        yield session
    finally:
        hang_up(session)


def open_by_hand(lab: Lab, instance: str) -> None:
    """Make a replica that has applied everything a master, as another tool or a person would."""
    for statement in (
        "STOP SLAVE",
        "RESET SLAVE ALL",
        "SET GLOBAL rpl_semi_sync_master_enabled = ON",
        "SET GLOBAL read_only = OFF",
    ):
        lab.sql(instance, statement)


def follow_by_hand(lab: Lab, replica: str, source: str) -> None:
    """Let a replica replicate from another member."""
    lab.sql(replica, "STOP SLAVE")
    lab.sql(
        replica,
        f"CHANGE MASTER TO MASTER_HOST='{LOOPBACK}', MASTER_PORT={lab.record(source)['port']},"
        f" MASTER_USER='replication', MASTER_PASSWORD='{lab.book()['replication']['password']}',"
        " MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1",
    )
    lab.sql(replica, "START SLAVE")


def route_by_hand(lab: Lab, instance: str) -> None:
    """Let the endpoint lead to a member, whoever it led to before."""
    listen = Address(LOOPBACK, lab.book()["endpoint_port"])
    with contextlib.closing(LocalEndpoint(listen, lab.directory / "endpoint" / "control.sock")) as door:
        door.route(Address(LOOPBACK, lab.record(instance)["port"]), None)
