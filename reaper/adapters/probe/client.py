"""The probe: a process that writes unique rows through the applications' endpoint and records each one.

`python -m reaper.adapters.probe.client` reads its `ProbeConfig` as one JSON line on stdin, says
`{"ready": true}` on stdout once every client had its first acknowledgement, or `{"error": ...,
"passing": ...}` and exits 1, and writes until it reads `stop`, the end of stdin, or gets a SIGTERM;
then it says `{"stopped": true, "written": lines}`. It is a process of its own so that nothing that
reaper does delays a write, and everything in it is arranged so that the first possible write is
seen within milliseconds.
"""

import gc
import itertools
import json
import os
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import pymysql
from pymysql.connections import Connection

from reaper.adapters.tls import ServerTls, Verify, refused
from reaper.domain.errors import UsageError
from reaper.domain.ledger import Fate, Write

READY_WITHIN_S = 10.0
BACK_OFF_S = (0.0, 0.001, 0.002, 0.004, 0.005)  # before each attempt after a failure; the last stays
SWITCH_INTERVAL_S = 0.0002  # a thread that has an answer waits no longer than this for the interpreter
OWNER_LOOK_S = 0.5
STOPPED_OWNER_S = 3.0  # less than the store's MUTE: it is silent before another worker takes the run over
COLLECT_EVERY = 500  # failed attempts: PyMySQL's exceptions are reference cycles

FOREIGN = (OSError, pymysql.MySQLError, ValueError, LookupError, struct.error, RuntimeError)
"""What an attempt may raise. The last four: a dying peer can send half a packet that PyMySQL cannot
parse, and an authentication method may need a package that is missing."""

NOT_COMMITTED = frozenset(
    {
        *(1040, 1203, 1226),  # too many connections: of the server, of the account
        *(1044, 1045, 1142, 1143, 1227),  # no privilege
        *(1046, 1049, 1054, 1146),  # no such database, column or table
        *(1290, 1792, 1836, 1223, 1099, 1100),  # read-only, or locked against writes
        *(1205, 1213),  # lock wait time-out, deadlock: rolled back
        *(1062, 1114),  # duplicate key, table full: rolled back
        1047,  # Galera: not ready for commands
    }
)
"""Errors by which a server says that a statement was rejected or rolled back. Every other answer leaves
the fate unknown: a session killed in its commit (1317, 1927, 1053) may be committed, and proxies pass
their own lost connections on as an answer (2013, 1105, 9001)."""

HOPELESS = {
    1044: "grant the account INSERT on the probe's table",
    1045: "check the account's name and password",
    1049: "create the database",
    1054: "create the table with the columns client and seq",
    1130: "allow the account to connect from this host",
    1142: "grant the account INSERT on the probe's table",
    1143: "grant the account INSERT on the probe's table",
    1146: "create the table",
    1698: "check the account's name and password",
    1820: "the account's password has expired: set a new one",
    1862: "the account's password has expired: set a new one",
    2059: "give the account an authentication method that PyMySQL knows",
    3118: "unlock the account",
    3159: "switch tls on: the server wants it",
    4151: "unlock the account",
}
"""Errors that do not pass by themselves, and what to do. Before the probe is ready they end it at once:
a wrong password tried 200 times per second locks accounts and fills logs."""


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """What the probe writes, where to, and how fast.

    `table` has at least `client INT` and `seq BIGINT`, and holds no row of an earlier probe: seqs
    begin at 1. `ledger` must not exist.
    """

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    table: str
    clients: int
    rate: float  # writes per second of all clients together
    ledger: str
    tls: ServerTls | None = None  # None: in clear
    connect_timeout: float = 0.5  # seconds
    io_timeout: float = 1.0  # seconds, for each answer

    def __post_init__(self) -> None:
        for name in ("clients", "rate", "connect_timeout", "io_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be more than 0, it is {getattr(self, name)}")

    def encode(self) -> str:
        """One line of JSON with its newline. It holds the password."""
        return json.dumps(asdict(self), default=os.fspath) + "\n"

    @classmethod
    def decode(cls, line: str) -> Self:
        """Read what `encode` made; a message never quotes a value.

        Raises:
            ValueError, TypeError: it is not JSON, or a field is missing, unknown or impossible.
        """
        said = json.loads(line)
        if not isinstance(said, dict) or "tls" not in said:
            raise ValueError("it is not what `encode` makes")
        tls = said.pop("tls")
        return cls(**said, tls=_tls(**tls) if tls else None)


