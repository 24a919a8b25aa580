"""A forecast as Markdown, for a ticket or a pull request. What came from a cluster is shown, never interpreted."""

import re
from collections.abc import Iterable, Iterator

from reaper.cli import groups_telling, telling
from reaper.cli.groups_render import how
from reaper.domain.verdict import GuardVerdict, Ruling
from reaper.planner.outlook import Outlook
from reaper.workflow.forecast import Forecast, Foreseen, GroupForeseen

_MEANS_SOMETHING = re.compile(r"([\\`*_{}\[\]()#+!|~$@:-])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no tag, link, mention, table cell or line break of its own."""
    line = " ".join(text.split())
    # A plain minus or colon inside words means nothing and would only be harder to read in the source.
    return _MEANS_SOMETHING.sub(_escape_one, line).translate(_ENTITIES)


def _escape_one(found: re.Match[str]) -> str:
    sign, before, after = found[1], found.string[: found.start()], found.string[found.end() :]
    harmless = sign in "-:" and before != "" and not after.startswith(("-", ":", "//"))
    return sign if harmless else f"\\{sign}"


def forecast_markdown(forecast: Forecast) -> str:
    """The whole report."""
    return "\n".join(_lines(forecast)).rstrip() + "\n"


def _lines(forecast: Forecast) -> Iterator[str]:
    report = forecast.report
    yield f"# {escaped(groups_telling.headline(forecast))}"
    yield from ("", f"{escaped(telling.asked_about(forecast))} {escaped(groups_telling.basis(forecast))}", "")
    stops = groups_telling.stops(forecast)
    if stops:
        yield from (f"## Refused ({len(stops)})", "")
        for stop in stops:
            yield f"- **{escaped(stop.title)}**: {escaped(stop.culprit)} says: {escaped(stop.reason)}"
            yield from (f"  - {escaped(line)}" for line in stop.evidence)
        yield ""
    groups, held = groups_telling.going(forecast), groups_telling.refused(forecast)
    deaths = len(forecast.going) + sum(len(run.plan.victims) for run in groups)
    yield from (f"## Who would die ({deaths})", "")
    if not deaths:
        yield from ("Nobody.", "")
    for run in forecast.going:
        yield from _run(run)
    for of_group in groups:
        yield from _group_run(of_group)
    if forecast.refused or held:
        yield from ("## What was refused, in full", "")
    for run in forecast.refused:
        yield from _run(run)
    for of_group in held:
        yield from _group_run(of_group)
    if report.conflicts:
        yield from ("## More than one policy takes the same cluster", "")
        yield from (f"- {escaped(telling.conflict(found))}" for found in report.conflicts)
        yield ""
    yield from ("## The coming days", "")
    yield from _days(report.outlook)
    yield from ("", "## Who is spared", "")
    rows = [(one.policy, one.named, one.why) for one in telling.spared(report.decisions)]
    yield from _table(("policy", "who", "why"), rows) if rows else ("Nobody who is targeted.",)
    yield from ("", "## Policies", "")
    for decision in report.decisions:
        yield from (f"### {escaped(decision.policy.name)}: {escaped(telling.standing(decision))}", "")
        yield from (f"- {topic}: {escaped(said)}" for topic, said in groups_telling.facts(decision))
        yield ""


def _run(run: Foreseen) -> Iterator[str]:
    yield from (f"### {escaped(telling.death(run))}", "")
    yield from (f"The policy {escaped(run.policy)} ({run.state}): it {escaped('; '.join(run.due.why))}.", "")
    yield from _table(("phase", "step", "what"), ((s.phase.value, s.name.value, s.what) for s in run.plan.steps))
    yield ""
    yield from _guards(run.verdicts)


def _group_run(run: GroupForeseen) -> Iterator[str]:
    yield from (f"### {escaped(groups_telling.replacement(run))}", "")
    yield from (f"The policy {escaped(run.policy)} ({run.state}).", "")
    yield from _table(("instance", "why"), ((v.id.short, v.why) for v in run.plan.victims))
    yield ""
    yield from _table(("step of each", "what"), how(run.plan.policy))
    yield ""
    yield from _guards(run.verdicts)


def _guards(verdicts: tuple[GuardVerdict, ...]) -> Iterator[str]:
    ordered = sorted(verdicts, key=lambda v: v.ruling is Ruling.GO)
    rows = ((v.ruling.value, v.guard, "; ".join((v.reason, *v.evidence))) for v in ordered)
    yield from _table(("verdict", "guard", "reason and evidence"), rows)
    yield ""


def _days(outlook: Outlook) -> Iterator[str]:
    rows = [
        (
            f"{day.day:%a %Y-%m-%d}",
            telling.deaths_of(day.most, day.expected) if day.policies else "none",
            "; ".join(f"{p.policy}: {telling.fires_of(p)}" for p in day.policies) or "nothing fires",
        )
        for day in outlook.days
    ]
    yield from _table((f"day ({outlook.zone})", "deaths", "fires"), rows)
    peak = outlook.peak
    if peak is not None:
        yield from ("", escaped(telling.peak(peak)))
    yield from (f"\n{escaped(telling.cut_short(name))}." for name in outlook.cut)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(map(escaped, head))} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(map(escaped, row))} |" for row in rows)
