"""Every guard: when it goes, each reason for which it refuses, and that the unknown refuses (I10)."""

from datetime import date, timedelta

import pytest
from builders import (
    MS,
    NOON,
    activity,
    address,
    case,
    channel,
    facts,
    gtids,
    iid,
    instance,
    master,
    replica,
    semi_sync,
    session,
    silent,
    soak,
    trio,
    view,
    with_instance,
)

from reaper.domain.facts import Address, InstanceState, Marker, Member, Openness, ThreadState
from reaper.domain.plan import Replacement, Role
from reaper.domain.policy import FailoverBy, KillMode, Loss, Policy, Waivable, Waiver
from reaper.domain.verdict import Ruling
from reaper.planner import guards
from reaper.planner.guards import GUARDS, Case, Guard, Moment, judge, refusals

GO, REFUSE = Ruling.GO, Ruling.REFUSE
S = timedelta(seconds=1)


def on(name: str, **changes: object) -> tuple[Member, ...]:
    """The trio, one member changed."""
    return tuple(
        (master(name, **changes) if name == "n1" else replica(name, **changes)) if m.instance.id.short == name else m
        for m in trio()
    )


def placed(name: str, **changes: object) -> tuple[Member, ...]:
    """The trio, the provider's record of one member changed."""
    return tuple(with_instance(m, **changes) if m.instance.id.short == name else m for m in trio())


def link(**changes: object) -> tuple[Member, ...]:
    """The trio, the channel of n3 changed."""
    return on("n3", channels=(channel("n1", **changes),))


