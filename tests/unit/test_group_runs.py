"""Runs over groups from the command line: one store, one engine and one list with those over clusters."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import group_stage
import pytest
from group_stage import GroupStage

from reaper.adapters.store.admission import Limits
from reaper.adapters.store.journal import GroupRunRecord
from reaper.cli import durable
from reaper.cli.compose import Site, site
from reaper.cli.logging import logger
from reaper.cli.main import app
from reaper.cli.runs import ticket_of
from reaper.domain.errors import AbortedError, ReaperError, RefusedError, UsageError
from reaper.domain.groups import Floor, GroupPlan, GroupPolicy, Suspension
from reaper.domain.verdict import RunState
from reaper.planner.groups import plan_group
from reaper.workflow.steps import Message, Op

ABORT = Message(op=Op.ABORT, who="ann", when="2026-11-24T10:00:00+00:00", text="not today")
POLICY = """\
name: refresh
leash: off
target: {groups: "web*"}
schedule: {cron: "* * * * *", timezone: UTC, grace: 5m}
due: {max_age: 27d}
replace: {what: instance, at_most: 2}
guards: {min_healthy: 5}
"""


@dataclass
class Desk:
    """A data directory, a directory of policies, and who types commands."""

    home: Path
    policies: Path

    @property
    def site(self) -> Site:
        return site()

    def does(self, *arguments: str) -> tuple[int, str]:
        """A command's exit code, and everything that it said."""
        code, out, err = self.run(*arguments)
        return code, out + err

    def says(self, *arguments: str) -> Any:
        """What a command says to a machine."""
        return json.loads(self.run(*arguments, "--output", "json")[1])

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """A command's exit code and what it said to stdout and to stderr."""
        out, err = io.StringIO(), io.StringIO()  # not closed afterwards, as a runner's are: the log is kept open
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = app(list(arguments), standalone_mode=False) or 0
            except ReaperError as error:
                code = int(error.exit_code)
                err.write(str(error))
        return code, out.getvalue(), err.getvalue()

    @property
    def records(self) -> tuple[GroupRunRecord, ...]:
        return tuple(r for r in self.site.runs.runs() if isinstance(r, GroupRunRecord))

    def write(self, text: str, name: str = "refresh") -> None:
        (self.policies / f"{name}.yaml").write_text(text)
        self.site.policies.looked([name], datetime.now(UTC) - timedelta(minutes=2))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    home, policies = tmp_path / "home", tmp_path / "policies"
    home.mkdir()
    policies.mkdir()
    monkeypatch.setenv("REAPER_HOME", str(home))
    monkeypatch.setenv("REAPER_POLICIES", str(policies))
    heeded = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield Desk(home, policies)
    for number, handler in heeded.items():
        signal.signal(number, handler)
    logger.cache_clear()


@pytest.fixture
def stage() -> Iterator[GroupStage]:
    stage = GroupStage("web", "worker")
    with group_stage.reached(stage):
        yield stage


# ---- by hand


def test_one_is_drawn_killed_and_followed_by_another_and_the_run_is_a_run_like_others(
    desk: Desk, stage: GroupStage
) -> None:
    code, said = desk.does("kill", "--group", "web", "--random", "--seed", "7", "--yes")
    assert code == 0, said
    assert "1 of 1 instances of web were replaced" in said
    (victim,) = stage.terminated()
    assert stage.sound()
    assert stage.fewest() == 5
    (record,) = desk.records
    assert (record.state, record.cluster, record.plan.seed) == (RunState.GOOD, "group:web", 7)
    assert record.plan.why == f"drew {victim} out of 6 eligible of web (seed 7)"
    assert "group:web" in desk.does("runs")[1]
    assert [r["run"] for r in desk.says("runs", "group:web")] == [record.run]
    assert desk.says("runs", "web") == []
    shown = desk.does("show", record.run)[1]
    for part in (victim, "i-7", "served at least", "zone", "is out of its target groups"):
        assert part in shown
    whole = desk.says("show", record.run)
    assert whole["good"]
    assert whole["verdict"]["replaced"][0]["victim"]["name"] == f"web/{victim}"
    assert len(whole["guards"]) == 1
    page = desk.run("show", record.run, "--output", "html")[1]
    assert "<html" in page.lower()
    assert "<script" not in page
    assert victim in page
    (trend,) = desk.says("history")
    assert (trend["cluster"], trend["runs"]) == ("group:web", 1)


