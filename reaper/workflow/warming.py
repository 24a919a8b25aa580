"""The warmth gate: bring the victim's hot pages into the heir, compare the two, and say whether the victim may die.

The heir goes on replicating meanwhile. The victim is asked for its page list and for a few canaries, both bounded.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from reaper.domain.canary import Canary, refusal
from reaper.domain.errors import AccessDeniedError, RefusedError, ServerError, ServerGoneError
from reaper.domain.pagelist import Resident, Shipment, ship
from reaper.domain.warmth import Baseline, Compared, Latency, Otherwise, Warmth, WarmthGate
from reaper.workflow.pools import Canaries, Pace, Pool, Sampled, Side, Unlisted
from reaper.workflow.ports import Clock

ROUNDS = 20  # of each canary on each server
MOST_CANARIES = 5
VICTIMS_SHARE = 0.1  # of the time in which canaries run, the victim works for them at most so much
FASTER = 20_000  # pages a second that an heir may load while it replicates, if its disk can

_LOOK_EVERY = timedelta(milliseconds=200)
_LONGEST_PAUSE = timedelta(seconds=2)  # after one canary on the victim
_FIRST_RETRY, _LAST_RETRY = timedelta(seconds=5), timedelta(seconds=60)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Time, a person's wish to stop, and whom to tell."""

    clock: Clock
    check: Callable[[], None]  # raises to abort
    tell: Callable[[str], None]  # progress, for a person


# ---- the gate


def warm_up(gate: WarmthGate, victim: Side, heir: Side, around: Surroundings, normal: Pace) -> Warmth:
    """Load and compare until the gate is passed or its time is over. Raises what `check` raises, and ServerError.

    `normal`: the heir's pace as it was before the first attempt of this run, to which it is set back.
    """
    with _hurried(heir.pool, normal):
        return _Gate(gate, victim, heir, around).run()


def must_pass(gate: WarmthGate, warmth: Warmth) -> None:
    """RefusedError: the heir is not warm and the policy does not let it go."""
    if warmth.passed or gate.otherwise is Otherwise.GO:
        return
    raise RefusedError(
        f"warmth: {warmth.words}. Asked for: {gate.gate:.0%} resident and at most {gate.factor:g} times the latency, "
        f"within {gate.within}. Allow more time, lower the gate, or let it go with `otherwise: go`"
    )


def choose_canaries(gate: WarmthGate, victim: Canaries) -> Sampled:
    """The policy's canaries, or else what the victim suggests."""
    if not gate.canaries:
        return victim.sample(MOST_CANARIES)
    refused = [f"canary {i}: {why}" for i, sql in enumerate(gate.canaries, 1) if (why := refusal(sql))]
    if refused:
        raise RefusedError(f"the policy's canaries are not run: {'; '.join(refused)}. Change them in the policy")
    named = (Canary(name=f"canary {i}", statements=(sql,)) for i, sql in enumerate(gate.canaries, 1))
    return Sampled(canaries=tuple(named))


@contextmanager
def _hurried(pool: Pool, normal: Pace) -> Iterator[None]:
    """A server that does anything else at all, as a replica does, loads only innodb_io_capacity pages a second.

    (buf_load_throttle_if_needed in buf0dump.cc of both flavours.) By default that is 3 MiB/s; nobody uses the heir yet.
    """
    fast = max(FASTER, normal.normal)
    try:
        with contextlib.suppress(AccessDeniedError):  # a hosted server: it loads at its own pace
            pool.set_pace(Pace(normal=fast, most=max(fast, normal.most)))
        yield
    finally:
        with contextlib.suppress(ServerGoneError, AccessDeniedError):  # it starts with its own pace again
            pool.set_pace(normal)


