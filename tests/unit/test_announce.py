"""Announcements reach people over bad channels, at once cost nobody anything, and never show a secret."""

import email
import email.policy
import json
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import peers
import pytest
from moto import mock_aws
from moto.sns.models import sns_backends
from pydantic import BaseModel, ConfigDict, ValidationError
from structlog.testing import CapturingLogger

from reaper.adapters.announce.channels import (
    Channel,
    CommandChannel,
    EmailChannel,
    LogChannel,
    Secret,
    SnsChannel,
    Tls,
    WebhookChannel,
)
from reaper.adapters.announce.dispatcher import Dispatcher
from reaper.adapters.announce.lane import Counts, Pace
from reaper.adapters.announce.settings import ChannelsSection
from reaper.domain.announcement import Announcement, Occurrence, Severity

SECRET = "T0PS3CRET"
QUICK = Pace(
    attempt_within=timedelta(seconds=peers.WAIT_S),
    first_pause=timedelta(milliseconds=1),
    longest_pause=timedelta(milliseconds=5),
    give_up_after=timedelta(seconds=peers.WAIT_S),
)
HOPELESS = replace(QUICK, give_up_after=timedelta(0))
BRIEF = timedelta(milliseconds=300)
AMPLE = timedelta(seconds=peers.WAIT_S)
TOLD = Announcement(
    what=Occurrence.ENDED,
    severity=Severity.CRITICAL,
    at=datetime(2026, 12, 1, 3, 0, tzinfo=UTC),
    title="lab: the master n1 is dead <!channel> & gone\nSubject: spoofed",
    details=("outage: 42 milliseconds", "heir: n4 \x1b[2J"),
    policy="nightly",
    cluster="lab",
    run="run-1",
)


@dataclass(frozen=True)
class Desk:
    """A dispatcher with the log it wrote."""

    dispatcher: Dispatcher
    log: CapturingLogger

    def lines(self) -> list[tuple[str, str, dict[str, object]]]:
        return [(call.method_name, call.args[0], call.kwargs) for call in self.log.calls]

    def events(self) -> list[str]:
        return [event for _, event, _ in self.lines()]

    def settled(self, name: str) -> Counts:
        """The counts of a channel when nothing waits any more."""
        peers.eventually(lambda: self.dispatcher.counts()[name].waiting == 0)
        return self.dispatcher.counts()[name]


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    made: list[Dispatcher] = []

    def make(*channels: Channel, pace: Pace = QUICK) -> Desk:
        log = CapturingLogger()
        made.append(Dispatcher(channels, log, pace))
        return Desk(made[-1], log)

    yield make
    for dispatcher in made:
        dispatcher.close(AMPLE)


def hook(url: str) -> WebhookChannel:
    return WebhookChannel(name="chat", url=Secret(said=url))


def numbered(number: int) -> Announcement:
    return replace(TOLD, title=f"number {number}", details=())


# --- each kind ---------------------------------------------------------------------------------------------------


def test_the_log_is_always_there_and_says_it_by_severity(desk: Callable[..., Desk]) -> None:
    site = desk()
    for severity in Severity:
        site.dispatcher.tell(("log",), replace(TOLD, severity=severity, policy=None, details=()))
    assert site.settled("log") == Counts(sent=3)
    assert [level for level, _, _ in site.lines()] == ["info", "warning", "critical"]
    assert site.lines()[0][2] == {"what": "ended", "title": TOLD.title, "cluster": "lab", "run": "run-1"}


