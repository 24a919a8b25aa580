"""`reaper rotate` on a real cluster that an application writes to."""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from labs import Lab, Said, alive
from witness import (
    Writers,
    counters,
    files,
    markers,
    own_tables,
    servers_of,
    topology,
    users,
    variables,
)

from reaper.adapters.interrupt import SignalInterrupt
from reaper.cli import compose
from reaper.domain.facts import InstanceId
from reaper.planner.steps import snapshot_source
from reaper.workflow.observe import observe

VERDICT_FIELDS = {
    "faults",
    "outage",
    "clients",
    "parts",
    "ledger",
    "copies_before",
    "copies_after",
    "heir",
    "notes",
}
LEDGER_FIELDS = {
    "acknowledged",
    "lost",
    "unknown_present",
    "unknown_absent",
    "refused",
    "refused_present",
    "duplicated",
    "unrecorded",
}
CUTOVER = ["kill", "fence", "elect", "apply", "promote", "repoint", "reroute"]


def stored_bytes(home: Path) -> dict[str, bytes]:
    """Everything below a REAPER_HOME but what servers and the endpoint write by themselves."""
    return {
        str(path.relative_to(home)): b"" if path.is_socket() else path.read_bytes()
        for path in home.rglob("*")
        if not path.is_dir() and "data" not in path.parts and path.suffix not in (".log", ".pid")
    }


def all_variables(lab: Lab) -> dict[str, dict[str, str]]:
    return {i: variables(lab, i) for i in lab.instances}


def all_counters(lab: Lab) -> dict[str, dict[str, str]]:
    return {i: counters(lab, i) for i in lab.instances}


@dataclass(frozen=True)
class Before:
    """A lab before something was done to it."""

    master: str
    instances: list[str]
    server_ids: set[int]
    processes: dict[str, int]
    users: list[dict[str, Any]]
    files: set[str]

    @classmethod
    def of(cls, lab: Lab) -> "Before":
        return cls(
            master=lab.master,
            instances=lab.instances,
            server_ids={i["server_id"] for i in lab.book()["instances"]},
            processes=servers_of(lab),
            users=users(lab, lab.master),
            files=files(lab),
        )


@dataclass(frozen=True)
class Rotated:
    """A rotation under load."""

    lab: Lab
    before: Before
    dry: Said  # of the dry run just before it
    said: Said
    writers: Writers

    @property
    def home(self) -> Path:
        return self.lab.site.home

    @property
    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = self.said.json()
        return report


@pytest.fixture(scope="module")
def rotated(lab: Lab) -> Rotated:
    """One rotation of the module's lab while four clients write."""
    with Writers(lab) as writers:
        writers.more()
        before = Before.of(lab)
        dry = lab.site.cli("rotate", lab.name, "--dry-run", "--output", "json")
        said = lab.site.cli("rotate", lab.name, "--output", "json")
        writers.more()
    return Rotated(lab, before, dry, said, writers)


# ---- the dry run


def test_a_dry_run_touches_no_server_and_no_file(lab: Lab) -> None:
    """Every counter of a statement that could change something stands still, on every server."""
    home = lab.site.home
    seen = all_counters(lab), all_variables(lab), stored_bytes(home), lab.book_path.stat(), topology(lab)
    said = lab.site.cli("rotate", lab.name, "--dry-run", "--output", "json")
    assert said.code == 0, said.all
    assert said.json()["go"] is True
    after = all_counters(lab), all_variables(lab), stored_bytes(home), lab.book_path.stat(), topology(lab)
    assert after[0] == seen[0]
    assert after[1] == seen[1]  # the GTID state is in them
    assert after[2] == seen[2]
    assert (after[3].st_ino, after[3].st_mtime_ns) == (seen[3].st_ino, seen[3].st_mtime_ns)
    assert after[4] == seen[4]


def test_the_plan_of_the_dry_run_is_the_plan_that_runs(rotated: Rotated) -> None:
    """Apart from the run's name, from which others are derived."""
    assert rotated.dry.code == 0, rotated.dry.all
    dry, ran = rotated.dry.json()["plan"], rotated.report["plan"]
    stored = rotated.lab.site.cli("show", ran["run"], "--output", "json").json()["plan"]
    assert stored == ran
    assert json.dumps(dry).replace(dry["run"], "RUN") == json.dumps(stored).replace(stored["run"], "RUN")


