"""One exchange over HTTP, bounded in time and size. No redirect is followed, TLS is verified, no secret is repeated."""

import base64
import http.client
import logging
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.response import HTTPResponse
from urllib3.util import Url, parse_url

from reaper.adapters.patience import Deadline
from reaper.domain.errors import TryAgainError, UsageError

_AGENT = {"User-Agent": "reaper", "Accept-Encoding": "identity", "Connection": "close"}

# The library logs the whole address of an answer whose headers it cannot read.
logging.getLogger(urllib3.connection.__name__).addFilter(lambda record: "url=" not in str(record.msg))


class WebError(TryAgainError):
    """There was no whole answer."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back."""

    status: int
    body: bytes  # its beginning, if there is more
    whole: bool  # nothing was cut off; a body that was not asked for counts as whole


@dataclass(frozen=True, kw_only=True)
class Call:
    """What is sent: a GET without a body, a POST with one."""

    url: str
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    most_bytes: int = 0  # of the answer that are read; 0: the status is enough


def address_of(url: str) -> str:
    """An address as it may be shown: without user, password, query and fragment."""
    parsed = _parsed(url)
    return f"{_origin(parsed)}{parsed.path or ''}"


def origin_of(url: str) -> str:
    """An address whose path is a secret."""
    return f"{_origin(_parsed(url))}/…"


def exchange(call: Call, deadline: Deadline) -> Reply:
    """Ask once. UsageError: it is no address. WebError: there is no whole answer, with the reason.

    Runs in a thread of `Patience`, which ends it when the time is over.
    """
    url = _parsed(call.url)
    host = (url.host or "").strip("[]")
    headers = {**_AGENT, **_login(url), **(call.headers or {})}
    try:
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection: HTTPConnection = HTTPSConnection(host, url.port, timeout=deadline.left_s(), ssl_context=context)
        else:
            connection = HTTPConnection(host, url.port, timeout=deadline.left_s())
        try:
            connection.connect()
            open_socket = connection.sock
            with deadline.closing(lambda: open_socket.shutdown(socket.SHUT_RDWR)):
                connection.request(
                    "GET" if call.body is None else "POST", url.request_uri, call.body, headers, preload_content=False
                )
                response = connection.getresponse()
                body = _read(response, call.most_bytes)
                response.close()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, HTTPError, ValueError) as error:
        raise WebError(_why(error)) from None  # its own words may repeat the address
    return Reply(status=response.status, body=body[: call.most_bytes], whole=len(body) <= call.most_bytes)


def _read(response: HTTPResponse, most: int) -> bytes:
    """Up to one byte more than asked for. The last, empty read finds out that something is missing."""
    body = b""
    while most and len(body) <= most:
        chunk = response.read(most + 1 - len(body), decode_content=False)
        if not chunk:
            break
        body += chunk
    return body


def _parsed(url: str) -> Url:
    try:
        parsed = parse_url(url)
    except LocationParseError:
        parsed = Url()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError("its address is none: it has to be http://HOST/... or https://HOST/...") from None
    return parsed


def _origin(url: Url) -> str:
    return f"{url.scheme}://{url.host}{f':{url.port}' if url.port else ''}"


def _login(url: Url) -> dict[str, str]:
    if not url.auth:
        return {}
    return {"Authorization": f"Basic {base64.b64encode(unquote(url.auth).encode()).decode()}"}


def _why(error: BaseException) -> str:
    """Why there was no answer, in words that cannot hold an address."""
    link: BaseException | None = error
    for _ in range(10):
        match link:
            case None:
                break
            case ssl.SSLCertVerificationError():
                return f"its certificate does not count: {link.verify_message}"
            case ssl.SSLError():
                return f"TLS failed: {link.reason or 'the connection broke'}"
            case socket.gaierror():
                return "its name cannot be resolved"
            case TimeoutError():
                return "it did not answer in time"
            case OSError() if link.strerror:
                return f"no connection: {link.strerror}"
        link = link.__cause__ or link.__context__
    return f"it gave no whole HTTP answer ({type(error).__name__})"
