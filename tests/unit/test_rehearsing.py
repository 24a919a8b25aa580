"""The rehearsal before the kill (E21), and whether a replacement can join at all (E14, E15)."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import PurePosixPath

import pytest
from builders import gtids, iid

from reaper.adapters.mysql.rehearse import CHANNEL, words_of
from reaper.adapters.mysql.rehearse import rehearse as statements
from reaper.adapters.mysql.replication import ReplicationAccount, ReplicationTls
from reaper.domain.binlogs import can_feed
from reaper.domain.errors import AbortedError, OwnershipLostError, ServerGoneError, TryAgainError
from reaper.domain.facts import Address, Flavour, Instance
from reaper.domain.gtid import MysqlGtidSet
from reaper.domain.rehearsal import Account, Attempt, Obstacle, Pair, Rehearsed, Transport, Trial, told
from reaper.planner.identity import Identity, clashes
from reaper.testing.faults import When
from reaper.testing.fleet import MemoryFleet
from reaper.testing.machine import Machine
from reaper.testing.parts import ITEMS, Verb
from reaper.testing.rehearsing import Backstage, FakeUnderstudy
from reaper.workflow.engine import Login
from reaper.workflow.rehearsing import Theatre, rehearse, take_back

SECOND = timedelta(seconds=1)
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


class PowerCut(BaseException):
    """The process is gone."""


class Play:
    """A cluster of four: n1 the master, n2 and n3 siblings, n4 the heir."""

    def __init__(self) -> None:
        self.fleet = MemoryFleet()
        self.fleet.add_cluster("lab", nodes=4)
        self.backstage = Backstage()
        self.check: Callable[[], None] = lambda: None
        self.receivers_stopped_at_once = 0

    def connect(self, instance: Instance) -> FakeUnderstudy:
        return FakeUnderstudy(self.machine(instance.id.short), self.fleet.faults, self.backstage)

    def machine(self, name: str) -> Machine:
        return self.fleet.machine(name)

    def instance(self, name: str) -> Instance:
        return next(m for m in self.fleet.members("lab") if m.id.short == name)

    @property
    def theatre(self) -> Theatre:
        return Theatre(connect=self.connect, clock=self.fleet.clock, check=self.check, within=3 * SECOND)

    def rehearse(self, *siblings: str) -> tuple[Rehearsed, ...]:
        chosen = tuple(self.instance(name) for name in siblings or ("n2", "n3"))
        return rehearse(self.theatre, self.instance("n1"), chosen, self.instance("n4"))

    def receives(self, name: str) -> bool:
        channel = self.machine(name).channel
        return bool(channel and channel.receiving and not channel.receiver_error)

    def assert_as_before(self) -> None:
        assert self.backstage.channels == set()
        assert all(self.receives(name) for name in ("n2", "n3", "n4"))
        machines = self.fleet.machines("lab")
        self.machine("n1").commit(Verb.INSERT, ITEMS, ("afterwards",))
        assert len({str(m.executed) for m in machines}) == 1


@pytest.fixture
def play() -> Play:
    return Play()


def test_E21_each_sibling_passes_in_turn_and_nothing_is_left(play: Play) -> None:
    heard = play.rehearse()
    assert [(r.instance.short, r.trial, r.ok) for r in heard] == [
        ("n2", Trial.PASSED, True),
        ("n3", Trial.PASSED, True),
    ]
    play.assert_as_before()


def test_I3_only_one_receiver_is_stopped_at_a_time_and_commits_are_acknowledged_meanwhile(play: Play) -> None:
    stopped: list[list[str]] = []

    def look() -> None:
        stopped.append([n for n in ("n2", "n3", "n4") if not play.receives(n)])
        commit = play.machine("n1").commit(Verb.INSERT, ITEMS, (len(stopped),))
        assert commit not in play.machine("n1").pending, "nobody acknowledged it"

    play.fleet.faults.power = look
    play.rehearse()
    play.fleet.faults.power = None
    assert max(map(len, stopped)) == 1
    assert ["n2"] in stopped
    assert ["n3"] in stopped
    play.assert_as_before()


@pytest.mark.parametrize("obstacle", list(Obstacle))
def test_E21_a_failed_attempt_names_sibling_heir_and_remedy(play: Play, obstacle: Obstacle) -> None:
    play.backstage.obstacles[play.machine("n2").id] = obstacle
    failed, passed = play.rehearse()
    assert (failed.trial, passed.trial) == (Trial.FAILED, Trial.PASSED)
    assert failed.why.startswith("n2 cannot replicate from n4 (127.0.0.1:")
    assert failed.why.count(". ") >= 1, "no remedy"
    play.assert_as_before()


def test_E21_a_heir_that_is_gone_is_unreachable(play: Play) -> None:
    heir = play.instance("n4")
    play.fleet.faults.before("rehearse", "n2", lambda: play.fleet.kill("n4"))
    (heard,) = rehearse(play.theatre, play.instance("n1"), (play.instance("n2"),), heir)
    assert heard.trial is Trial.FAILED
    assert "nothing accepts its connection" in heard.why
    assert play.receives("n2")


def test_E21_a_channel_that_went_on_in_clear_text_has_failed(play: Play) -> None:
    play.backstage.transport, play.backstage.offered = Transport.TLS, Transport.PLAIN
    heard = play.rehearse()
    assert [r.trial for r in heard] == [Trial.FAILED, Trial.FAILED]
    assert "asks for TLS and n4 offers none" in heard[0].why
    play.backstage.offered = Transport.TLS
    assert all(r.ok and "over tls" in r.why for r in play.rehearse())


def stop_receivers(*names: str) -> Callable[[Play], None]:
    def stop(play: Play) -> None:
        for name in names:
            play.machine(name).stop_receiver()

    return stop


def lag(play: Play) -> None:
    play.machine("n4").knobs.apply_lag = 60 * SECOND
    play.machine("n1").commit(Verb.INSERT, ITEMS, ("late",))


SKIPPED = [
    pytest.param(stop_receivers("n3", "n4"), "nobody else acknowledges the commits of n1", id="the last acknowledger"),
    pytest.param(stop_receivers("n2"), "its receiver is stopped: by hand", id="a receiver that somebody stopped"),
    pytest.param(lag, "n4 did not apply", id="a heir that is behind"),
]


@pytest.mark.parametrize(("arrange", "why"), SKIPPED)
def test_a_rehearsal_that_would_do_harm_is_skipped_and_is_no_yes(
    play: Play, arrange: Callable[[Play], None], why: str
) -> None:
    arrange(play)
    before = [play.receives(n) for n in ("n2", "n3", "n4")]
    (heard,) = play.rehearse("n2")
    assert (heard.trial, heard.ok) == (Trial.SKIPPED, False)
    assert why in heard.why
    assert [play.receives(n) for n in ("n2", "n3", "n4")] == before
    assert ("rehearse", "n2") not in play.fleet.faults.calls


def test_where_commits_wait_for_nobody_the_last_replica_may_rehearse(play: Play) -> None:
    play.machine("n1").semi_sync.source_enabled = False
    stop_receivers("n3", "n4")(play)
    (heard,) = play.rehearse("n2")
    assert heard.ok


@pytest.mark.parametrize("when", list(When), ids=["the call fails", "its answer is lost"])
def test_E26_a_broken_connection_is_cleaned_up_after_before_the_next_one(play: Play, when: When) -> None:
    play.fleet.fail("rehearse", "n2", error=ServerGoneError("reset"), when=when)
    failed, passed = play.rehearse()
    assert (failed.trial, passed.trial) == (Trial.FAILED, Trial.PASSED)
    assert "could not rehearse: reset" in failed.why
    play.assert_as_before()


def test_cleaning_up_is_tried_again_until_the_sibling_answers(play: Play) -> None:
    play.fleet.fail("rehearse", "n2", error=ServerGoneError("reset"), when=When.AFTER)
    calls = []
    play.fleet.faults.before("rehearse", "n2", lambda: calls.append(play.fleet.fail("connect", "n2", times=3)))
    failed, passed = play.rehearse()
    assert (failed.trial, passed.trial) == (Trial.FAILED, Trial.PASSED)
    play.assert_as_before()


def test_a_sibling_that_cannot_be_cleaned_up_stops_the_run_in_words(play: Play) -> None:
    play.fleet.fail("rehearse", "n2", error=ServerGoneError("reset"), when=When.AFTER)
    play.fleet.faults.before("rehearse", "n2", lambda: play.fleet.fail("connect", "n2", times=1000) and None)
    with pytest.raises(TryAgainError, match="n2 was rehearsing, and its receiver may still be stopped"):
        play.rehearse()


class Broken(FakeUnderstudy):
    """Its receiver stops with an error once it was started again."""

    error: str | None = "error 1595"

    def rehearse(self, heir: Address, within: timedelta) -> Attempt:
        attempt = super().rehearse(heir, within)
        self._machine.stop_receiver(self.error)
        return attempt


class BrokenForGood(Broken):
    """And again."""

    def resume_replication(self) -> None:
        super().resume_replication()
        self._machine.stop_receiver(self.error)


def with_server(play: Play, kind: type[FakeUnderstudy]) -> Theatre:
    def connect(instance: Instance) -> FakeUnderstudy:
        return kind(play.machine(instance.id.short), play.fleet.faults, play.backstage)

    return Theatre(connect=connect, clock=play.fleet.clock, check=lambda: None, within=SECOND)


def test_a_receiver_that_does_not_come_back_stops_the_run_in_words(play: Play) -> None:
    siblings = (play.instance("n2"), play.instance("n3"))
    with pytest.raises(TryAgainError, match=r"receiver of n2 .* error 1595"):
        rehearse(with_server(play, BrokenForGood), play.instance("n1"), siblings, play.instance("n4"))
    assert ("rehearse", "n3") not in play.fleet.faults.calls


def test_a_receiver_that_stops_once_more_is_started_once_more(play: Play) -> None:
    heard = rehearse(with_server(play, Broken), play.instance("n1"), (play.instance("n2"),), play.instance("n4"))
    assert heard[0].ok
    play.assert_as_before()


def test_a_worker_that_lost_its_run_does_nothing_more(play: Play) -> None:
    play.fleet.fail("rehearse", "n2", error=OwnershipLostError("taken over"))
    with pytest.raises(OwnershipLostError):
        play.rehearse()
    assert play.fleet.faults.calls[-1] == ("rehearse", "n2")


def test_a_wish_to_stop_is_heard_between_two_siblings(play: Play) -> None:
    turns = []

    def check() -> None:
        turns.append(1)
        if len(turns) == 2:
            raise AbortedError("a person asked")

    play.check = check
    with pytest.raises(AbortedError):
        play.rehearse()
    play.assert_as_before()


def test_I8_after_a_power_cut_at_any_moment_another_process_takes_it_back() -> None:
    """And ends as if nothing had been: receivers run, no channel is left, rows arrive."""
    cuts = 0
    for moment in range(1, 200):
        play = Play()
        left = [moment]

        def cut(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] <= 0:
                raise PowerCut

        play.fleet.faults.power = cut
        try:
            play.rehearse()
        except PowerCut:
            cuts += 1
        else:
            break
        play.fleet.faults.power = None
        for _ in range(2):
            take_back(play.theatre, (play.instance("n2"), play.instance("n3")))
        play.assert_as_before()
        assert all(r.ok for r in play.rehearse())
    assert cuts > 40, "the cuts were not where they should be"


# ---- MySQL's statements, on a script: never met a real one here

MAIN = {"Channel_Name": "", "Replica_IO_Running": "Yes", "Source_Log_File": "binlog.000007", "Last_IO_Errno": 0}
TRIAL = {"Channel_Name": CHANNEL, "Replica_IO_Running": "Connecting", "Source_Log_File": "", "Last_IO_Errno": 0}
CONNECTED = TRIAL | {"Replica_IO_Running": "Yes", "Source_Log_File": "binlog.000001"}
HEIR = Address("10.0.0.9", 3306)


class Script:
    """A replica of MySQL: remembers statements, shows the channel's rows one after the other."""

    def __init__(self, *shown: dict[str, object], main: dict[str, object] | None = None) -> None:
        self.said: list[str] = []
        self.arguments: list[tuple[object, ...]] = []
        self._shown = list(shown)
        self._main = MAIN | (main or {})
        self._exists = False

    def ask(self, sql: str, *arguments: object) -> list[dict[str, object]]:
        if sql == "SHOW REPLICA STATUS":
            if not self._exists:
                return [self._main]
            return [self._main, self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]]
        self.said.append(sql.split(" TO ")[0] if sql.startswith("CHANGE") else sql)
        if arguments:
            self.said[-1] += " ..."
            self.arguments.append((sql, *arguments))
        self._exists = (self._exists or sql.startswith("CHANGE")) and not sql.startswith("RESET REPLICA ALL")
        return []


