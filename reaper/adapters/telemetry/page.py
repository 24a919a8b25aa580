"""A registry of metrics and its text. Rendering thousands of series takes as long as a cutover, so it is kept."""

import threading
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

MOST_LABEL = 128  # characters of a label's value


class Page:
    """The text is rendered again only when somebody asks for it after a change."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rendering = threading.Lock()
        self._stale = True
        self._text = b""

    def changed(self) -> None:
        """What is shown is no longer true. To be called after the change."""
        self._stale = True

    def text(self) -> bytes:
        """The metrics in Prometheus' text format, version 0.0.4."""
        with self._rendering:
            if self._stale:
                self._stale = False  # before reading: a change meanwhile is rendered the next time
                self._text = generate_latest(_WithoutBirths(self.registry))
            return self._text


class _WithoutBirths:
    """The library adds when each series was born, a third more lines; its own switch is for the whole process."""

    def __init__(self, inner: Collector) -> None:
        self._inner = inner

    def collect(self) -> Iterable[Metric]:
        for metric in self._inner.collect():
            metric.samples = [s for s in metric.samples if not s.name.endswith("_created")]
            yield metric


def label(text: str) -> str:
    """A label's value that can always be written: one that is no UTF-8 would end every scrape in an error."""
    return text[:MOST_LABEL].encode(errors="replace").decode()