ROWS = [
    # ---- shape
    ("shape", "go: one master and its replicas", case(), GO, "master n1, replicas n2, n3"),
    ("shape", "go: the victim is a replica", case(victim=iid("n3")), GO, "master n1"),
    ("shape", "E17 another shape is refused by its name", case(master("n1")), REFUSE, "lone server: "),
    ("shape", "I10 an unreachable member", case(*trio()[:2], silent("n3")), REFUSE, "unreachable member: n3"),
    ("shape", "the victim is nobody's member", case(victim=iid("n9")), REFUSE, "is not a living member of lab"),
    (
        "shape",
        "I6 the victim is quarantined already",
        case(*trio(), silent("n4", InstanceState.QUARANTINED), victim=iid("n4")),
        REFUSE,
        "is not a living member",
    ),
    (
        "shape",
        "I2 E12 the plan took the master for a replica",
        case(role=Role.REPLICA),
        REFUSE,
        "the plan was made to kill a replica, n1 is the master now",
    ),
    (
        "shape",
        "I2 E12 the plan took a replica for the master",
        case(victim=iid("n3"), role=Role.MASTER),
        REFUSE,
        "the plan was made to kill a master, n3 is the replica now",
    ),
    # ---- replicas
    ("replicas", "go: all healthy", case(), GO, "all receive and apply"),
    (
        "replicas",
        "go: the victim itself may be broken",
        case(*link(applier=ThreadState.STOPPED), victim=iid("n3")),
        GO,
        "all receive and apply",
    ),
    (
        "replicas",
        "E06 a stopped receiver",
        case(*link(receiver=ThreadState.STOPPED, receiver_error="1236 purged")),
        REFUSE,
        "n3: receiver is stopped: 1236 purged",
    ),
    (
        "replicas",
        "a receiver that is still connecting",
        case(*link(receiver=ThreadState.CONNECTING)),
        REFUSE,
        "n3: receiver is connecting",
    ),
    (
        "replicas",
        "E06 a stopped applier, with its error",
        case(*link(applier=ThreadState.STOPPED, applier_error="1062 duplicate")),
        REFUSE,
        "n3: applier is stopped: 1062 duplicate",
    ),
    (
        "replicas",
        "E06 a configured delay",
        case(*link(delay=timedelta(hours=1))),
        REFUSE,
        "n3: configured delay of 3600 s",
    ),
    ("replicas", "by file and offset", case(*link(by_gtid=False)), REFUSE, "n3: replicates by file and offset"),
    (
        "replicas",
        "E18 a replication filter",
        case(*link(filters=("Replicate_Do_DB=shop",))),
        REFUSE,
        "n3: replication filter Replicate_Do_DB=shop",
    ),
    # ---- lag
    ("lag", "go: applied, marker row seen", case(), GO, "shows the marker row"),
    ("lag", "go: a dry run writes no marker row", case(soak=soak(marker=None)), GO, "applied the master's"),
    (
        "lag",
        "go: the victim replica's own lag does not matter",
        case(
            victim=iid("n3"),
            soak=soak(
                caught_up={iid("n2"): MS, iid("n3"): None}, marker=Marker(arrived={iid("n2"): MS}, committed_in=MS)
            ),
        ),
        GO,
        "marker row",
    ),
    (
        "lag",
        "E31 received but not applied in time",
        case(soak=soak(caught_up={iid("n2"): MS, iid("n3"): None}, distance={iid("n2"): 0, iid("n3"): 4000})),
        REFUSE,
        "n3 is 4000 transactions behind and did not catch up within 5000 ms",
    ),
    (
        "lag",
        "I10 nothing is known of a replica",
        case(soak=soak(caught_up={iid("n2"): MS}, distance={})),
        REFUSE,
        "n3 is an unknown number of transactions behind",
    ),
    (
        "lag",
        "caught up, but too slowly",
        case(soak=soak(caught_up={iid("n2"): MS, iid("n3"): 6 * S})),
        REFUSE,
        "n3 took 6000 ms to catch up, more than 5000 ms",
    ),
    (
        "lag",
        "E29 positions agree, the marker row is missing",
        case(soak=soak(marker=Marker(committed_in=MS, arrived={iid("n2"): MS, iid("n3"): None}))),
        REFUSE,
        "the marker row did not arrive on n3",
    ),
    (
        "lag",
        "the marker row came late",
        case(soak=soak(marker=Marker(committed_in=MS, arrived={iid("n2"): MS, iid("n3"): 9 * S}))),
        REFUSE,
        "the marker row did not arrive on n3",
    ),
    # ---- semi-sync
    ("semi-sync", "go: on and acknowledging", case(), GO, "on and acknowledging"),
    (
        "semi-sync",
        "go: loss is accepted, whatever the state",
        case(policy=Policy(loss=Loss.ACCEPTED), soak=soak(before=None, after=None)),
        GO,
        "the policy accepts the loss",
    ),
    ("semi-sync", "I10 the state before is unknown", case(soak=soak(before=None)), REFUSE, "could not be read"),
    ("semi-sync", "I10 the state after is unknown", case(soak=soak(after=None)), REFUSE, "could not be read"),
    (
        "semi-sync",
        "I3 not enabled",
        case(soak=soak(after=semi_sync(source_enabled=False))),
        REFUSE,
        "not enabled on the master",
    ),
    (
        "semi-sync",
        "E02 fallen back",
        case(soak=soak(after=semi_sync(source_active=False))),
        REFUSE,
        "fallen back to asynchronous",
    ),
    (
        "semi-sync",
        "E02 nobody is attached",
        case(soak=soak(after=semi_sync(source_clients=0))),
        REFUSE,
        "no replica acknowledges",
    ),
    (
        "semi-sync",
        "I3 acknowledges after the engine commit",
        case(soak=soak(after=semi_sync(after_sync=False))),
        REFUSE,
        "AFTER_COMMIT",
    ),
    (
        "semi-sync",
        "E02 a time-out that an ordinary hiccup exceeds",
        case(soak=soak(after=semi_sync(timeout=9 * S))),
        REFUSE,
        "its time-out of 9000 ms is short enough to fall back",
    ),
    (
        "semi-sync",
        "E02 commits went unacknowledged during the watch",
        case(soak=soak(after=semi_sync(unacknowledged=5))),
        REFUSE,
        "2 commits went unacknowledged during 1000 ms",
    ),
    (
        "semi-sync",
        "E02 the counters were reset during the watch",
        case(soak=soak(after=semi_sync(unacknowledged=0))),
        REFUSE,
        "commits went unacknowledged",
    ),
    (
        "semi-sync",
        "E02 the marker write was not acknowledged",
        case(soak=soak(marker=Marker(committed_in=None))),
        REFUSE,
        "the marker write was not acknowledged within 5000 ms",
    ),
    # ---- errant
    ("errant", "go: the replicas have nothing of their own", case(), GO, "no replica executed anything"),
    (
        "errant",
        "go: a replica that lags",
        case(*on("n3", executed=gtids("0-1-50"))),
        GO,
        "no replica executed anything",
    ),
    (
        "errant",
        "E01 an errant transaction, with its interval",
        case(*on("n3", executed=gtids("0-1-100,0-3-101"))),
        REFUSE,
        "n3 executed 0-3-101, which the master never had",
    ),
    (
        "errant",
        "E01 ahead of the master",
        case(*on("n2", executed=gtids("0-1-103"))),
        REFUSE,
        "n2 executed 0-1-101..103",
    ),
    (
        "errant",
        "E20 a domain that the master does not know",
        case(*on("n2", executed=gtids("0-1-100,7-9-1"))),
        REFUSE,
        "n2 executed 7-9-1",
    ),
    (
        "errant",
        "I10 the master's set is unknown",
        case(silent("n1"), replica("n2")),
        REFUSE,
        "the master's executed set is unknown",
    ),
    # ---- copies
    ("copies", "I1 go: one is built before the kill", case(policy=Policy(min_copies=3)), GO, "3 left"),
    (
        "copies",
        "I1 go: it is built already",
        case(*trio(), replica("n4"), moment=Moment.KILL, policy=Policy(min_copies=3)),
        GO,
        "3 left after the kill, 2 to acknowledge",
    ),
    (
        "copies",
        "I1 too few are left",
        case(replacement=Replacement.AFTER, policy=Policy(min_copies=3)),
        REFUSE,
        "2 would be left after the kill, the policy wants 3",
    ),
    (
        "copies",
        "I1 the replacement does not count twice",
        case(moment=Moment.KILL, policy=Policy(min_copies=3)),
        REFUSE,
        "2 would be left",
    ),
    (
        "copies",
        "I10 an unreachable member is no copy",
        case(*trio()[:2], silent("n3"), replacement=Replacement.NONE),
        REFUSE,
        "1 would be left",
    ),
    (
        "copies",
        "E24 nobody is left to acknowledge",
        case(*trio()[:2], replacement=Replacement.NONE, policy=Policy(min_copies=1)),
        REFUSE,
        "no replica with semi-sync would be left to acknowledge",
    ),
    (
        "copies",
        "go: nobody is left to acknowledge, and loss is accepted",
        case(*trio()[:2], replacement=Replacement.NONE, policy=Policy(min_copies=1, loss=Loss.ACCEPTED)),
        GO,
        "1 left after the kill, 0 to acknowledge",
    ),
    (
        "copies",
        "I1 go: a cold copy stops a replica, and enough are left",
        case(copies_hot=False),
        GO,
        "3 left after the kill",
    ),
    (
        "copies",
        "I1 a cold copy would stop a copy that is needed",
        case(copies_hot=False, policy=Policy(min_copies=3)),
        REFUSE,
        "only a cold copy is possible here; it stops a replica, and 2 copies are too few",
    ),
    (
        "copies",
        "I3 a cold copy would stop the only replica that acknowledges",
        case(*trio()[:2], copies_hot=False, policy=Policy(min_copies=1)),
        REFUSE,
        "only a cold copy is possible",
    ),
    # ---- activity
    ("activity", "go: nothing runs", case(), GO, "no old transaction"),
    (
        "activity",
        "go: a young transaction on the victim",
        case(*on("n1", activity=activity(transactions=[session(age_s=30)]))),
        GO,
        "no old transaction",
    ),
    (
        "activity",
        "go: an old transaction on a replica",
        case(*on("n2", activity=activity(transactions=[session(age_s=900)]))),
        GO,
        "no old transaction",
    ),
    (
        "activity",
        "E09 an old transaction on the victim, with its session",
        case(*on("n1", activity=activity(transactions=[session("transaction, UPDATE stock", 31)]))),
        REFUSE,
        "old transaction on n1: session 7 (app@10.0.0.5, 31 s): transaction, UPDATE stock",
    ),
    (
        "activity",
        "E10 a schema change on the victim",
        case(*on("n1", activity=activity(schema_changes=[session("ALTER TABLE orders")]))),
        REFUSE,
        "schema change on n1: session 7",
    ),
    (
        "activity",
        "E10 a schema change on the source of the snapshot",
        case(*on("n2", activity=activity(schema_changes=[session("_orders_gho")]))),
        REFUSE,
        "schema change on n2",
    ),
    (
        "activity",
        "E10 a backup on the heir",
        case(*on("n3", activity=activity(backups=[session("BACKUP STAGE START")])), heir=iid("n3")),
        REFUSE,
        "backup or global lock on n3",
    ),
    (
        "activity",
        "I10 E10 what runs on the victim is unknown",
        case(*on("n1", activity=None)),
        REFUSE,
        "what runs on n1 could not be read",
    ),
    (
        "activity",
        "I10 the heir is unreachable",
        case(*trio(), silent("n4"), heir=iid("n4")),
        REFUSE,
        "what runs on n4 could not be read",
    ),
    (
        "activity",
        "I10 the source of the snapshot is gone",
        case(snapshot_from=iid("n9")),
        REFUSE,
        "what runs on n9 could not be read",
    ),
    # ---- disk
    ("disk", "go: it fits", case(), GO, "the replacement fits"),
    ("disk", "go: nothing is built", case(snapshot_from=None, replacement=Replacement.NONE), GO, "nothing is built"),
    ("disk", "nobody can be copied", case(snapshot_from=None), REFUSE, "there is no healthy replica to copy"),
    (
        "disk",
        "go: it is built already",
        case(*placed("n2", free_bytes=0), moment=Moment.KILL),
        GO,
        "the replacement is built",
    ),
    ("disk", "E28 it does not fit", case(*placed("n2", free_bytes=2**30)), REFUSE, "the replacement needs 1485 MiB"),
    ("disk", "I10 E28 the free space is unknown", case(*placed("n2", free_bytes=None)), REFUSE, "is unknown"),
    ("disk", "I10 E28 the size is unknown", case(*placed("n2", data_bytes=None)), REFUSE, "is unknown"),
    ("disk", "I10 the source is gone", case(snapshot_from=iid("n9")), REFUSE, "the size of n9"),
    (
        "disk",
        "go: a copy gets a volume of its own, whatever is free on its source's",
        case(*placed("n2", own_volume=True, data_bytes=None, free_bytes=None)),
        GO,
        "a volume of its own, as large as that of n2",
    ),
    # ---- identity
    ("identity", "go: all differ", case(), GO, "every server id and UUID is unique"),
    (
        "identity",
        "E14 a server id twice",
        case(*placed("n3", server_id=2)),
        REFUSE,
        "server id 2 is used twice",
    ),
    (
        "identity",
        "E29 the server id of a quarantined member",
        case(*trio(), with_instance(silent("n9", InstanceState.QUARANTINED), server_id=3)),
        REFUSE,
        "server id 3 is used twice",
    ),
    (
        "identity",
        "E14 a copied auto.cnf",
        case(master("n1"), replica("n2", server_uuid="u-1"), replica("n3", server_uuid="u-1")),
        REFUSE,
        "server_uuid u-1 is used twice (a copied auto.cnf)",
    ),
    (
        "identity",
        "E14 it runs with another server id than it has",
        case(*on("n3", server_id=33)),
        REFUSE,
        "n3 runs with server id 33, registered as 3",
    ),
    # ---- settings
    ("settings", "go: all agree", case(), GO, "as replication needs them"),
    ("settings", "no binary log", case(*on("n3", binlog=False)), REFUSE, "n3 has no binary log"),
    (
        "settings",
        "E18 an heir that does not log what it replicates",
        case(*on("n3", binlog_of_replicated=False)),
        REFUSE,
        "n3 does not log what it replicates",
    ),
    (
        "settings",
        "E18 not in row format",
        case(*on("n1", binlog_row_format=False)),
        REFUSE,
        "n1 does not log in row format",
    ),
    (
        "settings",
        "E20 strict mode is off",
        case(*on("n2", gtid_strict=False)),
        REFUSE,
        "n2 does not enforce GTID order",
    ),
    (
        "settings",
        "I2 E08 a replica accepts writes",
        case(*on("n2", openness=Openness.OPEN)),
        REFUSE,
        "n2 is a replica and accepts writes",
    ),
    # ---- endpoint
    ("endpoint", "go: it leads to the master", case(), GO, "leads to the master"),
    (
        "endpoint",
        "go: the victim is a replica",
        case(victim=iid("n3"), view=view(*trio(), endpoint=None, endpoint_target=None)),
        GO,
        "is not where applications write",
    ),
    ("endpoint", "I10 no endpoint", case(view=view(*trio(), endpoint=None)), REFUSE, "does not say where it leads"),
    (
        "endpoint",
        "I10 it does not say where it leads",
        case(view=view(*trio(), endpoint_target=None)),
        REFUSE,
        "does not say where it leads",
    ),
    (
        "endpoint",
        "E22 it leads to a replica",
        case(view=view(*trio(), endpoint_target=address("n2"))),
        REFUSE,
        "leads to 127.0.0.1:2, not to the master",
    ),
    (
        "endpoint",
        "E22 it leads out of the cluster",
        case(view=view(*trio(), endpoint_target=Address("10.9.9.9", 1))),
        REFUSE,
        "not to the master",
    ),
    (
        "endpoint",
        "a TTL that is longer than the budget of the outage",
        case(view=view(*trio(), endpoint_stale_for=timedelta(seconds=60))),
        REFUSE,
        "clients go on to a former master for 1 minute",
    ),
    (
        "endpoint",
        "go: a TTL that the budget allows for",
        case(
            view=view(*trio(), endpoint_stale_for=timedelta(seconds=5)),
            policy=Policy(outage_budget=timedelta(seconds=8)),
        ),
        GO,
        "leads to the master",
    ),
    # ---- protection
    ("protection", "go: nothing protects it", case(), GO, "nothing at its provider protects n1"),
    (
        "protection",
        "it is protected",
        case(protection="n1 is protected by its attribute disableApiTermination"),
        REFUSE,
        "take the protection off if it may die",
    ),
    # ---- mode
    ("mode", "go: crash of a master", case(), GO, "crash, failover by reaper"),
    ("mode", "go: drain of a master", case(policy=Policy(mode=KillMode.DRAIN)), GO, "drain"),
    (
        "mode",
        "a victim that is frozen already",
        case(*placed("n1", state=InstanceState.FROZEN)),
        REFUSE,
        "n1 is already frozen",
    ),
    (
        "mode",
        "a drain of a replica",
        case(victim=iid("n2"), policy=Policy(mode=KillMode.DRAIN)),
        REFUSE,
        "drain is for a master",
    ),
    (
        "mode",
        "a drain in front of somebody else's failover",
        case(policy=Policy(mode=KillMode.DRAIN, failover=FailoverBy.OBSERVE)),
        REFUSE,
        "no rehearsal of a failover tool",
    ),
]


