"""A policy file's form, section by section; long because it is a list.

Unknown keys are mistakes. The docstrings are the descriptions in the JSON Schema.
"""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from reaper.adapters.policies.section import CheckSection, Section
from reaper.adapters.policies.values import (
    CronText,
    Day,
    Name,
    Reading,
    Regions,
    Span,
    Text,
    Texts,
    Week,
    Zone,
    one_of,
    shown,
)
from reaper.domain.canary import refusal
from reaper.domain.groups import Draining, Order
from reaper.domain.plan import Replacement
from reaper.domain.policy import FailoverBy, KillMode, Reference, Waivable
from reaper.domain.standing import Leash, Scope, SnapshotFrom, What
from reaper.domain.warmth import Otherwise

_SHARE_PATTERN = r"^([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%$"
_SHARE = re.compile(_SHARE_PATTERN)

Percent = Annotated[float, Field(gt=0, le=100)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


def _canary(statement: str) -> str:
    why = refusal(statement)
    if why is not None:
        raise ValueError(f"is no canary: {why}")
    return statement


Query = Annotated[Text, AfterValidator(_canary)]
Tagged = Annotated[dict[Text, Text], Field(max_length=50)]


def _half_a_day(jitter: timedelta) -> timedelta:
    if jitter > timedelta(hours=12):
        raise ValueError("has to be 12h at the most: what is later belongs to another slot")
    return jitter


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str | list) else value


def _named_schema(schema: dict[str, Any]) -> None:
    schema.pop("default", None)  # one of two has to be there
    glob = {"type": "string"}
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, glob, {"type": "array", "items": glob, "minItems": 1}]


class ClustersSection(Section):
    """Which clusters; all that is said has to hold."""

    name: Texts | None = None
    """Globs over cluster names; one has to match."""
    exclude: Texts | None = None
    """Globs over cluster names; none may match."""
    tag: Tagged | None = None
    """Tags that all living members of the cluster share, with globs over their values."""


class GroupsSection(Section):
    """Which groups of stateless instances; all that is said has to hold."""

    name: Texts | None = None
    """Globs over group names; one has to match."""
    exclude: Texts | None = None
    """Globs over group names; none may match."""
    tag: Tagged | None = None
    """Tags of the group itself, with globs over their values."""


class InstancesSection(Section):
    """Which instances of those clusters; all that is said has to hold."""

    name: Texts | None = None
    """Globs over instance names; one has to match."""
    tag: Tagged | None = None
    """Tags of the instance, with globs over their values."""


class TargetSection(Section):
    """Whom the policy is about: clusters, or groups. Tags of protection are always honoured."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["clusters"]}, {"required": ["groups"]}]})

    provider: Name | None = None
    """local, ec2, asg, rds; any if left out."""
    clusters: Annotated[ClustersSection, BeforeValidator(_named)] = Field(
        default=ClustersSection(), json_schema_extra=_named_schema
    )
    """Which clusters: a glob, several, or {name, exclude, tag}."""
    groups: Annotated[GroupsSection, BeforeValidator(_named)] = Field(
        default=GroupsSection(), json_schema_extra=_named_schema
    )
    """Which groups of stateless instances: a glob, several, or {name, exclude, tag}."""
    instances: InstancesSection = InstancesSection()
    """Which instances of those clusters; any if left out."""
    opt_in: Tagged | None = None
    """Tags that an instance has to carry before it may die."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        said = self.model_fields_set & {"clusters", "groups"}
        if not said:
            raise ValueError("says neither clusters nor groups: say which")
        if len(said) == 2:
            raise ValueError("says clusters and groups: a policy is about one kind, write two policies")
        return self


class ScheduleSection(Section):
    """When the policy has an opportunity to act."""

    cron: CronText
    """minute hour day month weekday, as in a crontab."""
    timezone: Zone
    """On whose clocks."""
    jitter: Annotated[Span, AfterValidator(_half_a_day)] = Field(default="0s", validate_default=True)
    """Fire up to this long after the slot; the moment is fixed per policy and slot."""
    grace: Span = Field(default="5m", validate_default=True)
    """Later than this a firing is missed: reported, never caught up."""


