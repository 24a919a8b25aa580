"""Wrong requests and clusters that are not fit: one clear sentence, the right exit code, nothing touched."""

import contextlib
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from labs import Lab, Said, Session, Site, alive, processes_below, until
from witness import store_of

from reaper.adapters.interrupt import SignalInterrupt
from reaper.cli.compose import Site as InProcess
from reaper.cli.journal import Fan, announcer
from reaper.domain.errors import ExitCode, RefusedError
from reaper.domain.plan import Plan, Replacement
from reaper.domain.policy import Policy
from reaper.planner.shape import MasterWithReplicas, classify
from reaper.planner.steps import Request, make_plan
from reaper.workflow.observe import observe
from reaper.workflow.rotation import Rotation
from reaper.workflow.steps import Unrecorded

Broken = Callable[[Lab], AbstractContextManager[None]]
WITHOUT_LOG = "SET SESSION sql_log_bin = 0"


def one_sentence(said: Said, code: ExitCode, *words: str) -> None:
    """Refused or rejected: the last line on stderr says the words, the exit code fits, nothing else is shown."""
    assert said.code == code, said.all
    assert "Traceback" not in said.all
    assert said.sentence.startswith("reaper: "), said.err
    for word in words:
        assert word in said.sentence


def usage(said: Said, *words: str) -> None:
    """An option that cannot be understood: the framework's own box, exit code 2."""
    assert said.code == ExitCode.USAGE, said.all
    assert "Traceback" not in said.all
    text = " ".join(said.err.replace("│", " ").split())
    for word in words:
        assert word in text


def fingerprint(lab: Lab) -> dict[str, object]:
    """Everything of a healthy lab that a refused run must leave as it was."""
    book = lab.book()
    return {
        "instances": [(i["name"], i["port"], i["process"], i["quarantined_until"]) for i in book["instances"]],
        "endpoint": json.loads((lab.directory / "endpoint" / "route.json").read_text())["target"],
        "directories": sorted(p.name for p in (lab.directory / "instances").iterdir()),
        "snapshots": sorted(p.name for p in (lab.directory / "snapshots").glob("*")),
        "settings": {
            name: lab.sql(
                name,
                "SELECT @@read_only AS ro, @@rpl_semi_sync_master_enabled AS semi, @@gtid_strict_mode AS strict_mode",
            )
            for name in lab.instances
        },
        "tables": {name: lab.root_sql(name, "SHOW TABLES IN reaper LIKE 'probe%'") for name in lab.instances},
        "markers": {name: markers(lab, name) for name in lab.instances},
    }


def markers(lab: Lab, instance: str) -> list[dict[str, Any]]:
    """The marker rows that a run left."""
    tables = [t for row in lab.root_sql(instance, "SHOW TABLES IN reaper") for t in row.values() if "probe" not in t]
    return [row for table in tables for row in lab.rows(instance, f"reaper.`{table}`")]


def replicating(lab: Lab, instance: str) -> bool:
    rows = lab.sql(instance, "SHOW SLAVE STATUS")
    return bool(rows) and {rows[0]["Slave_IO_Running"], rows[0]["Slave_SQL_Running"]} == {"Yes"}


def healthy(lab: Lab) -> bool:
    """Every replica replicates and has what the master has."""
    master = lab.master
    state = lab.sql(master, "SELECT @@gtid_binlog_pos AS at")[0]["at"]
    return all(
        replicating(lab, name) and lab.sql(name, "SELECT @@gtid_slave_pos AS at")[0]["at"] == state
        for name in lab.instances
        if name != master
    )


@contextmanager
def unchanged(lab: Lab) -> Iterator[None]:
    """Around a breakage and its repair: afterwards the lab is exactly what it was."""
    before = fingerprint(lab)
    yield
    until(lambda: healthy(lab), "the lab is repaired")
    assert fingerprint(lab) == before


# ---- nothing is there


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(["status"], ["there is no cluster", "reaper lab up"], id="status"),
        pytest.param(["status", "lab"], ["there is no lab 'lab'", "reaper lab up"], id="status of one"),
        pytest.param(["lab", "status", "--name", "lab"], ["there is no lab 'lab'", "reaper lab up"], id="lab status"),
        pytest.param(["rotate", "lab"], ["there is no lab 'lab'", "reaper lab up"], id="rotate"),
        pytest.param(["rotate", "lab", "--dry-run"], ["there is no lab 'lab'", "reaper lab up"], id="a dry run"),
        pytest.param(["rotate", "../lab"], ["../lab"], id="rotate outside"),
        pytest.param(["status", "../../lab"], ["../../lab"], id="status outside"),
        pytest.param(["kill", "local:lab/n1", "--yes"], ["there is no lab 'lab'", "reaper lab up"], id="kill"),
        pytest.param(
            ["kill", "--random", "--yes"], ["there is no cluster to draw from", "reaper lab up"], id="kill at random"
        ),
        pytest.param(["show", "lab-1"], ["there is no run 'lab-1'", "reaper runs"], id="show"),
        pytest.param(["retire", "lab"], ["there is no lab 'lab'", "reaper lab up"], id="retire"),
        pytest.param(["retire", "../lab"], ["../lab"], id="retire outside"),
        pytest.param(["lab", "load"], ["there is no lab 'lab'", "reaper lab up"], id="load"),
    ],
)
def test_without_a_lab_every_command_says_so_and_makes_nothing(
    site: Site, command: list[str], words: list[str]
) -> None:
    one_sentence(site.cli(*command), ExitCode.USAGE, *words)
    assert not [p for p in site.home.rglob("*") if p.is_file() and not p.name.startswith("durable.db")]


