"""Start, follow and stop a probe process. However its owner ends, the probe ends with it."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Self

from reaper.adapters.probe.client import READY_WITHIN_S, ProbeConfig
from reaper.domain.errors import TryAgainError, UsageError
from reaper.domain.ledger import Fate, Ledger, Write

START_SLACK_S = 5.0  # for the interpreter to start, on top of the probe's own deadline
STOP_SLACK_S = 2.0  # likewise for its end
EXIT_WITHIN_S = 0.5  # from closing its stdout to its exit code
KILL_WITHIN_S = 10.0  # until a process that got a SIGKILL is gone
POLL_S = 0.005


class ProcessProbe:
    """A running probe. `start` makes one; it is a context manager that calls `close`."""

    def __init__(self, config: ProbeConfig) -> None:
        self._config = config
        self._tail = _Tail(Path(config.ledger))
        self._heard = b""
        self._ledger: Ledger | None = None
        self._trouble: str | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the probe, see close
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reaper.adapters.probe.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C in the terminal is not for it
        )

    @classmethod
    def start(cls, config: ProbeConfig) -> Self:
        """Start a probe and wait until each of its clients had a write acknowledged.

        Raises:
            UsageError: the account, the table or the ledger's path has to be changed first.
            TryAgainError: nothing was acknowledged in time.
        """
        probe = cls(config)
        try:
            probe._wait_ready()
        except BaseException:  # an interrupt as well: the process must not stay
            probe.close()
            raise
        return probe

    @property
    def pid(self) -> int:
        """Of the probe's process."""
        return self._process.pid

    @property
    def trouble(self) -> str | None:
        """Why the end was not clean; None: it was, or has not come. The ledger holds what was recorded."""
        return self._trouble

    def acknowledged_since(self, ns: int) -> dict[int, int]:
        """When each client had its first acknowledgement after `ns`; a client without one is left out."""
        return self._tail.first_after(ns)

    def wait_acknowledged(self, after_ns: int, within: timedelta) -> bool:
        """Wait until every client has an acknowledgement after `after_ns`; False: not in time.

        Raises:
            TryAgainError: the probe has died.
        """
        deadline = time.monotonic() + within.total_seconds()
        while True:
            ended = self._process.poll() is not None  # asked before the look: its last lines count
            if len(self.acknowledged_since(after_ns)) == self._config.clients:
                return True
            if ended:
                self._trouble = self._trouble or f"the probe died: {self._last_words(self._hear(deadline))}"
                raise TryAgainError(f"{self._trouble}; what it recorded is in {self._config.ledger}; start a new one")
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)

    def stop(self) -> Ledger:
        """Let the probe finish its writes, end it, and return its ledger. A repeated call returns it again.

        Raises:
            TryAgainError: the ledger is damaged.
        """
        if self._ledger is None:
            self._tell("stop\n")
            patience_s = self._config.connect_timeout + 6 * self._config.io_timeout + STOP_SLACK_S
            said = self._hear(time.monotonic() + patience_s)
            if "stopped" not in said and self._trouble is None:
                self._trouble = f"the probe had no clean end: {self._last_words(said)}"
            self.close()
            self._ledger = self._tail.whole()
            if said.get("written", len(self._ledger.writes)) != len(self._ledger.writes):
                self._trouble = f"the probe wrote {said['written']} lines, {len(self._ledger.writes)} are there"
        return self._ledger

    def close(self) -> None:
        """End the process, by force if it still runs, and let go of everything. Idempotent.

        Raises:
            TryAgainError: the kernel does not let go of the process.
        """
        if self._process.poll() is None:
            self._process.kill()
        try:
            self._process.wait(KILL_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise TryAgainError(
                f"the probe, process {self.pid}, got a SIGKILL and is still there; look at what it waits for"
            ) from error
        for file in (*self._pipes(), self._stderr):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("the probe is always started with both pipes")
        return self._process.stdin, self._process.stdout

    def _wait_ready(self) -> None:
        self._tell(self._config.encode())
        said = self._hear(time.monotonic() + READY_WITHIN_S + START_SLACK_S)
        if "ready" in said:
            return
        if "error" not in said:
            raise TryAgainError(f"the probe did not start: {self._last_words(said)}; start it again")
        kind = TryAgainError if said["passing"] else UsageError
        raise kind(str(said["error"]))

    def _tell(self, line: str) -> None:
        with suppress(BrokenPipeError, ValueError):  # it has ended, or was closed: what it said tells why
            self._pipes()[0].write(line.encode())

    def _hear(self, deadline: float) -> dict[str, object]:
        """The probe's next message; empty if it says no more, or nothing until the deadline."""
        stdout = self._pipes()[1]
        while not stdout.closed and b"\n" not in self._heard:
            if not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            if not (chunk := os.read(stdout.fileno(), 4096)):
                break
            self._heard += chunk
        line, newline, self._heard = self._heard.partition(b"\n")
        message: dict[str, object] = json.loads(line) if newline else {}
        return message

    def _last_words(self, said: dict[str, object]) -> str:
        """Why a probe that should run does not."""
        if "error" in said:
            return str(said["error"])
        try:
            code = self._process.wait(EXIT_WITHIN_S)
        except subprocess.TimeoutExpired:
            return "it does not answer"
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return f"it exited with {code}: {next((s for s in reversed(lines) if s.strip()), 'no message')}"


class _Tail:
    """Reads a ledger file while it grows, each byte once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._torn = b""  # the beginning of a line whose end is not written yet
        self._acknowledged: dict[int, list[int]] = defaultdict(list)  # done_ns by client, rising

    def first_after(self, ns: int) -> dict[int, int]:
        """By client, the first acknowledgement after `ns` among what is in the file now."""
        self._follow()
        found: dict[int, int] = {}
        for client, times in self._acknowledged.items():
            index = bisect_right(times, ns)
            if index < len(times):
                found[client] = times[index]
        return found

    def whole(self) -> Ledger:
        """The file from its beginning. It exists since before the probe was ready: absent is damaged."""
        try:
            return Ledger.decode(self._path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise self._damaged(error) from error

    def _follow(self) -> None:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                grown = file.read()
            self._offset += len(grown)
            *lines, self._torn = (self._torn + grown).split(b"\n")
            for write in (Write.decode(line.decode()) for line in lines):
                if write.fate is Fate.ACKNOWLEDGED:
                    self._acknowledged[write.client].append(write.done_ns)
        except (ValueError, OSError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> TryAgainError:
        return TryAgainError(
            f"the ledger {self._path} cannot be read: {error}; it proves nothing, keep it and repeat the run"
        )
