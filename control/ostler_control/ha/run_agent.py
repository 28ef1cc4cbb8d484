"""Runs a fence agent: the one place where the control plane starts a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

from ostler_common.errors import FailedPreconditionError, UnavailableError
from ostler_common.secret import Secret

from ostler_control.ha.fence_agents import AGENTS, Action, Device, Power, arguments, check, parameters, power

TIMEOUT_S = 90.0
# How long a device may take to switch, if its agent does not wait for that itself, and how often it is asked.
_SWITCH_S, _ASK_EVERY_S = 20.0, 1.0
# Instead of where Debian has them.
_DIRECTORY: Path | None = None
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_MAX_SAID = 300
_TIMESTAMP = re.compile(r"^\d{4}-\d\d-\d\d [\d:,]+ \w+: ")
# What fence_redfish ends with when the device refuses the user.
_TRANSLATED = {"KeyError: 'Members'": "it does not list its systems, so user or password may be wrong"}
_HINT = "Please use '-h' for usage"


def ask_power(device: Device, password: Secret) -> Power:
    """Asks the device whether its host is on. Raises UnavailableError FENCE_FAILED when it does not say, and what
    `switch` raises."""
    code, out, err = _run(device, password, Action.STATUS)
    found = power(device.agent, code, out)
    if found is Power.UNKNOWN:
        raise _failed(device, password, Action.STATUS, out, err)
    return found


def switch(device: Device, password: Secret, action: Action) -> None:
    """Switches the host on or off, and waits until the device says that it is. Switching again changes nothing.

    Raises UnavailableError FENCE_FAILED, FailedPreconditionError FENCE_AGENT_MISSING, InvalidArgumentError.
    """
    wanted = Power(action.value)
    waits = check(device, password).waits
    if not waits and ask_power(device, password) is wanted:
        return  # a device may refuse to switch off what is off
    code, out, err = _run(device, password, action)
    if code != 0:
        raise _failed(device, password, action, out, err)
    if not waits:
        _wait_for(device, password, action, wanted)


def _wait_for(device: Device, password: Secret, action: Action, wanted: Power) -> None:
    """Returns once the device says so; it may be too busy with the switch to answer at first."""
    end_s = time.monotonic() + _SWITCH_S
    while True:
        try:
            if ask_power(device, password) is wanted:
                return
        except UnavailableError:
            if time.monotonic() > end_s:
                raise
        if time.monotonic() > end_s:
            raise _failed(device, password, action, f"its host is not {wanted} after {_SWITCH_S:g} s", "")
        time.sleep(_ASK_EVERY_S)


def _run(device: Device, password: Secret, action: Action) -> tuple[int, str, str]:
    """Exit code and output. The agent dies with this process, and with every child of its own after `TIMEOUT_S`."""
    given = parameters(device, password, action)
    agent = AGENTS[device.agent]
    path = (_DIRECTORY or Path(agent.program).parent) / Path(agent.program).name
    if not path.exists():
        raise FailedPreconditionError(
            f"{path} is missing on the control plane's machine: install Debian's package {agent.package}",
            "FENCE_AGENT_MISSING",
            {"agent": device.agent},
        )
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", str(path), *arguments(device, action)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(given.reveal(), timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            out, err = b"", f"no answer within {TIMEOUT_S:g} s".encode()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def _failed(device: Device, password: Secret, action: Action, out: str, err: str) -> UnavailableError:
    """The agent's last word, without what it may have repeated of the password."""
    masked = f"{out}\n{err}".replace(password.reveal().decode(errors="replace"), "***")
    lines = [_TIMESTAMP.sub("", line.strip()) for line in masked.splitlines()]
    said = next((line for line in reversed(lines) if line and line != _HINT), "it said nothing")
    said = _TRANSLATED.get(said, said)[:_MAX_SAID]
    return UnavailableError(
        f"fence device {device.address} ({device.agent}) did not answer {action}: {said} "
        "(check its address, user, password and options, and the network to it)",
        "FENCE_FAILED",
        {"address": device.address, "agent": device.agent, "action": action.value},
    )
