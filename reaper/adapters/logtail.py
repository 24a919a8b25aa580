"""The end of a program's log, for a message."""

from pathlib import Path

_LINES = 6
_READ_BYTES = 64 * 1024


def log_tail(log: Path) -> str:
    """The last lines of a log that say something, as one line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _READ_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "no log was written"
    lines = [line.strip() for line in lines if line.strip()]
    telling = [line for line in lines if "[ERROR]" in line or line.lower().startswith(("error", "fatal"))]
    shown = telling[-_LINES:] or lines[-_LINES:]
    if lines and lines[-1] not in shown:
        shown.append(lines[-1])
    return " | ".join(shown) or "the log is empty"