def test_without_a_run_the_history_is_empty(site: Site) -> None:
    said = site.cli("runs")
    assert (said.code, said.err) == (ExitCode.GOOD, "")
    assert "no run yet" in said.out
    assert site.cli("runs", "--output", "json").json() == []


def test_a_home_that_is_a_file_is_one_sentence(site: Site) -> None:
    site.home.write_text("")
    for command in (("status",), ("lab", "up"), ("rotate", "lab")):
        said = site.cli(*command)
        assert said.code in (ExitCode.USAGE, ExitCode.TRY_AGAIN), said.all
        assert "Traceback" not in said.all
        assert said.sentence.startswith("reaper: ")
    site.home.unlink()


# ---- options


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(
            ["rotate", "shared", "--outage-budget", "5"],
            ["--outage-budget", "'5' is no duration", "2s"],
            id="a bare number",
        ),
        pytest.param(["rotate", "shared", "--outage-budget", "fast"], ["'fast' is no duration"], id="a word"),
        pytest.param(["rotate", "shared", "--outage-budget", ""], ["is no duration"], id="an empty duration"),
        pytest.param(["rotate", "shared", "--max-lag", "-5s"], ["'-5s' is no duration"], id="a negative duration"),
        pytest.param(
            ["rotate", "shared", "--quarantine", "999999999999999d"],
            ["--quarantine", "duration"],
            id="an endless duration",
        ),
        pytest.param(
            ["rotate", "shared", "--mode", "explode"], ["--mode", "'explode'", "'freeze'"], id="an unknown mode"
        ),
        pytest.param(["rotate", "shared", "--min-copies", "0"], ["--min-copies"], id="no copy left"),
        pytest.param(["rotate", "shared", "--min-copies", "two"], ["--min-copies"], id="copies in words"),
        pytest.param(["rotate", "shared", "--probe-clients", "65"], ["--probe-clients"], id="too many clients"),
        pytest.param(["rotate", "shared", "--probe-rate", "1e9"], ["--probe-rate"], id="too many writes"),
        pytest.param(["rotate", "shared", "--probe-rate", "nan"], ["--probe-rate"], id="a rate that is no number"),
        pytest.param(
            ["rotate", "shared", "--output", "xml"], ["--output is table or json, not 'xml'"], id="rotate's output"
        ),
        pytest.param(["status", "--output", "xml"], ["--output is table or json, not 'xml'"], id="status's output"),
        pytest.param(["runs", "--output", "yaml"], ["--output is table or json, not 'yaml'"], id="runs' output"),
        pytest.param(["show", "x", "--output", ""], ["--output is table, json or html, not ''"], id="show's output"),
        pytest.param(["runs", "--most", "0"], ["--most"], id="a list of nothing"),
        pytest.param(["rotate"], ["Missing argument"], id="rotate whom"),
        pytest.param(["rotate", "shared", "other"], ["other"], id="two clusters"),
        pytest.param(["rotate", "shared", "--force"], ["--force"], id="an option that does not exist"),
        pytest.param(["explode"], ["No such command 'explode'"], id="an unknown command"),
        pytest.param(["kill"], ["--random or whom"], id="kill whom"),
        pytest.param(["kill", "local:shared/n1", "--random"], ["--random or whom"], id="named and at random"),
        pytest.param(["kill", "n1", "--yes"], ["'n1' is no instance", "PROVIDER:PLACE/NAME"], id="a bare name"),
        pytest.param(
            ["kill", "local:shared", "--yes"], ["is no instance", "PROVIDER:PLACE/NAME"], id="a cluster to kill"
        ),
        pytest.param(
            ["kill", "local:shared/n9", "--yes"],
            ["no instance local:shared/n9", "local:shared/n1"],
            id="an unknown instance",
        ),
        pytest.param(
            ["kill", "gcp:shared/n1", "--yes"], ["the provider 'gcp'", "set up here: local"], id="another provider"
        ),
        pytest.param(["kill", "--random", "--seed", "x", "--yes"], ["--seed"], id="a seed that is no number"),
        pytest.param(["kill", "--random", "--role", "queen", "--yes"], ["--role", "'queen'"], id="an unknown role"),
        pytest.param(
            ["kill", "--random", "--cluster", "nope", "--yes"], ["there is no lab 'nope'"], id="drawn from nowhere"
        ),
        pytest.param(
            ["kill", "--random", "--failover", "hope", "--yes"], ["--failover", "'hope'"], id="an unknown failover"
        ),
        pytest.param(["kill", "--random"], ["nobody can be asked here", "--yes", "--dry-run"], id="nobody to ask"),
        pytest.param(["kill", "local:shared/n2"], ["nobody can be asked here", "--yes"], id="nobody to ask about one"),
        pytest.param(
            ["lab", "load", "--name", "shared", "--for", "1"],
            ["--for", "'1' is no duration"],
            id="load for a bare number",
        ),
        pytest.param(["lab", "load", "--name", "shared", "--rate", "0"], ["--rate"], id="a load of nothing"),
    ],
)
def test_a_request_that_cannot_be_understood_touches_nothing(
    lab: Lab, module_site: Site, command: list[str], words: list[str]
) -> None:
    before, runs = lab.book(), len(_recorded(module_site))
    usage(module_site.cli(*command), *words)
    assert lab.book() == before
    assert len(_recorded(module_site)) == runs