def named(guard: str) -> Guard:
    found: Guard = getattr(guards, f"guard_{guard.replace('-', '_')}")
    return found


@pytest.mark.parametrize(
    ("guard", "asked", "ruling", "reason"),
    [pytest.param(guard, asked, ruling, why, id=f"{guard}: {name}") for guard, name, asked, ruling, why in ROWS],
)
def test_a_guard_rules_with_a_reason(guard: str, asked: Case, ruling: Ruling, reason: str) -> None:
    verdict = named(guard)(asked)
    assert (verdict.guard, verdict.ruling) == (guard, ruling)
    assert reason in verdict.reason


def test_every_guard_has_a_go_and_a_refusal_in_this_table() -> None:
    listed = {(row[0], row[3]) for row in ROWS}
    assert listed == {(guard(case()).guard, ruling) for guard in GUARDS for ruling in Ruling}


def test_every_refusal_of_a_case_is_shown_at_once() -> None:
    broken = case(
        *on("n1", activity=None), soak=soak(before=None, after=None, caught_up={}), policy=Policy(min_copies=9)
    )
    assert [v.guard for v in refusals(judge(broken))] == ["lag", "semi-sync", "copies", "activity"]


@pytest.mark.parametrize("name", ["n1", "n2", "n3"])
@pytest.mark.parametrize("moment", list(Moment))
def test_I10_a_member_without_facts_refuses_the_whole(name: str, moment: Moment) -> None:
    members = tuple(silent(name) if m.instance.id == iid(name) else m for m in trio())
    assert "shape" in {v.guard for v in refusals(judge(case(*members, moment=moment)))}