class FreezeSection(Section):
    """A time in which nothing is touched."""

    begins: Reading = Field(alias="from")
    """The first day, or the first moment as 2026-12-24 18:00."""
    ends: Reading = Field(alias="to")
    """The last day, or the moment at which it ends."""
    reason: Text
    """Why; shown wherever it spares somebody."""

    @model_validator(mode="after")
    def _forwards(self) -> Self:
        if self.ends.isoformat() < self.begins.isoformat():
            raise ValueError(f"it ends on {self.ends}, before it begins on {self.begins}")
        return self


class MaintenanceSection(Section):
    """The only hours in which some clusters may be touched."""

    clusters: Text
    """A glob over cluster names."""
    windows: Week
    """Windows of the week."""


class CalendarSection(Section):
    """When the policy may act at all."""

    timezone: Zone | None = None
    """On whose clocks; those of the schedule if left out."""
    windows: Week = ()
    """Only in these windows of the week, such as 'mon-fri 09:00-17:00'; at any hour if left out."""
    freeze: Annotated[list[FreezeSection], Field(max_length=200)] = Field(default=[])
    """Times in which nothing is touched."""
    freeze_files: Texts | None = None
    """iCalendar files whose events are freezes; relative to the policy file."""
    holidays: Regions = ()
    """Not on the public holidays of these countries: JP, US-CA, or a list."""
    maintenance: Annotated[list[MaintenanceSection], Field(max_length=200)] = Field(default=[])
    """Own windows of single clusters."""
    maintenance_tag: Text | None = None
    """A tag of instances whose value is the window of their cluster."""


class DueSection(Section):
    """When a targeted instance is due: too old or of a stale image, where either is asked for, and the dice agree."""

    max_age: Span | None = None
    """Due when older."""
    stale_image: bool = False
    """Due when its image is not the newest."""
    probability: Annotated[float, Field(gt=0, le=1)] | None = None
    """The chance of a cluster at each opportunity."""
    mean_time_between: Span | None = None
    """Instead of a probability: the mean time between two kills of a cluster."""
    min_gap: Span = Field(default="0s", validate_default=True)
    """The least time between two kills of a cluster."""
    at_most: Count | None = None
    """Clusters that one firing takes, the oldest first or by lot; the others wait for the next firing."""

    @model_validator(mode="after")
    def _one_kind_of_dice(self) -> Self:
        if self.probability is not None and self.mean_time_between is not None:
            raise ValueError("probability and mean_time_between say the same thing twice: keep one")
        if self.mean_time_between is not None and self.min_gap >= self.mean_time_between:
            raise ValueError("min_gap has to be less than mean_time_between, which includes it")
        return self


class SnapshotSection(Section):
    """What the replacement is copied from."""

    source: Annotated[SnapshotFrom, one_of(SnapshotFrom)] = Field(default=SnapshotFrom.REPLICA, alias="from")
    """replica: never the master."""
    reuse_within: Span | None = None
    """Use an earlier snapshot that is not older than this."""
    keep: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many snapshots stay behind."""


class ReplaceSection(Section):
    """What dies and how its replacement is built. A group builds the replacements of its instances itself."""

    what: Annotated[What, one_of(What)] = What.MASTER
    """master, replica, or any, of a cluster; instance, of a group."""
    when: Annotated[Replacement, one_of(Replacement)] = Replacement.BEFORE
    """before the kill, after it (the unplanned death is rehearsed), or none."""
    replicas: Annotated[int, Field(ge=1, le=1)] = 1
    """Fresh copies that are built, the heir; more than one is not supported yet."""
    snapshot: SnapshotSection = SnapshotSection()
    """What it is copied from."""
    order: Annotated[Order, one_of(Order)] = Order.OLDEST
    """Of a group, who goes first: oldest, stale (of an image that is not the newest, then the others), or random."""
    at_most: Count | None = None
    """Of a group, instances that one run replaces, one after the other; all that are due if left out."""
    draining: Annotated[Draining, one_of(Draining)] = Draining.REAPER
    """Of a group, who takes a victim out of its target groups: reaper, before the kill; or group, as a part of it."""


class WarmSection(Section):
    """The gate that keeps a cold heir from becoming master."""

    gate: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The heir's warmth over the victim's."""
    within: Span = Field(default="30m", validate_default=True)
    """Give up after this long."""
    otherwise: Annotated[Otherwise, one_of(Otherwise)] = Otherwise.REFUSE
    """What becomes of a heir that is not warm by then: refuse, or go and say so in the report."""
    factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    """The heir's canary latency, at most so many times the victim's."""
    canaries: Annotated[list[Query], Field(max_length=20)] = Field(default=[])
    """Single SELECTs; left out: the top read digests of the victim, where its performance_schema keeps them."""


