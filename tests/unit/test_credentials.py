"""Logins from everywhere they may lie, TLS with verification, and that no secret is ever shown."""

import io
import json
import logging
import os
import re
import socket
import ssl
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs

import aws_moto
import pytest
from aws_moto import InstantClock, Moto
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from reaper.adapters.aws.calls import Calls
from reaper.adapters.aws.credentials import TOKEN_KEPT, ParameterSource, RdsTokenSource, SecretSource
from reaper.adapters.credentials import EnvironmentSource, FileSource, Kept, Source, open_with
from reaper.adapters.probe.client import ProbeConfig
from reaper.adapters.tls import ENCRYPTED, ServerTls, Verify
from reaper.domain.errors import AccessDeniedError, UsageError
from reaper.domain.facts import Address
from reaper.workflow.engine import Login

PLANTED = 'pl4nted-5ecret-"with quotes"-and-ünicode'
LOGIN = Login("reaper", PLANTED)
BOTH = json.dumps({"username": "reaper", "password": PLANTED, "engine": "mysql", "host": "db", "port": 3306})
DB = Address("db.shop.example", 3306)


@pytest.fixture(scope="module")
def server() -> Iterator[Moto]:
    with aws_moto.running() as moto:
        yield moto


@pytest.fixture
def moto(server: Moto) -> Moto:
    aws_moto.reset(server)
    return server


def _file(directory: Path, text: str | bytes, mode: int = 0o600) -> Path:
    path = directory / "password"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def _environment(_moto: Moto, _directory: Path, text: str, user: str | None) -> Source:
    return EnvironmentSource(variable="DB", user=user, environment={"DB": text})


def _in_file(_moto: Moto, directory: Path, text: str, user: str | None) -> Source:
    return FileSource(path=_file(directory, text), user=user)


def _secret(moto: Moto, _directory: Path, text: str, user: str | None) -> Source:
    client = moto.client("secretsmanager")
    client.create_secret(Name="shop/db", SecretString=text)
    return SecretSource(calls=Calls(client, InstantClock()), secret="shop/db", user=user)


def _parameter(moto: Moto, _directory: Path, text: str, user: str | None) -> Source:
    client = moto.client("ssm")
    client.put_parameter(Name="/shop/db", Value=text, Type="SecureString")
    return ParameterSource(calls=Calls(client, InstantClock()), parameter="/shop/db", user=user)


Plant = Callable[[Moto, Path, str, str | None], Source]
PLACES: dict[str, Plant] = {
    "the environment": _environment,
    "a file": _in_file,
    "Secrets Manager": _secret,
    "an SSM parameter": _parameter,
}
every_place = pytest.mark.parametrize("plant", list(PLACES.values()), ids=list(PLACES))


@every_place
def test_a_bare_password_belongs_to_the_configured_user(moto: Moto, tmp_path: Path, plant: Plant) -> None:
    assert plant(moto, tmp_path, PLANTED, "reaper").login() == LOGIN


@every_place
def test_json_brings_its_own_user(moto: Moto, tmp_path: Path, plant: Plant) -> None:
    assert plant(moto, tmp_path, BOTH, "somebody else").login() == LOGIN


UNFIT = {
    "a password without a user": (PLANTED, None, "configure the `user`"),
    "JSON without a password": (
        json.dumps({"username": PLANTED}),
        "reaper",
        "without a user name or without a password",
    ),
    "JSON whose password is a number": ('{"username": "reaper", "password": 7}', None, "both, as texts"),
    "JSON that is cut off": (BOTH[:-3], None, "begins like JSON and is none"),
    "two lines": (f"{PLANTED}\nx", "reaper", "more than one line"),
}


@every_place
@pytest.mark.parametrize("unfit", list(UNFIT))
def test_what_is_not_fit_is_named_and_not_shown(moto: Moto, tmp_path: Path, plant: Plant, unfit: str) -> None:
    text, user, match = UNFIT[unfit]
    source = plant(moto, tmp_path, text, user)
    with pytest.raises(UsageError, match=match) as caught:
        source.login()
    assert PLANTED not in "".join(traceback.format_exception(caught.value, chain=True))


def test_a_file_is_read_without_the_newline_that_editors_add(tmp_path: Path) -> None:
    assert FileSource(path=_file(tmp_path, f"{PLANTED}\n"), user="reaper").login() == LOGIN