def _tls(*, verify: str, ca_file: str | None, name: str | None) -> ServerTls:
    return ServerTls(verify=Verify(verify), ca_file=Path(ca_file) if ca_file else None, name=name)


class Journal:
    """The ledger file: one `write` call per line, so that a reader can follow it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def append(self, write: Write) -> None:
        """Add a line; raises OSError if it is not stored whole."""
        line = write.encode().encode(errors="backslashreplace")
        if os.write(self._fd, line) != len(line):
            raise OSError("the ledger's disk took only a part of a line")


class Board:
    """What the clients and the main thread tell each other. The pipes wake whoever polls them."""

    def __init__(self) -> None:
        self.woken, self._wake = os.pipe()
        self.stopped, self._stop = os.pipe()  # at its end once the clients have to stop
        self.stopping = False
        self.ready = False  # from then on no error is hopeless
        self.failure: str | None = None  # why the probe cannot go on
        self.passing = False  # the failure may pass by itself

    def wake(self) -> None:
        """Let the main thread look."""
        os.write(self._wake, b".")

    def fail(self, why: str) -> None:
        """End the probe; the first reason stays."""
        self.failure = self.failure or why
        self.wake()

    def stop(self) -> None:
        """Let every client finish its write and end."""
        if not self.stopping:
            self.stopping = True
            os.close(self._stop)


class Client:
    """One client: a connection, a pace, and a seq that is never used twice."""

    def __init__(
        self, number: int, config: ProbeConfig, journal: Journal, board: Board, tls: ssl.SSLContext | None
    ) -> None:
        self.number = number
        self.acknowledged = False  # at least once
        self.last_error = "it has not finished its first attempt"
        self.lines = 0
        self._config = config
        self._journal = journal
        self._board = board
        self._seq = 0
        self._failures = 0  # since the last acknowledgement
        self._run: Write | None = None  # the last of a run of refused attempts, if not recorded
        self._in_run = False
        self._poll = select.poll()
        self._poll.register(board.stopped, select.POLLIN)
        self._fd: int | None = None  # of the connection; None: not connected
        table = config.table.replace("`", "``")
        self._insert = f"INSERT INTO `{table}` (client,seq) VALUES ({number},"
        # Without ssl_disabled PyMySQL builds an SSL context, 25 ms; one that is passed in it takes as it is.
        self._connection = Connection(
            host=config.host,
            port=config.port,
            user=config.user,
            password=config.password.encode(),
            database=config.database,
            autocommit=True,
            connect_timeout=config.connect_timeout,
            read_timeout=config.io_timeout,
            write_timeout=config.io_timeout,
            program_name="reaper-probe",
            ssl_disabled=tls is None,
            ssl=tls,
            defer_connect=True,
        )

    def run(self) -> None:
        """Write at the pace, or as fast as the back-off allows after a failure, until the board stops it."""
        period = int(self._config.clients / self._config.rate * 1e9)
        due = time.monotonic_ns() + period * self.number // self._config.clients
        while not self._board.stopping:
            if self._failures:
                time.sleep(BACK_OFF_S[min(self._failures, len(BACK_OFF_S)) - 1])
            elif not self._wait_until(due):
                continue  # stopping, or the connection died while nothing was under way
            self._attempt()
            # The next slot to come: what a stall missed is not caught up, and clients stay out of step.
            due += period * max(0, (time.monotonic_ns() - due) // period + 1)
        if self._run is not None:
            self._append(self._run)
        self._drop()

    def _wait_until(self, due_ns: int) -> bool:
        """Wait for the pace; False if something happened before. A death is seen when it happens."""
        events = self._poll.poll(max(0, due_ns - time.monotonic_ns()) / 1e6)
        if any(fd == self._fd for fd, _ in events):
            self._drop()
            self._failures = 1
        return not events

    def _attempt(self) -> None:
        self._seq += 1
        sent_ns = time.monotonic_ns()
        try:
            if self._fd is None:
                self._connect()
        except FOREIGN as error:
            self._failed(sent_ns, Fate.REFUSED, error, doing="connect: ")
            return
        statement = f"{self._insert}{self._seq})"
        sent_ns = time.monotonic_ns()
        try:
            self._connection.query(statement)
        except FOREIGN as error:
            self._failed(sent_ns, fate_of(error), error, doing="")
            return
        self._record(Write(self.number, self._seq, sent_ns, time.monotonic_ns(), Fate.ACKNOWLEDGED))
        self._failures = 0
        if not self.acknowledged:
            self.acknowledged = True
            self._board.wake()

    def _connect(self) -> None:
        # Its own socket: PyMySQL's refused connects cost more, and the wait polls the descriptor.
        sock = socket.create_connection((self._config.host, self._config.port), self._config.connect_timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sock.getsockname() == sock.getpeername():
            # Nobody listens and the kernel drew the port itself as ours: it must be free for the server.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            raise ConnectionRefusedError("the port is closed")
        fd = sock.fileno()
        self._connection.connect(sock)  # closes the socket if it fails
        self._fd = fd
        self._poll.register(fd, select.POLLRDHUP)  # not POLLIN: TLS may have tickets to read

    def _drop(self) -> None:
        if self._fd is not None:
            self._poll.unregister(self._fd)
            self._fd = None
        if self._connection.open:
            self._connection.close()

    def _failed(self, sent_ns: int, fate: Fate, error: Exception, *, doing: str) -> None:
        """Record a failure and leave the connection: a new one may lead to the new master."""
        done_ns = time.monotonic_ns()
        text = doing + describe(error)
        self._record(Write(self.number, self._seq, sent_ns, done_ns, fate, text))
        self._drop()
        self._failures += 1
        self.last_error = text
        if not self._board.ready and (remedy := refused(error) or HOPELESS.get(error_number(error) or 0)):
            self._board.fail(f"{cannot_write(self._config)}: {text}; {remedy}, then start it again")
        if self._failures % COLLECT_EVERY == 0:
            gc.collect()

    def _record(self, write: Write) -> None:
        """Append the write, but of a run of refused attempts only the first and the last."""
        if write.fate is Fate.REFUSED and self._in_run:
            self._run = write
            return
        if self._run is not None:
            self._append(self._run)
            self._run = None
        self._append(write)
        self._in_run = write.fate is Fate.REFUSED

    def _append(self, write: Write) -> None:
        self._journal.append(write)
        self.lines += 1


def error_number(error: Exception) -> int | None:
    """The number of a server's or PyMySQL's error; None: it has none."""
    number = error.args[0] if isinstance(error, pymysql.MySQLError) and error.args else None
    return number if isinstance(number, int) else None


def fate_of(error: Exception) -> Fate:
    """The fate of a write that was sent and got this error. Refused only where that is certain."""
    return Fate.REFUSED if error_number(error) in NOT_COMMITTED else Fate.UNKNOWN


def describe(error: Exception) -> str:
    """One line: `1290 The MariaDB server is running with ...`."""
    return " ".join(str(part) for part in error.args) or type(error).__name__


class Probe:
    """The clients, and the conversation with the process that started them."""

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._board = Board()
        tls = config.tls.context() if config.tls else None
        journal = Journal(Path(config.ledger))
        self._clients = [Client(n, config, journal, self._board, tls) for n in range(config.clients)]
        self._threads = [threading.Thread(target=c.run, daemon=True) for c in self._clients]

    def run(self) -> int:
        """Write until told to stop; returns the exit code."""
        signal.signal(signal.SIGTERM, lambda *_: self._end_of_run())
        threading.excepthook = lambda args: self._board.fail(f"the probe broke: {args.exc_value!r}")
        gc.collect()
        gc.freeze()
        gc.disable()
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        for thread in self._threads:
            thread.start()
        self._converse()
        self._board.stop()
        # Each of a connection's five answers may take its time-out, and an insert's.
        deadline = time.monotonic() + self._config.connect_timeout + 6 * self._config.io_timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._board.failure is not None:
            say({"error": self._board.failure, "passing": self._board.passing})
            return 1
        say({"stopped": True, "written": sum(c.lines for c in self._clients)})
        return 0

    def _end_of_run(self) -> None:
        self._board.stop()
        self._board.wake()

    def _converse(self) -> None:
        """Return when it is time to stop."""
        board = self._board
        deadline = time.monotonic() + READY_WITHIN_S
        owner_ran = time.monotonic()
        heard = b""
        while board.failure is None and not board.stopping:
            patience = OWNER_LOOK_S if board.ready else min(OWNER_LOOK_S, max(0.0, deadline - time.monotonic()))
            readable, _, _ = select.select([0, board.woken], [], [], patience)
            if not owner_is_stopped():
                owner_ran = time.monotonic()
            elif time.monotonic() > owner_ran + STOPPED_OWNER_S:
                board.fail(f"its owner, process {os.getppid()}, is stopped: it writes nothing that nobody reads")
            if board.woken in readable:
                os.read(board.woken, 4096)
            if 0 in readable:
                heard += (chunk := os.read(0, 4096))
                if not chunk or b"stop" in heard.split(b"\n")[:-1]:
                    return
            if not board.ready and all(c.acknowledged for c in self._clients):
                board.ready = True
                say({"ready": True})
            elif not board.ready and time.monotonic() >= deadline:
                board.passing = True
                board.fail(self._not_ready())

    def _not_ready(self) -> str:
        waiting = [c for c in self._clients if not c.acknowledged]
        errors = dict.fromkeys(c.last_error for c in waiting)  # in order, each once
        return (
            f"{cannot_write(self._config)}: {len(waiting)} of {self._config.clients} clients had nothing "
            f"acknowledged within {READY_WITHIN_S:.0f} s ({'; '.join(errors)}); check that the endpoint is "
            "up and leads to a writable master, then start it again"
        )


def cannot_write(config: ProbeConfig) -> str:
    """What happened, for a message; the reason follows."""
    return (
        f"the probe cannot write to {config.database}.{config.table} through {config.host}:{config.port} "
        f"as account {config.user!r}"
    )


def owner_is_stopped() -> bool:
    """Whether the process that started the probe stands still (SIGSTOP); another worker may have its run by now."""
    try:
        return Path(f"/proc/{os.getppid()}/stat").read_text().rsplit(")", 1)[1].split()[0] in "Tt"
    except OSError:
        return False  # it has ended, and stdin with it


def say(message: dict[str, object]) -> None:
    """Send one line to the process that started the probe; if it is gone, nobody needs to hear it."""
    try:
        os.write(1, json.dumps(message).encode() + b"\n")
    except BrokenPipeError:
        return


def read_line() -> str:
    """The first line of stdin, unbuffered, so that what follows it is left to be polled for."""
    line = b"".join(itertools.takewhile(lambda c: c not in (b"\n", b""), iter(lambda: os.read(0, 1), None)))
    return line.decode()


def main() -> int:
    """Run the probe; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a person's Ctrl-C must not stop the evidence
    try:
        probe = Probe(ProbeConfig.decode(read_line()))
    except (ValueError, TypeError, OSError, UsageError) as error:
        say({"error": f"the probe's set-up is wrong: {error}; correct it and start again", "passing": False})
        return 1
    return probe.run()


if __name__ == "__main__":
    sys.exit(main())
