"""What the daemon tells Prometheus, whoever asks after its health, and systemd."""

import logging
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import prometheus_client
import pytest
from builders import CLUSTER
from prometheus_client.parser import text_string_to_metric_families
from rotations import Stage

from reaper.adapters.telemetry.metrics import Firing, Reload, Telemetry
from reaper.adapters.telemetry.notify import Notifier
from reaper.adapters.telemetry.runs import MOST_PAIRS, OTHER, UNKNOWN
from reaper.adapters.telemetry.server import MOST_CLIENTS, Health, StatusServer
from reaper.adapters.telemetry.states import PolicyState
from reaper.cli.journal import Fan
from reaper.domain.errors import TryAgainError, UsageError
from reaper.domain.facts import Address
from reaper.domain.ledger import LedgerVerdict
from reaper.domain.plan import Plan
from reaper.domain.verdict import ClientCost, Event, EventKind, GuardVerdict, Ruling, RunState, RunVerdict

# A traceback of a thread is a failure here; without pytest it would be in the daemon's log.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WELL = Health(faults=())
PATIENCE = 30.0  # seconds; of a client of the tests, for a busy machine

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: bytes) -> Samples:
    """Every sample; a repeated one would be refused by Prometheus."""
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"reaper_{name}", frozenset(labels.items())))


def names(samples: Samples) -> set[str]:
    return {name for name, _ in samples}


class Wall:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def telemetry(wall: Wall) -> Telemetry:
    return Telemetry(wall)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return replace(Stage().plan(), standing="nightly")


