"""An address that has to answer with a status."""

from reaper.adapters.checks.finding import go, refuse
from reaper.adapters.patience import Deadline
from reaper.adapters.web import Call, WebError, address_of, exchange
from reaper.domain.checks import HttpCheck
from reaper.domain.verdict import GuardVerdict


def ask(check: HttpCheck, deadline: Deadline) -> GuardVerdict:
    """Its status, of a GET; redirects are not followed, the body is not read."""
    shown = address_of(check.url)
    try:
        status = exchange(Call(url=check.url), deadline).status
    except WebError as error:
        return refuse(check, f"{shown} did not answer: {error}. Wanted the status {check.status}: see whether it lives")
    seen = f"status {status}"
    if status == check.status:
        return go(check, f"{shown} answers {status}", seen)
    if 300 <= status < 400:
        advice = "a redirect is not followed: put the final address into the policy"
    else:
        advice = "see why it is not well"
    return refuse(check, f"{shown} answers {status}, wanted {check.status}: {advice}", seen)
