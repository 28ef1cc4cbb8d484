"""Console logs: bounded, private, read whole and then on, also while they are trimmed or rotated."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from ostler_agent.hypervisors.libvirt import console_log
from ostler_agent.hypervisors.libvirt.console_log import MAX_PREVIOUS_BYTES, TRIM_ABOVE_BYTES, ConsoleLogs, previous
from ostler_agent.vms.console_log import last_lines, read
from ostler_common.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from ostler_common.hypervisors import Function

from tests.fakes.hypervisor import FakeHypervisor

VM = "22222222-0000-4000-8000-000000000001"


@pytest.fixture
def logs(tmp_path: Path) -> ConsoleLogs:
    made = ConsoleLogs(tmp_path / "run" / "consoles")
    made.open()
    made.close()  # the tests trim
    return made


def append(logs: ConsoleLogs, text: bytes) -> None:
    with open(logs.path(VM), "ab") as file:
        file.write(text)


def test_only_root_reads_the_directory_and_its_files(logs: ConsoleLogs) -> None:
    logs.mark_start(VM)
    assert logs.path(VM).parent.stat().st_mode & 0o777 == 0o700
    assert logs.path(VM).stat().st_mode & 0o777 == 0o600


def test_a_reader_reads_everything_and_then_what_is_new(logs: ConsoleLogs) -> None:
    append(logs, b"one\n")
    reader = logs.reader(VM)
    assert [reader.read(), reader.read()] == [b"one\n", b""]
    append(logs, b"two\n")
    assert reader.read() == b"two\n"


def test_a_vm_without_a_log_has_printed_nothing(logs: ConsoleLogs) -> None:
    reader = logs.reader(VM)
    assert reader.read() == b""
    append(logs, b"now\n")
    assert reader.read() == b"now\n"


def test_a_long_log_is_trimmed_and_loses_nothing_until_it_is_too_long(logs: ConsoleLogs) -> None:
    text = b"".join(b"line %08d\n" % n for n in range(TRIM_ABOVE_BYTES // 14 + 10))
    append(logs, text)
    reader = logs.reader(VM)
    assert reader.read() == text
    append(logs, b"before the trim\n")
    logs.trim()
    assert logs.path(VM).stat().st_size == 0
    append(logs, b"after it\n")
    assert reader.read() == b"before the trim\nafter it\n"
    assert logs.reader(VM).read() == text + b"before the trim\nafter it\n"


def test_a_guest_that_prints_without_end_fills_nothing(logs: ConsoleLogs) -> None:
    for _ in range(4):
        append(logs, b"x" * (2 * MAX_PREVIOUS_BYTES))
        logs.trim()
    assert sum(path.stat().st_size for path in logs.path(VM).parent.iterdir()) == MAX_PREVIOUS_BYTES


def test_a_file_that_virtlogd_rotated_is_read_to_its_end(logs: ConsoleLogs) -> None:
    append(logs, b"old ")
    reader = logs.reader(VM)
    assert reader.read() == b"old "
    append(logs, b"older's end ")
    previous(logs.path(VM)).with_name(f"{VM}.log.1").write_bytes(b"too old")
    logs.path(VM).rename(previous(logs.path(VM)))
    append(logs, b"new")
    assert reader.read() == b"older's end new"
    logs.trim()
    assert sorted(path.name for path in logs.path(VM).parent.iterdir()) == [f"{VM}.log", f"{VM}.log.0"]


def test_a_log_goes_with_its_vm(logs: ConsoleLogs) -> None:
    append(logs, b"x" * (TRIM_ABOVE_BYTES + 1))
    logs.trim()
    for _ in range(2):
        logs.delete(VM)
    assert not list(logs.path(VM).parent.iterdir())


def test_old_logs_of_unknown_vms_are_swept(logs: ConsoleLogs) -> None:
    append(logs, b"x")
    logs.sweep({VM})
    logs.sweep(set())
    assert logs.path(VM).exists(), "a VM may just be arriving"
    os.utime(logs.path(VM), (0, 0))
    logs.sweep({VM})
    assert logs.path(VM).exists()
    logs.sweep(set())
    assert not logs.path(VM).exists()


def test_the_directory_is_mounted_once(logs: ConsoleLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted: list[tuple[str, Path, str]] = []
    monkeypatch.setattr(console_log, "mount_memory", lambda *args: mounted.append(args))
    logs.mount()
    assert mounted == [("ostler-consoles", logs.path(VM).parent, "0700")]


# -- what the service sends


def test_the_last_lines() -> None:
    assert last_lines(b"a\r\nb\r\nc", 2) == b"b\r\nc"
    assert last_lines(b"a\nb\n", 0) == b"a\nb\n"
    assert last_lines(b"", 3) == b""


def test_without_following_the_log_is_read_once() -> None:
    driver = FakeHypervisor()
    driver.add(VM)
    driver.printed = [b"a\nb\n", b"later"]
    assert list(read(driver, VM, 1)) == [b"b\n"]


def test_following_ends_when_the_vm_has_left() -> None:
    driver = FakeHypervisor()
    driver.add(VM)
    driver.printed = [b"a\nb\n", b"later"]
    following = read(driver, VM, 1, threading.Event())
    assert [next(following), next(following)] == [b"b\n", b"later"]
    driver.delete(VM)
    assert list(following) == []


def test_following_ends_with_its_caller() -> None:
    driver, ended = FakeHypervisor(), threading.Event()
    driver.add(VM)
    ended.set()
    driver.printed = [b"a\n"]
    assert list(read(driver, VM, 0, ended)) == [b"a\n"]


def test_refusals() -> None:
    driver = FakeHypervisor()
    with pytest.raises(NotFoundError):
        list(read(driver, VM, 0))
    with pytest.raises(InvalidArgumentError) as bad:
        list(read(driver, VM, -1))
    assert bad.value.metadata["field"] == "lines"
    driver.info = replace(driver.info, functions=driver.info.functions - {Function.CONSOLE_LOG})
    with pytest.raises(FailedPreconditionError) as refusal:
        list(read(driver, VM, 0))
    assert refusal.value.reason == "FUNCTION_NOT_SUPPORTED"
