"""TLS and changed passwords on real servers: what is proved before a password is sent, for reaper and for replicas."""

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path, PurePosixPath

import pymysql
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from labs import Row, until

from reaper.adapters.clock import SystemClock
from reaper.adapters.credentials import FileSource, Kept
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.engines import dialect_of, find_engine
from reaper.adapters.mysql.replication import ReplicationAccount, ReplicationTls
from reaper.adapters.mysql.server import SqlServer
from reaper.adapters.probe.client import ProbeConfig
from reaper.adapters.probe.control import ProcessProbe
from reaper.adapters.tls import ENCRYPTED, ServerTls, Verify
from reaper.domain.errors import AccessDeniedError, ServerError, ServerGoneError, UsageError
from reaper.domain.facts import Address, Flavour, Instance, InstanceId, InstanceState
from reaper.domain.rehearsal import Obstacle, Transport
from reaper.workflow.engine import Login, Logins, Seat

NAME = "db.shop.example"
ADMIN = Login("reaper", "r-5ecret")
LOGINS = Logins(admin=ADMIN, replication=Login("replication", "repl-5ecret"), application=Login("app", "app-5ecret"))
WRONG = Login("reaper", "wr0ng")
FLAVOUR = find_engine(None).flavour

pytestmark = pytest.mark.skipif(FLAVOUR is not Flavour.MARIADB, reason="the options and columns are MariaDB's")

# ---- certificates


@dataclass(frozen=True)
class Keys:
    """An authority, what it signed for the server, and an authority that signed nothing."""

    ca: Path
    other: Path
    certificate: Path
    elsewhere: Path  # the same for the name alone
    key: Path


def _certificate(
    subject: str, key: ec.EllipticCurvePrivateKey, signer: ec.EllipticCurvePrivateKey, *names: x509.GeneralName
) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority" if names else subject)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything of this module; the servers may run as another user."""
    home = tmp_path_factory.mktemp("tls")
    for path in (home, *home.parents[:2]):
        path.chmod(0o755)
    return home


@pytest.fixture(scope="module")
def keys(home: Path) -> Keys:
    """For the name, and for the address by which replicas know their source."""
    authority, other, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    made = Keys(
        ca=home / "ca.pem",
        other=home / "other.pem",
        certificate=home / "server.pem",
        elsewhere=home / "elsewhere.pem",
        key=home / "key.pem",
    )
    names = (x509.DNSName(NAME), x509.IPAddress(ip_address("127.0.0.1")))
    made.ca.write_bytes(_certificate("authority", authority, authority))
    made.other.write_bytes(_certificate("other", other, other))
    made.certificate.write_bytes(_certificate("server", server, authority, *names))
    clear = serialization.NoEncryption()
    made.elsewhere.write_bytes(_certificate("server", server, authority, x509.DNSName(NAME)))
    made.key.write_bytes(
        server.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, clear)
    )  # of no worth after this test, so that it may be read by whoever runs the server
    return made


# ---- servers


@dataclass(frozen=True)
class Server:
    """One mariadbd of this module."""

    name: str
    port: int

    @property
    def tls(self) -> ServerTls | None:
        return ENCRYPTED if self.name in ("source", "heir") else None

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    def ask(self, sql: str, *arguments: object) -> list[Row]:
        """With reaper's own account, in whichever way it can be reached."""
        with contextlib.closing(Connection(self.address, ADMIN, tls=self.tls)) as c:
            return c.ask(sql, *arguments)

    def denied(self) -> int:
        """How many logins it has rejected."""
        return int(self.ask("SHOW GLOBAL STATUS LIKE 'Access_denied_errors'")[0]["Value"])

    def channel(self) -> Row:
        """Its default channel."""
        return next(row for row in self.ask("SHOW ALL SLAVES STATUS") if not row["Connection_name"])

    def receives(self) -> bool:
        return bool(self.channel()["Slave_IO_Running"] == "Yes")

    def answers(self) -> bool:
        try:
            return bool(self.ask("SELECT 1"))
        except ServerError:
            return False


