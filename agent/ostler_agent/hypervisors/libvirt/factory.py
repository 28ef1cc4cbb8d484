"""The entry point of the driver `libvirt`. Imports libvirt only when the driver is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ostler_agent.capabilities.facts import HypervisorFacts
from ostler_agent.hypervisors.driver import DriverContext
from ostler_agent.hypervisors.libvirt.info import INFO
from ostler_agent.hypervisors.libvirt.options import LibvirtOptions
from ostler_agent.hypervisors.libvirt.tls import LibvirtTls

if TYPE_CHECKING:
    from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver


class LibvirtFactory:
    """`driver.Driver` and `driver.UsesCredentials` for KVM and QEMU through libvirt."""

    info = INFO

    def probe(self, context: DriverContext) -> HypervisorFacts:
        from ostler_agent.hypervisors.libvirt import probe

        options = context.options_as(LibvirtOptions)
        return probe.probe(options.uri, options.domain_type, options.state_dir)

    def open(self, context: DriverContext) -> LibvirtDriver:
        from ostler_agent.hypervisors.libvirt.console_log import ConsoleLogs
        from ostler_agent.hypervisors.libvirt.driver import LibvirtDriver
        from ostler_agent.hypervisors.libvirt.firmware_files import FirmwareFiles

        options = context.options_as(LibvirtOptions)
        logs = ConsoleLogs()
        logs.mount()
        driver = LibvirtDriver(
            options.uri,
            options.domain_type,
            logs,
            FirmwareFiles(options.state_dir.parent, options.config_dir / "qemu.conf"),
        )
        driver.open()
        return driver

    def credentials_consumer(self, context: DriverContext) -> LibvirtTls:
        return LibvirtTls.of(context.options_as(LibvirtOptions))


DRIVER = LibvirtFactory()
