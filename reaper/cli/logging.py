"""Logs: readable on a terminal, JSON otherwise, without secrets."""

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from functools import cache
from typing import Any

_SECRET_WORDS = ("password", "secret", "token", "credential")
HIDDEN = "(hidden)"


def hide_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank every value whose key names a secret, at any depth."""
    for key, value in event.items():
        if any(word in str(key).lower() for word in _SECRET_WORDS):
            event[key] = HIDDEN
        elif isinstance(value, MutableMapping):
            event[key] = hide_secrets(_logger, _method, value)
    return event


@cache
def logger() -> Any:
    """The program's logger, to stderr, so that stdout stays for results. Imported when it is first used."""
    import structlog

    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            hide_secrets,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    return structlog.get_logger()


class _ToStructlog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr has gone: who only wanted to say something goes on
            logger().log(record.levelno, record.getMessage(), logger=record.name)


def bring_in(*names: str) -> None:
    """Let what libraries log arrive in our log, warnings and worse."""
    for name in names:
        library = logging.getLogger(name)
        library.handlers = [_ToStructlog(level=logging.WARNING)]
        library.propagate = False
