"""Doors of EC2 clusters: a Route 53 record, an Elastic IP, a secondary private address, a tag.

Each move is a compare-and-set at AWS itself, so that a reaper that was frozen in between, or another tool, loses the
race there: a record is deleted with the exact values that were seen, an association by the id that was seen, an
address is taken without permission to take it from anybody.
"""

import ipaddress
import json
from datetime import timedelta

from reaper.adapters.aws.calls import Answer, Calls, Refused
from reaper.adapters.doors import Sighting
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import Address
from reaper.workflow.ports import Clock

_ASK_EVERY = timedelta(seconds=1)
_LISTED = "20"  # records: enough for every type that one name can have
# What AWS answers to a compare-and-set that lost: the association, the address or the record has changed.
_LOST_ASSOCIATION = frozenset({"InvalidAssociationID.NotFound", "Resource.AlreadyAssociated"})
_LOST_ADDRESS = frozenset({"InvalidParameterValue", "PrivateIpAddressInUse", "InvalidNetworkInterfaceID.NotFound"})
_LOST_RECORD = frozenset({"InvalidChangeBatch"})
_THERE = ("pending", "running", "stopping", "stopped", "shutting-down")  # a terminated one keeps its tags for an hour


class Route53Record:
    """One simple record, of type A, AAAA or CNAME. DNS carries no port: every member listens on the endpoint's.

    The whole path to a client is: the change, its propagation (INSYNC), then up to a TTL in resolvers.
    """

    def __init__(self, calls: Calls, clock: Clock, *, zone: str, listen: Address, ttl: timedelta) -> None:
        self._calls = calls
        self._clock = clock
        self._zone = zone
        self._name = listen.host
        self._port = listen.port
        self._ttl = ttl
        self._stale_for = ttl
        self._change: str | None = None  # the change whose propagation is not proved yet
        self._in_sync: Address | None = None  # the target whose propagation was waited for

    @property
    def stale_for(self) -> timedelta:
        """The TTL that resolvers were given with the former target."""
        return self._stale_for

    def look(self) -> Sighting:
        """What the name says now, changes included that are still being propagated."""
        record = self._record()
        if record is None:
            return Sighting(target=None)
        values = [value["Value"] for value in record.get("ResourceRecords", [])]
        if len(values) != 1 or "SetIdentifier" in record or "AliasTarget" in record:
            raise RefusedError(
                f"the record {self._name} in zone {self._zone} is no simple record with one value: reaper would break "
                "what its weights, alias or values are for. Give the cluster a record of its own"
            )
        return Sighting(target=Address(values[0].rstrip("."), self._port), seen=json.dumps(record))

    def move(self, to: Address, now: Sighting) -> None:
        """Delete what was seen and create what is wanted, both or neither."""
        if to.port != self._port:
            raise RefusedError(
                f"{to} listens on another port than the endpoint {self._name}:{self._port}, and DNS carries no port: "
                "let the server listen there, or use another kind of endpoint"
            )
        changes: list[Answer] = []
        if now.seen:
            record = json.loads(now.seen)
            self._stale_for = max(self._ttl, timedelta(seconds=record.get("TTL", 0)))
            changes.append({"Action": "DELETE", "ResourceRecordSet": record})
            if record["Type"] != _kind(to.host):
                raise RefusedError(
                    f"{self._name} is a record of type {record['Type']}, which cannot hold {to.host}: create the "
                    "record by hand in the type that fits the servers' addresses"
                )
        changes.append({"Action": "CREATE", "ResourceRecordSet": self._wanted(to)})
        self._submit(changes)

    def settle(self, until_ns: int) -> None:
        """Wait for INSYNC. Without a change of our own, its answer was lost, the record is written as it is."""
        now = self.look()
        if self._change is None:
            if now.target == self._in_sync or now.target is None:
                return
            self._submit([{"Action": "UPSERT", "ResourceRecordSet": json.loads(now.seen)}])
        while self._change is not None:
            if self._calls.ask("get_change", Id=self._change)["ChangeInfo"]["Status"] == "INSYNC":
                self._change, self._in_sync = None, now.target
            elif self._clock.monotonic_ns() > until_ns:
                raise TryAgainError(
                    f"Route 53 has not told all its servers of {self._name} yet (change {self._change} is pending): "
                    "repeat, it goes on waiting"
                )
            else:
                self._clock.sleep(_ASK_EVERY)

    def _submit(self, changes: list[Answer]) -> None:
        batch = {"Comment": "reaper", "Changes": changes}
        answer = self._calls.attempt(
            "change_resource_record_sets", _LOST_RECORD, HostedZoneId=self._zone, ChangeBatch=batch
        )
        self._change = None if isinstance(answer, Refused) else answer["ChangeInfo"]["Id"].rsplit("/", 1)[-1]

    def _record(self) -> Answer | None:
        """The listing begins at the name; what else it has, a routing policy's or another family's, comes with it."""
        listed = self._calls.ask(
            "list_resource_record_sets", HostedZoneId=self._zone, StartRecordName=self._name, MaxItems=_LISTED
        )["ResourceRecordSets"]
        found = [r for r in listed if _same_name(r["Name"], self._name) and r["Type"] in ("A", "AAAA", "CNAME")]
        if len(found) > 1:
            raise RefusedError(
                f"the name {self._name} in zone {self._zone} has {len(found)} records, of types "
                f"{', '.join(r['Type'] for r in found)}: reaper moves one. Give the cluster a name of its own"
            )
        return found[0] if found else None

    def _wanted(self, to: Address) -> Answer:
        return {
            "Name": self._name,
            "Type": _kind(to.host),
            "TTL": int(self._ttl.total_seconds()),
            "ResourceRecords": [{"Value": to.host}],
        }


