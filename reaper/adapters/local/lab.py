"""Make and remove a lab: a replicating cluster of real servers on loopback, with an endpoint in front."""

import contextlib
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

from reaper.adapters.accounts import AccountRecord
from reaper.adapters.local import process
from reaper.adapters.local.copies import remove_tree
from reaper.adapters.local.endpoint import EndpointConfig, LocalEndpoint, spawn
from reaper.adapters.local.fleet import allocate, ports_locked
from reaper.adapters.local.registry import InstanceRecord, LabRecord, Registry
from reaper.adapters.local.servers import Connect, boot, describe, running
from reaper.domain.errors import ReaperError, TryAgainError, UsageError
from reaper.domain.facts import Address, ThreadState
from reaper.workflow.engine import Engine
from reaper.workflow.ports import Clock
from reaper.workflow.server import Server

SCHEMAS = ("reaper", "app")  # reaper's own, and the one that `lab load` writes into
_ODD_LETTERS = "#\\\"'`"
LOOPBACK = "127.0.0.1"

_REPLICATE_WITHIN = timedelta(seconds=30)
_LOOK_EVERY = timedelta(milliseconds=20)
_END_WITHIN = timedelta(seconds=30)


def up(
    registry: Registry,
    engine: Engine,
    connect: Connect,
    clock: Clock,
    *,
    nodes: int,
    check: Callable[[], None],
) -> LabRecord:
    """Make a lab of `nodes` servers; nothing is left on failure. One whose endpoint has died gets it back.

    UsageError: it exists and its endpoint lives, or the request is wrong.
    """
    name = registry.home.name
    if not 2 <= nodes <= 20:
        raise UsageError(f"a lab has 2 to 20 nodes, not {nodes}: a master without a replica cannot fail over")
    odd = {letter for letter in str(registry.home) if letter.isspace() or letter in _ODD_LETTERS}
    if odd:
        raise UsageError(
            f"the data directory {str(registry.home)!r} has {', '.join(map(repr, sorted(odd)))} in its name, which the "
            "servers' own tools cannot handle: set REAPER_HOME to another place"
        )
    if registry.exists():
        if restart_endpoint(registry):
            return registry.read()
        raise UsageError(f"the lab {name} exists: `reaper lab down --name {name}` removes it")
    try:
        _make(registry, engine, connect, clock, nodes, check)
    except BaseException:
        with contextlib.suppress(ReaperError):
            down(registry)
        raise
    return registry.read()


def _make(
    registry: Registry, engine: Engine, connect: Connect, clock: Clock, nodes: int, check: Callable[[], None]
) -> None:
    with ports_locked(registry.home.parent) as taken:
        records = _register(registry, engine, nodes, taken)
    lab = registry.read()
    seed = registry.home / "seed"
    engine.initialise(seed, lab.logins, SCHEMAS, registry.home / "initialise.log")
    for record in records:
        check()
        seat = registry.seat(record)
        seat.home.mkdir(parents=True)
        shutil.copytree(seed, seat.data)
        engine.strip(seat.data)
    remove_tree(seed)
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda r: boot(registry, engine, r.name, connect, check), records))
    master, *replicas = (describe(registry, lab.name, r) for r in registry.read().instances)
    with contextlib.ExitStack() as stack:
        for replica in replicas:
            server = stack.enter_context(contextlib.closing(connect(lab.name, replica)))
            server.join(master.address, position=None, history=None)
            _wait_replicating(server, clock)
        server = stack.enter_context(contextlib.closing(connect(lab.name, master)))
        server.promote(arm_semi_sync=True)
    _start_endpoint(registry, master.address)


def _register(registry: Registry, engine: Engine, nodes: int, taken: set[int]) -> list[InstanceRecord]:
    lab = LabRecord(
        name=registry.home.name,
        flavour=engine.flavour,
        server=engine.program,
        version=engine.version,
        created=datetime.now(UTC),
        endpoint_port=process.free_port(taken, near=registry.home.parent),
        admin=_login("reaper"),
        replication=_login("replication"),
        application=_login("application"),
    )
    records = [allocate(lab, taken, registry.home.parent, token=None) for _ in range(nodes)]
    registry.create(lab)
    return records


def _login(user: str) -> AccountRecord:
    return AccountRecord.model_validate({"user": user, "password": secrets.token_urlsafe(24)})


def _wait_replicating(server: Server, clock: Clock) -> None:
    deadline = clock.monotonic_ns() + int(_REPLICATE_WITHIN.total_seconds() * 1e9)
    while True:
        facts = server.facts()
        states = {(c.receiver, c.applier) for c in facts.channels}
        if states == {(ThreadState.RUNNING, ThreadState.RUNNING)} and facts.semi_sync.replica_active:
            return
        if clock.monotonic_ns() > deadline:
            why = "; ".join(str(c.receiver_error or c.applier_error or c.receiver) for c in facts.channels)
            raise TryAgainError(f"{server.instance} does not replicate within {_REPLICATE_WITHIN}: {why}")
        clock.sleep(_LOOK_EVERY)


def _start_endpoint(registry: Registry, target: Address | None) -> None:
    directory = registry.control.parent
    directory.mkdir(exist_ok=True)
    with registry.change() as lab:
        pid = spawn(
            EndpointConfig(
                listen=Address(LOOPBACK, lab.endpoint_port),
                control=registry.control,
                target=target,
                state=_route_file(registry),
                log=directory / "endpoint.log",
            )
        )
        lab.endpoint = process.identify(pid)


def _route_file(registry: Registry) -> Path:
    return registry.control.parent / "route.json"


def restart_endpoint(registry: Registry) -> bool:
    """Start the endpoint of a lab again if it has died; it remembers where it led. False: it lives."""
    lab = registry.read()
    if lab.endpoint is None or not _route_file(registry).exists():
        raise UsageError(f"the lab {lab.name} is half-made: `reaper lab down --name {lab.name}` removes what is there")
    if process.state_of(lab.endpoint) is not None:
        return False
    _start_endpoint(registry, None)
    return True


def endpoint_of(registry: Registry) -> LocalEndpoint:
    """The control connection of a lab's endpoint."""
    return LocalEndpoint(Address(LOOPBACK, registry.read().endpoint_port), registry.control)


def down(registry: Registry) -> tuple[str, ...]:
    """End every process of the lab and delete its directory. Returns the names of what was ended."""
    ended = []
    if registry.exists():
        lab = registry.read()
        endpoint = lab.endpoint if process.state_of(lab.endpoint) else process.find(str(registry.control))
        processes = [("endpoint", endpoint), *((i.name, running(registry.seat(i), i)) for i in lab.instances)]
        for name, known in processes:
            if process.state_of(known) is not None:
                process.end(known, f"{lab.name}/{name}", polite_for=timedelta(0), within=_END_WITHIN)
                ended.append(name)
    process.end_users_of(registry.snapshots, _END_WITHIN)
    try:
        remove_tree(registry.home)
    except TryAgainError:  # a tool that was only being started at the first look writes into it
        process.end_users_of(registry.snapshots, _END_WITHIN)
        remove_tree(registry.home)
    return tuple(ended)
