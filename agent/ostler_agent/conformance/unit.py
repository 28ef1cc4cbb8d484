"""Runs the checks in the sandbox of the agent's systemd unit: `ostler-agent driver check --as-unit`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NoReturn

from ostler_agent.process import run

UNIT = "ostler-agent.service"
# What a unit runs, and how it is started, watched and restarted: the transient unit of the checks has its own.
_NOT_SANDBOX = frozenset(
    {
        "Type",
        "NotifyAccess",
        "PIDFile",
        "GuessMainPID",
        "RemainAfterExit",
        "FileDescriptorStoreMax",
        "StandardInput",
        "StandardOutput",
        "StandardError",
        "TimeoutStartSec",
        "TimeoutStopSec",
        "TimeoutSec",
        "KillMode",
        "SuccessExitStatus",
    }
)
_NOT_SANDBOX_PREFIXES = ("Exec", "Restart", "Watchdog", "StartLimit")


def service_settings(text: str) -> list[tuple[str, str]]:
    """The settings of [Service] in the output of `systemctl cat`, in order (systemd.syntax(7))."""
    settings, section = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Service]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            settings.append((key.strip(), value.strip()))
    return settings


def sandbox(settings: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the settings that restrict what the unit's processes can do."""
    return [
        (key, value) for key, value in settings if key not in _NOT_SANDBOX and not key.startswith(_NOT_SANDBOX_PREFIXES)
    ]


def kill_mode(settings: Sequence[tuple[str, str]]) -> str:
    """The unit's KillMode (systemd.kill(5))."""
    return next((value for key, value in reversed(settings) if key == "KillMode" and value), "control-group")


def transient_command(settings: Sequence[tuple[str, str]], command: Sequence[str]) -> list[str]:
    """The systemd-run(1) command that runs a command in the sandbox, with this terminal, and returns its exit code."""
    properties = [f"--property={key}={value}" for key, value in sandbox(settings)]
    return ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", *properties, "--", *command]


def exec_as_unit(command: Sequence[str]) -> NoReturn:
    """Replaces this process by the command in the unit's sandbox. Raises RunError if there is no such unit.

    The command receives the unit's KillMode as `--unit-kill-mode`.
    """
    settings = service_settings(run(["systemctl", "cat", UNIT], timeout_s=30).stdout)
    argv = transient_command(settings, [*command, "--unit-kill-mode", kill_mode(settings)])
    os.execvp(argv[0], argv)  # noqa: S606 (the arguments are this command's own)
