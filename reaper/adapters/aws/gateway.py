"""The lab's way from outside: traffic to an Elastic IP goes to whoever has it now, as through an internet gateway.

A public address is a loopback address of the lab's network that no subnet has. At each one that is allocated a process
listens (`reaper.adapters.local.endpoint_process`, by its documented lines of JSON) and is told what moto's state says.
"""

import contextlib
import ipaddress
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reaper.adapters.aws.labbook import FORWARDER
from reaper.adapters.aws.likeness import put
from reaper.domain.facts import Address

Associations = dict[str, Address | None]  # by public address: where its traffic goes, None is nowhere
_HOLD_S = 0.5  # a client waits so long for a target: on AWS its packets are lost, and it repeats the first after 1 s
_STARTS_WITHIN_S = 60.0
_ANSWERS_WITHIN_S = 5.0
_ENDS_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.1  # for what changes without a call, such as a group that ends a member


class Gateway:
    """Keeps the forwarders in line with what `look` says. `wake` lets it look at once."""

    def __init__(self, home: Path, look: Callable[[], Associations], port: int) -> None:
        self._home = home
        self._look = look
        self._port = port
        self._forwarders: dict[str, Forwarder] = {}
        self._news = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._follow, name="gateway", daemon=True)

    def start(self) -> None:
        """Follow, in a thread."""
        self._thread.start()

    def wake(self) -> None:
        """Something may have changed."""
        self._news.set()

    def close(self) -> None:
        """End every forwarder."""
        self._over = True
        self.wake()
        self._thread.join()
        for forwarder in self._forwarders.values():
            forwarder.end()
        for forwarder in self._forwarders.values():
            forwarder.wait()

    def _follow(self) -> None:
        while not self._over:
            wanted = self._look()
            for public in self._forwarders.keys() - wanted.keys():
                forwarder = self._forwarders.pop(public)
                forwarder.end()
                forwarder.wait()  # its address may be given to somebody else
            for public, target in wanted.items():
                if public not in self._forwarders:
                    self._forwarders[public] = Forwarder(self._home, Address(public, self._port))
                self._forwarders[public].lead(target)
            self._news.wait(_LOOK_EVERY_S)
            self._news.clear()


class Forwarder:
    """One public address. Its own thread starts the process and moves it, so that no other address waits for that."""

    def __init__(self, home: Path, listen: Address) -> None:
        self._home = home
        self._listen = listen
        self._told: Address | None = None
        self._work: queue.SimpleQueue[Address | _End | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._labour, name=f"door {listen.host}", daemon=True)
        self._thread.start()

    def lead(self, target: Address | None) -> None:
        """Lead new connections there from soon on; those to a former target are ended. None: nowhere."""
        if target != self._told:
            self._told = target
            self._work.put(target)

    def end(self) -> None:
        """End the process, in the background."""
        self._work.put(_End())

    def wait(self) -> None:
        """Until it has ended."""
        self._thread.join()

    def _labour(self) -> None:
        directory = self._home / "doors" / self._listen.host
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with _running(self._home, directory, self._listen), _control(directory) as say:
                while not isinstance(target := self._work.get(), _End):
                    # Nowhere first: a connection on which nothing has passed yet would else be moved and live on.
                    say({"op": "drop"})
                    if target is not None:
                        say({"op": "route", "target": [target.host, target.port], "expect": None})
        except (OSError, ValueError) as error:
            with (self._home / "gateway.log").open("a") as log:
                print(f"the door {self._listen} leads nowhere any more: {error}", file=log)


class _End:
    """There is nothing more to come."""


@contextlib.contextmanager
def _running(home: Path, directory: Path, listen: Address) -> Iterator[None]:
    """The process behind a door. The lab's directory is on its command line: by that it is found if we are killed."""
    config = {
        "listen": [listen.host, listen.port],
        "control": str(directory / "control"),
        "target": None,
        "state": str(directory / "state.json"),
        "log": str(directory / "log"),
        "hold_seconds": _HOLD_S,
    }
    (directory / "state.json").unlink(missing_ok=True)  # of whoever had the address before
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", FORWARDER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    late = threading.Timer(_STARTS_WITHIN_S, process.kill)
    late.daemon = True
    late.start()
    try:
        with process.stdout as stdout, process.stdin as stdin:
            stdin.write(json.dumps(config).encode() + b"\n")
            stdin.flush()
            said = stdout.readline()
        late.cancel()
        if b'"ready"' not in said:
            raise ValueError(f"it does not start: {said.decode(errors='replace').strip() or 'too slow, or killed'}")
        yield
    finally:
        late.cancel()
        process.terminate()
        try:
            process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _control(directory: Path) -> Iterator[Callable[[dict[str, object]], None]]:
    """The forwarder's control connection. ValueError: it says no. OSError: it does not answer."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_ANSWERS_WITHIN_S)
        with connection, connection.makefile("rb") as answers:
            # A Unix address has room for 107 bytes; through the directory's descriptor any path is short.
            connection.connect(f"/proc/self/fd/{descriptor}/control")

            def say(request: dict[str, object]) -> None:
                connection.sendall(json.dumps(request).encode() + b"\n")
                line = answers.readline()
                if not line:
                    raise ConnectionResetError("its process has ended")
                if not json.loads(line)["ok"]:
                    raise ValueError(line.decode())

            yield say
    finally:
        os.close(descriptor)


# ---- moto


def associations(public_range: str, port: int) -> Associations:
    """What moto's state says of every address of the lab. Whoever calls it holds the control plane's lock."""
    from moto.ec2.models import ec2_backends

    network = ipaddress.ip_network(public_range)
    return {
        elastic.public_ip: Address(elastic.private_ip_address, port) if elastic.private_ip_address else None
        for account in ec2_backends.values()
        for backend in account.values()
        for elastic in backend.addresses
        if ipaddress.ip_address(elastic.public_ip) in network
    }


@contextlib.contextmanager
def public_addresses(public_range: str) -> Iterator[None]:
    """Elastic IPs come from this range, so that there is somebody at each; the first one that nobody has."""
    from moto.ec2.exceptions import EC2ClientError
    from moto.ec2.models import ec2_backends, elastic_ip_addresses

    def free() -> str:
        backends: list[Any] = [backend for account in ec2_backends.values() for backend in account.values()]
        taken = {elastic.public_ip for backend in backends for elastic in backend.addresses}
        for host in ipaddress.ip_network(public_range).hosts():
            if str(host) not in taken:
                return str(host)
        raise EC2ClientError("AddressLimitExceeded", f"all addresses of {public_range} are allocated")

    with contextlib.ExitStack() as changes:
        put(changes, elastic_ip_addresses, "random_ip", free)
        yield
