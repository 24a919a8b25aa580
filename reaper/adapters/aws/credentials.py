"""Logins that AWS keeps or makes: Secrets Manager, an SSM parameter, an RDS token. See `adapters/credentials.py`."""

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from reaper.adapters.aws.calls import Calls
from reaper.adapters.aws.errors import ask
from reaper.adapters.credentials import understand
from reaper.adapters.tls import ServerTls
from reaper.domain.errors import UsageError
from reaper.domain.facts import Address
from reaper.workflow.engine import Login

# "The authentication token has a lifetime of 15 minutes" (Amazon RDS User Guide, IAM database authentication);
# kept for less, so that one which is handed out can still be used.
TOKEN_KEPT = timedelta(minutes=10)
_TALKATIVE = ("boto3", "botocore", "urllib3")


def hush() -> None:
    """At DEBUG the libraries log the bodies of answers, and so the secrets: never let them."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level < logging.INFO:  # NOTSET takes what the root has, which may be DEBUG
            logger.setLevel(logging.INFO)


@dataclass(frozen=True, kw_only=True)
class SecretSource:
    """A secret in Secrets Manager, by name or ARN: JSON as RDS and its rotation write it, or a bare password."""

    calls: Calls
    secret: str
    user: str | None = None

    def login(self) -> Login:
        """The current version."""
        hush()
        said = self.calls.ask("get_secret_value", SecretId=self.secret)
        text = said.get("SecretString")
        if text is None:
            raise UsageError(f"the secret {self.secret} is binary: store a text, JSON with username and password")
        return understand(text, self.user, f"the secret {self.secret}")


@dataclass(frozen=True, kw_only=True)
class ParameterSource:
    """An encrypted parameter of Systems Manager."""

    calls: Calls
    parameter: str
    user: str | None = None

    def login(self) -> Login:
        """The newest version, or the one that the name says after a colon."""
        hush()
        said = self.calls.ask("get_parameter", Name=self.parameter, WithDecryption=True)["Parameter"]
        if said["Type"] != "SecureString":
            raise UsageError(
                f"the parameter {self.parameter} is a {said['Type']}, which is stored and shown in the clear: store "
                "the password as a SecureString, and change it"
            )
        return understand(said["Value"], self.user, f"the parameter {self.parameter}")


@dataclass(frozen=True, kw_only=True)
class RdsTokenSource:
    """A token that RDS takes for a password, for one server and user. Signed here: AWS is not asked.

    The server gets it as it is, so the connection has to verify the server.
    """

    client: Any  # of rds: its credentials sign
    address: Address
    user: str
    tls: ServerTls

    def login(self) -> Login:
        """A new token. It ends when the credentials that signed it end, at the latest after 15 minutes."""
        if not self.tls.verified:
            raise UsageError(
                f"an RDS token is sent to {self.address} as it is: verify the server (`verify: full`, the `ca_file` of "
                "RDS), or use another source"
            )
        hush()
        token: str = ask(
            f"sign a token for {self.user} at {self.address}",
            lambda: self.client.generate_db_auth_token(
                DBHostname=self.address.host, Port=self.address.port, DBUsername=self.user
            ),
        )
        return Login(self.user, token)
