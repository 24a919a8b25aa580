"""The EC2 provider for the contract: one AWS lab for all tests of a process, a cluster of its own for each test."""

import atexit
import contextlib
import functools
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from reaper.adapters.aws import lab
from reaper.adapters.aws.ec2 import Ec2Fleet
from reaper.adapters.aws.labbook import LabBook
from reaper.adapters.clock import SystemClock
from reaper.adapters.local.endpoint import EndpointConfig, LocalEndpoint, spawn
from reaper.adapters.local.process import end, free_port, identify
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.engines import dialect_of, find_engine
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.mysql.server import SqlServer
from reaper.domain.errors import ReaperError
from reaper.domain.facts import Address, Instance
from reaper.testing.fleet import MemoryFleet
from reaper.testing.world import world
from reaper.workflow.world import World

FINDER = "reaper.adapters.mysql.engines:find_engine"
_numbers = itertools.count(1)


@functools.cache
def shared_lab() -> Path:
    """A lab without clusters, gone with the process."""
    home = Path(tempfile.mkdtemp(prefix="reaper-aws-")) / "lab"
    atexit.register(shutil.rmtree, home.parent, ignore_errors=True)
    lab.start(home, find_engine(None), FINDER)
    atexit.register(lab.down, home)
    return home


def connect_in(home: Path) -> lab.Connect:
    """Connections with reaper's own account of a lab."""
    book = LabBook.read(home)
    dialect = dialect_of(book.flavour)

    def connect(cluster: str, instance: Instance) -> SqlServer:
        del cluster
        connection = Connection(instance.address, book.logins.admin, tls=dialect.tls)
        return SqlServer(instance, connection, dialect, ReplicationAccount(book.logins.replication))

    return connect


@contextmanager
def ec2_world() -> Iterator[tuple[World, str]]:
    """The world of a fresh cluster of three, and the cluster's name. Nothing of it is left."""
    home, cluster = shared_lab(), f"contract-{next(_numbers)}"
    fleet, connect = Ec2Fleet(lab.settings_of(home)), connect_in(home)
    files = Path(tempfile.mkdtemp(prefix="reaper-door-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, files, ignore_errors=True)
        stack.callback(_remove, fleet, cluster)
        members = lab.add_cluster(home, cluster, connect)
        listen = Address("127.0.0.1", free_port(set(), near=files))
        door = EndpointConfig(
            listen=listen,
            control=files / "control.sock",
            target=members[0].address,
            state=files / "route.json",
            log=files / "endpoint.log",
        )
        process = identify(spawn(door))
        stack.callback(end, process, "the endpoint", polite_for=timedelta(0), within=timedelta(seconds=10))
        real = replace(
            world(MemoryFleet()),  # for what a provider has no part in
            fleet=fleet,
            connect=connect,
            endpoint=lambda _cluster: LocalEndpoint(listen, door.control),
            clock=SystemClock(),
        )
        yield real, cluster


def _remove(fleet: Ec2Fleet, cluster: str) -> None:
    with contextlib.suppress(ReaperError):  # it may not have been made
        for snapshot in fleet.snapshots(cluster):
            fleet.forget(cluster, snapshot.name)
        for member in fleet.members(cluster):
            fleet.retire(member)
