"""Short builders of domain values with defaults that every guard passes."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from reaper.domain.facts import (
    Activity,
    Address,
    ClusterView,
    Flavour,
    Instance,
    InstanceId,
    InstanceState,
    Marker,
    Member,
    Openness,
    Replication,
    SemiSync,
    ServerFacts,
    Session,
    Soak,
    ThreadState,
    Unreachable,
)
from reaper.domain.gtid import MariadbGtidSet
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.policy import Policy
from reaper.planner.guards import Case, Moment
from reaper.planner.steps import Request, make_plan
from reaper.workflow.observe import observe
from reaper.workflow.world import World

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
CLUSTER = "lab"
MS = timedelta(milliseconds=1)


def gtids(text: str) -> MariadbGtidSet:
    return MariadbGtidSet.parse(text)


def iid(name: str) -> InstanceId:
    return InstanceId("memory", f"{CLUSTER}/{name}")


def address(name: str) -> Address:
    """Of `n3`: port 3."""
    return Address("127.0.0.1", int(name.lstrip("abcdefghijklmnopqrstuvwxyz") or 99))


def instance(name: str, **changes: object) -> Instance:
    base = Instance(
        id=iid(name),
        address=address(name),
        server_id=address(name).port,
        created=NOON,
        state=InstanceState.RUNNING,
        data_bytes=2**30,
        free_bytes=100 * 2**30,
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def channel(source: str, **changes: object) -> Replication:
    base = Replication(
        channel="",
        source=address(source),
        source_server_id=address(source).port,
        receiver=ThreadState.RUNNING,
        applier=ThreadState.RUNNING,
        receiver_error=None,
        applier_error=None,
        delay=timedelta(0),
        received=gtids("0-1-100"),
        by_gtid=True,
        filters=(),
        clock_lag=timedelta(0),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def semi_sync(**changes: object) -> SemiSync:
    base = SemiSync(
        source_enabled=True,
        source_active=True,
        source_clients=2,
        unacknowledged=3,
        acknowledged=100,
        after_sync=True,
        timeout=timedelta(seconds=10),
        replica_enabled=True,
        replica_active=True,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def session(what: str = "transaction", age_s: float = 1) -> Session:
    return Session(id=7, user="app", host="10.0.0.5", age=timedelta(seconds=age_s), what=what)


def activity(
    transactions: Iterable[Session] = (),
    schema_changes: Iterable[Session] = (),
    backups: Iterable[Session] = (),
) -> Activity:
    return Activity(
        transactions=tuple(transactions),
        schema_changes=tuple(schema_changes),
        backups=tuple(backups),
        commit_waiters=0,
    )


def facts(name: str, **changes: object) -> ServerFacts:
    base = ServerFacts(
        flavour=Flavour.MARIADB,
        version="10.11.8",
        server_id=address(name).port,
        server_uuid=None,
        openness=Openness.READ_ONLY,
        executed=gtids("0-1-100"),
        purged=None,
        gtid_strict=True,
        binlog=True,
        binlog_of_replicated=True,
        binlog_row_format=True,
        channels=(),
        semi_sync=semi_sync(),
        activity=activity(),
        uptime=timedelta(hours=5),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def master(name: str = "n1", **changes: object) -> Member:
    """An open server that replicates from nobody."""
    return Member(instance=instance(name), server=facts(name, **{"openness": Openness.OPEN, **changes}))


def replica(name: str, of: str = "n1", **changes: object) -> Member:
    """A read-only server that replicates."""
    return Member(instance=instance(name), server=facts(name, **{"channels": (channel(of),), **changes}))


def silent(name: str, state: InstanceState = InstanceState.RUNNING, why: str = "timed out") -> Member:
    """A member without facts."""
    return Member(instance=instance(name, state=state), server=Unreachable(why=why))


def with_instance(member: Member, **changes: object) -> Member:
    return replace(member, instance=replace(member.instance, **changes))  # type: ignore[arg-type]


def trio() -> tuple[Member, ...]:
    return (master("n1"), replica("n2"), replica("n3"))


def view(*members: Member, **changes: object) -> ClusterView:
    base = ClusterView(
        name=CLUSTER,
        taken_at=NOON,
        members=members,
        endpoint=Address("127.0.0.1", 3306),
        endpoint_target=address("n1"),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def soak(**changes: object) -> Soak:
    base = Soak(
        window=timedelta(seconds=1),
        before=semi_sync(),
        after=semi_sync(acknowledged=150),
        caught_up={iid("n2"): 2 * MS, iid("n3"): 3 * MS},
        distance={iid("n2"): 0, iid("n3"): 1},
        marker=Marker(committed_in=MS, arrived={iid("n2"): 2 * MS, iid("n3"): 3 * MS}),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def case(*members: Member, **changes: object) -> Case:
    """A case that every guard passes: the master of a trio, replaced before its death."""
    base = Case(
        view=view(*(members or trio())),
        soak=soak(),
        victim=iid("n1"),
        role=Role.MASTER,
        policy=Policy(),
        replacement=Replacement.BEFORE,
        moment=Moment.PLAN,
        snapshot_from=iid("n2"),
        copies_hot=True,
    )
    if "role" not in changes and changes.get("victim", iid("n1")) != iid("n1"):
        changes["role"] = Role.REPLICA  # in these tests n1 is always the master
    return replace(base, **changes)  # type: ignore[arg-type]


def plan_for(
    world: World,
    victim: InstanceId,
    *,
    policy: Policy | None = None,
    replacement: Replacement = Replacement.BEFORE,
    run: str = "run-1",
) -> Plan:
    """The plan that the composition root would make of the observed cluster."""
    request = Request(run=run, victim=victim, policy=policy or Policy(), replacement=replacement, why="a test asks")
    return make_plan(observe(world, victim.name.partition("/")[0]), request)