@pytest.mark.parametrize("guard", ["replicas", "identity", "settings"])
def test_I10_each_guard_by_itself_refuses_what_it_could_not_look_at(guard: str) -> None:
    verdict = named(guard)(case(master("n1"), replica("n2"), silent("n3")))
    assert verdict.ruling is REFUSE


def test_I10_the_lag_of_a_silent_survivor_is_unknown() -> None:
    asked = case(master("n1"), replica("n2"), silent("n3"), soak=soak(caught_up={iid("n2"): MS}, marker=None))
    assert guards.guard_lag(asked).ruling is REFUSE


def test_I10_a_marker_row_that_nobody_looked_for_has_not_arrived() -> None:
    asked = case(soak=soak(marker=Marker(committed_in=MS, arrived={iid("n2"): MS})))
    assert guards.guard_lag(asked).ruling is REFUSE


def test_a_replica_that_lags_may_be_replaced() -> None:
    late = soak(
        caught_up={iid("n2"): MS, iid("n3"): None},
        marker=Marker(committed_in=MS, arrived={iid("n2"): MS, iid("n3"): None}),
    )
    assert guards.guard_lag(case(victim=iid("n3"), soak=late)).ruling is GO


def test_E01_the_replica_that_has_the_errant_transaction_may_be_replaced() -> None:
    members = on("n3", executed=gtids("0-1-100,0-3-101"))
    assert guards.guard_errant(case(*members, victim=iid("n3"))).ruling is GO


