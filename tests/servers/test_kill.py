"""`reaper kill` on real clusters that an application writes to."""

import re
import threading
import time
from collections.abc import Iterator

import pymysql
import pytest
from labs import Lab, Said, Site, alive, until
from witness import (
    OneOpen,
    Writers,
    connect,
    follow_by_hand,
    open_by_hand,
    own_tables,
    route_by_hand,
    servers_of,
    store_of,
    topology,
)

from reaper.adapters.store.journal import RunStore
from reaper.domain.plan import Role
from reaper.domain.verdict import EventKind, RunState

MODES = ["crash", "freeze", "drain", "terminate"]
IN_A_ROW = 5


def kill(lab: Lab, instance: str, *options: str) -> Said:
    return lab.site.cli("kill", f"local:{lab.name}/{instance}", "--yes", "--output", "json", *options)


def assert_healthy(lab: Lab, size: int) -> None:
    """Original size, sound, replicating, and nothing of a run's left."""
    seen = topology(lab)
    assert seen["shape"] == "master with replicas", seen
    assert len(seen["members"]) == size
    assert {m["state"] for m in seen["members"].values()} == {"running"}
    assert all(c[1:] == ("running", "running", []) for m in seen["members"].values() for c in m["channels"])
    assert servers_of(lab).keys() == set(lab.instances)
    until(lambda: all(own_tables(lab, i) == [] for i in lab.instances), "the probe's table is dropped everywhere")


@pytest.fixture(scope="module")
def loaded(lab: Lab) -> Iterator[Writers]:
    """A load on the module's lab that never stops; two masters never accept writes at once."""
    with OneOpen(lab) as one, Writers(lab) as writers:
        yield writers
    one.check()


@pytest.fixture
def replicas(lab: Lab) -> list[str]:
    """The module's lab's replicas."""
    return [i for i in lab.instances if i != lab.master]


# ---- the master, in every mode, one after the other, under one load that never stops


@pytest.mark.parametrize("mode", MODES)
def test_the_master_is_killed_and_no_write_is_lost(lab: Lab, loaded: Writers, mode: str) -> None:
    victim, pid = lab.master, lab.pid(lab.master)
    loaded.more()
    said = kill(lab, victim, "--mode", mode)
    report = said.json()
    assert said.code == 0, said.all
    assert report["good"] is True, report["verdict"]["faults"]
    assert report["verdict"]["ledger"]["lost"] == []
    assert report["plan"]["policy"]["mode"] == mode
    loaded.more()
    assert not alive(pid)
    assert lab.master != victim
    assert victim not in lab.instances
    for instance in lab.instances:
        assert loaded.missing(instance) == set(), instance
    assert_healthy(lab, 3)


def test_the_replacement_is_copied_from_a_replica_not_from_the_new_master(lab: Lab, loaded: Writers) -> None:
    """A copy burdens its source, and a cold one stops it: right after a failover that must not be the heir."""
    loaded.more()
    store = store_of(lab.site.home)
    runs = [r for r in store.runs(lab.name) if r.plan.role is Role.MASTER and r.verdict]
    assert runs, "no master was killed before"
    copied = {r.run: (r.verdict.heir.rsplit("/", 1)[1], _snapshot_of(store, r.run)) for r in runs}
    assert [run for run, (heir, source) in copied.items() if heir == source] == []


def _snapshot_of(store: RunStore, run: str) -> str:
    details = [e.detail for e in store.timeline(run) if e.step == "snapshot" and e.kind is EventKind.DONE]
    found = re.search(r"MiB of (n\d+)", details[0])
    assert found, details
    return found[1]


# ---- a replica


def test_a_replica_is_not_drained(lab: Lab, replicas: list[str]) -> None:
    said = kill(lab, replicas[0], "--mode", "drain")
    assert said.code == 3, said.all
    assert "drain is for a master" in said.sentence
    assert alive(lab.pid(replicas[0]))


# ---- the draw


def test_the_same_seed_draws_the_same_victim(lab: Lab) -> None:
    seed = "7"
    words = ["kill", "--random", "--seed", seed, "--cluster", lab.name, "--dry-run", "--output", "json"]
    first, second = (lab.site.cli(*words).json()["plan"] for _ in range(2))
    assert first["victim"] == second["victim"]
    assert first["seed"] == int(seed)
    assert f"seed {seed}" in first["why"]


def test_the_seed_of_a_dry_run_kills_whom_it_showed_while_the_master_serves_on(lab: Lab, loaded: Writers) -> None:
    """Without `--seed` one is drawn and shown, so that the draw can be repeated for real."""
    words = ["kill", "--random", "--cluster", lab.name, "--role", "replica", "--mode", "freeze", "--output", "json"]
    dry = lab.site.cli(*words, "--dry-run").json()["plan"]
    master, victim = lab.master, dry["victim"]["name"].rsplit("/", 1)[1]
    assert alive(lab.pid(victim))
    said = lab.site.cli(*words, "--seed", str(dry["seed"]), "--yes")
    assert said.code == 0, said.all
    assert said.json()["plan"]["victim"] == dry["victim"]
    assert said.json()["verdict"]["faults"] == []
    assert said.json()["verdict"]["copies_after"] == 3
    assert lab.master == master
    assert victim not in lab.instances
    loaded.more()
    assert_healthy(lab, 3)


