"""The endpoint process and its client, against tiny servers that greet with their name and echo."""

import contextlib
import json
import os
import signal
import socket
import socketserver
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from reaper.adapters.local.endpoint import EndpointConfig, LocalEndpoint, spawn
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address

PATIENCE_SECONDS = 30.0  # generous: how long anything may take before a test gives up
FOREVER = timedelta(minutes=10)  # a hold that never ends during a test


class Echo(socketserver.ThreadingTCPServer):
    """Greets with its one-letter name, as a database server speaks first; hangs up on `bye`."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, name: bytes, port: int = 0) -> None:
        self.name = name
        super().__init__(("127.0.0.1", port), _Echoing)
        self.address = Address("127.0.0.1", self.server_address[1])
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class _Echoing(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Echo)
        with contextlib.suppress(ConnectionError):
            self.request.sendall(self.server.name)
            while data := self.request.recv(65536):
                if data == b"bye":
                    return
                self.request.sendall(data)


class Lab:
    """Starts endpoints, servers and clients, and ends all of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = contextlib.ExitStack()
        self._living: set[int] = set()

    def echo(self, name: bytes, port: int = 0) -> Echo:
        server = Echo(name, port)
        self.stack.callback(server.server_close)
        self.stack.callback(server.shutdown)
        return server

    def dead(self) -> Address:
        """An address that refuses connections and that nobody else is given."""
        reserved = self.stack.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        return Address(*reserved.getsockname())

    def config(self, target: Address | None, hold: timedelta = FOREVER, most_held: int = 1000) -> EndpointConfig:
        return EndpointConfig(
            listen=self.dead(),
            control=self.directory / "control.sock",
            target=target,
            state=self.directory / "endpoint.json",
            log=self.directory / "endpoint.log",
            hold=hold,
            most_held=most_held,
        )

    def start(self, config: EndpointConfig) -> int:
        pid = spawn(config)
        self._living.add(pid)
        return pid

    def send(self, pid: int, number: signal.Signals) -> None:
        os.kill(pid, number)

    def end(self, pid: int, number: signal.Signals) -> int:
        """End a process and wait for it; returns its exit code, negative for a signal."""
        os.kill(pid, number)
        _, status = os.waitpid(pid, 0)
        self._living.discard(pid)
        return os.waitstatus_to_exitcode(status)

    def door(self, config: EndpointConfig) -> LocalEndpoint:
        return self.stack.enter_context(contextlib.closing(LocalEndpoint(config.listen, config.control)))

    def client(self, config: EndpointConfig) -> socket.socket:
        where = (config.listen.host, config.listen.port)
        return self.stack.enter_context(socket.create_connection(where, timeout=PATIENCE_SECONDS))

    def close(self) -> None:
        for pid in tuple(self._living):
            with contextlib.suppress(ProcessLookupError):
                self.end(pid, signal.SIGKILL)
        self.stack.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with contextlib.closing(Lab(tmp_path)) as it:
        yield it


