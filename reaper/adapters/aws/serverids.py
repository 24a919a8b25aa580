"""Server ids that are never used twice in a cluster's life (E14, E29).

An id has to outlive its server: EC2 forgets the tags of a terminated instance within an hour, and addresses are
given to others. It is the version of an SSM parameter: each PutParameter makes the next version, Systems Manager
counts them itself, so that two callers never get the same one and no lock is needed. Tags on instances only say who
has which id now.
"""

from collections.abc import Collection

from reaper.adapters.aws.errors import NotThereError, ask
from reaper.adapters.aws.session import Clients
from reaper.adapters.aws.waiting import Pace, repeat
from reaper.domain.errors import RefusedError

# Reaper's ids begin where nobody else's are: people count from 1 and derive from addresses (10.0.0.0 is 167772160,
# 172.16.0.0 is 2886729728). An id that a person gave to a server long gone is not hit.
FIRST = 1_000_000_000
_MOST = 2_000_000_000
_TRIES = 100


class ServerIds:
    """The counters of a site, kept in one place for all of its regions."""

    def __init__(self, clients: Clients, path: str, pace: Pace) -> None:
        self._clients = clients
        self._path = path.rstrip("/")
        self._pace = pace

    def parameter(self, cluster: str) -> str:
        """Where a cluster's counter is."""
        return f"{self._path}/{cluster}"

    def give(self, cluster: str, name: str, taken: Collection[int]) -> int:
        """An id for the server that is launched as `name`; asked again at once, the same one.

        RefusedError: nothing but ids that are taken, or the counter was tampered with.
        """
        version = self._last(cluster, name)
        for _ in range(_TRIES):
            if version is None:
                version = self._next(cluster, name)
            server_id = FIRST + version
            if server_id >= _MOST:
                break
            if server_id not in taken:
                return server_id
            version = None  # somebody has it although it was not given: the parameter was deleted and begins again
        raise RefusedError(
            f"{self.parameter(cluster)} gives no server id that nobody in {cluster} has: it was deleted or written to "
            "by others. Write to it until its version lies above every id that the cluster ever used, less "
            f"{FIRST}"
        )

    def _last(self, cluster: str, name: str) -> int | None:
        """The version that an earlier attempt under this name got, if nobody came after it."""

        def read() -> int | None:
            try:
                answer = ask(
                    f"read {self.parameter(cluster)}",
                    lambda: self._clients.ssm.get_parameter(Name=self.parameter(cluster)),
                )
            except NotThereError:
                return None
            found = answer["Parameter"]
            return int(found["Version"]) if found["Value"] == name else None

        return repeat(read, within=self._pace.repeat_within)

    def _next(self, cluster: str, name: str) -> int:
        """A version of our own. If an answer is lost the next one is taken: a gap harms nobody."""
        answer = repeat(
            lambda: ask(
                f"count on {self.parameter(cluster)}",
                lambda: self._clients.ssm.put_parameter(
                    Name=self.parameter(cluster), Value=name, Type="String", Overwrite=True
                ),
            ),
            within=self._pace.repeat_within,
        )
        return int(answer["Version"])

    def forget(self, cluster: str) -> None:
        """Delete a counter. Only for a cluster that is gone."""
        try:
            ask(
                f"delete {self.parameter(cluster)}",
                lambda: self._clients.ssm.delete_parameter(Name=self.parameter(cluster)),
            )
        except NotThereError:
            return
