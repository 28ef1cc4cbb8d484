"""The fence agents that Ostler runs, and what each is given: its arguments, and its standard input. Pure.

Format of the input of Debian's fence-agents: one NAME=VALUE a line, as their `stdin` interface reads it
(FenceAgentAPI.md of ClusterLabs/fence-agents). A value with a line break would smuggle in a further parameter, so none
is let through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ostler_common.address import split_address
from ostler_common.errors import bad_field
from ostler_common.secret import Secret

MAX_USERNAME, MAX_PASSWORD_BYTES = 256, 1024
PLUG, INSECURE, REDFISH_URI, CIPHER = "plug", "insecure", "redfish_uri", "cipher"
_PLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_URI = re.compile(r"/[A-Za-z0-9._/-]{1,127}")
_CIPHER = re.compile(r"3|17")


class Action(StrEnum):
    """What an agent is told to do."""

    OFF = "off"
    ON = "on"
    STATUS = "status"


@dataclass(frozen=True)
class FenceAgent:
    """An agent that may be run. program, package: where it is, and the package of Debian's that has it; default_port:
    of the device; options: those that it knows; max_username, max_password_bytes: of the protocol; waits: whether it
    ends only when the host is switched."""

    name: str
    program: str
    package: str
    default_port: int
    options: frozenset[str]
    max_username: int = MAX_USERNAME
    max_password_bytes: int = MAX_PASSWORD_BYTES
    waits: bool = True


# Only these: an agent's name is never taken from a caller, and each was read for what it does with its parameters.
# Debian's fence_ipmilan is not among them: it hands the password to ipmitool as an argument, which every user can read.
# ipmitool itself takes it from a file, such as its standard input.
AGENTS: Mapping[str, FenceAgent] = {
    "redfish": FenceAgent(
        "redfish", "/usr/sbin/fence_redfish", "fence-agents", 443, frozenset({PLUG, INSECURE, REDFISH_URI})
    ),
    "ipmi": FenceAgent("ipmi", "/usr/bin/ipmitool", "ipmitool", 623, frozenset({CIPHER}), 16, 20, waits=False),
}


@dataclass(frozen=True)
class Device:
    """How to reach a fence device. address: "host" or "host:port"."""

    agent: str
    address: str
    username: str
    options: Mapping[str, str]


def check(device: Device, password: Secret) -> FenceAgent:
    """Checks every field. Raises InvalidArgumentError."""
    agent = AGENTS.get(device.agent)
    if agent is None:
        raise bad_field("agent", f"must be one of {', '.join(AGENTS)}", "UNKNOWN_FENCE_AGENT")
    split_address(device.address, "address", agent.default_port)
    if not 0 < len(device.username) <= agent.max_username or not device.username.isprintable():
        raise bad_field("username", f"must be 1 to {agent.max_username} printable characters", "INVALID_USERNAME")
    text = password.reveal().decode(errors="replace")
    if not 0 < len(password.reveal()) <= agent.max_password_bytes or not text.isprintable() or "\ufffd" in text:
        raise bad_field(
            "password",
            f"must be 1 to {agent.max_password_bytes} bytes of printable text on one line",
            "INVALID_PASSWORD",
        )
    unknown = sorted(set(device.options) - agent.options)
    if unknown:
        known = ", ".join(sorted(agent.options)) or "none"
        raise bad_field(
            "options", f"agent {agent.name} has no option {unknown[0][:80]} (it has {known})", "UNKNOWN_OPTION"
        )
    for name, value in device.options.items():
        form = {PLUG: _PLUG, REDFISH_URI: _URI, CIPHER: _CIPHER}.get(name)
        valid = form.fullmatch(value) is not None if form else value in ("true", "false")
        if not valid:
            raise bad_field(f"options[{name}]", "has characters that it may not have, or too many", "INVALID_OPTION")
    if agent.name == "redfish" and PLUG not in device.options:
        raise bad_field(
            "options[plug]", "must be the id of the host's system, a name below /redfish/v1/Systems", "PLUG_REQUIRED"
        )
    return agent


def arguments(device: Device, action: Action) -> list[str]:
    """The agent's arguments, which every user of the machine can read. device: checked."""
    if device.agent != "ipmi":
        return []
    host, port = split_address(device.address, "address", AGENTS["ipmi"].default_port)
    way = ["-I", "lanplus", "-C", device.options.get(CIPHER, "17"), "-L", "OPERATOR"]
    whom = ["-H", host, "-p", str(port), "-U", device.username]
    return [*way, *whom, "-f", "/proc/self/fd/0", "chassis", "power", action.value]


def parameters(device: Device, password: Secret, action: Action) -> Secret:
    """What the agent reads from its standard input. Raises what `check` raises."""
    agent = check(device, password)
    if agent.name == "ipmi":
        return Secret(password.reveal() + b"\n")
    host, port = split_address(device.address, "address", agent.default_port)
    values = {"ssl": "1", "ip": host, "ipport": str(port), "username": device.username, "action": action.value}
    values["ssl_insecure" if device.options.get(INSECURE) == "true" else "ssl_secure"] = "1"
    # fence_redfish ignores `plug`: without systems_uri it takes the last system that the device lists.
    root = device.options.get(REDFISH_URI, "/redfish/v1").rstrip("/")
    values["systems_uri"] = f"{root}/Systems/{device.options[PLUG]}"
    lines = [f"{name}={value}".encode() for name, value in values.items()]
    return Secret(b"\n".join([*lines, b"password=" + password.reveal(), b""]))


class Power(StrEnum):
    """Whether a device says that its host is on. UNKNOWN: it did not say."""

    ON = "on"
    OFF = "off"
    UNKNOWN = ""


# What a status says, by agent: the exit code and the line that belong together.
_SAID: Mapping[str, Mapping[Power, tuple[int, str]]] = {
    "redfish": {Power.ON: (0, "Status: ON"), Power.OFF: (2, "Status: OFF")},
    "ipmi": {Power.ON: (0, "Chassis Power is on"), Power.OFF: (0, "Chassis Power is off")},
}


def power(agent: str, exit_code: int, stdout: str) -> Power:
    """What the answer to a status means: the exit code and the text must agree, else it is UNKNOWN."""
    lines = [line.strip() for line in stdout.splitlines()]
    said = {state: code for state, (code, line) in _SAID[agent].items() if line in lines}
    [state] = said if len(said) == 1 else [Power.UNKNOWN]
    return state if said.get(state) == exit_code else Power.UNKNOWN