def test_the_plan_does_not_depend_on_which_member_was_measured_first(lab: Lab) -> None:
    """All members share a disk whose free space changes while they are looked at, as it does on any busy machine."""
    site = compose.Site(lab.site.home)
    world = site.world(site.runs, SignalInterrupt())
    victim = InstanceId("local", f"{lab.name}/{lab.master}")
    busy = threading.Event()

    def write_and_delete() -> None:
        while not busy.is_set():
            (lab.site.home.parent / "churn").write_bytes(bytes(4 * 2**20))
            (lab.site.home.parent / "churn").unlink()

    churn = threading.Thread(target=write_and_delete, daemon=True)
    churn.start()
    try:
        sources = {str(snapshot_source(observe(world, lab.name), spare=victim)) for _ in range(25)}
    finally:
        busy.set()
        churn.join(30)
    assert len(sources) == 1, sources


# ---- the rotation


def test_the_verdict_is_good(rotated: Rotated) -> None:
    assert rotated.said.code == 0, rotated.said.all
    assert rotated.report["good"] is True, rotated.report["verdict"]["faults"]
    assert rotated.report["verdict"]["ledger"]["lost"] == []


def test_the_report_has_the_documented_fields(rotated: Rotated) -> None:
    assert rotated.report.keys() == {"run", "good", "verdict", "plan"}
    verdict = rotated.report["verdict"]
    assert verdict.keys() >= VERDICT_FIELDS
    assert verdict["ledger"].keys() >= LEDGER_FIELDS
    assert verdict["ledger"]["acknowledged"] > 100
    assert [c["client"] for c in verdict["clients"]] == [0, 1, 2]
    assert all(part["took"].startswith("PT") for part in verdict["parts"])
    assert [p["name"] for p in verdict["parts"]][1:6] == ["kill", "fence", "elect", "apply", "promote"]


def test_the_new_master_is_a_new_instance_with_a_new_server_id(rotated: Rotated) -> None:
    lab, before = rotated.lab, rotated.before
    heir = lab.master
    assert heir not in before.instances
    assert rotated.report["verdict"]["heir"] == f"local:{lab.name}/{heir}"
    assert lab.record(heir)["server_id"] not in before.server_ids
    assert lab.sql(heir, "SELECT @@server_id AS id")[0]["id"] == lab.record(heir)["server_id"]


def test_the_old_master_is_gone_with_its_process_its_files_and_its_record(rotated: Rotated) -> None:
    lab, old = rotated.lab, rotated.before.master
    assert not alive(rotated.before.processes[old])
    assert not (lab.directory / "instances" / old).exists()
    assert old not in lab.instances


def test_the_cluster_is_as_large_as_before_and_sound(rotated: Rotated) -> None:
    lab = rotated.lab
    assert len(lab.instances) == len(rotated.before.instances)
    assert servers_of(lab).keys() == set(lab.instances)
    seen = topology(lab)
    assert seen["shape"] == "master with replicas"
    assert all(c[1:3] == ("running", "running") for m in seen["members"].values() for c in m["channels"])
    assert rotated.report["verdict"]["copies_before"] == rotated.report["verdict"]["copies_after"] == 3


def test_no_acknowledged_write_is_lost_on_any_member(rotated: Rotated) -> None:
    """I3 for the application's own writes, which reaper knows nothing of."""
    assert len(rotated.writers.acknowledged) > 100
    for instance in rotated.lab.instances:
        assert rotated.writers.missing(instance) == set(), instance


def test_nothing_that_the_run_made_is_left(rotated: Rotated) -> None:
    """I11: no snapshot, probe table, marker row, user, or file."""
    lab = rotated.lab
    snapshots = lab.directory / "snapshots"
    assert not snapshots.exists() or not list(snapshots.iterdir())
    for instance in lab.instances:
        assert own_tables(lab, instance) == []
        assert markers(lab, instance) == []
        assert users(lab, instance) == rotated.before.users
    assert files(lab) == rotated.before.files


def test_the_members_agree_on_their_settings_as_before(rotated: Rotated) -> None:
    """A setting that the run changed on a member that stays is given back."""
    lab, old = rotated.lab, [i for i in rotated.lab.instances if i in rotated.before.instances]
    pristine = "SHOW GLOBAL VARIABLES WHERE Variable_name LIKE 'innodb\\_buffer\\_pool\\_dump%'"
    first, second = (lab.sql(i, pristine) for i in old)
    assert first == second


def test_a_later_dry_run_leaves_the_store_as_it_is(rotated: Rotated) -> None:
    home = rotated.lab.site.home
    before = stored_bytes(home)
    assert "durable.db" in before
    assert rotated.lab.site.cli("rotate", rotated.lab.name, "--dry-run").code == 0
    assert stored_bytes(home) == before


# ---- what is told of it afterwards


