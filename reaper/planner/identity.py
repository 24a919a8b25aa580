"""A replacement's identity against everybody's who ever was in the cluster, before it replicates (E14, E29).

`guard_identity` compares the registered ids of all members, and what the living say. This is the rest: what the
quarantined had, and ids that only the history still knows.
"""

from dataclasses import dataclass

from reaper.domain.facts import InstanceId
from reaper.domain.gtid import GtidSet, MariadbGtidSet, MysqlGtidSet


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who a server says it is, to others in replication."""

    instance: InstanceId
    server_id: int
    server_uuid: str | None  # None: the flavour has none, or it is not known (of a dead one)


def clashes(heir: Identity, others: tuple[Identity, ...], history: GtidSet) -> str | None:
    """None: a fresh replacement has an id of its own; otherwise whose it has, in words.

    `others`: the other members, quarantined ones included. `history`: what the cluster has executed; a server
    that never was a master does not occur in it, whoever has its id and is forgotten does.
    """
    name = heir.instance.short
    for other in others:
        if other.instance == heir.instance:
            continue
        if other.server_id == heir.server_id:
            return _words(name, f"server id {heir.server_id}", f"{other.instance.short} has")
        if heir.server_uuid is not None and other.server_uuid == heir.server_uuid:
            return _words(name, f"server UUID {heir.server_uuid}", f"{other.instance.short} has (a copied auto.cnf)")
    if isinstance(history, MariadbGtidSet) and any(e.server == heir.server_id for e in history.entries):
        return _words(name, f"server id {heir.server_id}", "a former master had")
    if isinstance(history, MysqlGtidSet):
        masters = {r.source.partition(":")[0] for r in history.ranges}
        if heir.server_uuid is not None and heir.server_uuid.lower() in masters:
            return _words(name, f"server UUID {heir.server_uuid}", "a former master had (a copied auto.cnf)")
    return None


def _words(name: str, what: str, whose: str) -> str:
    return (
        f"{name} has the {what}, which {whose}: it would skip that one's transactions in silence. "
        "Launch it again with an id that was never used in this cluster"
    )
