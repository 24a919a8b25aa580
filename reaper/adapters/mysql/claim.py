"""Reaper's advisory lock in a server; the same statements in both flavours.

`GET_LOCK` belongs to a session, several at a time since MariaDB 10.0.2 and MySQL 5.7.5, and names may have 64
characters (both manuals). A second lock, named after the run, tells whose the first one is.
"""

import contextlib
from hashlib import sha256

from reaper.adapters.mysql.connection import Ask
from reaper.domain.errors import ServerError

_LOCK = "reaper.rotation"  # of the server, so that two stores that name its cluster differently meet
_AFTER_A_KILL_S = 5  # how long a session that was ended may take to let go
_LONGEST_IDLE_S = 31_536_000  # the largest wait_timeout, both manuals: a build or an approval may take days


def claim(ask: Ask, run: str) -> str | None:
    """None: the lock is this session's, for this run; otherwise who has it, in words."""
    ours = f"reaper.{sha256(run.encode()).hexdigest()[:32]}"
    held = "SELECT IS_USED_LOCK(%s) AS holder, IS_USED_LOCK(%s) AS same_run, CONNECTION_ID() AS me"
    state = ask(held, _LOCK, ours)[0]
    if state["holder"] == state["me"]:
        return None
    ask(f"SET SESSION wait_timeout = {_LONGEST_IDLE_S}")
    within = 0
    if state["holder"] is not None and state["holder"] == state["same_run"]:
        with contextlib.suppress(ServerError):  # it may have ended by now
            ask(f"KILL {int(state['holder'])}")
        within = _AFTER_A_KILL_S
    if not ask("SELECT GET_LOCK(%s, %s) AS taken", _LOCK, within)[0]["taken"]:
        return _session(ask, ask(held, _LOCK, ours)[0]["holder"])
    ask("SELECT GET_LOCK(%s, %s) AS taken", ours, within)
    return None


def _session(ask: Ask, number: object) -> str:
    rows = ask("SELECT user, host FROM information_schema.processlist WHERE id = %s", number)
    return f"session {number}" + (f" ({rows[0]['user']}@{rows[0]['host']})" if rows else "")
