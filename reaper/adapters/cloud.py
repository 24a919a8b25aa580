"""A client of one AWS service that does not outlive its time. boto3 is imported when it is first needed."""

from typing import Any

from reaper.adapters.patience import Deadline
from reaper.domain.errors import TryAgainError


def client(service: str, region: str | None, deadline: Deadline) -> Any:
    """A client with the site's own credentials. TryAgainError: AWS is not set up here, in words."""
    from boto3.session import Session  # type: ignore[import-untyped]  # ships no types
    from botocore.config import Config  # type: ignore[import-untyped]  # ships no types
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]  # ships no types

    left_s = deadline.left_s()
    once = Config(connect_timeout=left_s, read_timeout=left_s, retries={"mode": "standard", "total_max_attempts": 2})
    try:
        return Session().client(service, region_name=region, config=once)
    except BotoCoreError as error:
        raise TryAgainError(f"AWS cannot be asked: {error}") from error


def failures() -> tuple[type[Exception], ...]:
    """What a call of a client raises."""
    from botocore.exceptions import BotoCoreError, ClientError

    return (BotoCoreError, ClientError)