class VerifySection(Section):
    """How much of a replacement's data is compared before it counts as a copy."""

    against: Annotated[Reference, one_of(Reference)] = Reference.SOURCE
    """source: what it was copied from; master: also finds what that one had wrong, and reads it all there."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of every table, in chunks drawn at random; the report states the confidence."""
    within: Span = Field(default="1h", validate_default=True)
    """What is not compared by then refuses."""


class KillSection(Section):
    """How the victim dies."""

    mode: Annotated[KillMode, one_of(KillMode)] = KillMode.CRASH
    """crash, terminate, freeze, or drain."""


class FailoverSection(Section):
    """Who promotes the heir, and what that may cost."""

    by: Annotated[FailoverBy, one_of(FailoverBy)] = FailoverBy.REAPER
    """reaper, or observe: the site's own tool does, and is graded."""
    within: Span = Field(default="30s", validate_default=True)
    """With observe: the deadline of the site's own tool."""
    outage_budget: Span | None = None
    """A longer outage is a bad verdict and leashes the policy; 2s, or the deadline with observe."""
    lost_writes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """More acknowledged writes lost than this is a bad verdict."""


class FloorSection(Section):
    """How many instances of a group have to serve at every moment; both parts hold where both are said."""

    count: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    percent: Annotated[float, Field(ge=0, lt=100)] | None = None
    """Of the size that the group is to have, rounded up; less than 100, or nobody could ever die."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.count is None and self.percent is None:
            raise ValueError("say count, percent, or both")
        return self


def _floor(value: Any) -> Any:
    """A number is a count, `90%` is a share."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"count": value}
    if isinstance(value, str):
        match = _SHARE.fullmatch(value)
        if match is None:
            raise ValueError(f"{shown(value)} is no floor: write 3, 90%, or {{count: 3, percent: 90}}")
        return {"percent": float(match[1])}
    return value


def _floor_schema(schema: dict[str, Any]) -> None:
    section = {"$ref": schema.pop("$ref")} if "$ref" in schema else schema.pop("anyOf")[0]
    schema["anyOf"] = [section, {"type": "integer", "minimum": 0}, {"type": "string", "pattern": _SHARE_PATTERN}]


class GuardsSection(Section):
    """What has to be true before anything is built and right before the kill."""

    max_lag: Span = Field(default="5s", validate_default=True)
    """The largest lag of a surviving replica."""
    min_copies: Annotated[int, Field(ge=1, le=100)] = 2
    """Copies that are left after the kill."""
    min_healthy: Annotated[FloorSection, BeforeValidator(_floor)] | None = Field(
        default=None, json_schema_extra=_floor_schema
    )
    """Of a group, and never left out there: instances that serve without the victim, as 3, 90%, or {count, percent}."""
    semi_sync: Literal["required", "loss-accepted"] = "required"
    """loss-accepted: acknowledged writes may be lost, and are counted."""
    max_transaction_age: Span = Field(default="30s", validate_default=True)
    """An older open transaction on the victim refuses."""
    soak: Span = Field(default="1s", validate_default=True)
    """How long the counters are watched."""
    max_in_flight: Count | None = None
    """Instances that die at the same time, in each scope of `per`; the rest waits."""
    max_in_flight_percent: Percent | None = None
    """The same in percent of the living instances of the scope; one is always allowed."""
    per: Annotated[list[Annotated[Scope, one_of(Scope)]], Field(min_length=1, max_length=4)] = Field(
        default=[Scope.POLICY]
    )
    """fleet, policy, shard_group, zone."""
    cool_down: Span = Field(default="0s", validate_default=True)
    """A cluster is left alone for this long after any run."""
    external: Annotated[list[CheckSection], Field(max_length=50)] = Field(default=[])
    """Checks that are asked elsewhere. No answer refuses."""


