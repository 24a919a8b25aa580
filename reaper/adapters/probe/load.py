"""A steady write and read load, as an application makes it: one connection per client, reconnecting."""

import contextlib
import random
import threading
import time
from dataclasses import dataclass, field

import pymysql

from reaper.adapters.tls import ServerTls

_BACK_OFF_S = 0.02
_KEYS = 10_000


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Where to, and how much."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    clients: int
    rate: float  # writes per second, and as many reads, all clients together
    tls: ServerTls | None  # None: in clear


@dataclass
class Tally:
    """What happened since the last look."""

    writes: int = 0
    reads: int = 0
    errors: int = 0
    last_error: str = ""


class Load:
    """Runs until stopped."""

    def __init__(self, config: LoadConfig) -> None:
        self._config = config
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._tally = Tally()
        self._context = config.tls.context() if config.tls else None
        self._threads = [
            threading.Thread(target=self._client, args=(n,), name=f"load-{n}") for n in range(config.clients)
        ]

    def start(self) -> None:
        """Make the table, then start every client. Raises pymysql.MySQLError if that is not possible."""
        with contextlib.closing(self._connect()) as session, session.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS load_rows (k INT PRIMARY KEY, v BIGINT NOT NULL, filler CHAR(100) NOT NULL)"
            )
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let every client finish what it does, and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def take(self) -> Tally:
        """What happened since this was last called."""
        with self._lock:
            taken, self._tally = self._tally, Tally()
        return taken

    def _connect(self) -> "pymysql.connections.Connection[pymysql.cursors.Cursor]":
        c = self._config
        return pymysql.connect(
            host=c.host,
            port=c.port,
            user=c.user,
            password=c.password,
            database=c.database,
            autocommit=True,
            connect_timeout=2,
            read_timeout=5,
            write_timeout=5,
            program_name="reaper-load",
            ssl=self._context,
            ssl_disabled=self._context is None,
        )

    def _client(self, number: int) -> None:
        dice, session = random.Random(number), None
        pause = self._config.clients / self._config.rate
        due = time.monotonic()
        while not self._stop.wait(max(0.0, due - time.monotonic())):
            due = max(due + pause, time.monotonic())
            try:
                session = session or self._connect()
                key = dice.randrange(_KEYS)
                with session.cursor() as cursor:
                    cursor.execute(
                        "INSERT INTO load_rows (k, v, filler) VALUES (%s, 1, 'x') ON DUPLICATE KEY UPDATE v = v + 1",
                        (key,),
                    )
                    cursor.execute("SELECT v FROM load_rows WHERE k = %s", (key,))
                    cursor.fetchall()
                self._count(writes=1, reads=1)
            except (pymysql.MySQLError, OSError) as error:
                self._count(errors=1, last_error=str(error))
                if session is not None:
                    with contextlib.suppress(pymysql.MySQLError, OSError):
                        session.close()
                session = None
                due = time.monotonic() + _BACK_OFF_S
        if session is not None:
            with contextlib.suppress(pymysql.MySQLError, OSError):
                session.close()

    def _count(self, *, writes: int = 0, reads: int = 0, errors: int = 0, last_error: str = "") -> None:
        with self._lock:
            self._tally.writes += writes
            self._tally.reads += reads
            self._tally.errors += errors
            self._tally.last_error = last_error or self._tally.last_error
