"""Small servers on loopback that answer as a test says, well or badly, and end with the test."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

WAIT_S = 60.0  # for what has to happen at all; nothing is measured


@dataclass(kw_only=True)
class Peer:
    """A server that runs one function per connection."""

    port: int
    stopping: threading.Event = field(default_factory=threading.Event)
    hung_up: threading.Event = field(default_factory=threading.Event)  # the client has gone away
    heard: list[bytes] = field(default_factory=list)  # one entry per request or mail

    def url(self, path: str = "", *, scheme: str = "http", login: str = "") -> str:
        return f"{scheme}://{login}127.0.0.1:{self.port}{path}"


Answer = Callable[[socket.socket, Peer], None]


@contextmanager
def peer(answer: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Peer]:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(0.02)
        me = Peer(port=listener.getsockname()[1])
        threads: list[threading.Thread] = []

        def serve(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.settimeout(WAIT_S)
                if tls is None:
                    answer(connection, me)
                    return
                with tls.wrap_socket(connection, server_side=True) as wrapped:
                    answer(wrapped, me)

        def accept() -> None:
            while not me.stopping.is_set():
                with contextlib.suppress(TimeoutError):
                    threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                    threads[-1].start()

        acceptor = threading.Thread(target=accept)
        acceptor.start()

        def stop() -> None:
            me.stopping.set()
            for thread in (acceptor, *threads):
                thread.join(WAIT_S)

        stack.callback(stop)
        yield me


def read_request(connection: socket.socket, me: Peer) -> None:
    """Read one HTTP request whole."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += _more(connection)
    head, _, body = text.partition(b"\r\n\r\n")
    length = next((int(h.split(b":")[1]) for h in head.splitlines() if h.lower().startswith(b"content-length")), 0)
    while len(body) < length:
        body += _more(connection)
    me.heard.append(head + b"\r\n\r\n" + body)


def _more(connection: socket.socket) -> bytes:
    chunk = connection.recv(65536)
    if not chunk:
        raise ConnectionError("the client has gone")
    return chunk


def http(status: int = 200, body: bytes = b"", *headers: str) -> Answer:
    """Answer every request with this."""
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(body)}", *headers, "", ""]
    return raw("\r\n".join(lines).encode() + body)


def http_in_turn(*statuses: int) -> Answer:
    """One status per request; the last one from then on."""

    def answer(connection: socket.socket, me: Peer) -> None:
        read_request(connection, me)
        status = statuses[min(len(me.heard), len(statuses)) - 1]
        connection.sendall(f"HTTP/1.1 {status} Word\r\nContent-Length: 0\r\n\r\n".encode())

    return answer


def raw(text: bytes) -> Answer:
    """Answer every request with these bytes."""

    def answer(connection: socket.socket, me: Peer) -> None:
        read_request(connection, me)
        connection.sendall(text)

    return answer


def as_json(value: object) -> Answer:
    return http(200, json.dumps(value).encode())


def hangs(connection: socket.socket, me: Peer) -> None:
    """Take the request and say nothing until the client goes."""
    read_request(connection, me)
    _until_gone(connection, me, b"")


def drips(head: bytes) -> Answer:
    """Say something, then single bytes for ever."""

    def answer(connection: socket.socket, me: Peer) -> None:
        read_request(connection, me)
        connection.sendall(head)
        _until_gone(connection, me, b"x")

    return answer


def _until_gone(connection: socket.socket, me: Peer, said: bytes) -> None:
    connection.settimeout(0.02)
    try:
        while not me.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                if not connection.recv(1):
                    break
            if said:
                connection.sendall(said)
    except OSError:
        pass
    me.hung_up.set()


def refusing_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def certificate(directory: Path, host: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate that trusts itself, and a server's side of it. `host`: an address or a name."""
    import ipaddress
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    with_name: x509.GeneralName = x509.DNSName(host)
    with contextlib.suppress(ValueError):
        with_name = x509.IPAddress(ipaddress.ip_address(host))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([with_name]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = directory / f"{host}.pem", directory / f"{host}.key"
    public.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return public, context


def eventually(happens: Callable[[], bool]) -> None:
    """Wait for something to happen at all."""
    for _ in range(int(WAIT_S / 0.02)):
        if happens():
            return
        time.sleep(0.02)
    raise AssertionError("it never happened")


def all_dead(pids: Path) -> bool:
    """Whether every process whose number is in a file has ended; reaped or not."""
    return not any(_lives(int(pid)) for pid in pids.read_text().split())


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
