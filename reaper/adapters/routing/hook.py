"""A door that a program of the site opens: told in JSON on its standard input, read back by a second program.

Both are started without a shell and see nothing of reaper's environment but PATH, HOME and LANG. The mover ends with
status 0 when it has moved, with 3 when it refuses because the endpoint leads to neither `expected` nor `to`, with
anything else when it could not; it is called again after a lost answer. The shower prints one line of JSON:
`{"host": "10.0.0.4", "port": 3306}`, or `null` when it leads nowhere.
"""

import json
from dataclasses import dataclass
from datetime import timedelta

from reaper.adapters.doors import Sighting
from reaper.adapters.patience import Deadline
from reaper.adapters.plain import last_lines
from reaper.adapters.program import Ended, run
from reaper.domain.errors import RefusedError, TryAgainError, UsageError
from reaper.domain.facts import Address
from reaper.planner.words import in_words

_REFUSES = 3
_LINES, _CHARACTERS = 3, 200


@dataclass(frozen=True, kw_only=True)
class HookPrograms:
    """What the site configures of an endpoint that only it knows how to move."""

    move: tuple[str, ...]  # a program and its arguments, no shell
    show: tuple[str, ...]
    within: timedelta = timedelta(seconds=30)  # each of them; then it is killed with all that it started
    stale_for: timedelta = timedelta(0)  # how long clients may still go to the former target


class HookDoor:
    """Implements `adapters.doors.Door`."""

    def __init__(self, programs: HookPrograms, *, cluster: str, listen: Address) -> None:
        self._programs = programs
        self._cluster = cluster
        self._listen = listen

    @property
    def stale_for(self) -> timedelta:
        """As the site says."""
        return self._programs.stale_for

    def look(self) -> Sighting:
        """What the second program prints."""
        ended = self._run(self._programs.show, {"op": "show"})
        if ended.status != 0:
            raise TryAgainError(f"{self._said(self._programs.show, ended)}: where {self._listen} leads is unknown")
        return Sighting(target=self._target(ended.tail))

    def move(self, to: Address, now: Sighting) -> None:
        """Run the first program. It compares too: `expected` is what was seen a moment ago."""
        request: dict[str, object] = {"op": "route", "to": _json(to), "expected": _json(now.target)}
        ended = self._run(self._programs.move, request)
        if ended.status == _REFUSES:
            raise RefusedError(
                f"{self._said(self._programs.move, ended)}: the endpoint {self._listen} was not moved to {to}. Find "
                "out who moved it, then observe and plan again"
            )
        if ended.status != 0:
            raise TryAgainError(f"{self._said(self._programs.move, ended)}: {self._listen} may not lead to {to}")

    def settle(self, until_ns: int) -> None:
        """Whatever the site has to wait for, its program waits for."""

    def _run(self, command: tuple[str, ...], request: dict[str, object]) -> Ended:
        known = {"cluster": self._cluster, "endpoint": _json(self._listen)} | request
        told = {"REAPER_CLUSTER": self._cluster}
        return run(command, told=told, stdin=json.dumps(known).encode() + b"\n", deadline=Deadline(self._within))

    @property
    def _within(self) -> timedelta:
        return self._programs.within

    def _said(self, command: tuple[str, ...], ended: Ended) -> str:
        printed = " / ".join(last_lines(ended.tail, _LINES, _CHARACTERS)) or "it printed nothing"
        if ended.status is None:
            return f"{command[0]} did not end within {in_words(self._within)} and was killed ({printed})"
        return f"{command[0]} ended with status {ended.status} ({printed})"

    def _target(self, printed: bytes) -> Address | None:
        lines = printed.decode(errors="replace").strip().splitlines()
        try:
            said = json.loads(lines[-1] if lines else "")
        except ValueError:
            said = lines
        match said:
            case None:
                return None
            case {"host": str(host), "port": int(port)}:
                return Address(host, port)
        shown = " / ".join(last_lines(printed, _LINES, _CHARACTERS)) or "nothing"
        raise UsageError(
            f'{self._programs.show[0]} printed {shown}: its last line has to be {{"host": ..., "port": ...}}, or null '
            "when the endpoint leads nowhere"
        )


def _json(address: Address | None) -> dict[str, object] | None:
    return None if address is None else {"host": address.host, "port": address.port}
