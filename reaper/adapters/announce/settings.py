"""The form of `channels:` in reaper.yaml. What is wrong is said without repeating the value, which may be a secret."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, model_validator

from reaper.adapters.announce.channels import (
    LOG,
    Channel,
    CommandChannel,
    EmailChannel,
    LogChannel,
    Secret,
    SnsChannel,
    Tls,
    WebhookChannel,
)

_MOST_CHANNELS = 50
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MAIL = re.compile(r"[^\s@<>,;]+@[^\s@<>,;]+")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]+")
_PORTS = {Tls.STARTTLS: 587, Tls.TLS: 465, Tls.NONE: 25}


def _name(value: str) -> str:
    if value == LOG:
        raise ValueError(f"{LOG} is always there and is not configured: choose another name")
    if _NAME.fullmatch(value) is None:
        raise ValueError("a channel's name has lower case letters, digits, - and _, such as ops-chat")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, half a bracket
        good = False
    if not good or any(c.isspace() for c in value):
        raise ValueError("has to be an address such as https://hooks.example.org/services/...")
    return value


def _mail(value: str) -> str:
    if _MAIL.fullmatch(value) is None:
        raise ValueError("has to be a mail address such as ops@example.org")
    return value


def _file(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("has to be an absolute path")
    return value


def _topic(value: str) -> str:
    if _TOPIC.fullmatch(value) is None:
        raise ValueError("has to be the ARN of a standard topic: arn:aws:sns:REGION:ACCOUNT:NAME")
    return value


_Name = Annotated[str, AfterValidator(_name)]
_Text = Annotated[str, Field(min_length=1, max_length=500)]
_Url = Annotated[str, Field(max_length=2000), AfterValidator(_url)]
_Mail = Annotated[str, Field(max_length=254), AfterValidator(_mail)]
_File = Annotated[str, Field(max_length=1000), AfterValidator(_file)]
_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=200)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class LogSection(_Section):
    """The log, under one more name."""

    kind: Literal["log"]

    def channel(self, name: str) -> Channel:
        """Its meaning."""
        return LogChannel(name=name)


class WebhookSection(_Section):
    """A Slack-compatible webhook; its address is best kept out of the file."""

    kind: Literal["webhook"]
    url: _Url | None = None
    url_env: _Variable | None = None
    url_file: _File | None = None

    @model_validator(mode="after")
    def _one_url(self) -> Self:
        if [self.url, self.url_env, self.url_file].count(None) != 2:
            raise ValueError("say one of url, url_env and url_file")
        return self

    def channel(self, name: str) -> Channel:
        """Its meaning."""
        file = None if self.url_file is None else Path(self.url_file)
        return WebhookChannel(name=name, url=Secret(said=self.url, env=self.url_env, file=file))


class EmailSection(_Section):
    """Mail; a password is only sent over TLS and is never in the file."""

    kind: Literal["email"]
    host: _Text
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    tls: Literal["starttls", "tls", "none"] = "starttls"
    sender: _Mail = Field(alias="from")
    to: Annotated[list[_Mail], Field(min_length=1, max_length=50)]
    user: _Text | None = None
    password_env: _Variable | None = None
    password_file: _File | None = None

    @model_validator(mode="after")
    def _login(self) -> Self:
        passwords = 2 - [self.password_env, self.password_file].count(None)
        if passwords != (0 if self.user is None else 1):
            raise ValueError("a login is user with one of password_env and password_file")
        if passwords and self.tls == "none":
            raise ValueError("a password is only sent over TLS: say tls: starttls or tls: tls")
        return self

    def channel(self, name: str) -> Channel:
        """Its meaning."""
        tls = Tls(self.tls)
        file = None if self.password_file is None else Path(self.password_file)
        return EmailChannel(
            name=name,
            host=self.host,
            port=self.port or _PORTS[tls],
            tls=tls,
            sender=self.sender,
            to=tuple(self.to),
            user=self.user,
            password=None if self.user is None else Secret(env=self.password_env, file=file),
        )


class SnsSection(_Section):
    """A topic of AWS SNS."""

    kind: Literal["sns"]
    topic: Annotated[str, AfterValidator(_topic)]

    def channel(self, name: str) -> Channel:
        """Its meaning."""
        return SnsChannel(name=name, topic=self.topic)


class CommandSection(_Section):
    """A program and its arguments; no shell reads them."""

    kind: Literal["command"]
    command: Annotated[list[_Text], Field(min_length=1, max_length=50)]

    def channel(self, name: str) -> Channel:
        """Its meaning."""
        return CommandChannel(name=name, command=tuple(self.command))


ChannelSection = Annotated[
    LogSection | WebhookSection | EmailSection | SnsSection | CommandSection, Field(discriminator="kind")
]


class ChannelsSection(RootModel[Annotated[dict[_Name, ChannelSection], Field(max_length=_MOST_CHANNELS)]]):
    """Channels by name. The log is always there, under the name `log`."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)

    def channels(self) -> tuple[Channel, ...]:
        """Their meaning, the log first."""
        return (LogChannel(), *(section.channel(name) for name, section in self.root.items()))
