"""Reports as files: pages that need nothing else (no script, no other file, no network), and where they go."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from reaper.cli.render import words
from reaper.domain.errors import UsageError


def template_of(name: str, filters: Mapping[str, Callable[..., Any]] | None = None) -> Template:
    """A page's template. What it shows comes from clusters and is never trusted."""
    environment = Environment(
        loader=PackageLoader("reaper.cli"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(name)


def _plain(value: object) -> object:
    """What servers and people said, without what a reader of the file cannot see; what is markup stays it."""
    return value if hasattr(value, "__html__") else words(str(value)).plain


def deliver(text: str, out: Path | None, what: str) -> None:
    """Write a report into a file, or print it. UsageError: the file cannot be written."""
    if out is None:
        sys.stdout.write(text)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the {what} cannot be written to {out}: {error.strerror or error}") from error
    sys.stdout.write(f"the {what} is in {out}\n")