def _kind(host: str) -> str:
    try:
        return "A" if ipaddress.ip_address(host).version == 4 else "AAAA"
    except ValueError:
        return "CNAME"


def _same_name(one: str, other: str) -> bool:
    return one.rstrip(".").lower().replace("\\052", "*") == other.rstrip(".").lower()


class ElasticIp:
    """A public address that is associated with the master's private one."""

    def __init__(self, calls: Calls, *, allocation: str, port: int, vpc: str) -> None:
        self._calls = calls
        self._allocation = allocation
        self._port = port
        self._interfaces = _Interfaces(calls, vpc)

    stale_for = timedelta(0)

    def look(self) -> Sighting:
        """With whom it is associated."""
        (address,) = self._calls.ask("describe_addresses", AllocationIds=[self._allocation])["Addresses"]
        association, private = address.get("AssociationId"), address.get("PrivateIpAddress")
        if not association:
            return Sighting(target=None)
        if not private:
            raise TryAgainError(f"{self._allocation} is associated, AWS does not say yet with what: repeat")
        return Sighting(target=Address(private, self._port), seen=association)

    def move(self, to: Address, now: Sighting) -> None:
        """End the association that was seen, then take the address if nobody has it: in between it leads nowhere."""
        interface = self._interfaces.of(to.host)
        if now.seen and isinstance(
            self._calls.attempt("disassociate_address", _LOST_ASSOCIATION, AssociationId=now.seen), Refused
        ):
            return
        self._calls.attempt(
            "associate_address",
            _LOST_ASSOCIATION,
            AllocationId=self._allocation,
            NetworkInterfaceId=interface,
            PrivateIpAddress=to.host,
            AllowReassociation=False,
        )

    def settle(self, until_ns: int) -> None:
        """Whoever asks is answered alike."""


