"""What AWS answers when it does not do what was asked, classed by the next move."""

from collections.abc import Callable
from typing import TypeVar

from reaper.adapters.plain import one_line
from reaper.domain.errors import ReaperError, RefusedError, TryAgainError, UsageError

T = TypeVar("T")

# From "Error codes for the Amazon EC2 API" and botocore's own list of what throttles (retries/standard.py).
_THROTTLED = {
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "TooManyRequestsException",
    "EC2ThrottledException",
    "SnapshotCreationPerVolumeRateExceeded",
    "TooManyUpdates",
    "SlowDown",
}
# From the API references of Route 53 and Auto Scaling: an earlier change of the same thing is under way.
_UNDER_WAY = {"PriorRequestNotComplete", "ResourceContention", "ScalingActivityInProgress"}
_NO_CAPACITY = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InsufficientVolumeCapacity",
    "SpotMaxPriceTooLow",
    "Unsupported",  # what is asked for is not offered in that zone
}
_LIMITS = {
    "InstanceLimitExceeded",
    "VcpuLimitExceeded",
    "MaxSpotInstanceCountExceeded",
    "VolumeLimitExceeded",
    "SnapshotLimitExceeded",
    "ConcurrentSnapshotLimitExceeded",
    "MaxIOPSLimitExceeded",
    "ResourceLimitExceeded",
    "AddressLimitExceeded",
}
_NOT_ALLOWED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
_NOT_KNOWN = {
    "AuthFailure",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "OptInRequired",
    "Blocked",
}
_NOT_THERE = {"ParameterNotFound", "ParameterVersionNotFound", "InvalidAMIID.Unavailable"}
_BUSY = {
    "IncorrectInstanceState",
    "IncorrectState",
    "DependencyViolation",
    "VolumeInUse",
    "InvalidVolume.InUse",
    "InvalidSnapshot.InUse",
    "ResourceCountExceeded",
}
_UNSURE = {"InternalError", "InternalFailure", "InternalServerError", "Unavailable", "ServiceUnavailable"}


class ThrottledError(TryAgainError):
    """AWS did nothing, because it was asked too often or is at work on the same thing."""


class UnsureError(TryAgainError):
    """There was no answer, or one that says nothing: it may have been done or not (E26)."""


class NotThereError(UsageError):
    """AWS knows no such thing, or not yet: what was just made is not seen everywhere at once."""


class BusyError(TryAgainError):
    """The thing is in a state, or in a use, in which this cannot be done."""


class NoCapacityError(TryAgainError):
    """AWS has no room for it at this moment."""


class SameTokenError(TryAgainError):
    """A call with this token was made before, and asked for something else."""


class SpentTokenError(SameTokenError):
    """A call with this token was answered before, and what it made has ended."""


def ask(what: str, call: Callable[[], T]) -> T:
    """The answer to a call, or one of our errors that says what was asked. Throttling was waited for already."""
    from botocore.exceptions import (  # type: ignore[import-untyped]  # ships no types
        BotoCoreError,
        ClientError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
    )
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]  # ships no types

    try:
        return call()
    except ClientError as error:
        raise _translated(what, error.response) from error
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise UsageError(f"{what}: there are no AWS credentials here ({error}): set them up as for the AWS CLI") from (
            error
        )
    except ParamValidationError as error:
        raise UsageError(f"{what}: {one_line(str(error), 300)}") from error
    except (BotoCoreError, ResponseParserError) as error:
        raise UnsureError(f"{what}: AWS gave no answer ({one_line(str(error), 300)})") from error


def _translated(what: str, response: dict[str, dict[str, object]]) -> ReaperError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    said = f"{what}: {code}, {one_line(str(response.get('Error', {}).get('Message', '')), 300)}"
    if code in _THROTTLED:
        return ThrottledError(f"{said}. AWS throttles this account: try again later, or ask for a higher limit")
    if code in _UNDER_WAY:
        return ThrottledError(f"{said}. An earlier change is under way: try again when it is over")
    if code in _NO_CAPACITY:
        return NoCapacityError(f"{said}. AWS has no room for it: try again, or use another zone or instance type")
    if code in _LIMITS:
        return RefusedError(f"{said}. The account's quota is used up: raise it, or delete what is not needed")
    if code in _NOT_ALLOWED:
        return UsageError(f"{said}. Reaper's role lacks the permission: `reaper iam-policy` prints what it needs")
    if code in _NOT_KNOWN:
        return UsageError(f"{said}. The credentials do not count (any more): renew them")
    if code in _NOT_THERE or code.endswith(("NotFound", "NotFoundException")):
        return NotThereError(said)
    if code in _BUSY:
        return BusyError(said)
    if code in ("OperationNotPermitted", "UnsupportedOperation"):
        return RefusedError(f"{said}. It is protected against that, or cannot do it")
    if code == "IdempotentInstanceTerminated":
        return SpentTokenError(said)
    if code.startswith("Idempotent"):
        return SameTokenError(said)
    if code in _UNSURE or (isinstance(status, int) and status >= 500):
        return UnsureError(f"{said}. It may have been done")
    return UsageError(f"{said}. AWS does not accept the request: see the launch template and the settings")
