"""The probe against a real server that is killed, frozen and made read-only. No timing is asserted."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pymysql
import pytest

from reaper.adapters.probe.client import ProbeConfig, fate_of
from reaper.adapters.probe.control import ProcessProbe
from reaper.adapters.tls import ENCRYPTED
from reaper.domain.errors import TryAgainError, UsageError
from reaper.domain.ledger import Fate, Ledger, Write, outages, settle

PATH = os.environ["PATH"] + ":/usr/sbin"
MARIADBD = shutil.which("mariadbd", path=PATH)
INSTALL_DB = shutil.which("mariadb-install-db", path=PATH)
PASSWORD = "pr0be-s3cret"
AS_ROOT = ["--user=root"] if os.geteuid() == 0 else []
SMALL = ["--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M"]
ACCOUNTS = f"""FLUSH PRIVILEGES;
CREATE DATABASE probe;
CREATE TABLE probe.t (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT NOT NULL, seq BIGINT NOT NULL,
  KEY (client, seq));
CREATE USER app@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';
GRANT INSERT ON probe.t TO app@'127.0.0.1';
CREATE USER boss@'127.0.0.1';
GRANT ALL ON *.* TO boss@'127.0.0.1';
"""

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(not (MARIADBD and INSTALL_DB), reason="mariadbd is not installed"),
]


def until(true: Callable[[], bool], what: str, within_s: float = 30) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s} s: {what}")
        time.sleep(0.02)


class Server:
    """A mariadbd that can be killed, frozen and started again on the same port and data."""

    def __init__(self, datadir: Path) -> None:
        self.datadir = datadir
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        with (self.datadir / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(MARIADBD),
                    "--no-defaults",
                    *AS_ROOT,
                    f"--datadir={self.datadir}",
                    f"--port={self.port}",
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    "--socket=s.sock",
                    *SMALL,
                    *options,
                ],
                stdout=log,
                stderr=log,
            )
        until(self.answers, f"the server answers, see {self.datadir}/server.log")

    def answers(self) -> bool:
        try:
            self.ask("SELECT 1")
        except pymysql.MySQLError:
            return False
        return True

    def ask(self, sql: str) -> list[tuple[int, ...]]:
        with (
            pymysql.connect(
                host="127.0.0.1", port=self.port, user="boss", autocommit=True, ssl_disabled=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql)
            return list(cursor.fetchall())

    def rows(self) -> list[tuple[int, ...]]:
        return self.ask("SELECT client, seq FROM probe.t")

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait(10)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the accounts and the table, to be copied."""
    datadir = tmp_path_factory.mktemp("mariadb") / "data"
    flags = ["--no-defaults", *AS_ROOT, f"--datadir={datadir}", *SMALL]
    install = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([str(INSTALL_DB), *flags, *install], check=True, capture_output=True, timeout=120)
    bootstrap = [str(MARIADBD), *flags, "--bootstrap"]
    subprocess.run(bootstrap, input=ACCOUNTS.encode(), check=True, capture_output=True, timeout=120)
    return datadir


@pytest.fixture
def server(template: Path, tmp_path: Path) -> Iterator[Server]:
    shutil.copytree(template, tmp_path / "data")
    server = Server(tmp_path / "data")
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def config(server: Server, tmp_path: Path) -> ProbeConfig:
    return ProbeConfig(
        host="127.0.0.1",
        port=server.port,
        user="app",
        password=PASSWORD,
        database="probe",
        table="t",
        clients=3,
        rate=150,
        ledger=str(tmp_path / "ledger"),
    )


@pytest.fixture
def probe(config: ProbeConfig) -> Iterator[ProcessProbe]:
    with ProcessProbe.start(config) as probe:
        yield probe


def seen(probe: ProcessProbe, after_ns: int | None = None) -> None:
    """Every client has an acknowledgement from now on."""
    assert probe.wait_acknowledged(time.monotonic_ns() if after_ns is None else after_ns, timedelta(seconds=30))


def written(config: ProbeConfig) -> Ledger:
    """What a running probe has recorded until now."""
    return Ledger.decode(Path(config.ledger).read_text())


def with_fate(ledger: Ledger, fate: Fate) -> list[Write]:
    return [w for w in ledger.writes if w.fate is fate]


def test_the_ledger_equals_the_table(server: Server, probe: ProcessProbe) -> None:
    for _ in range(5):
        seen(probe)
    ledger = probe.stop()
    assert probe.trouble is None
    assert sorted(w.key for w in ledger.writes) == sorted(server.rows())
    assert {w.client for w in ledger.writes} == {0, 1, 2}
    assert {w.fate for w in ledger.writes} == {Fate.ACKNOWLEDGED}
    assert all(w.sent_ns < w.done_ns for w in ledger.writes)
    assert not psutil.pid_exists(probe.pid)
    assert probe.stop() is ledger


