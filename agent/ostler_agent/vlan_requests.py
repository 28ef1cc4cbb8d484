"""The agent asks for bridges of VLANs, and a unit of its own creates them: only that one may change the host's network.

A request is a file, named as the bridge. `ostler-vlan-bridges.path` starts the unit when there is one.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import structlog
from ostler_common.bridges import MAX_VLAN, bridge_of
from ostler_common.errors import FailedPreconditionError, OstlerError

from ostler_agent import vlan_bridges
from ostler_agent.network_devices import SYS_CLASS_NET
from ostler_agent.spec import NicSpec

REQUESTS = Path("/run/ostler/vlan-bridges")
_TIMEOUT_S = 20.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_MAX_REQUEST_BYTES = 1024

log = structlog.get_logger(__name__)


def ensure(nics: Iterable[NicSpec], devices: Path, requests: Path = REQUESTS, timeout_s: float = _TIMEOUT_S) -> None:
    """Has the bridges created of the VLANs that these interfaces are on, and waits for them. Idempotent.

    Raises FailedPreconditionError VLAN_UPLINK_MISSING, VLAN_BRIDGE_MISSING.
    """
    wanted = [nic for nic in nics if nic.vlan]
    for nic in wanted:
        vlan_bridges.check_uplinks(nic, devices)
    missing = [nic for nic in wanted if not vlan_bridges.is_up(nic, devices)]
    for nic in missing:
        _ask(nic, requests)
    end = time.monotonic() + timeout_s
    for nic in missing:
        while not vlan_bridges.is_up(nic, devices):
            if time.monotonic() > end:
                (requests / nic.bridge).unlink(missing_ok=True)
                raise FailedPreconditionError(
                    f"bridge {nic.bridge} was not created within {timeout_s:.0f} s (on the host: systemctl enable "
                    "--now ostler-vlan-bridges.path; the log: journalctl -u ostler-vlan-bridges)",
                    "VLAN_BRIDGE_MISSING",
                    {"bridge": nic.bridge},
                )
            time.sleep(0.05)


def _ask(nic: NicSpec, requests: Path) -> None:
    """Writes the request beside the directory and moves it in, so that the unit never sees a part of it."""
    requests.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=requests.parent, prefix=".vlan-", delete=False) as file:
        json.dump({"trunk": nic.trunk, "vlan": nic.vlan}, file)
    os.replace(file.name, requests / nic.bridge)


def serve(devices: Path = SYS_CLASS_NET, requests: Path = REQUESTS) -> int:
    """Creates the bridges that are asked for; returns how many could not be created. A request is removed either way:
    the agent asks again."""
    failed = 0
    for path in sorted(requests.iterdir()):
        try:
            vlan_bridges.create(_read(path), devices)
        except (OSError, ValueError, KeyError, TypeError, OstlerError) as error:
            log.error("a bridge of a VLAN was not created", request=path.name, reason=str(error))
            failed += 1
        path.unlink(missing_ok=True)
    return failed


def _read(path: Path) -> NicSpec:
    """The interface that a request is about. Raises ValueError for what the agent would not write."""
    with path.open("rb") as file:
        request = json.loads(file.read(_MAX_REQUEST_BYTES))
    trunk, vlan = request["trunk"], request["vlan"]
    if not isinstance(trunk, str) or not _NAME.fullmatch(trunk):
        raise ValueError(f"{trunk!r} is no name of a bridge")
    if not isinstance(vlan, int) or not 1 <= vlan <= MAX_VLAN:
        raise ValueError(f"{vlan!r} is no VLAN tag")
    return NicSpec("", bridge_of(trunk, vlan), vlan=vlan, trunk=trunk)
