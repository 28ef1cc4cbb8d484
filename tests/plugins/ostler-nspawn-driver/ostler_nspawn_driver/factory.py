"""The entry point: what the driver states, and how to open it."""

from __future__ import annotations

from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.info import DriverInfo
from ostler_common.hypervisors import Function
from pydantic import BaseModel, ConfigDict

from ostler_nspawn_driver import probe
from ostler_nspawn_driver.hypervisor import NspawnHypervisor

INFO = DriverInfo(
    interface_version=1,
    type="nspawn",
    display_name="systemd-nspawn",
    functions=frozenset({Function.DIRECT_DOWNLOAD, Function.NICS}),
)


class Options(BaseModel):
    """[driver_options] of agent.toml: there are none."""

    model_config = ConfigDict(extra="forbid")


class NspawnDriver:
    """`ostler_agent.hypervisors.driver.Driver`."""

    info = INFO

    def probe(self, context: DriverContext) -> HypervisorFacts:
        context.options_as(Options)
        return probe.probe()

    def open(self, context: DriverContext) -> NspawnHypervisor:
        context.options_as(Options)
        return NspawnHypervisor(INFO, context.state_dir)


DRIVER = NspawnDriver()