class LimitSection(Section):
    """A maximum; both parts hold where both are said."""

    count: Count | None = None
    percent: Percent | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.count is None and self.percent is None:
            raise ValueError("say count, percent, or both")
        return self


class RadiusSection(Section):
    """What one firing may select; more aborts it before any action."""

    fleet: LimitSection | None = None
    policy: LimitSection | None = None
    shard_group: LimitSection | None = None
    zone: LimitSection | None = None


class BudgetsSection(Section):
    """What else leashes the policy until a person releases it."""

    time_to_normal: Span | None = None
    """A longer time until latencies are normal again is a bad verdict."""
    failures_in_a_row: Annotated[int, Field(ge=1, le=100)] = 1
    """This many bad verdicts in a row."""


class WaiverSection(Section):
    """A person's word that a guard's finding is accepted for a while."""

    guard: Annotated[Waivable, one_of(Waivable)]
    """settings, activity, disk: what the other guards find can lose data, and is not waived."""
    difference: Text | None = None
    """The finding, such as the name of a setting; the guard as a whole if left out."""
    owner: Text
    expires: Day
    """The last day on which it holds."""
    reason: Text


class ApprovalSection(Section):
    """A person has to say yes before the kill."""

    by: Texts | None = None
    """Whose yes counts; anybody's if left out."""
    within: Span = Field(default="1h", validate_default=True)
    """No answer in time means no."""


class AnnounceSection(Section):
    """Whom the policy tells."""

    to: Texts = Field(default=["log"])
    """Channels by name; what they are, and their secrets, is the site's configuration."""
    before: Span | None = None
    """Also this long before a firing."""


class RetireSection(Section):
    """What becomes of the dead."""

    quarantine: Span = Field(default="0s", validate_default=True)
    """Its data are kept this long before they are deleted."""


class ProbeSection(Section):
    """The client that measures the outage."""

    clients: Annotated[int, Field(ge=1, le=64)] = 3
    rate: Annotated[float, Field(ge=1, le=5000)] = 150.0
    """Writes per second, all clients together."""


class DeadlinesSection(Section):
    """How long single steps may take."""

    build: Span = Field(default="6h", validate_default=True)
    join: Span = Field(default="30m", validate_default=True)
    drain: Span | None = None
    """5s for a master's clients, 10m for the requests of an instance of a group."""
    fence: Span = Field(default="10s", validate_default=True)
    apply: Span = Field(default="30s", validate_default=True)
    repoint: Span = Field(default="15s", validate_default=True)
    settle: Span = Field(default="10m", validate_default=True)
    """Of a group: for what comes and goes by itself before each kill."""
    successor: Span = Field(default="30m", validate_default=True)
    """Of a group: until an instance that it launches is healthy everywhere."""
    undo: Span = Field(default="2m", validate_default=True)
    """Of a group: until a victim that is not killed after all is back in its target groups."""


class Document(Section):
    """What may die, when, how much, how its replacement is built, and what makes a run a failure."""

    name: Name
    """Lower case letters, digits and dashes."""
    description: Annotated[str, Field(max_length=4000)] = ""
    leash: Annotated[Leash, one_of(Leash)] = Leash.ON
    """on: decides and reports; off arms it."""
    target: TargetSection
    schedule: ScheduleSection | None = None
    """Left out: only when a person asks."""
    calendar: CalendarSection = CalendarSection()
    due: DueSection = DueSection()
    replace: ReplaceSection = ReplaceSection()
    verify: VerifySection = VerifySection()
    warm: WarmSection | None = None
    kill: KillSection = KillSection()
    failover: FailoverSection = FailoverSection()
    guards: GuardsSection = GuardsSection()
    radius: RadiusSection = RadiusSection()
    budgets: BudgetsSection = BudgetsSection()
    waivers: Annotated[list[WaiverSection], Field(max_length=100)] = Field(default=[])
    approval: ApprovalSection | None = None
    announce: AnnounceSection = AnnounceSection()
    retire: RetireSection = RetireSection()
    probe: ProbeSection = ProbeSection()
    deadlines: DeadlinesSection = DeadlinesSection()