def test_a_webhook_gets_the_text_that_slack_reads_and_nobody_is_mentioned(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http(200, b"ok")) as server:
        site = desk(hook(server.url(f"/services/{SECRET}")))
        site.dispatcher.tell(("chat",), TOLD)
        assert site.settled("chat") == Counts(sent=1)
    head, _, body = server.heard[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /services/T0PS3CRET HTTP/1.1\r\n")
    assert b"Content-Type: application/json" in head
    assert json.loads(body) == {
        "text": "[critical] lab: the master n1 is dead &lt;!channel&gt; &amp; gone Subject: spoofed\n"
        "outage: 42 milliseconds\nheir: n4 [2J\npolicy nightly, cluster lab, run run-1, 2026-12-01 03:00:00 UTC"
    }


def test_a_long_announcement_is_cut(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http(200)) as server:
        site = desk(hook(server.url()))
        site.dispatcher.tell(("chat",), replace(TOLD, title="t" * 10**6, details=("d" * 10**6,) * 1000))
        assert site.settled("chat") == Counts(sent=1)
    text = json.loads(server.heard[0].partition(b"\r\n\r\n")[2])["text"]
    assert len(text) < 25_000
    assert "... and 960 more lines" in text


def test_a_topic_is_published_to(desk: Callable[..., Desk]) -> None:
    with mock_aws():
        topic = boto3.client("sns", "eu-west-1").create_topic(Name="ops")["TopicArn"]
        site = desk(SnsChannel(name="topic", topic=topic))
        site.dispatcher.tell(("topic",), replace(TOLD, title="é" * 200))
        assert site.settled("topic") == Counts(sent=1)
        (published,) = sns_backends["123456789012"]["eu-west-1"].topics[topic].sent_notifications
    assert published[2] == "[critical] " + "?" * 89
    assert "outage: 42 milliseconds" in published[1]


def test_a_topic_that_does_not_exist_is_given_up(desk: Callable[..., Desk]) -> None:
    with mock_aws():
        site = desk(SnsChannel(name="topic", topic="arn:aws:sns:eu-west-1:123456789012:no"), pace=HOPELESS)
        site.dispatcher.tell(("topic",), TOLD)
        assert site.settled("topic") == Counts(failed=1)
    assert "NotFound" in str(site.lines())


def test_a_command_gets_json_and_none_of_reapers_secrets(
    desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAPER_STORE", SECRET)
    out = tmp_path / "out"
    site = desk(CommandChannel(name="pager", command=("/bin/sh", "-c", f"cat >{out}; env >>{out}")))
    site.dispatcher.tell(("pager",), TOLD)
    assert site.settled("pager") == Counts(sent=1)
    told, end = json.JSONDecoder().raw_decode(out.read_text())
    assert told == {
        "what": "ended",
        "severity": "critical",
        "at": "2026-12-01T03:00:00+00:00",
        "title": "lab: the master n1 is dead <!channel> & gone Subject: spoofed",
        "details": ["outage: 42 milliseconds", "heir: n4 [2J"],
        "policy": "nightly",
        "cluster": "lab",
        "run": "run-1",
    }  # fmt: skip - as it is read
    assert SECRET not in out.read_text()[end:]


def test_a_command_that_does_not_end_is_killed_with_its_children(desk: Callable[..., Desk], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = f'trap "" TERM; (trap "" TERM; sleep 1000) & echo $! $$ >{pids}; wait'
    channel = CommandChannel(name="pager", command=("/bin/sh", "-c", stubborn, SECRET))
    site = desk(channel, pace=replace(HOPELESS, attempt_within=timedelta(seconds=4)))
    site.dispatcher.tell(("pager",), TOLD)
    assert site.settled("pager") == Counts(failed=1)
    assert "sh did not end in time" in str(site.lines())
    assert SECRET not in str(site.lines())
    peers.eventually(lambda: peers.all_dead(pids))


# --- mail --------------------------------------------------------------------------------------------------------


def smtp(*, offers: str = "", login: int = 235, data: int = 250, tls: ssl.SSLContext | None = None) -> peers.Answer:
    """A mail server that takes one mail per connection. `offers`: extensions; `login`, `data`: its codes."""

    def answer(connection: socket.socket, me: peers.Peer) -> None:
        say = lambda text: connection.sendall(f"{text}\r\n".encode())  # noqa: E731 - short, and `connection` changes
        say("220 mail")
        reader = connection.makefile("rb")
        while line := reader.readline():
            match line.split(b" ")[0].strip().upper():
                case b"EHLO":
                    say("\r\n".join(["250-mail", *(f"250-{o}" for o in offers.split(",") if o), "250 8BITMIME"]))
                case b"STARTTLS" if tls is not None:
                    say("220 go")
                    connection = tls.wrap_socket(connection, server_side=True)
                    reader = connection.makefile("rb")
                case b"AUTH":
                    me.heard.append(line)
                    say(f"{login} login")
                case b"DATA":
                    say("354 go")
                    me.heard.append(b"".join(iter(reader.readline, b".\r\n")))
                    say(f"{data} {SECRET}")
                case _:
                    say("250 fine")

    return answer


def mail_to(port: int, tls: Tls = Tls.NONE, password: Secret | None = None) -> EmailChannel:
    user = None if password is None else "reaper"
    return EmailChannel(
        name="mail",
        host="127.0.0.1",
        port=port,
        tls=tls,
        sender="reaper@example.org",
        to=("ops@example.org", "dba@example.org"),
        user=user,
        password=password,
    )  # fmt: skip - one case is one line


def test_a_mail_arrives_with_one_subject_and_sent_again_it_is_the_same_mail(desk: Callable[..., Desk]) -> None:
    with peers.peer(smtp()) as server:
        site = desk(mail_to(server.port))
        for _ in range(2):
            site.dispatcher.tell(("mail",), TOLD)
        assert site.settled("mail") == Counts(sent=2)
    first, second = (email.message_from_bytes(m, policy=email.policy.default) for m in server.heard)
    assert first["Subject"] == "reaper: [critical] lab: the master n1 is dead <!channel> & gone Subject: spoofed"
    assert first.get_all("Subject") == [first["Subject"]]
    assert first["To"] == "ops@example.org, dba@example.org"
    assert first["Message-ID"] == second["Message-ID"]
    assert "outage: 42 milliseconds\nheir: n4 [2J\n" in first.get_content().replace("\r\n", "\n")


@pytest.mark.parametrize("tls", [Tls.STARTTLS, Tls.TLS])
def test_a_login_goes_over_a_connection_that_was_verified(
    desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: Tls
) -> None:
    public, context = peers.certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    (tmp_path / "password").write_text(f"{SECRET}\n")
    offers = "AUTH PLAIN,STARTTLS" if tls is Tls.STARTTLS else "AUTH PLAIN"
    with peers.peer(smtp(offers=offers, tls=context), tls=context if tls is Tls.TLS else None) as server:
        site = desk(mail_to(server.port, tls, Secret(file=tmp_path / "password")))
        site.dispatcher.tell(("mail",), TOLD)
        assert site.settled("mail") == Counts(sent=1)
    assert server.heard[0] == b"AUTH PLAIN AHJlYXBlcgBUMFBTM0NSRVQ=\r\n"


def _untrusted(tmp_path: Path) -> ssl.SSLContext:
    return peers.certificate(tmp_path, "127.0.0.1")[1]


MAIL_FAULTS = [
    pytest.param(
        "", 235, 250, Tls.STARTTLS, "does not offer what is needed", id="no STARTTLS, nothing goes in the clear"
    ),
    pytest.param("STARTTLS", 235, 250, Tls.STARTTLS, "certificate does not count", id="a certificate nobody knows"),
    pytest.param("", 235, 554, Tls.NONE, "answers 554", id="the mail is rejected"),
    pytest.param("", 235, 451, Tls.NONE, "answers 451", id="the mail is put off for ever"),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("offers", "login", "data", "tls", "said"), MAIL_FAULTS)
def test_a_mail_that_cannot_go_is_told_of_in_the_log(
    desk: Callable[..., Desk], tmp_path: Path, offers: str, login: int, data: int, tls: Tls, said: str
) -> None:
    with peers.peer(smtp(offers=offers, login=login, data=data, tls=_untrusted(tmp_path))) as server:
        site = desk(mail_to(server.port, tls), pace=HOPELESS)
        site.dispatcher.tell(("mail",), TOLD)
        assert site.settled("mail") == Counts(failed=1)
    assert said in str(site.lines())
    assert SECRET not in str(site.lines())
    assert len(server.heard) == (1 if tls is Tls.NONE else 0)


@pytest.mark.parametrize(("code", "tries"), [pytest.param(535, 1, id="rejected"), pytest.param(454, 2, id="put off")])
def test_a_rejected_login_is_given_up_and_one_that_is_put_off_tried_again(
    desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, tries: int
) -> None:
    public, context = peers.certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    monkeypatch.setenv("MAIL_PASSWORD", SECRET)
    with peers.peer(smtp(offers="AUTH PLAIN", login=code), tls=context) as server:
        site = desk(mail_to(server.port, Tls.TLS, Secret(env="MAIL_PASSWORD")))
        site.dispatcher.tell(("mail",), TOLD)
        peers.eventually(lambda: len(server.heard) >= tries)
        site.dispatcher.close(AMPLE)
        assert site.settled("mail") == Counts(failed=1)
    assert f"answers {code} to the login of reaper" in str(site.lines())
    assert SECRET not in str(site.lines())
    assert (len(server.heard) == 1) == (tries == 1)


# --- bad peers ---------------------------------------------------------------------------------------------------

BAD_PEERS = [
    pytest.param(peers.hangs, "did not answer in time", id="it never answers"),
    pytest.param(peers.drips(b"HTTP/1.1 2"), "did not answer in time", id="it drips"),
    pytest.param(peers.http(500), "answers 500", id="500"),
    pytest.param(peers.http(429), "answers 429", id="too many requests"),
    pytest.param(peers.http(302, b"", f"Location: http://127.0.0.1/{SECRET}"), "answers 302", id="a redirect"),
    pytest.param(peers.http(404, SECRET.encode()), "answers 404", id="no such webhook"),
    pytest.param(
        peers.raw(b"HTTP/1.1 503 No\r\nno header\r\n\r\n"), "answers 503", id="headers that make a library complain"
    ),
    pytest.param(peers.raw(b"HTTP/1.1 999999 \r\n\r\n"), "no whole HTTP answer", id="no status"),
    pytest.param(peers.raw(b"HTTP/1.1 500 No\r\n\r\n" + b"x" * 3_000_000), "answers 500", id="a huge answer"),
    pytest.param(peers.raw(b""), "no", id="it hangs up"),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("answer", "said"), BAD_PEERS)
def test_a_webhook_that_fails_is_told_of_without_its_secret(
    desk: Callable[..., Desk],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    answer: peers.Answer,
    said: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    with peers.peer(answer) as server:
        url = server.url(f"/services/{SECRET}?key={SECRET}", login=f"anna:{SECRET}@")
        site = desk(hook(url), pace=replace(HOPELESS, attempt_within=BRIEF))
        site.dispatcher.tell(("chat", "log"), TOLD)
        assert site.settled("chat") == Counts(failed=1)
        assert site.settled("log") == Counts(sent=1)
        faults = [facts for _, event, facts in site.lines() if event == "announcement not delivered"]
        assert len(faults) == 1
        assert said in str(faults) or "no answer within" in str(faults)
        assert faults[0]["channel"] == "chat"
    printed = capfd.readouterr()
    assert SECRET not in f"{site.log.calls} {caplog.text} {printed.out} {printed.err} {site.dispatcher.counts()}"


def test_a_refused_connection_names_the_host_only(desk: Callable[..., Desk]) -> None:
    port = peers.refusing_port()
    site = desk(hook(f"http://anna:{SECRET}@127.0.0.1:{port}/{SECRET}"), pace=HOPELESS)
    site.dispatcher.tell(("chat",), TOLD)
    assert site.settled("chat") == Counts(failed=1)
    assert f"http://127.0.0.1:{port}/…: no connection: Connection refused" in str(site.lines())
    assert SECRET not in str(site.log.calls)


def test_what_fails_for_a_while_arrives_in_order(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http_in_turn(500, 503, 429, 200)) as server:
        site = desk(hook(server.url()))
        for number in range(3):
            site.dispatcher.tell(("chat",), numbered(number))
        assert site.settled("chat") == Counts(sent=3)
    titles = [json.loads(h.partition(b"\r\n\r\n")[2])["text"].split("\n")[0][-1] for h in server.heard]
    assert titles == ["0", "0", "0", "0", "1", "2"]
    assert site.events() == []


def test_a_webhook_that_is_gone_is_not_asked_again(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http(404)) as server:
        site = desk(hook(server.url()))
        site.dispatcher.tell(("chat",), TOLD)
        assert site.settled("chat") == Counts(failed=1)
    assert len(server.heard) == 1


def test_a_fault_of_ours_does_not_end_the_channel(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError(SECRET)

    with peers.peer(peers.http(200)) as server:
        site = desk(hook(server.url()))
        with monkeypatch.context() as patch:
            patch.setattr("reaper.adapters.announce.senders._webhook", broken)
            site.dispatcher.tell(("chat",), TOLD)
            assert site.settled("chat") == Counts(failed=1)
        site.dispatcher.tell(("chat",), TOLD)
        assert site.settled("chat") == Counts(sent=1, failed=1)
    assert "unexpected KeyError" in str(site.lines())
    assert SECRET not in str(site.log.calls)


# --- never in the way --------------------------------------------------------------------------------------------


def test_telling_neither_waits_nor_raises_and_the_oldest_of_a_full_queue_are_dropped(
    desk: Callable[..., Desk],
) -> None:
    go_on = threading.Event()

    def answer(connection: socket.socket, me: peers.Peer) -> None:
        peers.read_request(connection, me)
        go_on.wait(peers.WAIT_S)
        connection.sendall(b"HTTP/1.1 404 No\r\n\r\n")

    with peers.peer(answer) as server:
        site = desk(hook(server.url(f"/{SECRET}")), pace=replace(QUICK, most_waiting=10))
        site.dispatcher.tell(("chat",), numbered(0))
        peers.eventually(lambda: len(server.heard) == 1)  # it hangs in the first one
        for number in range(1, 31):
            site.dispatcher.tell(("chat",), numbered(number))
        assert site.dispatcher.counts()["chat"] == Counts(dropped=20, waiting=11)
        go_on.set()
        assert site.settled("chat") == Counts(dropped=20, failed=11)
    drops = [facts for _, event, facts in site.lines() if event == "announcements dropped"]
    assert drops == [{"channel": "chat", "dropped": 20}]
    lost = [facts["title"] for _, event, facts in site.lines() if event == "announcement not delivered"]
    assert lost == [f"number {n}" for n in (0, *range(21, 31))]


def test_while_clients_wait_nothing_is_begun(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http(200)) as server:
        site = desk(hook(server.url()))
        with site.dispatcher.quiet():
            with site.dispatcher.quiet():
                site.dispatcher.tell(("chat", "log"), TOLD)
            time.sleep(0.2)  # what would be begun has the time to begin
            assert site.dispatcher.counts()["chat"] == Counts(waiting=1)
            assert (server.heard, site.events()) == ([], [])
        assert site.settled("chat") == Counts(sent=1)
        assert site.settled("log") == Counts(sent=1)


def test_the_end_delivers_what_waits_even_while_somebody_holds(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http(200)) as server:
        site = desk(hook(server.url()))
        site.dispatcher.hold()
        for number in range(5):
            site.dispatcher.tell(("chat",), numbered(number))
        site.dispatcher.close(AMPLE)
        assert site.dispatcher.counts()["chat"] == Counts(sent=5)
        site.dispatcher.tell(("chat",), TOLD)
        assert site.dispatcher.counts()["chat"] == Counts(sent=5, dropped=1)
    assert len(server.heard) == 5


def test_the_end_does_not_wait_for_a_channel_that_hangs_and_says_what_was_left(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.hangs) as server:
        site = desk(hook(server.url()))
        for number in range(3):
            site.dispatcher.tell(("chat",), numbered(number))
        peers.eventually(lambda: len(server.heard) == 1)
        site.dispatcher.close(timedelta(milliseconds=50))
        assert ("error", "announcements not delivered at the end", {"channel": "chat", "left": 3}) in site.lines()


def test_the_end_cuts_a_pause_short(desk: Callable[..., Desk]) -> None:
    with peers.peer(peers.http_in_turn(500, 200)) as server:
        hour = timedelta(hours=1)
        site = desk(hook(server.url()), pace=replace(QUICK, first_pause=hour, longest_pause=hour, give_up_after=hour))
        site.dispatcher.tell(("chat",), TOLD)
        peers.eventually(lambda: len(server.heard) == 1)
        site.dispatcher.close(AMPLE)
        assert site.dispatcher.counts()["chat"] == Counts(sent=1)


def test_a_channel_that_nobody_configured_is_said_in_the_log(desk: Callable[..., Desk]) -> None:
    site = desk()
    site.dispatcher.tell(("chta", "log"), TOLD)
    assert site.settled("log") == Counts(sent=1)
    assert "not told: reaper.yaml has no channel named chta" in str(site.lines())


def test_a_log_that_has_gone_stops_nothing() -> None:
    class Gone:
        def critical(self, *_: object, **__: object) -> None:
            raise BrokenPipeError

    dispatcher = Dispatcher((), Gone(), QUICK)  # type: ignore[arg-type]  # all that is called of it
    dispatcher.tell(("log",), TOLD)
    dispatcher.close(AMPLE)
    assert dispatcher.counts()["log"].waiting == 0


def test_the_threads_end_with_the_dispatcher(desk: Callable[..., Desk]) -> None:
    site = desk(hook("http://127.0.0.1:1/"))
    ours = [t for t in threading.enumerate() if t.name in ("announce-log", "announce-chat")]
    assert {t.daemon for t in ours} == {True}
    site.dispatcher.close(AMPLE)
    assert not [t for t in ours if t.is_alive()]


# --- settings ----------------------------------------------------------------------------------------------------


class Settings(BaseModel):
    """As reaper.yaml's settings use it."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    channels: ChannelsSection = ChannelsSection({})


GOOD_SETTINGS = {
    "chat": {"kind": "webhook", "url_env": "SLACK_URL"},
    "hook": {"kind": "webhook", "url_file": "/etc/reaper/hook"},
    "open": {"kind": "webhook", "url": "https://chat.example.org/x"},
    "mail": {
        "kind": "email",
        "host": "smtp.example.org",
        "from": "r@example.org",
        "to": ["o@example.org"],
        "user": "reaper",
        "password_env": "MAIL_PASSWORD",
    },
    "plain": {"kind": "email", "host": "h", "tls": "none", "from": "r@example.org", "to": ["o@example.org"]},
    "topic": {"kind": "sns", "topic": "arn:aws:sns:eu-west-1:123456789012:ops"},
    "pager": {"kind": "command", "command": ["/usr/bin/page", "--now"]},
    "log2": {"kind": "log"},
}  # fmt: skip - as it is read


def test_settings_become_channels_with_the_log_first() -> None:
    channels = Settings.model_validate({"channels": GOOD_SETTINGS}).channels.channels()
    mail = EmailChannel(
        name="mail",
        host="smtp.example.org",
        port=587,
        tls=Tls.STARTTLS,
        sender="r@example.org",
        to=("o@example.org",),
        user="reaper",
        password=Secret(env="MAIL_PASSWORD"),
    )  # fmt: skip - short
    assert channels == (
        LogChannel(),
        WebhookChannel(name="chat", url=Secret(env="SLACK_URL")),
        WebhookChannel(name="hook", url=Secret(file=Path("/etc/reaper/hook"))),
        WebhookChannel(name="open", url=Secret(said="https://chat.example.org/x")),
        mail,
        replace(mail, name="plain", host="h", port=25, tls=Tls.NONE, user=None, password=None),
        SnsChannel(name="topic", topic="arn:aws:sns:eu-west-1:123456789012:ops"),
        CommandChannel(name="pager", command=("/usr/bin/page", "--now")),
        LogChannel(name="log2"),
    )
    assert Settings().channels.channels() == (LogChannel(),)
    assert "chat.example.org" not in repr(channels)


def one(name: str = "chat", **section: object) -> dict[str, object]:
    return {name: section}


BAD_SETTINGS = [
    pytest.param(one(kind="webhook"), "say one of url, url_env and url_file", id="a webhook without an address"),
    pytest.param(one(kind="webhook", url_env="A", url_file="/a"), "say one of", id="two addresses"),
    pytest.param(one(kind="webhook", url=f"ftp://{SECRET}"), "has to be an address", id="another scheme"),
    pytest.param(one(kind="webhook", url=f"https://h:{SECRET}/"), "has to be an address", id="a port that is none"),
    pytest.param(one(kind="webhook", url=f"https://h/ {SECRET}"), "has to be an address", id="a space in it"),
    pytest.param(one(kind="webhook", url=[SECRET]), "valid string", id="a list"),
    pytest.param(one(kind="webhook", url_env=f"${SECRET}"), "should match", id="no variable's name"),
    pytest.param(one(kind="webhook", url_file="hook"), "an absolute path", id="a path from nowhere"),
    pytest.param(one(kind="webhook", url_env="A", ulr=SECRET), "ulr: Extra inputs", id="an unknown key"),
    pytest.param(one(kind="slack"), "does not match any of the expected tags", id="an unknown kind"),
    pytest.param(one(url=SECRET), "kind", id="no kind"),
    pytest.param(one("log", kind="log"), "log is always there", id="the log's own name"),
    pytest.param(one("Ops Chat", kind="log"), "lower case letters", id="a name with a space"),
    pytest.param(one(kind="email", host="h", to=["o@example.org"]), "from: Field required", id="nobody sends it"),
    pytest.param(one(kind="email", host="h", **{"from": "a@b", "to": []}), "at least 1 item", id="nobody gets it"),
    pytest.param(
        one(kind="email", host="h", **{"from": "a@b\nBcc: c@d", "to": ["a@b"]}),
        "a mail address",
        id="a header in an address",
    ),
    pytest.param(
        one(kind="email", host="h", user="u", **{"from": "a@b", "to": ["a@b"]}),
        "a login is user with",
        id="a user without a password",
    ),
    pytest.param(
        one(kind="email", host="h", password_env="P", **{"from": "a@b", "to": ["a@b"]}),
        "a login is user with",
        id="a password without a user",
    ),
    pytest.param(
        one(kind="email", host="h", password=SECRET, **{"from": "a@b", "to": ["a@b"]}),
        "password: Extra inputs",
        id="a password in the file",
    ),
    pytest.param(
        one(kind="email", host="h", tls="none", user="u", password_env="P", **{"from": "a@b", "to": ["a@b"]}),
        "only sent over TLS",
        id="a password in the clear",
    ),
    pytest.param(
        one(kind="email", host="h", port="25", **{"from": "a@b", "to": ["a@b"]}), "valid integer", id="a port in quotes"
    ),
    pytest.param(one(kind="sns", topic="ops"), "ARN of a standard topic", id="no ARN"),
    pytest.param(
        one(kind="sns", topic="arn:aws:sns:eu-west-1:123456789012:a.fifo"), "a standard topic", id="a FIFO topic"
    ),
    pytest.param(one(kind="command", command=[]), "at least 1 item", id="an empty command"),
    pytest.param(one(kind="command", command="page --now"), "valid list", id="a command that is a text"),
    pytest.param({f"c{n}": {"kind": "log"} for n in range(51)}, "at most 50 items", id="too many channels"),
    pytest.param([SECRET], "valid dict", id="no mapping"),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("channels", "said"), BAD_SETTINGS)
def test_a_mistake_in_the_settings_is_said_without_the_value(channels: object, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"channels": channels})
    words = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in caught.value.errors())
    assert said in words
    assert SECRET not in f"{words} {caught.value}"


def test_a_secret_that_is_not_there_is_found_at_the_start_and_again_when_it_is_needed(
    desk: Callable[..., Desk], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_URL", raising=False)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    secrets = {
        "a": Secret(env="NO_SUCH_URL"),
        "b": Secret(file=tmp_path / "absent"),
        "c": Secret(file=tmp_path / "binary"),
        "d": Secret(file=Path(os.devnull)),
    }
    site = desk(*(WebhookChannel(name=name, url=secret) for name, secret in secrets.items()))
    said = ["the variable NO_SUCH_URL is empty", "No such file", "is no text", "is empty or not there"]
    assert len(site.dispatcher.faults()) == 4
    for name, words, fault in zip(secrets, said, site.dispatcher.faults(), strict=True):
        assert fault.startswith(f"the channel {name}: ")
        assert words in fault
        site.dispatcher.tell((name,), TOLD)
        assert site.settled(name) == Counts(failed=1)
        assert words in str(site.lines()[-1])
