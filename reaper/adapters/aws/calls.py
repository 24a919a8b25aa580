"""Calls of one AWS client: asked again while AWS asks for patience, failures told in reaper's words.

A call whose answer was lost is repeated, so every caller finds its own earlier work first and compares before
it sets. What AWS refuses with a code that the caller knows comes back as a value, everything else is raised.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from reaper.adapters import cloud
from reaper.adapters.aws.errors import ThrottledError, UnsureError, ask
from reaper.domain.errors import TryAgainError
from reaper.workflow.ports import Clock

Answer = dict[str, Any]  # what botocore makes of an answer; it goes no further than the adapter

_ATTEMPTS = 6  # on top of botocore's own few
_LONGEST_PAUSE_S = 8.0
_FIRST_PAUSE_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Refused:
    """AWS said no, with a code that the caller knows."""

    code: str
    why: str


class Calls:
    """Calls of one client. `clock` is slept on between two attempts. Not shared between threads."""

    def __init__(self, client: Any, clock: Clock) -> None:
        self._client = client
        self._clock = clock

    @property
    def where(self) -> str:
        """Service and region, for a sentence."""
        meta = self._client.meta
        return f"{meta.service_model.service_name} in {meta.region_name}"

    def ask(self, operation: str, **arguments: object) -> Answer:
        """The answer. UsageError: not allowed, or not understood. TryAgainError: no answer in spite of patience."""
        answer: Answer = self._patiently(operation, lambda: self._once(operation, arguments))
        return answer

    def attempt(self, operation: str, codes: frozenset[str], **arguments: object) -> Answer | Refused:
        """The answer, or the refusal if it is one of `codes`, which is an answer too. Raises as `ask` does."""

        def once() -> Answer | Refused:
            try:
                return self._once(operation, arguments)
            except cloud.failures() as error:
                if code_of(error) in codes:
                    return Refused(code=code_of(error), why=_text_of(error))
                raise

        answer: Answer | Refused = self._patiently(operation, once)
        return answer

    def pages(self, operation: str, key: str, **arguments: object) -> Iterator[Answer]:
        """The items of all pages of an operation that is paged by `NextToken`. Raises as `ask` does.

        Not by botocore's paginator: it is a generator, which after a failure is at its end and looks complete.
        """
        page = self.ask(operation, **arguments)
        yield from page.get(key, [])
        while token := page.get("NextToken"):
            page = self.ask(operation, **arguments, NextToken=token)
            if page.get("NextToken") == token:
                raise TryAgainError(f"{operation} ({self.where}) gives the same page again and again")
            yield from page.get(key, [])

    def _once(self, operation: str, arguments: dict[str, object]) -> Answer:
        answer: Answer = getattr(self._client, operation)(**arguments)
        return answer

    def _patiently(self, operation: str, once: Callable[[], Any]) -> Any:
        def sleep(seconds: float) -> None:
            self._clock.sleep(timedelta(seconds=seconds))

        def give_up(state: RetryCallState) -> Any:
            assert state.outcome is not None, "it was tried"
            cause = state.outcome.exception()
            raise TryAgainError(
                f"{operation} ({self.where}) got no good answer in {state.attempt_number} attempts: {cause}. It may "
                "have been done: reaper looks before it does it again"
            ) from cause

        patient = Retrying(
            retry=retry_if_exception_type((ThrottledError, UnsureError)),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=_FIRST_PAUSE_S, max=_LONGEST_PAUSE_S),
            sleep=sleep,
            retry_error_callback=give_up,
        )
        return patient(ask, f"{operation} ({self.where})", once)


def code_of(error: BaseException) -> str:
    """AWS's own word for a failure; "" if the failure did not come from AWS."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _text_of(error: BaseException) -> str:
    response = getattr(error, "response", None)
    said = response.get("Error", {}).get("Message") if isinstance(response, dict) else None
    code = code_of(error)
    return f"{code}: {said}" if code else f"{type(error).__name__}: {error}"
