"""The power of the hosts: cut by faults, switched by BMCs, and put on again by an admin after a while.

Each host has a BMC. Ostler reaches it by a fence agent of the tests, which answers once the host is off (or on).
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

from ostler_common.secret import Secret
from ostler_control import settings
from ostler_control.ha import devices, priorities
from ostler_control.ha.fence_agents import Device, Power
from ostler_control.models import Priority, new_id

from tests.fakes.working_agent import FakeHost
from tests.sites import Site

PASSWORD = b"s3cret of the bmcs"
DELAY_S = 10
# How long a host stays off.
OFF_S = (3.0, 60.0)
_LOOK_S = 0.05
_PROGRAM = """#!/bin/sh
while IFS= read -r line; do
  case $line in
    action=*) action=${line#action=};;
    ip=*) bmc=${0%/*}/${line#ip=};;
  esac
done
[ -e "$bmc/power" ] || { echo "ERROR: no route to $bmc" >&2; exit 1; }
if [ "$action" = status ]; then
  [ "$(cat "$bmc/power")" = off ] && { echo "Status: OFF"; exit 2; }
  echo "Status: ON"
  exit
fi
echo "$action" > "$bmc/asked.part" && mv "$bmc/asked.part" "$bmc/asked"
for turn in $(seq 100); do
  [ "$(cat "$bmc/power")" = "$action" ] && { echo "Success: Powered $action"; exit; }
  sleep 0.1
done
echo "ERROR: the power is as it was" >&2
exit 1
"""


class PowerOf:
    """Of one host. on; agent_dead: killed by somebody, so that it does not come with the power."""

    def __init__(self, host: FakeHost, directory: Path) -> None:
        self.host = host
        self.directory = directory
        self.on, self.agent_dead = True, False
        self.back_s = 0.0
        directory.mkdir()
        self.show()

    def show(self) -> None:
        """What the BMC says."""
        part = self.directory / "power.part"
        part.write_text("on" if self.on else "off")
        part.replace(self.directory / "power")


class Powers:
    """ended: ids of the VMs that lost their host's power; fenced: how often a BMC has switched a host off."""

    def __init__(self, site: Site, directory: Path, seed: int) -> None:
        self._site = site
        self._dice = random.Random(f"{seed}/power")
        self._lock = threading.RLock()
        self._of: dict[str, PowerOf] = {}
        self._stopping = threading.Event()
        self.directory = directory
        self.ended: set[str] = set()
        self.fenced = 0
        directory.mkdir()
        program = directory / "fence_redfish"
        program.write_text(_PROGRAM)
        program.chmod(0o755)
        for name, host in site.hosts.items():
            address = f"{name}.bmc.example.org"
            self._of[name] = PowerOf(host, directory / address)
            new = devices.NewDevice(
                new_id(), Device("redfish", address, "ostler", {"plug": "1"}), Secret(PASSWORD), False
            )
            devices.create(site.host(name), new, Power.ON, "test", site.keys)
        priorities.set_offering(site.encrypted, Priority.LOW, "test")
        settings.change("ha.fence.delay", str(DELAY_S), "test")
        settings.change("ha.fence.limit", "100", "test")
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Puts every host on and ends."""
        self._stopping.set()
        self._thread.join(60)
        for power in self._of.values():
            self._put_on(power)

    def cut(self, name: str) -> None:
        """The host loses its power, and its VMs with it."""
        self._put_off(self._of[name])

    def kill_agent(self, name: str) -> None:
        """The agent dies, and does not start until `revive_agent`."""
        with self._lock:
            self._of[name].agent_dead = True
            self._of[name].host.kill()

    def revive_agent(self, name: str) -> None:
        """Starts the agent, if its host is on."""
        with self._lock:
            power = self._of[name]
            if power.agent_dead and power.on:
                power.host.revive()
            power.agent_dead = False

    def _work(self) -> None:
        """Does what BMCs are asked, and puts on what has been off for long enough."""
        while not self._stopping.wait(_LOOK_S):
            for power in self._of.values():
                asked = power.directory / "asked"
                if asked.exists():
                    action = asked.read_text().strip()
                    asked.unlink()
                    if action == "off":
                        self.fenced += power.on
                        self._put_off(power)
                    else:
                        self._put_on(power)
                elif not power.on and time.monotonic() > power.back_s:
                    self._put_on(power)

    def _put_off(self, power: PowerOf) -> None:
        with self._lock, self._site.fleet.lock:
            if power.on:
                self.ended |= {vm_id for vm_id, vm in power.host.vms.items() if vm.running}
                power.on, power.back_s = False, time.monotonic() + self._dice.uniform(*OFF_S)
                power.host.powered = False
                power.host.end_vms()
            if not power.host.life.died.is_set():
                power.host.life.end()
        # Not under the fleet's lock, which the jobs need that the agent ends with.
        with self._lock:
            if not power.agent_dead:
                power.host.kill()
            power.show()

    def _put_on(self, power: PowerOf) -> None:
        with self._lock:
            if not power.on:
                power.on = power.host.powered = True
                power.show()
                if not power.agent_dead:
                    power.host.revive()