BAD_FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "one that the group may read": (lambda d: _file(d, PLANTED, 0o640), r"mode 0640.*`chmod 600"),
    "one that everybody may write": (lambda d: _file(d, PLANTED, 0o602), "mode 0602"),
    "one that is not there": (lambda d: d / "missing", "No such file"),
    "a directory": (lambda d: d, "Is a directory"),
    "a device": (lambda _: Path(os.devnull), "no regular file"),
    "one that is no text": (lambda d: _file(d, b"\xff\xfe\x00"), "no UTF-8"),
    "a long one": (lambda d: _file(d, "x" * 70_000), "longer than 65536 bytes"),
    "an empty one": (lambda d: _file(d, ""), "is empty"),
}


@pytest.mark.parametrize("bad", list(BAD_FILES))
def test_a_file_that_is_not_fit_to_hold_a_password_is_refused(tmp_path: Path, bad: str) -> None:
    make, match = BAD_FILES[bad]
    with pytest.raises(UsageError, match=match):
        FileSource(path=make(tmp_path), user="reaper").login()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, PLANTED)
    os.chown(path, 12_345, -1)
    with pytest.raises(UsageError, match="belongs to uid 12345"):
        FileSource(path=path, user="reaper").login()


def test_a_variable_that_is_not_set_says_so() -> None:
    with pytest.raises(UsageError, match="DB is not set"):
        EnvironmentSource(variable="DB", user="reaper", environment={}).login()


def test_a_parameter_that_is_stored_in_the_clear_is_refused(moto: Moto) -> None:
    client = moto.client("ssm")
    client.put_parameter(Name="/clear", Value=PLANTED, Type="String")
    with pytest.raises(UsageError, match="is a String, which is stored and shown in the clear") as caught:
        ParameterSource(calls=Calls(client, InstantClock()), parameter="/clear", user="reaper").login()
    assert PLANTED not in str(caught.value)


def test_a_binary_secret_is_refused(moto: Moto) -> None:
    client = moto.client("secretsmanager")
    client.create_secret(Name="binary", SecretBinary=b"\x00")
    with pytest.raises(UsageError, match="is binary"):
        SecretSource(calls=Calls(client, InstantClock()), secret="binary").login()


@pytest.mark.parametrize("service", ["secretsmanager", "ssm"])
def test_a_secret_that_is_not_there_is_named(moto: Moto, service: str) -> None:
    calls = Calls(moto.client(service), InstantClock())
    secret, parameter = SecretSource(calls=calls, secret="gone"), ParameterSource(calls=calls, parameter="gone")
    source: Source = parameter if service == "ssm" else secret
    with pytest.raises(UsageError, match="NotFound"):
        source.login()


# ---- RDS tokens


def _tokens(moto: Moto, tls: ServerTls | None = None) -> RdsTokenSource:
    return RdsTokenSource(client=moto.client("rds"), address=DB, user="reaper", tls=tls or ServerTls())


def test_a_token_is_signed_here_for_one_server_and_user(moto: Moto) -> None:
    login = _tokens(moto).login()
    where, _, query = login.password.partition("/?")
    said = {name: values[0] for name, values in parse_qs(query).items()}
    assert where == "db.shop.example:3306"
    assert (said["Action"], said["DBUser"], said["X-Amz-Expires"]) == ("connect", "reaper", "900")
    assert said["X-Amz-Credential"].endswith(f"/{aws_moto.REGION}/rds-db/aws4_request")
    assert moto.recorder.actions == set()


def test_a_token_is_not_made_for_a_server_that_is_not_verified(moto: Moto) -> None:
    with pytest.raises(UsageError, match="verify the server"):
        _tokens(moto, ServerTls(verify=Verify.NOTHING)).login()


def test_a_token_is_renewed_before_its_15_minutes_end(moto: Moto) -> None:
    clock, made = InstantClock(), []

    class Counting:
        def login(self) -> Login:
            made.append(clock.monotonic_ns())
            return Login("reaper", f"token {len(made)}")

    kept = Kept(Counting(), clock, keep=TOKEN_KEPT)
    handed_out = []
    for _ in range(60):
        handed_out.append((clock.monotonic_ns(), int(kept.login().password.split()[1])))
        clock.sleep(timedelta(minutes=1))
    oldest = max(at - made[number - 1] for at, number in handed_out)
    assert oldest < timedelta(minutes=15) / timedelta(microseconds=1) * 1000 * 0.75
    assert len(made) == 6
    assert _tokens(moto).login().password


# ---- kept, and renewed when it is rejected


class Turning:
    """A source whose password is changed now and then."""

    def __init__(self) -> None:
        self.asked = 0
        self.password = "old"

    def login(self) -> Login:
        self.asked += 1
        return Login("reaper", self.password)


