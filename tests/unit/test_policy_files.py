"""Policy files: what is right is read, and what is wrong is explained with its place, all at once."""

import json
import tracemalloc
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from malformed import BY_HAND, GOOD, generated
from typer.testing import CliRunner

from reaper.adapters.policies.explain import explain
from reaper.adapters.policies.reader import MOST_MISTAKES, Mistake, files_in, load, read
from reaper.adapters.policies.schema import json_schema
from reaper.cli.policies import policies_app
from reaper.domain.almanac import HolidayRegion, parse_windows
from reaper.domain.checks import Comparison, PrometheusCheck, ScriptCheck
from reaper.domain.errors import UsageError
from reaper.domain.groups import Draining, Floor, GroupPolicy, Order
from reaper.domain.plan import Replacement
from reaper.domain.policy import FailoverBy, KillMode, Loss, Reference
from reaper.domain.standing import Leash, Limit, Scope, StandingPolicy, What
from reaper.domain.warmth import Otherwise, WarmthGate
from reaper.planner.orders import limits_of

SHIPPED = files_in(Path(__file__).parents[2] / "policies")
S, M, H = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINIMAL = "name: a\ntarget: {clusters: '*'}\n"


def policy_in(text: str) -> StandingPolicy:
    found = read(text.encode(), "p.yaml")
    assert isinstance(found, StandingPolicy), found
    return found


def mistakes_in(text: str | bytes) -> tuple[Mistake, ...]:
    found = read(text.encode() if isinstance(text, str) else text, "p.yaml")
    assert isinstance(found, tuple), "the file has no mistake"
    return found


def test_the_sketch_of_the_design_is_valid_as_it_is_written() -> None:
    policy = policy_in(GOOD)
    run = policy.limits_of_run
    assert (policy.name, policy.leash) == ("regenerate-shards", Leash.ON)
    assert policy.target.tags == (("tier", "mysql"),)
    assert policy.schedule is not None
    assert (policy.schedule.cron.text, policy.schedule.zone, policy.schedule.jitter) == (
        "0 3 * * mon-fri",
        "Asia/Tokyo",
        20 * M,
    )
    assert policy.calendar.zone == "Asia/Tokyo"
    assert policy.calendar.holidays == (HolidayRegion(country="JP"),)
    assert policy.calendar.freezes[0].begins == datetime(2026, 12, 23, 15, tzinfo=UTC)
    assert policy.calendar.freezes[0].ends == datetime(2027, 1, 3, 15, tzinfo=UTC)  # the last day is frozen too
    assert (policy.due.max_age, policy.due.stale_image, policy.due.probability) == (24 * H, True, 1.0)
    assert (policy.replace.what, policy.replace.when) == (What.MASTER, Replacement.BEFORE)
    assert (policy.replace.snapshot_reuse_within, policy.replace.snapshot_keep) == (20 * H, 7)
    assert policy.limits.in_flight == (
        Limit(scope=Scope.SHARD_GROUP, count=2, percent=5.0),
        Limit(scope=Scope.ZONE, count=2, percent=5.0),
    )
    assert policy.cool_down == 12 * H
    assert (run.mode, run.failover, run.loss) == (KillMode.CRASH, FailoverBy.REAPER, Loss.FORBIDDEN)
    assert (run.outage_budget, run.max_lag, run.min_copies) == (2 * S, 5 * S, 3)
    assert (run.max_transaction_age, run.quarantine) == (30 * S, 2 * H)


def test_what_a_replacement_has_to_prove_is_in_the_limits_of_a_run() -> None:
    text = MINIMAL + (
        "verify: {against: master, share: 0.25, within: 10m}\n"
        "warm: {gate: 0.8, within: 5m, otherwise: go, factor: 3, canaries: ['SELECT v FROM app.t WHERE k = 7']}\n"
        "replace: {snapshot: {reuse_within: 20h, keep: 7}}\n"
        "budgets: {time_to_normal: 30s}\n"
    )
    run = limits_of(policy_in(text))
    assert (run.compare_with, run.compare_share, run.compare_within) == (Reference.MASTER, 0.25, 10 * M)
    assert run.warm == WarmthGate(
        gate=0.8,
        within=5 * M,
        otherwise=Otherwise.GO,
        factor=3,
        canaries=("SELECT v FROM app.t WHERE k = 7",),
    )
    assert (run.snapshot_reuse_within, run.snapshot_keep, run.normal_budget) == (20 * H, 7, 30 * S)