def _recorded(site: Site) -> list[tuple[str, str]]:
    """The recorded runs and their states."""
    return [(r.run, r.state.value) for r in reversed(store_of(site.home).runs(most=1000))]


def test_a_run_is_found_by_an_unambiguous_beginning_only(lab: Lab, module_site: Site) -> None:
    for _ in range(2):
        one_sentence(module_site.cli("rotate", "shared", "--min-copies", "9"), ExitCode.REFUSED, "copies", "9")
    names = [run for run, _ in _recorded(module_site)]
    one_sentence(module_site.cli("show", "shared-"), ExitCode.USAGE, "'shared-' begins", names[-1])
    one_sentence(module_site.cli("show", "nothing"), ExitCode.USAGE, "there is no run 'nothing'", "reaper runs")
    shown = module_site.cli("show", names[-1], "--output", "json")
    assert shown.code == ExitCode.GOOD, shown.all
    assert shown.json()["state"] == "refused"
    assert "9" in shown.json()["message"]
    listed = module_site.cli("runs", "shared")
    assert "refused" in listed.out
    del lab


# ---- clusters that are not fit


@contextmanager
def _held(session: Session, *statements: str) -> Iterator[Session]:
    """A session that stays open with what the statements took."""
    with contextlib.closing(session), session.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        yield session


@contextmanager
def _changed(lab: Lab, instance: str, there: list[str], back: list[str]) -> Iterator[None]:
    lab.root_sql(instance, *there)
    try:
        yield
    finally:
        lab.root_sql(instance, *back)


def _stopped_applier(lab: Lab) -> AbstractContextManager[None]:
    return _changed(lab, "n2", ["STOP SLAVE SQL_THREAD"], ["START SLAVE"])


def _stopped_receiver(lab: Lab) -> AbstractContextManager[None]:
    return _changed(lab, "n2", ["STOP SLAVE IO_THREAD"], ["START SLAVE"])


def _stopped_replication_of_one(lab: Lab) -> AbstractContextManager[None]:
    return _changed(lab, "n3", ["STOP SLAVE"], ["START SLAVE"])


def _delayed(lab: Lab) -> AbstractContextManager[None]:
    there = ["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 3600", "START SLAVE"]
    return _changed(lab, "n3", there, ["STOP SLAVE", "CHANGE MASTER TO MASTER_DELAY = 0", "START SLAVE"])


def _by_file_and_offset(lab: Lab) -> AbstractContextManager[None]:
    there = ["STOP SLAVE", "CHANGE MASTER TO MASTER_USE_GTID = no", "START SLAVE"]
    return _changed(lab, "n3", there, ["STOP SLAVE", "CHANGE MASTER TO MASTER_USE_GTID = slave_pos", "START SLAVE"])


def _filtered(lab: Lab) -> AbstractContextManager[None]:
    def statements(value: str) -> list[str]:
        return ["STOP SLAVE", f"SET GLOBAL replicate_ignore_db = '{value}'", "START SLAVE"]

    return _changed(lab, "n2", statements("app"), statements(""))


@contextmanager
def _applier_error(lab: Lab) -> Iterator[None]:
    lab.endpoint_sql("CREATE TABLE app.clash (a INT PRIMARY KEY)")
    until(lambda: healthy(lab), "the table is everywhere")
    lab.root_sql("n2", WITHOUT_LOG, "INSERT INTO app.clash VALUES (1)")
    lab.endpoint_sql("INSERT INTO app.clash VALUES (1)")
    until(lambda: not replicating(lab, "n2"), "the applier of n2 stops")
    try:
        yield
    finally:
        lab.root_sql("n2", WITHOUT_LOG, "DELETE FROM app.clash")
        lab.root_sql("n2", "START SLAVE")
        lab.endpoint_sql("DROP TABLE app.clash")


def _wrong_credentials(lab: Lab) -> AbstractContextManager[None]:
    def named(password: str) -> list[str]:
        return [WITHOUT_LOG, f"ALTER USER reaper@'127.0.0.1' IDENTIFIED BY '{password}'"]

    return _changed(lab, "n2", named("another"), named(lab.book()["admin"]["password"]))


