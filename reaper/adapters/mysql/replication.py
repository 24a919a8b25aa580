"""How a replica logs in at its source, and what it demands of it."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from reaper.adapters.tls import Verify
from reaper.domain.errors import UsageError
from reaper.workflow.engine import Login


@dataclass(frozen=True, kw_only=True)
class ReplicationTls:
    """What the site says of channels. The replica verifies, so the authorities lie on its machine, not on reaper's.

    What has to be proved is who signed (the CA) and, for FULL, that the certificate is for the address of the source
    as reaper has it. MySQL tells the three apart by the CA and the verify option, and always insists on TLS
    (`connect_to_master` in sql/rpl_replica.cc of 8.0). MariaDB 10.11 insists on it with the verify option only: without
    that, a replica talks in clear to a source that offers no TLS, whatever the CA (measured, 10.11.19). CHAIN keeps
    other authorities' certificates out there, not somebody who offers none; a rehearsal refuses such an heir (E21).
    """

    verify: Verify = Verify.FULL
    ca_file: PurePosixPath | None = None

    def __post_init__(self) -> None:
        if self.verify is not Verify.NOTHING and self.ca_file is None:
            # With FULL neither flavour connects then; with CHAIN both would accept what anybody signed.
            raise UsageError(
                f"replication with `verify: {self.verify}` has no `ca_file`: name the file with the authorities, as "
                "the database servers find it"
            )


@dataclass(frozen=True)
class ReplicationAccount:
    """What `CHANGE MASTER` and `CHANGE REPLICATION SOURCE` are given."""

    login: Login
    tls: ReplicationTls | None = None  # None: nothing is said, a channel's TLS stays as it is

    def tls_options(self, word: str) -> dict[str, object]:
        """The options of the statement by name; `word` is what the flavour calls a source: MASTER or SOURCE.

        All three are given, so that none stays from an earlier configuration; 1 is MariaDB's default from 11.4 on.
        """
        if self.tls is None:
            return {}
        return {
            f"{word}_SSL": 1,
            f"{word}_SSL_CA": str(self.tls.ca_file or ""),
            f"{word}_SSL_VERIFY_SERVER_CERT": int(self.tls.verify is Verify.FULL),
        }