def try_mysql(script: Script) -> Attempt:
    return statements(script.ask, words_of(Flavour.MYSQL), HEIR, ReplicationAccount(Login("rep", "secret")), SECOND)


def test_mysql_the_channel_is_there_for_as_long_as_the_receiver_is_stopped() -> None:
    script = Script(TRIAL, CONNECTED)
    assert try_mysql(script).obstacle is None
    assert script.said[1:] == [
        "CHANGE REPLICATION SOURCE ...",
        "STOP REPLICA IO_THREAD FOR CHANNEL ''",
        "START REPLICA IO_THREAD FOR CHANNEL 'reaper_rehearsal'",
        "STOP REPLICA FOR CHANNEL 'reaper_rehearsal'",
        "START REPLICA IO_THREAD FOR CHANNEL ''",
        "RESET REPLICA ALL FOR CHANNEL 'reaper_rehearsal'",
    ]
    sql, *arguments = script.arguments[0]
    assert str(sql).endswith(" FOR CHANNEL 'reaper_rehearsal'")
    assert "SOURCE_AUTO_POSITION=1" in str(sql)
    assert "secret" not in str(sql)
    assert arguments == ["10.0.0.9", 3306, "rep", "secret"]


def test_mysql_the_channel_has_the_tls_of_the_default_one() -> None:
    tls = {"Source_SSL_Allowed": "Yes", "Source_SSL_CA_File": "/etc/ca.pem", "Source_SSL_Verify_Server_Cert": "No"}
    script = Script(CONNECTED, main=tls)
    assert try_mysql(script).transport is Transport.TLS
    sql, *arguments = script.arguments[0]
    assert "SOURCE_SSL=%s, SOURCE_SSL_CA=%s, SOURCE_AUTO_POSITION" in str(sql)
    assert arguments[4:] == [1, "/etc/ca.pem"]


