"""Which agents a control plane works with, by their versions.

The rule: an agent is of the control plane's minor release or of the one before it: control plane 0.4 works with agents
0.3 and 0.4. So control planes are upgraded first, then the agents, host by host.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re

_VERSION = re.compile(r"(\d+)\.(\d+)")


@functools.cache
def own_version() -> str:
    """This installation's version; "" when it is not installed as a distribution."""
    try:
        return importlib.metadata.version("ostler")
    except importlib.metadata.PackageNotFoundError:
        return ""


def mismatch(control: str, agent: str) -> str:
    """What is wrong with an agent's version, for people; "" when it suits the control plane's, or one is unknown."""
    parts = [_VERSION.match(version) for version in (control, agent)]
    if None in parts:
        return ""
    (control_major, control_minor), (agent_major, agent_minor) = (
        (int(part[1]), int(part[2])) for part in parts if part is not None
    )
    if (agent_major, agent_minor) > (control_major, control_minor):
        return f"its agent {agent} is newer than this control plane {control}: upgrade the control plane"
    if agent_major != control_major or agent_minor < control_minor - 1:
        return f"its agent {agent} is too old for this control plane {control}: upgrade the agent"
    return ""
