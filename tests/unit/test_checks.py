"""External checks: only a clear yes lets reaper act, whatever the other side does, and always in time (I10)."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import boto3
import peers
import pytest
from botocore.stub import Stubber
from builders import CLUSTER, iid
from moto import mock_aws
from moto.cloudwatch.models import cloudwatch_backends

from reaper.adapters import cloud
from reaper.adapters.checks.asker import Asker
from reaper.adapters.checks.prometheus import label_value
from reaper.adapters.patience import Deadline, LateError, Patience
from reaper.domain.checks import CloudwatchCheck, Comparison, ExternalCheck, HttpCheck, PrometheusCheck, ScriptCheck
from reaper.domain.errors import TryAgainError
from reaper.domain.plan import Plan, Replacement, Role
from reaper.domain.policy import Policy
from reaper.domain.verdict import GuardVerdict, Ruling

AMPLE = timedelta(seconds=peers.WAIT_S)  # for what answers
BRIEF = timedelta(milliseconds=400)  # for what does not
SECRET = "s3cret"


def plan(cluster: str = CLUSTER) -> Plan:
    return Plan(
        run="run-1",
        cluster=cluster,
        victim=iid("n1"),
        role=Role.MASTER,
        replacement=Replacement.BEFORE,
        snapshot_from=iid("n2"),
        size=3,
        policy=Policy(),
        why="a test asks",
        seed=None,
        steps=(),
        standing="nightly",
    )


def ask(check: ExternalCheck, cluster: str = CLUSTER) -> GuardVerdict:
    verdict = Asker().ask(check, plan(cluster))
    assert verdict.guard == f"check {check.name}"
    return verdict


def lag_below_5(url: str, query: str = "lag", within: timedelta = AMPLE) -> PrometheusCheck:
    return PrometheusCheck(name="lag", url=url, query=query, comparison=Comparison.BELOW, threshold=5, within=within)


def vector(*values: str, **more: object) -> dict[str, object]:
    result = [{"metric": {"instance": f"n{n}"}, "value": [1.0, value]} for n, value in enumerate(values, 1)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}, **more}


def of_kind(kind: str, result: object) -> dict[str, object]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


PROMETHEUS = [
    pytest.param(vector("4"), Ruling.GO, "the only sample is below 5", id="one sample passes"),
    pytest.param(vector("4", "-1e3"), Ruling.GO, "all 2 samples are below 5", id="all samples pass"),
    pytest.param(of_kind("scalar", [1.0, "4"]), Ruling.GO, "the only sample", id="a scalar is a sample"),
    pytest.param(vector("4", infos=["no counter"]), Ruling.GO, "below 5", id="an information is no warning"),
    pytest.param(
        vector("4", "7", "1"),
        Ruling.REFUSE,
        '1 of 3 samples not below 5, the furthest is {instance="n2"} = 7',
        id="one of three fails",
    ),
    pytest.param(vector("5"), Ruling.REFUSE, "not below 5", id="equal is not below"),
    pytest.param(vector(), Ruling.REFUSE, "there is no sample", id="no sample"),
    pytest.param(vector("4", "NaN"), Ruling.REFUSE, '{instance="n2"} = NaN is no number', id="NaN"),
    pytest.param(vector("-Inf"), Ruling.REFUSE, "-Inf is no number to compare", id="an infinite value"),
    pytest.param(vector("four"), Ruling.REFUSE, "four is no number", id="a word"),
    pytest.param(vector("4", warnings=["a store is down"]), Ruling.REFUSE, "a store is down", id="a partial answer"),
    pytest.param(vector("4", warnings="odd"), Ruling.REFUSE, "it warns: odd", id="a warning of another form"),
    pytest.param(of_kind("matrix", []), Ruling.REFUSE, "the result is a matrix", id="a range"),
    pytest.param(of_kind("string", [1.0, "4"]), Ruling.REFUSE, "the result is a string", id="a string"),
    pytest.param(
        of_kind("vector", [{"metric": {}, "histogram": [1.0, {}]}]), Ruling.REFUSE, "no single value", id="a histogram"
    ),
    pytest.param(
        of_kind("vector", [{"metric": {}, "value": [1.0, 4]}]),
        Ruling.REFUSE,
        "no value in the form",
        id="a bare number",
    ),
    pytest.param(of_kind("vector", {"metric": {}}), Ruling.REFUSE, "is a vector", id="no list of samples"),
    pytest.param({**vector("4"), "status": "partial"}, Ruling.REFUSE, "another form", id="an unknown status"),
    pytest.param([], Ruling.REFUSE, "another form", id="JSON of something else"),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("answer", "ruling", "said"), PROMETHEUS)
def test_prometheus_says_yes_only_if_every_sample_compares(answer: object, ruling: Ruling, said: str) -> None:
    with peers.peer(peers.as_json(answer)) as server:
        verdict = ask(lag_below_5(server.url()))
    assert (verdict.ruling, said in verdict.reason) == (ruling, True), verdict


def test_a_threshold_above_is_the_other_way_round() -> None:
    with peers.peer(peers.as_json(vector("4", "6"))) as server:
        verdict = ask(
            PrometheusCheck(
                name="spare", url=server.url(), query="x", comparison=Comparison.ABOVE, threshold=5, within=AMPLE
            )
        )  # fmt: skip - short
    assert verdict.ruling is Ruling.REFUSE
    assert verdict.evidence == ("query: x", '{instance="n1"} = 4', '{instance="n1"} = 4', '{instance="n2"} = 6')


BAD_HTTP = [
    pytest.param(peers.http(200, b"<html>"), "status 200 and no JSON", id="no JSON"),
    pytest.param(peers.http(200, b"[" * 200_000), "no JSON", id="JSON nested without end"),
    pytest.param(peers.http(200, b"\xff\xfe\xfa"), "no JSON", id="no text"),
    pytest.param(peers.http(200, b"1" * 1_000_001), "longer than 1000000 bytes", id="a huge answer"),
    pytest.param(peers.http(200, b"", "Content-Encoding: gzip"), "no JSON", id="an empty body said to be packed"),
    pytest.param(peers.http(500, json.dumps(vector("4")).encode()), "status 500", id="500 with a good body"),
    pytest.param(peers.http(302, b"", "Location: /other"), "status 302", id="a redirect"),
    pytest.param(
        peers.http(400, b'{"status": "error", "errorType": "bad_data", "error": "parse error at 1"}'),
        "status 400, parse error at 1",
        id="an error of the query",
    ),
    pytest.param(peers.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"), "no whole HTTP answer", id="cut short"),
    pytest.param(peers.raw(b"SSH-2.0-x\r\n"), "no whole HTTP answer", id="another protocol"),
    pytest.param(peers.raw(b""), "gave no clear answer", id="it hangs up"),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("answer", "said"), BAD_HTTP)
def test_what_is_no_answer_of_prometheus_refuses(answer: peers.Answer, said: str) -> None:
    with peers.peer(answer) as server:
        verdict = ask(lag_below_5(server.url()))
    assert (verdict.ruling, said in verdict.reason) == (Ruling.REFUSE, True), verdict


def test_the_query_is_asked_of_the_cluster_and_keeps_what_the_address_brings_along() -> None:
    with peers.peer(peers.as_json(vector("4"))) as server:
        assert ask(lag_below_5(server.url("/prom/?tenant=a"), 'lag{c="{cluster}"}')).ruling is Ruling.GO
    target = urlsplit(server.heard[0].split()[1].decode())
    asked = parse_qs(target.query)
    assert target.path == "/prom/api/v1/query"
    assert (asked["query"], asked["tenant"]) == (['lag{c="lab"}'], ["a"])


@pytest.mark.parametrize("quote", ['"', "'", "`"])
def test_a_clusters_name_cannot_end_the_string_it_stands_in(quote: str) -> None:
    value = label_value(f"a{quote} or up{quote}\\\n\u2028")
    assert quote not in value
    assert all(c.isprintable() for c in value)
    assert value.replace("\\x", "").count("\\") == 0
    assert label_value("shard-7.eu_a é") == "shard-7.eu_a é"


PAGES = [
    pytest.param(peers.http(200), 200, Ruling.GO, "answers 200", id="the status"),
    pytest.param(peers.http(204), 204, Ruling.GO, "answers 204", id="another status that was asked for"),
    pytest.param(peers.http(302, b"", "Location: /in"), 302, Ruling.GO, "answers 302", id="a wanted redirect"),
    pytest.param(peers.http(200, b"x" * 3_000_000), 200, Ruling.GO, "answers 200", id="a body that nobody reads"),
    pytest.param(peers.drips(b"HTTP/1.1 200 OK\r\n\r\n"), 200, Ruling.GO, "answers 200", id="a body that drips"),
    pytest.param(peers.http(500), 200, Ruling.REFUSE, "answers 500, wanted 200", id="500"),
    pytest.param(peers.http(200), 204, Ruling.REFUSE, "answers 200, wanted 204", id="200 where another was wanted"),
    pytest.param(peers.http(302, b"", "Location: /in"), 200, Ruling.REFUSE, "not followed", id="a redirect"),
    pytest.param(peers.raw(b"hello\r\n"), 200, Ruling.REFUSE, "did not answer", id="another protocol"),
    pytest.param(
        peers.raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200),
        200,
        Ruling.REFUSE,
        "did not answer",
        id="too many headers",
    ),
    pytest.param(
        peers.raw(b"HTTP/1.1 200 OK\r\na: " + b"b" * 100_000), 200, Ruling.REFUSE, "did not answer", id="a huge header"
    ),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("answer", "status", "ruling", "said"), PAGES)
def test_an_address_has_to_answer_with_the_status(answer: peers.Answer, status: int, ruling: Ruling, said: str) -> None:
    with peers.peer(answer) as server:
        verdict = ask(HttpCheck(name="health", url=server.url("/health"), status=status, within=AMPLE))
    assert (verdict.ruling, said in verdict.reason) == (ruling, True), verdict


SLOW = [
    pytest.param(peers.hangs, id="it never answers"),
    pytest.param(peers.drips(b""), id="it drips a status line"),
    pytest.param(peers.drips(b"HTTP/1.1 200 OK\r\nHeader: "), id="it drips a header"),
    pytest.param(peers.drips(b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"), id="it drips the body"),
]


@pytest.mark.parametrize("answer", SLOW)
def test_who_does_not_answer_in_time_refuses_and_the_connection_is_ended(answer: peers.Answer) -> None:
    with peers.peer(answer) as server:
        verdict = ask(lag_below_5(server.url(), within=BRIEF))
        assert verdict.ruling is Ruling.REFUSE
        assert "no answer within 400 milliseconds" in verdict.reason or "did not answer in time" in verdict.reason
        assert server.hung_up.wait(peers.WAIT_S), "the thread still waits for the server"


def test_what_a_call_returns_after_its_time_is_no_answer() -> None:
    """As of a server that drips headers: the status line alone came in time, and the connection was ended by us."""
    closed = threading.Event()

    def close() -> None:
        closed.set()
        time.sleep(0.2)  # the work ends before the one who ended it looks again

    def work(deadline: Deadline) -> str:
        with deadline.closing(close):
            closed.wait(peers.WAIT_S)
        return "yes"

    with pytest.raises(LateError):
        Patience().call(timedelta(milliseconds=1), work)


def test_a_name_server_that_hangs_refuses_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        go_on.wait(peers.WAIT_S)
        raise socket.gaierror("gone")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        verdict = ask(HttpCheck(name="health", url="http://db.example.org/", within=BRIEF))
    finally:
        go_on.set()
    assert (verdict.ruling, "no answer within" in verdict.reason) == (Ruling.REFUSE, True)


def test_calls_that_hang_are_bounded_in_number_and_the_bound_is_lifted_when_they_return() -> None:
    patience, go_on = Patience(most_hanging=2), threading.Event()
    for _ in range(2):
        with pytest.raises(LateError):
            patience.call(timedelta(milliseconds=1), lambda _: go_on.wait(peers.WAIT_S))
    with pytest.raises(TryAgainError, match="2 earlier calls still hang"):
        patience.call(AMPLE, lambda _: "never begun")
    go_on.set()
    peers.eventually(lambda: answers(patience))


def answers(patience: Patience) -> bool:
    try:
        return patience.call(AMPLE, lambda _: "yes") == "yes"
    except TryAgainError:
        return False


def test_a_refused_connection_says_so() -> None:
    verdict = ask(HttpCheck(name="health", url=f"http://127.0.0.1:{peers.refusing_port()}/", within=AMPLE))
    assert (verdict.ruling, "Connection refused" in verdict.reason) == (Ruling.REFUSE, True), verdict


@pytest.mark.parametrize("url", ["ftp://h/", "http://", "nothing", "http://[::1", "http://h:port/"])
def test_what_is_no_address_refuses(url: str) -> None:
    for check in (HttpCheck(name="health", url=url), lag_below_5(url)):
        assert ask(check).ruling is Ruling.REFUSE


def test_a_login_in_an_address_is_used_and_never_shown(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    odd = peers.raw(b"HTTP/1.1 500 No\r\nno header\r\n\r\n")  # headers that a library complains of in its log
    verdicts = []
    for answer in (peers.http(200), peers.http(500), odd, peers.raw(b"")):
        with peers.peer(answer) as server:
            url = server.url(f"/?token={SECRET}", login=f"anna:{SECRET}@")
            verdicts += [ask(HttpCheck(name="health", url=url, within=AMPLE)), ask(lag_below_5(url))]
            assert b"Authorization: Basic YW5uYTpzM2NyZXQ=" in server.heard[0]
    refused = f"http://anna:{SECRET}@127.0.0.1:{peers.refusing_port()}/"
    verdicts += [ask(HttpCheck(name="health", url=refused)), ask(lag_below_5(refused))]
    printed = capfd.readouterr()
    assert SECRET not in f"{verdicts} {caplog.text} {printed.out} {printed.err}"
    assert [v.ruling for v in verdicts].count(Ruling.GO) == 1


TRUST = [
    pytest.param("127.0.0.1", "127.0.0.1", Ruling.GO, "answers 200", id="a certificate that is trusted"),
    pytest.param("127.0.0.1", None, Ruling.REFUSE, "certificate does not count", id="one that is not"),
    pytest.param("db.example.org", "db.example.org", Ruling.REFUSE, "certificate does not count", id="another host's"),
]


@pytest.mark.parametrize(("of", "trusted", "ruling", "said"), TRUST)
def test_tls_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str, trusted: str | None, ruling: Ruling, said: str
) -> None:
    public, context = peers.certificate(tmp_path, of)
    if trusted is not None:
        monkeypatch.setenv("SSL_CERT_FILE", str(public))
    with peers.peer(peers.http(200), tls=context) as server:
        verdict = ask(HttpCheck(name="health", url=server.url("/", scheme="https"), within=AMPLE))
    assert (verdict.ruling, said in verdict.reason) == (ruling, True), verdict


def script(*command: str, within: timedelta = AMPLE) -> ScriptCheck:
    return ScriptCheck(name="ready", command=command, within=within)


SCRIPTS = [
    pytest.param(
        script("/bin/sh", "-c", "echo fine"), Ruling.GO, "ended with status 0", ("status 0", "fine"), id="status 0"
    ),
    pytest.param(script("sh", "-c", "exit 0"), Ruling.GO, "status 0", ("status 0",), id="a program found on the path"),
    pytest.param(
        script("/bin/sh", "-c", "echo no >&2; exit 3"),
        Ruling.REFUSE,
        "status 3, wanted status 0",
        ("status 3", "no"),
        id="another status",
    ),
    pytest.param(
        script("/bin/sh", "-c", "kill -9 $$"), Ruling.REFUSE, "ended by SIGKILL", ("ended by SIGKILL",), id="a signal"
    ),
    pytest.param(
        script("/bin/sh", "-c", "sleep 1000 & exit 0"),
        Ruling.GO,
        "status 0",
        ("status 0",),
        id="a child that keeps its output open",
    ),
    pytest.param(
        script("/no/such/program"), Ruling.REFUSE, "cannot be started: No such file", (), id="no such program"
    ),
    pytest.param(script("/etc/passwd"), Ruling.REFUSE, "cannot be started: Permission denied", (), id="no program"),
    pytest.param(script("/bin/echo", "a\0b"), Ruling.REFUSE, "a zero byte", (), id="a zero byte"),
    pytest.param(
        script("/bin/sh", "-c", "cat; exit 0"),
        Ruling.GO,
        "status 0",
        ("status 0",),
        id="it reads, and there is nothing",
    ),
    pytest.param(
        script("/bin/sh", "-c", r"printf '\033[2Jred\007\n\n  a\tb'"),
        Ruling.GO,
        "status 0",
        ("status 0", "[2Jred", "a b"),
        id="what a terminal would obey",
    ),
]  # fmt: skip - one case is one line


@pytest.mark.parametrize(("check", "ruling", "said", "evidence"), SCRIPTS)
def test_a_script_says_yes_with_status_0(
    check: ScriptCheck, ruling: Ruling, said: str, evidence: tuple[str, ...]
) -> None:
    verdict = ask(check)
    assert (verdict.ruling, said in verdict.reason) == (ruling, True), verdict
    assert verdict.evidence == evidence


def test_a_script_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    stubborn = f'trap "" TERM INT HUP; (trap "" TERM INT HUP; sleep 1000) & echo $! $$ >{pids}; echo hm; wait'
    verdict = ask(script("/bin/sh", "-c", stubborn, within=timedelta(seconds=4)))
    assert (verdict.ruling, "was killed" in verdict.reason) == (Ruling.REFUSE, True), verdict
    assert verdict.evidence == ("still running", "hm")
    peers.eventually(lambda: peers.all_dead(pids))


def test_a_script_that_floods_is_read_and_its_last_lines_are_kept() -> None:
    verdict = ask(script("/bin/sh", "-c", "yes | head -c 3000000; printf 'x%.0s' $(seq 900); echo; seq 20"))
    assert verdict.ruling is Ruling.GO
    assert verdict.evidence == ("status 0", *(str(n) for n in range(11, 21)))


def test_a_script_that_floods_for_ever_is_killed(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    verdict = ask(script("/bin/sh", "-c", f"echo $$ >{pid}; exec yes", within=timedelta(seconds=2)))
    assert verdict.ruling is Ruling.REFUSE
    peers.eventually(lambda: peers.all_dead(pid))


def test_a_script_is_told_whom_it_is_about_and_none_of_reapers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAPER_STORE", f"postgresql://u:{SECRET}@h/x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("LANG", "C.UTF-8")
    verdict = ask(script("env"))
    told = dict(line.split("=", 1) for line in verdict.evidence[1:])
    assert {name: told[name] for name in told if name.startswith("REAPER_")} == {
        "REAPER_CLUSTER": "lab",
        "REAPER_VICTIM": "memory:lab/n1",
        "REAPER_RUN": "run-1",
        "REAPER_POLICY": "nightly",
    }
    assert told["PATH"] == os.environ["PATH"]
    assert set(told) <= {"PATH", "HOME", "LANG", *(f"REAPER_{n}" for n in ("CLUSTER", "VICTIM", "RUN", "POLICY"))}


ALARMS = [
    pytest.param("cpu", "OK", None, Ruling.GO, "the alarm cpu is OK", id="OK"),
    pytest.param("cpu", "ALARM", None, Ruling.REFUSE, "the alarm cpu is ALARM, wanted OK", id="in alarm"),
    pytest.param("cpu", "INSUFFICIENT_DATA", None, Ruling.REFUSE, "is INSUFFICIENT_DATA, wanted OK", id="no data"),
    pytest.param("cp", "OK", None, Ruling.REFUSE, "there is no alarm cp in eu-west-1", id="no alarm of that name"),
    pytest.param("cpu", "OK", "eu-north-1", Ruling.REFUSE, "there is no alarm cpu in eu-north-1", id="another region"),
]


@pytest.mark.parametrize(("alarm", "state", "region", "ruling", "said"), ALARMS)
def test_a_cloudwatch_alarm_has_to_be_ok(alarm: str, state: str, region: str | None, ruling: Ruling, said: str) -> None:
    with mock_aws():
        _put_alarm(state)
        check = CloudwatchCheck(name="quiet", alarm=alarm, region=region, within=AMPLE)
        verdict = Asker("eu-west-1").ask(check, plan())
    assert (verdict.ruling, said in verdict.reason) == (ruling, True), verdict
    if alarm == "cpu" and region is None:
        assert any(line.startswith(f"state {state} since") for line in verdict.evidence)
        assert "reason: because" in verdict.evidence


@pytest.mark.parametrize(("state", "ruling"), [("OK", Ruling.GO), ("ALARM", Ruling.REFUSE)])
def test_a_composite_alarm_counts_as_well(state: str, ruling: Ruling) -> None:
    """The double keeps composite alarms and has no call that makes one."""
    with mock_aws():
        _put_alarm(state)
        cloudwatch_backends["123456789012"]["eu-west-1"].alarms["cpu"].rule = "ALARM(other)"
        found = boto3.client("cloudwatch", "eu-west-1").describe_alarms(AlarmTypes=["CompositeAlarm"])
        assert [len(found[kind]) for kind in ("MetricAlarms", "CompositeAlarms")] == [0, 1]
        verdict = Asker("eu-west-1").ask(CloudwatchCheck(name="quiet", alarm="cpu", within=AMPLE), plan())
    assert verdict.ruling is ruling, verdict


@pytest.mark.parametrize("evaluation", ["PARTIAL_DATA", "EVALUATION_ERROR", "EVALUATION_FAILURE"])
def test_an_alarm_that_could_not_be_evaluated_well_is_no_yes(evaluation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = boto3.client("cloudwatch", "eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    alarm = {"AlarmName": "cpu", "StateValue": "OK", "EvaluationState": evaluation}
    monkeypatch.setattr(cloud, "client", lambda *_: aws)
    with Stubber(aws) as stub:
        stub.add_response("describe_alarms", {"MetricAlarms": [alarm], "CompositeAlarms": []})
        verdict = Asker().ask(CloudwatchCheck(name="quiet", alarm="cpu", within=AMPLE), plan())
    assert (verdict.ruling, evaluation in verdict.reason) == (Ruling.REFUSE, True), verdict


def _put_alarm(state: str) -> None:
    aws = boto3.client("cloudwatch", "eu-west-1")
    aws.put_metric_alarm(
        AlarmName="cpu",
        MetricName="m",
        Namespace="n",
        Period=60,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanThreshold",
        Statistic="Sum",
    )  # fmt: skip - short
    aws.set_alarm_state(AlarmName="cpu", StateValue=state, StateReason="because")


def test_aws_that_cannot_be_reached_refuses_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with peers.peer(peers.hangs) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url())
        hung = Asker("eu-west-1").ask(CloudwatchCheck(name="quiet", alarm="cpu", within=timedelta(seconds=2)), plan())
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{peers.refusing_port()}")
    away = Asker("eu-west-1").ask(CloudwatchCheck(name="quiet", alarm="cpu", within=AMPLE), plan())
    assert [hung.ruling, away.ruling] == [Ruling.REFUSE] * 2
    assert "no answer within" in hung.reason or "cannot be read" in hung.reason
    assert "cannot be read" in away.reason
    assert SECRET not in f"{hung} {away}"


def test_the_other_checks_do_not_import_boto3() -> None:
    code = """
import sys
from types import SimpleNamespace
from reaper.adapters.checks.asker import Asker
from reaper.domain.checks import Comparison, HttpCheck, PrometheusCheck, ScriptCheck
plan = SimpleNamespace(cluster="lab", victim="n1", run="run-1", standing=None)
url = "http://127.0.0.1:1"
lag = PrometheusCheck(name="b", url=url, query="x", comparison=Comparison.BELOW, threshold=1)
for check in (HttpCheck(name="a", url=url), lag, ScriptCheck(name="c", command=("true",))):
    print(Asker().ask(check, plan).ruling)
print(sorted({"boto3", "botocore", "moto"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=peers.WAIT_S
    )
    assert done.stdout.split() == ["refuse", "refuse", "go", "[]"]
