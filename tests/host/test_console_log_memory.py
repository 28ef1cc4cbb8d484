"""The memory that console logs are in may be full: starts go on, and trimming makes room."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ostler_agent.hypervisors.libvirt.console_log import TRIM_ABOVE_BYTES, ConsoleLogs, previous

MIB = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory of 2 MiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def fill(path: Path) -> None:
    done = subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4k"], capture_output=True, check=False)
    assert b"No space left" in done.stderr


def test_full_memory_stops_no_vm_and_becomes_free_again(memory: Path) -> None:
    logs = ConsoleLogs(memory)
    logs.path("a").write_bytes(b"a" * (TRIM_ABOVE_BYTES + 1))
    previous(logs.path("a")).write_bytes(b"older")
    previous(logs.path("a")).with_name("a.log.1").write_bytes(b"oldest")
    fill(logs.path("b"))
    logs.mark_start("c")
    logs.trim()
    assert {path.name: path.stat().st_size for path in memory.glob("*.log")} == {"a.log": 0, "b.log": 0, "c.log": 0}
    assert sum(path.stat().st_size for path in memory.iterdir()) < MIB
    logs.mark_start("c")
    assert b"VM starts" in logs.path("c").read_bytes()
