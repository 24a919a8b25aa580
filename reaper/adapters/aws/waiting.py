"""Wait for AWS: states that come gradually, answers that do not come, things that are not seen at once."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from reaper.adapters.aws.errors import NotThereError, ThrottledError, UnsureError
from reaper.domain.errors import ReaperError, TryAgainError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How often AWS is asked and how long it may take. The times are those that AWS itself was seen to need."""

    look_every: timedelta = timedelta(seconds=2)  # while something is made
    look_hard_every: timedelta = timedelta(milliseconds=250)  # while clients wait
    seen_within: timedelta = timedelta(seconds=30)  # until what was just made is seen by every reader
    repeat_within: timedelta = timedelta(minutes=2)  # of a call that is throttled or gets no answer
    snapshot_within: timedelta = timedelta(hours=12)  # the first one of a large volume
    boot_within: timedelta = timedelta(minutes=15)
    end_within: timedelta = timedelta(minutes=10)


def nothing() -> None:
    """A check that never aborts."""


def until(
    look: Callable[[], T | None], *, what: str, within: timedelta, every: timedelta, check: Callable[[], None] = nothing
) -> T:
    """Look until there is something. TryAgainError: not within the time, with the last reason for it.

    Throttling and missing answers are no result: one looks again.
    """
    deadline = time.monotonic() + within.total_seconds()
    why = ""
    while True:
        check()
        try:
            found = look()
        except (ThrottledError, UnsureError) as error:
            found, why = None, f" ({error})"
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise TryAgainError(f"{what} within {within.total_seconds():g} s{why}: look at it in AWS, then try again")
        time.sleep(every.total_seconds())


def repeat(
    call: Callable[[], T],
    *,
    within: timedelta,
    check: Callable[[], None] = nothing,
    on: tuple[type[ReaperError], ...] = (ThrottledError, UnsureError),
) -> T:
    """Repeat a call that does no harm when it is done twice, while it fails for a passing reason."""

    def before(_state: RetryCallState) -> None:
        check()

    return Retrying(
        retry=retry_if_exception_type(on),
        wait=wait_random_exponential(multiplier=0.1, max=10),
        stop=stop_after_delay(within),
        before_sleep=before,
        reraise=True,
    )(call)


def seen(call: Callable[[], T], *, pace: Pace, check: Callable[[], None] = nothing) -> T:
    """A call about something that was made a moment ago: it may not be there yet for everybody."""
    return repeat(call, within=pace.seen_within, check=check, on=(ThrottledError, UnsureError, NotThereError))


def looked(call: Callable[[], T], *, pace: Pace) -> T:
    """A look at AWS that somebody needs: repeated as long as AWS throttles, and for a while if it does not answer.

    After a kill nobody can do without it, and a burst of other people's calls lasts longer than the library repeats.
    """
    return repeat(
        lambda: repeat(call, within=pace.seen_within, on=(UnsureError,)),
        within=pace.repeat_within,
        on=(ThrottledError,),
    )
