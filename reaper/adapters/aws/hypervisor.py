"""The lab's data plane: an instance that runs in moto is a real server at its private loopback address.

A volume is a directory, and so is a snapshot. The image has the server installed and its accounts made; user data is
run at the first boot as cloud-init would, told by its environment where the volume and the configuration are.
"""

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from reaper.workflow.engine import Engine, Seat

_SHUTDOWN_WITHIN_S = 30.0  # until the system is powered off without having shut down
_USER_DATA_WITHIN_S = 60.0
_IMAGE_SERVER_ID = 1  # of a server whose user data says none: that of every other such server, too (E14)


@dataclass
class Guest:
    """What the hypervisor has of one instance. What is to be done with it is done in order, by one thread."""

    id: str
    home: Path
    work: "queue.SimpleQueue[Callable[[], None] | None]" = field(default_factory=queue.SimpleQueue)
    process: "subprocess.Popen[bytes] | None" = None
    ending: bool = False
    closed: bool = False
    cut: bool = False
    volumes: tuple[str, ...] = ()
    doomed: list[str] = field(default_factory=list)  # volumes to delete when it has ended

    def labour(self) -> None:
        """Do what is queued until there is nothing more to come."""
        while (task := self.work.get()) is not None:
            task()


class ProcessHypervisor:
    """Runs guests below one directory."""

    def __init__(self, root: Path, engine: Engine, port: int) -> None:
        self._root = root
        self._engine = engine
        self._port = port
        self._guests: dict[str, Guest] = {}
        self._lock = threading.Lock()  # who deletes a volume: its last writer's end, or whoever asks for it
        for directory in (self._volumes, self._snapshots, root / "instances"):
            directory.mkdir(parents=True, exist_ok=True)

    @property
    def _volumes(self) -> Path:
        return self._root / "volumes"

    @property
    def _snapshots(self) -> Path:
        return self._root / "snapshots"

    @property
    def seed(self) -> Path:
        """The data directory of a server that has just been installed, from which empty volumes are filled."""
        return self._root / "seed"

    # ---- what the control plane tells

    def boot(self, instance: Any) -> None:
        """Boot it in the background, after an end that is under way."""
        guest = self._guest(instance.id)
        disks = [(device, d.volume_id) for device, d in instance.get_block_device_mapping]
        data = [volume for device, volume in disks if device != instance.root_device_name]
        snapshots = {v: instance.ec2_backend.volumes[v].snapshot_id for v in data}
        guest.volumes = tuple(data)
        address, script = instance.private_ip, instance.user_data.decode() if instance.user_data else ""
        guest.work.put(lambda: self._boot(guest, address, snapshots, script))

    def end(self, instance: Any, *, abruptly: bool, gone: bool) -> threading.Event:
        """End it in the background; a power cut is one at this moment."""
        guest, ended = self._guest(instance.id), threading.Event()
        guest.ending = True
        if abruptly:
            self._signal(guest, signal.SIGKILL)
        guest.work.put(lambda: self._end(guest, ended, 0.0 if abruptly else _SHUTDOWN_WITHIN_S, gone=gone))
        return ended

    def _guest(self, name: str) -> Guest:
        guest = self._guests.get(name)
        if guest is None:
            guest = self._guests[name] = Guest(name, self._root / "instances" / name)
            threading.Thread(target=guest.labour, name=name, daemon=True).start()
        return guest

    def reboot(self, instance: Any) -> None:
        """End it and boot it."""
        self.end(instance, abruptly=False, gone=False)
        self.boot(instance)

    def cut_off(self, instance: Any, *, cut: bool) -> None:
        """Loopback has no security groups: who is cut off is stopped, so that it is silent and keeps its state."""
        guest = self._guests.get(instance.id)
        if guest is not None:
            guest.cut = cut
            self._signal(guest, signal.SIGSTOP if cut else signal.SIGCONT)

    def copy(self, volumes: list[str], snapshots: list[str]) -> None:
        """Copy directories while whoever writes to them is stopped: EBS snapshots are of one instant."""
        writers = [g for g in self._guests.values() if set(g.volumes) & set(volumes)]
        for guest in writers:
            self._signal(guest, signal.SIGSTOP)
        try:
            for volume, snapshot in zip(volumes, snapshots, strict=True):
                _copy(self._volumes / volume, self._snapshots / snapshot)
        finally:
            for guest in writers:
                if not guest.cut:
                    self._signal(guest, signal.SIGCONT)

    def drop_volume(self, volume: str) -> None:
        """Delete its directory, when nobody writes to it any more."""
        with self._lock:
            for guest in self._guests.values():
                if volume in guest.volumes and guest.ending:
                    guest.doomed.append(volume)
                    return
        shutil.rmtree(self._volumes / volume, ignore_errors=True)

    def drop_snapshot(self, snapshot: str) -> None:
        """Delete its directory."""
        shutil.rmtree(self._snapshots / snapshot, ignore_errors=True)

    def close(self) -> None:
        """Power everything off."""
        for guest in list(self._guests.values()):
            guest.closed = True
            self._signal(guest, signal.SIGKILL)
            ended = threading.Event()
            guest.work.put(partial(self._end, guest, ended, 0.0, gone=False))
            guest.work.put(None)
            ended.wait(_SHUTDOWN_WITHIN_S)

    # ---- guests

    def _boot(self, guest: Guest, address: str, snapshots: dict[str, str | None], script: str) -> None:
        if guest.closed or guest.process is not None:
            return
        first = not guest.home.exists()
        seat = Seat(home=guest.home, port=self._port, server_id=_IMAGE_SERVER_ID)
        seat.tmp.mkdir(parents=True, exist_ok=True)
        try:
            for volume, snapshot in snapshots.items():
                self._fill(volume, snapshot)
            if not snapshots:
                return  # an instance without a data volume is no database server
            if first:
                seat.data.symlink_to(self._volumes / next(iter(snapshots)))
                _first_boot(seat, script)
            seat.config.write_text(self._options(seat, address))
            with seat.log.open("ab") as out:
                guest.process = subprocess.Popen(
                    self._engine.command(seat),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                    cwd="/",
                )
            if guest.cut:
                self._signal(guest, signal.SIGSTOP)
        except (OSError, subprocess.SubprocessError, shutil.Error) as error:
            with (self._root / "hypervisor.log").open("a") as log:
                print(f"{guest.id} does not boot: {error}", file=log)

    def _fill(self, volume: str, snapshot: str | None) -> None:
        """A new volume's content."""
        path = self._volumes / volume
        if not path.exists():
            _copy(self._snapshots / snapshot if snapshot else self.seed, path)

    def _options(self, seat: Seat, address: str) -> str:
        """The image's my.cnf, at the instance's own address, and what user data has added to it."""
        own = _own_options(seat)
        added = f"!include {own}\n" if own.exists() else ""
        return f"{self._engine.options(seat)}\n[mysqld]\nbind-address = {address}\nreport-host = {address}\n{added}"

    def _end(self, guest: Guest, ended: threading.Event, grace_s: float, *, gone: bool) -> None:
        _finish(guest, grace_s)
        guest.process = None
        with self._lock:
            guest.ending, doomed, guest.doomed = False, guest.doomed, []
        for volume in doomed:
            shutil.rmtree(self._volumes / volume, ignore_errors=True)
        if gone:
            shutil.rmtree(guest.home, ignore_errors=True)
        ended.set()

    def _signal(self, guest: Guest, number: signal.Signals) -> None:
        process = guest.process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def _finish(guest: Guest, grace_s: float) -> None:
    """Ask it to end, if there is time for that, and kill what is left."""
    process = guest.process
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        if grace_s and process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            os.killpg(process.pid, signal.SIGCONT)  # who is cut off can still shut down
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_s)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _own_options(seat: Seat) -> Path:
    return seat.home / "conf.d" / "zz-reaper.cnf"


def _first_boot(seat: Seat, script: str) -> None:
    """What cloud-init does: run user data that is a script, once."""
    if not script.startswith("#!"):
        return
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "REAPER_DATA": str(seat.data),
        "REAPER_CONFIG": str(_own_options(seat)),
        "REAPER_MOUNT": "no",
        "REAPER_SERVICE": "",
    }
    with (seat.home / "cloud-init.log").open("ab") as out:
        subprocess.run(
            ["bash", "-c", script],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            timeout=_USER_DATA_WITHIN_S,
            check=True,
        )


def _copy(source: Path, target: Path) -> None:
    """With the file system's own clones where it has them; seen under its name only when it is whole."""
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    if source.exists():
        command = ["cp", "--archive", "--reflink=auto", "--sparse=always", str(source), str(part)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    else:
        part.mkdir(parents=True)
    part.replace(target)