def test_mysql_the_channel_has_the_tls_that_the_site_says() -> None:
    """What the default channel has besides is kept."""
    tls = {"Source_SSL_Allowed": "Yes", "Source_SSL_CA_File": "/old/ca.pem", "Source_SSL_Cipher": "AES256"}
    script = Script(CONNECTED, main=tls)
    account = ReplicationAccount(Login("rep", "secret"), ReplicationTls(ca_file=PurePosixPath("/etc/ca.pem")))
    attempt = statements(script.ask, words_of(Flavour.MYSQL), HEIR, account, SECOND)
    assert attempt.transport is Transport.TLS
    sql, *arguments = script.arguments[0]
    options = "SOURCE_SSL=%s, SOURCE_SSL_CA=%s, SOURCE_SSL_CIPHER=%s, SOURCE_SSL_VERIFY_SERVER_CERT=%s, SOURCE_AUTO"
    assert options in str(sql)
    assert arguments[4:] == [1, "/etc/ca.pem", "AES256", 1]


ERRORS = [
    pytest.param(1045, "Access denied for user", Obstacle.DENIED, id="1045 a wrong password"),
    pytest.param(2026, "SSL is required but the server doesn't support it", Obstacle.NO_TLS, id="2026 no TLS"),
    pytest.param(2026, "SSL connection error: certificate verify failed", Obstacle.OTHER, id="2026 a certificate"),
    pytest.param(2061, "Authentication requires secure connection.", Obstacle.NO_TLS, id="2061 no TLS and no key"),
    pytest.param(2003, "Can't connect to MySQL server", Obstacle.UNREACHABLE, id="2003 nothing listens"),
    pytest.param(13120, "COM_REGISTER_REPLICA failed", Obstacle.NO_GRANT, id="13120 a missing grant"),
    pytest.param(13117, "have equal MySQL server UUIDs", Obstacle.SAME_ID, id="13117 the same UUID"),
    pytest.param(13114, "Got fatal error 1236 from source: purged", Obstacle.BEHIND, id="13114 purged"),
    pytest.param(
        13114, "a replica with the same server_uuid/server_id as this replica has connected", Obstacle.SAME_ID,
        id="13114 because another one has the id",
    ),
    pytest.param(3032, "The server is currently in offline mode", Obstacle.OTHER, id="3032 offline"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "text", "obstacle"), ERRORS)
