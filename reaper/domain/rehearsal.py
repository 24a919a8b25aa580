"""A rehearsal: a sibling replicates from the heir for a moment, before anybody dies (E21)."""

from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from reaper.domain.facts import Address, InstanceId


class Obstacle(StrEnum):
    """What keeps a sibling from replicating from the heir."""

    DENIED = "denied"  # the account was rejected: password, host or encryption
    NO_GRANT = "no grant"  # the account may log in and not replicate
    UNREACHABLE = "unreachable"  # nothing listens there for this sibling
    SILENT = "silent"  # no answer and no error within the time
    SAME_ID = "same id"  # both have one server id or UUID
    NO_TLS = "no tls"  # the channel asks for TLS and the heir offers none
    BEHIND = "behind"  # the heir cannot continue where the sibling stands
    OTHER = "other"


class Transport(StrEnum):
    """How a channel is configured to connect."""

    PLAIN = "plain"
    TLS = "tls"


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What became of one connection. Nothing of it is left on the sibling."""

    obstacle: Obstacle | None  # None: events arrived
    said: str  # the server's own words; "" if it connected
    user: str  # as whom
    transport: Transport


@dataclass(frozen=True, kw_only=True)
class Account:
    """The replication account as the heir knows it, once per host."""

    host: str  # a pattern: `10.0.%`, `10.0.0.0/255.255.0.0`, `%`
    transport: Transport  # what it requires; PLAIN: any


class Trial(StrEnum):
    """How a rehearsal ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # it could not be done safely; says nothing of the sibling


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """One sibling's rehearsal, in words for a person."""

    instance: InstanceId
    trial: Trial
    why: str

    @property
    def ok(self) -> bool:
        """True if it passed; a skipped one is no yes (I10)."""
        return self.trial is Trial.PASSED


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Who connects to whom."""

    sibling: InstanceId
    sibling_host: str  # where the sibling comes from, as far as its provider knows
    heir: InstanceId
    address: Address  # of the heir


def told(pair: Pair, attempt: Attempt, accounts: tuple[Account, ...] | None) -> str:
    """The sentence for a failed attempt: sibling, heir, cause, remedy. `accounts` None: could not be read."""
    sibling, heir = pair.sibling.short, f"{pair.heir.short} ({pair.address})"
    cause, remedy = _explained(pair, attempt, accounts)
    said = f" [{attempt.said}]" if attempt.said else ""
    return f"{sibling} cannot replicate from {heir}: {cause}. {remedy}{said}"


def _explained(pair: Pair, attempt: Attempt, accounts: tuple[Account, ...] | None) -> tuple[str, str]:
    sibling, heir, user = pair.sibling.short, pair.heir.short, attempt.user
    match attempt.obstacle:
        case Obstacle.DENIED:
            return _denied(pair, attempt, accounts)
        case Obstacle.NO_GRANT:
            return (
                f"the account {user!r} lacks REPLICATION SLAVE there",
                f"Grant it on the master, see why {heir} has other grants than its source, and rotate again.",
            )
        case Obstacle.UNREACHABLE:
            return (
                "nothing accepts its connection",
                f"Open the firewall from {sibling} to {pair.address}, and see what address {heir} listens on.",
            )
        case Obstacle.SILENT:
            return (
                "no answer came in time",
                f"See whether a firewall drops packets from {sibling} to {pair.address}, and how loaded {heir} is.",
            )
        case Obstacle.SAME_ID:
            return (
                "both have the same server id or UUID",
                f"Give {heir} a server id that no member ever had (and a new auto.cnf), then rotate again.",
            )
        case Obstacle.NO_TLS:
            return (
                f"its channel asks for TLS and {heir} offers none",
                f"Give {heir} a certificate and key in its configuration, as the master has.",
            )
        case Obstacle.BEHIND:
            return (
                f"the binary log of {heir} does not go on where {sibling} stands",
                f"Let {heir} catch up, or build it from a newer snapshot; see {sibling} for transactions of its own.",
            )
        case Obstacle.OTHER | None:
            return "its receiver stopped", f"See the error log of {sibling}, mend the cause, and rotate again."


def _denied(pair: Pair, attempt: Attempt, accounts: tuple[Account, ...] | None) -> tuple[str, str]:
    heir, user = pair.heir.short, attempt.user
    rejected = f"the account {user!r} is rejected"
    if accounts is None:
        return (
            f"{rejected}: its password, its host or missing TLS (its definition on {heir} could not be read)",
            f"Compare the account on {heir} with the master's.",
        )
    if not accounts:
        return f"there is no account {user!r} on {heir}", "Create it on the master, so that it replicates to all."
    fit = [a for a in accounts if _may_come(a.host, pair.sibling_host)]
    if not fit:
        known = ", ".join(f"{user!r}@{a.host!r}" for a in accounts)
        return (
            f"{rejected}: it may not come from {pair.sibling_host}, there is only {known}",
            f"Create it for {pair.sibling_host} on the master, so that it replicates to all.",
        )
    if attempt.transport is Transport.PLAIN and all(a.transport is Transport.TLS for a in fit):
        return (
            f"{rejected}: it must use TLS there, and the channel of {pair.sibling.short} does not",
            f"Turn TLS on for the channel of {pair.sibling.short}, or take the requirement from the account.",
        )
    return (
        f"{rejected}: its password is another one there",
        f"Give reaper the password that the account has on {heir}, or make both equal on the master.",
    )


def _may_come(pattern: str, host: str) -> bool:
    """True if an account's host pattern fits an address; `localhost` fits loopback, whose names servers resolve."""
    if "/" in pattern:
        try:
            return ip_address(host) in ip_network(pattern, strict=False)
        except ValueError:
            return False
    if pattern.lower() == "localhost":
        return host in ("localhost", "127.0.0.1", "::1")
    return fnmatchcase(host.lower(), pattern.lower().replace("%", "*").replace("_", "?"))
