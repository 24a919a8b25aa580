"""What can go wrong, classed by the reader's next move.

Every message says what happened, why, and what to do. Foreign exceptions stop at the adapter and
arrive here as one of these, with their cause kept.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its caller."""

    GOOD = 0
    BAD_VERDICT = 1  # the run finished and its verdict is bad
    USAGE = 2  # the request cannot be understood or names what does not exist
    REFUSED = 3  # a guard refused; nothing was touched, or everything was undone
    TRY_AGAIN = 4  # a passing fault; nothing was touched, or everything was undone
    CALL_A_PERSON = 5  # past the point of no return and not finished
    INTERRUPTED = 130


class ReaperError(Exception):
    """The base: a sentence for a person and an exit code for a machine."""

    exit_code = ExitCode.USAGE


class UsageError(ReaperError):
    """The request, a file or the machine's set-up has to be changed first."""

    exit_code = ExitCode.USAGE


class RefusedError(ReaperError):
    """A guard refused; the cluster is as it was found."""

    exit_code = ExitCode.REFUSED


class TryAgainError(ReaperError):
    """A step failed before the kill; what was built has been undone."""

    exit_code = ExitCode.TRY_AGAIN


class CallAPersonError(ReaperError):
    """A state that reaper must not decide alone."""

    exit_code = ExitCode.CALL_A_PERSON


class AbortedError(ReaperError):
    """A person asked to stop before the kill; what was built has been undone."""

    exit_code = ExitCode.INTERRUPTED


class ServerError(ReaperError):
    """A statement or a connection failed."""

    exit_code = ExitCode.TRY_AGAIN


class ServerGoneError(ServerError):
    """No answer: refused, reset, or timed out. Not a proof of death."""


class AccessDeniedError(ServerError):
    """The server lives and rejects the account: wrong password, or a privilege is missing."""


class TooManyConnectionsError(ServerError):
    """The server lives and is full (E23: overload is not death)."""


class ReadOnlyError(ServerError):
    """The server refuses writes because it is read-only."""


class StatementTimeoutError(ServerError):
    """A lock or a statement took longer than it was allowed to."""


class OwnershipLostError(Exception):
    """Another worker has taken the run over; this one must not do one more effect.

    No `ReaperError`: whoever handles what failed, undoes it or goes on past it, must not handle this.
    """

    exit_code = ExitCode.TRY_AGAIN
