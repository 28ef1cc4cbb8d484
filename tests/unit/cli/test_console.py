"""The serial console: piped for scripts, raw on a terminal, which is left as it was."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios

from ostler.control.v1 import vm_pb2
from ostler_common.errors import FailedPreconditionError

from tests.fakes.control import Control
from tests.unit.cli.conftest import PROGRAM


def test_piped_until_the_guest_hangs_up(control: Control, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*PROGRAM, "vm", "console", "web-1", "--force"],
        input=b"uptime\nlogout\n",
        capture_output=True,
        env=environment,
        timeout=30,
        check=True,
    )
    assert done.stdout == b"login: UPTIME\nLOGOUT\n"
    assert control.asked[0] == vm_pb2.ConsoleInput(vm="web-1", force=True)


def test_end_of_input_is_not_the_end_of_the_console(control: Control, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [*PROGRAM, "vm", "console", "web-1", "--duration", "4s"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        timeout=30,
        check=True,
    )
    assert done.stdout == b"login: "


def test_a_refusal_is_told(control: Control, environment: dict[str, str]) -> None:
    control.error = FailedPreconditionError("web-1 is stopped", "VM_NOT_RUNNING")
    done = subprocess.run(
        [*PROGRAM, "vm", "console", "web-1"], input=b"", capture_output=True, env=environment, timeout=30
    )
    assert (done.returncode, done.stderr) == (6, b"Error: web-1 is stopped [VM_NOT_RUNNING]\n")


def read_until(descriptor: int, text: bytes) -> bytes:
    shown = b""
    while text not in shown:
        shown += os.read(descriptor, 4096)
    return shown


def test_a_killed_console_leaves_the_terminal_as_it_was(control: Control, environment: dict[str, str]) -> None:
    main, side = pty.openpty()
    before = termios.tcgetattr(side)
    process = subprocess.Popen(
        [*PROGRAM, "vm", "console", "web-1"], stdin=side, stdout=side, stderr=side, env=environment
    )
    read_until(main, b"login: ")
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    assert termios.tcgetattr(side) == before
    os.close(side)
    os.close(main)


def test_a_terminal_is_raw_and_then_as_before(control: Control, environment: dict[str, str]) -> None:
    main, side = pty.openpty()
    before = termios.tcgetattr(side)
    process = subprocess.Popen(
        [*PROGRAM, "vm", "console", "web-1"], stdin=side, stdout=side, stderr=side, env=environment
    )
    read_until(main, b"login: ")
    assert not termios.tcgetattr(side)[3] & (termios.ICANON | termios.ECHO)
    os.write(main, b"a\x03")  # Ctrl-C is the guest's
    read_until(main, b"A\x03")
    os.write(main, b"b\x1dnot sent")
    assert process.wait(20) == 0
    read_until(main, b"Disconnected.")
    assert termios.tcgetattr(side) == before
    assert b"".join(asked.data for asked in control.asked if isinstance(asked, vm_pb2.ConsoleInput)) == b"a\x03b"
    os.close(side)
    os.close(main)


def test_a_log_cannot_steer_the_terminal(control: Control, environment: dict[str, str]) -> None:
    argv = [*PROGRAM, "vm", "log", "web-1", "--lines", "2"]
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=30, check=True)
    assert done.stdout.decode() == "OK boot\nlogin:\t\\x08\ufffd\n"
    assert control.asked == [vm_pb2.ReadConsoleLogRequest(vm="web-1", lines=2)]
    raw = subprocess.run([*argv, "--raw", "--follow"], capture_output=True, env=environment, timeout=30, check=True)
    assert raw.stdout == b"\x1b[32mOK\x1b[0m boot\r\n\x1b]0;title\x07login:\t\x08\xff\r\n"
    assert control.asked[1] == vm_pb2.ReadConsoleLogRequest(vm="web-1", lines=2, follow=True)


def test_keys_are_pressed(control: Control, environment: dict[str, str]) -> None:
    argv = [*PROGRAM, "vm", "send-key", "web-1", "ctrl-alt-del"]
    done = subprocess.run(argv, capture_output=True, env=environment, timeout=30, check=True)
    assert done.stdout == b""
    assert control.asked == [vm_pb2.SendKeyRequest(vm="web-1", keys="ctrl-alt-del")]
