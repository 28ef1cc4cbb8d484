"""A virt-v2v that does as a test says: the shell scripts, and how to put one in its place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from ostler.types.v1 import job_pb2
from ostler_common.errors import from_status

from tests.host.imports import program

SAYS = """say() { printf '{ "message": "%s", "timestamp": "t", "type": "%s" }\\n' "$2" "$1"; }
say message 'Opening the source'
"""


CONVERTS = SAYS + "printf converted | dd of=/tmp/disks/0 conv=notrunc status=none; say warning 'no grub'"


HANGS_ALONE = SAYS + "mkdir /tmp/libguestfsabcdef /tmp/v2v.part; exec sleep 701"


@contextmanager
def virt_v2v(script: str) -> Iterator[None]:
    with ExitStack() as stack:
        directory = stack.enter_context(program("virt-v2v-in-place", script))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        yield


def reason(update: job_pb2.JobUpdate) -> str:
    return from_status(update.error).reason if update.HasField("error") else ""
