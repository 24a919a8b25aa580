"""What two servers of a cluster must have in common, item by item (E18, E19), and how they differ.

Definitions, grants and passwords are here as digests only: an inventory can be shown and stored.
"""

from dataclasses import dataclass
from enum import StrEnum

from reaper.domain.facts import Flavour


class Kind(StrEnum):
    """What an item of an inventory is."""

    VERSION = "version"
    VARIABLE = "variable"
    PLUGIN = "plugin"
    ACCOUNT = "account"
    SCHEMA = "schema"
    TABLE = "table"
    VIEW = "view"
    ROUTINE = "routine"
    TRIGGER = "trigger"
    EVENT = "event"
    TIMEZONE = "timezone"
    FILTER = "filter"


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A part of an inventory that could not be read, and why. It counts as a difference (I10)."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """A named value: a setting's text, or the SHA-256 of a definition in hexadecimal."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Items:
    """A part of an inventory whose items have a name and a value, sorted by name."""

    items: tuple[Item, ...]


@dataclass(frozen=True, kw_only=True)
class Account:
    """A user or a role."""

    name: str  # 'user'@'host'
    grants: str  # digest of the grants, the plugin that authenticates, and the account's limits
    password: str  # digest under a key that is drawn for one comparison


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """Every user and role, sorted by name."""

    accounts: tuple[Account, ...]


@dataclass(frozen=True, kw_only=True)
class SchemaObject:
    """A table, view, routine or trigger."""

    kind: Kind
    name: str  # without its schema
    digest: str  # of the definition, without AUTO_INCREMENT


@dataclass(frozen=True, kw_only=True)
class SchemaFacts:
    """One schema with what is in it."""

    name: str
    digest: str  # of the schema and all its objects: equal ones need not be looked into
    options: str  # digest of its own character set, collation and options
    objects: tuple[SchemaObject, ...]  # sorted


@dataclass(frozen=True, kw_only=True)
class Schemas:
    """Every schema that is neither the server's nor reaper's own, sorted by name."""

    schemas: tuple[SchemaFacts, ...]


class EventStatus(StrEnum):
    """Whether a server runs an event."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    DISABLED_ON_REPLICA = "disabled on replica"  # what replication makes of both others


class Scheduler(StrEnum):
    """The state of the event scheduler."""

    ON = "ON"
    OFF = "OFF"
    DISABLED = "DISABLED"  # by a start option: it cannot be switched on


@dataclass(frozen=True, kw_only=True)
class EventFacts:
    """A scheduled event."""

    schema: str
    name: str
    digest: str  # of schedule, body and all that decides what it does, without status and definer
    status: EventStatus
    definer: str  # user@host
    client_charset: str  # in which its body is read; ALTER EVENT replaces both by the session's (10.11)
    connection_collation: str

    @property
    def full_name(self) -> str:
        """Its name with its schema."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, kw_only=True)
class Events:
    """Every event, sorted by name, and whether the server runs events at all."""

    scheduler: Scheduler
    events: tuple[EventFacts, ...]


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """Everything of one server that its successor must have too."""

    flavour: Flavour
    version: str  # in full
    variables: Items | Unread
    plugins: Items | Unread
    accounts: Accounts | Unread
    schemas: Schemas | Unread
    events: Events | Unread
    timezones: Items | Unread  # what the time zone tables hold
    filters: Items | Unread  # of replication and of the binary log; only those that are set

    @property
    def series(self) -> str:
        """The first two numbers of the version."""
        return ".".join(self.version.split("-")[0].split(".")[:2])


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """What the dead master ran by schedule and its heir has to run now (E19)."""

    scheduler: Scheduler
    events: tuple[EventFacts, ...]  # those that were enabled


@dataclass(frozen=True, kw_only=True)
class Amiss:
    """What did not change hands, and why."""

    name: str  # of the event, or event_scheduler
    why: str

    def __str__(self) -> str:
        return f"{self.name} {self.why}"


class Severity(StrEnum):
    """What a difference does to a run."""

    BLOCKS = "blocks"  # replication or clients notice
    NOTES = "notes"  # shown only


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One item in which a server differs from the master."""

    kind: Kind
    name: str
    reference: str  # the master's value; of a digest its beginning
    subject: str
    severity: Severity
    why: str  # what comes of it, in one clause

    @property
    def label(self) -> str:
        """The item as a waiver may name it."""
        return f"{self.kind} {self.name}"

    def names(self, text: str | None) -> bool:
        """True if a waiver's `difference` means this one: with its kind, by its name alone, or all (None)."""
        return text is None or text in (self.name, self.label)


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How one member differs from the master."""

    reference: str  # the master's name
    subject: str
    differences: tuple[Difference, ...]