def _two_writers(lab: Lab) -> AbstractContextManager[None]:
    return _changed(lab, "n2", ["SET GLOBAL read_only = 0"], ["SET GLOBAL read_only = 1"])


def _read_only_master(lab: Lab) -> AbstractContextManager[None]:
    return _changed(lab, "n1", ["SET GLOBAL read_only = 1"], ["SET GLOBAL read_only = 0"])


def _semi_sync_off(lab: Lab) -> AbstractContextManager[None]:
    there = ["SET GLOBAL rpl_semi_sync_master_enabled = 0"]
    return _changed(lab, "n1", there, ["SET GLOBAL rpl_semi_sync_master_enabled = 1"])


def _semi_sync_impatient(lab: Lab) -> AbstractContextManager[None]:
    there = ["SET GLOBAL rpl_semi_sync_master_timeout = 100"]
    return _changed(lab, "n1", there, ["SET GLOBAL rpl_semi_sync_master_timeout = 3600000"])


@contextmanager
def _semi_sync_fallen_back(lab: Lab) -> Iterator[None]:
    with _semi_sync_impatient(lab):
        for name in ("n2", "n3"):
            lab.sql(name, "STOP SLAVE IO_THREAD")
        lab.endpoint_sql("CREATE OR REPLACE TABLE app.alone (a INT)")
        try:
            yield
        finally:
            for name in ("n2", "n3"):
                lab.sql(name, "START SLAVE")
            lab.endpoint_sql("DROP TABLE app.alone")
    until(lambda: _semi_sync_status(lab) == "ON", "semi-sync is on again")


def _semi_sync_status(lab: Lab) -> str:
    return str(lab.sql("n1", "SHOW STATUS LIKE 'Rpl_semi_sync_master_status'")[0]["Value"])


