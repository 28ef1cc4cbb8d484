"""What systemd is told."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ostler_common import notify


def test_messages_reach_the_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify.ready("serving")
        notify.alive()
        notify.stopping()
        received = [manager.recv(1000).decode() for _ in range(3)]
    assert received == ["READY=1\nSTATUS=serving", "WATCHDOG=1", "STOPPING=1\nSTATUS=stopping"]


def test_nobody_waits_for_a_manager_that_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        for _ in range(3000):  # more than its queue holds
            notify.alive()
            notify.status("guarding")
        assert manager.recv(1000) == b"WATCHDOG=1"


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"ostler-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify.status("fine")
        assert manager.recv(1000) == b"STATUS=fine"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.alive()


@pytest.mark.parametrize(
    ("asked_us", "pid", "interval_s"),
    [("60000000", "", 30), ("60000000", "own", 30), ("60000000", "1", None), ("", "", None), ("x", "", None)],
)
def test_watchdog_interval(monkeypatch: pytest.MonkeyPatch, asked_us: str, pid: str, interval_s: float | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", asked_us)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert notify.watchdog_interval_s() == interval_s
