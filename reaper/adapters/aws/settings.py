"""How a site uses EC2: where to look, what the tags are called, how replacements are made."""

from dataclasses import dataclass, field
from typing import Self

from reaper.adapters.aws.session import Place
from reaper.adapters.aws.waiting import Pace
from reaper.domain.standing import OPT_OUT_TAG, PROTECT_UNTIL_TAG

PROVIDER = "ec2"


@dataclass(frozen=True, kw_only=True)
class TagNames:
    """The tags that reaper reads and writes. A site that has tags of its own names them here."""

    cluster: str = "reaper:cluster"  # makes an instance a member; its value is the cluster
    group: str = "reaper:group"  # the shard group
    port: str = "reaper:port"  # where the server listens, if not at the default
    server_id: str = "reaper:server-id"
    image_parameter: str = "reaper:image-parameter"  # an SSM parameter that holds the newest image
    isolation: str = "reaper:isolation"  # on a security group without rules: what is put into it is cut off
    # What reaper writes for itself.
    made_by: str = "reaper:made-by"  # the derived name under which a run made an instance or a volume
    snapshot: str = "reaper:snapshot"  # the derived name of a snapshot
    source: str = "reaper:source"  # of a snapshot: the instance
    device: str = "reaper:device"  # of a snapshot: where its volume was attached
    shape: str = "reaper:volume"  # of a snapshot: type, IOPS and throughput of its volume
    parts: str = "reaper:parts"  # of a snapshot: how many volumes it has
    taken_at: str = "reaper:taken-at"  # of a snapshot: reaper's clock before it asked; EC2 keeps seconds
    attempt: str = "reaper:attempt"  # of a snapshot: taken again after an answer was lost
    quarantined_until: str = "reaper:quarantined-until"
    groups: str = "reaper:groups"  # the security groups before the isolation
    retired: str = "reaper:retired"

    @property
    def of_one_instance(self) -> frozenset[str]:
        """What is true of one instance only, so that a replacement does not inherit it."""
        return frozenset(
            {
                self.server_id,
                self.made_by,
                self.quarantined_until,
                self.groups,
                self.retired,
                self.source,
                self.snapshot,
                OPT_OUT_TAG,
                PROTECT_UNTIL_TAG,
                "Name",
            }
        )


@dataclass(frozen=True, kw_only=True)
class Template:
    """A launch template in one version."""

    id: str
    version: str | None = None  # a number; None: the default one when it is looked up

    @property
    def pinned(self) -> str:
        """Id and version in one word."""
        return f"{self.id}:{self.version}"

    @classmethod
    def of(cls, pinned: str) -> Self:
        """The other way."""
        name, _, version = pinned.partition(":")
        return cls(id=name, version=version or None)


@dataclass(frozen=True, kw_only=True)
class Ec2Settings:
    """One site."""

    places: tuple[Place, ...]  # the first one keeps the counters of server ids
    tags: TagNames = field(default_factory=TagNames)
    pace: Pace = field(default_factory=Pace)
    port: int = 3306
    template: Template | None = None  # None: the one that the members were launched from
    user_data: str | None = None  # the text of the template in config/cloud-init; None: the launch template's own
    # MiB a second at which a volume is read from its snapshot before anybody asks ("Initialize Amazon EBS volumes" in
    # the EBS User Guide: 100 to 300, paid by the GiB). None: a block is fetched when it is read for the first time.
    initialization_rate: int | None = None
    counters: str = "/reaper/server-ids"  # the path of SSM parameters, one for each cluster
