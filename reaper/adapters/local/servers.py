"""Boot servers of a lab and wait until they answer."""

import contextlib
import time
from collections.abc import Callable
from datetime import timedelta

from reaper.adapters.local import process
from reaper.adapters.local.copies import bytes_free, bytes_used
from reaper.adapters.local.process import ProcessRecord
from reaper.adapters.local.registry import InstanceRecord, Registry
from reaper.adapters.logtail import log_tail
from reaper.domain.errors import ServerGoneError, TryAgainError
from reaper.domain.facts import Address, Instance, InstanceId, InstanceState
from reaper.workflow.engine import Engine, Seat
from reaper.workflow.server import Server

PROVIDER = "local"
Connect = Callable[[str, Instance], Server]

_BOOT_WITHIN = timedelta(minutes=10)  # crash recovery of a large copy takes a while
_LOOK_EVERY_S = 0.02
_STOP_WITHIN = timedelta(minutes=2)  # a clean shutdown writes what is dirty


def boot(registry: Registry, engine: Engine, name: str, connect: Connect, check: Callable[[], None]) -> None:
    """Start an instance's server unless it runs, and wait until it answers.

    TryAgainError with the end of its log: it ended, or did not answer in time.
    """
    cluster, record = _started(registry, engine, name)
    seat, started = registry.seat(record), record.process
    instance = describe(registry, cluster, record)
    deadline = time.monotonic() + _BOOT_WITHIN.total_seconds()
    while True:
        check()
        try:
            connect(cluster, instance).close()
        except ServerGoneError:
            if process.state_of(started) is None:
                raise TryAgainError(f"{name} ended while it booted: {_why(seat)}") from None
            if time.monotonic() > deadline:
                raise TryAgainError(f"{name} did not answer within {_BOOT_WITHIN}: {_why(seat)}") from None
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def _started(registry: Registry, engine: Engine, name: str) -> tuple[str, InstanceRecord]:
    """The cluster and the record of an instance whose process was started, by this call or before."""
    lab = registry.read()
    record = _startable(lab.instance(name), name)
    seat = registry.seat(record)
    if running(seat, record) is None:  # what takes its time comes before the book is locked
        if process.listening(record.port) and running(seat, record) is None:
            raise TryAgainError(
                f"port {record.port} of {name} is taken by a process that reaper did not start: "
                "end it, or make another lab"
            )
        seat.tmp.mkdir(exist_ok=True)
        seat.config.write_text(engine.options(seat))
    with registry.change() as lab:
        record = _startable(lab.instance(name), name)
        record.process = running(seat, record) or process.spawn(engine.command(seat), seat.log)
    return lab.name, record


def restart(registry: Registry, engine: Engine, name: str, connect: Connect, check: Callable[[], None]) -> None:
    """Ask an instance's server to end, wait until it has, boot it under its final configuration.

    TryAgainError: it is frozen, does not end within the time, or does not come back.
    """
    record = _startable(registry.read().instance(name), name)
    seat = registry.seat(record)
    found = running(seat, record)
    if found is not None:
        _stop(found, name, seat, check)
    boot(registry, engine, name, connect, check)


def _stop(found: ProcessRecord, name: str, seat: Seat, check: Callable[[], None]) -> None:
    if process.is_frozen(process.state_of(found) or ""):
        raise TryAgainError(f"{name} (process {found.pid}) is stopped and does not end when asked: let it go on first")
    deadline = time.monotonic() + _STOP_WITHIN.total_seconds()
    with contextlib.closing(process.Weapon(found, name)) as weapon:
        weapon.terminate()
        while weapon.fence(timedelta(seconds=_LOOK_EVERY_S)) is None:
            check()
            if time.monotonic() > deadline:
                raise TryAgainError(f"{name} was asked to end and has not within {_STOP_WITHIN}: {_why(seat)}")


def running(seat: Seat, record: InstanceRecord) -> ProcessRecord | None:
    """The instance's process if it runs, also one that was started and not yet written down."""
    if process.state_of(record.process) is not None:
        return record.process
    return process.find(f"--defaults-file={seat.config}")


def _startable(record: InstanceRecord | None, name: str) -> InstanceRecord:
    if record is None:
        raise TryAgainError(f"there is no instance {name}")
    if record.quarantined_until is not None:
        raise TryAgainError(f"{name} is quarantined and never started again")
    return record


def _why(seat: Seat) -> str:
    return f"{log_tail(seat.log)} ({seat.log})"


def describe(registry: Registry, cluster: str, record: InstanceRecord) -> Instance:
    """The provider-neutral record of an instance."""
    seat = registry.seat(record)
    return Instance(
        id=InstanceId(PROVIDER, f"{cluster}/{record.name}"),
        address=Address("127.0.0.1", record.port),
        server_id=record.server_id,
        created=record.created,
        state=_state(record),
        made_by=record.token,
        quarantined_until=record.quarantined_until,
        data_bytes=bytes_used(seat.data),
        free_bytes=bytes_free(registry.home),
    )


def _state(record: InstanceRecord) -> InstanceState:
    letter = process.state_of(record.process)
    if record.quarantined_until is not None:
        return InstanceState.QUARANTINED
    if letter is None:
        return InstanceState.STRANGER if process.listening(record.port) else InstanceState.DEAD
    return InstanceState.FROZEN if process.is_frozen(letter) else InstanceState.RUNNING