def verdict(**changes: object) -> RunVerdict:
    cost = ClientCost(client=0, outage=timedelta(milliseconds=42))
    good = RunVerdict(
        faults=(),
        outage=cost.outage,
        clients=(cost,),
        parts=(),
        ledger=None,
        copies_before=3,
        copies_after=3,
        heir="n4",
    )
    return replace(good, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


def ledger(lost: int) -> LedgerVerdict:
    return LedgerVerdict(
        acknowledged=100,
        lost=tuple((1, seq) for seq in range(lost)),
        unknown_present=0,
        unknown_absent=0,
        refused=0,
        refused_present=0,
        duplicated=(),
    )


def done(step: str, took_ns: int, kind: EventKind = EventKind.DONE) -> Event:
    return Event(step=step, kind=kind, detail="", at_ns=0, wall="", took_ns=took_ns)


def refusal(guard: str) -> GuardVerdict:
    return GuardVerdict(guard=guard, ruling=Ruling.REFUSE, reason="no")


def policy(name: str, **changes: object) -> PolicyState:
    state = PolicyState(
        name=name, armed=True, leashed_by_file=False, leashed_by_budget=False, next_fire=NOON + HOUR, last_fire=None
    )
    return replace(state, **changes)  # type: ignore[arg-type]  # a builder trusts its tests


# ---- runs


def test_a_whole_rotation_is_counted_and_timed(telemetry: Telemetry) -> None:
    stage = Stage()
    stage.world = replace(stage.world, journal=Fan(stage.world.journal, telemetry.listener()))
    said = stage.follow(stage.plan())
    assert said.outage is not None
    samples = parsed(telemetry.text())
    whose = {"policy": "", "cluster": CLUSTER}
    assert value(samples, "runs_begun_total", **whose) == 1
    assert value(samples, "runs_ended_total", **whose, state="good") == 1
    assert value(samples, "outage_seconds_sum", **whose) == said.outage.total_seconds()
    assert value(samples, "outage_seconds_count", **whose) == 1
    assert value(samples, "acknowledged_writes_lost_total", **whose) == 0
    for step in ("snapshot", "launch", "kill", "promote", "reroute"):
        assert value(samples, "step_duration_seconds_count", step=step, result="done") == 1, step


def test_every_series_of_a_run_exists_from_its_beginning_so_that_its_first_failure_is_an_increase(
    telemetry: Telemetry, plan: Plan
) -> None:
    telemetry.listener().begin(plan)
    samples = parsed(telemetry.text())
    whose = {"policy": "nightly", "cluster": CLUSTER}
    for state in ("good", "bad", "refused", "undone", "stuck"):
        assert value(samples, "runs_ended_total", **whose, state=state) == 0
    for name in ("acknowledged_writes_lost_total", "clients_not_returned_total", "outage_seconds_count"):
        assert value(samples, name, **whose) == 0


@pytest.mark.parametrize(
    ("outage_ms", "bound", "below"),
    [
        pytest.param(9, "0.01", None, id="shorter than the first bound"),
        pytest.param(42, "0.05", "0.025", id="the reference kill"),
        pytest.param(2000, "2.5", "1.0", id="a budget of two seconds"),
        pytest.param(61_000, "+Inf", "60.0", id="longer than a minute"),
    ],
)
def test_an_outage_falls_between_two_bounds(
    telemetry: Telemetry, plan: Plan, outage_ms: int, bound: str, below: str | None
) -> None:
    listener = telemetry.listener()
    listener.begin(plan)
    listener.end(plan.run, RunState.GOOD, verdict(outage=timedelta(milliseconds=outage_ms)), "")
    samples = parsed(telemetry.text())
    whose = {"policy": "nightly", "cluster": CLUSTER}
    assert value(samples, "outage_seconds_bucket", **whose, le=bound) == 1
    if below is not None:
        assert value(samples, "outage_seconds_bucket", **whose, le=below) == 0


def test_a_client_that_never_came_back_has_no_length_and_is_counted_all_the_same(
    telemetry: Telemetry, plan: Plan
) -> None:
    listener = telemetry.listener()
    listener.begin(plan)
    gone = (ClientCost(client=0, outage=None), ClientCost(client=1, outage=timedelta(seconds=1)))
    listener.end(plan.run, RunState.BAD, verdict(outage=None, clients=gone, ledger=ledger(lost=3)), "")
    samples = parsed(telemetry.text())
    whose = {"policy": "nightly", "cluster": CLUSTER}
    assert value(samples, "outage_seconds_count", **whose) == 0
    assert value(samples, "clients_not_returned_total", **whose) == 1
    assert value(samples, "acknowledged_writes_lost_total", **whose) == 3
    assert value(samples, "runs_ended_total", **whose, state="bad") == 1


def test_what_is_said_twice_is_counted_once_and_a_stuck_run_that_is_finished_is_counted_again(
    telemetry: Telemetry, plan: Plan
) -> None:
    listener = telemetry.listener(lambda _run: plan)
    listener.begin(plan)
    listener.begin(plan)
    for _ in range(2):  # the store did not take it the first time
        listener.end(plan.run, RunState.STUCK, None, "look")
    telemetry.listener(lambda _run: plan).end(plan.run, RunState.GOOD, verdict(), "")
    samples = parsed(telemetry.text())
    whose = {"policy": "nightly", "cluster": CLUSTER}
    assert value(samples, "runs_begun_total", **whose) == 1
    assert value(samples, "runs_ended_total", **whose, state="stuck") == 1
    assert value(samples, "runs_ended_total", **whose, state="good") == 1
    assert value(samples, "outage_seconds_count", **whose) == 1


def _unreadable(_run: str) -> Plan:
    raise UsageError("the record was written by another version")


@pytest.mark.parametrize(
    ("recall", "whose"),
    [
        pytest.param(None, (UNKNOWN, UNKNOWN), id="nobody remembers"),
        pytest.param(_unreadable, (UNKNOWN, UNKNOWN), id="the record cannot be read"),
        pytest.param("the plan", ("nightly", CLUSTER), id="the store has its plan"),
    ],
)
def test_a_run_that_began_in_a_process_that_died_is_counted_where_it_ends(
    telemetry: Telemetry, plan: Plan, recall: object, whose: tuple[str, str]
) -> None:
    remember: Callable[[str], Plan | None] = recall if callable(recall) else lambda _run: plan if recall else None
    listener = telemetry.listener(remember)
    listener.guards(plan.run, (refusal("lag"),))
    listener.event(plan.run, done("kill", 1))
    listener.end(plan.run, RunState.GOOD, verdict(), "")
    samples = parsed(telemetry.text())
    assert value(samples, "runs_ended_total", policy=whose[0], cluster=whose[1], state="good") == 1
    assert value(samples, "guard_refusals_total", guard="lag", policy=whose[0]) == 1


def test_a_refusal_is_counted_for_its_guard_and_a_go_is_not(telemetry: Telemetry, plan: Plan) -> None:
    listener = telemetry.listener()
    listener.begin(plan)
    go = GuardVerdict(guard="copies", ruling=Ruling.GO, reason="3")
    listener.guards(plan.run, (go, refusal("lag"), refusal("check billing")))
    listener.guards(plan.run, (refusal("lag"),))
    samples = parsed(telemetry.text())
    assert value(samples, "guard_refusals_total", guard="lag", policy="nightly") == 2
    assert value(samples, "guard_refusals_total", guard="check billing", policy="nightly") == 1
    assert value(samples, "guard_refusals_total", guard="copies", policy="nightly") is None


@pytest.mark.parametrize(
    ("event", "step", "result"),
    [
        pytest.param(done("warm", 30_000_000_000), "warm", "done", id="a step that was done"),
        pytest.param(done("fence", 5, EventKind.FAILED), "fence", "failed", id="a step that failed"),
        pytest.param(done("n4 of shard 17", 5), OTHER, "done", id="a name from elsewhere makes no new series"),
    ],
)
def test_a_step_is_timed_by_its_name_and_result(
    telemetry: Telemetry, plan: Plan, event: Event, step: str, result: str
) -> None:
    listener = telemetry.listener()
    listener.event(plan.run, event)
    listener.event(plan.run, replace(event, kind=EventKind.STARTED, took_ns=None))
    listener.event(plan.run, replace(event, kind=EventKind.NOTE, took_ns=None))
    samples = parsed(telemetry.text())
    assert event.took_ns is not None
    assert value(samples, "step_duration_seconds_sum", step=step, result=result) == event.took_ns / 1e9
    assert value(samples, "step_duration_seconds_count", step=step, result=result) == 1


def _many(telemetry: Telemetry, plan: Plan, numbers: range) -> None:
    """Runs that end, as many that another process takes over, and some of which only the end is seen here."""
    listener = telemetry.listener()
    for number in numbers:
        run = replace(plan, run=f"run-{number}", cluster=f"c{number % 3}")
        if number % 10:
            listener.begin(run)
        listener.event(run.run, done("kill", 1))
        if number % 2 == 0:
            listener.end(run.run, RunState.GOOD, verdict(), "")


def test_ten_thousand_runs_of_three_clusters_leave_sums_and_no_run(telemetry: Telemetry, plan: Plan) -> None:
    tracemalloc.start()
    try:
        _many(telemetry, plan, range(2_500))
        before, lines = tracemalloc.get_traced_memory()[0], telemetry.text().count(b"\n")
        _many(telemetry, plan, range(2_500, 10_000))
        text = telemetry.text()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000  # the names alone of 7,500 runs would be more
    assert text.count(b"\n") == lines
    assert b"run-" not in text
    assert sum(v for (name, _), v in parsed(text).items() if name == "reaper_runs_ended_total") == 5_000


def test_clusters_beyond_a_bound_share_one_name(telemetry: Telemetry, plan: Plan) -> None:
    listener = telemetry.listener()
    for number in range(MOST_PAIRS + 5):
        listener.begin(replace(plan, run=f"run-{number}", cluster=f"c{number}"))
    lines = [line for line in telemetry.text().decode().splitlines() if line.startswith("reaper_runs_begun_total{")]
    assert len(lines) == MOST_PAIRS + 1
    assert lines[-1] == f'reaper_runs_begun_total{{cluster="{OTHER}",policy="nightly"}} 5.0'


def test_counting_from_many_threads_loses_nothing(telemetry: Telemetry, plan: Plan) -> None:
    def work(number: int) -> None:
        listener = telemetry.listener()
        for turn in range(50):
            run = replace(plan, run=f"run-{number}-{turn}")
            listener.begin(run)
            telemetry.text()
            listener.end(run.run, RunState.GOOD, verdict(), "")
            telemetry.observed(f"c{number}-{turn}", HOUR, None)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    samples = parsed(telemetry.text())
    assert value(samples, "runs_ended_total", policy="nightly", cluster=CLUSTER, state="good") == 200
    assert sum(1 for name in samples if name[0] == "reaper_cluster_oldest_instance_age_seconds") == 200


# ---- policies, clusters, announcements


def test_the_gauges_of_policies_are_replaced_at_once_and_one_that_is_gone_disappears(telemetry: Telemetry) -> None:
    telemetry.policies([policy("old"), policy("nightly", last_fire=NOON)])
    telemetry.text()
    telemetry.policies(
        [policy("nightly", armed=False, leashed_by_file=True, leashed_by_budget=True, next_fire=None, last_fire=NOON)]
    )
    samples = parsed(telemetry.text())
    assert value(samples, "policy_armed", policy="nightly") == 0
    assert value(samples, "policy_leashed", policy="nightly", by="file") == 1
    assert value(samples, "policy_leashed", policy="nightly", by="budget") == 1
    assert value(samples, "policy_next_fire_timestamp_seconds", policy="nightly") is None
    assert value(samples, "policy_last_fire_timestamp_seconds", policy="nightly") == NOON.timestamp()
    assert value(samples, "policy_armed", policy="old") is None
    assert value(samples, "policy_leashed", policy="old", by="file") is None


def test_firings_are_counted_by_outcome_and_exist_before_the_first(telemetry: Telemetry) -> None:
    telemetry.policies([policy("nightly")])
    before = parsed(telemetry.text())
    telemetry.fired("nightly", Firing.ABORTED)
    telemetry.missed("nightly", 3)
    after = parsed(telemetry.text())
    for outcome in Firing:
        assert value(before, "policy_firings_total", policy="nightly", outcome=outcome.value) == 0
    assert value(before, "policy_missed_firings_total", policy="nightly") == 0
    assert value(after, "policy_firings_total", policy="nightly", outcome="aborted") == 1
    assert value(after, "policy_firings_total", policy="nightly", outcome="acted") == 0
    assert value(after, "policy_missed_firings_total", policy="nightly") == 3


def test_a_bad_reload_shows_until_a_good_one(telemetry: Telemetry, wall: Wall) -> None:
    telemetry.reloaded(Reload.GOOD)
    wall.now += HOUR
    telemetry.reloaded(Reload.BAD)
    bad = parsed(telemetry.text())
    assert value(bad, "policies_reload_bad") == 1
    assert value(bad, "policies_last_good_reload_timestamp_seconds") == NOON.timestamp()
    telemetry.reloaded(Reload.GOOD)
    good = parsed(telemetry.text())
    assert value(good, "policies_reload_bad") == 0
    assert value(good, "policies_reloads_total", result="good") == 2
    assert value(good, "policies_reloads_total", result="bad") == 1


def test_ages_are_those_of_the_last_look_and_a_cluster_nobody_looks_at_is_forgotten(
    telemetry: Telemetry, wall: Wall
) -> None:
    telemetry.observed("gone", 3 * HOUR, HOUR)
    telemetry.observed("kept", 3 * HOUR, HOUR)
    wall.now += timedelta(hours=23)
    telemetry.observed("kept", 26 * HOUR, None)
    samples = parsed(telemetry.text())
    assert value(samples, "cluster_oldest_instance_age_seconds", cluster="gone") == 3 * 3600
    assert value(samples, "cluster_master_age_seconds", cluster="gone") == 3600
    assert value(samples, "cluster_oldest_instance_age_seconds", cluster="kept") == 26 * 3600
    assert value(samples, "cluster_master_age_seconds", cluster="kept") is None
    wall.now += timedelta(hours=2)
    telemetry.observed("kept", 28 * HOUR, None)
    samples = parsed(telemetry.text())
    assert value(samples, "cluster_oldest_instance_age_seconds", cluster="gone") is None
    assert value(samples, "cluster_observed_timestamp_seconds", cluster="kept") == wall.now.timestamp()


def test_announcements_are_totals_so_far(telemetry: Telemetry) -> None:
    telemetry.announcements("ops", sent=1, failed=0, dropped=0)
    telemetry.announcements("ops", sent=5, failed=2, dropped=1)
    samples = parsed(telemetry.text())
    for result, count in (("sent", 5), ("failed", 2), ("dropped", 1)):
        assert value(samples, "announcements_total", channel="ops", result=result) == count


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param('say "no"', 'say "no"', id="quotes"),
        pytest.param("two\nlines", "two\nlines", id="a newline"),
        pytest.param("back\\slash\\n", "back\\slash\\n", id="backslashes"),
        pytest.param("夜間{a=1},b", "夜間{a=1},b", id="other letters and what the format itself uses"),
        pytest.param("half\udc80", "half?", id="what is no text"),
        pytest.param("x" * 500, "x" * 128, id="endless"),
    ],
)
def test_any_name_can_be_a_label(telemetry: Telemetry, plan: Plan, name: str, shown: str) -> None:
    telemetry.policies([policy(name)])
    telemetry.fired(name, Firing.ACTED)
    telemetry.observed(name, HOUR, HOUR)
    telemetry.announcements(name, sent=1, failed=0, dropped=0)
    listener = telemetry.listener()
    listener.begin(replace(plan, standing=name, cluster=name))
    listener.guards(plan.run, (refusal(name),))
    listener.end(plan.run, RunState.GOOD, verdict(), "")
    samples = parsed(telemetry.text())
    assert value(samples, "runs_ended_total", policy=shown, cluster=shown, state="good") == 1
    assert value(samples, "guard_refusals_total", guard=shown, policy=shown) == 1
    assert value(samples, "policy_armed", policy=shown) == 1
    assert value(samples, "policy_firings_total", policy=shown, outcome="acted") == 1
    assert value(samples, "cluster_master_age_seconds", cluster=shown) == 3600
    assert value(samples, "announcements_total", channel=shown, result="sent") == 1


