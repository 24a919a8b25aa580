"""The channels of a site, as `reaper.yaml` names them. Facts only; a secret is read when it is needed."""

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from reaper.domain.errors import UsageError

LOG = "log"  # the channel that is always there
_MOST_BYTES = 8192


@dataclass(frozen=True, kw_only=True)
class Secret:
    """Where a secret is: said outright, in the environment, or in a file. One of the three."""

    said: str | None = field(default=None, repr=False)
    env: str | None = None
    file: Path | None = None

    def read(self) -> str:
        """The secret, read anew each time, so that a file can be replaced. UsageError: it is not there."""
        if self.said is not None:
            return self.said
        found = self._in_file(self.file) if self.file is not None else os.environ.get(self.env or "", "")
        if not found.strip():
            raise UsageError(
                f"{self.file or f'the variable {self.env}'} is empty or not there: the secret belongs in it"
            )
        return found.strip()

    @staticmethod
    def _in_file(path: Path) -> str:
        try:
            with path.open("rb") as file:
                return file.read(_MOST_BYTES).decode()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise UsageError(f"{path} is no text: one line with the secret belongs in it") from None


class Tls(StrEnum):
    """How a mail server is spoken to."""

    STARTTLS = "starttls"  # refused if the server does not offer it
    TLS = "tls"  # from the first byte
    NONE = "none"  # in the clear, without a login


@dataclass(frozen=True, kw_only=True)
class LogChannel:
    """The log of the process."""

    name: str = LOG


@dataclass(frozen=True, kw_only=True)
class WebhookChannel:
    """A Slack-compatible incoming webhook."""

    name: str
    url: Secret


@dataclass(frozen=True, kw_only=True)
class EmailChannel:
    """A mail by SMTP."""

    name: str
    host: str
    port: int
    tls: Tls
    sender: str
    to: tuple[str, ...]
    user: str | None  # None: no login
    password: Secret | None


@dataclass(frozen=True, kw_only=True)
class SnsChannel:
    """A topic of AWS SNS, published to with the site's own credentials."""

    name: str
    topic: str  # its ARN


@dataclass(frozen=True, kw_only=True)
class CommandChannel:
    """A program that is given the announcement as JSON on its standard input; status 0 means delivered."""

    name: str
    command: tuple[str, ...]


Channel = LogChannel | WebhookChannel | EmailChannel | SnsChannel | CommandChannel


def secret_of(channel: Channel) -> Secret | None:
    """What a channel needs to know that nobody else may."""
    match channel:
        case WebhookChannel():
            return channel.url
        case EmailChannel():
            return channel.password
        case _:
            return None
