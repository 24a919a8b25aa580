"""A comparer over the simulated fleet: the subject's rows against the reference's log at the same position."""

from collections import Counter
from collections.abc import Callable
from datetime import timedelta

from reaper.domain.comparison import Comparison, Difference, Sample, What
from reaper.domain.errors import RefusedError, ServerGoneError
from reaper.domain.facts import Instance, InstanceId, InstanceState
from reaper.testing.fleet import MemoryFleet
from reaper.testing.machine import Machine
from reaper.testing.parts import Row, Verb
from reaper.workflow.server import SCHEMA

_CATCH_UP_WITHIN = timedelta(seconds=30)
_TAKES = timedelta(milliseconds=500)


class FakeComparer:
    """The workflow's `Comparer`. Faults are ordered as `compare` of the subject's short name.

    `damage(machine)` changes rows behind replication's back; `runs_out` makes the next ones incomplete.
    """

    def __init__(self, fleet: MemoryFleet) -> None:
        self._fleet = fleet
        self.runs_out = 0  # how many of the next comparisons find no time to look at anything
        self.done: list[Comparison] = []

    def damage(self, who: InstanceId | str, table: str, row: Row = ("damaged",)) -> None:
        """Put a row into a server's table that no transaction wrote."""
        with self._fleet.clock.lock:
            self._fleet.machine(who).tables.setdefault(table, Counter())[row] += 1

    def compare(
        self,
        cluster: str,
        reference: Instance,
        subject: Instance,
        sample: Sample,
        check: Callable[[], None],
        tell: Callable[[str], None],
    ) -> Comparison:
        """Wait until the subject stands where the reference stood, then compare every table."""
        fleet = self._fleet
        model, copy = fleet.machine(reference.id, cluster), fleet.machine(subject.id, cluster)
        check()
        with fleet.clock.lock, fleet.faults.around("compare", subject.id.short):
            _reach(model)
            target = model.executed
            fleet.clock.wait(lambda: copy.executed.covers(target) or not _answers(copy), _CATCH_UP_WITHIN)
            _reach(copy)
            if not copy.executed.covers(target):
                raise RefusedError(f"{copy.id} did not reach {target}, where {model.id} stands: it has {copy.executed}")
            found = self._compared(model, copy, sample)
        tell(str(found))
        fleet.clock.sleep(_TAKES)
        check()
        self.done.append(found)
        return found

    def release(self, cluster: str, instance: Instance) -> None:
        """Start the simulated replica's threads again."""
        fleet = self._fleet
        with fleet.clock.lock, fleet.faults.around("release", instance.id.short):
            machine = fleet.machine(instance.id, cluster)
            _reach(machine)
            machine.start_replication()

    def _compared(self, model: Machine, copy: Machine, sample: Sample) -> Comparison:
        expected, actual = _data_at(model, copy), _own(copy.tables)
        names = sorted(expected.keys() | actual.keys())
        complete = not self.runs_out
        self.runs_out = max(0, self.runs_out - 1)
        looked = names if complete else []
        differences = tuple(d for name in looked for d in _differences(name, expected.get(name), actual.get(name)))
        return Comparison(
            position=copy.executed.position(),
            reference=model.id,
            subject=copy.id,
            tables=len(looked),
            chunks=len(looked),
            chunks_of=len(names),
            chunks_different=len({d.table for d in differences}),
            rows=sum(sum(expected.get(name, Counter()).values()) for name in looked),
            size_bytes=0,
            share=sample.share,
            complete=complete,
            left="" if complete else f"nothing was compared within {sample.within}",
            took=_TAKES,
            differences=differences[: sample.keep],
            skipped=(),
        )


def _answers(machine: Machine) -> bool:
    return machine.state is InstanceState.RUNNING and not machine.doomed


def _reach(machine: Machine) -> None:
    if not _answers(machine):
        raise ServerGoneError(f"{machine.id} at {machine.address} does not answer")


def _data_at(model: Machine, copy: Machine) -> dict[str, Counter[Row]]:
    """The reference's tables as they were at the subject's position: what it executed beyond that is taken back."""
    tables = {name: rows.copy() for name, rows in model.tables.items()}
    position = copy.executed
    for transaction in reversed([t for t in model.log if not copy.holds(t.gtid)]):
        rows = tables.setdefault(transaction.table, Counter())
        match transaction.verb:
            case Verb.CREATE:
                tables.pop(transaction.table)
            case Verb.INSERT:
                rows[transaction.row] -= 1
            case Verb.DELETE:
                rows[transaction.row] += 1
            case Verb.DROP:
                raise RefusedError(f"{transaction.table} was dropped on {model.id} after {position}: compare again")
    return _own(tables)


def _own(tables: dict[str, Counter[Row]]) -> dict[str, Counter[Row]]:
    """Without reaper's schema."""
    return {name: +rows for name, rows in tables.items() if not name.startswith(f"{SCHEMA}.")}


def _differences(name: str, expected: "Counter[Row] | None", actual: "Counter[Row] | None") -> list[Difference]:
    if expected is None:
        return [Difference(table=name, what=What.TABLE_EXTRA)]
    if actual is None:
        return [Difference(table=name, what=What.TABLE_MISSING)]
    found = []
    for row in sorted((expected - actual) + (actual - expected), key=repr):
        counts = expected[row], actual[row]
        what = What.MISSING if counts[0] > counts[1] else What.EXTRA
        key = repr(row)
        found.append(
            Difference(table=name, what=what, first=key, last=key, rows_reference=counts[0], rows_subject=counts[1])
        )
    return found