@contextmanager
def _frozen(lab: Lab, name: str) -> Iterator[None]:
    os.kill(lab.pid(name), signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(lab.pid(name), signal.SIGCONT)


def _frozen_replica(lab: Lab) -> AbstractContextManager[None]:
    return _frozen(lab, "n3")


def _frozen_master(lab: Lab) -> AbstractContextManager[None]:
    return _frozen(lab, "n1")


@contextmanager
def _schema_change(lab: Lab, instance: str, session: Session) -> Iterator[None]:
    """ALTER TABLE that waits for a reader's metadata lock, as online schema changes do at their end."""
    with _held(lab.root_session(instance), "BEGIN", "SELECT * FROM app.wide"), contextlib.closing(session):
        session._execute_command(0x03, "ALTER TABLE app.wide ADD COLUMN b INT, ALGORITHM=COPY")  # sent, not waited for
        until(lambda: _runs(lab, instance, "ALTER TABLE"), f"the schema change runs on {instance}")
        yield
        lab.root_sql(instance, f"KILL {session.thread_id()}")
        until(lambda: not _runs(lab, instance, "ALTER TABLE"), "the schema change is gone")


def _runs(lab: Lab, instance: str, beginning: str) -> bool:
    return bool(lab.root_sql(instance, f"SELECT id FROM information_schema.processlist WHERE info LIKE '{beginning}%'"))


@contextmanager
def _schema_change_on_the_master(lab: Lab) -> Iterator[None]:
    lab.endpoint_sql("CREATE TABLE app.wide (a INT)")
    try:
        with _schema_change(lab, "n1", lab.endpoint_session()):
            yield
    finally:
        lab.endpoint_sql("DROP TABLE app.wide")


@contextmanager
def _online_schema_change(lab: Lab) -> Iterator[None]:
    lab.endpoint_sql("CREATE TABLE app._wide_gho (a INT)")
    until(lambda: healthy(lab), "the ghost table is everywhere")
    try:
        yield
    finally:
        lab.endpoint_sql("DROP TABLE app._wide_gho")


def _read_lock_on_the_master(lab: Lab) -> AbstractContextManager[Any]:
    return _held(lab.root_session("n1"), "FLUSH TABLES WITH READ LOCK")


def _backup_stage_on_the_master(lab: Lab) -> AbstractContextManager[Any]:
    return _held(lab.root_session("n1"), "BACKUP STAGE START", "BACKUP STAGE BLOCK_DDL")


def _backup_blocks_commits_on_the_master(lab: Lab) -> AbstractContextManager[Any]:
    return _held(lab.root_session("n1"), "BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT")


def _backup_stage_on_the_source(lab: Lab) -> AbstractContextManager[Any]:
    return _held(lab.root_session("n2"), "BACKUP STAGE START")


def _misrouted_endpoint(lab: Lab) -> AbstractContextManager[None]:
    @contextmanager
    def moved() -> Iterator[None]:
        book = lab.book()
        ports = {i["name"]: i["port"] for i in book["instances"]}
        with contextlib.closing(InProcess(lab.site.home).endpoint(lab.name)) as endpoint:
            first = endpoint.show().target
            assert first is not None
            assert first.port == ports["n1"]
            other = type(first)(first.host, ports["n3"])
            endpoint.route(other, first)
            try:
                yield
            finally:
                endpoint.route(first, other)

    return moved()


def _other_settings(lab: Lab) -> AbstractContextManager[None]:
    there = ["SET GLOBAL sql_mode = 'ANSI'"]
    return _changed(lab, "n3", there, ["SET GLOBAL sql_mode = DEFAULT"])


def _not_strict(lab: Lab) -> AbstractContextManager[None]:
    return _changed(lab, "n3", ["SET GLOBAL gtid_strict_mode = 0"], ["SET GLOBAL gtid_strict_mode = 1"])


UNFIT = [
    pytest.param(_stopped_applier, ["replicas: n2", "applier is stopped"], id="a stopped applier (E06)"),
    pytest.param(_stopped_receiver, ["replicas: n2", "receiver is stopped"], id="a stopped receiver (E06)"),
    pytest.param(_stopped_replication_of_one, ["replicas: n3", "receiver is stopped"], id="stopped replication (E06)"),
    pytest.param(_delayed, ["replicas: n3", "configured delay of 3600 s"], id="a configured delay (E06)"),
    pytest.param(
        _by_file_and_offset, ["replicas: n3", "by file and offset"], id="replication by file and offset (E20)"
    ),
    pytest.param(
        _filtered, ["replicas: n2", "replication filter Replicate_Ignore_DB=app"], id="a replication filter (E18)"
    ),
    pytest.param(_applier_error, ["replicas: n2", "applier is stopped", "app.clash"], id="an applier error (E06)"),
    pytest.param(
        _wrong_credentials,
        ["n2 cannot be observed", "'reaper' is rejected", "password", "not dead"],
        id="wrong credentials (E21)",
    ),
    pytest.param(_two_writers, ["two masters", "n1 and n2 accept writes"], id="two masters (E07)"),
    pytest.param(_read_only_master, ["no writable master", "n1"], id="a master that is read-only (E08)"),
    pytest.param(
        _semi_sync_off, ["semi-sync: not enabled on the master", "loss is accepted"], id="semi-sync off (E02)"
    ),
    pytest.param(_semi_sync_impatient, ["semi-sync", "100 ms"], id="a short semi-sync time-out (E02)"),
    pytest.param(_semi_sync_fallen_back, ["semi-sync: fallen back to asynchronous"], id="semi-sync fallen back (E02)"),
    pytest.param(_frozen_replica, ["n3", "frozen", "not dead"], id="a frozen replica"),
    pytest.param(_frozen_master, ["n1", "frozen", "not dead"], id="a frozen master"),
    pytest.param(
        _schema_change_on_the_master, ["schema change on n1", "ALTER TABLE app.wide"], id="a schema change (E10)"
    ),
    pytest.param(_online_schema_change, ["schema change on n1", "_wide_gho"], id="an online schema change (E10)"),
    pytest.param(_read_lock_on_the_master, ["backup or global lock on n1"], id="a global read lock (E10)"),
    pytest.param(_backup_stage_on_the_master, ["backup or global lock on n1"], id="a backup on the master (E10)"),
    pytest.param(
        _backup_blocks_commits_on_the_master, ["backup or global lock on n1"], id="a backup that blocks commits (E10)"
    ),
    pytest.param(_backup_stage_on_the_source, ["backup or global lock on n2"], id="a backup on the source (E10)"),
    pytest.param(_misrouted_endpoint, ["endpoint"], id="an endpoint that leads elsewhere (E22)"),
    pytest.param(_other_settings, ["parity", "sql_mode", "ANSI", "n3"], id="another sql_mode (E18)"),
    pytest.param(_not_strict, ["settings: n3 does not enforce GTID order"], id="GTID order not enforced (E20)"),
]


@pytest.mark.parametrize(("broken", "words"), UNFIT)
def test_an_unfit_cluster_is_refused_by_name_and_left_as_it_was(
    lab: Lab, module_site: Site, broken: Broken, words: list[str]
) -> None:
    with unchanged(lab), broken(lab):
        said = module_site.cli("rotate", lab.name, "--max-lag", "1s")
        one_sentence(said, ExitCode.REFUSED, *words)


@pytest.mark.parametrize(
    "broken",
    [pytest.param(_frozen_replica, id="a frozen replica"), pytest.param(_wrong_credentials, id="wrong credentials")],
)
def test_an_unfit_cluster_is_shown_while_a_dry_run_and_a_draw_are_refused(
    lab: Lab, module_site: Site, broken: Broken
) -> None:
    with unchanged(lab), broken(lab):
        shown = module_site.cli("status", lab.name)
        assert shown.code == ExitCode.GOOD, shown.all
        assert all(name in shown.out for name in lab.instances)
        dry = module_site.cli("rotate", lab.name, "--dry-run")
        assert dry.code == ExitCode.REFUSED, dry.all
        assert "Traceback" not in dry.all
        drawn = module_site.cli("kill", "--random", "--cluster", lab.name, "--role", "master", "--yes")
        one_sentence(drawn, ExitCode.REFUSED)


def test_an_accepted_loss_is_said_in_the_dry_run(lab: Lab, module_site: Site) -> None:
    with unchanged(lab), _semi_sync_off(lab):
        said = module_site.cli("rotate", lab.name, "--dry-run", "--accept-loss", "--output", "json")
        assert said.code == ExitCode.GOOD, said.all
        verdict = next(v for v in said.json()["guards"] if v["guard"] == "semi-sync")
        assert "accepts the loss" in verdict["reason"]


# ---- a policy that no option has


def _in_process(lab: Lab, policy: Policy) -> tuple[InProcess, Plan]:
    here = InProcess(lab.site.home)
    view = observe(here.world(announcer(), SignalInterrupt()), lab.name)
    shape = classify(view)
    assert isinstance(shape, MasterWithReplicas)
    request = Request(
        run=f"{lab.name}-in-process",
        victim=shape.master.instance.id,
        policy=policy,
        replacement=Replacement.BEFORE,
        why="a test",
        seed=None,
    )
    return here, make_plan(view, request)


def test_an_old_transaction_is_named_with_its_session(lab: Lab) -> None:
    """E09: the freeze or the kill would hang behind it, or lose it."""
    lab.endpoint_sql("CREATE TABLE app.slow (a INT PRIMARY KEY)")
    with (
        unchanged(lab),
        _held(lab.endpoint_session(), "BEGIN", "INSERT INTO app.slow VALUES (1)") as session,
    ):
        until(lambda: _oldest_s(lab) >= 2, "the transaction is two seconds old")
        here, plan = _in_process(lab, Policy(max_transaction_age=timedelta(seconds=1), soak=timedelta(0)))
        rotation = Rotation(here.world(Fan(here.runs, announcer()), SignalInterrupt()), plan, Unrecorded())
        with pytest.raises(RefusedError) as refused:
            rotation.execute()
        said = str(refused.value)
        assert "activity: old transaction on n1" in said
        assert str(session.thread_id()) in said
        assert "application" in said
    lab.endpoint_sql("DROP TABLE app.slow")


def _oldest_s(lab: Lab) -> int:
    row = lab.root_sql(
        "n1",
        "SELECT COALESCE(MAX(TIMESTAMPDIFF(SECOND, trx_started, NOW())), 0) AS s FROM information_schema.innodb_trx",
    )
    return int(row[0]["s"])


# ---- what a repair cannot undo: labs of their own


def test_a_dead_replica_is_shown_and_refused(make_lab: Callable[..., Lab], site: Site) -> None:
    lab = make_lab()
    lab.kill_9("n2")
    before = lab.book()
    members = {m["instance"]: m["state"] for m in lab.status()["members"]}
    assert members["local:lab/n2"] == "dead"
    for command in (("rotate", "lab"), ("kill", "local:lab/n1", "--yes"), ("kill", "--random", "--yes")):
        one_sentence(site.cli(*command), ExitCode.REFUSED, "dead member", "n2")
    assert lab.book() == before
    lab.kill_9("n1")
    members = {m["instance"]: m["state"] for m in lab.status()["members"]}
    assert members["local:lab/n1"] == "dead"
    for command in (("rotate", "lab"), ("kill", "local:lab/n3", "--yes")):
        one_sentence(site.cli(*command), ExitCode.REFUSED, "dead member", "n1")
    one_sentence(site.cli("kill", "local:lab/n2", "--yes"), ExitCode.REFUSED, "n2")
    assert lab.book() == before


@pytest.mark.parametrize("domain", [7, 0], ids=["in a domain of its own", "in the master's domain"])
def test_an_errant_transaction_is_refused_with_its_interval_and_breaks_nothing(
    make_lab: Callable[..., Lab], site: Site, domain: int
) -> None:
    """E01. The refused run itself must not be what stops the replica: nothing is written before the refusal."""
    lab = make_lab()
    lab.root_sql("n3", f"SET SESSION gtid_domain_id = {domain}", "CREATE DATABASE errant")
    state = lab.sql("n3", "SELECT @@gtid_binlog_state AS s")[0]["s"]
    errant = next(gtid for gtid in state.split(",") if gtid.startswith(f"{domain}-3-"))
    dry = site.cli("rotate", "lab", "--dry-run")
    assert dry.code == ExitCode.REFUSED, dry.all
    assert errant in dry.out
    one_sentence(site.cli("rotate", "lab"), ExitCode.REFUSED, "errant: n3", errant, "rebuild that replica")
    assert lab.master == "n1"
    assert replicating(lab, "n3")


# ---- the person at the terminal


def _typed(site: Site, answer: str, *args: str) -> Said:
    """Run a command whose standard input is a terminal at which a person types a line."""
    here, there = pty.openpty()
    try:
        with subprocess.Popen(
            site.command(*args),
            stdin=there,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=site.environment(),
        ) as process:
            os.write(here, answer.encode() + b"\n")
            out, err = process.communicate(timeout=120)
    finally:
        os.close(here)
        os.close(there)
    return Said(process.returncode, out, err)


@pytest.mark.parametrize("answer", ["other", "", "SHARED"])
def test_a_wrong_answer_kills_nobody(lab: Lab, module_site: Site, answer: str) -> None:
    before = fingerprint(lab)
    said = _typed(module_site, answer, "kill", "--random", "--cluster", lab.name)
    assert said.code == ExitCode.USAGE, said.all
    assert "Type the cluster's name (shared)" in said.err
    assert "not confirmed: nothing was touched" in said.sentence
    assert fingerprint(lab) == before


def test_the_right_answer_kills_and_the_remaining_two_can_be_rotated(make_lab: Callable[..., Lab], site: Site) -> None:
    lab = make_lab()
    said = _typed(site, "lab", "kill", "--random", "--role", "replica", "--seed", "1", "--no-replace")
    assert said.code == ExitCode.GOOD, said.all
    assert "drew local:lab/n" in said.err
    assert "seed 1" in said.err
    left = lab.instances
    assert len(left) == 2
    assert "n1" in left
    rotated = site.cli("rotate", "lab", "--output", "json")
    assert rotated.code == ExitCode.GOOD, rotated.all
    assert rotated.json()["verdict"]["ledger"]["lost"] == []
    assert lab.master == "n4"
    assert healthy(lab)


# ---- disks and tools


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """The REAPER_HOME on a file system of its own, of 560 MiB."""
    site.home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=560m", "none", str(site.home)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"mounting a file system is not permitted here: {mounted.stderr.strip()}")
    try:
        yield site.home
    finally:
        left = site.remove_all()
        subprocess.run(["umount", "--lazy", str(site.home)], check=True)
        assert not left


def _free_mib(home: Path) -> int:
    return shutil.disk_usage(home).free // 2**20


def _filler(home: Path, leave_mib: int) -> Path:
    """A file that takes all but so much of the disk."""
    path = home / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (_free_mib(home) - leave_mib) * 2**20)
    return path