class SecondaryAddress:
    """A second private address of the master's network interface; the machine's own set-up has to answer on it."""

    def __init__(self, calls: Calls, *, address: str, port: int, vpc: str) -> None:
        self._calls = calls
        self._address = address
        self._port = port
        self._interfaces = _Interfaces(calls, vpc)

    stale_for = timedelta(0)

    def look(self) -> Sighting:
        """Whose interface has it."""
        interface = self._interfaces.having(self._address)
        if interface is None:
            return Sighting(target=None)
        if interface["PrivateIpAddress"] == self._address:
            raise RefusedError(
                f"{self._address} is the primary address of {interface['NetworkInterfaceId']}, which cannot be moved: "
                "choose a free address of the subnet for the endpoint"
            )
        return Sighting(target=Address(interface["PrivateIpAddress"], self._port), seen=interface["NetworkInterfaceId"])

    def move(self, to: Address, now: Sighting) -> None:
        """Take it from the interface that was seen, then give it to the other if nobody has it."""
        interface = self._interfaces.of(to.host)
        address = [self._address]
        if now.seen and isinstance(
            self._calls.attempt(
                "unassign_private_ip_addresses", _LOST_ADDRESS, NetworkInterfaceId=now.seen, PrivateIpAddresses=address
            ),
            Refused,
        ):
            return
        self._calls.attempt(
            "assign_private_ip_addresses",
            _LOST_ADDRESS,
            NetworkInterfaceId=interface,
            PrivateIpAddresses=address,
            AllowReassignment=False,
        )

    def settle(self, until_ns: int) -> None:
        """Whoever asks is answered alike."""


class MasterTag:
    """A tag on the master's instance, by which the site's own tools find it. One instance of the cluster carries it."""

    def __init__(self, calls: Calls, *, cluster: tuple[str, str], tag: tuple[str, str], port: int) -> None:
        self._calls = calls
        self._cluster = cluster  # the tag, and its value, by which all members are found
        self._name, self._value = tag
        self._port = port

    stale_for = timedelta(0)

    def look(self) -> Sighting:
        """Who carries it. While it moves nobody does."""
        carriers = self._members({"Name": f"tag:{self._name}", "Values": [self._value]})
        if len(carriers) > 1:
            raise RefusedError(
                f"{', '.join(c['InstanceId'] for c in carriers)} all carry the tag {self._name}={self._value}: "
                "remove it from those that are not the master"
            )
        if not carriers:
            return Sighting(target=None)
        return Sighting(
            target=Address(carriers[0]["PrivateIpAddress"], self._port), seen=str(carriers[0]["InstanceId"])
        )

    def move(self, to: Address, now: Sighting) -> None:
        """Take it from the carrier that was seen, then give it to the other: two never carry it by our doing."""
        found = self._members({"Name": "private-ip-address", "Values": [to.host]})
        if len(found) != 1:
            raise TryAgainError(
                f"{len(found)} instances with {self._cluster[0]}={self._cluster[1]} have the address {to.host}, wanted "
                "one: it is not known yet, or is not tagged as a member of the cluster"
            )
        tags = [{"Key": self._name, "Value": self._value}]
        if now.seen:  # with its value: a tag that somebody has given another meaning since is left alone
            self._calls.ask("delete_tags", Resources=[now.seen], Tags=tags)
        self._calls.ask("create_tags", Resources=[found[0]["InstanceId"]], Tags=tags)

    def settle(self, until_ns: int) -> None:
        """Whoever asks is answered alike."""

    def _members(self, wanted: Answer) -> list[Answer]:
        filters = [
            {"Name": f"tag:{self._cluster[0]}", "Values": [self._cluster[1]]},
            {"Name": "instance-state-name", "Values": list(_THERE)},
            wanted,
        ]
        pages = self._calls.pages("describe_instances", "Reservations", Filters=filters)
        return [
            instance for reservation in pages for instance in reservation["Instances"] if "PrivateIpAddress" in instance
        ]


class _Interfaces:
    """Network interfaces by a private address, which is unique in a VPC and nowhere else."""

    def __init__(self, calls: Calls, vpc: str) -> None:
        self._calls = calls
        self._vpc = vpc

    def having(self, address: str) -> Answer | None:
        """The interface that has it, as a primary or another address."""
        filters = [
            {"Name": "vpc-id", "Values": [self._vpc]},
            {"Name": "addresses.private-ip-address", "Values": [address]},
        ]
        found = list(self._calls.pages("describe_network_interfaces", "NetworkInterfaces", Filters=filters))
        return found[0] if found else None

    def of(self, address: str) -> str:
        """The id of the interface whose primary address it is."""
        interface = self.having(address)
        if interface is None or interface["PrivateIpAddress"] != address:
            raise TryAgainError(
                f"no network interface in {self._vpc} has the primary address {address}: it is not known yet, or the "
                "endpoint is configured with another VPC"
            )
        return str(interface["NetworkInterfaceId"])