def test_a_canary_that_could_do_harm_is_a_mistake() -> None:
    (mistake,) = mistakes_in(MINIMAL + "warm: {canaries: ['SELECT SLEEP(1)']}\n")
    assert "is no canary" in str(mistake)


def test_a_policy_that_says_nothing_is_leashed_and_takes_one_at_a_time() -> None:
    policy = policy_in(MINIMAL)
    assert policy.leash is Leash.ON
    assert policy.schedule is None
    assert policy.limits.in_flight == (Limit(scope=Scope.POLICY, count=1),)
    assert policy.limits_of_run.loss is Loss.FORBIDDEN
    assert policy.budgets.failures_in_a_row == 1


def test_every_section_arrives_in_the_policy() -> None:
    policy = policy_in("""\
name: full
target:
  clusters: {name: [db-*], exclude: db-9, tag: {tier: mysql}}
  instances: {name: n1}
  opt_in: {chaos: "yes"}
calendar:
  timezone: Europe/Berlin
  windows: [mon-thu 09:00-16:00, fri 09:00-12:00]
  freeze: [{from: 2026-03-28, to: 2026-03-29, reason: a}, {from: 2026-10-25 02:30, to: 2026-10-25 02:45, reason: b}]
  freeze_files: freeze.ics
  holidays: [DE-BY, {country: US, subdivision: CA}, NO]
  maintenance: [{clusters: db-7, windows: sun 02:00-05:00}]
  maintenance_tag: window
due: {at_most: 3}
failover: {by: observe, within: 20s}
replace: {when: none}
guards:
  semi_sync: loss-accepted
  external:
    - {kind: prometheus, name: lag, url: "http://127.0.0.1:9090", query: "max(lag)", below: 3}
    - {kind: script, name: ask, command: [/usr/bin/ask, now], within: 2s}
radius: {fleet: {percent: 5}, zone: {count: 1}}
budgets: {time_to_normal: 5m, failures_in_a_row: 2}
waivers: [{guard: parity, difference: sql_mode, owner: ada, expires: 2026-03-02, reason: migration}]
approval: {by: [ada, bob], within: 10m}
announce: {to: ops, before: 30m}
schedule: {cron: "0 3 * * *", timezone: UTC}
""")
    assert policy.target.excluded == ("db-9",)
    assert policy.calendar.windows == parse_windows("mon-thu 09:00-16:00, fri 09:00-12:00")
    spring, autumn = policy.calendar.freezes
    assert spring.ends - spring.begins == 47 * H  # one of the days has 23 hours
    assert autumn.ends - autumn.begins == H + 15 * M  # both times that the clock shows them
    assert policy.calendar.freeze_files == ("freeze.ics",)
    assert [str(r) for r in policy.calendar.holidays] == ["DE-BY", "US-CA", "NO"]
    assert policy.due.at_most == 3
    assert policy.limits_of_run.outage_budget == 20 * S  # observe: the deadline, where nothing else is said
    assert policy.limits_of_run.loss is Loss.ACCEPTED
    prometheus, script = policy.checks
    assert isinstance(prometheus, PrometheusCheck)
    assert (prometheus.comparison, prometheus.threshold) == (Comparison.BELOW, 3)
    assert isinstance(script, ScriptCheck)
    assert (script.command, script.within) == (("/usr/bin/ask", "now"), 2 * S)
    assert policy.limits.selection == (Limit(scope=Scope.FLEET, percent=5), Limit(scope=Scope.ZONE, count=1))
    assert policy.waivers[0].holds(datetime(2026, 3, 2, 23, 59, tzinfo=UTC))
    assert not policy.waivers[0].holds(datetime(2026, 3, 3, tzinfo=UTC))
    assert policy.waivers[0].expires == date(2026, 3, 2)
    assert policy.approval is not None
    assert policy.approval.by == ("ada", "bob")
    assert (policy.announce.to, policy.announce.before) == (("ops",), 30 * M)


