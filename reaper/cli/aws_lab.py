"""`reaper lab up --provider ec2`: an EC2 of one's own on loopback, with the settings that a site would write for it."""

import json
import os
import shlex
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import yaml

from reaper.adapters.accounts import AccountRecord
from reaper.adapters.aws import lab
from reaper.adapters.aws.labbook import LabBook
from reaper.adapters.mysql.connection import Connection
from reaper.adapters.mysql.engines import dialect_of, find_engine
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.mysql.server import SqlServer
from reaper.adapters.tls import Verify
from reaper.cli.compose import Site
from reaper.cli.settings import FILE_VARIABLE
from reaper.domain.errors import UsageError
from reaper.domain.facts import Instance
from reaper.domain.verdict import RunState

_FINDER = "reaper.adapters.mysql.engines:find_engine"
_ACCOUNTS = ("admin", "replication", "application")


def home_of(site: Site, name: str) -> Path:
    """Where an AWS lab lives."""
    return site.aws_labs / name


def up(site: Site, name: str, program: Path | None, nodes: int, check: Callable[[], None]) -> dict[str, str]:
    """Make one with a cluster of the same name; the environment to export. Nothing is left when it fails."""
    home = home_of(site, name)
    for kind, there in (("a local", site.labs / name), ("an AWS", home)):
        if there.exists():
            raise UsageError(
                f"there is {kind} lab {name}: `reaper lab down --name {name}` removes it, or choose another name"
            )
    engine = find_engine(program)

    def connect(cluster: str, instance: Instance) -> SqlServer:
        del cluster
        book = LabBook.read(home)
        dialect = dialect_of(book.flavour)
        session = Connection(instance.address, book.logins.admin, tls=dialect.tls)
        return SqlServer(instance, session, dialect, ReplicationAccount(book.logins.replication))

    with site.work.exclusive(name, f"`reaper lab up` in process {os.getpid()}"):
        environment = lab.up(home, engine, _FINDER, connect, cluster=name, nodes=nodes, check=check)
        try:
            return environment | {FILE_VARIABLE: str(_write_settings(home, name))}
        except BaseException:
            lab.down(home)
            raise


def environment(site: Site, name: str) -> dict[str, str]:
    """What was printed when it was made. UsageError: it does not run."""
    home = _must_be(site, name)
    return lab.environment(home) | {FILE_VARIABLE: str(home / "reaper.yaml")}


def exports(environment: dict[str, str]) -> str:
    """For a shell to evaluate."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())


def down(site: Site, name: str) -> tuple[int, ...]:
    """End every process of it and delete its files; its runs are over."""
    home = _must_be(site, name)
    why = f"the AWS lab {name} was removed before the run had ended"
    abandoned = site.work.abandon(name, why)
    if abandoned:
        site.runs.end(abandoned, RunState.UNDONE, None, why)
    with site.work.exclusive(name, f"`reaper lab down` in process {os.getpid()}"):
        ended = lab.down(home)
    site.snapshots.cluster_removed(name, datetime.now(UTC))
    return ended


def _must_be(site: Site, name: str) -> Path:
    home = home_of(site, name)
    if not home.exists():
        raise UsageError(f"there is no AWS lab {name}: `reaper lab up --provider ec2 --name {name}` makes one")
    return home


def _write_settings(home: Path, name: str) -> Path:
    """Settings as for a site in AWS, but for the pace: AWS is slower."""
    book, door = LabBook.read(home), lab.door_of(home, name)
    accounts = {account: {"file": str(_password_file(home, account, getattr(book, account)))} for account in _ACCOUNTS}
    tls = dialect_of(book.flavour).tls
    said = {
        "ec2": {
            "places": [{"region": book.region}],
            "accounts": accounts,
            "tls": False if tls is None else {"verify": Verify.NOTHING.value},
            "port": book.port,
            "pace": {f.name: f"{getattr(lab.PACE, f.name).total_seconds() * 1000:g}ms" for f in fields(lab.PACE)},
            "endpoints": {
                name: {
                    "elastic_ip": {
                        "allocation": door.allocation,
                        "vpc": door.vpc,
                        "host": door.listen.host,
                        "port": door.listen.port,
                    }
                }
            },
        }
    }
    path = home / "reaper.yaml"
    head = f"# The AWS lab {name}. A site in AWS writes the same, without `pace`.\n"
    path.write_text(head + yaml.safe_dump(said, sort_keys=False))
    return path


def _password_file(home: Path, account: str, record: AccountRecord) -> Path:
    path = home / f"{account}.json"
    login = record.login()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"username": login.user, "password": login.password}, file)
    return path
