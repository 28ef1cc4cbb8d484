"""The entry point: what the driver states, and how to open it."""

from __future__ import annotations

from typing import Literal

from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.info import DriverInfo
from ostler_common.hypervisors import Function
from pydantic import BaseModel, ConfigDict

from ostler_qemu_driver import probe
from ostler_qemu_driver.hypervisor import QemuHypervisor

INFO = DriverInfo(
    interface_version=1,
    functions=DriverInfo(interface_version=1).functions
    | {Function.HOT_PLUG, Function.NICS, Function.ONLINE_GROW, Function.REBOOT, Function.SCREENSHOT},
)


class Options(BaseModel):
    """[driver_options] of agent.toml. accel: "auto" is kvm where it works, else tcg; qemu: the program."""

    model_config = ConfigDict(extra="forbid")

    accel: Literal["auto", "kvm", "tcg"] = "auto"
    qemu: str = "qemu-system-x86_64"


class QemuDriver:
    """`ostler_agent.hypervisors.driver.Driver`."""

    info = INFO

    def probe(self, context: DriverContext) -> HypervisorFacts:
        options = context.options_as(Options)
        return probe.probe(options.qemu, options.accel)

    def open(self, context: DriverContext) -> QemuHypervisor:
        options = context.options_as(Options)
        return QemuHypervisor(INFO, context.state_dir, options.qemu, options.accel)


DRIVER = QemuDriver()
