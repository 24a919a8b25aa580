"""Labs as a stranger makes them: through the command line, below a data directory of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.cursors import DictCursor

REAPER = Path(sys.executable).with_name("reaper")
Row = dict[str, Any]
Session = pymysql.connections.Connection


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def sentence(self) -> str:
        """The last line on stderr, which is where an error's sentence stands."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def json(self) -> Any:
        return json.loads(self.out)


def until(true: Callable[[], bool], what: str, within_s: float = 30) -> None:
    """Wait until something holds; a bound, not a timing assertion."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s: {what}")
        time.sleep(0.02)


def processes_below(home: Path) -> dict[int, str]:
    """Living processes with this directory on their command line or as their REAPER_HOME, by pid.

    The endpoint has its configuration from a pipe, so that only its environment gives it away.
    """
    found = {}
    for proc in Path("/proc").iterdir():
        if not proc.name.isdigit() or int(proc.name) == os.getpid():
            continue
        try:
            command = (proc / "cmdline").read_bytes()
            environment = (proc / "environ").read_bytes()
            state = (proc / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        named = f"REAPER_HOME={home}\0".encode() in environment + b"\0"
        if state not in "ZX" and (named or os.fsencode(f"{home}/") in command):
            found[int(proc.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def alive(pid: int) -> bool:
    """True for a process that exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def kill_9(pid: int) -> None:
    """SIGKILL, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), f"process {pid} ends")


@dataclass
class Site:
    """One REAPER_HOME and the commands in it."""

    home: Path
    program: tuple[str, ...] = (str(REAPER),)

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return os.environ | {"REAPER_HOME": str(self.home), "COLUMNS": "160"} | dict(env or {})

    def command(self, *args: str | Path) -> list[str]:
        return [*self.program, *map(str, args)]

    def cli(
        self,
        *args: str | Path,
        input: str | None = None,  # subprocess calls it so
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> Said:
        """Run the command line to its end."""
        with subprocess.Popen(
            self.command(*args),
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(env),
        ) as process:
            try:
                out, err = process.communicate(input, timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
                pytest.fail(f"reaper {' '.join(map(str, args))} did not end within {timeout} s:\n{out}{err}")
        return Said(process.returncode, out, err)

    @contextlib.contextmanager
    def background(self, *args: str | Path) -> Iterator["subprocess.Popen[str]"]:
        """Start the command line and leave it running; ended with the block, whatever happened."""
        with subprocess.Popen(
            self.command(*args),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def make_lab(self, name: str = "lab", nodes: int = 3) -> "Lab":
        """`reaper lab up`; removed with the site."""
        said = self.cli("lab", "up", "--name", name, "--nodes", str(nodes))
        assert said.code == 0, said.all
        return Lab(self, name)

    def remove_all(self) -> dict[int, str]:
        """`reaper lab down` for every lab, then kill by pid what is left. Returns what was left."""
        labs = self.home / "labs"
        for name in sorted(p.name for p in labs.iterdir()) if labs.is_dir() else ():
            self.cli("lab", "down", "--name", name)
        left = processes_below(self.home)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                kill_9(pid)
        return left


@dataclass(frozen=True)
class Lab:
    """One lab of a site."""

    site: Site
    name: str

    @property
    def directory(self) -> Path:
        return self.site.home / "labs" / self.name

    @property
    def book_path(self) -> Path:
        return self.directory / "lab.json"

    def book(self) -> dict[str, Any]:
        """lab.json."""
        book: dict[str, Any] = json.loads(self.book_path.read_text())
        return book

    def record(self, instance: str) -> dict[str, Any]:
        """An instance's entry in lab.json."""
        return next(i for i in self.book()["instances"] if i["name"] == instance)

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change lab.json by hand."""
        book = self.book()
        change(book)
        self.book_path.write_text(json.dumps(book))

    @property
    def instances(self) -> list[str]:
        """The names of all instances that are not quarantined."""
        return [i["name"] for i in self.book()["instances"] if not i["quarantined_until"]]

    def status(self) -> dict[str, Any]:
        """`reaper status --output json` of this cluster."""
        said = self.site.cli("status", self.name, "--output", "json")
        assert said.code == 0, said.all
        view: dict[str, Any] = said.json()[0]
        return view

    @property
    def master(self) -> str:
        """The instance to which the endpoint leads."""
        port = int(self.endpoint_sql("SELECT @@port AS port")[0]["port"])
        return next(str(i["name"]) for i in self.book()["instances"] if i["port"] == port)

    def pid(self, instance: str) -> int:
        return int(self.record(instance)["process"]["pid"])

    def kill_9(self, instance: str) -> None:
        """End an instance's server at once and wait for its death."""
        kill_9(self.pid(instance))

    def data(self, instance: str) -> Path:
        return self.directory / "instances" / instance / "data"

    # ---- sessions

    def session(self, instance: str, *, account: str = "admin") -> Session:
        """A session with one of lab.json's accounts (`admin`, `replication`, `application`)."""
        login = self.book()[account]
        return _connect(port=self.record(instance)["port"], user=login["user"], password=login["password"])

    def root_session(self, instance: str) -> Session:
        """A session of the server's own root, through its socket."""
        socket = self.data(instance) / "s.sock"
        descriptor = os.open(socket.parent, os.O_PATH | os.O_DIRECTORY)  # a Unix address is at most 107 bytes
        try:
            return _connect(unix_socket=f"/proc/self/fd/{descriptor}/s.sock", user="root", password="")
        finally:
            os.close(descriptor)

    def endpoint_session(self) -> Session:
        """A session as an application gets it."""
        book = self.book()
        login = book["application"]
        return _connect(port=book["endpoint_port"], user=login["user"], password=login["password"])

    def sql(self, instance: str, statement: str) -> list[Row]:
        """One statement of reaper's own account."""
        return ask(self.session(instance), statement)

    def root_sql(self, instance: str, *statements: str) -> list[Row]:
        """Statements of the server's root in one session; the rows of the last."""
        return ask(self.root_session(instance), *statements)

    def endpoint_sql(self, *statements: str) -> list[Row]:
        """Statements of the application's account through the endpoint, in one session."""
        return ask(self.endpoint_session(), *statements)

    def rows(self, instance: str, table: str) -> list[Row]:
        """A table's rows, empty while it does not exist."""
        try:
            return self.sql(instance, f"SELECT * FROM {table}")
        except pymysql.err.ProgrammingError:
            return []


def ask(session: Session, *statements: str) -> list[Row]:
    """Run statements on a session and close it; the rows of the last one."""
    with session, session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


def _connect(**where: Any) -> Session:
    return pymysql.connect(
        **({"host": "127.0.0.1"} | where),
        autocommit=True,
        charset="utf8mb4",
        cursorclass=DictCursor,
        connect_timeout=5,
        read_timeout=60,
        ssl_disabled=True,
    )
