"""Read policy files. The result is the policy, or every mistake with its place."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from reaper.adapters.policies import tree
from reaper.adapters.policies.document import Document
from reaper.adapters.policies.findings import Finding, finding_of
from reaper.adapters.policies.kinds import of_another_kind
from reaper.adapters.policies.meaning import meaning_of
from reaper.adapters.policies.sharing import Sharing
from reaper.adapters.policies.values import nearest
from reaper.domain.errors import UsageError
from reaper.domain.plan import Replacement
from reaper.domain.policy import FailoverBy
from reaper.domain.standing import StandingPolicy

MOST_MISTAKES = 100
LONGEST_MISTAKE = 500
MOST_FILES = 5000


@dataclass(frozen=True, order=True, kw_only=True)
class Mistake:
    """One mistake, for a person and for an editor."""

    file: str
    line: int
    column: int
    field: str  # "" where it is about the file
    what: str

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else "the file "
        return f"{self.file}:{self.line}:{self.column}: {field}{self.what}"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a number of files held."""

    policies: tuple[tuple[str, StandingPolicy], ...]  # (file, policy), in the order of the files
    mistakes: tuple[Mistake, ...]

    def named(self, name: str) -> StandingPolicy:
        """The policy with a name. UsageError: no file has it, or not without mistakes."""
        for _, policy in self.policies:
            if policy.name == name:
                return policy
        known = [p.name for _, p in self.policies]
        if self.mistakes:
            raise UsageError(
                f"no policy {name!r} among those without mistakes ({', '.join(known) or 'none'}): "
                "see `reaper policies validate`"
            )
        raise UsageError(f"there is no policy {name!r}{nearest(name, known)}: there are {', '.join(known) or 'none'}")


# What a site finds wrong with a policy that is well formed: where in the file, and what.
Further = Callable[[StandingPolicy], Iterable[tuple[tree.Path, str]]]


def nothing_further(policy: StandingPolicy) -> tuple[()]:  # noqa: ARG001 - a Further
    """No check beyond the file itself."""
    return ()


def read(data: bytes, file: str, further: Further = nothing_further) -> StandingPolicy | tuple[Mistake, ...]:
    """The policy in a file's bytes, or every mistake in them, in the order of their places."""
    parsed = tree.parse(data)
    mistakes = [_mistake(file, f.place, f.path, f.what) for f in parsed.flaws]
    if parsed.whole:
        found = _check(parsed.value)
        if isinstance(found, Document) and not mistakes:
            policy = meaning_of(found, Path(file).parent)
            faults = tuple(further(policy))
            if not faults:
                return policy
            mistakes += [_mistake(file, _place(parsed, path, on_key=False), path, what) for path, what in faults]
        elif not isinstance(found, Document):
            mistakes += [_mistake(file, _place(parsed, path, on_key=key), path, what) for path, key, what in found]
    mistakes = sorted(set(mistakes))
    if len(mistakes) > MOST_MISTAKES:
        last = mistakes[MOST_MISTAKES]
        more = f"and {len(mistakes) - MOST_MISTAKES} more mistakes"
        mistakes = [
            *mistakes[:MOST_MISTAKES],
            Mistake(file=file, line=last.line, column=last.column, field="", what=f"has this {more}"),
        ]
    return tuple(mistakes)


def load(files: Iterable[Path], further: Further = nothing_further) -> Loaded:
    """Read files. A name that two files use is a mistake of the second. UsageError: too many files."""
    policies: list[tuple[str, StandingPolicy]] = []
    mistakes: list[Mistake] = []
    owners: dict[str, str] = {}
    sharing = Sharing()
    for number, path in enumerate(files):
        if number == MOST_FILES:
            raise UsageError(f"there are more than {MOST_FILES} policy files: name those that are meant")
        found = read_file(path, further)
        if isinstance(found, tuple):
            mistakes += found
        elif found.name in owners:
            what = f"{found.name} is the name of the policy in {owners[found.name]} already"
            mistakes.append(Mistake(file=str(path), line=1, column=1, field="name", what=what))
        else:
            owners[found.name] = str(path)
            policies.append((str(path), sharing.shared(found)))
    return Loaded(policies=tuple(policies), mistakes=tuple(mistakes))


def read_file(path: Path, further: Further = nothing_further) -> StandingPolicy | tuple[Mistake, ...]:
    """The same for a file; one that cannot be read is a mistake too. No more than the limit is read of it."""
    try:
        with path.open("rb") as stream:
            data = stream.read(tree.LARGEST_BYTES + 1)
    except OSError as error:
        return (Mistake(file=str(path), line=1, column=1, field="", what=f"cannot be read: {error.strerror}"),)
    return read(data, str(path), further)