MISTAKES = [
    ("leash: on", "leash: yes", "2:8: leash: 'yes' is not one of on, off"),
    ("leash: on", "leash: true", "2:8: leash: True is not one of on, off"),
    ("leash: on", "leesh: on", "2:1: leesh: is no key here; did you mean leash?"),
    ("jitter: 20m", "jitter: 20", "4:67: schedule.jitter: 20 is no duration: write for example 250ms"),
    ("jitter: 20m", "jitter: 13h", "4:67: schedule.jitter: has to be 12h at the most"),
    ("Asia/Tokyo", "Asia/Tokio", "did you mean Asia/Tokyo?"),
    ("0 3 * * mon-fri", "0 25 * * mon-fri", "4:18: schedule.cron: '25' is out of range: hour is 0 to 23"),
    ("cron: ", "crom: ", "4:12: schedule.crom: is no key here; did you mean cron?"),
    ("cron: ", "crom: ", "4:1: schedule.cron: is missing"),
    ("holidays: JP", "holidays: JX", "the holidays of 'JX' are not known"),
    ("holidays: JP", "holidays: US-XX", "US has no subdivision 'XX'"),
    ("to: 2027-01-03", "to: 2026-01-03", "it ends on 2026-01-03, before it begins on 2026-12-24"),
    ("to: 2027-01-03", "to: 2027-02-29", "'2027-02-29' is no day or time"),
    ("reason: year end", "why: year end", "calendar.freeze[0].why: is no key here"),
    ("reason: year end", "why: year end", "calendar.freeze[0].reason: is missing"),
    ("probability: 1.0", "probability: 1.5", "due.probability: 1.5: it should be less than or equal to 1"),
    ("probability: 1.0", "probability: 0.5, mean_time_between: 7d", "say the same thing twice"),
    ("probability: 1.0", "mean_time_between: 7d, min_gap: 7d", "min_gap has to be less"),
    ("stale_image: true", "stale_image: yes", "due.stale_image: has to be true or false, not 'yes'"),
    ("replicas: 1", "replicas: 0", "replace.replicas: 0: it should be greater than or equal to 1"),
    ("what: master", "what: mater", "did you mean master?"),
    ("mode: crash", "mode: sigkill", "is not one of crash, terminate, freeze, drain"),
    ("by: reaper", "by: observe", "7:1: replace.when: cannot be before with failover.by: observe"),
    ("lost_writes: 0", "lost_writes: 3", "10:43: failover.lost_writes: allows lost writes: say so in words too"),
    ("semi_sync: required", "semi_sync: maybe", "guards.semi_sync: 'maybe' is not 'required' or 'loss-accepted'"),
    (
        "per: [shard_group, zone]",
        "per: [shard]",
        "guards.per[0]: 'shard' is not one of fleet, policy, shard_group, zone",
    ),
    ("min_copies: 3", 'min_copies: "3"', "guards.min_copies: has to be a whole number, not '3'"),
    ("min_copies: 3", "min_copies: 2.5", "guards.min_copies: has to be a whole number, not 2.5"),
    ("{tier: mysql}", "{tier: 7}", "target.clusters.tag.tier: has to be text, not 7: quote it"),
    ("{tag: {tier: mysql}}", "{tags: {tier: mysql}}", "did you mean tag?; allowed: name, exclude, tag"),
    ("name: regenerate-shards", "name: Regenerate Shards", "1:7: name: 'Regenerate Shards' does not have the form"),
    ("name: regenerate-shards", "description: x", "1:1: name: is missing"),
    ("kill: {mode: crash}", "kill: crash", "kill: has to be a mapping (key: value), not 'crash'"),
    ("kill: {mode: crash}", "warm: {}", "is there twice: the first time in line 8"),
    ("retire: {", "guards: {", "13:1: guards: is there twice: the first time in line 11"),
    ("\nleash", "\n\tleash", "is indented with a tab: YAML wants spaces"),
]


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES, ids=[f"{m[1].strip()} -> {m[2][:40]}" for m in MISTAKES])
def test_a_mistake_has_its_place_its_field_and_what_is_allowed(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in "\n".join(map(str, mistakes_in(GOOD.replace(old, new, 1))))


@pytest.mark.parametrize(
    ("external", "expected"),
    [
        ("{kind: http, name: a, ulr: x}", "guards.external[0].ulr: is no key here; did you mean url?"),
        ("{kind: ftp, name: a}", "guards.external[0]: kind has to be one of prometheus, cloudwatch, http, script"),
        ("{name: a}", "guards.external[0]: kind has to be one of prometheus, cloudwatch, http, script"),
        ("{kind: prometheus, name: a, url: 'http://h', query: q}", "say either below or above"),
        ("{kind: http, name: a, url: 'file:///etc/passwd'}", "does not have the form"),
        (
            "{kind: cloudwatch, name: a, alarm: x}, {kind: cloudwatch, name: a, alarm: y}",
            "3:85: guards.external[1].name: a is the name of two checks",
        ),
    ],
)
def test_a_mistake_in_an_external_check(external: str, expected: str) -> None:
    assert expected in "\n".join(map(str, mistakes_in(f"{MINIMAL}guards: {{external: [{external}]}}\n")))


def test_all_mistakes_come_at_once_in_the_order_of_the_file() -> None:
    """Those of single values, of the text itself, and of whole sections that contradict each other."""
    found = mistakes_in("""\
name: A
leash: on
leash: off
target: {clusters: {tags: {a: b}}}
due: {max_age: 1 day, stale: true}
kill: {mode: hard}
failover: {lost_writes: 1}
approvals: {}
""")
    assert [(m.line, m.field) for m in found] == [
        (1, "name"),
        (3, "leash"),
        (4, "target.clusters.tags"),
        (5, "due.max_age"),
        (5, "due.stale"),
        (6, "kill.mode"),
        (7, "failover.lost_writes"),
        (8, "approvals"),
    ]


@pytest.mark.parametrize("content", BY_HAND.values(), ids=BY_HAND.keys())
def test_a_file_that_is_wrong_by_hand(content: bytes) -> None:
    check_mistakes(content)


GENERATED = generated(200, seed=20261124)


@pytest.mark.parametrize(("content", "word"), [g[1:] for g in GENERATED], ids=[name for name, *_ in GENERATED])
def test_a_file_that_is_wrong_by_the_generator(content: bytes, word: str) -> None:
    assert word in "\n".join(map(str, check_mistakes(content)))


def check_mistakes(content: bytes) -> tuple[Mistake, ...]:
    """Clear errors, a bounded number of bounded length, each with a place that is in the file."""
    found = mistakes_in(content)
    lines = content.count(b"\n") + 1
    assert 1 <= len(found) <= MOST_MISTAKES + 1
    for mistake in found:
        assert 1 <= mistake.line <= lines
        assert mistake.column >= 1
        assert mistake.what
        assert len(str(mistake)) < 800
        assert "Traceback" not in mistake.what
        assert "\n" not in str(mistake)
    return found


@pytest.mark.parametrize("name", ["bomb", "deep", "many", "noise"])
def test_a_bomb_does_not_grow_in_memory(name: str) -> None:
    """An anchors bomb of 10^20 values, forty thousand brackets, 9000 unknown keys: all within 40 MB."""
    tracemalloc.start()
    try:
        for kind, content, _ in GENERATED:
            if kind.startswith(name):
                mistakes_in(content)
        assert tracemalloc.get_traced_memory()[1] < 40 * 1024 * 1024
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=400))
def test_no_bytes_make_the_reader_raise(content: bytes) -> None:
    assert isinstance(read(content, "p.yaml"), tuple)