def test_mysql_errors_become_obstacles(number: int, text: str, obstacle: Obstacle) -> None:
    attempt = try_mysql(Script(TRIAL | {"Last_IO_Errno": number, "Last_IO_Error": f"{text}\n more"}))
    assert attempt.obstacle is obstacle
    assert attempt.said == f"{text} more (error {number})"


# ---- words


PAIR = Pair(sibling=iid("n2"), sibling_host="10.0.0.7", heir=iid("n4"), address=Address("10.0.0.9", 3306))
PLAIN, TLS = Transport.PLAIN, Transport.TLS
DENIED = [
    pytest.param(None, PLAIN, "could not be read", id="unreadable accounts: all causes are named"),
    pytest.param((), PLAIN, "there is no account 'rep' on n4", id="no account"),
    pytest.param((Account(host="10.1.%", transport=PLAIN),), PLAIN, "may not come from 10.0.0.7", id="another network"),
    pytest.param(
        (Account(host="10.1.0.0/255.255.0.0", transport=PLAIN),), PLAIN, "may not come", id="another network by mask"
    ),
    pytest.param((Account(host="10.0.0.0/255.255.0.0", transport=PLAIN),), PLAIN, "password", id="its network by mask"),
    pytest.param((Account(host="10.0.0._", transport=PLAIN),), PLAIN, "password", id="a pattern that fits"),
    pytest.param((Account(host="%", transport=TLS),), PLAIN, "must use TLS there", id="TLS required"),
    pytest.param((Account(host="%", transport=TLS),), TLS, "password", id="TLS required and used"),
    pytest.param(
        (Account(host="%", transport=TLS), Account(host="10.0.0.7", transport=PLAIN)), PLAIN, "password",
        id="one of two accounts takes it without TLS",
    ),
    pytest.param((Account(host="localhost", transport=PLAIN),), PLAIN, "may not come", id="localhost is not a network"),
]  # fmt: skip


