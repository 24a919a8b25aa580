"""`reaper policies`: check policy files, print their schema, explain one, release one."""

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo

import typer

from reaper.cli.options import Who
from reaper.domain.errors import ExitCode, ReaperError, UsageError
from reaper.domain.standing import Leash

if TYPE_CHECKING:
    from reaper.adapters.policies.reader import Loaded
    from reaper.adapters.store.standing import LeashRecord
    from reaper.domain.standing import StandingPolicy

policies_app = typer.Typer(no_args_is_help=True, help="Policy files: check, explain, release, and their JSON Schema.")

DIRECTORY_VARIABLE = "REAPER_POLICIES"
OutputChoice = Annotated[str, typer.Option("--output", help="table or json")]
From = Annotated[
    datetime | None,
    typer.Option("--from", help="Fire times after this moment instead of now, in UTC.", formats=["%Y-%m-%dT%H:%M"]),
]


def policies_directory() -> Path:
    """Where policies are: REAPER_POLICIES, or ./policies."""
    return Path(os.environ.get(DIRECTORY_VARIABLE) or "policies")


def load_policies(files: list[Path] | None, now: datetime) -> "Loaded":
    """Read the named files, or all of the policies' directory; what only this machine can tell is checked too."""
    from reaper.adapters.policies.reader import files_in, load

    return load(files or files_in(policies_directory()), lambda policy: _further(policy, now))


def _further(policy: "StandingPolicy", now: datetime) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Files of freezes that cannot be read, and a schedule that its calendar closes for good."""
    from reaper.adapters.schedule.almanacs import faults_of_files
    from reaper.adapters.schedule.fires import PolicyTrigger

    faults = faults_of_files(policy.calendar, now)
    for number, what in faults:
        yield ("calendar", "freeze_files", number), what
    trigger = None if faults else PolicyTrigger.of(policy)
    if trigger is not None and trigger.after(now) is None:
        yield ("schedule", "cron"), f"never fires within five years: {trigger.why_never(now)}"


def _json_wanted(output: str) -> bool:
    if output not in ("table", "json"):
        raise UsageError(f"--output is table or json, not {output!r}")
    return output == "json"


@policies_app.command()
def validate(
    files: Annotated[
        list[Path] | None, typer.Argument(help=f"Policy files; all of ./policies or ${DIRECTORY_VARIABLE} if left out.")
    ] = None,
    output: OutputChoice = "table",
) -> None:
    """Check policy files: every mistake with its place and what is allowed. Ends with status 2 if there is one."""
    as_json = _json_wanted(output)
    loaded = load_policies(files, datetime.now(UTC))
    leashes, unknown = _leashes()
    if as_json:
        found = {
            "policies": [
                {
                    "file": file,
                    "name": policy.name,
                    "leash": policy.leash,
                    "leashed_by_budget": _leash_as_json(leashes.get(policy.name)),
                }
                for file, policy in loaded.policies
            ],
            "mistakes": [asdict(m) for m in loaded.mistakes],
            "leashes_unknown": unknown,  # why nobody can tell which policies are leashed by their budgets
        }
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{mistake}\n" for mistake in loaded.mistakes)
        names = ", ".join(
            f"{policy.name} ({policy.leash}{', leashed by a budget' if policy.name in leashes else ''})"
            for _, policy in loaded.policies
        )
        sys.stdout.write(f"{len(loaded.policies)} without mistakes{f': {names}' if names else ''}\n")
        for _, policy in loaded.policies:
            if policy.name in leashes:
                sys.stdout.write(_leash_in_words(leashes[policy.name]))
        for name, channel in _unknown_channels(loaded):
            sys.stderr.write(
                f"reaper: {name} announces to {channel}, which reaper.yaml of this data directory does not have: "
                "it would go to the log\n"
            )
        if unknown:
            sys.stderr.write(f"reaper: whether a budget has leashed one cannot be told: {unknown}\n")
    if loaded.mistakes:
        raise typer.Exit(int(ExitCode.USAGE))


def _unknown_channels(loaded: "Loaded") -> list[tuple[str, str]]:
    """Policies and the channels they name that this site does not have. They are no mistakes of the file's."""
    from reaper.adapters.announce.channels import LOG
    from reaper.cli.compose import site
    from reaper.cli.settings import read_settings

    try:
        known = {LOG, *(channel.name for channel in read_settings(site().home).channels)}
    except ReaperError:
        return []  # said already, by whoever looked for leashes
    return [(p.name, name) for _, p in loaded.policies for name in p.announce.to if name not in known]


