"""The advisory lock in the database that is rotated: against a reaper that has another store (E13)."""

from reaper.domain.errors import ReaperError, RefusedError, ServerError
from reaper.domain.facts import Instance
from reaper.domain.plan import Plan
from reaper.workflow.server import Server
from reaper.workflow.world import World


class Claim:
    """Held on the master over a connection of its own. It dies with the process, with that connection, or the server.

    A process that goes on with a run takes it from the one that it follows, frozen or dead.
    """

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._server: Server | None = None

    def must_hold(self, master: Instance) -> None:
        """RefusedError: another reaper is at work there. ServerError: the master does not answer."""
        holder = self._take(master)
        if holder is not None:
            raise RefusedError(
                f"another reaper, with a store of its own, is at work on {self._plan.cluster}: {holder} holds its lock "
                f"on {master.id.short}. Wait until it has ended; if it is gone, end that session"
            )

    def try_to_hold(self, master: Instance) -> None:
        """Take it if it can be had; for a run that cannot stop any more."""
        try:
            self._take(master)
        except ReaperError:
            self.close()

    def _take(self, master: Instance) -> str | None:
        """None: it is ours; otherwise who has it. A connection that has broken is replaced."""
        if self._server is not None and self._server.instance == master.id:
            try:
                return self._server.claim(self._plan.run)
            except ServerError:
                pass
        self.close()
        self._server = self._world.connect(self._plan.cluster, master)
        return self._server.claim(self._plan.run)

    def close(self) -> None:
        """Give it back."""
        if self._server is not None:
            self._server.close()
            self._server = None