@given(st.text(alphabet=" \n\t:-?{}[],&*!|>'\"%@`#ab0~<.", max_size=120))
def test_no_text_makes_the_reader_raise(content: str) -> None:
    assert isinstance(read(content.encode(), "p.yaml"), tuple)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(sorted(json_schema()["properties"])), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_no_values_under_known_keys_make_the_reader_raise(value: object) -> None:
    found = read(
        json.dumps({"name": "a", "target": {"clusters": "x"}, "guards": value, "due": value}).encode(), "p.yaml"
    )
    assert isinstance(found, tuple | StandingPolicy)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_a_shipped_policy_is_valid_leashed_and_opens_with_what_dies_when_and_how_to_stop_it(file: Path) -> None:
    text = file.read_text()
    policy = policy_in(text)
    opening = text[: text.index("name:")]
    assert policy.name == file.stem
    assert policy.leash is Leash.ON
    assert all(word in opening for word in ("# What dies:", "# When:", "# Stop it:"))


def test_the_shipped_policies_are_those_that_are_promised() -> None:
    policies = {f.stem: policy_in(f.read_text()) for f in SHIPPED}
    nightly, old = policies["regenerate-masters"], policies["replace-old-replicas"]
    random, game_day, graded = (
        policies["random-master-kill"],
        policies["game-day"],
        policies["grade-failover-manager"],
    )
    assert nightly.replace.what is What.MASTER
    assert nightly.schedule is not None
    assert old.replace.what is What.REPLICA
    assert old.due.max_age == timedelta(days=14)
    assert random.due.mean_time_between == timedelta(days=14)
    assert random.calendar.windows
    assert game_day.schedule is None
    assert graded.limits_of_run.failover is FailoverBy.OBSERVE