def raw(config: EndpointConfig, request: bytes) -> dict[str, object]:
    """One control request as bytes, in a connection of its own."""
    directory = os.open(config.control.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(PATIENCE_SECONDS)
            control.connect(f"/proc/self/fd/{directory}/{config.control.name}")
            control.sendall(request)
            answer = json.loads(control.makefile("rb").readline())
    finally:
        os.close(directory)
    assert isinstance(answer, dict)
    return answer


def show(config: EndpointConfig) -> dict[str, object]:
    return raw(config, b'{"op": "show"}\n')


def eventually(true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def held(config: EndpointConfig, count: int) -> Callable[[], bool]:
    return lambda: show(config)["held"] == count


def read(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := client.recv(size - len(data))):
        data += part
    return data


def hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def served(client: socket.socket, name: bytes) -> bool:
    """It is greeted by that server, and its bytes come back."""
    greeting = read(client, 1)
    client.sendall(b"hello")
    return (greeting, read(client, 5)) == (name, b"hello")


def test_bytes_pass_both_ways(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    lab.start(config)
    assert served(lab.client(config), b"A")


def test_five_megabytes_arrive_whole_at_a_slow_reader(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    lab.start(config)
    client = lab.client(config)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    sent = os.urandom(1024) * 5120
    sender = threading.Thread(target=client.sendall, args=(sent,), daemon=True)
    sender.start()
    got = bytearray()
    while len(got) < 1 + len(sent) and (part := client.recv(16384)):
        got += part
        if len(got) < 1_000_000:
            time.sleep(0.002)
    sender.join(PATIENCE_SECONDS)
    assert bytes(got) == b"A" + sent


def test_a_half_close_passes_and_the_answer_still_comes_back(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    lab.start(config)
    client = lab.client(config)
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert read(client, 100) == b"Alast words"
    eventually(lambda: show(config)["clients"] == 0)


def test_a_server_that_hangs_up_ends_the_client(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    lab.start(config)
    client = lab.client(config)
    assert served(client, b"A")
    client.sendall(b"bye")
    assert hung_up(client)


def test_a_client_that_leaves_is_forgotten(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    lab.start(config)
    client = lab.client(config)
    assert served(client, b"A")
    assert show(config)["clients"] == 1
    client.close()
    eventually(lambda: show(config)["clients"] == 0)


def test_moving_the_route_drops_old_clients_and_new_ones_reach_the_new_target(lab: Lab) -> None:
    a, b = lab.echo(b"A"), lab.echo(b"B")
    config = lab.config(a.address)
    lab.start(config)
    door = lab.door(config)
    door.warm()
    old = lab.client(config)
    assert served(old, b"A")
    moved = door.route(b.address, a.address)
    assert (moved.target, moved.epoch, moved.clients) == (b.address, 1, 0)
    assert hung_up(old)
    assert served(lab.client(config), b"B")
    assert door.show().target == b.address


def test_drop_leads_nowhere_and_the_next_client_is_held_until_there_is_a_route(lab: Lab) -> None:
    a = lab.echo(b"A")
    config = lab.config(a.address)
    lab.start(config)
    old = lab.client(config)
    assert served(old, b"A")
    answer = raw(config, b'{"op": "drop"}\n')
    assert (answer["ok"], answer["target"], answer["clients"]) == (True, None, 0)
    assert hung_up(old)
    waiting = lab.client(config)
    eventually(held(config, 1))
    lab.door(config).route(a.address, None)
    assert served(waiting, b"A")


def test_a_client_held_while_the_target_is_dead_is_connected_after_the_move(lab: Lab) -> None:
    dead, b = lab.dead(), lab.echo(b"B")
    config = lab.config(dead)
    lab.start(config)
    waiting = [lab.client(config) for _ in range(20)]
    eventually(held(config, 20))
    lab.door(config).route(b.address, dead)
    assert all(served(client, b"B") for client in waiting)
    assert show(config)["held"] == 0


def test_what_a_client_says_while_it_is_held_is_not_lost(lab: Lab) -> None:
    b = lab.echo(b"B")
    config = lab.config(None)
    lab.start(config)
    client = lab.client(config)
    words = os.urandom(300_000)  # more than is read while it is held
    sender = threading.Thread(target=client.sendall, args=(words,), daemon=True)
    sender.start()
    eventually(held(config, 1))
    lab.door(config).route(b.address, None)
    assert read(client, 1 + len(words)) == b"B" + words


def test_a_held_client_is_closed_when_its_time_is_up(lab: Lab) -> None:
    config = lab.config(lab.dead(), hold=timedelta(milliseconds=100))
    lab.start(config)
    clients = [lab.client(config) for _ in range(3)]
    assert all(hung_up(client) for client in clients)
    eventually(lambda: show(config)["clients"] == 0)


def test_a_held_client_that_leaves_is_forgotten(lab: Lab) -> None:
    config = lab.config(None)
    lab.start(config)
    client = lab.client(config)
    eventually(held(config, 1))
    client.close()
    eventually(held(config, 0))


def test_clients_beyond_the_bound_are_closed_and_those_within_stay(lab: Lab) -> None:
    b = lab.echo(b"B")
    config = lab.config(None, most_held=2)
    lab.start(config)
    within = [lab.client(config) for _ in range(2)]
    eventually(held(config, 2))
    assert hung_up(lab.client(config))
    lab.door(config).route(b.address, None)
    assert all(served(client, b"B") for client in within)


def test_a_connect_that_hangs_is_done_again_when_the_route_moves(lab: Lab) -> None:
    """A listener with a full backlog answers no SYN, so that a connect to it hangs."""
    full, b = lab.stack.enter_context(socket.socket()), lab.echo(b"B")
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    for _ in range(8):
        filler = lab.stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(full.getsockname())
    config = lab.config(Address(*full.getsockname()))
    lab.start(config)
    client = lab.client(config)
    eventually(held(config, 1))
    lab.door(config).route(b.address, None)
    assert served(client, b"B")


@pytest.mark.parametrize("killed", [False, True], ids=["still frozen", "then killed"])
def test_a_client_in_the_backlog_of_a_frozen_server_is_moved_unnoticed(lab: Lab, killed: bool) -> None:
    """The kernel accepts for a frozen server; no byte has passed, so nothing is lost by moving the client."""
    frozen, b = lab.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=16)), lab.echo(b"B")
    config = lab.config(Address(*frozen.getsockname()))
    lab.start(config)
    client = lab.client(config)
    eventually(lambda: (show(config)["clients"], show(config)["held"]) == (1, 0))
    if killed:
        frozen.close()  # resets what waits in the backlog
        eventually(held(config, 1))
    lab.door(config).route(b.address, None)
    assert served(client, b"B")


def test_a_stale_expectation_is_refused_and_changes_nothing(lab: Lab) -> None:
    a, b, c = lab.echo(b"A"), lab.echo(b"B"), lab.echo(b"C")
    config = lab.config(a.address)
    lab.start(config)
    client = lab.client(config)
    assert served(client, b"A")
    before = show(config)
    with pytest.raises(RefusedError, match=f"it leads to {a.address}, not to {b.address}"):
        lab.door(config).route(c.address, b.address)
    assert show(config) == before
    client.sendall(b"still here")
    assert read(client, 10) == b"still here"


def test_a_move_to_where_it_leads_already_is_done_whatever_is_expected(lab: Lab) -> None:
    a, b = lab.echo(b"A"), lab.echo(b"B")
    config = lab.config(a.address)
    lab.start(config)
    door = lab.door(config)
    door.route(b.address, a.address)
    client = lab.client(config)
    assert served(client, b"B")
    again = door.route(b.address, a.address)
    assert (again.target, again.epoch, again.clients) == (b.address, 1, 1)
    client.sendall(b"still here")
    assert read(client, 10) == b"still here"


def test_it_does_not_lead_to_itself(lab: Lab) -> None:
    config = lab.config(None)
    lab.start(config)
    with pytest.raises(RefusedError, match="itself"):
        lab.door(config).route(config.listen, None)


def test_a_move_that_cannot_be_recorded_is_not_made(lab: Lab) -> None:
    a, b = lab.echo(b"A"), lab.echo(b"B")
    config = lab.config(a.address)
    lab.start(config)
    config.state.with_name("endpoint.json.tmp").mkdir()
    with pytest.raises(TryAgainError, match="state file"):
        lab.door(config).route(b.address, a.address)
    assert lab.door(config).show().target == a.address


def test_the_route_survives_kill_9_and_a_kept_control_connection_recovers(lab: Lab) -> None:
    a, b = lab.echo(b"A"), lab.echo(b"B")
    config = lab.config(a.address)
    first = lab.start(config)
    door = lab.door(config)
    door.route(b.address, a.address)
    lab.end(first, signal.SIGKILL)
    assert config.control.exists()  # stale, and replaced by the next process
    lab.start(config)
    assert (door.show().target, door.show().epoch) == (b.address, 1)
    assert served(lab.client(config), b"B")


def test_a_damaged_state_file_is_an_error_not_a_guess(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    config.state.write_text("")
    with pytest.raises(UsageError, match="damaged"):
        lab.start(config)


def test_sigterm_ends_it_cleanly_and_other_signals_do_not(lab: Lab) -> None:
    config = lab.config(lab.echo(b"A").address)
    pid = lab.start(config)
    lab.send(pid, signal.SIGHUP)
    lab.send(pid, signal.SIGINT)
    client = lab.client(config)
    assert served(client, b"A")
    assert stat.S_IMODE(config.control.stat().st_mode) == 0o600
    assert lab.end(pid, signal.SIGTERM) == 0
    assert hung_up(client)
    assert not config.control.exists()
    assert "Traceback" not in config.log.read_text()
    with pytest.raises(TryAgainError, match="start it again"):
        lab.door(config).show()


def test_a_frozen_process_is_try_again_and_its_late_answer_is_not_mistaken(lab: Lab) -> None:
    a, b = lab.echo(b"A"), lab.echo(b"B")
    config = lab.config(a.address)
    pid = lab.start(config)
    door = lab.door(config)
    door.warm()
    lab.send(pid, signal.SIGSTOP)
    with pytest.raises(TryAgainError):
        door.show()
    lab.send(pid, signal.SIGCONT)
    assert door.route(b.address, a.address).target == b.address


@pytest.mark.parametrize(
    "request_line",
    [
        pytest.param(b"\n", id="an empty line"),
        pytest.param(b"route me\n", id="not JSON"),
        pytest.param(b"\xff\xfe\n", id="not UTF-8"),
        pytest.param(b"[]\n", id="not an object"),
        pytest.param(b'{"op": "kill"}\n', id="an unknown operation"),
        pytest.param(b'{"op": "route"}\n', id="a route without a target"),
        pytest.param(b'{"op": "route", "target": null}\n', id="a route to null"),
        pytest.param(b'{"op": "route", "target": ["127.0.0.1", "80"]}\n', id="a port that is a string"),
        pytest.param(b'{"op": "route", "target": ["127.0.0.1", 70000]}\n', id="a port out of range"),
        pytest.param(b'{"op": "route", "target": ["db.example", 80]}\n', id="a name that would be looked up"),
        pytest.param(b'{"op": "route", "target": ["\\u0000", 80]}\n', id="a host with a zero byte"),
        pytest.param(b'{"op": "route", "target": ["127.0.0.1", 80], "expect": 5}\n', id="a senseless expectation"),
        pytest.param(b"[" * 60_000 + b"\n", id="deep nesting"),
        pytest.param(b"x" * 200_000, id="a line without end"),
    ],
)
def test_a_malformed_control_request_is_answered_and_changes_nothing(lab: Lab, request_line: bytes) -> None:
    a = lab.echo(b"A")
    config = lab.config(a.address)
    lab.start(config)
    before = show(config)
    answer = raw(config, request_line)
    assert (answer["ok"], answer["kind"]) == (False, "malformed")
    assert answer["error"]
    assert show(config) == before
    assert served(lab.client(config), b"A")


def test_a_taken_port_is_one_clear_error(lab: Lab) -> None:
    config = lab.config(None)
    lab.echo(b"A", config.listen.port)
    with pytest.raises(UsageError, match=f"cannot listen on {config.listen}: Address already in use"):
        lab.start(config)
    assert not config.control.exists()


def test_a_taken_port_is_one_line_of_json_and_exit_code_1(lab: Lab) -> None:
    port = lab.echo(b"A").address.port
    line: dict[str, object] = {"listen": ["127.0.0.1", port], "target": None}
    line |= {key: str(lab.directory / key) for key in ("control", "state", "log")}
    done = subprocess.run(
        [sys.executable, "-m", "reaper.adapters.local.endpoint_process"],
        input=json.dumps(line).encode() + b"\n",
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 1
    assert list(json.loads(done.stdout)) == ["error"]
    assert done.stderr == b""


def test_a_second_process_does_not_steal_the_control_socket(lab: Lab) -> None:
    first, second = lab.config(None), lab.config(None)
    lab.start(first)
    with pytest.raises(UsageError, match="another process answers"):
        lab.start(second)
    assert show(first)["ok"] is True


def test_directories_with_long_names_work(lab: Lab) -> None:
    lab.directory = lab.directory / ("d" * 120) / ("e" * 120)
    lab.directory.mkdir(parents=True)
    a, b = lab.echo(b"A"), lab.echo(b"B")
    config = lab.config(a.address)
    pid = lab.start(config)
    door = lab.door(config)
    assert door.route(b.address, a.address).target == b.address
    assert served(lab.client(config), b"B")
    lab.end(pid, signal.SIGKILL)
    lab.start(config)
    assert door.show().target == b.address