def test_the_same_seed_draws_the_same_one(desk: Desk, stage: GroupStage) -> None:
    plans = [
        desk.says("kill", "--group", "web", "--random", "--seed", "3", "--dry-run")["plan"]["victims"] for _ in "ab"
    ]
    assert plans[0] == plans[1]
    assert stage.terminated() == []
    assert not (desk.home / "durable.db").exists()  # a dry run writes nothing


def test_one_is_named_by_its_id_and_killed(desk: Desk, stage: GroupStage) -> None:
    code, said = desk.does("kill", "i-3", "--group", "web", "--yes")
    assert code == 0, said
    assert stage.terminated() == ["i-3"]
    assert desk.does("kill", "asg:web/i-4", "--group", "web", "--yes")[0] == 0
    assert stage.terminated() == ["i-3", "i-4"]


REFUSALS = {
    "nobody is there to be asked": (["--random"], 2, "say --yes"),
    "no such group": (["--random", "--group", "wbe", "--yes"], 2, "there are web and worker"),
    "no such instance": (["i-99", "--yes"], 2, "web has no instance i-99"),
    "an option of clusters": (["--random", "--yes", "--mode", "drain"], 2, "--mode is for clusters"),
    "options of clusters": (["--random", "--no-replace", "--cluster", "a"], 2, "--cluster and --no-replace are for"),
    "a floor that is none": (["--random", "--yes", "--min-healthy", "most"], 2, "'most' is no floor"),
    "a floor that forbids it": (["--random", "--yes", "--min-healthy", "6"], 3, "6 have to"),
    "neither drawn nor named": ([], 2, "say either --random or whom"),
}


@pytest.mark.parametrize("what", list(REFUSALS))
def test_nobody_dies_by_hand_when(desk: Desk, stage: GroupStage, what: str) -> None:
    arguments, code, says = REFUSALS[what]
    group = [] if "--group" in arguments else ["--group", "web"]
    found, said = desk.does("kill", *group, *arguments)
    assert (found, stage.terminated()) == (code, [])
    assert says in said


def test_a_floor_of_instances_is_not_for_clusters(desk: Desk) -> None:
    code, said = desk.does("kill", "--random", "--min-healthy", "3")
    assert code == 2
    assert "say --group too" in said


def test_without_a_provider_of_groups_that_is_said(desk: Desk) -> None:
    code, said = desk.does("kill", "--group", "web", "--random", "--yes")
    assert code == 2
    assert "no provider of groups is set up" in said


def test_a_guard_that_refuses_is_shown_before_and_recorded_after(desk: Desk, stage: GroupStage) -> None:
    stage.groups["web"].suspended.append(Suspension(process="Launch", why="bob looks"))
    code, said = desk.does("kill", "--group", "web", "--random", "--dry-run")
    assert code == 3
    assert "bob looks" in said
    code, said = desk.does("kill", "--group", "web", "--random", "--yes")
    assert code == 3
    assert "bob looks" in said
    (record,) = desk.records
    assert record.state is RunState.REFUSED
    assert stage.terminated() == []


def test_the_protected_are_not_drawn(desk: Desk, stage: GroupStage) -> None:
    web = stage.groups["web"]
    for number in range(1, 7):
        web.change(web.n(number), protected=True)
    code, said = desk.does("kill", "--group", "web", "--random", "--yes")
    assert code == 3
    assert "nobody of web is eligible" in said
    assert "protected from scale-in" in said


def test_the_lever_holds_a_kill_by_hand(desk: Desk, stage: GroupStage) -> None:
    desk.does("pause", "--reason", "looking")
    code, said = desk.does("kill", "--group", "web", "--random", "--yes")
    assert code == 3
    assert "looking" in said
    assert stage.terminated() == []


