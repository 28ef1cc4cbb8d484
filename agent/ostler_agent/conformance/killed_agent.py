"""A driver in a process that kills itself; run as a module, with pickled `bench.AgentOrders` on stdin.

Steps: "define" kills the process after the VM's definition; "start" during the VM's start; "run" after the start;
"detach" starts the VM, attaches the disk of slot 1, and kills the process while detaching it; "mirror" starts the VM,
mirrors its disk to the volume of slot 1, and kills the process then.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from ostler_agent.conformance.bench import AgentOrders, NeverCancelled
from ostler_agent.hypervisors import registry
from ostler_agent.hypervisors.base import HotPlug, LiveCopy
from ostler_agent.spec import VolumeRef


def main() -> None:
    orders: AgentOrders = pickle.load(sys.stdin.buffer)
    driver = registry.load_for(orders.driver, orders.context).open(orders.context)
    registry.check_parts(driver)

    def path(ref: VolumeRef) -> Path:
        return orders.pool / ref.volume_id

    if orders.step == "define":
        driver.define(orders.spec, path)
        _die()
    first = replace(orders.spec, disks=orders.spec.disks[:1])
    if orders.step == "start":
        threading.Timer(orders.kill_after_s, _die).start()
        driver.start(orders.spec, path)
        threading.Event().wait()  # the start was faster than the timer
    driver.start(first, path)
    if orders.step == "detach":
        assert isinstance(driver, HotPlug)
        disk = orders.spec.disks[1]
        driver.attach(orders.spec.vm_id, disk, path(disk.volume))
        threading.Timer(orders.kill_after_s, _die).start()
        driver.detach(orders.spec.vm_id, disk.volume.volume_id, None, 60, NeverCancelled())
        threading.Event().wait()
    if orders.step == "mirror":
        assert isinstance(driver, LiveCopy)
        target = orders.spec.disks[1].volume
        driver.mirror_disk(orders.spec.vm_id, first.disks[0].volume.volume_id, target, path(target), NeverCancelled())
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
