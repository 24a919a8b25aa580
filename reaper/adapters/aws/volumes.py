"""Snapshots of a replica's data volumes, all at one moment, and the volumes that are made from them."""

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from reaper.adapters.aws.discovery import Machine, pages, tag_filter, tags_of
from reaper.adapters.aws.errors import BusyError, NotThereError, ThrottledError, UnsureError, ask
from reaper.adapters.aws.session import Clients
from reaper.adapters.aws.settings import PROVIDER, Ec2Settings, TagNames
from reaper.adapters.aws.waiting import repeat, seen, until
from reaper.domain.errors import RefusedError, TryAgainError
from reaper.domain.facts import InstanceId
from reaper.domain.snapshots import Snapshot, SnapshotMethod

_GIB = 2**30
_MOST_TAGS = 50
_ATTEMPTS = 3
_UNDONE = (ThrottledError,)  # what was surely not done


@dataclass(frozen=True, kw_only=True)
class Part:
    """The snapshot of one volume."""

    id: str
    clients: Clients
    volume: str
    status: str
    progress: str
    why: str
    size_gib: int
    encrypted: bool
    begun: datetime
    tags: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The snapshots of one moment."""

    parts: tuple[Part, ...]
    whole: bool  # all of them are complete
    failed: bool  # one of them will never be

    def snapshot(self, names: TagNames) -> Snapshot:
        """As the rest of reaper knows it."""
        first = self.parts[0]
        count = f"{len(self.parts)} volumes, " if len(self.parts) > 1 else ""
        return Snapshot(
            name=first.tags[names.snapshot],
            source=InstanceId(PROVIDER, first.tags.get(names.source, "")),
            method=SnapshotMethod.HOT,
            position=None,
            size_bytes=sum(p.size_gib for p in self.parts) * _GIB,
            note=f"EBS: {count}{'encrypted' if all(p.encrypted for p in self.parts) else 'not encrypted'}",
            taken_at=_moment(first.tags.get(names.taken_at)) or min(p.begun for p in self.parts),
        )


class Volumes:
    """The snapshots of a site, found by tag: nothing about them is kept anywhere else."""

    def __init__(self, settings: Ec2Settings) -> None:
        self._settings = settings

    @property
    def _names(self) -> TagNames:
        return self._settings.tags

    def named(self, clients: Clients, name: str) -> list[Part]:
        """Every part under a derived name, those of failed attempts as well."""
        return self._find(clients, [tag_filter(self._names.snapshot, name)])

    def of_cluster(self, clients: Clients, cluster: str) -> list[Taken]:
        """The complete ones of a cluster, oldest first."""
        parts = self._find(clients, [tag_filter(self._names.cluster, cluster), tag_filter(self._names.snapshot)])
        by_name: dict[str, list[Part]] = {}
        for part in parts:
            by_name.setdefault(part.tags[self._names.snapshot], []).append(part)
        found = [taken for group in by_name.values() if (taken := self.best(group)) is not None and taken.whole]
        return sorted(found, key=lambda t: t.snapshot(self._names).taken_at)

    def best(self, parts: Iterable[Part]) -> Taken | None:
        """The attempt that counts: the first that is all there and has not failed. Two of them are of two moments."""
        attempts: dict[str, list[Part]] = {}
        for part in parts:
            attempts.setdefault(part.tags.get(self._names.attempt, "1"), []).append(part)
        failed: Taken | None = None
        for _, group in sorted(attempts.items(), key=lambda a: (len(a[0]), a[0])):
            wanted = group[0].tags.get(self._names.parts, "1")
            if str(len({p.volume for p in group})) != wanted or str(len(group)) != wanted:
                continue
            states = {p.status for p in group}
            taken = Taken(
                parts=tuple(sorted(group, key=lambda p: p.tags.get(self._names.device, ""))),
                whole=states == {"completed"},
                failed="error" in states,
            )
            if not taken.failed:
                return taken
            failed = failed or taken
        return failed

    def _find(self, clients: Clients, filters: list[Mapping[str, object]]) -> list[Part]:
        found = pages(
            clients.ec2,
            "describe_snapshots",
            "Snapshots",
            "look at the snapshots",
            Filters=filters,
            OwnerIds=["self"],
        )
        return [_part_of(s, clients) for s in found]

    # ---- take

    def take(self, source: Machine, cluster: str, name: str, check: Callable[[], None]) -> Snapshot:
        """One consistent set, found again if it was begun before. TryAgainError: it failed, and is deleted."""
        if not source.disks:
            raise RefusedError(
                f"{source.instance_id} has no volume but its root: reaper copies data volumes, so the data directory "
                "has to be on one"
            )
        pace = self._settings.pace
        taken = self.look(source.clients, name)
        if taken is None or taken.failed:
            taken = self._begin(source, cluster, name, check)
        if any(self._names.device not in p.tags for p in taken.parts):
            self._describe_parts(source, taken)

        def look() -> Taken | None:
            present = self.look(source.clients, name)
            if present is None or present.failed:
                raise TryAgainError(f"the snapshot {name} failed and was deleted: {_why(present)}")
            return present if present.whole else None

        try:
            what = f"the snapshot {name} was not complete"
            taken = until(look, what=what, within=pace.snapshot_within, every=pace.look_every, check=check)
        except TryAgainError:
            self.forget(source.clients, name)
            raise
        return taken.snapshot(self._names)

    def look(self, clients: Clients, name: str) -> Taken | None:
        """What is there under a derived name, complete or on its way; None: nothing that counts."""
        return self.best(repeat(lambda: self.named(clients, name), within=self._settings.pace.repeat_within))

    def _begin(self, source: Machine, cluster: str, name: str, check: Callable[[], None]) -> Taken:
        """Ask for it. CreateSnapshots knows no token: after an answer that was lost one looks before asking again."""
        pace = self._settings.pace
        self.forget(source.clients, name)  # what failed, or was cut short
        begun = {p.tags.get(self._names.attempt) for p in self.named(source.clients, name)}
        for attempt in range(len(begun) + 1, len(begun) + 1 + _ATTEMPTS):
            tags = self._described(source, cluster, name, attempt)
            with contextlib.suppress(UnsureError):
                repeat(partial(self._ask, source, name, tags), within=pace.repeat_within, check=check, on=_UNDONE)
            with contextlib.suppress(TryAgainError):
                what = f"the snapshot {name} was not seen"
                return until(
                    lambda: self.look(source.clients, name),
                    what=what,
                    within=pace.seen_within,
                    every=pace.look_hard_every,
                    check=check,
                )
        raise TryAgainError(
            f"AWS was asked {_ATTEMPTS} times for the snapshot {name} of {source.instance_id} and shows none: "
            "look for snapshots with that name before trying again"
        )

    def _ask(self, source: Machine, name: str, tags: list[dict[str, str]]) -> None:
        ask(
            f"take the snapshot {name} of {source.id}",
            lambda: source.clients.once.create_snapshots(
                Description=f"reaper: {name} of {source.id}",
                InstanceSpecification={"InstanceId": source.id, "ExcludeBootVolume": True},
                TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}],
            ),
        )

    def _described(self, source: Machine, cluster: str, name: str, attempt: int) -> list[dict[str, str]]:
        own = {
            self._names.cluster: cluster,
            self._names.snapshot: name,
            self._names.source: source.instance_id.name,
            self._names.parts: str(len(source.disks)),
            self._names.attempt: str(attempt),
            self._names.taken_at: datetime.now(UTC).isoformat(),
            "Name": name,
        }
        return tag_list(copied(source.tags, self._names) | own)

    def _describe_parts(self, source: Machine, taken: Taken) -> None:
        """Write on each part what its volume was like: the volume may be gone when it is needed again."""
        client = source.clients.ec2
        ids = [d.volume for d in source.disks]
        found = {
            v["VolumeId"]: v for v in pages(client, "describe_volumes", "Volumes", "look at volumes", VolumeIds=ids)
        }
        for part in taken.parts:
            disk = next((d for d in source.disks if d.volume == part.volume), None)
            volume = found.get(part.volume)
            if disk is not None and volume is not None:
                extra = {self._names.device: disk.device, self._names.shape: _shape_of(volume)}
                tag(part.clients, [part.id], copied(tags_of(volume), self._names) | extra, self._settings)

    # ---- use

    def mappings(self, taken: Taken) -> list[dict[str, object]]:
        """The block devices of a launch: each part at its own device, of the kind that its volume was."""
        nowhere = [p.id for p in taken.parts if self._names.device not in p.tags]
        if nowhere:
            raise RefusedError(
                f"{', '.join(nowhere)} does not say where its volume was attached: tag it with {self._names.device}"
            )
        rate = self._settings.initialization_rate
        every: dict[str, object] = {"DeleteOnTermination": True} | ({"VolumeInitializationRate": rate} if rate else {})
        return [
            {
                "DeviceName": part.tags[self._names.device],
                "Ebs": {"SnapshotId": part.id, **every, **_shape(part.tags.get(self._names.shape))},
            }
            for part in taken.parts
        ]

    # ---- delete

    def forget(self, clients: Clients, name: str) -> None:
        """Delete every part under a name."""
        for part in repeat(lambda: self.named(clients, name), within=self._settings.pace.repeat_within):
            self._delete(part)

    def _delete(self, part: Part) -> None:
        def delete() -> None:
            ask(f"delete the snapshot {part.id}", lambda: part.clients.ec2.delete_snapshot(SnapshotId=part.id))

        try:
            repeat(delete, within=self._settings.pace.repeat_within)
        except NotThereError:
            return
        except BusyError as error:
            raise RefusedError(
                f"{error}: an image was made from it, so it stays until that one is deregistered"
            ) from error

    def left_by(self, clients: Clients, cluster: str, name: str) -> list[str]:
        """Volumes that were made for an instance launched under a name and are attached to nothing."""
        free = {"Name": "status", "Values": ["available"]}
        filters = [tag_filter(self._names.cluster, cluster), tag_filter(self._names.made_by, name), free]
        found = pages(clients.ec2, "describe_volumes", "Volumes", "look at the volumes", Filters=filters)
        return [v["VolumeId"] for v in found]

    def delete_left_by(self, clients: Clients, cluster: str, name: str) -> None:
        """Delete them; those that EC2 has deleted meanwhile are gone as well."""

        def delete(volume: str) -> None:
            try:
                ask(f"delete the volume {volume}", lambda: clients.ec2.delete_volume(VolumeId=volume))
            except NotThereError:
                return

        for volume in repeat(lambda: self.left_by(clients, cluster, name), within=self._settings.pace.repeat_within):
            repeat(partial(delete, volume), within=self._settings.pace.repeat_within)


def _why(taken: Taken | None) -> str:
    bad = [f"{p.id} is {p.status} {p.why}".strip() for p in taken.parts if p.status == "error"] if taken else []
    return ", ".join(bad) or "its parts are not there any more"


def copied(tags: Mapping[str, str], names: TagNames) -> dict[str, str]:
    """What a copy inherits: not what is true of one instance only, and not what AWS reserves for itself."""
    own = names.of_one_instance | {names.parts, names.attempt, names.taken_at, names.device, names.shape}
    return {k: v for k, v in tags.items() if not k.startswith("aws:") and k not in own}


def tag_list(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """As AWS wants tags. RefusedError: more than it takes."""
    if len(tags) > _MOST_TAGS:
        raise RefusedError(f"{len(tags)} tags would be needed, AWS takes {_MOST_TAGS}: remove some from the instances")
    return [{"Key": k, "Value": v} for k, v in sorted(tags.items())]


def tag(clients: Clients, resources: list[str], tags: Mapping[str, str], settings: Ec2Settings) -> None:
    """Write tags; writing them again does no harm."""
    seen(
        lambda: ask(
            f"tag {', '.join(resources)}",
            lambda: clients.ec2.create_tags(Resources=resources, Tags=tag_list(tags)),
        ),
        pace=settings.pace,
    )


def _part_of(described: Mapping[str, Any], clients: Clients) -> Part:
    return Part(
        id=described["SnapshotId"],
        clients=clients,
        volume=described["VolumeId"],
        status=described["State"],
        progress=str(described.get("Progress") or ""),
        why=str(described.get("StateMessage") or ""),
        size_gib=int(described["VolumeSize"]),
        encrypted=bool(described.get("Encrypted")),
        begun=described["StartTime"].astimezone(UTC),
        tags=tags_of(described),
    )


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text or "").astimezone(UTC)
    except ValueError:
        return None


def _shape_of(volume: Mapping[str, Any]) -> str:
    """Type, IOPS and throughput, in a form that a tag can hold; a launch that is not told takes a default."""
    return ":".join(str(volume.get(k) or "") for k in ("VolumeType", "Iops", "Throughput"))


def _shape(text: str | None) -> dict[str, object]:
    kind, iops, throughput = (*(text or "").split(":"), "", "", "")[:3]
    shape: dict[str, object] = {"VolumeType": kind} if kind else {}
    if kind in ("gp3", "io1", "io2") and iops:
        shape["Iops"] = int(iops)
    if kind == "gp3" and throughput:
        shape["Throughput"] = int(throughput)
    return shape
