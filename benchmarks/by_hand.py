"""A kill-and-promote script as a good administrator would write it for one afternoon.

Connections, threads and the endpoint's control channel are open beforehand. It has no guards, no
probe, no record and no plan for anything that goes wrong: it is the yardstick, not a tool.
"""

import contextlib
import gc
import os
import select
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import pymysql
from pymysql.connections import Connection
from pymysql.cursors import Cursor, DictCursor

from benchmarks.workshop import LAB, Workshop
from reaper.adapters.local.endpoint import LocalEndpoint
from reaper.domain.facts import Instance
from reaper.workflow.cutover import Moments
from reaper.workflow.engine import Login

APPLY_WITHIN_S = 30


class Promise(StrEnum):
    """What a commit on the new master means."""

    SEMI_SYNC = "semi-sync"  # a replica has it, from the first write on
    ALONE = "no semi-sync"  # the new master has it: the next death may lose it


def connect(instance: Instance, login: Login) -> "Connection[Cursor]":
    """A session without TLS, autocommit."""
    return pymysql.connect(
        host=instance.address.host,
        port=instance.address.port,
        user=login.user,
        password=login.password,
        autocommit=True,
        ssl_disabled=True,
        connect_timeout=5,
        read_timeout=600,
    )


@dataclass
class Script:
    """Everything open and warm."""

    pid: int
    death: select.poll
    victim: Instance
    replicas: dict[str, Instance]
    sessions: "dict[str, Connection[Cursor]]"
    replication: Login
    endpoint: LocalEndpoint
    pool: ThreadPoolExecutor

    def kill_and_promote(self, promise: Promise, favourite: str | None) -> tuple[Instance, Moments]:
        """Kill the master, promote who received most (`favourite` if several did), lead the clients there."""
        now, submit = time.monotonic_ns, self.pool.submit
        kill = now()
        os.kill(self.pid, signal.SIGKILL)
        stops = {name: submit(self._stop_receiver, name) for name in self.replicas}
        self.death.poll()
        dead = now()
        received = {name: stop.result() for name, stop in stops.items()}
        fenced = now()
        name = max(received, key=lambda n: (_number(received[n]), n == favourite))
        heir = self.replicas[name]
        elected = now()
        self._run(name, "SELECT MASTER_GTID_WAIT(%s, %s)", received[name], APPLY_WITHIN_S)
        applied = now()
        if promise is Promise.SEMI_SYNC:  # before a sibling connects, or it would not offer to acknowledge
            self._run(name, "SET GLOBAL rpl_semi_sync_master_enabled = ON")
        follows = [submit(self._follow, n, heir) for n in self.replicas if n != name]
        self._run(name, "STOP SLAVE")
        self._run(name, "SET GLOBAL read_only = OFF")
        promoted = now()
        self.endpoint.route(heir.address, self.victim.address)
        rerouted = now()
        for follow in follows:
            follow.result()
        return heir, Moments(
            kill=kill,
            dead=dead,
            fenced=fenced,
            elected=elected,
            applied=applied,
            promoted=promoted,
            rerouted=rerouted,
        )

    def _run(self, name: str, statement: str, *arguments: object) -> None:
        with self.sessions[name].cursor() as cursor:
            cursor.execute(statement, arguments or None)

    def _stop_receiver(self, name: str) -> str:
        self._run(name, "STOP SLAVE IO_THREAD")
        with self.sessions[name].cursor(DictCursor) as cursor:
            cursor.execute("SHOW SLAVE STATUS")
            status = cursor.fetchone() or {}
        return str(status["Gtid_IO_Pos"])

    def _follow(self, name: str, heir: Instance) -> None:
        self._run(name, "STOP SLAVE")
        self._run(
            name,
            "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s,"
            " MASTER_USE_GTID=slave_pos",
            heir.address.host,
            heir.address.port,
            self.replication.user,
            self.replication.password,
        )
        self._run(name, "START SLAVE")


def _number(position: str) -> int:
    """The sequence number of a position in one domain, `0-1-1234`."""
    return int(position.rsplit("-", 1)[-1] or 0)


@contextmanager
def ready(shop: Workshop, victim: Instance) -> Iterator[Script]:
    """Open everything that can be open before the kill. The collector is off while it is."""
    book = shop.site.registry(LAB).read()
    record = book.instance(victim.id.short)
    if record is None or record.process is None:
        raise LookupError(f"{victim.id} has no process")
    replicas = {m.id.short: m for m in shop.site.fleet.members(LAB) if m.id != victim.id}
    with contextlib.ExitStack() as stack:
        sessions = {
            name: stack.enter_context(contextlib.closing(connect(m, book.logins.admin))) for name, m in replicas.items()
        }
        pidfd = os.pidfd_open(record.process.pid)
        stack.callback(os.close, pidfd)
        death = select.poll()
        death.register(pidfd, select.POLLIN)
        endpoint = stack.enter_context(contextlib.closing(shop.site.endpoint(LAB)))
        endpoint.warm()
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=len(replicas)))
        list(pool.map(time.sleep, [0.01] * len(replicas)))
        gc.collect()
        gc.disable()
        stack.callback(gc.enable)
        yield Script(
            pid=record.process.pid,
            death=death,
            victim=victim,
            replicas=replicas,
            sessions=sessions,
            replication=book.logins.replication,
            endpoint=endpoint,
            pool=pool,
        )
