"""How a connection to a server is encrypted, and what of the server is verified."""

import socket
import ssl
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any

from pymysql.constants import CR

from reaper.domain.errors import UsageError


class Verify(StrEnum):
    """What has to be proved before a password is sent."""

    FULL = "full"  # who signed the certificate, and that it is this server's
    CHAIN = "chain"  # who signed it: any server of that authority is as good
    NOTHING = "nothing"  # encrypted only: for servers on loopback that made their certificates themselves


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """What the site's configuration says of it."""

    verify: Verify = Verify.FULL
    ca_file: Path | None = None  # PEM, one or more; None: the system's authorities
    name: str | None = None  # that the certificate is for; None: the host that is connected to

    @property
    def verified(self) -> bool:
        """True if a password may be sent as it is: nobody but the server can have it."""
        return self.verify is not Verify.NOTHING

    def context(self) -> ssl.SSLContext:
        """A context for connections, which may be shared. UsageError: the file of authorities is of no use."""
        if self.ca_file is None:
            return _context(self, 0)
        try:
            changed = self.ca_file.stat().st_mtime_ns
        except OSError as error:
            raise UsageError(
                f"the CA file {self.ca_file} cannot be read: {error.strerror}. Correct `ca_file`"
            ) from error
        return _context(self, changed)


ENCRYPTED = ServerTls(verify=Verify.NOTHING)  # what a lab's servers offer, with the certificates that they made


def refused(error: Exception) -> str | None:
    """Why TLS did not come about, in words, from what PyMySQL raised; None: something else went wrong.

    No password was sent then, and the server is no less alive for it.
    """
    if error.args and error.args[0] == CR.CR_SSL_CONNECTION_ERROR:
        return "it offers no TLS, so no password was sent. Switch TLS on in the server, or off for it in the settings"
    match getattr(error, "original_exception", None):
        case ssl.SSLCertVerificationError() as cause:
            return (
                f"its certificate is not accepted ({cause.verify_message.rstrip('.')}), so no password was sent: "
                "somebody else may be answering, or correct `ca_file`, `name` or the server's certificate"
            )
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return None  # it went away
        case ssl.SSLError() as cause:
            return f"no TLS came about ({cause.strerror or cause}), so no password was sent: TLS 1.2 is the least"
    return None


@lru_cache(maxsize=64)  # a context costs 25 ms; made again when the file has changed
def _context(tls: ServerTls, _changed_ns: int) -> ssl.SSLContext:
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.name = tls.name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.verify is Verify.FULL
    context.verify_mode = ssl.CERT_REQUIRED if tls.verified else ssl.CERT_NONE
    if tls.ca_file is None:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(tls.ca_file)
    except (OSError, ssl.SSLError) as error:  # SSLError is an OSError; said, because it is the common case
        raise UsageError(
            f"the CA file {tls.ca_file} holds no certificates in PEM ({error.strerror or error}): correct `ca_file`"
        ) from error
    return context


class _Named(ssl.SSLContext):
    """Checks for a configured name in place of the host, which may be an address or a tunnel's end."""

    name: str | None = None

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        """As the library's; PyMySQL passes the host that it connects to."""
        if self.name is not None:
            options["server_hostname"] = self.name
        return super().wrap_socket(sock, *args, **options)