def _leashes() -> tuple[dict[str, "LeashRecord"], str | None]:
    """The policies that a budget has leashed; or why that cannot be told, which does not stop a look at files."""
    from reaper.cli.compose import site

    try:
        return {record.policy: record for record in site().policies.leashed()}, None
    except ReaperError as error:
        return {}, str(error)


def _leash_as_json(record: "LeashRecord | None") -> dict[str, object] | None:
    if record is None:
        return None
    return {"since": record.at.isoformat(), "why": list(record.why), "run": record.run}


def _leash_in_words(record: "LeashRecord") -> str:
    why = "".join(f"  {reason}\n" for reason in record.why)
    return (
        f"{record.policy} is leashed since {record.at:%Y-%m-%d %H:%M:%S} UTC, whatever its file says:\n{why}"
        f"  `reaper policies release {record.policy} --reason ...` lets it act again\n"
    )


@policies_app.command()
def release(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    reason: Annotated[str, typer.Option(help="Why it may act again; kept in the record.")],
    who: Who = None,
) -> None:
    """Let a policy act again that exceeded a budget. Its budgets count from now on; its file's leash stays."""
    from reaper.adapters.announce.channels import LOG
    from reaper.cli.compose import site
    from reaper.cli.durable import person
    from reaper.cli.herald import tell_now
    from reaper.planner.announcing import policy_released

    store, now = site().policies, datetime.now(UTC)
    if not store.is_leashed(name):
        policy = load_policies(None, now).named(name)
        own = "; it only reports because its file says `leash: on`" if policy.leash is Leash.ON else ""
        raise UsageError(f"no budget has leashed {name}, so there is nothing to release{own}")
    by = who or person()
    was = store.release(name, by, reason, now)
    sys.stdout.write(
        f"{name}: released by {by}; it was leashed since {was.at:%Y-%m-%d %H:%M:%S} UTC: {'; '.join(was.why)}\n"
    )
    told = [policy.announce.to for _, policy in load_policies(None, now).policies if policy.name == name]
    tell_now(site().home, told[0] if told else (LOG,), policy_released(name, by, reason, now))


@policies_app.command()
def schema() -> None:
    """Print the JSON Schema of policy files, for an editor."""
    from reaper.adapters.policies.schema import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")


@policies_app.command()
def explain(
    name: Annotated[str, typer.Argument(help="The policy's name.")],
    files: Annotated[list[Path] | None, typer.Option("--file", help="Look in these files only.")] = None,
    start: From = None,
    fires: Annotated[int, typer.Option(min=0, max=1000, help="How many fire times.")] = 5,
    output: OutputChoice = "table",
) -> None:
    """Say in plain sentences what a policy will do, and when it fires next."""
    from reaper.adapters.policies.explain import explain as in_sentences
    from reaper.adapters.schedule.fires import PolicyTrigger

    as_json = _json_wanted(output)
    now = datetime.now(UTC)
    policy = load_policies(files, now).named(name)
    trigger = PolicyTrigger.of(policy)
    after = now if start is None else start.replace(tzinfo=UTC)
    zone = ZoneInfo(policy.schedule.zone) if policy.schedule else UTC
    upcoming = [fire.astimezone(zone) for fire in trigger.upcoming(after, fires)] if trigger else []
    sayings = in_sentences(policy, now)
    if as_json:
        said = {
            "name": policy.name,
            "leash": policy.leash,
            "description": policy.description,
            "says": [asdict(s) for s in sayings],
            "timezone": policy.schedule.zone if policy.schedule else None,
            "fires": [f.isoformat() for f in upcoming],
        }
        sys.stdout.write(json.dumps(said, indent=2) + "\n")
        return
    sys.stdout.write(f"{policy.name}\n")
    sys.stdout.writelines(f"  {line}\n" for line in policy.description.splitlines())
    topic = ""
    for saying in sayings:
        sys.stdout.write(f"{'' if saying.topic == topic else saying.topic:>10}  {saying.says}\n")
        topic = saying.topic
    for number, fire in enumerate(upcoming):
        utc = fire.astimezone(UTC)
        sys.stdout.write(f"{'' if number else 'fires':>10}  {fire:%a %Y-%m-%d %H:%M:%S} {zone} ({utc:%H:%M:%S} UTC)\n")
