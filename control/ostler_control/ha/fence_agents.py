"""The fence agents that Ostler runs, and the parameters that each is given on its standard input. Pure.

Format: one NAME=VALUE a line, as the `stdin` interface of Debian's fence-agents reads it (FenceAgentAPI.md of
ClusterLabs/fence-agents). A value with a line break would smuggle in a further parameter, so none is let through.
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
PLUG, INSECURE, REDFISH_URI = "plug", "insecure", "redfish_uri"
_PLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_URI = re.compile(r"/[A-Za-z0-9._/-]{1,127}")


class Action(StrEnum):
    """What an agent is told to do."""

    OFF = "off"
    ON = "on"
    STATUS = "status"


@dataclass(frozen=True)
class FenceAgent:
    """An agent that may be run. default_port: of the device; options: those that it knows; fixed: further
    parameters."""

    name: str
    default_port: int
    options: frozenset[str]
    fixed: tuple[tuple[str, str], ...]


# Only these: an agent's name is never taken from a caller, and each was read for what it does with its parameters. The
# agents for IPMI are not among them: they hand the password to ipmitool as an argument, which every user can read.
AGENTS: Mapping[str, FenceAgent] = {
    "redfish": FenceAgent("redfish", 443, frozenset({PLUG, INSECURE, REDFISH_URI}), (("ssl", "1"),)),
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
    if not 0 < len(device.username) <= MAX_USERNAME or not device.username.isprintable():
        raise bad_field("username", f"must be 1 to {MAX_USERNAME} printable characters", "INVALID_USERNAME")
    text = password.reveal().decode(errors="replace")
    if not 0 < len(password.reveal()) <= MAX_PASSWORD_BYTES or not text.isprintable() or "\ufffd" in text:
        raise bad_field(
            "password", f"must be 1 to {MAX_PASSWORD_BYTES} bytes of printable text on one line", "INVALID_PASSWORD"
        )
    unknown = sorted(set(device.options) - agent.options)
    if unknown:
        known = ", ".join(sorted(agent.options)) or "none"
        raise bad_field(
            "options", f"agent {agent.name} has no option {unknown[0][:80]} (it has {known})", "UNKNOWN_OPTION"
        )
    for name, value in device.options.items():
        form = {PLUG: _PLUG, REDFISH_URI: _URI}.get(name)
        valid = form.fullmatch(value) is not None if form else value in ("true", "false")
        if not valid:
            raise bad_field(f"options[{name}]", "has characters that it may not have, or too many", "INVALID_OPTION")
    if agent.name == "redfish" and PLUG not in device.options:
        raise bad_field(
            "options[plug]", "must be the id of the host's system, a name below /redfish/v1/Systems", "PLUG_REQUIRED"
        )
    return agent


def parameters(device: Device, password: Secret, action: Action) -> Secret:
    """What the agent reads from its standard input. Raises what `check` raises."""
    agent = check(device, password)
    host, port = split_address(device.address, "address", agent.default_port)
    values = dict(agent.fixed)
    values |= {"ip": host, "ipport": str(port), "username": device.username, "action": action.value}
    if agent.name == "redfish":
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


def power(exit_code: int, stdout: str) -> Power:
    """What the answer to a status means: the exit code and the text must agree, else it is UNKNOWN."""
    lines = [line.strip() for line in stdout.splitlines()]
    if exit_code == 0 and "Status: ON" in lines and "Status: OFF" not in lines:
        return Power.ON
    if exit_code == 2 and "Status: OFF" in lines and "Status: ON" not in lines:
        return Power.OFF
    return Power.UNKNOWN