def _tool(directory: Path, script: str) -> dict[str, str]:
    """An environment in which `mariadb-backup` is this script; "$real" is the real one."""
    directory.mkdir(exist_ok=True)
    tool = directory / "mariadb-backup"
    tool.write_text(f"#!/bin/sh\nreal={shutil.which('mariadb-backup')}\n{script}\n")
    tool.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_a_disk_that_is_full_is_refused_and_one_that_fills_up_is_survived(
    small_disk: Path, make_lab: Callable[..., Lab], site: Site, tmp_path: Path
) -> None:
    """E28: checked before, survived during, said in words."""
    lab = make_lab(nodes=2)
    before = fingerprint(lab)
    filler = _filler(small_disk, leave_mib=150)
    one_sentence(site.cli("rotate", "lab"), ExitCode.REFUSED, "disk: the replacement needs", "MiB", "free some")
    filler.unlink()
    assert fingerprint(lab) == before
    fill = f"fallocate -l $(( $(df --output=avail -k {small_disk} | tail -1) - 6000 ))K {filler}"
    said = site.cli("rotate", "lab", env=_tool(tmp_path, f'case "$*" in *--backup*) {fill};; esac\nexec "$real" "$@"'))
    one_sentence(said, ExitCode.TRY_AGAIN, "mariadb-backup failed", "No space left on device")
    assert filler.exists()
    filler.unlink()
    assert fingerprint(lab) == before
    assert [state for _, state in _recorded(site)] == ["refused", "undone"]
    assert healthy(lab)