def test_without_a_terminal_nothing_is_killed_unless_a_yes_is_said(lab: Lab) -> None:
    master = lab.master
    said = lab.site.cli("kill", f"local:{lab.name}/{master}", input="")
    assert said.code == 2, said.all
    assert "--yes" in said.sentence
    assert alive(lab.pid(master))


def test_five_kills_in_a_row_leave_a_healthy_cluster_of_the_original_size(lab: Lab, loaded: Writers) -> None:
    """Those of the tests above count; run by itself this one kills five times."""
    store = store_of(lab.site.home)
    while len(runs := [r for r in store.runs(lab.name) if r.state is not RunState.REFUSED]) < IN_A_ROW:
        said = lab.site.cli("kill", "--random", "--cluster", lab.name, "--yes")
        assert said.code == 0, said.all
    assert [r.state for r in runs] == [RunState.GOOD] * len(runs)
    assert all(r.verdict and r.verdict.ledger and r.verdict.ledger.lost == () for r in runs)
    loaded.more()
    for instance in lab.instances:
        assert loaded.missing(instance) == set(), instance
    assert_healthy(lab, 3)


def test_a_killed_replica_is_not_replaced_if_a_person_says_so(lab: Lab, loaded: Writers, replicas: list[str]) -> None:
    """Last of the module's lab: it stays one smaller."""
    victim = replicas[0]
    said = kill(lab, victim, "--no-replace")
    assert said.code == 0, said.all
    assert said.json()["verdict"]["copies_before"] == 3
    assert said.json()["verdict"]["copies_after"] == 2
    loaded.more()
    assert_healthy(lab, 2)
    refused = kill(lab, lab.master, "--no-replace")
    assert refused.code == 3, "nobody would be left to acknowledge"
    assert "copies" in refused.sentence


# ---- somebody else fails over


class FailoverTool:
    """A small HA tool: waits until the master is dead, promotes a replica, repoints the other, moves the endpoint."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._master = lab.master
        self._others = [i for i in lab.instances if i != self._master]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> "FailoverTool":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(30)

    def _watch(self) -> None:
        try:
            while self._answers():
                if self._done.wait(0.1):
                    return
            self._promote()
        except BaseException as error:  # noqa: BLE001 - told to the test, which is in another thread
            self.error = error

    def _answers(self) -> bool:
        book = self._lab.book()
        try:
            connect(self._lab.record(self._master)["port"], book["admin"]).close()
        except pymysql.MySQLError:
            return False
        return True

    def _promote(self) -> None:
        lab = self._lab
        for name in self._others:
            lab.sql(name, "STOP SLAVE IO_THREAD")
        received = {n: lab.sql(n, "SHOW ALL SLAVES STATUS")[0]["Gtid_IO_Pos"] for n in self._others}
        heir, *siblings = sorted(self._others, key=lambda n: -int(received[n].rsplit("-", 1)[-1]))
        lab.sql(heir, f"SELECT MASTER_GTID_WAIT('{received[heir]}', 10)")
        open_by_hand(lab, heir)
        for sibling in siblings:
            follow_by_hand(lab, sibling, heir)
        route_by_hand(lab, heir)


def test_a_failover_by_the_sites_own_tool_is_watched_and_graded(site: Site) -> None:
    lab = site.make_lab()
    victim = lab.master
    with Writers(lab) as writers, FailoverTool(lab) as tool, OneOpen(lab) as one:
        writers.more()
        said = kill(lab, victim, "--failover", "observe", "--within", "15s")
        writers.more()
    assert tool.error is None, tool.error
    one.check()
    assert said.code == 0, said.all
    verdict = said.json()["verdict"]
    assert verdict["faults"] == []
    assert verdict["heir"] == f"local:{lab.name}/{lab.master}"
    assert verdict["ledger"]["lost"] == []
    assert verdict["copies_after"] == 3
    for instance in lab.instances:
        assert writers.missing(instance) == set(), instance
    assert_healthy(lab, 3)


def test_a_failover_that_nobody_makes_is_a_bad_verdict_and_the_victim_is_kept(site: Site) -> None:
    lab = site.make_lab()
    victim, replicas = lab.master, [i for i in lab.instances if i != lab.master]
    began = time.monotonic()
    said = kill(lab, victim, "--failover", "observe", "--within", "3s", "--outage-budget", "3s")
    assert said.code == 1, said.all
    assert time.monotonic() - began > 3, "the deadline was not waited for"
    report = said.json()
    assert report["good"] is False
    assert "nobody failed over" in report["verdict"]["faults"][0]
    assert report["verdict"]["heir"] is None
    assert lab.data(victim).is_dir(), "the only copy of its tail"
    assert victim not in servers_of(lab)
    assert all(lab.sql(r, "SELECT @@read_only AS r")[0]["r"] == 1 for r in replicas), "reaper promoted somebody"
    listed = lab.site.cli("runs", lab.name)
    assert "bad" in listed.out
    assert "nobody failed over" in " ".join(listed.out.split())
    again = kill(lab, replicas[0])
    assert again.code == 3, "a cluster without a master is no place for another kill"