class Gate:
    """A server that takes one password."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.tried: list[str] = []

    def __call__(self, login: Login) -> str:
        self.tried.append(login.password)
        if login.password != self.password:
            raise AccessDeniedError("rejected")
        return "connected"


@pytest.fixture
def turning() -> Turning:
    return Turning()


@pytest.fixture
def clock() -> InstantClock:
    return InstantClock()


def test_a_source_is_asked_once_in_the_time_for_which_its_answer_is_kept(turning: Turning, clock: InstantClock) -> None:
    kept = Kept(turning, clock, keep=timedelta(minutes=5))
    for _ in range(10):
        kept.login()
    assert turning.asked == 1
    clock.sleep(timedelta(minutes=5))
    kept.login()
    assert turning.asked == 2


def test_a_password_that_was_changed_is_read_again_when_the_server_rejects_the_kept_one(
    turning: Turning, clock: InstantClock
) -> None:
    kept, gate = Kept(turning, clock, keep=timedelta(hours=1)), Gate("old")
    assert open_with(kept, gate) == "connected"
    turning.password = gate.password = "new"
    clock.sleep(timedelta(seconds=10))
    assert open_with(kept, gate) == "connected"
    assert gate.tried == ["old", "old", "new"]
    assert open_with(kept, gate) == "connected"
    assert turning.asked == 2


def test_a_wrong_password_is_tried_once_and_the_source_is_not_flooded(turning: Turning, clock: InstantClock) -> None:
    kept, gate = Kept(turning, clock, keep=timedelta(hours=1)), Gate("other")
    for _ in range(50):
        with pytest.raises(AccessDeniedError):
            open_with(kept, gate)
        clock.sleep(timedelta(seconds=1))
    assert gate.tried == ["old"] * 50
    assert turning.asked <= 11


def test_many_threads_that_are_rejected_at_once_renew_once(turning: Turning, clock: InstantClock) -> None:
    kept, gate = Kept(turning, clock, keep=timedelta(hours=1)), Gate("new")
    kept.login()
    turning.password = "new"
    clock.sleep(timedelta(seconds=10))
    threads = [threading.Thread(target=open_with, args=(kept, gate)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.tried.count("new") == 20
    assert turning.asked == 2


# ---- never shown


def test_no_secret_is_in_a_log_a_repr_an_error_or_a_process_list(
    moto: Moto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything that is said, with every library at DEBUG, while logins are read, kept, rejected and renewed."""
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    with ExitStack() as stack:
        root = logging.getLogger()
        stack.callback(root.setLevel, root.level)
        stack.callback(root.removeHandler, handler)
        root.addHandler(handler)
        root.setLevel(logging.DEBUG)
        caplog.set_level(logging.DEBUG)
        said: list[str] = []
        for number, plant in enumerate(PLACES.values()):
            directory = tmp_path / str(number)
            directory.mkdir()
            source = plant(moto, directory, BOTH, None)
            clock = InstantClock()
            kept = Kept(source, clock, keep=timedelta(minutes=1))
            login = kept.login()
            clock.sleep(timedelta(seconds=10))
            with pytest.raises(AccessDeniedError) as denied:
                open_with(kept, Gate("another"))
            shown = "".join(traceback.format_exception(denied.value))
            listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
            said += [
                repr(source),
                repr(kept),
                repr(login),
                str(login),
                shown,
                listed,
            ]
        token = _tokens(moto).login()
        said += [repr(token), str(token), heard.getvalue(), caplog.text]
        signature = re.search("X-Amz-Signature=([0-9a-f]{64})", token.password)
    everything = "\n".join(said)
    assert signature is not None
    assert signature.group(1) not in everything
    for spelling in (PLANTED, json.dumps(PLANTED)[1:-1], PLANTED.split("-ü")[0], "pl4nted"):
        assert spelling not in everything


# ---- TLS


Key = ec.EllipticCurvePrivateKey


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _certificate(
    subject: str,
    key: Key,
    issuer: str,
    signer: Key,
    *names: x509.GeneralName,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's certificate that it signed, and another authority that signed nothing."""
    directory = tmp_path_factory.mktemp("keys")
    authority, server = _key(), _key()
    names = (x509.DNSName("db.shop.example"), x509.IPAddress(ip_address("127.0.0.1")))
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(_certificate("ca", authority, "ca", authority).public_bytes(pem))
    other = _key()
    (directory / "other.pem").write_bytes(_certificate("other", other, "other", other).public_bytes(pem))
    chain = _certificate("db", server, "ca", authority, *names).public_bytes(pem)
    private = server.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "server.pem").write_bytes(private + chain)
    (directory / "no.pem").write_text("hello")
    return directory