def test_no_acknowledged_write_is_lost_to_a_crash(server: Server, probe: ProcessProbe) -> None:
    seen(probe)
    kill_ns = time.monotonic_ns()
    server.signal(signal.SIGKILL)
    server.start()
    seen(probe, open_ns := time.monotonic_ns())
    ledger = probe.stop()
    verdict = settle(ledger, [(client, seq) for client, seq in server.rows()])
    assert probe.trouble is None
    assert verdict.lost == verdict.duplicated == verdict.unrecorded == ()
    assert verdict.refused_present == 0
    assert verdict.refused > 0
    assert verdict.unknown_present + verdict.unknown_absent <= 3
    assert all(o.outage is not None for o in outages(ledger, kill_ns, until_ns=open_ns))
    # Of a run of refused attempts only the first and the last are recorded.
    assert len(with_fate(ledger, Fate.REFUSED)) < verdict.refused


def test_a_read_only_server_refuses(server: Server, probe: ProcessProbe, config: ProbeConfig) -> None:
    seen(probe)
    server.ask("SET GLOBAL read_only = 1")
    until(lambda: len(with_fate(written(config), Fate.REFUSED)) == 3, "every client is refused")
    server.ask("SET GLOBAL read_only = 0")
    seen(probe)
    ledger = probe.stop()
    verdict = settle(ledger, [(client, seq) for client, seq in server.rows()])
    assert verdict.lost == verdict.duplicated == verdict.unrecorded == ()
    assert verdict.refused_present == 0
    assert verdict.unknown_present == verdict.unknown_absent == 0
    refused = with_fate(ledger, Fate.REFUSED)
    assert {w.client for w in refused} == {0, 1, 2}
    assert all(w.error.startswith("1290 ") for w in refused)


def test_a_frozen_server_is_a_gap(server: Server, probe: ProcessProbe) -> None:
    seen(probe)
    server.signal(signal.SIGSTOP)
    frozen_ns = time.monotonic_ns()
    time.sleep(2)
    thawed_ns = time.monotonic_ns()
    server.signal(signal.SIGCONT)
    seen(probe)
    ledger = probe.stop()
    verdict = settle(ledger, [(client, seq) for client, seq in server.rows()])
    assert verdict.lost == verdict.duplicated == ()
    assert verdict.refused_present == 0
    assert {w.client for w in with_fate(ledger, Fate.UNKNOWN)} == {0, 1, 2}
    assert verdict.unknown_present > 0  # the server had them in its sockets, and wrote them when it woke
    for found in outages(ledger, frozen_ns, until_ns=thawed_ns):
        assert found.last_before_ns is not None
        assert found.last_before_ns < thawed_ns < (found.first_after_ns or 0)


HOPELESS = {
    "a wrong password names the account": ({"password": "wr0ng"}, r"account 'app'.* 1045 .*password"),
    "an unknown account names it": ({"user": "nobody"}, r"account 'nobody'.* 1045 "),
    "an unknown database names it": ({"database": "elsewhere"}, r"elsewhere"),
    "an unknown table names it": ({"table": "absent"}, r"probe\.absent"),
    "TLS that the server does not have": ({"tls": ENCRYPTED}, r"2026 .*it offers no TLS"),
}


@pytest.mark.parametrize(("change", "words"), HOPELESS.values(), ids=HOPELESS.keys())
def test_what_does_not_pass_is_one_clear_error(config: ProbeConfig, change: dict[str, object], words: str) -> None:
    wrong = replace(config, **change)  # type: ignore[arg-type]  # the table's values are of several types
    with pytest.raises(UsageError, match=words) as caught:
        ProcessProbe.start(wrong)
    assert wrong.password not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ledger_is_never_overwritten(config: ProbeConfig) -> None:
    Path(config.ledger).write_text("evidence")
    with pytest.raises(UsageError, match="exists"):
        ProcessProbe.start(config)
    assert Path(config.ledger).read_text() == "evidence"


def test_no_server_may_pass(server: Server, config: ProbeConfig) -> None:
    server.kill()
    before = set(psutil.Process().children())
    with pytest.raises(TryAgainError, match=rf"127\.0\.0\.1:{server.port} .*3 of 3 clients.*refused"):
        ProcessProbe.start(config)
    assert set(psutil.Process().children()) == before


def test_the_password_is_in_nobodys_sight(probe: ProcessProbe, config: ProbeConfig) -> None:
    process = psutil.Process(probe.pid)
    assert PASSWORD not in " ".join(process.cmdline())
    assert PASSWORD not in " ".join(process.environ().values())
    assert PASSWORD not in repr(config)
    seen(probe)
    probe.stop()
    assert PASSWORD not in Path(config.ledger).read_text()


