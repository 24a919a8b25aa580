"""The process of an AWS lab: control plane, hypervisor and gateway, until it is told to end.

    python -m reaper.adapters.aws.lab_process HOME

It writes `ready.json` when it serves. What ends with it: every server, every door, and everything that
moto knew.
"""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from reaper.adapters.aws.control_plane import ControlPlane, changeable
from reaper.adapters.aws.gateway import Associations, Gateway, associations, public_addresses
from reaper.adapters.aws.gradual import gradual
from reaper.adapters.aws.hypervisor import ProcessHypervisor
from reaper.adapters.aws.labbook import LabBook, Ready
from reaper.adapters.aws.likeness import gradual_groups, strict_addresses, strict_elastic_ips, strict_route53
from reaper.adapters.aws.settings import TagNames
from reaper.workflow.engine import Engine


def engine_of(finder: str, program: Path) -> Engine:
    """The engine of a server program, by a function that whoever makes the lab names: `package.module:function`."""
    module, _, function = finder.partition(":")
    find: Any = getattr(importlib.import_module(module), function)
    engine: Engine = find(program)
    return engine


@contextlib.contextmanager
def _as_aws(plane: ControlPlane, hypervisor: ProcessHypervisor, book: LabBook) -> Iterator[None]:
    """While inside, moto behaves as AWS where it is known not to."""
    with contextlib.ExitStack() as likeness:
        likeness.enter_context(public_addresses(book.public_range))
        likeness.enter_context(strict_route53())
        likeness.enter_context(strict_addresses())
        likeness.enter_context(strict_elastic_ips())
        likeness.enter_context(gradual_groups(plane.later, timedelta(seconds=book.delay_s), []))
        likeness.enter_context(gradual(plane, hypervisor, TagNames().isolation, book.delay_s))
        yield


def main(home: Path) -> None:
    """Serve."""
    for name, value in {
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",  # 1,300 images that nobody launches
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": "lab",
        "AWS_SECRET_ACCESS_KEY": "lab",
    }.items():
        os.environ[name] = value
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    book = LabBook.read(home)

    def look() -> Associations:
        with plane.lock:
            return associations(book.public_range, book.port)

    gateway = Gateway(home, look, book.port)
    plane = ControlPlane(book.access_key, changeable(book.failing, book.seed), gateway.wake)
    hypervisor = ProcessHypervisor(home, engine_of(book.finder, book.program), book.port)
    with _as_aws(plane, hypervisor, book):
        plane.start()
        gateway.start()
        try:
            Ready(url=plane.url, pid=os.getpid()).write(home)
            over.wait()
        finally:
            plane.close()
            gateway.close()
            hypervisor.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