def test_a_backup_tool_that_fails_is_quoted_and_the_run_is_undone(lab: Lab, module_site: Site, tmp_path: Path) -> None:
    with unchanged(lab):
        said = module_site.cli(
            "rotate", lab.name, env=_tool(tmp_path, "echo 'Error: the moon is in the wrong house' >&2; exit 3")
        )
        one_sentence(said, ExitCode.TRY_AGAIN, "mariadb-backup failed (3)", "the moon is in the wrong house")
        assert _recorded(module_site)[-1][1] == "undone"


def test_a_backup_tool_that_cannot_be_run_is_said(lab: Lab, module_site: Site, tmp_path: Path) -> None:
    with unchanged(lab):
        env = _tool(tmp_path, "")
        (tmp_path / "mariadb-backup").write_text("#!/no/such/interpreter\n")
        one_sentence(module_site.cli("rotate", lab.name, env=env), ExitCode.USAGE, "mariadb-backup")


def test_without_the_backup_tool_the_copy_is_cold_and_the_rotation_good(
    make_lab: Callable[..., Lab], site: Site
) -> None:
    lab = make_lab()
    lab.endpoint_sql("CREATE TABLE app.t (id INT PRIMARY KEY)", "INSERT INTO app.t VALUES (1), (2), (3)")
    nowhere = {"PATH": "/nonexistent"}
    said = site.cli("rotate", "lab", "--output", "json", env=nowhere)
    assert said.code == ExitCode.GOOD, said.all
    assert "was stopped for the copy, since no tool for a hot one is installed" in said.err
    assert said.json()["verdict"]["ledger"]["lost"] == []
    assert lab.master == "n4"
    assert sorted(row["id"] for row in lab.rows("n4", "app.t")) == [1, 2, 3]
    assert healthy(lab)
    assert not processes_below(site.home).keys() - {lab.pid(n) for n in lab.instances} - {lab.book()["endpoint"]["pid"]}