@contextlib.contextmanager
def _server(home: Path, name: str, number: int, data: Path, *options: str) -> Iterator[Server]:
    engine = find_engine(None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    seat = Seat(home=home / name, port=port, server_id=number)
    seat.home.mkdir()
    shutil.copytree(data, seat.data)
    seat.tmp.mkdir()
    seat.log.touch()
    seat.config.write_text(engine.options(seat) + "".join(f"{option}\n" for option in options))
    with subprocess.Popen(engine.command(seat)) as process:
        try:
            server = Server(name, port)
            until(server.answers, f"the server {name} answers, see {seat.log}", within_s=60)
            yield server
        finally:
            process.kill()


@pytest.fixture(scope="module")
def pristine(home: Path) -> Path:
    """A data directory with the accounts, to be copied."""
    data = home / "pristine"
    find_engine(None).initialise(data, LOGINS, ("reaper", "app"), home / "initialise.log")
    return data


@pytest.fixture(scope="module")
def source(home: Path, pristine: Path, keys: Keys) -> Iterator[Server]:
    """A master that offers TLS, without which it takes no replica."""
    options = (f"ssl-cert = {keys.certificate}", f"ssl-key = {keys.key}", "read-only = OFF")
    with _server(home, "source", 1, pristine, *options) as server:
        _as_root(home, "source", "ALTER USER replication@'127.0.0.1' REQUIRE SSL", "CREATE TABLE app.t (n INT)")
        yield server


@pytest.fixture(scope="module")
def replica(home: Path, pristine: Path) -> Iterator[Server]:
    """One that offers no TLS itself."""
    with _server(home, "replica", 2, pristine) as server:
        yield server


@pytest.fixture(scope="module")
def heir(home: Path, pristine: Path, keys: Keys) -> Iterator[Server]:
    """One whose certificate is not for its address."""
    options = (f"ssl-cert = {keys.elsewhere}", f"ssl-key = {keys.key}")
    with _server(home, "heir", 3, pristine, *options) as server:
        yield server


@pytest.fixture(scope="module")
def plain(home: Path, pristine: Path) -> Iterator[Server]:
    """One that offers no TLS."""
    with _server(home, "plain", 4, pristine) as server:
        yield server


def _as_root(home: Path, server: str, *statements: str) -> None:
    """As the server's own root, through its socket, not into the binary log."""
    descriptor = os.open(home / server / "data", os.O_PATH | os.O_DIRECTORY)  # a Unix address is at most 107 bytes
    try:
        with (
            pymysql.connect(unix_socket=f"/proc/self/fd/{descriptor}/s.sock", user="root") as session,
            session.cursor() as cursor,
        ):
            cursor.execute("SET SESSION sql_log_bin = 0")
            for statement in statements:
                cursor.execute(statement)
    finally:
        os.close(descriptor)


# ---- reaper's own connections


ACCEPTED = {
    "the right authority, for the address": {"ca_file": "ca"},
    "the right authority, for the configured name": {"ca_file": "ca", "name": NAME},
    "the right authority, whatever the name": {"ca_file": "ca", "verify": Verify.CHAIN, "name": "evil.example"},
    "nothing is verified": {"ca_file": "other", "verify": Verify.NOTHING, "name": "evil.example"},
}
REFUSED = {
    "another authority": ({"ca_file": "other"}, "unable to get local issuer certificate"),
    "the system's authorities": ({}, "unable to get local issuer certificate"),
    "another name": ({"ca_file": "ca", "name": "evil.example"}, "not valid for 'evil.example'"),
    "another authority, only the chain wanted": (
        {"ca_file": "other", "verify": Verify.CHAIN},
        "unable to get local issuer certificate",
    ),
}


def _tls(keys: Keys, said: dict[str, object]) -> ServerTls:
    files = {"ca": keys.ca, "other": keys.other}
    found = said | {"ca_file": files.get(str(said.get("ca_file")))}
    return ServerTls(**found)  # type: ignore[arg-type]  # a table's row


@pytest.mark.parametrize("said", list(ACCEPTED.values()), ids=list(ACCEPTED))
def test_a_session_is_encrypted(source: Server, keys: Keys, said: dict[str, object]) -> None:
    """And tells the flavour."""
    with contextlib.closing(Connection(source.address, ADMIN, tls=_tls(keys, said))) as connection:
        assert connection.flavour is Flavour.MARIADB
        (row,) = connection.ask("SHOW SESSION STATUS LIKE 'Ssl_version'")
        assert row["Value"] in ("TLSv1.2", "TLSv1.3")


@pytest.mark.parametrize(("said", "words"), list(REFUSED.values()), ids=list(REFUSED))
def test_a_server_that_proves_nothing_gets_no_password(
    source: Server, keys: Keys, said: dict[str, object], words: str
) -> None:
    """The password is a wrong one, which the server would have counted; and nobody takes the server for gone."""
    before = source.denied()
    with pytest.raises(
        ServerError, match=rf"{source.address} .*not accepted .*{words}.*no password was sent"
    ) as caught:
        Connection(source.address, WRONG, tls=_tls(keys, said))
    assert not isinstance(caught.value, ServerGoneError | AccessDeniedError)
    assert source.denied() == before
    with pytest.raises(AccessDeniedError):
        Connection(source.address, WRONG, tls=ENCRYPTED)
    assert source.denied() == before + 1


def test_a_server_without_tls_gets_no_password(replica: Server) -> None:
    """Also when nothing is to be verified: somebody may have taken the offer out of the greeting."""
    before = replica.denied()
    with pytest.raises(ServerError, match=r"it offers no TLS, so no password was sent") as caught:
        Connection(replica.address, WRONG, tls=ENCRYPTED)
    assert not isinstance(caught.value, ServerGoneError | AccessDeniedError)
    assert replica.denied() == before


def test_a_changed_password_is_taken_up_by_the_next_connection(home: Path, source: Server, keys: Keys) -> None:
    file = home / "password"
    file.write_text(ADMIN.password)
    file.chmod(0o600)
    logins = Kept(
        FileSource(path=file, user=ADMIN.user), SystemClock(), keep=timedelta(hours=1), renew_every=timedelta(0)
    )
    tls = ServerTls(ca_file=keys.ca)

    def work() -> None:
        with contextlib.closing(Connection.open(source.address, logins, tls=tls)) as connection:
            assert connection.ask("SELECT 1 AS one") == [{"one": 1}]

    work()
    try:
        _as_root(home, "source", "ALTER USER reaper@'127.0.0.1' IDENTIFIED BY 'another 5ecret'")
        with pytest.raises(AccessDeniedError) as caught:  # the file does not know it yet
            work()
        assert ADMIN.password not in str(caught.value)
        file.write_text("another 5ecret")
        work()
    finally:
        _as_root(home, "source", f"ALTER USER reaper@'127.0.0.1' IDENTIFIED BY '{ADMIN.password}'")


# ---- the probe


@pytest.fixture
def probing(source: Server, tmp_path: Path) -> ProbeConfig:
    """A probe's set-up, but for TLS."""
    source.ask("CREATE OR REPLACE TABLE reaper.p (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT, seq BIGINT)")
    login = LOGINS.application
    return ProbeConfig(
        host="127.0.0.1",
        port=source.port,
        user=login.user,
        password=login.password,
        database="reaper",
        table="p",
        clients=2,
        rate=50,
        ledger=str(tmp_path / "ledger"),
    )


def test_a_probe_verifies_what_it_writes_to(probing: ProbeConfig, source: Server, keys: Keys) -> None:
    with ProcessProbe.start(replace(probing, tls=ServerTls(ca_file=keys.ca, name=NAME))) as probe:
        written = probe.stop().writes
    assert {(row["client"], row["seq"]) for row in source.ask("SELECT client, seq FROM reaper.p")} == {
        write.key for write in written
    }


UNFIT = {
    "another authority": ("other", r"certificate is not accepted .*no password was sent"),
    "no such file": ("absent", r"CA file .*absent\.pem cannot be read"),
}


@pytest.mark.parametrize(("file", "words"), list(UNFIT.values()), ids=list(UNFIT))
def test_a_probe_that_cannot_verify_says_so_at_once(
    probing: ProbeConfig, source: Server, home: Path, file: str, words: str
) -> None:
    """A wrong password would be another error."""
    before = source.denied()
    tls = ServerTls(ca_file=home / f"{file}.pem")
    with pytest.raises(UsageError, match=words):
        ProcessProbe.start(replace(probing, tls=tls, password=WRONG.password))
    assert source.denied() == before


# ---- replication


def _replica(server: Server, tls: ReplicationTls | None) -> SqlServer:
    instance = Instance(
        id=InstanceId("local", f"tls/{server.name}"),
        address=server.address,
        server_id=0,
        created=datetime.now(UTC),
        state=InstanceState.RUNNING,
    )
    connection = Connection(server.address, ADMIN, tls=server.tls)
    account = ReplicationAccount(LOGINS.replication, tls)
    return SqlServer(instance, connection, dialect_of(Flavour.MARIADB), account)


@contextlib.contextmanager
def _joined(replica: Server, source: Server, tls: ReplicationTls | None) -> Iterator[SqlServer]:
    """A replica with a fresh channel, gone afterwards."""
    with contextlib.closing(_replica(replica, tls)) as server:
        try:
            server.join(source.address, position=None, history=None)
            yield server
        finally:
            server.forget_source()


@pytest.mark.parametrize("verify", list(Verify))
def test_replication_runs_encrypted(source: Server, replica: Server, keys: Keys, verify: Verify) -> None:
    """The source takes no replica without it."""
    ca = None if verify is Verify.NOTHING else PurePosixPath(keys.ca)
    with _joined(replica, source, ReplicationTls(verify=verify, ca_file=ca)) as server:
        server.follow(source.address)
        until(replica.receives, "it receives")
        channel = replica.channel()
        assert channel["Master_SSL_Allowed"] == "Yes"
        assert channel["Master_SSL_CA_File"] == str(ca or "")
        assert channel["Master_SSL_Verify_Server_Cert"] == ("Yes" if verify is Verify.FULL else "No")
        source.ask("CREATE OR REPLACE TABLE reaper.r (n INT)")
        source.ask("INSERT INTO reaper.r VALUES (%s)", number := list(Verify).index(verify))
        with contextlib.closing(_replica(source, None)) as master:
            assert server.wait_applied(master.executed(), timedelta(seconds=30))
        assert replica.ask("SELECT n FROM reaper.r") == [{"n": number}]


@pytest.mark.parametrize("verify", [Verify.FULL, Verify.CHAIN])
def test_a_replica_takes_no_source_that_another_authority_signed(
    source: Server, replica: Server, keys: Keys, verify: Verify
) -> None:
    with _joined(replica, source, ReplicationTls(verify=verify, ca_file=PurePosixPath(keys.other))):
        until(lambda: replica.channel()["Last_IO_Errno"], "it tried")
        channel = replica.channel()
    assert (channel["Last_IO_Errno"], channel["Slave_IO_Running"]) == (2026, "Connecting")
    assert "SSL connection error" in channel["Last_IO_Error"]


REHEARSED = {
    "a certificate of the right authority": ("heir", Verify.CHAIN, None, ""),
    "a certificate for another address": ("heir", Verify.FULL, Obstacle.OTHER, "certificate validation failure"),
    "no TLS": ("plain", Verify.FULL, Obstacle.NO_TLS, "SSL is required"),
}


@pytest.mark.parametrize(("whom", "verify", "obstacle", "said"), list(REHEARSED.values()), ids=list(REHEARSED))
def test_E21_a_rehearsal_demands_of_the_heir_what_the_site_says(
    source: Server,
    replica: Server,
    heir: Server,
    plain: Server,
    keys: Keys,
    whom: str,
    verify: Verify,
    obstacle: Obstacle | None,
    said: str,
) -> None:
    tls = ReplicationTls(verify=verify, ca_file=PurePosixPath(keys.ca))
    candidate = heir if whom == heir.name else plain
    with _joined(replica, source, tls) as sibling, _joined(candidate, source, tls):
        for server in (replica, candidate):
            until(server.receives, f"{server.name} receives")
        attempt = sibling.rehearse(candidate.address, timedelta(seconds=20))
        assert (attempt.obstacle, attempt.transport) == (obstacle, Transport.TLS), attempt.said
        assert said in attempt.said
        assert len(replica.ask("SHOW ALL SLAVES STATUS")) == 1