def as_json_values(text: str) -> object:
    """The file as an editor sees it: YAML 1.2, in which `on` is a word."""
    value = yaml.load(text, Loader=yaml.BaseLoader)

    def typed(part: object) -> object:
        if isinstance(part, dict):
            return {k: typed(v) for k, v in part.items()}
        if isinstance(part, list):
            return [typed(v) for v in part]
        try:
            return json.loads(str(part))
        except ValueError:
            return part

    return typed(value)


@pytest.mark.parametrize("text", [GOOD, *(f.read_text() for f in SHIPPED)], ids=["sketch", *(f.stem for f in SHIPPED)])
def test_the_schema_accepts_what_the_reader_accepts(text: str) -> None:
    jsonschema.validate(as_json_values(text), json_schema(), cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("leash: on", "leesh: on"),
        ("mode: crash", "mode: hard"),
        ("jitter: 20m", "jitter: 20"),
        ("gate: 0.9", "gate: 2"),
    ],
)
def test_the_schema_refuses_what_an_editor_can_see(old: str, new: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(as_json_values(GOOD.replace(old, new)), json_schema())


def test_an_explanation_says_what_the_policy_does() -> None:
    said = " ".join(s.says for s in explain(policy_in(GOOD), NOW))
    for phrase in (
        "Leashed: it decides and reports, and touches nothing.",
        "The master of each cluster of the provider local with tier=mysql on all members.",
        "Fires at '0 3 * * mon-fri'",
        "on the clocks of Asia/Tokyo, up to 20 minutes after it",
        "Not on public holidays of JP.",
        "Frozen from 2026-12-24 00:00 to 2027-01-04 00:00 Asia/Tokyo: year end.",
        "Due when older than 1 day or of an image that is not the newest.",
        "The victim is crashed",
        "2 instances and 5 % of each shard group",
        "kept for 2 hours, then deleted",
    ):
        assert phrase in said


def test_an_explanation_shouts_what_is_dangerous() -> None:
    text = GOOD.replace("leash: on ", "leash: off").replace("semi_sync: required", "semi_sync: loss-accepted")
    text += "waivers: [{guard: parity, owner: ada, expires: 2026-01-01, reason: migration}]\n"
    said = " ".join(s.says for s in explain(policy_in(text), NOW))
    assert "Armed: it kills." in said
    assert "LOSS IS ACCEPTED" in said
    assert "EXPIRED on 2026-01-01" in said


# ---- the commands


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of policies, named by the environment."""
    monkeypatch.setenv("REAPER_POLICIES", str(tmp_path))
    return tmp_path


def test_validate_takes_every_policy_of_the_directory(directory: Path) -> None:
    (directory / "a.yaml").write_text(GOOD)
    (directory / "notes.txt").write_text("no policy")
    result = CliRunner().invoke(policies_app, ["validate"])
    assert (result.exit_code, result.stdout) == (0, "1 without mistakes: regenerate-shards (on)\n")


def test_validate_prints_every_mistake_and_ends_with_status_2(directory: Path) -> None:
    (directory / "a.yaml").write_text(GOOD)
    (directory / "b.yaml").write_text(GOOD.replace("mode: crash", "mode: hard"))
    (directory / "c.yaml").write_text(GOOD)
    result = CliRunner().invoke(policies_app, ["validate"])
    assert result.exit_code == 2
    assert f"{directory}/b.yaml:9:14: kill.mode: 'hard' is not one of" in result.stdout
    assert f"{directory}/c.yaml:1:1: name: regenerate-shards is the name of the policy in" in result.stdout
    as_json = CliRunner().invoke(policies_app, ["validate", "--output", "json"])
    assert [(m["line"], m["field"]) for m in json.loads(as_json.stdout)["mistakes"]] == [(9, "kill.mode"), (1, "name")]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("holidays: JP", "freeze_files: [no.ics]"), "calendar.freeze_files[0]: the freezes in"),
        (("holidays: JP", "windows: mon-fri 09:00-17:00"), "schedule.cron: never fires within five years"),
    ],
    ids=["a file that is not there", "a calendar that is never open when it fires"],
)
def test_validate_finds_what_only_the_machine_can_tell(directory: Path, change: tuple[str, str], expected: str) -> None:
    (directory / "a.yaml").write_text(GOOD.replace(*change))
    result = CliRunner().invoke(policies_app, ["validate"])
    assert result.exit_code == 2
    assert expected in result.stdout


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        pytest.param(["validate"], "has no policy", id="an empty directory"),
        pytest.param(["explain", "x"], "has no policy", id="explain in an empty directory"),
        pytest.param(["validate", "--output", "xml"], "--output is table or json", id="an unknown form"),
    ],
)
@pytest.mark.usefixtures("directory")
def test_a_request_that_cannot_be_served_is_a_usage_error(arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(policies_app, arguments)
    assert isinstance(result.exception, UsageError)
    assert why in str(result.exception)


def test_a_file_that_is_not_there_or_a_directory_is_a_mistake(directory: Path) -> None:
    (directory / "d.yaml").mkdir()
    result = CliRunner().invoke(policies_app, ["validate", str(directory / "x.yaml"), str(directory / "d.yaml")])
    assert result.exit_code == 2
    assert result.stdout.count("the file cannot be read") == 2


def test_explain_names_the_next_five_fire_times_with_their_zone(directory: Path) -> None:
    (directory / "a.yaml").write_text(GOOD)
    result = CliRunner().invoke(policies_app, ["explain", "regenerate-shards", "--from", "2026-12-21T00:00"])
    fires = [line for line in result.stdout.splitlines() if "UTC)" in line]
    assert result.exit_code == 0
    assert len(fires) == 5
    assert all(" 03:" in fire and " Asia/Tokyo (18:" in fire for fire in fires)
    as_json = CliRunner().invoke(
        policies_app, ["explain", "regenerate-shards", "--from", "2026-12-21T00:00", "--output", "json"]
    )
    said = json.loads(as_json.stdout)
    # Over the year's end: a freeze, and weekends.
    assert [fire[:10] for fire in said["fires"]] == [
        "2026-12-22",
        "2026-12-23",
        "2027-01-04",
        "2027-01-05",
        "2027-01-06",
    ]
    assert all(fire.endswith("+09:00") for fire in said["fires"])
    assert said["timezone"] == "Asia/Tokyo"


def test_explain_of_an_unknown_name_hints_at_the_nearest(directory: Path) -> None:
    (directory / "a.yaml").write_text(GOOD)
    result = CliRunner().invoke(policies_app, ["explain", "regenerate-shard"])
    assert "did you mean regenerate-shards?" in str(result.exception)


def test_the_schema_command_prints_a_schema() -> None:
    schema = json.loads(CliRunner().invoke(policies_app, ["schema"]).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["additionalProperties"] is False
    assert schema["properties"]["leash"]["description"] == "on: decides and reports; off arms it."


def test_load_keeps_the_good_and_names_the_bad(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_bytes(b"\xff")
    loaded = load(files_in(tmp_path))
    assert loaded.named("regenerate-shards").name == "regenerate-shards"
    assert [m.line for m in loaded.mistakes] == [1]
    with pytest.raises(UsageError, match="see `reaper policies validate`"):
        loaded.named("b")


# ---- groups of stateless instances

GROUPS = """\
name: refresh
target: {groups: {name: "web-*", exclude: web-9, tag: {tier: web}}, opt_in: {chaos: "yes"}}
due: {max_age: 14d, stale_image: true, at_most: 2}
replace: {what: instance, order: stale, at_most: 3}
guards: {min_healthy: {count: 3, percent: 90}, max_in_flight: 2, per: [fleet], cool_down: 1h}
radius: {zone: {percent: 50}}
deadlines: {settle: 1m, drain: 2m, successor: 3m, undo: 4m}
"""
SMALLEST = "name: a\ntarget: {groups: '*'}\nreplace: {what: instance}\nguards: {min_healthy: 3}\n"


def test_a_policy_about_groups_is_read_whole() -> None:
    policy = policy_in(GROUPS)
    assert (policy.target.names, policy.target.excluded, policy.target.tags) == (
        ("web-*",),
        ("web-9",),
        (("tier", "web"),),
    )
    assert policy.replace.what is What.INSTANCE
    assert (policy.due.at_most, policy.cool_down) == (2, H)
    assert policy.limits.in_flight == (Limit(scope=Scope.FLEET, count=2),)
    assert policy.group == GroupPolicy(
        floor=Floor(count=3, percent=90),
        order=Order.STALE,
        max_age=timedelta(days=14),
        stale_image=True,
        opt_in=(("chaos", "yes"),),
        at_most=3,
        draining=Draining.REAPER,
        settle_within=M,
        drain_within=2 * M,
        successor_within=3 * M,
        undo_within=4 * M,
    )


@pytest.mark.parametrize(
    ("said", "floor"),
    [
        ("3", Floor(count=3)),
        ("0", Floor(count=0)),
        ("90%", Floor(percent=90)),
        ("'33.5 %'", Floor(percent=33.5)),
        ("{percent: 66.6}", Floor(percent=66.6)),
        ("{count: 2, percent: 50}", Floor(count=2, percent=50)),
    ],
)
def test_a_floor_is_a_count_a_share_or_both(said: str, floor: Floor) -> None:
    text = SMALLEST.replace("min_healthy: 3", f"min_healthy: {said}")
    group = policy_in(text).group
    assert group is not None
    assert group.floor == floor
    jsonschema.validate(as_json_values(text), json_schema(), cls=jsonschema.Draft202012Validator)


def test_a_drain_takes_as_long_as_what_is_drained() -> None:
    group = policy_in(SMALLEST).group
    assert group is not None
    assert group.drain_within == 10 * M
    assert policy_in(MINIMAL).limits_of_run.drain_within == 5 * S
    assert policy_in(MINIMAL).group is None


WRONG_FOR_GROUPS = {
    "no floor at all": ("guards: {min_healthy: 3}\n", "", "1:1: guards", "min_healthy is missing"),
    "no floor among guards": ("{min_healthy: 3}", "{cool_down: 1h}", "4:1: guards", "min_healthy is missing"),
    "a floor that nobody passes": ("min_healthy: 3", "min_healthy: 100%", "4:23: guards.min_healthy", "less than 100"),
    "a floor in words": ("min_healthy: 3", "min_healthy: most", "4:23", "'most' is no floor"),
    "a floor that says nothing": ("min_healthy: 3", "min_healthy: {}", "4:23", "say count, percent, or both"),
    "a floor below nothing": ("min_healthy: 3", "min_healthy: -1", "4:", "guards.min_healthy"),
    "clusters too": ("{groups: '*'}", "{groups: '*', clusters: '*'}", "2:9: target", "write two policies"),
    "nobody": ("{groups: '*'}", "{provider: asg}", "2:9: target", "says neither clusters nor groups"),
    "a master": ("what: instance", "what: master", "3:17: replace.what", "has to be instance"),
    "nothing that is replaced": ("replace: {what: instance}\n", "", "1:1: replace", "what has to be instance"),
    "how a replacement is built": ("what: instance", "what: instance, when: after", "3:27: replace.when", "itself"),
    "a snapshot": ("what: instance", "what: instance, snapshot: {keep: 1}", "3:27", "holds no data"),
    "instances by name": ("groups: '*'", "groups: '*', instances: {name: x}", "2:23", "target.opt_in"),
    "a guard of clusters": ("min_healthy: 3", "min_healthy: 3, max_lag: 5s", "4:26: guards.max_lag", "of its own"),
    "shard groups": ("min_healthy: 3", "min_healthy: 3, per: [shard_group]", "4:31: guards.per", "fleet, policy or"),
    "how much of a shard group": (
        "name: a\n",
        "name: a\nradius: {shard_group: {count: 1}}\n",
        "2:10",
        "no shard group",
    ),
    "external checks": (
        "min_healthy: 3",
        "min_healthy: 3, external: [{kind: http, name: x, url: 'http://x/'}]",
        "4:26: guards.external",
        "not supported for groups yet",
    ),
    **{
        f"the section {name}": ("name: a\n", f"name: a\n{name}: {said}\n", f"2:1: {name}", "clusters" if of else "yet")
        for name, said, of in (
            ("failover", "{by: reaper}", True),
            ("warm", "{gate: 0.5}", True),
            ("verify", "{share: 0.5}", True),
            ("kill", "{mode: crash}", True),
            ("retire", "{quarantine: 1h}", True),
            ("probe", "{clients: 1}", True),
            ("waivers", "[]", True),
            ("approval", "{}", False),
        )
    },
}


@pytest.mark.parametrize("what", list(WRONG_FOR_GROUPS))
def test_what_makes_no_sense_for_groups_is_refused_with_its_place_and_in_words(what: str) -> None:
    old, new, place, says = WRONG_FOR_GROUPS[what]
    assert old in SMALLEST
    said = [str(m) for m in mistakes_in(SMALLEST.replace(old, new))]
    assert any(s.startswith(f"p.yaml:{place}") and says in s for s in said), said


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("guards: {min_healthy: 3}", "guards.min_healthy"),
        ("replace: {order: oldest}", "replace.order"),
        ("replace: {at_most: 1}", "replace.at_most"),
        ("replace: {draining: group}", "replace.draining"),
        ("deadlines: {successor: 1m}", "deadlines.successor"),
    ],
)
def test_what_only_groups_have_is_refused_for_clusters(section: str, field: str) -> None:
    (mistake,) = mistakes_in(f"{MINIMAL}{section}\n")
    assert (mistake.field, mistake.line) == (field, 3)
    assert mistake.what == "is for groups, and the target is clusters"


def test_an_instance_is_of_a_group() -> None:
    (mistake,) = mistakes_in(f"{MINIMAL}replace: {{what: instance}}\n")
    assert mistake.field == "replace.what"
    assert "instances are those of groups" in mistake.what


def test_the_schema_wants_clusters_or_groups() -> None:
    jsonschema.validate(as_json_values(GROUPS), json_schema(), cls=jsonschema.Draft202012Validator)
    for target in ("{}", "{clusters: '*', groups: '*'}"):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(as_json_values(f"name: a\ntarget: {target}\n"), json_schema())


def test_a_policy_about_groups_is_explained() -> None:
    said = "\n".join(s.says for s in explain(policy_in(GROUPS), NOW))
    for part in (
        "Instances of each group with a name like web-* with the tags tier=web.",
        "Not of groups with a name like web-9.",
        "opted in with chaos=yes",
        "A run replaces 3 at the most, one after the other, those of an image that is not the newest first",
        "Refused unless at least 3 and 90 % of the wanted size serve without the victim",
        "none is within 3 minutes, the run ends as bad",
        "A firing takes 2 groups at the most",
        "A group is left alone for 1 hour after any run.",
    ):
        assert part in said
    for word in ("master", "replica", "semi-sync", "outage"):
        assert word not in said