# ---- the store


@pytest.mark.parametrize("damage", ["garbage", "a directory"])
def test_a_damaged_store_is_one_sentence_and_nothing_is_touched(lab: Lab, module_site: Site, damage: str) -> None:
    store = module_site.home / "durable.db"
    kept = {p: p.with_name(f"kept-{p.name}") for p in module_site.home.glob("durable.db*")}
    for path, away in kept.items():
        path.replace(away)
    if damage == "garbage":
        store.write_bytes(b"this is no database " * 500)
    else:
        store.mkdir()
    try:
        with unchanged(lab):
            for command in (("runs",), ("show", "x"), ("rotate", lab.name), ("kill", "local:shared/n2", "--yes")):
                one_sentence(module_site.cli(*command), ExitCode.USAGE, str(store))
            assert module_site.cli("status", lab.name).code == ExitCode.GOOD
    finally:
        if store.is_dir():
            store.rmdir()
        else:
            for path in module_site.home.glob("durable.db*"):
                path.unlink()
        for path, away in kept.items():
            away.replace(path)


@contextmanager
def _refusing_to_record(site: Site, step: str) -> Iterator[None]:
    """The store takes nothing about a step, as on a full disk."""
    with contextlib.closing(sqlite3.connect(site.home / "durable.db")) as db:
        db.execute(
            "CREATE TRIGGER full BEFORE INSERT ON reaper_events WHEN json_extract(NEW.event, '$.step') = "
            f"'{step}' BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        try:
            yield
        finally:
            db.execute("DROP TRIGGER full")


def test_a_store_that_fills_up_before_the_kill_undoes_the_run(lab: Lab, module_site: Site) -> None:
    module_site.cli("rotate", lab.name, "--min-copies", "9")  # refused, and the store is there
    with unchanged(lab), _refusing_to_record(module_site, "launch"):
        one_sentence(module_site.cli("rotate", lab.name), ExitCode.TRY_AGAIN, "disk is full")


# ---- after the kill, or without anybody to hear


def finished(lab: Lab, site: Site) -> None:
    """The cluster is one master with replicas, and nothing of a run is left but the victim's quarantine."""
    assert lab.status()["fault"] is None
    assert healthy(lab)
    after = fingerprint(lab)
    assert after["snapshots"] == []
    assert set(map(str, after["markers"].values())) == {"[]"}  # type: ignore[attr-defined]
    assert "running" not in [state for _, state in _recorded(site)]


def test_a_store_that_fills_up_at_the_kill_does_not_stop_the_failover(make_lab: Callable[..., Lab], site: Site) -> None:
    """I9, I12: after the kill the only way is forward; what cannot be recorded is said."""
    lab = make_lab()
    site.cli("rotate", lab.name, "--min-copies", "9")
    with _refusing_to_record(site, "kill"):
        said = site.cli("rotate", "lab")
    assert said.code in (ExitCode.BAD_VERDICT, ExitCode.CALL_A_PERSON), said.all
    assert "Traceback" not in said.all
    assert "disk is full" in said.all
    assert lab.master == "n4"
    finished(lab, site)


def test_a_window_that_is_closed_at_the_kill_does_not_stop_the_failover(
    make_lab: Callable[..., Lab], site: Site
) -> None:
    """Neither `reaper rotate lab 2>&1 | head` nor a lost ssh session may leave half a failover (I9)."""
    lab = make_lab()
    victim = lab.pid("n1")
    with site.background("rotate", "lab") as rotation:
        assert rotation.stderr is not None
        asked = 0
        while asked < 2:  # the second time is right before the kill
            line = rotation.stderr.readline()
            assert line, "the run ended before its kill"
            asked += '"guards"' in line
        rotation.stderr.close()
        until(lambda: not alive(victim), "the master is killed")
        rotation.send_signal(signal.SIGHUP)
        assert rotation.stdout is not None
        out = rotation.stdout.read()
        rotation.wait(120)
    assert lab.master == "n4"
    finished(lab, site)
    assert rotation.returncode == ExitCode.GOOD, out


def _launching(lab: Lab) -> bool:
    return len(lab.book()["instances"]) == 3


def test_a_terminal_that_goes_away_before_the_kill_undoes_the_run(make_lab: Callable[..., Lab], site: Site) -> None:
    """SIGHUP is what a closed window or a lost ssh session sends; it must mean what Ctrl-C means (E11, E12)."""
    lab = make_lab(nodes=2)
    before = fingerprint(lab)
    with site.background("rotate", "lab") as rotation:
        until(lambda: _launching(lab) or rotation.poll() is not None, "the replacement is being launched")
        rotation.send_signal(signal.SIGHUP)
        out, err = rotation.communicate(timeout=120)
    assert rotation.returncode == ExitCode.INTERRUPTED, out + err
    assert [state for _, state in _recorded(site)] == ["undone"]
    assert fingerprint(lab) == before
