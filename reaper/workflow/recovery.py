"""Time to normal: canaries on the new master until they are as fast as they were on the old one."""

from datetime import timedelta

from reaper.domain.canary import Canary
from reaper.domain.errors import ServerError
from reaper.domain.warmth import Baseline, Point, Recovery, rank, thinned, times
from reaper.workflow.pools import Canaries
from reaper.workflow.ports import Clock

EVERY = timedelta(milliseconds=250)
LIMIT = timedelta(seconds=60)
ROUNDS_IN_A_ROW = 8  # two seconds of normal answers
_SMOOTHED = 3  # of a canary's last answers the median counts: one slow answer on a busy machine is no relapse


def follow(
    master: Canaries,
    canaries: tuple[Canary, ...],
    before: Baseline,
    clock: Clock,
    *,
    killed_ns: int,
    factor: float,
    limit: timedelta = LIMIT,
) -> Recovery:
    """Watch until enough successive rounds are normal, or `limit` after the kill. Never raises a ServerError.

    `master`: a session that was opened before the kill. A round is normal if each canary answers within `factor`
    times its median on the victim, or no slower than it sometimes was there.
    """
    lately: dict[str, list[float]] = {}
    known = {latency.name: latency for latency in before.canaries}
    followed = [canary for canary in canaries if canary.name in known]
    curve: list[Point] = []
    notes = dict.fromkeys([before.note] if before.note else [])
    normal_since: timedelta | None = None
    in_a_row = turn = 0
    while followed and in_a_row < ROUNDS_IN_A_ROW:
        began = clock.monotonic_ns()
        after = timedelta(microseconds=(began - killed_ns) // 1000)
        if after > limit:
            break
        ratio: float | None = 0.0
        normal = True
        for canary in followed:
            try:
                answers = [*lately.get(canary.name, ()), master.run(canary, turn)][-_SMOOTHED:]
            except ServerError as error:
                notes[f"{canary.name}: {error}"] = None
                ratio, normal, lately = None, False, {}
                break
            lately[canary.name] = answers
            took_ms = rank(answers, 0.5)
            latency = known[canary.name]
            normal = normal and latency.bears(took_ms, factor)
            ratio = max(ratio or 0.0, times(took_ms, latency.p50_ms))
        curve.append(Point(after=after, ratio=ratio))
        normal_since = (after if normal_since is None else normal_since) if normal else None
        in_a_row = in_a_row + 1 if normal else 0
        turn += 1
        rest = EVERY - timedelta(microseconds=(clock.monotonic_ns() - began) // 1000)
        if in_a_row < ROUNDS_IN_A_ROW and rest > timedelta(0):
            clock.sleep(rest)
    return Recovery(
        curve=thinned(curve),
        time_to_normal=normal_since if in_a_row >= ROUNDS_IN_A_ROW else None,
        baseline=before.canaries,
        factor=factor,
        notes=tuple(notes),
    )