# ---- as runs of the store


def plan_for(stage: GroupStage, run: str = "run-1", group: str = "web", most: int = 2) -> GroupPlan:
    policy = GroupPolicy(floor=Floor(count=5), at_most=most)
    return plan_group(stage.view(group), policy, run=run, seed=1, why="asked by a test")


def test_one_run_of_a_group_at_a_time_and_a_cluster_of_that_name_is_another_thing(
    desk: Desk, stage: GroupStage
) -> None:
    work = desk.site.work
    work.submit(ticket_of(plan_for(stage)))
    with pytest.raises(RefusedError, match="group:web has the unfinished run run-1"):
        work.submit(ticket_of(plan_for(stage, "run-2")))
    work.submit(ticket_of(plan_for(stage, "run-3", "worker")))
    assert work.holder("web") is None
    assert desk.site.runs.victims() == ()
    assert [i.short for i in desk.site.runs.group_victims()] == ["i-1", "i-1"]


def test_a_queued_run_is_listed_shown_and_withdrawn(desk: Desk, stage: GroupStage) -> None:
    desk.site.work.submit(ticket_of(plan_for(stage)))
    said = desk.does("runs")[1]
    assert "queued" in said
    assert "2 instances" in said
    assert "i-1" in desk.does("show", "run-1")[1]
    assert desk.says("runs")[0]["state"] == "queued"


def test_what_is_for_runs_over_clusters_says_so(desk: Desk, stage: GroupStage) -> None:
    desk.site.work.submit(ticket_of(plan_for(stage)))
    code, said = desk.does("approve", "run-1")
    assert code == 2
    assert "run-1 is a run over the group web" in said


def test_a_run_that_is_told_to_stop_stops_between_two_instances(desk: Desk, stage: GroupStage) -> None:
    """By a message in the store, as `reaper abort` leaves it; it is looked for once a second."""
    here, plan = desk.site, plan_for(stage, most=3)
    here.work.submit(ticket_of(plan))

    def told() -> None:
        here.work.send(plan.run, ABORT)
        time.sleep(1.1)  # the store is asked once a second

    stage.faults.before("terminate", "i-1", told)
    with durable.following(here) as engine, pytest.raises(AbortedError, match="aborted by ann"):
        engine.run(ticket_of(plan), Limits())
    assert stage.terminated() == ["i-1"]
    stage.clock.sleep(timedelta(minutes=10))
    assert stage.sound()
    (record,) = desk.records
    assert record.state is RunState.UNDONE
    assert record.message.startswith("1 of 3 were replaced, then it stopped: aborted by ann")


def test_a_run_that_another_version_began_is_ended_and_the_drained_go_back_to_work(
    desk: Desk, stage: GroupStage
) -> None:
    here, plan = desk.site, plan_for(stage)
    here.work.submit(ticket_of(plan))
    with here.place.database.write() as tx:
        tx.do("update reaper_runs set admitted = asked, version = 'older' where run = :run", run=plan.run)
    here.runs.begin(plan)
    stage.drain("web", plan.victims[0].id)
    code, said = desk.does("resume", plan.run)
    assert code == 4
    assert "0 of 2 are gone from web" in said
    stage.clock.sleep(timedelta(minutes=5))
    assert stage.sound()
    (record,) = desk.records
    assert record.state is RunState.UNDONE
    assert here.work.open_runs() == ()


def test_a_run_that_got_stuck_is_finished_by_putting_back_whom_it_drained(desk: Desk, stage: GroupStage) -> None:
    stage.faults.before("drain", "*", lambda: stage.clock.after(timedelta(seconds=1), protect))
    web = stage.groups["web"]

    def protect() -> None:
        web.change(web.n(1), protected=True)

    held = stage.faults.fail("undrain", "*", times=10_000)
    code, said = desk.does("kill", "i-1", "--group", "web", "--yes")
    assert code == 5, said
    (record,) = desk.records
    assert record.state is RunState.STUCK
    held.lift()
    code, said = desk.does("resume", record.run)
    assert code == 4
    stage.clock.sleep(timedelta(minutes=5))
    assert stage.sound()
    assert stage.terminated() == []
    assert desk.records[0].state is RunState.UNDONE


