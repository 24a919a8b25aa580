"""A Postgres of one test module: its own directory, a spare port on the loopback, gone with the block."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

PATIENCE = 60.0  # seconds
MISSING = "Postgres is missing: `apt-get install postgresql` installs what this needs (initdb and postgres)"


def _program(name: str) -> str:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: float(p.parts[-3]))
    found = shutil.which(name) or (str(versions[-1]) if versions else None)
    if found is None:
        pytest.skip(MISSING)
    return found


def _user() -> str | None:
    """Servers refuse to run as root."""
    if os.geteuid() != 0:
        return None
    names = [entry.pw_name for entry in pwd.getpwall()]
    return "postgres" if "postgres" in names else "nobody"


def _spare_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres() -> Iterator[str]:
    """The address of a running server with an empty database."""
    initdb, server, user = _program("initdb"), _program("postgres"), _user()
    home = Path(tempfile.mkdtemp(prefix="reaper-postgres-"))
    try:
        if user is not None:
            shutil.chown(home, user)
        data, log = home / "data", home / "log"
        made = subprocess.run(
            [
                initdb,
                "--pgdata",
                str(data),
                "--username",
                "reaper",
                "--auth",
                "trust",
                "--no-sync",
                "-E",
                "UTF8",
                "--no-locale",
            ],
            user=user,
            cwd=home,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        port = _spare_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "fsync": "off",  # the machine's power is not cut here, only processes are killed
            "max_connections": "200",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with log.open("w") as output:
            running = subprocess.Popen(
                [server, "-D", str(data), *options], user=user, cwd=home, stdout=output, stderr=output
            )
        try:
            address = f"postgresql://reaper@127.0.0.1:{port}/postgres"
            _wait_until_it_answers(address, running, log)
            yield address
        finally:
            running.send_signal(signal.SIGQUIT)  # immediate: nothing of it is kept
            try:
                running.wait(timeout=PATIENCE)
            finally:
                running.kill()
                running.wait()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _wait_until_it_answers(address: str, running: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert running.poll() is None, log.read_text()
        try:
            psycopg.connect(address, connect_timeout=3).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        else:
            return
