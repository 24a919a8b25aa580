"""What a simulated cluster looks like at one moment."""

from dataclasses import dataclass

from reaper.domain.facts import Address
from reaper.testing.machine import Machine
from reaper.testing.parts import MARKER


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a cluster looks like, without its data: equal before and after a run that was undone (I9)."""

    members: tuple[tuple[str, ...], ...]
    tables: tuple[tuple[str, frozenset[str]], ...]
    markers: tuple[str, ...]
    snapshots: tuple[str, ...]
    endpoint: Address | None


def picture_of(machines: tuple[Machine, ...], snapshots: tuple[str, ...], endpoint: Address | None) -> Picture:
    """Take the picture."""
    running = [m for m in machines if m.runs]
    return Picture(
        members=tuple(_row(m) for m in machines),
        tables=tuple((m.id.short, frozenset(m.tables) - {MARKER}) for m in running),
        markers=tuple(f"{m.id.short}: {row[0]}" for m in running for row in m.tables.get(MARKER, ())),
        snapshots=snapshots,
        endpoint=endpoint,
    )


def _row(m: Machine) -> tuple[str, ...]:
    channel = m.channel
    replication = (
        (f"follows {channel.source}", f"receiving {channel.receiving}", f"applying {channel.applying}")
        if channel
        else ("follows nobody",)
    )
    return (m.id.short, f"server id {m.server_id}", m.state.value, m.openness.value, *replication)