def test_a_process_that_reaches_no_groups_leaves_the_run_to_one_that_does(desk: Desk, stage: GroupStage) -> None:
    here, plan = desk.site, plan_for(stage, most=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reaper.cli.groups.reached", lambda _site: None)
        with durable.following(here) as engine, pytest.raises(ReaperError, match="no provider of groups"):
            engine.run(ticket_of(plan), Limits())
    assert [r.run for r in here.work.open_runs()] == [plan.run]
    assert desk.does("resume", plan.run)[0] == 0
    assert stage.terminated() == ["i-1"]


# ---- killed with -9


def _reaper(desk: Desk, place: str, *arguments: str) -> "subprocess.Popen[bytes]":
    program = str(Path(group_stage.__file__))
    return subprocess.Popen(
        [sys.executable, program, place, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=desk.home
    )


POINTS = [
    pytest.param(9, id="while it drains"),
    pytest.param(23, id="around its last look before the kill"),
    pytest.param(25, id="right before the kill"),
    pytest.param(26, id="right after the kill"),
    pytest.param(34, id="while it waits for a successor"),
]


@pytest.mark.parametrize("call", POINTS)
def test_I8_after_a_kill_9_the_run_goes_on_where_it_was_and_takes_nobody_twice(
    desk: Desk, tmp_path: Path, call: int
) -> None:
    """A real SIGKILL on one side of a call; the group lives on in another process."""
    with group_stage.elsewhere(tmp_path) as (stage, place):
        with _reaper(desk, place, "kill", "i-2", "--group", "web", "--yes") as process:
            stage.kill_at(call, process.pid)
            process.wait(60)
            assert process.returncode == -9, process.stderr and process.stderr.read()
        (left,) = desk.says("runs")
        assert left["state"] == "interrupted"
        assert f"reaper resume {left['run']}" in " ".join(desk.does("runs")[1].split())
        with group_stage.reached(stage):
            code, said = desk.does("kill", "i-2", "--group", "web", "--yes")  # asked again: it goes on with the run
        assert code == 0, said
        assert stage.terminated() == ["i-2"]
        assert stage.fewest() == 5
        assert stage.sound()
        assert [(r.run, r.state) for r in desk.records] == [(left["run"], RunState.GOOD)]


# ---- by a policy


def test_a_policy_fires_and_its_run_is_followed_to_its_end(desk: Desk, stage: GroupStage) -> None:
    desk.write(POLICY)
    code, said = desk.does("run", "--once")
    assert code == 0, said
    assert stage.terminated() == ["i-1", "i-2"]
    assert stage.terminated("worker") == []
    assert stage.fewest() == 5
    assert stage.sound()
    (record,) = desk.records
    assert (record.state, record.plan.standing) == (RunState.GOOD, "refresh")
    assert record.plan.why == "the policy refresh replaces 2 instances of web"
    assert [s.id.short for s in record.plan.spared] == ["i-5", "i-6", "i-3", "i-4"]
    assert "2 instances are going to be replaced" in said  # announced
    assert "2 of 2 were replaced" in said
    (firing,) = desk.site.policies.firings("refresh")
    facts = json.loads(firing.summary)
    assert (facts["outcome"], facts["due"]) == ("acted", ["instance asg:web/i-1", "instance asg:web/i-2"])
    assert desk.site.policies.histories("refresh")["group:web"].last_kill is not None


def test_a_leashed_policy_only_reports(desk: Desk, stage: GroupStage) -> None:
    desk.write(POLICY.replace("leash: off", "leash: on"))
    code, said = desk.does("run", "--once")
    assert code == 0, said
    assert "it is leashed and touches nothing" in said
    assert stage.terminated() == []
    assert desk.records == ()


def test_a_bad_run_leashes_its_policy(desk: Desk, stage: GroupStage) -> None:
    desk.write(POLICY.replace("due:", "budgets: {failures_in_a_row: 1}\ndue:"))
    stage.groups["web"].knobs.becomes_healthy = False
    code, said = desk.does("run", "--once")
    assert code == 1
    assert "got no healthy successor" in said
    (leash,) = desk.site.policies.leashed("refresh")
    assert len(leash.why) == 1
    assert "failed: i-1 got no healthy successor" in leash.why[0]
    assert stage.terminated() == ["i-1"]


def test_the_lever_keeps_a_policy_from_acting(desk: Desk, stage: GroupStage) -> None:
    desk.write(POLICY)
    desk.does("pause", "--reason", "looking")
    desk.does("run", "--once")
    assert stage.terminated() == []
    assert json.loads(desk.site.policies.firings("refresh")[0].summary)["outcome"] == "paused"


def test_too_many_abort_the_firing(desk: Desk, stage: GroupStage) -> None:
    desk.write(POLICY.replace("guards:", "radius: {policy: {count: 1}}\nguards:"))
    desk.does("run", "--once")
    assert stage.terminated() == []
    facts = json.loads(desk.site.policies.firings("refresh")[0].summary)
    assert facts["outcome"] == "aborted"
    assert "2 of 6 instances of what the policy targets" in facts["why"]


# ---- foreseen


def test_a_plan_shows_who_would_die_and_why_what_the_guards_say_and_who_is_spared(
    desk: Desk, stage: GroupStage
) -> None:
    desk.write(POLICY)
    found = desk.says("plan")
    assert found["headline"] == "2 instances of web would be replaced."
    assert (found["groups"], found["members"], found["runs"]) == (2, 12, [])
    (run,) = found["group_runs"]
    assert [(v["instance"], v["why"]) for v in run["victims"]] == [
        ("asg:web/i-1", "30 days old"),
        ("asg:web/i-2", "29 days old"),
    ]
    assert run["go"]
    assert {g["guard"] for g in run["guards"]} == {"group", "victim", "processes", "hooks", "floor", "targets", "zone"}
    (policy,) = found["policies"]
    assert (policy["targeted"], policy["living"]) == (1, 6)
    assert "not more than 27 days" in policy["spared"][0]["why"]
    assert found["days"][1]["deaths_at_most"] == 6
    said = desk.does("plan")[1]
    for part in (
        "web: i-1, i-2 would be replaced",
        "30 days old",
        "i-4",
        "2 due, of 1 targeted group with 6 instances",
    ):
        assert part in said
    assert stage.terminated() == []
    assert {method for method, _ in stage.faults.calls} == {"view"}


@pytest.mark.parametrize("form", ["table", "json", "markdown", "html"])
def test_a_refusal_is_shown_in_every_form(desk: Desk, stage: GroupStage, form: str) -> None:
    desk.write(POLICY)
    stage.groups["web"].refresh = "40 % done"
    stage.faults.fail("view", "worker", error=UsageError("worker cannot be seen"))
    said = desk.run("plan", "--output", form)[1]
    for part in ("No instance of a group would be replaced", "of web a guard refuses", "refresh is under way"):
        assert part in said.replace("&#39;", "'")
    assert "group:worker" in said.replace("\\", "")


@pytest.mark.usefixtures("stage")
def test_a_plan_of_clusters_and_groups_answers_for_both(desk: Desk) -> None:
    desk.write(POLICY)
    desk.write("name: nightly\ntarget: {clusters: '*'}\n", "nightly")
    assert desk.says("plan")["headline"] == (
        "The policy is leashed, so that nothing is touched. Armed, nobody would die. "
        "2 instances of web would be replaced."
    )


def test_without_a_provider_of_groups_a_plan_says_so(desk: Desk) -> None:
    desk.write(POLICY)
    found = desk.says("plan")
    assert "no provider of groups is set up" in found["unobserved"][0]["why"]
    assert found["group_runs"] == []