def test_E24_only_replicas_with_semi_sync_can_acknowledge_the_new_master() -> None:
    deaf = semi_sync(replica_enabled=False, replica_active=False)
    members = (master("n1"), replica("n2", semi_sync=deaf), replica("n3", semi_sync=deaf))
    verdict = guards.guard_copies(case(*members, replacement=Replacement.NONE))
    assert verdict.ruling is REFUSE


@pytest.mark.parametrize("replacement", [Replacement.BEFORE, Replacement.AFTER])
def test_a_replacement_without_anybody_to_copy_is_refused_before_the_kill(replacement: Replacement) -> None:
    asked = case(
        *trio()[:2],
        victim=iid("n2"),
        snapshot_from=None,
        replacement=replacement,
        policy=Policy(min_copies=1, loss=Loss.ACCEPTED),
        soak=soak(caught_up={}, distance={}, marker=None),
    )
    assert refusals(judge(asked))


def test_the_case_that_the_others_change_passes_every_guard() -> None:
    assert refusals(judge(case())) == ()
    assert facts("n1").server_id == instance("n1").server_id


def waiver(guard: Waivable, difference: str | None = None, expires: date | None = None) -> Waiver:
    return Waiver(guard=guard, difference=difference, owner="ada", expires=expires or NOON.date(), reason="migration")


