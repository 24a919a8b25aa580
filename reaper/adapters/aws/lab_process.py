"""The process of an AWS lab: control plane and hypervisor, until it is told to end.

    python -m reaper.adapters.aws.lab_process HOME

It writes `ready.json` when it serves. What ends with it: every server, and everything that moto knew.
"""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from reaper.adapters.aws.control_plane import ControlPlane, changeable
from reaper.adapters.aws.gradual import gradual
from reaper.adapters.aws.hypervisor import ProcessHypervisor
from reaper.adapters.aws.labbook import LabBook, Ready
from reaper.adapters.aws.settings import TagNames
from reaper.workflow.engine import Engine


def engine_of(finder: str, program: Path) -> Engine:
    """The engine of a server program, by a function that whoever makes the lab names: `package.module:function`."""
    module, _, function = finder.partition(":")
    find: Any = getattr(importlib.import_module(module), function)
    engine: Engine = find(program)
    return engine


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
    plane = ControlPlane(book.access_key, changeable(book.failing, book.seed))
    hypervisor = ProcessHypervisor(home, engine_of(book.finder, book.program), book.port)
    with gradual(plane, hypervisor, TagNames().isolation, book.delay_s):
        plane.start()
        try:
            Ready(url=plane.url, pid=os.getpid()).write(home)
            over.wait()
        finally:
            plane.close()
            hypervisor.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
