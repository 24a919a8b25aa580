"""Boot servers of a lab and wait until they answer."""

import shutil
import time
from collections.abc import Callable
from datetime import timedelta

from reaper.adapters.local import process
from reaper.adapters.local.registry import InstanceRecord, ProcessRecord, Registry
from reaper.adapters.logtail import log_tail
from reaper.domain.errors import ServerGoneError, TryAgainError
from reaper.domain.facts import Address, Instance, InstanceId, InstanceState
from reaper.workflow.engine import Engine, Seat
from reaper.workflow.ports import Server

PROVIDER = "local"
Connect = Callable[[str, Instance], Server]

_BOOT_WITHIN = timedelta(minutes=10)  # crash recovery of a large copy takes a while
_LOOK_EVERY_S = 0.02


def boot(registry: Registry, engine: Engine, name: str, connect: Connect, check: Callable[[], None]) -> None:
    """Start an instance's server unless it runs, and wait until it answers.

    TryAgainError with the end of its log: it ended, or did not answer in time.
    """
    with registry.change() as lab:
        record = _record(lab.instance(name), name)
        if record.quarantined_until is not None:
            raise TryAgainError(f"{name} is quarantined and never started again")
        seat = registry.seat(record)
        record.process = running(seat, record)
        if record.process is None:
            if process.listening(record.port):
                raise TryAgainError(
                    f"port {record.port} of {name} is taken by a process that reaper did not start: "
                    "end it, or make another lab"
                )
            seat.tmp.mkdir(exist_ok=True)
            seat.config.write_text(engine.options(seat))
            record.process = process.spawn(engine.command(seat), seat.log)
        started = record.process
    instance = describe(registry, lab.name, record)
    deadline = time.monotonic() + _BOOT_WITHIN.total_seconds()
    while True:
        check()
        try:
            connect(instance.id.name.split("/")[0], instance).close()
        except ServerGoneError:
            if process.state_of(started) is None:
                raise TryAgainError(f"{name} ended while it booted: {_why(seat)}") from None
            if time.monotonic() > deadline:
                raise TryAgainError(f"{name} did not answer within {_BOOT_WITHIN}: {_why(seat)}") from None
            time.sleep(_LOOK_EVERY_S)
        else:
            return


def running(seat: Seat, record: InstanceRecord) -> ProcessRecord | None:
    """The instance's process if it runs, also one that was started and not yet written down."""
    if process.state_of(record.process) is not None:
        return record.process
    return process.find(f"--defaults-file={seat.config}")


def _record(record: InstanceRecord | None, name: str) -> InstanceRecord:
    if record is None:
        raise TryAgainError(f"there is no instance {name}")
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
        data_bytes=_size(seat),
        free_bytes=_free(registry),
    )


def _state(record: InstanceRecord) -> InstanceState:
    letter = process.state_of(record.process)
    if record.quarantined_until is not None:
        return InstanceState.QUARANTINED
    if letter is None:
        return InstanceState.STRANGER if process.listening(record.port) else InstanceState.DEAD
    return InstanceState.FROZEN if process.is_frozen(letter) else InstanceState.RUNNING


def _size(seat: Seat) -> int | None:
    total = 0
    try:
        for path in seat.data.rglob("*"):
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # the server removed it meanwhile
            total += status.st_blocks * 512
    except OSError:
        return None
    return total


def _free(registry: Registry) -> int | None:
    try:
        return shutil.disk_usage(registry.home).free
    except OSError:
        return None
