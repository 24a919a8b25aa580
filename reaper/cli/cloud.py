"""EC2 as a site's ground: servers, accounts and endpoints as the settings say."""

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import cached_property
from typing import assert_never

from reaper.adapters.aws.asg import AutoScalingGroups
from reaper.adapters.aws.calls import Calls
from reaper.adapters.aws.credentials import TOKEN_KEPT, ParameterSource, RdsTokenSource, SecretSource
from reaper.adapters.aws.ec2 import Ec2Fleet
from reaper.adapters.aws.endpoints import ElasticIp, MasterTag, Route53Record, SecondaryAddress
from reaper.adapters.aws.session import Clients
from reaper.adapters.clock import SystemClock
from reaper.adapters.credentials import EnvironmentSource, FileSource, Kept, Source
from reaper.adapters.doors import Door, DoorEndpoint
from reaper.adapters.mysql.connection import READ_TIMEOUT_S, Connection
from reaper.adapters.mysql.engines import dialect_of
from reaper.adapters.mysql.replication import ReplicationAccount
from reaper.adapters.mysql.server import SqlServer
from reaper.adapters.routing.hook import HookDoor
from reaper.cli.cloud_settings import (
    AccountSection,
    DoorSection,
    Ec2Config,
    ElasticIpSection,
    HookSection,
    MasterTagSection,
    Route53Section,
    SecondaryAddressSection,
    listen_of,
)
from reaper.cli.grounds import Entrance, open_side
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address, Instance, InstanceId
from reaper.domain.gtid import GtidSet
from reaper.domain.tail import Tail
from reaper.workflow.engine import Login
from reaper.workflow.pools import Side

_KEPT = timedelta(minutes=5)  # a login; one that a server rejects is read again at once