class _Gate:
    def __init__(self, gate: WarmthGate, victim: Side, heir: Side, around: Surroundings) -> None:
        self._gate = gate
        self._victim = victim
        self._heir = heir
        self._around = around
        self._clock = around.clock
        self._began = self._clock.monotonic_ns()
        self._notes: dict[str, None] = {}  # in the order in which they were made
        self._chosen = Sampled(canaries=())
        self._closed = True  # the heir's data files
        self._rejected = False  # a canary could not be compared, and was not passed
        self._out_of_reach = False  # too many of the hot pages cannot be resident on the heir at all

    def run(self) -> Warmth:
        self._chosen = choose_canaries(self._gate, self._victim.canaries)
        if self._chosen.why:
            self._note(self._chosen.why)
        retry = _FIRST_RETRY
        while True:
            found = self._attempt()
            left = self._gate.within - self._took()
            if found.passed or left <= timedelta(0) or self._hopeless(found):
                return found
            self._around.tell(f"{found.words}; another try in {min(retry, left).total_seconds():.0f} s")
            self._pause(min(retry, left))
            retry = min(retry * 2, _LAST_RETRY)

    def _attempt(self) -> Warmth:
        shipment, resident = self._bring()
        share = resident / shipment.hot if shipment and shipment.hot else (1.0 if shipment else None)
        warm = share is not None and share >= self._gate.gate
        last = share is None or self._out_of_reach or self._took() >= self._gate.within
        compared, hits = self._compare() if warm or last else ((), None)
        like = all(c.heir.is_like(c.victim, self._gate.factor) for c in compared)
        return Warmth(
            resident=share,
            pages_wanted=shipment.hot if shipment else 0,
            pages_resident=resident,
            hit_ratio=hits,
            canaries=compared,
            passed=warm and like and not self._rejected,
            took=self._took(),
            notes=tuple(self._notes),
        )

    def _hopeless(self, found: Warmth) -> bool:
        """True if no time helps."""
        return found.resident is None or self._rejected or self._out_of_reach

    # ---- pages

    def _bring(self) -> tuple[Shipment | None, int]:
        """The victim's hot pages, and how many of them are resident on the heir, after loading if that was needed."""
        hot = self._victim.pool.resident()
        if isinstance(hot, Unlisted):
            self._note(hot.why)
            return None, 0
        if self._closed:
            self._heir.pool.open_files()
            self._closed = False
        room = self._victim.pool.room()
        shipment = ship(
            hot, self._victim.pool.tablespaces(), self._heir.pool.tablespaces(), self._heir.pool.room(), room.parts
        )
        self._reach(shipment)
        present = self._present(shipment)
        if present is not None and present < self._gate.gate * shipment.hot and present < len(shipment.pages):
            self._load(shipment, len(shipment.pages) - present)
            present = self._present(shipment)
        return (None, 0) if present is None else (shipment, present)

    def _reach(self, shipment: Shipment) -> None:
        """Say what can never be resident."""
        self._out_of_reach = shipment.within_reach < self._gate.gate
        if shipment.beyond:
            self._note(f"the heir's pool has no room for {shipment.beyond:,} of the hot pages")
        if shipment.absent and self._out_of_reach:
            self._note(
                f"{shipment.absent:,} of the hot pages do not exist on the heir, whose files are laid out otherwise"
            )

    def _present(self, shipment: Shipment) -> int | None:
        there = self._heir.pool.resident()
        if isinstance(there, Unlisted):
            self._note(there.why)
            return None
        return Resident(there).count(shipment.pages)

    def _load(self, shipment: Shipment, missing: int) -> None:
        """Let the heir read; return when it is done or the time is over, which leaves it reading."""
        name = self._heir.instance.id.short
        refused = self._heir.pool.begin_load(shipment.pages)
        if refused is not None:
            self._note(refused.why)
            return
        began = self._clock.monotonic_ns()
        while not (state := self._heir.pool.loading()).done:
            if self._took() >= self._gate.within:
                self._note(f"{name} still loads: {state.read:,} of {missing:,} pages are read")
                return
            spent = (self._clock.monotonic_ns() - began) / 1e9
            rest = (missing - state.read) * spent / state.read if 0 < state.read < missing else None
            eta = "" if rest is None else f", about {rest:.0f} s to go"
            self._around.tell(f"{name} has read {min(state.read, missing):,} of {missing:,} pages{eta}")
            self._pause(_LOOK_EVERY)

    # ---- canaries

    def _compare(self) -> tuple[tuple[Compared, ...], float | None]:
        """Every canary on both in turn, so that whatever else happens on this machine meets both."""
        before = self._heir.canaries.reads()
        found = tuple(filter(None, map(self._one, self._chosen.canaries)))
        after = self._heir.canaries.reads()
        asked = after.asked - before.asked
        return found, 1 - (after.missed - before.missed) / asked if found and asked > 0 else None

    def _one(self, canary: Canary) -> Compared | None:
        took: dict[str, list[float]] = {"victim": [], "heir": []}
        try:
            for turn in range(ROUNDS):
                # The heir first: what the victim answers next is in no cache that the two could share.
                took["heir"].append(self._heir.canaries.run(canary, turn))
                took["victim"].append(self._victim.canaries.run(canary, turn))
                self._around.check()
                self._clock.sleep(min(timedelta(milliseconds=took["victim"][-1] / VICTIMS_SHARE), _LONGEST_PAUSE))
        except ServerGoneError:
            raise
        except ServerError as error:
            self._note(f"{canary.name} cannot be compared: {error}")
            # One that the policy asked for, or that only the heir rejects, was not passed (I10).
            self._rejected |= bool(self._gate.canaries) or len(took["victim"]) == len(took["heir"])
            return None
        return Compared(victim=Latency.of(canary.name, took["victim"]), heir=Latency.of(canary.name, took["heir"]))

    # ---- time and words

    def _pause(self, span: timedelta) -> None:
        self._around.check()
        self._clock.sleep(span)

    def _took(self) -> timedelta:
        return timedelta(microseconds=(self._clock.monotonic_ns() - self._began) // 1000)

    def _note(self, words: str) -> None:
        self._notes[words] = None


def baseline(chosen: Sampled, victim: Canaries, clock: Clock, rounds: int = 10) -> Baseline:
    """How fast the canaries are on the victim now. What it rejects is left out; ServerGoneError passes through."""
    found, left_out = [], []
    for canary in chosen.canaries:
        took = []
        try:
            for turn in range(rounds):
                took.append(victim.run(canary, turn))
                clock.sleep(min(timedelta(milliseconds=took[-1]), _LONGEST_PAUSE))
        except ServerGoneError:
            raise
        except ServerError as error:
            left_out.append(f"{canary.name} is not followed: {error}")
        else:
            found.append(Latency.of(canary.name, took))
    return Baseline(canaries=tuple(found), note="; ".join((*([chosen.why] if chosen.why else []), *left_out)))