def test_two_telemetries_share_nothing_and_the_global_registry_has_nothing_of_them(wall: Wall, plan: Plan) -> None:
    one, other = Telemetry(wall), Telemetry(wall)
    one.listener().begin(plan)
    assert value(parsed(one.text()), "runs_begun_total", policy="nightly", cluster=CLUSTER) == 1
    assert value(parsed(other.text()), "runs_begun_total", policy="nightly", cluster=CLUSTER) is None
    assert b"reaper_" not in prometheus_client.generate_latest()


def test_every_metric_has_words_and_nothing_tells_when_a_series_was_born(telemetry: Telemetry, plan: Plan) -> None:
    telemetry.policies([policy("nightly")])
    telemetry.listener().begin(plan)
    families = list(text_string_to_metric_families(telemetry.text().decode()))
    assert all(family.documentation for family in families)
    assert len({family.name for family in families}) == len(families)
    assert not [name for name in names(parsed(telemetry.text())) if name.endswith("_created")]
    assert "process_resident_memory_bytes" in names(parsed(telemetry.text()))


# ---- the server


@contextmanager
def serving(
    telemetry: Telemetry, health: Callable[[], Health] = lambda: WELL, ready: Callable[[], Health] = lambda: WELL
) -> Iterator[Address]:
    with StatusServer(Address("127.0.0.1", 0), telemetry, health, ready) as server:
        yield server.address


