"""What a source's binary logs still hold, and whether that is enough for a copy (E15)."""

from reaper.domain.gtid import GtidSet, MariadbGtid, MariadbGtidSet


def can_feed(position: GtidSet, purged: GtidSet) -> str | None:
    """None: a replica that stands at `position` finds in the source's logs all that it lacks; otherwise why not.

    `purged` is what the logs no longer hold: MySQL's gtid_purged, or MariaDB's state at the start of its oldest
    log. A MariaDB position names one GTID per domain, so only the newest of each domain is compared; that is
    enough under gtid_strict_mode, where the numbers of a domain only grow. TypeError: different flavours.
    """
    if isinstance(position, MariadbGtidSet) and isinstance(purged, MariadbGtidSet):
        reached = _newest(position)
        gone = [e for e in _newest(purged).values() if reached.get(e.domain, _nothing(e)).sequence < e.sequence]
        missing = ", ".join(f"{reached[e.domain]}..{e}" if e.domain in reached else f"..{e}" for e in gone)
    else:
        missing = ", ".join(map(str, purged.beyond(position)))
    if not missing:
        return None
    return (
        f"the source has purged binary logs that the copy still needs ({missing}): "
        "take a newer snapshot, and let the source keep its logs for longer than a build takes"
    )


def _newest(gtids: MariadbGtidSet) -> dict[int, MariadbGtid]:
    return {e.domain: e for e in MariadbGtidSet.parse(gtids.position()).entries}


def _nothing(gtid: MariadbGtid) -> MariadbGtid:
    return MariadbGtid(gtid.domain, 0, 0)