def _shake_hands(keys: Path, tls: ServerTls, host: str) -> None:
    """What PyMySQL does with a context, against a server with that certificate. Raises what it would see."""
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(keys / "server.pem")
    here, there = socket.socketpair()

    def serve() -> None:
        with there:
            try:
                served.wrap_socket(there, server_side=True).close()
            except OSError:
                there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with here:
            here.settimeout(20)
            tls.context().wrap_socket(here, server_hostname=host).close()
    finally:
        thread.join()


HANDSHAKES: dict[str, tuple[dict[str, object], str, str | None]] = {
    "the right authority and name": ({"ca_file": "ca.pem"}, "db.shop.example", None),
    "the right authority and address": ({"ca_file": "ca.pem"}, "127.0.0.1", None),
    "another authority": ({"ca_file": "other.pem"}, "db.shop.example", "CERTIFICATE_VERIFY_FAILED"),
    "the system's authorities": ({}, "db.shop.example", "CERTIFICATE_VERIFY_FAILED"),
    "another name": ({"ca_file": "ca.pem"}, "evil.example", "Hostname mismatch"),
    "another address": ({"ca_file": "ca.pem"}, "127.0.0.2", "IP address mismatch"),
    "another address, but the configured name": ({"ca_file": "ca.pem", "name": "db.shop.example"}, "127.0.0.2", None),
    "the right address, but another configured name": (
        {"ca_file": "ca.pem", "name": "db2.shop.example"},
        "127.0.0.1",
        "Hostname mismatch",
    ),
    "another name, only the chain wanted": ({"ca_file": "ca.pem", "verify": Verify.CHAIN}, "evil.example", None),
    "another authority, only the chain wanted": (
        {"ca_file": "other.pem", "verify": Verify.CHAIN},
        "db.shop.example",
        "CERTIFICATE_VERIFY_FAILED",
    ),
    "another authority, nothing wanted": ({"ca_file": "other.pem", "verify": Verify.NOTHING}, "evil.example", None),
}


@pytest.mark.parametrize("case", list(HANDSHAKES))
def test_a_server_is_verified_as_configured(keys: Path, case: str) -> None:
    options, host, fails = HANDSHAKES[case]
    if "ca_file" in options:
        options = options | {"ca_file": keys / str(options["ca_file"])}
    tls = ServerTls(**options)  # type: ignore[arg-type]  # a table's row
    if fails is None:
        _shake_hands(keys, tls, host)
    else:
        with pytest.raises(ssl.SSLError, match=fails):
            _shake_hands(keys, tls, host)


@pytest.mark.parametrize(("name", "match"), [("no.pem", "holds no certificates"), ("missing.pem", "cannot be read")])
def test_a_file_of_authorities_that_is_of_no_use_is_named(keys: Path, name: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ServerTls(ca_file=keys / name).context()


def test_a_file_of_authorities_that_was_exchanged_is_read_again(keys: Path, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_bytes((keys / "other.pem").read_bytes())
    tls = ServerTls(ca_file=file)
    with pytest.raises(ssl.SSLError):
        _shake_hands(keys, tls, "db.shop.example")
    file.write_bytes((keys / "ca.pem").read_bytes())
    os.utime(file, (1, 1))
    _shake_hands(keys, tls, "db.shop.example")


@pytest.mark.parametrize(
    "tls",
    [None, ENCRYPTED, ServerTls(), ServerTls(verify=Verify.CHAIN, ca_file=Path("/etc/ca.pem"), name="db.shop.example")],
    ids=["in clear", "encrypted", "the system's authorities", "everything"],
)
def test_a_probe_is_told_how_to_encrypt_in_the_one_line_that_it_reads(tls: ServerTls | None) -> None:
    config = ProbeConfig(
        host="db.shop.example",
        port=3306,
        user="app",
        password=PLANTED,
        database="reaper",
        table="probe",
        clients=1,
        rate=1,
        ledger="ledger",
        tls=tls,
    )
    assert ProbeConfig.decode(config.encode()) == config
    assert config.encode().count("\n") == 1
    assert PLANTED not in repr(config)


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", '{"tls": true}', '{"tls": {"verify": "maybe", "ca_file": null, "name": null}}', "no JSON"],
)
def test_what_is_no_set_up_of_a_probe_is_no_crash(line: str) -> None:
    with pytest.raises((ValueError, TypeError)):
        ProbeConfig.decode(line)
