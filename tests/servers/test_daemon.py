"""Policies act by themselves on real servers: the daemon and cron, a restart, a pause, a broken file, a stop."""

import contextlib
import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from labs import Lab, kill_9, until
from test_power_cuts import assert_as_after_a_rotation
from witness import OneOpen, Writers, store_of

from reaper.adapters.store.database import Place
from reaper.adapters.store.standing import PolicyStore
from reaper.domain.errors import ExitCode
from reaper.domain.verdict import RunState


def policy(name: str, *, minutes: int = -1, grace: str = "10m", leash: str = "off") -> str:
    """A policy that fires once an hour, at the minute so many minutes from now."""
    minute = (datetime.now(UTC) + timedelta(minutes=minutes)).minute
    return f"""
name: {name}
leash: {leash}
target: {{provider: local, clusters: shared}}
schedule: {{cron: "{minute} * * * *", timezone: UTC, grace: {grace}}}
failover: {{outage_budget: 1m}}
guards: {{min_copies: 2}}
"""


@dataclass
class Desk:
    """A policies' directory beside a lab, and what is remembered of its policies."""

    lab: Lab
    directory: Path
    port: int

    def write(self, name: str, text: str) -> None:
        # Renamed into place, so that nobody reads half of it.
        draft = self.directory / f".{name}"
        draft.write_text(text)
        draft.rename(self.directory / name)

    @property
    def memory(self) -> PolicyStore:
        return PolicyStore(Place(self.lab.site.home))

    def looked(self, ago: timedelta, policy: str = "nightly") -> None:
        """Somebody looked after the policy so long ago: its last fire is still to come."""
        self.memory.looked([policy], datetime.now(UTC) - ago)

    def environment(self) -> dict[str, str]:
        return {"REAPER_POLICIES": str(self.directory)}

    @contextlib.contextmanager
    def daemon(self) -> Iterator["subprocess.Popen[str]"]:
        """`reaper daemon`, whose log is kept beside the policies."""
        with (
            (self.directory / "daemon.log").open("a") as log,
            subprocess.Popen(
                self.lab.site.command("daemon"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                env=self.lab.site.environment(self.environment()),
            ) as process,
        ):
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    @property
    def log(self) -> str:
        return (self.directory / "daemon.log").read_text()

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def last_run(self) -> tuple[str, RunState] | None:
        runs = store_of(self.lab.site.home).runs(self.lab.name)
        return (runs[0].run, runs[0].state) if runs else None

    def ended_well(self) -> bool:
        run = self.last_run()
        return run is not None and run[1] is RunState.GOOD


@pytest.fixture
def desk(lab: Lab, tmp_path: Path) -> Iterator[Desk]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (lab.site.home / "reaper.yaml").write_text(f"listen: 127.0.0.1:{port}\n")
    yield Desk(lab, tmp_path, port)
    (lab.site.home / "reaper.yaml").unlink()


def once(desk: Desk) -> tuple[int, str]:
    said = desk.lab.site.cli("run", "--once", env=desk.environment())
    return said.code, said.all


def test_cron_fires_what_is_due_within_its_grace_once_and_follows_it_to_its_end(desk: Desk) -> None:
    desk.write("nightly.yaml", policy("nightly"))
    desk.looked(timedelta(minutes=3))
    victim = desk.lab.master
    with Writers(desk.lab) as writers, OneOpen(desk.lab) as one:
        code, said = once(desk)
        assert code == 0, said
        one.check()
        assert_as_after_a_rotation(desk.lab, victim, writers)
    run = store_of(desk.lab.site.home).runs(desk.lab.name)[0]
    assert run.state is RunState.GOOD
    assert run.plan.standing == "nightly"
    assert json.loads(desk.memory.firings("nightly")[0].summary)["outcome"] == "acted"


def test_E27_a_fire_that_is_older_than_its_grace_is_missed_and_not_caught_up(desk: Desk) -> None:
    desk.write("hourly.yaml", policy("hourly", minutes=30, grace="1m"))
    desk.looked(timedelta(hours=3), "hourly")
    before, victim = desk.last_run(), desk.lab.master
    code, said = once(desk)
    assert code == 0, said
    assert "hourly missed 3 firings" in said
    assert (desk.last_run(), desk.lab.master) == (before, victim)


def test_a_leashed_policy_decides_reports_and_touches_nothing(desk: Desk) -> None:
    desk.write("leashed.yaml", policy("leashed", leash="on"))
    desk.looked(timedelta(minutes=3), "leashed")
    before, victim = desk.last_run(), desk.lab.master
    code, said = once(desk)
    assert code == 0, said
    assert (desk.last_run(), desk.lab.master) == (before, victim)
    summary = json.loads(desk.memory.firings("leashed")[0].summary)
    assert summary["outcome"] == "reported"
    assert summary["due"] == [f"master local:shared/{victim}"]


def test_the_daemon_rotates_shows_itself_survives_a_broken_file_and_stops_when_told(desk: Desk) -> None:
    desk.write("nightly.yaml", policy("watched"))
    desk.looked(timedelta(minutes=3), "watched")
    victim, before = desk.lab.master, desk.last_run()
    with Writers(desk.lab) as writers, desk.daemon() as process:
        until(lambda: desk.last_run() != before and desk.ended_well(), "the daemon has rotated the lab", 180)
        assert desk.lab.master != victim
        assert_as_after_a_rotation(desk.lab, victim, writers)
        assert desk.page("/readyz") == "ok\n"
        good = 'reaper_runs_ended_total{cluster="shared",policy="watched",state="good"} 1.0'
        until(lambda: good in desk.page("/metrics"), "the run is counted")
        paused = desk.lab.site.cli("pause", "--reason", "the test looks")
        assert paused.code == 0, paused.all
        desk.write("nightly.yaml", "name: [broken\n")
        process.send_signal(signal.SIGHUP)
        until(lambda: "policies_reload_bad 1.0" in desk.page("/metrics"), "the mistake is seen")
        assert 'policy_armed{policy="watched"} 1.0' in desk.page("/metrics"), "the last good one stays in force"
        assert "nightly.yaml:" in desk.log
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, desk.log
    assert desk.lab.site.cli("unpause").code == 0
    assert "Traceback" not in desk.log


def test_I8_a_daemon_that_is_killed_in_a_run_goes_on_with_it_when_it_is_started_again(desk: Desk) -> None:
    desk.write("nightly.yaml", policy("killed"))
    desk.looked(timedelta(minutes=3), "killed")
    victim, pid = desk.lab.master, desk.lab.pid(desk.lab.master)
    with Writers(desk.lab) as writers, OneOpen(desk.lab) as one:
        with desk.daemon() as process:
            until(lambda: '"step": "verify"' in desk.log, "the replacement is built", 90)
            kill_9(process.pid)
        run = desk.last_run()
        assert run is not None
        assert run[1] is RunState.RUNNING
        assert pid == desk.lab.pid(victim), "it had not killed yet"
        desk.write("nightly.yaml", policy("killed", leash="on"))
        with desk.daemon() as process:
            until(lambda: desk.last_run() == (run[0], RunState.GOOD), "the run has been finished", 90)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, desk.log
        one.check()
        assert_as_after_a_rotation(desk.lab, victim, writers)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("listen: nowhere\n", "listen has to be HOST:PORT", id="an address that is none"),
        pytest.param("chanels: {}\n", "chanels: Extra inputs", id="a setting that nobody knows"),
        pytest.param("limits: {in_flight: 0}\n", "limits.in_flight", id="a limit of nothing"),
    ],
)
def test_a_mistake_in_the_settings_is_a_sentence(desk: Desk, text: str, said: str) -> None:
    desk.write("nightly.yaml", policy("nightly"))
    (desk.lab.site.home / "reaper.yaml").write_text(text)
    answer = desk.lab.site.cli("daemon", env=desk.environment())
    assert answer.code == ExitCode.USAGE
    assert said in answer.sentence


def test_a_daemon_without_one_good_policy_says_every_mistake_and_ends(desk: Desk) -> None:
    desk.write("broken.yaml", "name: x\nleash: maybe\n")
    answer = desk.lab.site.cli("daemon", env=desk.environment())
    assert answer.code == ExitCode.USAGE
    assert "broken.yaml:2" in answer.err
    assert "Traceback" not in answer.err
