"""The trigger on a simulated process."""

from datetime import timedelta

from reaper.domain.errors import ServerError
from reaper.domain.facts import InstanceState
from reaper.testing.faults import Faults
from reaper.testing.machine import Machine


class FakeTrigger:
    """Aimed at one process: it cannot hit the next one in the same place."""

    def __init__(self, machine: Machine, faults: Faults) -> None:
        self._machine = machine
        self._faults = faults
        self._generation = machine.generation
        self._closed = False
        self._shutting_down = False

    def crash(self) -> None:
        """SIGKILL: it answers us no more; the process ends a moment later, which the fence proves.

        Harsher than life: what its clients and replicas had begun goes on until then.
        """
        with self._machine.clock.lock, self._faults.around("crash", self._machine.id.short):
            if self._alive() and not self._machine.knobs.immortal:
                self._machine.doomed = True
                self._machine.clock.after(self._machine.knobs.dies_after, lambda: self._end("killed by signal 9"))

    def terminate(self) -> None:
        """SIGTERM: it takes its time, and writes go on meanwhile."""
        machine = self._machine
        with machine.clock.lock, self._faults.around("terminate", machine.id.short):
            if self._alive() and machine.knobs.shutdown_takes is not None and not self._shutting_down:
                self._shutting_down = True
                machine.clock.after(machine.knobs.shutdown_takes, lambda: self._end("shut down"))

    def freeze(self) -> None:
        """SIGSTOP."""
        with self._machine.clock.lock, self._faults.around("freeze", self._machine.id.short):
            if self._alive():
                self._machine.state = InstanceState.FROZEN

    def thaw(self) -> None:
        """SIGCONT."""
        with self._machine.clock.lock, self._faults.around("thaw", self._machine.id.short):
            if self._alive() and self._machine.state is InstanceState.FROZEN:
                self._machine.state = InstanceState.RUNNING

    def fence(self, within: timedelta) -> str | None:
        """Wait for the end of the process; asked again it says the same."""
        machine = self._machine
        with machine.clock.lock, self._faults.around("fence", machine.id.short):
            if self._closed:
                raise ServerError(f"the trigger on {machine.id} was lowered")
            machine.clock.wait(lambda: not self._alive(), within)
            if self._alive():
                return None
            return f"process of {machine.id} (boot {self._generation}): {machine.death}"

    def close(self) -> None:
        """Lower the weapon."""
        self._closed = True

    def _alive(self) -> bool:
        return self._machine.runs and self._machine.generation == self._generation

    def _end(self, proof: str) -> None:
        if self._alive():
            self._machine.end(proof)
