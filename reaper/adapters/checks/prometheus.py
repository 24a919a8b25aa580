"""An instant query whose every sample has to compare.

API: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import json
import math
from dataclasses import dataclass
from typing import assert_never
from urllib.parse import urlencode, urlsplit, urlunsplit

from reaper.adapters.checks.finding import go, refuse
from reaper.adapters.patience import Deadline
from reaper.adapters.plain import one_line
from reaper.adapters.web import Call, Reply, WebError, address_of, exchange
from reaper.domain.checks import Comparison, PrometheusCheck
from reaper.domain.verdict import GuardVerdict

_MOST_BYTES = 1_000_000
_SHOWN = 8
_PLACE = "{cluster}"


@dataclass(frozen=True)
class _Sample:
    labels: str
    value: float


class _UnclearError(Exception):
    """What is wrong with the answer, in words."""


def ask(check: PrometheusCheck, cluster: str, deadline: Deadline) -> GuardVerdict:
    """Compare every sample. No sample, a value that is no number, a warning or a partial answer refuses."""
    query = check.query.replace(_PLACE, label_value(cluster))
    asked, shown = f"query: {query}", address_of(check.url)
    try:
        reply = exchange(Call(url=_url(check, query, deadline), most_bytes=_MOST_BYTES), deadline)
        samples = _samples(reply)
    except (WebError, _UnclearError) as error:
        reason = f"{shown} gave no clear answer: {error}. Wanted every sample {check.comparison} {check.threshold:g}"
        return refuse(check, f"{reason}: try the query there by hand", asked)
    failing = [s for s in samples if not _passes(s, check)]
    evidence = [asked, *(f"{s.labels} = {s.value:g}" for s in [*failing, *samples][:_SHOWN])]
    wanted = f"{check.comparison} {check.threshold:g}"
    if failing:
        worst = max(failing, key=lambda s: abs(s.value - check.threshold))
        what = (
            f"{len(failing)} of {len(samples)} samples not {wanted}, the furthest is {worst.labels} = {worst.value:g}"
        )
        return refuse(check, f"{what}: wait until it passes, or see what drives it", *evidence)
    how_many = "the only sample is" if len(samples) == 1 else f"all {len(samples)} samples are"
    return go(check, f"{how_many} {wanted}", *evidence)


def label_value(name: str) -> str:
    """A name for the place of a label's value: nothing in it can end the string, whichever quotes are around it.

    Put it behind `=`; behind `=~` it is read as an expression.
    """
    return "".join(c if c not in "\\\"'`" and c.isprintable() else _escaped(c) for c in name)


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _url(check: PrometheusCheck, query: str, deadline: Deadline) -> str:
    """Of the query; a parameter that the address brings along, such as a tenant, is kept."""
    base = urlsplit(check.url)
    ours = urlencode({"query": query, "timeout": f"{max(1, int(deadline.left_s()))}s"})
    path = f"{base.path.rstrip('/').removesuffix('/api/v1/query')}/api/v1/query"
    return urlunsplit((base.scheme, base.netloc, path, f"{base.query}&{ours}" if base.query else ours, ""))


def _passes(sample: _Sample, check: PrometheusCheck) -> bool:
    match check.comparison:
        case Comparison.BELOW:
            return sample.value < check.threshold
        case Comparison.ABOVE:
            return sample.value > check.threshold
        case _:
            assert_never(check.comparison)


def _samples(reply: Reply) -> list[_Sample]:
    """The samples of an answer. _UnclearError: it is anything else than finite numbers without a warning."""
    if not reply.whole:
        raise _UnclearError(f"the answer is longer than {_MOST_BYTES} bytes; aggregate in the query")
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        raise _UnclearError(f"status {reply.status} and no JSON") from None
    match answer:
        case {"status": "error", "error": str(why)}:
            raise _UnclearError(f"status {reply.status}, {one_line(why, 200)}")
        case _ if reply.status != 200:
            raise _UnclearError(f"status {reply.status}")
        case {"warnings": warned} if warned:
            raise _UnclearError(f"the answer may be partial, it warns: {one_line(str(warned), 200)}")
        case {"status": "success", "data": {"resultType": "scalar", "result": result}}:
            found = [_sample("scalar", result)]
        case {"status": "success", "data": {"resultType": "vector", "result": [*results]}}:
            found = [_of_vector(result) for result in results]
        case {"status": "success", "data": {"resultType": str(kind)}}:
            raise _UnclearError(f"the result is a {one_line(kind, 40)}, no vector of samples; correct the query")
        case _:
            raise _UnclearError("the answer has another form than the Prometheus API's")
    if not found:
        raise _UnclearError("there is no sample")
    return found


def _of_vector(result: object) -> _Sample:
    match result:
        case {"metric": dict(metric), "value": value}:
            labels = ", ".join(f'{key}="{one_line(str(label), 80)}"' for key, label in metric.items())
            return _sample(f"{{{one_line(labels, 200)}}}", value)
        case _:
            raise _UnclearError("a sample has no single value, such as a histogram's; correct the query")


def _sample(labels: str, value: object) -> _Sample:
    match value:
        case [_, str(text)]:
            try:
                number = float(text)
            except ValueError:
                number = math.nan
            if not math.isfinite(number):
                raise _UnclearError(f"{labels} = {one_line(text, 40)} is no number to compare")
            return _Sample(labels, number)
        case _:
            raise _UnclearError(f"{labels} has no value in the form of the Prometheus API")
