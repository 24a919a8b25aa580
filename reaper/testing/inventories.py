"""What a simulated server has, and how its events change hands: values only, as a real one would answer."""

from dataclasses import replace

from reaper.domain.facts import Flavour
from reaper.domain.parity import (
    Accounts,
    Amiss,
    Events,
    EventStatus,
    HandOver,
    Inventory,
    Item,
    Items,
    Scheduler,
    Schemas,
)
from reaper.planner.parity import not_handed_over

_NONE = Items(items=())
NO_EVENTS = Events(scheduler=Scheduler.OFF, events=())


def simulated(
    *, parity: tuple[tuple[str, str], ...] = (("version", "10.11"),), events: Events = NO_EVENTS
) -> Inventory:
    """The inventory of a simulated server; `parity` are its knobs: the version's series and its variables."""
    knobs = dict(parity)
    series = knobs.pop("version", "10.11")
    return Inventory(
        flavour=Flavour.MARIADB,
        version=f"{series}.8-MariaDB",
        variables=Items(items=tuple(Item(name=n, value=v) for n, v in sorted(knobs.items()))),
        plugins=_NONE,
        accounts=Accounts(accounts=()),
        schemas=Schemas(schemas=()),
        events=events,
        timezones=_NONE,
        filters=_NONE,
    )


def disabled_by_replication(events: Events) -> Events:
    """A master's events as a replica has them."""
    asleep = (replace(event, status=EventStatus.DISABLED_ON_REPLICA) for event in events.events)
    return replace(events, events=tuple(asleep))


def handed_over(wanted: HandOver, heir: Events) -> tuple[Events, tuple[Amiss, ...]]:
    """The heir's events after a hand-over, and what is amiss; the siblings have them disabled by replication."""
    due = {event.full_name: event for event in wanted.events}
    taken = tuple(
        replace(event, status=EventStatus.ENABLED, definer=due[event.full_name].definer)
        if event.full_name in due
        else event
        for event in heir.events
    )
    wished = Scheduler.ON if wanted.scheduler is Scheduler.ON else Scheduler.OFF
    scheduler = Scheduler.DISABLED if heir.scheduler is Scheduler.DISABLED else wished
    after = Events(scheduler=scheduler, events=taken)
    return after, not_handed_over(wanted, after)