def test_the_list_of_runs_names_it(rotated: Rotated) -> None:
    lab, run = rotated.lab, rotated.report["run"]
    listed = lab.site.cli("runs", lab.name)
    assert listed.code == 0
    line = next(line for line in listed.out.splitlines() if line.startswith(f"{run} "))
    assert "good" in line
    records = lab.site.cli("runs", lab.name, "--output", "json").json()
    record = next(r for r in records if r["run"] == run)
    assert (record["state"], record["good"], record["cluster"]) == ("good", True, lab.name)


def test_the_run_is_shown_with_its_timeline_guards_and_plan(rotated: Rotated) -> None:
    run = rotated.report["run"]
    shown = rotated.lab.site.cli("show", run).out
    for word in ("snapshot", "prepare", "cutover", "guards", "timeline", "semi-sync", "verdict: good", "0 lost of"):
        assert word in shown
    timeline = shown[shown.index("timeline") :]
    for step in CUTOVER:
        line = next(line for line in timeline.splitlines() if f" {step} " in f"{line} ")
        assert " ms" in line or " s " in line, line


def test_the_run_is_shown_to_a_machine(rotated: Rotated) -> None:
    shown = rotated.lab.site.cli("show", rotated.report["run"], "--output", "json").json()
    assert shown["verdict"] == rotated.report["verdict"]
    assert shown["state"] == "good"
    assert len(shown["guards"]) == 2, "asked before anything is built and right before the kill"
    assert {v["ruling"] for asked in shown["guards"] for v in asked} == {"go"}
    done = {e["step"]: e for e in shown["timeline"] if e["kind"] == "done"}
    assert done.keys() >= {"snapshot", "launch", "join", "warm", "verify", "probe", "settle", "retire", *CUTOVER}
    assert all(e["took_ns"] >= 0 for e in done.values())
    promised = [s["name"] for s in shown["plan"]["steps"]]
    assert set(done) == set(promised), "the plan that was shown is the plan that ran"


# ---- again, with a quarantine


@pytest.fixture(scope="module")
def quarantined(rotated: Rotated) -> str:
    """The victim of a second rotation, kept for an hour."""
    lab = rotated.lab
    victim = lab.master
    said = lab.site.cli("rotate", lab.name, "--quarantine", "1h", "--output", "json")
    assert said.code == 0, said.all
    return victim


def test_a_quarantined_victim_is_shown_as_such_and_does_not_run(rotated: Rotated, quarantined: str) -> None:
    lab = rotated.lab
    member = lab.status()
    record = next(m for m in member["members"] if m["instance"].endswith(f"/{quarantined}"))
    assert record["state"] == "quarantined"
    assert record["quarantined_until"]
    assert "never started again" in lab.site.cli("status", lab.name).out
    assert quarantined not in servers_of(lab)
    assert (lab.directory / "instances" / quarantined / "data").is_dir()


def test_a_quarantined_victim_cannot_be_killed_again(rotated: Rotated, quarantined: str) -> None:
    lab = rotated.lab
    said = lab.site.cli("kill", f"local:{lab.name}/{quarantined}", "--yes")
    assert said.code == 3, said.all
    assert quarantined in said.sentence


def test_a_third_rotation_beside_a_quarantined_victim_takes_a_server_id_that_nobody_ever_had(
    rotated: Rotated, quarantined: str
) -> None:
    """E29: an id that is used again silently loses that server's events."""
    lab = rotated.lab
    ids = {i["server_id"] for i in lab.book()["instances"]} | rotated.before.server_ids
    victim = lab.master
    said = lab.site.cli("rotate", lab.name, "--output", "json")
    assert said.code == 0, said.all
    assert lab.record(lab.master)["server_id"] not in ids
    assert victim not in lab.instances
    assert len(lab.instances) == 3
    assert quarantined not in servers_of(lab), "it was started again (I6)"
    for instance in lab.instances:
        assert rotated.writers.missing(instance) == set(), instance


def test_a_quarantined_victim_is_kept_until_its_time_and_deleted_when_a_person_says_now(
    rotated: Rotated, quarantined: str
) -> None:
    lab = rotated.lab
    directory = lab.directory / "instances" / quarantined
    kept = lab.site.cli("retire", lab.name)
    assert kept.code == 0
    assert f"kept {quarantined} until" in kept.out
    assert directory.is_dir()
    gone = lab.site.cli("retire", lab.name, "--now")
    assert gone.code == 0
    assert f"deleted {quarantined}" in gone.out
    assert not directory.exists()
    assert quarantined not in {i["name"] for i in lab.book()["instances"]}
    assert lab.book()["next_server_id"] > max(i["server_id"] for i in lab.book()["instances"])
    assert {p.name for p in (lab.directory / "instances").iterdir()} == set(lab.instances)