def files_in(directory: Path) -> tuple[Path, ...]:
    """The policy files of a directory, by name. UsageError: it is none, or has none."""
    try:
        files = sorted(p for p in directory.iterdir() if p.suffix in (".yaml", ".yml") and not p.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"the policies in {directory} cannot be listed: {error.strerror}; name the files, or set REAPER_POLICIES "
            "to their directory"
        ) from error
    if not files:
        raise UsageError(f"{directory} has no policy (*.yaml): name the files, or set REAPER_POLICIES")
    return tuple(files)


def _check(value: tree.Value) -> Document | list[Finding]:
    """The document, or the findings; sections without any are still held against each other."""
    if not isinstance(value, dict):
        return [((), False, "is no mapping: it begins with `name: ...`")]
    try:
        doc = Document.model_validate(value)
        findings = list(_contradictions(doc, frozenset()))
        return findings or doc
    except ValidationError as error:
        details = error.errors(include_url=False)
    findings = [finding_of(value, d) for d in details]
    broken = frozenset(str(path[0]) for path, _, _ in findings if path)
    rest = {"name": "x", "target": {"clusters": "x"}} | {k: v for k, v in value.items() if k not in broken}
    try:
        findings += _contradictions(Document.model_validate(rest), broken)
    except ValidationError:  # a mistake outside every section was found and reported above
        return findings
    return findings


def _contradictions(doc: Document, broken: frozenset[str]) -> Iterator[Finding]:
    """What sections say against each other, for those that are whole."""
    rules: tuple[tuple[frozenset[str], Callable[[Document], Finding | None]], ...] = (
        (frozenset({"failover", "guards"}), _loss_is_accepted_in_words),
        (frozenset({"due", "schedule"}), _dice_need_a_schedule),
        (frozenset({"announce", "schedule"}), _announcing_needs_a_schedule),
        (frozenset({"replace", "failover"}), _observing_builds_no_heir),
        (frozenset({"guards"}), _checks_have_names_of_their_own),
    )
    for sections, rule in rules:
        finding = None if sections & broken else rule(doc)
        if finding is not None:
            yield finding
    if "target" not in broken:
        yield from of_another_kind(doc, broken)


def _loss_is_accepted_in_words(doc: Document) -> Finding | None:
    if doc.failover.lost_writes == 0 or doc.guards.semi_sync != "required":
        return None
    what = "allows lost writes: say so in words too, with guards.semi_sync: loss-accepted, or make it 0"
    return ("failover", "lost_writes"), True, what


def _dice_need_a_schedule(doc: Document) -> Finding | None:
    if doc.due.mean_time_between is None or doc.schedule is not None:
        return None
    return ("due", "mean_time_between"), True, "needs a schedule, whose firings are the opportunities"


def _announcing_needs_a_schedule(doc: Document) -> Finding | None:
    if doc.announce.before is None or doc.schedule is not None:
        return None
    return ("announce", "before"), True, "needs a schedule: without one nobody knows the time before"


def _observing_builds_no_heir(doc: Document) -> Finding | None:
    if doc.failover.by is not FailoverBy.OBSERVE or doc.replace.when is not Replacement.BEFORE:
        return None
    what = "cannot be before with failover.by: observe, where the site's tool chooses the heir: write after or none"
    return ("replace", "when"), True, what


def _checks_have_names_of_their_own(doc: Document) -> Finding | None:
    seen: set[str] = set()
    for number, check in enumerate(doc.guards.external):
        if check.name in seen:
            return ("guards", "external", number, "name"), False, f"{check.name} is the name of two checks"
        seen.add(check.name)
    return None


def _place(parsed: tree.Tree, path: tree.Path, *, on_key: bool) -> tree.Place:
    places = (parsed.keys, parsed.places) if on_key else (parsed.places, parsed.keys)
    for end in range(len(path), -1, -1):
        for known in places:
            if path[:end] in known:
                return known[path[:end]]
    return tree.Place(1, 1)


def _mistake(file: str, place: tree.Place, path: tree.Path, what: str) -> Mistake:
    field = ""
    for part in path:
        field += f"[{part}]" if isinstance(part, int) else f".{part}" if field else part
    return Mistake(file=file, line=place.line, column=place.column, field=field[:200], what=what[:LONGEST_MISTAKE])