@pytest.mark.parametrize(("accounts", "transport", "why"), DENIED)
def test_E21_a_rejected_account_is_told_with_its_likely_cause(
    accounts: tuple[Account, ...] | None, transport: Transport, why: str
) -> None:
    attempt = Attempt(obstacle=Obstacle.DENIED, said="Access denied (error 1045)", user="rep", transport=transport)
    sentence = told(PAIR, attempt, accounts)
    assert sentence.startswith("n2 cannot replicate from n4 (10.0.0.9:3306): ")
    assert why in sentence
    assert sentence.endswith("[Access denied (error 1045)]")


# ---- joining


FED = [
    pytest.param("0-1-100", "", None, id="nothing was purged"),
    pytest.param("0-1-100", "0-1-100", None, id="the log begins where the copy stands"),
    pytest.param("0-2-100", "0-1-50,0-2-100", None, id="the newest of the domain decides, not older masters"),
    pytest.param("0-1-99", "0-1-100", "0-1-99..0-1-100", id="one transaction is missing"),
    pytest.param("0-1-100", "0-1-100,7-1-3", "..7-1-3", id="a domain that the copy does not know"),
    pytest.param("", "0-1-4", "..0-1-4", id="an empty copy"),
]


@pytest.mark.parametrize(("position", "purged", "missing"), FED)
def test_E15_a_mariadb_source_feeds_a_copy_or_says_what_is_gone(
    position: str, purged: str, missing: str | None
) -> None:
    why = can_feed(gtids(position), gtids(purged))
    assert (why is None) is (missing is None)
    assert missing is None or f"({missing})" in (why or "")


def test_E15_a_mysql_source_feeds_a_copy_that_has_what_was_purged() -> None:
    purged = MysqlGtidSet.parse(f"{UUID}:1-50")
    assert can_feed(MysqlGtidSet.parse(f"{UUID}:1-60"), purged) is None
    assert f"{UUID}:41-50" in (can_feed(MysqlGtidSet.parse(f"{UUID}:1-40"), purged) or "")


def identity(name: str, server_id: int, server_uuid: str | None = None) -> Identity:
    return Identity(instance=iid(name), server_id=server_id, server_uuid=server_uuid)


def test_E14_an_identity_of_its_own_clashes_with_nobodys() -> None:
    others = (identity("n1", 1, UUID), identity("n2", 2), identity("n4", 4, "its own"))
    assert clashes(identity("n4", 4, "its own"), others, gtids("0-1-100,0-3-50")) is None


CLASHES = [
    pytest.param(identity("n4", 2), gtids(""), "server id 2, which n2 has", id="a member's id, dead or alive"),
    pytest.param(identity("n4", 4, UUID), gtids(""), "which n1 has (a copied auto.cnf)", id="a copied UUID"),
    pytest.param(identity("n4", 9), gtids("0-1-100,0-9-50"), "a former master had", id="E29 an id out of the history"),
    pytest.param(
        identity("n4", 4, UUID.replace("3e", "4f")), MysqlGtidSet.parse(f"{UUID.replace('3e', '4f')}:1-3"),
        "a former master had", id="a UUID out of the history",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("heir", "history", "why"), CLASHES)
def test_E14_E29_an_identity_that_anybody_had_is_told(heir: Identity, history: MysqlGtidSet, why: str) -> None:
    assert why in (clashes(heir, (identity("n1", 1, UUID), identity("n2", 2)), history) or "")
