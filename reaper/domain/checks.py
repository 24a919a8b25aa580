"""External checks that a policy asks before it acts. Facts only; an adapter asks, and what cannot be asked refuses."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

DEFAULT_WITHIN = timedelta(seconds=10)


class Comparison(StrEnum):
    """How a measured value passes."""

    BELOW = "below"
    ABOVE = "above"


@dataclass(frozen=True, kw_only=True)
class PrometheusCheck:
    """Every sample of an instant query has to compare as said; no sample at all refuses."""

    name: str
    url: str
    query: str  # `{cluster}` in it is replaced by the cluster's name
    comparison: Comparison
    threshold: float
    within: timedelta = DEFAULT_WITHIN


@dataclass(frozen=True, kw_only=True)
class CloudwatchCheck:
    """An alarm has to be in the state OK."""

    name: str
    alarm: str
    region: str | None = None  # None: the provider's own
    within: timedelta = DEFAULT_WITHIN


@dataclass(frozen=True, kw_only=True)
class HttpCheck:
    """An address has to answer with a status."""

    name: str
    url: str
    status: int = 200
    within: timedelta = DEFAULT_WITHIN


@dataclass(frozen=True, kw_only=True)
class ScriptCheck:
    """A program has to end with status 0; it is told the cluster and the victim in its environment."""

    name: str
    command: tuple[str, ...]  # the program and its arguments; no shell reads them
    within: timedelta = DEFAULT_WITHIN


ExternalCheck = PrometheusCheck | CloudwatchCheck | HttpCheck | ScriptCheck
