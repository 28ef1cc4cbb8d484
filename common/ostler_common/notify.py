"""Notifies systemd of the service's state (sd_notify(3)); does nothing if systemd did not start the process."""

from __future__ import annotations

import os
import socket
import time


def ready(status: str) -> None:
    """The service is ready."""
    send("READY=1", f"STATUS={status}")


def status(text: str) -> None:
    """A line for `systemctl status`. It is lost when systemd does not read."""
    send(f"STATUS={text}", wait=False)


def reloading() -> None:
    """The service reloads its configuration; `ready` ends that."""
    send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The service is stopping."""
    send("STOPPING=1", "STATUS=stopping")


def alive() -> None:
    """Feeds the watchdog. It is lost when systemd does not read: nobody waits for a systemd that hangs."""
    send("WATCHDOG=1", wait=False)


def watchdog_interval_s() -> float | None:
    """How often `alive` must be called: twice as often as systemd asks; None when it does not."""
    asked_us, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not asked_us.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(asked_us) / 1e6 / 2


def send(*lines: str, wait: bool = True) -> None:
    """Sends lines to the service manager, if there is one. wait: until it has room for them."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto("\n".join(lines).encode(), 0 if wait else socket.MSG_DONTWAIT, address)
        except BlockingIOError:
            pass