def get(address: Address, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection(address.host, address.port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def dial(stack: ExitStack, address: Address, said: bytes = b"") -> socket.socket:
    """A client that says something and then nothing more."""
    client = stack.enter_context(socket.create_connection((address.host, address.port), timeout=PATIENCE))
    client.sendall(said)
    return client


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never loses its patience: what is done for others is not done by its time-outs."""
    monkeypatch.setattr("reaper.adapters.telemetry.server._Handler.timeout", None)


def test_a_scrape_is_what_the_telemetry_says(telemetry: Telemetry, plan: Plan) -> None:
    telemetry.listener().begin(plan)
    with serving(telemetry) as address:
        response, body = get(address, "/metrics?from=prometheus")
    assert response.status == 200
    assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert value(parsed(body), "runs_begun_total", policy="nightly", cluster=CLUSTER) == 1


def _store_is_away() -> Health:
    raise TryAgainError("the store does not answer")


def _mistaken() -> Health:
    raise ZeroDivisionError("a mistake of ours")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(
    ("check", "status", "body"),
    [
        pytest.param(lambda: WELL, 200, "ok\n", id="well"),
        pytest.param(
            lambda: Health(faults=("no policies\nare read", "the store is away")),
            503,
            "no policies are read\nthe store is away\n",
            id="two faults are two lines",
        ),
        pytest.param(_store_is_away, 503, "the store does not answer\n", id="a check that cannot be made is ill"),
        pytest.param(_mistaken, 500, "ZeroDivisionError: a mistake of ours\n", id="a mistake of ours is not well"),
    ],
)
def test_health_is_told_in_words(
    telemetry: Telemetry,
    path: str,
    check: Callable[[], Health],
    status: int,
    body: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    checks = {"health": check} if path == "/healthz" else {"ready": check}
    with serving(telemetry, **checks) as address, caplog.at_level(logging.DEBUG):
        response, said = get(address, path)
        other, _ = get(address, "/readyz" if path == "/healthz" else "/healthz")
    assert (response.status, said.decode(), other.status) == (status, body, 200)
    assert response.getheader("Content-Type") == "text/plain; charset=utf-8"
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "/", 404, id="the root"),
        pytest.param("GET", "/metrics/", 404, id="nearly right"),
        pytest.param("GET", "/../etc/passwd", 404, id="a file"),
        pytest.param("POST", "/metrics", 501, id="another method"),
    ],
)
def test_the_rest_is_not_there(telemetry: Telemetry, method: str, path: str, status: int) -> None:
    with serving(telemetry) as address:
        response, body = get(address, path, method)
    assert response.status == status
    assert b"<" not in body


@pytest.mark.usefixtures("patient")
def test_nothing_is_served_any_more_once_it_is_left(telemetry: Telemetry) -> None:
    with ExitStack() as stack:
        with serving(telemetry) as address:
            waiting = dial(stack, address, b"GET /met")
            get(address, "/healthz")
        assert waiting.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address.host, address.port), timeout=PATIENCE)
    assert not [t for t in threading.enumerate() if t.name.startswith("reaper-status")]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        pytest.param("taken", "Address already in use", id="a port in use"),
        pytest.param(Address("192.0.2.1", 0), "Cannot assign requested address", id="an address of another machine"),
        pytest.param(Address("127.0.0.1", 70_000), "0-65535", id="no port"),
    ],
)
def test_where_it_cannot_listen_is_said_in_words(telemetry: Telemetry, where: object, why: str) -> None:
    with serving(telemetry) as taken:
        wanted = where if isinstance(where, Address) else taken
        with (
            pytest.raises(UsageError, match=why) as raised,
            StatusServer(wanted, telemetry, lambda: WELL, lambda: WELL),
        ):
            pass
        assert str(wanted) in str(raised.value)
        assert get(taken, "/healthz")[0].status == 200


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"", id="that say nothing"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost:", id="that stop in the middle"),
    ],
)
@pytest.mark.usefixtures("patient")
def test_clients_cannot_keep_another_one_out_and_do_not_pile_up(
    telemetry: Telemetry, said: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving(telemetry) as address, ExitStack() as stack:
        slow = [dial(stack, address, said) for _ in range(3 * MOST_CLIENTS)]
        response, _ = get(address, "/metrics")
        clients = [t for t in threading.enumerate() if t.name == "reaper-status-client"]
        assert response.status == 200
        assert len(clients) <= MOST_CLIENTS
        assert slow[0].recv(1) == b"", "who came first is hung up on"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.usefixtures("patient")
def test_a_client_that_does_not_take_its_answer_keeps_nobody_from_another_scrape(
    telemetry: Telemetry, plan: Plan, capfd: pytest.CaptureFixture[str]
) -> None:
    listener = telemetry.listener()
    for number in range(1000):
        listener.begin(replace(plan, run=f"run-{number}", cluster=f"c{number}" * 20))
    with serving(telemetry) as address, ExitStack() as stack:
        slow = stack.enter_context(socket.socket())
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the kernel takes little in its place
        slow.connect((address.host, address.port))
        slow.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        _, body = get(address, "/metrics")
        assert b"c999" * 20 in body
        assert [t for t in threading.enumerate() if t.name == "reaper-status-client"], "it has not taken it yet"
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_says_nothing_for_long_is_hung_up_on(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("reaper.adapters.telemetry.server._Handler.timeout", 0.01)
    with serving(telemetry) as address, ExitStack() as stack:
        assert dial(stack, address, b"GET /met").recv(1) == b""
    assert "Traceback" not in capfd.readouterr().err


def test_a_client_that_hangs_up_before_its_answer_leaves_no_traceback(
    telemetry: Telemetry, capfd: pytest.CaptureFixture[str]
) -> None:
    asked, gone = threading.Event(), threading.Event()

    def check() -> Health:
        asked.set()
        gone.wait(PATIENCE)
        return WELL

    with serving(telemetry, health=check) as address:
        with ExitStack() as stack:
            client = dial(stack, address, b"GET /healthz HTTP/1.0\r\n\r\n")
            assert asked.wait(PATIENCE)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        gone.set()
        assert get(address, "/healthz")[0].status == 200
    assert "Traceback" not in capfd.readouterr().err


def test_a_check_that_hangs_makes_the_next_one_ill_and_metrics_go_on(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reaper.adapters.telemetry.server.CHECK_SECONDS", 0.05)
    asked, let_go = threading.Event(), threading.Event()

    def check() -> Health:
        asked.set()
        let_go.wait(PATIENCE)
        return WELL

    try:
        with serving(telemetry, health=check) as address, ExitStack() as stack:
            first = dial(stack, address, b"GET /healthz HTTP/1.0\r\n\r\n")
            assert asked.wait(PATIENCE)
            response, body = get(address, "/healthz")
            assert response.status == 503
            assert b"has not answered" in body
            assert get(address, "/metrics")[0].status == 200
            let_go.set()
            assert b"200 OK" in first.recv(1000)
    finally:
        let_go.set()


# ---- systemd


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
def test_systemd_is_told_in_datagrams_and_children_inherit_nothing_of_it(tmp_path: Path, abstract: bool) -> None:
    path = str(tmp_path / "notify")
    environment = {
        "NOTIFY_SOCKET": f"@{path}" if abstract else path,
        "WATCHDOG_USEC": "300000000",
        "WATCHDOG_PID": "",
        "HOME": "/",
    }
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE)
        manager.bind(f"\0{path}" if abstract else path)
        notifier = Notifier.take(environment)
        notifier.ready("5 policies,\nnext at noon")
        notifier.status("busy")
        notifier.alive()
        notifier.stopping("1 run to finish")
        said = [manager.recv(1000).decode() for _ in range(4)]
    assert said == [
        "READY=1\nSTATUS=5 policies, next at noon",
        "STATUS=busy",
        "WATCHDOG=1",
        "STOPPING=1\nSTATUS=1 run to finish",
    ]
    assert environment == {"HOME": "/"}
    assert notifier.watchdog == timedelta(minutes=5)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="no manager"),
        pytest.param({"NOTIFY_SOCKET": "/nowhere/at all"}, id="a manager that has gone"),
        pytest.param({"NOTIFY_SOCKET": "x" * 500}, id="an address that is none"),
        pytest.param({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, id="a watchdog of another process"),
        pytest.param({"WATCHDOG_USEC": "soon"}, id="a time that is none"),
    ],
)
def test_without_a_manager_nothing_is_said_and_nothing_fails(environment: dict[str, str]) -> None:
    notifier = Notifier.take(environment)
    notifier.ready("")
    notifier.alive()
    notifier.stopping("")
    assert notifier.watchdog is None