class Ec2Ground:
    """Implements `Ground`. Nothing is asked before it is needed."""

    def __init__(self, config: Ec2Config) -> None:
        self._config = config
        self._clock = SystemClock()
        self._lock = threading.Lock()
        self._logins: dict[tuple[str, Address | None], Kept] = {}

    @cached_property
    def fleet(self) -> Ec2Fleet:
        """Instances."""
        return Ec2Fleet(self._config.settings)

    @cached_property
    def _clients(self) -> Clients:
        """Of the first place, where secrets are."""
        return Clients(self._config.settings.places[0], self.fleet.calls)

    def has(self, cluster: str) -> bool:
        """Nobody knows without asking."""
        del cluster
        return True

    def cluster_of(self, instance: InstanceId) -> str:
        """What its tag says. UsageError: there is no such instance, or it has no cluster."""
        return self.fleet.cluster_of(instance)

    def adopt(self, cluster: str) -> tuple[Instance, ...]:
        """Tag the members with the server ids that they run with; those that had none."""

        def ask(instance: Instance) -> int:
            with closing(self.connect(cluster, instance)) as server:
                return server.facts().server_id

        return self.fleet.adopt(cluster, ask)

    # ---- sessions

    def session(self, cluster: str, instance: Instance, read_timeout_s: float) -> Connection:
        """With reaper's own account, also when its password has been changed meanwhile."""
        del cluster
        logins = self._account(self._config.accounts.admin, instance.address)
        return Connection.open(instance.address, logins, tls=self._config.tls, read_timeout_s=read_timeout_s)

    def connect(self, cluster: str, instance: Instance) -> SqlServer:
        """A server over a session; which dialect it speaks its greeting tells."""
        login = self._account(self._config.accounts.replication, instance.address).login()
        replication = ReplicationAccount(login, self._config.replication_tls)
        session = self.session(cluster, instance, READ_TIMEOUT_S)
        return SqlServer(instance, session, dialect_of(session.flavour), replication)

    @contextmanager
    def side(self, cluster: str, instance: Instance) -> Iterator[Side]:
        """Its buffer pool and canaries. A page list cannot be brought to an instance of EC2."""
        with open_side(self, cluster, instance, _OutOfReach()) as side:
            yield side

    def read_logs(self, victim: Instance, held: GtidSet, *, probe_tables: frozenset[str], within: timedelta) -> Tail:
        """They lie on a volume that nobody has mounted."""
        del held, probe_tables, within
        return Tail(
            out_of_reach=f"its binary logs lie on the volume of {victim.id.short}, which is mounted nowhere else"
        )

    def _account(self, said: AccountSection, address: Address | None) -> Kept:
        """A login that is kept for a while; a token is one server's."""
        key = (said.model_dump_json(), address if said.rds_token else None)
        with self._lock:
            if key not in self._logins:
                keep = TOKEN_KEPT if said.rds_token else _KEPT
                self._logins[key] = Kept(self._source(said, address), self._clock, keep=keep)
            return self._logins[key]

    def _source(self, said: AccountSection, address: Address | None) -> Source:
        if said.environment is not None:
            return EnvironmentSource(variable=said.environment, user=said.user, environment=os.environ)
        if said.file is not None:
            return FileSource(path=said.file, user=said.user)
        if said.secret is not None:
            return SecretSource(calls=self._calls("secretsmanager"), secret=said.secret, user=said.user)
        if said.parameter is not None:
            return ParameterSource(calls=self._calls("ssm"), parameter=said.parameter, user=said.user)
        if self._config.tls is None or address is None or said.user is None:
            raise UsageError("an RDS token needs TLS to the server and a user: see `tls:` and `accounts:`")
        return RdsTokenSource(client=self._clients.of("rds"), address=address, user=said.user, tls=self._config.tls)

    def _calls(self, service: str) -> Calls:
        return Calls(self._clients.of(service), self._clock)

    # ---- endpoints

    def endpoint(self, cluster: str) -> DoorEndpoint:
        """As the settings say. UsageError: they say nothing of this cluster."""
        door, listen = self._door(cluster)
        return DoorEndpoint(door, listen, self._clock)

    def entrance(self, cluster: str) -> Entrance:
        """Where applications connect, with their account."""
        listen = listen_of(self._config.endpoint_of(cluster).of(cluster))
        login: Login = self._account(self._config.accounts.application, listen).login()
        return Entrance(address=listen, login=login, tls=self._config.tls)

    def _door(self, cluster: str) -> tuple[Door, Address]:
        config = self._config.endpoint_of(cluster)
        said = config.of(cluster)
        listen, clients = listen_of(said), self._clients_of(config.region)

        return self._opened(said, cluster, listen, clients), listen

    def _opened(self, said: DoorSection, cluster: str, listen: Address, clients: Clients) -> Door:
        ec2 = Calls(clients.urgent, self._clock)
        match said:
            case Route53Section():
                record = Calls(clients.of("route53", "standard"), self._clock)
                return Route53Record(record, self._clock, zone=said.zone, listen=listen, ttl=said.ttl)
            case ElasticIpSection():
                return ElasticIp(ec2, allocation=said.allocation, port=said.port, vpc=said.vpc)
            case SecondaryAddressSection():
                return SecondaryAddress(ec2, address=said.address, port=said.port, vpc=said.vpc)
            case MasterTagSection():
                tag = (self._config.settings.tags.cluster, cluster)
                return MasterTag(ec2, cluster=tag, tag=(said.name, said.value), port=said.port)
            case HookSection():
                return HookDoor(said.programs(), cluster=cluster, listen=listen)
        assert_never(said)

    def _clients_of(self, region: str | None) -> Clients:
        places = self._config.settings.places
        place = next((p for p in places if p.region == region), None) if region else places[0]
        if place is None:
            raise UsageError(f"an endpoint of the ec2 settings is in {region}, which is none of its places")
        return self._clients if place is places[0] else Clients(place, self.fleet.calls)


class _OutOfReach:
    """The page lists of servers whose files are on another machine."""

    def read(self, instance: Instance) -> bytes | None:
        """None."""
        del instance
        return None

    def write(self, instance: Instance, pages: bytes) -> None:
        """UsageError."""
        del pages
        raise UsageError(f"the files of {instance.id} cannot be reached from here")


def auto_scaling_groups(config: Ec2Config) -> AutoScalingGroups:
    """Those of the first place that carry the tag of groups, whatever its value."""
    clock, clients = SystemClock(), Clients(config.settings.places[0])
    return AutoScalingGroups(
        autoscaling=Calls(clients.of("autoscaling"), clock),
        elbv2=Calls(clients.of("elbv2"), clock),
        ec2=Calls(clients.ec2, clock),
        clock=clock,
        tag=(config.settings.tags.group, None),
    )