BUSY = on("n1", activity=activity([session(age_s=90)]))


@pytest.mark.parametrize(
    ("asked", "guard", "waivers", "ruling"),
    [
        pytest.param(BUSY, "activity", [waiver(Waivable.ACTIVITY, "old transaction")],
                     Ruling.GO, id="what is named is accepted on its last day"),
        pytest.param(BUSY, "activity", [waiver(Waivable.ACTIVITY, "old transaction", NOON.date() - timedelta(days=1))],
                     Ruling.REFUSE, id="a day later it is not"),
        pytest.param(BUSY, "activity", [waiver(Waivable.ACTIVITY, "backup")],
                     Ruling.REFUSE, id="another finding is not accepted"),
        pytest.param(BUSY, "activity", [waiver(Waivable.ACTIVITY)],
                     Ruling.GO, id="without a name every finding is accepted"),
        pytest.param(BUSY, "activity", [waiver(Waivable.DISK)], Ruling.REFUSE, id="of another guard"),
    ],
)  # fmt: skip
def test_a_waiver_accepts_what_it_names_and_says_so(
    asked: tuple[Member, ...], guard: str, waivers: list[Waiver], ruling: Ruling
) -> None:
    verdicts = judge(case(*asked, policy=Policy(waivers=tuple(waivers))))
    verdict = next(v for v in verdicts if v.guard == guard)
    assert verdict.ruling is ruling
    said = "ada" in verdict.reason or any("ada" in e for e in verdict.evidence)
    assert said == (ruling is Ruling.GO)
