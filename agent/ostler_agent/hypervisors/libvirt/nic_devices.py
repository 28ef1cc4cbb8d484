"""Network interfaces that running VMs get and lose."""

from __future__ import annotations

import time
from xml.etree import ElementTree

import libvirt
from ostler_common.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError

from ostler_agent.hypervisors.base import Progress
from ostler_agent.hypervisors.libvirt import domains, filters, inventory
from ostler_agent.hypervisors.libvirt.devices import refused, unplug_pending
from ostler_agent.hypervisors.libvirt.errors import translated
from ostler_agent.hypervisors.libvirt.session import Session
from ostler_agent.hypervisors.libvirt.xml import nics
from ostler_agent.hypervisors.libvirt.xml.element import to_text
from ostler_agent.spec import NicSpec

_LIVE, _CONFIG = libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG


def attach(session: Session, vm_id: str, nic: NicSpec) -> None:
    """Adds an interface to a running VM, and to its definition. The caller holds the VM's lock."""
    domain = domains.get_active(session, vm_id)
    filters.ensure(session.connect(), [nic])
    xml = to_text(nics.nic(nic))
    with translated(f"adding interface {nic.mac} to VM {vm_id}"):
        # The definition first: it can be undone without the guest.
        configured = _interface_or_none(domain, nic.mac, libvirt.VIR_DOMAIN_XML_INACTIVE)
        if configured is None:
            domain.attachDeviceFlags(xml, _CONFIG)
        try:
            if _interface_or_none(domain, nic.mac) is None:
                domain.attachDeviceFlags(xml, _LIVE)
        except BaseException:
            if configured is None:
                domain.detachDeviceFlags(xml, _CONFIG)
            raise


def detach(session: Session, vm_id: str, mac: str, timeout_s: float, progress: Progress) -> None:
    """Removes an interface: from the guest first, then from the definition."""
    with translated(f"removing interface {mac} from VM {vm_id}"):
        domain = inventory.find(session.connect(), vm_id)
        if domain is None:
            return
        _detach_live(domain, session, vm_id, mac, timeout_s, progress)
        with session.locks.hold(vm_id):
            configured = _interface_or_none(domain, mac, libvirt.VIR_DOMAIN_XML_INACTIVE)
            if configured is not None:
                domain.detachDeviceFlags(to_text(configured), _CONFIG)


def set_link(session: Session, vm_id: str, mac: str, up: bool) -> None:
    """Sets the link of an interface, in the guest and in the definition. The caller holds the VM's lock."""
    domain = domains.get_active(session, vm_id)
    with translated(f"setting the link of interface {mac} of VM {vm_id}"):
        for xml_flags, flags in ((libvirt.VIR_DOMAIN_XML_INACTIVE, _CONFIG), (0, _LIVE)):
            item = _interface_or_none(domain, mac, xml_flags)
            if item is None and flags == _LIVE:
                raise NotFoundError(f"VM {vm_id} has no interface {mac}", "NIC_NOT_FOUND", {"vm": vm_id, "mac": mac})
            if item is not None and nics.is_link_down(item) is up:
                nics.set_link(item, up)
                domain.updateDeviceFlags(to_text(item), flags)


def _detach_live(
    domain: libvirt.virDomain, session: Session, vm_id: str, mac: str, timeout_s: float, progress: Progress
) -> None:
    found = _interface_or_none(domain, mac) if inventory.is_active(domain) else None
    if found is None:
        return
    alias = found.find("alias")
    deadline = time.monotonic() + timeout_s
    with session.events.tap(vm_id) as events:
        try:
            domain.detachDeviceFlags(to_text(found), _LIVE)
        except libvirt.libvirtError as error:
            if not unplug_pending(error):
                raise
        progress.report("waiting for the guest to release the network interface")
        while inventory.is_active(domain) and _interface_or_none(domain, mac) is not None:
            progress.check()
            if time.monotonic() > deadline:
                raise DeadlineExceededError(
                    f"the guest of VM {vm_id} did not release interface {mac} within {timeout_s:.0f} s "
                    "(try again once it has booted, or stop the VM)",
                    "DETACH_TIMEOUT",
                )
            if refused(events, alias.get("name") if alias is not None else None):
                raise FailedPreconditionError(
                    f"the guest of VM {vm_id} refuses to release interface {mac}", "DETACH_REFUSED"
                )


def _interface_or_none(domain: libvirt.virDomain, mac: str, flags: int = 0) -> ElementTree.Element | None:
    """The interface's element exactly as libvirt reports it."""
    for item in ElementTree.fromstring(domain.XMLDesc(flags)).findall("devices/interface"):
        address = item.find("mac")
        if address is not None and address.get("address") == mac:
            return item
    return None