def test_an_encrypted_probe_writes(server: Server, config: ProbeConfig, tmp_path: Path) -> None:
    openssl = shutil.which("openssl") or pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    request = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=lab"]
    subprocess.run([*request, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    server.kill()
    tls = (f"--ssl-key={key}", f"--ssl-cert={certificate}")
    server.start(*tls)
    server.ask("ALTER USER app@'127.0.0.1' REQUIRE SSL")
    with pytest.raises(UsageError, match=r"1045 "):
        ProcessProbe.start(replace(config, ledger=config.ledger + ".plain"))
    with ProcessProbe.start(replace(config, tls=ENCRYPTED)) as probe:
        seen(probe)
        server.signal(signal.SIGKILL)
        server.start(*tls)
        seen(probe)
        verdict = settle(probe.stop(), [(client, seq) for client, seq in server.rows()])
    assert verdict.acknowledged > 0
    assert verdict.lost == verdict.duplicated == verdict.unrecorded == ()
    assert verdict.unknown_present + verdict.unknown_absent <= 3


def test_an_interrupt_does_not_stop_the_evidence_and_a_termination_does(probe: ProcessProbe) -> None:
    os.kill(probe.pid, signal.SIGINT)
    seen(probe)
    os.kill(probe.pid, signal.SIGTERM)
    ledger = probe.stop()
    assert probe.trouble is None
    assert ledger.writes


def test_a_probe_that_was_killed_leaves_its_evidence(server: Server, probe: ProcessProbe) -> None:
    seen(probe)
    os.kill(probe.pid, signal.SIGKILL)
    until(lambda: psutil.Process(probe.pid).status() == psutil.STATUS_ZOMBIE, "the probe is dead")
    with pytest.raises(TryAgainError, match="the probe died"):
        probe.wait_acknowledged(time.monotonic_ns(), timedelta(seconds=5))
    verdict = settle(probe.stop(), [(client, seq) for client, seq in server.rows()])
    assert "exited with -9" in (probe.trouble or "")
    assert verdict.acknowledged > 0
    assert verdict.lost == ()
    assert len(verdict.unrecorded) <= 3


def test_a_probe_that_does_not_answer_is_killed(config: ProbeConfig) -> None:
    with ProcessProbe.start(replace(config, connect_timeout=0.1, io_timeout=0.1)) as probe:
        os.kill(probe.pid, signal.SIGSTOP)
        assert probe.stop().writes
        assert "does not answer" in (probe.trouble or "")
        assert not psutil.pid_exists(probe.pid)


def test_close_is_idempotent(probe: ProcessProbe) -> None:
    probe.close()
    probe.close()
    assert not psutil.pid_exists(probe.pid)


PARENT = """
import sys, time
from reaper.adapters.probe.client import ProbeConfig
from reaper.adapters.probe.control import ProcessProbe
probe = ProcessProbe.start(ProbeConfig.decode(sys.stdin.readline()))
print(probe.pid, flush=True)
time.sleep(600)
"""


def test_the_probe_dies_with_its_parent(config: ProbeConfig) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = None
    try:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(config.encode().encode())
        parent.stdin.flush()
        pid = int(parent.stdout.readline())
        assert running(pid)
        parent.kill()
        parent.wait(10)
        until(lambda: not running(pid), "the probe ends with its parent")
    finally:
        parent.kill()
        parent.wait(10)
        if pid is not None and running(pid):
            os.kill(pid, signal.SIGKILL)
    assert written(config).writes


def running(pid: int) -> bool:
    """True unless it is gone, or dead and only waits for its parent to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


CONFIGS = {
    "not JSON": "hunter2\n",
    "not an object": '"hunter2"\n',
    "an unknown field": '{"hunter": 2}\n',
    "nothing at all": "",
}


@pytest.mark.parametrize("line", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_wrong_configuration_is_not_quoted(line: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reaper.adapters.probe.client"],
        input=line.encode(),
        capture_output=True,
        timeout=30,
        check=False,
    )
    said = json.loads(done.stdout)
    assert done.returncode == 1
    assert "set-up is wrong" in said["error"]
    assert "hunter2" not in said["error"]
    assert done.stderr == b""


FATES = {
    "the server is read-only": (pymysql.err.OperationalError(1290, "read-only"), Fate.REFUSED),
    "a lock was waited for too long": (pymysql.err.OperationalError(1205, "lock"), Fate.REFUSED),
    "the session was killed, perhaps in its commit": (
        pymysql.err.OperationalError(1927, "killed"),
        Fate.UNKNOWN,
    ),
    "the statement was interrupted, perhaps in its commit": (
        pymysql.err.OperationalError(1317, "interrupted"),
        Fate.UNKNOWN,
    ),
    "the connection was lost": (pymysql.err.OperationalError(2013, "lost"), Fate.UNKNOWN),
    "a proxy answers with an error of its own": (pymysql.err.OperationalError(9001, "timeout"), Fate.UNKNOWN),
    "the answer could not be read": (IndexError("index out of range"), Fate.UNKNOWN),
}


@pytest.mark.parametrize(("error", "fate"), FATES.values(), ids=FATES.keys())
def test_a_fate_is_refused_only_where_that_is_certain(error: Exception, fate: Fate) -> None:
    assert fate_of(error) is fate
